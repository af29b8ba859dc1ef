//! An agent's connection to a plugin, and the rules that need no task.

use std::{future::Future, path::Path, time::Duration};

use tokio::time;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{Report, Wish, fill};
use crate::proto::{
    MESSAGE_BYTES,
    base::{
        ConfigSchemaRequest, NomadConfig, NomadDriverConfig, PluginInfoRequest, PluginType,
        SetConfigRequest, base_plugin_client::BasePluginClient,
    },
    drivers::{
        CapabilitiesRequest, DriverCapabilities, DriverTaskEvent, FingerprintRequest,
        FingerprintResponse, InitRequest, InspectTaskRequest, RecoverTaskRequest,
        SignalTaskRequest, TaskConfig, TaskConfigSchemaRequest, TaskEventsRequest, TaskHandle,
        TaskStatsRequest, WaitTaskRequest, driver_client::DriverClient,
        fingerprint_response::HealthState,
    },
    hclspec::Spec,
    plugin::{Empty, grpc_controller_client::GrpcControllerClient},
};

/// The version of the driver protocol.
const API_VERSION: &str = "v0.1.0";

/// How long a quick answer may take.
pub(super) const QUICK: Duration = Duration::from_secs(5);

/// How long a stream is watched for an end that must not come.
const WATCHED: Duration = Duration::from_millis(300);

/// A connection.
pub(super) struct Agent {
    base: BasePluginClient<Channel>,
    pub(super) driver: DriverClient<Channel>,
    channel: Channel,
    fingerprints: Option<Streaming<FingerprintResponse>>,
    events: Option<Streaming<DriverTaskEvent>>,
    capabilities: DriverCapabilities,
}

