//! Go's regular expressions in the words of the `regex` crate.
//!
//! The two dialects are close enough to be mistaken for each other: in Go's, `\d` and `\w` are ASCII, `\b` too, a `[` in
//! a class is an ordinary character, `{` repeats only where it can, and `(?x)` does not exist. A pattern is
//! translated character by character, so that nothing of it reaches the `regex` crate with another meaning.
//! Groups do not capture, since nobody asks what they matched.

use std::fmt::Write as _;

const DIGITS: &str = "0-9";
const SPACES: &str = r"\t\n\f\r\x20";
const WORDS: &str = "0-9A-Za-z_";

/// Go's largest repeat count.
const MOST_REPEATS: u32 = 1000;

/// `pattern` in the syntax of the `regex` crate.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut translator = Translator {
        rest: pattern,
        out: String::new(),
        repeat: None,
        names: Vec::new(),
        flags: String::new(),
        open: 0,
    };
    while let Some(c) = translator.next() {
        translator.element(c)?;
    }
    match translator.open {
        0 => Ok(translator.out),
        1.. => Err(format!("missing closing ): `{pattern}`")),
        _ => Err(format!("unexpected ): `{pattern}`")),
    }
}

struct Translator<'a> {
    rest: &'a str,
    out: String,
    /// The repetition just read: another one right behind it is an error.
    repeat: Option<&'a str>,
    names: Vec<&'a str>,
    /// Flags that were set and come before what is translated next. A repetition skips them: in `a(?i)+` it is the
    /// `a` that repeats.
    flags: String,
    /// How many groups are open; negative once too many were closed.
    open: i32,
}

impl<'a> Translator<'a> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take(&mut self, expected: &str) -> bool {
        let rest = self.rest.strip_prefix(expected);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// What was read since `from` was the rest.
    fn read_since(&self, from: &'a str) -> &'a str {
        &from[..from.len() - self.rest.len()]
    }

    /// Translates what begins with `c`, which has been read.
    fn element(&mut self, c: char) -> Result<(), String> {
        let earlier = self.repeat.take();
        match c {
            '*' | '+' | '?' => self.repetition(earlier, &c.to_string()),
            '{' => match self.counted()? {
                Some(count) => self.repetition(earlier, &count),
                None => self.literal('{'),
            },
            '(' => self.group(),
            '[' => self.class(),
            '\\' => self.escape(),
            ')' => {
                self.open = if self.open > 0 {
                    self.open - 1
                } else {
                    i32::MIN / 2
                };
                self.emit(")")
            }
            '.' | '^' | '$' | '|' => self.emit(&c.to_string()),
            _ => self.literal(c),
        }
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "the arms of `element` that cannot fail look like the others"
    )]
    fn emit(&mut self, text: &str) -> Result<(), String> {
        self.out.push_str(&std::mem::take(&mut self.flags));
        self.out.push_str(text);
        Ok(())
    }

    fn literal(&mut self, c: char) -> Result<(), String> {
        self.emit(&regex::escape(c.encode_utf8(&mut [0; 4])))
    }

    fn repetition(&mut self, earlier: Option<&str>, operator: &str) -> Result<(), String> {
        let lazy = if self.take("?") { "?" } else { "" };
        if let Some(earlier) = earlier {
            return Err(format!(
                "invalid nested repetition operator: `{earlier}{operator}{lazy}`"
            ));
        }
        self.out.push_str(operator);
        self.out.push_str(lazy);
        self.repeat = Some(match operator {
            "*" => "*",
            "+" => "+",
            "?" => "?",
            _ => "{}",
        });
        Ok(())
    }

    /// What follows a `{` as a repeat count, or `None` if it is none and the brace stands for itself.
    fn counted(&mut self) -> Result<Option<String>, String> {
        let Some((body, after)) = self.rest.split_once('}') else {
            return Ok(None);
        };
        let (low, high) = match body.split_once(',') {
            Some((low, "")) => (low, None),
            Some((low, high)) => (low, Some(high)),
            None => (body, None),
        };
        if !is_count(low) || high.is_some_and(|high| !is_count(high)) {
            return Ok(None);
        }
        let count = |digits: &str| digits.parse::<u32>().ok().filter(|n| *n <= MOST_REPEATS);
        let valid = match (count(low), high.map(count)) {
            (Some(low), Some(Some(high))) => low <= high,
            (Some(_), None) => true,
            _ => false,
        };
        if !valid {
            return Err(format!("invalid repeat count: `{{{body}}}`"));
        }
        self.rest = after;
        Ok(Some(format!("{{{body}}}")))
    }

