//! Evaluates expressions: pipelines, commands, operands and function calls.
//!
//! Evaluation recurses as deep as parentheses nest, which the parser bounds. Each step notes its
//! node as the place for errors before it does anything that could fail.

use super::{
    TemplateError,
    ast::{Command, Node, Operand, Pipe, Term},
    funcs::{Arity, Builtin, not_callable},
    number::Number,
    run::{Machine, Run},
    value::Value,
};

/// How many bytes of text count as one step.
const BYTES_PER_STEP: usize = 16;

/// Expressions.
impl<'a> Machine<'a> {
    /// The value of a pipeline, which also goes to the variables it names.
    pub(super) fn pipe(&mut self, pipe: &'a Pipe) -> Run<Value<'a>> {
        self.place = Some(pipe);
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, last)?);
        }
        let value = last.unwrap_or(Value::Nil);
        for name in &pipe.targets {
            if pipe.assigns {
                self.set_var(name, value.clone())?;
            } else {
                self.vars.push((name, value.clone()));
            }
        }
        Ok(value)
    }

    /// Evaluates a command; `last` is the value that the pipeline hands to it.
    fn command(&mut self, command: &'a Command, last: Option<Value<'a>>) -> Run<Value<'a>> {
        self.spend(1)?;
        let first = &command.first;
        let has_args = !command.args.is_empty() || last.is_some();
        match &first.term {
            Term::Function(builtin) => {
                return self.function(*builtin, first, command, &command.args, last);
            }
            Term::Field(path) => {
                self.place = Some(first);
                return self.fields(self.frame.dot.clone(), path, has_args);
            }
            Term::Chain(head, path) => return self.chain(first, head, path, has_args),
            Term::Variable(name, path) if !path.is_empty() => {
                self.place = Some(first);
                let value = self.var(name)?;
                return self.fields(value, path, has_args);
            }
            Term::Paren(_) => {}
            // An unknown variable is reported before superfluous arguments.
            Term::Variable(name, _) => {
                self.place = Some(first);
                self.var(name)?;
            }
            _ => self.place = Some(first),
        }
        if has_args {
            return Err(self.error(&format!("can't give argument to non-function {first}")));
        }
        match &first.term {
            Term::Nil => Err(self.error("nil is not a command")),
            Term::Paren(pipe) => self.pipe(pipe),
            _ => self.arg(first),
        }
    }

    /// Evaluates an operand on its own.
    fn arg(&mut self, operand: &'a Operand) -> Run<Value<'a>> {
        self.place = Some(operand);
        match &operand.term {
            Term::Bool(value) => Ok(Value::Bool(*value)),
            Term::Chain(head, path) => self.chain(operand, head, path, false),
            Term::Dot => Ok(self.frame.dot.clone()),
            Term::Field(path) => self.fields(self.frame.dot.clone(), path, false),
            Term::Function(builtin) => self.function(*builtin, operand, operand, &[], None),
            Term::Nil => Ok(Value::Nil),
            Term::Number(Number::Int(int), _) => Ok(Value::Int(*int)),
            Term::Number(Number::Float(float), _) => Ok(Value::Float(*float)),
            Term::Number(Number::TooBig, source) => {
                Err(self.error(&format!("{source} overflows int")))
            }
            Term::Paren(pipe) => self.pipe(pipe),
            Term::Text { value, .. } => Ok(Value::lent(value)),
            Term::Variable(name, path) => {
                let value = self.var(name)?;
                self.fields(value, path, false)
            }
        }
    }

    fn chain(
        &mut self,
        operand: &'a Operand,
        head: &'a Operand,
        path: &'a [Box<str>],
        has_args: bool,
    ) -> Run<Value<'a>> {
        self.place = Some(operand);
        let value = self.arg(head)?;
        self.fields(value, path, has_args)
    }

    /// Follows field names. Only the last one could be called with arguments, and nothing here can
    /// be.
    fn fields(&self, start: Value<'a>, path: &[Box<str>], has_args: bool) -> Run<Value<'a>> {
        let mut value = start;
        for (i, name) in path.iter().enumerate() {
            value = match value {
                Value::Nil => Value::Nil,
                Value::Params(_) if has_args && i + 1 == path.len() => {
                    return Err(self.error(&format!("{name} is not a method but has arguments")));
                }
                Value::Params(params) => Value::of_key(params, name).unwrap_or(Value::Nil),
                value => {
                    let type_name = value.type_name();
                    return Err(
                        self.error(&format!("can't evaluate field {name} in type {type_name}"))
                    );
                }
            };
        }
        Ok(value)
    }
}

