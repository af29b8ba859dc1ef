//! A task as an agent runs it: its folders, its log, its life, and the rules on the way.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, mknodat};
use tempfile::TempDir;
use tokio::{net::unix::pipe, time};

use super::{
    Report,
    agent::{Agent, quickly, refused},
    scope::Scope,
    visit::Visit,
};
use crate::{
    cgroup::Mode,
    proto::drivers::{
        AllocatedCpuResources, AllocatedMemoryResources, AllocatedTaskResources,
        DestroyTaskRequest, ExitResult, InspectTaskRequest, LinuxResources, RecoverTaskRequest,
        Resources, SignalTaskRequest, StartTaskRequest, StopTaskRequest, TaskConfig, TaskHandle,
        TaskResourceUsage, TaskStats, TaskStatsRequest, TaskStatsResponse, WaitTaskRequest,
    },
};

const NAME: &str = "conformance";

/// How long an agent's logmon waits for the end of a log.
const LOGS: Duration = Duration::from_secs(2);

/// How long a start or a stop may take.
const SLOW: Duration = Duration::from_mins(1);

/// How long a program may take until it prints something.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// How often a task's use is asked for.
const INTERVAL: i64 = 1;

/// The task and its folders, which go with it.
pub(super) struct Job {
    config: TaskConfig,
    logs: [File; 2],
    scope: Option<Scope>,
    _dir: TempDir,
}

impl Job {
    /// Makes the folders and the log, as an agent has them before a task starts.
    pub(super) fn new(parent: Option<&Path>, options: &[u8]) -> Result<Self, String> {
        Self::prepare(parent, options).map_err(|error| error.to_string())
    }

