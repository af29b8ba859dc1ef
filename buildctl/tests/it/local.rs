//! Jobs of this machine with real supervisors and a fake runner: what is killed, when, and what becomes of the job. The fake
//! runner is a shell script that says that it began, waits for the test, and leaves the result that its run would have.

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use buildctl::{
    job::{Job, JobId, Kill, State},
    ledger::{Ledger, LedgerError, Replaced, directory::DirectoryLedger},
    phase::{Observed, Progress, Run},
    scheduler::{
        Attended, Scheduler, SchedulerError, Started,
        local::{LocalConfig, LocalScheduler},
    },
    state::StateRoot,
};
use futures_util::StreamExt;
use jiff::Timestamp;
use runyard_common::testing::{TempDir, eventually, is_alive, patience, tempdir, tool_binary};
use tokio::time::timeout;

use crate::support::{FakeRunner, GATE, asked};

/// One folder of state, with what several processes have in common.
struct Stage {
    runner: FakeRunner,
    config: LocalConfig,
    ledger: DirectoryLedger,
    scheduler: LocalScheduler,
}

impl Stage {
    fn new(script: &str) -> Self {
        let folder = tempdir();
        let state = folder.path().join("state");
        Self::at(folder, state, script)
    }

    fn at(folder: TempDir, state: PathBuf, script: &str) -> Self {
        let runner = FakeRunner::new(folder, &as_of_its_run(script));
        let mut config = runner.config(state);
        config.supervisor = tool_binary("buildctl");
        config.concurrency = NonZeroUsize::new(2).unwrap();
        config.grace = Duration::from_millis(500);
        let root = StateRoot::open(&config.root).unwrap();
        Self {
            ledger: DirectoryLedger::new(root),
            scheduler: LocalScheduler::open(config.clone(), Arc::new(|_| Ok(()))).unwrap(),
            runner,
            config,
        }
    }

    async fn submitted(&self) -> Job {
        let job = job();
        self.ledger.create(&job).await.unwrap();
        job
    }

    fn go(&self) {
        self.runner.go();
    }

    /// The runs that were begun, each as often as it was.
    fn begun(&self) -> Vec<String> {
        let mut lines = self.runner.begun();
        lines.sort();
        lines
    }

    fn job_folder(&self, job: &Job) -> PathBuf {
        self.config.root.join("jobs").join(job.id.to_string())
    }

    fn pid_of(&self, job: &Job, run: Run) -> u32 {
        let path = self.job_folder(job).join(format!("runs/{run}/pid"));
        let text = fs::read_to_string(path).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    /// All supervisors of a job, by their command lines.
    fn supervisors(job: &Job) -> Vec<u32> {
        let id = job.id.to_string();
        let is_ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.get(1) == Some(&&b"supervise"[..]) && words.contains(&id.as_bytes())
        };
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(is_ours)
            .filter(|pid| is_alive(*pid))
            .collect()
    }

    fn supervisor(&self, job: &Job) -> u32 {
        eventually(patience(), || match Self::supervisors(job)[..] {
            [one] if self.is_supervised(job) => Some(one),
            _ => None,
        })
    }

    fn is_supervised(&self, job: &Job) -> bool {
        let lock = self.job_folder(job).join("supervisor.lock");
        buildctl::state::lock::is_held(&lock).unwrap()
    }

    async fn observed(&self, job: &Job, run: Run) -> Option<Observed> {
        let all = self.scheduler.observe(job).await.unwrap();
        all.into_iter().find(|it| it.run == run)
    }

    async fn running(&self, job: &Job, run: Run) {
        let mut changes = self.scheduler.changes();
        let wait = async {
            while self.observed(job, run).await.map(|it| it.progress) != Some(Progress::Running) {
                changes.next().await;
            }
        };
        timeout(patience(), wait).await.expect("it begins");
        // The process is there; its program may still have to say so.
        let line = format!("{}/{run}", job.id);
        eventually(patience(), || self.begun().contains(&line).then_some(()));
    }

    async fn ended(&self, job: &Job) -> Job {
        let mut changes = self.ledger.changes();
        let wait = async {
            loop {
                let found = self.ledger.get(job.id).await.unwrap().unwrap();
                if found.job.state.is_terminal() {
                    return found.job;
                }
                changes.next().await;
            }
        };
        timeout(patience(), wait).await.expect("the job ends")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A test that failed leaves no supervisor waiting for a gate that nobody opens.
        let _ = fs::write(self.runner.path("go"), "");
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// What a runner does that ends as its run would, and is cancelled by SIGTERM.
fn as_of_its_run(script: &str) -> String {
    let digest = format!("sha256:{}", "a".repeat(64));
    let built = format!(
        r#"{{"outcome":"built","image_id":"x","temporary":"registry.example/temp-app:main-1","digest":"{digest}"}}"#
    );
    format!(
        r#"trap 'finish "{{\"ending\":\"cancelled\"}}"; exit 143' TERM
{script}
case $BUILDCTL_RUN in
*/build) finish '{{"ending":"succeeded","outcome":{built}}}' ;;
*/publish) finish '{{"ending":"succeeded","outcome":{{"outcome":"published","tags":[]}}}}' ;;
*/cleanup) finish '{{"ending":"succeeded","outcome":{{"outcome":"cleaned"}}}}' ;;
*) finish '{{"ending":"succeeded","outcome":{{"outcome":"tested"}}}}' ;;
esac"#
    )
}

