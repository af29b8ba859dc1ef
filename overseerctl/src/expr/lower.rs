//! From the tree that was checked to the tree that is run: the same expression, in terms of the functions that
//! behave as cel-go's do, with its patterns compiled.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr};

use super::functions::{ADD, GET, HAS, IN, replacement};
use super::pattern::Pattern;
use super::walk::children_mut;

/// Rewrites `tree` for the evaluator. The patterns that it took out of the tree are read as variables `@0`, `@1`, ….
pub(super) fn lower(tree: &mut IdedExpr) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    rewrite(tree, &mut patterns);
    patterns
}

/// The pattern that the variable `name` stands for.
pub(super) fn pattern<'a>(patterns: &'a [Pattern], name: &str) -> Option<&'a Pattern> {
    patterns.get(name.strip_prefix('@')?.parse::<usize>().ok()?)
}

fn rewrite(node: &mut IdedExpr, patterns: &mut Vec<Pattern>) {
    for child in children_mut(node) {
        rewrite(child, patterns);
    }
    let expr = std::mem::take(&mut node.expr);
    node.expr = match expr {
        Expr::Select(select) if select.test => {
            let field = literal(node.id, LiteralValue::String(select.field.into()));
            call(HAS, vec![*select.operand, field])
        }
        Expr::Call(original) => rewrite_call(node.id, original, patterns),
        other => other,
    };
}

fn rewrite_call(id: u64, mut original: CallExpr, patterns: &mut Vec<Pattern>) -> Expr {
    let name = original.func_name.trim_start_matches('.').to_owned();
    match name.as_str() {
        "@in" => call(IN, original.args),
        "_+_" if !is_macro_step(&original.args) => call(ADD, original.args),
        "_[_]" => index(original),
        "matches" => {
            let mut arguments: Vec<_> = original
                .target
                .take()
                .map(|text| *text)
                .into_iter()
                .collect();
            arguments.append(&mut original.args);
            if let Some(argument) = arguments.get_mut(1) {
                compile(argument, patterns);
            }
            call("@matches", arguments)
        }
        _ if name.starts_with("get") && original.target.is_some() => {
            let mut arguments = vec![literal(id, LiteralValue::String(name.into()))];
            arguments.extend(original.target.map(|receiver| *receiver));
            arguments.append(&mut original.args);
            call(GET, arguments)
        }
        _ => match replacement(&name) {
            Some(replacement) => call(replacement, original.args),
            None => Expr::Call(original),
        },
    }
}

/// Whether this is the sum by which `map` and `filter` collect their results, which the evaluator knows by its form.
fn is_macro_step(arguments: &[IdedExpr]) -> bool {
    matches!(arguments.first(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if name == "@result")
}

/// `x['key']` as `x.key`, which finds the parts of a variable without building the whole of it.
fn index(mut original: CallExpr) -> Expr {
    let key = match original.args.as_slice() {
        [
            _,
            IdedExpr {
                expr: Expr::Literal(LiteralValue::String(key)),
                ..
            },
        ] if !key.contains('.') => key.to_string(),
        _ => return Expr::Call(original),
    };
    Expr::Select(SelectExpr {
        operand: Box::new(original.args.swap_remove(0)),
        field: key,
        test: false,
    })
}

/// Replaces a literal by the pattern it stands for.
fn compile(argument: &mut IdedExpr, patterns: &mut Vec<Pattern>) {
    if let Expr::Literal(LiteralValue::String(text)) = &argument.expr {
        let compiled = Pattern::new(text);
        argument.expr = Expr::Ident(format!("@{}", patterns.len()));
        patterns.push(compiled);
    }
}

fn call(name: &str, args: Vec<IdedExpr>) -> Expr {
    Expr::Call(CallExpr {
        func_name: name.to_owned(),
        target: None,
        args,
    })
}

fn literal(id: u64, value: LiteralValue) -> IdedExpr {
    IdedExpr {
        id,
        expr: Expr::Literal(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(text: &str) -> (String, Vec<Pattern>) {
        let mut tree = cel::parser::Parser::new().parse(text).unwrap();
        let patterns = lower(&mut tree);
        (format!("{tree:?}"), patterns)
    }

    #[test]
    fn literal_patterns_are_compiled_once() {
        let (tree, patterns) =
            lowered("value.matches('a+') || matches(value, 'b') || value.matches(value)");
        assert_eq!(patterns.len(), 2);
        assert!(pattern(&patterns, "@0").unwrap().is_match("caat").unwrap());
        assert!(!pattern(&patterns, "@1").unwrap().is_match("caat").unwrap());
        assert!(tree.contains(r#"Ident("@0")"#) && tree.contains(r#"Ident("@1")"#));
        assert!(pattern(&patterns, "@2").is_none());
        assert!(pattern(&patterns, "value").is_none());
    }

    #[test]
    fn functions_give_way_to_those_of_cel_go() {
        let (tree, _) = lowered("has(a.b) && .int('1') in [1] && t.getHours('UTC') + 1 == 2");
        for name in ["@has", "@int", "@within", "@get", "@plus"] {
            assert!(
                tree.contains(&format!("func_name: {name:?}")),
                "{name} in {tree}"
            );
        }
    }

    #[test]
    fn an_index_by_name_becomes_a_selection() {
        assert!(lowered("output['data']").0.contains("Select"));
        assert!(!lowered("output['a.b']").0.contains("Select"));
        assert!(!lowered("output[x]").0.contains("Select"));
    }

    #[test]
    fn macros_keep_the_form_that_the_evaluator_knows() {
        assert!(!lowered("[1].map(x, x)").0.contains("@plus"));
    }
}
