//! Plays a Nomad agent against any driver plugin, and says of each rule of the game whether it was kept: what would crash
//! the agent, keep it busy, or make it lose a task. The plugin may be in any language; nothing here knows this one.
//!
//! ```text
//!  launch 1   look at it     handshake, PluginInfo, ConfigSchema, end
//!  launch 2   try a config   SetConfig twice without the agent's own part, end
//!  launch 3   use it         SetConfig, Init, Fingerprint, TaskEvents; a task if one is given; reattach; kill -9; recover
//! ```
//!
//! The same agent can [`measure`](measure::measure) a plugin instead of judging it.

mod agent;
mod ends;
mod fill;
mod job;
mod launched;
pub mod measure;
mod scope;
mod visit;

use std::path::{Path, PathBuf};

use serde::Serialize;

use self::{agent::Agent, job::Job, launched::Launched};
use crate::{
    cgroup::{self, ROOT},
    proto::drivers::TaskHandle,
};

/// What to do besides looking.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Arguments of the plugin.
    pub args: Vec<String>,
    /// The agent's `config {}` block.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// A job's `config {}` block of a task that runs until it is stopped; without one no task is run. If the driver can
    /// run commands in it, it needs a `/bin/sh`.
    pub task: Option<serde_json::Map<String, serde_json::Value>>,
    /// Where the task's folders may be; a temporary one otherwise.
    pub dir: Option<PathBuf>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which it was looked at.
    pub checks: Vec<Check>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What happens to an agent whose plugin breaks it.
    pub why: &'static str,
    /// Whether it was kept.
    pub verdict: Verdict,
}

/// Whether a rule was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "because")]
pub enum Verdict {
    /// It was.
    Pass,
    /// It was not.
    Fail(String),
    /// It could not be looked at.
    Skipped(String),
}

impl Report {
    /// The first rule that was broken, and how.
    fn first_failure(&self) -> Option<String> {
        self.checks.iter().find_map(|check| match &check.verdict {
            Verdict::Fail(because) => Some(format!("{}: {because}", check.name)),
            _ => None,
        })
    }

    /// How many rules were broken.
    pub fn failures(&self) -> usize {
        let broken = |check: &&Check| matches!(check.verdict, Verdict::Fail(_));
        self.checks.iter().filter(broken).count()
    }

    /// Notes a rule; answers whether it was kept.
    fn note(&mut self, name: &'static str, why: &'static str, kept: Result<(), String>) -> bool {
        let verdict = kept.map_or_else(Verdict::Fail, |()| Verdict::Pass);
        let is_kept = verdict == Verdict::Pass;
        self.checks.push(Check { name, why, verdict });
        is_kept
    }

    /// Notes a rule that could not be looked at.
    fn skip(&mut self, name: &'static str, why: &'static str, because: &str) {
        let verdict = Verdict::Skipped(because.to_owned());
        self.checks.push(Check { name, why, verdict });
    }

    /// What a step gives; one that gives nothing breaks the rule.
    fn take<T>(
        &mut self,
        name: &'static str,
        why: &'static str,
        step: Result<T, String>,
    ) -> Option<T> {
        let (value, kept) = match step {
            Ok(value) => (Some(value), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.note(name, why, kept);
        value
    }
}

/// Plays the agent. Blocks until all has been looked at; processes that it starts are ended.
pub fn run(plugin: &Path, wish: &Wish) -> Report {
    let mut report = Report::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            runtime.block_on(play(plugin, wish, &mut report));
            runtime.shutdown_background();
        }
        Err(error) => {
            report.note(
                "runtime",
                "nothing can be looked at",
                Err(error.to_string()),
            );
        }
    }
    report
}

const HANDSHAKE: &str = "the agent waits a minute, then does not start";

async fn play(plugin: &Path, wish: &Wish, report: &mut Report) {
    let Some((mut first, mut agent)) = launch(plugin, wish, report, "handshake").await else {
        return;
    };
    report.note(
        "private socket",
        "any local user could drive a root daemon",
        first.is_private(),
    );
    agent.look(report).await;
    end(&mut first, &agent, report, "end after a look").await;

    let Some((mut second, mut agent)) = launch(plugin, wish, report, "second handshake").await
    else {
        return;
    };
    agent.try_config(wish, report).await;
    end(&mut second, &agent, report, "end after a try").await;

    let Some((mut third, mut agent)) = launch(plugin, wish, report, "third handshake").await else {
        return;
    };
    agent.begin_to_use(wish, report).await;
    report.note(
        "interrupt",
        "Ctrl-C at the agent's terminal would end the plugin first",
        third.survives_interrupt().await,
    );
    if let Some(task) = &wish.task {
        return Box::pin(with_task(plugin, wish, task, third, agent, report)).await;
    }
    report.skip(
        "tasks",
        "a driver is there for tasks",
        "no task was given to run",
    );
    end(&mut third, &agent, report, "end with open streams").await;
}

