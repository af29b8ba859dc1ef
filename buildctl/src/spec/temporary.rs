//! The name under which an image waits for its tests. Whatever the parts are, it is a valid reference: what the grammar does not
//! allow becomes a dash, what is too long is cut.

use super::Spec;
use crate::{
    job::JobId,
    names::{Reference, Repository, Tag, Version},
};

/// How much of a ref is in the tag; with a dash and the job's id it stays below the 128 that a tag may have.
const REF: usize = 50;

/// How much of an image's name is in the temporary one, of the 255 that a repository's name may have.
const NAME: usize = 100;

pub(super) fn reference(spec: &Spec, id: JobId, registry: Option<&str>, prefix: &str) -> Reference {
    let prefix = component(prefix);
    let prefix = if prefix.is_empty() { "temp" } else { &prefix };
    let shared = registry
        .filter(|registry| !registry.trim().is_empty())
        .and_then(|registry| {
            let name = format!("{prefix}-{}", component(&spec.image));
            Repository::of(registry.trim(), &name).ok()
        });
    Reference {
        repository: shared.unwrap_or_else(|| beside(&spec.repository, prefix)),
        version: Version::Tag(tag(spec.version(), id)),
    }
}

/// `registry/team/PREFIX-app` for `registry/team/app`.
fn beside(repository: &Repository, prefix: &str) -> Repository {
    let (above, name) = match repository.path().rsplit_once('/') {
        Some((above, name)) => (format!("{above}/"), name),
        None => (String::new(), repository.path()),
    };
    let host = repository.host();
    let name = component(name);
    let named = format!("{host}/{above}{prefix}-{name}").parse();
    // A name that is too long is left out: the tag, with the job's id in it, is unique by itself.
    named
        .or_else(|_| format!("{host}/{above}{prefix}").parse())
        .unwrap_or_else(|_| repository.clone())
}

/// A part of a repository's name: lower-case letters and digits, joined by single dots or by dashes.
fn component(text: &str) -> String {
    let mut made = String::new();
    for c in text.chars().take(NAME) {
        let c = match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '.') => c,
            _ => '-',
        };
        let after_dot = made.ends_with('.');
        match c {
            '.' if made.is_empty() || after_dot || made.ends_with('-') => {}
            '-' if made.is_empty() || after_dot => {}
            c => made.push(c),
        }
    }
    made.trim_end_matches(['.', '-']).to_owned()
}

fn tag(version: &str, id: JobId) -> Tag {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '-',
    };
    let version: String = version.chars().map(plain).take(REF).collect();
    let version = version.trim_start_matches('-');
    let text = match version {
        "" => id.to_string(),
        version => format!("{version}-{id}"),
    };
    text.parse()
        .unwrap_or_else(|_| unreachable!("letters, digits and dashes, 87 at most, are a tag"))
}
