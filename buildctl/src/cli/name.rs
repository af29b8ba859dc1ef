//! What this program is called where it is installed. `buildctl` is the name of `BuildKit`'s client too, so that some have to
//! install this one under another; help, hints and completions then use that one.

use std::{ffi::OsStr, path::Path, sync::OnceLock};

/// The name if nobody says another.
const OWN: &str = env!("CARGO_PKG_NAME");

/// The name that this process was called by.
pub(super) fn name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| called(std::env::args_os().next().as_deref()))
}

/// The last part of a path, if it is a plain word: it is shown for people to type.
fn called(first: Option<&OsStr>) -> String {
    let name = first
        .and_then(|path| Path::new(path).file_name()?.to_str())
        .filter(|name| {
            name.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        });
    name.filter(|name| !name.is_empty() && !name.starts_with('-'))
        .unwrap_or(OWN)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_files_and_never_something_that_could_not_be_typed() {
        let called = |path: &str| called(Some(OsStr::new(path)));
        assert_eq!(called("/usr/local/bin/jobforge"), "jobforge");
        assert_eq!(called("runyard-build"), "runyard-build");
        for odd in ["", "/", "a b", "-buildctl", "x;y"] {
            assert_eq!(called(odd), "buildctl", "{odd}");
        }
        assert_eq!(super::called(None), "buildctl");
    }
}
