//! What a run of a job is to do on this machine: the job's checked configuration and the local settings become a [`Work`].

use crate::{
    job::{Job, JobId},
    names::{Reference, Tag, Version},
    phase::{Built, Run},
    runner::work::{Credential, SecretEnv, Storage, Task, Work},
    secrets::SecretRef,
    spec::{Resources, Spec, SpecError, Test},
    state::StateRoot,
    trace,
};

use super::{LocalConfig, cache};

/// Where the original looks for Git credentials that nobody named.
const DEFAULT_GIT: &str = "secret/nomad/jobs/git-credentials";
/// Where the original looks for credentials of registries that nobody named.
const DEFAULT_REGISTRY: &str = "secret/nomad/jobs/registry-credentials";

/// Why a run cannot be described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWork {
    /// The job's configuration is wrong, or is so under these settings.
    #[error("the configuration of the job is wrong: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<SpecError>),
    /// The job does not have this run.
    #[error("the job has no run `{0}`")]
    NoRun(Run),
    /// There is nothing to test, publish or remove.
    #[error("`{0}` needs an image, and none was built")]
    NothingBuilt(Run),
}

/// What `run` of `job` is to do.
pub fn work_of(job: &Job, run: Run, config: &LocalConfig) -> Result<Work, NoWork> {
    let spec = Spec::of(&job.config, &config.defaults).map_err(NoWork::Config)?;
    work_from(job, &spec, run, config)
}

fn work_from(job: &Job, spec: &Spec, run: Run, config: &LocalConfig) -> Result<Work, NoWork> {
    let (limits, deadline) = match run {
        Run::Build => (spec.limits.build, spec.build_timeout),
        Run::TestCommand(_) | Run::TestEntry => (spec.limits.test, spec.test_timeout),
        Run::Publish | Run::Cleanup => (spec.limits.publish, config.publish_timeout),
    };
    Ok(Work {
        job: job.id,
        run,
        task: task(job, spec, run, config)?,
        deadline,
        grace: config.grace,
        storage: storage(&spec.owner, config),
        registries: config.registries.clone(),
        registry_credentials: spec
            .registry_credentials
            .as_ref()
            .map(|at| credential(at, DEFAULT_REGISTRY, config)),
        memory: memory(limits),
        notes: Vec::new(),
    })
}

fn task(job: &Job, spec: &Spec, run: Run, config: &LocalConfig) -> Result<Task, NoWork> {
    let built = || job.built.as_ref().ok_or(NoWork::NothingBuilt(run));
    let test = || spec.test.as_ref().ok_or(NoWork::NoRun(run));
    Ok(match run {
        Run::Build => Task::Build {
            source: spec.source.clone(),
            git_credentials: spec
                .git_credentials
                .as_ref()
                .map(|at| credential(at, DEFAULT_GIT, config)),
            options: Box::new(build_options(spec, config)),
            temporary: temporary(job, spec, config),
            clear_cache: spec.clear_cache,
        },
        Run::TestCommand(index) => {
            let command = test()?.commands.get(usize::from(index));
            let command = command.ok_or(NoWork::NoRun(run))?.clone();
            test_task(job, test()?, built()?, Some(command), config)
        }
        Run::TestEntry => match test()? {
            test if test.entry_point => test_task(job, test, built()?, None, config),
            _ => return Err(NoWork::NoRun(run)),
        },
        Run::Publish => Task::Publish {
            from: built()?.temporary.clone(),
            digest: built()?.digest.clone(),
            to: spec.repository.clone(),
            tags: tags(job.id, spec),
        },
        Run::Cleanup => Task::Cleanup {
            temporary: match &job.built {
                Some(built) => built.temporary.clone(),
                None => temporary(job, spec, config),
            },
            digest: job.built.as_ref().map(|built| built.digest.clone()),
        },
    })
}

/// Where the build of a job pushes to.
fn temporary(job: &Job, spec: &Spec, config: &LocalConfig) -> Reference {
    spec.temporary(job.id, config.registry.as_deref(), &config.temp_prefix)
}

fn build_options(spec: &Spec, config: &LocalConfig) -> crate::spec::BuildOptions {
    let mut options = spec.build.clone();
    for at in options.secrets.values_mut().chain(options.ssh.values_mut()) {
        *at = resolved(at, config);
    }
    options
}

fn test_task(
    job: &Job,
    test: &Test,
    built: &Built,
    command: Option<String>,
    config: &LocalConfig,
) -> Task {
    let mut env = test.env.clone();
    if let Some(trace) = job.trace {
        env.entry(trace::VARIABLE.to_owned())
            .or_insert_with(|| trace.to_string());
    }
    let secret_env = test.secrets.iter().map(|secret| SecretEnv {
        from: Credential::Reference {
            at: resolved(&secret.at, config),
            optional: false,
        },
        fields: secret.fields.clone(),
    });
    Task::Test {
        image: Reference {
            repository: built.temporary.repository.clone(),
            version: Version::Digest(built.digest.clone()),
        },
        command,
        env,
        secret_env: secret_env.collect(),
        gpu: test.gpu,
    }
}

/// The job's own tag, then those that were asked for, each once.
fn tags(id: JobId, spec: &Spec) -> Vec<Tag> {
    // A UUID is a tag by its grammar.
    let mut tags: Vec<Tag> = id.to_string().parse().into_iter().collect();
    for tag in &spec.tags {
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    tags
}

/// A credential; the original's default one may be missing, because nobody asked for it.
fn credential(at: &SecretRef, default: &str, config: &LocalConfig) -> Credential {
    let is_default = matches!(at, SecretRef::Vault(path) if path == default);
    Credential::Reference {
        at: resolved(at, config),
        optional: is_default && !config.credentials.contains_key(default),
    }
}

/// Where a secret is on this machine, if that was said.
fn resolved(at: &SecretRef, config: &LocalConfig) -> SecretRef {
    let SecretRef::Vault(path) = at else {
        return at.clone();
    };
    config.credentials.get(path).unwrap_or(at).clone()
}

fn storage(owner: &str, config: &LocalConfig) -> Storage {
    let folder = config.root.join("storage").join(cache::owner_key(owner));
    Storage {
        root: Some(folder.join("root")),
        runroot: Some(folder.join("run")),
        driver: config.storage_driver.clone(),
        limit: config.cache_limit,
        isolation: config.isolation.clone(),
    }
}

fn memory(limits: Resources) -> Option<u64> {
    (limits.memory > 0).then(|| u64::from(limits.memory) << 20)
}

/// The folder of the store that a work uses, if it is one of the state's.
pub(super) fn store_of(work: &Work, root: &StateRoot) -> Option<std::path::PathBuf> {
    let store = work.storage.root.as_ref()?.parent()?;
    store.starts_with(root.storage()).then(|| store.to_owned())
}
