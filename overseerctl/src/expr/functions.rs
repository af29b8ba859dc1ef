//! The functions that an expression calls at run time, where the `cel` crate's own differ from cel-go's.
//!
//! Each stands in the evaluator's environment under a name with an `@`, which no expression can contain;
//! [`lower`](super::lower) makes the calls. A function takes over only the cases that differ and leaves the rest to
//! the crate's.

#![expect(
    clippy::needless_pass_by_value,
    reason = "the evaluator hands over its arguments, whether they are kept or not"
)]

use std::sync::{Arc, LazyLock};

use cel::common::types::{
    CelBool, CelDouble, CelDuration, CelInt, CelList, CelMap, CelString, CelTimestamp, CelUInt,
    DYN_TYPE,
};
use cel::common::value::{CowVal, Val};
use cel::{Env, ExecutionError};

use super::calendar::{Field, format_duration};
use super::numbers;
use super::pattern::Pattern;
use crate::duration::GoDuration;
use crate::time::Timestamp;

/// What a function of the evaluator is given and gives back.
type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;
type Function = for<'b, 'v> fn(Arguments<'b, 'v>) -> Outcome<'b, 'v>;

/// chrono's `TimeDelta`, which the `cel` crate keeps durations in and does not export.
type Delta = <CelDuration as std::ops::Deref>::Target;

const DURATION: &str = "google.protobuf.Duration";
const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// Conversions and `matches()`, called in place of the functions of the same name without the `@`.
const REPLACEMENTS: [(&str, usize, Function); 8] = [
    ("@bool", 1, to_bool),
    ("@double", 1, to_double),
    ("@duration", 1, to_duration),
    ("@int", 1, to_int),
    ("@matches", 2, matches),
    ("@string", 1, to_string),
    ("@timestamp", 1, to_timestamp),
    ("@uint", 1, to_uint),
];

/// `has(x.field)`: the value and the field's name.
pub(super) const HAS: &str = "@has";
/// `x in y`.
pub(super) const IN: &str = "@within";
/// `x + y`.
pub(super) const ADD: &str = "@plus";
/// `x.getHours(zone)` and the like: the name, `x`, and the zone if there is one.
pub(super) const GET: &str = "@get";

/// The name to call in place of `name`, if there is one.
pub(super) fn replacement(name: &str) -> Option<&'static str> {
    REPLACEMENTS
        .iter()
        .map(|(replacement, ..)| *replacement)
        .find(|replacement| replacement[1..] == *name)
}

static STANDARD: LazyLock<Env> =
    LazyLock::new(|| Env::default().with_optional_support(false).with_stdlib());

/// Everything that can be called: the crate's standard library without its extras, and the functions here.
pub(super) static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::default().with_optional_support(false).with_stdlib();
    // of two equal keys in a map literal, cel-go lets the last win
    env.set_error_on_duplicate_map_keys(false);
    let operators: [(&str, usize, Function); 5] = [
        (HAS, 2, has),
        (IN, 2, within),
        (ADD, 2, plus),
        (GET, 2, get),
        (GET, 3, get),
    ];
    for (name, arity, function) in REPLACEMENTS.into_iter().chain(operators) {
        let id = format!("{name}/{arity}");
        let types = std::iter::repeat_with(|| DYN_TYPE).take(arity).collect();
        // names and ids are distinct, so this never fails
        let added = env.add_overload(name, &id, types, function);
        debug_assert!(added.is_ok(), "{id}");
    }
    Arc::new(env)
});

/// The crate's own function of that name.
fn standard<'b, 'v>(name: &str, arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    match STANDARD.find_overload(name, &arguments) {
        Some(function) => function(arguments),
        None => Err(no_overload(name, &arguments)),
    }
}

fn no_overload(name: &str, arguments: &[CowVal<'_, '_>]) -> ExecutionError {
    let types = arguments
        .iter()
        .map(|argument| argument.get_type().name().to_owned())
        .collect();
    ExecutionError::no_such_overload(name, types)
}

/// The result of converting a string, or the error for a string that is no such thing.
fn converted<'b, 'v, T: Val + 'v>(value: Option<T>, to: &str) -> Outcome<'b, 'v> {
    value
        .map(CowVal::owned)
        .ok_or_else(|| not_converted("string", to))
}

fn not_converted(from: &str, to: &str) -> ExecutionError {
    ExecutionError::function_error(to, format!("type conversion error from '{from}' to '{to}'"))
}

fn to_bool<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    match arguments[0].downcast_ref::<CelString>() {
        Some(text) => converted(numbers::parse_bool(text).map(CelBool::from), "bool"),
        None => standard("bool", arguments),
    }
}

