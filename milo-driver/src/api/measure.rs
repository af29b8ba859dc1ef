//! What a task uses, in an agent's words: two readings in, one message out.
//!
//! Everything that is missing in these messages is dereferenced by an agent all the same, and ends it: so every part is
//! there, and what was not measured is zero and not named among the measured fields.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost_types::Timestamp;

use crate::{
    config::Compute,
    proto::drivers::{
        CpuUsage, MemoryUsage, TaskResourceUsage, TaskStats, cpu_usage::Fields as CpuField,
        memory_usage::Fields as MemoryField,
    },
    registry::Reading,
    stats::{Cpu, Memory, Rates, Usage},
};

/// The message of a reading. Shares of the CPU are those since the reading before, and nothing without one.
pub fn stats(id: &str, before: Option<&Reading>, now: &Reading, compute: Compute) -> TaskStats {
    let wall = before
        .and_then(|before| now.at.duration_since(before.at).ok())
        .unwrap_or_default();
    let processes = now.processes.iter().map(|(pid, usage)| {
        let earlier = before.and_then(|before| before.processes.get(pid));
        (
            pid.to_string(),
            usage_message(earlier, usage, wall, compute),
        )
    });
    TaskStats {
        id: id.to_owned(),
        timestamp: Some(timestamp(now.at)),
        agg_resource_usage: Some(usage_message(
            before.map(|before| &before.total),
            &now.total,
            wall,
            compute,
        )),
        resource_usage_by_pid: processes.collect::<HashMap<_, _>>(),
    }
}

fn usage_message(
    before: Option<&Usage>,
    now: &Usage,
    wall: Duration,
    compute: Compute,
) -> TaskResourceUsage {
    TaskResourceUsage {
        cpu: Some(cpu(
            before.map(|before| &before.cpu),
            &now.cpu,
            wall,
            compute,
        )),
        memory: Some(memory(&now.memory)),
    }
}

fn cpu(before: Option<&Cpu>, now: &Cpu, wall: Duration, compute: Compute) -> CpuUsage {
    let rates = before.map_or_else(Rates::default, |before| Rates::between(before, now, wall));
    let throttled = now.throttled.unwrap_or_default().as_nanos();
    let has_ticks = now.total.is_some() && compute.megahertz > 0;
    CpuUsage {
        system_mode: rates.system,
        user_mode: rates.user,
        total_ticks: ticks(rates.total, compute),
        throttled_periods: now.throttled_periods.unwrap_or(0),
        throttled_time: u64::try_from(throttled).unwrap_or(u64::MAX),
        percent: rates.total,
        measured_fields: measured([
            (CpuField::SystemMode, now.system.is_some()),
            (CpuField::UserMode, now.user.is_some()),
            (CpuField::TotalTicks, has_ticks),
            (CpuField::ThrottledPeriods, now.throttled_periods.is_some()),
            (CpuField::ThrottledTime, now.throttled.is_some()),
            (CpuField::Percent, now.total.is_some()),
        ]),
    }
}

fn memory(now: &Memory) -> MemoryUsage {
    MemoryUsage {
        rss: now.rss.unwrap_or(0),
        cache: now.cache.unwrap_or(0),
        swap: now.swap.unwrap_or(0),
        usage: now.usage.unwrap_or(0),
        max_usage: now.max.unwrap_or(0),
        kernel_usage: now.kernel.unwrap_or(0),
        kernel_max_usage: now.kernel_max.unwrap_or(0),
        measured_fields: measured([
            (MemoryField::Rss, now.rss.is_some()),
            (MemoryField::Cache, now.cache.is_some()),
            (MemoryField::MaxUsage, now.max.is_some()),
            (MemoryField::KernelUsage, now.kernel.is_some()),
            (MemoryField::KernelMaxUsage, now.kernel_max.is_some()),
            (MemoryField::Usage, now.usage.is_some()),
            (MemoryField::Swap, now.swap.is_some()),
        ]),
    }
}

