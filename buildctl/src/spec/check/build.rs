//! What Buildah is asked for: paths that stay below the source, and names that no program takes for an option.

use std::collections::BTreeMap;

use super::{Wrong, is_variable, is_word, secret, timeout};
use crate::{
    api::{DOCKERFILE, JobConfig},
    names::{Reference, Repository},
    secrets::SecretRef,
    spec::{ANNOTATED, BuildContext, BuildOptions, Defaults, Network, PREPROCESSED, RemoteCache},
};

/// What a context that is an image begins with, as in Buildah.
const IMAGE: &str = "docker-image://";

pub(super) fn options(
    config: &JobConfig,
    defaults: &Defaults,
    wrong: &mut Wrong,
) -> Option<BuildOptions> {
    let dockerfile = path("dockerfile_path", &config.dockerfile_path, wrong);
    let context = path("dockerfile_context", &config.dockerfile_context, wrong);
    let target = target(config, wrong);
    let platform = platform(config, wrong);
    arguments(config, wrong);
    labels(config, wrong);
    annotations(config, wrong);
    let secrets = secrets("build_secrets", &config.build_secrets, defaults, wrong);
    let ssh = secrets_of_ssh(config, defaults, wrong);
    let contexts = contexts(config, wrong);
    let cache = cache(config, wrong);
    let network = network(config, defaults, wrong);
    let dockerfile = match dockerfile? {
        path if path.is_empty() => DOCKERFILE.to_owned(),
        path => path,
    };
    #[expect(
        clippy::case_sensitive_file_extension_comparisons,
        reason = "Buildah knows this spelling only"
    )]
    if dockerfile.ends_with(".in") {
        let named = dockerfile.escape_debug();
        wrong.say(format!("dockerfile_path: `{named}` {PREPROCESSED}"));
    }
    Some(BuildOptions {
        dockerfile,
        context: context?,
        target,
        args: config.build_args.clone(),
        labels: config.labels.clone(),
        platform,
        secrets,
        ssh,
        contexts,
        annotations: config.annotations.clone(),
        squash: config.squash,
        cache,
        network,
    })
}

/// A path below the source, without `.` parts; empty for the source itself. That no link leads out of it is for the run to see.
fn path(field: &str, text: &str, wrong: &mut Wrong) -> Option<String> {
    let text = text.trim();
    let why = if text.starts_with('/') {
        "it is relative to the repository"
    } else if text.contains("://") {
        "a URL is no path in the repository"
    } else if text.split('/').any(|part| part == "..") {
        "it leads out of the repository"
    } else if text.chars().any(char::is_control) || text.len() > 1024 {
        "it is no path"
    } else {
        let parts = text.split('/').filter(|part| !matches!(*part, "" | "."));
        let path = parts.collect::<Vec<_>>().join("/");
        if !path.starts_with('-') {
            return Some(path);
        }
        "it begins with a dash"
    };
    wrong.say(format!("{field}: `{}`: {why}", text.escape_debug()));
    None
}

fn target(config: &JobConfig, wrong: &mut Wrong) -> Option<String> {
    let target = config.target.trim();
    if target.is_empty() {
        return None;
    }
    if !is_word(target) {
        wrong.say(format!(
            "target: `{}` is no name of a stage (letters, digits, `_`, `.` and `-`)",
            target.escape_debug()
        ));
    }
    Some(target.to_owned())
}

/// `os/architecture` or `os/architecture/variant`.
fn platform(config: &JobConfig, wrong: &mut Wrong) -> Option<String> {
    let platform = config.platform.trim();
    if platform.is_empty() {
        return None;
    }
    let parts: Vec<&str> = platform.split('/').collect();
    let word = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if !(2..=3).contains(&parts.len()) || !parts.iter().all(word) {
        wrong.say(format!(
            "platform: `{}` is not of the form linux/arm64",
            platform.escape_debug()
        ));
    }
    Some(platform.to_owned())
}

fn arguments(config: &JobConfig, wrong: &mut Wrong) {
    for (name, value) in &config.build_args {
        if !is_variable(name) {
            wrong.say(format!(
                "build_args: `{}` is no name of an ARG (letters, digits and `_`)",
                name.escape_debug()
            ));
        }
        if value.contains('\0') {
            wrong.say(format!("build_args: the value of `{name}` has a NUL in it"));
        }
    }
}

fn labels(config: &JobConfig, wrong: &mut Wrong) {
    for (name, value) in &config.labels {
        key("labels", "a label", name, wrong);
        if name == ANNOTATED {
            wrong.say(format!(
                "labels: `{ANNOTATED}` is taken for what buildctl says"
            ));
        }
        // Buildah makes a `LABEL` of it, in which variables of the image are replaced, and nothing keeps it from that.
        if value.contains(|c: char| c == '$' || c.is_control()) {
            wrong.say(format!(
                "labels: the value of `{}` has a `$` or a control character in it, which Buildah would not leave as they are",
                name.escape_debug()
            ));
        }
    }
}

