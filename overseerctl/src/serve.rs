//! The life of the daemon, top to bottom: configure, bind, announce, run, drain, report.

use std::{io, sync::Arc, time::Duration};

use runyard_common::{
    exit::Exit,
    http::server::{self as http, BindOptions, Bound, ServeOptions, Tls},
    memory,
    report::Failure,
    shutdown::{Readiness, Shutdown},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

use crate::{
    api::{Params, RetryPolicy},
    config::{Config, Endpoint, Loaded},
    driver::{ActionContext, Registry, StopHandle, StopLevel, StopSignal},
    hub::{Action, Actions, Hub, Outlets, Start},
    logfile::{LogWriter, TaskLogs},
    reaper, rlimit, server,
    store::Store,
};

/// How long clients may take to read their last messages.
const FAREWELL: Duration = Duration::from_secs(2);

/// Kernel buffer of a connection. Left to itself it grows to megabytes, and a client that reads slowly would look stalled
/// for seconds between two signs of progress.
const SEND_BUFFER: u32 = 256 << 10;

/// How the daemon gets its configuration, at start and at every reload.
pub type Load = dyn Fn() -> Result<Loaded, Failure> + Send + Sync;

/// Runs the daemon until it is told to end. `load` is called once now, and again at SIGHUP.
pub fn run(load: Arc<Load>, registry: &Registry) -> anyhow::Result<Exit> {
    let loaded = load()?;
    warn_all(&loaded.warnings);
    if let Some((from, to)) = rlimit::raise_open_files() {
        tracing::debug!(from, to, "raised the limit on open files");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(daemon(loaded.config, load, registry));
    // Whatever still runs in the background (a blocked standard input, say) must not keep the process.
    runtime.shutdown_background();
    result
}

async fn daemon(config: Config, load: Arc<Load>, registry: &Registry) -> anyhow::Result<Exit> {
    let actions = build_actions(&config, registry)?;
    let writer = LogWriter::start()?;
    let outlets = open_outlets(&config, &writer)?;
    let store = outlets.store.clone();
    let sockets = bind(&config).await?;
    let tls = config.tls.as_ref().map(http::TlsConfig::load).transpose()?;
    let shutdown = Shutdown::on_signals()?;
    // Before anybody is told where the hub listens: until it is handled, this signal ends a process.
    let hangup = signal(SignalKind::hangup())?;

    let hub = Hub::new(
        config.settings.clone(),
        config.pool.clone(),
        actions,
        outlets,
    );
    let (readiness, latch) = Readiness::new();
    let mut daemon = Daemon {
        hub: hub.clone(),
        tasks: JoinSet::new(),
        services: Vec::new(),
        writer,
    };
    daemon.start_background();
    daemon.start_services();
    daemon.restore_queue(&config, store.as_ref()).await;
    daemon.listen(sockets, tls.as_ref(), &config, &readiness, &shutdown);
    latch.release();
    match memory::release_startup_pages() {
        Ok(bytes) => tracing::debug!(bytes, "gave back what only starting needed"),
        Err(error) => tracing::debug!(%error, "kept what only starting needed"),
    }

    let ending = daemon
        .until_told_to_end(&config, load, registry, &shutdown, hangup)
        .await;
    readiness.begin_drain();
    daemon.drain(&config, &shutdown).await;
    if let Some(store) = store {
        store.close()?;
    }
    ending
}

/// The running daemon: the hub and everything that serves it.
struct Daemon {
    hub: Hub,
    /// Each of these runs for as long as the daemon; one that ends takes it down.
    tasks: JoinSet<Ended>,
    services: Vec<StopHandle>,
    writer: LogWriter,
}

/// Why a part of the daemon ended.
#[derive(Debug)]
enum Ended {
    /// The only client of the stdio transport is gone: nobody is left to serve.
    EndOfInput,
    /// A listener was told to stop, or failed.
    Listener(io::Result<()>),
    /// Something that never ends did.
    Lost(&'static str),
}

impl Daemon {
    fn start_background(&mut self) {
        let hub = self.hub.clone();
        self.tasks.spawn(async move {
            hub.sweep().await;
            Ended::Lost("sweeper")
        });
        if reaper::adopts_orphans() {
            self.tasks.spawn(async {
                reaper::run().await;
                Ended::Lost("reaper")
            });
        }
    }

    fn start_services(&mut self) {
        for (name, action) in self.hub.actions().iter() {
            if let Some(service) = action.driver.service() {
                let (stop, signal) = StopSignal::new();
                tracing::info!(action = %name, "service started");
                tokio::spawn(service(self.hub.clone(), signal));
                self.services.push(stop);
            }
        }
    }

    /// Takes up the starts that waited when the last daemon ended.
    async fn restore_queue(&self, config: &Config, store: Option<&Store>) {
        let Some(store) = store.filter(|_| config.settings.persist_queue) else {
            return;
        };
        let waiting = store.queue().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read the queue of the last daemon");
            Vec::new()
        });
        for start in waiting {
            store.dequeue(&start.task_id);
            let task_id = start.task_id.clone();
            let retry = start
                .retry_policy
                .and_then(|policy| RetryPolicy::from_wire(&policy));
            let params: Params = start.params;
            let (action, force) = (start.action, start.forced);
            let start = Start {
                id: start.id,
                action,
                task_id: start.task_id,
                params,
                retry,
                force,
                replace: false,
            };
            match self.hub.start(start, None).await {
                Ok(()) => tracing::info!(task = %task_id, "taken up from the last daemon's queue"),
                Err(refusal) => {
                    tracing::warn!(task = %task_id, %refusal, "not taken up from the last daemon's queue");
                }
            }
        }
    }

    fn listen(
        &mut self,
        sockets: Sockets,
        tls: Option<&Tls>,
        config: &Config,
        readiness: &Readiness,
        shutdown: &Shutdown,
    ) {
        let guard = server::Guard::new(
            &config.networks,
            config.origins.clone(),
            config.token.clone(),
            config.unix_users.clone(),
        );
        let context = server::Context {
            hub: self.hub.clone(),
            guard,
            heartbeat: config.heartbeat,
        };
        let router = server::router(context, readiness.clone());
        for bound in sockets.http {
            tracing::info!(addr = %bound.address(), tls = tls.is_some(), "listening");
            // Over Unix sockets the file's mode and the peer check do what TLS does elsewhere.
            let tls = tls.cloned().filter(|_| bound.address().tcp().is_some());
            let (router, shutdown) = (router.clone(), shutdown.clone());
            let stop = async move { shutdown.drain().await };
            self.tasks.spawn(async move {
                Ended::Listener(
                    http::serve(bound, tls, router, ServeOptions::default(), stop).await,
                )
            });
        }
        if sockets.stdio {
            tracing::info!(addr = "stdio", "listening");
            let hub = self.hub.clone();
            self.tasks.spawn(async move {
                match server::serve_stdio(hub, tokio::io::stdin(), tokio::io::stdout()).await {
                    Ok(()) => Ended::EndOfInput,
                    Err(error) => Ended::Listener(Err(error)),
                }
            });
        }
    }

    /// Serves until a signal, the end of standard input, or the loss of a part. SIGHUP reloads.
    async fn until_told_to_end(
        &mut self,
        config: &Config,
        load: Arc<Load>,
        registry: &Registry,
        shutdown: &Shutdown,
        mut hangup: Signal,
    ) -> anyhow::Result<Exit> {
        loop {
            tokio::select! {
                () = shutdown.drain() => return Ok(Exit::Done),
                _ = hangup.recv() => self.reload(config, &*load, registry),
                ended = self.tasks.join_next() => match ended {
                    Some(Ok(Ended::EndOfInput)) => return Ok(Exit::Done),
                    Some(Ok(Ended::Listener(Ok(())))) => {}
                    Some(Ok(Ended::Listener(Err(error)))) => {
                        return Err(Failure::new(Exit::Failed, "a listener failed").caused_by(error).into());
                    }
                    Some(Ok(Ended::Lost(part))) => {
                        return Err(Failure::new(Exit::Internal, format!("the {part} ended by itself")).into());
                    }
                    Some(Err(panic)) => {
                        return Err(Failure::new(Exit::Internal, "a part of the daemon panicked").caused_by(panic).into());
                    }
                    None => std::future::pending().await,
                },
            }
        }
    }

    /// SIGHUP: log files are opened anew; actions, pools and limits are taken from the configuration as it is now. A
    /// configuration that is wrong changes nothing.
    fn reload(&self, running: &Config, load: &Load, registry: &Registry) {
        self.writer.reopen();
        let reloaded =
            load().and_then(|loaded| Ok((build_actions(&loaded.config, registry)?, loaded)));
        match reloaded {
            Err(failure) => {
                tracing::error!(error = %failure, "reload failed; the old configuration stays");
            }
            Ok((actions, loaded)) => {
                warn_all(&loaded.warnings);
                for key in running.fixed_differences(&loaded.config) {
                    tracing::warn!("{key} has changed, but only a restart applies it");
                }
                self.hub
                    .reconfigure(loaded.config.settings, loaded.config.pool, actions);
                let orphaned = self.hub.orphaned_actions();
                tracing::info!(?orphaned, "configuration reloaded");
            }
        }
    }

    /// Ends everything: workers get their grace, a second signal takes it away, clients hear the last of it.
    async fn drain(mut self, config: &Config, shutdown: &Shutdown) {
        tracing::info!(workers = self.hub.workers(), "shutting down");
        for service in &self.services {
            service.raise(StopLevel::Stop { grace: None });
        }
        let ended = self.hub.shut_down();
        tokio::pin!(ended);
        let in_time = tokio::select! {
            () = &mut ended => true,
            () = shutdown.now() => false,
            () = tokio::time::sleep(config.shutdown_grace) => false,
        };
        if !in_time {
            self.hub.kill_all();
            // Processes in uninterruptible sleep cannot be killed; nobody waits for those.
            let _ = tokio::time::timeout(FAREWELL, ended).await;
        }
        self.hub.close_clients(FAREWELL).await;
        self.tasks.abort_all();
        let writer = self.writer;
        if tokio::task::spawn_blocking(move || writer.close())
            .await
            .is_err()
        {
            tracing::error!("the log writer panicked");
        }
        tracing::info!(left = self.hub.workers(), "shutdown complete");
    }
}

struct Sockets {
    http: Vec<Bound>,
    stdio: bool,
}

async fn bind(config: &Config) -> Result<Sockets, Failure> {
    let options = BindOptions {
        unix_mode: config.unix_mode,
        send_buffer: Some(SEND_BUFFER),
        ..BindOptions::default()
    };
    let mut sockets = Sockets {
        http: Vec::new(),
        stdio: false,
    };
    for endpoint in &config.listen {
        match endpoint {
            Endpoint::Stdio => sockets.stdio = true,
            Endpoint::Socket(listen) => sockets.http.push(http::bind_with(listen, &options).await?),
        }
    }
    Ok(sockets)
}

fn open_outlets(config: &Config, writer: &LogWriter) -> Result<Outlets, Failure> {
    let refused = |what: &str, error: io::Error| {
        Failure::new(Exit::Config, format!("cannot open the {what}")).caused_by(error)
    };
    let events = config
        .log_file
        .as_ref()
        .map(|path| writer.open(path, config.log_rotation))
        .transpose();
    let logs = config.task_logs.as_ref();
    let task_logs = logs
        .map(|logs| TaskLogs::open(writer, &logs.dir, logs.rotation, logs.format))
        .transpose();
    let store = config
        .db
        .as_ref()
        .map(|path| Store::open(path, config.store))
        .transpose();
    Ok(Outlets {
        events: events.map_err(|error| refused("event log (log_file)", error))?,
        task_logs: task_logs
            .map_err(|error| refused("directory of task logs (task_logs.dir)", error))?,
        store: store.map_err(|error| {
            let hint = error.hint();
            let failure = Failure::new(Exit::Config, "cannot open the store (db)").caused_by(error);
            hint.into_iter().fold(failure, Failure::hint)
        })?,
    })
}

/// Makes the drivers of all configured actions.
pub fn build_actions(config: &Config, registry: &Registry) -> Result<Actions, Failure> {
    let build = |(name, action): (&String, &crate::config::ActionConfig)| {
        let context = ActionContext {
            name: name.clone(),
            description: action.description.clone(),
            retry: action.retry.clone(),
            task_pool: action.task_pool.clone(),
            dedupe_key: action.dedupe_key.clone(),
            base_dir: config.base_dir.clone(),
            worker: config.worker.clone(),
        };
        let driver = registry
            .create(&action.kind, action.config.clone(), context)
            .map_err(|error| {
                let place = config.place_of_action(name);
                Failure::new(
                    Exit::Config,
                    format!("failed to build action handlers: {error}"),
                )
                .hint(format!(
                    "correct actions.{name}{place}, then check with `overseerctl config check`"
                ))
            })?;
        let action = Action {
            driver,
            retry: action.retry.clone(),
            task_pool: action.task_pool.clone(),
            dedupe_key: action.dedupe_key.clone(),
        };
        Ok((name.clone(), action))
    };
    config.actions.iter().map(build).collect()
}

fn warn_all(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
