//! Lives of containers on a fake runtime: what each request leads to, and what is found after a shim's death.

use std::{
    cell::Cell,
    io::Read as _,
    rc::Rc,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use runyard_common::testing::{TempDir, eventually, patience, tempdir};

use super::*;
use crate::{
    runtime::Fake,
    shim::{client::Connection, server::Server},
    task::{OnFull, Stream},
};

/// A cgroup that says what it is told, and counts its kills.
#[derive(Clone, Default)]
struct Told {
    ooms: Rc<Cell<u64>>,
}

impl Enclosure for Told {
    fn oom_kills(&self) -> io::Result<u64> {
        // One more each time: somebody was killed while the program ran.
        self.ooms.set(self.ooms.get() + 1);
        Ok(self.ooms.get())
    }

    fn kill(&self) -> io::Result<()> {
        Ok(())
    }

    fn yield_to(&self, _: &[PathBuf]) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A shim in a thread, on a fake runtime.
struct Place {
    root: TempDir,
    dir: TaskDir,
    fake: Fake,
    intent: Intent,
}

impl Place {
    fn new(script: &str) -> Self {
        let root = tempdir();
        let dir = TaskDir::at(root.path().join("tasks/x"));
        dir.create().unwrap();
        fs::create_dir(dir.bundle()).unwrap();
        let config = serde_json::json!({ "process": { "args": ["/bin/sh", "-c", script] } });
        fs::write(dir.bundle().join("config.json"), config.to_string()).unwrap();
        Self {
            fake: Fake::new(root.path().join("fake")),
            intent: intent(),
            root,
            dir,
        }
    }

    fn shim(&self) -> JoinHandle<()> {
        let (dir, fake, intent) = (self.dir.clone(), self.fake.clone(), self.intent.clone());
        let (listens, listening) = mpsc::channel();
        let shim = thread::spawn(move || {
            let server = Server::bind(&dir).unwrap();
            listens.send(()).unwrap();
            let parts = Parts {
                log: Log::open(&dir).unwrap(),
                dir,
                intent,
                runtime: Box::new(fake),
                enclosure: Box::new(Told::default()),
                boot_id: "this boot".into(),
                inherited: None,
            };
            crate::shim::serve(Life::begin(parts), server);
        });
        listening.recv().unwrap();
        shim
    }

    fn connect(&self) -> Connection {
        let connection = Connection::open(&self.dir).unwrap();
        connection.set_patience(Some(patience())).unwrap();
        connection
    }

    fn ask(&self, request: &Request) -> Answer {
        self.connect().request(request).unwrap()
    }

    fn exit(&self) -> Exit {
        match self.ask(&Request::Wait) {
            Answer::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    fn start(&self) -> Started {
        match self.ask(&Request::Start) {
            Answer::Running(started) => started,
            other => panic!("{other:?}"),
        }
    }

    fn dismiss(&self, shim: JoinHandle<()>) {
        assert_eq!(self.ask(&Request::Dismiss), Answer::Done);
        shim.join().unwrap();
    }

    fn containers(&self) -> usize {
        fs::read_dir(&self.fake.root).map_or(0, Iterator::count)
    }

    /// A FIFO as the program's stdout, and its reader.
    fn stdout(&mut self) -> fs::File {
        let path = self.root.path().join("stdout");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        self.intent.task.stdio.stdout = Stream::Fifo(path.clone());
        let mut both = fs::OpenOptions::new();
        both.read(true).write(true).open(path).unwrap()
    }
}

fn intent() -> Intent {
    let task = serde_json::json!({
        "id": "alloc/task/1", "name": "task", "origin": "nomad", "alloc_id": "", "user": "",
        "program": { "java": {
            "jar": null, "class": null, "class_path": null, "jvm_options": [], "args": [],
            "select": { "version": null, "vendor": null, "home": null },
            "heap": "jvm", "exit_on_oom": false, "heap_dump": false } },
        "env": {}, "dirs": { "alloc": null, "local": null, "secrets": null }, "work_dir": null,
        "limits": { "memory": null, "memory_reservation": null, "heap_basis": null, "swap": 0,
            "cpu_shares": null, "cpu_quota": null, "cpuset": null, "pids": null, "ulimits": {},
            "shm_size": null, "oom_score_adj": 0 },
        "cgroup": { "path": "", "join": [], "disabled": true },
        "mounts": [], "tmpfs": [], "devices": [], "network": "host", "dns": null,
        "extra_hosts": [],
        "security": { "capabilities": [], "seccomp": "default", "readonly_rootfs": true,
            "no_new_privileges": true, "host_tools": true, "sysctl": {} },
        "init": false, "rootfs": null,
        "stdio": { "stdin": "null", "stdout": "null", "stderr": "null", "on_full": "block" },
        "ephemeral": false
    });
    Intent {
        task: serde_json::from_value(task).unwrap(),
        crun: "/usr/bin/crun".into(),
        boot_id: "this boot".into(),
        created_at: 0,
    }
}

#[test]
fn a_task_is_created_started_and_ends_with_its_code() {
    let place = Place::new("exit 42");
    let shim = place.shim();
    let Answer::Created(created) = place.ask(&Request::State) else {
        panic!("not created");
    };
    assert_eq!(created.started_at, 0);
    let started = place.start();
    assert_eq!(
        (started.pid, started.start_time),
        (created.pid, created.start_time)
    );
    assert!(started.started_at > 0);
    let exit = place.exit();
    assert_eq!(
        (exit.code, exit.signal, exit.error.as_deref()),
        (42, 0, None)
    );
    assert!(exit.oom_killed);
    assert_eq!(place.dir.exit().unwrap(), Some(exit.clone()));
    for request in [
        Request::State,
        Request::Wait,
        Request::Start,
        Request::Attach,
    ] {
        assert_eq!(place.ask(&request), Answer::Exited(exit.clone()));
    }
    eventually(patience(), || (place.containers() == 0).then_some(()));
    place.dismiss(shim);
    assert!(place.dir.intent().unwrap().is_none());
}

#[test]
fn everyone_who_waits_is_told() {
    let mut place = Place::new("read x </dev/fd/1; exit 3");
    let mut stdout = place.stdout();
    let shim = place.shim();
    place.start();
    let mut waiting: Vec<Connection> = (0..5).map(|_| place.connect()).collect();
    for connection in &mut waiting {
        connection.send(&Request::Wait).unwrap();
    }
    io::Write::write_all(&mut stdout, b"go\n").unwrap();
    for connection in &mut waiting {
        let answer = connection.receive().unwrap();
        assert!(
            matches!(answer, Answer::Exited(Exit { code: 3, .. })),
            "{answer:?}"
        );
    }
    place.dismiss(shim);
}

#[test]
fn a_stop_kills_what_ignores_the_signal_and_is_answered_again_afterwards() {
    for timeout_ms in [0, 100] {
        let mut place = Place::new("trap '' TERM; echo deaf; while :; do sleep 1000; done");
        let mut stdout = place.stdout();
        let shim = place.shim();
        place.start();
        stdout.read_exact(&mut [0; 5]).unwrap();
        let stop = Request::Stop {
            signal: libc::SIGTERM,
            timeout_ms,
        };
        let began = Instant::now();
        let stopped = place.ask(&stop);
        assert!(began.elapsed() >= Duration::from_millis(timeout_ms));
        assert!(matches!(
            stopped,
            Answer::Exited(Exit {
                code: 137,
                signal: 9,
                ..
            })
        ));
        assert_eq!(place.ask(&stop), stopped);
        place.dismiss(shim);
    }
}

#[test]
fn a_program_that_obeys_the_signal_keeps_its_own_code() {
    let mut place = Place::new("trap 'exit 143' TERM; echo ready; while :; do sleep 0.01; done");
    let mut stdout = place.stdout();
    let shim = place.shim();
    place.start();
    stdout.read_exact(&mut [0; 6]).unwrap();
    let stop = Request::Stop {
        signal: libc::SIGTERM,
        timeout_ms: 60_000,
    };
    let stopped = place.ask(&stop);
    assert!(matches!(
        stopped,
        Answer::Exited(Exit {
            code: 143,
            signal: 0,
            ..
        })
    ));
    place.dismiss(shim);
}

#[test]
fn a_second_stop_can_only_bring_the_kill_forward() {
    let mut place = Place::new("trap '' TERM; echo deaf; while :; do sleep 1000; done");
    let mut stdout = place.stdout();
    let shim = place.shim();
    place.start();
    stdout.read_exact(&mut [0; 5]).unwrap();
    let mut slow = place.connect();
    slow.send(&Request::Stop {
        signal: 15,
        timeout_ms: 600_000,
    })
    .unwrap();
    let answer = place.ask(&Request::Stop {
        signal: 15,
        timeout_ms: 10,
    });
    assert_eq!(slow.receive().unwrap(), answer);
    place.dismiss(shim);
}

#[test]
fn a_created_task_is_stopped_at_once() {
    let place = Place::new("exit 0");
    let shim = place.shim();
    let stop = Request::Stop {
        signal: 15,
        timeout_ms: 600_000,
    };
    assert!(matches!(
        place.ask(&stop),
        Answer::Exited(Exit { signal: 9, .. })
    ));
    place.dismiss(shim);
}

#[test]
fn the_death_of_the_attached_kills_and_that_of_others_does_not() {
    let place = Place::new("exec sleep 1000");
    let shim = place.shim();
    let mut attached = place.connect();
    attached.send(&Request::Attach).unwrap();
    let started = place.start();
    let mut other = place.connect();
    other.send(&Request::Wait).unwrap();
    drop(other);
    assert_eq!(place.ask(&Request::State), Answer::Running(started));
    drop(attached);
    assert_eq!(place.exit().signal, 9);
    place.dismiss(shim);
}

/// A task that is made and started in one step.
fn ephemeral(script: &str) -> Place {
    let mut place = Place::new(script);
    place.intent.task.ephemeral = true;
    place.intent.task.cgroup.disabled = false;
    place
}

#[test]
fn an_ephemeral_task_is_gone_when_its_end_is_told() {
    for is_one_step in [true, false] {
        let mut place = ephemeral("exit 5");
        place.intent.task.cgroup.disabled = !is_one_step;
        let shim = place.shim();
        let mut attached = place.connect();
        attached.send(&Request::Attach).unwrap();
        place.start();
        let answer = attached.receive().unwrap();
        assert!(
            matches!(answer, Answer::Exited(Exit { code: 5, .. })),
            "{answer:?}"
        );
        assert!(!place.dir.path().exists());
        assert_eq!(place.containers(), 0);
        shim.join().unwrap();
    }
}

#[test]
fn an_ephemeral_task_is_on_record_as_soon_as_it_runs() {
    let place = ephemeral("exec sleep 1000");
    let shim = place.shim();
    let mut attached = place.connect();
    attached.send(&Request::Attach).unwrap();
    assert_eq!(place.containers(), 0);
    let started = place.start();
    assert_eq!(place.dir.started().unwrap(), Some(started.clone()));
    assert_eq!(place.start(), started);
    drop(attached);
    shim.join().unwrap();
    assert_eq!(place.containers(), 0);
}

#[test]
fn an_ephemeral_task_that_nobody_starts_is_never_made() {
    for is_dismissed in [true, false] {
        let place = ephemeral("exit 0");
        let shim = place.shim();
        let error = NOT_BEGUN.to_owned();
        assert_eq!(place.ask(&Request::State), Answer::Failed { error });
        let mut attached = place.connect();
        attached.send(&Request::Attach).unwrap();
        if is_dismissed {
            assert_eq!(place.ask(&Request::Dismiss), Answer::Done);
        }
        drop(attached);
        shim.join().unwrap();
        assert!(!place.dir.path().exists());
        assert_eq!(place.containers(), 0);
    }
}

#[test]
fn an_ephemeral_task_that_cannot_be_made_says_why() {
    let mut place = ephemeral("exit 0");
    place.fake.start_fault = Some("not today".into());
    let shim = place.shim();
    let mut attached = place.connect();
    attached.send(&Request::Attach).unwrap();
    let error = "fake start: not today".to_owned();
    assert_eq!(place.ask(&Request::Start), Answer::Failed { error });
    assert_eq!(place.containers(), 0);
    drop(attached);
    place.dismiss(shim);
}

#[test]
fn a_failed_creation_leaves_nothing_and_is_told_in_the_runtimes_words() {
    let mut place = Place::new("exit 0");
    place.fake.create_fault = Some("no such luck".into());
    let shim = place.shim();
    let log = place.dir.log();
    for request in [Request::Start, Request::State, Request::Wait] {
        let Answer::Failed { error } = place.ask(&request) else {
            panic!("not failed");
        };
        assert_eq!(
            error,
            format!("fake create: no such luck\nlog: {}", log.display())
        );
    }
    assert_eq!(place.containers(), 0);
    assert_eq!(place.dir.started().unwrap(), None);
    place.dismiss(shim);
}

#[test]
fn a_missing_fifo_is_named() {
    let mut place = Place::new("exit 0");
    place.intent.task.stdio.stderr = Stream::Fifo("/nowhere/fifo".into());
    let shim = place.shim();
    let Answer::Failed { error } = place.ask(&Request::Start) else {
        panic!("not failed");
    };
    assert!(
        error.starts_with("stderr `/nowhere/fifo`: No such file"),
        "{error}"
    );
    place.dismiss(shim);
}

#[test]
fn a_failed_start_leaves_the_task_created() {
    let mut place = Place::new("exit 0");
    place.fake.start_fault = Some("not today".into());
    let shim = place.shim();
    let error = "fake start: not today".to_owned();
    assert_eq!(place.ask(&Request::Start), Answer::Failed { error });
    assert!(matches!(place.ask(&Request::State), Answer::Created(_)));
    place.dismiss(shim);
    assert_eq!(place.containers(), 0);
}

#[test]
fn a_dismissal_that_fails_can_be_repeated() {
    let mut place = Place::new("exit 0");
    place.fake.delete_fault = Some("busy".into());
    let _shim = place.shim();
    place.start();
    let error = "fake delete: busy".to_owned();
    for _ in 0..2 {
        let error = error.clone();
        assert_eq!(place.ask(&Request::Dismiss), Answer::Failed { error });
    }
}

#[test]
fn signals_reach_the_program_and_none_after_its_end() {
    let mut place = Place::new("trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done");
    let mut stdout = place.stdout();
    let shim = place.shim();
    place.start();
    stdout.read_exact(&mut [0; 6]).unwrap();
    let signal = Request::Signal {
        signal: libc::SIGUSR1,
    };
    assert_eq!(place.ask(&signal), Answer::Done);
    assert_eq!(place.exit().code, 7);
    let error = "signal 10: the task has ended".to_owned();
    assert_eq!(place.ask(&signal), Answer::Failed { error });
    place.dismiss(shim);
}

#[test]
fn much_output_waits_for_its_reader_and_ends_with_the_program() {
    let mut place = Place::new("head -c 300000 /dev/zero; echo end");
    let both = place.stdout();
    drop(both);
    let shim = place.shim();
    place.start();
    let mut all = Vec::new();
    let mut reader = fs::File::open(place.root.path().join("stdout")).unwrap();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 300_004);
    assert_eq!(place.exit().code, 0);
    place.dismiss(shim);
}

#[test]
fn a_program_that_may_lose_output_does_not_wait_for_a_reader() {
    let mut place = Place::new("head -c 300000 /dev/zero");
    let _both = place.stdout();
    place.intent.task.stdio.on_full = OnFull::Drop;
    let shim = place.shim();
    place.start();
    assert_eq!(place.exit().code, 0);
    place.dismiss(shim);
}

/// What a shim leaves that was killed after the creation: records and a container of which nobody knows the parent.
fn orphan(place: &Place) -> Init {
    let task = &place.intent.task;
    let (_, stdio) = Plumbing::open(&place.dir, &task.stdio, &task.dirs, None).unwrap();
    let create = Create {
        id: &place.intent.task.id.container(),
        bundle: &place.dir.bundle(),
        pid_file: &place.dir.path().join("pid"),
        log: &place.dir.log(),
        sources: Vec::new(),
        stdio,
    };
    let init = Init::of(place.fake.create(create).unwrap()).unwrap();
    place.dir.write_started(&init.started(0)).unwrap();
    init
}

#[test]
fn a_container_that_was_only_created_is_adopted_and_started() {
    let place = Place::new("exit 6");
    let orphan = orphan(&place);
    let shim = place.shim();
    assert_eq!(
        place.ask(&Request::State),
        Answer::Created(orphan.started(0))
    );
    place.start();
    assert_eq!(place.exit().code, 6);
    place.dismiss(shim);
}

#[test]
fn a_container_that_runs_is_adopted_even_if_its_start_is_not_on_record() {
    let place = Place::new("exec sleep 1000");
    orphan(&place);
    place.fake.start(&place.intent.task.id.container()).unwrap();
    let shim = place.shim();
    assert!(matches!(place.ask(&Request::State), Answer::Running(_)));
    assert!(place.dir.started().unwrap().unwrap().started_at > 0);
    place.dismiss(shim);
}

#[test]
fn what_ended_under_a_dead_shim_has_no_code_but_an_error() {
    let place = Place::new("exit 0");
    let mut started = orphan(&place).started(1);
    started.start_time += 1;
    place.dir.write_started(&started).unwrap();
    let shim = place.shim();
    let exit = place.exit();
    assert_eq!(exit.code, -1);
    assert!(exit.error.is_some());
    assert_eq!(place.dir.exit().unwrap(), Some(exit));
    place.dismiss(shim);
    assert_eq!(place.containers(), 0);
}

#[test]
fn a_record_of_another_boot_has_no_process() {
    let mut place = Place::new("exec sleep 1000");
    let orphan = orphan(&place);
    place.intent.boot_id = "another boot".into();
    let shim = place.shim();
    assert!(place.exit().error.is_some());
    place.dismiss(shim);
    eventually(patience(), || orphan.ending().unwrap());
}

#[test]
fn a_record_of_the_end_is_served() {
    let place = Place::new("exit 0");
    let exit = Exit {
        code: 9,
        ..Exit::default()
    };
    place.dir.write_exit(&exit).unwrap();
    let shim = place.shim();
    assert_eq!(place.exit(), exit);
    place.dismiss(shim);
}

#[test]
fn nonsense_is_answered_and_the_shim_lives() {
    let place = Place::new("exit 0");
    let shim = place.shim();
    let mut raw = std::os::unix::net::UnixStream::connect(place.dir.socket()).unwrap();
    io::Write::write_all(&mut raw, b"{\"do\":\"dance\"}\n").unwrap();
    let mut line = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(raw), &mut line).unwrap();
    assert!(line.contains("this is no request"), "{line}");
    assert!(matches!(place.ask(&Request::State), Answer::Created(_)));
    place.dismiss(shim);
}
