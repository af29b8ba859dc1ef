//! Tasks of `raw_exec`: processes in groups of their own, with the folders and variables of an allocation, and logs that rotate.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::{Cluster, state::Exit};

/// Finds a place for a job, if there is one, and begins its task.
pub(super) fn place(cluster: &Cluster, name: &str) {
    let placed = cluster.change(|state| state.place(name));
    if let Some((id, job)) = placed {
        let cluster = cluster.clone();
        thread::spawn(move || run(&cluster, &id, &job));
    }
}

fn run(cluster: &Cluster, id: &str, job: &Value) {
    let task = &job["TaskGroups"][0]["Tasks"][0];
    let folder = cluster.folder.join(id);
    for part in ["alloc/logs", "alloc/data", "main/local", "main/secrets"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    cluster.change(|state| state.event(id, "Task Setup", "Building Task Directory", json!({})));
    if cluster.lock().doomed.contains(id) {
        cluster.change(|state| state.finish(id, false));
        return;
    }
    let mut child = match command(&folder, job, task).spawn() {
        Ok(child) => child,
        Err(error) => {
            let says = format!("failed to launch command with executor: {error}");
            cluster.change(|state| {
                state.event(id, "Driver Failure", &says, json!({"driver_error": says}));
                state.event(id, "Not Restarting", "Policy allows no restarts", json!({}));
                state.finish(id, true);
            });
            return;
        }
    };
    let size = cluster.lock().rotate_at.unwrap_or(10 << 20);
    let keep = task["LogConfig"]["MaxFiles"].as_u64().unwrap_or(10);
    let log = |stream: &str| Log {
        folder: folder.join("alloc/logs"),
        stream: stream.to_owned(),
        size,
        keep,
    };
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (to_out, to_err) = (log("stdout"), log("stderr"));
    let copies = [
        thread::spawn(move || to_out.copy(out)),
        thread::spawn(move || to_err.copy(err)),
    ];
    cluster.change(|state| state.started(id, child.id()));
    if cluster.lock().doomed.contains(id) {
        signal(child.id(), Signal::TERM);
    }
    let status = child.wait().unwrap();
    // What it left behind would keep its log open.
    signal(child.id(), Signal::KILL);
    for copy in copies {
        copy.join().unwrap().unwrap();
    }
    let signal = status.signal().unwrap_or(0);
    let code = status.code().unwrap_or(128 + signal);
    cluster.change(|state| state.exited(id, &Exit { code, signal }));
}

fn command(folder: &Path, job: &Value, task: &Value) -> Command {
    let path = |part: &str| folder.join(part).display().to_string();
    let own = [
        ("NOMAD_ALLOC_DIR", path("alloc")),
        ("NOMAD_TASK_DIR", path("main/local")),
        ("NOMAD_SECRETS_DIR", path("main/secrets")),
        ("NOMAD_JOB_ID", job["ID"].as_str().unwrap().to_owned()),
    ];
    let text = |value: &Value| evaluated(value.as_str().unwrap(), &own);
    let mut command = Command::new(text(&task["Config"]["command"]));
    let args = task["Config"]["args"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    command
        .args(args.iter().map(text))
        .envs(own.iter().map(|(name, value)| (*name, value)))
        .current_dir(folder.join("main"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in task["Env"].as_object().into_iter().flatten() {
        command.env(name, value.as_str().unwrap());
    }
    command
}

/// What a string of `Config` becomes: variables of the task are replaced, and what is escaped is not.
fn evaluated(text: &str, variables: &[(&str, String)]) -> String {
    let mut text = text.to_owned();
    for (name, value) in variables {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    text.replace("$${", "${").replace("%%{", "%{")
}

fn signal(group: u32, signal: Signal) {
    let group = Pid::from_raw(i32::try_from(group).unwrap()).unwrap();
    // It may be gone.
    let _ = kill_process_group(group, signal);
}

/// Ends the task of an allocation: SIGTERM, and SIGKILL after its time.
pub(super) fn kill(cluster: &Cluster, id: &str, timeout: Duration) {
    let group = cluster.change(|state| {
        state.doomed.insert(id.to_owned());
        let says = "Sent interrupt. Waiting 30s before force killing";
        state.event(id, "Killing", says, json!({}));
        state.groups.get(id).copied()
    });
    let Some(group) = group else { return };
    signal(group, Signal::TERM);
    let (cluster, id) = (cluster.clone(), id.to_owned());
    thread::spawn(move || {
        thread::sleep(timeout);
        if cluster.lock().groups.get(&id) == Some(&group) {
            signal(group, Signal::KILL);
        }
    });
}

pub(super) fn kill_all(cluster: &Cluster) {
    for group in cluster.lock().groups.values() {
        signal(*group, Signal::KILL);
    }
}

/// One stream of a task, in numbered files.
struct Log {
    folder: PathBuf,
    stream: String,
    size: u64,
    keep: u64,
}

impl Log {
    fn file(&self, index: u64) -> PathBuf {
        self.folder.join(format!("main.{}.{index}", self.stream))
    }

    fn copy(&self, mut from: impl Read) -> io::Result<()> {
        let (mut index, mut written) = (0, 0);
        let mut file = File::create(self.file(0))?;
        let mut part = vec![0; 32 << 10];
        loop {
            let length = from.read(&mut part)?;
            if length == 0 {
                return Ok(());
            }
            let mut rest = &part[..length];
            while !rest.is_empty() {
                if written >= self.size {
                    index += 1;
                    written = 0;
                    file = File::create(self.file(index))?;
                    if index >= self.keep {
                        fs::remove_file(self.file(index - self.keep))?;
                    }
                }
                let room = usize::try_from(self.size - written).unwrap();
                let (now, later) = rest.split_at(room.min(rest.len()));
                file.write_all(now)?;
                written += now.len() as u64;
                rest = later;
            }
        }
    }
}
