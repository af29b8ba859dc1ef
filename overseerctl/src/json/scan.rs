//! The grammar of JSON: finds where a value ends, or which byte is wrong. Nothing is decoded here.
//!
//! The scan keeps open brackets on a list of its own instead of calling itself, so the depth of the input does not
//! reach the thread's stack.

/// Go's `encoding/json` refuses more open brackets than this.
const MAX_DEPTH: usize = 10_000;

/// Where and why a scan failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The text ended in a string, or between two tokens.
    End,
    /// The text ended in a token that neither an end nor a space may cut.
    EndInToken {
        /// What was being read.
        context: &'static str,
    },
    /// A byte does not fit.
    Byte {
        /// The byte.
        byte: u8,
        /// What was being read.
        context: &'static str,
        /// Its offset.
        at: usize,
    },
}

/// A place in a text.
#[derive(Clone, Debug)]
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// A bracket that waits for its counterpart.
#[derive(Clone, Copy)]
enum Open {
    Array,
    Object,
}

/// What the grammar wants next.
#[derive(Clone, Copy)]
enum Next {
    Value,
    FirstElement,
    Key,
    FirstKey,
    AfterValue,
}

impl<'a> Scanner<'a> {
    /// Begins at the first byte.
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next byte.
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Steps over the next byte, if there is one.
    pub(super) fn skip(&mut self) {
        self.at = self.text.len().min(self.at + 1);
    }

    /// Steps over white space.
    pub(super) fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Steps over one value. The byte behind it is not looked at, except to see where a number ends.
    pub(super) fn value(&mut self) -> Result<(), Fault> {
        let mut open = Vec::new();
        let mut next = Next::Value;
        loop {
            self.skip_space();
            next = match next {
                Next::FirstElement if self.eat(b']') => close(&mut open),
                Next::FirstKey if self.eat(b'}') => close(&mut open),
                Next::Value | Next::FirstElement => self.begin_value(&mut open)?,
                Next::Key | Next::FirstKey => self.key()?,
                Next::AfterValue => self.after_value(&mut open)?,
            };
            if open.is_empty() && matches!(next, Next::AfterValue) {
                return Ok(());
            }
        }
    }

    /// Steps over a literal, or over the bracket that opens an array or object.
    fn begin_value(&mut self, open: &mut Vec<Open>) -> Result<Next, Fault> {
        match self.peek().ok_or(Fault::End)? {
            b'{' => return self.open(open, Open::Object, Next::FirstKey),
            b'[' => return self.open(open, Open::Array, Next::FirstElement),
            b'"' => self.string()?,
            b'-' | b'0'..=b'9' => self.number()?,
            b't' => self.literal(b"true", &TRUE)?,
            b'f' => self.literal(b"false", &FALSE)?,
            b'n' => self.literal(b"null", &NULL)?,
            byte => return Err(self.unexpected(byte, "looking for beginning of value")),
        }
        Ok(Next::AfterValue)
    }

    fn open(&mut self, open: &mut Vec<Open>, bracket: Open, inside: Next) -> Result<Next, Fault> {
        if open.len() == MAX_DEPTH {
            return Err(self.unexpected(self.text[self.at], "exceeded max depth"));
        }
        open.push(bracket);
        self.at += 1;
        Ok(inside)
    }

    /// Steps over what follows a value inside an array or object.
    fn after_value(&mut self, open: &mut Vec<Open>) -> Result<Next, Fault> {
        let byte = self.peek().ok_or(Fault::End)?;
        let next = match (open.last(), byte) {
            (Some(Open::Array), b',') => Next::Value,
            (Some(Open::Object), b',') => Next::Key,
            (Some(Open::Array), b']') | (Some(Open::Object), b'}') => close(open),
            (Some(Open::Object), _) => {
                return Err(self.unexpected(byte, "after object key:value pair"));
            }
            _ => return Err(self.unexpected(byte, "after array element")),
        };
        self.at += 1;
        Ok(next)
    }

    /// Steps over a key and its colon.
    fn key(&mut self) -> Result<Next, Fault> {
        match self.peek().ok_or(Fault::End)? {
            b'"' => self.string()?,
            byte => return Err(self.unexpected(byte, "looking for beginning of object key string")),
        }
        self.skip_space();
        match self.peek().ok_or(Fault::End)? {
            b':' => self.at += 1,
            byte => return Err(self.unexpected(byte, "after object key")),
        }
        Ok(Next::Value)
    }

