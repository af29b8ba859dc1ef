//! A driver with one fault, for each rule the fault that breaks it. Tasks are this plugin's over a fake engine; commands
//! in them are acted.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::super::visit::{BOTH, ECHO, MUCH, NOWHERE, SLOW, STAY, TERMINAL};
use crate::{
    proto::drivers::{
        ExecTaskStreamingIoOperation as Operation, driver_server::Driver,
        exec_task_streaming_request::Setup, *,
    },
    registry::fake::Fake,
    server::Plugin,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    CheckWithoutResult,
    CheckOnOneStream,
    MissingCheckPasses,
    CheckSaysAll,
    CheckWithoutLimit,
    CheckOfNobody,
    LosesInput,
    NeverExited,
    WrongSize,
    MissingExecPasses,
    KeepsCommands,
    SwallowsSignals,
    OtherEnd,
    OneWait,
    EndlessStats,
    StatsOnce,
    StaleInspection,
    NeverUnforced,
    NoHurry,
    OwnSignal,
    StrangeEvents,
    RecoversAll,
    StartsAll,
    InspectsAll,
    SilentStats,
}

#[derive(Clone)]
pub(super) struct Rogue {
    pub(super) plugin: Plugin<Fake>,
    pub(super) fault: Fault,
    pub(super) waits: Arc<AtomicUsize>,
    pub(super) commands: Arc<AtomicUsize>,
}

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = ReceiverStream<Result<T, Status>>;

/// What a stream says, changed.
fn changed<T: Send + 'static>(
    stream: impl tokio_stream::Stream<Item = Result<T, Status>> + Send + 'static,
    stays_open: bool,
    change: impl Fn(usize, &mut T) -> bool + Send + 'static,
) -> Messages<T> {
    let (sender, messages) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut stream = Box::pin(tokio_stream::StreamExt::fuse(stream));
        let mut count = 0;
        while let Some(message) = tokio_stream::StreamExt::next(&mut stream).await {
            let passes = message.map(|mut message| change(count, &mut message).then_some(message));
            count += 1;
            if let Some(message) = passes.transpose()
                && sender.send(message).await.is_err()
            {
                return;
            }
        }
        if stays_open {
            sender.closed().await;
        }
    });
    ReceiverStream::new(messages)
}

impl Rogue {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    async fn knows(&self, task_id: &str) -> Result<(), Status> {
        let request = InspectTaskRequest {
            task_id: task_id.to_owned(),
        };
        self.plugin
            .inspect_task(Request::new(request))
            .await
            .map(|_| ())
    }

    /// Acts a command that is talked with.
    async fn act(
        self,
        setup: Setup,
        mut requests: Streaming<ExecTaskStreamingRequest>,
        sender: mpsc::Sender<Result<ExecTaskStreamingResponse, Status>>,
    ) {
        let say = |data: Vec<u8>| {
            let response = ExecTaskStreamingResponse {
                stdout: Some(Operation { data, close: false }),
                ..ExecTaskStreamingResponse::default()
            };
            sender.send(Ok(response))
        };
        let (mut heard, mut size) = (Vec::new(), (24, 80));
        let script = setup.command.last().cloned().unwrap_or_default();
        if script == STAY {
            self.commands.fetch_add(1, Ordering::SeqCst);
            let _ = say(b"77\n".to_vec()).await;
            if !self.is(Fault::KeepsCommands) {
                sender.closed().await;
                self.commands.fetch_sub(1, Ordering::SeqCst);
            }
            return;
        }
        while let Ok(Some(request)) = requests.message().await {
            if let Some(given) = request.tty_size {
                size = (given.height, given.width);
            }
            let Some(stdin) = request.stdin else { continue };
            heard.extend(stdin.data);
            if stdin.close || setup.tty {
                break;
            }
        }
        let (said, exit_code) = match script.as_str() {
            ECHO if self.is(Fault::LosesInput) => (Vec::new(), 4),
            ECHO => (heard, 4),
            TERMINAL if self.is(Fault::WrongSize) => (b"24 80\r\ngot word\r\n".to_vec(), 5),
            TERMINAL => (format!("{} {}\r\ngot word\r\n", size.0, size.1).into(), 5),
            _ => (Vec::new(), 0),
        };
        let _ = say(said).await;
        if !self.is(Fault::NeverExited) {
            let _ = sender.send(Ok(ended(exit_code))).await;
        }
    }
}

