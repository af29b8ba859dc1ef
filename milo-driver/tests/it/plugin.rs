//! The plugin with its real engine, as an agent drives it: many tasks, a plugin that is killed, programs that do not want
//! to end or want too much, logs whose reader goes away, and commands in a task. What any agent needs of any driver is
//! checked by the conformance suite, which is run here, too.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use milo_driver::proto::{
    base::{
        ClientTopology, NomadConfig, NomadDriverConfig, SetConfigRequest,
        base_plugin_client::BasePluginClient,
    },
    drivers::{
        AllocatedCpuResources, AllocatedMemoryResources, AllocatedTaskResources,
        DestroyTaskRequest, DriverTaskEvent, ExecTaskRequest, ExecTaskResponse,
        ExecTaskStreamingIoOperation as Stdin, ExecTaskStreamingRequest, ExitResult,
        FingerprintRequest, FingerprintResponse, LinuxResources, RecoverTaskRequest, Resources,
        SignalTaskRequest, StartTaskRequest, StopTaskRequest, TaskConfig, TaskEventsRequest,
        TaskHandle, TaskStats, TaskStatsRequest, WaitTaskRequest,
        driver_client::DriverClient,
        exec_task_streaming_request::{Setup, TerminalSize},
        fingerprint_response::HealthState,
    },
};
use runyard_common::testing::{Output, eventually, patience, tempdir, tool_binary};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::unix::pipe, task::JoinHandle, time::timeout};
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::support::{Gate, Place, fifo, kit, open_to_all};

/// What an agent adds to its own environment.
const CALL: [(&str, &str); 4] = [
    (
        "NOMAD_PLUGIN_MAGIC_COOKIE",
        "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255",
    ),
    ("PLUGIN_MIN_PORT", "10000"),
    ("PLUGIN_MAX_PORT", "25000"),
    ("PLUGIN_PROTOCOL_VERSIONS", "2"),
];

const MIB: u64 = 1 << 20;

/// What the node's CPUs have together.
const MEGAHERTZ: u32 = 4000;

/// Waits, and not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(patience(), what).await.expect("it did not happen")
}

/// A block in msgpack, as an agent sends it.
fn block(options: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(options).unwrap()
}

// === The plugin ===

/// A plugin's process, which is killed when dropped.
pub(crate) struct Plugin {
    pub(crate) child: Child,
    pub(crate) driver: DriverClient<Channel>,
}

impl Plugin {
    /// Launched, connected to and configured.
    pub(crate) async fn launch(place: &Place, config: &Value) -> Self {
        Self::launch_as(&tool_binary("milo-driver"), place, config).await
    }

