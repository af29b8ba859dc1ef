//! Order statistics over samples, without knowing what was sampled.

use std::time::Duration;

/// Median and extent of one metric over its runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    /// The middle sample, or the mean of the two middle ones.
    pub(super) median: f64,
    /// Smallest sample.
    pub(super) low: f64,
    /// Largest sample.
    pub(super) high: f64,
    /// Number of samples.
    pub(super) runs: usize,
}

impl Summary {
    /// Summarises samples in any order; `None` when there are none.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        Some(Self {
            median: middle(&sorted),
            low,
            high,
            runs: sorted.len(),
        })
    }

    /// Half the distance from lowest to highest sample, as a share of the median: `0.04` reads "± 4 %".
    pub(super) fn spread(&self) -> f64 {
        if self.median == 0.0 {
            0.0
        } else {
            (self.high - self.low) / 2.0 / self.median.abs()
        }
    }
}

/// How many a second, when `count` of them took `elapsed`.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(super) fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(1e-6)
}

/// The median of samples in any order; `None` when there are none.
pub(super) fn median(samples: &[f64]) -> Option<f64> {
    Summary::of(samples).map(|summary| summary.median)
}

/// The smallest sample that at least `percent` of all samples do not exceed (nearest rank); `None` when there are
/// none.
pub(super) fn percentile(samples: &[f64], percent: u32) -> Option<f64> {
    let sorted = sorted(samples);
    let rank = (sorted.len() * percent.min(100) as usize).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[half]
    } else {
        f64::midpoint(sorted[half - 1], sorted[half])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_odd_number_is_the_middle_sample() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 100.0]), Some(3.5));
    }

    #[test]
    fn nothing_has_no_median_and_no_percentile() {
        assert_eq!(median(&[]), None);
        assert_eq!(percentile(&[], 99), None);
    }

    #[test]
    fn percentiles_take_the_nearest_rank() {
        let samples: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        assert_eq!(percentile(&samples, 50), Some(500.0));
        assert_eq!(percentile(&samples, 99), Some(990.0));
        assert_eq!(percentile(&samples, 100), Some(1000.0));
        assert_eq!(percentile(&samples, 0), Some(1.0));
    }

    #[test]
    fn a_single_sample_is_every_percentile() {
        assert_eq!(percentile(&[7.0], 1), Some(7.0));
        assert_eq!(percentile(&[7.0], 99), Some(7.0));
    }

    #[test]
    fn the_spread_is_half_the_extent_over_the_median() {
        let summary = Summary::of(&[90.0, 100.0, 120.0]).unwrap();
        assert!((summary.spread() - 0.15).abs() < 1e-12);
        assert_eq!(summary.runs, 3);
    }

    #[test]
    fn a_rate_is_finite_even_when_no_time_passed() {
        assert!((per_second(10, Duration::from_secs(4)) - 2.5).abs() < 1e-12);
        assert!(per_second(10, Duration::ZERO).is_finite());
    }

    #[test]
    fn zero_samples_spread_nothing_instead_of_dividing_by_zero() {
        assert!(Summary::of(&[0.0, 0.0]).unwrap().spread().abs() < f64::EPSILON);
    }
}
