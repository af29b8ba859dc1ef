//! milo-driver's host: a Nomad agent in its development mode, with the plugin and with folders of its own.
//!
//! ```text
//! <temporary>/plugins/milo-driver   the release build; the file's name is the label of the plugin block
//! <temporary>/agent.hcl             the ports, and the plugin block
//! <temporary>/agent.log             what the agent says
//! <temporary>/data, state           the agent's and the driver's own, apart from those of any other agent here
//! ```

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::interrupt;
use crate::{deps, step::say};

/// How long the agent may take until tasks can be placed on it.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long it may take to end. It ends its tasks first, each of which has its `kill_timeout`.
const FAREWELL: Duration = Duration::from_secs(45);
/// How often one looks.
const LOOK: Duration = Duration::from_millis(200);
/// How many lines of its log are shown when it fails.
const SHOWN: usize = 20;

/// The `nomad` to use: `NOMAD_BIN`, or the first one in `PATH`.
pub(super) fn nomad() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("NOMAD_BIN") {
        let named = PathBuf::from(named);
        if named.is_file() {
            return Ok(named);
        }
        bail!("NOMAD_BIN is `{}`, which is no file", named.display());
    }
    deps::find("nomad").context(
        "no `nomad` in PATH: install Nomad 1.10 or newer, or name its binary in NOMAD_BIN; \
         without Nomad, `milo-driver run app.jar` does the same",
    )
}

/// Runs an agent with the plugin until Ctrl-C.
pub(super) fn run(nomad: &Path, binary: &Path, port: u16, more: &[String]) -> Result<()> {
    if TcpListener::bind(("127.0.0.1", port)).is_err() {
        bail!("port {port} is taken, perhaps by another agent: end that, or use --port");
    }
    interrupt::hold();
    let mut agent = Agent::start(nomad, binary, port, more)?;
    let result = agent.wait_until_healthy().and_then(|()| {
        announce(nomad, &agent);
        agent.stay()
    });
    let ended = agent.stop();
    result.and(ended)
}

fn announce(nomad: &Path, agent: &Agent) {
    let in_path = deps::find("nomad").is_some_and(|found| found == nomad);
    let nomad = if in_path {
        "nomad".to_owned()
    } else {
        nomad.display().to_string()
    };
    say(&format!(
        "\nThe agent is at {address} and the driver is healthy. Its log: {log}\n",
        address = agent.address,
        log = agent.dir.join("agent.log").display()
    ));
    say("In another terminal:\n");
    if agent.address != "http://127.0.0.1:4646" {
        say(&format!("  export NOMAD_ADDR={}", agent.address));
    }
    say(&format!(
        "  {nomad} job run milo-driver/examples/hello.nomad.hcl"
    ));
    say(&format!("  {nomad} alloc logs -job hello"));
    say("\nCtrl-C ends the agent and its tasks.");
}

/// An agent that ends with this value.
struct Agent {
    child: Child,
    dir: PathBuf,
    address: String,
    ended: bool,
}

