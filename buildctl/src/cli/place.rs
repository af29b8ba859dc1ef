//! Where builds happen: at the service that somebody named, or in this process, on this machine. All verbs see one
//! [`Builds`], whichever it is.
//!
//! ```text
//!  --url, BUILDCTL_URL, JOB_SERVICE_URL, client.yaml ──▶ that service
//!  a verb of the original, or a configuration that says `nomad` ──▶ http://localhost:8080
//!  else, and with --local ──▶ this machine; jobs go on in supervisors of their own when this process ends
//! ```

use std::{path::PathBuf, sync::Arc};

use clap::{Args, ValueHint};
use runyard_common::{exit::Exit, report::Failure};

use super::{Context, environment, quoted};
use crate::{
    backend::{self, Seams},
    client::Remote,
    config::{Backend, ClientConfig, Config, Loaded, SettingsArgs},
    job::JobId,
    metrics::Metrics,
    scheduler::local::{LocalScheduler, keep_descriptors_from_children},
    service::{BuildError, Builds, Policy, Service},
    spec::Defaults,
};

/// Flags that say how builds are made in this process.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct PlaceArgs {
    /// Build on this machine, whatever the environment says of a service
    #[arg(long, global = true, conflicts_with = "url")]
    pub(super) local: bool,

    /// Configuration file, else `BUILDCTL_CONFIG`, else /etc/buildctl/config.yaml if it exists
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) config: Option<PathBuf>,

    /// Folder of local jobs and their cache, else `BUILDCTL_LOCAL_ROOT`
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) root: Option<String>,
}

impl PlaceArgs {
    /// The flags as they were typed, for hints.
    pub(super) fn typed(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.local {
            words.push("--local".to_owned());
        }
        if let Some(path) = &self.config {
            words.push(format!("--config {}", quoted(&path.to_string_lossy())));
        }
        if let Some(root) = &self.root {
            words.push(format!("--root {}", quoted(root)));
        }
        words
    }

    /// What these flags are for the configuration.
    pub(super) fn settings(&self) -> SettingsArgs {
        SettingsArgs {
            config: self.config.clone(),
            root: self.root.clone(),
            ..SettingsArgs::default()
        }
    }
}

/// Where builds happen.
pub(super) enum Place {
    /// In this process, on this machine.
    Here {
        /// What is done there.
        service: Box<Service>,
        /// Its runs.
        scheduler: LocalScheduler,
    },
    /// At a service.
    There {
        /// What is done there.
        remote: Remote,
        /// Where it is.
        url: String,
    },
}

impl Place {
    /// What can be done there.
    pub(super) fn builds(&self) -> &dyn Builds {
        match self {
            Self::Here { service, .. } => service.as_ref(),
            Self::There { remote, .. } => remote,
        }
    }

    /// The same, for whoever keeps it.
    pub(super) fn into_builds(self) -> Arc<dyn Builds> {
        match self {
            Self::Here { service, .. } => Arc::new(*service),
            Self::There { remote, .. } => Arc::new(remote),
        }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Here { scheduler, .. } => {
                format!("this machine ({})", scheduler.root().path().display())
            }
            Self::There { url, .. } => url.clone(),
        }
    }
}

/// What jobs get that are built without a service: it is their user's machine and files, so that a source may be a directory,
/// and credentials may be in files and variables.
pub(super) fn defaults(config: &Config) -> Defaults {
    Defaults {
        allow_directories: true,
        allow_file_urls: true,
        ..config.defaults()
    }
}

/// This machine under a configuration.
pub(super) fn here(config: &Config) -> Result<(Service, LocalScheduler), Failure> {
    let seams = Seams::local(config, defaults(config))?;
    let policy = Policy {
        defaults: defaults(config),
        ..backend::policy(config)
    };
    let service = seams.service(
        policy,
        backend::egress(config),
        Arc::new(Metrics::default()),
    );
    let scheduler = seams
        .local
        .ok_or_else(|| Failure::new(Exit::Internal, "this machine has no scheduler"))?;
    Ok((service, scheduler))
}

