//! Runs a program over its parameters: statements, scopes, loops and calls. Expressions are
//! evaluated in `eval`.
//!
//! All state is on explicit stacks, so that neither nested blocks nor templates that call each
//! other cost stack of the thread. Errors name the node that was reached last, as Go's do, which
//! is not always the one that is wrong.

use std::{collections::btree_map, mem, ops::Range};

use super::{
    MAX_CALLS, MAX_OUTPUT, MAX_STEPS, NO_VALUE, TemplateError,
    ast::{Call, Node, Op, Pipe, Program, Programs},
    print::{print, show},
    value::{Params, Value},
};
use crate::quote::go_quote_bytes;

/// How a step of a running template ends.
pub(super) type Run<T> = Result<T, TemplateError>;

/// Runs the main template.
pub(super) fn render(text: &str, programs: &Programs, params: &Params) -> Run<Vec<u8>> {
    let Some(main) = programs.get(&b""[..]) else {
        return Ok(Vec::new());
    };
    let mut machine = Machine {
        text,
        programs,
        frame: Frame {
            name: b"",
            program: main,
            next: 0,
            vars: 0,
            dot: Value::Params(params),
        },
        callers: Vec::new(),
        vars: vec![("$", Value::Params(params))],
        place: None,
        out: Vec::new(),
        steps: MAX_STEPS,
        scopes: Vec::new(),
    };
    while machine.step()? {}
    Ok(machine.out)
}

/// A render on its way.
pub(super) struct Machine<'a> {
    text: &'a str,
    programs: &'a Programs,
    pub(super) frame: Frame<'a>,
    callers: Vec<Frame<'a>>,
    scopes: Vec<Scope<'a>>,
    /// The variables of all frames; those of the current one start at its `vars`.
    pub(super) vars: Vec<(&'a str, Value<'a>)>,
    /// The node that was reached last.
    pub(super) place: Option<&'a dyn Node>,
    out: Vec<u8>,
    /// How many are left.
    steps: usize,
}

/// A template that is running.
pub(super) struct Frame<'a> {
    name: &'a [u8],
    program: &'a Program,
    next: usize,
    vars: usize,
    pub(super) dot: Value<'a>,
}

/// A block that is running.
struct Scope<'a> {
    /// Number of variables, and dot, outside.
    vars: usize,
    dot: Value<'a>,
    kind: ScopeKind<'a>,
}

enum ScopeKind<'a> {
    Plain,
    Loop(Loop<'a>),
    /// The `else` of a range. A `break` there ends that range, not the one around it; a `continue`
    /// is for the one around.
    Drained {
        end: usize,
    },
}

struct Loop<'a> {
    pipe: &'a Pipe,
    items: Items<'a>,
    body: usize,
    end: usize,
    /// Number of variables outside the body.
    vars: usize,
}

/// What a range has still to go through.
enum Items<'a> {
    Ints(Range<i64>),
    Bytes(Range<u8>),
    Params(btree_map::Iter<'a, String, String>),
}

impl<'a> Iterator for Items<'a> {
    /// The key, which numbers have not, and the element.
    type Item = (Value<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Ints(range) => range.next().map(|int| (Value::Nil, Value::Int(int))),
            Self::Bytes(range) => range.next().map(|byte| (Value::Nil, Value::Byte(byte))),
            Self::Params(params) => params
                .next()
                .map(|(key, value)| (Value::lent(key.as_bytes()), Value::lent(value.as_bytes()))),
        }
    }
}

/// Statements.
impl<'a> Machine<'a> {
    /// Runs one op; false at the end.
    fn step(&mut self) -> Run<bool> {
        let program = self.frame.program;
        let Some(op) = program.ops.get(self.frame.next) else {
            return Ok(self.leave_call());
        };
        self.spend(1)?;
        self.frame.next += 1;
        match op {
            Op::Text(span) => self.write(&self.text.as_bytes()[span.clone()])?,
            Op::Print(pipe) => self.print(pipe)?,
            Op::If { pipe, otherwise } => {
                self.open_branch(pipe, *otherwise)?;
            }
            Op::With { pipe, otherwise } => {
                if let Some(value) = self.open_branch(pipe, *otherwise)? {
                    self.frame.dot = value;
                }
            }
            Op::Range {
                pipe,
                otherwise,
                end,
            } => self.open_range(pipe, *otherwise, *end)?,
            Op::Next | Op::Continue => self.next_item()?,
            Op::Break => self.break_loop(),
            Op::Jump(target) => self.frame.next = *target,
            Op::End => self.close_scope(),
            Op::Call(call) => self.call(call)?,
        }
        Ok(true)
    }

