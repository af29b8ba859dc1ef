//! `milo-driver run`: a JAR in a container, in the foreground or by itself. What was asked for becomes a task in
//! [`ask`]; preparing and launching it is what the plugin does, too.

mod ask;

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
};

use runyard_common::{exit::Exit, output::Table, report::Failure};
use serde_json::json;

use super::{Context, interrupt::Signals};
use crate::{
    host::Host,
    jre::{JreError, Jres},
    launch::{LaunchError, Launcher, OURSELVES, Recovered, Spare},
    prepare::{Means, PrepareError, Prepared, prepare},
    shim::{
        client::Connection,
        protocol::{Answer, Request},
    },
    state::TaskDir,
    task::{Exit as TaskExit, Limits},
};

pub(super) use self::ask::{Args, pair};

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    // Its program is loaded while the bundle is planned. Without it, or with one that is of no use, that takes its turn.
    let is_attached = !args.detach && !args.dry_run && args.print_bundle.is_none();
    let spare = is_attached
        .then(|| Spare::begin(Path::new(OURSELVES), own_streams().ok()?).ok())
        .flatten()
        .unwrap_or_default();
    let task = args.task(&context.config, &context.state())?;
    let host = Host::detect()?;
    let jres = Jres::discover(&context.search());
    let means = Means {
        host: &host,
        jres: &jres,
        default_java: context.config.default_java.as_deref(),
        // Whoever may run containers here decides for themselves.
        allow_privileged_user: true,
        any_java_home: true,
    };
    let dir = context.state().task(&task.id);
    let prepared = prepare(task, means, &dir.bundle()).map_err(|error| refused(&error))?;
    if args.dry_run {
        return dry_run(&prepared, context);
    }
    if let Some(folder) = &args.print_bundle {
        return print_bundle(&prepared, folder, context);
    }
    let prepared = Prepared {
        task: ask::with_streams(prepared.task, args.detach, &dir),
        ..prepared
    };
    if args.detach {
        detached(&prepared, context)
    } else {
        let launcher = Launcher {
            spare,
            ..context.launcher()?
        };
        attached(&prepared, &dir, &launcher)
    }
}

/// A problem with what was asked for, in the words that the plugin uses too.
fn refused(error: &PrepareError) -> anyhow::Error {
    let exit = match error {
        PrepareError::Jar(error) if error.is_missing() => Exit::NotFound,
        PrepareError::Jre(JreError::None { .. } | JreError::NoMatch { .. }) => Exit::NotFound,
        _ => Exit::Failed,
    };
    // These texts begin with the word that every error is given anyway.
    let text = error.to_string();
    let text = text.strip_prefix("Error: ").unwrap_or(&text).to_owned();
    let failure = Failure::new(exit, text);
    match std::error::Error::source(error) {
        Some(cause) => failure.caused_by(cause.to_string()).into(),
        None => failure.into(),
    }
}

fn dry_run(prepared: &Prepared, context: &Context) -> anyhow::Result<Exit> {
    let process = prepared.plan.spec.process().as_ref();
    context.printer.value(&json!({
        "task": prepared.task,
        "jre": prepared.jre,
        "user": { "uid": prepared.account.uid, "gid": prepared.account.gid, "name": prepared.account.name },
        "command": process.and_then(|process| process.args().clone()),
    }))?;
    Ok(Exit::Done)
}

/// Writes the bundle where `crun run --bundle` finds it.
fn print_bundle(prepared: &Prepared, folder: &Path, context: &Context) -> anyhow::Result<Exit> {
    fs::create_dir_all(folder)?;
    prepared.plan.write(folder)?;
    let folder = fs::canonicalize(folder)?;
    let id = prepared.task.id.container();
    let command = format!("crun run --bundle {} {id}", folder.display());
    let answer = json!({ "bundle": folder, "container": id, "command": command });
    context
        .printer
        .both(&answer, &Table::headless().row([command]))?;
    Ok(Exit::Done)
}

