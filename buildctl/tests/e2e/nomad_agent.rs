//! A real Nomad agent, server and client in one, for tests: on loopback, with `raw_exec`, in a folder of its own.

use std::{
    env,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use runyard_common::{
    crypto,
    testing::{Output, TempDir, eventually, patience, tempdir},
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

    /// The one of all tests that run at once: each has a namespace. It ends with the last of them.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static AGENT: Mutex<Weak<Agent>> = Mutex::new(Weak::new());
        let mut last = AGENT.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = match last.upgrade() {
            Some(agent) => agent,
            None => Arc::new(Self::start()?),
        };
        *last = Arc::downgrade(&agent);
        Some(agent)
    }

    /// A new namespace.
    pub(crate) fn namespace(&self) -> String {
        let name = format!("t-{}", uuid::Uuid::new_v4());
        self.put("/v1/namespace", &serde_json::json!({"Name": name}));
        name
    }

    /// Puts a value there, and returns the answer.
    pub(crate) fn put(&self, path: &str, body: &serde_json::Value) -> String {
        let url = format!("{}{path}", self.address);
        let client = reqwest::blocking::Client::new();
        let answer = client.put(url).body(body.to_string()).send().unwrap();
        answer.error_for_status().unwrap().text().unwrap()
    }

    /// What a list there says.
    pub(crate) fn list(&self, path: &str) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.get(path).unwrap()).unwrap()
    }

    /// Runs Nomad's own command line on it.
    pub(crate) fn command(&self, words: &[&str], input: &str) -> Output {
        let mut command = Command::new(program().unwrap());
        command.args(words).env("NOMAD_ADDR", &self.address);
        Output::with_input(&mut command, input)
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
  network_interface = "lo"
  # However full the machine's disk is: what has ended is to be asked about.
  gc_disk_usage_threshold  = 100
  gc_inode_usage_threshold = 100
  options = {{ "fingerprint.denylist" = "env_aws,env_azure,env_digitalocean,env_gce" }}
}}
plugin "raw_exec" {{
  config {{ enabled = true }}
}}
"#
    )
}
