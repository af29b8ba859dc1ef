//! Reading JSON generously: a serde deserializer in which the wanted type decides what a value means, as
//! [`runyard_common::config`] does it for files. What the fields are is their types' matter; nothing here knows a name.
//!
//! | where a type wants | this reads too |
//! |---|---|
//! | a field `repo_url` | `repoURL`, `RepoUrl`, `REPO_URL`; of two spellings the exact one wins, else the last |
//! | any field | null, as if it were not there |
//! | a text | a whole number or a boolean; null in a map is the empty text (as in Go) |
//! | a number, a boolean | a text that spells one |
//! | an object, a list | a text that is one in JSON, as some language models write arguments |
//! | a name of a list (`cancel-previous`) | another case, `_` for `-`, or neither |
//!
//! A number with a fraction is no text: JSON does not keep whether `1.10` was written, and `1.1` is another tag.

use std::fmt;

use runyard_common::number;
use serde::{
    de::{
        self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _,
        IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};

/// A JSON value that does not fit, with the dotted path to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LenientError {
    path: Vec<String>,
    message: String,
}

impl LenientError {
    fn below(mut self, segment: impl Into<String>) -> Self {
        self.path.push(segment.into());
        self
    }
}

impl fmt::Display for LenientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.path.iter().rev().enumerate() {
            let joint = if index == 0 { "" } else { "." };
            write!(f, "{joint}{segment}")?;
        }
        let colon = if self.path.is_empty() { "" } else { ": " };
        write!(f, "{colon}{}", self.message)
    }
}

impl std::error::Error for LenientError {}

impl de::Error for LenientError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            path: Vec::new(),
            message: message.to_string(),
        }
    }
}

/// Reads a type out of a value.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, LenientError> {
    T::deserialize(Lenient(value))
}

/// Reads a type out of the text of a JSON value; nothing but white space is an empty object.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, LenientError> {
    if text.trim_ascii().is_empty() {
        return from_value(Value::Object(Map::new()));
    }
    from_value(serde_json::from_slice(text).map_err(LenientError::custom)?)
}

/// A value that is being read.
pub(super) struct Lenient(pub(super) Value);

