//! The life of the daemon, top to bottom: configure, open the backend, bind, announce, run, drain, report.
//!
//! Jobs are not the daemon's: those of this machine have supervisors of their own, those on Nomad are moved along by whichever
//! replica is there. So ending it ends no build, and a second one on the same folder (or beside the same Nomad) is another
//! door to the same jobs.

use std::{io, sync::Arc, time::Duration};

use runyard_common::{
    exit::Exit,
    http::server::{self as http, Bound, Listen, ServeOptions},
    memory,
    report::Failure,
    shutdown::{Readiness, Shutdown},
};
use tokio::task::JoinSet;

use crate::{
    backend::{self, Seams},
    config::{Config, Loaded},
    consul::{self, Mirror},
    mcp,
    metrics::{self, Metrics},
    scheduler::local::{LocalScheduler, keep_descriptors_from_children},
    server::{self, Context, Guard},
    service::{self, Service},
    settings::Backend,
};

/// How long those who follow may take to hear the last word.
const FAREWELL: Duration = Duration::from_secs(3);

/// How long starting takes, with all that is looked at once in the beginning.
const SETTLED: Duration = Duration::from_secs(2);

/// How long a folder without a record is left alone: it may be that of a job which is just being made.
const ORPHANED: Duration = Duration::from_hours(1);

/// Runs the daemon until it is told to end.
pub fn run(loaded: Loaded) -> anyhow::Result<Exit> {
    let Loaded {
        config, warnings, ..
    } = loaded;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    // A supervisor outlives this process, and is to hold nothing of it.
    keep_descriptors_from_children();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(2))
        .build()?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        daemon(&config, shutdown).await
    });
    // Whatever still blocks (a slow disk, say) must not keep the process.
    runtime.shutdown_background();
    result
}

/// The daemon, until `shutdown` says that it has to end.
pub async fn daemon(config: &Config, shutdown: Shutdown) -> anyhow::Result<Exit> {
    let mut config = consul::overridden(config.clone()).await;
    let bound = http::bind(&config.listen).await?;
    if let (Listen::Tcp { port, .. }, Some(address)) = (&mut config.listen, bound.address().tcp()) {
        // Nodes may fetch this program from there: what was asked for may have been any port.
        *port = address.port();
    }
    let config = &config;
    let seams = Seams::open(config)?;
    let metrics_bound = match &config.metrics {
        Some(listen) => Some(http::bind(listen).await?),
        None => None,
    };
    let tls = config.tls.as_ref().map(http::TlsConfig::load).transpose()?;
    let (readiness, latch) = Readiness::new();

    let metrics = Arc::new(Metrics::default());
    let service = seams.service(
        backend::policy(config),
        backend::egress(config),
        Arc::clone(&metrics),
    );
    let context = Context::new(
        Arc::new(service.clone()),
        Guard::of(config),
        Arc::clone(&metrics),
        readiness.clone(),
        shutdown.clone(),
    )?;
    let mut daemon = Daemon {
        context,
        listeners: JoinSet::new(),
        tasks: JoinSet::new(),
    };
    daemon.start_background(config, &seams, &service, metrics);
    daemon.mirror(config, &seams)?;
    daemon.listen(bound, tls, config);
    daemon.listen_for_metrics(metrics_bound);
    latch.release();
    tokio::spawn(grow_lean());

    let ending = daemon.until_told_to_end().await;
    readiness.begin_drain();
    daemon.drain().await;
    ending
}

/// Gives back what only starting needed, once the first look at all jobs is over.
async fn grow_lean() {
    tokio::time::sleep(SETTLED).await;
    match memory::release_startup_pages() {
        Ok(bytes) => tracing::debug!(bytes, "gave back what only starting needed"),
        Err(error) => tracing::debug!(%error, "kept what only starting needed"),
    }
}

/// The running daemon.
struct Daemon {
    context: Context,
    /// Each ends when it is told to and all its requests are answered; or because its socket broke.
    listeners: JoinSet<io::Result<()>>,
    /// Each of these runs for as long as the daemon; one that ends says which, and takes it down.
    tasks: JoinSet<&'static str>,
}

impl Daemon {
    /// Attends to jobs, those of before included; removes what is old; counts.
    fn start_background(
        &mut self,
        config: &Config,
        seams: &Seams,
        service: &Service,
        metrics: Arc<Metrics>,
    ) {
        let keeper = service.clone();
        self.tasks.spawn(async move {
            keeper.run().await;
            "housekeeping"
        });
        if config.backend == Backend::Nomad {
            let reconciler = service.reconciler().clone();
            self.tasks.spawn(async move {
                reconciler.run().await;
                "reconciler"
            });
        }
        if let Some(local) = seams.local.clone() {
            let round = config.rounds.tidy;
            self.tasks.spawn(async move {
                tidy(&local, round).await;
                "tidying"
            });
        }
        let ledger = Arc::clone(&seams.ledger);
        self.tasks.spawn(async move {
            metrics::watch(metrics, ledger).await;
            "count of jobs"
        });
    }

