//! The types of CEL and their unification; no expressions and no functions here.
//!
//! The rules are those of cel-go's `checker` package: `dyn` unifies with everything, `null` only with types that
//! can be null (`duration` and `timestamp` among ours), a type parameter is bound to the most general of the types
//! it has met, and a failed attempt leaves no bindings behind.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

/// What a checked expression evaluates to, as far as that is known before it runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    /// An expression that failed its check; unifies with everything so that one mistake is reported once.
    Error,
    /// Known only at run time.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    /// A type as a value: `int`, `type(1)`.
    Meta(Rc<Self>),
    /// What `type` itself is a type of.
    AnyMeta,
    List(Rc<Self>),
    Map(Rc<(Self, Self)>),
    /// A type parameter, bound by [`Bindings`].
    Param(u32),
}

/// How many nodes a type may have. Only expressions made for the purpose grow types beyond a dozen, by
/// `[1].map(a, {a: a}).map(b, {b: b})…`, which doubles the type at each step.
const LARGEST_TYPE: usize = 4096;

impl Type {
    pub(super) fn list(element: Self) -> Self {
        Self::List(Rc::new(element))
    }

    pub(super) fn map(key: Self, value: Self) -> Self {
        Self::Map(Rc::new((key, value)))
    }

    pub(super) fn meta(of: Self) -> Self {
        Self::Meta(Rc::new(of))
    }

    /// Whether the type has more nodes than a type is allowed.
    pub(super) fn is_too_large(&self) -> bool {
        let mut budget = LARGEST_TYPE;
        !self.fits(&mut budget)
    }

    fn fits(&self, budget: &mut usize) -> bool {
        let Some(rest) = budget.checked_sub(1) else {
            return false;
        };
        *budget = rest;
        match self {
            Self::Meta(of) | Self::List(of) => of.fits(budget),
            Self::Map(entry) => entry.0.fits(budget) && entry.1.fits(budget),
            _ => true,
        }
    }

    fn is_nullable(&self) -> bool {
        matches!(self, Self::Null | Self::Duration | Self::Timestamp)
    }

    /// Whether `self` says no more than `other`, for two types that unify.
    fn is_as_general_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn | Self::Param(_), _) | (Self::Meta(_), Self::Meta(_)) => true,
            (_, Self::Dyn | Self::Param(_)) => false,
            (Self::List(a), Self::List(b)) => a.is_as_general_as(b),
            (Self::Map(a), Self::Map(b)) => {
                a.0.is_as_general_as(&b.0) && a.1.is_as_general_as(&b.1)
            }
            _ => self == other,
        }
    }

    /// The more general of two types that unify.
    pub(super) fn most_general(a: &Self, b: &Self) -> Self {
        if a.is_as_general_as(b) { a } else { b }.clone()
    }
}

/// The notation of cel-go's error messages: `map(string, dyn)`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("!error!"),
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Meta(of) => write!(f, "type({of})"),
            Self::AnyMeta => f.write_str("type"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Self::Param(n) => write!(f, "_var{n}"),
        }
    }
}

/// What the type parameters of an expression have been bound to so far.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    bound: HashMap<u32, Type>,
    /// The former value of every binding changed since the start, newest last: what a failed attempt takes back.
    undo: Vec<(u32, Option<Type>)>,
    fresh: u32,
}

impl Bindings {
    /// A type parameter that nothing else has.
    pub(super) fn fresh(&mut self) -> Type {
        self.fresh += 1;
        Type::Param(self.fresh - 1)
    }

    /// Whether a value of type `from` can stand where `to` is wanted; binds parameters of both only if so.
    pub(super) fn assign(&mut self, from: &Type, to: &Type) -> bool {
        self.attempt(|this| this.unify(from, to))
    }

    /// [`assign`](Self::assign) for a whole argument list at once.
    pub(super) fn assign_all(&mut self, from: &[Type], to: &[Type]) -> bool {
        from.len() == to.len()
            && self.attempt(|this| from.iter().zip(to).all(|(a, b)| this.unify(a, b)))
    }

    /// `t` with every bound parameter replaced by what it is bound to.
    pub(super) fn resolve(&self, t: &Type) -> Type {
        match t {
            Type::Param(n) => self
                .bound
                .get(n)
                .map_or_else(|| t.clone(), |bound| self.resolve(bound)),
            Type::Meta(of) => Type::meta(self.resolve(of)),
            Type::List(of) => Type::list(self.resolve(of)),
            Type::Map(entry) => Type::map(self.resolve(&entry.0), self.resolve(&entry.1)),
            _ => t.clone(),
        }
    }

    /// [`resolve`](Self::resolve) with `dyn` for the parameters that stayed unbound.
    pub(super) fn resolve_to_dyn(&self, t: &Type) -> Type {
        fn close(t: &Type) -> Type {
            match t {
                Type::Param(_) => Type::Dyn,
                Type::Meta(of) => Type::meta(close(of)),
                Type::List(of) => Type::list(close(of)),
                Type::Map(entry) => Type::map(close(&entry.0), close(&entry.1)),
                _ => t.clone(),
            }
        }
        close(&self.resolve(t))
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> bool) -> bool {
        let mark = self.undo.len();
        if work(self) {
            return true;
        }
        for (param, former) in self.undo.drain(mark..).rev() {
            match former {
                Some(t) => self.bound.insert(param, t),
                None => self.bound.remove(&param),
            };
        }
        false
    }

