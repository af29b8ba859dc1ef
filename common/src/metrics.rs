//! Numbers in Prometheus' text format 0.0.4: a writer, and the three kinds of number that daemons
//! count with. What is counted is the tool's.
//!
//! ```
//! use runyard_common::metrics::{Counter, Exposition, Histogram};
//!
//! let starts = Counter::default();
//! starts.add(3);
//! let seconds = Histogram::new(&[0.1, 1.0]);
//! seconds.observe(0.5);
//!
//! let mut text = Exposition::new();
//! text.counter("hub_starts_total", "Tasks started.").sample(&[("action", "build")], starts.get());
//! text.histogram("hub_start_seconds", "Time to start a task.").observed(&[], &seconds);
//! assert!(text.finish().contains("hub_starts_total{action=\"build\"} 3\n"));
//! ```

mod exposition;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

pub use exposition::{Exposition, Family, MEDIA_TYPE, Number};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `by`.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets the number.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `by`, which may be negative.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How observations spread over fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: Box<[f64]>,
    /// One more than bounds: the last one takes what is beyond all of them.
    counts: Box<[AtomicU64]>,
    /// The sum of all observations, as the bits of an `f64`.
    sum: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Upper bound of each bucket with the count of observations up to it; the last bound is
    /// infinite.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all observations.
    pub sum: f64,
    /// The count of all observations.
    pub count: u64,
}

impl Histogram {
    /// A histogram over the upper bounds of its buckets, which are sorted here; an infinite last
    /// bucket is added.
    pub fn new(bounds: &[f64]) -> Self {
        let mut bounds: Vec<f64> = bounds
            .iter()
            .copied()
            .filter(|bound| bound.is_finite())
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self {
            bounds: bounds.into(),
            counts,
            sum: AtomicU64::new(0.0_f64.to_bits()),
        }
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure always gives a value.
        let _ = self
            .sum
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// The numbers now. Observations made meanwhile may be in the count and not yet in the sum.
    pub fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets = bounds.zip(&self.counts).map(|(bound, here)| {
            count += here.load(Ordering::Relaxed);
            (bound, count)
        });
        let buckets = buckets.collect();
        Snapshot {
            buckets,
            sum: f64::from_bits(self.sum.load(Ordering::Relaxed)),
            count,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_on_a_bound_is_within_it() {
        let histogram = Histogram::new(&[1.0, 0.5, 1.0]);
        for value in [0.5, 0.6, 1.0, 1.5] {
            histogram.observe(value);
        }
        let expected = Snapshot {
            buckets: vec![(0.5, 1), (1.0, 3), (f64::INFINITY, 4)],
            sum: 3.6,
            count: 4,
        };
        assert_eq!(histogram.snapshot(), expected);
    }

    #[test]
    fn a_gauge_goes_both_ways() {
        let gauge = Gauge::default();
        gauge.set(5);
        gauge.add(-7);
        assert_eq!(gauge.get(), -2);
    }

    proptest! {
        #[test]
        fn every_observation_is_in_exactly_one_bucket(values in prop::collection::vec(-10.0..10.0_f64, 0..50)) {
            let histogram = Histogram::new(&[-5.0, 0.0, 5.0]);
            for value in &values {
                histogram.observe(*value);
            }
            let snapshot = histogram.snapshot();
            for (bound, count) in snapshot.buckets {
                prop_assert_eq!(count, values.iter().filter(|value| **value <= bound).count() as u64);
            }
            prop_assert_eq!(snapshot.count, values.len() as u64);
            prop_assert!((snapshot.sum - values.iter().sum::<f64>()).abs() < 1e-6);
        }
    }
}
