//! Which lines of a log somebody wants to see: those that match an expression, or those that look like errors with what
//! surrounds them. Works on one line after the other and keeps a few of them at most.

use std::{borrow::Cow, collections::VecDeque, sync::LazyLock};

use regex::{Regex, RegexBuilder};

use super::{BuildError, LogQuery};
use crate::logs::{Line, Stream, plain::plain};

/// Lines that are shown before and after one that looks like an error.
const BEFORE: usize = 3;
const AFTER: usize = 6;

/// Lines that are shown of a log in which nothing looks like an error.
const REST: usize = 20;

/// What compilers, package managers, shells and test runners say when something is wrong.
static ERROR: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let words = r"\b(errors?|err!|fail(ed|ure|ures|ing)?|fatal|panic(ked)?|exception|traceback|abort(ed)?|killed)\b";
    let phrases = r"permission denied|access denied|not found|no such file|cannot |can't |could not |unable to |undefined reference|out of memory|no space left|unauthorized|timed? ?out|segmentation fault|exit(ed)? (with )?(code|status):? [1-9]|returned a non-zero";
    // A pattern that does not compile is found by the tests below.
    RegexBuilder::new(&format!("{words}|{phrases}"))
        .case_insensitive(true)
        .build()
        .ok()
});

/// A line as it reads: a colour may stand right before a word, and is no part of it.
fn seen(line: &Line) -> Cow<'_, str> {
    if line.text.contains('\u{1b}') {
        Cow::Owned(plain(&line.text))
    } else {
        Cow::Borrowed(&line.text)
    }
}

/// Lets lines through.
pub(super) struct Sieve {
    grep: Option<Regex>,
    digest: Option<Digest>,
}

#[derive(Default)]
struct Digest {
    /// Lines that were held back last.
    held: VecDeque<Line>,
    /// Lines that were left out before those.
    left_out: usize,
    /// How many more lines belong to the last error.
    after: usize,
    found: bool,
}

impl Sieve {
    pub(super) fn of(query: &LogQuery) -> Result<Self, BuildError> {
        let compile = |pattern: &String| {
            RegexBuilder::new(pattern)
                .size_limit(1 << 20)
                .build()
                .map_err(|error| {
                    BuildError::BadRequest(format!("`{pattern}` is no regular expression: {error}"))
                })
        };
        Ok(Self {
            grep: query.grep.as_ref().map(compile).transpose()?,
            digest: query.errors_only.then(Digest::default),
        })
    }

    /// Whether every line comes through.
    pub(super) fn is_open(&self) -> bool {
        self.grep.is_none() && self.digest.is_none()
    }

    /// Whether lines come through later than they came in.
    pub(super) fn holds_back(&self) -> bool {
        self.digest.is_some()
    }

    /// What comes through with this line.
    pub(super) fn pass(&mut self, line: Line) -> Vec<Line> {
        if self
            .grep
            .as_ref()
            .is_some_and(|grep| !grep.is_match(&seen(&line)))
        {
            return Vec::new();
        }
        match &mut self.digest {
            None => vec![line],
            Some(digest) => digest.pass(line),
        }
    }

    /// What comes through with these lines.
    pub(super) fn pass_all(&mut self, lines: Vec<Line>) -> Vec<Line> {
        if self.is_open() {
            return lines;
        }
        let lines = lines.into_iter();
        lines.flat_map(|line| self.pass(line)).collect()
    }

    /// What comes through at the end of a log that was looked at as a whole: its last lines, if none looked like an error.
    pub(super) fn rest(&mut self) -> Vec<Line> {
        match &mut self.digest {
            Some(digest) if !digest.found => digest.release(REST),
            _ => Vec::new(),
        }
    }
}

