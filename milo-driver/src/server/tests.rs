//! Conversations with a real server over a real socket, with a fake behind it.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use prost::Message;
use runyard_common::testing::{TempDir, patience, tempdir};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus as Health, health_client::HealthClient,
};

use super::*;
use crate::{
    proto::{
        base::{
            ConfigSchemaRequest, NomadConfig, NomadDriverConfig, PluginInfoRequest,
            SetConfigRequest, base_plugin_client::BasePluginClient,
        },
        drivers::{
            driver_client::DriverClient, exec_task_streaming_request as exec,
            fingerprint_response::HealthState, *,
        },
        plugin::{ConnInfo, grpc_broker_client::GrpcBrokerClient},
        rpc, structs,
    },
    registry::{
        StartError,
        fake::{Fake, healthy},
    },
    task::{Exit, TaskId},
};

const ID: &str = "9f0c/web/01234567";

struct Agent {
    driver: DriverClient<Channel>,
    base: BasePluginClient<Channel>,
    channel: Channel,
    engine: Fake,
    socket: PathBuf,
    dir: TempDir,
}

async fn connect(socket: &std::path::Path) -> Channel {
    Endpoint::from_shared(format!("unix:{}", socket.display()))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

impl Agent {
    async fn start() -> Self {
        let dir = tempdir();
        let socket = dir.path().join("plugin.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let engine = Fake::new(StateRoot::new(dir.path().join("state")));
        tokio::spawn(Plugin::new(engine.clone()).serve(listener));
        let channel = connect(&socket).await;
        Self {
            driver: DriverClient::new(channel.clone()),
            base: BasePluginClient::new(channel.clone()),
            channel,
            engine,
            socket,
            dir,
        }
    }

    async fn with_a_task() -> Self {
        let mut agent = Self::start().await;
        agent.start_task().await.unwrap();
        agent
    }

    async fn start_task(&mut self) -> Result<StartTaskResponse, Status> {
        let request = StartTaskRequest {
            task: Some(self.config()),
        };
        self.driver
            .start_task(request)
            .await
            .map(tonic::Response::into_inner)
    }

    fn config(&self) -> TaskConfig {
        TaskConfig {
            id: ID.to_owned(),
            name: "web".to_owned(),
            alloc_id: "9f0c".to_owned(),
            alloc_dir: self.dir.path().to_str().unwrap().to_owned(),
            stderr_path: self.fifo().to_str().unwrap().to_owned(),
            env: [("A".to_owned(), "1".to_owned())].into(),
            ..TaskConfig::default()
        }
    }

    fn fifo(&self) -> PathBuf {
        self.dir.path().join("stderr.fifo")
    }

    /// A reader of the task's log, as logmon is one before the task starts.
    fn logmon(&self) -> File {
        mknodat(CWD, self.fifo(), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.fifo())
            .unwrap()
    }

    async fn wait(&self) -> Result<WaitTaskResponse, Status> {
        let request = WaitTaskRequest {
            task_id: ID.to_owned(),
        };
        self.driver
            .clone()
            .wait_task(request)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn exec(&mut self, command: &[&str], timeout: i64) -> Result<ExecTaskResponse, Status> {
        let request = ExecTaskRequest {
            task_id: ID.to_owned(),
            command: texts(command),
            timeout: Some(prost_types::Duration {
                seconds: 0,
                nanos: i32::try_from(timeout).unwrap(),
            }),
        };
        self.driver
            .exec_task(request)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn set_config(
        &mut self,
        options: &[(&str, rmpv::Value)],
        driver: Option<NomadDriverConfig>,
    ) -> Result<(), Status> {
        let map = options
            .iter()
            .map(|(key, value)| ((*key).into(), value.clone()))
            .collect();
        let mut msgpack_config = Vec::new();
        rmpv::encode::write_value(&mut msgpack_config, &rmpv::Value::Map(map)).unwrap();
        let nomad_config = driver.map(|driver| NomadConfig {
            driver: Some(driver),
        });
        let request = SetConfigRequest {
            msgpack_config,
            nomad_config,
            plugin_api_version: "v0.1.0".to_owned(),
        };
        self.base.set_config(request).await.map(|_| ())
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(patience(), future)
        .await
        .expect("it did not happen")
}

// === who it is ===

#[tokio::test]
async fn an_agent_learns_who_this_is() {
    let mut agent = Agent::start().await;
    let info = agent
        .base
        .plugin_info(PluginInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((info.r#type, info.name.as_str()), (2, "milo"));
    assert_eq!(info.plugin_api_versions, ["v0.1.0"]);
    assert!(
        agent
            .base
            .config_schema(ConfigSchemaRequest {})
            .await
            .unwrap()
            .into_inner()
            .spec
            .is_some()
    );
    assert!(
        agent
            .driver
            .task_config_schema(TaskConfigSchemaRequest {})
            .await
            .unwrap()
            .into_inner()
            .spec
            .is_some()
    );
    let can = agent
        .driver
        .capabilities(CapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner()
        .capabilities
        .unwrap();
    assert!(can.send_signals && can.exec && can.dynamic_workload_users && !can.must_create_network);
    assert_eq!(
        (can.fs_isolation, can.network_isolation_modes),
        (2, vec![0, 1])
    );
    agent.driver.init(InitRequest {}).await.unwrap();
}

#[tokio::test]
async fn go_plugins_own_services_are_there() {
    let agent = Agent::start().await;
    let request = HealthCheckRequest {
        service: "plugin".to_owned(),
    };
    let health = HealthClient::new(agent.channel.clone())
        .check(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status(), Health::Serving);
    let (_offers, stream) = mpsc::channel::<ConnInfo>(1);
    let mut broker = GrpcBrokerClient::new(agent.channel.clone());
    let mut stream = broker
        .start_stream(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    tokio::select! {
        biased;
        end = stream.message() => panic!("the broker's stream ended: {end:?}"),
        info = async { agent.base.clone().plugin_info(PluginInfoRequest {}).await } => { info.unwrap(); }
    }
}

#[tokio::test]
async fn a_configuration_is_tried_without_consequences() {
    let mut agent = Agent::start().await;
    agent
        .set_config(
            &[("heap_percent", 60.into()), ("crun_path", rmpv::Value::Nil)],
            None,
        )
        .await
        .unwrap();
    let error = agent
        .set_config(&[("shell", "zsh".into())], None)
        .await
        .unwrap_err();
    assert!(error.message().contains("`zsh`"), "{error}");
    let error = agent
        .set_config(&[("stop_signal", "SIGWHAT".into())], None)
        .await
        .unwrap_err();
    assert!(error.message().contains("stop_signal"), "{error}");
    agent
        .set_config(
            &[("heap_percent", 50.into())],
            Some(NomadDriverConfig::default()),
        )
        .await
        .unwrap();
    assert!((agent.engine.config().unwrap().heap_percent - 50.0).abs() < f64::EPSILON);
    assert!(!agent.dir.path().join("state").exists());
}

#[tokio::test]
async fn the_first_fingerprint_comes_at_once_and_the_next_with_a_change() {
    let mut agent = Agent::start().await;
    agent
        .set_config(&[("fingerprint_period", "100ms".into())], None)
        .await
        .unwrap();
    let mut stream = agent
        .driver
        .fingerprint(FingerprintRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(first.health(), HealthState::Healthy);
    assert!(first.attributes.contains_key("driver.milo.java.17"));
    agent.engine.set_survey(Some(crate::fingerprint::Survey {
        java: Vec::new(),
        ..healthy()
    }));
    let second = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(second.health(), HealthState::Unhealthy);
    assert!(second.health_description.contains("Java"));
    let empty = structs::attribute::Value::StringVal(String::new());
    assert_eq!(second.attributes["driver.milo.java.17"].value, Some(empty));
    agent.engine.set_survey(Some(healthy()));
    assert_eq!(
        soon(stream.message()).await.unwrap().unwrap().health(),
        HealthState::Healthy
    );
}

#[tokio::test]
async fn the_first_fingerprint_waits_for_no_survey_and_the_survey_corrects_it() {
    let mut agent = Agent::start().await;
    agent.engine.set_survey(None);
    let request = FingerprintRequest {};
    let stream = agent.driver.fingerprint(request).await;
    let mut stream = stream.unwrap().into_inner();
    let first = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(first.health(), HealthState::Healthy);
    // At once, too: not a period later, which is half a minute.
    agent.engine.set_survey(Some(crate::fingerprint::Survey {
        java: Vec::new(),
        broken: vec!["/jdk17: it failed".to_owned()],
        ..healthy()
    }));
    let second = tokio::time::timeout(Duration::from_secs(20), stream.message()).await;
    let second = second.unwrap().unwrap().unwrap();
    assert_eq!(second.health(), HealthState::Unhealthy);
    assert!(second.health_description.contains("/jdk17: it failed"));
}

// === a task's life ===

#[tokio::test]
async fn a_started_task_comes_with_a_handle_that_holds_all_of_it() {
    let mut agent = Agent::start().await;
    let started = agent.start_task().await.unwrap();
    let handle = started.handle.unwrap();
    assert_eq!((handle.version, handle.config), (1, Some(agent.config())));
    assert!(!handle.driver_state.is_empty());
}

#[tokio::test]
async fn an_error_of_the_start_is_in_the_status_and_in_the_log() {
    let mut agent = Agent::start().await;
    let mut log = agent.logmon();
    agent
        .engine
        .fail_next_start(StartError::fatal("Error: no JAR\nExpected: one"));
    let error = agent.start_task().await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unknown, "Error: no JAR\nExpected: one")
    );
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(text, "Error: no JAR\nExpected: one\n");
}

#[tokio::test]
async fn options_that_make_no_sense_are_told_in_the_log_too() {
    let mut agent = Agent::start().await;
    let mut log = agent.logmon();
    let config = TaskConfig {
        user: "root".to_owned(),
        ..agent.config()
    };
    let error = agent
        .driver
        .start_task(StartTaskRequest { task: Some(config) })
        .await
        .unwrap_err();
    assert!(
        error
            .message()
            .starts_with("Error: user `root` is not allowed"),
        "{error}"
    );
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(text.contains("allow_privileged_user"));
    assert!(
        agent
            .driver
            .start_task(StartTaskRequest { task: None })
            .await
            .is_err()
    );
}

#[tokio::test]
async fn an_error_that_may_pass_says_so_in_its_details() {
    let mut agent = Agent::start().await;
    agent
        .engine
        .fail_next_start(StartError::passing("disk full"));
    let error = agent.start_task().await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let detail = &rpc::Status::decode(error.details()).unwrap().details[0];
    assert!(detail.type_url.ends_with("RecoverableError"));
    agent.start_task().await.unwrap();
}

#[tokio::test]
async fn a_start_whose_caller_hangs_up_is_finished_and_joined_by_the_next() {
    let mut agent = Agent::start().await;
    agent.engine.hold_starts(true);
    let mut driver = agent.driver.clone();
    let request = StartTaskRequest {
        task: Some(agent.config()),
    };
    let call = tokio::spawn(async move { driver.start_task(request).await });
    soon(async {
        while agent
            .driver
            .inspect_task(InspectTaskRequest {
                task_id: ID.to_owned(),
            })
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    agent.engine.hold_starts(false);
    agent.start_task().await.unwrap();
    assert_eq!(agent.engine.starts(), 1);
}

#[tokio::test]
async fn all_who_wait_learn_the_end_until_the_task_is_destroyed() {
    let mut agent = Agent::with_a_task().await;
    let waiting = futures(agent.wait(), agent.wait());
    agent.engine.finish(
        &TaskId(ID.to_owned()),
        Exit {
            code: 137,
            signal: 9,
            oom_killed: true,
            ..Exit::default()
        },
    );
    let (one, other) = soon(waiting).await;
    let result = one.unwrap().result.unwrap();
    assert_eq!(
        (result.exit_code, result.signal, result.oom_killed),
        (137, 9, true)
    );
    assert_eq!(other.unwrap().result, Some(result));
    assert_eq!(soon(agent.wait()).await.unwrap().result, Some(result));
    let destroy = DestroyTaskRequest {
        task_id: ID.to_owned(),
        force: true,
    };
    agent.driver.destroy_task(destroy.clone()).await.unwrap();
    agent.driver.destroy_task(destroy).await.unwrap();
    let error = agent.wait().await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unknown, "task not found for given id")
    );
}

async fn futures<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    tokio::join!(a, b)
}

#[tokio::test]
async fn a_stop_without_a_signal_sends_the_operators() {
    let mut agent = Agent::with_a_task().await;
    let id = TaskId(ID.to_owned());
    let stop = |seconds| StopTaskRequest {
        task_id: ID.to_owned(),
        timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
        signal: String::new(),
    };
    agent.driver.stop_task(stop(30)).await.unwrap();
    assert_eq!(agent.engine.signals(&id), [libc::SIGTERM]);
    let result = agent.wait().await.unwrap().result.unwrap();
    assert_eq!((result.exit_code, result.signal), (143, 15));
    agent.driver.stop_task(stop(0)).await.unwrap();
    assert_eq!(
        agent.engine.signals(&id),
        [libc::SIGTERM],
        "it had ended already"
    );
}

#[tokio::test]
async fn a_stop_in_no_time_kills() {
    let mut agent = Agent::with_a_task().await;
    agent.engine.ignore_term(&TaskId(ID.to_owned()));
    let stop = StopTaskRequest {
        task_id: ID.to_owned(),
        timeout: None,
        signal: "SIGINT".to_owned(),
    };
    soon(agent.driver.stop_task(stop)).await.unwrap();
    assert_eq!(agent.wait().await.unwrap().result.unwrap().exit_code, 137);
}

#[tokio::test]
async fn a_signal_is_sent_or_refused_but_never_replaced() {
    let mut agent = Agent::with_a_task().await;
    let send = |signal: &str| SignalTaskRequest {
        task_id: ID.to_owned(),
        signal: signal.to_owned(),
    };
    agent.driver.signal_task(send("SIGHUP")).await.unwrap();
    assert!(agent.driver.signal_task(send("SIGWHAT")).await.is_err());
    assert!(agent.driver.signal_task(send("")).await.is_err());
    assert_eq!(agent.engine.signals(&TaskId(ID.to_owned())), [libc::SIGHUP]);
}

#[tokio::test]
async fn a_task_of_an_earlier_plugin_is_found_by_its_handle_alone() {
    let mut agent = Agent::start().await;
    agent.engine.left_behind(
        &TaskId(ID.to_owned()),
        Some(Exit {
            code: 42,
            ..Exit::default()
        }),
    );
    let handle = TaskHandle {
        version: 1,
        config: Some(agent.config()),
        ..TaskHandle::default()
    };
    let request = RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(handle),
    };
    agent.driver.recover_task(request.clone()).await.unwrap();
    agent.driver.recover_task(request).await.unwrap();
    assert_eq!(agent.wait().await.unwrap().result.unwrap().exit_code, 42);
    let empty = RecoverTaskRequest {
        task_id: ID.to_owned(),
        handle: Some(TaskHandle::default()),
    };
    assert!(agent.driver.recover_task(empty).await.is_err());
}

#[tokio::test]
async fn the_next_agent_finds_every_task_on_its_own_connection() {
    let agent = Agent::with_a_task().await;
    let mut next = DriverClient::new(connect(&agent.socket).await);
    let handle = TaskHandle {
        version: 1,
        config: Some(agent.config()),
        ..TaskHandle::default()
    };
    next.recover_task(RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(handle),
    })
    .await
    .unwrap();
    agent.engine.finish(
        &TaskId(ID.to_owned()),
        Exit {
            code: 7,
            ..Exit::default()
        },
    );
    let end = next
        .wait_task(WaitTaskRequest {
            task_id: ID.to_owned(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(end.result.unwrap().exit_code, 7);
}

// === looking at it ===

#[tokio::test]
async fn an_inspection_leaves_nothing_out() {
    let mut agent = Agent::with_a_task().await;
    let request = InspectTaskRequest {
        task_id: ID.to_owned(),
    };
    let running = agent
        .driver
        .inspect_task(request.clone())
        .await
        .unwrap()
        .into_inner();
    let task = running.task.unwrap();
    assert_eq!(task.state(), TaskState::Running);
    assert!(task.started_at.is_some() && task.completed_at.is_some() && task.result.is_some());
    assert_eq!(running.driver.unwrap().attributes["java"], "17.0.12");
    agent.engine.finish(
        &TaskId(ID.to_owned()),
        Exit {
            code: 1,
            ended_at: 5_000_000_000,
            ..Exit::default()
        },
    );
    agent.wait().await.unwrap();
    let task = agent
        .driver
        .inspect_task(request)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert_eq!(
        (task.state(), task.result.unwrap().exit_code),
        (TaskState::Exited, 1)
    );
    assert_eq!(task.completed_at.unwrap().seconds, 5);
}

#[tokio::test]
async fn usage_comes_at_once_again_and_ends_with_the_task() {
    let mut agent = Agent::with_a_task().await;
    let request = TaskStatsRequest {
        task_id: ID.to_owned(),
        collection_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 60_000_000,
        }),
    };
    let mut stream = agent.driver.task_stats(request).await.unwrap().into_inner();
    for _ in 0..2 {
        let stats = soon(stream.message())
            .await
            .unwrap()
            .unwrap()
            .stats
            .unwrap();
        let all = stats.agg_resource_usage.unwrap();
        assert!(stats.timestamp.is_some() && all.cpu.is_some() && all.memory.is_some());
        assert!(stats.resource_usage_by_pid.contains_key("4711"));
    }
    agent.engine.finish(&TaskId(ID.to_owned()), Exit::default());
    while let Some(stats) = soon(stream.message()).await.expect("a clean end") {
        assert!(stats.stats.is_some());
    }
    let unknown = TaskStatsRequest {
        task_id: "nobody".to_owned(),
        collection_interval: None,
    };
    assert!(agent.driver.task_stats(unknown).await.is_err());
}

#[tokio::test]
async fn events_name_the_task_as_the_agent_knows_it() {
    let mut agent = Agent::start().await;
    let mut stream = agent
        .driver
        .task_events(TaskEventsRequest {})
        .await
        .unwrap()
        .into_inner();
    agent.start_task().await.unwrap();
    let event = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(
        (
            event.alloc_id.as_str(),
            event.task_name.as_str(),
            event.task_id.as_str()
        ),
        ("9f0c", "web", ID)
    );
    assert!(event.timestamp.is_some());
    agent.engine.finish(
        &TaskId(ID.to_owned()),
        Exit {
            oom_killed: true,
            ..Exit::default()
        },
    );
    assert!(
        soon(stream.message())
            .await
            .unwrap()
            .unwrap()
            .message
            .contains("memory")
    );
}

// === commands inside it ===

#[tokio::test]
async fn a_check_gets_output_and_a_result() {
    let mut agent = Agent::with_a_task().await;
    let done = agent.exec(&["say", "out", "err", "3"], 0).await.unwrap();
    assert_eq!(
        (done.stdout.as_slice(), done.stderr.as_slice()),
        (b"out".as_slice(), b"err".as_slice())
    );
    assert_eq!(done.result.unwrap().exit_code, 3);
    let done = agent.exec(&["fill", "100"], 0).await.unwrap();
    assert_eq!(
        (done.stdout.len(), &done.stdout[4093..]),
        (4096, b"end".as_slice())
    );
    assert!(agent.exec(&[], 0).await.is_err());
}

#[tokio::test]
async fn a_check_that_takes_too_long_is_killed() {
    let mut agent = Agent::with_a_task().await;
    let begun = Instant::now();
    let error = soon(agent.exec(&["hang"], 50_000_000)).await.unwrap_err();
    assert!(error.message().contains("`hang`"), "{error}");
    assert!(begun.elapsed() >= Duration::from_millis(50));
    soon(agent.engine.commands_are_over()).await;
}

struct Talk {
    say: mpsc::Sender<ExecTaskStreamingRequest>,
    hear: tonic::Streaming<ExecTaskStreamingResponse>,
}

impl Talk {
    async fn begin(agent: &mut Agent, command: &[&str], tty: bool) -> Self {
        let (say, said) = mpsc::channel(8);
        let setup = exec::Setup {
            task_id: ID.to_owned(),
            command: texts(command),
            tty,
        };
        say.send(ExecTaskStreamingRequest {
            setup: Some(setup),
            ..Default::default()
        })
        .await
        .unwrap();
        let hear = agent
            .driver
            .exec_task_streaming(ReceiverStream::new(said))
            .await
            .unwrap()
            .into_inner();
        Self { say, hear }
    }

    async fn stdin(&self, data: &[u8], close: bool) {
        let stdin = Some(ExecTaskStreamingIoOperation {
            data: data.to_vec(),
            close,
        });
        self.say
            .send(ExecTaskStreamingRequest {
                stdin,
                ..Default::default()
            })
            .await
            .unwrap();
    }

    /// All that comes: stdout, stderr, the code, and which streams were closed before.
    async fn rest(&mut self) -> (String, String, i32, [bool; 2]) {
        let (mut out, mut err, mut closed) = (Vec::new(), Vec::new(), [false; 2]);
        loop {
            let message = soon(self.hear.message())
                .await
                .unwrap()
                .expect("an exit before the end");
            if message.exited {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return (
                    text(out),
                    text(err),
                    message.result.unwrap().exit_code,
                    closed,
                );
            }
            if let Some(operation) = message.stdout {
                out.extend(operation.data);
                closed[0] |= operation.close;
            }
            if let Some(operation) = message.stderr {
                err.extend(operation.data);
                closed[1] |= operation.close;
            }
        }
    }
}

#[tokio::test]
async fn a_conversation_ends_with_both_streams_closed_and_a_result() {
    let mut agent = Agent::with_a_task().await;
    let mut talk = Talk::begin(&mut agent, &["say", "hello", "oh", "43"], false).await;
    assert_eq!(
        talk.rest().await,
        ("hello".to_owned(), "oh".to_owned(), 43, [true, true])
    );
    assert!(soon(talk.hear.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_typed_arrives_and_a_sign_of_life_is_nothing() {
    let mut agent = Agent::with_a_task().await;
    let mut talk = Talk::begin(&mut agent, &["cat"], false).await;
    talk.say
        .send(ExecTaskStreamingRequest::default())
        .await
        .unwrap();
    talk.stdin(b"one ", false).await;
    talk.stdin(b"two", true).await;
    assert_eq!(talk.rest().await.0, "one two");
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let mut agent = Agent::with_a_task().await;
    let mut talk = Talk::begin(&mut agent, &["size"], true).await;
    let tty_size = Some(exec::TerminalSize {
        height: 24,
        width: 80,
    });
    talk.say
        .send(ExecTaskStreamingRequest {
            tty_size,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(talk.rest().await.0, "24 80");
}

#[tokio::test]
async fn output_left_behind_is_awaited_without_a_terminal_and_not_with_one() {
    let mut agent = Agent::with_a_task().await;
    let mut talk = Talk::begin(&mut agent, &["leave"], true).await;
    assert_eq!(talk.rest().await.0, "main");
    let mut talk = Talk::begin(&mut agent, &["leave"], false).await;
    talk.stdin(b"", true).await;
    assert_eq!(talk.rest().await.0, "main background");
}

#[tokio::test]
async fn a_command_whose_user_hangs_up_is_ended() {
    let mut agent = Agent::with_a_task().await;
    let talk = Talk::begin(&mut agent, &["hang"], true).await;
    drop(talk);
    soon(agent.engine.commands_are_over()).await;
}

#[tokio::test]
async fn a_conversation_begins_with_its_setup() {
    let mut agent = Agent::with_a_task().await;
    let (say, said) = mpsc::channel(1);
    say.send(ExecTaskStreamingRequest::default()).await.unwrap();
    let error = agent
        .driver
        .exec_task_streaming(ReceiverStream::new(said))
        .await
        .unwrap_err();
    assert!(error.message().contains("setup"));
}

#[tokio::test]
async fn networks_are_politely_refused() {
    let mut agent = Agent::start().await;
    let error = agent
        .driver
        .create_network(CreateNetworkRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
}

#[test]
fn a_call_finds_its_service() {
    assert_eq!(
        service_of("/plugin.GRPCController/Shutdown"),
        "plugin.GRPCController"
    );
    assert_eq!(service_of(""), "");
}
