//! What one run does: `buildctl run-phase`. It carries out one [`work::Work`], in a process of its own, wherever a scheduler
//! started it, and leaves a log on its standard output and a result in a file.
//!
//! ```text
//!  work ──▶ main ──▶ build | test | publish ──▶ Report ──▶ result file, exit code
//!             │        │ git, buildah (session), registry
//!             │        └──▶ log ──▶ stdout
//!             └─▶ watch: SIGTERM or deadline ──▶ TERM, grace, KILL to the program
//! ```
//!
//! # What holds whatever happens
//!
//! - One program at a time, in a session of its own. This process adopts what they orphan, and ends it before itself.
//! - Programs get neither this process's environment nor its mounts: what they mount is gone with them.
//! - Secrets are in files that only the owner can read and in the environment of one program; never in arguments, and masked in
//!   the log.
//! - Containers are removed by name: a build's are known by a mark that Buildah writes down with each of them. What a run that was
//!   killed left is removed by [`sweep()`], or by the next run that is alone in the store.

mod build;
mod commands;
mod credentials;
mod descendants;
mod enclosure;
mod explain;
mod git;
mod halt;
mod log;
mod mask;
mod place;
mod publish;
mod report;
mod session;
mod stop;
mod store;
mod sweep;
mod test;
pub mod work;

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    process::{getpid, set_child_subreaper},
    thread::{UnshareFlags, unshare_unsafe},
};

use self::{
    enclosure::Enclosure,
    halt::Halt,
    log::Log,
    session::Session,
    stop::{Cause, Stop},
    work::{Task, Work},
};
use crate::phase::{Ending, FailureKind, Outcome, RunFailure, Usage};

pub use commands::commands;
pub(crate) use enclosure::memory_is_held;
pub(crate) use explain::cause;
pub use report::Report;
pub(crate) use store::driver_options;
pub use sweep::{Swept, sweep};

/// The variable that may hold the work, as base64 of its JSON.
pub const WORK_VARIABLE: &str = "BUILDCTL_WORK_B64";
/// The variable that has the result in the log too, for whoever may read logs and no files.
pub const RESULT_IN_LOG: &str = "BUILDCTL_RESULT_IN_LOG";
/// What that record begins with.
pub const RESULT_RECORD: &str = "result: ";
/// What a wrong command line is answered with.
const USAGE: u8 = 2;
/// What an internal error is answered with.
const INTERNAL: u8 = 70;

