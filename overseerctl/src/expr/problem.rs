//! What can be wrong with the names and types of an expression: cel-go's words for it, and what to write instead.
//!
//! Finding it is [`check`](super::check)'s work.

use std::fmt;

use super::check::Variable;
use super::stdlib::{NAMES, overloads};
use super::types::{Bindings, Type};

/// What an undeclared name was used as.
#[derive(Clone, Copy)]
pub(super) enum Role {
    Variable,
    Function,
    Message,
}

/// Something wrong with an expression; displays in cel-go's words.
pub(super) enum Problem<'a> {
    Undeclared {
        name: &'a str,
        role: Role,
    },
    NoOverload {
        function: &'a str,
        types: &'a [Type],
        method: bool,
    },
    Mismatch {
        wanted: &'a Type,
        found: &'a Type,
    },
    NoFields {
        of: &'a Type,
    },
    NotIterable {
        of: &'a Type,
    },
    NoKey {
        of: &'a Type,
    },
    TypeVariable {
        name: &'a str,
    },
    /// Of a well-known protobuf type, which cel-go would construct.
    Message {
        name: &'a str,
    },
    TypeTooLarge,
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undeclared { name, .. } => {
                write!(f, "undeclared reference to '{name}' (in container '')")
            }
            Self::NoOverload {
                function,
                types,
                method,
            } => {
                write!(
                    f,
                    "found no matching overload for '{function}' applied to '"
                )?;
                let mut types = types.iter().map(ToString::to_string).peekable();
                if let Some(receiver) = types.next_if(|_| *method) {
                    write!(f, "{receiver}.")?;
                }
                write!(f, "({})'", types.collect::<Vec<_>>().join(", "))
            }
            Self::Mismatch { wanted, found } => {
                write!(f, "expected type '{wanted}' but found '{found}'")
            }
            Self::NoFields { of } => write!(f, "type '{of}' does not support field selection"),
            Self::NotIterable { of } => {
                write!(
                    f,
                    "expression of type '{of}' cannot be range of a comprehension "
                )?;
                f.write_str("(must be list, map, or dynamic)")
            }
            Self::NoKey { of } => write!(f, "invalid qualifier type: {of}"),
            Self::TypeVariable { name } => write!(f, "reference to undefined type: {name}"),
            Self::Message { name } => {
                write!(f, "protobuf message '{name}' cannot be constructed here")
            }
            Self::TypeTooLarge => f.write_str("the type of this map is too large to check"),
        }
    }
}

impl Problem<'_> {
    /// What to write instead.
    pub(super) fn hint(&self, variable: Variable) -> String {
        let hint = match self {
            Self::Undeclared { name, role } => return undeclared_hint(name, *role, variable),
            Self::NoOverload {
                function, types, ..
            } => return overload_hint(function, types),
            Self::NoFields { .. } => {
                let about = variable.about();
                return format!("only maps have fields; the variable here is {about}");
            }
            Self::Mismatch { .. } => {
                "&& and || join conditions; make each side one with ==, <, in or a test"
            }
            Self::NotIterable { .. } => {
                "macros run over lists and maps; test a string with contains() or matches()"
            }
            Self::NoKey { .. } => "the keys of a map are strings, integers or bools",
            Self::TypeVariable { .. } => {
                "compare types one by one: type(x) == int || type(x) == string"
            }
            Self::Message { .. } => {
                "use plain values, timestamp('2030-01-31T00:00:00Z') or duration('90s')"
            }
            Self::TypeTooLarge => "build fewer maps of maps",
        };
        hint.to_owned()
    }
}

fn undeclared_hint(name: &str, role: Role, variable: Variable) -> String {
    let known = variable.name();
    match role {
        Role::Message => "use plain values; protobuf messages are not available".to_owned(),
        Role::Variable if name.eq_ignore_ascii_case(known) => format!("write `{known}`"),
        Role::Variable if variable.parts().contains(&name) => format!("write `{known}.{name}`"),
        Role::Variable => {
            let about = variable.about();
            format!("the variable here is {about}; text stands in quotes: '{name}'")
        }
        Role::Function => closest(name).map_or_else(
            || {
                "only the standard functions and macros of CEL are available, no extensions; \
                 for text these are contains, startsWith, endsWith, matches and size"
                    .to_owned()
            },
            |known| format!("did you mean `{known}`?"),
        ),
    }
}

/// The known function or macro that `name` is probably a slip for.
fn closest(name: &str) -> Option<&'static str> {
    let (known, distance) = NAMES
        .iter()
        .map(|known| (*known, distance(name, known)))
        .min_by_key(|(_, d)| *d)?;
    (distance <= known.len() / 4 + 1 && distance < name.chars().count()).then_some(known)
}

/// How many characters to insert, delete or replace (case does not count) to make `b` out of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!ca.eq_ignore_ascii_case(cb));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn overload_hint(function: &str, types: &[Type]) -> String {
    match signatures(function) {
        Some(known) => format!("use it as {known}"),
        None => operator_hint(function, types).to_owned(),
    }
}

fn operator_hint(operator: &str, types: &[Type]) -> &'static str {
    let is_number = |t: &Type| matches!(t, Type::Int | Type::Uint | Type::Double);
    let numbers = types.iter().filter(|t| is_number(t)).count();
    match operator {
        "_[_]" => "only lists and maps are indexed; take strings apart with matches()",
        "@in" => "`in` looks into lists and maps; look into a string with contains()",
        "_?_:_" => "write a bool before the `?`, and values of one type on both sides of the `:`",
        _ if types.contains(&Type::Null) => {
            "this is never null; compare a string with '' and test a key with has()"
        }
        _ if types.contains(&Type::String) && numbers > 0 => {
            "convert one side: int(x), double(x) or string(x)"
        }
        _ if types.len() == 2 && numbers == 2 => {
            "numbers of different types do not mix: write 1.0 for a double and 1u for a uint, \
             or convert with double(x)"
        }
        _ => {
            "the operator is not defined on these types; convert with int(x), double(x), \
             string(x) or timestamp(x)"
        }
    }
}

/// How a function that is called by name can be called: `contains(string)` on a `string`.
fn signatures(function: &str) -> Option<String> {
    if !function.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let shown: Vec<String> = overloads(function)?
        .iter()
        .map(|overload| {
            let (arguments, _) = overload.instantiate(&mut Bindings::default());
            let mut names = arguments.iter().map(notation);
            let receiver = if overload.method {
                names.next().map(|name| name + ".")
            } else {
                None
            };
            format!(
                "{}{function}({})",
                receiver.unwrap_or_default(),
                names.collect::<Vec<_>>().join(", ")
            )
        })
        .collect();
    Some(shown.join(" or "))
}

/// A type in a signature, without its parameters.
fn notation(t: &Type) -> String {
    match t {
        Type::List(_) => "list".to_owned(),
        Type::Map(_) => "map".to_owned(),
        Type::Param(_) => "any".to_owned(),
        _ => t.to_string(),
    }
}