/// Waits for a quick answer.
pub(super) async fn quickly<T>(
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, String> {
    match time::timeout(QUICK, answer).await {
        Ok(answer) => answer.map_err(|status| told(&status)),
        Err(_) => Err(format!("no answer within {QUICK:?}")),
    }
}

fn told(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// An answer that must be an error, and not one that an agent takes for the plugin's death.
pub(super) async fn refused<T>(
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<(), String> {
    match time::timeout(QUICK, answer).await {
        Ok(Ok(_)) => Err("it was no error".to_owned()),
        Ok(Err(status)) if matches!(status.code(), Code::Unavailable | Code::Cancelled) => {
            Err(format!(
                "{}: the agent takes this for a dying plugin and waits three seconds",
                told(&status)
            ))
        }
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(format!("no answer within {QUICK:?}")),
    }
}

impl Agent {
    /// Connects.
    pub(super) async fn connect(socket: &Path) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))
            .map_err(|error| error.to_string())?;
        let connected = time::timeout(QUICK, endpoint.connect()).await;
        let channel = connected
            .map_err(|_| format!("no connection within {QUICK:?}"))?
            .map_err(|error| format!("no connection to `{}`: {error}", socket.display()))?;
        Ok(Self {
            base: BasePluginClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES),
            driver: DriverClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES),
            channel,
            fingerprints: None,
            events: None,
            capabilities: DriverCapabilities::default(),
        })
    }

    /// What the driver says that it can; nothing before it was asked.
    pub(super) fn capabilities(&self) -> &DriverCapabilities {
        &self.capabilities
    }

    /// What has been told of a task by now.
    pub(super) async fn events_of(&mut self, task_id: &str) -> Vec<DriverTaskEvent> {
        let mut told = Vec::new();
        let Some(events) = &mut self.events else {
            return told;
        };
        while let Ok(Ok(Some(event))) = time::timeout(WATCHED, events.message()).await {
            if event.task_id == task_id {
                told.push(event);
            }
        }
        told
    }

    /// The first launch: who is it?
    pub(super) async fn look(&mut self, report: &mut Report) {
        let info = self.info().await;
        report.note(
            "plugin info",
            "the plugin is skipped, or the agent does not start",
            info,
        );
        let schema = quickly(self.base.config_schema(ConfigSchemaRequest {})).await;
        let spec = schema.and_then(|schema| {
            schema
                .into_inner()
                .spec
                .ok_or_else(|| "there is no spec".to_owned())
        });
        report.note(
            "config schema",
            "an operator's `config {}` block keeps the agent from starting",
            spec.map(|_| ()),
        );
        report.note("health", "go-plugin cannot ping it", self.health().await);
    }

    async fn info(&mut self) -> Result<(), String> {
        let info = quickly(self.base.plugin_info(PluginInfoRequest {}))
            .await?
            .into_inner();
        if info.r#type() != PluginType::Driver {
            return Err("it is no driver".to_owned());
        }
        if !info
            .plugin_api_versions
            .iter()
            .any(|version| version == API_VERSION)
        {
            return Err(format!("`plugin_api_versions` has no {API_VERSION}"));
        }
        if info.name.is_empty() {
            return Err("it has no name".to_owned());
        }
        if is_version(&info.plugin_version) {
            return Ok(());
        }
        Err(format!(
            "`plugin_version` is `{}`: use a version such as 0.1.0",
            info.plugin_version
        ))
    }

    async fn health(&self) -> Result<(), String> {
        let request = HealthCheckRequest {
            service: "plugin".to_owned(),
        };
        let health = quickly(HealthClient::new(self.channel.clone()).check(request))
            .await?
            .into_inner();
        if health.status() == ServingStatus::Serving {
            return Ok(());
        }
        Err(format!("service `plugin` is {:?}", health.status()))
    }

    /// The second launch: does it take the configuration?
    pub(super) async fn try_config(&mut self, wish: &Wish, report: &mut Report) {
        for name in ["config is tried", "config is tried again"] {
            let tried = self.set_config(wish, None).await;
            report.note(name, "an error here keeps the agent from starting", tried);
        }
    }

    async fn set_config(
        &mut self,
        wish: &Wish,
        nomad_config: Option<NomadConfig>,
    ) -> Result<(), String> {
        let schema = quickly(self.base.config_schema(ConfigSchemaRequest {}))
            .await?
            .into_inner()
            .spec;
        let request = SetConfigRequest {
            msgpack_config: fill::block(schema.as_ref(), &wish.config),
            nomad_config,
            plugin_api_version: API_VERSION.to_owned(),
        };
        quickly(self.base.set_config(request)).await.map(|_| ())
    }

    /// The third launch, up to the first task.
    pub(super) async fn begin_to_use(&mut self, wish: &Wish, report: &mut Report) {
        let ports = NomadDriverConfig {
            client_max_port: 14_512,
            client_min_port: 14_000,
            topology: None,
        };
        let nomad = NomadConfig {
            driver: Some(ports),
        };
        let used = self.set_config(wish, Some(nomad)).await;
        report.note(
            "config is used",
            "an error here keeps the agent from starting",
            used,
        );
        let init = self.init().await;
        report.note(
            "init",
            "any error but Unimplemented makes the agent kill the plugin",
            init,
        );
        let can = self.can().await;
        report.note("capabilities", "the agent cannot use the driver", can);
        let schema = self.task_schema().await.map(|_| ());
        let schema = schema.ok_or_else(|| "there is no spec".to_owned());
        report.note(
            "task schema",
            "every task fails with `nil spec given`",
            schema,
        );
        let first = self.first_fingerprint().await;
        report.note(
            "first fingerprint",
            "there is no such driver until it comes",
            first,
        );
        let open = self.streams_stay_open().await;
        report.note(
            "open streams",
            "one that ends is opened again at once, without end",
            open,
        );
        self.ask_for_nobody(report).await;
    }

    async fn ask_for_nobody(&mut self, report: &mut Report) {
        let task_id = "nobody".to_owned();
        let wait = WaitTaskRequest {
            task_id: task_id.clone(),
        };
        let waited = refused(self.driver.wait_task(wait)).await;
        report.note(
            "unknown task",
            "a wait for a task that is gone would last for ever",
            waited,
        );
        let signal = SignalTaskRequest {
            task_id: task_id.clone(),
            signal: "SIGHUP".to_owned(),
        };
        let sent = refused(self.driver.signal_task(signal)).await;
        report.note(
            "signal to an unknown task",
            "the user is told that it was sent",
            sent,
        );
        let inspect = InspectTaskRequest {
            task_id: task_id.clone(),
        };
        let inspected = refused(self.driver.inspect_task(inspect)).await;
        report.note(
            "inspection of an unknown task",
            "what is missing in it crashes the agent's decoder",
            inspected,
        );
        report.note(
            "stats of an unknown task",
            "what is missing in them crashes the agent",
            self.no_stats(task_id).await,
        );
        report.note(
            "recovery of what is no task",
            "the agent waits for a task that is not there",
            Box::pin(self.no_recovery()).await,
        );
    }

    /// An error or an end at once, but no numbers and no silence.
    async fn no_stats(&mut self, task_id: String) -> Result<(), String> {
        let request = TaskStatsRequest {
            task_id,
            collection_interval: None,
        };
        let stream = match time::timeout(QUICK, self.driver.task_stats(request)).await {
            Err(_) => return Err(format!("no answer within {QUICK:?}")),
            Ok(Err(_)) => return Ok(()),
            Ok(Ok(stream)) => stream,
        };
        match time::timeout(QUICK, stream.into_inner().message()).await {
            Err(_) => Err(format!("neither an end nor an error within {QUICK:?}")),
            Ok(Ok(Some(_))) => Err("there are some".to_owned()),
            Ok(_) => Ok(()),
        }
    }

    async fn no_recovery(&mut self) -> Result<(), String> {
        let nobody = TaskHandle {
            version: 1,
            config: Some(TaskConfig {
                id: "nobody/nothing/0a1b2c3d".to_owned(),
                ..TaskConfig::default()
            }),
            driver_state: b"\xc1nonsense".to_vec(),
            ..TaskHandle::default()
        };
        for handle in [None, Some(nobody)] {
            let request = RecoverTaskRequest {
                task_id: String::new(),
                handle,
            };
            refused(self.driver.recover_task(request)).await?;
        }
        Ok(())
    }

    /// Asks what the driver can.
    pub(super) async fn can(&mut self) -> Result<(), String> {
        let answer = quickly(self.driver.capabilities(CapabilitiesRequest {})).await?;
        self.capabilities = answer.into_inner().capabilities.ok_or("there are none")?;
        Ok(())
    }

    async fn init(&mut self) -> Result<(), String> {
        match time::timeout(QUICK, self.driver.init(InitRequest {})).await {
            Ok(Err(status)) if status.code() != Code::Unimplemented => Err(told(&status)),
            Ok(_) => Ok(()),
            Err(_) => Err(format!("no answer within {QUICK:?}")),
        }
    }

    /// What a job's block may hold.
    pub(super) async fn task_schema(&mut self) -> Option<Spec> {
        let schema = quickly(self.driver.task_config_schema(TaskConfigSchemaRequest {})).await;
        schema.ok()?.into_inner().spec
    }

    async fn first_fingerprint(&mut self) -> Result<(), String> {
        let mut stream = quickly(self.driver.fingerprint(FingerprintRequest {}))
            .await?
            .into_inner();
        let first = quickly(stream.message()).await?.ok_or("the stream ended")?;
        self.fingerprints = Some(stream);
        if !first.err.is_empty() {
            return Err(first.err);
        }
        match first.health() {
            HealthState::Undetected => Err(format!(
                "the driver is undetected: {}",
                first.health_description
            )),
            _ => Ok(()),
        }
    }

    async fn streams_stay_open(&mut self) -> Result<(), String> {
        self.events = Some(
            quickly(self.driver.task_events(TaskEventsRequest {}))
                .await?
                .into_inner(),
        );
        let (Some(fingerprints), Some(events)) = (&mut self.fingerprints, &mut self.events) else {
            return Err("there are none".to_owned());
        };
        let watched = async {
            tokio::select! {
                end = until_end(fingerprints) => format!("Fingerprint ended: {end}"),
                end = until_end(events) => format!("TaskEvents ended: {end}"),
            }
        };
        time::timeout(WATCHED, watched).await.map_or(Ok(()), Err)
    }

    /// Wishes the plugin's end.
    pub(super) async fn shut_down(&self) -> Result<(), String> {
        let mut controller = GrpcControllerClient::new(self.channel.clone());
        controller
            .shutdown(Empty {})
            .await
            .map(|_| ())
            .map_err(|status| told(&status))
    }
}

async fn until_end<T>(stream: &mut Streaming<T>) -> String {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return "without an error".to_owned(),
            Err(status) => return told(&status),
        }
    }
}

/// Numbers with dots, and perhaps a `v` before and a word behind.
fn is_version(text: &str) -> bool {
    let text = text.strip_prefix('v').unwrap_or(text);
    let core = text.split(['-', '+']).next().unwrap_or_default();
    !core.is_empty()
        && core
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}