/// The verb `run-phase`: `--work FILE --result FILE`, or the work in [`WORK_VARIABLE`]. `args` are those behind the verb.
///
/// It takes over signals, mounts and orphans of this process, so it must be called before there is any other thread.
pub fn main(args: &[OsString]) -> ExitCode {
    crate::scheduler::local::keep_descriptors_from_children();
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let told = |code: u8, message: &str| {
        // Nobody may be reading; the exit code says the same.
        let _ = writeln!(io::stderr(), "error: run-phase: {message}");
        ExitCode::from(code)
    };
    let (work, result) = match Arguments::parse(args).and_then(|args| args.read(&environment)) {
        Ok(read) => read,
        Err(message) => return told(USAGE, &message),
    };
    match carry_out(&work, &result, environment) {
        Ok(report) => ExitCode::from(report.exit_code()),
        Err(error) => told(INTERNAL, &format!("{}: {error}", result.display())),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    work: Option<PathBuf>,
    result: Option<PathBuf>,
}

impl Arguments {
    fn parse(args: &[OsString]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let place = match name.to_str() {
                Some("--work") => &mut found.work,
                Some("--result") => &mut found.result,
                _ => return Err(format!("unknown argument `{}`", name.display())),
            };
            let value = args
                .next()
                .ok_or_else(|| format!("`{}` needs a path", name.display()))?;
            *place = Some(PathBuf::from(value));
        }
        Ok(found)
    }

    /// Reads the work, and says where its result belongs.
    fn read(self, environment: &[(OsString, OsString)]) -> Result<(Work, PathBuf), String> {
        let result = self.result.ok_or("--result is missing")?;
        let variable = environment.iter().find(|(name, _)| name == WORK_VARIABLE);
        let json = match (&self.work, variable) {
            (Some(path), _) => {
                fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
            (None, Some((_, value))) => STANDARD
                .decode(value.as_encoded_bytes())
                .map_err(|error| format!("{WORK_VARIABLE} is not base64: {error}"))?,
            (None, None) => return Err(format!("--work or {WORK_VARIABLE} is missing")),
        };
        let work = serde_json::from_slice(&json)
            .map_err(|error| format!("the work cannot be read: {error}"))?;
        Ok((work, result))
    }
}

/// Carries work out and writes its result. Only what keeps the result from being written is an error.
fn carry_out(
    work: &Work,
    result: &Path,
    environment: Vec<(OsString, OsString)>,
) -> io::Result<Report> {
    let started_at = Timestamp::now();
    let ended = move |ending: Ending, usage: Usage| Report {
        ending,
        started_at,
        ended_at: Timestamp::now(),
        usage,
    };
    set_child_subreaper(Some(getpid()))?;
    keep_mounts_to_ourselves();
    let (deadline, path) = (work.deadline, result.to_owned());
    let stop = Stop::watch(work.deadline, work.grace, move |cause| {
        let report = ended(stopped(cause, deadline), Usage::default());
        descendants::kill_own();
        // Whether or not the result can be written, this is the end.
        let _ = report.write(&path);
        end_at_once(report.exit_code());
    })?;
    let mut log = Log::new(io::stdout());
    let enclosure = enclose(work, &mut log);
    let mut session = Session {
        work,
        stop: stop.clone(),
        log,
        environment,
        enclosure,
        programs: None,
        variables: Vec::new(),
        step: None,
    };
    for note in &work.notes {
        session.say(format!("{}: note: {note}", work.run));
    }
    let outcome = task(&mut session);
    descendants::kill_own();
    let ending = ending(&session, outcome);
    let usage = usage(session.enclosure.as_ref());
    if let Some(enclosure) = session.enclosure.take() {
        enclosure.remove();
    }
    tell(&mut session, &ending, usage);
    let report = ended(ending, usage);
    if session
        .environment
        .iter()
        .any(|(name, _)| name == RESULT_IN_LOG)
    {
        session.say(format!(
            "{RESULT_RECORD}{}",
            serde_json::to_string(&report)?
        ));
    }
    report.write(result)?;
    stop.done();
    Ok(report)
}

fn task(session: &mut Session<'_>) -> Result<Outcome, Halt> {
    match &session.work.task {
        Task::Build {
            source,
            git_credentials,
            options,
            temporary,
            clear_cache,
        } => {
            let git_credentials = git_credentials.as_ref();
            let clear_cache = *clear_cache;
            let build = build::Build {
                source,
                git_credentials,
                options,
                temporary,
                clear_cache,
            };
            build::run(session, &build)
        }
        Task::Test {
            image,
            command,
            env,
            secret_env,
            gpu,
        } => {
            let test = test::Test {
                image,
                command: command.as_deref(),
                env,
                secret_env,
                gpu: *gpu,
            };
            test::run(session, &test)
        }
        Task::Publish {
            from,
            digest,
            to,
            tags,
        } => {
            let publication = publish::Publication {
                from,
                digest,
                to,
                tags,
            };
            publish::run(session, &publication)
        }
        Task::Cleanup { temporary, digest } => {
            publish::clean_up(session, temporary, digest.as_ref())
        }
    }
}

/// What became of it all. A run that was through before it was told to stop has succeeded.
fn ending(session: &Session<'_>, outcome: Result<Outcome, Halt>) -> Ending {
    let mut ending = unmasked(session, outcome);
    if let Ending::Failed(failure) = &mut ending {
        failure.message = session.log.mask.apply_str(&failure.message);
    }
    ending
}

fn unmasked(session: &Session<'_>, outcome: Result<Outcome, Halt>) -> Ending {
    match (outcome, session.stop.cause()) {
        (Ok(outcome), _) => Ending::Succeeded { outcome },
        (Err(Halt::Failed(failure)), None) => Ending::Failed(*failure),
        (Err(Halt::Failed(failure)), Some(cause)) => match stopped(cause, session.work.deadline) {
            // What a publication left moved is true for whatever reason it failed.
            Ending::Failed(timeout) => Ending::Failed(RunFailure {
                message: format!("{}; {}", timeout.message, failure.message),
                moved: failure.moved,
                ..timeout
            }),
            other => other,
        },
        (Err(Halt::Stopped), cause) => {
            let mut ending = stopped(cause.unwrap_or(Cause::Asked), session.work.deadline);
            if let (Ending::Failed(timeout), Some(step)) = (&mut ending, &session.step) {
                timeout.message = format!("{}; it was at {step}", timeout.message);
            }
            ending
        }
    }
}

fn stopped(cause: Cause, deadline: std::time::Duration) -> Ending {
    match cause {
        Cause::Asked => Ending::Cancelled,
        Cause::Deadline => Ending::Failed(RunFailure {
            kind: FailureKind::Timeout,
            message: format!(
                "not done within {}",
                runyard_common::duration::format(deadline)
            ),
            moved: Vec::new(),
            built: None,
        }),
    }
}

/// The last words in the log.
fn tell(session: &mut Session<'_>, ending: &Ending, usage: Usage) {
    let run = session.work.run;
    let how = match ending {
        Ending::Succeeded { .. } => "succeeded".to_owned(),
        Ending::Failed(failure) => format!("failed: {}", failure.message),
        Ending::Cancelled => "stopped".to_owned(),
    };
    session.say(format!(
        "{run}: {how} ({} MB of memory at most, {}.{:03} s of processor time)",
        usage.peak_memory >> 20,
        usage.cpu_ms / 1000,
        usage.cpu_ms % 1000
    ));
    if let Some(error) = session.log.broken() {
        let _ = writeln!(
            io::stderr(),
            "error: run-phase: the log could not be written: {error}"
        );
    }
}

/// Mounts that programs make are seen by this process and its programs only, and end with them. Without the right to that,
/// they are unmounted by Buildah, or by whoever sweeps.
fn keep_mounts_to_ourselves() {
    // SAFETY: only this thread and those that it starts later see other mounts from here on; no descriptors are taken apart.
    let apart = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
    if apart.is_ok() {
        let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        // What is mounted by others meanwhile is still seen here, but not the other way round.
        let _ = mount_change("/", flags);
    }
}

fn enclose(work: &Work, log: &mut Log) -> Option<Enclosure> {
    let memory = work.memory?;
    match Enclosure::make(&format!("buildctl-{}", place::name(work)), memory) {
        Ok(enclosure) => Some(enclosure),
        Err(error) => {
            log.say(&format!(
                "memory is not limited to {} MB here: {error}",
                memory >> 20
            ));
            None
        }
    }
}

fn usage(enclosure: Option<&Enclosure>) -> Usage {
    let mut used = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `getrusage` fills the structure, which is valid when it is all zeros, too.
    let used = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, used.as_mut_ptr());
        used.assume_init()
    };
    let ms =
        |time: libc::timeval| u64::try_from(time.tv_sec * 1000 + time.tv_usec / 1000).unwrap_or(0);
    let largest = u64::try_from(used.ru_maxrss).unwrap_or(0) << 10;
    Usage {
        cpu_ms: ms(used.ru_utime) + ms(used.ru_stime),
        peak_memory: enclosure.and_then(Enclosure::peak).unwrap_or(largest),
    }
}

