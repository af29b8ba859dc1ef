//! The command line of a JVM: from what a task wants and may use to the words after `execve`. Pure; nothing is looked up
//! on the host.
//!
//! ```text
//! java  <generated flags>  <jvm_options>  [-cp <class_path>]  [-jar <jar>]  [<class>]  <args>
//! ```
//!
//! Generated flags come first because a JVM believes the last of two: whatever a user says wins. They are arguments and
//! not `JAVA_TOOL_OPTIONS`, which every JVM announces on stderr, in the middle of the program's own output. A flag whose
//! question the user has answered, in the options or in the environment, is not generated at all.

mod said;

use std::{collections::BTreeMap, path::Path};

use self::said::Said;
use crate::{
    jre::Jre,
    task::{Heap, Java, Limits, Task},
};

/// The smallest heap that every JVM starts with.
const LEAST_HEAP: u64 = 2 << 20;

/// Where a task's logs are, in the container.
const LOGS: &str = "/alloc/logs";

/// The command line of `task`, which runs `java` with `jre` on a host of `host_cpus` CPUs: [`command`] with all that is
/// known about a task. The environment's own options (`JAVA_TOOL_OPTIONS`, `JDK_JAVA_OPTIONS`, `_JAVA_OPTIONS`) count as
/// the user's word, and the files of a crash are named after the task: in its container every JVM has the pid 1, and a
/// heap dump does not replace another one.
pub fn command_of(task: &Task, java: &Java, jre: &Jre, host_cpus: usize) -> Vec<String> {
    let name = format!("{}-{}", plain(&task.name), task.id.key());
    let crash_files = CrashFiles {
        error: format!("{LOGS}/hs_err_{name}.log"),
        dump: format!("{LOGS}/java_{name}.hprof"),
    };
    Setting {
        limits: &task.limits,
        host_cpus,
        crash_files: task.dirs.alloc.as_ref().map(|_| crash_files),
        said: Said::by(java, &task.env),
    }
    .command(java, jre)
}

/// The command line of `java` with `jre`. `host_cpus` are those of the host, and `alloc` says that the container has an
/// `/alloc`.
pub fn command(
    java: &Java,
    jre: &Jre,
    limits: &Limits,
    host_cpus: usize,
    alloc: bool,
) -> Vec<String> {
    // A folder, in which the JVM makes a `java_pid<pid>.hprof`: not every JVM expands `%p` in this flag.
    let crash_files = CrashFiles {
        error: format!("{LOGS}/hs_err_%p.log"),
        dump: LOGS.to_owned(),
    };
    Setting {
        limits,
        host_cpus,
        crash_files: alloc.then_some(crash_files),
        said: Said::by(java, &BTreeMap::new()),
    }
    .command(java, jre)
}

/// Whether the JVM was told to leave SIGTERM alone (`-Xrs`). The kernel then drops the signal, as the JVM is PID 1 of its
/// container: only a kill ends it.
pub fn ignores_sigterm(java: &Java) -> bool {
    let last = java
        .jvm_options
        .iter()
        .rev()
        .find_map(|option| match option.as_str() {
            "-Xrs" | "-XX:+ReduceSignalUsage" => Some(true),
            "-XX:-ReduceSignalUsage" => Some(false),
            _ => None,
        });
    last.unwrap_or(false)
}

/// What flags are generated from.
struct Setting<'a> {
    limits: &'a Limits,
    host_cpus: usize,
    /// Where the files of a crash go, if there is a place for them.
    crash_files: Option<CrashFiles>,
    said: Said,
}

struct CrashFiles {
    error: String,
    dump: String,
}

