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
//! The `cel` crate parses and evaluates. What it lacks is written here: a type checker, cel-go's limits, Go's regular
//! expressions, conversions and JSON. Known differences to cel-go remain in three places: protobuf messages cannot be
//! constructed, the keys of a map literal are strings, integers or bools, as the language definition has it, and
//! `double('0x1p-2')` is an error.

mod check;
mod error;
mod eval;
mod functions;
mod json;
mod lower;
mod numbers;
mod parse;
mod pattern;
mod scan;
mod stdlib;
mod time;
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
/// For the differential harness.
pub fn probe(
    env: &str,
    text: &str,
    inputs: &[String],
) -> Result<(String, Vec<Result<cel::Value, String>>), ExprError> {
    let r = eval::on_large_stack(|| {
        let parsed = parse::parse(text)?;
        let variable = if env == "v" {
            check::Variable::Value
        } else {
            check::Variable::Output
        };
        let t = check::check(&parsed, variable)?;
        Ok((eval::Program::new(parsed.tree), t.to_string()))
    })
    .unwrap();
    let (program, t) = r.map_err(|issues| ExprError::new(text, issues))?;
    let mut out = Vec::new();
    for input in inputs {
        out.push(program.probe_raw(env, input));
    }
    Ok((t, out))
}
