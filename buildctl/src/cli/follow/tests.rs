//! A job that goes its way while its log and whoever tells of it break.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use jiff::Timestamp;
use runyard_common::output::{Format, Printer};

use super::*;
use crate::{
    api::JobConfig,
    cli::{place::PlaceArgs, screen::Style},
    config::ClientArgs,
    job::{Failure as JobFailure, Job, State},
    logs::{Cursor, Line, Stream},
    phase::{Phase, Run},
    service::{Cleaned, Cleanup, Event, Health, JobFilter, JobList, Killed, LogPage, Submitted},
};

/// A service that answers by a script.
#[derive(Default)]
struct Script {
    /// How often a log breaks before it goes through.
    broken_logs: usize,
    /// How often the question for the end is not answered.
    absent: usize,
    /// How often it is not answered once it was.
    leaves: usize,
    fails: bool,
    follows: AtomicUsize,
    waits: AtomicUsize,
    asked: Mutex<Vec<Option<Cursor>>>,
}

fn context() -> Context {
    Context {
        printer: Printer::to(Format::Json, std::io::sink()),
        bars: false,
        client: ClientArgs::default(),
        place: PlaceArgs::default(),
        is_original: false,
    }
}

fn view(id: JobId, state: State, fails: bool) -> JobView {
    let mut job = Job::new(id, JobConfig::default(), Timestamp::UNIX_EPOCH);
    job.state = state;
    job.failure = fails.then(|| JobFailure {
        phase: Some(Phase::Build),
        error: "Build phase failed: no".to_owned(),
    });
    JobView::of(job)
}

impl Script {
    fn end(&self, id: JobId) -> JobView {
        let state = if self.fails {
            State::Failed
        } else {
            State::Succeeded
        };
        view(id, state, self.fails)
    }
}

fn never<T>() -> Result<T, BuildError> {
    Err(BuildError::Internal("nobody asks for this".to_owned()))
}

#[async_trait]
impl Builds for Script {
    async fn submit(&self, _: JobConfig, _: Option<String>) -> Result<Submitted, BuildError> {
        never()
    }

    async fn status(&self, _: JobId) -> Result<JobView, BuildError> {
        never()
    }

    async fn logs(&self, _: JobId, _: LogQuery) -> Result<LogPage, BuildError> {
        never()
    }