    fn write(&mut self, text: &[u8]) -> Run<()> {
        if text.len() > MAX_OUTPUT - self.out.len() {
            return Err(self.error(&format!("output exceeds {MAX_OUTPUT} bytes")));
        }
        self.out.extend_from_slice(text);
        Ok(())
    }

    fn print(&mut self, pipe: &'a Pipe) -> Run<()> {
        let value = self.pipe(pipe)?;
        if !pipe.targets.is_empty() {
            return Ok(());
        }
        match value {
            Value::Nil => self.write(NO_VALUE),
            Value::Text(text) => self.write(&text),
            value => {
                let text = print(&[value]).map_err(|reason| self.error(&reason))?;
                self.write(&text)
            }
        }
    }

    /// Opens a scope. The value if it is true; if not, goes to the other branch.
    fn open_branch(&mut self, pipe: &'a Pipe, otherwise: usize) -> Run<Option<Value<'a>>> {
        self.open_scope();
        let value = self.pipe(pipe)?;
        if value.is_true() {
            return Ok(Some(value));
        }
        self.frame.next = otherwise;
        Ok(None)
    }

    fn open_scope(&mut self) {
        let scope = Scope {
            vars: self.vars.len(),
            dot: self.frame.dot.clone(),
            kind: ScopeKind::Plain,
        };
        self.scopes.push(scope);
    }

    fn close_scope(&mut self) {
        if let Some(scope) = self.scopes.pop() {
            self.vars.truncate(scope.vars);
            self.frame.dot = scope.dot;
        }
    }

    fn open_range(&mut self, pipe: &'a Pipe, otherwise: usize, end: usize) -> Run<()> {
        self.open_scope();
        let value = self.pipe(pipe)?;
        let items = self.items(pipe, &value)?;
        let (body, vars) = (self.frame.next, self.vars.len());
        let kind = if items.is_empty() {
            self.frame.next = otherwise;
            ScopeKind::Drained { end }
        } else {
            ScopeKind::Loop(Loop {
                pipe,
                items,
                body,
                end,
                vars,
            })
        };
        if let Some(scope) = self.scopes.last_mut() {
            scope.kind = kind;
        }
        if self.frame.next == body {
            self.next_item()
        } else {
            Ok(())
        }
    }

    fn items(&self, pipe: &Pipe, value: &Value<'a>) -> Run<Items<'a>> {
        let items = match value {
            Value::Int(int) => Items::Ints(0..*int),
            Value::Byte(byte) => Items::Bytes(0..*byte),
            Value::Params(params) => return Ok(Items::Params(params.iter())),
            Value::Nil => return Ok(Items::Ints(0..0)),
            _ => return Err(self.error(&format!("range can't iterate over {}", show(value)))),
        };
        if pipe.targets.len() > 1 {
            return Err(self.error(&format!(
                "can't use {} to iterate over more than one variable",
                show(value)
            )));
        }
        Ok(items)
    }
}

impl Items<'_> {
    fn is_empty(&self) -> bool {
        match self {
            Self::Ints(range) => range.is_empty(),
            Self::Bytes(range) => range.is_empty(),
            Self::Params(params) => params.len() == 0,
        }
    }
}

/// Loops and calls.
impl<'a> Machine<'a> {
    /// Starts the next iteration of the innermost loop, or goes to its end.
    fn next_item(&mut self) -> Run<()> {
        while let Some(scope) = self.scopes.last_mut() {
            let ScopeKind::Loop(current) = &mut scope.kind else {
                self.scopes.pop();
                continue;
            };
            self.vars.truncate(current.vars);
            let Some((key, element)) = current.items.next() else {
                self.frame.next = current.end;
                return Ok(());
            };
            self.frame.next = current.body;
            self.frame.dot = element.clone();
            let pipe = current.pipe;
            return self.bind(pipe, key, element);
        }
        Ok(())
    }

