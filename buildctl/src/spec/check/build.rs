//! What Buildah is asked for: paths that stay below the source, and names that no program takes for an option.

use std::collections::BTreeMap;

use super::{Wrong, is_variable, is_word, secret};
use crate::{
    api::{DOCKERFILE, JobConfig},
    secrets::SecretRef,
    spec::{BuildOptions, Defaults, PREPROCESSED},
};

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
    let secrets = secrets(config, defaults, wrong);
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
        let plain = |c: char| c.is_ascii_graphic() && !"='\"\\".contains(c);
        if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
            wrong.say(format!(
                "labels: `{}` is no name of a label, as in org.opencontainers.image.title",
                name.escape_debug()
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

fn secrets(
    config: &JobConfig,
    defaults: &Defaults,
    wrong: &mut Wrong,
) -> BTreeMap<String, SecretRef> {
    let mut secrets = BTreeMap::new();
    for (id, text) in &config.build_secrets {
        if !is_word(id) {
            wrong.say(format!(
                "build_secrets: `{}` is no id (letters, digits, `_`, `.` and `-`)",
                id.escape_debug()
            ));
        }
        if let Some(at) = secret(&format!("build_secrets.{id}"), text.trim(), defaults, wrong) {
            secrets.insert(id.clone(), at);
        }
    }
    secrets
}
