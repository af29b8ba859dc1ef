//! Templates for the arguments of a task: Go's `text/template` language between `[[` and `]]`, over
//! a map of strings.
//!
//! ```text
//! text ─ lex ─► tokens ─ parse, expr ─► programs (ast) ─ run, eval ─► bytes
//!                                                           │
//!                                                         funcs: print, printf, escape
//! ```
//!
//! A template is parsed once and rendered for every start of a task. Both answer as Go 1.26 does,
//! errors included, byte for byte: users match on them. Only the builtin functions exist, and the
//! values are those that a `map[string]string`, literals and the builtins can give.
//!
//! Differences from Go, all of them errors where Go would go on:
//!
//! - complex constants (`2i`) are refused;
//! - parentheses nest up to 100 deep, not 10000;
//! - the output and every string on the way are limited to [`MAX_OUTPUT`] bytes, and the work to
//!   [`MAX_STEPS`] steps, so that `[[range 1000000000]]` ends soon.
//!
//! And `printf "%p"` on the parameters, which shows an address in Go, is a wrong verb here.

mod ast;
mod escape;
mod eval;
mod expr;
#[cfg(test)]
mod facts;
mod float;
mod funcs;
mod lex;
mod literal;
mod number;
mod parse;
mod print;
mod printf;
mod run;
mod token;
mod unicode;
mod value;

use std::{collections::BTreeMap, sync::Arc};

use thiserror::Error;

/// How many bytes a rendered template, or a string within it, may have: 16 MiB.
pub const MAX_OUTPUT: usize = 16 << 20;

/// How many steps a template may take: statements, commands, iterations, and 16 bytes of text that
/// a function reads or writes, count as one each.
pub const MAX_STEPS: usize = 1 << 22;

/// How deep templates may call each other, as in Go.
const MAX_CALLS: usize = 100_000;

/// What is shown for a parameter that was not given.
const NO_VALUE: &[u8] = b"<no value>";

/// Why a template cannot be parsed or rendered, in the words of Go's `text/template`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// The text is no template: `template: :1: unclosed action`.
    #[error("{0}")]
    Parse(String),
    /// The template does not fit its parameters, or exceeds a limit:
    /// `template: :1:5: executing "" at <.x.y>: can't evaluate field y in type string`.
    #[error("{0}")]
    Execute(String),
}

/// A parsed template. Clones share it.
#[derive(Clone, Debug)]
pub struct Template {
    source: Arc<Source>,
}

/// A template's text and what it means.
#[derive(Debug)]
struct Source {
    text: Box<str>,
    programs: ast::Programs,
}