/// A name without what spellings differ in.
fn bare(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// What serde should say was found.
fn found(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Unexpected::Unsigned(number),
            (None, Some(number)) => Unexpected::Signed(number),
            (None, None) => Unexpected::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

impl Lenient {
    fn wrong<'de, V: Visitor<'de>>(&self, visitor: &V) -> LenientError {
        LenientError::invalid_type(found(&self.0), visitor)
    }

    /// The entries of an object, or of a text that is one.
    fn entries(self) -> Result<Map<String, Value>, Self> {
        match self.0 {
            Value::Object(entries) => Ok(entries),
            Value::Null => Ok(Map::new()),
            Value::String(text) if text.trim_start().starts_with('{') => {
                match serde_json::from_str(&text) {
                    Ok(Value::Object(entries)) => Ok(entries),
                    _ => Err(Self(Value::String(text))),
                }
            }
            other => Err(Self(other)),
        }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
        let spelled = match &self.0 {
            Value::String(text) => serde_json::from_str(text.trim())
                .ok()
                .filter(Value::is_number),
            _ => None,
        };
        whole(spelled.unwrap_or(self.0)).deserialize_any(visitor)
    }
}

/// A whole number that was written with a fraction or an exponent (`1.8e12`) is whole.
fn whole(value: Value) -> Lenient {
    let float = value
        .as_f64()
        .filter(|_| !value.is_i64() && !value.is_u64());
    match float.and_then(number::whole) {
        Some(number) => Lenient(Value::from(number)),
        None => Lenient(value),
    }
}

/// The entries under the names that a type knows: null ones and unknown ones are gone, and no name is there twice.
fn known(entries: Map<String, Value>, fields: &'static [&'static str]) -> Vec<(String, Value)> {
    let mut chosen: Vec<(&'static str, bool, Value)> = Vec::new();
    for (name, value) in entries.into_iter().filter(|(_, value)| !value.is_null()) {
        let exact = fields.iter().find(|field| **field == name);
        let close = || fields.iter().find(|field| bare(field) == bare(&name));
        let Some(field) = exact.or_else(close) else {
            continue;
        };
        match chosen.iter_mut().find(|(known, _, _)| known == field) {
            Some((_, was_exact, _)) if *was_exact && exact.is_none() => {}
            Some(slot) => *slot = (*field, exact.is_some(), value),
            None => chosen.push((*field, exact.is_some(), value)),
        }
    }
    chosen
        .into_iter()
        .map(|(field, _, value)| (field.to_owned(), value))
        .collect()
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
            self.number(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = LenientError;

    numbers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);
    numbers!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    numbers!(deserialize_f32 deserialize_f64);
    forward_to_deserialize_any! { char bytes byte_buf unit unit_struct ignored_any }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(Items {
                rest: items.into_iter().enumerate(),
            }),
            Value::Object(entries) => visitor.visit_map(Entries::of(entries)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
        let spelled = self.0.as_str().map(|text| text.trim().to_ascii_lowercase());
        match spelled.as_deref() {
            Some("true" | "yes" | "1") => visitor.visit_bool(true),
            Some("false" | "no" | "0" | "") => visitor.visit_bool(false),
            _ => match self.0.as_u64() {
                Some(number @ (0 | 1)) => visitor.visit_bool(number == 1),
                _ => self.deserialize_any(visitor),
            },
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
        match self.0 {
            Value::Null => visitor.visit_str(""),
            Value::String(text) => visitor.visit_string(text),
            Value::Bool(value) => visitor.visit_string(value.to_string()),
            Value::Number(number) if number.is_i64() || number.is_u64() => {
                visitor.visit_string(number.to_string())
            }
            Value::Number(number) => Err(LenientError::custom(format_args!(
                "`{number}` may be another number than was written: put it in quotes"
            ))),
            other => Err(Self(other).wrong(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, LenientError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
        match self.0 {
            Value::Null => Self(Value::Array(Vec::new())).deserialize_any(visitor),
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(items @ Value::Array(_)) => Self(items).deserialize_any(visitor),
                _ => Self(Value::String(text)).deserialize_any(visitor),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, LenientError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, LenientError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LenientError> {
        match self.entries() {
            Ok(entries) => visitor.visit_map(Entries::of(entries)),
            Err(other) => Err(other.wrong(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, LenientError> {
        match self.entries() {
            Ok(entries) => visitor.visit_map(Entries::of(known(entries, fields))),
            Err(other) => Err(other.wrong(&visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, LenientError> {
        match self.0 {
            Value::String(text) => {
                let meant = variants.iter().find(|name| bare(name) == bare(text.trim()));
                visitor.visit_enum(meant.map_or(text.as_str(), |name| name).into_deserializer())
            }
            Value::Object(entries) if entries.len() == 1 => {
                let (name, value) = entries.into_iter().next().unwrap_or_default();
                visitor.visit_enum(Variant { name, value })
            }
            other => Err(Self(other).wrong(&visitor)),
        }
    }
}

/// The items of a list.
struct Items {
    rest: std::iter::Enumerate<std::vec::IntoIter<Value>>,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = LenientError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, LenientError> {
        let Some((index, item)) = self.rest.next() else {
            return Ok(None);
        };
        let read = seed.deserialize(Lenient(item));
        read.map(Some)
            .map_err(|error| error.below(index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The entries of an object.
struct Entries {
    rest: std::vec::IntoIter<(String, Value)>,
    current: Option<(String, Value)>,
}

impl Entries {
    fn of(entries: impl IntoIterator<Item = (String, Value)>) -> Self {
        let entries: Vec<_> = entries.into_iter().collect();
        Self {
            rest: entries.into_iter(),
            current: None,
        }
    }
}

impl<'de> MapAccess<'de> for Entries {
    type Error = LenientError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, LenientError> {
        let Some((name, value)) = self.rest.next() else {
            return Ok(None);
        };
        let key = seed.deserialize(Lenient(Value::String(name.clone())))?;
        self.current = Some((name, value));
        Ok(Some(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, LenientError> {
        let (name, value) = self
            .current
            .take()
            .ok_or_else(|| LenientError::custom("a value was asked for before its key"))?;
        seed.deserialize(Lenient(value))
            .map_err(|error| error.below(name))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// A variant of an enum that has content: an object of one entry.
struct Variant {
    name: String,
    value: Value,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = LenientError;
    type Variant = Lenient;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Lenient), LenientError> {
        let name: StrDeserializer<'_, LenientError> = self.name.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, Lenient(self.value)))
    }
}

impl<'de> de::VariantAccess<'de> for Lenient {
    type Error = LenientError;

    fn unit_variant(self) -> Result<(), LenientError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, LenientError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, LenientError> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, LenientError> {
        self.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Thing {
        repo_url: String,
        count: i64,
        on: bool,
        below: Option<Box<Self>>,
        names: Vec<String>,
        map: BTreeMap<String, String>,
        kind: Option<Kind>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Kind {
        CancelPrevious,
    }

    fn read(value: Value) -> Thing {
        from_value(value).unwrap()
    }

    #[test]
    fn keys_are_read_in_any_spelling_and_the_exact_one_wins() {
        for key in ["repo_url", "repoURL", "RepoUrl", "REPO_URL", "repo-url"] {
            assert_eq!(read(json!({ key: "x" })).repo_url, "x", "{key}");
        }
        assert_eq!(read(json!({"repo_url": "a", "repoURL": "b"})).repo_url, "a");
        assert_eq!(read(json!({"repoURL": "b", "repo_url": "a"})).repo_url, "a");
        assert_eq!(read(json!({"repoUrl": "a", "REPO_URL": "b"})).repo_url, "b");
        assert_eq!(
            read(json!({"repo_url": null, "repoURL": "b"})).repo_url,
            "b"
        );
    }

    #[test]
    fn values_are_what_the_type_wants() {
        let thing = read(json!({
            "repo_url": 7, "count": "1.8e12", "on": "yes", "below": "{\"count\": 2.0}", "names": "[1]", "extra": {},
            "map": {"a": null, "b": 1, "c": true}, "kind": "cancelPrevious"
        }));
        assert_eq!(thing.repo_url, "7");
        assert_eq!((thing.count, thing.on), (1_800_000_000_000, true));
        assert_eq!(thing.below.unwrap().count, 2);
        assert_eq!(thing.names, ["1"]);
        let map: Vec<_> = thing
            .map
            .into_iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(map, ["a=", "b=1", "c=true"]);
        assert_eq!(thing.kind, Some(Kind::CancelPrevious));
    }

    #[test]
    fn errors_name_the_path() {
        let said = |value| from_value::<Thing>(value).unwrap_err().to_string();
        assert_eq!(
            said(json!({"below": {"names": ["a", []]}})),
            "below.names.1: invalid type: sequence, expected a string"
        );
        assert_eq!(
            said(json!({"repo_url": 1.1})),
            "repo_url: `1.1` may be another number than was written: put it in quotes"
        );
        assert!(said(json!([1])).starts_with("invalid type: sequence"));
        assert!(said(json!({"kind": "never"})).contains("cancel-previous"));
    }

    #[test]
    fn no_text_at_all_is_an_empty_object() {
        assert_eq!(from_slice::<Thing>(b" \n").unwrap(), Thing::default());
        assert!(from_slice::<Thing>(b"{").is_err());
    }
}
