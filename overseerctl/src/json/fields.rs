//! Decoding of an object into a struct, field by field, with the rules of Go's `encoding/json`.
//!
//! A key belongs to a field if it equals the field's name, letter case aside. Where several do, they are assigned in
//! the order of the text:
//!
//! | field | a later occurrence | `null` |
//! |---|---|---|
//! | string, bool, number | replaces | changes nothing |
//! | optional string or number, list | replaces | makes it absent |
//! | map | adds its keys | empties it; inside the map it is the empty string |
//! | struct | merges | changes nothing |
//! | optional struct | merges | makes it absent |
//!
//! A value of the wrong type is remembered, the rest is still decoded, and in the end the first such error of the text
//! is what the caller gets: Go decodes every declared field of a message, whether its type uses it or not.

use std::collections::BTreeMap;

use super::{JsonError, Kind, Member, Place, Value};

/// The members of one object (or of several that are merged), from which a struct is read.
#[derive(Debug)]
pub struct Fields<'a> {
    members: Vec<Member<'a>>,
    /// Go's name of the struct, without its package.
    parent: &'static str,
    /// Names of the fields that lead here, each with a point behind it.
    prefix: String,
    fault: Option<Fault>,
}

/// An error and the place that decides which of several is told.
#[derive(Debug)]
struct Fault {
    /// Whether Go stops right there, instead of going on and reporting in the end. Such an error comes first.
    stops: bool,
    /// Offset of the value.
    at: usize,
    error: JsonError,
}

/// A value is not what its field wants.
struct Mismatch<'a> {
    value: Value<'a>,
    found: String,
    go_type: &'static str,
}

impl<'a> Mismatch<'a> {
    fn new(value: Value<'a>, go_type: &'static str) -> Self {
        Self {
            value,
            found: value.kind().name().to_owned(),
            go_type,
        }
    }

    /// For a number that its type cannot hold; the text of the number is part of the error.
    fn number(value: Value<'a>, number: &str, go_type: &'static str) -> Self {
        Self {
            value,
            found: format!("number {number}"),
            go_type,
        }
    }
}

impl<'a> Fields<'a> {
    /// Decodes the outermost value. `go_type` is Go's name of the struct with its package, such as
    /// `overseer.IncomingMessage`; `read` builds the struct from the fields it declares. `null` reads like `{}`.
    pub fn decode<T>(
        value: Value<'a>,
        go_type: &'static str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, JsonError> {
        if !matches!(value.kind(), Kind::Object | Kind::Null) {
            let found = value.kind().name().to_owned();
            return Err(JsonError::Type {
                found,
                go_type,
                place: None,
            });
        }
        let mut fields = Self::new(value.members().collect(), go_type, String::new());
        let result = read(&mut fields);
        fields.fault.map_or(Ok(result), |fault| Err(fault.error))
    }

    fn new(members: Vec<Member<'a>>, go_type: &'static str, prefix: String) -> Self {
        let parent = go_type.rsplit('.').next().unwrap_or(go_type);
        Self {
            members,
            parent,
            prefix,
            fault: None,
        }
    }

    /// Whether the field occurs with anything but `null`.
    pub fn has(&self, name: &str) -> bool {
        self.members
            .iter()
            .any(|member| is_named(&member.key, name) && !member.value.is_null())
    }

    // === Scalars ===

    /// A string, empty if absent.
    pub fn string(&mut self, name: &'static str) -> String {
        self.named_string(name, "string")
    }

    /// A string of a named Go type, such as `overseer.ExcessAction`; the name shows in errors only.
    pub fn named_string(&mut self, name: &'static str, go_type: &'static str) -> String {
        self.scalar(name, |value| to_string(value, go_type))
            .unwrap_or_default()
    }

    /// A bool, false if absent.
    pub fn bool(&mut self, name: &'static str) -> bool {
        self.scalar(name, to_bool).unwrap_or_default()
    }

    /// A whole number, zero if absent. As in Go neither `1.0` nor `1e3` is one.
    pub fn int(&mut self, name: &'static str) -> i64 {
        self.scalar(name, to_int).unwrap_or_default()
    }

    /// A number with a fraction, zero if absent.
    pub fn float(&mut self, name: &'static str) -> f64 {
        self.scalar(name, to_float).unwrap_or_default()
    }

    /// A string that may be absent, as Go's `*string`.
    pub fn optional_string(&mut self, name: &'static str) -> Option<String> {
        self.optional(name, |value| to_string(value, "string"))
    }

