//! The builtin functions: their names, how many arguments they take, and what they return.
//!
//! `and` and `or` are not called: `eval` evaluates their arguments one by one until the result is
//! known.

use std::cmp::Ordering;

use super::{
    MAX_OUTPUT, NO_VALUE,
    ast::Operand,
    escape,
    print::{print, println, show, too_large},
    printf::printf,
    value::{Text, Value},
};
use crate::utf8::to_valid;

/// A function that templates can call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builtin {
    And,
    Call,
    Eq,
    Ge,
    Gt,
    Html,
    Index,
    Js,
    Le,
    Len,
    Lt,
    Ne,
    Not,
    Or,
    Print,
    Printf,
    Println,
    Slice,
    Urlquery,
}

/// How many arguments a function takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arity {
    Exactly(usize),
    AtLeast(usize),
}

const ALL: [(Builtin, &str, Arity); 19] = [
    (Builtin::And, "and", Arity::AtLeast(1)),
    (Builtin::Call, "call", Arity::AtLeast(1)),
    (Builtin::Eq, "eq", Arity::AtLeast(1)),
    (Builtin::Ge, "ge", Arity::Exactly(2)),
    (Builtin::Gt, "gt", Arity::Exactly(2)),
    (Builtin::Html, "html", Arity::AtLeast(0)),
    (Builtin::Index, "index", Arity::AtLeast(1)),
    (Builtin::Js, "js", Arity::AtLeast(0)),
    (Builtin::Le, "le", Arity::Exactly(2)),
    (Builtin::Len, "len", Arity::Exactly(1)),
    (Builtin::Lt, "lt", Arity::Exactly(2)),
    (Builtin::Ne, "ne", Arity::Exactly(2)),
    (Builtin::Not, "not", Arity::Exactly(1)),
    (Builtin::Or, "or", Arity::AtLeast(1)),
    (Builtin::Print, "print", Arity::AtLeast(0)),
    (Builtin::Printf, "printf", Arity::AtLeast(1)),
    (Builtin::Println, "println", Arity::AtLeast(0)),
    (Builtin::Slice, "slice", Arity::AtLeast(1)),
    (Builtin::Urlquery, "urlquery", Arity::AtLeast(0)),
];

/// What a function returns; the error is its reason only.
pub(super) type Returned<'a> = Result<Value<'a>, String>;

const BAD_COMPARISON: &str = "invalid type for comparison";

impl Builtin {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        ALL.iter()
            .find(|(_, known, _)| *known == name)
            .map(|(builtin, ..)| *builtin)
    }

    pub(super) fn name(self) -> &'static str {
        ALL[self as usize].1
    }

    pub(super) fn arity(self) -> Arity {
        ALL[self as usize].2
    }

    /// Calls the function. `args` are as many as its arity asks for; the format of `printf` is a
    /// string.
    pub(super) fn call<'a>(self, args: &[Value<'a>]) -> Returned<'a> {
        match (self, args) {
            (Self::Eq, [first, rest @ ..]) => eq(first, rest).map(Value::Bool),
            (Self::Ne, [first, rest @ ..]) => eq(first, rest).map(|equal| Value::Bool(!equal)),
            (Self::Lt, [a, b]) => lt(a, b).map(Value::Bool),
            (Self::Le, [a, b]) => le(a, b).map(Value::Bool),
            (Self::Gt, [a, b]) => le(a, b).map(|le| Value::Bool(!le)),
            (Self::Ge, [a, b]) => lt(a, b).map(|lt| Value::Bool(!lt)),
            (Self::Not, [value]) => Ok(Value::Bool(!value.is_true())),
            (Self::Len, [value]) => len(value),
            (Self::Index, [item, indexes @ ..]) => index(item, indexes),
            (Self::Slice, [item, indexes @ ..]) => slice(item, indexes),
            (Self::Printf, [Value::Text(format), rest @ ..]) => {
                printf(format, rest).map(Value::built)
            }
            (Self::Print, _) => print(args).map(Value::built),
            (Self::Println, _) => println(args).map(Value::built),
            (Self::Html, _) => escape_with(escape::html, args),
            (Self::Js, _) => escape_with(escape::js, args),
            (Self::Urlquery, _) => escape_with(escape::urlquery, args),
            _ => Err(format!(
                "cannot call {} with {} arguments",
                self.name(),
                args.len()
            )),
        }
    }
}

/// Why `call` fails, as it must: no value here is a function. Names the value by its source, or by
/// what it is.
pub(super) fn not_callable(source: Option<&Operand>, value: Option<&Value<'_>>) -> String {
    let value = match value {
        None | Some(Value::Nil) => return "call of nil".to_owned(),
        Some(value) => value,
    };
    let name = match (source, value) {
        (Some(source), _) => source.to_string(),
        (None, Value::Text(text)) => to_valid(text).into_owned(),
        (None, _) => format!("<{} Value>", value.type_name()),
    };
    format!("non-function {name} of type {}", value.type_name())
}

