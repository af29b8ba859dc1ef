//! A real Nomad client agent with the driver as its plugin: started, asked, killed, started again on the same data, and gone
//! with all that it started when the test is over. Its server is a process of its own that is ready first: a client that
//! registers too early tries again only after a quarter of a minute.
//!
//! ```text
//! <temporary>/plugins/milo-driver     a copy of the binary: processes of this test are told from others by it
//! <temporary>/server.hcl, agent.hcl   loopback only, free ports, no cloud asked
//! <temporary>/server, data, state     the server's, the client's and the driver's own
//! ```

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use runyard_common::testing::{
    self, Daemon, Output, TempDir, eventually, patience, tempdir, tool_binary,
};
use serde_json::Value;

use super::{http, remains};

/// The first program of that name in `PATH`.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// Nomad, or nothing where it cannot be used, which is said.
fn nomad() -> Option<PathBuf> {
    let named = std::env::var_os("NOMAD_BIN").map(PathBuf::from);
    let Some(nomad) = named.or_else(|| in_path("nomad")) else {
        eprintln!("skipped: needs Nomad 1.10 or newer in PATH or NOMAD_BIN");
        return None;
    };
    if !rustix::process::geteuid().is_root() || in_path("crun").is_none() {
        eprintln!("skipped: needs root and crun in PATH");
        return None;
    }
    Some(nomad)
}

/// How an agent differs from the usual one.
#[derive(Default)]
pub(crate) struct Ask<'a> {
    /// Lines of the plugin's `config`.
    pub(crate) plugin: &'a str,
    /// Lines of the `client` block.
    pub(crate) client: &'a str,
}

/// An agent and everything below it.
pub(crate) struct Agent {
    nomad: PathBuf,
    port: u16,
    daemon: Option<Daemon>,
    server: Option<Daemon>,
    dir: TempDir,
}

impl Agent {
    /// A running agent that has found the driver, or nothing where there is no Nomad.
    pub(crate) fn start(ask: &Ask<'_>) -> Option<Self> {
        let mut agent = Self::configured(ask)?;
        agent.serve();
        agent.resume();
        agent.watch("/v1/nodes", |nodes| {
            let node = &nodes[0];
            let is_found = node["Drivers"]["milo"]["Detected"] == true;
            (node["Status"] == "ready" && is_found).then_some(())
        });
        Some(agent)
    }

    /// As [`Agent::start`], and the driver is healthy.
    pub(crate) fn healthy() -> Option<Self> {
        let agent = Self::start(&Ask::default())?;
        agent.wait_until_healthy();
        Some(agent)
    }

