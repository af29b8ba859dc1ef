//! What is behind the plugin's [`Engine`] on a real machine: shims, crun, cgroups and JVMs. Each verb is blocking work on a
//! thread of its own, or a question to a shim; what is decided about tasks is decided on either side of it.

mod survey;
mod visit;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use runyard_common::memory;

pub(crate) use self::survey::{crun, version};
use crate::{
    cgroup::{self, Cgroup},
    config::Config,
    exec::{self, ExecRequest},
    fingerprint::Survey,
    host::Host,
    jre::{Jres, Search},
    launch::{self, Launcher, Spare},
    prepare::{Means, PrepareError, Prepared, prepare},
    registry::{Begun, Command, Engine, EngineError, Reading, Recovered, Session, StartError},
    shim::{
        client,
        protocol::{Answer, Request},
    },
    state::{Owner, Started, StateRoot, TaskDir},
    stats,
    task::{Exit, Program, Task, TaskId},
};

/// How long nothing is started until a start's memory is given back.
const QUIET: Duration = Duration::from_millis(250);

/// This machine. Clones are the same.
#[derive(Clone, Debug)]
pub struct Machine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `PATH` and `JAVA_HOME` of this process.
    search: Search,
    config: Mutex<Config>,
    jres: Mutex<Option<Jres>>,
    surveyor: survey::Surveyor,
    /// That this process answers for its tasks.
    owner: Mutex<Option<Owner>>,
    /// The shim of the next task.
    spare: Spare,
    /// How many tasks were started.
    starts: AtomicU64,
}

impl Machine {
    /// This machine, as this process sees it. Nothing is looked at yet.
    pub fn new(search: Search) -> Self {
        Self(Arc::new(Shared {
            search,
            config: Mutex::default(),
            jres: Mutex::default(),
            surveyor: survey::Surveyor::default(),
            owner: Mutex::default(),
            spare: Spare::default(),
            starts: AtomicU64::default(),
        }))
    }

    /// Does blocking work on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let shared = self.0.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|error| EngineError(format!("a bug of this driver: {error}")))
    }

    /// Stops a task whose shim may take so much longer than was asked for.
    async fn stop_within(
        &self,
        dir: &TaskDir,
        signal: i32,
        timeout: Duration,
        patience: Duration,
    ) -> Result<Exit, EngineError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Stop { signal, timeout_ms };
        let patience = timeout.saturating_add(patience);
        let mut answer = within(patience, client::ask(dir, &request)).await?;
        if answer.is_err() {
            // Its shim has died, perhaps of this very stop: the next one goes on with it.
            self.recover(dir).await?;
            answer = within(patience, client::ask(dir, &request)).await?;
        }
        match answer.map_err(engine)? {
            Answer::Exited(exit) => Ok(exit),
            Answer::Failed { error } => Err(EngineError(error)),
            other => Err(unexpected(&other)),
        }
    }
}

impl Engine for Machine {
    fn configure(&self, config: &Config) {
        let homes = &config.java_homes;
        let is_other = *homes != self.0.config().java_homes;
        *lock(&self.0.config) = config.clone();
        if is_other {
            *lock(&self.0.jres) = None;
        }
    }

    fn dir(&self, id: &TaskId) -> TaskDir {
        StateRoot::new(self.0.config().state_dir).task(id)
    }

    async fn start(&self, task: Task) -> Result<Begun, StartError> {
        let begun = self
            .blocking(move |shared| shared.start(task))
            .await
            .map_err(|error| StartError::passing(error.0))??;
        // While the answer is on its way.
        tokio::spawn(self.0.clone().get_ready());
        Ok(begun)
    }

    async fn recover(&self, dir: &TaskDir) -> Result<Recovered, EngineError> {
        let dir = dir.clone();
        self.blocking(move |shared| shared.recover(&dir)).await?
    }

