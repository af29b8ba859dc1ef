//! A stand-in for `run-phase` on this machine: a shell script that says that it began, does what its test wants, and leaves a
//! result. For the tests of the local scheduler in the library as well as for those with real supervisors.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use buildctl::{
    api::JobConfig,
    scheduler::local::LocalConfig,
    spec::{Conflict, Defaults, Limits, Resources},
};
use runyard_common::testing::TempDir;

/// Waits until the test lets it go on.
pub(crate) const GATE: &str = "until [ -e \"$stage/go\" ]; do sleep 0.01; done";

/// The script, and the folder in which it and its test leave each other word.
pub(crate) struct FakeRunner(TempDir);

impl FakeRunner {
    /// One that does this after its first words; `$stage` is the folder, and `finish` writes a result.
    pub(crate) fn new(folder: TempDir, script: &str) -> Self {
        let this = Self(folder);
        let text = format!(
            "#!/bin/sh\nstage={}\nresult=$5\nfinish() {{ echo \"$1\" >\"$result.new\"; mv \"$result.new\" \"$result\"; }}\n\
             echo \"2026-11-21T10:00:00.123Z O hello\"\necho \"$BUILDCTL_RUN\" >>\"$stage/begun\"\n{script}\n",
            this.0.path().display()
        );
        let program = this.path("runner");
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        this
    }

    /// Settings of a scheduler that has its state here and starts this runner.
    pub(crate) fn config(&self, state: PathBuf) -> LocalConfig {
        LocalConfig::new(state, self.path("runner"), defaults())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Lets the runners go on that wait at the gate.
    pub(crate) fn go(&self) {
        fs::write(self.path("go"), "").unwrap();
    }

    /// The runs that were begun, in order.
    pub(crate) fn begun(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("begun")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// What a job asks for that publishes this image.
pub(crate) fn asked(image: &str) -> JobConfig {
    JobConfig {
        owner: "team".into(),
        repo_url: "https://git.example/r.git".into(),
        git_ref: "main".into(),
        dockerfile_path: "Dockerfile".into(),
        image_name: image.into(),
        registry_url: "registry.example:5000".into(),
        ..JobConfig::default()
    }
}

fn defaults() -> Defaults {
    let resources = Resources {
        cpu: 500,
        memory: 512,
        disk: 1024,
    };
    Defaults {
        build_timeout: Duration::from_mins(1),
        test_timeout: Duration::from_mins(1),
        limits: Limits {
            build: resources,
            test: resources,
            publish: resources,
        },
        conflict: Conflict::Queue,
        allow_file_urls: true,
        allow_directories: true,
        vault_roles: Vec::new(),
    }
}