impl Template {
    /// Parses a template. Text without `[[` is a template that renders to itself.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let programs = parse::parse(text)?;
        Ok(Self {
            source: Arc::new(Source {
                text: text.into(),
                programs,
            }),
        })
    }

    /// Renders the template with these parameters.
    ///
    /// Fails also if the result is not UTF-8, which takes a `slice` through a character or an
    /// escape like `"\xff"`; [`Template::render_bytes`] gives such results.
    pub fn render(&self, params: &BTreeMap<String, String>) -> Result<String, TemplateError> {
        String::from_utf8(self.render_bytes(params)?).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            TemplateError::Execute(format!(
                "template: : the rendered text is not UTF-8 at byte {at}"
            ))
        })
    }

    /// Renders the template to bytes, exactly those that Go writes.
    pub fn render_bytes(
        &self,
        params: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>, TemplateError> {
        run::render(&self.source.text, &self.source.programs, params)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::facts::{self, Fact};
    use super::*;
    use crate::quote::go_quote;

    fn params() -> BTreeMap<String, String> {
        facts::PARAMS
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn rendered(text: &str, params: &BTreeMap<String, String>) -> Result<String, String> {
        let template = Template::parse(text).map_err(|error| error.to_string())?;
        template.render(params).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(facts: &[Fact]) {
        let params = params();
        for (text, expected) in facts {
            let found = rendered(text, &params);
            assert_eq!(
                found.as_deref().map_err(String::as_str),
                *expected,
                "{text}"
            );
        }
    }

    #[test]
    fn text_and_trimming_match_go() {
        check(facts::TEXT);
    }

    #[test]
    fn literals_match_go() {
        check(facts::LITERALS);
    }

    #[test]
    fn fields_and_variables_match_go() {
        check(facts::FIELDS_AND_VARIABLES);
    }

    #[test]
    fn pipelines_match_go() {
        check(facts::PIPELINES);
    }

    #[test]
    fn branches_and_loops_match_go() {
        check(facts::BRANCHES_AND_LOOPS);
    }

    #[test]
    fn templates_in_templates_match_go() {
        check(facts::DEFINITIONS);
    }

    #[test]
    fn functions_match_go() {
        check(facts::FUNCTIONS);
    }

    #[test]
    fn comparisons_match_go() {
        check(facts::COMPARISONS);
    }

    #[test]
    fn formats_match_go() {
        check(facts::FORMATS);
    }

    #[test]
    fn parse_errors_match_go() {
        check(facts::PARSE_ERRORS);
    }

    #[test]
    fn the_two_kinds_of_error_are_told_apart() {
        assert!(matches!(
            Template::parse("[[.a"),
            Err(TemplateError::Parse(_))
        ));
        let template = Template::parse("[[.a.b]]").unwrap();
        assert!(matches!(
            template.render(&params()),
            Err(TemplateError::Execute(_))
        ));
    }

    #[test]
    fn a_cut_character_is_an_error_as_text_but_not_as_bytes() {
        let template = Template::parse("a[[slice .u 0 2]]").unwrap();
        let error = template.render(&params()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "template: : the rendered text is not UTF-8 at byte 2"
        );
        assert_eq!(template.render_bytes(&params()), Ok(b"ah\xc3".to_vec()));
    }

    #[test]
    fn complex_constants_are_refused() {
        for (text, literal) in [("[[2i]]", "2i"), ("[[1+2i]]", "1+2i")] {
            let error = Template::parse(text).unwrap_err();
            let expected =
                format!("template: :1: complex constants are not supported: \"{literal}\"");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn parentheses_nest_up_to_a_hundred_deep() {
        let nested = |depth| {
            rendered(
                &format!("[[{}.a{}]]", "(".repeat(depth), ")".repeat(depth)),
                &params(),
            )
        };
        assert_eq!(nested(100).as_deref(), Ok("alpha"));
        assert_eq!(
            nested(101).unwrap_err(),
            "template: :1: max expression depth exceeded"
        );
        let unclosed = Template::parse(&format!("[[{}", "(".repeat(1_000_000)));
        assert_eq!(
            unclosed.unwrap_err().to_string(),
            "template: :1: max expression depth exceeded"
        );
    }

    #[test]
    fn blocks_nest_without_a_limit() {
        let nested = format!(
            "{}x{}",
            "[[if .a]]".repeat(50_000),
            "[[end]]".repeat(50_000)
        );
        assert_eq!(rendered(&nested, &params()).as_deref(), Ok("x"));
    }

    #[test]
    fn endless_recursion_ends_at_the_depth_of_go() {
        let error = rendered(
            "[[define \"r\"]][[template \"r\"]][[end]][[template \"r\"]]",
            &params(),
        )
        .unwrap_err();
        let expected = "template: :1:25: executing \"r\" at <{{template \"r\"}}>: \
                        exceeded maximum template depth (100000)";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_runaway_loop_is_stopped() {
        let error = rendered("[[range 1000000000]][[end]]", &params()).unwrap_err();
        let expected = "template: :1:8: executing \"\" at <1000000000>: \
                        exceeded maximum number of steps (4194304)";
        assert_eq!(error, expected);
    }

    #[test]
    fn runaway_output_is_stopped() {
        let text = "x".repeat(1000);
        let error = rendered(&format!("[[range 1000000000]]{text}[[end]]"), &params()).unwrap_err();
        assert_eq!(
            error,
            "template: :1:8: executing \"\" at <1000000000>: output exceeds 16777216 bytes"
        );
    }

    #[test]
    fn a_string_that_doubles_is_stopped() {
        let error = rendered(
            "[[$x := .a]][[range 100]][[$x = print $x $x]][[end]]",
            &params(),
        )
        .unwrap_err();
        let expected = "template: :1:32: executing \"\" at <print $x $x>: \
                        error calling print: text exceeds 16777216 bytes";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_string_that_escaping_enlarges_is_stopped() {
        let params = BTreeMap::from([("quotes".to_owned(), "\"".repeat(4 << 20))]);
        let error = rendered("[[html .quotes | len]]", &params).unwrap_err();
        assert!(
            error.ends_with("error calling html: text exceeds 16777216 bytes"),
            "{error}"
        );
    }

    #[test]
    fn work_on_large_strings_counts() {
        let text =
            "[[$x := printf \"%1000000d\" 1]][[range 1000000000]][[if eq $x $x]][[end]][[end]]";
        assert!(
            rendered(text, &params())
                .unwrap_err()
                .ends_with("exceeded maximum number of steps (4194304)")
        );
    }

    #[test]
    fn templates_are_shared_between_threads() {
        fn shared<T: Send + Sync + Clone>(_: &T) {}
        shared(&Template::parse("").unwrap());
    }

    /// Templates that are likely to be broken in interesting ways.
    fn scraps() -> impl Strategy<Value = String> {
        const SCRAPS: [&str; 48] = [
            "[[",
            "]]",
            "[[- ",
            " -]]",
            "(",
            ")",
            "\"",
            "`",
            "|",
            ".",
            "$",
            "$x",
            " ",
            "\n",
            "-",
            "end",
            "else",
            "if",
            "range",
            "with",
            "define",
            "block",
            "template",
            "\"x\"",
            "break",
            "continue",
            ".a",
            "1",
            "0x",
            "1e",
            "+",
            "i",
            ",",
            ":=",
            "=",
            "/*",
            "*/",
            "\\",
            "é",
            "print",
            "printf",
            "\"%5.2q%*d\"",
            "and",
            "nil",
            "index",
            "slice",
            "'a'",
            "[[end]]",
        ];
        prop::collection::vec(prop::sample::select(&SCRAPS[..]), 0..24)
            .prop_map(|scraps| scraps.concat())
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            prop_assert_eq!(rendered(&text, &params()), rendered(&text, &params()));
        }

        #[test]
        fn any_scraps_are_rendered_or_refused_the_same_way_twice(text in scraps()) {
            prop_assert_eq!(rendered(&text, &params()), rendered(&text, &params()));
        }

        #[test]
        fn any_format_is_rendered(
            format in "[%\\[\\]0-9.*+# a-zA-Zé-]{0,24}",
            int in any::<i64>(),
            float in any::<f64>(),
        ) {
            let float = if float.is_finite() { float } else { 0.0 };
            let text = format!("[[printf `{format}` {int} {float:?} .a . nil true]]");
            prop_assert!(rendered(&text, &params()).is_ok(), "{text}");
        }

        #[test]
        fn text_without_actions_renders_to_itself(text in r"([^\[]|\[[^\[])*") {
            prop_assert_eq!(rendered(&text, &params()), Ok(text));
        }

        #[test]
        fn a_parameter_renders_to_its_value(value in any::<String>()) {
            let params = BTreeMap::from([("v".to_owned(), value.clone())]);
            prop_assert_eq!(rendered("[[.v]]", &params), Ok(value.clone()));
            prop_assert_eq!(rendered("[[range .]][[printf \"%s\" .]][[end]]", &params), Ok(value));
        }

        #[test]
        fn a_quoted_string_is_a_literal_of_itself(value in any::<String>()) {
            let text = format!("[[{}]]", go_quote(&value));
            prop_assert_eq!(rendered(&text, &params()), Ok(value));
        }
    }
}
