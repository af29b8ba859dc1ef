//! A daemon on this machine with all that its builds need: a registry, a repository, and builds that wait for the test.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use runyard_common::testing::{Daemon, Output, TempDir, tempdir, tool_binary};
use serde_json::Value;

use crate::support::{Registry, Repository};

/// An image with a shell.
pub(crate) const DOCKERFILE: &str = "\
FROM scratch
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
";

/// The daemon and what it works with.
pub(crate) struct Site {
    /// Where it listens.
    pub(crate) url: String,
    pub(crate) registry: Registry,
    pub(crate) repository: Repository,
    _daemon: Daemon,
    folder: TempDir,
}

impl Site {
    /// A daemon before which this is built.
    pub(crate) fn open(repository: Repository) -> Self {
        let (folder, registry) = (tempdir(), Registry::open());
        let mut command = Command::new(tool_binary("buildctl"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--color", "never"]);
        clear(&mut command);
        command.envs(settings(folder.path(), &registry));
        let (daemon, address) = Daemon::start(command, |line| {
            let (_, rest) = line
                .split_once("addr=")
                .filter(|_| line.contains("listening"))?;
            Some(rest.split_whitespace().next()?.to_owned())
        });
        Self {
            url: format!("http://{address}"),
            registry,
            repository,
            _daemon: daemon,
            folder,
        }
    }

    /// Variables with which a program builds where the daemon does.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        settings(self.folder.path(), &self.registry)
    }

    /// Our own command line, at the daemon.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(tool_binary("buildctl"));
        clear(&mut command);
        Output::of(command.args(["--url", &self.url]).args(words))
    }

    /// Hands a job in: its id.
    pub(crate) fn submit(&self, image: &str) -> String {
        let (url, image) = (
            self.repository.url(),
            format!("{}/{image}", self.registry.host()),
        );
        let words = ["submit", &url, "--image", &image, "--owner", "team"];
        self.run(&words).success().trim().to_owned()
    }

    /// A job's status once it is one of these, as whoever watches it is told.
    pub(crate) fn until(&self, id: &str, states: &[&str]) -> Value {
        let mut command = Command::new(tool_binary("buildctl"));
        clear(&mut command);
        let words = ["--url", &self.url, "watch", "--progress", "ndjson", id];
        let mut watch = command
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(watch.stderr.take().unwrap()).lines();
        let mut told = told.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let is_there = told.any(|event| states.iter().any(|state| event["status"] == *state));
        // It may have ended with the job.
        let _ = watch.kill();
        watch.wait().unwrap();
        let text = self.run(&["-o", "json", "status", id]).success();
        assert!(is_there, "never {states:?}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// Without whatever this test's environment says.
fn clear(command: &mut Command) {
    for name in ["BUILDCTL_URL", "JOB_SERVICE_URL", "BUILDCTL_CONFIG"] {
        command.env_remove(name);
    }
}

fn settings(folder: &Path, registry: &Registry) -> Vec<(&'static str, String)> {
    vec![
        (
            "BUILDCTL_LOCAL_ROOT",
            folder.join("state").display().to_string(),
        ),
        ("BUILDCTL_ALLOW_FILE_URLS", "true".to_owned()),
        ("BUILDCTL_REGISTRY_INSECURE", registry.host().to_owned()),
    ]
}
