//! What a task uses: one [`Usage`] is one reading, [`Rates`] are what lies between two. Where a cgroup's numbers come from
//! is [`crate::cgroup`]'s; how they travel to an agent is not decided here either.
//!
//! Every value is `None` where the kernel does not tell it, so that nobody shows a nought that was never measured.

use std::{fs, io, path::Path, time::Duration};

/// One reading of a cgroup or of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
}

/// Processor time since the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub total: Option<Duration>,
    /// What was spent in programs.
    pub user: Option<Duration>,
    /// What was spent in the kernel.
    pub system: Option<Duration>,
    /// Periods in which it was held back by its quota.
    pub throttled_periods: Option<u64>,
    /// How long it was held back by its quota.
    pub throttled: Option<Duration>,
}

/// Memory in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Anonymous memory: heaps, stacks, code that was compiled at run time.
    pub rss: Option<u64>,
    /// Pages of files, which can be given up.
    pub cache: Option<u64>,
    /// All that is charged now.
    pub usage: Option<u64>,
    /// The most that was ever charged.
    pub max: Option<u64>,
    /// The kernel's own on behalf of the task.
    pub kernel: Option<u64>,
    /// The most of the kernel's own.
    pub kernel_max: Option<u64>,
    /// What is swapped out.
    pub swap: Option<u64>,
}

/// How busy something was between two readings, in percent of one processor: 150 is one and a half.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// In all.
    pub total: f64,
    /// In programs.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
}

impl Rates {
    /// The rates from `before` to `now`, which were read `elapsed` apart. A counter that went back (another process with
    /// the same pid, a cgroup made anew) or no time at all is a rate of nought.
    pub fn between(before: &Cpu, now: &Cpu, elapsed: Duration) -> Self {
        let rate = |before: Option<Duration>, now: Option<Duration>| {
            let spent = now.unwrap_or_default().saturating_sub(before?);
            (!elapsed.is_zero()).then(|| spent.as_secs_f64() / elapsed.as_secs_f64() * 100.0)
        };
        Self {
            total: rate(before.total, now.total).unwrap_or_default(),
            user: rate(before.user, now.user).unwrap_or_default(),
            system: rate(before.system, now.system).unwrap_or_default(),
        }
    }
}

/// What one process uses, from `<proc>/<pid>/stat` and `status` (proc(5)); `proc` is `/proc`.
pub fn of_process(proc: &Path, pid: i32) -> io::Result<Usage> {
    let folder = proc.join(pid.to_string());
    let stat = fs::read_to_string(folder.join("stat"))?;
    let (user, system) = ticks(&stat).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: not of proc(5)'s form", folder.join("stat").display()),
        )
    })?;
    let status = fs::read_to_string(folder.join("status"))?;
    Ok(Usage {
        cpu: Cpu {
            total: Some(user + system),
            user: Some(user),
            system: Some(system),
            ..Cpu::default()
        },
        memory: Memory {
            rss: kibibytes(&status, "VmRSS:"),
            swap: kibibytes(&status, "VmSwap:"),
            ..Memory::default()
        },
    })
}

/// The user's and the kernel's time from a `stat` line. The name in parentheses may hold anything, so fields are counted
/// from the last parenthesis.
fn ticks(stat: &str) -> Option<(Duration, Duration)> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse().ok().map(from_ticks);
    Some((next()?, next()?))
}

/// Clock ticks as the kernel shows them, as time. They are hundredths of a second (`USER_HZ`) on every architecture that
/// crun runs on, however fast the kernel's own clock ticks.
pub fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(10))
}

fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(total: u64, user: u64) -> Cpu {
        Cpu {
            total: Some(Duration::from_millis(total)),
            user: Some(Duration::from_millis(user)),
            ..Cpu::default()
        }
    }

    #[test]
    fn one_and_a_half_processors_are_150_percent() {
        let rates = Rates::between(&cpu(1000, 500), &cpu(4000, 1500), Duration::from_secs(2));
        assert!((rates.total - 150.0).abs() < 1e-9);
        assert!((rates.user - 50.0).abs() < 1e-9);
        assert!(rates.system.abs() < 1e-9);
    }

    #[test]
    fn a_counter_that_went_back_is_no_negative_rate() {
        let rates = Rates::between(&cpu(4000, 0), &cpu(1000, 0), Duration::from_secs(1));
        assert!(rates.total.abs() < 1e-9);
        let rates = Rates::between(&cpu(0, 0), &cpu(1000, 0), Duration::ZERO);
        assert!(rates.total.abs() < 1e-9);
    }

    #[test]
    fn a_program_may_call_itself_what_it_likes() {
        let stat = "7 (a) R (b 1) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 99";
        let (user, system) = ticks(stat).unwrap();
        assert_eq!((user, system), (from_ticks(250), from_ticks(50)));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn a_live_process_has_a_size() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let usage = of_process(Path::new("/proc"), pid).unwrap();
        assert!(usage.memory.rss.unwrap() > 0);
        assert!(usage.cpu.total.is_some());
    }
}
