//! A real Nomad agent, server and client in one, for tests: on loopback, with `raw_exec`, in a folder of its own.

use std::{
    ffi::OsString,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use runyard_common::{
    crypto,
    testing::{self, Output, TempDir, eventually, patience, tempdir},
};

use crate::nomad_secured::Keys;
use rustix::process::{Pid, Signal, kill_process};

/// A running agent, which ends with this value.
pub(crate) struct Agent {
    pub(crate) address: String,
    /// What its process is started with.
    arguments: Vec<OsString>,
    process: Child,
    /// What it wants to be shown by whoever asks it something.
    pub(crate) keys: Option<Keys>,
    folder: TempDir,
}

/// Nomad's program, if there is one, which is said otherwise.
fn program() -> Option<PathBuf> {
    testing::program("nomad", "NOMAD_BIN")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Agent {
    /// A development agent that has a leader and a node; none without a Nomad or without root.
    pub(crate) fn start() -> Option<Self> {
        Self::with(&["-dev"], "", |_| None)
    }

    /// One that keeps what it knows, so that it can be killed and started again.
    pub(crate) fn lasting() -> Option<Self> {
        Self::with(&[], LASTING, |_| None)
    }

    /// One that wants certificates and tokens.
    pub(crate) fn secured() -> Option<Self> {
        Self::with(&["-dev"], "", |program| Some(Keys::make(program)))
    }

    fn with(flags: &[&str], more: &str, keys: impl FnOnce(&Path) -> Option<Keys>) -> Option<Self> {
        let program = program()?;
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a Nomad client needs root");
            return None;
        }
        crypto::install();
        let folder = tempdir();
        let ports = [free_port(), free_port(), free_port()];
        let config = folder.path().join("agent.hcl");
        let keys = keys(&program);
        let secured = keys.as_ref().map(Keys::configuration).unwrap_or_default();
        fs::write(&config, configuration(ports) + more + &secured).unwrap();
        let mut arguments: Vec<OsString> = vec![program.into(), "agent".into()];
        arguments.extend(flags.iter().map(OsString::from));
        arguments.extend(["-config".into(), config.into_os_string()]);
        arguments.extend(["-data-dir".into(), folder.path().join("data").into()]);
        let agent = Self {
            address: format!(
                "{}://127.0.0.1:{}",
                if keys.is_some() { "https" } else { "http" },
                ports[0]
            ),
            process: spawn(&arguments, folder.path()),
            arguments,
            keys,
            folder,
        };
        agent.bootstrap();
        eventually(patience() * 2, || agent.is_ready().then_some(()));
        Some(agent)
    }

    /// It dies at once; what it started does not.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts one that was killed again, and waits until its node is heard of again: a client that is there before its server
    /// leads tries again only after half a minute.
    pub(crate) fn resume(&mut self) {
        let before = self.registrations();
        self.process = spawn(&self.arguments, self.folder.path());
        eventually(patience() * 3, || {
            (self.registrations() > before).then_some(())
        });
    }

    /// How often its node has been registered, as its log says.
    fn registrations(&self) -> usize {
        let log = fs::read_to_string(self.folder.path().join("agent.log")).unwrap();
        log.matches("node registration complete").count()
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
        let put = self.client().put(url).body(body.to_string());
        let answer = put.send().unwrap();
        answer.error_for_status().unwrap().text().unwrap()
    }

    /// What a list there says.
    pub(crate) fn list(&self, path: &str) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.get(path).unwrap()).unwrap()
    }

    /// Runs Nomad's own command line on it.
    pub(crate) fn command(&self, words: &[&str], input: &str) -> Output {
        let mut command = Command::new(program().unwrap());
        let keys = self.keys.iter().flat_map(Keys::variables);
        command
            .args(words)
            .env("NOMAD_ADDR", &self.address)
            .envs(keys);
        Output::with_input(&mut command, input)
    }

    /// The body of a GET; none if that is refused.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let get = self.client().get(format!("{}{path}", self.address));
        let answer = get.send().ok()?;
        answer.error_for_status().ok()?.text().ok()
    }

    fn client(&self) -> reqwest::blocking::Client {
        self.keys
            .as_ref()
            .map_or_else(reqwest::blocking::Client::new, Keys::client)
    }

    /// Makes the token of its operator known, as soon as there is a leader.
    fn bootstrap(&self) {
        let Some(keys) = &self.keys else { return };
        let url = format!("{}/v1/acl/bootstrap", self.address);
        let body = serde_json::json!({"BootstrapSecret": keys.token}).to_string();
        eventually(patience() * 2, || {
            let post = self.client().post(&url).body(body.clone());
            let answer = post.send().ok()?;
            answer.status().is_success().then_some(())
        });
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

fn spawn(arguments: &[OsString], folder: &Path) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("agent.log"))
        .unwrap();
    Command::new(&arguments[0])
        .args(&arguments[1..])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// What a development agent does by itself, but for remembering nothing.
const LASTING: &str = r"
server {
  enabled          = true
  bootstrap_expect = 1
}
client {
  enabled = true
}
";

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
