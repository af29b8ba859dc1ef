//! The functions that an expression calls at run time, where the `cel` crate's own differ from cel-go's.
//!
//! Each stands in the evaluator's environment under a name with an `@`, which no expression can contain;
//! [`lower`](super::lower) makes the calls. A function takes over only the cases that differ and leaves the rest to
//! the crate's.

use std::sync::{Arc, LazyLock};

use cel::common::types::{
    CelBool, CelDouble, CelDuration, CelInt, CelList, CelMap, CelString, CelTimestamp, CelUInt,
    DYN_TYPE,
};
use cel::common::value::{CowVal, Val};
use cel::{Env, ExecutionError};

use super::numbers;
use super::pattern::Pattern;
use super::time::{self, Field};

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
        time::format_duration(nanoseconds(duration))
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
            let duration =
                time::parse_duration(text).map(|n| CelDuration::from(Delta::nanoseconds(n)));
            converted(duration, DURATION)
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
        .map(|text| time::normalize_timestamp(text));
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

/// RFC 3339 in the timestamp's own zone, with the decimals that it needs.
fn format_timestamp(timestamp: &CelTimestamp) -> String {
    let at = timestamp.inner();
    let mut text = at.format("%Y-%m-%dT%H:%M:%S").to_string();
    let nanoseconds = at.timestamp_subsec_nanos();
    if nanoseconds > 0 {
        text.push('.');
        text.push_str(format!("{nanoseconds:09}").trim_end_matches('0'));
    }
    match at.offset().local_minus_utc() {
        0 => text.push('Z'),
        _ => text.push_str(&at.format("%:z").to_string()),
    }
    text
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
        return Err(no_overload("_._", &arguments));
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
    let timestamp = arguments[1].downcast_ref::<CelTimestamp>();
    let duration = arguments[1].downcast_ref::<CelDuration>();
    let zone = arguments
        .get(2)
        .map(|zone| zone.downcast_ref::<CelString>());
    let result = match (timestamp, duration, zone) {
        (Some(timestamp), _, None) => field_of(timestamp, name, "UTC"),
        (Some(timestamp), _, Some(Some(zone))) => field_of(timestamp, name, zone),
        (_, Some(duration), None) => whole_units(duration, name),
        _ => None,
    };
    result
        .unwrap_or_else(|| Err(no_overload(name, &arguments[1..])))
        .map(|n| CowVal::owned(CelInt::from(n)))
}

fn field_of(
    timestamp: &CelTimestamp,
    name: &str,
    zone: &str,
) -> Option<Result<i64, ExecutionError>> {
    let field = match name {
        "getFullYear" => Field::FullYear,
        "getMonth" => Field::Month,
        "getDayOfYear" => Field::DayOfYear,
        "getDayOfMonth" => Field::DayOfMonth,
        "getDate" => Field::Date,
        "getDayOfWeek" => Field::DayOfWeek,
        "getHours" => Field::Hours,
        "getMinutes" => Field::Minutes,
        "getSeconds" => Field::Seconds,
        "getMilliseconds" => Field::Milliseconds,
        _ => return None,
    };
    let (seconds, nanoseconds) = (
        timestamp.inner().timestamp(),
        timestamp.inner().timestamp_subsec_nanos(),
    );
    let offset = time::zone_offset(zone, seconds)
        .map_err(|error| ExecutionError::function_error(name, error));
    Some(offset.map(|offset| time::field(field, seconds + offset, nanoseconds)))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "Go truncates the same quotient"
)]
fn whole_units(duration: &CelDuration, name: &str) -> Option<Result<i64, ExecutionError>> {
    let unit = match name {
        "getHours" => 3_600_000_000_000,
        "getMinutes" => 60_000_000_000,
        "getSeconds" => 1_000_000_000,
        "getMilliseconds" => return Some(Ok(nanoseconds(duration) / 1_000_000)),
        _ => return None,
    };
    Some(Ok(time::in_units(nanoseconds(duration), unit) as i64))
}
