//! From text to syntax tree: the `cel` crate's parser behind limits that it does not have.
//!
//! The parser and everything that later walks the tree recurse, so the depth of the tree is bounded before it is
//! built, by counting brackets and operators, and again when it stands. The bounds are cel-go's: 100,000
//! characters, brackets 250 deep, operators 250 deep.

use cel::common::ast::{CallExpr, Expr, IdedExpr, SourceInfo};
use cel::parser::{ParseError, Parser};

use super::error::{Issue, position};
use super::scan;
use super::walk::children;

/// cel-go's limit on the length of an expression, in characters.
const LONGEST: usize = 100_000;

/// cel-go's limit on nesting: brackets in brackets, and operators applied to the results of operators.
pub(super) const DEEPEST: usize = 250;

/// The parser's own limit, out of the way: it counts less exactly and reports without a position.
const PARSER_LIMIT: u16 = 4_000;

const HINT_SYNTAX: &str = "write a CEL expression, such as \
    `size(value) > 0 && value.matches('^[a-z]+$')`; text stands in quotes, and the operators are \
    == != < <= > >= && || ! + - * / % in ?:";
const HINT_LIMIT: &str = "shorten the expression: `x in ['a', 'b']` replaces a chain of \
    comparisons, `x.matches('a|b')` a chain of text tests";

/// A parsed expression: its tree, and where each node stands in the text.
pub(super) struct Parsed {
    pub(super) tree: IdedExpr,
    pub(super) source: SourceInfo,
}

/// Parses `text`, or says what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Parsed, Vec<Issue>> {
    let length = text.chars().count();
    if length > LONGEST {
        return Err(limit(format!(
            "expression code point size exceeds limit: size: {length}, limit {LONGEST}"
        )));
    }
    if !scan::is_within_bounds(text) {
        return Err(too_deep());
    }
    let (tree, source) = Parser::new()
        .max_recursion_depth(PARSER_LIMIT)
        .parse_with_source_info(text)
        .map_err(|errors| issues(text, &errors.errors))?;
    if operator_depth(&tree) > DEEPEST {
        return Err(limit("max recursion depth exceeded".to_owned()));
    }
    Ok(Parsed { tree, source })
}

fn too_deep() -> Vec<Issue> {
    limit(format!("expression recursion limit exceeded: {DEEPEST}"))
}

fn limit(message: String) -> Vec<Issue> {
    vec![Issue {
        line: 1,
        column: 1,
        message,
        hint: HINT_LIMIT.to_owned(),
    }]
}

/// The parser's errors as issues.
fn issues(text: &str, errors: &[ParseError]) -> Vec<Issue> {
    // about a part that is missing, the parser complains a second time, in terms of its grammar
    let is_echo =
        |error: &&ParseError| error.msg.starts_with("Incomplete") || error.msg.starts_with("No `");
    let echoes = errors.iter().filter(is_echo).count();
    let wanted = |error: &&ParseError| echoes == errors.len() || !is_echo(error);
    errors
        .iter()
        .filter(wanted)
        .map(|error| issue(text, error))
        .collect()
}

fn issue(text: &str, error: &ParseError) -> Issue {
    let line = usize::try_from(error.pos.0).unwrap_or(1).max(1);
    let mut column = usize::try_from(error.pos.1).unwrap_or(1).max(1);
    if is_from_macro(&error.msg) {
        // these give the column in bytes, all others in characters
        let line_start = text
            .split('\n')
            .take(line - 1)
            .map(|line| line.len() + 1)
            .sum::<usize>();
        column = position(text, line_start + column - 1).1;
    }
    let message = in_cel_gos_words(&error.msg);
    let hint = hint(&message).to_owned();
    Issue {
        line,
        column,
        message,
        hint,
    }
}

/// The parser's message as cel-go has it, where the two are not the same anyway.
fn in_cel_gos_words(message: &str) -> String {
    if let Some((problem, _)) = message.split_once(" expecting {<EOF>, ") {
        // any operator would do, but what is missing is the end
        return format!("{problem} expecting <EOF>");
    }
    if let Some((problem, expected)) = message.split_once(" expecting {'==', ")
        && let Some(end) = ["':'", "')'", "']'", "'}'"]
            .into_iter()
            .find(|end| expected.contains(end))
    {
        return format!("{problem} expecting {end}");
    }
    if let Some(word) = message.strip_prefix("Syntax error: no viable alternative at input '.")
        && matches!(word, "true'" | "false'" | "null'")
    {
        return format!("Syntax error: mismatched input '{word} expecting IDENTIFIER");
    }
    if message.starts_with("invalid string literal: InvalidUnicode") {
        return "invalid unicode code point".to_owned();
    }
    if message.starts_with("invalid string literal") || message.starts_with("invalid bytes literal")
    {
        return "unable to unescape string".to_owned();
    }
    message.to_owned()
}

