//! Cases about tasks rather than their output: how fast they start, how many at once, how long a list of them takes.
//! The gate: each start gives exactly one `started` and one `exited`, and the list holds every task.

use std::collections::HashMap;
use std::thread;
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use serde_json::json;

use super::super::load::Connection;
use super::super::load::Kind;
use super::super::plan::Better;
use super::super::plan::Case;
use super::super::plan::Metric;
use super::super::plan::Reading;
use super::super::plan::Target;
use super::super::stats;
use super::Lab;
use super::daemon;
use super::daemon::Daemon;
use super::with_costs;

/// CPU time is given per thousand starts.
const THOUSAND: f64 = 1e3;

/// Connections that a storm comes over.
const CONNECTIONS: usize = 8;

/// S3: one start after another, each after the exit of the one before.
pub(super) fn sequential() -> Case<Lab> {
    let metrics = vec![
        Metric::new("start to started p50", "ms", Better::Less).target(Target::Below(1.0)),
        Metric::new("start to started p99", "ms", Better::Less),
    ];
    Case::new(
        "S3",
        "S3 sequential starts",
        with_costs(metrics, "s/k starts"),
        |lab: &Lab, side, size| {
            let daemon = lab.start(side)?;
            let count = size.pick(50, 300, 1000);
            let before = daemon.usage()?;
            let (latencies, early) = start_in_turn(&daemon, count)?;
            let late = |percent| stats::percentile(&latencies, percent);
            let costs = daemon.costs_since(before)?.values(count, THOUSAND);
            Ok(Reading {
                values: [late(50), late(99)].into_iter().chain(costs).collect(),
                note: early_note(early, count),
            })
        },
    )
}

/// S4: many starts at once.
pub(super) fn storm() -> Case<Lab> {
    let metrics = vec![
        Metric::new("time to last exited", "s", Better::Less),
        Metric::new("tasks", "tasks/s", Better::More),
    ];
    Case::new(
        "S4",
        "S4 starts over 8 connections",
        with_costs(metrics, "s/k starts"),
        |lab: &Lab, side, size| {
            let daemon = lab.start(side)?;
            let count = size.pick(80, 480, 2000);
            let before = daemon.usage()?;
            let storm = Starts {
                action: "true",
                count,
                until: Until::Exited,
                pace: Pace::AtOnce,
            }
            .run(&daemon)?;
            let costs = daemon.costs_since(before)?.values(count, THOUSAND);
            let seconds = storm.elapsed.as_secs_f64();
            let values = [Some(seconds), Some(stats::per_second(count, storm.elapsed))]
                .into_iter()
                .chain(costs)
                .collect();
            Ok(Reading {
                values,
                note: early_note(storm.early, count),
            })
        },
    )
}

/// S7: a long list. Filling the daemon takes most of the time, so there are few runs with many lists each.
pub(super) fn list() -> Case<Lab> {
    const LISTS: u64 = 20;
    let metrics = vec![
        Metric::new("list p50", "ms", Better::Less),
        Metric::new("list p99", "ms", Better::Less),
    ];
    let case = Case::new(
        "S7",
        "S7 list of finished tasks",
        with_costs(metrics, "s/k lists"),
        |lab: &Lab, side, size| {
            let daemon = lab.start(side)?;
            let tasks = size.pick(100, 1000, 5000);
            Starts {
                action: "true",
                count: tasks,
                until: Until::Exited,
                pace: Pace::InTurn,
            }
            .run(&daemon)?;
            let before = daemon.usage()?;
            let times = time_lists(&daemon, LISTS, tasks)?;
            let late = |percent| stats::percentile(&times, percent);
            let costs = daemon.costs_since(before)?.values(LISTS, THOUSAND);
            Ok([late(50), late(99)]
                .into_iter()
                .chain(costs)
                .collect::<Vec<_>>()
                .into())
        },
    );
    case.cold().at_most(1)
}

