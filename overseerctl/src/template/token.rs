//! The pieces that a template is cut into, and how error messages show them.

use std::{borrow::Cow, fmt};

use super::literal::{Rune, runes};
use crate::quote::go_quote;

/// How many characters of a long token an error message shows.
const SHOWN: usize = 10;

/// A word that has a meaning of its own inside an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Block,
    Break,
    Continue,
    Define,
    Dot,
    Else,
    End,
    If,
    Nil,
    Range,
    Template,
    With,
}

impl Keyword {
    pub(super) fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "block" => Self::Block,
            "break" => Self::Break,
            "continue" => Self::Continue,
            "define" => Self::Define,
            "else" => Self::Else,
            "end" => Self::End,
            "if" => Self::If,
            "nil" => Self::Nil,
            "range" => Self::Range,
            "template" => Self::Template,
            "with" => Self::With,
            _ => return None,
        })
    }
}

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Error,
    Eof,
    Text,
    LeftDelim,
    RightDelim,
    LeftParen,
    RightParen,
    Space,
    Pipe,
    Assign,
    Declare,
    /// Any other printable ASCII character, such as a comma.
    Other,
    Bool,
    Char,
    Complex,
    Number,
    String,
    RawString,
    /// `.name`
    Field,
    /// `$` or `$name`
    Variable,
    Identifier,
    Keyword(Keyword),
}

/// A piece of the template.
#[derive(Clone, Debug)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    /// Offset of the first byte in the template.
    pub(super) pos: usize,
    /// Line of the first byte, from 1.
    pub(super) line: usize,
    /// The characters of the token; for an error, its message.
    pub(super) text: Cow<'t, str>,
}

impl Token<'_> {
    /// What a parser holds before it has read anything.
    pub(super) fn none() -> Self {
        Self {
            kind: Kind::Eof,
            pos: 0,
            line: 0,
            text: Cow::Borrowed(""),
        }
    }
}

/// Shows the token as Go's error messages do.
impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Eof => f.write_str("EOF"),
            Kind::Error => f.write_str(&self.text),
            Kind::Keyword(_) => write!(f, "<{}>", self.text),
            _ if self.text.len() > SHOWN => {
                let shown: usize = runes(self.text.as_bytes()).take(SHOWN).map(Rune::len).sum();
                write!(f, "{}...", go_quote(&self.text[..shown]))
            }
            _ => f.write_str(&go_quote(&self.text)),
        }
    }
}
