//! The CEL expressions of a configuration: `validate` of a parameter, and `condition` of an output stream.
//!
//! Only what an expression means is here; which parameter or stream it belongs to, and what follows from its
//! answer, is the business of the action that owns it.
//!
//! The expressions are those of sticky-overseer v2, which runs them on cel-go 0.27 with the standard library, the
//! standard macros and no extensions. They are accepted, refused and answered here as they are there:
//!
//! ```text
//! text ──parse──▶ tree ──check──▶ tree ──lower──▶ program ──eval──▶ bool
//!        limits,          types,          cel-go's          variables
//!        syntax           names           functions
//! ```
//!
//! The `cel` crate parses and evaluates. What it lacks is written here: a type checker, cel-go's limits, and the
//! functions in which it differs, with Go's regular expressions, conversions and JSON.
//!
//! Known differences to cel-go: protobuf messages cannot be constructed, the keys of a map literal are strings,
//! integers or bools (as the language definition has it), hexadecimal doubles and zones 24 hours off are not read, and
//! a line of JSON nests 256 deep at most.

mod calendar;
mod check;
mod dialect;
mod error;
mod eval;
#[cfg(test)]
mod facts;
mod functions;
mod json;
mod lower;
mod numbers;
mod parse;
mod pattern;
mod problem;
mod scan;
mod stdlib;
mod types;
mod walk;

use check::Variable;
pub use error::{ExprError, Issue};
use eval::{Program, on_large_stack};

/// A compiled `validate` expression: decides whether the value of a parameter is acceptable.
///
/// The value is the variable `value`, a string.
#[derive(Debug)]
pub struct Validator {
    /// Nothing for the empty expression, which accepts every value.
    program: Option<Program>,
}

impl Validator {
    /// Compiles `expression`. The empty expression is allowed and accepts everything.
    ///
    /// As in the original, the expression need not be a bool; if it is something else, every check fails.
    pub fn compile(expression: &str) -> Result<Self, ExprError> {
        Ok(Self {
            program: compile(expression, Variable::Value)?,
        })
    }

    /// Whether `value` is acceptable. An expression that fails on it, or does not yield a bool, gives the text that
    /// the original sends to its clients: `CEL eval error: …` or `CEL expression did not evaluate to bool (got …)`.
    pub fn check(&self, value: &str) -> Result<bool, String> {
        self.program
            .as_ref()
            .map_or(Ok(true), |program| program.check(value))
    }
}

/// A compiled `condition` expression: decides which lines of an output stream are forwarded.
///
/// The line is the variable `output`, a map: `output.stream` is `stdout` or `stderr`, `output.data` the line, and
/// `output.json` the map that the line holds as a JSON object, all numbers being doubles; it is empty for lines that
/// are no JSON object. The line is decoded only for expressions that ask for it.
#[derive(Debug)]
pub struct OutputFilter {
    /// Nothing for the empty expression, which keeps every line.
    program: Option<Program>,
}

impl OutputFilter {
    /// Compiles `expression`. The empty expression is allowed and keeps everything.
    ///
    /// As in the original, the expression need not be a bool; if it is something else, no line is kept.
    pub fn compile(expression: &str) -> Result<Self, ExprError> {
        Ok(Self {
            program: compile(expression, Variable::Output)?,
        })
    }

    /// Whether to forward a line of `stream`. A line on which the expression fails, or yields no bool, is dropped.
    pub fn keep(&self, stream: &str, line: &str) -> bool {
        self.program
            .as_ref()
            .is_none_or(|program| program.keep(stream, line))
    }
}

