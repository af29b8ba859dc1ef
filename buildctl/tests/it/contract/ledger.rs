//! The contract of `buildctl::ledger`.

use std::sync::Arc;

use buildctl::{
    api::JobConfig,
    clock::later,
    job::{Job, JobId, State},
    ledger::{Claim, Created, Replaced, SharedLedger, memory::MemoryLedger},
};
use futures_util::{StreamExt, future::join_all};
use jiff::Timestamp;
use runyard_common::testing::patience;
use tokio::time::timeout;

/// Somewhere to keep records.
pub(crate) trait Books: Sync {
    /// The ledger, as another process would open it: always the same records.
    fn open(&self) -> SharedLedger;
}

/// The ledger of tests.
#[derive(Default)]
pub(crate) struct Memory(Arc<MemoryLedger>);

impl Books for Memory {
    fn open(&self) -> SharedLedger {
        self.0.clone()
    }
}

/// Makes a test of each promise, on what `$maker` makes; nothing, if it makes nothing and has said why.
macro_rules! ledger_contract {
    ($backend:ident, $maker:expr) => {
        crate::contract::ledger::ledger_contract!(@each $backend, $maker,
            a_record_reads_as_it_was_written
            a_second_creation_changes_nothing
            a_record_is_replaced_by_its_present_version_only
            of_many_that_replace_at_once_each_change_is_kept
            what_is_removed_is_gone
            records_are_listed_newest_first
            a_claim_is_exclusive
            of_many_that_claim_at_once_one_holds
            a_claim_is_given_up_by_its_holder_only
            a_claim_of_a_job_that_ended_or_is_gone_is_stale
            claims_on_different_images_have_nothing_to_do_with_each_other
            changes_are_told_to_other_processes
            a_ledger_in_order_is_healthy
        );
    };
    (@each $backend:ident, $maker:expr, $($claim:ident)*) => {
        mod $backend {
            mod ledger {
                use super::super::*;
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $claim() {
                        if let Some(books) = $maker.await {
                            crate::contract::ledger::$claim(&books).await;
                        }
                    }
                )*
            }
        }
    };
}
pub(crate) use ledger_contract;

fn job(name: &str, seconds: u64) -> Job {
    let config = JobConfig {
        owner: "o".to_owned(),
        image_name: format!("{name} with \"quotes\", ${{braces}} and ünïcode"),
        webhook_secret: "kept".to_owned(),
        ..JobConfig::default()
    };
    let start = Timestamp::constant(1_763_000_000, 123_456_789);
    Job::new(
        JobId::random(),
        config,
        later(start, std::time::Duration::from_secs(seconds)),
    )
}

async fn version(ledger: &SharedLedger, id: JobId) -> u64 {
    ledger.get(id).await.unwrap().unwrap().version
}

pub(crate) async fn a_record_reads_as_it_was_written(books: &impl Books) {
    let job = job("a", 0);
    assert_eq!(books.open().get(job.id).await.unwrap(), None);
    assert_eq!(books.open().create(&job).await.unwrap(), Created::Now);
    assert_eq!(books.open().get(job.id).await.unwrap().unwrap().job, job);
}

pub(crate) async fn a_second_creation_changes_nothing(books: &impl Books) {
    let first = job("a", 0);
    let second = Job {
        id: first.id,
        ..job("b", 1)
    };
    let ledger = books.open();
    ledger.create(&first).await.unwrap();
    match books.open().create(&second).await.unwrap() {
        Created::Already(known) => {
            assert_eq!(known.job, first);
            assert_eq!(known.version, version(&ledger, first.id).await);
        }
        Created::Now => panic!("it was there already"),
    }
    assert_eq!(ledger.get(first.id).await.unwrap().unwrap().job, first);
}

pub(crate) async fn a_record_is_replaced_by_its_present_version_only(books: &impl Books) {
    let (ledger, other) = (books.open(), books.open());
    let mut job = job("a", 0);
    ledger.create(&job).await.unwrap();
    let old = version(&ledger, job.id).await;
    job.state = State::Building;
    let Replaced::Now(new) = other.replace(&job, old).await.unwrap() else {
        panic!("the version was the present one");
    };
    assert!(new > old);
    assert_eq!(new, version(&ledger, job.id).await);
    let stale = Job {
        state: State::Failed,
        ..job.clone()
    };
    assert_eq!(
        ledger.replace(&stale, old).await.unwrap(),
        Replaced::Conflict
    );
    assert_eq!(ledger.get(job.id).await.unwrap().unwrap().job, job);
}

pub(crate) async fn of_many_that_replace_at_once_each_change_is_kept(books: &impl Books) {
    let ledger = books.open();
    let job = job("a", 0);
    ledger.create(&job).await.unwrap();
    let writers = (0..8).map(|writer| {
        let (ledger, id) = (books.open(), job.id);
        tokio::spawn(async move {
            loop {
                let mut known = ledger.get(id).await.unwrap().unwrap();
                known.job.config.image_tags.push(format!("v{writer}"));
                if ledger.replace(&known.job, known.version).await.unwrap() != Replaced::Conflict {
                    return;
                }
            }
        })
    });
    join_all(writers)
        .await
        .into_iter()
        .for_each(|writer| writer.unwrap());
    let mut tags = ledger
        .get(job.id)
        .await
        .unwrap()
        .unwrap()
        .job
        .config
        .image_tags;
    tags.sort();
    let all: Vec<String> = (0..8).map(|writer| format!("v{writer}")).collect();
    assert_eq!(tags, all);
}

