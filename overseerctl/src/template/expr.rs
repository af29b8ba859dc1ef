//! Reads expressions: pipelines, commands and operands.

use super::{
    ast::{Command, Operand, Pipe, Term},
    funcs::Builtin,
    literal::unquote,
    number::{parse_char, parse_number, refuse_complex},
    parse::{Parsed, Parser},
    token::{Keyword, Kind, Token},
};
use crate::quote::go_quote;

/// How deep parentheses may nest. Go allows 10000, on a stack that grows.
const MAX_PARENS: usize = 100;

/// Where a pipeline stands: what error messages call it, and the token that ends it.
#[derive(Clone, Copy)]
pub(super) struct Context {
    pub(super) name: &'static str,
    end: Kind,
}

impl Context {
    pub(super) const BLOCK: Self = Self::action("block clause");
    pub(super) const COMMAND: Self = Self::action("command");
    pub(super) const DEFINE: Self = Self::action("define clause");
    pub(super) const IF: Self = Self::action("if");
    pub(super) const RANGE: Self = Self::action("range");
    pub(super) const TEMPLATE: Self = Self::action("template clause");
    pub(super) const WITH: Self = Self::action("with");
    const PAREN: Self = Self {
        name: "parenthesized pipeline",
        end: Kind::RightParen,
    };

    const fn action(name: &'static str) -> Self {
        Self {
            name,
            end: Kind::RightDelim,
        }
    }
}

impl<'t> Parser<'t> {
    /// `$x := command | command`, with the token that ends it.
    pub(super) fn pipe(&mut self, context: Context) -> Parsed<Pipe> {
        let pos = self.peek_word().pos;
        let (targets, assigns) = self.targets(context)?;
        let mut pipe = Pipe {
            pos,
            targets,
            assigns,
            commands: Vec::new(),
        };
        loop {
            let token = self.next_word();
            if token.kind == context.end {
                self.check_commands(&pipe, context)?;
                return Ok(pipe);
            }
            if !starts_operand(token.kind) {
                return Err(self.unexpected(&token, context.name));
            }
            self.give_back();
            pipe.commands.push(self.command()?);
        }
    }

    /// The variables before `:=` or `=`, and whether it was `=`.
    fn targets(&mut self, context: Context) -> Parsed<(Vec<Box<str>>, bool)> {
        let mut targets: Vec<Box<str>> = Vec::new();
        loop {
            let variable = self.peek_word();
            if variable.kind != Kind::Variable {
                return Ok((targets, false));
            }
            self.next();
            let adjacent = self.peek();
            let next = self.peek_word();
            let is_comma = next.kind == Kind::Other && next.text == ",";
            if !is_comma && !matches!(next.kind, Kind::Assign | Kind::Declare) {
                self.give_back_operand(&variable, &adjacent);
                return Ok((targets, false));
            }
            self.next_word();
            targets.push(variable.text.as_ref().into());
            self.tree.vars.push(variable.text.as_ref().into());
            if !is_comma {
                return Ok((targets, next.kind == Kind::Assign));
            }
            self.check_second_target(&targets, context)?;
        }
    }

    /// Gives back a variable that turned out to be an operand, with the space behind it.
    fn give_back_operand(&mut self, variable: &Token<'t>, adjacent: &Token<'t>) {
        if adjacent.kind == Kind::Space {
            self.give_back_all(&[adjacent, variable]);
        } else {
            self.give_back_all(&[variable]);
        }
    }

    /// After a comma.
    fn check_second_target(&mut self, targets: &[Box<str>], context: Context) -> Parsed<()> {
        if context.name != Context::RANGE.name || targets.len() > 1 {
            return Err(self.error(&format!("too many declarations in {}", context.name)));
        }
        match self.peek_word().kind {
            Kind::Variable | Kind::RightDelim | Kind::RightParen => Ok(()),
            _ => Err(self.error("range can only initialize variables")),
        }
    }

    fn check_commands(&self, pipe: &Pipe, context: Context) -> Parsed<()> {
        if pipe.commands.is_empty() {
            return Err(self.error(&format!("missing value for {}", context.name)));
        }
        let constant = |command: &Command| {
            matches!(
                command.first.term,
                Term::Bool(_) | Term::Dot | Term::Nil | Term::Number(..) | Term::Text { .. }
            )
        };
        match pipe.commands.iter().skip(1).position(constant) {
            Some(stage) => Err(self.error(&format!(
                "non executable command in pipeline stage {}",
                stage + 2
            ))),
            None => Ok(()),
        }
    }