    /// A bool that may be absent, as Go's `*bool`.
    pub fn optional_bool(&mut self, name: &'static str) -> Option<bool> {
        self.optional(name, to_bool)
    }

    /// A whole number that may be absent, as Go's `*int`.
    pub fn optional_int(&mut self, name: &'static str) -> Option<i64> {
        self.optional(name, to_int)
    }

    /// A number with a fraction that may be absent, as Go's `*float64`.
    pub fn optional_float(&mut self, name: &'static str) -> Option<f64> {
        self.optional(name, to_float)
    }

    /// The last occurrence that is not null.
    fn scalar<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(Value<'a>) -> Result<T, Mismatch<'a>>,
    ) -> Option<T> {
        self.assign(name, None, |field, value| {
            if !value.is_null() {
                *field = Some(read(value)?);
            }
            Ok(())
        })
    }

    /// The last occurrence; none if that is null.
    fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(Value<'a>) -> Result<T, Mismatch<'a>>,
    ) -> Option<T> {
        self.assign(name, None, |field, value| {
            *field = if value.is_null() {
                None
            } else {
                Some(read(value)?)
            };
            Ok(())
        })
    }

    // === Collections ===

    /// A map from strings to strings, empty if absent. Its keys are told apart by case.
    pub fn string_map(&mut self, name: &'static str) -> BTreeMap<String, String> {
        self.assign(name, BTreeMap::new(), |map, value| {
            match value.kind() {
                Kind::Null => map.clear(),
                Kind::Object => add_to_map(map, value)?,
                _ => return Err(Mismatch::new(value, "map[string]string")),
            }
            Ok(())
        })
    }

    /// A list of strings, empty if absent. Each occurrence replaces the one before; `null` in it is the empty string.
    pub fn string_list(&mut self, name: &'static str) -> Vec<String> {
        self.list(name, "[]string", |value| to_string(value, "string"))
    }

    /// A list of whole numbers, empty if absent. Each occurrence replaces the one before; `null` in it is zero.
    pub fn int_list(&mut self, name: &'static str) -> Vec<i64> {
        self.list(name, "[]int", to_int)
    }