/// Parses and checks on a stack that is large enough for everything that the limits allow.
fn compile(expression: &str, variable: Variable) -> Result<Option<Program>, ExprError> {
    if expression.is_empty() {
        return Ok(None);
    }
    let compiled = on_large_stack(|| {
        let parsed = parse::parse(expression)?;
        check::check(&parsed, variable)?;
        Ok(Program::new(parsed.tree))
    });
    match compiled {
        Ok(result) => result
            .map(Some)
            .map_err(|issues| ExprError::new(expression, issues)),
        Err(error) => Err(ExprError::new(
            expression,
            vec![Issue {
                line: 1,
                column: 1,
                message: format!("cannot start a thread to compile on: {error}"),
                hint: "raise the limits on processes and memory (ulimit -u, ulimit -v)".to_owned(),
            }],
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// Runs `work` on a stack of the size that threads usually have.
    fn on_usual_stack(work: impl FnOnce() + Send + 'static) {
        let worker = thread::Builder::new().stack_size(2 << 20).spawn(work);
        worker.unwrap().join().unwrap();
    }

    #[test]
    fn the_empty_expression_accepts_everything() {
        assert_eq!(Validator::compile("").unwrap().check("x"), Ok(true));
        assert!(OutputFilter::compile("").unwrap().keep("stderr", "x"));
        assert!(Validator::compile(" ").is_err());
    }

    #[test]
    fn the_stream_is_known_to_the_filter() {
        let filter = OutputFilter::compile("output.stream == 'stderr'").unwrap();
        assert!(filter.keep("stderr", ""));
        assert!(!filter.keep("stdout", ""));
    }

    #[test]
    fn an_error_names_expression_place_problem_and_way_out() {
        let error = Validator::compile("value > 5").unwrap_err();
        assert_eq!(error.expression(), "value > 5");
        let issue = &error.issues()[0];
        assert_eq!((issue.line, issue.column), (1, 7));
        let problem = "found no matching overload for '_>_' applied to '(string, int)'";
        assert_eq!(issue.message, problem);
        assert_eq!(
            error.hint(),
            "convert one side: int(x), double(x) or string(x)"
        );
        let shown = format!("ERROR: <input>:1:7: {problem}\n | value > 5\n | ......^");
        assert_eq!(error.to_string(), shown);
    }

    #[test]
    fn expressions_are_shared_between_threads() {
        let filter =
            OutputFilter::compile("output.json.n > 5 || output.data.matches('^x')").unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert!(filter.keep("stdout", r#"{"n":6}"#));
                        assert!(!filter.keep("stdout", r#"{"n":5}"#));
                        assert!(filter.keep("stdout", "xyz"));
                    }
                });
            }
        });
    }

    #[test]
    fn the_deepest_expressions_run_on_a_usual_stack() {
        on_usual_stack(|| {
            for text in [
                format!("{}true{}", "(true && ".repeat(240), ")".repeat(240)),
                format!("{}true{}", "[1].all(x, ".repeat(120), ")".repeat(120)),
                format!("1{} > 0", "+1".repeat(240)),
                format!("{}true", "false ? false : ".repeat(240)),
                format!("size({}{}) == 1", "[".repeat(240), "]".repeat(240)),
            ] {
                let validator = Validator::compile(&text).unwrap();
                assert_eq!(validator.check(""), Ok(true), "{text:.40}");
            }
        });
    }

    #[test]
    fn the_deepest_json_is_handled_on_a_usual_stack() {
        on_usual_stack(|| {
            let line = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
            let filter = "output.json == output.json && has(output.json.a)";
            let filter = OutputFilter::compile(filter).unwrap();
            assert!(filter.keep("stdout", &line(200)));
            assert!(!filter.keep("stdout", &line(100_000)));
        });
    }

    /// Texts made of the pieces that expressions are made of.
    fn soup() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            "?",
            ".",
            "+",
            "-",
            "*",
            "/",
            "%",
            "==",
            "<",
            ">=",
            "&&",
            "||",
            "!",
            " in ",
            " ",
            "\n",
            "true",
            "null",
            "1",
            "2u",
            "1.5",
            "'a'",
            "'",
            "\"",
            "r'\\d'",
            "b'x'",
            "'''",
            "//",
            "`",
            "@",
            "value",
            "output",
            "output.json",
            "x",
            "int",
            "size",
            "matches",
            "has",
            ".all(x,",
            ".map(x,",
            ".exists(x,",
            "timestamp",
            "é",
            "\\",
            "[?",
            ".?",
            "0x",
        ]);
        prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
    }

    /// A value without members.
    fn leaf() -> impl Strategy<Value = serde_json::Value> {
        prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ]
    }

    proptest! {
        #[test]
        fn no_text_makes_the_compiler_panic(text in prop_oneof![any::<String>(), soup()]) {
            let results = [
                Validator::compile(&text).map(drop),
                OutputFilter::compile(&text).map(drop),
            ];
            for error in results.into_iter().filter_map(Result::err) {
                prop_assert!(!error.issues().is_empty());
                for issue in error.issues() {
                    let lines = text.split('\n').count();
                    prop_assert!((1..=lines).contains(&issue.line) && issue.column >= 1, "{error}");
                    prop_assert!(!issue.hint.is_empty(), "{error}");
                }
            }
        }

        #[test]
        fn no_value_makes_an_expression_panic(value in any::<String>()) {
            for expression in [
                "value.matches(value)",
                "timestamp(value).getHours(value) > 0",
                "timestamp(0).getHours(value) > 0",
                "duration(value) > duration('1s')",
                "double(value) > 1.0 || int(value) > 1 || uint(value) > 1u",
                "string(bytes(value)) == value && size(value) > 1",
            ] {
                let validator = Validator::compile(expression).unwrap();
                if let Err(error) = validator.check(&value) {
                    prop_assert!(error.starts_with("CEL eval error: "), "{error}");
                }
            }
        }

        #[test]
        fn every_member_of_a_json_line_is_seen(
            members in prop::collection::hash_map(any::<String>(), leaf(), 0..6)
        ) {
            let line = serde_json::to_string(&members).unwrap();
            let condition = format!("size(output.json) == {}", members.len());
            let filter = OutputFilter::compile(&condition).unwrap();
            prop_assert!(filter.keep("stdout", &line), "{line}");
            let condition = "output.json.all(k, k in output.json && output.data.size() > 2)";
            let filter = OutputFilter::compile(condition).unwrap();
            prop_assert!(filter.keep("stdout", &line), "{line}");
        }
    }
}