#[expect(
    clippy::exit,
    reason = "the thread that should return from main is stuck"
)]
fn end_at_once(code: u8) -> ! {
    std::process::exit(i32::from(code))
}

/// Whether these are the arguments of `buildctl run-phase …`, for the program's entry.
pub fn is_called(args: &[OsString]) -> bool {
    args.get(1).map(OsString::as_os_str) == Some(OsStr::new("run-phase"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_are_two_paths() {
        let parsed = parse(&["--work", "w", "--result", "r"]).unwrap();
        assert_eq!(parsed.work.as_deref(), Some(Path::new("w")));
        assert_eq!(parse(&["--work"]).unwrap_err(), "`--work` needs a path");
        assert_eq!(parse(&["x"]).unwrap_err(), "unknown argument `x`");
        let missing = parse(&["--work", "w"]).unwrap().read(&[]).unwrap_err();
        assert_eq!(missing, "--result is missing");
    }

    #[test]
    fn work_in_the_environment_is_base64() {
        let read = |value: &str| {
            let environment = [(OsString::from(WORK_VARIABLE), OsString::from(value))];
            parse(&["--result", "r"])
                .unwrap()
                .read(&environment)
                .unwrap_err()
        };
        assert!(read("***").contains("not base64"));
        assert!(read("e30=").contains("missing field"));
    }
}
