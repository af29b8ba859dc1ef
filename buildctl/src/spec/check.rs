//! From a configuration to a [`Spec`]: every rule, each with what to do about it. First come the original's rules with its words
//! in its order; ours follow, and all that is wrong is told at once.

mod build;
mod limits;
mod source;
mod test;
mod webhook;

use super::{Defaults, Spec, SpecError};
use crate::{
    api::{JobConfig, Nanoseconds},
    names::{Repository, Tag},
    secrets::SecretRef,
};

pub(super) use source::is_directory;

/// What was found to be wrong.
#[derive(Default)]
struct Wrong(Vec<SpecError>);

impl Wrong {
    fn say(&mut self, what: impl Into<String>) {
        self.0.push(SpecError(what.into()));
    }

    /// The value, or none and a note about the field.
    fn take<T>(&mut self, field: &str, result: Result<T, impl std::fmt::Display>) -> Option<T> {
        result
            .map_err(|error| self.say(format!("{field}: {error}")))
            .ok()
    }
}

pub(super) fn spec(config: &JobConfig, defaults: &Defaults) -> Result<Spec, Vec<SpecError>> {
    let config = &config.clone().filled();
    let mut wrong = Wrong::default();
    required(config, &mut wrong);
    test::vault_rules(config, &mut wrong);
    let checked = checked(config, defaults, &mut wrong);
    match checked {
        Some(spec) if wrong.0.is_empty() => Ok(spec),
        _ => Err(wrong.0),
    }
}

/// What must be there, as the original words it. A ref and a Dockerfile have defaults here.
fn required(config: &JobConfig, wrong: &mut Wrong) {
    let fields = [
        ("owner", &config.owner),
        ("repo_url", &config.repo_url),
        ("image_name", &config.image_name),
        ("registry_url", &config.registry_url),
    ];
    for (name, value) in fields {
        if value.trim().is_empty() {
            wrong.say(format!("{name} is required"));
        }
    }
}

/// Everything that is checked one by one; none if something that a [`Spec`] cannot be without is wrong.
fn checked(config: &JobConfig, defaults: &Defaults, wrong: &mut Wrong) -> Option<Spec> {
    let owner = owner(config, wrong);
    let source = source::source(config, defaults, wrong);
    let git_credentials = credentials(
        "git_credentials_path",
        &config.git_credentials_path,
        defaults,
        wrong,
    );
    let registry_credentials = credentials(
        "registry_credentials_path",
        &config.registry_credentials_path,
        defaults,
        wrong,
    );
    let build = build::options(config, defaults, wrong);
    let repository = repository(config, wrong);
    let tags = tags(config, wrong);
    let test = test::test(config, defaults, wrong);
    let limits = limits::limits(config, &defaults.limits, wrong);
    let build_timeout = timeout("build_timeout", config.build_timeout, wrong);
    let test_timeout = config.test.as_ref().and_then(|test| test.timeout);
    let test_timeout = timeout("test.timeout", test_timeout, wrong);
    webhook::webhook(config, wrong);
    Some(Spec {
        owner,
        source: source?,
        git_credentials,
        registry_credentials,
        build: build?,
        image: config.image_name.trim().to_owned(),
        repository: repository?,
        tags,
        test,
        limits,
        build_timeout: build_timeout.unwrap_or(defaults.build_timeout),
        test_timeout: test_timeout.unwrap_or(defaults.test_timeout),
        clear_cache: config.clear_cache,
        conflict: config.on_conflict.unwrap_or(defaults.conflict),
    })
}

fn owner(config: &JobConfig, wrong: &mut Wrong) -> String {
    let owner = config.owner.trim();
    if owner.chars().any(char::is_control) || owner.len() > 128 {
        wrong.say("owner: it is one line of at most 128 characters");
    }
    owner.to_owned()
}

fn repository(config: &JobConfig, wrong: &mut Wrong) -> Option<Repository> {
    let (registry, name) = (config.registry_url.trim(), config.image_name.trim());
    if registry.is_empty() || name.is_empty() {
        return None; // said already
    }
    let repository = wrong.take("image_name", Repository::of(registry, name))?;
    if !repository.path().ends_with(name) {
        // What looks like a part of the registry's path must not change which image is meant.
        wrong.say(format!("image_name: `{name}` is no image name"));
        return None;
    }
    Some(repository)
}

fn tags(config: &JobConfig, wrong: &mut Wrong) -> Vec<Tag> {
    let mut tags = Vec::new();
    for text in &config.image_tags {
        if let Some(tag) = wrong.take("image_tags", text.trim().parse::<Tag>())
            && !tags.contains(&tag)
        {
            tags.push(tag);
        }
    }
    tags
}

fn credentials(
    field: &str,
    text: &str,
    defaults: &Defaults,
    wrong: &mut Wrong,
) -> Option<SecretRef> {
    let text = text.trim();
    (!text.is_empty()).then(|| secret(field, text, defaults, wrong))?
}

/// A reference to a secret. Files and variables are those of the machine that runs the job, so only who owns it may name them.
fn secret(field: &str, text: &str, defaults: &Defaults, wrong: &mut Wrong) -> Option<SecretRef> {
    match wrong.take(field, text.parse())? {
        SecretRef::Vault(path) => Some(SecretRef::Vault(without_data(&path))),
        SecretRef::File(_) | SecretRef::Env(_) if !defaults.allow_directories => {
            wrong.say(format!(
                "{field}: a service reads no `file:` or `env:` for its clients; name a Vault path that its `credentials` map"
            ));
            None
        }
        SecretRef::File(path) if text.chars().any(char::is_control) => {
            wrong.say(format!("{field}: `{}` is no path", path.display()));
            None
        }
        other => Some(other),
    }
}

/// A path of Vault's KV engine, version 2, as its command line writes it: its API has `data/` behind the mount.
fn without_data(path: &str) -> String {
    match path.split_once('/') {
        Some((mount, rest)) => match rest.strip_prefix("data/") {
            Some(rest) => format!("{mount}/{rest}"),
            None => path.to_owned(),
        },
        None => path.to_owned(),
    }
}

/// A timeout; none for the default. Go's zero is none; a bare number of seconds, which people take it for, is refused.
fn timeout(
    field: &str,
    asked: Option<Nanoseconds>,
    wrong: &mut Wrong,
) -> Option<std::time::Duration> {
    const LEAST: i64 = 1_000_000_000;
    const MOST: i64 = 7 * 86_400 * LEAST;
    let asked = asked.filter(|asked| asked.0 != 0)?;
    match asked.0 {
        ..LEAST => wrong.say(format!(
            "{field} is {} nanoseconds, and at least 1s is needed: write it as in `30m`",
            asked.0
        )),
        LEAST..=MOST => return asked.positive(),
        _ => wrong.say(format!("{field} is longer than 7 days")),
    }
    None
}

/// Whether it can be the name of a variable.
fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether it is a word of letters, digits, `_`, `.` and `-` that no program takes for an option.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(['-', '.'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
