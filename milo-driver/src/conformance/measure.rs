//! How fast a driver plugin is and what it weighs, with an agent that is played: many tasks in one plugin, which is killed
//! once. How numbers are summed up and memory is read is in the modules below; what is good enough is the reader's to say.
//!
//! ```text
//!  launch 1   start N tasks one after another, read memory on the way, kill -9
//!  launch 2   recover N tasks, kill some, stop others, destroy all
//! ```

mod memory;
mod times;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::{task::JoinHandle, time};

pub use self::{
    memory::{Memory, Resident, Shims},
    times::Times,
};
use super::{
    Report, Wish,
    agent::{Agent, quickly},
    fill,
    job::{Job, slowly},
    launched::Launched,
};
use crate::{
    config::Config,
    proto::drivers::{
        DestroyTaskRequest, ExitResult, RecoverTaskRequest, SignalTaskRequest, StopTaskRequest,
        TaskHandle, WaitTaskRequest,
    },
};

/// The most tasks that are measured at once.
pub const MOST_TASKS: usize = 500;

/// The most tasks that are killed, and that are stopped, for their times.
const MOST_ENDS: usize = 20;

/// What a plugin and its shims may need to come to rest before their memory is read.
const SETTLE: Duration = Duration::from_millis(500);

/// What a program that is up may need until it is idle: tasks are started one by one, and share the processors with those
/// before.
const IDLE: Duration = Duration::from_millis(100);

/// What a question needs at most to reach the plugin: it must be there before what it asks for happens.
const ASKED: Duration = Duration::from_millis(50);

/// How long a stopped task has before it is killed.
const STOP_SECONDS: i64 = 5;

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measurement {
    /// Tasks that ran at once.
    pub tasks: usize,
    /// From the handshake's wait to a connection, of the first launch.
    pub launch: Times,
    /// `StartTask`, one after another, each when the program of the one before was up and had a moment to become idle.
    pub start: Times,
    /// From the same moment to the first byte that the program wrote to its stdout.
    pub first_byte: Times,
    /// On the way: at the first task, at a quarter of them, at all.
    pub memory: Vec<Memory>,
    /// The second launch, after the kill.
    pub relaunch: Times,
    /// `RecoverTask`, one after another.
    pub recover: Times,
    /// From the kill of a task's first process to the answer of `WaitTask`.
    pub exit_seen: Times,
    /// `StopTask` with the default signal.
    pub stop: Times,
    /// `DestroyTask` of every task, most of which still run.
    pub destroy: Times,
}