pub(crate) async fn what_is_removed_is_gone(books: &impl Books) {
    let ledger = books.open();
    let job = job("a", 0);
    ledger.create(&job).await.unwrap();
    let known = version(&ledger, job.id).await;
    ledger.remove(job.id).await.unwrap();
    assert_eq!(books.open().get(job.id).await.unwrap(), None);
    assert_eq!(
        ledger.replace(&job, known).await.unwrap(),
        Replaced::Conflict
    );
    assert_eq!(ledger.get(job.id).await.unwrap(), None);
    ledger.remove(job.id).await.unwrap();
    assert_eq!(ledger.create(&job).await.unwrap(), Created::Now);
}

pub(crate) async fn records_are_listed_newest_first(books: &impl Books) {
    let ledger = books.open();
    let jobs = [job("b", 20), job("a", 10), job("c", 30)];
    for job in &jobs {
        ledger.create(job).await.unwrap();
    }
    let listed = books.open().list().await.unwrap();
    let ids: Vec<JobId> = listed.iter().map(|known| known.job.id).collect();
    assert_eq!(ids, [jobs[2].id, jobs[0].id, jobs[1].id]);
    for known in listed {
        assert_eq!(ledger.get(known.job.id).await.unwrap(), Some(known));
    }
}

pub(crate) async fn a_claim_is_exclusive(books: &impl Books) {
    let ledger = books.open();
    let (first, second) = (job("a", 0), job("b", 1));
    ledger.create(&first).await.unwrap();
    ledger.create(&second).await.unwrap();
    let key = "registry.test:5000/app main";
    assert_eq!(ledger.claim(key, first.id).await.unwrap(), Claim::Held);
    assert_eq!(
        books.open().claim(key, first.id).await.unwrap(),
        Claim::Held
    );
    assert_eq!(
        books.open().claim(key, second.id).await.unwrap(),
        Claim::HeldBy(first.id)
    );
}

pub(crate) async fn of_many_that_claim_at_once_one_holds(books: &impl Books) {
    let mut claims = Vec::new();
    for index in 0..8 {
        let job = job("a", index);
        books.open().create(&job).await.unwrap();
        claims.push((books.open(), job.id));
    }
    let claims = claims.into_iter().map(|(ledger, id)| {
        tokio::spawn(async move { (id, ledger.claim("image", id).await.unwrap()) })
    });
    let claims: Vec<(JobId, Claim)> = join_all(claims)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let holders: Vec<JobId> = claims
        .iter()
        .filter(|(_, claim)| *claim == Claim::Held)
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(holders.len(), 1);
    assert!(
        claims
            .iter()
            .all(|(id, claim)| *id == holders[0] || *claim == Claim::HeldBy(holders[0]))
    );
}

pub(crate) async fn a_claim_is_given_up_by_its_holder_only(books: &impl Books) {
    let ledger = books.open();
    let (first, second) = (job("a", 0), job("b", 1));
    ledger.create(&first).await.unwrap();
    ledger.create(&second).await.unwrap();
    ledger.release("image", first.id).await.unwrap();
    ledger.claim("image", first.id).await.unwrap();
    ledger.release("image", second.id).await.unwrap();
    assert_eq!(
        ledger.claim("image", second.id).await.unwrap(),
        Claim::HeldBy(first.id)
    );
    books.open().release("image", first.id).await.unwrap();
    assert_eq!(ledger.claim("image", second.id).await.unwrap(), Claim::Held);
}

pub(crate) async fn a_claim_of_a_job_that_ended_or_is_gone_is_stale(books: &impl Books) {
    let ledger = books.open();
    let (mut first, second, third) = (job("a", 0), job("b", 1), job("c", 2));
    for job in [&first, &second, &third] {
        ledger.create(job).await.unwrap();
    }
    ledger.claim("image", first.id).await.unwrap();
    first.state = State::Failed;
    let known = version(&ledger, first.id).await;
    ledger.replace(&first, known).await.unwrap();
    assert_eq!(
        books.open().claim("image", second.id).await.unwrap(),
        Claim::Held
    );
    ledger.remove(second.id).await.unwrap();
    assert_eq!(
        books.open().claim("image", third.id).await.unwrap(),
        Claim::Held
    );
}

pub(crate) async fn claims_on_different_images_have_nothing_to_do_with_each_other(
    books: &impl Books,
) {
    let ledger = books.open();
    let jobs = [job("a", 0), job("b", 1)];
    for (job, key) in jobs.iter().zip(["registry/a-b main", "registry/a b-main"]) {
        ledger.create(job).await.unwrap();
        assert_eq!(ledger.claim(key, job.id).await.unwrap(), Claim::Held);
    }
}

pub(crate) async fn changes_are_told_to_other_processes(books: &impl Books) {
    let (ledger, other) = (books.open(), books.open());
    let mut changes = other.changes();
    let mut job = job("a", 0);
    ledger.create(&job).await.unwrap();
    hear(&mut changes, job.id).await;
    job.state = State::Building;
    let known = version(&ledger, job.id).await;
    // What is told before this one may be of the creation still.
    let mut changes = other.changes();
    ledger.replace(&job, known).await.unwrap();
    hear(&mut changes, job.id).await;
}

async fn hear(changes: &mut (impl StreamExt<Item = JobId> + Unpin), id: JobId) {
    let heard = async { while changes.next().await != Some(id) {} };
    timeout(patience(), heard)
        .await
        .expect("the change is told");
}

pub(crate) async fn a_ledger_in_order_is_healthy(books: &impl Books) {
    books.open().healthy().await.unwrap();
}
