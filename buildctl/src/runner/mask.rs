//! Secrets that must not show in a log: what of a text is one of them. Where a text is cut is [`super::log`]'s matter; this
//! says where it must not be.

use std::{borrow::Cow, fmt::Write as _, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD};
use memchr::memmem::Finder;
use runyard_common::secret::{REDACTED, Secret};

/// Shorter values are not masked: they would be found in everything, and protect nothing.
const SHORTEST: usize = 4;

/// The secrets of a run, in every form in which programs print them.
#[derive(Debug, Default)]
pub(super) struct Mask {
    needles: Vec<Finder<'static>>,
    longest: usize,
}

impl Mask {
    /// From now on this value is masked: as it is, line by line, percent-encoded, as JSON and as base64.
    pub(super) fn add(&mut self, secret: &Secret) {
        let value = secret.expose();
        for line in value.lines() {
            self.needle(line.trim());
        }
        self.needle(&percent(value));
        self.needle(&STANDARD.encode(value));
        if let Ok(json) = serde_json::to_string(value) {
            self.needle(json.trim_matches('"'));
        }
    }

    /// Masks what HTTP's basic authentication makes of a name and a password.
    pub(super) fn add_basic(&mut self, username: &str, password: &Secret) {
        self.add(password);
        self.needle(&STANDARD.encode(format!("{username}:{}", password.expose())));
    }

    fn needle(&mut self, text: &str) {
        let known = |finder: &Finder| finder.needle() == text.as_bytes();
        if text.len() < SHORTEST || self.needles.iter().any(known) {
            return;
        }
        self.longest = self.longest.max(text.len());
        self.needles.push(Finder::new(text).into_owned());
    }

    /// The length of the longest form of a secret, in bytes: a secret that begins before the last so many bytes of a text is
    /// whole in it.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Where secrets are in a text, in order; ones that overlap or touch are one.
    pub(super) fn spans(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut spans: Vec<Range<usize>> = Vec::new();
        for finder in &self.needles {
            let mut from = 0;
            while let Some(at) = finder.find(&text[from..]).map(|at| at + from) {
                spans.push(at..at + finder.needle().len());
                from = at + 1;
            }
        }
        spans.sort_by_key(|span| span.start);
        let mut merged: Vec<Range<usize>> = Vec::new();
        for span in spans {
            match merged.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => merged.push(span),
            }
        }
        merged
    }

    /// The text with every secret replaced.
    pub(super) fn apply<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let spans = self.spans(text);
        if spans.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut masked = Vec::with_capacity(text.len());
        let mut from = 0;
        for span in spans {
            masked.extend_from_slice(&text[from..span.start]);
            masked.extend_from_slice(REDACTED.as_bytes());
            from = span.end;
        }
        masked.extend_from_slice(&text[from..]);
        Cow::Owned(masked)
    }

    /// The same for what is a text already.
    pub(super) fn apply_str(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.apply(text.as_bytes())).into_owned()
    }
}

/// Percent-encoding of everything that is not unreserved in a URL (RFC 3986, 2.3).
pub(super) fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(secrets: &[&str]) -> Mask {
        let mut mask = Mask::default();
        for secret in secrets {
            mask.add(&Secret::new(*secret));
        }
        mask
    }

    #[test]
    fn a_secret_is_masked_in_every_form() {
        let mask = mask(&["p@ss w\"ord"]);
        for form in [
            "p@ss w\"ord",
            "p%40ss%20w%22ord",
            "cEBzcyB3Im9yZA==",
            "p@ss w\\\"ord",
        ] {
            let said = format!("before {form} after");
            assert_eq!(mask.apply_str(&said), "before [redacted] after", "{form}");
        }
    }

    #[test]
    fn secrets_that_overlap_leave_nothing_between_them() {
        let mask = mask(&["abcdef", "defghi", "abcd"]);
        assert_eq!(mask.apply_str("xabcdefghiy"), "x[redacted]y");
    }

    #[test]
    fn each_line_of_a_key_is_masked_by_itself() {
        let mask = mask(&["-----BEGIN-----\nMIIEabc\n-----END-----\n"]);
        assert_eq!(mask.apply_str("MIIEabc"), "[redacted]");
    }

    #[test]
    fn basic_authentication_is_masked() {
        let mut mask = Mask::default();
        mask.add_basic("user", &Secret::new("hunter2"));
        assert_eq!(mask.apply_str("Basic dXNlcjpodW50ZXIy"), "Basic [redacted]");
    }

    #[test]
    fn a_letter_is_no_secret() {
        assert_eq!(mask(&["e"]).apply_str("every"), "every");
        assert!(mask(&[""]).spans(b"x").is_empty());
    }
}