impl Digest {
    fn pass(&mut self, line: Line) -> Vec<Line> {
        if ERROR
            .as_ref()
            .is_some_and(|error| error.is_match(&seen(&line)))
        {
            self.found = true;
            self.after = AFTER;
            let mut lines = self.release(BEFORE);
            lines.push(line);
            return lines;
        }
        if self.after > 0 {
            self.after -= 1;
            return vec![line];
        }
        self.held.push_back(line);
        if self.held.len() > REST {
            self.held.pop_front();
            self.left_out += 1;
        }
        Vec::new()
    }

    /// The last lines that were held back, and a mark for those before them.
    fn release(&mut self, count: usize) -> Vec<Line> {
        let from = self.held.len().saturating_sub(count);
        let left_out = std::mem::take(&mut self.left_out) + from;
        let lines: Vec<Line> = self.held.drain(..).skip(from).collect();
        let mark = lines.first().filter(|_| left_out > 0).map(|first| Line {
            stream: Stream::System,
            text: format!("[{left_out} lines left out]"),
            partial: false,
            ..first.clone()
        });
        mark.into_iter().chain(lines).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::Run;

    fn line(text: impl Into<String>) -> Line {
        Line {
            run: Run::Build,
            stream: Stream::Stdout,
            time: None,
            text: text.into(),
            partial: false,
        }
    }

    fn sieve(errors_only: bool, grep: Option<&str>) -> Sieve {
        let query = LogQuery {
            errors_only,
            grep: grep.map(str::to_owned),
            ..LogQuery::default()
        };
        Sieve::of(&query).unwrap()
    }

    fn through(sieve: &mut Sieve, texts: impl IntoIterator<Item = String>) -> Vec<String> {
        let lines = texts.into_iter().flat_map(|text| sieve.pass(line(text)));
        let mut lines: Vec<Line> = lines.collect();
        lines.extend(sieve.rest());
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn errors_come_with_what_surrounds_them() {
        let texts = (0..40).map(|n| {
            if n == 20 {
                "make: *** Error 2".to_owned()
            } else {
                n.to_string()
            }
        });
        let seen = through(&mut sieve(true, None), texts);
        assert_eq!(
            seen,
            [
                "[17 lines left out]",
                "17",
                "18",
                "19",
                "make: *** Error 2",
                "21",
                "22",
                "23",
                "24",
                "25",
                "26"
            ]
        );
    }

    #[test]
    fn a_log_without_errors_shows_its_end() {
        let seen = through(&mut sieve(true, None), (0..30).map(|n| n.to_string()));
        assert_eq!(seen.len(), 21);
        assert_eq!(
            (seen[0].as_str(), seen[20].as_str()),
            ("[10 lines left out]", "29")
        );
    }

    #[test]
    fn what_tools_say_looks_like_an_error_and_progress_does_not() {
        for text in [
            "npm ERR! code 1",
            "error[E0425]: cannot find value",
            "FAILED tests/a.py",
            "sh: 1: gcc: not found",
            "Traceback (most recent call last):",
            "exit status 2",
            "FATAL: x",
            "\u{1b}[1m\u{1b}[91merror\u{1b}[0m: mismatched types",
            "thread 'main' panicked at",
            "no space left on device",
            "Exit code: 1 returned a non-zero",
        ] {
            assert_eq!(
                through(&mut sieve(true, None), [text.to_owned()]),
                [text],
                "{text}"
            );
        }
        let mut quiet = sieve(true, None);
        for text in [
            "Compiling terror v1",
            "STEP 1/3: FROM scratch",
            "exit status 0",
            "0 of 3",
        ] {
            assert!(quiet.pass(line(text)).is_empty(), "{text}");
        }
    }

    #[test]
    fn an_expression_that_is_none_is_refused_by_name() {
        let query = LogQuery {
            grep: Some("(".to_owned()),
            ..LogQuery::default()
        };
        let error = Sieve::of(&query).err().unwrap().to_string();
        assert!(
            error.starts_with("`(` is no regular expression: "),
            "{error}"
        );
    }
}
