//! Type inference over the syntax tree: which names, functions and argument types an expression may use.
//!
//! The `cel` crate evaluates whatever it has parsed, and finds out on the way. cel-go checks first, and refuses at
//! load what would fail on every line; this is that check, with cel-go's rules and words. Like cel-go it does not
//! ask that the whole expression be a bool: one of another type is accepted and never yields `true`.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo,
};

use super::error::{Issue, position};
use super::parse::Parsed;
use super::problem::{Problem, Role};
use super::stdlib::{Overload, overloads, type_named};
use super::types::{Bindings, Type};

/// The one variable that an expression is given.
#[derive(Clone, Copy, Debug)]
pub(super) enum Variable {
    /// The value of a parameter.
    Value,
    /// A line of output.
    Output,
}

impl Variable {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Output => "output",
        }
    }

    /// The keys of the variable that expressions are meant to use.
    pub(super) fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Value => &[],
            Self::Output => &["data", "json", "stream"],
        }
    }

    fn kind(self) -> Type {
        match self {
            Self::Value => Type::String,
            Self::Output => Type::map(Type::String, Type::Dyn),
        }
    }

    /// What the variable is, for hints.
    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Value => "`value`, the parameter as a string",
            Self::Output => "`output`, a map with output.stream, output.data and output.json",
        }
    }
}

/// The type of the whole expression, or everything that is wrong with it.
pub(super) fn check(parsed: &Parsed, variable: Variable) -> Result<Type, Vec<Issue>> {
    let mut checker = Checker {
        variable,
        source: &parsed.source,
        locals: Vec::new(),
        bindings: Bindings::default(),
        planned: Vec::new(),
        mixed_numbers: false,
        issues: Vec::new(),
    };
    let result = checker.check(&parsed.tree);
    checker.plan();
    if checker.issues.is_empty() {
        Ok(checker.bindings.resolve_to_dyn(&result))
    } else {
        Err(checker.issues)
    }
}

struct Checker<'a> {
    variable: Variable,
    source: &'a SourceInfo,
    /// The variables of the macros around the current expression, the innermost last.
    locals: Vec<(&'a str, Type)>,
    bindings: Bindings,
    /// What to look at once the types are known.
    planned: Vec<(&'a IdedExpr, Planned<'a>)>,
    /// Whether numbers of different types compare with `<`: cel-go forgets to forbid it once it has entered a
    /// comprehension, in all that it checks afterwards, and so do we.
    mixed_numbers: bool,
    issues: Vec<Issue>,
}

/// A use of something that may turn out to be a type.
enum Planned<'a> {
    /// A macro variable and its type. One that stands for a type, as in `[int, string].exists(t, t == type(value))`,
    /// is taken for the name of a type by cel-go, which finds no such type.
    Local(&'a str, Type),
    /// An index, of that type, that no map can have as a key.
    Index(Type),
}

impl<'a> Checker<'a> {
    fn check(&mut self, node: &'a IdedExpr) -> Type {
        match &node.expr {
            Expr::Unspecified => Type::Error,
            Expr::Literal(literal) => literal_type(literal),
            Expr::Ident(name) => self.ident(node, name),
            Expr::Select(select) => self.select(node, select),
            Expr::Call(call) => self.call(node, call),
            Expr::List(list) => {
                let mut element = None;
                for item in &list.elements {
                    let t = self.check(item);
                    element = Some(self.join(element, t));
                }
                Type::list(element.unwrap_or_else(|| self.bindings.fresh()))
            }
            Expr::Map(map) => self.map(node, map.entries.iter().map(|entry| &entry.expr)),
            Expr::Struct(message) => self.message(node, &message.type_name),
            Expr::Comprehension(comprehension) => self.comprehension(node, comprehension),
        }
    }

    fn ident(&mut self, node: &'a IdedExpr, name: &'a str) -> Type {
        if let Some(found) = self.lookup(name) {
            if self.local(name).is_some() {
                self.planned
                    .push((node, Planned::Local(name, found.clone())));
            }
            return found;
        }
        self.report(
            node,
            &Problem::Undeclared {
                name,
                role: Role::Variable,
            },
        );
        Type::Error
    }

