//! How long things took, in milliseconds, summed up.

use std::{fmt, time::Duration};

use serde::Serialize;

/// Order statistics of some durations; without any, all are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// How many there were.
    pub count: usize,
    /// The median in milliseconds, by nearest rank.
    pub p50_ms: Option<f64>,
    /// What nine of ten do not exceed, in milliseconds.
    pub p90_ms: Option<f64>,
    /// The longest, in milliseconds.
    pub max_ms: Option<f64>,
    /// All together, in milliseconds.
    pub sum_ms: Option<f64>,
}

impl Times {
    /// Sums up, in any order.
    pub fn of(samples: &[Duration]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().map(milliseconds)
        };
        Self {
            count: sorted.len(),
            p50_ms: rank(50),
            p90_ms: rank(90),
            max_ms: rank(100),
            sum_ms: rank(100).map(|_| milliseconds(sorted.iter().sum())),
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(p50), Some(p90), Some(max)) = (self.p50_ms, self.p90_ms, self.max_ms) else {
            return formatter.write_str("-");
        };
        if self.count == 1 {
            return write!(formatter, "{p50:.1} ms");
        }
        let count = self.count;
        write!(
            formatter,
            "median {p50:.1} ms, 90 % within {p90:.1} ms, at most {max:.1} ms ({count} times)"
        )
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(milliseconds: impl IntoIterator<Item = u64>) -> Times {
        let samples = milliseconds.into_iter().map(Duration::from_millis);
        Times::of(&samples.collect::<Vec<_>>())
    }

    #[test]
    fn ranks_are_the_nearest() {
        let times = times((1..=10).rev());
        assert_eq!(
            times.to_string(),
            "median 5.0 ms, 90 % within 9.0 ms, at most 10.0 ms (10 times)"
        );
        assert!((times.sum_ms.unwrap() - 55.0).abs() < 1e-6);
    }

    #[test]
    fn a_single_time_is_said_once_and_none_not_at_all() {
        assert_eq!(times([7]).to_string(), "7.0 ms");
        assert_eq!(times([]).to_string(), "-");
        assert_eq!(times([]), Times::default());
    }
}
