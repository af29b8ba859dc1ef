//! A look at the text of an expression before the parser sees it: how deep can the tree become?
//!
//! The parser recurses for every bracket, and what walks its tree recurses for every operator as well. This scan
//! counts both without recursion. It never says that a deep expression is shallow; where it cannot follow the
//! text, in a string that does not end, it counts everything that looks like a bracket.

use super::parse::DEEPEST;

/// How many operators may stand in a row, those around the brackets included. Larger than [`DEEPEST`], since the
/// scan cannot tell `a*b + c*d` (two deep) from `a*b*c*d` (three deep) and must not refuse what is allowed.
const LONGEST_CHAIN: usize = 2_000;

/// Whether brackets and conditionals nest no deeper than [`DEEPEST`] and operators chain no longer than
/// [`LONGEST_CHAIN`].
pub(super) fn is_within_bounds(text: &str) -> bool {
    let mut nesting = Nesting::default();
    let mut tokens = Tokens {
        rest: text,
        after_operand: false,
    };
    loop {
        match tokens.next() {
            Ok(Some(token)) if nesting.add(&token) => {}
            Ok(Some(_)) => return false,
            Ok(None) => return true,
            Err(Lost) => {
                return count_of(text, "([{?") < DEEPEST
                    && count_of(text, ".+-*/%=<>:([{") <= LONGEST_CHAIN;
            }
        }
    }
}

fn count_of(text: &str, characters: &str) -> usize {
    text.chars().filter(|c| characters.contains(*c)).count()
}

/// Where the scan is: the open brackets, and the operators that apply to each other there.
#[derive(Default)]
struct Nesting {
    /// What stands around each open bracket, the outermost first.
    levels: Vec<Level>,
    /// What stands behind the innermost open bracket.
    current: Level,
    /// The operators of all levels together.
    operators: usize,
    /// The conditionals of all levels together.
    conditionals: usize,
}

#[derive(Clone, Copy, Default)]
struct Level {
    /// The operators since the last separator.
    operators: usize,
    /// The conditionals whose `?` was read and whose `:` was not.
    undecided: usize,
    /// The conditionals whose last branch has begun: everything up to the end of the level is part of it.
    conditionals: usize,
}

impl Nesting {
    /// Takes in the next token; `false` if that makes the expression too deep.
    fn add(&mut self, token: &Token) -> bool {
        // empty brackets are not an expression in an expression
        if *token != Token::Close && self.levels.len() + self.conditionals >= DEEPEST {
            return false;
        }
        match token {
            Token::Open { suffix } => {
                self.operators += usize::from(*suffix);
                self.current.operators += usize::from(*suffix);
                self.levels.push(std::mem::take(&mut self.current));
            }
            Token::Close => {
                self.reset(true);
                // a stray bracket is the parser's business
                self.current = self.levels.pop().unwrap_or_default();
            }
            Token::Operator => {
                self.operators += 1;
                self.current.operators += 1;
            }
            Token::Connective => self.reset(false),
            Token::Question => {
                self.reset(false);
                self.current.undecided += 1;
            }
            // or else a colon of a map
            Token::Colon if self.current.undecided > 0 => {
                self.reset(false);
                self.current.undecided -= 1;
                self.current.conditionals += 1;
                self.conditionals += 1;
            }
            Token::Comma | Token::Colon => self.reset(true),
            Token::Operand => {}
        }
        self.operators <= LONGEST_CHAIN
    }

    /// Ends a chain of operators, and with it the conditionals if the whole expression ends.
    fn reset(&mut self, expression: bool) {
        self.operators -= self.current.operators;
        self.current.operators = 0;
        if expression {
            self.conditionals -= self.current.conditionals;
            self.current = Level::default();
        }
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    /// A bracket; a suffix if it calls or indexes what stands before it.
    Open {
        suffix: bool,
    },
    Close,
    /// An operator whose result the next one takes, or a selection.
    Operator,
    /// `&&` and `||`, whose operands lie side by side.
    Connective,
    Question,
    Colon,
    Comma,
    /// Names, literals and prefix operators.
    Operand,
}

/// The text is not what the scan takes it for.
struct Lost;

struct Tokens<'a> {
    rest: &'a str,
    after_operand: bool,
}

