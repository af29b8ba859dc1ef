use std::{os::unix::fs::PermissionsExt, thread, time::Instant};

use futures_util::StreamExt;
use jiff::Timestamp;
use runyard_common::testing::{TempDir, patience, tempdir};
use tokio::time::timeout;

use super::*;
use crate::{api::JobConfig, job::State};

fn job(created: i64) -> Job {
    let at = Timestamp::from_second(created).unwrap();
    let config = JobConfig {
        owner: "o".into(),
        ..JobConfig::default()
    };
    Job::new(JobId::random(), config, at)
}

struct Desk {
    _folder: TempDir,
    root: StateRoot,
    ledger: DirectoryLedger,
}

impl Desk {
    fn new() -> Self {
        let folder = tempdir();
        let root = StateRoot::open(&folder.path().join("state")).unwrap();
        Self {
            _folder: folder,
            ledger: DirectoryLedger::new(root.clone()),
            root,
        }
    }

    async fn created(&self, second: i64) -> Job {
        let job = job(second);
        assert_eq!(self.ledger.create(&job).await.unwrap(), Created::Now);
        job
    }
}

#[tokio::test]
async fn a_record_is_created_once_and_replaced_by_version() {
    let desk = Desk::new();
    let mut job = desk.created(1).await;
    let Created::Already(there) = desk.ledger.create(&job).await.unwrap() else {
        panic!("it is there");
    };
    assert_eq!((there.version, &there.job), (1, &job));
    job.state = State::Building;
    assert_eq!(
        desk.ledger.replace(&job, 1).await.unwrap(),
        Replaced::Now(2)
    );
    assert_eq!(
        desk.ledger.replace(&job, 1).await.unwrap(),
        Replaced::Conflict
    );
    let found = desk.ledger.get(job.id).await.unwrap().unwrap();
    assert_eq!(found, Versioned { job, version: 2 });
    let path = desk.root.job(found.job.id).join("record.json");
    let mode = fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a record may hold a webhook's secret");
}

#[tokio::test]
async fn a_removed_record_leaves_no_folder_and_may_come_again() {
    let desk = Desk::new();
    let job = desk.created(1).await;
    desk.ledger.remove(job.id).await.unwrap();
    desk.ledger.remove(job.id).await.unwrap();
    assert!(!desk.root.job(job.id).exists());
    assert_eq!(desk.ledger.get(job.id).await.unwrap(), None);
    assert_eq!(
        desk.ledger.replace(&job, 1).await.unwrap(),
        Replaced::Conflict
    );
    assert_eq!(desk.ledger.create(&job).await.unwrap(), Created::Now);
}

#[tokio::test]
async fn a_removed_record_leaves_the_runs_that_are_not_collected() {
    let desk = Desk::new();
    let job = desk.created(1).await;
    let runs = desk.root.job(job.id).join("runs/build");
    make_folder(&runs).unwrap();
    desk.ledger.remove(job.id).await.unwrap();
    assert!(runs.exists());
    assert_eq!(desk.ledger.list().await.unwrap(), []);
}

#[tokio::test]
async fn of_many_replacements_of_a_version_one_wins() {
    let desk = Desk::new();
    let job = desk.created(1).await;
    let attempts: Vec<_> = (0..8)
        .map(|_| {
            // A ledger of its own shares nothing but the files, as another process would.
            let folder = DirectoryLedger::new(desk.root.clone()).folder;
            let job = job.clone();
            thread::spawn(move || folder.replace(&job, 1).unwrap())
        })
        .collect();
    let outcomes = attempts.into_iter().map(|it| it.join().unwrap());
    let won = outcomes.filter(|outcome| *outcome == Replaced::Now(2));
    assert_eq!(won.count(), 1);
}

#[tokio::test]
async fn a_list_is_newest_first_and_reads_only_what_changed() {
    let desk = Desk::new();
    let jobs: Vec<_> = (0..1000).map(job).collect();
    for job in &jobs {
        // Without the syncs of a creation, which a thousand times would take long.
        let folder = desk.root.job(job.id);
        make_folder(&folder).unwrap();
        let bytes = serde_json::to_vec(&Envelope { version: 1, job }).unwrap();
        fs::write(folder.join("record.json"), bytes).unwrap();
    }
    let ids = |listed: Vec<Versioned>| listed.iter().map(|it| it.job.id).collect::<Vec<_>>();
    let newest_first: Vec<_> = jobs.iter().rev().map(|job| job.id).collect();
    assert_eq!(ids(desk.ledger.list().await.unwrap()), newest_first);

    let mut changed = jobs[500].clone();
    changed.state = State::Failed;
    desk.ledger.replace(&changed, 1).await.unwrap();
    desk.ledger.remove(jobs[0].id).await.unwrap();
    let began = Instant::now();
    let listed = desk.ledger.list().await.unwrap();
    println!("1000 jobs, again: {:?}", began.elapsed());
    assert_eq!(listed.len(), 999);
    assert_eq!(listed[499].job, changed);
}

