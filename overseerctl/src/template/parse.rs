//! Turns tokens into programs: the statements and their nesting. Expressions are read in `expr`.
//!
//! Blocks do not recurse: open ones are kept in a list, and each `[[define]]` and `[[block]]` being
//! read is a tree of its own on top of a stack. The look-ahead of a tree outlives a token's use,
//! because the line in an error message is the line of the last token that the tree has read, as it
//! is in Go.

use std::mem;

use super::{
    TemplateError,
    ast::{Call, Op, Pipe, Program, Programs},
    expr::Context,
    lex::Lexer,
    literal::unquote,
    token::{Keyword, Kind, Token},
};
use crate::quote::go_quote_bytes;

/// How a step of the parser ends.
pub(super) type Parsed<T> = Result<T, TemplateError>;

/// Reads a whole template.
pub(super) fn parse(text: &str) -> Parsed<Programs> {
    let main = Tree::new(Purpose::Main, Box::default());
    let mut parser = Parser {
        lexer: Lexer::new(text),
        tree: main,
        outer: Vec::new(),
        done: Programs::new(),
    };
    while parser.statement()? {}
    parser.finish_tree()?;
    Ok(parser.done)
}

/// Reads the statements of a template, and with `expr` its expressions.
pub(super) struct Parser<'t> {
    lexer: Lexer<'t>,
    /// The template that is being read.
    pub(super) tree: Tree<'t>,
    /// Those it stands in, the innermost last.
    outer: Vec<Tree<'t>>,
    done: Programs,
}

/// A template that is being read.
pub(super) struct Tree<'t> {
    purpose: Purpose,
    name: Box<[u8]>,
    /// The last token that was read, and those given back, the next one last.
    tokens: [Token<'t>; 3],
    given_back: usize,
    /// Names of the variables in scope.
    pub(super) vars: Vec<Box<str>>,
    /// Line on which the action that is being read began; 0 outside actions.
    action_line: usize,
    loops: usize,
    pub(super) parens: usize,
    open: Vec<Block>,
    program: Program,
}

/// Why a template is being read.
enum Purpose {
    Main,
    Define,
    /// A block is called where it is defined.
    Block {
        pos: usize,
        pipe: Pipe,
    },
}

/// An `if`, `with` or `range` that waits for its `end`.
struct Block {
    kind: BlockKind,
    /// Its op.
    start: usize,
    /// The jump at the end of the first branch, once `else` was seen.
    jump: Option<usize>,
    /// Number of variables outside.
    vars: usize,
    /// Whether it stands behind `else` in the same action, and shares the `end` of the block around
    /// it.
    chained: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BlockKind {
    If,
    With,
    Range,
}

impl Tree<'_> {
    fn new(purpose: Purpose, name: Box<[u8]>) -> Self {
        Self {
            purpose,
            name,
            tokens: [Token::none(), Token::none(), Token::none()],
            given_back: 0,
            vars: vec!["$".into()],
            action_line: 0,
            loops: 0,
            parens: 0,
            open: Vec::new(),
            program: Program::default(),
        }
    }

    fn push(&mut self, op: Op) -> usize {
        self.program.ops.push(op);
        self.program.ops.len() - 1
    }

    /// An error at the line this tree has reached.
    fn error(&self, message: &str) -> TemplateError {
        TemplateError::Parse(format!("template: :{}: {message}", self.tokens[0].line))
    }

    /// Whether the template is nothing but white space, and so never replaces another.
    fn is_blank(&self, text: &str) -> bool {
        is_blank(&self.program, text)
    }
}

fn is_blank(program: &Program, text: &str) -> bool {
    program
        .ops
        .iter()
        .all(|op| matches!(op, Op::Text(span) if text[span.clone()].trim().is_empty()))
}

