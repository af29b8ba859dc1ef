//! What serde says about a value, in words that fit a configuration file, with the place where it
//! was found.

use std::fmt;

use serde::de::{Error, Expected, Unexpected};

use super::super::error::ConfigError;
use super::super::origin::Origin;
use super::super::suggest;
use super::Reader;

/// A value that cannot be read; it learns its place from the innermost reader that it passes.
#[derive(Debug)]
pub(super) struct Fault {
    message: String,
    place: Option<(String, Origin)>,
}

impl Fault {
    fn new(message: String) -> Self {
        Self {
            message,
            place: None,
        }
    }

    /// Names the place, unless it has one. What is wrong with a secret is not told, as that could
    /// quote it.
    pub(super) fn located(mut self, reader: &Reader<'_>) -> Self {
        if self.place.is_none() {
            if reader.secrets.cover(reader.key) {
                "the value does not fit (it is secret and not shown)".clone_into(&mut self.message);
            }
            self.place = Some((reader.key.to_string(), reader.node.origin.clone()));
        }
        self
    }

    pub(super) fn into_error(self) -> ConfigError {
        let (key, origin) = self.place.unwrap_or((String::new(), Origin::Default));
        ConfigError::Invalid {
            key,
            origin,
            message: self.message,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!(
            "expected {}, found {}",
            wanted(expected),
            seen(found)
        ))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::new(format!(
            "expected {}, found {length} items",
            wanted(expected)
        ))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        let meant = suggest::nearest(variant, known.iter().copied());
        let meant = meant
            .map(|name| format!(" (did you mean `{name}`?)"))
            .unwrap_or_default();
        Self::new(format!(
            "expected one of {}, found `{variant}`{meant}",
            known.join(", ")
        ))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("`{field}` is required"))
    }
}

/// serde names Rust types; a user wants to know what to write.
fn wanted(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    let below = |largest: u64| format!("a whole number from 0 to {largest}");
    match text.as_str() {
        "u8" => below(u8::MAX.into()),
        "u16" => below(u16::MAX.into()),
        "u32" => below(u32::MAX.into()),
        "u64" | "usize" => "a whole number, not negative".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "unit" => "nothing".to_owned(),
        _ if text.starts_with("struct ") => "a map of keys".to_owned(),
        _ if text.starts_with("enum ") || text.starts_with("variant ") => "a name".to_owned(),
        _ => text,
    }
}

fn seen(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        Unexpected::Float(value) => format!("`{value}`"),
        Unexpected::Str(text) => format!("the text `{text}`"),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        Unexpected::Other(text) => text.to_owned(),
        other => other.to_string(),
    }
}
