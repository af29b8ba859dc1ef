//! The Nomad backend on a real agent: the contracts that it keeps on the fake, so that the fake cannot drift; and a whole job with
//! real Buildah, from a repository to a published tag.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use buildctl::{
    config::Tier,
    job::{Job, JobId},
    ledger::{SharedLedger, variables::VariableLedger},
    logs::Position,
    names::Version,
    phase::{Built, Ending, FailureKind, Outcome, Progress, Run},
    scheduler::{
        Scheduler, SharedScheduler, Started,
        nomad::{NomadApi, NomadScheduler, NomadSettings, Runner},
    },
};
use futures_util::StreamExt;
use jiff::Timestamp;
use runyard_common::{
    doctor::Verdict,
    testing::{patience, tool_binary},
};
use tokio::time::timeout;

use crate::{
    contract::{
        ledger::{Books, ledger_contract},
        scheduler::{Script, Stage, scheduler_contract},
    },
    nomad_agent::Agent,
    nomad_site::{config, job_of, settings, submitted},
    support::{Registry, Repository},
};

scheduler_contract!(real_scheduler, async { Site::new().await });
ledger_contract!(real_ledger, async { Site::new().await });

/// Builds on what [`Repository::with`] has in every repository.
const DOCKERFILE: &str = "FROM scratch\nCOPY busybox /bin/sh\nRUN echo built\n";

/// Whether everything is here that images are built and kept with.
pub(crate) fn ready() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there =
        |program: &&&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let needed = ["buildah", "docker-registry", "git", "busybox"];
    let missing: Vec<_> = needed.iter().filter(|program| !is_there(program)).collect();
    if !missing.is_empty() {
        eprintln!("skipped: {missing:?} is missing");
    }
    missing.is_empty()
}

struct Site {
    settings: NomadSettings,
    scheduler: NomadScheduler,
    folder: PathBuf,
    agent: Arc<Agent>,
}

impl Site {
    async fn new() -> Option<Self> {
        let agent = tokio::task::spawn_blocking(Agent::shared);
        Some(Self::on(agent.await.unwrap()?).await)
    }

    async fn on(agent: Arc<Agent>) -> Self {
        let folder = agent.folder().join(JobId::random().to_string());
        let mut settings = settings(&agent.address, &folder);
        let of_agent = Arc::clone(&agent);
        let namespace = tokio::task::spawn_blocking(move || of_agent.namespace());
        settings.nomad.namespace = namespace.await.unwrap();
        Self {
            scheduler: NomadScheduler::open(settings.clone()).unwrap(),
            settings,
            folder,
            agent,
        }
    }

    /// Asks the agent something that blocks.
    async fn agent_call<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Agent) -> T + Send + 'static,
    ) -> T {
        let agent = Arc::clone(&self.agent);
        let asked = tokio::task::spawn_blocking(move || ask(&agent));
        asked.await.unwrap()
    }

    /// Waits until the only run of a job is so.
    async fn progress(&self, job: &Job, wanted: fn(&Progress) -> bool) -> Progress {
        let mut changes = self.scheduler.changes();
        let seen = async {
            loop {
                let all = self.scheduler.observe(job).await.unwrap();
                if let Some(seen) = all.into_iter().find(|seen| wanted(&seen.progress)) {
                    return seen.progress;
                }
                while changes.next().await != Some(job.id) {}
            }
        };
        timeout(patience() * 2, seen)
            .await
            .expect("it comes to that")
    }

    /// Puts something to the node's drain.
    async fn drain(&self, what: serde_json::Value) {
        let put = move |agent: &Agent| {
            let node = agent.list("/v1/nodes")[0]["ID"].clone();
            let path = format!("/v1/node/{}/drain", node.as_str().unwrap());
            agent.put(&path, &what)
        };
        self.agent_call(put).await;
    }

    async fn ending(&self, job: &Job, run: Run) -> Ending {
        let mut changes = self.scheduler.changes();
        let seen = async {
            loop {
                let all = self.scheduler.observe(job).await.unwrap();
                let seen = all.into_iter().find(|seen| seen.run == run);
                if let Some(Progress::Ended { ending }) = seen.map(|seen| seen.progress) {
                    return ending;
                }
                while changes.next().await != Some(job.id) {}
            }
        };
        timeout(patience() * 4, seen).await.expect("it ends")
    }

    async fn log(&self, job: &Job, run: Run) -> String {
        let read = self
            .scheduler
            .read_log(job, run, Position::default(), 1 << 20, Duration::ZERO);
        let lines = read.await.unwrap().lines.into_iter();
        lines.map(|line| line.text + "\n").collect()
    }
}

#[async_trait]
impl Stage for Site {
    fn scheduler(&self) -> SharedScheduler {
        Arc::new(self.scheduler.clone())
    }

    async fn job(&self, what: &Script) -> Job {
        job_of(&self.folder, what)
    }
}

