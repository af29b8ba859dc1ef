//! A real Nomad agent, server and client in one, for tests: on loopback, with `raw_exec`, in a folder of its own.

use std::{
    env,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use runyard_common::{
    crypto,
    testing::{TempDir, eventually, patience, tempdir},
};
use rustix::process::{Pid, Signal, kill_process};

/// A running agent, which ends with this value.
pub(crate) struct Agent {
    pub(crate) address: String,
    process: Child,
    folder: TempDir,
}

/// Nomad's program, if there is one.
fn program() -> Option<PathBuf> {
    let named = env::var_os("NOMAD_BIN").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found = env::split_paths(&path).map(|folder| folder.join("nomad"));
    named.or_else(|| found.find(|program| program.is_file()))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Agent {
    /// An agent that has a leader and a node; none without a Nomad or without root.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: there is no nomad (set NOMAD_BIN)");
            return None;
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a Nomad client needs root");
            return None;
        }
        crypto::install();
        let folder = tempdir();
        let ports = [free_port(), free_port(), free_port()];
        fs::write(folder.path().join("agent.hcl"), configuration(ports)).unwrap();
        let log = File::create(folder.path().join("agent.log")).unwrap();
        let process = Command::new(program)
            .args(["agent", "-dev", "-config"])
            .arg(folder.path().join("agent.hcl"))
            .arg("-data-dir")
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let agent = Self {
            address: format!("http://127.0.0.1:{}", ports[0]),
            process,
            folder,
        };
        eventually(patience() * 2, || agent.is_ready().then_some(()));
        Some(agent)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new namespace.
    pub(crate) async fn namespace(&self) -> String {
        let name = format!("t-{}", uuid::Uuid::new_v4());
        let url = format!("{}/v1/namespace", self.address);
        let body = serde_json::json!({"Name": name}).to_string();
        let answer = reqwest::Client::new().put(url).body(body).send().await;
        answer.unwrap().error_for_status().unwrap();
        name
    }

    /// The body of a GET; none if that is refused.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let answer = reqwest::blocking::get(format!("{}{path}", self.address)).ok()?;
        answer.error_for_status().ok()?.text().ok()
    }

    fn is_ready(&self) -> bool {
        let nodes = self.get("/v1/nodes").unwrap_or_default();
        nodes.contains("\"Status\":\"ready\"") && nodes.contains("\"raw_exec\"")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.process);
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::INT);
        let _ = self.process.wait();
        // What a development agent leaves mounted: the secrets of its tasks.
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let below = |line: &&str| {
            line.split(' ')
                .nth(1)
                .is_some_and(|at| Path::new(at).starts_with(self.folder.path()))
        };
        for line in mounts.lines().filter(below) {
            let at = line.split(' ').nth(1).unwrap_or_default();
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn configuration([http, rpc, serf]: [u16; 3]) -> String {
    format!(
        r#"bind_addr = "127.0.0.1"
advertise {{
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}}
ports {{
  http = {http}
  rpc  = {rpc}
  serf = {serf}
}}
client {{
  options = {{ "fingerprint.denylist" = "env_aws,env_azure,env_digitalocean,env_gce" }}
}}
plugin "raw_exec" {{
  config {{ enabled = true }}
}}
"#
    )
}