    async fn wait(&self, dir: &TaskDir) -> Result<Exit, EngineError> {
        loop {
            match client::ask(dir, &Request::Wait).await {
                Ok(Answer::Exited(exit)) => return truthful(exit),
                Ok(Answer::Failed { error }) => return Err(EngineError(error)),
                Ok(other) => return Err(unexpected(&other)),
                // Its shim was killed: another one takes over and knows how it ended, or that nobody can.
                Err(error) if error.is_dead() => {
                    if let Recovered::Exited(_, exit) = self.recover(dir).await? {
                        return truthful(exit);
                    }
                }
                // The connection broke: asking again is harmless, but not at once.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn signal(&self, dir: &TaskDir, signal: i32) -> Result<(), EngineError> {
        match client::ask(dir, &Request::Signal { signal })
            .await
            .map_err(engine)?
        {
            Answer::Done => Ok(()),
            Answer::Failed { error } => Err(EngineError(error)),
            other => Err(unexpected(&other)),
        }
    }

    async fn stop(
        &self,
        dir: &TaskDir,
        signal: i32,
        timeout: Duration,
    ) -> Result<Exit, EngineError> {
        self.stop_within(dir, signal, timeout, SHIM_PATIENCE).await
    }

    async fn destroy(&self, dir: &TaskDir) -> Result<(), EngineError> {
        let dir = dir.clone();
        self.blocking(move |shared| shared.launcher().dismiss(&dir).map_err(engine))
            .await?
    }

    async fn exec(&self, dir: &TaskDir, command: Command) -> Result<Session, EngineError> {
        let dir = dir.clone();
        let request = ExecRequest {
            command: command.argv,
            tty: command.tty,
            ..ExecRequest::default()
        };
        let session = self
            .blocking(move |_| exec::spawn(&dir, &request).map_err(engine))
            .await??;
        visit::begin(session).map_err(engine)
    }

    async fn usage(&self, dir: &TaskDir) -> Result<Reading, EngineError> {
        let dir = dir.clone();
        self.blocking(move |_| usage(&dir).map_err(engine)).await?
    }

    async fn glance(&self) -> Survey {
        let glance =
            self.blocking(|shared| shared.surveyor.glance(&shared.config(), shared.all_jres()));
        glance.await.unwrap_or_default()
    }

    async fn survey(&self) -> Survey {
        let survey =
            self.blocking(|shared| shared.surveyor.survey(&shared.config(), shared.all_jres()));
        survey.await.unwrap_or_default()
    }
}

impl Shared {
    /// Gets ready for the next start, and when there is none for a moment, gives back what starts alone need.
    async fn get_ready(self: Arc<Self>) {
        let number = self.starts.fetch_add(1, Ordering::Relaxed) + 1;
        let shared = self.clone();
        // Where no shim can stand by, the next start is a little slower.
        let kept = move || drop(shared.spare.keep(Path::new(launch::OURSELVES)));
        let _ = tokio::task::spawn_blocking(kept).await;
        tokio::time::sleep(QUIET).await;
        if self.starts.load(Ordering::Relaxed) == number {
            // What could not be given back is kept.
            let _ = tokio::task::spawn_blocking(memory::release_startup_pages).await;
        }
    }

    fn config(&self) -> Config {
        lock(&self.config).clone()
    }

    /// The JVMs of this moment that are not known to be broken.
    fn jres(&self) -> Jres {
        self.surveyor.sound(self.all_jres())
    }

    /// The JVMs of this moment, whether they work or not.
    fn all_jres(&self) -> Jres {
        let mut jres = lock(&self.jres);
        if let Some(jres) = &mut *jres {
            jres.refresh();
            return jres.clone();
        }
        let search = Search {
            homes: self.config().java_homes,
            ..self.search.clone()
        };
        jres.insert(Jres::discover(&search)).clone()
    }

    fn launcher(&self) -> Launcher {
        let config = self.config();
        Launcher {
            state: StateRoot::new(config.state_dir),
            crun: crun(config.crun_path.as_deref(), self.search.path.as_deref())
                .unwrap_or_else(|| PathBuf::from("crun")),
            shim: PathBuf::from(launch::OURSELVES),
            spare: self.spare.clone(),
        }
    }

    fn start(&self, task: Task) -> Result<Begun, StartError> {
        let config = self.config();
        let launcher = self.launcher();
        let dir = launcher.state.task(&task.id);
        // One that runs is not looked at again: its JAR and its JVM may have changed since.
        if let Ok(Some(found)) = launcher.find(&dir) {
            let _ = self.own(&dir);
            return Ok(found_again(&dir, &found, facts_of(&task)));
        }
        let host = Host::detect().map_err(|error| {
            StartError::passing(format!("cannot look at this machine: {error}"))
        })?;
        let means = Means {
            host: &host,
            jres: &self.jres(),
            default_java: config.default_java.as_deref(),
            allow_privileged_user: config.policy.allow_privileged_user,
            any_java_home: false,
        };
        let prepared = prepare(task, means, &dir.bundle()).map_err(|error| refused(&error))?;
        let launched = launcher.launch(&prepared.task, |bundle| {
            prepared.plan.write(bundle)?;
            self.own(&dir)
        });
        let found = launched.map_err(|error| StartError::passing(whole(&error)))?;
        Ok(found_again(&dir, &found, facts(&prepared)))
    }

    /// From now on this process answers for the task.
    fn own(&self, dir: &TaskDir) -> io::Result<()> {
        let mut owner = lock(&self.owner);
        let owner = match &mut *owner {
            Some(owner) => owner,
            none => none.insert(Owner::new(&dir.root())?),
        };
        owner.takes(dir)
    }

    fn recover(&self, dir: &TaskDir) -> Result<Recovered, EngineError> {
        let recovered = self.launcher().recover(dir).map_err(engine)?;
        // A task that cannot be marked is still this one's; only a sweep of another plugin would not know.
        let _ = self.own(dir);
        // Of a task of an older layout there are none.
        let intent = dir.intent().ok().flatten();
        let known = intent
            .map(|intent| facts_of(&intent.task))
            .unwrap_or_default();
        Ok(match recovered {
            launch::Recovered::Running(started) => {
                Recovered::Running(begun(dir.clone(), started, known))
            }
            launch::Recovered::Exited(exit) => {
                let started = dir.started().map_err(engine)?.unwrap_or(NEVER);
                Recovered::Exited(begun(dir.clone(), started, known), exit)
            }
        })
    }
}

/// One that was so short that it has ended already is a start, too: whoever waits for it learns how it ended.
fn found_again(dir: &TaskDir, found: &launch::Recovered, facts: BTreeMap<String, String>) -> Begun {
    let started = match found {
        launch::Recovered::Running(started) => started.clone(),
        launch::Recovered::Exited(_) => dir.started().ok().flatten().unwrap_or(NEVER),
    };
    begun(dir.clone(), started, facts)
}

/// How much longer than asked for a shim may take to stop a task: two calls of crun, of 30 s each at most, and a kill.
const SHIM_PATIENCE: Duration = Duration::from_secs(75);

async fn within<T>(patience: Duration, answer: impl Future<Output = T>) -> Result<T, EngineError> {
    tokio::time::timeout(patience, answer)
        .await
        .map_err(|_| EngineError(format!("the shim did not answer within {patience:?}")))
}

/// Stands for a first process of which there is no record.
const NEVER: Started = Started {
    pid: 0,
    start_time: 0,
    started_at: 0,
};

fn begun(dir: TaskDir, started: Started, facts: BTreeMap<String, String>) -> Begun {
    Begun {
        dir,
        started,
        facts,
    }
}

fn facts(prepared: &Prepared) -> BTreeMap<String, String> {
    let mut facts = facts_of(&prepared.task);
    if let Some(jre) = &prepared.jre {
        facts.insert("java.home".to_owned(), jre.home.display().to_string());
        facts.insert("java.version".to_owned(), jre.version.clone());
    }
    facts.insert("user".to_owned(), prepared.account.name.clone());
    facts
}

fn facts_of(task: &Task) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::from([
        ("container".to_owned(), task.id.container()),
        ("cgroup".to_owned(), task.cgroup.path.clone()),
    ]);
    if let Program::Java(java) = &task.program
        && let Some(jar) = &java.jar
    {
        facts.insert("jar".to_owned(), jar.display().to_string());
    }
    facts
}

/// A wrong job stays wrong. A missing JVM may be there at another time, or on another node.
fn refused(error: &PrepareError) -> StartError {
    match error {
        PrepareError::Jre(_) => StartError::passing(error.to_string()),
        _ => StartError::fatal(whole(error)),
    }
}

/// One reading of everything that a task uses.
fn usage(dir: &TaskDir) -> io::Result<Reading> {
    let header = dir.header()?.ok_or(io::ErrorKind::NotFound)?;
    let root = Path::new(cgroup::ROOT);
    let cgroup = Cgroup::of(&cgroup::detect(root), root, &header.cgroup);
    let total = cgroup.usage()?;
    let processes = cgroup.pids()?.into_iter().filter_map(|pid| {
        // One that has ended meanwhile uses nothing.
        let usage = stats::of_process(Path::new("/proc"), pid).ok()?;
        Some((pid, usage))
    });
    Ok(Reading {
        at: SystemTime::now(),
        total,
        processes: processes.collect(),
    })
}

/// How it ended, or that nobody knows.
fn truthful(exit: Exit) -> Result<Exit, EngineError> {
    match &exit.error {
        Some(error) => Err(EngineError(error.clone())),
        None => Ok(exit),
    }
}

fn unexpected(answer: &Answer) -> EngineError {
    EngineError(format!("the shim's answer makes no sense: {answer:?}"))
}

fn engine(error: impl std::error::Error) -> EngineError {
    EngineError(whole(&error))
}

/// An error with its causes, in one line each.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use runyard_common::testing::{patience, tempdir};

    use super::*;

    /// An agent has no time limit of its own for this call.
    #[tokio::test]
    async fn a_stop_ends_even_if_the_shim_never_answers() {
        let root = tempdir();
        let dir = StateRoot::new(root.path()).task(&TaskId("silent".to_owned()));
        dir.create().unwrap();
        let _silent = UnixListener::bind(dir.socket()).unwrap();
        let machine = Machine::new(Search::default());
        let (asked, more) = (Duration::from_millis(20), Duration::from_millis(30));
        let stopped = machine.stop_within(&dir, libc::SIGTERM, asked, more);
        let stopped = tokio::time::timeout(patience(), stopped).await.unwrap();
        assert_eq!(
            stopped.unwrap_err().0,
            "the shim did not answer within 50ms"
        );
    }
}