    fn group(&mut self) -> Result<(), String> {
        self.open += 1;
        if !self.rest.starts_with('?') {
            return self.emit("(?:");
        }
        if self.take("?P<") || self.take("?<") {
            return self.named_group();
        }
        let start = self.rest;
        self.take("?");
        let mut negative = false;
        let mut flags = String::new();
        loop {
            match self.next() {
                Some(flag @ ('i' | 'm' | 's' | 'U')) => flags.push(flag),
                Some('-') if !negative => {
                    negative = true;
                    flags.push('-');
                }
                Some(end @ (':' | ')')) if !flags.ends_with('-') => {
                    if end == ':' {
                        return self.emit(&format!("(?{flags}:"));
                    }
                    // flags for the rest of the group around them
                    self.open -= 1;
                    if !flags.is_empty() {
                        let _ = write!(self.flags, "(?{flags})");
                    }
                    return Ok(());
                }
                None => return Err(format!("missing argument to group: `({start}`")),
                _ => {
                    return Err(format!(
                        "invalid or unsupported Perl syntax: `({}`",
                        self.read_since(start)
                    ));
                }
            }
        }
    }

    fn named_group(&mut self) -> Result<(), String> {
        let Some((name, after)) = self.rest.split_once('>') else {
            return Err(format!("invalid named capture: `(?P<{}`", self.rest));
        };
        let is_word = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_word {
            return Err(format!("invalid named capture: `(?P<{name}>`"));
        }
        if self.names.contains(&name) {
            return Err(format!("duplicate capture group name: `{name}`"));
        }
        self.names.push(name);
        self.rest = after;
        self.emit("(?:")
    }

    /// What follows a backslash outside a class.
    fn escape(&mut self) -> Result<(), String> {
        if let Some(class) = self.perl_class()? {
            return self.emit(&format!("[{class}]"));
        }
        match self.rest.chars().next() {
            Some('A') => self.skip_to(r"\A"),
            Some('z') => self.skip_to(r"\z"),
            Some('b') => self.skip_to(r"(?-u:\b)"),
            Some('B') => self.skip_to(r"(?-u:\B)"),
            Some('Q') => {
                self.next();
                let (quoted, after) = self.rest.split_once(r"\E").unwrap_or((self.rest, ""));
                self.rest = after;
                self.emit(&regex::escape(quoted))
            }
            _ => {
                let c = self.escaped_char()?;
                self.literal(c)
            }
        }
    }

    /// Passes over one character and puts `translation` in its place.
    fn skip_to(&mut self, translation: &str) -> Result<(), String> {
        self.next();
        self.emit(translation)
    }

    /// A class of characters after a backslash, as it stands inside brackets; `None` if it is another escape.
    fn perl_class(&mut self) -> Result<Option<String>, String> {
        let start = self.rest;
        let class = match self.next() {
            Some('d') => DIGITS.to_owned(),
            Some('D') => format!("[^{DIGITS}]"),
            Some('s') => SPACES.to_owned(),
            Some('S') => format!("[^{SPACES}]"),
            Some('w') => WORDS.to_owned(),
            Some('W') => format!("[^{WORDS}]"),
            Some(c @ ('p' | 'P')) => self.unicode_class(c == 'P')?,
            _ => {
                self.rest = start;
                return Ok(None);
            }
        };
        Ok(Some(class))
    }