fn is_from_macro(message: &str) -> bool {
    message == "invalid argument to has() macro" || message == "argument must be a simple name"
}

fn hint(message: &str) -> &'static str {
    if message.contains("has() macro") {
        "has() takes a field: has(output.json.level)"
    } else if message.contains("must be a simple name") {
        "the first argument of a macro names a new variable: [1, 2].exists(x, x > 1)"
    } else if message.contains("reserved identifier") {
        "this word is reserved; a key of that name is reached as map['word'] or map.word"
    } else if message.contains("unsupported syntax") {
        "optional syntax is not available; test first, with has(map.key) or 'key' in map"
    } else if message.contains("int literal") {
        "integers have 64 bits; write a larger number as a double, with a decimal point"
    } else if message.contains("error at: ''") || message.contains("error at: '\"") {
        "close the quotes; a backslash inside them is written \\\\, or use a raw string: r'\\d+'"
    } else {
        HINT_SYNTAX
    }
}

/// How deep operators, selections and method calls are nested, as cel-go's parser counts it: lists, function calls
/// and the balanced `&&` and `||` add nothing.
fn operator_depth(tree: &IdedExpr) -> usize {
    let own = match &tree.expr {
        Expr::Call(call) => usize::from(nests(call)),
        Expr::Select(_) | Expr::Comprehension(_) => 1,
        _ => 0,
    };
    own + children(tree)
        .into_iter()
        .map(operator_depth)
        .max()
        .unwrap_or(0)
}

fn nests(call: &CallExpr) -> bool {
    let name = call.func_name.as_str();
    let is_operator = name.starts_with('_') || name == "@in";
    // what a macro is made of was not written
    let is_written = !call
        .args
        .iter()
        .any(|argument| matches!(&argument.expr, Expr::Ident(name) if name == "@result"));
    call.target.is_some() || (is_operator && is_written && name != "_&&_" && name != "_||_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_issue(text: &str) -> Issue {
        parse(text).err().expect(text).remove(0)
    }

    #[test]
    fn syntax_errors_have_cel_gos_words_and_place() {
        let issue = first_issue("(value");
        assert_eq!((issue.line, issue.column), (1, 7));
        assert_eq!(issue.message, "Syntax error: missing ')' at '<EOF>'");
        let issue = first_issue("true &&\n if");
        assert_eq!((issue.line, issue.column), (2, 2));
        assert_eq!(issue.message, "reserved identifier: if");
    }

    #[test]
    fn macro_errors_count_columns_in_characters() {
        let issue = first_issue("'ééé' == '' &&\n'éé' == '' && has(value)");
        assert_eq!((issue.line, issue.column), (2, 19));
    }

    #[test]
    fn extension_syntax_is_refused() {
        for text in [
            "value.?x",
            "value[?0]",
            "[?value]",
            "{?'a': value}",
            "value.`a-b`",
        ] {
            assert!(
                first_issue(text).message.contains("unsupported syntax"),
                "{text}"
            );
        }
    }

    #[test]
    fn errors_speak_of_the_language_and_not_of_the_parser() {
        let messages = |text: &str| -> Vec<String> {
            parse(text)
                .err()
                .expect(text)
                .into_iter()
                .map(|issue| issue.message)
                .collect()
        };
        assert_eq!(
            messages("true ? 1"),
            ["Syntax error: mismatched input '<EOF>' expecting ':'"]
        );
        assert_eq!(
            messages("size(0nt(1"),
            ["Syntax error: mismatched input 'nt' expecting ')'"]
        );
        assert_eq!(
            messages("value and true"),
            ["Syntax error: mismatched input 'and' expecting <EOF>"]
        );
        assert_eq!(
            messages("{}.true"),
            ["Syntax error: mismatched input 'true' expecting IDENTIFIER"]
        );
        assert_eq!(messages(r"'\ud800'"), ["invalid unicode code point"]);
        assert_eq!(messages(r"b'\u0041'"), ["unable to unescape string"]);
    }

    #[test]
    fn nesting_is_bounded_where_cel_go_bounds_it() {
        let chain = |n: usize| format!("1{}", "+1".repeat(n));
        assert!(parse(&chain(250)).is_ok());
        assert_eq!(
            first_issue(&chain(251)).message,
            "max recursion depth exceeded"
        );
        let brackets = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
        assert_eq!(
            first_issue(&brackets(250)).message,
            "expression recursion limit exceeded: 250"
        );
        let macros = |n: usize| format!("[1]{}", ".map(x,x)".repeat(n));
        assert!(parse(&macros(20)).is_ok());
        assert!(parse(&vec!["true"; 500].join(" && ")).is_ok());
    }

    #[test]
    fn length_is_bounded() {
        let issue = first_issue(&format!("'{}'", "é".repeat(100_000)));
        assert_eq!(
            issue.message,
            "expression code point size exceeds limit: size: 100002, limit 100000"
        );
    }
}
