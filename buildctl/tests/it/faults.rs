//! A whole service with real tools, and what goes wrong around it: the daemon, supervisors and jobs are killed in each phase,
//! the registry is away or wants a login, names are hostile, and secrets are looked for wherever they must not be.

mod hooks;
mod hostile;
mod kills;
mod registries;
mod secrets;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use runyard_common::testing::{Daemon, Output, TempDir, tempdir};
use serde_json::{Value, json};

use crate::{
    cli::plain,
    support::{Registry, Toll},
};

/// A service on this machine, and a registry behind a gate.
struct Plant {
    folder: TempDir,
    registry: Registry,
    toll: Toll,
    daemon: Daemon,
    url: String,
    environment: Vec<(&'static str, String)>,
}

impl Plant {
    fn open() -> Self {
        Self::with(Registry::open(), "", Vec::new())
    }

    /// With more lines of configuration and variables.
    fn with(
        registry: Registry,
        config: &str,
        mut environment: Vec<(&'static str, String)>,
    ) -> Self {
        let folder = tempdir();
        let toll = Toll::before(registry.host());
        let hosts = format!("[\"{}\", \"{}\"]", toll.host(), registry.host());
        let config = format!(
            "allow_file_urls: true\nlocal: {{concurrency: 4}}\nregistry: {{insecure: {hosts}}}\n\
             timeouts: {{kill: 2s}}\nhousekeeping: {{attend: 200ms}}\n{config}"
        );
        fs::write(folder.path().join("config.yaml"), config).unwrap();
        environment.push(("BUILDCTL_LOCAL_ROOT", path(&folder, "state")));
        let (daemon, url) = serve(folder.path(), &environment);
        Self {
            folder,
            registry,
            toll,
            daemon,
            url,
            environment,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Another daemon in the place of one that is gone.
    fn serve_again(&mut self) {
        (self.daemon, self.url) = serve(self.folder.path(), &self.environment);
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = plain(words);
        let token = self
            .environment
            .iter()
            .filter(|(name, _)| *name == "BUILDCTL_TOKEN_FILE");
        command
            .current_dir(self.path())
            .env("BUILDCTL_URL", &self.url)
            .envs(token.cloned());
        Output::of(&mut command)
    }

    /// A job for `image`, with more fields than the usual ones.
    fn config(&self, image: &str, source: &str, more: &Value) -> Value {
        let mut config = json!({
            "owner": "tester", "repo_url": source, "git_ref": "main", "image_name": image,
            "registry_url": self.toll.host(),
        });
        let fields = config.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        config
    }

    /// Hands a job in; see [`Self::config`].
    fn submit(&self, image: &str, source: &str, more: &Value) -> Result<String, Output> {
        let config = self.config(image, source, more);
        fs::write(self.path().join("job.yaml"), config.to_string()).unwrap();
        let said = self.run(&["submit", "job.yaml"]);
        match said.code {
            0 => Ok(said.success().trim().to_owned()),
            _ => Err(said),
        }
    }

    /// A job's end, as its status has it.
    fn end(&self, id: &str) -> Value {
        let waited = self.run(&["wait", id, "--timeout", "2m"]);
        assert!([0, 1].contains(&waited.code), "{waited}");
        let status = self.run(&["-o", "json", "status", id]).success();
        serde_json::from_str(&status).unwrap()
    }

    fn log(&self, id: &str) -> String {
        self.run(&["logs", id]).success()
    }

    fn job_folder(&self, id: &str) -> PathBuf {
        self.path().join("state/jobs").join(id)
    }

    /// Which process carries a run out.
    fn runner(&self, id: &str, run: &str) -> u32 {
        let pid = fs::read_to_string(self.job_folder(id).join(format!("runs/{run}/pid"))).unwrap();
        pid.split(' ').next().unwrap().parse().unwrap()
    }

    /// What is left of jobs that have ended: Buildah's containers, folders of runs, mounts.
    fn remains(&self) -> Vec<String> {
        let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.path().to_str().unwrap();
        let mut found: Vec<String> = mounts
            .lines()
            .filter(|line| line.contains(here))
            .map(str::to_owned)
            .collect();
        for store in below(self.path().join("state/storage")) {
            for name in ["overlay-containers", "vfs-containers", "buildctl/runs"] {
                let inside = below(store.path().join("root").join(name));
                let folders = inside.filter(|entry| entry.path().is_dir());
                found.extend(folders.map(|entry| entry.path().display().to_string()));
            }
        }
        found
    }
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

fn serve(folder: &Path, environment: &[(&'static str, String)]) -> (Daemon, String) {
    let mut command: Command = plain(&["serve", "--listen", "127.0.0.1:0"]);
    command
        .env("BUILDCTL_CONFIG", folder.join("config.yaml"))
        .envs(environment.iter().cloned());
    let (daemon, address) = Daemon::start(command, |line| {
        let (_, rest) = line
            .split_once("addr=")
            .filter(|_| line.contains("listening"))?;
        Some(rest.split_whitespace().next()?.to_owned())
    });
    (daemon, format!("http://{address}"))
}

/// Answers each HTTP request with what this makes of its head and body: a status, with headers behind it if need be, and a body.
fn answering(answer: impl Fn(&str, &str) -> (&'static str, String) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (head, body) = request(&stream);
            let (status, body) = answer(&head, &body);
            let length = body.len();
            // Whoever gives up is no matter of the test's.
            let _ = (&stream).write_all(
                format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes(),
            );
        }
    });
    url
}

fn request(stream: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|read| read > 0) {}
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}