    /// A name's type. A leading dot skips the macro variables.
    fn lookup(&self, name: &str) -> Option<Type> {
        if let Some(t) = self.local(name) {
            return Some(t.clone());
        }
        let global = name.strip_prefix('.').unwrap_or(name);
        if global == self.variable.name() {
            Some(self.variable.kind())
        } else {
            type_named(global)
        }
    }

    fn local(&self, name: &str) -> Option<&Type> {
        self.locals
            .iter()
            .rev()
            .find(|(local, _)| *local == name)
            .map(|(_, t)| t)
    }

    /// Refuses what passes cel-go's checker and fails when it plans the evaluation.
    fn plan(&mut self) {
        if !self.issues.is_empty() {
            return;
        }
        for (node, planned) in std::mem::take(&mut self.planned) {
            match planned {
                Planned::Local(name, t) if matches!(self.bindings.resolve(&t), Type::Meta(_)) => {
                    self.report(node, &Problem::TypeVariable { name });
                }
                Planned::Local(..) => {}
                Planned::Index(t) => self.report(node, &Problem::NoKey { of: &t }),
            }
        }
    }

    fn select(&mut self, node: &'a IdedExpr, select: &'a SelectExpr) -> Type {
        if let Some(t) = self.qualified_type(node) {
            return t;
        }
        let operand = self.check(&select.operand);
        let t = match self.bindings.resolve(&operand) {
            Type::Map(entry) => entry.1.clone(),
            Type::Dyn | Type::Error => Type::Dyn,
            // a type still open becomes dyn, lest a later use pin it to something else
            open @ Type::Param(_) => {
                self.bindings.assign(&Type::Dyn, &open);
                Type::Dyn
            }
            of => {
                self.report(node, &Problem::NoFields { of: &of });
                Type::Dyn
            }
        };
        if select.test {
            Type::Bool
        } else {
            self.bindings.resolve(&t)
        }
    }

    /// The type that a dotted name spells: `google.protobuf.Timestamp`.
    fn qualified_type(&self, node: &IdedExpr) -> Option<Type> {
        let mut fields = Vec::new();
        let mut node = node;
        loop {
            match &node.expr {
                Expr::Select(select) if !select.test => {
                    fields.push(select.field.as_str());
                    node = &select.operand;
                }
                Expr::Ident(root) if self.local(root).is_none() => {
                    fields.push(root);
                    fields.reverse();
                    return type_named(&fields.join("."));
                }
                _ => return None,
            }
        }
    }

    fn call(&mut self, node: &'a IdedExpr, call: &'a CallExpr) -> Type {
        let arguments: Vec<Type> = call
            .args
            .iter()
            .map(|argument| self.check(argument))
            .collect();
        let receiver = call.target.as_deref().map(|target| self.check(target));
        let name = call.func_name.as_str();
        let Some(overloads) = overloads(name) else {
            self.report(
                node,
                &Problem::Undeclared {
                    name,
                    role: Role::Function,
                },
            );
            return Type::Error;
        };
        match (name, call.args.as_slice()) {
            ("_&&_" | "_||_", _) => return self.connective(call, &arguments),
            // cel-go fails when it plans to look up a key that no map can have
            ("_[_]", [_, key]) if is_never_a_key(key, &arguments[1]) => {
                self.planned
                    .push((node, Planned::Index(arguments[1].clone())));
            }
            _ => {}
        }
        let method = receiver.is_some();
        let types: Vec<Type> = receiver.into_iter().chain(arguments).collect();
        self.resolve_overload(overloads, &types, method)
            .unwrap_or_else(|| {
                let types: Vec<Type> = types
                    .iter()
                    .map(|t| self.bindings.resolve_to_dyn(t))
                    .collect();
                self.report(
                    node,
                    &Problem::NoOverload {
                        function: name,
                        types: &types,
                        method,
                    },
                );
                Type::Error
            })
    }