    fn prepare(parent: Option<&Path>, options: &[u8]) -> io::Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let dir = tempfile::Builder::new()
            .prefix("conformance-")
            .tempdir_in(parent)?;
        let alloc_id = uuid::Uuid::new_v4().to_string();
        let alloc = dir.path().join(&alloc_id);
        for folder in ["alloc/data", "alloc/logs", "alloc/tmp"] {
            fs::create_dir_all(alloc.join(folder))?;
        }
        for folder in ["local", "secrets", "tmp", "private"] {
            fs::create_dir_all(alloc.join(NAME).join(folder))?;
        }
        let fifo = |stream: &str| alloc.join(format!("alloc/logs/.{NAME}.{stream}.fifo"));
        let logs = [log(&fifo("stdout"))?, log(&fifo("stderr"))?];
        let config = TaskConfig {
            id: format!("{alloc_id}/{NAME}/0a1b2c3d"),
            name: NAME.to_owned(),
            alloc_id,
            msgpack_driver_config: options.to_vec(),
            env: environment(),
            resources: Some(resources()),
            alloc_dir: text(&alloc),
            stdout_path: text(&fifo("stdout")),
            stderr_path: text(&fifo("stderr")),
            job_name: NAME.to_owned(),
            job_id: NAME.to_owned(),
            task_group_name: NAME.to_owned(),
            namespace: "default".to_owned(),
            ..TaskConfig::default()
        };
        Ok(Self {
            config,
            logs,
            scope: None,
            _dir: dir,
        })
    }

    /// Makes a control group for it, in which it is to start.
    pub(super) fn enter_scope(&mut self, root: &Path, mode: &Mode) {
        let name = format!("{}.{NAME}", self.config.alloc_id);
        self.scope = Scope::make(root, mode, &name).ok().flatten();
        let resources = self.config.resources.as_mut();
        let linux = resources.and_then(|resources| resources.linux_resources.as_mut());
        if let (Some(linux), Some(scope)) = (linux, &self.scope) {
            linux.cpuset_cgroup = text(scope.path());
        }
    }

    /// What the agent calls it.
    pub(super) fn id(&self) -> String {
        self.config.id.clone()
    }

    /// What asks for its start.
    pub(super) fn start_request(&self) -> StartTaskRequest {
        StartTaskRequest {
            task: Some(self.config.clone()),
        }
    }

    /// Waits until it has printed something to stdout.
    pub(super) async fn first_byte(&self) -> Result<(), String> {
        let log = self.logs[0].try_clone().and_then(pipe::Receiver::from_file);
        let log = log.map_err(|error| error.to_string())?;
        let first = time::timeout(FIRST_BYTE, first_byte(&log)).await;
        first.unwrap_or_else(|_| {
            Err(format!(
                "the task printed nothing within {FIRST_BYTE:?}: give one that prints a line when it is up"
            ))
        })
    }

    /// Starts it; without a usable handle there is nothing more to see.
    pub(super) async fn start(&self, agent: &mut Agent, report: &mut Report) -> Option<TaskHandle> {
        let started = slowly(agent.driver.start_task(self.start_request())).await;
        let started = report.take("start", "the task fails", started)?;
        let handle = started
            .into_inner()
            .handle
            .ok_or_else(|| "there is no handle".to_owned());
        let handle = report.take("handle", "the task fails after it has started", handle)?;
        report.note(
            "whole handle",
            "after a restart the agent starts a second copy of the task",
            self.is_whole(&handle),
        );
        Some(handle)
    }

    fn is_whole(&self, handle: &TaskHandle) -> Result<(), String> {
        if handle.version < 1 {
            return Err("version 0 is the agent's own: use 1 or more".to_owned());
        }
        match &handle.config {
            None => Err("there is no `config` in it".to_owned()),
            Some(config) if *config != self.config => {
                Err("its `config` is not the one that was sent".to_owned())
            }
            Some(_) => Ok(()),
        }
    }

    /// Looks at it while it runs.
    pub(super) async fn look(&self, agent: &mut Agent, report: &mut Report) {
        let inspected = self.inspect(agent).await;
        report.note(
            "inspection",
            "what is missing in it crashes the agent's decoder",
            inspected,
        );
        self.look_at_stats(agent, report).await;
        let told = self.events(agent).await;
        report.note("events", "the agent finds no task for them", told);
        let odd = SignalTaskRequest {
            task_id: self.config.id.clone(),
            signal: "SIGNONSENSE".to_owned(),
        };
        let signal = refused(agent.driver.signal_task(odd)).await;
        report.note(
            "unknown signal",
            "a user's mistake becomes another signal",
            signal,
        );
        let dormant = self.wait_does_not_return(agent).await;
        report.note(
            "patient wait",
            "a wait that returns early ends the task",
            dormant,
        );
        let early = DestroyTaskRequest {
            task_id: self.config.id.clone(),
            force: false,
        };
        let kept = refused(agent.driver.destroy_task(early)).await;
        report.note("no unforced destruction", "a running task is lost", kept);
        let wrong = refused(agent.driver.start_task(self.wrong_request())).await;
        report.note(
            "start of what makes no sense",
            "an error that is no error of the call is a success to the agent",
            wrong,
        );
        let task_id = self.config.id.clone();
        Visit::of(agent, task_id).look(report).await;
        self.look_at_scope(report);
    }

    fn look_at_scope(&self, report: &mut Report) {
        let (name, why) = (
            "control group",
            "the task is outside of what the agent limits and clears away",
        );
        match &self.scope {
            Some(scope) => {
                report.note(name, why, scope.is_inhabited());
            }
            None => report.skip(name, why, "none could be made for the task"),
        }
    }

    /// What no driver can decode.
    fn wrong_request(&self) -> StartTaskRequest {
        let config = TaskConfig {
            id: format!("{}/wrong/0a1b2c3d", self.config.alloc_id),
            // A map of one member, and no member.
            msgpack_driver_config: vec![0x81],
            ..self.config.clone()
        };
        StartTaskRequest { task: Some(config) }
    }

    /// The reader of its log goes away, and another one comes.
    pub(super) async fn changes_its_reader(&mut self, agent: &mut Agent, report: &mut Report) {
        let changed = self.change_reader(agent).await;
        report.note(
            "another reader of the log",
            "what the task says is lost, or ends it, after the agent's logmon was started again",
            changed,
        );
    }

    async fn change_reader(&mut self, agent: &mut Agent) -> Result<(), String> {
        let unread = || File::open("/dev/null").map_err(|error| error.to_string());
        self.logs = [unread()?, unread()?];
        self.wait_does_not_return(agent).await?;
        for (log, path) in
            (self.logs.iter_mut()).zip([&self.config.stdout_path, &self.config.stderr_path])
        {
            *log = reader(Path::new(path)).map_err(|error| format!("`{path}`: {error}"))?;
            if has_ended(log) {
                return Err(format!("nobody writes to `{path}` any more"));
            }
        }
        Ok(())
    }

    async fn look_at_stats(&self, agent: &mut Agent, report: &mut Report) {
        let stream = quickly(agent.driver.task_stats(self.stats_request())).await;
        let mut stream = match stream {
            Ok(stream) => Ok(stream.into_inner()),
            Err(error) => Err(error),
        };
        for name in ["first stats", "next stats"] {
            let stats = match &mut stream {
                Ok(stream) => next_stats(stream).await.and_then(|stats| are_whole(&stats)),
                Err(error) => Err(error.clone()),
            };
            report.note(name, "what is missing in them crashes the agent", stats);
        }
    }

    /// Asks for what it uses.
    pub(super) fn stats_request(&self) -> TaskStatsRequest {
        TaskStatsRequest {
            task_id: self.config.id.clone(),
            collection_interval: Some(prost_types::Duration {
                seconds: INTERVAL,
                nanos: 0,
            }),
        }
    }

    async fn events(&self, agent: &mut Agent) -> Result<(), String> {
        for event in agent.events_of(&self.config.id).await {
            let whose = (&event.alloc_id, &event.task_name);
            if whose != (&self.config.alloc_id, &self.config.name) {
                return Err(format!(
                    "expected allocation `{}` and task `{}`, got {whose:?}",
                    self.config.alloc_id, self.config.name
                ));
            }
            event.timestamp.ok_or("`timestamp` is missing")?;
        }
        Ok(())
    }

    async fn inspect(&self, agent: &mut Agent) -> Result<(), String> {
        let request = InspectTaskRequest {
            task_id: self.config.id.clone(),
        };
        let answer = quickly(agent.driver.inspect_task(request))
            .await?
            .into_inner();
        let task = answer.task.ok_or("`task` is missing")?;
        task.result.ok_or("`task.result` is missing")?;
        task.started_at.ok_or("`task.started_at` is missing")?;
        task.completed_at.ok_or("`task.completed_at` is missing")?;
        Ok(())
    }

    async fn wait_does_not_return(&self, agent: &mut Agent) -> Result<(), String> {
        let request = WaitTaskRequest {
            task_id: self.config.id.clone(),
        };
        match time::timeout(Duration::from_millis(500), agent.driver.wait_task(request)).await {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("it answered while the task ran: {answer:?}")),
        }
    }

    /// Finds it again by its handle.
    pub(super) async fn recover(
        &self,
        agent: &mut Agent,
        handle: &TaskHandle,
        name: &'static str,
        report: &mut Report,
    ) {
        let request = RecoverTaskRequest {
            task_id: String::new(),
            handle: Some(handle.clone()),
        };
        let recovered = quickly(agent.driver.recover_task(request))
            .await
            .map(|_| ());
        report.note(name, "the task is destroyed and started again", recovered);
    }

    /// Stops it, and looks at its end.
    pub(super) async fn stop(&self, agent: &mut Agent, report: &mut Report) {
        let stop = |seconds| StopTaskRequest {
            task_id: self.config.id.clone(),
            timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
            signal: String::new(),
        };
        let stopped = slowly(agent.driver.stop_task(stop(5))).await.map(|_| ());
        report.note("stop", "the agent tries five times, for minutes", stopped);
        for name in ["wait after the end", "second wait after the end"] {
            report.note(
                name,
                "the agent waits for ever, or takes the task for failed",
                self.end(agent).await,
            );
        }
        let again = quickly(agent.driver.stop_task(stop(0))).await.map(|_| ());
        report.note(
            "stop after the end",
            "the agent tries five times, for minutes",
            again,
        );
        report.note(
            "end of the log",
            "the agent's logmon waits two seconds for it",
            self.logs_have_ended().await,
        );
    }

    async fn end(&self, agent: &mut Agent) -> Result<(), String> {
        let request = WaitTaskRequest {
            task_id: self.config.id.clone(),
        };
        let answer = quickly(agent.driver.wait_task(request)).await?.into_inner();
        if !answer.err.is_empty() {
            return Err(answer.err);
        }
        is_plausible(answer.result.ok_or("`result` is missing")?)
    }

    async fn logs_have_ended(&self) -> Result<(), String> {
        let deadline = Instant::now() + LOGS;
        for log in &self.logs {
            while !has_ended(log) {
                if Instant::now() > deadline {
                    return Err(format!(
                        "a FIFO is still open for writing {LOGS:?} after the end"
                    ));
                }
                time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// Destroys it, twice as an agent may.
    pub(super) async fn destroy(&self, agent: &mut Agent, report: &mut Report) {
        for name in ["destruction", "second destruction"] {
            let request = DestroyTaskRequest {
                task_id: self.config.id.clone(),
                force: true,
            };
            let destroyed = slowly(agent.driver.destroy_task(request)).await.map(|_| ());
            report.note(name, "what is left of the task stays for ever", destroyed);
        }
        let request = WaitTaskRequest {
            task_id: self.config.id.clone(),
        };
        let forgotten = refused(agent.driver.wait_task(request)).await;
        report.note(
            "forgotten",
            "a task that is gone would be waited for",
            forgotten,
        );
    }
}

/// Waits for an answer that may take as long as a program needs to start or to end.
pub(super) async fn slowly<T>(
    answer: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, String> {
    match time::timeout(SLOW, answer).await {
        Ok(answer) => answer.map_err(|status| format!("{:?}: {}", status.code(), status.message())),
        Err(_) => Err(format!("no answer within {SLOW:?}")),
    }
}

async fn next_stats(stream: &mut tonic::Streaming<TaskStatsResponse>) -> Result<TaskStats, String> {
    let next = quickly(stream.message()).await?;
    let next = next.ok_or("the stream ended while the task ran")?;
    next.stats.ok_or_else(|| "`stats` is missing".to_owned())
}

fn are_whole(stats: &TaskStats) -> Result<(), String> {
    stats.timestamp.ok_or("`timestamp` is missing")?;
    let all = stats.agg_resource_usage.as_ref();
    is_measured(
        "agg_resource_usage",
        all.ok_or("`agg_resource_usage` is missing")?,
    )?;
    let each = stats.resource_usage_by_pid.iter();
    let mut lacking = each.filter(|(_, usage)| usage.cpu.is_none() || usage.memory.is_none());
    lacking.next().map_or(Ok(()), |(pid, _)| {
        Err(format!(
            "the usage of pid {pid} has no `cpu` or no `memory`"
        ))
    })
}

fn is_measured(name: &str, usage: &TaskResourceUsage) -> Result<(), String> {
    let cpu = usage
        .cpu
        .as_ref()
        .ok_or_else(|| format!("`{name}.cpu` is missing"))?;
    let memory = usage
        .memory
        .as_ref()
        .ok_or_else(|| format!("`{name}.memory` is missing"))?;
    if cpu.measured_fields.is_empty() && memory.measured_fields.is_empty() {
        return Err(format!(
            "`{name}` names no measured fields, so nothing is shown"
        ));
    }
    Ok(())
}

/// Death by signal n is exit code 128 + n and signal n.
fn is_plausible(result: ExitResult) -> Result<(), String> {
    if result.signal == 0 || result.exit_code == 128 + result.signal {
        return Ok(());
    }
    Err(format!(
        "signal {} with exit code {}: expected {}",
        result.signal,
        result.exit_code,
        128 + result.signal
    ))
}

fn log(path: &Path) -> io::Result<File> {
    mknodat(CWD, path, FileType::Fifo, rustix::fs::Mode::from(0o600), 0)?;
    reader(path)
}

fn reader(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

async fn first_byte(log: &pipe::Receiver) -> Result<(), String> {
    loop {
        log.readable().await.map_err(|error| error.to_string())?;
        match log.try_read(&mut [0]) {
            Ok(0) => return Err("the task ended, or closed its stdout, without a word".to_owned()),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Reads what is there. A FIFO that nobody writes to any more has ended.
fn has_ended(mut log: &File) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match log.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

fn environment() -> std::collections::HashMap<String, String> {
    let pairs = [
        ("NOMAD_ALLOC_DIR", "/alloc"),
        ("NOMAD_TASK_DIR", "/local"),
        ("NOMAD_SECRETS_DIR", "/secrets"),
        ("NOMAD_TASK_NAME", NAME),
    ];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn resources() -> Resources {
    Resources {
        allocated_resources: Some(AllocatedTaskResources {
            cpu: Some(AllocatedCpuResources { cpu_shares: 500 }),
            memory: Some(AllocatedMemoryResources {
                memory_mb: 256,
                memory_max_mb: 0,
            }),
            networks: Vec::new(),
        }),
        linux_resources: Some(LinuxResources {
            cpu_shares: 500,
            memory_limit_bytes: 256 << 20,
            percent_ticks: 0.1,
            ..LinuxResources::default()
        }),
        ports: Vec::new(),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
