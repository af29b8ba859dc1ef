//! The main section of `META-INF/MANIFEST.MF`, as the JAR file specification writes it. The sections of single entries
//! are of no interest here.

/// What a manifest says about running its JAR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// `Main-Class`.
    pub(super) main_class: Option<String>,
    /// `Class-Path`, split at its blanks.
    pub(super) class_path: Vec<String>,
}

impl Manifest {
    /// Reads a manifest leniently: lines that are none are left out, as a JVM would complain about them itself.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut manifest = Self::default();
        for line in unfolded(text) {
            let line = String::from_utf8_lossy(&line);
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("Main-Class") && !value.is_empty() {
                manifest.main_class = Some(value.to_owned());
            } else if name.eq_ignore_ascii_case("Class-Path") {
                manifest.class_path = value.split_whitespace().map(str::to_owned).collect();
            }
        }
        manifest
    }
}

/// The lines of the main section with their continuations. A line has 72 bytes at most and goes on in the next one that
/// begins with a blank, even in the middle of a character: so this works on bytes.
fn unfolded(text: &[u8]) -> Vec<Vec<u8>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for line in physical(text) {
        match (line.split_first(), lines.last_mut()) {
            (None, _) => break,
            (Some((b' ', rest)), Some(before)) => before.extend_from_slice(rest),
            (Some(_), _) => lines.push(line.to_vec()),
        }
    }
    lines
}

/// Lines end in CR LF, LF or CR.
fn physical(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            rest = None;
            return Some(text);
        };
        let width = if text[end..].starts_with(b"\r\n") {
            2
        } else {
            1
        };
        rest = Some(&text[end + width..]);
        Some(&text[..end])
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_goes_on_in_lines_that_begin_with_a_blank() {
        let text = b"Manifest-Version: 1.0\r\nMain-Class: com.example.a.very.long.packa\r\n ge.name.th\r\n at.goes.on.Main\r\n\r\n";
        assert_eq!(
            Manifest::parse(text).main_class.as_deref(),
            Some("com.example.a.very.long.package.name.that.goes.on.Main")
        );
    }

    #[test]
    fn a_character_may_be_split_between_lines() {
        let text = b"Main-Class: caf\xc3\n \xa9.Main\n";
        assert_eq!(
            Manifest::parse(text).main_class.as_deref(),
            Some("café.Main")
        );
    }

    #[test]
    fn sections_of_entries_do_not_count() {
        let text = b"Manifest-Version: 1.0\n\nName: a.class\nMain-Class: Evil\n";
        assert_eq!(Manifest::parse(text), Manifest::default());
    }

    #[test]
    fn names_are_known_in_any_case_and_lines_may_end_in_cr() {
        let text = b"manifest-version: 1.0\rMAIN-CLASS:  App \rclass-path: lib/a.jar  lib/b.jar\r";
        assert_eq!(
            Manifest::parse(text),
            Manifest {
                main_class: Some("App".into()),
                class_path: vec!["lib/a.jar".into(), "lib/b.jar".into()],
            }
        );
    }

    #[test]
    fn an_empty_main_class_is_none() {
        assert_eq!(Manifest::parse(b"Main-Class: \n").main_class, None);
        assert_eq!(Manifest::parse(b""), Manifest::default());
    }

    proptest! {
        #[test]
        fn folding_changes_nothing(class in "[a-z]{1,30}(\\.[A-Za-zäß]{1,40}){0,6}", width in 1_usize..71) {
            let line = format!("Main-Class: {class}");
            let mut text = b"Manifest-Version: 1.0\r\n".to_vec();
            // The name itself is never folded.
            let (name, value) = line.as_bytes().split_at(12);
            text.extend_from_slice(name);
            for (index, part) in value.chunks(width).enumerate() {
                if index > 0 {
                    text.extend_from_slice(b"\r\n ");
                }
                text.extend_from_slice(part);
            }
            text.extend_from_slice(b"\r\n\r\n");
            prop_assert_eq!(Manifest::parse(&text).main_class, Some(class));
        }

        #[test]
        fn no_bytes_break_the_parser(text in prop::collection::vec(any::<u8>(), 0..200)) {
            Manifest::parse(&text);
        }
    }
}
