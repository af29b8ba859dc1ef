//! buildctl's demo: a registry and a service on loopback, the example `hello` in a Git repository made on the spot, then what its
//! users do with that: build, test, publish, look. Nomad is not needed.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Shown;
use crate::{deps, workspace::root};

const TOOL: &str = "buildctl";

/// Runs the demonstrations. What they need and is not there is one that failed, with what to do.
pub(crate) fn demonstrate(binary: &Path) -> Result<Vec<Shown>> {
    let missing = deps::absent(&["buildah", "git", "docker-registry", "cc"]);
    if !missing.is_empty() {
        let why = format!(
            "{} not found: `cargo xtask deps --install` installs what is missing",
            missing.join(", ")
        );
        return Ok(vec![Shown::of(TOOL, "build an image", || bail!(why))]);
    }
    let place = Place::new(binary)?;
    Ok(vec![
        Shown::of(TOOL, "build, test and publish from Git", || place.publish()),
        Shown::of(TOOL, "ask the registry for the digest", || place.digest()),
        Shown::of(TOOL, "read the log of the test", || place.logs()),
        Shown::of(TOOL, "build again, from the cache", || place.again()),
        Shown::of(TOOL, "publish nothing that fails its test", || {
            place.refused()
        }),
        Shown::of(TOOL, "build a directory without the service", || {
            place.directory()
        }),
    ])
}

/// A folder with the source, a registry and a service.
struct Place {
    binary: PathBuf,
    directory: PathBuf,
    registry: Server,
    service: Server,
    /// The first job and its digest.
    built: RefCell<Option<(String, String)>>,
}

