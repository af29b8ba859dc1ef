//! What is built: folders with a Dockerfile, the program that all images consist of, and a file that makes a build one that
//! was never made before.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use super::super::sandbox::Sandbox;

/// The source of the program in all images.
const WORKER: &str = include_str!("worker.c");

/// What comes first in every image: four steps, of which two run something.
pub(super) const FOUR_STEPS: &str = "\
FROM scratch
COPY worker /worker
COPY unique /unique
RUN [\"/worker\", \"write\", \"/one\"]
RUN [\"/worker\", \"write\", \"/two\"]
";

/// A folder that an image is built from.
#[derive(Debug)]
pub(super) struct Source(PathBuf);

impl Source {
    pub(super) fn new(folder: &Path, worker: &Path, dockerfile: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        fs::copy(worker, folder.join("worker"))?;
        fs::write(folder.join("Dockerfile"), dockerfile)?;
        let source = Self(folder.to_owned());
        source.renew()?;
        Ok(source)
    }

    pub(super) fn folder(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// Makes its next build one that no cache has.
    pub(super) fn renew(&self) -> Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(fs::write(self.0.join("unique"), number.to_string())?)
    }

    /// Commits it, so that it can be built from Git; its URL.
    pub(super) fn commit(&self, sandbox: &Sandbox) -> Result<String> {
        let identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
        let commit = [&identity[..], &["commit", "--quiet", "--message", "bench"]].concat();
        let steps: [&[&str]; 3] = [
            &["init", "--quiet", "--initial-branch=main"],
            &["add", "--all"],
            &commit,
        ];
        for words in steps {
            let mut git = sandbox.command("git");
            run(git.args(words).current_dir(&self.0))?;
        }
        Ok(format!("file://{}", self.0.display()))
    }
}

/// Compiles the program of all images.
pub(super) fn worker(sandbox: &Sandbox) -> Result<PathBuf> {
    let (source, worker) = (sandbox.dir().join("worker.c"), sandbox.dir().join("worker"));
    fs::write(&source, WORKER)?;
    let mut compiler = sandbox.command("cc");
    compiler.args(["-static", "-O2", "-o"]).arg(&worker);
    run(compiler.arg(&source))?;
    Ok(worker)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!(
            "{} ended with {}: {errors}",
            program.display(),
            output.status
        );
    }
    Ok(())
}