    fn list<T: Default>(
        &mut self,
        name: &'static str,
        go_type: &'static str,
        read: impl Fn(Value<'a>) -> Result<T, Mismatch<'a>>,
    ) -> Vec<T> {
        self.assign(name, Vec::new(), |list, value| {
            list.clear();
            match value.kind() {
                Kind::Null => return Ok(()),
                Kind::Array => {}
                _ => return Err(Mismatch::new(value, go_type)),
            }
            for element in value.elements() {
                list.push(if element.is_null() {
                    T::default()
                } else {
                    read(element)?
                });
            }
            Ok(())
        })
    }

    // === Structs ===

    /// A struct, read from nothing if absent.
    pub fn object<T>(
        &mut self,
        name: &'static str,
        go_type: &'static str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let members = self.assign(name, Vec::new(), |members, value| match value.kind() {
            Kind::Null => Ok(()),
            Kind::Object => {
                members.extend(value.members());
                Ok(())
            }
            _ => Err(Mismatch::new(value, go_type)),
        });
        self.nested(name, go_type, members, read)
    }

    /// A struct that may be absent, as a Go pointer to one. Parts that a `null` discards are still checked.
    pub fn optional_object<T>(
        &mut self,
        name: &'static str,
        go_type: &'static str,
        mut read: impl FnMut(&mut Self) -> T,
    ) -> Option<T> {
        let mut discarded = Vec::new();
        let members = self.assign(name, None, |members, value| {
            match value.kind() {
                Kind::Null => discarded.extend(members.take()),
                Kind::Object => members.get_or_insert_with(Vec::new).extend(value.members()),
                _ => return Err(Mismatch::new(value, go_type)),
            }
            Ok(())
        });
        for members in discarded {
            self.nested(name, go_type, members, &mut read);
        }
        members.map(|members| self.nested(name, go_type, members, read))
    }

    /// A value with a decoder of its own that may be absent, as a Go pointer to a type with `UnmarshalJSON`.
    ///
    /// `decode` gets each occurrence that is not null, together with what the ones before it made. An error from it
    /// ends the decoding there, so it is told before any type error.
    pub fn optional_custom<T: Default>(
        &mut self,
        name: &'static str,
        mut decode: impl FnMut(&mut T, Value<'a>) -> Result<(), JsonError>,
    ) -> Option<T> {
        let mut failure = None;
        let field = self.assign(name, None, |field, value| {
            if value.is_null() {
                *field = None;
            } else if failure.is_none() {
                failure = decode(field.get_or_insert_with(T::default), value)
                    .err()
                    .map(|error| (error, value.at()));
            }
            Ok(())
        });
        if let Some((error, at)) = failure {
            let error = self.within(name, error);
            self.keep(Fault {
                stops: true,
                at,
                error,
            });
        }
        field
    }

    fn nested<T>(
        &mut self,
        name: &'static str,
        go_type: &'static str,
        members: Vec<Member<'a>>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let mut inner = Self::new(members, go_type, format!("{}{name}.", self.prefix));
        let result = read(&mut inner);
        if let Some(fault) = inner.fault {
            self.keep(fault);
        }
        result
    }

    // === Assignment and errors ===

    /// Assigns every occurrence of a field in order.
    fn assign<T>(
        &mut self,
        name: &'static str,
        initial: T,
        mut put: impl FnMut(&mut T, Value<'a>) -> Result<(), Mismatch<'a>>,
    ) -> T {
        let mut field = initial;
        let mut refused = Vec::new();
        for member in self
            .members
            .iter()
            .filter(|member| is_named(&member.key, name))
        {
            refused.extend(put(&mut field, member.value).err());
        }
        for mismatch in refused {
            self.refuse(name, mismatch);
        }
        field
    }

    fn refuse(&mut self, name: &str, mismatch: Mismatch<'_>) {
        let Mismatch {
            value,
            found,
            go_type,
        } = mismatch;
        let error = self.within(
            name,
            JsonError::Type {
                found,
                go_type,
                place: None,
            },
        );
        self.keep(Fault {
            stops: false,
            at: value.at(),
            error,
        });
    }

    /// Adds this struct and a field of it to the place of a type error.
    fn within(&self, name: &str, error: JsonError) -> JsonError {
        let JsonError::Type {
            found,
            go_type,
            place,
        } = error
        else {
            return error;
        };
        let inner = place
            .map(|place| format!(".{}", place.path))
            .unwrap_or_default();
        let path = format!("{}{name}{inner}", self.prefix);
        JsonError::Type {
            found,
            go_type,
            place: Some(Place {
                parent: self.parent,
                path,
            }),
        }
    }

    /// Keeps the error that Go would report: one that stops it before one that does not, then the first of the text.
    fn keep(&mut self, fault: Fault) {
        let rank = |fault: &Fault| (!fault.stops, fault.at);
        if self
            .fault
            .as_ref()
            .is_none_or(|kept| rank(&fault) < rank(kept))
        {
            self.fault = Some(fault);
        }
    }
}

/// Adds the members of an object to a map, up to the first that is no string.
fn add_to_map<'a>(
    map: &mut BTreeMap<String, String>,
    object: Value<'a>,
) -> Result<(), Mismatch<'a>> {
    for Member { key, value } in object.members() {
        let text = if value.is_null() {
            String::new()
        } else {
            to_string(value, "string")?
        };
        map.insert(key.into_owned(), text);
    }
    Ok(())
}

fn to_string<'a>(value: Value<'a>, go_type: &'static str) -> Result<String, Mismatch<'a>> {
    value
        .as_string()
        .map(Into::into)
        .ok_or_else(|| Mismatch::new(value, go_type))
}