impl Setting<'_> {
    fn command(&self, java: &Java, jre: &Jre) -> Vec<String> {
        let mut command = vec![text(&jre.java)];
        command.extend(self.generated(java, jre));
        command.extend(java.jvm_options.iter().cloned());
        if let Some(class_path) = java.class_path.as_ref().filter(|path| !path.is_empty()) {
            command.extend(["-cp".to_owned(), class_path.clone()]);
        }
        if let Some(jar) = &java.jar {
            command.extend(["-jar".to_owned(), text(jar)]);
        }
        command.extend(java.class.iter().cloned());
        command.extend(java.args.iter().cloned());
        command
    }

    fn generated(&self, java: &Java, jre: &Jre) -> Vec<String> {
        let mut flags = Vec::new();
        flags.extend(self.heap(java));
        flags.extend(self.processors(jre));
        flags.extend(self.end_on_oom(java, jre));
        flags.extend(self.crash_files(java));
        flags
    }

    /// An explicit size: a percentage would be one of `memory_max`, which the JVM takes for its memory.
    fn heap(&self, java: &Java) -> Option<String> {
        if self.said.sizes_heap() {
            return None;
        }
        let bytes = match java.heap {
            Heap::Percent(percent) => share(self.limits.heap_basis?, percent)?,
            Heap::Mebibytes(mebibytes) => mebibytes.checked_mul(1 << 20)?,
            Heap::Jvm => return None,
        };
        // A JVM refuses to start with a smaller heap than it is to begin with.
        let bytes = bytes.max(LEAST_HEAP).max(self.said.initial_heap());
        Some(format!("-Xmx{}", size(bytes)))
    }

    /// JVMs see quotas and CPU sets when they find their cgroup, and some do not find it; and a quota may lie in a cgroup
    /// further up. Shares are no limit: since 17.0.5 and 11.0.17 JVMs do not take them for one either (JDK-8281181).
    fn processors(&self, jre: &Jre) -> Option<String> {
        // JDK 10, and 8u191 (JDK-8146115).
        let is_supported = jre.major >= 10 || (jre.major == 8 && jre.update() >= 191);
        if !is_supported || self.said.sets("ActiveProcessorCount") {
            return None;
        }
        let count = processors(self.limits, self.host_cpus)?;
        Some(format!("-XX:ActiveProcessorCount={count}"))
    }

    fn end_on_oom(&self, java: &Java, jre: &Jre) -> Option<String> {
        // JDK 9, and 8u92 (JDK-8138745).
        let is_supported = jre.major >= 9 || (jre.major == 8 && jre.update() >= 92);
        let is_wanted = java.exit_on_oom && !self.said.sets("ExitOnOutOfMemoryError");
        (is_supported && is_wanted).then(|| "-XX:+ExitOnOutOfMemoryError".to_owned())
    }

    fn crash_files(&self, java: &Java) -> Vec<String> {
        let mut flags = Vec::new();
        if java.heap_dump && !self.said.sets("HeapDumpOnOutOfMemoryError") {
            flags.push("-XX:+HeapDumpOnOutOfMemoryError".to_owned());
        }
        let Some(CrashFiles { error, dump }) = &self.crash_files else {
            return flags;
        };
        if java.heap_dump && !self.said.sets("HeapDumpPath") {
            flags.push(format!("-XX:HeapDumpPath={dump}"));
        }
        if !self.said.sets("ErrorFile") {
            flags.push(format!("-XX:ErrorFile={error}"));
        }
        flags
    }
}

/// A part of `basis`; `None` for a percentage that is none.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a heap's size is no exact science, and the percentage is positive and finite"
)]
fn share(basis: u64, percent: f64) -> Option<u64> {
    if !percent.is_finite() || percent <= 0.0 {
        return None;
    }
    let bytes = (basis as f64 * (percent / 100.0)) as u64;
    Some(bytes.min(basis))
}

/// In the largest unit that holds it exactly, kibibytes at most; what is less than one is dropped.
fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{}m", bytes >> 20)
    } else {
        format!("{}k", bytes >> 10)
    }
}

/// How many CPUs a task can really use: never 0, never more than the host has. `None` when it may use them all.
fn processors(limits: &Limits, host_cpus: usize) -> Option<usize> {
    let bound = limits.cpuset.as_deref().and_then(cpus_in);
    let quota = limits.cpu_quota.and_then(whole);
    let count = match (bound, quota) {
        (Some(bound), Some(quota)) => bound.min(quota),
        (one, other) => one.or(other)?,
    };
    Some(count.min(host_cpus).max(1))
}

/// As a JVM counts a quota: a part of a CPU is one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is positive, and more CPUs than a usize holds are all CPUs"
)]
fn whole(quota: f64) -> Option<usize> {
    (quota.is_finite() && quota > 0.0).then(|| quota.ceil() as usize)
}

/// How many CPUs a list such as `0,2-3` names; `None` when it names none or is no list.
fn cpus_in(list: &str) -> Option<usize> {
    let mut named = Vec::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last {
            return None;
        }
        named.push((first, last));
    }
    named.sort_unstable();
    let (mut count, mut next) = (0_usize, 0);
    for (first, last) in named {
        let first = first.max(next);
        if first <= last {
            count = count.saturating_add(last - first).saturating_add(1);
            next = last.saturating_add(1);
        }
    }
    (count > 0).then_some(count)
}

/// A task's name as a part of a file's name, in which the JVM expands `%`.
fn plain(name: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    name.chars()
        .map(|character| if is_plain(character) { character } else { '_' })
        .take(64)
        .collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
