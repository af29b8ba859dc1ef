//! The machine underneath: which cores the two sides get, what a process has used so far, and the facts that a reader
//! needs to judge the numbers. Reads /proc and small standard programs; starts nothing that is measured.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;

/// Clock ticks a second in /proc/PID/stat. The kernel reports in `USER_HZ`, which is 100 on every architecture that
/// Rust has a tier-1 Linux target for.
const TICKS_PER_SECOND: u64 = 100;

/// Time for a program to say its version or a digest. What it says must fit into a pipe.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The cores this process may use, in two halves: one for the daemon, the rest for the client and the daemon's
/// children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cores {
    daemon: Vec<u32>,
    client: Vec<u32>,
    pinned: bool,
}

impl Cores {
    /// Divides the cores that this process may use now.
    pub(super) fn divide() -> Self {
        Self::halves(allowed(), has_taskset())
    }

    /// Leaves all cores to everybody: for measurements in which one command runs at a time.
    pub(super) fn undivided() -> Self {
        Self::halves(allowed(), false)
    }

    fn halves(allowed: Vec<u32>, taskset: bool) -> Self {
        if !taskset || allowed.len() < 2 {
            return Self {
                daemon: allowed.clone(),
                client: allowed,
                pinned: false,
            };
        }
        let (daemon, client) = allowed.split_at(allowed.len() / 2);
        Self {
            daemon: daemon.to_vec(),
            client: client.to_vec(),
            pinned: true,
        }
    }

    /// Number of cores the daemon runs on, at least 1.
    pub(super) fn for_daemon(&self) -> u32 {
        u32::try_from(self.daemon.len()).unwrap_or(u32::MAX).max(1)
    }

    /// Number of cores the client and the children run on, at least 1.
    pub(super) fn for_client(&self) -> u32 {
        u32::try_from(self.client.len()).unwrap_or(u32::MAX).max(1)
    }

    /// Words to put before a command that belongs on the daemon's cores; empty without pinning.
    pub(super) fn daemon_prefix(&self) -> Vec<String> {
        self.prefix(&self.daemon)
    }

    /// Words to put before a command that belongs on the client's cores; empty without pinning.
    pub(super) fn client_prefix(&self) -> Vec<String> {
        self.prefix(&self.client)
    }

    fn prefix(&self, cores: &[u32]) -> Vec<String> {
        if !self.pinned {
            return Vec::new();
        }
        vec!["taskset".into(), "-c".into(), join(cores)]
    }

    /// Moves this process, and every thread it starts from now on, to the client's cores.
    ///
    /// # Errors
    ///
    /// A `taskset` that refuses.
    pub(super) fn enter_client_half(&self) -> Result<()> {
        if !self.pinned {
            return Ok(());
        }
        let pid = std::process::id().to_string();
        let status = Command::new("taskset")
            .args(["-a", "-c", "-p", &join(&self.client), &pid])
            .stdout(Stdio::null())
            .status()
            .context("cannot run taskset")?;
        status
            .success()
            .then_some(())
            .ok_or_else(|| anyhow!("taskset could not pin process {pid}: {status}"))
    }

    /// One line for the report's header.
    pub(super) fn describe(&self) -> String {
        if self.pinned {
            return format!(
                "daemon on {}; client and children on {} (taskset)",
                join(&self.daemon),
                join(&self.client)
            );
        }
        format!(
            "{}, shared by all that runs (not pinned)",
            join(&self.client)
        )
    }
}

/// The cores that this process may use now.
fn allowed() -> Vec<u32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = field(&status, "Cpus_allowed_list:");
    list.map(cpu_list).unwrap_or_default()
}

fn has_taskset() -> bool {
    first_line("taskset", ["--version"]).is_some()
}

fn join(cores: &[u32]) -> String {
    cores
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Reads the kernel's list form: `0-3,8`.
fn cpu_list(text: &str) -> Vec<u32> {
    text.split(',').filter_map(cpu_range).flatten().collect()
}

fn cpu_range(text: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some(low.trim().parse().ok()?..=high.trim().parse().ok()?)
}

/// What a process has used up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// User and system time of all its threads, the ended ones included; without its children.
    pub(super) cpu: Duration,
    /// Resident memory in kB (1024 bytes).
    pub(super) rss_kb: f64,
    /// Resident memory in kB with shared pages divided among their users; `None` on kernels without `smaps_rollup`.
    pub(super) pss_kb: Option<f64>,
}

impl Usage {
    /// Reads the usage of a live process.
    ///
    /// # Errors
    ///
    /// A process that is gone.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let stat = read("stat").with_context(|| format!("process {pid} is gone"))?;
        let cpu = cpu_time(&stat).ok_or_else(|| anyhow!("/proc/{pid}/stat has an unknown form"))?;
        let rollup = read("smaps_rollup").unwrap_or_default();
        let status = read("status").unwrap_or_default();
        let rss_kb = kilobytes(&rollup, "Rss:").or_else(|| kilobytes(&status, "VmRSS:"));
        Ok(Self {
            cpu,
            rss_kb: rss_kb.unwrap_or_default(),
            pss_kb: kilobytes(&rollup, "Pss:"),
        })
    }
}