/// Plays the agent with `tasks` tasks at once, up to [`MOST_TASKS`]. The task in `wish` must print something when it is up,
/// and little later on. Blocks; what it starts is ended, whatever happens, as long as the plugin still obeys.
///
/// # Errors
///
/// The first thing that went wrong: there are no numbers then.
pub fn measure(plugin: &Path, wish: &Wish, tasks: usize) -> Result<Measurement, String> {
    if !(1..=MOST_TASKS).contains(&tasks) {
        return Err(format!(
            "{tasks} tasks cannot be measured: 1 to {MOST_TASKS} can"
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let measured = runtime.block_on(play(plugin, wish, tasks));
    runtime.shutdown_background();
    measured
}

async fn play(plugin: &Path, wish: &Wish, tasks: usize) -> Result<Measurement, String> {
    let mut scene = Scene::open(plugin, wish).await?;
    let measured = scene.measure(tasks).await;
    if measured.is_err() {
        // The first error says more than one of this.
        let _ = scene.destroy_all().await;
    }
    let ended = scene.launched.end(&scene.agent).await;
    let measured = measured?;
    ended.map(|()| measured)
}

/// A plugin in use, and the tasks that it runs.
struct Scene<'a> {
    plugin: &'a Path,
    wish: &'a Wish,
    /// Where the plugin keeps its records, which its shims are told by.
    state: PathBuf,
    launched: Launched,
    agent: Agent,
    /// How long the launch took.
    took: Duration,
    running: Vec<Running>,
}

struct Running {
    job: Job,
    handle: TaskHandle,
}

impl<'a> Scene<'a> {
    async fn open(plugin: &'a Path, wish: &'a Wish) -> Result<Self, String> {
        let (launched, agent, took) = used(plugin, wish).await?;
        let state = wish
            .config
            .get("state_dir")
            .and_then(serde_json::Value::as_str);
        Ok(Self {
            plugin,
            wish,
            state: state.map_or_else(|| Config::default().state_dir, PathBuf::from),
            launched,
            agent,
            took,
            running: Vec::new(),
        })
    }

    async fn measure(&mut self, tasks: usize) -> Result<Measurement, String> {
        let mut measured = Measurement {
            tasks,
            launch: Times::of(&[self.took]),
            ..Measurement::default()
        };
        self.start_all(&mut measured).await?;
        measured.relaunch = Times::of(&[self.die_and_rise().await?]);
        measured.recover = self.recover_all().await?;
        let (killed, stopped) = ends(tasks);
        measured.exit_seen = self.kill_some(killed).await?;
        measured.stop = self.stop_some(killed, stopped).await?;
        measured.destroy = self.destroy_all().await?;
        Ok(measured)
    }

    async fn start_all(&mut self, measured: &mut Measurement) -> Result<(), String> {
        let task = self.wish.task.as_ref().ok_or("no task was given to run")?;
        let block = fill::block(self.agent.task_schema().await.as_ref(), task);
        let (mut starts, mut firsts) = (Vec::new(), Vec::new());
        for count in 1..=measured.tasks {
            let (start, first) = self.start(&block).await?;
            starts.push(start);
            firsts.push(first);
            time::sleep(IDLE).await;
            if marks(measured.tasks).contains(&count) {
                time::sleep(SETTLE).await;
                measured.memory.push(self.memory()?);
            }
        }
        measured.start = Times::of(&starts);
        measured.first_byte = Times::of(&firsts);
        Ok(())
    }

    /// How long the answer took, and the first byte.
    async fn start(&mut self, block: &[u8]) -> Result<(Duration, Duration), String> {
        let job = Job::new(self.wish.dir.as_deref(), block)?;
        let begin = Instant::now();
        let driver = &mut self.agent.driver;
        let started = async {
            let started = slowly(driver.start_task(job.start_request())).await?;
            Ok::<_, String>((started.into_inner(), begin.elapsed()))
        };
        // The program may be quicker than the answer. Only an error of the start ends both: a task that says nothing runs
        // all the same, and is to be destroyed.
        let first = async { Ok::<_, String>((job.first_byte().await, begin.elapsed())) };
        let ((started, start), (said, first)) = tokio::try_join!(started, first)?;
        let handle = started
            .handle
            .ok_or("StartTask answered without a handle")?;
        self.running.push(Running { job, handle });
        said.map(|()| (start, first))
    }

    fn memory(&self) -> Result<Memory, String> {
        Memory::read(self.running.len(), self.launched.pid(), &self.state)
            .map_err(|error| format!("the plugin's memory cannot be read: {error}"))
    }

    /// Kills the plugin, and launches another one in its place.
    async fn die_and_rise(&mut self) -> Result<Duration, String> {
        self.launched.kill_and_be_seen().await?;
        let left = self.running.len();
        let (launched, agent, took) = used(self.plugin, self.wish)
            .await
            .map_err(|error| format!("{error}; its {left} tasks may run on"))?;
        (self.launched, self.agent) = (launched, agent);
        Ok(took)
    }

    async fn recover_all(&mut self) -> Result<Times, String> {
        let mut times = Vec::new();
        for Running { handle, .. } in &self.running {
            let request = RecoverTaskRequest {
                task_id: String::new(),
                handle: Some(handle.clone()),
            };
            let begin = Instant::now();
            quickly(self.agent.driver.recover_task(request)).await?;
            times.push(begin.elapsed());
        }
        Ok(Times::of(&times))
    }

    async fn kill_some(&mut self, count: usize) -> Result<Times, String> {
        let mut times = Vec::new();
        for running in self.running.iter().take(count) {
            let exit = until_exit(&self.agent, running.job.id());
            time::sleep(ASKED).await;
            let begin = Instant::now();
            running.kill(&mut self.agent).await?;
            let (result, seen) = exit.await.map_err(|error| error.to_string())??;
            was_killed(&result)?;
            times.push(seen.duration_since(begin));
        }
        Ok(Times::of(&times))
    }

    async fn stop_some(&mut self, skip: usize, count: usize) -> Result<Times, String> {
        let mut times = Vec::new();
        for running in self.running.iter().skip(skip).take(count) {
            let request = StopTaskRequest {
                task_id: running.job.id(),
                timeout: Some(prost_types::Duration {
                    seconds: STOP_SECONDS,
                    nanos: 0,
                }),
                signal: String::new(),
            };
            let begin = Instant::now();
            slowly(self.agent.driver.stop_task(request)).await?;
            times.push(begin.elapsed());
        }
        Ok(Times::of(&times))
    }

    /// Destroys every task, also those behind one that cannot be.
    async fn destroy_all(&mut self) -> Result<Times, String> {
        let (mut times, mut first_error) = (Vec::new(), None);
        for running in std::mem::take(&mut self.running) {
            let request = DestroyTaskRequest {
                task_id: running.job.id(),
                force: true,
            };
            let begin = Instant::now();
            if let Err(error) = slowly(self.agent.driver.destroy_task(request)).await {
                first_error.get_or_insert(error);
            }
            times.push(begin.elapsed());
        }
        first_error.map_or_else(|| Ok(Times::of(&times)), Err)
    }
}

impl Running {
    /// Kills its first process. Whose pid no driver must tell is asked for by the agent's own means.
    async fn kill(&self, agent: &mut Agent) -> Result<(), String> {
        if let Some(pid) = first_process(&self.handle.driver_state) {
            return kill_process(pid, Signal::KILL).map_err(|error| error.to_string());
        }
        let request = SignalTaskRequest {
            task_id: self.job.id(),
            signal: "SIGKILL".to_owned(),
        };
        quickly(agent.driver.signal_task(request)).await.map(|_| ())
    }
}

/// Launches a plugin and configures it, and says how long it took until it could be spoken to.
async fn used(plugin: &Path, wish: &Wish) -> Result<(Launched, Agent, Duration), String> {
    let begin = Instant::now();
    let launched = Launched::start(plugin, &wish.args).await?;
    let mut agent = Agent::connect(launched.socket()).await?;
    let took = begin.elapsed();
    let mut report = Report::default();
    agent.begin_to_use(wish, &mut report).await;
    match report.first_failure() {
        None => Ok((launched, agent, took)),
        Some(failure) => Err(failure),
    }
}

/// Asks how a task ends, and notes when that was known.
fn until_exit(agent: &Agent, task_id: String) -> JoinHandle<Result<(ExitResult, Instant), String>> {
    let mut driver = agent.driver.clone();
    tokio::spawn(async move {
        let answer = slowly(driver.wait_task(WaitTaskRequest { task_id })).await?;
        let (answer, seen) = (answer.into_inner(), Instant::now());
        match answer.result {
            Some(result) if answer.err.is_empty() => Ok((result, seen)),
            _ => Err(format!("WaitTask gave no result: {}", answer.err)),
        }
    })
}

/// A time of something else is none.
fn was_killed(result: &ExitResult) -> Result<(), String> {
    if result.signal == libc::SIGKILL {
        return Ok(());
    }
    Err(format!(
        "a killed task ended with exit code {} and signal {}, expected signal {}",
        result.exit_code,
        result.signal,
        libc::SIGKILL
    ))
}

/// The `pid` in a driver's own words, where they are JSON and have one.
fn first_process(words: &[u8]) -> Option<Pid> {
    let words: serde_json::Value = serde_json::from_slice(words).ok()?;
    let pid = words.get("pid")?.as_i64()?;
    Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid > 1)?)
}

