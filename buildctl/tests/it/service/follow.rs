//! Following jobs.

use std::num::NonZeroUsize;

use buildctl::{
    logs::{Cursor, Stream},
    service::{BuildError, Event, LogQuery},
};
use futures_util::stream::BoxStream;

use super::*;

type Events = BoxStream<'static, Result<Event, BuildError>>;

/// A build that says a line every second for a minute.
fn talking() -> Bench {
    Bench::with(&|_, run| match run {
        Run::Build => Play {
            takes: Duration::from_mins(1),
            says: (0..60)
                .map(|n| {
                    (
                        Duration::from_secs(n),
                        Stream::Stdout,
                        format!("second {n}"),
                    )
                })
                .collect(),
            ..Play::default()
        },
        _ => Play::default().saying([format!("{run} is done")]),
    })
}

async fn follow(bench: &Bench, id: JobId, query: LogQuery) -> Events {
    bench.service.follow(id, query).await.unwrap()
}

async fn next(events: &mut Events) -> Option<Event> {
    let event = timeout(patience(), events.next())
        .await
        .expect("an event or the end");
    event.map(Result::unwrap)
}

/// Everything until the end: lines, and states as they follow each other.
async fn rest(events: &mut Events) -> (Vec<String>, Vec<State>, Option<Cursor>) {
    let (mut lines, mut states, mut last) = (Vec::new(), Vec::new(), None);
    while let Some(event) = next(events).await {
        match event {
            Event::Line(line, cursor) => {
                lines.push(line.text);
                last = Some(cursor);
            }
            Event::Status(view) => states.push(view.job.state),
            Event::Lost => lines.push("(lost)".to_owned()),
        }
    }
    states.dedup();
    (lines, states, last)
}

fn all() -> Vec<String> {
    let runs = ["test-cmd-0", "test-cmd-1", "publish"].map(|run| format!("{run} is done"));
    (0..60).map(|n| format!("second {n}")).chain(runs).collect()
}

#[tokio::test]
async fn a_follower_hears_every_line_once_and_the_end_last() {
    let bench = talking();
    let id = bench.submit(config("app")).await;
    let mut events = follow(&bench, id, LogQuery::default()).await;
    let mut early = Vec::new();
    bench.in_state(id, State::Building).await;
    for second in 0..30 {
        let line = loop {
            if let Some(Event::Line(line, _)) = next(&mut events).await {
                break line.text;
            }
        };
        assert_eq!(line, format!("second {second}"));
        early.push(line);
        bench.clock.advance(Duration::from_secs(1));
    }
    bench.clock.advance(Duration::from_mins(1));
    let (lines, states, _) = rest(&mut events).await;
    early.extend(lines);
    assert_eq!(early, all());
    assert_eq!(states.last(), Some(&State::Succeeded));
}

#[tokio::test]
async fn an_ended_job_is_told_in_order_and_from_a_cursor_on() {
    let bench = talking();
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    bench.clock.advance(Duration::from_secs(61));
    bench.settled(id).await;
    let (lines, states, last) = rest(&mut follow(&bench, id, LogQuery::default()).await).await;
    assert_eq!((lines, states), (all(), vec![State::Succeeded]));
    let on = LogQuery {
        cursor: last,
        ..LogQuery::default()
    };
    assert_eq!(
        rest(&mut follow(&bench, id, on).await).await.0,
        Vec::<String>::new()
    );
    let tail = LogQuery {
        tail: NonZeroUsize::new(2),
        ..LogQuery::default()
    };
    assert_eq!(
        rest(&mut follow(&bench, id, tail).await).await.0,
        all()[61..]
    );
    let grep = LogQuery {
        grep: Some("done".to_owned()),
        ..LogQuery::default()
    };
    assert_eq!(
        rest(&mut follow(&bench, id, grep).await).await.0,
        all()[60..]
    );
}

#[tokio::test]
async fn going_on_behind_any_line_tells_the_rest_and_nothing_twice() {
    let bench = talking();
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    bench.clock.advance(Duration::from_secs(61));
    bench.settled(id).await;
    let mut events = follow(&bench, id, LogQuery::default()).await;
    for told in 1..=all().len() {
        let cursor = loop {
            if let Some(Event::Line(_, cursor)) = next(&mut events).await {
                break cursor;
            }
        };
        let on = LogQuery {
            cursor: Some(cursor),
            ..LogQuery::default()
        };
        assert_eq!(
            rest(&mut follow(&bench, id, on).await).await.0,
            all()[told..],
            "{told}"
        );
    }
    // Of a tail only the end is a place to go on from.
    let tail = LogQuery {
        tail: NonZeroUsize::new(3),
        ..LogQuery::default()
    };
    let mut events = follow(&bench, id, tail).await;
    let mut cursors = Vec::new();
    while let Some(event) = next(&mut events).await {
        if let Event::Line(_, cursor) = event {
            cursors.push(cursor);
        }
    }
    assert_eq!(cursors[..2], [Cursor::default(), Cursor::default()]);
    assert_ne!(cursors[2], Cursor::default());
}

#[tokio::test]
async fn many_followers_share_one_reader() {
    let bench = talking();
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    let mut followers = Vec::new();
    for _ in 0..50 {
        followers.push(follow(&bench, id, LogQuery::default()).await);
    }
    for _ in 0..61 {
        bench.clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    for events in &mut followers {
        assert_eq!(rest(events).await.0, all());
    }
    // A moment's difference makes two.
    assert!(
        bench.engine.most_readers() <= 4,
        "{} readers at once",
        bench.engine.most_readers()
    );
}

#[tokio::test]
async fn a_follower_of_a_killed_job_hears_the_rest_and_the_end() {
    let bench = Bench::with(&|_, _| Play::endless().saying(["here"]));
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    let mut events = follow(&bench, id, LogQuery::default()).await;
    bench.service.kill(id, None).await.unwrap();
    let (lines, states, _) = rest(&mut events).await;
    assert_eq!(
        (lines, states.last()),
        (vec!["here".to_owned()], Some(&State::Failed))
    );
}

#[tokio::test]
async fn a_follower_outlives_an_engine_that_is_away() {
    let bench = talking();
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    let mut events = follow(&bench, id, LogQuery::default()).await;
    bench.engine.set_unreachable(true);
    bench.clock.advance(Duration::from_secs(61));
    bench.engine.set_unreachable(false);
    assert_eq!(rest(&mut events).await.0, all());
}