/// What a start waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The task runs.
    Started,
    /// The task is over.
    Exited,
}

/// How many starts a connection has under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// All of them.
    AtOnce,
    /// One: the next follows when the last has got as far as it should. Leaves the daemon without the memory of a
    /// peak.
    InTurn,
}

/// Many starts of the same action.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starts {
    pub(super) action: &'static str,
    pub(super) count: u64,
    pub(super) until: Until,
    pub(super) pace: Pace,
}

/// How a storm went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storm {
    /// From the first request to the last event waited for.
    elapsed: Duration,
    /// Tasks whose `exited` came before their `started`.
    early: u64,
}

impl Starts {
    /// Starts the tasks over several connections, which are closed afterwards.
    ///
    /// # Errors
    ///
    /// A refused start, or an event that is missing or comes twice.
    pub(super) fn run(self, daemon: &Daemon<'_>) -> Result<Storm> {
        let shares = shares(self.count)
            .map(|tasks| Ok((daemon.subscribe(&tasks)?, tasks)))
            .collect::<Result<Vec<_>>>()?;
        let begin = Instant::now();
        let early = thread::scope(|scope| {
            let client = |(connection, tasks): (Connection, Vec<String>)| {
                scope.spawn(move || self.share(connection, &tasks))
            };
            let clients: Vec<_> = shares.into_iter().map(client).collect();
            let join = |client: ScopedJoinHandle<'_, _>| {
                client
                    .join()
                    .map_err(|_| anyhow!("a client panicked"))
                    .flatten()
            };
            clients.into_iter().map(join).sum::<Result<u64>>()
        })?;
        Ok(Storm {
            elapsed: begin.elapsed(),
            early,
        })
    }

    fn share(self, mut connection: Connection, tasks: &[String]) -> Result<u64> {
        let wave = match self.pace {
            Pace::AtOnce => tasks.len().max(1),
            Pace::InTurn => 1,
        };
        let mut roll = Roll::new(tasks);
        for (number, starting) in tasks.chunks(wave).enumerate() {
            let requests: Vec<_> = starting
                .iter()
                .map(|task| start_request(task, self.action))
                .collect();
            connection.send_all(requests.iter().map(String::as_str))?;
            let due = number * wave + starting.len();
            while !roll.has(due, self.until) {
                roll.read(&mut connection)
                    .with_context(|| format!("after {} of {} starts", roll.started, tasks.len()))?;
            }
        }
        Ok(roll.early)
    }
}

/// Names of `count` tasks, divided among the connections.
fn shares(count: u64) -> impl Iterator<Item = Vec<String>> {
    (0..CONNECTIONS as u64).map(move |share| {
        let mine = (share..count).step_by(CONNECTIONS);
        mine.map(|number| format!("task{number}")).collect()
    })
}

fn start_request(task: &str, action: &str) -> String {
    json!({ "type": "start", "id": task, "action": action, "task_id": task }).to_string()
}

/// Who has started and who has exited.
struct Roll<'a> {
    seen: HashMap<&'a str, [bool; 2]>,
    started: usize,
    exited: usize,
    early: u64,
}

impl<'a> Roll<'a> {
    fn new(tasks: &'a [String]) -> Self {
        let seen = tasks
            .iter()
            .map(|task| (task.as_str(), [false; 2]))
            .collect();
        Self {
            seen,
            started: 0,
            exited: 0,
            early: 0,
        }
    }

    /// Whether `due` tasks have got as far as `until`.
    fn has(&self, due: usize, until: Until) -> bool {
        self.started == due && (until == Until::Started || self.exited == due)
    }

    /// Reads one message.
    fn read(&mut self, connection: &mut Connection) -> Result<()> {
        let event = connection.next()?;
        match event.kind() {
            Kind::Error => bail!("the daemon refused: {}", event.error_text()),
            kind @ (Kind::Started | Kind::Exited) => {
                self.tick(event.task_id().unwrap_or_default(), kind)
            }
            _ => Ok(()),
        }
    }

