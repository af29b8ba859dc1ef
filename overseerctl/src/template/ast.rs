//! What a parsed template is made of, and how Go writes it back in error messages.
//!
//! Statements are a flat list of [`Op`]s with jumps, so that neither parsing, running nor dropping
//! a template recurses over nested blocks. Only expressions nest, by parentheses, and the parser
//! bounds that.

use std::{collections::BTreeMap, fmt, ops::Range};

use super::{funcs::Builtin, number::Number};
use crate::quote::go_quote_bytes;

/// A part of an expression that an error message can point at; its `Display` is its source as Go
/// spells it.
pub(super) trait Node: fmt::Display {
    /// Offset of the node in the template.
    fn pos(&self) -> usize;
}

/// Everything one source text defines: the templates by name, the main one under the empty name.
pub(super) type Programs = BTreeMap<Box<[u8]>, Program>;

/// The statements of one template.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) ops: Vec<Op>,
}

/// One step of a running template. Targets are indexes of ops; a block ends with [`Op::End`], which
/// closes its scope.
#[derive(Debug)]
pub(super) enum Op {
    /// Copies a part of the source.
    Text(Range<usize>),
    /// Evaluates, and prints unless the pipeline declares or assigns.
    Print(Pipe),
    /// Opens a scope; goes to `otherwise` unless the value is true.
    If {
        pipe: Pipe,
        otherwise: usize,
    },
    /// Like `If`, with the value as dot.
    With {
        pipe: Pipe,
        otherwise: usize,
    },
    /// Opens a scope and starts a loop; goes to `otherwise` if there is nothing to loop over.
    Range {
        pipe: Pipe,
        otherwise: usize,
        end: usize,
    },
    /// Closes an iteration.
    Next,
    Jump(usize),
    End,
    Break,
    Continue,
    Call(Call),
}

/// `[[template "name" pipe]]`.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) pos: usize,
    pub(super) name: Box<[u8]>,
    pub(super) pipe: Option<Pipe>,
}

/// `$x := a | b`.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) pos: usize,
    /// Variables that take the value.
    pub(super) targets: Vec<Box<str>>,
    /// Whether the variables exist already: `=`, not `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// Operands side by side: one value, or a function and its arguments.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) pos: usize,
    pub(super) first: Operand,
    pub(super) args: Vec<Operand>,
}

/// One word of a command.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) pos: usize,
    pub(super) term: Term,
}

/// The forms of a word. Names are kept without their dots, variables with their dollar.
#[derive(Debug)]
pub(super) enum Term {
    Bool(bool),
    /// A parenthesis or a function followed by fields.
    Chain(Box<Operand>, Vec<Box<str>>),
    Dot,
    Field(Vec<Box<str>>),
    Function(Builtin),
    Nil,
    Number(Number, Box<str>),
    Paren(Box<Pipe>),
    Text {
        value: Box<[u8]>,
        source: Box<str>,
    },
    Variable(Box<str>, Vec<Box<str>>),
}

impl Node for Call {
    fn pos(&self) -> usize {
        self.pos
    }
}

impl Node for Pipe {
    fn pos(&self) -> usize {
        self.pos
    }
}

impl Node for Command {
    fn pos(&self) -> usize {
        self.pos
    }
}

impl Node for Operand {
    fn pos(&self) -> usize {
        self.pos
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{{template {}", go_quote_bytes(&self.name))?;
        if let Some(pipe) = &self.pipe {
            write!(f, " {pipe}")?;
        }
        f.write_str("}}")
    }
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.targets.is_empty() {
            write!(
                f,
                "{} {} ",
                self.targets.join(", "),
                if self.assigns { "=" } else { ":=" }
            )?;
        }
        for (i, command) in self.commands.iter().enumerate() {
            write!(f, "{}{command}", if i > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.write_nested(f)?;
        for arg in &self.args {
            f.write_str(" ")?;
            arg.write_nested(f)?;
        }
        Ok(())
    }
}

/// A parenthesis is shown bare when it stands alone.
impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.term {
            Term::Bool(value) => write!(f, "{value}"),
            Term::Chain(head, fields) => {
                head.write_nested(f)?;
                write_fields(f, fields)
            }
            Term::Dot => f.write_str("."),
            Term::Field(fields) => write_fields(f, fields),
            Term::Function(function) => f.write_str(function.name()),
            Term::Nil => f.write_str("nil"),
            Term::Paren(pipe) => pipe.fmt(f),
            Term::Number(_, source) | Term::Text { source, .. } => f.write_str(source),
            Term::Variable(name, fields) => {
                f.write_str(name)?;
                write_fields(f, fields)
            }
        }
    }
}

impl Operand {
    /// Shows the operand as a part of something larger.
    fn write_nested(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self.term, Term::Paren(_)) {
            write!(f, "({self})")
        } else {
            write!(f, "{self}")
        }
    }
}

fn write_fields(f: &mut fmt::Formatter<'_>, fields: &[Box<str>]) -> fmt::Result {
    fields.iter().try_for_each(|field| write!(f, ".{field}"))
}