    /// `&&` and `||`, which report on each side by itself.
    fn connective(&mut self, call: &CallExpr, types: &[Type]) -> Type {
        let mut result = Type::Bool;
        for (argument, t) in call.args.iter().zip(types) {
            if !self.bindings.assign(t, &Type::Bool) {
                self.report(
                    argument,
                    &Problem::Mismatch {
                        wanted: &Type::Bool,
                        found: t,
                    },
                );
                result = Type::Error;
            }
        }
        result
    }

    /// The result type of the overloads that take `types`: that of the first, or `dyn` if there are several that
    /// disagree, as there can be with `dyn` arguments.
    fn resolve_overload(
        &mut self,
        overloads: &[Overload],
        types: &[Type],
        method: bool,
    ) -> Option<Type> {
        let mut result: Option<Type> = None;
        for overload in overloads {
            if overload.method != method || (overload.mixes_numbers() && !self.mixed_numbers) {
                continue;
            }
            let (arguments, returns) = overload.instantiate(&mut self.bindings);
            if !self.bindings.assign_all(types, &arguments) {
                continue;
            }
            let returns = self.bindings.resolve(&returns);
            result = Some(match result {
                Some(earlier) if earlier != returns => Type::Dyn,
                _ => returns,
            });
        }
        result
    }

    fn map(&mut self, node: &IdedExpr, entries: impl Iterator<Item = &'a EntryExpr>) -> Type {
        let (mut key, mut value) = (None, None);
        for entry in entries {
            let EntryExpr::MapEntry(entry) = entry else {
                continue;
            };
            let t = self.check(&entry.key);
            key = Some(self.join(key, t));
            let t = self.check(&entry.value);
            value = Some(self.join(value, t));
        }
        let key = key.unwrap_or_else(|| self.bindings.fresh());
        let value = value.unwrap_or_else(|| self.bindings.fresh());
        let map = Type::map(key, value);
        if self.bindings.resolve(&map).is_too_large() {
            self.report(node, &Problem::TypeTooLarge);
            return Type::Error;
        }
        map
    }

    /// The common type of the elements of a literal: `dyn` if they have none.
    fn join(&mut self, so_far: Option<Type>, next: Type) -> Type {
        match so_far {
            None => next,
            Some(so_far) if self.bindings.assign(&so_far, &next) => {
                Type::most_general(&so_far, &next)
            }
            Some(_) => Type::Dyn,
        }
    }

    fn message(&mut self, node: &IdedExpr, name: &str) -> Type {
        let known = name.trim_start_matches('.').starts_with("google.protobuf.");
        self.report(
            node,
            &if known {
                Problem::Message { name }
            } else {
                Problem::Undeclared {
                    name,
                    role: Role::Message,
                }
            },
        );
        Type::Error
    }

    fn comprehension(&mut self, node: &'a IdedExpr, comprehension: &'a ComprehensionExpr) -> Type {
        // the parser expands a macro that cel-go's standard macros do not have
        let name = "existsOne";
        if self.text_before(node).ends_with(name) {
            self.report(
                node,
                &Problem::Undeclared {
                    name,
                    role: Role::Function,
                },
            );
            return Type::Error;
        }
        let range = self.check(&comprehension.iter_range);
        let initial = self.check(&comprehension.accu_init);
        let element = self.element_type(&comprehension.iter_range, &range);
        self.mixed_numbers = true;
        self.locals.push((&comprehension.accu_var, initial.clone()));
        self.locals.push((&comprehension.iter_var, element));
        let condition = self.check(&comprehension.loop_cond);
        self.expect(&comprehension.loop_cond, &Type::Bool, &condition);
        let step = self.check(&comprehension.loop_step);
        self.expect(&comprehension.loop_step, &initial, &step);
        self.locals.pop();
        let result = self.check(&comprehension.result);
        self.locals.pop();
        self.bindings.resolve(&result)
    }

