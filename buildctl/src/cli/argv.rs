//! The original's spellings: its verbs, and its flags with one dash, which Go's programs take. What they mean is the verbs' own;
//! here a command line is only written anew.
//!
//! Whoever types the original's names gets the original's manners: the service is at `http://localhost:8080` unless something
//! else is said, and answers are JSON.

use std::ffi::{OsStr, OsString};

/// Verbs of the original, and ours.
const VERBS: [(&str, &[&str]); 8] = [
    ("submit-job", &["submit"]),
    ("get-status", &["status"]),
    ("get-logs", &["logs"]),
    ("kill-job", &["kill"]),
    ("get-history", &["history"]),
    ("version-info", &["version", "info"]),
    ("version-major", &["version", "bump", "major"]),
    ("version-minor", &["version", "bump", "minor"]),
];

/// Long flags of the original that may have one dash.
const LONG_FLAGS: [&str; 7] = [
    "global",
    "image-tags",
    "watch",
    "history",
    "phase",
    "url",
    "help",
];

/// Flags before the verb that take a value.
const VALUED: [&str; 14] = [
    "-u",
    "--url",
    "-url",
    "--token-file",
    "--config",
    "--root",
    "-o",
    "--output",
    "--log-level",
    "--log-format",
    "--color",
    "--insecure-registry",
    "--progress",
    "--backend",
];

/// A command line in our spelling.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The words, the program's name first.
    pub(super) words: Vec<OsString>,
    /// Whether the verb was one of the original's.
    pub(super) is_original: bool,
}

/// Writes a command line anew. What follows `--` is left alone.
pub(super) fn conventional(args: impl IntoIterator<Item = OsString>) -> Line {
    let mut words: Vec<OsString> = args.into_iter().collect();
    let end = words
        .iter()
        .position(|word| word == "--")
        .unwrap_or(words.len());
    for word in &mut words[..end] {
        if is_long_flag(word) {
            let mut flag = OsString::from("-");
            flag.push(&*word);
            *word = flag;
        }
    }
    let verb = verb(&words[..end]);
    let ours = verb.and_then(|at| VERBS.iter().find(|(name, _)| words[at] == *name));
    if let (Some(at), Some((_, ours))) = (verb, ours) {
        words.splice(at..=at, ours.iter().map(OsString::from));
    }
    Line {
        words,
        is_original: ours.is_some(),
    }
}

/// Where the verb is: the first word that is neither a flag nor a flag's value.
fn verb(words: &[OsString]) -> Option<usize> {
    let mut is_value = false;
    for (at, word) in words.iter().enumerate().skip(1) {
        if std::mem::take(&mut is_value) {
            continue;
        }
        if !word.as_encoded_bytes().starts_with(b"-") {
            return Some(at);
        }
        is_value = VALUED.iter().any(|flag| word == OsStr::new(flag));
    }
    None
}

fn is_long_flag(word: &OsStr) -> bool {
    let Some(flag) = word.to_str().and_then(|word| word.strip_prefix('-')) else {
        return false;
    };
    let name = flag.split('=').next().unwrap_or_default();
    LONG_FLAGS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> (String, bool) {
        let line = conventional(line.split(' ').map(OsString::from));
        let words: Vec<&str> = line
            .words
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        (words.join(" "), line.is_original)
    }

    #[test]
    fn verbs_and_flags_of_the_original_become_ours() {
        for (theirs, ours) in [
            (
                "b submit-job -global g.yaml x.yaml",
                "b submit --global g.yaml x.yaml",
            ),
            ("b submit-job x.yaml --watch", "b submit x.yaml --watch"),
            (
                "b -u http://a get-logs ID build",
                "b -u http://a logs ID build",
            ),
            (
                "b --url=http://a get-history 5 10",
                "b --url=http://a history 5 10",
            ),
            ("b version-major 2", "b version bump major 2"),
        ] {
            assert_eq!(rewritten(theirs), (ours.to_owned(), true));
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for line in [
            "b",
            "b build . -t v1 --test x",
            "b kill ID --reason kill-job",
            "b -u get-logs status ID",
            "b build . --test -- -watch",
        ] {
            assert_eq!(rewritten(line), (line.to_owned(), false));
        }
    }
}