fn ended(exit_code: i32) -> ExecTaskStreamingResponse {
    ExecTaskStreamingResponse {
        exited: true,
        result: Some(code(exit_code)),
        ..ExecTaskStreamingResponse::default()
    }
}

fn code(exit_code: i32) -> ExitResult {
    ExitResult {
        exit_code,
        ..ExitResult::default()
    }
}

fn check(stdout: impl Into<Vec<u8>>, stderr: &str, exit_code: i32) -> ExecTaskResponse {
    ExecTaskResponse {
        stdout: stdout.into(),
        stderr: stderr.into(),
        result: Some(code(exit_code)),
    }
}

#[tonic::async_trait]
impl Driver for Rogue {
    type FingerprintStream = <Plugin<Fake> as Driver>::FingerprintStream;
    type TaskStatsStream = Messages<TaskStatsResponse>;
    type TaskEventsStream = Messages<DriverTaskEvent>;
    type ExecTaskStreamingStream = Messages<ExecTaskStreamingResponse>;

    async fn init(&self, request: Request<InitRequest>) -> Answer<InitResponse> {
        self.plugin.init(request).await
    }

    async fn shutdown(&self, request: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        self.plugin.shutdown(request).await
    }

    async fn capabilities(
        &self,
        request: Request<CapabilitiesRequest>,
    ) -> Answer<CapabilitiesResponse> {
        self.plugin.capabilities(request).await
    }

    async fn task_config_schema(
        &self,
        request: Request<TaskConfigSchemaRequest>,
    ) -> Answer<TaskConfigSchemaResponse> {
        self.plugin.task_config_schema(request).await
    }

    async fn fingerprint(
        &self,
        request: Request<FingerprintRequest>,
    ) -> Answer<Self::FingerprintStream> {
        self.plugin.fingerprint(request).await
    }

    async fn start_task(&self, request: Request<StartTaskRequest>) -> Answer<StartTaskResponse> {
        match self.plugin.start_task(request).await {
            Err(_) if self.is(Fault::StartsAll) => Ok(Response::new(StartTaskResponse {
                driver_error_msg: "it went wrong".to_owned(),
                ..StartTaskResponse::default()
            })),
            answer => answer,
        }
    }

    async fn recover_task(
        &self,
        request: Request<RecoverTaskRequest>,
    ) -> Answer<RecoverTaskResponse> {
        if self.is(Fault::RecoversAll) {
            return Ok(Response::new(RecoverTaskResponse {}));
        }
        self.plugin.recover_task(request).await
    }

    async fn wait_task(&self, request: Request<WaitTaskRequest>) -> Answer<WaitTaskResponse> {
        // Six ask alone before three ask at once.
        let before = self.waits.fetch_add(1, Ordering::SeqCst);
        if self.is(Fault::OneWait) && (7..=8).contains(&before) {
            return pending().await;
        }
        let mut answer = self.plugin.wait_task(request).await?;
        if self.is(Fault::OtherEnd) {
            answer.get_mut().result = Some(code(0));
        }
        Ok(answer)
    }

    async fn signal_task(&self, request: Request<SignalTaskRequest>) -> Answer<SignalTaskResponse> {
        if self.is(Fault::SwallowsSignals) {
            return Ok(Response::new(SignalTaskResponse {}));
        }
        self.plugin.signal_task(request).await
    }

    async fn stop_task(&self, mut request: Request<StopTaskRequest>) -> Answer<StopTaskResponse> {
        let wish = request.get_mut();
        let has_no_time = wish
            .timeout
            .is_none_or(|timeout| timeout.seconds == 0 && timeout.nanos == 0);
        if self.is(Fault::NoHurry) && has_no_time {
            return Ok(Response::new(StopTaskResponse {}));
        }
        if self.is(Fault::OwnSignal) {
            wish.signal = "SIGTERM".to_owned();
        }
        self.plugin.stop_task(request).await
    }

