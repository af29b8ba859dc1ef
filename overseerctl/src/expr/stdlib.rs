//! What the standard environment of CEL declares: functions with their overloads, and the names of types.
//!
//! The table is that of cel-go 0.27 (`common/stdlib`), overload by overload and in its order, because the order
//! decides the result type of a call with `dyn` arguments. No extension library is part of it.

use super::types::{Bindings, Type};

/// A type in a signature: a [`Type`] that can be a constant, with `A` and `B` for the type parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Slot {
    A,
    B,
    ListOfA,
    MapOfAB,
    MetaOfA,
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
}

use Slot::{
    A, B, Bool, Bytes, Double, Duration, Dyn, Int, ListOfA, MapOfAB, MetaOfA, String, Timestamp,
    Uint,
};

/// One way to call a function.
#[derive(Debug)]
pub(super) struct Overload {
    /// The types of the arguments; of a method, the receiver's first.
    pub(super) arguments: &'static [Slot],
    pub(super) result: Slot,
    /// Called as `receiver.function(…)`, and only so.
    pub(super) method: bool,
    /// Compares numbers of different types, see [`mixes_numbers`](Self::mixes_numbers).
    mixed: bool,
}

impl Overload {
    /// Whether this is an overload like `int < double`. cel-go hides those from an expression until the checker
    /// has entered a comprehension, and shows them from there on.
    pub(super) fn mixes_numbers(&self) -> bool {
        self.mixed
    }

    /// The argument types and the result type, with type parameters of their own.
    pub(super) fn instantiate(&self, bindings: &mut Bindings) -> (Vec<Type>, Type) {
        let uses = |parameter: Slot| self.arguments.iter().any(|slot| slot.mentions(parameter));
        let a = if uses(A) { bindings.fresh() } else { Type::Dyn };
        let b = if uses(B) { bindings.fresh() } else { Type::Dyn };
        let arguments = self
            .arguments
            .iter()
            .map(|slot| slot.to_type(&a, &b))
            .collect();
        (arguments, self.result.to_type(&a, &b))
    }
}

impl Slot {
    fn mentions(self, parameter: Self) -> bool {
        match self {
            ListOfA | MetaOfA => parameter == A,
            MapOfAB => parameter == A || parameter == B,
            _ => self == parameter,
        }
    }

    fn to_type(self, a: &Type, b: &Type) -> Type {
        match self {
            A => a.clone(),
            B => b.clone(),
            ListOfA => Type::list(a.clone()),
            MapOfAB => Type::map(a.clone(), b.clone()),
            MetaOfA => Type::meta(a.clone()),
            Dyn => Type::Dyn,
            Bool => Type::Bool,
            Int => Type::Int,
            Uint => Type::Uint,
            Double => Type::Double,
            String => Type::String,
            Bytes => Type::Bytes,
            Duration => Type::Duration,
            Timestamp => Type::Timestamp,
        }
    }
}

const fn function(arguments: &'static [Slot], result: Slot) -> Overload {
    Overload {
        arguments,
        result,
        method: false,
        mixed: false,
    }
}

const fn method(arguments: &'static [Slot], result: Slot) -> Overload {
    Overload {
        arguments,
        result,
        method: true,
        mixed: false,
    }
}

const fn mixed(arguments: &'static [Slot]) -> Overload {
    Overload {
        arguments,
        result: Bool,
        method: false,
        mixed: true,
    }
}

static CONDITIONAL: [Overload; 1] = [function(&[Bool, A, A], A)];
static LOGICAL: [Overload; 1] = [function(&[Bool, Bool], Bool)];
static NOT: [Overload; 1] = [function(&[Bool], Bool)];
static EQUALITY: [Overload; 1] = [function(&[A, A], Bool)];

static ADD: [Overload; 9] = [
    function(&[Bytes, Bytes], Bytes),
    function(&[Double, Double], Double),
    function(&[Duration, Duration], Duration),
    function(&[Duration, Timestamp], Timestamp),
    function(&[Timestamp, Duration], Timestamp),
    function(&[Int, Int], Int),
    function(&[ListOfA, ListOfA], ListOfA),
    function(&[String, String], String),
    function(&[Uint, Uint], Uint),
];

static SUBTRACT: [Overload; 6] = [
    function(&[Double, Double], Double),
    function(&[Duration, Duration], Duration),
    function(&[Int, Int], Int),
    function(&[Timestamp, Duration], Timestamp),
    function(&[Timestamp, Timestamp], Duration),
    function(&[Uint, Uint], Uint),
];

/// `*` and `/`.
static MULTIPLY: [Overload; 3] = [
    function(&[Double, Double], Double),
    function(&[Int, Int], Int),
    function(&[Uint, Uint], Uint),
];

static MODULO: [Overload; 2] = [function(&[Int, Int], Int), function(&[Uint, Uint], Uint)];
static NEGATE: [Overload; 2] = [function(&[Double], Double), function(&[Int], Int)];

/// `<`, `<=`, `>` and `>=`.
static ORDER: [Overload; 14] = [
    function(&[Bool, Bool], Bool),
    function(&[Int, Int], Bool),
    mixed(&[Int, Double]),
    mixed(&[Int, Uint]),
    function(&[Uint, Uint], Bool),
    mixed(&[Uint, Double]),
    mixed(&[Uint, Int]),
    function(&[Double, Double], Bool),
    mixed(&[Double, Int]),
    mixed(&[Double, Uint]),
    function(&[String, String], Bool),
    function(&[Bytes, Bytes], Bool),
    function(&[Timestamp, Timestamp], Bool),
    function(&[Duration, Duration], Bool),
];

static INDEX: [Overload; 2] = [function(&[ListOfA, Int], A), function(&[MapOfAB, A], B)];
static IN: [Overload; 2] = [function(&[A, ListOfA], Bool), function(&[A, MapOfAB], Bool)];