    /// What a macro's variable takes on when the macro runs over `range`.
    fn element_type(&mut self, node: &IdedExpr, range: &Type) -> Type {
        match self.bindings.resolve(range) {
            Type::List(element) => (*element).clone(),
            Type::Map(entry) => entry.0.clone(),
            open @ (Type::Dyn | Type::Error | Type::Param(_)) => {
                self.bindings.assign(&Type::Dyn, &open);
                Type::Dyn
            }
            of => {
                self.report(node, &Problem::NotIterable { of: &of });
                Type::Error
            }
        }
    }

    fn expect(&mut self, node: &IdedExpr, wanted: &Type, found: &Type) {
        if !self.bindings.assign(wanted, found) {
            self.report(node, &Problem::Mismatch { wanted, found });
        }
    }

    /// The expression up to where `node` is placed, which for a call is its bracket.
    fn text_before(&self, node: &IdedExpr) -> &str {
        let offset = self
            .source
            .offset_for(node.id)
            .map_or(0, |(start, _)| start as usize);
        self.source
            .source
            .get(..offset)
            .unwrap_or_default()
            .trim_end()
    }

    fn report(&mut self, node: &IdedExpr, problem: &Problem<'_>) {
        let text = &self.source.source;
        let mut offset = self
            .source
            .offset_for(node.id)
            .map_or(0, |(start, _)| start as usize);
        if is_negative(node) {
            // the tree has the place of the digits; the sign stands before them
            offset = text
                .get(..offset)
                .and_then(|before| before.rfind('-'))
                .unwrap_or(offset);
        }
        let (line, column) = position(text, offset);
        self.issues.push(Issue {
            line,
            column,
            message: problem.to_string(),
            hint: problem.hint(self.variable),
        });
    }
}

fn literal_type(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::String,
        LiteralValue::UInt(_) => Type::Uint,
    }
}

/// Whether an index is a constant that no map can have as a key.
fn is_never_a_key(key: &IdedExpr, t: &Type) -> bool {
    match &key.expr {
        Expr::Literal(LiteralValue::Null | LiteralValue::Bytes(_)) => true,
        Expr::Ident(_) | Expr::Select(_) => matches!(t, Type::Meta(_)),
        _ => false,
    }
}

