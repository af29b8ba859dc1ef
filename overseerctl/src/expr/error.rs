//! What is wrong with an expression, where, and how to mend it; finding that out happens elsewhere.
//!
//! [`ExprError`] prints as cel-go prints its issues, because that text is what users of the format know and what
//! search engines find:
//!
//! ```text
//! ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')
//!  | foo == 1
//!  | ^
//! ```

use std::fmt;

/// Past this many issues the rest is only counted.
const MOST_ISSUES: usize = 100;

/// A source line longer than this many bytes is not quoted.
const LONGEST_SNIPPET: usize = 16_384;

/// An expression that cannot be used: the expression and everything found wrong with it, in order of position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    expression: String,
    issues: Vec<Issue>,
}

/// One thing wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The line in the expression, from 1.
    pub line: usize,
    /// The column in that line, in characters from 1.
    pub column: usize,
    /// What is wrong, in cel-go's words where it has words for it.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl ExprError {
    pub(super) fn new(expression: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| (issue.line, issue.column));
        Self {
            expression: expression.to_owned(),
            issues,
        }
    }

    /// The expression as it was written.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Everything found wrong, by position; never empty.
    pub fn issues(&self) -> &[Issue] {
        &self.issues
    }

    /// The way out of the first issue.
    pub fn hint(&self) -> &str {
        self.issues.first().map_or("", |issue| issue.hint.as_str())
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.issues.iter().take(MOST_ISSUES).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(
                f,
                "ERROR: <input>:{}:{}: {}",
                issue.line, issue.column, issue.message
            )?;
            write_snippet(f, &self.expression, issue)?;
        }
        if self.issues.len() > MOST_ISSUES {
            write!(
                f,
                "\n{} more errors were truncated",
                self.issues.len() - MOST_ISSUES
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for ExprError {}

/// The line of the issue and a caret below its column. Below characters of more than one byte stand full-width
/// dots and carets, which keep the columns aligned for scripts that are written wide.
fn write_snippet(f: &mut fmt::Formatter<'_>, expression: &str, issue: &Issue) -> fmt::Result {
    let Some(line) = expression.split('\n').nth(issue.line - 1) else {
        return Ok(());
    };
    if expression.is_empty() || line.len() > LONGEST_SNIPPET {
        return Ok(());
    }
    let line = line.replace('\t', " ");
    write!(f, "\n | {line}\n | ")?;
    let mut rest = line.chars();
    for c in rest.by_ref().take(issue.column - 1) {
        f.write_str(if c.is_ascii() { "." } else { "\u{ff0e}" })?;
    }
    f.write_str(if rest.next().is_none_or(|c| c.is_ascii()) {
        "^"
    } else {
        "\u{ff3e}"
    })
}

/// Where the byte at `offset` of `text` is: line and column from 1, the column in characters. An offset beyond the
/// end means the end.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let line = before.split(|byte| *byte == b'\n').count();
    // every byte but the continuation bytes of UTF-8 begins a character
    let column = before[line_start..]
        .iter()
        .filter(|byte| **byte & 0xc0 != 0x80)
        .count()
        + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(line: usize, column: usize, message: &str) -> Issue {
        Issue {
            line,
            column,
            message: message.to_owned(),
            hint: format!("mend {message}"),
        }
    }

    #[test]
    fn an_error_prints_like_cel_go() {
        let error = ExprError::new(
            "foo == 1",
            vec![issue(
                1,
                1,
                "undeclared reference to 'foo' (in container '')",
            )],
        );
        assert_eq!(
            error.to_string(),
            "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo == 1\n | ^"
        );
    }

    #[test]
    fn issues_come_in_order_of_position_with_tabs_and_wide_characters_aligned() {
        let error = ExprError::new(
            "'é' == foo && \n\t bar",
            vec![issue(2, 3, "second"), issue(1, 8, "first")],
        );
        assert_eq!(
            error.to_string(),
            "ERROR: <input>:1:8: first\n | 'é' == foo && \n | .\u{ff0e}.....^\n\
             ERROR: <input>:2:3: second\n |   bar\n | ..^"
        );
        assert_eq!(error.hint(), "mend first");
    }

    #[test]
    fn issues_beyond_the_limit_are_counted() {
        let error = ExprError::new("x", (0..120).map(|n| issue(1, n + 1, "bad")).collect());
        assert!(
            error
                .to_string()
                .ends_with("\n20 more errors were truncated")
        );
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(position("'é' == foo", 8), (1, 8));
        assert_eq!(position("a\nbc", 3), (2, 2));
        assert_eq!(position("a", 99), (1, 2));
        assert_eq!(position("", 0), (1, 1));
    }
}