fn annotations(config: &JobConfig, wrong: &mut Wrong) {
    for (name, value) in &config.annotations {
        key("annotations", "an annotation", name, wrong);
        if value.contains(char::is_control) {
            wrong.say(format!(
                "annotations: the value of `{}` is no line of text",
                name.escape_debug()
            ));
        }
    }
}

/// The name of a label or annotation, which stands before a `=`.
fn key(field: &str, what: &str, name: &str, wrong: &mut Wrong) {
    let plain = |c: char| c.is_ascii_graphic() && !"='\"\\".contains(c);
    if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
        wrong.say(format!(
            "{field}: `{}` is no name of {what}, as in org.opencontainers.image.title",
            name.escape_debug()
        ));
    }
}

fn secrets(
    field: &str,
    asked: &BTreeMap<String, String>,
    defaults: &Defaults,
    wrong: &mut Wrong,
) -> BTreeMap<String, SecretRef> {
    let mut secrets = BTreeMap::new();
    for (id, text) in asked {
        if !is_word(id) {
            wrong.say(format!(
                "{field}: `{}` is no id (letters, digits, `_`, `.` and `-`)",
                id.escape_debug()
            ));
        }
        if let Some(at) = secret(&format!("{field}.{id}"), text.trim(), defaults, wrong) {
            secrets.insert(id.clone(), at);
        }
    }
    secrets
}

/// Keys are named and never given, as all secrets. An agent is not offered to steps: a job outlives the session that it was
/// typed in, and an agent would let them use whatever other keys it holds.
fn secrets_of_ssh(
    config: &JobConfig,
    defaults: &Defaults,
    wrong: &mut Wrong,
) -> BTreeMap<String, SecretRef> {
    secrets("build_ssh", &config.build_ssh, defaults, wrong)
}

/// Folders of the source, and images. Buildah would fetch URLs too, by itself and with everything that it can reach.
fn contexts(config: &JobConfig, wrong: &mut Wrong) -> BTreeMap<String, BuildContext> {
    let mut contexts = BTreeMap::new();
    for (name, text) in &config.build_contexts {
        let field = format!("build_contexts.{}", name.escape_debug());
        if !is_word(name) {
            wrong.say(format!(
                "build_contexts: `{}` is no name of a context (letters, digits, `_`, `.` and `-`)",
                name.escape_debug()
            ));
        }
        let context = match text.trim().strip_prefix(IMAGE) {
            Some(image) => wrong
                .take(&field, image.parse::<Reference>())
                .map(BuildContext::Image),
            None if text.contains(':') => {
                wrong.say(format!(
                    "{field}: `{}` is neither a path in the repository nor {IMAGE}REGISTRY/NAME:TAG",
                    text.escape_debug()
                ));
                None
            }
            None => path(&field, text, wrong).map(BuildContext::Path),
        };
        contexts.extend(context.map(|context| (name.clone(), context)));
    }
    contexts
}

/// Repositories where the job's image is, so that the credentials of that registry are the right ones and nobody else gets them.
fn cache(config: &JobConfig, wrong: &mut Wrong) -> RemoteCache {
    let own = Repository::of(config.registry_url.trim(), "x").ok();
    let mut repositories = |field: &str, asked: &[String]| {
        let mut found: Vec<Repository> = Vec::new();
        for text in asked {
            let Some(repository) = wrong.take(field, text.trim().parse::<Repository>()) else {
                continue;
            };
            match &own {
                Some(own) if own.host() != repository.host() => wrong.say(format!(
                    "{field}: `{repository}` is not in the image's registry {}, whose credentials the job has",
                    own.host()
                )),
                _ if found.contains(&repository) => {}
                _ => found.push(repository),
            }
        }
        found
    };
    let from = repositories("cache_from", &config.cache_from);
    let to = repositories("cache_to", &config.cache_to);
    let ttl = timeout("cache_ttl", config.cache_ttl, wrong);
    if ttl.is_some() && config.cache_from.is_empty() {
        wrong.say("cache_ttl: it is the age of what `cache_from` names, and that names nothing");
    }
    RemoteCache { from, to, ttl }
}

/// Buildah would join any namespace of the machine by its path, too; and the machine's own network, where its isolation keeps
/// steps out of that, is for whoever builds without a service.
fn network(config: &JobConfig, defaults: &Defaults, wrong: &mut Wrong) -> Option<Network> {
    match config.network.trim() {
        "" => None,
        "none" => Some(Network::None),
        "private" => Some(Network::Private),
        "host" if defaults.allow_directories => Some(Network::Host),
        "host" => {
            wrong.say("network: a service gives nobody the network of its machine; leave it out, or say none or private");
            None
        }
        other => {
            wrong.say(format!(
                "network: `{}` is not known (known: none, private, host)",
                other.escape_debug()
            ));
            None
        }
    }
}