fn measured<F: Into<i32>, const N: usize>(fields: [(F, bool); N]) -> Vec<i32> {
    fields
        .into_iter()
        .filter(|(_, is_measured)| *is_measured)
        .map(|(field, _)| field.into())
        .collect()
}

/// A share of the CPUs (100 is one of them) in MHz of an average CPU.
#[expect(clippy::cast_precision_loss, reason = "no machine has so many MHz")]
fn ticks(percent: f64, compute: Compute) -> f64 {
    percent / 100.0 * compute.megahertz as f64 / f64::from(compute.cpus.max(1))
}

/// A moment on the wire.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// A moment in nanoseconds since 1970 on the wire.
pub fn timestamp_of(nanoseconds: i64) -> Timestamp {
    Timestamp {
        seconds: nanoseconds.div_euclid(1_000_000_000),
        nanos: i32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// A length of time from the wire; a negative one, and none, are zero.
pub fn duration(wire: Option<prost_types::Duration>) -> Duration {
    wire.and_then(|wire| Duration::try_from(wire).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const COMPUTE: Compute = Compute {
        megahertz: 8000,
        cpus: 4,
    };

    fn reading(seconds: u64, used: u64) -> Reading {
        let mut usage = Usage::default();
        usage.cpu.total = Some(Duration::from_nanos(used));
        usage.memory.rss = Some(7);
        Reading {
            at: UNIX_EPOCH + Duration::from_secs(seconds),
            total: usage.clone(),
            processes: BTreeMap::from([(42, usage)]),
        }
    }

    #[test]
    fn every_part_is_there_even_in_the_first_message() {
        let stats = stats("a/b/c", None, &reading(1, 5), COMPUTE);
        let all = stats.agg_resource_usage.unwrap();
        assert_eq!(stats.timestamp.unwrap().seconds, 1);
        assert!(all.cpu.unwrap().percent.abs() < f64::EPSILON);
        assert_eq!(all.memory.unwrap().rss, 7);
        let process = &stats.resource_usage_by_pid["42"];
        assert!(process.cpu.is_some() && process.memory.is_some());
    }

    #[test]
    fn a_share_is_that_since_the_last_reading() {
        let stats = stats(
            "a/b/c",
            Some(&reading(1, 0)),
            &reading(3, 1_000_000_000),
            COMPUTE,
        );
        let cpu = stats.agg_resource_usage.unwrap().cpu.unwrap();
        assert!((cpu.percent - 50.0).abs() < 1e-9, "{}", cpu.percent);
        assert!(
            (cpu.total_ticks - 1000.0).abs() < 1e-9,
            "{}",
            cpu.total_ticks
        );
    }

    #[test]
    fn only_what_was_measured_is_named() {
        let stats = stats("a/b/c", None, &reading(1, 5), COMPUTE);
        let all = stats.agg_resource_usage.unwrap();
        assert_eq!(
            all.memory.unwrap().measured_fields,
            [i32::from(MemoryField::Rss)]
        );
        assert_eq!(
            all.cpu.unwrap().measured_fields,
            [
                i32::from(CpuField::TotalTicks),
                i32::from(CpuField::Percent)
            ]
        );
    }

    #[test]
    fn a_counter_that_went_back_is_no_use_at_all() {
        let stats = stats("a/b/c", Some(&reading(1, 9)), &reading(2, 5), COMPUTE);
        assert!(stats.agg_resource_usage.unwrap().cpu.unwrap().percent.abs() < f64::EPSILON);
    }

    #[test]
    fn times_before_1970_are_legal() {
        let wire = timestamp_of(-1);
        assert_eq!((wire.seconds, wire.nanos), (-1, 999_999_999));
        let negative = prost_types::Duration {
            seconds: -5,
            nanos: 0,
        };
        assert_eq!(duration(Some(negative)), Duration::ZERO);
        assert_eq!(duration(None), Duration::ZERO);
    }
}
