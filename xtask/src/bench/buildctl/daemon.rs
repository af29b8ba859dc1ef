//! What listens while the benchmark runs: a registry, and our daemon with a client of its REST interface.

use std::fs;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use serde_json::Value;
use serde_json::json;
use ureq::Agent;

use super::super::sandbox;
use super::super::sandbox::Sandbox;
use super::Lab;
use super::read;

/// Time until a server listens, and until it is gone.
const LIMIT: Duration = Duration::from_secs(10);

/// Time for a job to come to its end.
const JOB_LIMIT: Duration = Duration::from_mins(2);

/// A process that listens. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Host and port.
    pub(super) address: String,
}

impl Server {
    /// Starts it, and waits for what follows `mark` in the line that says where it listens.
    fn start(mut command: Command, log: &Path, mark: &str) -> Result<Self> {
        let child = command
            .stdout(File::create("/dev/null")?)
            .stderr(File::create(log)?)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut server = Self {
            child,
            address: String::new(),
        };
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let text = read(log)?;
            let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
            if let Some(address) = announced(complete, mark) {
                server.address = address;
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("it ended with {status}: {}", sandbox::last_lines(log));
            }
            thread::sleep(Duration::from_millis(2));
        }
        bail!("it does not listen: {}", sandbox::last_lines(log))
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the line that says where something listens.
fn announced(log: &str, mark: &str) -> Option<String> {
    let mut lines = log.lines().filter(|line| line.contains("listening"));
    let rest = lines.find_map(|line| line.split_once(mark))?.1;
    let end = rest.find([' ', '"']).unwrap_or(rest.len());
    Some(rest[..end].to_owned())
}

/// A registry on loopback.
pub(super) fn registry(sandbox: &Sandbox) -> Result<Server> {
    let config = "version: 0.1\nlog:\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: registry\n  \
                  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:0\n";
    let file = sandbox.dir().join("registry.yml");
    fs::write(&file, config)?;
    let mut command = sandbox.command("docker-registry");
    command
        .args(["serve", "registry.yml"])
        .env("OTEL_TRACES_EXPORTER", "none");
    Server::start(
        command,
        &sandbox.dir().join("registry.log"),
        "listening on ",
    )
}

/// Our daemon, and a client of it.
pub(super) struct Daemon {
    server: Server,
    agent: Agent,
}

impl Daemon {
    /// A daemon with its own state, where there is nothing yet; `runs` at once.
    pub(super) fn start(lab: &Lab, runs: u32) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let state = lab.sandbox.dir().join(format!("daemon-{number}"));
        let mut command = lab.command(&lab.binary.to_string_lossy());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--color", "never"])
            .env("BUILDCTL_LOCAL_ROOT", state)
            .env("BUILDCTL_LOCAL_CONCURRENCY", runs.to_string())
            .env("BUILDCTL_ALLOW_FILE_URLS", "true")
            .env("BUILDCTL_REGISTRY_INSECURE", &lab.registry.address);
        let log = lab.sandbox.dir().join("daemon.log");
        Ok(Self {
            server: Server::start(command, &log, "addr=")?,
            agent: Agent::new_with_defaults(),
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.server.id()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address)
    }

    /// Hands a job in: its id.
    pub(super) fn submit(&self, repository: &str, image: &str) -> Result<String> {
        let (registry, name) = image.split_once('/').context("an image has a registry")?;
        let config = json!({
            "owner": "bench", "repo_url": repository, "git_ref": "main", "image_name": name, "registry_url": registry,
        });
        let body = json!({ "job_config": config });
        let mut answer = self.agent.post(self.url("/v1/jobs")).send_json(&body)?;
        let answer: Value = answer.body_mut().read_json()?;
        let id = answer["job_id"].as_str().context("an answer without id")?;
        Ok(id.to_owned())
    }

    pub(super) fn kill(&self, id: &str) -> Result<()> {
        let path = format!("/v1/jobs/{id}/kill");
        self.agent.post(self.url(&path)).send_json(json!({}))?;
        Ok(())
    }

    /// The job's status once it is over.
    pub(super) fn ended(&self, id: &str) -> Result<String> {
        let begin = Instant::now();
        while begin.elapsed() < JOB_LIMIT {
            let path = format!("/v1/jobs/{id}?wait=10s");
            let mut answer = self.agent.get(self.url(&path)).call()?;
            let job: Value = answer.body_mut().read_json()?;
            let status = job["state"].as_str().context("a job without state")?;
            if ["SUCCEEDED", "FAILED"].contains(&status) {
                return Ok(status.to_owned());
            }
        }
        bail!("job {id} does not end")
    }

    /// The job's log as server-sent events, as it grows.
    pub(super) fn follow(&self, id: &str) -> Result<BufReader<impl std::io::Read + use<>>> {
        let path = format!("/v1/jobs/{id}/logs?follow=1&phase=build");
        let answer = self.agent.get(self.url(&path)).call()?;
        Ok(BufReader::with_capacity(
            256 << 10,
            answer.into_body().into_reader(),
        ))
    }

    /// The most memory that it has had so far, in MB.
    pub(super) fn most_memory(&self) -> Result<f64> {
        let status = read(format!("/proc/{}/status", self.id()).as_ref())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB"));
        let kilobytes: f64 = kilobytes.context("no VmHWM")?.trim().parse()?;
        Ok(kilobytes / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_the_line_that_announces_it() {
        let log = "INFO starting addr=none\nINFO listening addr=127.0.0.1:4711 tls=false\n";
        assert_eq!(announced(log, "addr=").as_deref(), Some("127.0.0.1:4711"));
        assert_eq!(announced("", "addr="), None);
    }
}