/// Tokens.
impl<'t> Parser<'t> {
    /// The next token.
    pub(super) fn next(&mut self) -> Token<'t> {
        let tree = &mut self.tree;
        match tree.given_back.checked_sub(1) {
            Some(left) => tree.given_back = left,
            None => tree.tokens[0] = self.lexer.next_token(),
        }
        tree.tokens[tree.given_back].clone()
    }

    /// Gives back the token that was read last.
    pub(super) fn give_back(&mut self) {
        self.tree.given_back += 1;
    }

    /// Gives back the token that was read last, and those read before it, the latest first.
    pub(super) fn give_back_all(&mut self, before: &[&Token<'t>]) {
        for (slot, token) in self.tree.tokens[1..].iter_mut().zip(before) {
            *slot = (*token).clone();
        }
        self.tree.given_back = before.len() + 1;
    }

    /// The next token, which stays.
    pub(super) fn peek(&mut self) -> Token<'t> {
        let token = self.next();
        self.give_back();
        token
    }

    /// The next token that is not space.
    pub(super) fn next_word(&mut self) -> Token<'t> {
        loop {
            let token = self.next();
            if token.kind != Kind::Space {
                return token;
            }
        }
    }

    /// The next token that is not space, which stays; space before it is gone.
    pub(super) fn peek_word(&mut self) -> Token<'t> {
        let token = self.next_word();
        self.give_back();
        token
    }

    fn expect_right_delim(&mut self, context: &str) -> Parsed<Token<'t>> {
        let token = self.next_word();
        if token.kind == Kind::RightDelim {
            Ok(token)
        } else {
            Err(self.unexpected(&token, context))
        }
    }

    /// An error at the line that was reached.
    pub(super) fn error(&self, message: &str) -> TemplateError {
        self.tree.error(message)
    }

    /// The error for a token that does not fit, or for the failure of the lexer that it carries.
    pub(super) fn unexpected(&self, token: &Token<'_>, context: &str) -> TemplateError {
        if token.kind != Kind::Error {
            return self.error(&format!("unexpected {token} in {context}"));
        }
        let started = self.tree.action_line;
        if started == 0 || started == token.line {
            return self.error(&token.text);
        }
        let link = if token.text.ends_with(" action") {
            ""
        } else {
            " in action"
        };
        self.error(&format!("{token}{link} started at :{started}"))
    }
}

