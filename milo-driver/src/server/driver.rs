//! `Driver`: what this driver can do, and the verbs on tasks. Each verifies, converts, forwards.

use tonic::{Request, Response, Status, Streaming};

use super::{Plugin, Settings, complaint, events, exec, fingerprint, stats};
use crate::{
    api::{
        error, handle,
        measure::{duration, timestamp_of},
        options,
        task::task,
    },
    proto::drivers::{
        CapabilitiesRequest, CapabilitiesResponse, CreateNetworkRequest, CreateNetworkResponse,
        DestroyNetworkRequest, DestroyNetworkResponse, DestroyTaskRequest, DestroyTaskResponse,
        DriverCapabilities, ExecTaskRequest, ExecTaskResponse, ExecTaskStreamingRequest,
        ExitResult, FingerprintRequest, InitRequest, InitResponse, InspectTaskRequest,
        InspectTaskResponse, RecoverTaskRequest, RecoverTaskResponse, ShutdownRequest,
        ShutdownResponse, SignalTaskRequest, SignalTaskResponse, StartTaskRequest,
        StartTaskResponse, StopTaskRequest, StopTaskResponse, TaskConfig, TaskConfigSchemaRequest,
        TaskConfigSchemaResponse, TaskDriverStatus, TaskEventsRequest, TaskState, TaskStatsRequest,
        TaskStatus, WaitTaskRequest, WaitTaskResponse,
        driver_capabilities::{FsIsolation, MountConfigs},
        driver_server::Driver,
        network_isolation_spec::NetworkIsolationMode,
    },
    registry::{Engine, StartError, Status as Known},
    signal,
    task::{Exit, Task, TaskId},
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<E: Engine> Driver for Plugin<E> {
    type FingerprintStream = fingerprint::Stream;
    type TaskStatsStream = stats::Stream;
    type TaskEventsStream = events::Stream;
    type ExecTaskStreamingStream = exec::Stream;

    async fn init(&self, _: Request<InitRequest>) -> Answer<InitResponse> {
        Ok(Response::new(InitResponse {}))
    }

    /// Tasks outlive the plugin: there is nothing to do for them.
    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        Ok(Response::new(ShutdownResponse {}))
    }

    async fn capabilities(&self, _: Request<CapabilitiesRequest>) -> Answer<CapabilitiesResponse> {
        Ok(Response::new(CapabilitiesResponse {
            capabilities: Some(capabilities()),
        }))
    }

    async fn task_config_schema(
        &self,
        _: Request<TaskConfigSchemaRequest>,
    ) -> Answer<TaskConfigSchemaResponse> {
        Ok(Response::new(TaskConfigSchemaResponse {
            spec: Some(options::schema()),
        }))
    }

    async fn fingerprint(&self, _: Request<FingerprintRequest>) -> Answer<Self::FingerprintStream> {
        Ok(Response::new(fingerprint::stream(self.clone())))
    }

    async fn start_task(&self, request: Request<StartTaskRequest>) -> Answer<StartTaskResponse> {
        let config = request.into_inner().task.unwrap_or_default();
        let started = match convert(&config, &self.settings()) {
            Ok(task) => self.registry().start(task).await,
            Err(error) => Err(error),
        };
        let begun = started.map_err(|error| {
            tracing::warn!(task = config.id, %error, "task did not start");
            complaint::tell(&config.alloc_dir, &config.stderr_path, &error.text);
            error::start(&error)
        })?;
        Ok(Response::new(StartTaskResponse {
            handle: Some(handle::handle(config, &begun)),
            ..StartTaskResponse::default()
        }))
    }

    async fn recover_task(
        &self,
        request: Request<RecoverTaskRequest>,
    ) -> Answer<RecoverTaskResponse> {
        let (who, dir) =
            handle::read(request.into_inner().handle.as_ref()).map_err(error::unknown)?;
        let id = who.id.clone();
        self.registry().recover(who, dir).await.map_err(|cause| {
            tracing::warn!(task = %id, error = %cause, "task cannot be recovered");
            error::task(&cause)
        })?;
        Ok(Response::new(RecoverTaskResponse {}))
    }

    async fn wait_task(&self, request: Request<WaitTaskRequest>) -> Answer<WaitTaskResponse> {
        let id = TaskId(request.into_inner().task_id);
        let exit = self
            .registry()
            .wait(&id)
            .await
            .map_err(|cause| error::task(&cause))?;
        Ok(Response::new(WaitTaskResponse {
            result: Some(exit_result(&exit)),
            err: exit.error.unwrap_or_default(),
        }))
    }

    async fn signal_task(&self, request: Request<SignalTaskRequest>) -> Answer<SignalTaskResponse> {
        let SignalTaskRequest { task_id, signal } = request.into_inner();
        let number = signal::parse(&signal).map_err(error::unknown)?;
        let sent = self.registry().signal(&TaskId(task_id), number).await;
        sent.map_err(|cause| error::task(&cause))?;
        Ok(Response::new(SignalTaskResponse {}))
    }

    async fn stop_task(&self, request: Request<StopTaskRequest>) -> Answer<StopTaskResponse> {
        let StopTaskRequest {
            task_id,
            timeout,
            signal,
        } = request.into_inner();
        let settings = self.settings();
        let name = if signal.is_empty() {
            &settings.config.stop_signal
        } else {
            &signal
        };
        let number = signal::parse(name).map_err(error::unknown)?;
        let stopped = self
            .registry()
            .stop(&TaskId(task_id), number, duration(timeout))
            .await;
        stopped.map_err(|cause| error::task(&cause))?;
        Ok(Response::new(StopTaskResponse {}))
    }

    async fn destroy_task(
        &self,
        request: Request<DestroyTaskRequest>,
    ) -> Answer<DestroyTaskResponse> {
        let DestroyTaskRequest { task_id, force } = request.into_inner();
        let destroyed = self.registry().destroy(&TaskId(task_id), force).await;
        destroyed.map_err(|cause| error::task(&cause))?;
        Ok(Response::new(DestroyTaskResponse {}))
    }

    async fn inspect_task(
        &self,
        request: Request<InspectTaskRequest>,
    ) -> Answer<InspectTaskResponse> {
        let id = TaskId(request.into_inner().task_id);
        let known = self
            .registry()
            .status(&id)
            .map_err(|cause| error::task(&cause))?;
        Ok(Response::new(inspection(&known)))
    }

    async fn task_stats(
        &self,
        request: Request<TaskStatsRequest>,
    ) -> Answer<Self::TaskStatsStream> {
        let TaskStatsRequest {
            task_id,
            collection_interval,
        } = request.into_inner();
        let stream = stats::stream(self.clone(), TaskId(task_id), duration(collection_interval))?;
        Ok(Response::new(stream))
    }

    async fn task_events(&self, _: Request<TaskEventsRequest>) -> Answer<Self::TaskEventsStream> {
        Ok(Response::new(events::stream(self)))
    }

    async fn exec_task(&self, request: Request<ExecTaskRequest>) -> Answer<ExecTaskResponse> {
        let ExecTaskRequest {
            task_id,
            command,
            timeout,
        } = request.into_inner();
        let done = exec::once(self, &TaskId(task_id), command, duration(timeout)).await?;
        Ok(Response::new(done))
    }

    async fn exec_task_streaming(
        &self,
        request: Request<Streaming<ExecTaskStreamingRequest>>,
    ) -> Answer<Self::ExecTaskStreamingStream> {
        Ok(Response::new(
            exec::stream(self, request.into_inner()).await?,
        ))
    }

    async fn create_network(
        &self,
        _: Request<CreateNetworkRequest>,
    ) -> Answer<CreateNetworkResponse> {
        Err(no_networks())
    }

    async fn destroy_network(
        &self,
        _: Request<DestroyNetworkRequest>,
    ) -> Answer<DestroyNetworkResponse> {
        Err(no_networks())
    }
}