async fn launch(
    plugin: &Path,
    wish: &Wish,
    report: &mut Report,
    name: &'static str,
) -> Option<(Launched, Agent)> {
    let launched = report.take(name, HANDSHAKE, Launched::start(plugin, &wish.args).await)?;
    let agent = Agent::connect(launched.socket()).await;
    let agent = report.take("connection", "the agent does not start", agent)?;
    Some((launched, agent))
}

async fn end(launched: &mut Launched, agent: &Agent, report: &mut Report, name: &'static str) {
    let ended = launched.end(agent).await;
    report.note(
        name,
        "each of an agent's launches would take two seconds more, and end with SIGKILL",
        ended,
    );
    report.note(
        "silence",
        "the agent cannot use what is printed after the handshake",
        launched.was_silent(),
    );
    report.note(
        "log",
        "a log entry whose message is no string crashes the agent",
        launched.log_is_sound(),
    );
}

/// A task's whole life, in which agent and plugin die once each.
async fn with_task(
    plugin: &Path,
    wish: &Wish,
    task: &serde_json::Map<String, serde_json::Value>,
    mut third: Launched,
    mut agent: Agent,
    report: &mut Report,
) {
    let schema = agent.task_schema().await;
    let block = fill::block(schema.as_ref(), task);
    let Some(mut job) = folders(wish, &block, report) else {
        return;
    };
    let root = Path::new(ROOT);
    // Where none can be made, because this is no root or there are none, the rule is not looked at.
    job.enter_scope(root, &cgroup::detect(root));
    let Some(handle) = job.start(&mut agent, report).await else {
        return end(&mut third, &agent, report, "end with open streams").await;
    };
    job.look(&mut agent, report).await;
    job.changes_its_reader(&mut agent, report).await;
    drop(agent);
    let reattached = Agent::connect(third.socket()).await;
    if let Some(mut next) = report.take(
        "reattach",
        "an agent that was killed could not find its tasks again",
        reattached,
    ) {
        job.recover(
            &mut next,
            &handle,
            "recover after the agent's death",
            report,
        )
        .await;
    }
    let seen = third.kill_and_be_seen().await;
    report.note(
        "visible death",
        "a child that holds stdout or stderr makes a dead plugin look alive for ever",
        seen,
    );
    let Some((mut fourth, mut agent)) =
        Box::pin(after_death(plugin, wish, &job, &handle, report)).await
    else {
        return;
    };
    other_ends(wish, &block, &mut agent, report).await;
    end(&mut fourth, &agent, report, "end with open streams").await;
}

fn folders(wish: &Wish, block: &[u8], report: &mut Report) -> Option<Job> {
    let job = Job::new(wish.dir.as_deref(), block);
    report.take("folders", "nothing can be run", job)
}

/// Tasks that end in ways of their own.
async fn other_ends(wish: &Wish, block: &[u8], agent: &mut Agent, report: &mut Report) {
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let Some(job) = folders(wish, block, report) else {
            return;
        };
        if job.start(agent, report).await.is_none() {
            return;
        }
        jobs.push(job);
    }
    let [killed, stopped, deaf] = jobs.as_slice() else {
        return;
    };
    killed.is_killed(agent, report).await;
    stopped.is_stopped_at_once(agent, report).await;
    deaf.is_deaf(agent, report).await;
}

async fn after_death(
    plugin: &Path,
    wish: &Wish,
    job: &Job,
    handle: &TaskHandle,
    report: &mut Report,
) -> Option<(Launched, Agent)> {
    let (fourth, mut agent) = launch(plugin, wish, report, "handshake after a death").await?;
    agent.begin_to_use(wish, report).await;
    job.recover(
        &mut agent,
        handle,
        "recover after the plugin's death",
        report,
    )
    .await;
    job.stop(&mut agent, report).await;
    job.destroy(&mut agent, report).await;
    Some((fourth, agent))
}

#[cfg(test)]
mod tests;