fn to_double<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    match arguments[0].downcast_ref::<CelString>() {
        Some(text) => converted(numbers::parse_double(text).map(CelDouble::from), "double"),
        None => standard("double", arguments),
    }
}

fn to_int<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    if let Some(text) = arguments[0].downcast_ref::<CelString>() {
        return converted(text.parse().ok().map(|n: i64| CelInt::from(n)), "int");
    }
    match arguments[0].downcast_ref::<CelDuration>() {
        Some(duration) => Ok(CowVal::owned(CelInt::from(nanoseconds(duration)))),
        None => standard("int", arguments),
    }
}

fn to_uint<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    match arguments[0].downcast_ref::<CelString>() {
        Some(text) => converted(numbers::parse_uint(text).map(CelUInt::from), "uint"),
        None => standard("uint", arguments),
    }
}

fn to_string<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let value = &arguments[0];
    let text = if let Some(number) = value.downcast_ref::<CelDouble>() {
        numbers::format_double(**number)
    } else if let Some(duration) = value.downcast_ref::<CelDuration>() {
        format_duration(nanoseconds(duration))
    } else if let Some(timestamp) = value.downcast_ref::<CelTimestamp>() {
        format_timestamp(timestamp)
    } else {
        return standard("string", arguments);
    };
    Ok(CowVal::owned(CelString::from(text)))
}

/// cel-go declares `duration(int)` and then fails on every call of it, unlike `int(duration)`.
fn to_duration<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    match arguments[0].downcast_ref::<CelString>() {
        Some(text) => {
            let duration = text
                .parse()
                .ok()
                .map(GoDuration::as_nanos)
                .map(Delta::nanoseconds);
            converted(duration.map(CelDuration::from), DURATION)
        }
        None if arguments[0].downcast_ref::<CelInt>().is_some() => {
            Err(not_converted("int", DURATION))
        }
        None => standard("duration", arguments),
    }
}

fn to_timestamp<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let text = arguments[0]
        .downcast_ref::<CelString>()
        .map(|text| normal_timestamp(text));
    let result = match text {
        Some(Some(normal)) => standard("timestamp", vec![CowVal::owned(CelString::from(normal))]),
        Some(None) => return converted(None::<CelTimestamp>, TIMESTAMP),
        None => standard("timestamp", arguments),
    };
    result.map_err(|error| match error {
        // of its own range the crate says "timestamp", of a day that does not exist "input"
        ExecutionError::FunctionError { message, .. } if message.contains("timestamp") => {
            ExecutionError::function_error("timestamp", "timestamp overflow")
        }
        ExecutionError::FunctionError { .. } => not_converted("string", TIMESTAMP),
        error => error,
    })
}

fn nanoseconds(duration: &CelDuration) -> i64 {
    // every duration is made from 64-bit nanoseconds, and sums out of that range are errors
    duration.num_nanoseconds().unwrap_or_default()
}

/// A text that Go reads as a timestamp, in the form that everybody reads.
fn normal_timestamp(text: &str) -> Option<String> {
    let at: Timestamp = text.parse().ok()?;
    // the instant has no zone, the text ends in one
    let offset = match *text.as_bytes() {
        [.., sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let [h1, h2, m1, m2] = [h1, h2, m1, m2].map(|digit| i32::from(digit - b'0'));
            let seconds = (h1 * 10 + h2) * 3_600 + (m1 * 10 + m2) * 60;
            if sign == b'-' { -seconds } else { seconds }
        }
        _ => 0,
    };
    Some(at.at_offset(offset).as_str().to_owned())
}

/// RFC 3339 in the timestamp's own zone.
fn format_timestamp(timestamp: &CelTimestamp) -> String {
    let at = timestamp.inner();
    let instant = Timestamp::from_unix(at.timestamp(), at.timestamp_subsec_nanos());
    instant
        .at_offset(at.offset().local_minus_utc())
        .as_str()
        .to_owned()
}

fn matches<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let Some(text) = arguments[0].downcast_ref::<CelString>() else {
        return Err(no_overload("matches", &arguments));
    };
    let found = if let Some(pattern) = arguments[1].downcast_ref::<Pattern>() {
        pattern
            .is_match(text)
            .map_err(|error| ExecutionError::function_error("matches", error))
    } else if let Some(pattern) = arguments[1].downcast_ref::<CelString>() {
        Pattern::new(pattern)
            .is_match(text)
            .map_err(|error| ExecutionError::function_error("matches", error))
    } else {
        Err(no_overload("matches", &arguments))
    };
    found.map(truth)
}