impl Books for Site {
    fn open(&self) -> SharedLedger {
        Arc::new(VariableLedger::open(
            NomadApi::open(&self.settings.nomad).unwrap(),
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doctor_finds_nothing_wrong_with_a_plain_agent_but_vault() {
    let Some(site) = Site::new().await else {
        return;
    };
    let findings = site.scheduler.doctor().await;
    let bad: Vec<_> = findings
        .iter()
        .filter(|it| it.verdict == Verdict::Fail)
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    let found = site.scheduler.probe(&[Tier::Rootless]).await;
    assert!(!ready() || found[0].verdict == Verdict::Ok, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_built_tested_and_published_by_nomad() {
    if !ready() {
        return;
    }
    let Some(mut site) = Site::new().await else {
        return;
    };
    let registry = tokio::task::spawn_blocking(Registry::open).await.unwrap();
    let repository = tokio::task::spawn_blocking(|| Repository::with(DOCKERFILE))
        .await
        .unwrap();
    site.settings.runner = Runner::Path(tool_binary("buildctl"));
    site.settings.nomad.cache = buildctl::config::NomadCache::Folder(site.folder.join("cache"));
    site.settings.defaults.allow_file_urls = true;
    site.settings.registries.insecure = vec![registry.host().to_owned()];
    site.scheduler = NomadScheduler::open(site.settings.clone()).unwrap();
    let mut asked = config(1);
    asked.repo_url = repository.url();
    asked.registry_url = registry.host().to_owned();
    asked.image_tags = vec!["v1".to_owned()];
    if let Some(test) = &mut asked.test {
        test.commands = vec!["echo \"a ${NOMAD_JOB_ID} $$ %{x}\"".to_owned()];
    }
    let mut job = Job::new(JobId::random(), asked, Timestamp::now());
    let built = build(&site, &job).await;
    assert!(matches!(built.temporary.version, Version::Tag(_)));
    job.built = Some(built.clone());
    site.scheduler
        .start(&job, Run::TestCommand(0))
        .await
        .unwrap();
    let tested = site.ending(&job, Run::TestCommand(0)).await;
    let log = site.log(&job, Run::TestCommand(0)).await;
    assert_eq!(
        tested,
        Ending::Succeeded {
            outcome: Outcome::Tested
        },
        "{log}"
    );
    assert!(log.contains("%{x}"), "{log}");
    site.scheduler.start(&job, Run::Publish).await.unwrap();
    let Ending::Succeeded {
        outcome: Outcome::Published { tags, .. },
    } = site.ending(&job, Run::Publish).await
    else {
        panic!("{}", site.log(&job, Run::Publish).await);
    };
    assert_eq!(tags.len(), 2);
    assert!(tags.iter().all(|moved| moved.digest == built.digest));
    site.scheduler.collect(&job).await.unwrap();
    assert_eq!(site.scheduler.observe(&job).await.unwrap(), []);
}

async fn build(site: &Site, job: &Job) -> Built {
    assert_eq!(
        site.scheduler.start(job, Run::Build).await.unwrap(),
        Started::Now
    );
    match site.ending(job, Run::Build).await {
        Ending::Succeeded {
            outcome: Outcome::Built(built),
        } => built,
        other => panic!("{other:?}: {}", site.log(job, Run::Build).await),
    }
}

/// Draining needs a node that nobody else uses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_node_is_drained_ends_once_and_nobody_is_said_to_have_killed_it() {
    let agent = tokio::task::spawn_blocking(Agent::start).await.unwrap();
    let Some(agent) = agent else {
        return;
    };
    let site = Site::on(Arc::new(agent)).await;
    let gate = site.folder.join("gate");
    let script = format!(
        "echo began >> {0}.count; until [ -e {0} ]; do sleep 0.1; done",
        gate.display()
    );
    let job = submitted(&site.folder, &[(Run::Build, script.as_str())]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    let running = |it: &Progress| matches!(it, Progress::Running);
    site.progress(&job, running).await;
    let count = gate.with_extension("count");
    while !count.exists() {
        tokio::task::yield_now().await;
    }

    site.drain(serde_json::json!({"DrainSpec": {"Deadline": -1}, "MarkEligible": false}))
        .await;
    // Nobody killed it: it has no place, or (on newer Nomads) failed, and its end is told once.
    let of_nomad = |it: &Progress| match it {
        Progress::Waiting { reason, .. } => reason
            .as_ref()
            .is_some_and(|reason| reason.starts_with("Nomad ended it")),
        Progress::Running => false,
        Progress::Ended { .. } => true,
    };
    let seen = site.progress(&job, of_nomad).await;
    std::fs::write(&gate, "").unwrap();
    site.drain(serde_json::json!({"DrainSpec": null, "MarkEligible": true}))
        .await;
    let ended = site.ending(&job, Run::Build).await;
    let begun = std::fs::read_to_string(&count).unwrap().lines().count();
    match (&seen, &ended) {
        (Progress::Ended { ending }, Ending::Failed(failure)) => {
            assert_eq!(ending, &ended);
            assert_eq!(failure.kind, FailureKind::NodeLost);
            assert!(
                failure.message.starts_with("Nomad ended it on"),
                "{failure:?}"
            );
            assert_eq!(begun, 1, "nobody begins it again");
        }
        (Progress::Waiting { .. }, Ending::Succeeded { .. }) => {
            assert_eq!(begun, 2, "the second one counts");
        }
        other => panic!("{other:?}"),
    }
    let log = site.log(&job, Run::Build).await;
    assert!(log.contains("build begins"), "{log}");
}