    /// Everything but the processes.
    pub(crate) fn configured(ask: &Ask<'_>) -> Option<Self> {
        let nomad = nomad()?;
        let dir = tempdir();
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).unwrap();
        fs::copy(tool_binary("milo-driver"), plugins.join("milo-driver")).unwrap();
        let ports = free_ports();
        let write = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
        write("server.hcl", server(dir.path(), ports));
        write("agent.hcl", client(dir.path(), ports, ask));
        Some(Self {
            nomad,
            port: ports[3],
            daemon: None,
            server: None,
            dir,
        })
    }

    /// Starts the server and waits until it leads and can sign what clients get when they register.
    fn serve(&mut self) {
        let leads = |line: &str| line.contains("initialized keyring").then_some(());
        self.server = Some(Daemon::start(self.of("server.hcl"), leads).0);
    }

    /// Starts the client, the first time or again. It may not have looked at its tasks yet.
    pub(crate) fn resume(&mut self) {
        let started = |line: &str| line.contains("Nomad agent started!").then_some(());
        self.daemon = Some(Daemon::start(self.command(), started).0);
    }

    /// The command that starts the client.
    pub(crate) fn command(&self) -> Command {
        self.of("agent.hcl")
    }

    fn of(&self, config: &str) -> Command {
        let mut command = Command::new(&self.nomad);
        command
            .arg("agent")
            .arg(format!(
                "-config={}",
                self.dir.path().join(config).display()
            ))
            .env(remains::MARK, self.dir.path());
        command
    }

    pub(crate) fn wait_until_healthy(&self) {
        self.watch("/v1/nodes", |nodes| {
            (nodes[0]["Drivers"]["milo"]["Healthy"] == true).then_some(())
        });
    }

    /// Asks the agent to end, as an upgrade does: its tasks go on.
    pub(crate) fn stop(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.terminate();
        daemon.wait(patience());
        // Two seconds later it would have been killed instead.
        let said = daemon.output();
        assert!(!said.contains("failed to exit gracefully"), "{said}");
    }

    /// Kills the agent: its plugin goes on.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill();
        daemon.wait(patience());
    }

    /// The driver's process that serves this agent.
    pub(crate) fn plugin(&self) -> Option<u32> {
        remains::plugin(self.dir.path())
    }

    /// Kills the driver.
    pub(crate) fn kill_plugin(&self) {
        let pid = self.plugin().expect("a plugin to kill");
        remains::kill(pid);
        eventually(patience(), || (!testing::is_alive(pid)).then_some(()));
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A call of Nomad's command line.
    pub(crate) fn nomad(&self, args: &[&str]) -> Output {
        let address = format!("http://127.0.0.1:{}", self.port);
        Output::of(
            Command::new(&self.nomad)
                .args(args)
                .env("NOMAD_ADDR", address),
        )
    }

    /// A call of Nomad's command line on a terminal, which `script` makes.
    pub(crate) fn terminal(&self, args: &str) -> Output {
        let address = format!("http://127.0.0.1:{}", self.port);
        let call = format!("{} {args}", self.nomad.display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &call, "/dev/null"]);
        Output::of(command.env("NOMAD_ADDR", address))
    }

    /// A call of the driver's command line on the same state.
    pub(crate) fn driver(&self, args: &[&str]) -> Value {
        let mut command = Command::new(tool_binary("milo-driver"));
        command
            .arg("--state-dir")
            .arg(self.dir.path().join("state"))
            .args(["--output", "json"]);
        serde_json::from_str(&Output::of(command.args(args)).success()).unwrap()
    }

    /// Submits a job file of `examples/` with its variables.
    pub(crate) fn run(&self, example: &str, variables: &[&str]) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(format!("{example}.nomad.hcl"));
        let file = file.display().to_string();
        let mut args = vec!["job", "run", "-detach"];
        args.extend(variables.iter().flat_map(|variable| ["-var", variable]));
        args.push(&file);
        self.nomad(&args).success();
    }

    /// Reads a path again at each of its changes until `find` finds what it looks for.
    #[track_caller]
    pub(crate) fn watch<T>(&self, path: &str, mut find: impl FnMut(&Value) -> Option<T>) -> T {
        let mut index = 0;
        let mut last = String::new();
        let begin = Instant::now();
        loop {
            assert!(
                begin.elapsed() < patience(),
                "it did not happen; the last answer of {path}: {last}\nleft: {:#}",
                self.driver(&["ps", "--all"]),
            );
            // A blocking question is answered at the next change, or after the second.
            let separator = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{separator}index={index}&wait=1s");
            let Some(answer) =
                http::ask(self.port, "GET", &path, "").filter(|answer| answer.status == 200)
            else {
                // Not listening yet, or no leader yet: there is no event to wait for.
                std::thread::park_timeout(Duration::from_millis(20));
                continue;
            };
            if let Some(found) = find(&answer.json()) {
                return found;
            }
            last = answer.body;
            index = answer.index;
        }
    }

    /// Waits for a state of a job's newest allocation's task.
    #[track_caller]
    pub(crate) fn task(&self, job: &str, task: &str, is_it: impl Fn(&Value) -> bool) -> Task {
        self.watch(&format!("/v1/job/{job}/allocations"), |allocations| {
            let newest = allocations
                .as_array()?
                .iter()
                .max_by_key(|allocation| allocation["CreateIndex"].as_u64())?;
            let state = &newest["TaskStates"][task];
            is_it(state).then(|| Task {
                allocation: newest["ID"].as_str().unwrap().to_owned(),
                client_status: newest["ClientStatus"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                state: state.clone(),
            })
        })
    }

    #[track_caller]
    pub(crate) fn running(&self, job: &str, task: &str) -> Task {
        self.task(job, task, |state| state["State"] == "running")
    }

    #[track_caller]
    pub(crate) fn dead(&self, job: &str, task: &str) -> Task {
        self.task(job, task, |state| state["State"] == "dead")
    }

    /// Waits until a log has a line that contains a text.
    #[track_caller]
    pub(crate) fn said(&self, allocation: &str, task: &str, text: &str) {
        eventually(patience(), || {
            let log = self
                .nomad(&["alloc", "logs", "-task", task, allocation])
                .stdout;
            log.contains(text).then_some(())
        });
    }

    /// Runs a command inside of a task; an agent that has just started may not know it yet.
    pub(crate) fn enter(&self, allocation: &str) {
        eventually(patience(), || {
            let exec = ["alloc", "exec", "-t=false", allocation, "echo", "here"];
            let exec = self.nomad(&exec);
            (exec.code == 0).then(|| assert_eq!(exec.stdout, "here\n"))
        });
    }

    /// The containers of this agent that run: their first processes' ids.
    pub(crate) fn containers(&self) -> Vec<i64> {
        let rows = self.driver(&["ps"]);
        let rows = rows.as_array().unwrap();
        rows.iter().filter_map(|row| row["pid"].as_i64()).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}", self.path().display());
        }
        let allocations = remains::allocations(self.path());
        if self.daemon.is_some() {
            self.empty();
        }
        // Shows what the agent said if the test failed.
        drop(self.daemon.take());
        drop(self.server.take());
        remains::remove(self.path(), &allocations);
    }
}