fn job() -> Job {
    let id = JobId::random();
    // Jobs for the same image would wait for each other.
    Job::new(id, asked(&format!("app-{id}")), Timestamp::now())
}

fn once_each(job: &Job) -> [String; 2] {
    ["build", "publish"].map(|run| format!("{}/{run}", job.id))
}

#[tokio::test]
async fn a_supervisor_sees_a_job_through_and_leaves() {
    let stage = Stage::new("");
    let job = stage.submitted().await;
    assert_eq!(
        stage.scheduler.attend(job.id).await.unwrap(),
        Attended::Elsewhere
    );
    assert_eq!(stage.ended(&job).await.state, State::Succeeded);
    eventually(patience(), || {
        Stage::supervisors(&job).is_empty().then_some(())
    });
    assert_eq!(stage.begun(), once_each(&job));
}

#[tokio::test]
async fn a_supervisor_is_a_session_of_its_own_and_holds_nothing_of_its_starter() {
    let stage = Stage::new(GATE);
    let job = stage.submitted().await;
    stage.scheduler.attend(job.id).await.unwrap();
    stage.running(&job, Run::Build).await;
    let pid = stage.supervisor(&job);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    assert_eq!(fields[3], pid.to_string(), "its session is its own");
    assert_ne!(
        fields[1],
        std::process::id().to_string(),
        "nobody here has to reap it"
    );
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/")
    );
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(descriptor.path()) else {
            continue;
        };
        let target = target.display().to_string();
        let state = stage.config.root.display().to_string();
        let is_own = ["/dev/null", "anon_inode:", "socket:", "pipe:"];
        assert!(
            target.starts_with(&state) || is_own.iter().any(|own| target.starts_with(own)),
            "{target}"
        );
    }
    stage.go();
    stage.ended(&job).await;
}

#[tokio::test]
async fn many_at_once_lead_to_one_supervisor() {
    let stage = Stage::new(GATE);
    let job = stage.submitted().await;
    let attempts = (0..6).map(|_| stage.scheduler.attend(job.id));
    for attended in futures_util::future::join_all(attempts).await {
        assert_eq!(attended.unwrap(), Attended::Elsewhere);
    }
    stage.running(&job, Run::Build).await;
    stage.supervisor(&job);
    stage.go();
    assert_eq!(stage.ended(&job).await.state, State::Succeeded);
    assert_eq!(stage.begun(), once_each(&job));
}

#[tokio::test]
async fn a_supervisor_that_is_killed_is_replaced_and_its_run_goes_on() {
    let stage = Stage::new(GATE);
    let job = stage.submitted().await;
    stage.scheduler.attend(job.id).await.unwrap();
    stage.running(&job, Run::Build).await;
    let (first, runner) = (stage.supervisor(&job), stage.pid_of(&job, Run::Build));
    kill(first);
    eventually(patience(), || (!stage.is_supervised(&job)).then_some(()));
    assert!(is_alive(runner));
    stage.scheduler.attend(job.id).await.unwrap();
    assert_ne!(stage.supervisor(&job), first);
    stage.go();
    assert_eq!(stage.ended(&job).await.state, State::Succeeded);
    assert_eq!(stage.begun(), once_each(&job));
}

#[tokio::test]
async fn a_runner_that_is_killed_fails_its_job() {
    let stage = Stage::new(GATE);
    let job = stage.submitted().await;
    stage.scheduler.attend(job.id).await.unwrap();
    stage.running(&job, Run::Build).await;
    kill(stage.pid_of(&job, Run::Build));
    let ended = stage.ended(&job).await;
    assert_eq!(ended.state, State::Failed);
    let error = ended.failure.unwrap().error;
    assert!(error.contains("signal 9"), "{error}");
}

#[tokio::test]
async fn when_both_are_killed_the_next_supervisor_finds_out() {
    let stage = Stage::new(GATE);
    let job = stage.submitted().await;
    stage.scheduler.attend(job.id).await.unwrap();
    stage.running(&job, Run::Build).await;
    let (supervisor, runner) = (stage.supervisor(&job), stage.pid_of(&job, Run::Build));
    kill(supervisor);
    kill(runner);
    eventually(patience(), || {
        (!stage.is_supervised(&job) && !is_alive(runner)).then_some(())
    });
    stage.scheduler.attend(job.id).await.unwrap();
    let ended = stage.ended(&job).await;
    assert_eq!(ended.state, State::Failed);
    assert_eq!(stage.begun().len(), 1, "it is not carried out again");
}