fn detached(prepared: &Prepared, context: &Context) -> anyhow::Result<Exit> {
    let launcher = context.launcher()?;
    let launched = launcher.prepare(&prepared.task, |bundle| prepared.plan.write(bundle));
    let dir = launched.map_err(|error| not_launched(error, prepared))?;
    let begun = launcher
        .spawn_shim(&dir, None)
        .and_then(|()| launcher.begin(&dir));
    let begun = begun.map_err(|error| {
        // What it has left is of no use to anybody; the first error says more than one of this.
        let _ = launcher.dismiss(&dir);
        not_launched(error, prepared)
    })?;
    let pid = match begun {
        Recovered::Running(started) => Some(started.pid),
        Recovered::Exited(_) => None,
    };
    let id = &prepared.task.id;
    let answer = json!({ "task": id, "pid": pid });
    context
        .printer
        .both(&answer, &Table::headless().row([id.0.as_str()]))?;
    Ok(Exit::Done)
}

/// Runs it with the streams of this process, which passes signals on and ends as it ends. The container does not outlive
/// this process.
fn attached(prepared: &Prepared, dir: &TaskDir, launcher: &Launcher) -> anyhow::Result<Exit> {
    let mut signals = Signals::block()?;
    let streams = own_streams()?;
    let launched = launcher.launch_attached(&prepared.task, streams, |bundle| {
        prepared.plan.write(bundle)
    });
    let (_, mut connection) = launched.map_err(|error| not_launched(error, prepared))?;
    let there = dir.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || forward(&mut signals, &there))?;
    match connection.receive()? {
        Answer::Exited(exit) => Ok(told(&exit, &prepared.task.limits)),
        Answer::Failed { error } => Err(Failure::new(Exit::Failed, error).into()),
        other => anyhow::bail!("the shim's answer makes no sense: {other:?}"),
    }
}

fn own_streams() -> io::Result<[OwnedFd; 3]> {
    Ok([
        io::stdin().as_fd().try_clone_to_owned()?,
        io::stdout().as_fd().try_clone_to_owned()?,
        io::stderr().as_fd().try_clone_to_owned()?,
    ])
}

/// Passes signals on for as long as this process lives. The second Ctrl-C kills: somebody is impatient.
fn forward(signals: &mut Signals, dir: &TaskDir) {
    let mut interrupts = 0;
    while let Ok(signal) = signals.next() {
        interrupts += usize::from(signal == libc::SIGINT);
        let request = if interrupts > 1 {
            Request::Stop {
                signal: libc::SIGKILL,
                timeout_ms: 0,
            }
        } else {
            Request::Signal { signal }
        };
        // It may have ended just now, which the other thread learns too.
        let _ = Connection::open(dir).and_then(|mut connection| connection.request(&request));
    }
}

/// The container's end as this program's.
fn told(exit: &TaskExit, limits: &Limits) -> Exit {
    if exit.oom_killed {
        let limit = limits
            .memory
            .map_or_else(String::new, |bytes| format!(" of {} MiB", bytes >> 20));
        tracing::error!("killed by the kernel: the memory limit{limit} (--memory) was reached");
    }
    if let Some(error) = &exit.error {
        tracing::error!("{error}");
        return Exit::Failed;
    }
    match u8::try_from(exit.code) {
        Ok(0) => Exit::Done,
        Ok(code) => Exit::Child(code),
        Err(_) => Exit::Failed,
    }
}

fn not_launched(error: LaunchError, prepared: &Prepared) -> anyhow::Error {
    let name = &prepared.task.id;
    match &error {
        LaunchError::Record { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Failed, format!("there is a task `{name}` already"))
                .hint(format!("choose another --name, or: milo-driver rm {name}"))
                .into()
        }
        LaunchError::Record { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Failed, "containers can be made by root only")
                .caused_by(error)
                .hint("sudo milo-driver run …; `milo-driver doctor` says what else is missing")
                .into()
        }
        _ => Failure::new(Exit::Failed, format!("cannot run `{name}`"))
            .caused_by(error)
            .hint("`milo-driver doctor` looks for what is missing on this host")
            .into(),
    }
}
