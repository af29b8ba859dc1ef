//! A task's [`Limits`] in the words of the OCI runtime specification (config-linux.md, "Control groups"). Pure: which
//! version of control groups there is comes in, numbers come out. Devices are not limits; the bundle adds their rules.
//!
//! | limit | version 1 | version 2 |
//! |---|---|---|
//! | memory | `memory.limit_in_bytes` | `memory.max` |
//! | reservation | `memory.soft_limit_in_bytes` | `memory.low` |
//! | swap | `memory.memsw.limit_in_bytes` = memory + swap, swappiness 0 without swap | `memory.swap.max` |
//! | CPU shares | `cpu.shares` | `cpu.weight`, as a unified value: crun's own conversion differs between its versions |
//! | CPU quota | `cpu.cfs_quota_us` of 100 ms | `cpu.max` |

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::{cgroup::Mode, task::Limits};

/// The period of a CPU quota, in microseconds: the kernel's own default.
pub const PERIOD: u64 = 100_000;
/// The least quota that the kernel takes, in microseconds.
const LEAST_QUOTA: f64 = 1_000.0;
/// What `cpu.shares` may be.
const SHARES: (u64, u64) = (2, 262_144);

/// What crun writes for these limits. Where there are no control groups it is nothing.
pub fn resources(limits: &Limits, mode: &Mode) -> LinuxResources {
    let mut resources = LinuxResources::default();
    if *mode == Mode::None {
        return resources;
    }
    resources.set_memory(memory(limits, mode));
    resources.set_cpu(cpu(limits, mode));
    resources.set_pids(limits.pids.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    }));
    resources.set_unified(unified(limits, mode));
    resources
}

fn memory(limits: &Limits, mode: &Mode) -> Option<LinuxMemory> {
    if limits.memory.is_none() && limits.memory_reservation.is_none() {
        return None;
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limits.memory.map(signed));
    memory.set_reservation(limits.memory_reservation.map(signed));
    // The specification counts memory and swap together.
    let together = limits.memory.map(|limit| limit.saturating_add(limits.swap));
    memory.set_swap(together.map(signed));
    memory.set_swappiness((mode.is_v1() && limits.swap == 0).then_some(0));
    Some(memory)
}

fn cpu(limits: &Limits, mode: &Mode) -> Option<LinuxCpu> {
    let shares = limits.cpu_shares.filter(|_| mode.is_v1()).map(in_range);
    if shares.is_none() && limits.cpu_quota.is_none() && limits.cpuset.is_none() {
        return None;
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(shares);
    cpu.set_quota(limits.cpu_quota.map(quota));
    cpu.set_period(limits.cpu_quota.map(|_| PERIOD));
    cpu.set_cpus(limits.cpuset.clone());
    Some(cpu)
}

/// Cores as microseconds of a [`PERIOD`].
fn quota(cores: f64) -> i64 {
    #[expect(clippy::cast_precision_loss, reason = "100 000 is exact")]
    let quota = (cores * PERIOD as f64).round().max(LEAST_QUOTA);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and no machine has as many cores"
    )]
    let quota = quota as i64;
    quota
}

fn unified(limits: &Limits, mode: &Mode) -> Option<HashMap<String, String>> {
    let shares = limits.cpu_shares.filter(|_| !mode.is_v1())?;
    Some(HashMap::from([(
        "cpu.weight".to_owned(),
        weight(shares).to_string(),
    )]))
}

/// CPU shares of version 1 (2 to 262144) as a weight of version 2 (1 to 10000), linearly, as Nomad's `exec` driver does.
pub fn weight(shares: u64) -> u64 {
    1 + (in_range(shares) - SHARES.0) * 9_999 / (SHARES.1 - SHARES.0)
}

fn in_range(shares: u64) -> u64 {
    shares.clamp(SHARES.0, SHARES.1)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn v1() -> Mode {
        Mode::V1 {
            controllers: vec!["cpu".into(), "memory".into()],
        }
    }

    fn limits() -> Limits {
        Limits {
            memory: Some(256 * MIB),
            memory_reservation: Some(64 * MIB),
            cpu_shares: Some(500),
            cpu_quota: Some(1.5),
            cpuset: Some("0,2-3".into()),
            pids: Some(100),
            ..Limits::default()
        }
    }

    #[test]
    fn swap_is_counted_on_top_of_memory_and_is_none_by_default() {
        let memory = resources(&limits(), &Mode::V2).memory().unwrap();
        assert_eq!(memory.limit(), Some(268_435_456));
        assert_eq!(memory.swap(), memory.limit());
        assert_eq!(memory.reservation(), Some(67_108_864));
        let more = Limits {
            swap: MIB,
            ..limits()
        };
        let memory = resources(&more, &v1()).memory().unwrap();
        assert_eq!(memory.swap(), Some(269_484_032));
        assert_eq!(memory.swappiness(), None);
    }

    #[test]
    fn swappiness_is_for_version_1_only_because_crun_refuses_it_on_version_2() {
        let swappiness = |mode| resources(&limits(), &mode).memory().unwrap().swappiness();
        assert_eq!(swappiness(v1()), Some(0));
        assert_eq!(swappiness(Mode::Hybrid), Some(0));
        assert_eq!(swappiness(Mode::V2), None);
    }

    #[test]
    fn no_memory_limit_limits_no_swap_either() {
        let limits = Limits {
            memory: None,
            ..limits()
        };
        let memory = resources(&limits, &Mode::V2).memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (None, None));
        assert!(memory.reservation().is_some());
        assert_eq!(*resources(&Limits::default(), &Mode::V2).memory(), None);
    }

    #[test]
    fn shares_are_shares_on_version_1_and_a_weight_on_version_2() {
        let one = resources(&limits(), &v1());
        assert_eq!(one.cpu().as_ref().unwrap().shares(), Some(500));
        assert_eq!(*one.unified(), None);
        let two = resources(&limits(), &Mode::V2);
        assert_eq!(two.cpu().as_ref().unwrap().shares(), None);
        assert_eq!(two.unified().as_ref().unwrap()["cpu.weight"], "19");
    }

    #[test]
    fn a_weight_stays_in_the_kernels_range() {
        assert_eq!(weight(0), 1);
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(262_144), 10_000);
        assert_eq!(weight(u64::MAX), 10_000);
    }

    #[test]
    fn a_quota_is_in_parts_of_a_tenth_of_a_second() {
        let cpu = resources(&limits(), &Mode::V2).cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        assert_eq!(cpu.cpus().as_deref(), Some("0,2-3"));
        assert_eq!(quota(0.0001), 1_000);
    }

    #[test]
    fn without_control_groups_nothing_is_asked_for() {
        assert_eq!(resources(&limits(), &Mode::None), LinuxResources::default());
    }
}