#[tokio::test]
async fn a_corrupt_record_is_named_and_stops_nobody_else() {
    let desk = Desk::new();
    let (broken, fine) = (desk.created(1).await, desk.created(2).await);
    let path = desk.root.job(broken.id).join("record.json");
    assert_eq!(
        desk.ledger.claim("k", broken.id).await.unwrap(),
        Claim::Held
    );
    fs::write(&path, r#"{"version": 1, "job": {"id""#).unwrap();
    let Err(LedgerError::Corrupt { place, .. }) = desk.ledger.get(broken.id).await else {
        panic!("it is corrupt");
    };
    assert_eq!(Path::new(&place), path);
    for _ in 0..2 {
        let listed = desk.ledger.list().await.unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0].job.id, fine.id);
    }
    assert_eq!(desk.ledger.claim("k", fine.id).await.unwrap(), Claim::Held);
}

#[tokio::test]
async fn a_claim_is_exclusive_until_its_holder_ends_or_is_gone() {
    let desk = Desk::new();
    let (first, second) = (desk.created(1).await, desk.created(2).await);
    let ledger = &desk.ledger;
    assert_eq!(ledger.claim("k", first.id).await.unwrap(), Claim::Held);
    assert_eq!(ledger.claim("k", first.id).await.unwrap(), Claim::Held);
    assert_eq!(
        ledger.claim("k", second.id).await.unwrap(),
        Claim::HeldBy(first.id)
    );
    assert_eq!(ledger.claim("other", second.id).await.unwrap(), Claim::Held);
    // Not its holder's to give up.
    ledger.release("k", second.id).await.unwrap();
    assert_eq!(
        ledger.claim("k", second.id).await.unwrap(),
        Claim::HeldBy(first.id)
    );

    let mut ended = first.clone();
    ended.state = State::Failed;
    ledger.replace(&ended, 1).await.unwrap();
    assert_eq!(ledger.claim("k", second.id).await.unwrap(), Claim::Held);
    ledger.remove(second.id).await.unwrap();
    let third = desk.created(3).await;
    assert_eq!(ledger.claim("k", third.id).await.unwrap(), Claim::Held);
    ledger.release("k", third.id).await.unwrap();
    ledger.release("k", third.id).await.unwrap();
}

#[tokio::test]
async fn of_many_claims_one_wins() {
    let desk = Desk::new();
    let mut jobs = Vec::new();
    for second in 0..6 {
        jobs.push(desk.created(second).await);
    }
    let attempts: Vec<_> = jobs
        .iter()
        .map(|job| {
            let folder = DirectoryLedger::new(desk.root.clone()).folder;
            let id = job.id;
            thread::spawn(move || folder.claim("k", id).unwrap())
        })
        .collect();
    let outcomes: Vec<_> = attempts.into_iter().map(|it| it.join().unwrap()).collect();
    let held = outcomes.iter().filter(|claim| **claim == Claim::Held);
    assert_eq!(held.count(), 1, "{outcomes:?}");
}

#[tokio::test]
async fn changes_of_any_process_are_heard() {
    let desk = Desk::new();
    let job = desk.created(1).await;
    let mut changes = DirectoryLedger::new(desk.root.clone()).changes();
    desk.ledger.replace(&job, 1).await.unwrap();
    assert_eq!(
        timeout(patience(), changes.next()).await.unwrap(),
        Some(job.id)
    );
    desk.ledger.healthy().await.unwrap();
}

#[tokio::test]
async fn a_root_that_cannot_be_written_says_which_and_what_to_do() {
    let desk = Desk::new();
    // A file where a folder should be is refused to root, too.
    let jobs = desk.root.jobs();
    fs::remove_dir(&jobs).unwrap();
    fs::write(&jobs, "").unwrap();
    let error = desk.ledger.create(&job(1)).await.unwrap_err();
    assert!(
        error.to_string().contains(&jobs.display().to_string()),
        "{error}"
    );
    let error = desk.ledger.healthy().await.unwrap_err();
    assert!(
        error.to_string().contains(&jobs.display().to_string()),
        "{error}"
    );
}