impl Agent {
    /// Best effort: has the agent itself end and forget everything. What is left is removed with force.
    fn empty(&self) {
        let jobs = http::ask(self.port, "GET", "/v1/jobs", "").map(|answer| answer.json());
        for job in jobs.iter().filter_map(Value::as_array).flatten() {
            let id = job["ID"].as_str().unwrap_or_default();
            http::ask(self.port, "DELETE", &format!("/v1/job/{id}?purge=true"), "");
        }
        let begin = Instant::now();
        let is_empty = || {
            ["state/tasks", "data/alloc"].iter().all(|dir| {
                let entries = fs::read_dir(self.path().join(dir));
                entries.map_or(true, |mut entries| entries.next().is_none())
            })
        };
        while begin.elapsed() < Duration::from_secs(5) && !is_empty() {
            http::ask(self.port, "PUT", "/v1/system/gc", "");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

/// A task as the agent sees it.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) allocation: String,
    pub(crate) client_status: String,
    pub(crate) state: Value,
}

impl Task {
    /// Its events: type and message.
    pub(crate) fn events(&self) -> Vec<(String, String)> {
        let events = self.state["Events"].as_array().unwrap();
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        events
            .iter()
            .map(|event| (text(event, "Type"), text(event, "DisplayMessage")))
            .collect()
    }

    /// Asserts that there is an event of this type whose message contains a text.
    #[track_caller]
    pub(crate) fn has_event(&self, kind: &str, text: &str) {
        let events = self.events();
        assert!(
            events
                .iter()
                .any(|event| event.0 == kind && event.1.contains(text)),
            "no {kind} with `{text}` in {events:#?}"
        );
    }
}

/// Ports of the server and of the client, each for HTTP, RPC and Serf, that nobody uses now.
fn free_ports() -> [u16; 6] {
    let listeners = [(); 6].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn server(dir: &Path, ports: [u16; 6]) -> String {
    let [http, rpc, serf, ..] = ports;
    let common = common(&dir.join("server"), http, rpc, serf);
    format!(
        "{common}
server {{
  enabled          = true
  bootstrap_expect = 1
}}
"
    )
}

fn client(dir: &Path, ports: [u16; 6], ask: &Ask<'_>) -> String {
    let [_, server, _, http, rpc, serf] = ports;
    let common = common(&dir.join("data"), http, rpc, serf);
    format!(
        r#"{common}
plugin_dir = "{dir}/plugins"

# Without it Nomad measures no tasks.
telemetry {{
  publish_allocation_metrics = true
}}

client {{
  enabled           = true
  servers           = ["127.0.0.1:{server}"]
  network_interface = "lo"
  # However full the machine's disk is: what has ended is to be asked about.
  gc_disk_usage_threshold  = 100
  gc_inode_usage_threshold = 100
  memory_total_mb   = 4096
  cpu_total_compute = 4000
  options = {{
    "fingerprint.denylist" = "env_aws,env_azure,env_gce,env_digitalocean,consul,vault"
    "driver.allowlist"     = "milo"
  }}
{client}
}}

plugin "milo-driver" {{
  config {{
    state_dir = "{dir}/state"
{plugin}
  }}
}}
"#,
        dir = dir.display(),
        client = ask.client,
        plugin = ask.plugin,
    )
}

fn common(data: &Path, http: u16, rpc: u16, serf: u16) -> String {
    format!(
        r#"
bind_addr            = "127.0.0.1"
data_dir             = "{data}"
disable_update_check = true

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
"#,
        data = data.display()
    )
}