impl Place {
    fn new(binary: &Path) -> Result<Self> {
        let name = format!("runyard-demo-{TOOL}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("source"))?;
        let registry = registry(&directory)?;
        let service = service(binary, &directory, &registry.address)?;
        let place = Self {
            binary: binary.to_owned(),
            directory,
            registry,
            service,
            built: RefCell::new(None),
        };
        place.source()?;
        Ok(place)
    }

    /// The example, compiled and committed.
    fn source(&self) -> Result<()> {
        let source = self.directory.join("source");
        let example = root().join(TOOL).join("examples").join("hello");
        for file in ["Dockerfile", "hello.c"] {
            fs::copy(example.join(file), source.join(file))?;
        }
        let identity = ["-c", "user.name=demo", "-c", "user.email=demo@localhost"];
        let commit = [&identity[..], &["commit", "--quiet", "--message", "hello"]].concat();
        let steps: [(&str, &[&str]); 4] = [
            ("cc", &["-static", "-o", "hello", "hello.c"]),
            ("git", &["init", "--quiet", "--initial-branch=main"]),
            ("git", &["add", "--all"]),
            ("git", &commit),
        ];
        for (program, args) in steps {
            let output = Command::new(program)
                .args(args)
                .current_dir(&source)
                .output()
                .with_context(|| format!("cannot run {program}"))?;
            ensure!(
                output.status.success(),
                "{program} {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    fn build(&self, image: &str, more: &[&str]) -> Result<(i32, String, String)> {
        let url = format!("file://{}", self.directory.join("source").display());
        let image = format!("{}/{image}", self.registry.address);
        let words = ["build", &url, "--image", &image, "--owner", "demo"];
        self.call(&[&words, more].concat())
    }

    fn publish(&self) -> Result<String> {
        let (code, answer, errors) =
            self.build("hello:v1", &["--test-entry-point", "-o", "json"])?;
        ensure!(code == 0, "exit {code}: {errors}");
        let answer: Value = serde_json::from_str(&answer)?;
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let commit = text("commit");
        self.built.replace(Some((text("job_id"), text("digest"))));
        Ok(format!(
            "commit {} is hello:v1",
            commit.get(..12).unwrap_or(&commit)
        ))
    }

    fn built(&self) -> Result<(String, String)> {
        self.built.borrow().clone().context("nothing was built")
    }

    fn digest(&self) -> Result<String> {
        let (_, digest) = self.built()?;
        let link = "data/docker/registry/v2/repositories/hello/_manifests/tags/v1/current/link";
        let found = fs::read_to_string(self.directory.join(link))?;
        ensure!(
            found == digest,
            "the registry has {found}, the answer was {digest}"
        );
        Ok(found)
    }

    fn logs(&self) -> Result<String> {
        let (id, _) = self.built()?;
        let (code, log, errors) = self.call(&["logs", &id, "--phase", "test"])?;
        ensure!(code == 0, "exit {code}: {errors}");
        let said = log.lines().find(|line| line.starts_with("hello, "));
        Ok(format!(
            "`{}`",
            said.with_context(|| format!("no greeting in {log}"))?
        ))
    }

    fn again(&self) -> Result<String> {
        let (code, _, log) = self.build("hello:v2", &["--progress", "plain"])?;
        ensure!(code == 0, "exit {code}: {log}");
        let cached = log.matches("Using cache").count();
        ensure!(cached > 0, "nothing came from the cache: {log}");
        Ok(format!("{cached} steps from the cache"))
    }

    fn refused(&self) -> Result<String> {
        // There is no shell in the image, so no command can be run in it.
        let (code, _, errors) = self.build("bad:v1", &["--test", "true", "--progress", "quiet"])?;
        ensure!(code == 1, "exit {code} instead of 1: {errors}");
        let tags = "data/docker/registry/v2/repositories/bad/_manifests/tags/v1";
        ensure!(!self.directory.join(tags).exists(), "bad:v1 was published");
        Ok("exit 1, nothing published".to_owned())
    }

    fn directory(&self) -> Result<String> {
        let source = self.directory.join("source");
        let source = source.to_string_lossy();
        let image = format!("{}/hello:local", self.registry.address);
        let words = [
            "--local",
            "build",
            &source,
            "--image",
            &image,
            "--progress",
            "quiet",
        ];
        let (code, _, errors) = self.call(&words)?;
        ensure!(code == 0, "exit {code}: {errors}");
        Ok("hello:local".to_owned())
    }

    /// Runs the command line: exit code, standard output and standard error.
    fn call(&self, args: &[&str]) -> Result<(i32, String, String)> {
        let output = Command::new(&self.binary)
            .args(args)
            .env("BUILDCTL_URL", format!("http://{}", self.service.address))
            .env("BUILDCTL_LOCAL_ROOT", self.directory.join("local"))
            .env_remove("BUILDCTL_CONFIG")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{TOOL} {args:?}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((
            output.status.code().unwrap_or(-1),
            text(&output.stdout),
            text(&output.stderr),
        ))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.service.stop();
        self.registry.stop();
        // Best effort: the demo is over.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Something that was started for the demo; it ends with it.
struct Server {
    address: String,
    child: Child,
    /// Kept open and read, so that it can go on logging.
    _log: std::thread::JoinHandle<()>,
}

impl Server {
    /// Starts it and waits for the line that says where it listens: what follows `mark` there.
    fn start(mut command: Command, mark: &str) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let log = child
            .stderr
            .take()
            .context("standard error was asked for")?;
        let mut log = BufReader::new(log);
        match announced(&mut log, mark) {
            Ok(address) => Ok(Self {
                address,
                child,
                _log: std::thread::spawn(move || drain(log)),
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn stop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn drain(log: BufReader<ChildStderr>) {
    for line in log.lines() {
        if line.is_err() {
            return;
        }
    }
}

/// The address in the line that says where something listens.
fn announced(log: &mut impl BufRead, mark: &str) -> Result<String> {
    let mut seen = String::new();
    for line in log.lines() {
        let line = line?;
        if let Some((_, rest)) = line.split_once(mark).filter(|_| line.contains("listening")) {
            let end = rest.find([' ', '"']).unwrap_or(rest.len());
            return Ok(rest[..end].to_owned());
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    bail!("it ended before it listened:\n{seen}")
}

fn registry(directory: &Path) -> Result<Server> {
    let config = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: data\n  delete:\n    enabled: true\n\
                  http:\n  addr: 127.0.0.1:0\n";
    fs::write(directory.join("registry.yml"), config)?;
    let mut command = Command::new("docker-registry");
    command
        .args(["serve", "registry.yml"])
        .env("OTEL_TRACES_EXPORTER", "none")
        .current_dir(directory);
    Server::start(command, "listening on ")
}

fn service(binary: &Path, directory: &Path, registry: &str) -> Result<Server> {
    let mut command = Command::new(binary);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--color", "never"])
        .env("BUILDCTL_LOCAL_ROOT", directory.join("service"))
        .env("BUILDCTL_ALLOW_FILE_URLS", "true")
        .env("BUILDCTL_REGISTRY_INSECURE", registry)
        .env_remove("BUILDCTL_CONFIG");
    Server::start(command, "addr=")
}
