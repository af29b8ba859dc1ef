//! Where the parts are put together: from a [`Config`] to the ledger and the scheduler that it asks for, the policy that holds
//! for all jobs, and the service over them. The daemon, builds without one and the supervisors of local jobs all begin here,
//! so that they agree.

use std::{ffi::OsString, io, num::NonZeroUsize, process::ExitCode, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use runyard_common::{exit::Exit, report::Failure};
use serde::{Deserialize, Serialize};

use crate::{
    config::{self, Config, RunnerSource},
    ledger::{SharedLedger, directory::DirectoryLedger, variables::VariableLedger},
    metrics::{Metered, Metrics},
    runner::{self, work::Work},
    scheduler::{
        SharedScheduler,
        local::{
            LocalConfig, LocalScheduler, Sweep,
            supervisor::{self, Desk},
        },
        nomad::{NomadScheduler, NomadSettings, Runner},
    },
    service::{Policy, Reconciler, Retention, Rounds, Service},
    settings::Backend,
    spec::Defaults,
    webhook::{Egress, Webhooks},
};

/// What carries jobs out, and where they are recorded.
#[derive(Clone)]
pub struct Seams {
    /// The records.
    pub ledger: SharedLedger,
    /// The runs.
    pub scheduler: SharedScheduler,
    /// The scheduler of this machine, if it is that.
    pub local: Option<LocalScheduler>,
}

impl Seams {
    /// Those that a configuration asks for.
    ///
    /// Fails with [`Exit::Config`] if the folder of state, or what is said of Nomad, cannot be used.
    pub fn open(config: &Config) -> Result<Self, Failure> {
        match config.backend {
            Backend::Local => Self::local(config, config.defaults()),
            Backend::Nomad => Self::nomad(config),
        }
    }

    /// A Nomad cluster: runs are its jobs, records its variables. Asks it nothing yet, so that a service may begin before Nomad
    /// does.
    fn nomad(config: &Config) -> Result<Self, Failure> {
        let settings = NomadSettings::of(config)?;
        if let (RunnerSource::Service(None), Runner::Artifact { url, .. }) =
            (&config.nomad.runner, &settings.runner)
        {
            tracing::info!(
                url,
                "nodes fetch this program from here, as long as this process lives; name an address of all replicas \
                 (nomad.runner.from_service), or a place where nodes have it (nomad.runner.path)"
            );
        }
        let scheduler = NomadScheduler::open(settings)?;
        Ok(Self {
            ledger: Arc::new(VariableLedger::open(scheduler.api())),
            scheduler: Arc::new(scheduler),
            local: None,
        })
    }

    /// This machine, with other defaults than the service's: for builds of local directories.
    pub fn local(config: &Config, defaults: Defaults) -> Result<Self, Failure> {
        let root = &config.local.root;
        let unusable = |error: &dyn std::error::Error| {
            Failure::new(Exit::Config, format!("cannot use `{}`", root.display()))
                .caused_by(error.to_string())
                .hint("choose another folder with --root (or `local.root`)")
        };
        let settings = local_config(config, defaults)?;
        let scheduler =
            LocalScheduler::open(settings, sweep()).map_err(|error| unusable(&error))?;
        Ok(Self {
            ledger: Arc::new(DirectoryLedger::new(scheduler.root().clone())),
            scheduler: Arc::new(scheduler.clone()),
            local: Some(scheduler),
        })
    }

    /// The service over these, with its requests to the engine counted.
    pub fn service(&self, policy: Policy, egress: Egress, metrics: Arc<Metrics>) -> Service {
        let scheduler: SharedScheduler =
            Arc::new(Metered::new(Arc::clone(&self.scheduler), metrics));
        let reconciler = Reconciler::new(
            Arc::clone(&self.ledger),
            Arc::clone(&scheduler),
            policy,
            Webhooks::new(egress),
        );
        Service::new(Arc::clone(&self.ledger), scheduler, reconciler)
    }
}

/// What holds for all jobs of a service.
pub fn policy(config: &Config) -> Policy {
    Policy {
        defaults: config.defaults(),
        publish_timeout: config.timeouts.publish,
        queue_timeout: config.timeouts.queue,
        kill_grace: config.timeouts.kill,
        log_bytes: config.log_bytes,
        retention: Retention {
            records: config.keep_records,
            logs: config.keep_logs,
        },
        rounds: config.rounds,
    }
}

/// Where webhooks may go.
pub fn egress(config: &Config) -> Egress {
    Egress {
        allow_private: config.webhooks.allow_private,
        hosts: config.webhooks.hosts.clone(),
    }
}

/// What a supervisor gets beside [`LocalConfig`]: the rest of what its reconciler needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Handed {
    queue_timeout: Duration,
    allow_private: bool,
    hosts: Vec<String>,
}

