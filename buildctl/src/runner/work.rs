//! What one run is to do, as it is handed to `buildctl run-phase`: a local supervisor writes it to a file, a Nomad job carries
//! it as base64 in one variable. It names secrets, it holds none.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    job::JobId,
    names::{Digest, Reference, Repository, Tag},
    phase::Run,
    secrets::SecretRef,
    spec::{BuildOptions, Source},
};

/// The work of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Of which job.
    pub job: JobId,
    /// Which run.
    pub run: Run,
    /// What to do.
    pub task: Task,
    /// How long it may take as a whole; then its programs are stopped and it failed by timeout.
    #[serde(with = "runyard_common::duration::serde")]
    pub deadline: Duration,
    /// How long programs have between SIGTERM and SIGKILL.
    #[serde(with = "runyard_common::duration::serde")]
    pub grace: Duration,
    /// Where Buildah keeps images and layers.
    pub storage: Storage,
    /// How to talk to registries.
    pub registries: Registries,
    /// Credentials of the registries that this run talks to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_credentials: Option<Credential>,
    /// Most memory that the run may use, in bytes, where the machine can hold it to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// What whoever reads the log should know of how this came to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// Fetch the source, build, push under a temporary name.
    Build {
        /// What to build.
        source: Source,
        /// Credentials for fetching it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        git_credentials: Option<Credential>,
        /// How to build it.
        options: Box<BuildOptions>,
        /// Where to push it to.
        temporary: Reference,
        /// Whether to forget cached layers first.
        clear_cache: bool,
    },
    /// Run one command in a container of the image.
    Test {
        /// The image, by digest.
        image: Reference,
        /// The command, for the shell of the image (`sh -c`); none for the image's own entry point and command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<String>,
        /// Variables for it.
        #[serde(default)]
        env: BTreeMap<String, String>,
        /// Variables whose values are in files named by their secret: name of the variable → where.
        #[serde(default)]
        secret_env: Vec<SecretEnv>,
        /// Whether it gets the machine's NVIDIA devices.
        #[serde(default)]
        gpu: bool,
    },
    /// Move tags to what was tested, the first one first, and remove the temporary tag.
    Publish {
        /// The repository that holds the digest.
        from: Reference,
        /// The digest that was tested.
        digest: Digest,
        /// The repository to publish in.
        to: Repository,
        /// The tags, in the order in which they move.
        tags: Vec<Tag>,
    },
    /// Remove the temporary tag of a job that will not be published.
    Cleanup {
        /// The temporary name.
        temporary: Reference,
        /// Its digest; none if only the registry knows, for a build that could not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
}

/// Where the run finds a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// The run looks it up itself.
    Reference {
        /// Where.
        at: SecretRef,
        /// Whether to go on without it if it is not there (it was a default, nobody asked for it).
        optional: bool,
    },
    /// Somebody has rendered it into a file: `username=…`, `password=…`, `ssh_key_base64=…` lines.
    Rendered(PathBuf),
}

/// Variables that come from one secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEnv {
    /// Where the secret is.
    pub from: Credential,
    /// Its fields, and the variables that they become.
    pub fields: BTreeMap<String, String>,
}

/// Where Buildah keeps images and layers; what is empty is Buildah's own default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// `--root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// `--runroot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runroot: Option<PathBuf>,
    /// `--storage-driver`: `overlay`, `vfs`; none to try overlay and fall back to vfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Most bytes of cached images; more are pruned before a build. None for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Most Buildah processes that may work on this store at once is the scheduler's matter; `--isolation` of `RUN` steps:
    /// `chroot` or `oci`. None for `chroot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
}

/// How to talk to registries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registries {
    /// Hosts (with ports) that are spoken to without verifying a certificate, or over plain HTTP.
    #[serde(default)]
    pub insecure: Vec<String>,
    /// A folder of `HOST/ca.crt` files, as in `/etc/containers/certs.d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<PathBuf>,
}
