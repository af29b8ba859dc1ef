//! The formats of `printf`: Go's verbs, flags, widths and argument indexes, for the values a
//! template can have.
//!
//! A format is never wrong enough to stop the template: what does not fit shows up in the text, as
//! `%!d(string=x)`, `%!v(MISSING)` or `%!(EXTRA int=1)`. How a single value looks under a verb is
//! decided in `print`.

use super::{
    literal::{Rune, runes},
    print::{Flags, Printer},
    value::Value,
};

/// Widths and precisions beyond this are errors of the format.
const TOO_LARGE: usize = 1_000_000;

/// Formats the arguments. Fails if the text grows too large.
pub(super) fn printf(format: &[u8], args: &[Value<'_>]) -> Result<Vec<u8>, String> {
    let mut run = Run {
        format,
        at: 0,
        args,
        next: 0,
        reordered: false,
        bad_index: false,
        after_index: false,
        printer: Printer::new(),
    };
    while run.copy_text() && run.directive() {}
    run.report_extra();
    run.printer.finish()
}

/// A format on its way.
struct Run<'f, 'v> {
    format: &'f [u8],
    at: usize,
    args: &'f [Value<'v>],
    /// The argument that the next verb takes.
    next: usize,
    /// Whether an index was used anywhere, so that arguments may be left over.
    reordered: bool,
    /// Whether the directive has an index that is wrong, or in the wrong place.
    bad_index: bool,
    /// Whether the part of the directive read last was an index.
    after_index: bool,
    printer: Printer,
}

impl Run<'_, '_> {
    /// Copies up to a directive and steps over its `%`; false at the end of the format.
    fn copy_text(&mut self) -> bool {
        let rest = &self.format[self.at..];
        let length = rest.iter().position(|&b| b == b'%').unwrap_or(rest.len());
        self.printer.put(&rest[..length]);
        self.at += length + 1;
        length < rest.len()
    }

    fn peek(&self) -> Option<u8> {
        self.format.get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Runs what follows a `%`; false if the format ends within it.
    fn directive(&mut self) -> bool {
        self.printer.flags = Flags::default();
        self.bad_index = false;
        self.read_flags();
        self.read_index();
        self.read_width();
        self.read_precision();
        if !self.after_index {
            self.read_index();
        }
        let Some(verb) = runes(&self.format[self.at..]).next() else {
            self.printer.put(b"%!(NOVERB)");
            return false;
        };
        self.at += verb.len();
        self.run_verb(if let Rune::Char(c) = verb {
            c
        } else {
            char::REPLACEMENT_CHARACTER
        });
        true
    }

    fn run_verb(&mut self, verb: char) {
        if verb == '%' {
            self.printer.put(b"%");
        } else if self.bad_index {
            self.printer.put(format!("%!{verb}(BADINDEX)").as_bytes());
        } else if let Some(arg) = self.args.get(self.next) {
            self.printer.print_arg(arg, verb);
            self.next += 1;
        } else {
            self.printer.put(format!("%!{verb}(MISSING)").as_bytes());
        }
    }

    fn read_flags(&mut self) {
        while let Some(byte) = self.peek() {
            let flags = &mut self.printer.flags;
            match byte {
                b'#' => flags.sharp = true,
                b'0' => flags.zero = true,
                b'+' => flags.plus = true,
                b'-' => flags.minus = true,
                b' ' => flags.space = true,
                _ => return,
            }
            self.at += 1;
        }
    }

    /// `12` or `*`, and the flag that a negative `*` stands for.
    fn read_width(&mut self) {
        if self.accept(b'*') {
            let width = self.take_int();
            let flags = &mut self.printer.flags;
            flags.width = width.map(|(_, width)| width);
            match width {
                None => self.printer.put(b"%!(BADWIDTH)"),
                Some((false, _)) => {}
                Some((true, _)) => {
                    flags.minus = true;
                    flags.zero = false;
                }
            }
            self.after_index = false;
            return;
        }
        self.printer.flags.width = self.read_number();
        self.bad_index |= self.after_index && self.printer.flags.width.is_some();
    }

    /// `.3` or `.*`; a bare `.` is zero. A `.` that ends the format is a verb.
    fn read_precision(&mut self) {
        if self.at + 1 >= self.format.len() || !self.accept(b'.') {
            return;
        }
        self.bad_index |= self.after_index;
        self.read_index();
        if !self.accept(b'*') {
            self.printer.flags.precision = Some(self.read_number().unwrap_or(0));
            return;
        }
        let precision = self
            .take_int()
            .filter(|(negative, _)| !negative)
            .map(|(_, count)| count);
        self.printer.flags.precision = precision;
        if precision.is_none() {
            self.printer.put(b"%!(BADPREC)");
        }
        self.after_index = false;
    }

    /// The argument for a `*`, if there is one and it is a reasonable integer: whether it is
    /// negative, and its magnitude.
    fn take_int(&mut self) -> Option<(bool, usize)> {
        let value: Option<i64> = match self.args.get(self.next)? {
            Value::Int(value) => Some(*value),
            Value::Byte(value) => Some(i64::from(*value)),
            _ => None,
        };
        self.next += 1;
        let magnitude = usize::try_from(value?.unsigned_abs())
            .ok()
            .filter(|&m| m <= TOO_LARGE)?;
        Some((value? < 0, magnitude))
    }

    /// Digits, if there are any. An absurdly long number swallows the rest of the format.
    fn read_number(&mut self) -> Option<usize> {
        let (number, length) = leading_number(&self.format[self.at..]);
        self.at += length;
        number
    }

    /// `[2]`: which argument comes next.
    fn read_index(&mut self) {
        self.after_index = false;
        if self.peek() != Some(b'[') {
            return;
        }
        self.reordered = true;
        let rest = &self.format[self.at..];
        let close = rest
            .iter()
            .position(|&b| b == b']')
            .filter(|_| rest.len() >= 3);
        let inside = close.map_or(&[][..], |close| &rest[1..close]);
        let number = match leading_number(inside) {
            (Some(number), length) if length == inside.len() => Some(number),
            _ => None,
        };
        self.at += close.map_or(1, |close| close + 1);
        self.after_index = number.is_some();
        match number
            .and_then(|n| n.checked_sub(1))
            .filter(|&n| n < self.args.len())
        {
            Some(chosen) => self.next = chosen,
            None => self.bad_index = true,
        }
    }

    /// Names the arguments that no verb took.
    fn report_extra(&mut self) {
        if self.reordered || self.next >= self.args.len() {
            return;
        }
        self.printer.flags = Flags::default();
        self.printer.put(b"%!(EXTRA ");
        for (i, arg) in self.args[self.next..].iter().enumerate() {
            self.printer.put(if i > 0 { b", " } else { b"" });
            self.printer.print_typed(arg);
        }
        self.printer.put(b")");
    }
}

/// The number that some bytes start with, if any, and how many bytes it takes: all, if it is
/// absurdly large.
fn leading_number(text: &[u8]) -> (Option<usize>, usize) {
    let mut number: usize = 0;
    for (i, byte) in text.iter().enumerate() {
        if !byte.is_ascii_digit() {
            return ((i > 0).then_some(number), i);
        }
        if number > TOO_LARGE {
            return (None, text.len());
        }
        number = number * 10 + usize::from(byte - b'0');
    }
    ((!text.is_empty()).then_some(number), text.len())
}