    async fn destroy_task(
        &self,
        request: Request<DestroyTaskRequest>,
    ) -> Answer<DestroyTaskResponse> {
        if self.is(Fault::NeverUnforced) && !request.get_ref().force {
            return Err(Status::unknown("not without force"));
        }
        self.plugin.destroy_task(request).await
    }

    async fn inspect_task(
        &self,
        request: Request<InspectTaskRequest>,
    ) -> Answer<InspectTaskResponse> {
        let answer = self.plugin.inspect_task(request).await;
        match answer {
            Err(_) if self.is(Fault::InspectsAll) => {
                Ok(Response::new(InspectTaskResponse::default()))
            }
            Ok(mut answer) if self.is(Fault::StaleInspection) => {
                let task = answer.get_mut().task.as_mut().unwrap();
                task.set_state(TaskState::Running);
                Ok(answer)
            }
            answer => answer,
        }
    }

    async fn task_stats(
        &self,
        request: Request<TaskStatsRequest>,
    ) -> Answer<Self::TaskStatsStream> {
        let stream = match self.plugin.task_stats(request).await {
            Err(_) if self.is(Fault::SilentStats) => {
                let silent = changed(tokio_stream::pending(), true, |_, _| true);
                return Ok(Response::new(silent));
            }
            stream => stream?.into_inner(),
        };
        let once = self.is(Fault::StatsOnce);
        let stays = self.is(Fault::EndlessStats);
        Ok(Response::new(changed(stream, stays, move |count, _| {
            !once || count == 0
        })))
    }

    async fn task_events(
        &self,
        request: Request<TaskEventsRequest>,
    ) -> Answer<Self::TaskEventsStream> {
        let stream = self.plugin.task_events(request).await?.into_inner();
        let is_strange = self.is(Fault::StrangeEvents);
        Ok(Response::new(changed(
            stream,
            false,
            move |_, event: &mut DriverTaskEvent| {
                if is_strange {
                    event.alloc_id.clear();
                }
                true
            },
        )))
    }

    async fn exec_task(&self, request: Request<ExecTaskRequest>) -> Answer<ExecTaskResponse> {
        let request = request.into_inner();
        if !self.is(Fault::CheckOfNobody) {
            self.knows(&request.task_id).await?;
        }
        let script = request.command.last().cloned().unwrap_or_default();
        let mut done = match script.as_str() {
            BOTH if self.is(Fault::CheckOnOneStream) => check("out\nerr\n", "", 3),
            BOTH => check("out\n", "err\n", 3),
            MUCH if self.is(Fault::CheckSaysAll) => check(vec![0; 6_000_000], "", 0),
            MUCH => check(vec![0; 4096], "", 0),
            SLOW if self.is(Fault::CheckWithoutLimit) => return pending().await,
            NOWHERE if self.is(Fault::MissingCheckPasses) => check("", "", 0),
            SLOW | NOWHERE => return Err(Status::unknown("it did not end well")),
            _ => check("", "", i32::from(self.commands.load(Ordering::SeqCst) > 0)),
        };
        if self.is(Fault::CheckWithoutResult) {
            done.result = None;
        }
        Ok(Response::new(done))
    }

    async fn exec_task_streaming(
        &self,
        request: Request<Streaming<ExecTaskStreamingRequest>>,
    ) -> Answer<Self::ExecTaskStreamingStream> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.setup);
        let setup = first.ok_or_else(|| Status::unknown("no setup"))?;
        let (sender, messages) = mpsc::channel(4);
        if setup.command == [NOWHERE] {
            if !self.is(Fault::MissingExecPasses) {
                return Err(Status::unknown("there is no such program"));
            }
            sender.send(Ok(ended(0))).await.unwrap();
        } else {
            tokio::spawn(self.clone().act(setup, requests, sender));
        }
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn create_network(
        &self,
        request: Request<CreateNetworkRequest>,
    ) -> Answer<CreateNetworkResponse> {
        self.plugin.create_network(request).await
    }

    async fn destroy_network(
        &self,
        request: Request<DestroyNetworkRequest>,
    ) -> Answer<DestroyNetworkResponse> {
        self.plugin.destroy_network(request).await
    }
}
