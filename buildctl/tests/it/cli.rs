//! The command line as people and pipelines use it: the real program, Buildah, Git and a real registry. Builds that have to wait
//! for the test ask it over loopback, and go on when it answers.

mod job;
mod service;
mod words;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use runyard_common::testing::{Output, TempDir, eventually, patience, tempdir, tool_binary};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Registry, Repository};

/// An image with everything that busybox can do.
pub(crate) const DOCKERFILE: &str = "\
FROM scratch
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
ENTRYPOINT [\"/bin/sh\", \"-c\", \"echo selftest; test -e /bin/sh\"]
";

/// A folder of state, and a registry.
struct Shop {
    folder: TempDir,
    registry: Registry,
}

impl Shop {
    fn open() -> Self {
        Self {
            folder: tempdir(),
            registry: Registry::open(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.host())
    }

    /// The program, with this shop's state and without whatever the environment says.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = plain(words);
        command
            .env("BUILDCTL_LOCAL_ROOT", self.path().join("state"))
            .current_dir(self.path());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        Output::of(&mut self.command(words))
    }

    fn json(&self, words: &[&str]) -> Value {
        let text = self.run(&[&["-o", "json"], words].concat()).success();
        serde_json::from_str(&text).unwrap()
    }

    /// Begins something that is to be interrupted.
    fn start(&self, words: &[&str]) -> Running {
        let errors = self.path().join(format!("errors-{}", words.len()));
        let mut command = self.command(words);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        Running { child, errors }
    }
}

/// The program without whatever the environment says.
pub(crate) fn plain(words: &[&str]) -> Command {
    let mut command = Command::new(tool_binary("buildctl"));
    for name in [
        "BUILDCTL_URL",
        "JOB_SERVICE_URL",
        "BUILDCTL_CONFIG",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    command
        .args(words)
        .env("USER", "tester")
        .env("HOME", "/nonexistent")
        .env_remove("XDG_CONFIG_HOME");
    command
}

/// The program while it runs.
struct Running {
    child: Child,
    errors: PathBuf,
}

impl Running {
    fn said(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    /// The id of the job that it follows.
    fn job(&self) -> String {
        eventually(patience(), || {
            let said = self.said();
            let line = said.lines().find(|line| line.starts_with("job "))?;
            Some(line.split(' ').nth(1)?.to_owned())
        })
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    fn code(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.said())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a build waits until the test lets it go on.
pub(crate) struct Gate(TcpListener);

impl Gate {
    pub(crate) fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// A repository whose build waits there.
    pub(crate) fn repository(&self) -> Repository {
        Repository::with(&format!("{DOCKERFILE}RUN {}\n", self.command()))
    }

    /// What waits there, for the shell of the image.
    pub(crate) fn command(&self) -> String {
        let port = self.port();
        format!("echo waiting && wget -q -O - http://127.0.0.1:{port}/ && echo passed")
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Waits for a build.
    pub(crate) fn reached(&self) -> TcpStream {
        self.0.accept().unwrap().0
    }
}

/// Lets a build go on.
pub(crate) fn go_on(mut build: TcpStream) {
    let mut request = BufReader::new(build.try_clone().unwrap());
    let mut line = String::new();
    while request.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    build
        .write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nyes\n")
        .unwrap();
}
