//! How tasks end: of a signal, at once, and against their will. Each end takes a task of its own.

use std::time::{Duration, Instant};

use tokio::{task::JoinHandle, time};
use tonic::Streaming;

use super::{
    Report,
    agent::{Agent, QUICK, quickly},
    job::{Job, slowly},
};
use crate::proto::drivers::{
    DestroyTaskRequest, ExitResult, InspectTaskRequest, SignalTaskRequest, StopTaskRequest,
    TaskState, TaskStatsResponse, WaitTaskRequest, driver_client::DriverClient,
};

/// How many wait at once: an agent that was restarted in place does.
const WAITING: usize = 3;

/// How long a task is asked with a signal that it does not heed.
const ASKED: Duration = Duration::from_secs(1);

/// How much longer than that the end may take.
const GRACE: Duration = Duration::from_secs(10);

/// A signal that ends nobody who has not asked for it.
const IGNORED: &str = "SIGWINCH";

type Waits = Vec<JoinHandle<Result<ExitResult, String>>>;

impl Job {
    /// Is killed by a signal while everybody watches.
    pub(super) async fn is_killed(&self, agent: &mut Agent, report: &mut Report) {
        let watched = self.watch(agent).await;
        let waits = self.waits(agent);
        if agent.capabilities().send_signals {
            let sent = self.kill(agent).await;
            report.note("signal", "the user is told that it was sent", sent);
        } else {
            let stopped = slowly(
                agent
                    .driver
                    .stop_task(self.stop_request(Duration::ZERO, "")),
            );
            let stopped = stopped.await.map(|_| ());
            report.note("stop", "the agent tries five times, for minutes", stopped);
        }
        let end = all_told(waits).await;
        let end = report.take(
            "everyone who waits",
            "an agent that has lost its first wait waits for ever",
            end,
        );
        if agent.capabilities().send_signals
            && let Some(end) = end
        {
            report.note(
                "death by a signal",
                "the user is told of another end than the task's",
                is_killed(end),
            );
        }
        report.note(
            "end of stats",
            "the agent asks again and again for a task that has ended",
            match watched {
                Ok(stream) => has_ended(stream).await,
                Err(error) => Err(error),
            },
        );
        self.after_the_end(agent, end, report).await;
    }

    async fn after_the_end(&self, agent: &mut Agent, end: Option<ExitResult>, report: &mut Report) {
        let inspected = self.inspect_end(agent, end).await;
        report.note(
            "inspection after the end",
            "what is missing in it crashes the agent's decoder",
            inspected,
        );
        let request = DestroyTaskRequest {
            task_id: self.id(),
            force: false,
        };
        let destroyed = slowly(agent.driver.destroy_task(request)).await.map(|_| ());
        report.note(
            "unforced destruction after the end",
            "what is left of the task stays for ever",
            destroyed,
        );
    }

    async fn watch(&self, agent: &mut Agent) -> Result<Streaming<TaskStatsResponse>, String> {
        let stream = quickly(agent.driver.task_stats(self.stats_request())).await?;
        Ok(stream.into_inner())
    }

    fn waits(&self, agent: &Agent) -> Waits {
        let wait = |_| tokio::spawn(wait(agent.driver.clone(), self.id()));
        (0..WAITING).map(wait).collect()
    }

    async fn kill(&self, agent: &mut Agent) -> Result<(), String> {
        let request = SignalTaskRequest {
            task_id: self.id(),
            signal: "SIGKILL".to_owned(),
        };
        quickly(agent.driver.signal_task(request)).await.map(|_| ())
    }

    async fn inspect_end(&self, agent: &mut Agent, end: Option<ExitResult>) -> Result<(), String> {
        let request = InspectTaskRequest { task_id: self.id() };
        let answer = quickly(agent.driver.inspect_task(request)).await?;
        let task = answer.into_inner().task.ok_or("`task` is missing")?;
        task.started_at.ok_or("`task.started_at` is missing")?;
        task.completed_at.ok_or("`task.completed_at` is missing")?;
        let told = task.result.as_ref().ok_or("`task.result` is missing")?;
        if task.state() != TaskState::Exited {
            return Err(format!("its state is {:?}", task.state()));
        }
        match end {
            Some(end) if end != *told => Err(format!("expected {end:?}, got {told:?}")),
            _ => Ok(()),
        }
    }

