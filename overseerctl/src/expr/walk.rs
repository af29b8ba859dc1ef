//! Going over the `cel` crate's syntax tree without regard to what the nodes mean.

use cel::common::ast::{EntryExpr, Expr, IdedExpr};

/// The expressions that `node` is made of, in the order they were written.
pub(super) fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map
            .entries
            .iter()
            .flat_map(|entry| parts(&entry.expr))
            .collect(),
        Expr::Struct(message) => message
            .entries
            .iter()
            .flat_map(|entry| parts(&entry.expr))
            .collect(),
        Expr::Comprehension(loop_) => {
            vec![
                &loop_.iter_range,
                &loop_.accu_init,
                &loop_.loop_cond,
                &loop_.loop_step,
                &loop_.result,
            ]
        }
    }
}

/// [`children`], to be changed.
pub(super) fn children_mut(node: &mut IdedExpr) -> Vec<&mut IdedExpr> {
    match &mut node.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call
            .target
            .as_deref_mut()
            .into_iter()
            .chain(&mut call.args)
            .collect(),
        Expr::Select(select) => vec![&mut select.operand],
        Expr::List(list) => list.elements.iter_mut().collect(),
        Expr::Map(map) => map
            .entries
            .iter_mut()
            .flat_map(|entry| parts_mut(&mut entry.expr))
            .collect(),
        Expr::Struct(message) => message
            .entries
            .iter_mut()
            .flat_map(|entry| parts_mut(&mut entry.expr))
            .collect(),
        Expr::Comprehension(loop_) => vec![
            &mut loop_.iter_range,
            &mut loop_.accu_init,
            &mut loop_.loop_cond,
            &mut loop_.loop_step,
            &mut loop_.result,
        ],
    }
}

fn parts_mut(entry: &mut EntryExpr) -> Vec<&mut IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&mut field.value],
        EntryExpr::MapEntry(pair) => vec![&mut pair.key, &mut pair.value],
    }
}

fn parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(pair) => vec![&pair.key, &pair.value],
    }
}

/// How many nodes lie on the longest way from `node` to a leaf, both included.
pub(super) fn depth(node: &IdedExpr) -> usize {
    1 + children(node).into_iter().map(depth).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> IdedExpr {
        cel::parser::Parser::new().parse(text).unwrap()
    }

    #[test]
    fn depth_is_the_longest_way_down() {
        assert_eq!(depth(&tree("1")), 1);
        assert_eq!(depth(&tree("a.b.c")), 3);
        assert_eq!(depth(&tree("[1, [2, 3]]")), 3);
        assert_eq!(depth(&tree("{1: f(x)}")), 3);
        // range, `@result || x` and its `x`
        assert_eq!(depth(&tree("a.exists(x, x)")), 4);
    }
}