    fn tick(&mut self, task: &str, kind: Kind) -> Result<()> {
        let seen = self
            .seen
            .get_mut(task)
            .ok_or_else(|| anyhow!("an event of a task `{task}` that was not started here"))?;
        let (index, name) = if kind == Kind::Started {
            (0, "started")
        } else {
            (1, "exited")
        };
        if std::mem::replace(&mut seen[index], true) {
            bail!("`{name}` of {task} came twice");
        }
        self.early += u64::from(kind == Kind::Exited && !seen[0]);
        *(if kind == Kind::Started {
            &mut self.started
        } else {
            &mut self.exited
        }) += 1;
        Ok(())
    }
}

/// Starts tasks one by one; returns milliseconds from request to `started`, and how many exited before that.
fn start_in_turn(daemon: &Daemon<'_>, count: u64) -> Result<(Vec<f64>, u64)> {
    let mut connection = daemon.connect()?;
    let mut latencies = Vec::new();
    let mut early = 0;
    for number in 0..count {
        let task = [format!("task{number}")];
        daemon::subscribe(&mut connection, &task)?;
        let mut roll = Roll::new(&task);
        let begin = Instant::now();
        connection.send(&start_request(&task[0], "true"))?;
        let mut latency = None;
        while !roll.has(1, Until::Exited) {
            roll.read(&mut connection)
                .with_context(|| format!("start {} of {count}", number + 1))?;
            if roll.started == 1 && latency.is_none() {
                latency = Some((connection.read_at() - begin).as_secs_f64() * 1e3);
            }
        }
        latencies.extend(latency);
        early += roll.early;
    }
    Ok((latencies, early))
}

/// Milliseconds that each of `lists` lists takes, over a fresh connection.
fn time_lists(daemon: &Daemon<'_>, lists: u64, tasks: u64) -> Result<Vec<f64>> {
    let mut connection = daemon.connect()?;
    let mut times = Vec::new();
    for _ in 0..lists {
        let begin = Instant::now();
        connection.send(r#"{"type":"list","id":"list"}"#)?;
        let event = connection.next()?;
        let (kind, rows) = (event.kind(), event.task_rows() as u64);
        if kind != Kind::Tasks || rows != tasks {
            bail!("a list of {tasks} tasks came with {rows} rows ({kind:?})");
        }
        times.push((connection.read_at() - begin).as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn early_note(early: u64, count: u64) -> Option<String> {
    (early > 0).then(|| format!("{early} of {count} tasks had `exited` before `started`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Vec<String> {
        vec!["a".into(), "b".into()]
    }

    #[test]
    fn a_roll_is_complete_when_everyone_has_started_and_exited() {
        let tasks = tasks();
        let mut roll = Roll::new(&tasks);
        for (task, kind) in [
            ("a", Kind::Started),
            ("a", Kind::Exited),
            ("b", Kind::Started),
        ] {
            assert!(!roll.has(2, Until::Started));
            roll.tick(task, kind).unwrap();
        }
        assert!(roll.has(2, Until::Started) && !roll.has(2, Until::Exited));
        roll.tick("b", Kind::Exited).unwrap();
        assert!(roll.has(2, Until::Exited));
        assert_eq!(roll.early, 0);
    }

    #[test]
    fn an_exit_before_the_start_is_counted_and_a_second_one_refused() {
        let tasks = tasks();
        let mut roll = Roll::new(&tasks);
        roll.tick("a", Kind::Exited).unwrap();
        assert_eq!(roll.early, 1);
        assert_eq!(
            roll.tick("a", Kind::Exited).unwrap_err().to_string(),
            "`exited` of a came twice"
        );
        assert!(roll.tick("stranger", Kind::Started).is_err());
    }

    #[test]
    fn shares_hold_every_task_once() {
        let mut names: Vec<_> = shares(20).flatten().collect();
        assert_eq!(shares(20).count(), CONNECTIONS);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 20);
    }
}
