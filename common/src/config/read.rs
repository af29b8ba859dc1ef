//! From a tree of values to a typed configuration: a serde deserializer that knows where every
//! value came from.
//!
//! The wanted type decides what a scalar means. `yes` is a boolean where one is wanted and a string
//! where a string is; text of the environment is a number where one is wanted, and a list (`a, b`)
//! where a list is.
//!
//! A null in a struct's field is the same as no such field; a null where a map or list is wanted is
//! an empty one.

mod access;
mod error;

use std::cell::RefCell;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, Unexpected,
    Visitor,
};
use serde_json::Number;

use self::access::{Entries, Items, Variant};
use self::error::Fault;
use super::error::{ConfigError, UnknownKey};
use super::key::{Key, Secrets};
use super::node::{Entry, Kind, Node};
use crate::number;

/// Reads `tree` into a `T`, and tells which keys no type asked for.
///
/// Unknown keys are seen where the type is a struct without `#[serde(flatten)]`; a map takes any
/// key.
pub(super) fn read<T: DeserializeOwned>(
    tree: &Node,
    secrets: &Secrets,
) -> Result<(T, Vec<UnknownKey>), ConfigError> {
    let unknown = RefCell::new(Vec::new());
    let key = Key::default();
    let reader = Reader {
        node: tree,
        key: &key,
        secrets,
        unknown: &unknown,
    };
    let value = T::deserialize(reader).map_err(|fault| fault.located(&reader).into_error())?;
    let mut unknown = unknown.into_inner();
    // The tree has the order of the lowest layer; a reader goes through the file from the top.
    unknown.sort_by_key(|unknown| unknown.origin.line());
    Ok((value, unknown))
}

/// A place in the tree that is being read.
#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    key: &'a Key,
    secrets: &'a Secrets,
    unknown: &'a RefCell<Vec<UnknownKey>>,
}

impl<'a> Reader<'a> {
    /// Reads what lies one segment below; a fault found there is told with that place.
    fn below<'de, S: DeserializeSeed<'de>>(
        self,
        segment: &str,
        node: &Node,
        seed: S,
    ) -> Result<S::Value, Fault> {
        let key = self.key.join(segment);
        let reader = Reader {
            node,
            key: &key,
            secrets: self.secrets,
            unknown: self.unknown,
        };
        seed.deserialize(reader)
            .map_err(|fault| fault.located(&reader))
    }

    /// What to tell about a value of the wrong kind.
    fn unexpected(&self) -> Unexpected<'a> {
        match &self.node.kind {
            Kind::Null => Unexpected::Other("nothing"),
            Kind::Bool(value, _) => Unexpected::Bool(*value),
            Kind::Number(number, _) => number
                .as_f64()
                .map_or(Unexpected::Other("a number"), Unexpected::Float),
            Kind::Str(text) | Kind::Text(text) => Unexpected::Str(text),
            Kind::Seq(_) => Unexpected::Seq,
            Kind::Map(_) => Unexpected::Map,
        }
    }

    fn wrong<'de, V: Visitor<'de>>(&self, visitor: &V) -> Fault {
        Fault::invalid_type(self.unexpected(), visitor)
    }

    /// The text of a scalar, as it is spelled.
    fn text(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Str(text) | Kind::Text(text) => Some(text),
            Kind::Bool(_, spelling) | Kind::Number(_, spelling) => spelling.as_deref(),
            Kind::Null | Kind::Seq(_) | Kind::Map(_) => None,
        }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V, whole: bool) -> Result<V::Value, Fault> {
        let parsed;
        let number = match &self.node.kind {
            Kind::Number(number, _) => number,
            Kind::Text(text) => {
                parsed = parse_number(text.trim()).ok_or_else(|| self.wrong(&visitor))?;
                &parsed
            }
            _ => return Err(self.wrong(&visitor)),
        };
        visit_number(number, visitor, whole)
    }

    fn entries(&self) -> Option<&'a [Entry]> {
        match &self.node.kind {
            Kind::Map(entries) => Some(entries),
            Kind::Null => Some(&[]),
            _ => None,
        }
    }
}

fn parse_number(text: &str) -> Option<Number> {
    let whole = text
        .parse::<u64>()
        .map(Number::from)
        .or_else(|_| text.parse::<i64>().map(Number::from));
    whole.ok().or_else(|| Number::from_f64(text.parse().ok()?))
}

/// Hands a number over. A whole one may be spelled with a point or an exponent (`1e3`).
fn visit_number<'de, V: Visitor<'de>>(
    number: &Number,
    visitor: V,
    whole: bool,
) -> Result<V::Value, Fault> {
    if let Some(value) = number.as_u64() {
        visitor.visit_u64(value)
    } else if let Some(value) = number.as_i64() {
        visitor.visit_i64(value)
    } else {
        let value = number.as_f64().unwrap_or(f64::NAN);
        match number::whole(value).filter(|_| whole) {
            Some(value) => visitor.visit_i64(value),
            None => visitor.visit_f64(value),
        }
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" => Some(true),
        "false" | "no" | "off" | "n" | "0" => Some(false),
        _ => None,
    }
}

macro_rules! numbers {
    ($whole:literal: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.number(visitor, $whole)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    numbers!(true: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);
    numbers!(true: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    numbers!(false: deserialize_f32 deserialize_f64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value, _) => visitor.visit_bool(*value),
            Kind::Number(number, _) => visit_number(number, visitor, false),
            Kind::Str(text) | Kind::Text(text) => visitor.visit_str(text),
            Kind::Seq(_) => self.deserialize_seq(visitor),
            Kind::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Bool(value, _) => visitor.visit_bool(*value),
            Kind::Text(text) => match parse_bool(text) {
                Some(value) => visitor.visit_bool(value),
                None => Err(self.wrong(&visitor)),
            },
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.text() {
            Some(text) => visitor.visit_str(text),
            None => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.kind {
            Kind::Seq(_) => self.deserialize_seq(visitor),
            _ => self.deserialize_str(visitor),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.kind {
            Kind::Null => visitor.visit_unit(),
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Null => visitor.visit_seq(Items::new(self, &[])),
            Kind::Seq(items) => visitor.visit_seq(Items::new(self, items)),
            Kind::Text(text) => {
                let words = text
                    .split(',')
                    .map(str::trim)
                    .filter(|word| !word.is_empty());
                let item =
                    |word: &str| Node::new(Kind::Text(word.to_owned()), self.node.origin.clone());
                let items: Vec<Node> = words.map(item).collect();
                visitor.visit_seq(Items::new(self, &items))
            }
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let entries = self.entries().ok_or_else(|| self.wrong(&visitor))?;
        visitor.visit_map(Entries::new(self, entries, None))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let entries = self.entries().ok_or_else(|| self.wrong(&visitor))?;
        visitor.visit_map(Entries::new(self, entries, Some(fields)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Map(entries) if entries.len() == 1 => visitor.visit_enum(Variant {
                reader: self,
                entry: &entries[0],
            }),
            Kind::Map(_) => Err(Fault::custom(
                "expected a map with one key, which names the variant",
            )),
            _ => match self.text() {
                Some(name) => visitor.visit_enum(name.into_deserializer()),
                None => Err(self.wrong(&visitor)),
            },
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}