/// Statements.
impl Parser<'_> {
    /// Reads one statement; false at the end of the template.
    fn statement(&mut self) -> Parsed<bool> {
        let at_top = self.outer.is_empty() && self.tree.open.is_empty();
        match self.peek_word().kind {
            Kind::Eof if at_top => return Ok(false),
            Kind::Eof => return Err(self.error("unexpected EOF")),
            Kind::LeftDelim if at_top => {
                let delim = self.next();
                if self.next_word().kind == Kind::Keyword(Keyword::Define) {
                    return self.define().map(|()| true);
                }
                self.give_back_all(&[&delim]);
            }
            _ => {}
        }
        self.text_or_action().map(|()| true)
    }

    fn text_or_action(&mut self) -> Parsed<()> {
        let token = self.next_word();
        match token.kind {
            Kind::Text => {
                self.tree
                    .push(Op::Text(token.pos..token.pos + token.text.len()));
                Ok(())
            }
            Kind::LeftDelim => {
                self.tree.action_line = token.line;
                self.action()
            }
            _ => Err(self.unexpected(&token, "input")),
        }
    }

    fn action(&mut self) -> Parsed<()> {
        let token = self.next_word();
        let Kind::Keyword(keyword) = token.kind else {
            return self.print();
        };
        match keyword {
            Keyword::If => self.open(BlockKind::If, false),
            Keyword::With => self.open(BlockKind::With, false),
            Keyword::Range => self.open(BlockKind::Range, false),
            Keyword::Else => self.otherwise(),
            Keyword::End => self.end(),
            Keyword::Break => self.leave("{{break}}", Op::Break),
            Keyword::Continue => self.leave("{{continue}}", Op::Continue),
            Keyword::Template => self.call(),
            Keyword::Block => self.block(),
            Keyword::Define | Keyword::Dot | Keyword::Nil => self.print(),
        }
    }

    /// Appends the op of an action that is complete.
    fn complete(&mut self, op: Op) {
        self.tree.push(op);
        self.tree.action_line = 0;
    }

    fn print(&mut self) -> Parsed<()> {
        self.give_back();
        let pipe = self.pipe(Context::COMMAND)?;
        self.complete(Op::Print(pipe));
        Ok(())
    }

    fn leave(&mut self, shown: &str, op: Op) -> Parsed<()> {
        self.expect_right_delim(shown)?;
        if self.tree.loops == 0 {
            return Err(self.error(&format!("{shown} outside {{{{range}}}}")));
        }
        self.complete(op);
        Ok(())
    }

    fn call(&mut self) -> Parsed<()> {
        let (pos, name) = self.template_name(Context::TEMPLATE)?;
        let pipe = if self.next_word().kind == Kind::RightDelim {
            None
        } else {
            self.give_back();
            Some(self.pipe(Context::TEMPLATE)?)
        };
        self.complete(Op::Call(Call { pos, name, pipe }));
        Ok(())
    }

    fn template_name(&mut self, context: Context) -> Parsed<(usize, Box<[u8]>)> {
        let token = self.next_word();
        if !matches!(token.kind, Kind::String | Kind::RawString) {
            return Err(self.unexpected(&token, context.name));
        }
        let name = unquote(&token.text).ok_or_else(|| self.error("invalid syntax"))?;
        Ok((token.pos, name.into()))
    }

    fn open(&mut self, kind: BlockKind, chained: bool) -> Parsed<()> {
        let vars = self.tree.vars.len();
        // The targets are set when they are known.
        let (otherwise, end) = (0, 0);
        let op = match kind {
            BlockKind::If => Op::If {
                pipe: self.pipe(Context::IF)?,
                otherwise,
            },
            BlockKind::With => Op::With {
                pipe: self.pipe(Context::WITH)?,
                otherwise,
            },
            BlockKind::Range => Op::Range {
                pipe: self.pipe(Context::RANGE)?,
                otherwise,
                end,
            },
        };
        self.tree.loops += usize::from(kind == BlockKind::Range);
        let start = self.tree.push(op);
        self.tree.open.push(Block {
            kind,
            start,
            jump: None,
            vars,
            chained,
        });
        Ok(())
    }
}

/// The ends of blocks and branches.
impl Parser<'_> {
    fn otherwise(&mut self) -> Parsed<()> {
        let next = self.peek_word().kind;
        if !matches!(next, Kind::Keyword(Keyword::If | Keyword::With)) {
            self.expect_right_delim("else")?;
        }
        self.tree.action_line = 0;
        let Some(block) = self.tree.open.last_mut() else {
            return Err(self.stray("{{else}}"));
        };
        if block.jump.is_some() {
            return Err(self.error("expected end; found {{else}}"));
        }
        let (kind, start) = (block.kind, block.start);
        self.tree.loops -= usize::from(kind == BlockKind::Range);
        let jump = self.tree.program.close_branch(kind, start);
        if let Some(block) = self.tree.open.last_mut() {
            block.jump = Some(jump);
        }
        let is_chain = match kind {
            BlockKind::If => next == Kind::Keyword(Keyword::If),
            BlockKind::With => next == Kind::Keyword(Keyword::With),
            BlockKind::Range => false,
        };
        if !is_chain {
            return Ok(());
        }
        self.next();
        self.open(kind, true)
    }

    fn end(&mut self) -> Parsed<()> {
        self.expect_right_delim("end")?;
        self.tree.action_line = 0;
        loop {
            let Some(block) = self.tree.open.pop() else {
                return self.end_tree();
            };
            self.tree.loops -= usize::from(block.kind == BlockKind::Range && block.jump.is_none());
            self.tree.vars.truncate(block.vars);
            self.tree.program.close_block(&block);
            if !block.chained {
                return Ok(());
            }
        }
    }

    /// An `end` or `else` that belongs to no block of this template. Where the template is a
    /// block's, it is the block's opening action that complains.
    fn stray(&self, shown: &str) -> TemplateError {
        match (&self.tree.purpose, self.outer.last()) {
            (Purpose::Define, _) => {
                self.error(&format!("unexpected {shown} in {}", Context::DEFINE.name))
            }
            (Purpose::Block { .. }, Some(around)) => {
                around.error(&format!("unexpected {shown} in {}", Context::BLOCK.name))
            }
            _ => self.error(&format!("unexpected {shown}")),
        }
    }
}

