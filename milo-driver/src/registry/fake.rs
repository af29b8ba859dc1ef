//! An [`Engine`] that runs nothing and behaves like one that does, for tests: tasks start, are waited for, ignore SIGTERM
//! if told to, and end when a test says so.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    fingerprint::{Crun, Java},
    state::{Started, StateRoot},
    stats::Usage,
};

/// The fake. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Fake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: StateRoot,
    tasks: Mutex<HashMap<PathBuf, Running>>,
    survey: watch::Sender<Option<Survey>>,
    faults: Mutex<Vec<StartError>>,
    starts_may_go_on: watch::Sender<bool>,
    starts: AtomicUsize,
    destroyed: Mutex<Vec<TaskDir>>,
    config: Mutex<Option<Config>>,
    commands: watch::Sender<usize>,
}

#[derive(Clone, Debug)]
struct Running {
    exit: watch::Sender<Option<Exit>>,
    ignores_term: bool,
    signals: Vec<i32>,
}

impl Fake {
    pub(crate) fn new(root: StateRoot) -> Self {
        Self(Arc::new(Inner {
            root,
            tasks: Mutex::default(),
            survey: watch::Sender::new(Some(healthy())),
            faults: Mutex::default(),
            starts_may_go_on: watch::Sender::new(true),
            starts: AtomicUsize::new(0),
            destroyed: Mutex::default(),
            config: Mutex::default(),
            commands: watch::Sender::new(0),
        }))
    }

    /// A task that an earlier plugin started.
    pub(crate) fn left_behind(&self, id: &TaskId, exit: Option<Exit>) {
        self.add(&self.dir(id), exit);
    }

    pub(crate) fn fail_next_start(&self, error: StartError) {
        self.0.faults.lock().unwrap().push(error);
    }

    pub(crate) fn hold_starts(&self, hold: bool) {
        self.0.starts_may_go_on.send_replace(!hold);
    }

    pub(crate) fn ignore_term(&self, id: &TaskId) {
        self.0
            .tasks
            .lock()
            .unwrap()
            .get_mut(self.dir(id).path())
            .unwrap()
            .ignores_term = true;
    }

    pub(crate) fn finish(&self, id: &TaskId, exit: Exit) {
        let task = self.find(&self.dir(id)).unwrap();
        task.exit.send_replace(Some(exit));
    }

    /// A survey that is not there yet takes until it is.
    pub(crate) fn set_survey(&self, survey: Option<Survey>) {
        self.0.survey.send_replace(survey);
    }

    pub(crate) fn starts(&self) -> usize {
        self.0.starts.load(Ordering::SeqCst)
    }

    pub(crate) fn destroyed(&self) -> Vec<TaskDir> {
        self.0.destroyed.lock().unwrap().clone()
    }

    pub(crate) fn signals(&self, id: &TaskId) -> Vec<i32> {
        self.find(&self.dir(id)).unwrap().signals
    }

    pub(crate) fn config(&self) -> Option<Config> {
        self.0.config.lock().unwrap().clone()
    }

    /// Waits until so many commands have been started and none of them runs.
    pub(crate) async fn commands_are_over(&self) {
        self.0
            .commands
            .subscribe()
            .wait_for(|running| *running == 0)
            .await
            .unwrap();
    }

    fn find(&self, dir: &TaskDir) -> Result<Running, EngineError> {
        let tasks = self.0.tasks.lock().unwrap();
        tasks
            .get(dir.path())
            .cloned()
            .ok_or_else(|| EngineError(format!("no task at {}", dir.path().display())))
    }

    fn add(&self, dir: &TaskDir, exit: Option<Exit>) {
        let running = Running {
            exit: watch::Sender::new(exit),
            ignores_term: false,
            signals: Vec::new(),
        };
        self.0
            .tasks
            .lock()
            .unwrap()
            .entry(dir.path().to_path_buf())
            .or_insert(running);
    }
}

pub(crate) fn healthy() -> Survey {
    Survey {
        crun: Some(Crun {
            version: "1.8.1".to_owned(),
            path: "/usr/bin/crun".into(),
            features: "+SECCOMP".to_owned(),
        }),
        java: vec![Java {
            home: "/jdk17".into(),
            version: "17.0.12".to_owned(),
            major: 17,
            ..Java::default()
        }],
        cgroup: "v2".to_owned(),
        ..Survey::default()
    }
}

fn begun(dir: TaskDir) -> Begun {
    Begun {
        dir,
        started: Started {
            pid: 4711,
            start_time: 1,
            started_at: 1_700_000_000_000_000_000,
        },
        facts: BTreeMap::from([("java".to_owned(), "17.0.12".to_owned())]),
    }
}

impl Engine for Fake {
    fn configure(&self, config: &Config) {
        *self.0.config.lock().unwrap() = Some(config.clone());
    }

    fn dir(&self, id: &TaskId) -> TaskDir {
        self.0.root.task(id)
    }

    async fn start(&self, task: Task) -> Result<Begun, StartError> {
        let mut gate = self.0.starts_may_go_on.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
        self.0.starts.fetch_add(1, Ordering::SeqCst);
        let fault = self.0.faults.lock().unwrap().pop();
        if let Some(fault) = fault {
            return Err(fault);
        }
        let dir = self.dir(&task.id);
        self.add(&dir, None);
        Ok(begun(dir))
    }