    /// Steps over a string, whose quote is the next byte. Bytes from 0x80 pass unchecked, as in Go.
    fn string(&mut self) -> Result<(), Fault> {
        self.at += 1;
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .iter()
                .position(|&byte| matches!(byte, b'"' | b'\\' | 0..b' '))
                .ok_or(Fault::End)?;
            self.at += plain;
            match rest[plain] {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                byte => return Err(self.unexpected(byte, "in string literal")),
            }
        }
    }

    /// Steps over an escape, whose backslash is the next byte.
    fn escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        let letter = self.token_byte("in string escape code", |byte| {
            br#"bfnrt\/"u"#.contains(&byte)
        })?;
        if letter == b'u' {
            for _ in 0..4 {
                self.token_byte(r"in \u hexadecimal character escape", |byte| {
                    byte.is_ascii_hexdigit()
                })?;
            }
        }
        Ok(())
    }

    /// Steps over a number, which ends before the first byte that cannot belong to it.
    fn number(&mut self) -> Result<(), Fault> {
        self.eat(b'-');
        if self.token_byte("in numeric literal", |byte| byte.is_ascii_digit())? != b'0' {
            self.skip_digits();
        }
        if self.eat(b'.') {
            self.token_byte("after decimal point in numeric literal", |byte| {
                byte.is_ascii_digit()
            })?;
            self.skip_digits();
        }
        if self.eat(b'e') || self.eat(b'E') {
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.token_byte("in exponent of numeric literal", |byte| {
                byte.is_ascii_digit()
            })?;
            self.skip_digits();
        }
        Ok(())
    }

    /// Steps over a word whose first letter is known to be there; `contexts` belong to the letters behind it.
    fn literal(&mut self, word: &[u8], contexts: &[&'static str]) -> Result<(), Fault> {
        self.at += 1;
        for (&letter, context) in word[1..].iter().zip(contexts) {
            self.token_byte(context, |byte| byte == letter)?;
        }
        Ok(())
    }

    /// Takes a byte in the middle of a token.
    fn token_byte(
        &mut self,
        context: &'static str,
        fits: impl Fn(u8) -> bool,
    ) -> Result<u8, Fault> {
        match self.peek() {
            Some(byte) if fits(byte) => {
                self.at += 1;
                Ok(byte)
            }
            Some(byte) => Err(self.unexpected(byte, context)),
            None => Err(Fault::EndInToken { context }),
        }
    }

    fn skip_digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn eat(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn unexpected(&self, byte: u8, context: &'static str) -> Fault {
        Fault::Byte {
            byte,
            context,
            at: self.at,
        }
    }
}

/// Closes the innermost bracket; the byte itself is stepped over by the caller.
fn close(open: &mut Vec<Open>) -> Next {
    open.pop();
    Next::AfterValue
}

const TRUE: [&str; 3] = [
    "in literal true (expecting 'r')",
    "in literal true (expecting 'u')",
    "in literal true (expecting 'e')",
];
const FALSE: [&str; 4] = [
    "in literal false (expecting 'a')",
    "in literal false (expecting 'l')",
    "in literal false (expecting 's')",
    "in literal false (expecting 'e')",
];
const NULL: [&str; 3] = [
    "in literal null (expecting 'u')",
    "in literal null (expecting 'l')",
    "in literal null (expecting 'l')",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(text: &[u8]) -> Result<usize, Fault> {
        let mut scanner = Scanner::new(text);
        scanner.value().map(|()| scanner.at())
    }

    #[test]
    fn a_value_ends_before_what_cannot_belong_to_it() {
        for (text, end) in [
            (&b"12,"[..], 2),
            (b"-1.5E-7]", 7),
            (b"0x", 1),
            (b"{}}", 2),
            (b"[[],{}] ", 7),
            (b"\"\\\"\"\"", 4),
            (b"nullx", 4),
        ] {
            assert_eq!(end_of(text), Ok(end));
        }
    }

    #[test]
    fn an_end_inside_a_token_is_told_from_an_end_between_tokens() {
        assert_eq!(end_of(b"[1"), Err(Fault::End));
        assert_eq!(end_of(b"\"a"), Err(Fault::End));
        assert_eq!(
            end_of(b"[1."),
            Err(Fault::EndInToken {
                context: "after decimal point in numeric literal"
            })
        );
        assert_eq!(
            end_of(b"\"\\"),
            Err(Fault::EndInToken {
                context: "in string escape code"
            })
        );
    }

    #[test]
    fn the_offset_of_a_wrong_byte_is_told() {
        let Err(Fault::Byte { at, .. }) = end_of(b"{\"a\": tRue}") else {
            panic!("`tRue` was accepted");
        };
        assert_eq!(at, 7);
    }
}
