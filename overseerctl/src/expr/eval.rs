//! Running an expression: its variables, its result in Go's words, and the stack it needs.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::{io, thread};

use cel::common::ast::{Expr, IdedExpr};
use cel::common::types::{CelBool, CelMap, CelMapKey, CelString, Kind};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, ExecutionError, Value};

use super::functions::{ADD, ENVIRONMENT};
use super::json;
use super::lower::{lower, pattern};
use super::pattern::Pattern;
use super::walk::depth;

/// The deepest tree that is run on the caller's stack. A level takes about 1.5 KiB of it in a release build and
/// 40 KiB in a debug build, of the 2 MiB that threads usually have.
const DEEPEST_INLINE: usize = if cfg!(debug_assertions) { 16 } else { 160 };

/// The stack of [`on_large_stack`]: address space, of which only what is touched takes memory.
const LARGE_STACK: usize = if cfg!(debug_assertions) {
    256 << 20
} else {
    16 << 20
};

/// Does `work` on a thread with a stack for the deepest expression that is allowed, and waits for it.
pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("cel".to_owned())
            .stack_size(LARGE_STACK)
            .spawn_scoped(scope, work)?;
        Ok(worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// An expression ready to run, as often and on as many threads as wanted.
#[derive(Debug)]
pub(super) struct Program {
    tree: IdedExpr,
    patterns: Vec<Pattern>,
    depth: usize,
}

impl Program {
    /// Prepares a tree that has passed its check.
    pub(super) fn new(mut tree: IdedExpr) -> Self {
        let patterns = lower(&mut tree);
        let depth = depth(&tree);
        Self {
            tree,
            patterns,
            depth,
        }
    }

    /// Whether the expression holds for a parameter's `value`; an error in Go's words if there is no saying.
    pub(super) fn check(&self, value: &str) -> Result<bool, String> {
        let variables = Parameter {
            value: CelString::from(value),
            patterns: &self.patterns,
        };
        self.run(&variables, |result| match result {
            Ok(value) => match value.downcast_ref::<CelBool>() {
                Some(answer) => Ok(**answer),
                None => Err(format!(
                    "CEL expression did not evaluate to bool (got {})",
                    go_type(&self.tree, value)
                )),
            },
            Err(error) => Err(format!("CEL eval error: {}", go_text(error))),
        })
        .unwrap_or_else(|error| Err(format!("CEL eval error: {error}")))
    }

    /// Whether the expression holds for a line of output; no, if it fails or yields anything but a bool.
    pub(super) fn keep(&self, stream: &str, line: &str) -> bool {
        let variables = Output {
            stream: CelString::from(stream),
            data: CelString::from(line),
            json: OnceLock::new(),
            line,
            patterns: &self.patterns,
        };
        let holds = |value: &dyn Val| {
            value
                .downcast_ref::<CelBool>()
                .is_some_and(|answer| **answer)
        };
        self.run(&variables, |result| result.is_ok_and(holds))
            .unwrap_or(false)
    }

    /// Runs the expression and has `read` look at what comes out. Fails if there is no stack to run it on.
    fn run<T: Send>(
        &self,
        variables: &dyn VariableResolver,
        read: impl FnOnce(Result<&dyn Val, &ExecutionError>) -> T + Send,
    ) -> io::Result<T> {
        let evaluate = || {
            let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
            context.set_variable_resolver(variables);
            match Value::resolve_val(&self.tree, &context) {
                Ok(value) => read(Ok(value.as_ref())),
                Err(error) => read(Err(&error)),
            }
        };
        if self.depth <= DEEPEST_INLINE {
            Ok(evaluate())
        } else {
            on_large_stack(evaluate)
        }
    }
}

/// What an expression about a parameter can refer to: `value`.
struct Parameter<'a> {
    value: CelString<'a>,
    patterns: &'a [Pattern],
}

impl VariableResolver for Parameter<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        match name {
            "value" => Some(CowVal::Borrowed(&self.value)),
            _ => pattern(self.patterns, name).map(|found| CowVal::Borrowed(found as &dyn Val)),
        }
    }
}

/// What an expression about a line of output can refer to: `output`, of which each part is made when it is asked for.
struct Output<'a> {
    stream: CelString<'a>,
    data: CelString<'a>,
    json: OnceLock<CelMap<'a>>,
    line: &'a str,
    patterns: &'a [Pattern],
}

/// The evaluator asks for the longest name first: `output.json.level`, then `output.json`.
impl VariableResolver for Output<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        Some(match name {
            "output.data" => CowVal::Borrowed(&self.data),
            "output.stream" => CowVal::Borrowed(&self.stream),
            "output.json" => CowVal::Borrowed(self.json.get_or_init(|| json::object(self.line))),
            "output" => CowVal::owned(self.whole()),
            _ => CowVal::Borrowed(pattern(self.patterns, name)?),
        })
    }
}

impl<'a> Output<'a> {
    fn whole(&self) -> CelMap<'a> {
        let parts: [(&'static str, Box<dyn Val + 'a>); 3] = [
            ("data", Box::new(self.data.clone())),
            ("json", Box::new(json::object(self.line))),
            ("stream", Box::new(self.stream.clone())),
        ];
        CelMap::from(HashMap::from(
            parts.map(|(name, part)| (CelMapKey::from(name), part)),
        ))
    }
}

/// The name that Go has for the type of the value that cel-go holds `value` in.
fn go_type(tree: &IdedExpr, value: &dyn Val) -> &'static str {
    match value.get_type().kind() {
        Kind::Boolean => "bool",
        Kind::Bytes => "[]uint8",
        Kind::Double => "float64",
        Kind::Duration => "time.Duration",
        Kind::Int => "int64",
        Kind::UInt => "uint64",
        // lists put together are held differently from lists written down
        Kind::List if matches!(&tree.expr, Expr::Call(call) if call.func_name == ADD) => {
            "[]interface {}"
        }
        Kind::List => "[]ref.Val",
        Kind::Map => "map[ref.Val]ref.Val",
        Kind::NullType => "structpb.NullValue",
        Kind::Timestamp => "time.Time",
        // strings, and types as values, which cel-go holds by name
        _ => "string",
    }
}

/// The error in the words of cel-go.
fn go_text(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::Overflow(_, Value::UInt(_), _) => "unsigned integer overflow".to_owned(),
        ExecutionError::Overflow(_, Value::Timestamp(_), Value::Duration(_))
        | ExecutionError::Overflow(_, Value::Duration(_), Value::Timestamp(_)) => {
            "timestamp overflow".to_owned()
        }
        ExecutionError::Overflow(..) => "integer overflow".to_owned(),
        ExecutionError::IndexOutOfBounds(Value::Int(index)) => {
            format!("index out of bounds: {index}")
        }
        ExecutionError::FunctionError { message, .. } => message.clone(),
        ExecutionError::NoSuchOverload(call) => match call.function() {
            "contains" | "startsWith" | "endsWith" => "no such overload".to_owned(),
            operator if !operator.starts_with(char::is_alphabetic) => "no such overload".to_owned(),
            function @ ("size" | "matches") => format!("no such overload: {function}"),
            function => format!(
                "no such overload: {function}({})",
                call.argument_types().join(", ")
            ),
        },
        ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::ValuesNotComparable(..)
        | ExecutionError::UnexpectedType { .. } => "no such overload".to_owned(),
        other => other.to_string(),
    }
}
