//! What the local scheduler has to know, and how it reaches the supervisors: as `settings.json` in the job's folder, so that
//! each job is finished with the settings it was begun with.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, thread, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{runner::work::Registries, secrets::SecretRef, spec::Defaults};

/// Settings of the local scheduler. They name secrets and hold none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalConfig {
    /// The folder of state.
    pub root: PathBuf,
    /// How many builds and tests run at once.
    pub concurrency: NonZeroUsize,
    /// Buildah's `--storage-driver`; none to let each run find out what works.
    pub storage_driver: Option<String>,
    /// Buildah's `--isolation` of `RUN` steps; none for `chroot`.
    pub isolation: Option<String>,
    /// Most bytes of cached images, for each owner.
    pub cache_limit: Option<u64>,
    /// The program whose verb `run-phase` carries out a run.
    pub runner: PathBuf,
    /// The program whose verb `supervise` moves a job along.
    pub supervisor: PathBuf,
    /// What jobs leave open.
    pub defaults: Defaults,
    /// How long a publication or a cleanup may take.
    pub publish_timeout: Duration,
    /// How long programs have between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// The registry of temporary images; none for the one that the job publishes in.
    pub registry: Option<String>,
    /// What names of temporary images begin with.
    pub temp_prefix: String,
    /// How to talk to registries.
    pub registries: Registries,
    /// Where credentials are that jobs know by a path of Vault.
    pub credentials: BTreeMap<String, SecretRef>,
    /// What a supervisor's reconciler needs; only handed over here.
    pub policy: serde_json::Value,
}

impl LocalConfig {
    /// The settings with which `program` works in `root` if nothing else is said.
    pub fn new(root: PathBuf, program: PathBuf, defaults: Defaults) -> Self {
        Self {
            root,
            concurrency: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            storage_driver: None,
            isolation: None,
            cache_limit: None,
            runner: program.clone(),
            supervisor: program,
            defaults,
            publish_timeout: Duration::from_mins(15),
            grace: Duration::from_secs(30),
            registry: None,
            temp_prefix: "temp".to_owned(),
            registries: Registries::default(),
            credentials: BTreeMap::new(),
            policy: serde_json::Value::Null,
        }
    }

    /// Where the state is if nobody says: `/var/lib/buildctl` for root, else below `$XDG_STATE_HOME` or `~/.local/state`.
    /// None if there is no home either.
    pub fn default_root(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
        if rustix::process::geteuid().is_root() {
            return Some(PathBuf::from("/var/lib/buildctl"));
        }
        let said = |name| {
            env(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let state = said("XDG_STATE_HOME").or_else(|| Some(said("HOME")?.join(".local/state")));
        Some(state?.join("buildctl"))
    }
}
