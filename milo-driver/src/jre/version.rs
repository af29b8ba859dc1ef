//! Versions of Java as `JAVA_VERSION` writes them, old style (`1.8.0_402`) and new (`17.0.15`, `25`, `26-ea`): compared,
//! and asked for by their beginning.

/// The numbers of a version, without whatever follows them: `17.0.15+6-Debian` is 17, 0, 15.
pub(super) fn numbers(version: &str) -> Vec<u32> {
    let end = version.find(['+', '-', ' ']).unwrap_or(version.len());
    version[..end]
        .split(['.', '_'])
        .map_while(|part| part.parse().ok())
        .collect()
}

/// 8 for `1.8.0_402`, 17 for `17.0.15`; `None` when there is no number.
pub(super) fn major(version: &str) -> Option<u32> {
    match numbers(version).as_slice() {
        [1, major, ..] | [major, ..] => Some(*major),
        [] => None,
    }
}

/// Whether `version` begins with what was asked, whole numbers at a time: `17.0.1` does not ask for 17.0.15. `8` asks for
/// `1.8`, and `1.8` for 8.
pub(super) fn matches(version: &str, asked: &str) -> bool {
    let (version, asked_numbers) = (modern(version), modern(asked));
    !asked_numbers.is_empty() && numbers_only(asked) && version.starts_with(&asked_numbers)
}

fn modern(version: &str) -> Vec<u32> {
    let mut numbers = numbers(version);
    if numbers.len() > 1 && numbers[0] == 1 {
        numbers.remove(0);
    }
    numbers
}

/// `17x` asks for nothing, rather than for 17.
fn numbers_only(asked: &str) -> bool {
    let asked = asked.split(['+', '-']).next().unwrap_or_default();
    asked
        .split(['.', '_'])
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn majors_are_found_in_both_styles() {
        for (version, expected) in [
            ("1.8.0_402", Some(8)),
            ("17.0.15", Some(17)),
            ("25", Some(25)),
            ("26-ea", Some(26)),
            ("9-internal", Some(9)),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(major(version), expected, "{version}");
        }
    }

    #[test]
    fn a_version_is_asked_for_by_its_beginning() {
        for asked in ["17", "17.0", "17.0.15", "17.0.15+6"] {
            assert!(matches("17.0.15", asked), "{asked}");
        }
        for asked in [
            "1",
            "17.0.1",
            "17.1",
            "170",
            "21",
            "",
            "17x",
            "17.",
            "latest",
            "17.0.15.1",
        ] {
            assert!(!matches("17.0.15", asked), "{asked}");
        }
    }

    #[test]
    fn eight_has_two_names() {
        for asked in ["8", "1.8", "1.8.0", "8.0.402", "1.8.0_402"] {
            assert!(matches("1.8.0_402", asked), "{asked}");
        }
        assert!(!matches("1.8.0_402", "1.8.0_40"));
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert!(numbers("21.0.10") > numbers("21.0.9"));
        assert!(numbers("25") > numbers("21.0.9"));
    }

    proptest! {
        #[test]
        fn every_version_matches_each_of_its_beginnings(parts in prop::collection::vec(2_u32..99, 1..5), length in 1_usize..5) {
            let text = |parts: &[u32]| parts.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
            let beginning = &parts[..length.min(parts.len())];
            prop_assert!(matches(&text(&parts), &text(beginning)));
        }
    }
}