impl Tokens<'_> {
    fn next(&mut self) -> Result<Option<Token>, Lost> {
        self.skip_blanks();
        let Some(c) = self.rest.chars().next() else {
            return Ok(None);
        };
        let token = match c {
            '"' | '\'' => self.string(false)?,
            'a'..='z' | 'A'..='Z' | '_' | '0'..='9' => self.word()?,
            _ => self.punctuation(c),
        };
        self.after_operand = matches!(token, Token::Operand | Token::Close);
        Ok(Some(token))
    }

    fn skip_blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with("//") {
                return;
            }
            self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    /// A name, a number, or a string with a prefix.
    fn word(&mut self) -> Result<Token, Lost> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let (word, after) = self.rest.split_at(end);
        let raw = matches!(word, "r" | "R" | "br" | "bR" | "Br" | "BR");
        self.rest = after;
        if after.starts_with(['"', '\'']) && (raw || matches!(word, "b" | "B")) {
            return self.string(raw);
        }
        Ok(if word == "in" && self.after_operand {
            Token::Operator
        } else {
            Token::Operand
        })
    }

    /// A string from its first quote to its last.
    fn string(&mut self, raw: bool) -> Result<Token, Lost> {
        let quote = &self.rest[..1];
        let triple = quote.repeat(3);
        let long = self.rest.starts_with(&triple);
        let delimiter = if long { triple.as_str() } else { quote };
        let mut at = delimiter.len();
        loop {
            let rest = &self.rest[at..];
            if rest.starts_with(delimiter) {
                self.advance(at + delimiter.len());
                return Ok(Token::Operand);
            }
            at += match rest.as_bytes() {
                [] => return Err(Lost),
                [b'\n' | b'\r', ..] if !long => return Err(Lost),
                [b'\\', escape @ ..] if !raw => 1 + escape_length(escape).ok_or(Lost)?,
                _ => rest.chars().next().map_or(1, char::len_utf8),
            };
        }
    }

    fn punctuation(&mut self, c: char) -> Token {
        let pair = self.rest.get(..2).unwrap_or_default();
        let (token, length) = match (c, pair) {
            (_, "&&" | "||") => (Token::Connective, 2),
            (_, "==" | "!=" | "<=" | ">=") => (Token::Operator, 2),
            ('(' | '[' | '{', _) => (
                Token::Open {
                    suffix: self.after_operand,
                },
                1,
            ),
            (')' | ']' | '}', _) => (Token::Close, 1),
            (',', _) => (Token::Comma, 1),
            (':', _) => (Token::Colon, 1),
            ('?', _) => (Token::Question, 1),
            ('+' | '*' | '/' | '%' | '<' | '>', _) => (Token::Operator, 1),
            ('-' | '.', _) if self.after_operand => (Token::Operator, 1),
            _ => (Token::Operand, c.len_utf8()),
        };
        self.advance(length);
        token
    }
}

/// The length of what stands after a backslash, or `None` if that is no escape sequence.
fn escape_length(escape: &[u8]) -> Option<usize> {
    let digits = match escape.first()? {
        b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'`' | b'\\' | b'?' => 0,
        b'x' | b'X' | b'0'..=b'3' => 2,
        b'u' => 4,
        b'U' => 8,
        _ => return None,
    };
    let valid = escape.get(1..=digits)?.iter().all(u8::is_ascii_hexdigit);
    valid.then_some(1 + digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_bounded() {
        let nested = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
        assert!(is_within_bounds(&nested(DEEPEST - 1)));
        assert!(!is_within_bounds(&nested(DEEPEST)));
        let empty = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(is_within_bounds(&empty(DEEPEST)));
        assert!(!is_within_bounds(&empty(DEEPEST + 1)));
        assert!(is_within_bounds(&format!("[{}]", "f(1), ".repeat(5_000))));
    }

    #[test]
    fn chains_are_bounded_across_brackets_and_not_across_separators() {
        assert!(!is_within_bounds(&format!(
            "1{}",
            "+1".repeat(LONGEST_CHAIN + 1)
        )));
        assert!(!is_within_bounds(&format!(
            "a{}",
            ".b".repeat(LONGEST_CHAIN + 1)
        )));
        assert!(!is_within_bounds(&format!(
            "a{}",
            "[0]".repeat(LONGEST_CHAIN + 1)
        )));
        assert!(is_within_bounds(&format!(
            "{}1",
            "a ? b : ".repeat(DEEPEST - 1)
        )));
        assert!(!is_within_bounds(&format!(
            "{}1",
            "a ? b : ".repeat(DEEPEST)
        )));
        assert!(is_within_bounds(&format!(
            "[{}]",
            "a ? b : c, ".repeat(DEEPEST)
        )));
        let step = format!("1{}+(", "+1".repeat(99));
        assert!(!is_within_bounds(&step.repeat(21)));
        assert!(is_within_bounds(&vec!["a == b + c"; 9_000].join(" && ")));
        assert!(is_within_bounds(&format!("[{}]", "-1 + 1, ".repeat(9_000))));
        assert!(is_within_bounds(&format!("{{{}}}", "1: 2, ".repeat(9_000))));
    }

    #[test]
    fn brackets_in_strings_and_comments_do_not_count() {
        let brackets = "(".repeat(1_000);
        for text in [
            format!("'{brackets}'"),
            format!("\"{brackets}\\\"{brackets}\""),
            format!("'''{brackets}'\n{brackets}'''"),
            format!("r'\\' + '{brackets}'"),
            format!("br\"{brackets}\""),
            format!("1 // {brackets}\n + 2"),
        ] {
            assert!(is_within_bounds(&text), "{text:.20}");
        }
    }

    #[test]
    fn brackets_behind_a_broken_string_count() {
        let brackets = "(".repeat(1_000);
        for text in [
            format!("'{brackets}"),
            format!("'\\q' + '{brackets}'"),
            format!("'a\n' {brackets}'"),
        ] {
            assert!(!is_within_bounds(&text), "{text:.20}");
        }
    }

    #[test]
    fn stray_brackets_are_left_to_the_parser() {
        assert!(is_within_bounds(")))(((]]]"));
        assert!(is_within_bounds(&")".repeat(5_000)));
    }
}