/// At how many tasks memory is read: at the first, at a quarter of all, at all.
fn marks(tasks: usize) -> [usize; 3] {
    [1, tasks.div_ceil(4), tasks]
}

/// How many tasks are killed and how many stopped.
fn ends(tasks: usize) -> (usize, usize) {
    (tasks.div_ceil(2).min(MOST_ENDS), (tasks / 2).min(MOST_ENDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_tasks_are_weighed_at_one_fifty_and_two_hundred() {
        assert_eq!(marks(200), [1, 50, 200]);
        assert_eq!(marks(1), [1, 1, 1]);
    }

    #[test]
    fn no_task_is_both_killed_and_stopped() {
        for tasks in 1..=MOST_TASKS {
            let (killed, stopped) = ends(tasks);
            assert!(killed >= 1 && killed + stopped <= tasks, "{tasks}");
        }
        assert_eq!(ends(50), (20, 20));
    }

    #[test]
    fn a_pid_is_found_in_a_drivers_own_words_or_not_at_all() {
        let pid =
            |words: &str| first_process(words.as_bytes()).map(|pid| pid.as_raw_nonzero().get());
        assert_eq!(pid(r#"{"pid":77}"#), Some(77));
        // Nobody wants to kill these.
        for words in [
            "",
            "\u{1}",
            "{}",
            r#"{"pid":0}"#,
            r#"{"pid":1}"#,
            r#"{"pid":-9}"#,
        ] {
            assert_eq!(pid(words), None, "{words}");
        }
    }

    #[test]
    fn only_a_kill_counts_as_one() {
        let result = |signal| ExitResult {
            exit_code: 128 + signal,
            signal,
            ..ExitResult::default()
        };
        assert!(was_killed(&result(libc::SIGKILL)).is_ok());
        assert!(
            was_killed(&result(0))
                .unwrap_err()
                .contains("exit code 128")
        );
    }

    #[test]
    fn neither_none_nor_too_many_tasks_are_measured() {
        for tasks in [0, MOST_TASKS + 1] {
            let refused = measure(Path::new("/bin/true"), &Wish::default(), tasks);
            assert!(refused.unwrap_err().contains("1 to 500"));
        }
    }

    #[test]
    fn a_program_that_is_no_plugin_has_no_numbers() {
        let refused = measure(Path::new("/bin/true"), &Wish::default(), 1);
        assert_eq!(refused.unwrap_err(), "it ended without a handshake");
    }
}