fn is_negative(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Literal(LiteralValue::Int(n)) => *n.inner() < 0,
        Expr::Literal(LiteralValue::Double(d)) => d.inner().is_sign_negative(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn checked(text: &str, variable: Variable) -> Result<Type, Vec<Issue>> {
        check(&parse(text).unwrap(), variable)
    }

    #[track_caller]
    fn assert_type(text: &str, expected: &str) {
        let t =
            checked(text, Variable::Value).unwrap_or_else(|issues| panic!("{text}: {issues:?}"));
        assert_eq!(t.to_string(), expected, "{text}");
    }

    #[track_caller]
    fn assert_hint(variable: Variable, text: &str, expected: &str) {
        let issues = checked(text, variable).expect_err(text);
        assert!(
            issues[0].hint.contains(expected),
            "{text}: {}",
            issues[0].hint
        );
    }

    #[test]
    fn types_are_inferred_as_in_cel_go() {
        for (text, expected) in [
            ("value", "string"),
            ("[]", "list(dyn)"),
            ("[1, 2]", "list(int)"),
            ("[1, 'a']", "list(dyn)"),
            ("[[], [1]]", "list(list(int))"),
            ("[null, timestamp(0)]", "list(timestamp)"),
            ("{'a': 1, 'b': 2u}", "map(string, dyn)"),
            ("{}", "map(dyn, dyn)"),
            ("{'a': {'b': 1}}.a.b", "int"),
            ("[1, 2].map(x, x * 2)", "list(int)"),
            ("[1].map(x, string(x))", "list(string)"),
            ("{'a': 1}.filter(k, true)", "list(string)"),
            ("[].map(x, x + 1)", "list(int)"),
            ("true ? [] : [1]", "list(int)"),
            ("true ? dyn(1) : 'a'", "dyn"),
            ("true ? null : duration('1s')", "null"),
            ("dyn(1) + 1", "int"),
            ("dyn(1) + dyn(2)", "dyn"),
            ("type(1)", "type(int)"),
            ("type", "type(type)"),
            ("list", "type(list(dyn))"),
            ("google.protobuf.Timestamp", "type(timestamp)"),
            ("timestamp(0) - timestamp(1)", "duration"),
            ("[1, 2][0]", "int"),
            ("{1: 'a'}[1]", "string"),
            ("dyn({}).a.b", "dyn"),
        ] {
            assert_type(text, expected);
        }
    }

    #[test]
    fn macro_variables_hide_others_inside_their_macro_only() {
        assert_type("[1].map(value, value)", "list(int)");
        assert_type("[1].map(value, .value)", "list(string)");
        assert_type("[1].map(int, int)", "list(int)");
        assert_type("[[1]].map(x, x.map(x, string(x)))", "list(list(string))");
        let issues = checked("[1].all(x, x > 0) && x > 0", Variable::Value).unwrap_err();
        assert_eq!(issues.len(), 1);
        assert_eq!((issues[0].line, issues[0].column), (1, 22));
    }

    #[test]
    fn every_issue_is_reported_at_its_place() {
        let issues = checked("foo(1) ||\n -1 || 'é'.bar()", Variable::Value).unwrap_err();
        let found: Vec<_> = issues
            .iter()
            .map(|issue| (issue.line, issue.column, issue.message.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (1, 4, "undeclared reference to 'foo' (in container '')"),
                (2, 2, "expected type 'bool' but found 'int'"),
                (2, 15, "undeclared reference to 'bar' (in container '')"),
            ]
        );
    }

    #[test]
    fn numbers_mix_once_a_macro_was_entered() {
        assert!(checked("1 < 2.0", Variable::Value).is_err());
        assert!(checked("1 < 2.0 && [1].exists(x, x > 0)", Variable::Value).is_err());
        assert_type("[1].exists(x, x > 0) && 1 < 2.0", "bool");
        assert_type("[1].exists(x, x < 2u)", "bool");
    }

    #[test]
    fn doubling_types_end_in_an_error_and_not_in_a_hang() {
        let step = |n: usize| format!(".map(x{n}, {{x{n}: x{n}}})");
        let steps = (0..60).map(step).collect::<Vec<_>>().concat();
        let issues = checked(&format!("[1]{steps}"), Variable::Value).unwrap_err();
        assert_eq!(
            issues[0].message,
            "the type of this map is too large to check"
        );
    }

    #[test]
    fn hints_say_what_to_write() {
        for (text, hint) in [
            ("Value == ''", "write `value`"),
            ("foo == 1", "text stands in quotes: 'foo'"),
            ("value.contain('a')", "did you mean `contains`?"),
            ("value.startswith('a')", "did you mean `startsWith`?"),
            ("value.split(',')", "no extensions"),
            ("value > 5", "int(x)"),
            ("value.contains(5)", "string.contains(string)"),
            ("1 == 1.0", "write 1.0"),
            ("value[0]", "only lists and maps are indexed"),
            ("'a' in value", "contains()"),
            ("value != null", "never null"),
            ("value ? 1 : 2", "write a bool before the `?`"),
            ("value && true", "make each side one"),
            ("value.x", "`value`, the parameter"),
            ("has(value.x)", "only maps have fields"),
            ("value.all(c, true)", "run over lists and maps"),
            ("[1].existsOne(x, true)", "did you mean `exists_one`?"),
            ("google.protobuf.Int64Value{value: 1}", "use plain values"),
            ("[1] - [2]", "not defined on these types"),
            ("size(1)", "size(list)"),
        ] {
            assert_hint(Variable::Value, text, hint);
        }
        assert_hint(Variable::Output, "data == ''", "write `output.data`");
        assert_hint(
            Variable::Output,
            "line == ''",
            "output.stream, output.data and output.json",
        );
        assert_hint(Variable::Output, "output.json[null]", "keys of a map");
        assert_hint(
            Variable::Value,
            "[int].exists(t, t == int)",
            "type(x) == int",
        );
    }
}