    async fn follow(
        &self,
        id: JobId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<Event, BuildError>>, BuildError> {
        let count = self.follows.fetch_add(1, Ordering::SeqCst);
        self.asked.lock().unwrap().push(query.cursor);
        let line = Line {
            run: Run::Build,
            stream: Stream::Stdout,
            time: None,
            text: format!("line {count}"),
            partial: false,
        };
        let cursor: Cursor = format!("build.{}.0", count + 1).parse().unwrap();
        if count < self.broken_logs {
            let broken = BuildError::Unreachable("cut".to_owned());
            // Some break before they have said anything, and after a while all do.
            return match count {
                0 | 2 => Ok(stream::iter([Ok(Event::Line(line, cursor)), Err(broken)]).boxed()),
                _ => Err(broken),
            };
        }
        let end = Event::Status(Box::new(self.end(id)));
        Ok(stream::iter([Ok(Event::Line(line, cursor)), Ok(end)]).boxed())
    }

    async fn wait(&self, id: JobId, limit: Duration) -> Result<JobView, BuildError> {
        let count = self.waits.fetch_add(1, Ordering::SeqCst);
        if count < self.absent {
            return Err(BuildError::Unreachable("away".to_owned()));
        }
        let count = count - self.absent;
        if (1..=self.leaves).contains(&count) {
            return Err(BuildError::Unreachable("away again".to_owned()));
        }
        // The job takes its time.
        sleep(limit).await;
        match count {
            0 => Ok(view(id, State::Building, false)),
            _ => Ok(self.end(id)),
        }
    }

    async fn kill(&self, _: JobId, _: Option<String>) -> Result<Killed, BuildError> {
        never()
    }

    async fn cleanup(&self, _: Cleanup) -> Result<Cleaned, BuildError> {
        never()
    }

    async fn purge(&self, _: JobId) -> Result<(), BuildError> {
        never()
    }

    async fn list(&self, _: JobFilter) -> Result<JobList, BuildError> {
        never()
    }

    async fn health(&self) -> Result<Health, BuildError> {
        never()
    }
}

/// All waits are short; only their order matters.
fn hasty() -> Patience {
    let moment = Duration::from_millis(10);
    Patience {
        round: moment,
        breath: moment / 10,
        absence: moment * 10,
        last_words: moment * 10,
        again: Backoff {
            initial: moment / 10,
            factor: 1.0,
            max: moment / 10,
            jitter: 0.0,
        },
    }
}

async fn followed(script: &Script) -> Result<JobView, Failure> {
    let context = context();
    let following = Following {
        context: &context,
        builds: script,
        id: JobId::random(),
        query: LogQuery::default(),
        kills: false,
        patience: hasty(),
    };
    let mut screen = Screen::new(Style::Quiet, false).unwrap();
    let mut interrupts = Interrupts::catch().unwrap();
    match following.run(&mut screen, &mut interrupts).await? {
        End::Ended(view) => Ok(*view),
        End::Left(_) => panic!("nobody left"),
    }
}

#[tokio::test]
async fn a_broken_log_is_taken_up_where_it_ended_and_changes_nothing_about_the_end() {
    let script = Script {
        broken_logs: 3,
        ..Script::default()
    };
    let view = followed(&script).await.unwrap();
    assert_eq!(view.job.state, State::Succeeded);
    assert_eq!(verdict(&context(), &view).unwrap(), Exit::Done);
    let cursor = |text: &str| Some(text.parse().unwrap());
    let asked = script.asked.lock().unwrap();
    assert_eq!(
        *asked,
        [
            None,
            cursor("build.1.0"),
            cursor("build.1.0"),
            cursor("build.3.0")
        ]
    );
}

#[tokio::test]
async fn without_any_log_the_status_decides() {
    for fails in [false, true] {
        let script = Script {
            broken_logs: usize::MAX,
            fails,
            ..Script::default()
        };
        let view = followed(&script).await.unwrap();
        let exit = match verdict(&context(), &view) {
            Ok(exit) => exit,
            Err(failure) => failure.exit(),
        };
        let expected = if fails { Exit::Failed } else { Exit::Done };
        assert_eq!(exit, expected);
    }
}

#[tokio::test]
async fn a_service_that_is_away_for_a_while_is_waited_for_and_then_no_more() {
    let script = Script {
        broken_logs: usize::MAX,
        absent: 3,
        ..Script::default()
    };
    assert_eq!(followed(&script).await.unwrap().job.state, State::Succeeded);
    let gone = Script {
        broken_logs: usize::MAX,
        absent: usize::MAX,
        ..Script::default()
    };
    let began = Instant::now();
    let failure = followed(&gone).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Unreachable);
    assert!(began.elapsed() >= hasty().absence);
    let hints = failure.hints().join("\n");
    assert!(hints.contains("go on watching it: "), "{hints}");
}

#[tokio::test]
async fn waiting_outlives_a_service_that_is_away_but_not_one_that_never_was_there() {
    let wait = async |script: &Script, limit| {
        let end = crate::cli::wait::end(script, JobId::random(), limit, hasty());
        end.await.map(|view| view.job.state)
    };
    let leaves = |leaves| Script {
        leaves,
        ..Script::default()
    };
    assert_eq!(wait(&leaves(3), None).await.unwrap(), State::Succeeded);
    let gone = wait(&leaves(usize::MAX), None).await.unwrap_err();
    assert!(matches!(gone, BuildError::Unreachable(_)), "{gone:?}");
    let limit = Some(hasty().round * 3);
    let late = wait(&leaves(usize::MAX), limit).await.unwrap();
    assert_eq!(late, State::Building);

    let absent = Script {
        absent: 1,
        ..Script::default()
    };
    let error = wait(&absent, None).await.unwrap_err();
    assert!(matches!(error, BuildError::Unreachable(_)), "{error:?}");
    assert_eq!(absent.waits.load(Ordering::SeqCst), 1);
}