    /// The name of a Unicode class, one letter or in braces.
    fn unicode_class(&mut self, mut negated: bool) -> Result<String, String> {
        let start = self.rest;
        let mut name = match self.next() {
            Some('{') => {
                let (name, after) = self
                    .rest
                    .split_once('}')
                    .ok_or_else(|| format!("invalid character class range: `{start}`"))?;
                self.rest = after;
                name
            }
            Some(_) => self.read_since(start),
            None => return Err(r"invalid character class range: `\p`".to_owned()),
        };
        if let Some(positive) = name.strip_prefix('^') {
            name = positive;
            negated = !negated;
        }
        let is_name = !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' '));
        if !is_name {
            return Err(format!(r"invalid character class range: `\p{{{name}}}`"));
        }
        Ok(format!(r"\{}{{{name}}}", if negated { 'P' } else { 'p' }))
    }

    /// A single character after a backslash.
    fn escaped_char(&mut self) -> Result<char, String> {
        let start = self.rest;
        let decoded = match self.next() {
            Some(c @ '0'..='7') => self.octal(c),
            Some('x') => self.hexadecimal(),
            Some('a') => Some('\u{7}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('v') => Some('\u{b}'),
            Some(c) if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c),
            Some(_) => None,
            None => return Err("trailing backslash at end of expression: ``".to_owned()),
        };
        decoded.ok_or_else(|| format!("invalid escape sequence: `\\{}`", self.read_since(start)))
    }

    /// Up to three octal digits; one alone, unless it is zero, would be a back-reference, and there are none.
    fn octal(&mut self, first: char) -> Option<char> {
        let mut code = first.to_digit(8)?;
        let mut digits = 1;
        while let Some(digit) = self
            .rest
            .chars()
            .next()
            .and_then(|c| c.to_digit(8))
            .filter(|_| digits < 3)
        {
            self.next();
            code = code * 8 + digit;
            digits += 1;
        }
        if digits == 1 && first != '0' {
            None
        } else {
            char::from_u32(code)
        }
    }

    fn hexadecimal(&mut self) -> Option<char> {
        let digits = if self.take("{") {
            let (digits, after) = self.rest.split_once('}')?;
            self.rest = after;
            digits
        } else {
            let digits = self.rest.get(..2)?;
            self.rest = &self.rest[2..];
            digits
        };
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        char::from_u32(u32::from_str_radix(digits, 16).ok().filter(|_| is_hex)?)
    }

    /// What follows a `[`, up to its `]`. Each character is written as a number, so that none means anything else.
    fn class(&mut self) -> Result<(), String> {
        let start = self.rest;
        self.emit("[")?;
        if self.take("^") {
            self.out.push('^');
        }
        let mut first = true;
        while first || !self.take("]") {
            first = false;
            if self.rest.is_empty() {
                return Err(format!("missing closing ]: `[{start}`"));
            }
            if let Some(name) = self.posix_class()? {
                self.out.push_str(name);
                continue;
            }
            if self.rest.starts_with('\\') {
                let before = self.rest;
                self.next();
                if let Some(class) = self.perl_class()? {
                    self.out.push_str(&class);
                    continue;
                }
                self.rest = before;
            }
            self.range()?;
        }
        self.emit("]")
    }

    /// `[:alpha:]` inside a class.
    fn posix_class(&mut self) -> Result<Option<&'a str>, String> {
        let Some(end) = self
            .rest
            .strip_prefix("[:")
            .and_then(|rest| rest.find(":]"))
        else {
            return Ok(None);
        };
        let (name, after) = self.rest.split_at(end + 4);
        let known = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print",
            "punct", "space", "upper", "word", "xdigit",
        ];
        let plain = name[2..end + 2].trim_start_matches('^');
        if !known.contains(&plain) {
            return Err(format!("invalid character class range: `{name}`"));
        }
        self.rest = after;
        Ok(Some(name))
    }

    /// One character of a class, or a range of them.
    fn range(&mut self) -> Result<(), String> {
        let start = self.rest;
        let low = self.class_char()?;
        let mut high = low;
        if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
            self.next();
            high = self.class_char()?;
        }
        if high < low {
            return Err(format!(
                "invalid character class range: `{}`",
                self.read_since(start)
            ));
        }
        let _ = write!(
            self.out,
            r"\x{{{:x}}}-\x{{{:x}}}",
            u32::from(low),
            u32::from(high)
        );
        Ok(())
    }

    fn class_char(&mut self) -> Result<char, String> {
        match self.next() {
            Some('\\') => self.escaped_char(),
            Some(c) => Ok(c),
            None => Err("missing closing ]".to_owned()),
        }
    }
}

/// Whether `digits` can be a repeat count: Go takes no leading zeros.
fn is_count(digits: &str) -> bool {
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'))
}