fn to_bool(value: Value<'_>) -> Result<bool, Mismatch<'_>> {
    value.as_bool().ok_or_else(|| Mismatch::new(value, "bool"))
}

fn to_int(value: Value<'_>) -> Result<i64, Mismatch<'_>> {
    let number = value
        .as_number()
        .ok_or_else(|| Mismatch::new(value, "int"))?;
    number
        .parse()
        .map_err(|_| Mismatch::number(value, number, "int"))
}

fn to_float(value: Value<'_>) -> Result<f64, Mismatch<'_>> {
    let number = value
        .as_number()
        .ok_or_else(|| Mismatch::new(value, "float64"))?;
    let parsed: Option<f64> = number.parse().ok();
    parsed
        .filter(|float| float.is_finite())
        .ok_or_else(|| Mismatch::number(value, number, "float64"))
}

/// Whether a key means a field, whose name is ASCII: equal but for the case of letters, by Unicode's simple folding.
/// That adds to the ASCII letters the long s `ſ` and the Kelvin sign `K`, which fold to `s` and `k`.
fn is_named(key: &str, name: &str) -> bool {
    let folded = key.chars().map(|character| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => character.to_ascii_lowercase(),
    });
    folded.eq(name.chars().map(|character| character.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duration::GoDuration;
    use crate::json::first_value;
    use proptest::prelude::*;

    /// One field of each kind, in the shape of a client's message.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Request {
        id: String,
        task_id: String,
        params: BTreeMap<String, String>,
        force: bool,
        limit: i64,
        size: Option<i64>,
        note: Option<String>,
        replace: Option<bool>,
        factor: Option<f64>,
        tags: Vec<String>,
        codes: Vec<i64>,
        pool: Pool,
        excess: Option<Pool>,
        retry: Option<Retry>,
    }

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Pool {
        action: String,
        grace: i64,
    }

    /// Has a decoder of its own: the delay is a text with a meaning.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Retry {
        delay: GoDuration,
        threshold: i64,
    }

    fn pool(fields: &mut Fields<'_>) -> Pool {
        Pool {
            action: fields.named_string("action", "overseer.ExcessAction"),
            grace: fields.int("grace"),
        }
    }

    fn retry(field: &mut Retry, value: Value<'_>) -> Result<(), JsonError> {
        let (delay, threshold) = Fields::decode(value, "overseer.raw", |raw| {
            (raw.string("delay"), raw.int("threshold"))
        })?;
        field.threshold = threshold;
        if !delay.is_empty() {
            field.delay = delay
                .parse()
                .map_err(|error| JsonError::Meaning(format!("{error}")))?;
        }
        Ok(())
    }

    fn request(fields: &mut Fields<'_>) -> Request {
        Request {
            id: fields.string("id"),
            task_id: fields.string("task_id"),
            params: fields.string_map("params"),
            force: fields.bool("force"),
            limit: fields.int("limit"),
            size: fields.optional_int("size"),
            note: fields.optional_string("note"),
            replace: fields.optional_bool("replace"),
            factor: fields.optional_float("factor"),
            tags: fields.string_list("tags"),
            codes: fields.int_list("codes"),
            pool: fields.object("pool", "overseer.Pool", pool),
            excess: fields.optional_object("excess", "overseer.ExcessConfig", pool),
            retry: fields.optional_custom("retry", retry),
        }
    }

    fn decode(frame: &str) -> Result<Request, JsonError> {
        Fields::decode(
            first_value(frame.as_bytes())?,
            "overseer.IncomingMessage",
            request,
        )
    }

    fn read(frame: &str) -> Request {
        decode(frame).unwrap()
    }

    fn refusal(frame: &str) -> String {
        decode(frame).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_object_and_null_read_as_zero_values() {
        for frame in [
            "{}",
            "null",
            r#"{"id":null,"params":null,"excess":null,"pool":null,"retry":null,"tags":null}"#,
        ] {
            assert_eq!(read(frame), Request::default());
        }
    }

    #[test]
    fn unknown_fields_may_hold_anything() {
        assert_eq!(read(r#"{"x":[{"id":5}],"id":"a","ID2":7,"i":{}}"#).id, "a");
    }

    #[test]
    fn keys_match_without_regard_to_case() {
        for key in [
            "task_id",
            "TASK_ID",
            "Task_Id",
            "ta\u{17f}k_id",
            "tas\u{212a}_id",
            r"\u0074ask_id",
        ] {
            assert_eq!(read(&format!(r#"{{"{key}":"t"}}"#)).task_id, "t", "{key}");
        }
        for key in [
            "taskid",
            "task-id",
            " task_id",
            "task_id\\u0000",
            "task_ıd",
            "tasκ_id",
        ] {
            assert_eq!(read(&format!(r#"{{"{key}":"t"}}"#)).task_id, "", "{key}");
        }
    }

    #[test]
    fn the_last_occurrence_that_is_not_null_wins() {
        assert_eq!(read(r#"{"id":"a","ID":"b","id":null}"#).id, "b");
        assert_eq!(read(r#"{"ID":"a","id":"b","Id":"c"}"#).id, "c");
        assert_eq!(
            read(r#"{"limit":1,"limit":-2,"force":true,"force":null}"#).limit,
            -2
        );
        assert!(read(r#"{"force":true,"force":null}"#).force);
    }

    #[test]
    fn null_makes_optional_fields_absent() {
        let before = r#""size":1,"note":"n","replace":true,"factor":1.5,"excess":{},"retry":{}"#;
        let present = read(&format!("{{{before}}}"));
        assert_eq!(present.size, Some(1));
        assert_eq!(present.note.as_deref(), Some("n"));
        assert_eq!(present.replace, Some(true));
        assert_eq!(present.factor, Some(1.5));
        assert_eq!(present.excess, Some(Pool::default()));
        assert_eq!(present.retry, Some(Retry::default()));
        let nulls =
            r#""size":null,"note":null,"replace":null,"factor":null,"excess":null,"retry":null"#;
        assert_eq!(read(&format!("{{{before},{nulls}}}")), Request::default());
    }

    #[test]
    fn map_keys_keep_their_case_and_null_is_the_empty_string() {
        let pairs = |frame: &str| read(frame).params.into_iter().collect::<Vec<_>>();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            pairs(r#"{"params":{"k":"1","K":"2","k":"3","n":null}}"#),
            [pair("K", "2"), pair("k", "3"), pair("n", "")]
        );
        assert_eq!(
            pairs(r#"{"params":{"a":"1"},"Params":{"b":"2"}}"#),
            [pair("a", "1"), pair("b", "2")]
        );
        assert_eq!(
            pairs(r#"{"params":{"a":"1"},"params":null,"params":{"b":"2"}}"#),
            [pair("b", "2")]
        );
    }

    #[test]
    fn structs_merge_until_a_null_drops_them() {
        let merged = Pool {
            action: "stop".into(),
            grace: 5,
        };
        let twice = r#"{"pool":{"action":"stop"},"pool":null,"POOL":{"Grace":5}}"#;
        assert_eq!(read(twice).pool, merged);
        assert_eq!(
            read(r#"{"excess":{"action":"stop"},"excess":{"grace":5}}"#).excess,
            Some(merged)
        );
        let dropped = r#"{"excess":{"action":"stop"},"excess":null,"excess":{"grace":5}}"#;
        assert_eq!(
            read(dropped).excess,
            Some(Pool {
                action: String::new(),
                grace: 5
            })
        );
    }

    #[test]
    fn a_custom_decoder_sees_each_occurrence() {
        let twice = r#"{"retry":{"delay":"1s","threshold":3},"retry":{}}"#;
        assert_eq!(
            read(twice).retry,
            Some(Retry {
                delay: GoDuration::SECOND,
                threshold: 0
            })
        );
    }

    #[test]
    fn lists_replace_each_other() {
        let lists = read(r#"{"tags":["a","b"],"tags":["c",null],"codes":[0,-1,null]}"#);
        assert_eq!(lists.tags, ["c", ""]);
        assert_eq!(lists.codes, [0, -1, 0]);
        assert!(read(r#"{"codes":[1],"codes":null}"#).codes.is_empty());
    }

    #[test]
    fn only_whole_numbers_in_64_bits_are_ints() {
        for (number, value) in [
            ("-0", 0),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(read(&format!(r#"{{"limit":{number}}}"#)).limit, value);
        }
        for number in ["1.0", "1e3", "9223372036854775808"] {
            assert_eq!(
                refusal(&format!(r#"{{"limit":{number}}}"#)),
                format!(
                    "json: cannot unmarshal number {number} into Go struct field IncomingMessage.limit of type int"
                )
            );
        }
    }

    #[test]
    fn type_errors_use_the_words_of_go() {
        const HEAD: &str = "json: cannot unmarshal ";
        for (frame, tail) in [
            ("5", "number into Go value of type overseer.IncomingMessage"),
            ("[]", "array into Go value of type overseer.IncomingMessage"),
            (
                r#"{"id":5}"#,
                "number into Go struct field IncomingMessage.id of type string",
            ),
            (
                r#"{"ID":[]}"#,
                "array into Go struct field IncomingMessage.id of type string",
            ),
            (
                r#"{"force":"yes"}"#,
                "string into Go struct field IncomingMessage.force of type bool",
            ),
            (
                r#"{"size":true}"#,
                "bool into Go struct field IncomingMessage.size of type int",
            ),
            (
                r#"{"factor":1e999}"#,
                "number 1e999 into Go struct field IncomingMessage.factor of type float64",
            ),
            (
                r#"{"params":[]}"#,
                "array into Go struct field IncomingMessage.params of type map[string]string",
            ),
            (
                r#"{"params":{"c":1}}"#,
                "number into Go struct field IncomingMessage.params of type string",
            ),
            (
                r#"{"tags":"a"}"#,
                "string into Go struct field IncomingMessage.tags of type []string",
            ),
            (
                r#"{"codes":["a"]}"#,
                "string into Go struct field IncomingMessage.codes of type int",
            ),
            (
                r#"{"excess":5}"#,
                "number into Go struct field IncomingMessage.excess of type overseer.ExcessConfig",
            ),
            (
                r#"{"excess":{"action":{}}}"#,
                "object into Go struct field ExcessConfig.excess.action of type overseer.ExcessAction",
            ),
            (
                r#"{"retry":"x"}"#,
                "string into Go struct field IncomingMessage.retry of type overseer.raw",
            ),
            (
                r#"{"retry":{"delay":1}}"#,
                "number into Go struct field IncomingMessage.retry.delay of type string",
            ),
        ] {
            assert_eq!(refusal(frame), format!("{HEAD}{tail}"));
        }
    }

    #[test]
    fn the_first_type_error_of_the_text_is_told() {
        let first = |frame: &str, field: &str| {
            let words = refusal(frame);
            assert!(
                words.contains(&format!(".{field} of type")),
                "{frame}: {words}"
            );
        };
        first(r#"{"limit":"a","id":5}"#, "limit");
        first(r#"{"id":5,"id":"fine","limit":"a"}"#, "id");
        first(r#"{"excess":{"grace":"a"},"id":5}"#, "excess.grace");
        first(r#"{"excess":{"grace":"a"},"excess":null}"#, "excess.grace");
        first(r#"{"params":{"a":1},"params":null}"#, "params");
    }

    #[test]
    fn an_error_of_a_custom_decoder_comes_before_type_errors() {
        let frame = r#"{"id":5,"retry":{"delay":"5d"},"retry":{"delay":"x"},"limit":"a"}"#;
        assert_eq!(refusal(frame), r#"time: unknown unit "d" in duration "5d""#);
    }

    #[test]
    fn presence_is_told_apart_from_null() {
        let value = first_value(br#"{"a":null,"B":0,"c":1,"c":null}"#).unwrap();
        let has = Fields::decode(value, "overseer.Any", |fields| {
            ["a", "b", "c", "d"].map(|name| fields.has(name))
        });
        assert_eq!(has, Ok([false, true, true, false]));
    }

    #[test]
    fn a_deep_value_in_an_unknown_field_is_skipped() {
        let frame = format!(
            r#"{{"x":{}{},"id":"a"}}"#,
            "[".repeat(9_000),
            "]".repeat(9_000)
        );
        assert_eq!(read(&frame).id, "a");
    }

    fn any_member() -> impl Strategy<Value = String> {
        let key = prop::sample::select(vec![
            "id", "ID", "limit", "force", "params", "excess", "pool", "retry", "tags", "x",
        ]);
        let value = prop::sample::select(vec![
            "null",
            "true",
            "1",
            "-2.5",
            r#""s""#,
            r#""1s""#,
            "[]",
            r#"["a",null]"#,
            "{}",
            r#"{"a":"b","A":null}"#,
            r#"{"action":"q","grace":7}"#,
            r#"{"delay":"2s"}"#,
            r#"{"delay":2}"#,
        ]);
        (key, value).prop_map(|(key, value)| format!(r#""{key}":{value}"#))
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(frame: Vec<u8>) {
            if let Ok(value) = first_value(&frame) {
                _ = Fields::decode(value, "overseer.IncomingMessage", request);
            }
        }

        #[test]
        fn an_unknown_member_changes_nothing(
            members in prop::collection::vec(any_member(), 0..8), place in 0..9_usize,
        ) {
            let frame = |members: &[String]| format!("{{{}}}", members.join(","));
            let mut more = members.clone();
            more.insert(place.min(members.len()), r#""unknown":[{"id":5}]"#.to_owned());
            prop_assert_eq!(decode(&frame(&members)), decode(&frame(&more)));
        }

        #[test]
        fn a_message_is_spoilt_exactly_when_one_member_alone_spoils_it(
            members in prop::collection::vec(any_member(), 0..8),
        ) {
            let alone = members.iter().all(|member| decode(&format!("{{{member}}}")).is_ok());
            prop_assert_eq!(decode(&format!("{{{}}}", members.join(","))).is_ok(), alone);
        }
    }
}