    async fn recover(&self, dir: &TaskDir) -> Result<Recovered, EngineError> {
        let exit = self.find(dir)?.exit.borrow().clone();
        Ok(match exit {
            None => Recovered::Running(begun(dir.clone())),
            Some(exit) => Recovered::Exited(begun(dir.clone()), exit),
        })
    }

    async fn wait(&self, dir: &TaskDir) -> Result<Exit, EngineError> {
        let mut exits = self.find(dir)?.exit.subscribe();
        let exit = exits
            .wait_for(Option::is_some)
            .await
            .map_err(|_| EngineError("the shim is gone".to_owned()))?;
        Ok(exit.clone().unwrap())
    }

    async fn signal(&self, dir: &TaskDir, signal: i32) -> Result<(), EngineError> {
        let task = self.find(dir)?;
        self.0
            .tasks
            .lock()
            .unwrap()
            .get_mut(dir.path())
            .unwrap()
            .signals
            .push(signal);
        if signal == libc::SIGKILL || (signal == libc::SIGTERM && !task.ignores_term) {
            let exit = Exit {
                code: 128 + signal,
                signal,
                ..Exit::default()
            };
            task.exit
                .send_if_modified(|now| now.is_none() && now.replace(exit).is_none());
        }
        Ok(())
    }

    async fn stop(
        &self,
        dir: &TaskDir,
        signal: i32,
        timeout: Duration,
    ) -> Result<Exit, EngineError> {
        self.signal(
            dir,
            if timeout.is_zero() {
                libc::SIGKILL
            } else {
                signal
            },
        )
        .await?;
        if let Ok(exit) = tokio::time::timeout(timeout, self.wait(dir)).await {
            return exit;
        }
        self.signal(dir, libc::SIGKILL).await?;
        self.wait(dir).await
    }

    async fn destroy(&self, dir: &TaskDir) -> Result<(), EngineError> {
        self.0.destroyed.lock().unwrap().push(dir.clone());
        self.0.tasks.lock().unwrap().remove(dir.path());
        dir.remove().map_err(|error| EngineError(error.to_string()))
    }

    async fn exec(&self, dir: &TaskDir, command: Command) -> Result<Session, EngineError> {
        self.find(dir)?;
        if command.argv.is_empty() {
            return Err(EngineError("no command".to_owned()));
        }
        let (input, from_caller) = mpsc::channel(4);
        let (to_caller, output) = mpsc::channel(4);
        self.0.commands.send_modify(|running| *running += 1);
        let fake = self.clone();
        tokio::spawn(async move {
            let gone = to_caller.clone();
            tokio::select! {
                () = perform(command, from_caller, to_caller) => {}
                () = gone.closed() => {}
            }
            fake.0.commands.send_modify(|running| *running -= 1);
        });
        Ok(Session { input, output })
    }

    async fn usage(&self, dir: &TaskDir) -> Result<Reading, EngineError> {
        self.find(dir)?;
        let mut usage = Usage::default();
        usage.cpu.total = Some(Duration::from_millis(1));
        usage.memory.rss = Some(4096);
        Ok(Reading {
            at: SystemTime::now(),
            total: usage.clone(),
            processes: BTreeMap::from([(4711, usage)]),
        })
    }

    async fn glance(&self) -> Survey {
        healthy()
    }

    async fn survey(&self) -> Survey {
        let mut surveys = self.0.survey.subscribe();
        let survey = surveys.wait_for(Option::is_some).await;
        survey.unwrap().clone().unwrap()
    }
}

/// `say out err code`, `cat`, `fill n`, `size`, `leave`, `hang`.
async fn perform(command: Command, mut input: mpsc::Receiver<Input>, output: mpsc::Sender<Output>) {
    let argv: Vec<&str> = command.argv.iter().map(String::as_str).collect();
    let mut code = 0;
    match argv.as_slice() {
        ["say", out, err, end] => {
            let _ = output.send(Output::Stdout(out.as_bytes().to_vec())).await;
            let _ = output.send(Output::Stderr(err.as_bytes().to_vec())).await;
            code = end.parse().unwrap();
        }
        ["cat"] => {
            while let Some(Input::Data(bytes)) = input.recv().await {
                let _ = output.send(Output::Stdout(bytes)).await;
            }
        }
        ["fill", size] => {
            for _ in 0..size.parse::<usize>().unwrap() {
                let _ = output.send(Output::Stdout(vec![b'x'; 1000])).await;
            }
            let _ = output.send(Output::Stdout(b"end".to_vec())).await;
        }
        ["size"] => {
            if let Some(Input::Resize { rows, columns }) = input.recv().await {
                let _ = output
                    .send(Output::Stdout(format!("{rows} {columns}").into_bytes()))
                    .await;
            }
        }
        ["leave"] => {
            let _ = output.send(Output::Stdout(b"main".to_vec())).await;
            let _ = output.send(Output::Exited(0)).await;
            input.recv().await;
            let _ = output.send(Output::Stdout(b" background".to_vec())).await;
            return;
        }
        _ => std::future::pending().await,
    }
    let _ = output.send(Output::Exited(code)).await;
}