    fn stop_request(&self, timeout: Duration, signal: &str) -> StopTaskRequest {
        StopTaskRequest {
            task_id: self.id(),
            timeout: prost_types::Duration::try_from(timeout).ok(),
            signal: signal.to_owned(),
        }
    }

    /// Is stopped by an agent that leaves it no time.
    pub(super) async fn is_stopped_at_once(&self, agent: &mut Agent, report: &mut Report) {
        let request = self.stop_request(Duration::ZERO, "");
        let stopped = quickly(agent.driver.stop_task(request)).await;
        let end = match stopped {
            Ok(_) => quickly_told(agent, self.id()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        report.note(
            "stop without any time",
            "the agent waits for ever for a task that lives on",
            end,
        );
        self.destroyed(agent).await;
    }

    /// Is asked to end in a way that it does not hear.
    pub(super) async fn is_deaf(&self, agent: &mut Agent, report: &mut Report) {
        let began = Instant::now();
        let request = self.stop_request(ASKED, IGNORED);
        let stopped = time::timeout(ASKED + GRACE, agent.driver.stop_task(request)).await;
        let took = began.elapsed();
        let end = match stopped {
            Err(_) => Err(format!("it still ran {GRACE:?} after its time was up")),
            Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
            Ok(Ok(_)) => quickly_told(agent, self.id())
                .await
                .and_then(|end| was_asked_first(end, took)),
        };
        report.note(
            "stop of a deaf task",
            "the job's own stop signal is not sent, or the task lives on",
            end,
        );
        self.destroyed(agent).await;
    }

    async fn destroyed(&self, agent: &mut Agent) {
        let request = DestroyTaskRequest {
            task_id: self.id(),
            force: true,
        };
        // What destruction must be was looked at already.
        let _ = slowly(agent.driver.destroy_task(request)).await;
    }
}

async fn wait(
    mut driver: DriverClient<tonic::transport::Channel>,
    task_id: String,
) -> Result<ExitResult, String> {
    let answer = slowly(driver.wait_task(WaitTaskRequest { task_id })).await?;
    let answer = answer.into_inner();
    if !answer.err.is_empty() {
        return Err(answer.err);
    }
    answer
        .result
        .ok_or_else(|| "`result` is missing".to_owned())
}

async fn quickly_told(agent: &Agent, task_id: String) -> Result<ExitResult, String> {
    let told = time::timeout(QUICK, wait(agent.driver.clone(), task_id)).await;
    told.map_err(|_| format!("no end within {QUICK:?} after the stop"))?
}

/// All are told the same, soon after the first.
async fn all_told(waits: Waits) -> Result<ExitResult, String> {
    let mut first = None;
    for wait in waits {
        let told = time::timeout(QUICK, wait).await;
        let told = told.map_err(|_| format!("no end within {QUICK:?}"))?;
        let told = told.map_err(|error| error.to_string())??;
        let first = first.get_or_insert(told);
        if *first != told {
            return Err(format!("one was told {first:?}, another one {told:?}"));
        }
    }
    first.ok_or_else(|| "nobody waited".to_owned())
}

fn is_killed(end: ExitResult) -> Result<(), String> {
    if (end.exit_code, end.signal) == (137, 9) {
        return Ok(());
    }
    Err(format!(
        "after SIGKILL: exit code {} and signal {}, expected 137 and 9",
        end.exit_code, end.signal
    ))
}

fn was_asked_first(end: ExitResult, took: Duration) -> Result<(), String> {
    if took < ASKED {
        return Err(format!(
            "it ended after {took:?} with exit code {}, though it does not heed {IGNORED}: another signal was sent",
            end.exit_code
        ));
    }
    is_killed(end)
}

/// A clean end, as of a list.
async fn has_ended(mut stream: Streaming<TaskStatsResponse>) -> Result<(), String> {
    let deadline = Instant::now() + QUICK;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match time::timeout(left, stream.message()).await {
            Err(_) => return Err(format!("the stream was open {QUICK:?} after the end")),
            Ok(Err(status)) => return Err(format!("{:?}: {}", status.code(), status.message())),
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(_))) => {}
        }
    }
}