impl Default for Handed {
    fn default() -> Self {
        Self {
            queue_timeout: Duration::from_hours(1),
            allow_private: false,
            hosts: Vec::new(),
        }
    }
}

/// What a configuration says of this machine, for its scheduler. Nothing of the state is looked at, nor made.
pub(crate) fn local_config(config: &Config, defaults: Defaults) -> Result<LocalConfig, Failure> {
    let internal =
        |what: &str, error: io::Error| Failure::new(Exit::Internal, what).caused_by(error);
    let config::LocalConfig {
        root,
        concurrency,
        storage_driver,
        isolation,
        cache_limit,
    } = &config.local;
    let handed = Handed {
        queue_timeout: config.timeouts.queue,
        allow_private: config.webhooks.allow_private,
        hosts: config.webhooks.hosts.clone(),
    };
    let policy = serde_json::to_value(&handed)
        .map_err(|error| internal("the policy cannot be handed over", error.into()))?;
    let program = std::env::current_exe()
        .map_err(|error| internal("the path of this program is not known", error))?;
    let of_program = LocalConfig::new(root.clone(), program, defaults);
    Ok(LocalConfig {
        concurrency: NonZeroUsize::new(*concurrency).unwrap_or(NonZeroUsize::MIN),
        storage_driver: storage_driver.clone(),
        isolation: isolation.clone(),
        cache_limit: *cache_limit,
        publish_timeout: config.timeouts.publish,
        grace: config.timeouts.kill,
        registry: config.registry.clone(),
        temp_prefix: config.temp_prefix.clone(),
        registries: config.registries.clone(),
        credentials: config.credentials.clone(),
        policy,
        ..of_program
    })
}

/// Removes what a dead run left behind.
fn sweep() -> Sweep {
    Arc::new(|work: &Work| match runner::sweep(work) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
}

/// The hidden verb `supervise`, whose arguments these are: moves one local job along until it is settled. To be called before
/// anything has started a thread.
pub fn supervise(args: &[OsString]) -> ExitCode {
    supervisor::main(args, drive, sweep())
}

fn drive(desk: Desk) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        // Null is what a scheduler hands over that was not opened here.
        let handed: Option<Handed> = serde_json::from_value(desk.policy)?;
        let handed = handed.unwrap_or_default();
        let config = desk.scheduler.config();
        // A supervisor answers no requests and removes nothing that is old: the rest of its policy is nobody's.
        let policy = Policy {
            defaults: config.defaults.clone(),
            publish_timeout: config.publish_timeout,
            queue_timeout: handed.queue_timeout,
            kill_grace: config.grace,
            log_bytes: 0,
            retention: Retention {
                records: Duration::MAX,
                logs: Duration::MAX,
            },
            rounds: Rounds::default(),
        };
        let egress = Egress {
            allow_private: handed.allow_private,
            hosts: handed.hosts,
        };
        let reconciler =
            Reconciler::new(desk.ledger, desk.scheduler, policy, Webhooks::new(egress));
        reconciler.drive(desk.job).await;
        Ok(())
    })
}