impl Agent {
    fn start(nomad: &Path, binary: &Path, port: u16, more: &[String]) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("runyard-dev-{}", std::process::id()));
        let plugins = dir.join("plugins");
        fs::create_dir_all(&plugins).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::copy(binary, plugins.join("milo-driver"))
            .with_context(|| format!("cannot copy {}", binary.display()))?;
        let config = dir.join("agent.hcl");
        fs::write(&config, configuration(&dir, port))?;
        let log = File::create(dir.join("agent.log"))?;
        let mut command = Command::new(nomad);
        command
            .args(["agent", "-dev"])
            .arg(format!("-config={}", config.display()))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C is meant for us; the agent is told by us, once.
            .process_group(0);
        say(&format!("$ nomad agent -dev -config={}", config.display()));
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", nomad.display()))?;
        Ok(Self {
            child,
            dir,
            address: format!("http://127.0.0.1:{port}"),
            ended: false,
        })
    }

    fn wait_until_healthy(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut state = "the agent does not answer".to_owned();
        while begin.elapsed() < PATIENCE {
            self.check()?;
            if interrupt::count() > 0 {
                bail!("interrupted");
            }
            match health(&self.address) {
                Ok(None) => return Ok(()),
                Ok(Some(reason)) => state = reason,
                Err(error) => state = format!("the agent does not answer: {error:#}"),
            }
            thread::sleep(LOOK);
        }
        bail!(
            "the driver is not ready after a minute: {state}\n\
             `milo-driver doctor` says what is missing; the agent's log ends with:\n{}",
            self.last_words()
        )
    }

    /// Waits for Ctrl-C.
    fn stay(&mut self) -> Result<()> {
        while interrupt::count() == 0 {
            self.check()?;
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Fails if the agent has ended by itself.
    fn check(&mut self) -> Result<()> {
        match self.has_ended()? {
            None => Ok(()),
            Some(status) => bail!(
                "the agent ended: {status}; its last words:\n{}",
                self.last_words()
            ),
        }
    }

    fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context("waiting for the agent")?;
        self.ended |= status.is_some();
        Ok(status)
    }

    fn last_words(&self) -> String {
        let log = fs::read(self.dir.join("agent.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }

    /// Ends the agent, which in its development mode ends its tasks; another Ctrl-C hurries it.
    fn stop(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut told = None;
        while self.has_ended()?.is_none() {
            let wishes = interrupt::count();
            if told != Some(wishes) {
                told = Some(wishes);
                say("ending the agent");
                self.signal(libc::SIGINT);
            }
            if begin.elapsed() > FAREWELL {
                self.child.kill()?;
            }
            thread::sleep(LOOK);
        }
        self.clean_up()
    }

    fn signal(&self, signal: libc::c_int) {
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: sends a signal to a child that was not waited for, so that its pid is still its own.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Removes the folders, unless something is still mounted there: what is mounted is somebody's.
    fn clean_up(&self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if is_mounted_below(&mounts, &self.dir) {
            bail!(
                "something is still mounted below {}, which is left as it is",
                self.dir.display()
            );
        }
        fs::remove_dir_all(&self.dir)
            .with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.ended {
            // Best effort: the reason is on its way to whoever reads.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Ports and plugin. The state directory is this agent's own, because a driver sweeps what its agent does not know.
fn configuration(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        r#"data_dir   = "{dir}/data"
plugin_dir = "{dir}/plugins"
log_level  = "INFO"

ports {{
  http = {port}
  rpc  = {rpc}
  serf = {serf}
}}

# This is no machine of a cloud, and need not ask around.
client {{
  options = {{
    "fingerprint.denylist" = "env_aws,env_azure,env_digitalocean,env_gce"
  }}
}}

plugin "milo-driver" {{
  config {{
    state_dir = "{dir}/state"
  }}
}}
"#,
        rpc = port + 1,
        serf = port + 2,
    )
}

/// Why no task can be placed yet; `None` if tasks can.
fn health(address: &str) -> Result<Option<String>> {
    let nodes: Value = ureq::get(format!("{address}/v1/nodes"))
        .config()
        .timeout_global(Some(Duration::from_secs(2)))
        .build()
        .call()?
        .body_mut()
        .read_json()?;
    Ok(complaint(&nodes))
}

fn complaint(nodes: &Value) -> Option<String> {
    let node = &nodes[0];
    let driver = &node["Drivers"]["milo"];
    match (&node["Status"], &driver["Detected"], &driver["Healthy"]) {
        (Value::Null, ..) => Some("the node has not registered".to_owned()),
        (_, Value::Null, _) => Some("the node does not know the driver `milo`".to_owned()),
        (Value::String(status), _, _) if status != "ready" => Some(format!("the node is {status}")),
        (_, Value::Bool(true), Value::Bool(true)) => None,
        _ => Some(
            driver["HealthDescription"]
                .as_str()
                .filter(|text| !text.is_empty())
                .unwrap_or("the driver is not healthy and does not say why")
                .to_owned(),
        ),
    }
}

/// Whether a line of `/proc/self/mounts` has its target below a folder.
fn is_mounted_below(mounts: &str, folder: &Path) -> bool {
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .any(|target| Path::new(target).starts_with(folder))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(driver: &Value) -> Value {
        json!([{"Status": "ready", "Drivers": {"milo": driver}}])
    }

    #[test]
    fn tasks_can_be_placed_once_the_driver_is_healthy_on_a_ready_node() {
        let good = json!({"Detected": true, "Healthy": true, "HealthDescription": "Healthy"});
        assert_eq!(complaint(&node(&good)), None);
        let mut starting = node(&good);
        starting[0]["Status"] = "initializing".into();
        assert_eq!(complaint(&starting).unwrap(), "the node is initializing");
        assert!(complaint(&json!([])).unwrap().contains("registered"));
        assert!(
            complaint(&json!([{"Status": "ready"}]))
                .unwrap()
                .contains("`milo`")
        );
    }

    #[test]
    fn the_drivers_own_reason_is_passed_on() {
        let bad = json!({"Detected": true, "Healthy": false, "HealthDescription": "no crun"});
        assert_eq!(complaint(&node(&bad)).unwrap(), "no crun");
        assert!(complaint(&node(&json!({"Detected": false}))).is_some());
    }

    #[test]
    fn only_mounts_below_the_folder_count() {
        let mounts = "proc /proc proc rw 0 0\ntmpfs /tmp/dev-1/data/x/secrets tmpfs rw 0 0\n";
        assert!(is_mounted_below(mounts, Path::new("/tmp/dev-1")));
        assert!(!is_mounted_below(mounts, Path::new("/tmp/dev-10")));
    }
}