impl Program {
    /// Ends the first branch of a block with a jump that `close_block` aims; returns the jump.
    fn close_branch(&mut self, kind: BlockKind, start: usize) -> usize {
        let jump = self.ops.len();
        self.ops.push(if kind == BlockKind::Range {
            Op::Next
        } else {
            Op::Jump(0)
        });
        self.aim(start, Some(jump + 1), 0);
        jump
    }

    /// Ends a block, and tells its ops where their targets are.
    fn close_block(&mut self, block: &Block) {
        let otherwise = match block.jump {
            None if block.kind == BlockKind::Range => {
                self.ops.push(Op::Next);
                Some(self.ops.len())
            }
            None => Some(self.ops.len()),
            Some(_) => None,
        };
        let end = self.ops.len();
        self.ops.push(Op::End);
        self.aim(block.start, otherwise, end);
        if let Some(jump) = block.jump {
            self.aim(jump, None, end);
        }
    }

    fn aim(&mut self, op: usize, new_otherwise: Option<usize>, new_end: usize) {
        match &mut self.ops[op] {
            Op::If { otherwise, .. } | Op::With { otherwise, .. } => {
                *otherwise = new_otherwise.unwrap_or(*otherwise);
            }
            Op::Range { otherwise, end, .. } => {
                *otherwise = new_otherwise.unwrap_or(*otherwise);
                *end = new_end;
            }
            Op::Jump(target) => *target = new_end,
            _ => {}
        }
    }
}

/// Templates within the template.
impl Parser<'_> {
    /// `[[define "name"]]`, after the keyword.
    fn define(&mut self) -> Parsed<()> {
        self.enter(Purpose::Define, Box::default());
        let (_, name) = self.template_name(Context::DEFINE)?;
        self.tree.name = name;
        self.expect_right_delim(Context::DEFINE.name)?;
        Ok(())
    }

    /// `[[block "name" pipe]]`, after the keyword.
    fn block(&mut self) -> Parsed<()> {
        let (pos, name) = self.template_name(Context::BLOCK)?;
        let pipe = self.pipe(Context::BLOCK)?;
        self.enter(Purpose::Block { pos, pipe }, name);
        Ok(())
    }

    fn enter(&mut self, purpose: Purpose, name: Box<[u8]>) {
        let around = mem::replace(&mut self.tree, Tree::new(purpose, name));
        self.outer.push(around);
    }

    /// The `end` of a `define` or `block`.
    fn end_tree(&mut self) -> Parsed<()> {
        let Some(around) = self.outer.pop() else {
            return Err(self.stray("{{end}}"));
        };
        let name = self.tree.name.clone();
        self.finish_tree()?;
        let inner = mem::replace(&mut self.tree, around);
        if let Purpose::Block { pos, pipe } = inner.purpose {
            self.complete(Op::Call(Call {
                pos,
                name,
                pipe: Some(pipe),
            }));
        }
        Ok(())
    }

    /// Files the program of the current tree under its name, unless it is blank and there is one.
    fn finish_tree(&mut self) -> Parsed<()> {
        let text = self.lexer.text();
        let tree = &mut self.tree;
        let known = self
            .done
            .get(&tree.name)
            .is_some_and(|old| !is_blank(old, text));
        if !known {
            self.done
                .insert(tree.name.clone(), mem::take(&mut tree.program));
            return Ok(());
        }
        if tree.is_blank(text) {
            return Ok(());
        }
        Err(tree.error(&format!(
            "template: multiple definition of template {}",
            go_quote_bytes(&tree.name)
        )))
    }
}
