//! How long to wait before trying again: exponential, capped, with jitter. Nothing here sleeps or
//! draws random numbers, so that waiting can be tested without time or luck.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Waiting times that grow from one attempt to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The wait after the first attempt.
    pub initial: Duration,
    /// By how much each wait is longer than the one before; below 1 counts as 1.
    pub factor: f64,
    /// The longest wait, jitter included.
    pub max: Duration,
    /// The part of a wait that is left to chance, from 0 to 1: with 0.2 a wait of 10 s becomes one
    /// from 8 s to 12 s. It keeps clients that failed together from coming back together.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            factor: 2.0,
            max: Duration::from_secs(10),
            jitter: 0.2,
        }
    }
}

impl Backoff {
    /// The wait after an attempt, counted from 0; `random` is a number from 0 to 1, such as
    /// [`random`] gives.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let exponent = i32::try_from(attempt).unwrap_or(i32::MAX);
        let plain = self.initial.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        let max = self.max.as_secs_f64();
        let swing = 1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        // The cap comes before the jitter too, so that waits at the cap are still spread.
        Duration::try_from_secs_f64(plain.min(max) * swing)
            .map_or(self.max, |wait| wait.min(self.max))
    }

    /// The waits after the first attempt, the second, and so on without end; `random` is drawn anew
    /// for each.
    pub fn delays(self, mut random: impl FnMut() -> f64) -> impl Iterator<Item = Duration> {
        (0..=u32::MAX).map(move |attempt| self.delay(attempt, random()))
    }
}

/// A number from 0 to 1 that spreads waits well enough; no secret must depend on it.
pub fn random() -> f64 {
    // Every `RandomState` has keys of its own, which makes hashing nothing a source of numbers. 53
    // bits fit a float.
    let bits = RandomState::new().hash_one(()) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in an f64")]
    let fraction = bits as f64 / (1_u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Backoff = Backoff {
        initial: Duration::from_millis(100),
        factor: 2.0,
        max: Duration::from_secs(1),
        jitter: 0.0,
    };

    #[test]
    fn waits_double_up_to_the_cap() {
        let millis: Vec<u128> = PLAIN
            .delays(|| 0.5)
            .take(6)
            .map(|wait| wait.as_millis())
            .collect();
        assert_eq!(millis, [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn jitter_goes_both_ways() {
        let backoff = Backoff {
            jitter: 0.5,
            ..PLAIN
        };
        assert_eq!(backoff.delay(0, 0.0), Duration::from_millis(50));
        assert_eq!(backoff.delay(0, 0.5), Duration::from_millis(100));
        assert_eq!(backoff.delay(0, 1.0), Duration::from_millis(150));
    }

    proptest! {
        #[test]
        fn no_wait_is_beyond_the_cap(
            initial in 0_u64..10_000, factor in -1.0..10.0_f64, max in 0_u64..100_000, jitter in -1.0..2.0_f64,
            attempt in any::<u32>(), random in any::<f64>(),
        ) {
            let backoff = Backoff {
                initial: Duration::from_millis(initial),
                factor,
                max: Duration::from_millis(max),
                jitter,
            };
            prop_assert!(backoff.delay(attempt, random) <= backoff.max);
        }

        #[test]
        fn without_jitter_no_wait_is_shorter_than_the_one_before(factor in 0.0..5.0_f64, attempt in 0_u32..1000) {
            let backoff = Backoff { factor, ..PLAIN };
            prop_assert!(backoff.delay(attempt, 0.3) <= backoff.delay(attempt + 1, 0.9));
        }

        #[test]
        fn random_numbers_are_from_0_to_1(_round in 0..50) {
            prop_assert!((0.0..1.0).contains(&random()));
        }
    }
}