    /// Gives the variables of a range their values: the element, or the key and the element.
    fn bind(&mut self, pipe: &'a Pipe, key: Value<'a>, element: Value<'a>) -> Run<()> {
        match &pipe.targets[..] {
            [] => Ok(()),
            [name] => self.bind_one(pipe, name, 1, element),
            [first, second, ..] => {
                self.bind_one(pipe, first, 2, key)?;
                self.bind_one(pipe, second, 1, element)
            }
        }
    }

    /// Sets the variable of that name, or the one that the range has declared `from_top` places
    /// from the top.
    fn bind_one(&mut self, pipe: &Pipe, name: &str, from_top: usize, value: Value<'a>) -> Run<()> {
        if pipe.assigns {
            return self.set_var(name, value);
        }
        let declared = self.vars.iter_mut().rev().nth(from_top - 1);
        if let Some((_, slot)) = declared {
            *slot = value;
        }
        Ok(())
    }

    fn break_loop(&mut self) {
        while let Some(scope) = self.scopes.last() {
            match &scope.kind {
                ScopeKind::Loop(Loop { end, .. }) | ScopeKind::Drained { end } => {
                    self.frame.next = *end;
                    return;
                }
                ScopeKind::Plain => self.scopes.pop(),
            };
        }
    }

    fn call(&mut self, call: &'a Call) -> Run<()> {
        self.place = Some(call);
        let Some(program) = self.programs.get(&call.name) else {
            return Err(self.error(&format!(
                "template {} not defined",
                go_quote_bytes(&call.name)
            )));
        };
        if self.callers.len() == MAX_CALLS {
            return Err(self.error(&format!("exceeded maximum template depth ({MAX_CALLS})")));
        }
        let dot = match &call.pipe {
            Some(pipe) => self.pipe(pipe)?,
            None => Value::Nil,
        };
        let frame = Frame {
            name: &call.name,
            program,
            next: 0,
            vars: self.vars.len(),
            dot: dot.clone(),
        };
        self.vars.push(("$", dot));
        self.callers.push(mem::replace(&mut self.frame, frame));
        Ok(())
    }

    /// Returns to the calling template; false if there is none.
    fn leave_call(&mut self) -> bool {
        let Some(caller) = self.callers.pop() else {
            return false;
        };
        let left = mem::replace(&mut self.frame, caller);
        self.vars.truncate(left.vars);
        true
    }
}

/// Variables.
impl<'a> Machine<'a> {
    /// The innermost variable of that name.
    pub(super) fn var(&self, name: &str) -> Run<Value<'a>> {
        let vars = &self.vars[self.frame.vars..];
        match vars.iter().rev().find(|(known, _)| *known == name) {
            Some((_, value)) => Ok(value.clone()),
            None => Err(self.undefined(name)),
        }
    }

    /// Gives the innermost variable of that name another value.
    pub(super) fn set_var(&mut self, name: &str, value: Value<'a>) -> Run<()> {
        let vars = &mut self.vars[self.frame.vars..];
        match vars.iter_mut().rev().find(|(known, _)| *known == name) {
            Some((_, slot)) => {
                *slot = value;
                Ok(())
            }
            None => Err(self.undefined(name)),
        }
    }

    fn undefined(&self, name: &str) -> TemplateError {
        self.error(&format!("undefined variable: {name}"))
    }
}

/// Limits and errors.
impl Machine<'_> {
    /// Takes steps off what is left; fails if that is not enough.
    pub(super) fn spend(&mut self, steps: usize) -> Run<()> {
        match self.steps.checked_sub(steps) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => Err(self.error(&format!("exceeded maximum number of steps ({MAX_STEPS})"))),
        }
    }

    /// An error at the node that was reached last.
    pub(super) fn error(&self, message: &str) -> TemplateError {
        let Some(place) = self.place else {
            return TemplateError::Execute(format!("template: : {message}"));
        };
        let before = &self.text[..place.pos()];
        let line = 1 + before.bytes().filter(|&b| b == b'\n').count();
        let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1);
        let name = go_quote_bytes(self.frame.name);
        TemplateError::Execute(format!(
            "template: :{line}:{column}: executing {name} at <{place}>: {message}"
        ))
    }
}