    /// Writes jobs where the original's `--watch` looks, if that is configured.
    fn mirror(&mut self, config: &Config, seams: &Seams) -> Result<(), Failure> {
        let Some(consul) = &config.consul else {
            return Ok(());
        };
        let (mirror, ledger) = (Mirror::open(consul)?, Arc::clone(&seams.ledger));
        tracing::info!(
            address = consul.address,
            prefix = consul.prefix,
            "mirroring jobs in Consul"
        );
        self.tasks.spawn(async move {
            mirror.run(ledger).await;
            "mirror in Consul"
        });
        Ok(())
    }

    fn listen(&mut self, bound: Bound, tls: Option<http::Tls>, config: &Config) {
        let backend = match config.backend {
            Backend::Local => "local",
            Backend::Nomad => "nomad",
        };
        tracing::info!(addr = %bound.address(), tls = tls.is_some(), backend, "listening");
        // Over a Unix socket the file's mode does what TLS does elsewhere.
        let tls = tls.filter(|_| bound.address().tcp().is_some());
        let mcp = mcp::service(Arc::clone(&self.context.builds));
        let router = server::router(self.context.clone(), Some(mcp));
        self.serve(bound, tls, router);
    }

    fn listen_for_metrics(&mut self, bound: Option<Bound>) {
        if let Some(bound) = bound {
            tracing::info!(addr = %bound.address(), "listening for metrics");
            let router = server::metrics_router(self.context.clone());
            self.serve(bound, None, router);
        }
    }

    fn serve(&mut self, bound: Bound, tls: Option<http::Tls>, router: axum::Router) {
        let shutdown = self.context.shutdown.clone();
        let stop = async move { shutdown.drain().await };
        self.listeners.spawn(async move {
            http::serve(bound, tls, router, ServeOptions::default(), stop).await
        });
    }

    /// Serves until a signal, or the loss of a part.
    async fn until_told_to_end(&mut self) -> anyhow::Result<Exit> {
        let lost = |why: String| Failure::new(Exit::Internal, why);
        let panicked = || lost("a part of the daemon panicked".to_owned());
        tokio::select! {
            () = self.context.shutdown.drain() => Ok(Exit::Done),
            Some(ended) = self.listeners.join_next() => match ended {
                // The signal that stopped it is on its way here too.
                Ok(Ok(())) => Ok(Exit::Done),
                Ok(Err(error)) => {
                    Err(Failure::new(Exit::Failed, "a listener failed").caused_by(error).into())
                }
                Err(panic) => Err(panicked().caused_by(panic).into()),
            },
            Some(ended) = self.tasks.join_next() => Err(match ended {
                Ok(part) => lost(format!("the {part} ended by itself")),
                Err(panic) => panicked().caused_by(panic),
            }.into()),
        }
    }

    /// Lets requests finish; streams are told, and end. A second signal takes the time away.
    async fn drain(mut self) {
        let open = self.context.crowd.size();
        tracing::info!(sockets = open, "shutting down; builds go on");
        let finished = async {
            while self.listeners.join_next().await.is_some() {}
            self.context.crowd.empty().await;
        };
        let deadline = ServeOptions::default().drain_deadline + FAREWELL;
        tokio::select! {
            _ = tokio::time::timeout(deadline, finished) => {}
            () = self.context.shutdown.now() => {}
        }
        self.listeners.abort_all();
        self.tasks.abort_all();
        tracing::info!(left = self.context.crowd.size(), "shutdown complete");
    }
}

/// Looks through folders and caches of this machine now and then. Never ends.
async fn tidy(local: &LocalScheduler, round: Duration) {
    loop {
        let scheduler = local.clone();
        let done = tokio::task::spawn_blocking(move || {
            scheduler.remove_orphans(ORPHANED)?;
            scheduler.prune_caches()
        });
        match done.await {
            Ok(Ok(pruned)) if pruned.is_empty() => {}
            Ok(Ok(pruned)) => tracing::info!(count = pruned.len(), "caches were pruned"),
            Ok(Err(error)) => tracing::warn!(%error, "folders of jobs cannot be looked through"),
            Err(error) => tracing::error!(%error, "looking through folders of jobs panicked"),
        }
        tokio::time::sleep(service::about(round)).await;
    }
}
