//! overseerctl's demo: a hub on a free port, then what its users do with it, through its own client.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Shown, wait_for};

const CONFIG: &str = r#"
actions:
  greet:
    type: exec
    meta: {description: "says hello to somebody"}
    config:
      entrypoint: echo
      command: ["hello, [[.name]]"]
      parameters: {name: {default: "world", validate: "value.size() < 40"}}
  count:
    type: exec
    task_pool: {limit: 2, queue: {enabled: true, size: 10}}
    config: {entrypoint: seq, command: ["[[.to]]"], parameters: {to: "3"}}
  flaky:
    type: exec
    retry: {restart_delay: 50ms, error_window: 1m, error_threshold: 3}
    config: {entrypoint: sh, command: ["-c", "echo trying; exit 7"]}
  service:
    type: exec
    config: {entrypoint: sleep, command: ["3600"]}
"#;

/// Runs the demonstrations against a hub of their own.
pub(crate) fn demonstrate(binary: &Path) -> Result<Vec<Shown>> {
    let hub = Hub::start(binary)?;
    let mut shown = Vec::new();
    let mut show = |what: &'static str, demonstration: &dyn Fn() -> Result<String>| {
        shown.push(Shown::of("overseerctl", what, demonstration));
    };
    show("run an action and pass its exit code on", &|| {
        let (code, output) = hub.client(&["run", "greet", "name=runyard"])?;
        ensure!(
            (code, output.trim()) == (0, "hello, runyard"),
            "exit {code}, output {output:?}"
        );
        Ok(format!("exit {code}: {}", output.trim()))
    });
    show("refuse parameters that fail their check", &|| {
        let (code, _) = hub.client(&["start", "greet", &format!("name={}", "x".repeat(50))])?;
        ensure!(code == 1, "exit {code}");
        Ok("refused with exit 1".to_owned())
    });
    show("start 12 tasks on a pool of 2 with a queue", &|| {
        for _ in 0..12 {
            hub.client_ok(&["start", "count", "to=1000"])?;
        }
        wait_for("12 tasks done", || {
            let tasks = hub.json(&["list"])?;
            let ended = tasks_of(&tasks)
                .filter(|task| task["action"] == "count" && task["last_exit_code"] == 0)
                .count();
            Ok((ended == 12).then(|| "12 ended with exit 0".to_owned()))
        })
    });
    show("restart a failing task until it gives up", &|| {
        hub.client_ok(&["start", "flaky", "--id", "flaky"])?;
        wait_for("flaky errored", || {
            let tasks = hub.json(&["list"])?;
            let task = tasks_of(&tasks)
                .find(|task| task["task_id"] == "flaky" && task["state"] == "errored")
                .cloned();
            Ok(task.map(|task| {
                format!(
                    "errored after {} restarts, last exit {}",
                    task["restart_count"], task["last_exit_code"]
                )
            }))
        })
    });
    show("stop a service and wait for its end", &|| {
        hub.client_ok(&["start", "service", "--id", "svc"])?;
        hub.client_ok(&["stop", "svc", "--wait"])?;
        Ok("stopped".to_owned())
    });
    show("shut the hub down", &|| Ok(format!("exit {}", hub.stop()?)));
    Ok(shown)
}

fn tasks_of(answer: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    answer.as_array().into_iter().flatten()
}

/// A hub that was started for the demo; it ends with it.
struct Hub {
    binary: PathBuf,
    url: String,
    directory: PathBuf,
    child: std::cell::RefCell<Child>,
    /// Kept open, so that the hub can go on logging.
    _log: BufReader<ChildStderr>,
}

impl Hub {
    fn start(binary: &Path) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("runyard-demo-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let config = directory.join("config.yaml");
        std::fs::write(&config, CONFIG)?;
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut log = BufReader::new(
            child
                .stderr
                .take()
                .context("standard error was asked for")?,
        );
        let url = announced(&mut log);
        let hub = |url| Self {
            binary: binary.to_owned(),
            url,
            directory,
            child: child.into(),
            _log: log,
        };
        // From here on the hub ends when this value is dropped, also if it announced nothing.
        match url {
            Ok(url) => Ok(hub(url)),
            Err(error) => {
                drop(hub(String::new()));
                Err(error)
            }
        }
    }

    /// Runs the client; its exit code and its standard output.
    fn client(&self, args: &[&str]) -> Result<(i32, String)> {
        let output = Command::new(&self.binary)
            .args(["--url", &self.url])
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .with_context(|| format!("overseerctl {args:?}"))?;
        Ok((
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    }

    fn client_ok(&self, args: &[&str]) -> Result<String> {
        let (code, output) = self.client(args)?;
        ensure!(code == 0, "overseerctl {args:?}: exit {code}");
        Ok(output)
    }

    fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let output = self.client_ok(&[&["--output", "json"], args].concat())?;
        Ok(serde_json::from_str(&output)?)
    }

    fn stop(&self) -> Result<i32> {
        let mut child = self.child.borrow_mut();
        // The shell's own `kill`: the program of that name is not everywhere.
        Command::new("sh")
            .args(["-c", &format!("kill {}", child.id())])
            .status()?;
        Ok(child.wait()?.code().unwrap_or(-1))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        if !matches!(child.try_wait(), Ok(Some(_))) {
            // Best effort: the demo is over.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The address in the line that says where the hub listens.
fn announced(log: &mut impl BufRead) -> Result<String> {
    let mut seen = String::new();
    for line in log.lines() {
        let line = line?;
        if let Some((_, rest)) = line
            .split_once("addr=")
            .filter(|_| line.contains("listening"))
        {
            let address = rest.split_whitespace().next().unwrap_or_default();
            return Ok(format!("ws://{address}/ws"));
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    bail!("the hub ended before it listened:\n{seen}")
}
