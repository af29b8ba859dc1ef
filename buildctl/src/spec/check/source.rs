//! Where the source comes from: URLs that Git may be given, and refs by the rules of `git check-ref-format`.

use std::path::PathBuf;

use runyard_common::http::is_loopback;

use super::Wrong;
use crate::{
    api::JobConfig,
    spec::{Defaults, Source},
};

pub(super) fn source(config: &JobConfig, defaults: &Defaults, wrong: &mut Wrong) -> Option<Source> {
    let url = config.repo_url.trim();
    let reference = config.git_ref.trim();
    if let Err(why) = reference_rules(reference) {
        wrong.say(format!(
            "git_ref: `{}` is no ref: {why}",
            reference.escape_debug()
        ));
        return None;
    }
    if url.is_empty() {
        return None; // said already
    }
    if is_directory(url) && defaults.allow_directories {
        return directory(url, wrong);
    }
    match url_rules(url, config, defaults) {
        Ok(()) => Some(Source::Git {
            url: url.to_owned(),
            reference: reference.to_owned(),
        }),
        Err(why) => {
            wrong.say(format!("repo_url: {why}"));
            None
        }
    }
}

/// Whether it is a path and no URL.
pub(in crate::spec) fn is_directory(url: &str) -> bool {
    url.starts_with(['/', '.'])
}

fn directory(path: &str, wrong: &mut Wrong) -> Option<Source> {
    if !path.starts_with('/') || path.contains('\0') {
        wrong.say("repo_url: a directory is an absolute path");
        return None;
    }
    Some(Source::Directory {
        path: PathBuf::from(path),
    })
}

/// Bytes that are part of URLs and mean nothing to a shell, a template or HCL.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._~/+-%@:,=?&#[]".contains(&byte)
}

fn url_rules(url: &str, config: &JobConfig, defaults: &Defaults) -> Result<(), String> {
    if !url.bytes().all(is_plain) || url.len() > 2048 {
        // It is not quoted: it may hold a password, and bytes that disturb a terminal.
        return Err(
            "it has characters that are in no URL of a repository; write them as %XX".into(),
        );
    }
    if is_directory(url) {
        return Err(format!(
            "`{url}` is a path; a service builds from URLs only"
        ));
    }
    match url.split_once("://") {
        Some(("file", _)) if defaults.allow_file_urls => file_rules(url),
        Some(("file", _)) => Err("file:// URLs are not allowed by this service".into()),
        Some(("https" | "ssh" | "http", _)) => remote_rules(url, config),
        Some((scheme, _)) => Err(format!(
            "`{scheme}://` is not used for fetching (known: https, ssh, user@host:path)"
        )),
        None => scp_rules(url),
    }
}

fn file_rules(url: &str) -> Result<(), String> {
    match url::Url::parse(url)
        .ok()
        .and_then(|url| url.to_file_path().ok())
    {
        Some(_) => Ok(()),
        None => Err(format!("`{url}` has no absolute path")),
    }
}

fn remote_rules(url: &str, config: &JobConfig) -> Result<(), String> {
    let parsed = url::Url::parse(url).map_err(|error| format!("`{}`: {error}", shown(url)))?;
    let web = matches!(parsed.scheme(), "https" | "http");
    if parsed.password().is_some() || (web && !parsed.username().is_empty()) {
        // It is not quoted. A user alone may be a token, which is how some hosts take them.
        return Err(
            "there is a user or a password in the URL, where everybody would see it; \
             store them and name the place in git_credentials_path"
                .into(),
        );
    }
    let host = parsed.host_str().unwrap_or_default();
    if host.is_empty() || host.starts_with('-') || parsed.username().starts_with('-') {
        return Err(format!("`{url}` has no host"));
    }
    if parsed.path().trim_matches('/').is_empty() || parsed.fragment().is_some() {
        return Err(format!("`{url}` has no path of a repository"));
    }
    let in_the_clear = parsed.scheme() == "http" && !is_loopback(host);
    if in_the_clear && !config.git_credentials_path.trim().is_empty() {
        return Err("http:// would send the credentials in the clear; use https://".into());
    }
    Ok(())
}

/// A URL without whatever stands before its host.
fn shown(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => url.to_owned(),
    }
}

/// `user@host:path`, as ssh has it. Neither part may look like an option to ssh or Git, nor the whole like a remote helper
/// (`helper::address`).
fn scp_rules(url: &str) -> Result<(), String> {
    let wrong = || format!("`{url}` is neither an https:// or ssh:// URL nor user@host:path");
    let (login, path) = url.split_once(':').ok_or_else(wrong)?;
    let (user, host) = login.split_once('@').ok_or_else(wrong)?;
    let word = |text: &str| super::is_word(text);
    let path_ok = !path.trim_matches('/').is_empty() && !path.starts_with([':', '-']);
    if word(user) && word(host) && path_ok {
        Ok(())
    } else {
        Err(wrong())
    }
}

/// The rules of `git check-ref-format`, and that it does not look like an option.
fn reference_rules(name: &str) -> Result<(), &'static str> {
    let forbidden = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    if name.len() > 255 {
        return Err("it is longer than 255 bytes");
    }
    if name.starts_with('-') {
        return Err("it begins with a dash");
    }
    if name.chars().any(forbidden) {
        return Err("spaces, control characters and any of ~^:?*[\\ cannot be in one");
    }
    if name.contains("..") || name.contains("@{") || name == "@" {
        return Err("`..`, `@{` and a lone `@` cannot be in one");
    }
    #[expect(
        clippy::case_sensitive_file_extension_comparisons,
        reason = "Git refuses this spelling only"
    )]
    let part_ok =
        |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    if name.ends_with('.') || !name.split('/').all(part_ok) {
        return Err(
            "its parts are not empty, begin with no dot and end neither in one nor in `.lock`",
        );
    }
    Ok(())
}