static SIZE: [Overload; 8] = [
    function(&[Bytes], Int),
    method(&[Bytes], Int),
    function(&[ListOfA], Int),
    method(&[ListOfA], Int),
    function(&[MapOfAB], Int),
    method(&[MapOfAB], Int),
    function(&[String], Int),
    method(&[String], Int),
];

static TYPE: [Overload; 1] = [function(&[A], MetaOfA)];
static DYN: [Overload; 1] = [function(&[A], Dyn)];
static TO_BOOL: [Overload; 2] = [function(&[Bool], Bool), function(&[String], Bool)];
static TO_BYTES: [Overload; 2] = [function(&[Bytes], Bytes), function(&[String], Bytes)];

static TO_DOUBLE: [Overload; 4] = [
    function(&[Double], Double),
    function(&[Int], Double),
    function(&[String], Double),
    function(&[Uint], Double),
];

static TO_DURATION: [Overload; 3] = [
    function(&[Duration], Duration),
    function(&[Int], Duration),
    function(&[String], Duration),
];

static TO_INT: [Overload; 6] = [
    function(&[Int], Int),
    function(&[Double], Int),
    function(&[Duration], Int),
    function(&[String], Int),
    function(&[Timestamp], Int),
    function(&[Uint], Int),
];

static TO_STRING: [Overload; 8] = [
    function(&[String], String),
    function(&[Bool], String),
    function(&[Bytes], String),
    function(&[Double], String),
    function(&[Duration], String),
    function(&[Int], String),
    function(&[Timestamp], String),
    function(&[Uint], String),
];

static TO_TIMESTAMP: [Overload; 3] = [
    function(&[Timestamp], Timestamp),
    function(&[Int], Timestamp),
    function(&[String], Timestamp),
];

static TO_UINT: [Overload; 4] = [
    function(&[Uint], Uint),
    function(&[Double], Uint),
    function(&[Int], Uint),
    function(&[String], Uint),
];

static TEXT_TEST: [Overload; 1] = [method(&[String, String], Bool)];
static MATCHES: [Overload; 2] = [
    function(&[String, String], Bool),
    method(&[String, String], Bool),
];

static CALENDAR: [Overload; 2] = [method(&[Timestamp], Int), method(&[Timestamp, String], Int)];
static CLOCK: [Overload; 3] = [
    method(&[Timestamp], Int),
    method(&[Timestamp, String], Int),
    method(&[Duration], Int),
];

/// The overloads of a function, or `None` if CEL has no such function. A leading dot means "of the outermost
/// scope", where all of them are.
pub(super) fn overloads(name: &str) -> Option<&'static [Overload]> {
    Some(match name.strip_prefix('.').unwrap_or(name) {
        "_?_:_" => &CONDITIONAL,
        "_&&_" | "_||_" => &LOGICAL,
        "!_" | "@not_strictly_false" => &NOT,
        "_==_" | "_!=_" => &EQUALITY,
        "_+_" => &ADD,
        "_-_" => &SUBTRACT,
        "_*_" | "_/_" => &MULTIPLY,
        "_%_" => &MODULO,
        "-_" => &NEGATE,
        "_<_" | "_<=_" | "_>_" | "_>=_" => &ORDER,
        "_[_]" => &INDEX,
        "@in" => &IN,
        "size" => &SIZE,
        "type" => &TYPE,
        "dyn" => &DYN,
        "bool" => &TO_BOOL,
        "bytes" => &TO_BYTES,
        "double" => &TO_DOUBLE,
        "duration" => &TO_DURATION,
        "int" => &TO_INT,
        "string" => &TO_STRING,
        "timestamp" => &TO_TIMESTAMP,
        "uint" => &TO_UINT,
        "contains" | "endsWith" | "startsWith" => &TEXT_TEST,
        "matches" => &MATCHES,
        "getFullYear" | "getMonth" | "getDayOfYear" | "getDayOfMonth" | "getDate"
        | "getDayOfWeek" => &CALENDAR,
        "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => &CLOCK,
        _ => return None,
    })
}

/// Every function and macro that can be written by name, for suggestions.
pub(super) const NAMES: [&str; 33] = [
    "all",
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "exists",
    "exists_one",
    "filter",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "has",
    "int",
    "map",
    "matches",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
    "true",
    "false",
];

/// The type that a name stands for as a value: `int` is a `type(int)`.
pub(super) fn type_named(name: &str) -> Option<Type> {
    let of = match name.strip_prefix('.').unwrap_or(name) {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "int" => Type::Int,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "string" => Type::String,
        "type" => Type::AnyMeta,
        "uint" => Type::Uint,
        _ => return None,
    };
    Some(Type::meta(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_parameters_of_its_own() {
        let mut bindings = Bindings::default();
        let (first, _) = IN[0].instantiate(&mut bindings);
        let (second, _) = IN[0].instantiate(&mut bindings);
        assert_eq!(first[1], Type::list(first[0].clone()));
        assert_ne!(first[0], second[0]);
    }

    #[test]
    fn every_suggested_name_exists() {
        let macros = [
            "all",
            "exists",
            "exists_one",
            "filter",
            "has",
            "map",
            "true",
            "false",
        ];
        for name in NAMES {
            assert!(
                macros.contains(&name) || overloads(name).is_some(),
                "{name}"
            );
        }
    }

    #[test]
    fn functions_that_the_evaluator_has_beyond_cel_are_not_declared() {
        for name in [
            "optional.of",
            "optional.none",
            "base64.encode",
            "base64.decode",
            "max",
            "min",
            "split",
            "format",
        ] {
            assert!(overloads(name).is_none(), "{name}");
        }
    }
}
