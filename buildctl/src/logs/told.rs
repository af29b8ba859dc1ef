//! What one who follows a log was told already: behind a cut, whoever tells it begins at the last exact place, and so tells
//! some of it again. Knows lines and cursors, and nothing of streams.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{Cursor, Line, Position};
use crate::phase::Run;

/// Lines of a run that are remembered in case they come again; of longer parts some would be told twice. A part is what is
/// read at once, which is some thousand lines at most, unless only errors were asked for.
const REMEMBERED: usize = 100_000;

/// What was told since the places that the cursor names. A place moves with the last line of what was read at once, and then
/// nothing before it comes again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    cursor: Cursor,
    since: BTreeMap<Run, VecDeque<u64>>,
    again: BTreeMap<Run, VecDeque<u64>>,
}

impl Told {
    /// For one who goes on from a cursor.
    pub(crate) fn from(cursor: Option<Cursor>) -> Self {
        Self {
            cursor: cursor.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Where to go on behind a cut.
    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Begins anew at the cursor. What was expected already and has not come yet is still to come.
    pub(crate) fn expect_again(&mut self) {
        for (run, mut marks) in std::mem::take(&mut self.since) {
            let rest = self.again.entry(run).or_default();
            marks.append(rest);
            *rest = marks;
        }
    }

    /// Whether a line, with the cursor behind it, was not told before. What does not begin as it was told before is new
    /// altogether.
    pub(crate) fn is_new(&mut self, line: &Line, cursor: &Cursor) -> bool {
        let place =
            |cursor: &Cursor| -> Position { cursor.0.get(&line.run).copied().unwrap_or_default() };
        let mark = mark(line);
        let since = self.since.entry(line.run).or_default();
        if place(cursor) != place(&self.cursor) {
            since.clear();
        } else if since.len() < REMEMBERED {
            since.push_back(mark);
        }
        self.cursor.clone_from(cursor);
        let Some(again) = self.again.get_mut(&line.run) else {
            return true;
        };
        if again.pop_front() == Some(mark) {
            return false;
        }
        self.again.remove(&line.run);
        true
    }
}

fn mark(line: &Line) -> u64 {
    let mut hasher = DefaultHasher::new();
    (line.stream, line.time, &line.text, line.partial).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::Stream;

    fn line(run: Run, text: &str) -> Line {
        Line {
            run,
            stream: Stream::Stdout,
            time: None,
            text: text.to_owned(),
            partial: false,
        }
    }

    fn cursor(text: &str) -> Cursor {
        text.parse().unwrap()
    }

    #[test]
    fn what_comes_again_behind_a_cut_is_not_told_twice() {
        let mut told = Told::default();
        let lines = [
            ("a", ""),
            ("b", "build.20.0"),
            ("same", "build.20.0"),
            ("same", "build.20.0"),
        ];
        for (text, at) in lines {
            assert!(told.is_new(&line(Run::Build, text), &cursor(at)), "{text}");
        }
        told.expect_again();
        let news = ["same", "same", "same", "c"]
            .map(|text| told.is_new(&line(Run::Build, text), &cursor("build.20.0")));
        assert_eq!(news, [false, false, true, true]);
        // Cut off again before all of it has come: all four come again.
        told.expect_again();
        assert!(!told.is_new(&line(Run::Build, "same"), &cursor("build.20.0")));
        told.expect_again();
        let news = ["same", "same", "same", "c", "d"]
            .map(|text| told.is_new(&line(Run::Build, text), &cursor("build.20.0")));
        assert_eq!(news, [false, false, false, false, true]);
    }

    #[test]
    fn behind_an_exact_place_nothing_is_taken_for_told() {
        let mut told = Told::default();
        for (text, at) in [("1", ""), ("2", ""), ("3", "build.90.0")] {
            assert!(told.is_new(&line(Run::Build, text), &cursor(at)));
        }
        told.expect_again();
        for text in ["1", "2", "3"] {
            assert!(
                told.is_new(&line(Run::Build, text), &cursor("build.90.0")),
                "{text}"
            );
        }
    }

    #[test]
    fn runs_are_told_apart() {
        let mut told = Told::default();
        let (one, two) = (Run::TestCommand(0), Run::TestCommand(1));
        assert!(told.is_new(&line(one, "x"), &cursor("")));
        assert!(told.is_new(&line(two, "x"), &cursor("")));
        told.expect_again();
        assert!(!told.is_new(&line(two, "x"), &cursor("")));
        assert!(told.is_new(&line(two, "x"), &cursor("")));
        assert!(!told.is_new(&line(one, "x"), &cursor("")));
    }
}