/// A boolean that needs no memory.
fn truth<'b, 'v>(value: bool) -> CowVal<'b, 'v> {
    CowVal::Borrowed(if value {
        &CelBool::TRUE
    } else {
        &CelBool::FALSE
    })
}

/// Whether a value has a field. Where the `cel` crate fails on values that have no fields, cel-go says no, except
/// that a list is an error there as well.
fn has<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let (value, field) = (&arguments[0], &arguments[1]);
    if value.downcast_ref::<CelList>().is_some() {
        return Err(ExecutionError::function_error(
            "has",
            "unsupported index type 'string' in list",
        ));
    }
    let map = value.downcast_ref::<CelMap>();
    let found = map
        .and_then(Val::as_container)
        .map_or(Ok(false), |map| map.contains(field.as_ref()));
    found.map(truth)
}

/// Whether a container has a value. What cannot be a key of a map is not in it, which the `cel` crate calls an error.
fn within<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let (value, container) = (&arguments[0], &arguments[1]);
    match container
        .as_container()
        .map(|container| container.contains(value.as_ref()))
    {
        Some(Ok(found)) => Ok(truth(found)),
        Some(Err(ExecutionError::UnsupportedKeyType(_))) => Ok(truth(false)),
        Some(Err(error)) => Err(error),
        None => Err(no_overload("@in", &arguments)),
    }
}

/// A sum. To a list the `cel` crate adds whatever can be iterated, cel-go only a list.
fn plus<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let (left, right) = (&arguments[0], &arguments[1]);
    let lists = [left, right].map(|side| side.downcast_ref::<CelList>().is_some());
    match left.as_adder() {
        Some(adder) if lists[0] == lists[1] => {
            Ok(CowVal::Owned(adder.add(right.as_ref())?.into_owned()))
        }
        _ => Err(no_overload("_+_", &arguments)),
    }
}

/// A field of a timestamp, in UTC unless a zone is given, or of a duration as a whole.
fn get<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let name = arguments[0]
        .downcast_ref::<CelString>()
        .map_or("", CelString::inner);
    let timestamp = arguments[1]
        .downcast_ref::<CelTimestamp>()
        .map(CelTimestamp::inner);
    let duration = arguments[1].downcast_ref::<CelDuration>();
    let zone = arguments
        .get(2)
        .map(|zone| zone.downcast_ref::<CelString>());
    let part = match (Field::of_method(name), timestamp, duration, zone) {
        (Some(field), Some(at), _, None) => {
            Some(field.at(at.timestamp(), at.timestamp_subsec_nanos(), "UTC"))
        }
        (Some(field), Some(at), _, Some(Some(zone))) => {
            Some(field.at(at.timestamp(), at.timestamp_subsec_nanos(), zone))
        }
        (Some(field), _, Some(duration), None) => field.units_in(nanoseconds(duration)).map(Ok),
        _ => None,
    };
    match part {
        Some(Ok(part)) => Ok(CowVal::owned(CelInt::from(part))),
        Some(Err(problem)) => Err(ExecutionError::function_error(name, problem)),
        None => Err(no_overload(name, &arguments[1..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_in_the_environment() {
        for (name, arity, _) in REPLACEMENTS {
            let arguments: Vec<CowVal<'_, '_>> = (0..arity).map(|_| truth(true)).collect();
            assert!(
                ENVIRONMENT.find_overload(name, &arguments).is_some(),
                "{name}"
            );
            assert_eq!(replacement(&name[1..]), Some(name));
        }
        assert_eq!(replacement("size"), None);
        assert_eq!(replacement(""), None);
    }

    #[test]
    fn optional_values_are_not_in_the_environment() {
        assert!(
            ENVIRONMENT
                .find_overload("optional.of", &[truth(true)])
                .is_none()
        );
        assert!(ENVIRONMENT.types().find_type("optional_type").is_none());
    }

    #[test]
    fn timestamps_keep_their_zone() {
        for (text, normal) in [
            ("2024-02-29T1:34:56,50Z", "2024-02-29T01:34:56.5Z"),
            ("2024-02-29T12:34:56-08:30", "2024-02-29T12:34:56-08:30"),
            ("2024-02-29T12:34:56+00:60", "2024-02-29T12:34:56+01:00"),
        ] {
            assert_eq!(normal_timestamp(text).as_deref(), Some(normal), "{text}");
        }
        assert_eq!(normal_timestamp("2024-02-29T12:34:56z"), None);
    }
}
