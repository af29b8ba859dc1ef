//! Cuts a template into tokens: where text ends and an action starts, trimming, comments, the words
//! inside `[[ ]]`. Whether the words make sense together is decided in `parse`.

use std::borrow::Cow;

use memchr::memchr_iter;

use super::{
    literal::name_char,
    token::{Keyword, Kind, Token},
    unicode::is_word,
};
use crate::quote::go_quote;

const LEFT: &str = "[[";
const RIGHT: &str = "]]";
const OPEN_COMMENT: &str = "/*";
const CLOSE_COMMENT: &str = "*/";
const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];
/// Length of a trim marker: a minus and one space.
const MARKER: usize = 2;

/// Reads tokens off a template. After an error it repeats the error for ever.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    /// Where the current token starts.
    start: usize,
    /// What has been read so far.
    pos: usize,
    /// Newlines before `counted`, plus one.
    line: usize,
    counted: usize,
    parens: usize,
    in_action: bool,
    failure: Option<Token<'t>>,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            start: 0,
            pos: 0,
            line: 1,
            counted: 0,
            parens: 0,
            in_action: false,
            failure: None,
        }
    }

    /// The whole template.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    /// The next token; [`Kind::Eof`] at the end, again and again.
    pub(super) fn next_token(&mut self) -> Token<'t> {
        match &self.failure {
            Some(failure) => failure.clone(),
            None if self.in_action => self.action(),
            None => self.outside(),
        }
    }

    /// Text up to an action, the opening of the action, or the end. Comments vanish here.
    fn outside(&mut self) -> Token<'t> {
        loop {
            let Some(length) = self.rest().find(LEFT) else {
                self.pos = self.text.len();
                return self.emit(if self.start < self.pos {
                    Kind::Text
                } else {
                    Kind::Eof
                });
            };
            if length > 0 {
                let delim = self.pos + length;
                let text = &self.text[self.start..delim];
                let trimmed = starts_with_marker(&self.text[delim + LEFT.len()..]);
                self.pos = self.start
                    + if trimmed {
                        text.trim_end_matches(SPACES).len()
                    } else {
                        text.len()
                    };
                let token = self.emit(Kind::Text);
                self.skip_to(delim);
                if !token.text.is_empty() {
                    return token;
                }
            }
            if let Some(token) = self.open() {
                return token;
            }
        }
    }

    /// The left delimiter, or nothing if it opened a comment.
    fn open(&mut self) -> Option<Token<'t>> {
        self.pos += LEFT.len();
        let marker = if starts_with_marker(self.rest()) {
            MARKER
        } else {
            0
        };
        if self.rest()[marker..].starts_with(OPEN_COMMENT) {
            self.skip_to(self.pos + marker);
            return self.comment();
        }
        let token = self.emit(Kind::LeftDelim);
        self.skip_to(self.pos + marker);
        self.in_action = true;
        self.parens = 0;
        Some(token)
    }

    /// Skips a comment and its right delimiter; a token only if they are broken.
    fn comment(&mut self) -> Option<Token<'t>> {
        let Some(length) = self.rest()[OPEN_COMMENT.len()..].find(CLOSE_COMMENT) else {
            return Some(self.fail("unclosed comment".to_owned()));
        };
        self.pos += OPEN_COMMENT.len() + length + CLOSE_COMMENT.len();
        let Some(trim) = self.right_delim() else {
            return Some(self.fail("comment ends before closing delimiter".to_owned()));
        };
        self.skip_to(self.pos + if trim { MARKER } else { 0 } + RIGHT.len());
        if trim {
            self.skip_spaces();
        }
        None
    }

    /// Whether a right delimiter starts here, and if so, whether it trims what follows.
    fn right_delim(&self) -> Option<bool> {
        let rest = self.rest();
        let marked = rest
            .strip_prefix(SPACES)
            .and_then(|rest| rest.strip_prefix('-'));
        match marked {
            Some(rest) if rest.starts_with(RIGHT) => Some(true),
            _ => rest.starts_with(RIGHT).then_some(false),
        }
    }

    fn close(&mut self, trim: bool) -> Token<'t> {
        if trim {
            self.skip_to(self.pos + MARKER);
        }
        self.pos += RIGHT.len();
        let token = self.emit(Kind::RightDelim);
        if trim {
            self.skip_spaces();
        }
        self.in_action = false;
        token
    }

    fn action(&mut self) -> Token<'t> {
        if let Some(trim) = self.right_delim() {
            return if self.parens == 0 {
                self.close(trim)
            } else {
                self.fail("unclosed left paren".to_owned())
            };
        }
        let Some(c) = self.bump() else {
            return self.fail("unclosed action".to_owned());
        };
        match c {
            ' ' | '\t' | '\r' | '\n' => self.space(),
            '=' => self.emit(Kind::Assign),
            ':' if self.accept(|c| c == '=') => self.emit(Kind::Declare),
            ':' => self.fail("expected :=".to_owned()),
            '|' => self.emit(Kind::Pipe),
            '"' => self.quoted('"', Kind::String, "unterminated quoted string"),
            '\'' => self.quoted('\'', Kind::Char, "unterminated character constant"),
            '`' => self.raw_string(),
            '$' => self.name(Kind::Variable, Kind::Variable),
            '.' if self.peek().is_some_and(|c| !c.is_ascii_digit()) => {
                self.name(Kind::Keyword(Keyword::Dot), Kind::Field)
            }
            '.' | '+' | '-' | '0'..='9' => self.number(),
            _ if is_word(c) => self.word(),
            '(' | ')' => self.paren(c),
            '!'..='~' => self.emit(Kind::Other),
            _ => self.fail(format!(
                "unrecognized character in action: {}",
                name_char(c)
            )),
        }
    }

    fn paren(&mut self, c: char) -> Token<'t> {
        if c == '(' {
            self.parens += 1;
            return self.emit(Kind::LeftParen);
        }
        match self.parens.checked_sub(1) {
            None => self.fail("unexpected right paren".to_owned()),
            Some(parens) => {
                self.parens = parens;
                self.emit(Kind::RightParen)
            }
        }
    }

    /// A run of spaces. Its last one may belong to a right delimiter that trims.
    fn space(&mut self) -> Token<'t> {
        while self.accept(|c| SPACES.contains(&c)) {}
        let after = self.pos;
        self.pos -= 1;
        if self.right_delim() != Some(true) {
            self.pos = after;
        } else if self.pos == self.start {
            return self.close(true);
        }
        self.emit(Kind::Space)
    }

    /// A keyword, a boolean or the name of a function; its first character has been read.
    fn word(&mut self) -> Token<'t> {
        while self.accept(is_word) {}
        match &self.text[self.start..self.pos] {
            word if !self.at_terminator() => self.bad_character(word.len()),
            "true" | "false" => self.emit(Kind::Bool),
            word => self.emit(Keyword::from_word(word).map_or(Kind::Identifier, Kind::Keyword)),
        }
    }

    /// What follows a `.` or `$`: nothing, or a name.
    fn name(&mut self, bare: Kind, named: Kind) -> Token<'t> {
        if self.at_terminator() {
            return self.emit(bare);
        }
        while self.accept(is_word) {}
        if self.at_terminator() {
            self.emit(named)
        } else {
            self.bad_character(self.pos - self.start)
        }
    }

    fn bad_character(&mut self, offset: usize) -> Token<'t> {
        let c = self.text[self.start + offset..]
            .chars()
            .next()
            .unwrap_or_default();
        self.fail(format!("bad character {}", name_char(c)))
    }

    /// Whether a word may end here.
    fn at_terminator(&self) -> bool {
        match self.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | ')' | '(') => true,
            Some(_) => self.rest().starts_with(RIGHT),
        }
    }

    /// A quoted string or a character constant; what it says is read later.
    fn quoted(&mut self, quote: char, kind: Kind, unterminated: &str) -> Token<'t> {
        loop {
            match self.bump() {
                Some('\\') => match self.bump() {
                    None | Some('\n') => return self.fail(unterminated.to_owned()),
                    Some(_) => {}
                },
                None | Some('\n') => return self.fail(unterminated.to_owned()),
                Some(c) if c == quote => return self.emit(kind),
                Some(_) => {}
            }
        }
    }

    fn raw_string(&mut self) -> Token<'t> {
        match self.rest().find('`') {
            None => self.fail("unterminated raw quoted string".to_owned()),
            Some(length) => {
                self.pos += length + 1;
                self.emit(Kind::RawString)
            }
        }
    }

    /// Anything that looks like a number; the parser finds out whether it is one.
    fn number(&mut self) -> Token<'t> {
        self.pos = self.start;
        let mut valid = self.scan_number();
        let complex = valid && matches!(self.peek(), Some('+' | '-'));
        if complex {
            valid = self.scan_number() && self.text[..self.pos].ends_with('i');
        }
        if valid {
            return self.emit(if complex { Kind::Complex } else { Kind::Number });
        }
        let number = go_quote(&self.text[self.start..self.pos]);
        self.fail(format!("bad number syntax: {number}"))
    }

    fn scan_number(&mut self) -> bool {
        self.accept(|c| matches!(c, '+' | '-'));
        let mut radix = 10;
        if self.accept(|c| c == '0') {
            if self.accept(|c| matches!(c, 'x' | 'X')) {
                radix = 16;
            } else if self.accept(|c| matches!(c, 'o' | 'O')) {
                radix = 8;
            } else if self.accept(|c| matches!(c, 'b' | 'B')) {
                radix = 2;
            }
        }
        self.accept_digits(radix);
        if self.accept(|c| c == '.') {
            self.accept_digits(radix);
        }
        let exponent = |c| match radix {
            10 => matches!(c, 'e' | 'E'),
            16 => matches!(c, 'p' | 'P'),
            _ => false,
        };
        if self.accept(exponent) {
            self.accept(|c| matches!(c, '+' | '-'));
            self.accept_digits(10);
        }
        self.accept(|c| c == 'i');
        !self.accept(is_word)
    }

    fn accept_digits(&mut self, radix: u32) {
        while self.accept(|c| c == '_' || c.is_digit(radix)) {}
    }

    fn rest(&self) -> &'t str {
        &self.text[self.pos..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, wanted: impl Fn(char) -> bool) -> bool {
        let found = self.peek().filter(|&c| wanted(c));
        self.pos += found.map_or(0, char::len_utf8);
        found.is_some()
    }

    fn skip_to(&mut self, pos: usize) {
        self.pos = pos;
        self.start = pos;
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.skip_to(self.pos + rest.len() - rest.trim_start_matches(SPACES).len());
    }

    fn emit(&mut self, kind: Kind) -> Token<'t> {
        let text = Cow::Borrowed(&self.text[self.start..self.pos]);
        let token = Token {
            kind,
            pos: self.start,
            line: self.start_line(),
            text,
        };
        self.start = self.pos;
        token
    }

    fn fail(&mut self, message: String) -> Token<'t> {
        let line = self.start_line();
        let token = Token {
            kind: Kind::Error,
            pos: self.start,
            line,
            text: Cow::Owned(message),
        };
        self.failure = Some(token.clone());
        token
    }

    /// The line of the current token, from 1. Tokens only move forward, so each newline is counted
    /// once.
    fn start_line(&mut self) -> usize {
        let skipped = &self.text.as_bytes()[self.counted..self.start];
        self.line += memchr_iter(b'\n', skipped).count();
        self.counted = self.start;
        self.line
    }
}