    /// Operands up to a `|`, which is read, or the end of the pipeline, which is not.
    fn command(&mut self) -> Parsed<Command> {
        let pos = self.peek_word().pos;
        let mut operands = Vec::new();
        loop {
            self.peek_word();
            operands.extend(self.operand()?);
            let token = self.next();
            match token.kind {
                Kind::Space => {}
                Kind::Pipe => break,
                Kind::RightDelim | Kind::RightParen => {
                    self.give_back();
                    break;
                }
                _ => return Err(self.unexpected(&token, "operand")),
            }
        }
        let mut operands = operands.into_iter();
        match operands.next() {
            Some(first) => Ok(Command {
                pos,
                first,
                args: operands.collect(),
            }),
            None => Err(self.error("empty command")),
        }
    }

    /// A term and the fields behind it; nothing if the next token starts no term.
    fn operand(&mut self) -> Parsed<Option<Operand>> {
        let Some(mut operand) = self.term()? else {
            return Ok(None);
        };
        let chain_pos = self.peek().pos;
        let mut fields = Vec::new();
        while self.peek().kind == Kind::Field {
            fields.push(field_name(&self.next()));
        }
        if fields.is_empty() {
            return Ok(Some(operand));
        }
        match &mut operand.term {
            Term::Field(path) | Term::Variable(_, path) => path.extend(fields),
            Term::Bool(_) | Term::Text { .. } | Term::Number(..) | Term::Nil | Term::Dot => {
                let shown = go_quote(&operand.to_string());
                return Err(self.error(&format!("unexpected . after term {shown}")));
            }
            Term::Chain(..) | Term::Function(_) | Term::Paren(_) => {
                operand = Operand {
                    pos: chain_pos,
                    term: Term::Chain(Box::new(operand), fields),
                };
            }
        }
        // Go places the whole chain where its second link starts.
        operand.pos = chain_pos;
        Ok(Some(operand))
    }

    fn term(&mut self) -> Parsed<Option<Operand>> {
        let token = self.next_word();
        let term = match token.kind {
            Kind::Identifier => self.function(&token)?,
            Kind::Keyword(Keyword::Dot) => Term::Dot,
            Kind::Keyword(Keyword::Nil) => Term::Nil,
            Kind::Variable => self.variable(&token)?,
            Kind::Field => Term::Field(vec![field_name(&token)]),
            Kind::Bool => Term::Bool(token.text == "true"),
            Kind::Char | Kind::Complex | Kind::Number => self.number(&token)?,
            Kind::LeftParen => self.paren()?,
            Kind::String | Kind::RawString => {
                let value = unquote(&token.text)
                    .ok_or_else(|| self.error("invalid syntax"))?
                    .into();
                Term::Text {
                    value,
                    source: token.text.as_ref().into(),
                }
            }
            _ => {
                self.give_back();
                return Ok(None);
            }
        };
        Ok(Some(Operand {
            pos: token.pos,
            term,
        }))
    }

    fn function(&self, token: &Token<'_>) -> Parsed<Term> {
        let undefined = || self.error(&format!("function {} not defined", go_quote(&token.text)));
        Builtin::from_name(&token.text)
            .map(Term::Function)
            .ok_or_else(undefined)
    }

    fn variable(&self, token: &Token<'_>) -> Parsed<Term> {
        if self.tree.vars.iter().any(|name| **name == *token.text) {
            return Ok(Term::Variable(token.text.as_ref().into(), Vec::new()));
        }
        Err(self.error(&format!("undefined variable {}", go_quote(&token.text))))
    }

    fn number(&self, token: &Token<'_>) -> Parsed<Term> {
        let number = match token.kind {
            Kind::Char => parse_char(&token.text),
            Kind::Complex => Err(refuse_complex(&token.text)),
            _ => parse_number(&token.text),
        };
        match number {
            Ok(number) => Ok(Term::Number(number, token.text.as_ref().into())),
            Err(message) => Err(self.error(&message)),
        }
    }

    fn paren(&mut self) -> Parsed<Term> {
        if self.tree.parens >= MAX_PARENS {
            return Err(self.error("max expression depth exceeded"));
        }
        self.tree.parens += 1;
        let pipe = self.pipe(Context::PAREN)?;
        self.tree.parens -= 1;
        Ok(Term::Paren(Box::new(pipe)))
    }
}

fn starts_operand(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Bool
            | Kind::Char
            | Kind::Complex
            | Kind::Field
            | Kind::Identifier
            | Kind::Number
            | Kind::Keyword(Keyword::Dot | Keyword::Nil)
            | Kind::RawString
            | Kind::String
            | Kind::Variable
            | Kind::LeftParen
    )
}

/// The name in `.name`.
fn field_name(token: &Token<'_>) -> Box<str> {
    token.text.trim_start_matches('.').into()
}
