//! The values that an expression can have: those that a map of strings, literals and the builtin
//! functions give.

use std::{
    collections::BTreeMap,
    ops::{Deref, Range},
};

use bytes::Bytes;

/// The data of a template.
pub(super) type Params = BTreeMap<String, String>;

/// A value while a template runs.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// Nothing: a missing key, or `nil`.
    Nil,
    Bool(bool),
    /// Go's `int`.
    Int(i64),
    /// Go's `uint8`, what indexing a string gives.
    Byte(u8),
    /// Go's `float64`.
    Float(f64),
    Text(Text<'a>),
    /// Go's `map[string]string`.
    Params(&'a Params),
}

impl<'a> Value<'a> {
    /// A string that was built while the template ran.
    pub(super) fn built(text: Vec<u8>) -> Self {
        Self::Text(Text::Built(text.into()))
    }

    /// A string that outlives the run.
    pub(super) fn lent(text: &'a [u8]) -> Self {
        Self::Text(Text::Lent(text))
    }

    /// The value under a key, or nothing.
    pub(super) fn of_key(params: &'a Params, key: &str) -> Option<Self> {
        params.get(key).map(|value| Self::lent(value.as_bytes()))
    }

    /// Whether `if` takes the first branch: not for nothing, zero, and what is empty.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Byte(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(value) => !value.is_empty(),
            Self::Params(value) => !value.is_empty(),
        }
    }

    /// Go's name for the type of the value.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Byte(_) => "uint8",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::Params(_) => "map[string]string",
        }
    }

    /// How many bytes of text the value holds.
    pub(super) fn weight(&self) -> usize {
        if let Self::Text(text) = self {
            text.len()
        } else {
            0
        }
    }
}

/// A string. Copies and slices share the bytes, which need not be UTF-8.
#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    /// From the template or its parameters.
    Lent(&'a [u8]),
    /// From a function.
    Built(Bytes),
}

impl Text<'_> {
    /// A part of the string; the range must lie in it.
    pub(super) fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Lent(text) => Self::Lent(&text[range]),
            Self::Built(text) => Self::Built(text.slice(range)),
        }
    }
}

impl Deref for Text<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Lent(text) => text,
            Self::Built(text) => text,
        }
    }
}
