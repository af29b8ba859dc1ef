//! What a user has told the JVM already: in the task's options, or in the variables that JVMs read. Only what a generated
//! flag would contradict is understood.

use std::collections::BTreeMap;

use crate::task::Java;

/// Variables whose words a JVM takes for options. `JDK_JAVA_OPTIONS` is the launcher's, since JDK 9.
const VARIABLES: [&str; 3] = ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"];

/// Options that say how large the heap may be. `-Xmx` is short for the first.
const HEAP: [&str; 4] = [
    "MaxHeapSize",
    "MaxRAMPercentage",
    "MaxRAMFraction",
    "MaxRAM",
];

/// All options of the user.
pub(super) struct Said(Vec<String>);

impl Said {
    pub(super) fn by(java: &Java, env: &BTreeMap<String, String>) -> Self {
        let variables = VARIABLES.iter().filter_map(|name| env.get(*name));
        let words = variables.flat_map(|options| options.split_whitespace().map(unquoted));
        Self(words.chain(java.jvm_options.iter().cloned()).collect())
    }

    /// Whether `-XX:<name>=…`, `-XX:+<name>` or `-XX:-<name>` is among them.
    pub(super) fn sets(&self, name: &str) -> bool {
        self.values(name).next().is_some()
            || self.0.iter().any(|option| {
                option
                    .strip_prefix("-XX:+")
                    .or_else(|| option.strip_prefix("-XX:-"))
                    == Some(name)
            })
    }

    pub(super) fn sizes_heap(&self) -> bool {
        HEAP.iter().any(|name| self.sets(name))
            || self
                .0
                .iter()
                .any(|option| option.starts_with("-Xmx") || option == "-XX:+AggressiveHeap")
    }

    /// The heap's size at the beginning in bytes, or 0 when they leave it to the JVM.
    pub(super) fn initial_heap(&self) -> u64 {
        let short = self
            .0
            .iter()
            .filter_map(|option| option.strip_prefix("-Xms"));
        let sizes = short
            .chain(self.values("InitialHeapSize"))
            .chain(self.values("MinHeapSize"));
        sizes.filter_map(bytes).max().unwrap_or(0)
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |option| {
            option
                .strip_prefix("-XX:")?
                .strip_prefix(name)?
                .strip_prefix('=')
        })
    }
}

fn unquoted(word: &str) -> String {
    word.chars()
        .filter(|character| !matches!(character, '"' | '\''))
        .collect()
}

/// A size as JVMs read it: `1073741824`, `1g`, `512M`, `0x400`.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (end, 'k' | 'K') => (&text[..end], 10),
        (end, 'm' | 'M') => (&text[..end], 20),
        (end, 'g' | 'G') => (&text[..end], 30),
        (end, 't' | 'T') => (&text[..end], 40),
        _ => (text, 0),
    };
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(options: &[&str]) -> Said {
        Said(options.iter().map(|option| (*option).to_owned()).collect())
    }

    #[test]
    fn sizes_are_read_as_a_jvm_reads_them() {
        assert_eq!(bytes("1g"), Some(1 << 30));
        assert_eq!(bytes("512M"), Some(512 << 20));
        assert_eq!(bytes("2048"), Some(2048));
        assert_eq!(bytes("0x10k"), Some(16 << 10));
        for text in ["", "g", "1.5g", "99999999999t", "ü"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn a_longer_flag_is_another_flag() {
        assert!(!said(&["-XX:ErrorFileToStdout=1", "-XX:+ErrorFileToStderr"]).sets("ErrorFile"));
        assert!(said(&["-XX:ErrorFile=/x"]).sets("ErrorFile"));
        assert!(said(&["-XX:-ExitOnOutOfMemoryError"]).sets("ExitOnOutOfMemoryError"));
    }

    #[test]
    fn the_largest_beginning_counts() {
        assert_eq!(
            said(&["-Xms64m", "-XX:InitialHeapSize=1g"]).initial_heap(),
            1 << 30
        );
        assert_eq!(said(&["-Xmx64m"]).initial_heap(), 0);
    }
}
