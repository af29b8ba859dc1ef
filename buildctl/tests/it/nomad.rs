//! The Nomad backend on a Nomad of this process: the contracts of scheduler and ledger, and what goes wrong in clusters. Tasks are
//! real processes of a runner that is a shell script: it does what the test says instead of building.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use buildctl::{
    job::{Job, JobId, State},
    ledger::{Claim, Created, Ledger, LedgerError, SharedLedger, variables::VariableLedger},
    logs::Position,
    phase::{Ending, FailureKind, Observed, Outcome, Progress, Run},
    scheduler::{
        Scheduler, SchedulerError, SharedScheduler, Started,
        nomad::{NomadApi, NomadScheduler, NomadSettings},
    },
};
use futures_util::{StreamExt, future::join_all};
use jiff::Timestamp;
use runyard_common::{doctor::Verdict, testing::patience};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    contract::{
        ledger::{Books, ledger_contract},
        scheduler::{Script, Stage, scheduler_contract},
    },
    nomad_fake::Nomad,
    nomad_site::{config, job_of, settings, submitted},
};

scheduler_contract!(nomad_scheduler, async { Some(Site::new().await) });
ledger_contract!(nomad_ledger, async { Some(Site::new().await) });

/// A cluster, and builds on it.
struct Site {
    nomad: Nomad,
    settings: NomadSettings,
    scheduler: NomadScheduler,
}

impl Site {
    async fn new() -> Self {
        let nomad = Nomad::start().await;
        let settings = settings(&nomad.address, nomad.folder());
        Self {
            scheduler: NomadScheduler::open(settings.clone()).unwrap(),
            settings,
            nomad,
        }
    }

    /// A job whose runs do what these scripts say.
    fn submitted(&self, runs: &[(Run, &str)]) -> Job {
        submitted(self.nomad.folder(), runs)
    }

    /// As another process of the service sees it.
    fn replica(&self) -> NomadScheduler {
        NomadScheduler::open(self.settings.clone()).unwrap()
    }

    fn ledger(&self) -> VariableLedger {
        VariableLedger::open(NomadApi::open(&self.settings.nomad).unwrap())
    }

    async fn observed(&self, job: &Job, run: Run) -> Option<Observed> {
        let all = self.scheduler.observe(job).await.unwrap();
        all.into_iter().find(|it| it.run == run)
    }

    /// Waits until a run is as wanted.
    async fn until(&self, job: &Job, run: Run, wanted: impl Fn(&Progress) -> bool) -> Observed {
        let mut changes = self.scheduler.changes();
        let seen = async {
            loop {
                if let Some(seen) = self.observed(job, run).await
                    && wanted(&seen.progress)
                {
                    return seen;
                }
                while changes.next().await != Some(job.id) {}
            }
        };
        let seen = timeout(patience(), seen).await;
        seen.unwrap_or_else(|_| panic!("{run} does not become as wanted"))
    }

    async fn ending(&self, job: &Job, run: Run) -> Ending {
        let is_over = |progress: &Progress| matches!(progress, Progress::Ended { .. });
        match self.until(job, run, is_over).await.progress {
            Progress::Ended { ending } => ending,
            other => panic!("{other:?}"),
        }
    }

    async fn running(&self, job: &Job, run: Run) {
        self.until(job, run, |progress| *progress == Progress::Running)
            .await;
    }

    /// All that a run said, and whether something of it was lost.
    async fn said(&self, job: &Job, run: Run) -> (Vec<String>, bool) {
        let (mut at, mut lines, mut lost) = (Position::default(), Vec::new(), false);
        loop {
            let chunk = self.scheduler.read_log(job, run, at, 1000, patience());
            let chunk = chunk.await.unwrap();
            at = chunk.next;
            lost |= chunk.lost;
            lines.extend(chunk.lines.into_iter().map(|line| line.text));
            if chunk.complete {
                return (lines, lost);
            }
        }
    }
}

#[async_trait]
impl Stage for Site {
    fn scheduler(&self) -> SharedScheduler {
        Arc::new(self.scheduler.clone())
    }

    async fn job(&self, what: &Script) -> Job {
        job_of(self.nomad.folder(), what)
    }
}

impl Books for Site {
    fn open(&self) -> SharedLedger {
        Arc::new(self.ledger())
    }
}

