//! A store of Buildah's with runs in it: `buildctl run-phase` as the program it is.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use buildctl::{
    job::JobId,
    names::{Digest, Reference, Repository},
    phase::{Built, Ending, Outcome, Run, RunFailure},
    runner::{
        Report,
        work::{Registries, Storage, Task, Work},
    },
    spec::{BuildOptions, Source},
};
use runyard_common::testing::{TempDir, eventually, patience, tempdir, tool_binary};

use super::Registry;

/// An account of every machine that has no subordinate ids on any, by `base-passwd`'s numbers.
pub(crate) const NOBODY: u32 = 65534;

/// A store, and the registry that its images go to.
pub(crate) struct Yard {
    folder: TempDir,
    host: String,
}

/// A run that goes on.
pub(crate) struct Running {
    pub(crate) process: Child,
    pub(crate) work: Work,
    folder: PathBuf,
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) report: Report,
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
}

impl Yard {
    pub(crate) fn of(registry: &Registry) -> Self {
        Self {
            folder: tempdir(),
            host: registry.host().to_owned(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// Work for this yard's store and registry.
    pub(crate) fn work(&self, run: Run, task: Task) -> Work {
        Work {
            job: JobId::random(),
            run,
            task,
            deadline: Duration::from_mins(2),
            grace: Duration::from_secs(5),
            storage: Storage {
                root: Some(self.root()),
                runroot: Some(self.path().join("run")),
                ..Storage::default()
            },
            registries: Registries {
                insecure: vec![self.host.clone()],
                certificates: None,
            },
            registry_credentials: None,
            notes: Vec::new(),
            memory: None,
        }
    }

    /// A build of a ref.
    pub(crate) fn build(&self, url: &str, reference: &str) -> Work {
        let source = Source::Git {
            url: url.to_owned(),
            reference: reference.to_owned(),
        };
        let mut work = self.work(Run::Build, self.task(source));
        if let Task::Build { temporary, .. } = &mut work.task {
            *temporary = self.reference(&format!("temp-app:main-{}", work.job));
        }
        work
    }

    /// The task of a build.
    pub(crate) fn task(&self, source: Source) -> Task {
        Task::Build {
            source,
            git_credentials: None,
            options: Box::new(BuildOptions {
                dockerfile: "Dockerfile".to_owned(),
                ..BuildOptions::default()
            }),
            temporary: self.reference("temp-app:x"),
            clear_cache: false,
        }
    }

    /// A test of an image that was built.
    pub(crate) fn test(&self, built: &Built, command: Option<&str>) -> Work {
        let image = format!("{}@{}", built.temporary.repository, built.digest);
        let run = command.map_or(Run::TestEntry, |_| Run::TestCommand(0));
        let task = Task::Test {
            image: image.parse().unwrap(),
            command: command.map(str::to_owned),
            env: std::iter::once(("GREETING".to_owned(), "${HOME} {{x}}".to_owned())).collect(),
            secret_env: Vec::new(),
            gpu: false,
        };
        self.work(run, task)
    }

    /// A publication of an image that was built, as `app`.
    pub(crate) fn publish(&self, built: &Built, tags: &[&str]) -> Work {
        let task = Task::Publish {
            from: built.temporary.clone(),
            digest: built.digest.clone(),
            to: format!("{}/app", self.host).parse().unwrap(),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
        };
        self.work(Run::Publish, task)
    }

    /// The removal of a temporary image.
    pub(crate) fn clean_up(&self, temporary: &Reference, digest: &Digest) -> Work {
        let task = Task::Cleanup {
            temporary: temporary.clone(),
            digest: Some(digest.clone()),
        };
        self.work(Run::Cleanup, task)
    }

    /// A repository in the yard's registry.
    pub(crate) fn repository(&self, name: &str) -> Repository {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    /// An image in the yard's registry.
    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    /// Begins a run.
    pub(crate) fn start(&self, work: Work) -> Running {
        self.start_with_path(work, Path::new("/usr/bin"))
    }

    /// Begins a run that looks for programs in this folder first.
    pub(crate) fn start_with_path(&self, work: Work, first: &Path) -> Running {
        let rest = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{rest}", first.display());
        self.start_changed(work, |command| command.env("PATH", path))
    }

    /// Begins a run of an account that has no ids but its own, and of these programs only, in a folder that is its.
    pub(crate) fn start_as_nobody(&self, work: Work, programs: &[&str]) -> Running {
        // Whoever is nobody may not look into where this was built.
        let own = self.path().join("bin");
        fs::create_dir(&own).unwrap();
        let program = own.join("buildctl");
        fs::copy(tool_binary("buildctl"), &program).unwrap();
        for name in programs {
            let paths = std::env::var_os("PATH").unwrap();
            let mut found = std::env::split_paths(&paths).map(|folder| folder.join(name));
            let found = found.find(|path| path.exists());
            std::os::unix::fs::symlink(found.unwrap(), own.join(name)).unwrap();
        }
        let home = self.path().to_owned();
        self.start_changed(work, move |command| {
            let mut chown = Command::new("chown");
            chown.args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(&home);
            assert!(chown.status().unwrap().success());
            let mut other = Command::new(program);
            other
                .args(command.get_args())
                .env("PATH", own)
                .env("HOME", home);
            *command = other;
            command.uid(NOBODY).gid(NOBODY)
        })
    }

    fn start_changed(
        &self,
        work: Work,
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Running {
        let folder = self.path().join(format!("{}.{}", work.job, work.run));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("work.json"), serde_json::to_vec(&work).unwrap()).unwrap();
        let mut command = Command::new(tool_binary("buildctl"));
        command
            .arg("run-phase")
            .arg("--work")
            .arg(folder.join("work.json"))
            .arg("--result")
            .arg(folder.join("result.json"))
            .env("MARKED_TOKEN", "s3cr3t-t0ken");
        let process = change(&mut command)
            .stdout(File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        Running {
            process,
            work,
            folder,
        }
    }

    /// A run from its beginning to its end.
    pub(crate) fn run(&self, work: Work) -> Ended {
        self.start(work).end()
    }

    /// What was built, of a build that has to succeed.
    pub(crate) fn built(&self, work: Work) -> Built {
        self.run(work).built()
    }

    /// Buildah's containers in the store, and folders of runs.
    pub(crate) fn remains(&self) -> Vec<String> {
        let below = |folder: PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.path())
        };
        let containers = below(self.root().join("overlay-containers"))
            .chain(below(self.root().join("vfs-containers")));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts
            .lines()
            .filter(|line| line.contains(self.path().to_str().unwrap()));
        containers
            .chain(below(self.root().join("buildctl/runs")))
            .map(|path| path.display().to_string())
            .chain(mounts.map(str::to_owned))
            .collect()
    }
}

impl Running {
    /// Waits until this stands in the log.
    pub(crate) fn until(&self, words: &str) {
        eventually(patience(), || self.log().contains(words).then_some(()));
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end, and reads what it left.
    pub(crate) fn end(mut self) -> Ended {
        let code = self.process.wait().unwrap().code();
        let log = self.log();
        let report = Report::read(&self.folder.join("result.json"));
        let report = report.unwrap_or_else(|error| panic!("{error}: {code:?}\n{log}"));
        Ended { report, code, log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn outcome(self) -> Outcome {
        match self.report.ending {
            Ending::Succeeded { outcome } => outcome,
            other => panic!("{other:?}\n{}", self.log),
        }
    }

    #[track_caller]
    pub(crate) fn built(self) -> Built {
        match self.outcome() {
            Outcome::Built(built) => built,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn failure(self) -> RunFailure {
        match self.report.ending {
            Ending::Failed(failure) => failure,
            other => panic!("{other:?}\n{}", self.log),
        }
    }
}