    fn bind(&mut self, param: u32, to: Type) {
        let former = self.bound.insert(param, to);
        self.undo.push((param, former));
    }

    fn unify(&mut self, from: &Type, to: &Type) -> bool {
        if let Type::Param(param) = to {
            match self.substitute(from, *param) {
                Substitution::Fits => return true,
                Substitution::Clashes => return false,
                // the other direction may still do
                Substitution::Circular => {}
            }
        }
        if let Type::Param(param) = from {
            return matches!(self.substitute(to, *param), Substitution::Fits);
        }
        match (from, to) {
            // any type as a value can stand for any other: `type(x) == int`
            (Type::Dyn | Type::Error, _)
            | (_, Type::Dyn | Type::Error)
            | (Type::Meta(_), Type::Meta(_)) => true,
            (Type::Null, other) | (other, Type::Null) => other.is_nullable(),
            (Type::List(a), Type::List(b)) => self.unify(a, b),
            (Type::Map(a), Type::Map(b)) => self.unify(&a.0, &b.0) && self.unify(&a.1, &b.1),
            _ => from == to,
        }
    }

    /// Makes `param` stand for `t` as well as for what it stands for already.
    fn substitute(&mut self, t: &Type, param: u32) -> Substitution {
        if *t == Type::Param(param) {
            return Substitution::Fits;
        }
        let Some(bound) = self.bound.get(&param).cloned() else {
            if self.occurs(param, t) {
                return Substitution::Circular;
            }
            self.bind(param, t.clone());
            return Substitution::Fits;
        };
        if *t == bound {
            return Substitution::Fits;
        }
        if !self.unify(t, &bound) {
            return Substitution::Clashes;
        }
        let general = Type::most_general(t, &bound);
        if !self.occurs(param, &general) {
            self.bind(param, general);
        }
        Substitution::Fits
    }

    /// Whether `param` is a part of `t`, bindings included.
    fn occurs(&self, param: u32, t: &Type) -> bool {
        match t {
            Type::Param(n) => {
                *n == param
                    || self
                        .bound
                        .get(n)
                        .is_some_and(|bound| self.occurs(param, bound))
            }
            Type::Meta(of) | Type::List(of) => self.occurs(param, of),
            Type::Map(entry) => self.occurs(param, &entry.0) || self.occurs(param, &entry.1),
            _ => false,
        }
    }
}

/// The outcome of [`Bindings::substitute`].
enum Substitution {
    Fits,
    /// The parameter is bound to a type that does not unify.
    Clashes,
    /// The parameter is free, but a part of the type it should stand for.
    Circular,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_takes_the_most_general_type_it_meets() {
        let mut bindings = Bindings::default();
        let a = bindings.fresh();
        assert!(bindings.assign(&Type::Int, &a));
        assert!(bindings.assign(&Type::Dyn, &a));
        assert_eq!(bindings.resolve(&Type::list(a)), Type::list(Type::Dyn));
    }

    #[test]
    fn a_failed_attempt_leaves_no_bindings() {
        let mut bindings = Bindings::default();
        let (a, b) = (bindings.fresh(), bindings.fresh());
        assert!(!bindings.assign_all(
            &[Type::Int, Type::Int, Type::Bool],
            &[a.clone(), b.clone(), a.clone()]
        ));
        assert_eq!(bindings.resolve(&a), a);
        assert_eq!(bindings.resolve(&b), b);
    }

    #[test]
    fn a_parameter_is_never_bound_to_a_type_that_contains_it() {
        let mut bindings = Bindings::default();
        let a = bindings.fresh();
        assert!(!bindings.assign(&Type::list(a.clone()), &a));
        let b = bindings.fresh();
        assert!(bindings.assign(&b, &a));
        assert!(!bindings.assign(&Type::map(Type::Int, b), &a));
    }

    #[test]
    fn null_stands_for_times_and_nothing_else() {
        let mut bindings = Bindings::default();
        assert!(bindings.assign(&Type::Null, &Type::Timestamp));
        assert!(bindings.assign(&Type::Duration, &Type::Null));
        assert!(!bindings.assign(&Type::Null, &Type::String));
        assert!(!bindings.assign(&Type::list(Type::Int), &Type::Null));
    }

    #[test]
    fn a_doubling_type_is_noticed_before_it_costs_anything() {
        let mut t = Type::Int;
        for _ in 0..10 {
            t = Type::map(t.clone(), t);
        }
        assert!(!t.is_too_large());
        for _ in 0..50 {
            t = Type::map(t.clone(), t);
        }
        assert!(t.is_too_large());
    }

    #[test]
    fn types_print_as_in_cel_go() {
        let t = Type::map(Type::String, Type::list(Type::meta(Type::Param(3))));
        assert_eq!(t.to_string(), "map(string, list(type(_var3)))");
    }
}
