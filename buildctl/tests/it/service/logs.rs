//! Pages of logs.

use std::num::NonZeroUsize;

use buildctl::{
    logs::{Cursor, Line},
    metrics::{Metered, Metrics},
    phase::Phase,
    service::{BuildError, LogPage, LogQuery},
};

use super::*;

/// A job that has ended, whose runs said that.
async fn ended(bench: &Bench) -> JobId {
    let id = bench.submit(config("app")).await;
    bench.settled(id).await;
    id
}

fn bench() -> Bench {
    Bench::with(&|_, run| match run {
        Run::Build => Play::default().saying((0..3000).map(|n| format!("step {n} of the build"))),
        Run::TestCommand(0) => Play::default().saying(["test a", "E: cannot open file", "test c"]),
        Run::Publish => Play::default().saying(["pushed"]),
        _ => Play::default(),
    })
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

async fn page(bench: &Bench, id: JobId, query: LogQuery) -> LogPage {
    bench.service.logs(id, query).await.unwrap()
}

#[tokio::test]
async fn pages_one_after_the_other_are_the_whole_log_in_order() {
    let bench = bench();
    let id = ended(&bench).await;
    let whole = page(&bench, id, LogQuery::default()).await;
    assert!(whole.complete && !whole.more && !whole.lost);
    let runs: Vec<Run> = whole.lines.iter().map(|line| line.run).collect();
    assert!(runs.is_sorted() && whole.lines.len() == 3004);
    let (mut lines, mut cursor, mut pages) = (Vec::new(), None::<Cursor>, 0);
    loop {
        let max_bytes = Some(5000);
        // As a client keeps it.
        let kept = cursor.map(|cursor| cursor.to_string().parse().unwrap());
        let next = page(
            &bench,
            id,
            LogQuery {
                cursor: kept,
                max_bytes,
                ..LogQuery::default()
            },
        )
        .await;
        let bytes: usize = next.lines.iter().map(|line| line.text.len()).sum();
        assert!(bytes <= 5100, "{bytes} bytes in one page");
        lines.extend(next.lines);
        pages += 1;
        assert_ne!(next.more, next.complete);
        cursor = Some(next.next);
        if next.complete {
            break;
        }
    }
    assert!(pages > 10);
    assert_eq!(lines, whole.lines);
}

#[tokio::test]
async fn a_tail_is_the_end_of_the_log_across_runs() {
    let bench = bench();
    let id = ended(&bench).await;
    let tail = |n| LogQuery {
        tail: NonZeroUsize::new(n),
        ..LogQuery::default()
    };
    let last = page(&bench, id, tail(6)).await;
    assert_eq!(
        texts(&last.lines),
        [
            "step 2998 of the build",
            "step 2999 of the build",
            "test a",
            "E: cannot open file",
            "test c",
            "pushed"
        ]
    );
    assert!(last.complete);
    assert_eq!(texts(&page(&bench, id, tail(1)).await.lines), ["pushed"]);
    assert_eq!(page(&bench, id, tail(1_000_000)).await.lines.len(), 3004);
    let after = LogQuery {
        cursor: Some(last.next),
        ..LogQuery::default()
    };
    assert!(page(&bench, id, after).await.lines.is_empty());
}

#[tokio::test]
async fn a_phase_or_an_expression_picks_lines() {
    let bench = bench();
    let id = ended(&bench).await;
    let phase = LogQuery {
        phase: Some(Phase::Test),
        ..LogQuery::default()
    };
    assert_eq!(texts(&page(&bench, id, phase).await.lines).len(), 3);
    let grep = LogQuery {
        grep: Some("step 29+ of".to_owned()),
        ..LogQuery::default()
    };
    assert_eq!(
        texts(&page(&bench, id, grep.clone()).await.lines),
        [
            "step 29 of the build",
            "step 299 of the build",
            "step 2999 of the build"
        ]
    );
    let last = LogQuery {
        tail: NonZeroUsize::new(1),
        ..grep
    };
    assert_eq!(
        texts(&page(&bench, id, last).await.lines),
        ["step 2999 of the build"]
    );
    let wrong = LogQuery {
        grep: Some("(".to_owned()),
        ..LogQuery::default()
    };
    assert!(matches!(
        bench.service.logs(id, wrong).await,
        Err(BuildError::BadRequest(_))
    ));
}

#[tokio::test]
async fn a_digest_shows_errors_and_what_surrounds_them() {
    let bench = bench();
    let id = ended(&bench).await;
    let digest = LogQuery {
        errors_only: true,
        ..LogQuery::default()
    };
    let lines = page(&bench, id, digest).await.lines;
    let texts = texts(&lines);
    assert!(texts[0].ends_with("lines left out]"), "{texts:?}");
    assert!(
        texts.contains(&"E: cannot open file") && texts.contains(&"test c") && texts.len() < 12,
        "{texts:?}"
    );
}

#[tokio::test]
async fn what_was_rotated_away_is_said_to_be_lost() {
    let bench = bench();
    let id = ended(&bench).await;
    bench.engine.rotate(id, Run::Build, 1000);
    let rest = page(&bench, id, LogQuery::default()).await;
    assert!(rest.lost && rest.complete && rest.lines.len() < 3004);
    let on = page(
        &bench,
        id,
        LogQuery {
            cursor: Some(rest.next),
            ..LogQuery::default()
        },
    )
    .await;
    assert!(!on.lost);
}

#[tokio::test]
async fn logs_that_were_collected_are_lost_and_no_error() {
    let bench = bench();
    let id = ended(&bench).await;
    bench.engine.set_logs_missing(true);
    let gone = page(&bench, id, LogQuery::default()).await;
    assert!(gone.lost && gone.complete && gone.lines.is_empty());
    let tail = LogQuery {
        tail: NonZeroUsize::new(5),
        ..LogQuery::default()
    };
    assert!(page(&bench, id, tail).await.lines.is_empty());
}

#[tokio::test]
async fn the_log_of_a_job_that_goes_on_is_not_complete() {
    let bench = Bench::with(&|_, _| Play::endless().saying(["here"]));
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    let seen = page(&bench, id, LogQuery::default()).await;
    assert_eq!(
        (texts(&seen.lines), seen.complete, seen.more),
        (vec!["here"], false, false)
    );
}

#[tokio::test]
async fn a_tail_reads_little_of_a_long_log() {
    let bench = Bench::with(&|_, run| match run {
        Run::Build => Play::default().saying((0..40_000).map(|n| format!("{n:0100}"))),
        _ => Play::default(),
    });
    let id = ended(&bench).await;
    let counted = Arc::new(Metrics::default());
    let engine = Arc::new(Metered::new(
        Arc::new(bench.engine.clone()),
        counted.clone(),
    ));
    let reconciler = Reconciler::new(
        bench.ledger.clone(),
        engine.clone(),
        policy(),
        Webhooks::default(),
    );
    let service = Service::new(
        bench.ledger.clone(),
        engine,
        reconciler.with_clock(bench.clock.clone()),
    );
    let tail = LogQuery {
        tail: NonZeroUsize::new(100),
        ..LogQuery::default()
    };
    let last = service.logs(id, tail).await.unwrap();
    assert_eq!(
        (last.lines.len(), last.lines[99].text.as_str()),
        (100, format!("{:0100}", 39_999).as_str())
    );
    let text = counted.exposition(bench.clock.now());
    let read = text
        .lines()
        .find_map(|line| line.strip_prefix("buildctl_log_bytes_total "));
    let read: u64 = read.unwrap().parse().unwrap();
    assert!(read < 200_000, "{read} of 4,000,000 bytes were read");
}