fn no_networks() -> Status {
    Status::unimplemented(
        "this driver makes no networks: it joins the one that the agent made for the group",
    )
}

/// The root is an image's as far as the agent is concerned: it need not build one, and its variables name the paths inside.
fn capabilities() -> DriverCapabilities {
    DriverCapabilities {
        send_signals: true,
        exec: true,
        fs_isolation: FsIsolation::Image.into(),
        network_isolation_modes: vec![
            NetworkIsolationMode::Host.into(),
            NetworkIsolationMode::Group.into(),
        ],
        must_create_network: false,
        mount_configs: MountConfigs::AnyMounts.into(),
        disable_log_collection: false,
        dynamic_workload_users: true,
    }
}

fn convert(config: &TaskConfig, settings: &Settings) -> Result<Task, StartError> {
    let options = options::decode(&config.msgpack_driver_config);
    let options = options.map_err(|error| StartError::fatal(format!("Error: {error}")))?;
    task(config, &options, &settings.config, settings.compute)
        .map_err(|error| StartError::fatal(format!("Error: {error}")))
}

fn exit_result(exit: &Exit) -> ExitResult {
    ExitResult {
        exit_code: exit.code,
        signal: exit.signal,
        oom_killed: exit.oom_killed,
    }
}

/// All of it is filled, since an agent reads all of it, whatever the state.
fn inspection(known: &Known) -> InspectTaskResponse {
    let state = match (&known.begun, &known.exit) {
        (None, _) => TaskState::Unknown,
        (Some(_), None) => TaskState::Running,
        (Some(_), Some(_)) => TaskState::Exited,
    };
    let started = known
        .begun
        .as_ref()
        .map_or(0, |begun| begun.started.started_at);
    let ended = known.exit.as_ref().map_or(0, |exit| exit.ended_at);
    let facts = known.begun.as_ref().map(|begun| begun.facts.clone());
    InspectTaskResponse {
        task: Some(TaskStatus {
            id: known.who.id.0.clone(),
            name: known.who.name.clone(),
            state: state.into(),
            started_at: Some(timestamp_of(started)),
            completed_at: Some(timestamp_of(ended)),
            result: Some(known.exit.as_ref().map(exit_result).unwrap_or_default()),
        }),
        driver: Some(TaskDriverStatus {
            attributes: facts.unwrap_or_default().into_iter().collect(),
        }),
        network_override: None,
    }
}