const STAYS: &str = "echo here\nexec sleep 1000\n";

fn kind(ending: &Ending) -> Option<FailureKind> {
    match ending {
        Ending::Failed(failure) => Some(failure.kind),
        _ => None,
    }
}

#[tokio::test]
async fn a_job_without_a_place_waits_says_why_and_begins_when_there_is_one() {
    let site = Site::new().await;
    site.nomad.exhaust(Some("memory"));
    let job = site.submitted(&[(Run::Build, "")]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    let waits = |progress: &Progress| matches!(progress, Progress::Waiting { reason: Some(why), .. } if why.contains("1 node without enough memory"));
    site.until(&job, Run::Build, waits).await;
    site.nomad.exhaust(None);
    assert!(matches!(
        site.ending(&job, Run::Build).await,
        Ending::Succeeded { .. }
    ));
}

#[tokio::test]
async fn a_waiting_run_that_is_stopped_never_begins() {
    let site = Site::new().await;
    site.nomad.exhaust(Some("cpu"));
    let job = site.submitted(&[(Run::Build, "")]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    site.scheduler.stop(&job, Run::Build).await.unwrap();
    assert_eq!(site.ending(&job, Run::Build).await, Ending::Cancelled);
    site.nomad.exhaust(None);
    let seen = site.observed(&job, Run::Build).await.unwrap();
    assert!(seen.started_at.is_none() && seen.ended_at.is_some());
    assert_eq!(site.nomad.placements(&Run::Build.of_job(&job.id)), 0);
}

#[tokio::test]
async fn a_runner_that_is_not_there_is_no_matter_of_the_users() {
    let mut site = Site::new().await;
    site.settings.runner =
        buildctl::scheduler::nomad::Runner::Path(PathBuf::from("/no/such/buildctl"));
    site.scheduler = NomadScheduler::open(site.settings.clone()).unwrap();
    let job = site.submitted(&[]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    let ending = site.ending(&job, Run::Build).await;
    assert_eq!(kind(&ending), Some(FailureKind::Infrastructure));
    let Ending::Failed(failure) = ending else {
        panic!()
    };
    assert!(
        failure.message.starts_with("Driver Failure: "),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_lost_node_loses_the_run_and_nothing_starts_it_again() {
    let site = Site::new().await;
    let job = site.submitted(&[(Run::Build, STAYS)]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    site.running(&job, Run::Build).await;
    let name = Run::Build.of_job(&job.id);
    site.nomad.lose_node(&name);
    assert_eq!(
        kind(&site.ending(&job, Run::Build).await),
        Some(FailureKind::NodeLost)
    );
    assert_eq!(
        site.scheduler.start(&job, Run::Build).await.unwrap(),
        Started::Already
    );
    assert_eq!(site.nomad.placements(&name), 1);
}

#[tokio::test]
async fn a_result_that_is_gone_is_read_from_the_log() {
    let site = Site::new().await;
    let job = site.submitted(&[(Run::Build, "echo ok")]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    let before = site.ending(&job, Run::Build).await;
    site.nomad.remove_result(&Run::Build.of_job(&job.id));
    assert_eq!(site.ending(&job, Run::Build).await, before);
    let (lines, lost) = site.said(&job, Run::Build).await;
    assert!(!lost && lines.contains(&"ok".to_owned()));
    assert!(
        !lines.iter().any(|line| line.starts_with("result: ")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_result_in_several_files_of_a_log_is_read() {
    let site = Site::new().await;
    // Wherever the record begins, an end of a file is in it, or behind it.
    site.nomad.rotate_at(150);
    let job = site.submitted(&[(Run::Build, "echo ok")]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    let before = site.ending(&job, Run::Build).await;
    site.nomad.remove_result(&Run::Build.of_job(&job.id));
    assert_eq!(site.ending(&job, Run::Build).await, before);
}

#[tokio::test]
async fn files_that_the_node_forgot_are_said_to_be() {
    let site = Site::new().await;
    let job = site.submitted(&[(Run::Build, ""), (Run::TestCommand(0), "")]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    let Ending::Succeeded {
        outcome: Outcome::Built(built),
    } = site.ending(&job, Run::Build).await
    else {
        panic!("it builds");
    };
    let job = Job {
        built: Some(built),
        ..job
    };
    site.scheduler
        .start(&job, Run::TestCommand(0))
        .await
        .unwrap();
    site.ending(&job, Run::TestCommand(0)).await;
    for run in [Run::Build, Run::TestCommand(0)] {
        site.nomad.collect_files(&run.of_job(&job.id));
    }
    assert_eq!(
        kind(&site.ending(&job, Run::Build).await),
        Some(FailureKind::Collected),
        "nobody knows the digest"
    );
    let tested = Ending::Succeeded {
        outcome: Outcome::Tested,
    };
    assert_eq!(
        site.ending(&job, Run::TestCommand(0)).await,
        tested,
        "the exit code says enough"
    );
    assert_eq!(site.said(&job, Run::Build).await, (vec![], true));
    let seen = site.observed(&job, Run::Build).await.unwrap();
    assert!(seen.unaccounted, "what it had pushed nobody can say");
}

#[tokio::test]
async fn an_end_that_the_record_knows_stays_whatever_nomad_forgets() {
    let site = Site::new().await;
    let mut job = site.submitted(&[(Run::Build, "")]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    site.ending(&job, Run::Build).await;
    let known = site.observed(&job, Run::Build).await.unwrap();
    assert!(!known.unaccounted);
    job.runs.insert(Run::Build, known.clone());
    site.nomad.collect_files(&Run::Build.of_job(&job.id));
    assert_eq!(site.observed(&job, Run::Build).await, Some(known));
    site.nomad.collect_job(&Run::Build.of_job(&job.id));
    assert_eq!(site.observed(&job, Run::Build).await, None);
    assert_eq!(site.said(&job, Run::Build).await, (vec![], true));
}

#[tokio::test]
async fn a_log_that_rotates_is_whole_or_says_what_is_lost() {
    let site = Site::new().await;
    site.nomad.rotate_at(1000);
    let many = "for i in $(seq 1 100); do echo line $i of many; done";
    let job = site.submitted(&[(Run::Build, many)]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    site.ending(&job, Run::Build).await;
    let (lines, lost) = site.said(&job, Run::Build).await;
    let wanted: Vec<String> = (1..=100)
        .map(|index| format!("line {index} of many"))
        .collect();
    let said: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("line"))
        .collect();
    assert_eq!(said, wanted.iter().collect::<Vec<_>>());
    assert!(!lost);
    let more = "for i in $(seq 1 1000); do echo line $i of many; done";
    let job = site.submitted(&[(Run::Build, more)]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    site.ending(&job, Run::Build).await;
    let (lines, lost) = site.said(&job, Run::Build).await;
    assert!(lost && lines.iter().any(|line| line == "line 1000 of many"));
    assert!(
        !lines.iter().any(|line| line == "line 1 of many"),
        "ten files are kept"
    );
}

#[tokio::test]
async fn the_end_of_a_rotated_log_is_read_backwards() {
    let site = Site::new().await;
    site.nomad.rotate_at(1000);
    let job = site.submitted(&[(
        Run::Build,
        "for i in $(seq 1 100); do echo line $i of many; done",
    )]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    site.ending(&job, Run::Build).await;
    let end = site.scheduler.log_end(&job, Run::Build).await.unwrap();
    for back in [100, 1500] {
        let from = Position {
            out: end.out.saturating_sub(back),
            ..end
        };
        let chunk = site
            .scheduler
            .read_log(&job, Run::Build, from, 1 << 20, Duration::ZERO)
            .await
            .unwrap();
        assert!(chunk.complete && !chunk.lost, "{back}");
        let bytes: usize = chunk.lines.iter().map(|line| line.text.len()).sum();
        assert!(bytes > 0 && bytes as u64 <= back, "{bytes} of {back}");
    }
}

#[tokio::test]
async fn many_readers_of_one_run_ask_nomad_no_more_than_one() {
    let site = Site::new().await;
    let job = site.submitted(&[(Run::Build, STAYS)]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    site.running(&job, Run::Build).await;
    let end = loop {
        let chunk =
            site.scheduler
                .read_log(&job, Run::Build, Position::default(), 1 << 20, patience());
        let chunk = chunk.await.unwrap();
        if chunk.lines.iter().any(|line| line.text == "here") {
            break chunk.next;
        }
    };
    site.nomad.count_anew();
    let read = || {
        site.scheduler
            .read_log(&job, Run::Build, end, 1000, Duration::from_secs(1))
    };
    let chunks = join_all((0..50).map(|_| read())).await;
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.as_ref().unwrap().lines.is_empty())
    );
    assert!(
        site.nomad.requests() < 60,
        "{} requests",
        site.nomad.requests()
    );
    assert!(
        site.nomad.most_at_once() <= 5,
        "{} at once",
        site.nomad.most_at_once()
    );
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_may_not_is_said() {
    let site = Site::new().await;
    let job = site.submitted(&[(Run::Build, "")]);
    site.nomad.fail("/v1/jobs", 2, 500, "No cluster leader");
    assert_eq!(
        site.scheduler.start(&job, Run::Build).await.unwrap(),
        Started::Now
    );
    site.nomad.fail("/v1/jobs", 1, 429, "too many requests");
    site.scheduler.healthy().await.unwrap_err();
    site.scheduler.healthy().await.unwrap();
    site.nomad.fail("/v1/jobs", 1, 403, "Permission denied");
    let error = site.scheduler.observe(&job).await.unwrap_err();
    assert!(matches!(error, SchedulerError::Refused(_)), "{error:?}");
    assert!(error.to_string().contains("nomad.token_file"), "{error}");
    site.nomad.fail("/v1/jobs", 9, 503, "rpc error");
    let error = site.scheduler.observe(&job).await.unwrap_err();
    assert!(
        matches!(error, SchedulerError::Unreachable { .. }),
        "never an empty answer: {error:?}"
    );
}

#[tokio::test]
async fn a_start_whose_answer_got_lost_is_one_start() {
    let site = Site::new().await;
    let job = site.submitted(&[(Run::Build, "")]);
    site.nomad.lose_answers("/v1/jobs", 1);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    site.ending(&job, Run::Build).await;
    assert_eq!(site.nomad.placements(&Run::Build.of_job(&job.id)), 1);
}

#[tokio::test]
async fn changes_are_told_after_the_event_stream_broke() {
    let site = Site::new().await;
    let job = site.submitted(&[(Run::Build, STAYS)]);
    site.scheduler.start(&job, Run::Build).await.unwrap();
    site.running(&job, Run::Build).await;
    site.nomad
        .fail("/v1/event/stream", 1, 500, "No cluster leader");
    site.nomad.drop_streams();
    site.scheduler.stop(&job, Run::Build).await.unwrap();
    assert_eq!(site.ending(&job, Run::Build).await, Ending::Cancelled);
}

#[tokio::test]
async fn a_replica_sees_and_ends_what_another_started() {
    let site = Site::new().await;
    let job = site.submitted(&[(Run::Build, STAYS)]);
    let other = site.replica();
    let (a, b) = tokio::join!(
        site.scheduler.start(&job, Run::Build),
        other.start(&job, Run::Build)
    );
    let firsts = [a.unwrap(), b.unwrap()]
        .iter()
        .filter(|it| **it == Started::Now)
        .count();
    assert_eq!(firsts, 1);
    site.running(&job, Run::Build).await;
    other.stop(&job, Run::Build).await.unwrap();
    assert_eq!(site.ending(&job, Run::Build).await, Ending::Cancelled);
    assert_eq!(
        other.observe(&job).await.unwrap(),
        site.scheduler.observe(&job).await.unwrap()
    );
}

#[tokio::test]
async fn no_word_of_a_user_is_in_the_job_as_it_is() {
    const EVIL: &str = "x ${attr.unique.hostname} %{ if true } {{ key }} $(touch /pwned)";
    let site = Site::new().await;
    let mut job = site.submitted(&[(Run::Build, "")]);
    job.config.build_args = [("A".to_owned(), EVIL.to_owned())].into();
    site.scheduler.start(&job, Run::Build).await.unwrap();
    let registered = site
        .nomad
        .registered(&Run::Build.of_job(&job.id))
        .unwrap()
        .to_string();
    assert!(
        !registered.contains("pwned") && !registered.contains("unique.hostname"),
        "{registered}"
    );
    assert!(matches!(
        site.ending(&job, Run::Build).await,
        Ending::Succeeded { .. }
    ));
}

#[tokio::test]
async fn a_doctor_says_what_works_and_what_does_not() {
    let site = Site::new().await;
    let findings = site.scheduler.doctor().await;
    let bad: Vec<_> = findings
        .iter()
        .filter(|it| it.verdict != Verdict::Ok)
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(findings.iter().any(|it| it.check == "driver"));
    site.nomad.fail("/v1/var/", 10, 403, "Permission denied");
    let findings = site.scheduler.doctor().await;
    let of = |check| findings.iter().find(|it| it.check == check).unwrap();
    assert_eq!(of("variables").verdict, Verdict::Fail);
    assert!(
        of("variables")
            .mend
            .as_ref()
            .unwrap()
            .contains("buildctl/*")
    );
    site.nomad.require_token("t");
    let findings = site.scheduler.doctor().await;
    assert_eq!(findings[0].verdict, Verdict::Fail, "{findings:?}");
}

#[tokio::test]
async fn a_probe_tells_whether_buildah_works_and_leaves_nothing() {
    let site = Site::new().await;
    let findings = site
        .scheduler
        .probe(&[buildctl::config::Tier::Rootless])
        .await;
    let able = ["buildah", "git", "unshare"].iter().all(|program| {
        let path = std::env::var_os("PATH").unwrap();
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    });
    let wanted = if able { Verdict::Ok } else { Verdict::Warn };
    assert_eq!(findings[0].verdict, wanted, "{findings:?}");
    let api = &site.nomad;
    assert!(api.registered("buildctl-probe").is_none());
}

#[tokio::test]
async fn a_list_fetches_only_what_changed() {
    let site = Site::new().await;
    let ledger = site.ledger();
    let mut jobs: Vec<Job> = (0..100)
        .map(|_| Job::new(JobId::random(), config(0), Timestamp::now()))
        .collect();
    for job in &jobs {
        ledger.create(job).await.unwrap();
    }
    let other = site.ledger();
    assert_eq!(other.list().await.unwrap().len(), 100);
    jobs[7].state = State::Building;
    let version = ledger.get(jobs[7].id).await.unwrap().unwrap().version;
    ledger.replace(&jobs[7], version).await.unwrap();
    ledger.remove(jobs[8].id).await.unwrap();
    site.nomad.count_anew();
    let listed = other.list().await.unwrap();
    assert_eq!(site.nomad.requests(), 2, "the list, and what changed");
    assert_eq!(listed.len(), 99);
    let changed = listed
        .iter()
        .find(|record| record.job.id == jobs[7].id)
        .unwrap();
    assert_eq!(changed.job.state, State::Building);
}

#[tokio::test]
async fn a_creation_whose_answer_got_lost_is_one_creation() {
    let site = Site::new().await;
    let ledger = site.ledger();
    let job = Job::new(JobId::random(), config(0), Timestamp::now());
    site.nomad.lose_answers("/v1/var", 1);
    assert_eq!(ledger.create(&job).await.unwrap(), Created::Now);
    site.nomad.lose_answers("/v1/var", 1);
    assert_eq!(ledger.claim("image-a", job.id).await.unwrap(), Claim::Held);
    assert_eq!(ledger.get(job.id).await.unwrap().unwrap().job, job);
}

#[tokio::test]
async fn a_record_that_does_not_fit_is_refused_before_nomad_does() {
    let site = Site::new().await;
    let mut job = Job::new(JobId::random(), config(0), Timestamp::now());
    let noise = (0..4000).map(|_| JobId::random().to_string()).collect();
    job.config.labels = [("noise".to_owned(), noise)].into();
    let error = site.ledger().create(&job).await.unwrap_err();
    assert!(
        matches!(error, LedgerError::TooLong(_)) && error.to_string().contains("65536"),
        "{error}"
    );
    assert_eq!(site.nomad.requests(), 0);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_left_out_of_lists() {
    let site = Site::new().await;
    let job = Job::new(JobId::random(), config(0), Timestamp::now());
    site.ledger().create(&job).await.unwrap();
    let broken = JobId::random();
    let url = format!("{}/v1/var/buildctl/jobs/{broken}", site.nomad.address);
    let body = json!({"Items": {"record": "{"}}).to_string();
    let request = reqwest::Client::new()
        .put(url)
        .header("content-type", "application/json");
    request
        .body(body)
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let listed = site.ledger().list().await.unwrap();
    assert_eq!(listed.len(), 1);
    let error = site.ledger().get(broken).await.unwrap_err();
    assert!(error.to_string().contains(&broken.to_string()), "{error}");
}