#[tokio::test]
async fn a_job_that_waits_for_a_place_survives_its_supervisor() {
    let stage = Stage::new(GATE);
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job = stage.submitted().await;
        stage.scheduler.attend(job.id).await.unwrap();
        jobs.push(job);
        if jobs.len() < 3 {
            stage.running(&jobs[jobs.len() - 1], Run::Build).await;
        }
    }
    let last = &jobs[2];
    let mut changes = stage.scheduler.changes();
    let waits = async {
        while stage.observed(last, Run::Build).await.is_none() {
            changes.next().await;
        }
    };
    timeout(patience(), waits).await.unwrap();
    kill(stage.supervisor(last));
    eventually(patience(), || (!stage.is_supervised(last)).then_some(()));
    let waiting = stage.observed(last, Run::Build).await.unwrap().progress;
    assert!(matches!(waiting, Progress::Waiting { .. }), "{waiting:?}");
    stage.go();
    for job in &jobs[..2] {
        assert_eq!(stage.ended(job).await.state, State::Succeeded);
    }
    stage.scheduler.attend(last.id).await.unwrap();
    assert_eq!(stage.ended(last).await.state, State::Succeeded);
    assert_eq!(stage.begun().len(), 6);
}

#[tokio::test]
async fn a_wish_to_kill_reaches_the_supervisor_of_another_process() {
    let stage = Stage::new(GATE);
    let job = stage.submitted().await;
    stage.scheduler.attend(job.id).await.unwrap();
    stage.running(&job, Run::Build).await;
    let runner = stage.pid_of(&job, Run::Build);
    loop {
        let mut there = stage.ledger.get(job.id).await.unwrap().unwrap();
        there.job.kill = Some(Kill {
            at: Timestamp::now(),
            reason: None,
        });
        let replaced = stage
            .ledger
            .replace(&there.job, there.version)
            .await
            .unwrap();
        if matches!(replaced, Replaced::Now(_)) {
            break;
        }
    }
    stage.scheduler.attend(job.id).await.unwrap();
    // A supervisor that has just been told looks again at the latest when its run ends.
    assert_eq!(stage.ended(&job).await.state, State::Failed);
    eventually(patience(), || (!is_alive(runner)).then_some(()));
}

#[tokio::test]
async fn nobody_attends_to_a_job_that_is_not_there() {
    let stage = Stage::new("");
    let unknown = stage.scheduler.attend(JobId::random()).await;
    assert!(
        matches!(unknown, Err(SchedulerError::Unknown)),
        "{unknown:?}"
    );
}

/// A small filesystem, for as long as this lives.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mounted(at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(at);
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_what_was_acknowledged_stays() {
    let folder = tempdir();
    let Some(disk) = Tmpfs::mounted(&folder.path().join("disk")) else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let state = disk.0.join("state");
    let stage = Stage::at(folder, state.clone(), "");
    let mut job = stage.submitted().await;
    let filler = disk.0.join("filler");
    let _ = fs::write(&filler, vec![0; 1 << 20]);

    job.state = State::Building;
    job.config.repo_url = "x".repeat(8192);
    let full = stage.ledger.replace(&job, 1).await.unwrap_err();
    let LedgerError::Refused(text) = &full else {
        panic!("{full:?}");
    };
    assert!(
        text.contains("record.json") && text.contains("free some space"),
        "{text}"
    );
    let there = stage.ledger.get(job.id).await.unwrap().unwrap();
    assert_eq!((there.version, there.job.state), (1, State::Pending));

    let full = stage
        .scheduler
        .start(&there.job, Run::Build)
        .await
        .unwrap_err();
    assert!(matches!(full, SchedulerError::Refused(_)), "{full:?}");
    assert_eq!(stage.scheduler.observe(&there.job).await.unwrap(), []);

    fs::remove_file(filler).unwrap();
    assert_eq!(
        stage.ledger.replace(&job, 1).await.unwrap(),
        Replaced::Now(2)
    );
    let started = stage.scheduler.start(&there.job, Run::Build).await.unwrap();
    assert_eq!(started, Started::Now);
    drop(disk);
}

#[tokio::test]
async fn a_supervisor_is_small_and_quick() {
    let stage = Stage::new(GATE);
    let job = stage.submitted().await;
    let began = Instant::now();
    stage.scheduler.attend(job.id).await.unwrap();
    let attended = began.elapsed();
    stage.running(&job, Run::Build).await;
    let running = began.elapsed();
    let pid = stage.supervisor(&job);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        status
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
    };
    println!(
        "attended in {attended:?}, running in {running:?}; {}, {}",
        line("VmRSS"),
        line("RssAnon")
    );
    // Generous: other tests run beside this one, and the program is not optimised.
    assert!(running < Duration::from_secs(5), "{running:?}");
    let anonymous: u64 = line("RssAnon")
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!(anonymous < 8 << 10, "{anonymous} kB");
    stage.go();
    stage.ended(&job).await;
}