/// Escapes the text that `print` makes of the arguments, where nothing is shown as `<no value>`.
fn escape_with<'a>(escape: fn(&[u8]) -> Vec<u8>, args: &[Value<'a>]) -> Returned<'a> {
    let shown = |arg: &Value<'a>| {
        if let Value::Nil = arg {
            Value::lent(NO_VALUE)
        } else {
            arg.clone()
        }
    };
    let args: Vec<_> = args.iter().map(shown).collect();
    let escaped = match &args[..] {
        [Value::Text(text)] => escape(text),
        _ => escape(&print(&args)?),
    };
    if escaped.len() > MAX_OUTPUT {
        return Err(too_large());
    }
    Ok(Value::built(escaped))
}

/// Whether the first value equals one of the others.
fn eq(first: &Value<'_>, others: &[Value<'_>]) -> Result<bool, String> {
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        if equal(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(a: &Value<'_>, b: &Value<'_>) -> Result<bool, String> {
    match (a, b) {
        (Value::Nil, Value::Nil) => Ok(true),
        (Value::Nil, _) | (_, Value::Nil) => Ok(false),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Params(_), Value::Params(_)) => Err(format!(
            "non-comparable type {}: {}",
            show(b),
            b.type_name()
        )),
        _ => Ok(order(a, b)? == Some(Ordering::Equal)),
    }
}

fn lt(a: &Value<'_>, b: &Value<'_>) -> Result<bool, String> {
    let has_kind = |value: &Value<'_>| !matches!(value, Value::Nil | Value::Params(_));
    if !has_kind(a) || !has_kind(b) || matches!((a, b), (Value::Bool(_), Value::Bool(_))) {
        return Err(BAD_COMPARISON.to_owned());
    }
    Ok(order(a, b)? == Some(Ordering::Less))
}

fn le(a: &Value<'_>, b: &Value<'_>) -> Result<bool, String> {
    Ok(lt(a, b)? || equal(a, b)?)
}

/// Compares numbers of one kind, or strings.
fn order(a: &Value<'_>, b: &Value<'_>) -> Result<Option<Ordering>, String> {
    if let (Some(a), Some(b)) = (integer(a), integer(b)) {
        return Ok(Some(a.cmp(&b)));
    }
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(Some(a.cmp(b))),
        _ => Err(format!(
            "incompatible types for comparison: {} and {}",
            a.type_name(),
            b.type_name()
        )),
    }
}

fn integer(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Int(int) => Some(*int),
        Value::Byte(byte) => Some(i64::from(*byte)),
        _ => None,
    }
}

fn len<'a>(value: &Value<'a>) -> Returned<'a> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::Params(params) => params.len(),
        Value::Nil => return Err("reflect: call of reflect.Value.Type on zero Value".to_owned()),
        _ => return Err(format!("len of type {}", value.type_name())),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

/// Steps into a map or a string, index by index.
fn index<'a>(item: &Value<'a>, indexes: &[Value<'a>]) -> Returned<'a> {
    if let Value::Nil = item {
        return Err("index of untyped nil".to_owned());
    }
    indexes
        .iter()
        .try_fold(item.clone(), |item, index| index_once(&item, index))
}

fn index_once<'a>(item: &Value<'a>, index: &Value<'a>) -> Returned<'a> {
    match (item, index) {
        (Value::Text(text), _) => {
            let at = position(index, text.len())?;
            let byte = text.get(at).ok_or("reflect: string index out of range")?;
            Ok(Value::Byte(*byte))
        }
        (Value::Params(params), Value::Text(key)) => {
            let value = std::str::from_utf8(key)
                .ok()
                .and_then(|key| Value::of_key(params, key));
            Ok(value.unwrap_or(Value::lent(b"")))
        }
        (Value::Params(_), Value::Nil) => Err("value is nil; should be of type string".to_owned()),
        (Value::Params(_), _) => Err(format!(
            "value has type {}; should be string",
            index.type_name()
        )),
        _ => Err(format!("can't index item of type {}", item.type_name())),
    }
}

/// An index into something of a length; the length itself is one.
fn position(index: &Value<'_>, length: usize) -> Result<usize, String> {
    let index = match (integer(index), index) {
        (Some(index), _) => index,
        (None, Value::Nil) => return Err("cannot index slice/array with nil".to_owned()),
        (None, _) => {
            return Err(format!(
                "cannot index slice/array with type {}",
                index.type_name()
            ));
        }
    };
    let found = usize::try_from(index).ok().filter(|&at| at <= length);
    found.ok_or_else(|| format!("index out of range: {index}"))
}

fn slice<'a>(item: &Value<'a>, indexes: &[Value<'a>]) -> Returned<'a> {
    match (item, indexes.len()) {
        (Value::Nil, _) => Err("slice of untyped nil".to_owned()),
        (_, count @ 4..) => Err(format!("too many slice indexes: {count}")),
        (Value::Text(_), 3) => Err("cannot 3-index slice a string".to_owned()),
        (Value::Text(text), _) => slice_text(text, indexes),
        _ => Err(format!("can't slice item of type {}", item.type_name())),
    }
}

fn slice_text<'a>(text: &Text<'a>, indexes: &[Value<'a>]) -> Returned<'a> {
    let mut bounds = [0, text.len()];
    for (bound, index) in bounds.iter_mut().zip(indexes) {
        *bound = position(index, text.len())?;
    }
    let [from, to] = bounds;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(Value::Text(text.slice(from..to)))
}
