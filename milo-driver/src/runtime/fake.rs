//! A [`Runtime`] without isolation for tests: real processes, real pids, real exit codes, and faults on demand. It runs
//! `process.args` of the bundle's `config.json` as they are, and like crun keeps its records on disk, so that another
//! value on the same folder knows the same containers.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    fs::{CWD, Mode, mkfifoat},
    process::{Pid, Signal, kill_process_group},
};

use super::{Create, Exec, Runtime, RuntimeError, Status, alone};

/// The fake, and what goes wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    /// Where its records are: `<id>/pid`, `<id>/gate`, `<id>/begun`.
    pub root: PathBuf,
    /// How long each verb takes on top.
    pub delay: Duration,
    /// What `create` says after it has made half of a container.
    pub create_fault: Option<String>,
    /// What `start` says.
    pub start_fault: Option<String>,
    /// What `delete` says.
    pub delete_fault: Option<String>,
}

/// Waits at a gate, then becomes the program; `$0` is the gate.
const WAITING: &str = r#"read -r _ <"$0" && exec "$@""#;

impl Fake {
    /// A fake without faults, with its records in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            ..Self::default()
        }
    }

    fn pid(&self, id: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.root.join(id).join("pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn made(&self, create: Create<'_>) -> io::Result<i32> {
        let record = self.root.join(create.id);
        fs::create_dir_all(&record)?;
        let gate = record.join("gate");
        mkfifoat(CWD, &gate, Mode::RUSR | Mode::WUSR)?;
        let [stdin, stdout, stderr] = create.stdio;
        let mut command = alone(Path::new("/bin/sh"));
        command
            .args(["-c", WAITING])
            .arg(&gate)
            .args(arguments(create.bundle)?)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr))
            .process_group(0);
        // The caller collects it by its pid, as it does with crun's.
        let child = command.spawn()?;
        let pid = child.id();
        fs::write(record.join("pid"), pid.to_string())?;
        fs::write(create.pid_file, pid.to_string())?;
        i32::try_from(pid).map_err(io::Error::other)
    }
}

impl Runtime for Fake {
    fn create(&self, create: Create<'_>) -> Result<i32, RuntimeError> {
        thread::sleep(self.delay);
        let log = create.log.to_owned();
        let pid = self
            .made(create)
            .map_err(|error| failed("create", &error.to_string()))?;
        match &self.create_fault {
            Some(words) => {
                let _ = fs::write(log, words);
                Err(failed("create", words))
            }
            None => Ok(pid),
        }
    }

    fn start(&self, id: &str) -> Result<(), RuntimeError> {
        thread::sleep(self.delay);
        if let Some(words) = &self.start_fault {
            return Err(failed("start", words));
        }
        let record = self.root.join(id);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .open(record.join("gate"));
        let begun = opened.and_then(|mut gate| {
            io::Write::write_all(&mut gate, b"\n")?;
            fs::write(record.join("begun"), "")?;
            // The gate is held open until the other side has read it: closed by both, its line would be lost.
            while rustix::io::ioctl_fionread(&gate)? > 0 && self.is_alive(id) {
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        begun.map_err(|error| failed("start", &error.to_string()))
    }

    fn kill(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        let Some(pid) = self.pid(id) else {
            return Err(failed("kill", "no such container"));
        };
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| failed("kill", &format!("{signal} is no signal")))?;
        kill_process_group(pid, signal).map_err(|error| failed("kill", &error.to_string()))
    }

    fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        thread::sleep(self.delay);
        if let Some(words) = &self.delete_fault {
            return Err(failed("delete", words));
        }
        // What has ended already is no reason to keep the record.
        let _ = self.kill(id, libc::SIGKILL);
        match fs::remove_dir_all(self.root.join(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("delete", &error.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn status(&self, id: &str) -> Result<Option<Status>, RuntimeError> {
        if self.pid(id).is_none() {
            return Ok(None);
        }
        Ok(Some(if !self.is_alive(id) {
            Status::Stopped
        } else if self.root.join(id).join("begun").exists() {
            Status::Running
        } else {
            Status::Created
        }))
    }

    fn exec(&self, exec: &Exec<'_>) -> Command {
        let text = fs::read(exec.process).unwrap_or_default();
        let process: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let words: Vec<String> =
            serde_json::from_value(process["args"].clone()).unwrap_or_default();
        let mut command = alone(Path::new("/bin/sh"));
        // Like crun, in the foreground: a parent that ends with the process' code.
        command
            .args([
                "-c",
                r#"pid=$0; sh -c 'echo $$ >"$0" && exec "$@"' "$pid" "$@"; exit $?"#,
            ])
            .arg(exec.pid_file)
            .args(words);
        command
    }
}

impl Fake {
    fn is_alive(&self, id: &str) -> bool {
        let stat = self
            .pid(id)
            .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        stat.is_some_and(|stat| !stat.contains(") Z "))
    }
}

fn arguments(bundle: &Path) -> io::Result<Vec<String>> {
    let text = fs::read(bundle.join("config.json"))?;
    let config: serde_json::Value = serde_json::from_slice(&text)?;
    let arguments = config["process"]["args"].clone();
    Ok(serde_json::from_value(arguments)?)
}

fn failed(verb: &'static str, words: &str) -> RuntimeError {
    RuntimeError {
        program: "fake",
        verb,
        words: words.into(),
    }
}
