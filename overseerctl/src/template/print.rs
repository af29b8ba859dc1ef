//! How single values are printed: under a verb with flags, a width and a precision, or plainly as
//! an action does.

use std::mem;

use super::{
    MAX_OUTPUT,
    float::{Layout, format_float},
    literal::{Rune, can_backquote, is_printable, quote, quote_char, runes},
    value::{Params, Value},
};
use crate::utf8::to_valid;

/// What stands between the `%` and the verb.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one character of a format"
)]
pub(super) struct Flags {
    pub(super) width: Option<usize>,
    pub(super) precision: Option<usize>,
    /// `-`: pad on the right.
    pub(super) minus: bool,
    /// `+`: always a sign; ASCII only for `%q`.
    pub(super) plus: bool,
    /// `#`: the other form.
    pub(super) sharp: bool,
    /// ` `: room for a sign.
    pub(super) space: bool,
    /// `0`: pad with zeros.
    pub(super) zero: bool,
    /// `%#v`: Go syntax, in place of `sharp`.
    go_syntax: bool,
}

/// Collects the text of a `print`, `printf` or action.
#[derive(Debug, Default)]
pub(super) struct Printer {
    pub(super) flags: Flags,
    text: Vec<u8>,
    too_large: bool,
}

/// `print`: spaces between arguments that are not strings.
pub(super) fn print(args: &[Value<'_>]) -> Result<Vec<u8>, String> {
    let mut printer = Printer::new();
    let mut after_text = true;
    for arg in args {
        let is_text = matches!(arg, Value::Text(_));
        if !is_text && !after_text {
            printer.put(b" ");
        }
        printer.print_arg(arg, 'v');
        after_text = is_text;
    }
    printer.finish()
}

/// `println`: spaces between all arguments, and a newline.
pub(super) fn println(args: &[Value<'_>]) -> Result<Vec<u8>, String> {
    let mut printer = Printer::new();
    for (i, arg) in args.iter().enumerate() {
        printer.put(if i > 0 { b" " } else { b"" });
        printer.print_arg(arg, 'v');
    }
    printer.put(b"\n");
    printer.finish()
}

/// The error for a string that would be larger than a rendered template may be.
pub(super) fn too_large() -> String {
    format!("text exceeds {MAX_OUTPUT} bytes")
}

/// A value in an error message.
pub(super) fn show(value: &Value<'_>) -> String {
    let mut printer = Printer::new();
    printer.print_arg(value, 'v');
    to_valid(&printer.text).into_owned()
}

/// Digits of an integer verb.
#[derive(Clone, Copy)]
struct Radix {
    base: u64,
    /// What `#` puts in front.
    prefix: &'static str,
    upper: bool,
}

impl Radix {
    const BINARY: Self = Self {
        base: 2,
        prefix: "0b",
        upper: false,
    };
    const OCTAL: Self = Self {
        base: 8,
        prefix: "0",
        upper: false,
    };
    const DECIMAL: Self = Self {
        base: 10,
        prefix: "",
        upper: false,
    };
    const HEX: Self = Self {
        base: 16,
        prefix: "0x",
        upper: false,
    };
    const UPPER_HEX: Self = Self {
        base: 16,
        prefix: "0X",
        upper: true,
    };

    fn digits(self, value: u64) -> String {
        match (self.base, self.upper) {
            (2, _) => format!("{value:b}"),
            (8, _) => format!("{value:o}"),
            (16, false) => format!("{value:x}"),
            (16, true) => format!("{value:X}"),
            _ => value.to_string(),
        }
    }
}

/// An integer as its bits and its sign.
#[derive(Clone, Copy)]
struct Integer {
    bits: u64,
    signed: bool,
}

impl Integer {
    fn is_negative(self) -> bool {
        self.signed && self.bits.cast_signed() < 0
    }

    fn magnitude(self) -> u64 {
        if self.is_negative() {
            self.bits.wrapping_neg()
        } else {
            self.bits
        }
    }

    /// The character of this number; U+FFFD if there is none.
    fn to_char(self) -> char {
        u32::try_from(self.bits)
            .ok()
            .and_then(char::from_u32)
            .unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

impl Printer {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The text, unless it grew too large.
    pub(super) fn finish(self) -> Result<Vec<u8>, String> {
        if self.too_large {
            Err(too_large())
        } else {
            Ok(self.text)
        }
    }

    /// Appends as it is.
    pub(super) fn put(&mut self, text: &[u8]) {
        if self.has_room(text.len()) {
            self.text.extend_from_slice(text);
        }
    }

    fn has_room(&mut self, length: usize) -> bool {
        self.too_large |= length > MAX_OUTPUT - self.text.len();
        !self.too_large
    }

    /// Prints a value under a verb. Where the verb is `v` (or `w`, which is for errors only), `#`
    /// asks for Go syntax and `+` for field names, which no value here has.
    pub(super) fn print_arg(&mut self, arg: &Value<'_>, verb: char) {
        let flags = self.flags;
        if matches!(verb, 'v' | 'w') {
            self.flags.go_syntax = flags.sharp;
            self.flags.sharp = false;
            self.flags.plus = false;
        }
        self.print_value(arg, verb);
    }

    /// `int=3`.
    pub(super) fn print_typed(&mut self, arg: &Value<'_>) {
        self.put(arg.type_name().as_bytes());
        if !matches!(arg, Value::Nil) {
            self.put(b"=");
            self.print_value(arg, 'v');
        }
    }

    fn print_value(&mut self, value: &Value<'_>, verb: char) {
        match (value, verb) {
            (Value::Nil, 'T' | 'v') => self.pad(b"<nil>"),
            (Value::Nil, _) | (_, 'p') | (Value::Params(_), 'w') => self.bad_verb(value, verb),
            (_, 'T') => self.print_text(value.type_name().as_bytes()),
            (Value::Bool(truth), 't' | 'v') => self.pad(truth.to_string().as_bytes()),
            (Value::Bool(_), _) => self.bad_verb(value, verb),
            (Value::Int(int), _) => self.integer_verb(
                value,
                Integer {
                    bits: int.cast_unsigned(),
                    signed: true,
                },
                verb,
            ),
            (Value::Byte(byte), _) => {
                self.integer_verb(
                    value,
                    Integer {
                        bits: u64::from(*byte),
                        signed: false,
                    },
                    verb,
                );
            }
            (Value::Float(float), _) => self.float_verb(value, *float, verb),
            (Value::Text(text), _) => self.text_verb(value, text, verb),
            (Value::Params(params), _) => self.print_params(params, verb),
        }
    }

    /// `%!d(string=x)`.
    fn bad_verb(&mut self, value: &Value<'_>, verb: char) {
        self.put(format!("%!{verb}(").as_bytes());
        self.print_typed(value);
        self.put(b")");
    }

    fn print_params(&mut self, params: &Params, verb: char) {
        let (open, separator, close) = if self.flags.go_syntax {
            ("map[string]string{", ", ", "}")
        } else {
            ("map[", " ", "]")
        };
        self.put(open.as_bytes());
        for (i, (key, value)) in params.iter().enumerate() {
            self.put(if i > 0 { separator.as_bytes() } else { b"" });
            self.print_value(&Value::lent(key.as_bytes()), verb);
            self.put(b":");
            self.print_value(&Value::lent(value.as_bytes()), verb);
        }
        self.put(close.as_bytes());
    }
}

/// Padding.
impl Printer {
    fn pad(&mut self, text: &[u8]) {
        let padding = match self.flags.width {
            None | Some(0) => 0,
            Some(width) => width.saturating_sub(runes(text).count()),
        };
        if self.flags.minus {
            self.put(text);
            self.put_padding(padding);
        } else {
            self.put_padding(padding);
            self.put(text);
        }
    }

    fn put_padding(&mut self, count: usize) {
        if self.has_room(count) {
            let fill = if self.flags.zero && !self.flags.minus {
                b'0'
            } else {
                b' '
            };
            self.text.resize(self.text.len() + count, fill);
        }
    }

    /// Pads with spaces even if zeros were asked for.
    fn pad_with_spaces(&mut self, text: &[u8]) {
        let zero = mem::take(&mut self.flags.zero);
        self.pad(text);
        self.flags.zero = zero;
    }
}

/// Strings.
impl Printer {
    fn text_verb(&mut self, value: &Value<'_>, text: &[u8], verb: char) {
        match verb {
            'v' if self.flags.go_syntax => self.print_quoted(text),
            'v' | 's' => self.print_text(text),
            'x' => self.print_hex(text, false),
            'X' => self.print_hex(text, true),
            'q' => self.print_quoted(text),
            _ => self.bad_verb(value, verb),
        }
    }

    fn print_text(&mut self, text: &[u8]) {
        self.pad(self.truncated(text));
    }

    /// A precision counts characters.
    fn truncated<'s>(&self, text: &'s [u8]) -> &'s [u8] {
        match self.flags.precision {
            Some(count) => &text[..runes(text).take(count).map(Rune::len).sum()],
            None => text,
        }
    }

    fn print_quoted(&mut self, text: &[u8]) {
        let text = self.truncated(text);
        if self.flags.sharp && can_backquote(text) {
            return self.pad(&[b"`", text, b"`"].concat());
        }
        self.pad(quote(text, self.flags.plus).as_bytes());
    }

    /// Two digits a byte. A precision counts bytes; a space separates them, and then `#` marks
    /// each.
    fn print_hex(&mut self, text: &[u8], upper: bool) {
        let shown = &text[..self.flags.precision.unwrap_or(text.len()).min(text.len())];
        let digits = if upper {
            b"0123456789ABCDEF"
        } else {
            b"0123456789abcdef"
        };
        let mark: &[u8] = match (self.flags.sharp, upper) {
            (false, _) => b"",
            (true, false) => b"0x",
            (true, true) => b"0X",
        };
        let mut hex = Vec::with_capacity(2 * shown.len());
        for (i, byte) in shown.iter().enumerate() {
            if i > 0 && self.flags.space {
                hex.push(b' ');
            }
            if i == 0 || self.flags.space {
                hex.extend_from_slice(mark);
            }
            hex.extend([
                digits[usize::from(byte >> 4)],
                digits[usize::from(byte & 15)],
            ]);
        }
        self.pad(&hex);
    }
}

/// Numbers.
impl Printer {
    fn integer_verb(&mut self, value: &Value<'_>, integer: Integer, verb: char) {
        match verb {
            'v' if self.flags.go_syntax && !integer.signed => self.print_go_hex(integer),
            'v' | 'd' => self.print_integer(integer, Radix::DECIMAL),
            'b' => self.print_integer(integer, Radix::BINARY),
            'o' => self.print_integer(integer, Radix::OCTAL),
            'O' => self.print_marked_octal(integer),
            'x' => self.print_integer(integer, Radix::HEX),
            'X' => self.print_integer(integer, Radix::UPPER_HEX),
            'c' => self.pad(integer.to_char().encode_utf8(&mut [0; 4]).as_bytes()),
            'q' => self.pad(quote_char(integer.to_char(), self.flags.plus).as_bytes()),
            'U' => self.print_code_point(integer),
            _ => self.bad_verb(value, verb),
        }
    }

    fn print_go_hex(&mut self, integer: Integer) {
        let sharp = mem::replace(&mut self.flags.sharp, true);
        self.print_integer(integer, Radix::HEX);
        self.flags.sharp = sharp;
    }

    fn print_integer(&mut self, integer: Integer, radix: Radix) {
        self.print_integer_marked(integer, radix, "");
    }

    fn print_marked_octal(&mut self, integer: Integer) {
        self.print_integer_marked(integer, Radix::OCTAL, "0o");
    }

    /// A precision counts digits; without one, the `0` flag makes the width do so.
    fn print_integer_marked(&mut self, integer: Integer, radix: Radix, mark: &str) {
        let flags = self.flags;
        if flags.precision == Some(0) && integer.bits == 0 {
            return self.pad_with_spaces(b"");
        }
        let sign = sign(integer.is_negative(), flags);
        let digits = radix.digits(integer.magnitude());
        let wanted = match (flags.precision, flags.width) {
            (Some(precision), _) => precision,
            (None, Some(width)) if flags.zero && !flags.minus => width.saturating_sub(sign.len()),
            _ => 0,
        };
        let zeros = "0".repeat(wanted.saturating_sub(digits.len()));
        let is_marked = radix.base == 8 && (digits.starts_with('0') || !zeros.is_empty());
        let prefix = if flags.sharp && !is_marked {
            radix.prefix
        } else {
            ""
        };
        self.pad_with_spaces(format!("{sign}{mark}{prefix}{zeros}{digits}").as_bytes());
    }

    /// `U+0041`, and with `#` also the character.
    fn print_code_point(&mut self, integer: Integer) {
        let digits = self.flags.precision.unwrap_or(0).max(4);
        let mut text = format!("{:X}", integer.bits);
        text.insert_str(0, &"0".repeat(digits.saturating_sub(text.len())));
        let c = u32::try_from(integer.bits).ok().and_then(char::from_u32);
        let glyph = match c.filter(|&c| self.flags.sharp && is_printable(c)) {
            Some(c) => format!(" '{c}'"),
            None => String::new(),
        };
        self.pad_with_spaces(format!("U+{text}{glyph}").as_bytes());
    }

    fn float_verb(&mut self, value: &Value<'_>, float: f64, verb: char) {
        let layout = match verb {
            'v' | 'g' | 'G' => Layout::Short,
            'e' | 'E' => Layout::Exponent,
            'f' | 'F' => Layout::Plain,
            'b' => Layout::Binary,
            'x' | 'X' => Layout::Hex,
            _ => return self.bad_verb(value, verb),
        };
        let mut text = format_float(float.abs(), layout, self.flags.precision);
        if self.flags.sharp && layout != Layout::Binary {
            text = with_point(&text, verb, self.flags.precision);
        }
        if verb.is_ascii_uppercase() {
            text.make_ascii_uppercase();
        }
        let sign = sign(float.is_sign_negative(), self.flags);
        let fill = self
            .flags
            .width
            .unwrap_or(0)
            .saturating_sub(sign.len() + text.len());
        if self.flags.zero && !self.flags.minus && !sign.is_empty() {
            self.put(sign.as_bytes());
            self.put_padding(fill);
            return self.put(text.as_bytes());
        }
        self.pad(format!("{sign}{text}").as_bytes());
    }
}

fn sign(negative: bool, flags: Flags) -> &'static str {
    match (negative, flags.plus, flags.space) {
        (true, ..) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        _ => "",
    }
}

/// `#` on a float: always a point, and under some verbs zeros behind it up to the precision, or six
/// digits. The `x` of a hexadecimal number counts as a digit, as it does in Go.
fn with_point(number: &str, verb: char, precision: Option<usize>) -> String {
    let exponent = if matches!(verb, 'x' | 'X') { 'p' } else { 'e' };
    let (mantissa, tail) = number.split_at(number.find(exponent).unwrap_or(number.len()));
    let wanted = if matches!(verb, 'v' | 'g' | 'G' | 'x') {
        precision.unwrap_or(6)
    } else {
        0
    };
    let significant = mantissa
        .trim_start_matches(['0', '.'])
        .chars()
        .filter(|&c| c != '.')
        .count();
    let shown = if mantissa == "0" { 1 } else { significant };
    let point = if mantissa.contains('.') { "" } else { "." };
    format!(
        "{mantissa}{point}{}{tail}",
        "0".repeat(wanted.saturating_sub(shown))
    )
}