/// Whether an action that was just opened starts with `- `.
fn starts_with_marker(action: &str) -> bool {
    action
        .strip_prefix('-')
        .is_some_and(|rest| rest.starts_with(SPACES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, String)> {
        let mut lexer = Lexer::new(text);
        let mut tokens = Vec::new();
        loop {
            let token = lexer.next_token();
            tokens.push((token.kind, token.text.clone().into_owned()));
            if matches!(token.kind, Kind::Eof | Kind::Error) {
                return tokens;
            }
        }
    }

    fn words(text: &str) -> Vec<String> {
        kinds(text).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn text_without_delimiters_is_one_token() {
        assert_eq!(words("a ] [ b\n"), ["a ] [ b\n", ""]);
        assert_eq!(words(""), [""]);
    }

    #[test]
    fn trim_markers_eat_the_spaces_around() {
        assert_eq!(
            words("a \n[[- .x -]]\t b"),
            ["a", "[[", ".x", "]]", "b", ""]
        );
        assert_eq!(words("a [[-3]]"), ["a ", "[[", "-3", "]]", ""]);
    }

    #[test]
    fn comments_vanish_and_their_markers_trim() {
        assert_eq!(words("a [[- /* ]] */ -]] b"), ["a", "b", ""]);
        assert_eq!(
            words("[[/* x */ ]]").last().map(String::as_str),
            Some("comment ends before closing delimiter")
        );
    }

    #[test]
    fn a_lone_dot_is_a_keyword_and_a_dot_before_a_digit_a_number() {
        let tokens = kinds("[[. .5 .a.b]]");
        let found: Vec<_> = tokens
            .iter()
            .map(|(kind, _)| *kind)
            .filter(|kind| *kind != Kind::Space)
            .collect();
        let dot = Kind::Keyword(Keyword::Dot);
        assert_eq!(
            found,
            [
                Kind::LeftDelim,
                dot,
                Kind::Number,
                Kind::Field,
                Kind::Field,
                Kind::RightDelim,
                Kind::Eof
            ]
        );
    }

    #[test]
    fn lines_are_counted_across_skipped_text() {
        let mut lexer = Lexer::new("a\n[[- /*\n*/ -]]\n\nb[[\n`\n` .x");
        let mut lines = Vec::new();
        loop {
            let token = lexer.next_token();
            lines.push(token.line);
            if token.kind == Kind::Error {
                break;
            }
        }
        assert_eq!(lines, [1, 5, 5, 5, 6, 7, 7, 7]);
    }

    #[test]
    fn an_error_is_repeated() {
        let mut lexer = Lexer::new("[[#é\u{1}");
        assert_eq!(lexer.next_token().kind, Kind::LeftDelim);
        assert_eq!(lexer.next_token().kind, Kind::Other);
        let first = lexer.next_token();
        assert_eq!(first.text, "bad character U+0001");
        assert_eq!(lexer.next_token().text, first.text);
    }
}