    async fn launch_as(program: &Path, place: &Place, config: &Value) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(place.path().join("plugin.log"));
        Self::launch_with(program, config, log.unwrap().into()).await
    }

    /// The same with a log of the caller's.
    pub(crate) async fn launch_with(program: &Path, config: &Value, log: Stdio) -> Self {
        let mut child = Command::new(program)
            .envs(CALL)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let socket = line.split('|').nth(3).expect("a handshake");
        let endpoint = Endpoint::from_shared(format!("unix:{socket}")).unwrap();
        let channel = soon(endpoint.connect()).await.unwrap();
        let driver = NomadDriverConfig {
            client_max_port: 14_512,
            client_min_port: 14_000,
            // Of a node whose CPUs together have so many MHz.
            topology: Some(ClientTopology {
                override_total_compute: MEGAHERTZ.into(),
                ..ClientTopology::default()
            }),
        };
        let request = SetConfigRequest {
            msgpack_config: block(config),
            nomad_config: Some(NomadConfig {
                driver: Some(driver),
            }),
            plugin_api_version: "v0.1.0".to_owned(),
        };
        let mut base = BasePluginClient::new(channel.clone());
        soon(base.set_config(request)).await.unwrap();
        Self {
            child,
            driver: DriverClient::new(channel),
        }
    }

    pub(crate) fn kill(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A node of a cluster: an agent's part of it is these tests'.
pub(crate) struct Node {
    pub(crate) plugin: Plugin,
    pub(crate) config: Value,
    jars: PathBuf,
    pub(crate) place: Place,
}

/// The node, or nothing where containers cannot be made.
pub(crate) async fn node() -> Option<Node> {
    node_with(json!({})).await
}

pub(crate) async fn node_with(more: Value) -> Option<Node> {
    let jar = kit()?;
    let place = Place::new();
    let jars = place.folder("jars");
    fs::copy(jar, jars.join("kit.jar")).unwrap();
    let mut config = json!({ "state_dir": place.state().path(), "allow_host_mounts": true });
    let own = config.as_object_mut().unwrap();
    own.extend(more.as_object().unwrap().clone());
    Some(Node {
        plugin: Plugin::launch(&place, &config).await,
        config,
        jars,
        place,
    })
}

impl Node {
    pub(crate) fn driver(&self) -> DriverClient<Channel> {
        self.plugin.driver.clone()
    }

    /// The plugin is dead, and another one takes its place.
    pub(crate) async fn another_plugin(&mut self) {
        self.plugin = Plugin::launch(&self.place, &self.config).await;
    }

    /// A job that runs the kit, which finds the jars' folder at `/jars`.
    pub(crate) fn job(&self, name: &str, args: &[&str]) -> Job {
        self.job_with(name, args, &json!({}))
    }

    pub(crate) fn job_with(&self, name: &str, args: &[&str], more: &Value) -> Job {
        let mut options = json!({
            "jar_path": "/jars/kit.jar",
            "volumes": [format!("{}:/jars:ro", self.jars.display())],
            "jvm_options": ["-XX:TieredStopAtLevel=1"],
            "args": args,
        });
        let own = options.as_object_mut().unwrap();
        own.extend(more.as_object().unwrap().clone());
        Job::new(&self.place, name, &options)
    }

    /// What the containers of this node are, as crun was told.
    fn bundle(&self, job: &Job) -> Value {
        let dirs = self.place.tasks();
        let is_its = |dir: &&milo_driver::state::TaskDir| {
            dir.intent()
                .unwrap()
                .is_some_and(|intent| intent.task.id.0 == job.config.id)
        };
        let dir = dirs.iter().find(is_its).expect("records of the task");
        let text = fs::read_to_string(dir.bundle().join("config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn start(&self, job: &Job) -> TaskHandle {
        soon(start(self.driver(), job.config.clone()))
            .await
            .unwrap()
    }

    pub(crate) async fn recover(&self, handle: TaskHandle) -> Result<(), Status> {
        let request = RecoverTaskRequest {
            task_id: String::new(),
            handle: Some(handle),
        };
        soon(self.driver().recover_task(request)).await.map(|_| ())
    }

    pub(crate) async fn wait(&self, job: &Job) -> ExitResult {
        soon(wait(self.driver(), job.config.id.clone())).await
    }

    pub(crate) async fn stop(&self, job: &Job, milliseconds: i32) {
        let request = StopTaskRequest {
            task_id: job.config.id.clone(),
            timeout: Some(prost_types::Duration {
                seconds: 0,
                nanos: milliseconds * 1_000_000,
            }),
            signal: String::new(),
        };
        soon(self.driver().stop_task(request)).await.unwrap();
    }

    pub(crate) async fn destroy(&self, job: &Job) {
        let request = DestroyTaskRequest {
            task_id: job.config.id.clone(),
            force: true,
        };
        soon(self.driver().destroy_task(request)).await.unwrap();
    }

    pub(crate) async fn exec(&self, job: &Job, script: &str) -> Result<ExecTaskResponse, Status> {
        let request = ExecTaskRequest {
            task_id: job.config.id.clone(),
            command: shell(script),
            timeout: Some(prost_types::Duration {
                seconds: 0,
                nanos: 500_000_000,
            }),
        };
        let answer = soon(self.driver().exec_task(request)).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn events(&self) -> Streaming<DriverTaskEvent> {
        let events = soon(self.driver().task_events(TaskEventsRequest {})).await;
        events.unwrap().into_inner()
    }
}

pub(crate) async fn start(
    mut driver: DriverClient<Channel>,
    config: TaskConfig,
) -> Result<TaskHandle, Status> {
    let request = StartTaskRequest { task: Some(config) };
    let answer = driver.start_task(request).await?.into_inner();
    Ok(answer.handle.expect("a handle"))
}

pub(crate) async fn wait(mut driver: DriverClient<Channel>, task_id: String) -> ExitResult {
    let answer = driver.wait_task(WaitTaskRequest { task_id }).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.err, "");
    answer.result.expect("a result")
}

pub(crate) fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).into()
}

// === Jobs ===

/// A task as an agent asks for it, with its folders and the FIFOs of its log.
pub(crate) struct Job {
    pub(crate) config: TaskConfig,
    pub(crate) stdout: Log,
    pub(crate) stderr: Log,
}

impl Job {
    pub(crate) fn new(place: &Place, name: &str, options: &Value) -> Self {
        let alloc = place.folder(&format!("alloc-{name}"));
        for folder in ["alloc/logs", "alloc/data", "alloc/tmp"] {
            fs::create_dir_all(alloc.join(folder)).unwrap();
        }
        for folder in ["local", "secrets", "tmp"] {
            let folder = alloc.join(name).join(folder);
            fs::create_dir_all(&folder).unwrap();
            open_to_all(&folder, 0o777);
        }
        let log = |stream: &str| alloc.join(format!("alloc/logs/.{name}.{stream}.fifo"));
        let paths = [log("stdout"), log("stderr")];
        for path in &paths {
            fifo(path);
        }
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let alloc_id = format!("{}-{name}", place.path().display());
        Self {
            config: TaskConfig {
                id: format!("{alloc_id}/{name}/0a1b2c3d"),
                name: name.to_owned(),
                alloc_id,
                msgpack_driver_config: block(options),
                env: [("NOMAD_TASK_DIR".to_owned(), "/local".to_owned())].into(),
                resources: Some(resources(128, 0)),
                alloc_dir: text(&alloc),
                stdout_path: text(&paths[0]),
                stderr_path: text(&paths[1]),
                job_name: name.to_owned(),
                namespace: "default".to_owned(),
                ..TaskConfig::default()
            },
            stdout: Log::open(&paths[0]),
            stderr: Log::open(&paths[1]),
        }
    }

    fn limited(mut self, memory_mb: i64, memory_max_mb: i64) -> Self {
        self.config.resources = Some(resources(memory_mb, memory_max_mb));
        self
    }

    fn local(&self) -> PathBuf {
        Path::new(&self.config.alloc_dir)
            .join(&self.config.name)
            .join("local")
    }

    pub(crate) async fn has_begun(&mut self) {
        self.stdout.until("Starting application...\n").await;
    }
}

fn resources(memory_mb: i64, memory_max_mb: i64) -> Resources {
    Resources {
        allocated_resources: Some(AllocatedTaskResources {
            cpu: Some(AllocatedCpuResources { cpu_shares: 500 }),
            memory: Some(AllocatedMemoryResources {
                memory_mb,
                memory_max_mb,
            }),
            networks: Vec::new(),
        }),
        linux_resources: Some(LinuxResources {
            cpu_shares: 500,
            memory_limit_bytes: memory_mb << 20,
            percent_ticks: 0.1,
            ..LinuxResources::default()
        }),
        ports: Vec::new(),
    }
}

/// The reading end of a log's FIFO, as an agent's logmon has it.
pub(crate) struct Log {
    pipe: pipe::Receiver,
    text: String,
}

impl Log {
    fn open(path: &Path) -> Self {
        Self {
            pipe: pipe::OpenOptions::new().open_receiver(path).unwrap(),
            text: String::new(),
        }
    }

    /// Reads until a text has come.
    pub(crate) async fn until(&mut self, text: &str) {
        while !self.text.contains(text) {
            let more = timeout(patience(), self.more()).await;
            let has_ended = !more.unwrap_or(false);
            assert!(!has_ended, "`{text}` did not come in:\n{}", self.text);
        }
    }

    /// Reads until all who write have gone.
    pub(crate) async fn whole(mut self) -> String {
        while soon(self.more()).await {}
        self.text
    }

    async fn more(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let count = self.pipe.read(&mut chunk).await.unwrap();
        self.text
            .push_str(&String::from_utf8_lossy(&chunk[..count]));
        count > 0
    }
}

// === What any agent needs ===

/// What the suite says of this plugin, with tasks that sleep.
fn conformance(jar: &Path, more: &[&str]) -> Value {
    let place = Place::new();
    let jars = place.folder("jars");
    fs::copy(jar, jars.join("kit.jar")).unwrap();
    let config = json!({ "state_dir": place.state().path(), "allow_host_mounts": true });
    let task = json!({
        "jar_path": "/jars/kit.jar",
        "volumes": [format!("{}:/jars:ro", jars.display())],
        "args": ["sleep"],
    });
    let milo = tool_binary("milo-driver");
    let mut command = Command::new(&milo);
    command.args(["conformance", "-o", "json"]).arg(&milo);
    command.args([
        "--plugin-config",
        &config.to_string(),
        "--task",
        &task.to_string(),
    ]);
    command.args(more);
    let said = Output::of(&mut command).success();
    place.until_nothing_is_left();
    serde_json::from_str(&said).unwrap()
}

#[test]
fn no_rule_of_the_game_is_broken() {
    let Some(jar) = kit() else { return };
    let report = conformance(jar, &[]);
    let checks = report["checks"].as_array().unwrap();
    let kept = checks
        .iter()
        .filter(|check| check["verdict"]["is"] == "pass");
    assert_eq!(kept.count(), checks.len(), "{report}");
    // With a task nothing is skipped.
    assert!(checks.len() >= 100, "{report}");
}

#[test]
fn a_measurement_has_every_number() {
    let Some(jar) = kit() else { return };
    let measured = conformance(jar, &["--measure", "2"]);
    let counts = [
        ("launch", 1),
        ("start", 2),
        ("first_byte", 2),
        ("relaunch", 1),
        ("recover", 2),
        ("exit_seen", 1),
        ("stop", 1),
        ("destroy", 2),
    ];
    for (name, count) in counts {
        let times = &measured[name];
        assert_eq!(times["count"], count, "{name}: {measured}");
        assert!(
            times["max_ms"].as_f64().unwrap() > 0.0,
            "{name}: {measured}"
        );
    }
    let memory = measured["memory"].as_array().unwrap();
    assert_eq!(memory.len(), 2, "{measured}");
    for (memory, tasks) in memory.iter().zip(1..) {
        assert_eq!(memory["tasks"], tasks, "{measured}");
        assert_eq!(memory["shims"]["count"], tasks, "{measured}");
    }
}

// === Many ===

#[tokio::test]
async fn a_task_that_is_asked_for_twice_runs_once() {
    let Some(node) = node().await else { return };
    let job = node.job("twice", &["sleep"]);
    let ask = || start(node.driver(), job.config.clone());
    let (one, two) = soon(Box::pin(async { tokio::join!(ask(), ask()) })).await;
    let three = node.start(&job).await;
    let one = one.unwrap();
    assert_eq!([&one, &one], [&two.unwrap(), &three]);
    assert_eq!(node.place.tasks().len(), 1);
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
}

// === A plugin's death ===

/// Jobs that end with 1, 2, 3 and so on, every other one at the early gate.
fn gated(node: &Node, count: usize) -> Vec<Job> {
    let job = |code: usize| {
        let when = if code.is_multiple_of(2) {
            "early"
        } else {
            "late"
        };
        let gate = format!("/jars/{when}/gate");
        node.job(
            &format!("{when}{code}"),
            &["gate", &gate, &code.to_string()],
        )
    };
    (1..=count).map(job).collect()
}

/// Fifty of them, of which some begin, some wait and some end while there is no plugin.
#[tokio::test]
async fn a_killed_plugins_tasks_keep_their_ends_whenever_those_come() {
    let Some(mut node) = node().await else { return };
    let early = Gate::closed(&node.place.folder("jars/early"));
    let late = Gate::closed(&node.place.folder("jars/late"));
    let mut jobs = gated(&node, 50);
    let ask = |node: &Node, jobs: &[Job]| -> Vec<JoinHandle<_>> {
        let ask = |job: &Job| tokio::spawn(start(node.driver(), job.config.clone()));
        jobs.iter().map(ask).collect()
    };
    let (known, new) = jobs.split_at_mut(40);
    let mut handles = Vec::new();
    for asked in ask(&node, known) {
        handles.push(soon(asked).await.unwrap().unwrap());
    }
    // The others are on their way when it dies; the first of them may have got its answer.
    let mut asked = ask(&node, new);
    let _ = soon(asked.remove(0)).await;
    node.plugin.kill();
    early.open();
    for job in known.iter_mut().skip(1).step_by(2) {
        job.stdout.until("The gate was opened\n").await;
    }
    let ended = || {
        let dirs = node.place.tasks();
        let has_ended = |dir: &&milo_driver::state::TaskDir| matches!(dir.exit(), Ok(Some(_)));
        (dirs.iter().filter(has_ended).count() >= 20).then_some(())
    };
    eventually(patience(), ended);
    node.another_plugin().await;
    let began = Instant::now();
    for handle in handles {
        node.recover(handle).await.unwrap();
    }
    // An agent asks for one after the other before it does anything else.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    for asked in ask(&node, new) {
        soon(asked).await.unwrap().unwrap();
    }
    late.open();
    for (code, job) in (1..).zip(&jobs) {
        let result = node.wait(job).await;
        assert_eq!(
            (result.exit_code, result.signal),
            (code, 0),
            "{}",
            job.config.name
        );
    }
    assert_eq!(node.place.tasks().len(), jobs.len());
    for job in jobs {
        node.destroy(&job).await;
        let text = job.stdout.whole().await;
        assert_eq!(text, "Starting application...\nThe gate was opened\n");
    }
    node.place.until_nothing_is_left();
}