/// Function calls.
impl<'a> Machine<'a> {
    /// Calls a function. `node` is what the call stands in: the command, or the operand alone.
    fn function(
        &mut self,
        builtin: Builtin,
        operand: &'a Operand,
        node: &'a dyn Node,
        args: &'a [Operand],
        last: Option<Value<'a>>,
    ) -> Run<Value<'a>> {
        self.place = Some(operand);
        self.check_arity(builtin, args.len() + usize::from(last.is_some()))?;
        if let Builtin::And | Builtin::Or = builtin {
            return self.logic(builtin, args, last);
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in args {
            let is_format = builtin == Builtin::Printf && values.is_empty();
            values.push(if is_format {
                self.format_arg(arg)?
            } else {
                self.arg(arg)?
            });
        }
        if builtin == Builtin::Call {
            let reason = not_callable(args.first(), values.first().or(last.as_ref()));
            return Err(self.call_error(builtin, node, &reason));
        }
        if let Some(last) = last {
            let is_format = builtin == Builtin::Printf && values.is_empty();
            values.push(if is_format {
                self.check_format(last)?
            } else {
                last
            });
        }
        let result = builtin
            .call(&values)
            .map_err(|reason| self.call_error(builtin, node, &reason))?;
        let weight: usize = values.iter().map(Value::weight).sum();
        self.spend((weight + result.weight()) / BYTES_PER_STEP)?;
        Ok(result)
    }

    fn call_error(&mut self, builtin: Builtin, node: &'a dyn Node, reason: &str) -> TemplateError {
        self.place = Some(node);
        self.error(&format!("error calling {}: {reason}", builtin.name()))
    }

    fn check_arity(&self, builtin: Builtin, count: usize) -> Run<()> {
        let wanted = match builtin.arity() {
            Arity::Exactly(wanted) if count != wanted => wanted.to_string(),
            Arity::AtLeast(wanted) if count < wanted => format!("at least {wanted}"),
            _ => return Ok(()),
        };
        let name = builtin.name();
        Err(self.error(&format!(
            "wrong number of args for {name}: want {wanted} got {count}"
        )))
    }

    /// `and` and `or`: the first argument that decides, or the last.
    fn logic(
        &mut self,
        builtin: Builtin,
        args: &'a [Operand],
        last: Option<Value<'a>>,
    ) -> Run<Value<'a>> {
        let mut value = Value::Nil;
        for arg in args {
            value = self.arg(arg)?;
            if value.is_true() == (builtin == Builtin::Or) {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    /// The format of `printf`, which alone must be a string.
    fn format_arg(&mut self, operand: &'a Operand) -> Run<Value<'a>> {
        self.place = Some(operand);
        match &operand.term {
            Term::Nil => Err(self.error("cannot assign nil to string")),
            Term::Bool(_) | Term::Number(..) => {
                Err(self.error(&format!("expected string; found {operand}")))
            }
            _ => {
                let value = self.arg(operand)?;
                self.check_format(value)
            }
        }
    }

    fn check_format(&self, value: Value<'a>) -> Run<Value<'a>> {
        match value {
            Value::Text(_) => Ok(value),
            Value::Nil => Err(self.error("invalid value; expected string")),
            _ => Err(self.error(&format!(
                "wrong type for value; expected string; got {}",
                value.type_name()
            ))),
        }
    }
}
