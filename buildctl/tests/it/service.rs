//! The service over the fake scheduler and the ledger in memory: every way a job can go, by a clock that the test moves.

mod conflicts;
mod follow;
mod house;
mod life;
mod logs;
mod notices;
mod replicas;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use buildctl::{
    api::{JobConfig, TestConfig},
    clock::Clock,
    job::{Job, JobId, State},
    ledger::{Ledger, memory::MemoryLedger},
    phase::Run,
    reconcile::is_settled,
    scheduler::fake::{FakeScheduler, Play},
    service::{Builds, JobView, Policy, Reconciler, Retention, Service},
    spec::{Conflict, Defaults, Limits, Resources},
    webhook::{Egress, Webhooks},
};
use futures_util::StreamExt;
use jiff::Timestamp;
use runyard_common::testing::patience;
use tokio::time::timeout;

/// A service and all that is under it.
pub(crate) struct Bench {
    pub(crate) ledger: Arc<MemoryLedger>,
    pub(crate) engine: FakeScheduler,
    pub(crate) clock: Clock,
    pub(crate) service: Service,
}

/// What holds for all jobs of a bench.
pub(crate) fn policy() -> Policy {
    let resources = Resources {
        cpu: 1000,
        memory: 1024,
        disk: 2048,
    };
    Policy {
        defaults: Defaults {
            build_timeout: Duration::from_mins(30),
            test_timeout: Duration::from_mins(15),
            limits: Limits {
                build: resources,
                test: resources,
                publish: resources,
            },
            conflict: Conflict::Reject,
            allow_file_urls: false,
            allow_directories: false,
            vault_roles: Vec::new(),
        },
        publish_timeout: Duration::from_mins(15),
        queue_timeout: Duration::from_hours(1),
        kill_grace: Duration::from_secs(30),
        log_bytes: 1 << 20,
        retention: Retention {
            records: Duration::from_hours(240),
            logs: Duration::from_hours(24),
        },
        rounds: buildctl::service::Rounds::default(),
    }
}

/// What a job asks for; its image names it.
pub(crate) fn config(image: &str) -> JobConfig {
    JobConfig {
        owner: "team".to_owned(),
        repo_url: "https://git.test/app.git".to_owned(),
        git_ref: "main".to_owned(),
        dockerfile_path: "Dockerfile".to_owned(),
        image_name: image.to_owned(),
        image_tags: vec!["v1".to_owned()],
        registry_url: "registry.test:5000".to_owned(),
        test: Some(TestConfig {
            commands: vec!["true".to_owned(), "make test".to_owned()],
            ..TestConfig::default()
        }),
        ..JobConfig::default()
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(&|_, _| Play::default())
    }

    /// One on which runs go like that.
    pub(crate) fn with(script: &'static (dyn Fn(&Job, Run) -> Play + Send + Sync)) -> Self {
        let clock = Clock::manual(Timestamp::constant(1_763_000_000, 0));
        let ledger = Arc::new(MemoryLedger::default());
        let engine = FakeScheduler::new(clock.clone());
        engine.script(script);
        let webhooks = Webhooks::new(Egress {
            allow_private: true,
            hosts: Vec::new(),
        });
        let seams = (ledger.clone(), Arc::new(engine.clone()));
        let reconciler = Reconciler::new(seams.0.clone(), seams.1.clone(), policy(), webhooks);
        let service = Service::new(seams.0, seams.1, reconciler.with_clock(clock.clone()));
        Self {
            ledger,
            engine,
            clock,
            service,
        }
    }

    pub(crate) async fn submit(&self, config: JobConfig) -> JobId {
        self.service.submit(config, None).await.unwrap().job_id
    }

    async fn record(&self, id: JobId) -> Job {
        self.ledger.get(id).await.unwrap().unwrap().job
    }

    /// Waits until a job's record is as wanted.
    pub(crate) async fn until(&self, id: JobId, wanted: impl Fn(&Job) -> bool) -> Job {
        let mut changes = self.ledger.changes();
        let seen = async {
            loop {
                let job = self.record(id).await;
                if wanted(&job) {
                    return job;
                }
                while changes.next().await != Some(id) {}
            }
        };
        if let Ok(job) = timeout(patience(), seen).await {
            return job;
        }
        let job = self.record(id).await;
        panic!("the job does not become as wanted: {job:#?}")
    }

    pub(crate) async fn settled(&self, id: JobId) -> Job {
        self.until(id, is_settled).await
    }

    pub(crate) async fn in_state(&self, id: JobId, state: State) -> Job {
        self.until(id, |job| job.state == state).await
    }

    async fn status(&self, id: JobId) -> JobView {
        self.service.status(id).await.unwrap()
    }
}

fn error(job: &Job) -> &str {
    &job.failure.as_ref().expect("a failure").error
}

/// How often each run of a job was really started.
fn starts(engine: &FakeScheduler, id: JobId) -> BTreeMap<String, usize> {
    let runs = [
        Run::Build,
        Run::TestCommand(0),
        Run::TestCommand(1),
        Run::TestEntry,
        Run::Publish,
        Run::Cleanup,
    ];
    let counts = runs.map(|run| (run.to_string(), engine.starts(id, run)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}
