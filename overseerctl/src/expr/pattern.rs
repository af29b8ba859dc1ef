//! Regular expressions in Go's dialect, which `matches()` takes, for the `regex` crate.
//!
//! [`dialect`](super::dialect) knows the differences; here are the compiled pattern and its place among the values.

use cel::common::types::Type;
use cel::common::value::{StaticVal, Val};
use regex::Regex;

use super::dialect::translate;

/// A pattern and, if it is one, its compiled form.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    compiled: Result<Regex, String>,
}

impl Pattern {
    /// Compiles `pattern`; what is wrong with it comes out when it is used, as in cel-go.
    pub(super) fn new(pattern: &str) -> Self {
        let compiled = translate(pattern).and_then(|translated| compile(&translated));
        Self {
            compiled: compiled.map_err(|error| format!("error parsing regexp: {error}")),
        }
    }

    /// Whether some part of `text` matches; what is wrong with the pattern if it is none.
    pub(super) fn is_match(&self, text: &str) -> Result<bool, &str> {
        self.compiled
            .as_ref()
            .map(|regex| regex.is_match(text))
            .map_err(String::as_str)
    }
}

fn compile(translated: &str) -> Result<Regex, String> {
    Regex::new(translated).map_err(|error| {
        // the last line says what is wrong, those before it show the translation
        let text = error.to_string();
        let problem = text.lines().last().unwrap_or_default();
        problem.trim_start_matches("error: ").to_owned()
    })
}

/// No expression can name this type.
static PATTERN_TYPE: Type = Type::new_unspecified_type("@pattern");

