//! The plugin's services over one connection: which there are, how a call finds its own, and what they share. Each of them
//! verifies, converts and forwards; what becomes of tasks is decided in [`crate::registry`].

pub mod base;
pub mod broker;
pub mod complaint;
pub mod controller;
pub mod driver;
pub mod events;
pub mod exec;
pub mod fingerprint;
pub mod stats;
pub mod stdio;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
    transport::Server,
};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{
    config::{Compute, Config},
    fingerprint::Memory,
    proto::{
        MESSAGE_BYTES,
        base::base_plugin_server::BasePluginServer,
        drivers::driver_server::DriverServer,
        plugin::{
            grpc_broker_server::GrpcBrokerServer, grpc_controller_server::GrpcControllerServer,
            grpc_stdio_server::GrpcStdioServer,
        },
    },
    registry::{Engine, Registry},
    state::StateRoot,
    sweep::Sweep,
};

/// Streams of one connection. A task holds two or three of them for its whole life, so there is no number that is too many;
/// it is only said because other ends of HTTP/2 have a default of a hundred.
const STREAMS: u32 = 1 << 20;

/// The service whose health go-plugin asks for.
const HEALTH_NAME: &str = "plugin";

/// What all services share. Clones are the same plugin.
#[derive(Debug)]
pub struct Plugin<E>(Arc<Shared<E>>);

impl<E> Clone for Plugin<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Shared<E> {
    registry: Registry<E>,
    settings: Mutex<Arc<Settings>>,
    said: Memory,
    sweeps: AtomicBool,
    ending: Ending,
}

/// What an agent configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The operator's decisions.
    pub config: Config,
    /// The CPUs as the agent counts them.
    pub compute: Compute,
}

/// The wish that this process end.
#[derive(Clone, Debug)]
pub struct Ending(watch::Sender<bool>);

impl Default for Ending {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Ending {
    /// Wishes it.
    pub fn wish(&self) {
        self.0.send_replace(true);
    }

    /// Returns when it is wished.
    pub async fn wished(&self) {
        // The sender is part of `self`.
        let _ = self.0.subscribe().wait_for(|wished| *wished).await;
    }
}

impl<E: Engine> Plugin<E> {
    /// A plugin that nobody has configured yet.
    pub fn new(engine: E) -> Self {
        Self(Arc::new(Shared {
            registry: Registry::new(engine),
            settings: Mutex::new(Arc::new(Settings {
                config: Config::default(),
                compute: Compute::of_this_machine(),
            })),
            said: Memory::default(),
            sweeps: AtomicBool::new(false),
            ending: Ending::default(),
        }))
    }

    /// The wish that this process end.
    pub fn ending(&self) -> &Ending {
        &self.0.ending
    }

    fn registry(&self) -> &Registry<E> {
        &self.0.registry
    }

    fn settings(&self) -> Arc<Settings> {
        self.0
            .settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn configure(&self, settings: Settings) {
        self.0.registry.configure(&settings.config);
        *self
            .0
            .settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Begins to look for what nobody asks for, once in a process, and only in one that an agent really uses.
    fn begin_to_sweep(&self) {
        if self.0.sweeps.swap(true, Ordering::SeqCst) {
            return;
        }
        let config = &self.settings().config;
        let sweep = Sweep {
            root: StateRoot::new(&config.state_dir),
            gc: config.gc.clone(),
        };
        tokio::spawn(sweep.run(self.registry().clone()));
    }

    /// Serves on a socket, for ever. Ends only with an error, or with the runtime.
    pub async fn serve(self, listener: UnixListener) -> Result<(), tonic::transport::Error> {
        let services = Services::of(self).await;
        Server::builder()
            .max_concurrent_streams(STREAMS)
            .serve_with_incoming(services, UnixListenerStream::new(listener))
            .await
    }
}

/// All services; a call finds its own by the path.
#[derive(Debug)]
struct Services<E> {
    base: BasePluginServer<Plugin<E>>,
    driver: DriverServer<Plugin<E>>,
    controller: GrpcControllerServer<controller::Controller>,
    stdio: GrpcStdioServer<stdio::Stdio>,
    broker: GrpcBrokerServer<broker::Broker>,
    health: HealthServer<HealthService>,
}

impl<E> Clone for Services<E> {
    fn clone(&self) -> Self {
        Self {
            base: self.base.clone(),
            driver: self.driver.clone(),
            controller: self.controller.clone(),
            stdio: self.stdio.clone(),
            broker: self.broker.clone(),
            health: self.health.clone(),
        }
    }
}

impl<E: Engine> Services<E> {
    async fn of(plugin: Plugin<E>) -> Self {
        let reporter = HealthReporter::new();
        reporter
            .set_service_status(HEALTH_NAME, ServingStatus::Serving)
            .await;
        let controller = controller::Controller::new(plugin.ending().clone());
        Self {
            base: BasePluginServer::new(plugin.clone()).max_decoding_message_size(MESSAGE_BYTES),
            driver: DriverServer::new(plugin)
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES),
            controller: GrpcControllerServer::new(controller),
            stdio: GrpcStdioServer::new(stdio::Stdio),
            broker: GrpcBrokerServer::new(broker::Broker),
            health: HealthServer::new(HealthService::from_health_reporter(reporter)),
        }
    }
}

impl<E: Engine> Service<http::Request<Body>> for Services<E> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match service_of(request.uri().path()) {
            DriverServer::<Plugin<E>>::NAME => self.driver.call(request),
            BasePluginServer::<Plugin<E>>::NAME => self.base.call(request),
            GrpcControllerServer::<controller::Controller>::NAME => self.controller.call(request),
            GrpcStdioServer::<stdio::Stdio>::NAME => self.stdio.call(request),
            GrpcBrokerServer::<broker::Broker>::NAME => self.broker.call(request),
            HealthServer::<HealthService>::NAME => self.health.call(request),
            other => {
                let status = Status::unimplemented(format!("there is no service `{other}`"));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

/// `/package.Service/Method` without its method.
fn service_of(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.rsplit_once('/').map_or(path, |(service, _)| service)
}

#[cfg(test)]
mod tests;
