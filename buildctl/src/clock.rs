//! The wall clock that jobs live by, as a value: the system's, or one that a test moves by hand. Waiting for a moment is here
//! too, so that nothing else sleeps.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// A clock, shared by whoever has a clone.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    System,
    /// One that only [`Clock::advance`] moves.
    Manual(Arc<watch::Sender<Timestamp>>),
}

impl Clock {
    /// A clock that stands at `start`.
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(watch::Sender::new(start)))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Manual(time) => *time.borrow(),
        }
    }

    /// Moves a manual clock; the system's is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(time) = self {
            time.send_modify(|now| *now = later(*now, by));
        }
    }

    /// Returns when it is `when` or later.
    pub async fn sleep_until(&self, when: Timestamp) {
        match self {
            Self::System => tokio::time::sleep(since(when, Timestamp::now())).await,
            Self::Manual(time) => {
                // The sender is in `self`, so that it cannot be gone.
                let _ = time.subscribe().wait_for(|now| *now >= when).await;
            }
        }
    }
}

/// How long before `now` `then` was; nothing if it is later, as after a clock that was set back.
pub fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// `by` after `then`; the end of time if that is beyond it.
pub fn later(then: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| then.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_its_sleepers_when_it_is_moved_there() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let when = later(clock.now(), Duration::from_mins(1));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(when).await }
        });
        clock.advance(Duration::from_secs(59));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }

    #[test]
    fn what_lies_ahead_was_no_time_ago() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(
            since(now, later(now, Duration::from_secs(5))),
            Duration::ZERO
        );
        assert_eq!(
            since(later(now, Duration::from_secs(5)), now),
            Duration::from_secs(5)
        );
        assert_eq!(later(now, Duration::MAX), Timestamp::MAX);
    }
}