/// A compiled pattern takes the place of the string that it was, see [`lower`](super::lower).
impl Val for Pattern {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }

    fn cel_type() -> &'static Type {
        &PATTERN_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], other: &[&str]) {
        let compiled = Pattern::new(pattern);
        for text in matching {
            assert_eq!(compiled.is_match(text), Ok(true), "{pattern} on {text:?}");
        }
        for text in other {
            assert_eq!(compiled.is_match(text), Ok(false), "{pattern} on {text:?}");
        }
    }

    #[test]
    fn classes_are_ascii() {
        check(r"^\w+$", &["abc_1"], &["é中", ""]);
        check(r"^\d$", &["7"], &["\u{0667}"]);
        check(r"^\s$", &[" ", "\t"], &["\u{a0}", "\u{b}"]);
        check(r"^\W\D\S$", &["é中é"], &["a中é", "é1é", "é中 "]);
        check(r"\bé", &["aé"], &["é"]);
        check(r"a\Bb", &["ab"], &["a b"]);
        check(r"\B", &["é", "ab"], &["a", "aéa"]);
    }

    #[test]
    fn brackets_in_classes_are_characters() {
        check("^[[a]$", &["[", "a"], &["b", "]"]);
        check("^[]a]$", &["]", "a"], &["["]);
        check("^[^]a]$", &["b"], &["]", "a"]);
        check(r"^[\d&&4]+$", &["4&5"], &["a"]);
        check("^[a-z&&[^b]]$", &["a]", "&]", "[]", "^]"], &["a", "-]"]);
        check("^[a~~b]$", &["~", "a"], &["c"]);
        check("^[-a]$|^[b-]$", &["-", "a", "b"], &["c"]);
        check(r"^[\]\-\\x\x41-\x{43}\101]+$", &["]-\\xABC"], &["D"]);
        check("^[[:alpha:]_[:^ascii:]]+$", &["aé_"], &["1"]);
        check(r"^[\D]$", &["a"], &["1"]);
        check(r"^[^\D1]$", &["2"], &["a", "1"]);
    }

    #[test]
    fn braces_repeat_only_where_they_can() {
        check("^a{2}$", &["aa"], &["a"]);
        check("^a{1,2}?$", &["a", "aa"], &["aaa"]);
        check("^a{,2}$", &["a{,2}"], &["aa"]);
        check("{", &["{"], &["a"]);
        check("^a{01}{$", &["a{01}{"], &["a"]);
        check("^x{a}$", &["x{a}"], &["x"]);
    }

    #[test]
    fn escapes_are_gos() {
        check(r"^\Qa.b\E.$", &["a.bc"], &["axbc"]);
        check(r"\Q[", &["["], &["a"]);
        check(r"^\x{e9}\xe9\101\n\_\-$", &["ééA\n_-"], &[]);
        check(r"^\pL\p{Greek}\PL\p{^Lu}$", &["aα1a"], &["aa1a", "aα1A"]);
        check(r"^\07$", &["\u{7}"], &[]);
        check(r"\Aa\z", &["a"], &["ab"]);
    }

    #[test]
    fn groups_and_flags_work() {
        check("(?i)HELLO", &["hello"], &["hallo"]);
        check("^(?P<a>x)(?<b_1>y)(z)$", &["xyz"], &[]);
        check("^(?s:.)(?-s:.)$", &["\na"], &["\n\n"]);
        check("(?)a", &["a"], &["b"]);
        check("(?m)^b$", &["a\nb"], &["ab"]);
        check("a|b|", &["", "c"], &[]);
        check("^a(?i)(?s)+B.$", &["aab\n"], &["aAb\n"]);
        check("(a(?i))b(?i)", &["ab"], &["aB", "Ab"]);
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for pattern in [
            "(",
            ")",
            "[",
            "[a",
            "[]",
            "a**",
            "a++",
            "a*{2}",
            "a{2}{3}",
            "a{2,1}",
            "a{1001}",
            "*",
            "+a",
            "(?x)a",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?-)",
            "(?i",
            r"\1",
            r"\8",
            r"\u00e9",
            r"\C",
            r"\Z",
            r"\",
            r"\xg",
            r"\x{110000}",
            "[b-a]",
            "[a--b]",
            r"[\b]",
            "[[:foo:]]",
            r"\p{Foo}",
            r"\p{",
            r"\p",
            "(?P<a>x)(?P<a>y)",
            "(?P<>x)",
            "(?P<a-b>x)",
            r"\é",
            "(?P<a",
            r"\p{sc=Greek}",
            "(?R)a",
            "(?u)a",
        ] {
            let error = Pattern::new(pattern)
                .is_match("")
                .expect_err(pattern)
                .to_owned();
            assert!(error.starts_with("error parsing regexp: "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_makes_the_translation_panic(
            pattern in prop_oneof![
                any::<String>(),
                r"[\\\[\](){}|*+?^$.:,<>=!PpQExdwsbBAz0-9a-f-]{0,16}",
            ],
            text in ".{0,8}",
        ) {
            let _ = Pattern::new(&pattern).is_match(&text);
        }

        #[test]
        fn a_quoted_text_matches_itself(text in any::<String>()) {
            prop_assume!(!text.contains(r"\E"));
            let compiled = Pattern::new(&format!(r"^\Q{text}\E$"));
            prop_assert_eq!(compiled.is_match(&text), Ok(true));
        }
    }

    #[test]
    fn errors_have_gos_words() {
        let error = |pattern: &str| Pattern::new(pattern).is_match("").unwrap_err().to_owned();
        assert_eq!(
            error(r"\u00e9"),
            r"error parsing regexp: invalid escape sequence: `\u`"
        );
        assert_eq!(
            error("a**"),
            "error parsing regexp: invalid nested repetition operator: `**`"
        );
        assert_eq!(
            error("a{1001}"),
            "error parsing regexp: invalid repeat count: `{1001}`"
        );
        assert_eq!(
            error("(?x) a"),
            "error parsing regexp: invalid or unsupported Perl syntax: `(?x`"
        );
        assert_eq!(
            error("a(b"),
            "error parsing regexp: missing closing ): `a(b`"
        );
        assert_eq!(error("a)("), "error parsing regexp: unexpected ): `a)(`");
        assert_eq!(
            error("[a--b]"),
            "error parsing regexp: invalid character class range: `a--`"
        );
    }
}