/// An upgrade puts another file in the place of the program that runs.
#[tokio::test]
async fn a_plugin_whose_file_was_replaced_starts_shims_of_its_own_version() {
    let Some(mut node) = node().await else { return };
    let program = node.place.path().join("milo-driver");
    fs::copy(tool_binary("milo-driver"), &program).unwrap();
    node.plugin = Plugin::launch_as(&program, &node.place, &node.config).await;
    let own = inode(node.plugin.child.id());
    let next = node.place.path().join("next");
    fs::write(&next, "#!/bin/false\n").unwrap();
    open_to_all(&next, 0o755);
    fs::rename(&next, &program).unwrap();
    let mut job = node.job("after", &["sleep"]);
    node.start(&job).await;
    job.has_begun().await;
    let shim = milo_driver::shim::process(&node.place.tasks()[0]).unwrap();
    assert_eq!(inode(shim.unwrap().started(0).pid.cast_unsigned()), own);
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
}

/// Which file a process runs.
fn inode(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

#[tokio::test]
async fn a_task_that_nobody_has_records_of_is_not_recovered() {
    let Some(node) = node().await else { return };
    let job = node.job("gone", &["hello"]);
    let handle = node.start(&job).await;
    node.wait(&job).await;
    node.destroy(&job).await;
    assert!(node.recover(handle).await.is_err());
}

// === Ends that are not wished for ===

#[tokio::test]
async fn a_program_that_ignores_the_signal_is_killed_when_its_time_is_up() {
    let Some(node) = node().await else { return };
    for milliseconds in [0, 300] {
        let options = json!({ "jvm_options": ["-Xrs"] });
        let mut job = node.job_with(&format!("deaf{milliseconds}"), &["sleep"], &options);
        node.start(&job).await;
        job.has_begun().await;
        let began = Instant::now();
        node.stop(&job, milliseconds).await;
        let time = began.elapsed();
        assert!(
            time >= Duration::from_millis(milliseconds.unsigned_abs().into()),
            "{time:?}"
        );
        let result = node.wait(&job).await;
        assert_eq!(
            (result.exit_code, result.signal, result.oom_killed),
            (137, 9, false)
        );
        node.destroy(&job).await;
    }
    node.place.until_nothing_is_left();
}

#[tokio::test]
async fn a_program_that_is_stopped_before_it_can_hear_it_hears_it_when_it_can() {
    let Some(node) = node().await else { return };
    let job = node.job("early", &["sleep"]);
    node.start(&job).await;
    // The JVM has no handlers yet, and the kernel drops what the first process of a container does not handle.
    let request = StopTaskRequest {
        task_id: job.config.id.clone(),
        timeout: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        signal: String::new(),
    };
    soon(node.driver().stop_task(request)).await.unwrap();
    let result = node.wait(&job).await;
    assert_eq!((result.exit_code, result.signal), (143, 0));
    node.destroy(&job).await;
}

#[tokio::test]
async fn a_program_that_heeds_the_signal_has_its_time() {
    let Some(node) = node().await else { return };
    let mut job = node.job("heeds", &["sleep"]);
    node.start(&job).await;
    job.has_begun().await;
    node.stop(&job, 999).await;
    let result = node.wait(&job).await;
    assert_eq!((result.exit_code, result.signal), (143, 0));
    node.destroy(&job).await;
}

#[tokio::test]
async fn a_signal_that_ends_the_program_is_told_with_an_init_as_without() {
    let Some(node) = node().await else { return };
    let mut job = node.job_with("behind", &["sleep"], &json!({ "init": true }));
    node.start(&job).await;
    job.has_begun().await;
    // The first process is the init, the second the program.
    node.exec(&job, "kill -KILL 2").await.unwrap();
    let result = node.wait(&job).await;
    assert_eq!((result.exit_code, result.signal), (137, 9));
    node.destroy(&job).await;
    // A code is a code, even this one: a JVM ends so when it is asked to.
    let mut job = node.job_with("asked", &["sleep"], &json!({ "init": true }));
    node.start(&job).await;
    job.has_begun().await;
    node.stop(&job, 999).await;
    let result = node.wait(&job).await;
    assert_eq!((result.exit_code, result.signal), (143, 0));
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
}

#[tokio::test]
async fn a_signal_reaches_the_program() {
    let Some(node) = node().await else { return };
    let mut job = node.job("signalled", &["sleep"]);
    node.start(&job).await;
    job.has_begun().await;
    let request = SignalTaskRequest {
        task_id: job.config.id.clone(),
        signal: "SIGQUIT".to_owned(),
    };
    soon(node.driver().signal_task(request)).await.unwrap();
    // What every JVM says then.
    job.stdout.until("Full thread dump").await;
    node.destroy(&job).await;
    let known = soon(Box::pin(start(node.driver(), job.config.clone()))).await;
    assert!(
        known.is_ok(),
        "an id is free again once its task is destroyed"
    );
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
}

#[tokio::test]
async fn a_fork_bomb_is_held_and_cleared_away() {
    let Some(node) = node().await else { return };
    let _gate = Gate::closed(&node.jars);
    let options = json!({ "pids_limit": 60, "exit_on_oom": false });
    let mut job = node.job_with("bomb", &["bomb", "/jars/gate"], &options);
    node.start(&job).await;
    job.stdout.until("held after ").await;
    job.has_begun().await;
    let stats = stats(&node, &job, |stats| !stats.resource_usage_by_pid.is_empty()).await;
    let count = stats.resource_usage_by_pid.len();
    assert!((10..=60).contains(&count), "{count} processes");
    node.stop(&job, 0).await;
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
}

#[tokio::test]
async fn a_program_out_of_memory_is_said_to_be_so() {
    let Some(node) = node().await else { return };
    let mut events = node.events().await;
    let options = json!({ "jvm_options": ["-XX:MaxDirectMemorySize=1g"] });
    let job = node.job_with("eater", &["eat"], &options).limited(64, 0);
    node.start(&job).await;
    let result = node.wait(&job).await;
    assert_eq!(
        (result.exit_code, result.signal, result.oom_killed),
        (137, 9, true)
    );
    let told = async {
        loop {
            let event = events.message().await.unwrap().expect("an event");
            if event
                .annotations
                .get("oom_killed")
                .is_some_and(|killed| killed == "true")
            {
                return event;
            }
        }
    };
    assert_eq!(soon(told).await.task_id, job.config.id);
    node.destroy(&job).await;
}

#[tokio::test]
async fn a_task_within_its_memory_runs_to_its_end() {
    let Some(node) = node().await else { return };
    let job = node.job("small", &["hello"]).limited(64, 0);
    node.start(&job).await;
    assert_eq!(node.wait(&job).await, ExitResult::default());
    node.destroy(&job).await;
    assert_eq!(
        job.stdout.whole().await,
        "Hello from Java!\nMilo driver test complete\n"
    );
}

// === The log ===

#[tokio::test]
async fn a_log_whose_reader_dies_loses_nothing_when_another_one_comes() {
    let Some(node) = node().await else { return };
    let mut gate = Gate::closed(&node.jars);
    let mut job = node.job("teller", &["tell", "/jars/gate"]);
    node.start(&job).await;
    job.has_begun().await;
    gate.pass("a");
    job.stdout.until("line a\n").await;
    let path = PathBuf::from(&job.config.stdout_path);
    drop(job.stdout);
    gate.pass("b");
    let mut next = Log::open(&path);
    next.until("line b\n").await;
    gate.pass("c");
    next.until("line c\n").await;
    assert_eq!(next.text, "line b\nline c\n");
    gate.open();
    let request = wait(node.driver(), job.config.id.clone());
    assert_eq!(soon(request).await, ExitResult::default());
}

#[tokio::test]
async fn a_log_that_is_not_read_holds_its_program_up_unless_it_may_be_dropped() {
    let Some(node) = node().await else { return };
    let lines = 50_000;
    let flood = |name: &str, mode: &str| {
        let options = json!({ "log_mode": mode });
        node.job_with(name, &["flood", &lines.to_string()], &options)
    };
    let dropped = flood("dropped", "drop");
    node.start(&dropped).await;
    assert_eq!(node.wait(&dropped).await, ExitResult::default());
    let blocked = flood("blocked", "block");
    node.start(&blocked).await;
    node.destroy(&dropped).await;
    let end = wait(node.driver(), blocked.config.id);
    let whole = blocked.stdout.whole();
    let (end, whole) = soon(Box::pin(async { tokio::join!(end, whole) })).await;
    assert_eq!(end, ExitResult::default());
    assert_eq!(whole.lines().count(), lines);
}

#[tokio::test]
async fn a_wrong_artifact_is_told_in_the_log_and_to_the_agent() {
    let Some(node) = node().await else { return };
    for (name, files, first) in [
        (
            "script",
            &["my-script.py"][..],
            "Error: Artifact must be a .jar file, got: my-script.py",
        ),
        (
            "none",
            &[],
            "Error: Failed to download artifact: file not found",
        ),
        (
            "many",
            &["a.jar", "b.jar"],
            "Error: Multiple JAR files found",
        ),
    ] {
        let mut job = Job::new(&node.place, name, &json!({}));
        for file in files {
            fs::write(job.local().join(file), "x").unwrap();
        }
        let refused = soon(start(node.driver(), job.config.clone()))
            .await
            .unwrap_err();
        assert!(refused.message().starts_with(first), "{refused}");
        job.stderr.until(&format!("{}\n", refused.message())).await;
        assert!(
            job.stderr.text.contains("\nSuggestion: "),
            "{}",
            job.stderr.text
        );
    }
    node.place.until_nothing_is_left();
}

#[tokio::test]
async fn what_the_operator_does_not_allow_is_refused_with_the_option_that_would() {
    let Some(node) = node_with(json!({ "allow_host_mounts": false })).await else {
        return;
    };
    let mut root = Job::new(&node.place, "root", &json!({}));
    root.config.user = "root".to_owned();
    for (job, option) in [
        (root, "allow_privileged_user"),
        (node.job("mounter", &["hello"]), "allow_host_mounts"),
    ] {
        let refused = soon(start(node.driver(), job.config)).await.unwrap_err();
        assert!(refused.message().contains(option), "{refused}");
    }
    assert!(node.place.tasks().is_empty());
}

#[tokio::test]
async fn a_job_that_wants_another_java_is_told_which_there_are() {
    let Some(node) = node().await else { return };
    let job = node.job_with("future", &["hello"], &json!({ "java_version": "4711" }));
    let refused = soon(start(node.driver(), job.config)).await.unwrap_err();
    let text = refused.message();
    assert!(
        text.starts_with("Error: No matching Java runtime found on host\n"),
        "{text}"
    );
    assert!(text.contains("4711") && text.contains("\nGot: "), "{text}");
}

/// A home whose `java` is another program.
fn jvm(home: &Path, program: &str) {
    fs::create_dir_all(home.join("bin")).unwrap();
    fs::write(home.join("release"), "JAVA_VERSION=\"99.0.1\"\n").unwrap();
    let java = home.join("bin/java");
    let copied = Command::new("cp")
        .args(["--remove-destination", program])
        .arg(java)
        .status();
    assert!(copied.unwrap().success());
}

#[tokio::test]
async fn a_broken_jvm_is_no_default_once_that_is_known() {
    let homes = tempdir();
    let home = homes.path().canonicalize().unwrap().join("broken");
    jvm(&home, "/bin/false");
    let config = json!({ "java_homes": [home], "fingerprint_period": "100ms" });
    let Some(node) = node_with(config).await else {
        return;
    };
    let said = |response: &FingerprintResponse, name: &str| {
        let value = response.attributes.get(&format!("driver.milo.{name}"));
        value
            .map(|value| format!("{:?}", value.value))
            .unwrap_or_default()
    };
    let broken = home.to_str().unwrap();
    let stream = node.driver().fingerprint(FingerprintRequest {}).await;
    let mut stream = stream.unwrap().into_inner();
    let mut next = async || soon(stream.message()).await.unwrap().unwrap();
    // The first comes before anything was started.
    let first = next().await;
    assert!(said(&first, "java.default.home").contains(broken));
    assert_eq!(said(&first, "crun.version"), "");
    let second = next().await;
    assert_eq!(second.health(), HealthState::Healthy);
    assert!(!said(&second, "java.default.home").contains(broken));
    assert!(said(&second, "java.rejected").contains(broken));
    assert!(said(&second, "crun.version").contains('.'));
    let mut job = node.job("another", &["sleep"]);
    node.start(&job).await;
    job.has_begun().await;
    node.destroy(&job).await;
    jvm(&home, "/bin/true");
    let third = next().await;
    assert!(said(&third, "java.default.home").contains(broken));
    node.place.until_nothing_is_left();
}

#[tokio::test]
async fn the_only_jar_of_a_task_need_not_be_named() {
    let Some(node) = node().await else { return };
    let mut job = Job::new(&node.place, "only", &json!({}));
    fs::create_dir(job.local().join("deep")).unwrap();
    fs::copy(node.jars.join("kit.jar"), job.local().join("deep/App.JAR")).unwrap();
    node.start(&job).await;
    job.stdout.until("Milo driver test complete\n").await;
    assert_eq!(node.wait(&job).await.exit_code, 0);
}

#[tokio::test]
async fn a_greeting_is_echoed_by_the_shell_of_the_operators_choice() {
    let Some(node) = node_with(json!({ "shell": "bash" })).await else {
        return;
    };
    let job = Job::new(
        &node.place,
        "greeter",
        &json!({ "greeting": "hello $(id) 'you'" }),
    );
    node.start(&job).await;
    assert_eq!(node.wait(&job).await.exit_code, 0);
    let program = node.bundle(&job)["process"]["args"][0]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(program.ends_with("/bash"), "{program}");
    node.destroy(&job).await;
    assert_eq!(job.stdout.whole().await, "hello $(id) 'you'\n");
}

// === Inside a task ===

/// Says all of it, and answers what came back: both streams and the end.
async fn converse(
    node: &Node,
    requests: Vec<ExecTaskStreamingRequest>,
) -> (String, String, ExitResult) {
    let requests = tokio_stream::iter(requests);
    let answers = soon(node.driver().exec_task_streaming(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    let (mut stdout, mut stderr, mut result) = (Vec::new(), Vec::new(), None);
    while let Some(answer) = soon(answers.message()).await.unwrap() {
        stdout.extend(answer.stdout.unwrap_or_default().data);
        stderr.extend(answer.stderr.unwrap_or_default().data);
        if answer.exited {
            result = answer.result;
        }
    }
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(stdout), text(stderr), result.expect("its end"))
}

fn requests(job: &Job, script: &str, tty: bool, input: &str) -> Vec<ExecTaskStreamingRequest> {
    let setup = Setup {
        task_id: job.config.id.clone(),
        command: shell(script),
        tty,
    };
    let size = TerminalSize {
        height: 33,
        width: 99,
    };
    let stdin = |data: &str, close| ExecTaskStreamingRequest {
        stdin: Some(Stdin {
            data: data.into(),
            close,
        }),
        ..ExecTaskStreamingRequest::default()
    };
    vec![
        ExecTaskStreamingRequest {
            setup: Some(setup),
            ..ExecTaskStreamingRequest::default()
        },
        ExecTaskStreamingRequest {
            tty_size: tty.then_some(size),
            ..ExecTaskStreamingRequest::default()
        },
        stdin(input, false),
        stdin("", true),
    ]
}

#[tokio::test]
async fn commands_run_in_a_task_as_the_task_itself() {
    let Some(node) = node().await else { return };
    let mut job = node.job("inside", &["sleep"]);
    job.config.env.insert("WORD".to_owned(), "said".to_owned());
    node.start(&job).await;
    job.has_begun().await;
    let check = node
        .exec(&job, "echo $WORD; id -u >&2; exit 3")
        .await
        .unwrap();
    assert_eq!(
        (check.stdout.as_slice(), check.stderr.as_slice()),
        (&b"said\n"[..], &b"65534\n"[..])
    );
    assert_eq!(check.result.unwrap().exit_code, 3);
    assert!(node.exec(&job, "exec sleep 1000").await.is_err());
    let plain = requests(
        &job,
        "cat; echo $WORD >&2; test -t 0 || exit 4",
        false,
        "to it\n",
    );
    let (stdout, stderr, result) = converse(&node, plain).await;
    assert_eq!(
        (stdout.as_str(), stderr.as_str(), result.exit_code),
        ("to it\n", "said\n", 4)
    );
    let terminal = requests(
        &job,
        "read word; stty size; echo got $word; exit 5",
        true,
        "it\n",
    );
    let (stdout, stderr, result) = converse(&node, terminal).await;
    assert!(stdout.ends_with("33 99\r\ngot it\r\n"), "{stdout:?}");
    assert_eq!((stderr.as_str(), result.exit_code), ("", 5));
    node.stop(&job, 0).await;
    assert!(node.exec(&job, "true").await.is_err());
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
}

/// What a task uses, as soon as it is what is waited for.
async fn stats(node: &Node, job: &Job, is_it: impl Fn(&TaskStats) -> bool) -> TaskStats {
    let request = TaskStatsRequest {
        task_id: job.config.id.clone(),
        collection_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
    };
    let mut stream = soon(node.driver().task_stats(request))
        .await
        .unwrap()
        .into_inner();
    loop {
        let stats = soon(stream.message()).await.unwrap().expect("more of them");
        let stats = stats.stats.expect("stats");
        if is_it(&stats) {
            return stats;
        }
    }
}

#[tokio::test]
async fn what_a_busy_task_uses_is_plausible() {
    let Some(node) = node().await else { return };
    let mut job = node.job("busy", &["busy"]);
    node.start(&job).await;
    job.has_begun().await;
    let is_busy = |stats: &TaskStats| {
        let usage = stats.agg_resource_usage.as_ref().unwrap();
        let cpu = usage.cpu.as_ref().unwrap();
        // The kernel counts the two modes by its ticks.
        cpu.percent > 1.0 && cpu.user_mode > 0.0
    };
    let stats = stats(&node, &job, is_busy).await;
    let usage = stats.agg_resource_usage.unwrap();
    let (cpu, memory) = (usage.cpu.unwrap(), usage.memory.unwrap());
    let cpus = std::thread::available_parallelism().unwrap().get();
    let most = 100.0 * f64::from(u32::try_from(cpus).unwrap()) * 1.5;
    assert!(cpu.percent < most, "{cpu:?}");
    let ticks =
        cpu.percent / 100.0 * f64::from(MEGAHERTZ) / f64::from(u32::try_from(cpus).unwrap());
    assert!((cpu.total_ticks - ticks).abs() < 1.0, "{cpu:?}");
    let limit = 128 << 20;
    assert!((1 << 20..=limit).contains(&memory.rss), "{memory:?}");
    assert!((1 << 20..=limit).contains(&memory.usage), "{memory:?}");
    assert_eq!(stats.resource_usage_by_pid.len(), 1);
    let own = stats.resource_usage_by_pid.values().next().unwrap();
    assert!(own.memory.as_ref().unwrap().rss > 1 << 20, "{own:?}");
    node.destroy(&job).await;
}

#[tokio::test]
async fn a_jobs_resources_become_the_containers_limits() {
    let Some(node) = node().await else { return };
    for (name, max, limit, reservation) in [
        ("plain", 0, Some(100 * MIB), None),
        ("burst", 200, Some(200 * MIB), Some(100 * MIB)),
        ("boundless", -1, None, Some(100 * MIB)),
    ] {
        let mut job = node.job(name, &["hello"]).limited(100, max);
        let linux = job
            .config
            .resources
            .as_mut()
            .unwrap()
            .linux_resources
            .as_mut();
        linux.unwrap().cpuset_cpus = "0".to_owned();
        node.start(&job).await;
        let bundle = node.bundle(&job);
        let resources = &bundle["linux"]["resources"];
        let memory = |what: &str| resources["memory"][what].as_u64();
        assert_eq!(
            (memory("limit"), memory("reservation")),
            (limit, reservation),
            "{name}"
        );
        assert_eq!(
            (&resources["cpu"]["cpus"], &resources["cpu"]["shares"]),
            (&"0".into(), &500.into())
        );
        let args = bundle["process"]["args"].as_array().unwrap();
        // From what was reserved, and not from what it may borrow.
        assert!(args.contains(&"-Xmx75m".into()), "{name}: {args:?}");
        assert_eq!(node.wait(&job).await.exit_code, 0, "{name}");
        node.destroy(&job).await;
    }
}