/// Sums utime and stime, the 14th and 15th field. The second field, the command in brackets, may hold blanks.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * 1000 / TICKS_PER_SECOND,
    ))
}

fn kilobytes(text: &str, key: &str) -> Option<f64> {
    field(text, key)?.strip_suffix("kB")?.trim().parse().ok()
}

/// The rest of the line that starts with `key`, trimmed.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .map(str::trim)
}

/// What the header says about the machine, as label and value.
pub(super) fn facts(cores: &Cores) -> Vec<(String, String)> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpuinfo, "model name")
        .and_then(|line| line.strip_prefix(':'))
        .unwrap_or("unknown");
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = field(&limits, "Max open files")
        .and_then(|line| line.split_ascii_whitespace().next())
        .unwrap_or("?");
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    vec![
        ("date".into(), utc(since.as_secs())),
        (
            "kernel".into(),
            format!("Linux {} {}", kernel.trim(), std::env::consts::ARCH),
        ),
        ("processor".into(), model.trim().to_owned()),
        ("cores".into(), cores.describe()),
        (
            "load".into(),
            load(&fs::read_to_string("/proc/loadavg").unwrap_or_default()),
        ),
        (
            "open files".into(),
            format!("{files} (soft limit, the same for both)"),
        ),
    ]
}

/// What else the machine was doing in the minute before the first run.
fn load(loadavg: &str) -> String {
    let minute = loadavg.split_ascii_whitespace().next().unwrap_or("unknown");
    format!("{minute} runnable on average in the minute before (other work spoils the numbers)")
}

/// One line for the report's header: which binary was measured.
pub(super) fn binary_fact(path: &Path, version_flag: &str) -> String {
    let version = first_line(path, [version_flag]).unwrap_or_else(|| "version unknown".into());
    let digest = sha256(path).unwrap_or_else(|| "unknown".into());
    format!("{version}, sha256 {digest}")
}

/// Digest of a file, in hexadecimal; `None` without a `sha256sum` program.
fn sha256(file: &Path) -> Option<String> {
    let line = first_line("sha256sum", [file])?;
    line.split_ascii_whitespace().next().map(str::to_owned)
}

/// First line that a program prints, on stdout or else on stderr; `None` when it does not run, fails, or takes longer
/// than [`ANSWER_LIMIT`].
pub(super) fn first_line<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
) -> Option<String> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let limit = Instant::now() + ANSWER_LIMIT;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > limit {
            child.kill().ok()?;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().ok()?;
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    let line = String::from_utf8_lossy(&text)
        .lines()
        .next()?
        .trim()
        .to_owned();
    output.status.success().then_some(line)
}

/// Formats seconds since the epoch as `2026-11-21T15:04:05Z`. The day count follows Howard Hinnant's
/// `civil_from_days`.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_core_list_is_understood() {
        assert_eq!(cpu_list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(cpu_list("5"), [5]);
        assert!(cpu_list("").is_empty());
    }

    #[test]
    fn the_client_gets_the_larger_half() {
        let cores = Cores::halves(vec![0, 1, 4], true);
        assert_eq!(cores.daemon_prefix(), ["taskset", "-c", "0"]);
        assert_eq!(cores.client_prefix(), ["taskset", "-c", "1,4"]);
    }

    #[test]
    fn a_single_core_is_shared_without_pinning() {
        let cores = Cores::halves(vec![3], true);
        assert!(cores.daemon_prefix().is_empty());
        assert_eq!((cores.for_daemon(), cores.for_client()), (1, 1));
    }

    #[test]
    fn a_command_with_blanks_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 9 9 20 0 1 0 5 0 0";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1750)));
    }

    #[test]
    fn memory_is_read_from_the_rollup_form() {
        let text = "5581 ---p 00000000 00:00 0 [rollup]\nRss:                1024 kB\nPss:                 512 kB\n";
        assert_eq!(kilobytes(text, "Pss:"), Some(512.0));
        assert_eq!(kilobytes(text, "Swap:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        assert!(Usage::of(std::process::id()).unwrap().rss_kb > 100.0);
    }

    #[test]
    fn the_load_of_the_last_minute_is_shown() {
        assert!(load("0.42 1.00 2.00 1/234 999").starts_with("0.42 runnable"));
        assert!(load("").starts_with("unknown"));
    }

    #[test]
    fn a_program_that_fails_has_no_first_line() {
        assert_eq!(first_line("echo", ["one\ntwo"]).as_deref(), Some("one"));
        assert_eq!(first_line("sh", ["-c", "echo one; exit 1"]), None);
        assert_eq!(first_line("/no/such/program", ["x"]), None);
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_772_323_199), "2026-02-28T23:59:59Z");
        assert_eq!(utc(1_772_323_200), "2026-03-01T00:00:00Z");
    }
}