impl Context {
    /// Where builds happen. Not to be called in an async task.
    pub(super) fn place(&self) -> Result<Place, Failure> {
        self.place_with(&[])
    }

    /// The same, where these registries may be spoken to without verification.
    pub(super) fn place_with(&self, insecure: &[String]) -> Result<Place, Failure> {
        if let Some(config) = self.service()? {
            let url = config.url().to_owned();
            let remote = Remote::new(&config)?;
            return Ok(Place::There { remote, url });
        }
        // What this process has open from whoever started it is no matter of jobs that outlive both.
        keep_descriptors_from_children();
        let (service, scheduler) = here(&self.here_with(insecure)?)?;
        Ok(Place::Here {
            service: Box::new(service),
            scheduler,
        })
    }

    /// The service to speak to, if it is one.
    pub(super) fn service(&self) -> Result<Option<ClientConfig>, Failure> {
        if self.place.local {
            return Ok(None);
        }
        let client = ClientConfig::load(&self.client, &environment)?;
        let is_elsewhere = client.named.is_some()
            || self.is_original
            || self.here()?.config.backend == Backend::Nomad;
        Ok(is_elsewhere.then_some(client))
    }

    /// The configuration under which this process builds.
    fn here(&self) -> Result<Loaded, Failure> {
        Config::load_here(&self.place.settings(), &environment)
    }

    /// The same, where these registries may be spoken to without verification.
    pub(super) fn here_with(&self, insecure: &[String]) -> Result<Config, Failure> {
        let mut config = self.here()?.config;
        let known = &mut config.registries.insecure;
        known.extend(insecure.iter().map(|host| host.to_ascii_lowercase()));
        known.sort();
        known.dedup();
        Ok(config)
    }

    /// What to tell about an error.
    pub(super) fn failure(&self, error: BuildError) -> Failure {
        let text = error.to_string();
        match error {
            BuildError::Invalid(wrong) => {
                let mut lines = vec!["the job's description is wrong".to_owned()];
                lines.extend(wrong);
                Failure::new(Exit::Usage, lines.join("\n"))
                    .hint(self.command("build --help", "").trim_end().to_owned() + " lists what can be said")
            }
            BuildError::BadRequest(_) => Failure::new(Exit::Usage, text),
            BuildError::NotFound(id) => self.not_found(id),
            BuildError::Conflict { holder } => Failure::new(
                Exit::Failed,
                format!("job {holder} works on this image and ref"),
            )
            .hint("wait for it with `--on-conflict queue`, or end it with `--on-conflict cancel-previous`")
            .hint(format!("see how far it is: {}", self.command("watch", &holder.to_string()))),
            BuildError::WrongState(_)
            | BuildError::KeyReused(_)
            | BuildError::Internal(_) => Failure::new(Exit::Failed, text),
            BuildError::Forbidden(_) => Failure::new(Exit::Failed, text)
                .hint("name a file with the service's token: --token-file or BUILDCTL_TOKEN_FILE"),
            BuildError::Unreachable(_) => {
                let is_there = !text.starts_with("cannot reach");
                let failure = Failure::new(Exit::Unreachable, text);
                match &self.client.url {
                    // It is something behind the service that does not answer it.
                    _ if is_there && !self.place.local => failure.hint(format!(
                        "the service answers, and what it works with does not: `{}` says more",
                        self.command("health", "").trim_end()
                    )),
                    None if !self.place.local => failure.hint(format!(
                        "name a service with --url, start one with `{} serve`, or build without one: --local",
                        super::name::name()
                    )),
                    _ => failure,
                }
            }
        }
    }

    fn not_found(&self, id: JobId) -> Failure {
        let place = match self.service() {
            Ok(Some(client)) => client.url().to_owned(),
            _ => "this machine".to_owned(),
        };
        Failure::new(Exit::NotFound, format!("there is no job {id} at {place}")).hint(format!(
            "{} lists those that there are",
            self.command("history", "").trim_end()
        ))
    }
}
