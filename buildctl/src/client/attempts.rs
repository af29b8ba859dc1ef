//! How often, and after which waits, a stream that breaks is taken up again. What it streams is its reader's.

use std::time::{Duration, Instant};

use runyard_common::backoff::{Backoff, random};

/// A stream that lived for so long was no failure, whether it told anything new or not.
const LIFE: Duration = Duration::from_secs(10);

/// The attempts of one reader: the first one after a break at once, then later and later.
#[derive(Debug)]
pub(crate) struct Attempts {
    again: Backoff,
    most: u32,
    made: u32,
    /// Since when there is a stream.
    opened: Option<Instant>,
}

impl Attempts {
    /// So many in a row that lead to nothing, with these waits between them.
    pub(crate) fn new(most: u32, again: Backoff) -> Self {
        Self {
            again,
            most,
            made: 0,
            opened: None,
        }
    }

    /// There is a stream.
    pub(crate) fn opened(&mut self) {
        self.opened = Some(Instant::now());
    }

    /// It told something.
    pub(crate) fn heard(&mut self) {
        self.made = 0;
    }

    /// How long to wait before the next attempt; none if there were enough.
    pub(crate) fn wait(&mut self) -> Option<Duration> {
        if self
            .opened
            .take()
            .is_some_and(|since| since.elapsed() >= LIFE)
        {
            self.made = 0;
        }
        if self.made == self.most {
            return None;
        }
        let wait = self
            .made
            .checked_sub(1)
            .map(|waits| self.again.delay(waits, random()));
        self.made += 1;
        Some(wait.unwrap_or_default())
    }

    /// Whether this one is the last.
    pub(crate) fn is_last(&self) -> bool {
        self.made == self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(most: u32) -> Attempts {
        let again = Backoff {
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_mins(1),
            jitter: 0.0,
        };
        Attempts::new(most, again)
    }

    #[test]
    fn the_first_is_at_once_and_the_others_later_until_there_were_enough() {
        let mut attempts = attempts(3);
        let waits: Vec<_> = std::iter::from_fn(|| attempts.wait()).collect();
        assert_eq!(waits, [0, 1, 2].map(Duration::from_secs));
        assert!(attempts.is_last());
        attempts.heard();
        assert_eq!(attempts.wait(), Some(Duration::ZERO));
    }

    #[test]
    fn a_stream_that_lived_was_no_failure_but_only_once() {
        let mut attempts = attempts(2);
        attempts.opened = Instant::now().checked_sub(LIFE);
        let waits: Vec<_> = std::iter::from_fn(|| attempts.wait()).take(5).collect();
        assert_eq!(
            waits,
            [0, 1].map(Duration::from_secs),
            "one that is gone for good is given up"
        );
        attempts.opened();
        assert_eq!(attempts.wait(), None, "one that broke at once is a failure");
    }
}
