//! Shims as real processes over real crun: what survives whose death, what is left, and what everyone is told.
//!
//! The container is the host's `/usr` behind a bundle written by hand: no Java, and nothing of the bundle builder.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use milo_driver::{
    exec::{self, ExecRequest, Size},
    launch::{LaunchError, Launcher, Recovered, Spare},
    shim::{
        self,
        client::{self, Connection},
        init::Init,
        protocol::{Answer, Request},
    },
    state::{LAYOUT, Started, StateRoot, TaskDir},
    task::{CgroupPlace, Exit, OnFull, Origin, Program, Stream, Task, TaskId},
};
use runyard_common::testing::{TempDir, eventually, patience, tempdir, tool_binary};
use rustix::{
    fs::{CWD, Mode, mkfifoat},
    process::{Pid, Signal, kill_process},
};

/// A launcher with a state of its own, and one task.
pub(crate) struct Place {
    root: TempDir,
    pub(crate) launcher: Launcher,
    pub(crate) task: Task,
    script: String,
    /// `linux.resources` of the bundle.
    resources: serde_json::Value,
}

/// The place, or nothing where containers cannot be made.
pub(crate) fn place(script: &str) -> Option<Place> {
    let crun = PathBuf::from("/usr/bin/crun");
    if !crun.is_file() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root and crun in /usr/bin");
        return None;
    }
    let root = tempdir();
    let launcher = Launcher {
        state: StateRoot::new(root.path().join("state")),
        crun,
        shim: tool_binary("milo-driver"),
        spare: Spare::default(),
    };
    let id = TaskId(root.path().display().to_string());
    Some(Place {
        task: task(&id),
        launcher,
        script: script.to_owned(),
        resources: serde_json::json!({}),
        root,
    })
}

fn task(id: &TaskId) -> Task {
    let greeting = Program::Greeting {
        shell: "sh".into(),
        text: String::new(),
    };
    Task {
        cgroup: CgroupPlace {
            path: format!("/milo-test/{}", id.key()),
            ..CgroupPlace::default()
        },
        origin: Origin::Nomad,
        ..Task::new(&id.0, greeting)
    }
}

impl Place {
    pub(crate) fn dir(&self) -> TaskDir {
        self.launcher.state.task(&self.task.id)
    }

    /// Writes the bundle.
    fn bundle(&self, bundle: &Path) -> io::Result<()> {
        let rootfs = bundle.join("rootfs");
        for name in ["usr", "proc", "dev", "tmp"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o777))?;
        for name in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), rootfs.join(name))?;
        }
        let namespaces =
            ["pid", "mount", "ipc", "uts"].map(|kind| serde_json::json!({ "type": kind }));
        let config = serde_json::json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": { "uid": 65534, "gid": 65534 },
                "args": ["/usr/bin/sh", "-c", self.script],
                "env": ["PATH=/usr/bin", "FROM=bundle"],
                "cwd": "/",
            },
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] },
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["newinstance", "ptmxmode=0666", "mode=0620"] },
            ],
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": self.task.cgroup.path,
                "resources": self.resources,
            },
        });
        fs::write(bundle.join("config.json"), config.to_string())
    }

    pub(crate) fn launch(&self) -> Result<Recovered, LaunchError> {
        self.launcher
            .launch(&self.task, |bundle| self.bundle(bundle))
    }

    pub(crate) fn run(&self) -> Started {
        running(self.launch().unwrap())
    }

    pub(crate) fn connect(&self) -> Connection {
        let connection = Connection::open(&self.dir()).unwrap();
        connection.set_patience(Some(patience())).unwrap();
        connection
    }

    pub(crate) fn ask(&self, request: &Request) -> Answer {
        self.connect().request(request).unwrap()
    }

    pub(crate) fn exit(&self) -> Exit {
        exited(self.ask(&Request::Wait))
    }

    fn stop(&self, timeout_ms: u64) -> Exit {
        exited(self.ask(&Request::Stop {
            signal: libc::SIGTERM,
            timeout_ms,
        }))
    }

    pub(crate) fn recover(&self) -> Recovered {
        self.launcher.recover(&self.dir()).unwrap()
    }

    pub(crate) fn kill_shim(&self) {
        kill(&self.shim());
    }

    pub(crate) fn shim(&self) -> Init {
        shim::process(&self.dir()).unwrap().expect("a shim")
    }

    /// What a program waits for that looks for `/tmp/go`.
    pub(crate) fn go(&self) {
        fs::write(self.dir().bundle().join("rootfs/tmp/go"), "").unwrap();
    }

    /// A FIFO as the program's stdout.
    fn fifo(&mut self) -> PathBuf {
        let path = self.root.path().join("stdout");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        self.task.stdio.stdout = Stream::Fifo(path.clone());
        path
    }

    /// Dismisses, and checks that nothing is left anywhere.
    pub(crate) fn dismiss(&self) {
        self.launcher.dismiss(&self.dir()).unwrap();
        self.launcher.dismiss(&self.dir()).unwrap();
        assert!(!self.dir().path().exists());
        self.assert_no_container();
    }

    pub(crate) fn assert_no_container(&self) {
        let containers = fs::read_dir(self.launcher.state.crun_root());
        assert_eq!(containers.map_or(0, Iterator::count), 0);
        let left: Vec<PathBuf> = self.cgroups().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The task's cgroups in every hierarchy.
    fn cgroups(&self) -> impl Iterator<Item = PathBuf> {
        let path = self.task.cgroup.path.trim_start_matches('/').to_owned();
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let all = hierarchies.chain([root.to_owned()]);
        all.map(move |hierarchy| hierarchy.join(&path))
            .filter(|path| path.exists())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After a test that has failed; one that has not has seen to it.
        let _ = self.launcher.dismiss(&self.dir());
    }
}

pub(crate) fn running(recovered: Recovered) -> Started {
    match recovered {
        Recovered::Running(started) => started,
        Recovered::Exited(exit) => panic!("it has ended: {exit:?}"),
    }
}

pub(crate) fn exited(answer: Answer) -> Exit {
    match answer {
        Answer::Exited(exit) => exit,
        other => panic!("it has not ended: {other:?}"),
    }
}

pub(crate) fn kill(process: &Init) {
    process.signal(libc::SIGKILL).unwrap();
    eventually(patience(), || (!process.is_alive()).then_some(()));
}

pub(crate) fn init(started: &Started) -> Init {
    Init::find(started).unwrap().expect("the first process")
}

/// Opens a FIFO as a log collector does, and reads one line.
fn line(path: &Path) -> String {
    let mut line = String::new();
    BufReader::new(File::open(path).unwrap())
        .read_line(&mut line)
        .unwrap();
    line
}

#[test]
fn exit_codes_and_signals_are_the_programs_own() {
    for (script, code, signal) in [
        ("exit 0", 0, 0),
        ("exit 1", 1, 0),
        ("exit 42", 42, 0),
        ("exit 255", 255, 0),
        ("trap 'exit 143' TERM; kill -TERM $$; exit 1", 143, 0),
    ] {
        let Some(place) = place(script) else { return };
        place.launch().unwrap();
        let exit = place.exit();
        assert_eq!((exit.code, exit.signal), (code, signal), "{script}");
        assert!(!exit.oom_killed && exit.error.is_none());
        // Asked again after the end, the launcher does not run it a second time.
        assert_eq!(place.launch().unwrap(), Recovered::Exited(exit));
        place.dismiss();
    }
}

#[test]
fn a_killed_container_is_told_with_its_signal() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let started = place.run();
    init(&started).signal(libc::SIGKILL).unwrap();
    let exit = place.exit();
    assert_eq!((exit.code, exit.signal), (137, 9));
    place.dismiss();
}

#[test]
fn a_task_survives_its_shim_and_is_found_again() {
    let Some(mut place) = place("echo begun; while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 42")
    else {
        return;
    };
    let stdout = place.fifo();
    let started = place.run();
    assert_eq!(line(&stdout), "begun\n");
    place.kill_shim();
    assert!(init(&started).is_alive());
    assert_eq!(running(place.recover()), started);
    // A second recovery finds the same shim.
    assert_eq!(running(place.recover()), started);
    place.go();
    let exit = place.exit();
    // Kernels before 6.15 forget how somebody else's child ended.
    assert!(exit.code == 42 || exit.error.is_some(), "{exit:?}");
    place.dismiss();
}

#[test]
fn what_ended_without_a_shim_is_told_as_such() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let started = place.run();
    place.kill_shim();
    kill(&init(&started));
    // Somebody has to collect it: until then it is there, and says how it ended.
    let Recovered::Exited(exit) = recovered_end(&place) else {
        panic!("it runs");
    };
    assert!(exit.code == 137 || exit.error.is_some(), "{exit:?}");
    assert_eq!(place.recover(), Recovered::Exited(exit));
    place.dismiss();
}

fn recovered_end(place: &Place) -> Recovered {
    eventually(patience(), || {
        Some(place.recover()).filter(|found| matches!(found, Recovered::Exited(_)))
    })
}

#[test]
fn an_exit_that_nobody_saw_is_told_by_its_record() {
    let Some(place) = place("exit 7") else { return };
    place.launch().unwrap();
    assert_eq!(place.exit().code, 7);
    place.kill_shim();
    let Recovered::Exited(exit) = place.recover() else {
        panic!("it runs");
    };
    assert_eq!(exit.code, 7);
    place.dismiss();
}

#[test]
fn a_shim_killed_before_the_start_is_replaced_by_a_new_launch() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let prepared = place
        .launcher
        .prepare(&place.task, |bundle| place.bundle(bundle));
    place.launcher.spawn_shim(&prepared.unwrap(), None).unwrap();
    let Answer::Created(created) = place.ask(&Request::State) else {
        panic!("not created");
    };
    place.kill_shim();
    let error = place.launcher.recover(&place.dir()).unwrap_err();
    assert!(matches!(error, LaunchError::NeverStarted(_)), "{error}");
    place.kill_shim();
    let old = init(&created);
    let started = place.run();
    assert_ne!(started.pid, created.pid);
    eventually(patience(), || (!old.is_alive()).then_some(()));
    place.dismiss();
}

#[test]
fn a_shim_killed_while_it_creates_leaves_nothing_that_a_new_launch_stumbles_over() {
    for delay in [0, 2, 5, 10, 15, 20, 30] {
        let Some(place) = place("exec sleep 1000") else {
            return;
        };
        let prepared = place
            .launcher
            .prepare(&place.task, |bundle| place.bundle(bundle));
        let dir = prepared.unwrap();
        place.launcher.spawn_shim(&dir, None).unwrap();
        let shim = place.shim();
        // A moment somewhere in the creation: the point is that it does not matter where.
        thread::sleep(Duration::from_millis(delay));
        kill(&shim);
        place.run();
        assert_eq!(processes_of(&place), 1);
        place.dismiss();
    }
}

/// How many processes the task's cgroup holds.
fn processes_of(place: &Place) -> usize {
    let counts = place.cgroups().map(|cgroup| {
        let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        procs.lines().count()
    });
    counts.max().unwrap_or(0)
}

#[test]
fn launches_of_the_same_task_at_the_same_time_are_one() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let started: Vec<Started> = thread::scope(|scope| {
        let launches: Vec<_> = (0..4).map(|_| scope.spawn(|| place.run())).collect();
        launches
            .into_iter()
            .map(|launch| launch.join().unwrap())
            .collect()
    });
    assert!(started.iter().all(|one| *one == started[0]), "{started:?}");
    assert_eq!(processes_of(&place), 1);
    place.dismiss();
}

#[test]
fn a_container_that_cannot_be_made_is_told_in_cruns_words_and_leaves_nothing() {
    let Some(place) = place("exit 0") else { return };
    let broken = |bundle: &Path| {
        place.bundle(bundle)?;
        let config = fs::read_to_string(bundle.join("config.json"))?;
        fs::write(
            bundle.join("config.json"),
            config.replace("/usr/bin/sh", "/no/such/program"),
        )
    };
    let error = place
        .launcher
        .launch(&place.task, broken)
        .unwrap_err()
        .to_string();
    let (first, rest) = error.split_once('\n').unwrap();
    assert!(
        first.starts_with("crun create: ") && first.contains("/no/such/program"),
        "{first}"
    );
    assert_eq!(rest, format!("log: {}", place.dir().log().display()));
    assert!(Connection::open(&place.dir()).unwrap_err().is_dead());
    place.assert_no_container();
    // The next one with the same name begins anew.
    place.launch().unwrap();
    assert_eq!(place.exit().code, 0);
    place.dismiss();
}

#[test]
fn a_dead_shims_task_can_be_dismissed() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let started = place.run();
    place.kill_shim();
    let init = init(&started);
    place.dismiss();
    assert!(!init.is_alive());
}

#[test]
fn a_shim_that_neither_answers_nor_can_be_reached_is_killed_with_its_task() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let started = place.run();
    let (shim, init) = (place.shim(), init(&started));
    shim.signal(libc::SIGSTOP).unwrap();
    fs::remove_file(place.dir().socket()).unwrap();
    place.dismiss();
    assert!(!shim.is_alive() && !init.is_alive());
}

/// Nomad gives each attempt of a task the same cgroup.
#[test]
fn the_record_of_an_attempt_that_failed_is_no_danger_to_the_next_one() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let failed = Task {
        id: TaskId(format!("{}/failed", place.task.id)),
        ..place.task.clone()
    };
    let record = place.launcher.prepare(&failed, |_| Ok(())).unwrap();
    let started = place.run();
    place.launcher.dismiss(&record).unwrap();
    assert!(!record.path().exists());
    assert!(init(&started).is_alive());
    assert_eq!(place.stop(0).signal, libc::SIGKILL);
    place.dismiss();
}

#[test]
fn what_ignores_sigterm_is_killed_in_time() {
    for timeout_ms in [0, 200] {
        let Some(mut place) = place("trap '' TERM; echo deaf; while :; do sleep 1000; done") else {
            return;
        };
        let stdout = place.fifo();
        place.run();
        assert_eq!(line(&stdout), "deaf\n");
        let began = Instant::now();
        let exit = place.stop(timeout_ms);
        assert!(began.elapsed() >= Duration::from_millis(timeout_ms));
        assert_eq!((exit.code, exit.signal), (137, 9));
        assert_eq!(place.stop(timeout_ms), exit);
        place.dismiss();
    }
}

#[test]
fn a_fork_bomb_is_held_by_its_limit_and_ended_by_a_stop() {
    let Some(mut place) =
        place("echo boom; b() { while :; do sleep 1000 & done; }; b & b & exec sleep 1000")
    else {
        return;
    };
    place.resources = serde_json::json!({ "pids": { "limit": 64 } });
    let stdout = place.fifo();
    place.run();
    assert_eq!(line(&stdout), "boom\n");
    eventually(patience(), || (processes_of(&place) > 32).then_some(()));
    assert!(processes_of(&place) <= 64);
    assert_eq!(place.stop(0).signal, 9);
    place.dismiss();
}

#[test]
fn death_for_lack_of_memory_is_told_as_such() {
    let Some(mut place) = place("exec tail /dev/zero") else {
        return;
    };
    place.resources = serde_json::json!({ "memory": { "limit": 33_554_432, "swap": 33_554_432 } });
    place.launch().unwrap();
    let exit = place.exit();
    place.dismiss();
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.signal, 9);
}

#[test]
fn output_waits_for_a_reader_that_comes_late_or_comes_back() {
    let Some(mut place) = place("head -c 300000 /usr/bin/crun; sleep 1000 & wait") else {
        return;
    };
    let stdout = place.fifo();
    place.run();
    let expected = fs::read("/usr/bin/crun").unwrap();
    let mut arrived = vec![0; 300_000];
    let (first, second) = arrived.split_at_mut(100_000);
    File::open(&stdout).unwrap().read_exact(first).unwrap();
    let mut reader = File::open(&stdout).unwrap();
    reader.read_exact(second).unwrap();
    assert!(arrived == expected[..300_000]);
    place.stop(0);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    place.dismiss();
}

#[test]
fn output_is_not_lost_when_the_shim_dies_while_it_copies() {
    let Some(mut place) = place(
        "echo one; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo two; >/tmp/done; exec sleep 1000",
    ) else {
        return;
    };
    let log = place.root.path().join("log");
    place.task.stdio.stdout = Stream::File {
        path: log.clone(),
        max_bytes: 1_000_000,
    };
    place.run();
    let has = |text: &str| (fs::read_to_string(&log).unwrap_or_default() == text).then_some(());
    eventually(patience(), || has("one\n"));
    place.kill_shim();
    place.go();
    let done = place.dir().bundle().join("rootfs/tmp/done");
    eventually(patience(), || done.exists().then_some(()));
    running(place.recover());
    eventually(patience(), || has("one\ntwo\n"));
    place.dismiss();
}

#[test]
fn a_program_that_may_lose_output_is_not_held_up() {
    let Some(mut place) = place("head -c 1000000 /usr/bin/crun /usr/bin/crun /usr/bin/crun") else {
        return;
    };
    place.fifo();
    place.task.stdio.on_full = OnFull::Drop;
    place.run();
    assert_eq!(place.exit().code, 0);
    let log = fs::read_to_string(place.dir().log()).unwrap();
    assert!(
        log.contains("stdout: ") && log.contains(" bytes were dropped"),
        "{log}"
    );
    place.dismiss();
}

#[test]
fn the_attached_have_their_own_streams_and_leave_nothing() {
    for is_ahead in [false, true] {
        let Some(mut place) = place("read line; echo got $line; exit 9") else {
            return;
        };
        place.task.ephemeral = true;
        for stream in [
            &mut place.task.stdio.stdin,
            &mut place.task.stdio.stdout,
            &mut place.task.stdio.stderr,
        ] {
            *stream = Stream::Inherited;
        }
        let (stdin, mut input) = io::pipe().unwrap();
        let (mut output, stdout) = io::pipe().unwrap();
        let stderr = stdout.try_clone().unwrap();
        let streams = [OwnedFd::from(stdin), stdout.into(), stderr.into()];
        if is_ahead {
            let copies = streams.each_ref().map(|stream| stream.try_clone().unwrap());
            place.launcher.spare = Spare::begin(&place.launcher.shim, copies).unwrap();
            // With this one there would be no shim at all.
            place.launcher.shim = "/bin/false".into();
        }
        let bundle = |bundle: &Path| place.bundle(bundle);
        let (_, mut attached) = place
            .launcher
            .launch_attached(&place.task, streams, bundle)
            .unwrap();
        input.write_all(b"hello\n").unwrap();
        let mut text = String::new();
        // The end comes although the shim still lives: it keeps no copy.
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "got hello\n");
        assert_eq!(exited(attached.receive().unwrap()).code, 9);
        assert!(!place.dir().path().exists());
        place.assert_no_container();
        let gone = place.launcher.state.path().join("gone");
        eventually(patience(), || {
            (fs::read_dir(&gone).unwrap().count() == 0).then_some(())
        });
    }
}

#[test]
fn a_shim_at_rest_keeps_none_of_the_hosts_mounts() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    place.run();
    let shim = place.shim();
    let pid = shim.started(0).pid;
    let here = fs::read_link("/proc/self/ns/mnt").unwrap();
    eventually(patience(), || {
        (fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap() == here).then_some(())
    });
    place.dismiss();
}

#[test]
fn a_task_does_not_outlive_the_one_who_is_attached() {
    let Some(mut place) = place("exec sleep 1000") else {
        return;
    };
    place.task.ephemeral = true;
    let streams = [(); 3].map(|()| OwnedFd::from(File::open("/dev/null").unwrap()));
    let bundle = |bundle: &Path| place.bundle(bundle);
    let (begun, attached) = place
        .launcher
        .launch_attached(&place.task, streams, bundle)
        .unwrap();
    let init = init(&running(begun));
    drop(attached);
    eventually(patience(), || (!init.is_alive()).then_some(()));
    eventually(patience(), || (!place.dir().path().exists()).then_some(()));
    place.assert_no_container();
}

#[test]
fn a_shim_holds_nothing_of_its_starter_and_is_not_in_the_tasks_cgroup() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    // What a careless library leaves open for every child.
    let (careless, _end) = io::pipe().unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    place.run();
    let shim = place.shim().started(0).pid;
    let proc = PathBuf::from(format!("/proc/{shim}"));
    let targets: Vec<String> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .map(|entry| {
            fs::read_link(entry.unwrap().path())
                .unwrap_or_default()
                .display()
                .to_string()
        })
        .collect();
    assert!(
        !targets.iter().any(|target| target.starts_with("pipe:")),
        "{targets:?}"
    );
    assert_eq!(fs::read(proc.join("environ")).unwrap(), b"");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    let cgroup = fs::read_to_string(proc.join("cgroup")).unwrap();
    assert!(!cgroup.contains(&place.task.cgroup.path), "{cgroup}");
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let session = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(3)
        .unwrap()
        .to_owned();
    assert_eq!(session, shim.to_string());
    place.dismiss();
}

#[test]
fn a_second_shim_on_the_same_task_steps_back() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let started = place.run();
    let shim = place.shim();
    place.launcher.spawn_shim(&place.dir(), None).unwrap();
    assert_eq!(place.ask(&Request::State), Answer::Running(started));
    assert!(shim.is_alive());
    place.dismiss();
    eventually(patience(), || (!shim.is_alive()).then_some(()));
}

#[tokio::test]
async fn a_caller_that_must_not_block_is_answered_too() {
    let Some(place) = place("exit 3") else { return };
    assert!(
        client::ask(&place.dir(), &Request::State)
            .await
            .unwrap_err()
            .is_dead()
    );
    place.run();
    let answer = client::ask(&place.dir(), &Request::Wait).await.unwrap();
    assert_eq!(exited(answer).code, 3);
    place.dismiss();
}

#[test]
fn nobody_who_asks_a_stopped_task_is_left_without_answer() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    place.run();
    let mut waiting: Vec<Connection> = (0..20).map(|_| place.connect()).collect();
    for connection in &mut waiting {
        connection.send(&Request::Wait).unwrap();
    }
    let began = Instant::now();
    let exit = place.stop(0);
    for connection in &mut waiting {
        assert_eq!(exited(connection.receive().unwrap()), exit);
    }
    assert!(began.elapsed() < patience());
    place.dismiss();
}

// === exec ===

fn shell(script: &str) -> Vec<String> {
    ["/usr/bin/sh", "-c", script].map(str::to_owned).into()
}

fn terminal(script: &str) -> ExecRequest {
    ExecRequest {
        command: shell(script),
        tty: true,
        ..ExecRequest::default()
    }
}

/// Reads a terminal's output to its end, which is an error.
fn everything(stream: OwnedFd) -> String {
    let mut text = Vec::new();
    let _ = File::from(stream).read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn a_command_runs_as_the_containers_own_program_does() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    place.run();
    let script = "echo hello stdout $FROM $(id -u); echo hello stderr >&2; readlink /proc/1/exe | head -c 5 >/dev/null; exit 43";
    let output = exec::output(&place.dir(), shell(script), None, 4096).unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "hello stdout bundle 65534\n"
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "hello stderr\n");
    assert_eq!(output.code, Some(43));
    let limit = Some(Duration::from_millis(300));
    let late = exec::output(
        &place.dir(),
        shell("echo begun; exec sleep 1000"),
        limit,
        4096,
    )
    .unwrap();
    assert_eq!(
        (late.code, late.stdout.as_slice()),
        (None, b"begun\n".as_slice())
    );
    eventually(patience(), || (processes_of(&place) == 1).then_some(()));
    place.dismiss();
}

#[test]
fn a_commands_input_is_passed_on() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    place.run();
    let request = ExecRequest {
        command: shell("echo hello from command; head -n1"),
        ..ExecRequest::default()
    };
    let mut session = exec::spawn(&place.dir(), &request).unwrap();
    let mut stdin = File::from(session.streams.stdin.take().unwrap());
    stdin.write_all(b"hello from stdin\n").unwrap();
    let output = everything(session.streams.stdout.take().unwrap());
    assert_eq!(output, "hello from command\nhello from stdin\n");
    assert_eq!(session.process.wait().unwrap(), 0);
    place.dismiss();
}

#[test]
fn a_terminal_has_a_size_echoes_and_ends_with_its_process() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    place.run();
    let mut session = exec::spawn(&place.dir(), &terminal("head -n1; stty size; exit 5")).unwrap();
    let size = Size {
        rows: 100,
        columns: 90,
    };
    session.terminal.as_ref().unwrap().resize(size).unwrap();
    let mut stdin = File::from(session.streams.stdin.take().unwrap());
    stdin.write_all(b"hello\n").unwrap();
    let output = everything(session.streams.stdout.take().unwrap());
    assert_eq!(output, "hello\r\nhello\r\n100 90\r\n");
    assert_eq!(session.process.wait().unwrap(), 5);
    let mut session = exec::spawn(&place.dir(), &terminal("sleep 1000 & echo main")).unwrap();
    assert_eq!(session.process.wait().unwrap(), 0);
    assert!(
        session
            .terminal
            .take()
            .unwrap()
            .as_fd()
            .try_clone_to_owned()
            .is_ok()
    );
    place.dismiss();
}

#[test]
fn a_dropped_command_is_killed_in_the_container() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    place.run();
    for request in [
        terminal("sleep 999"),
        ExecRequest {
            command: shell("exec sleep 999"),
            ..ExecRequest::default()
        },
    ] {
        let session = exec::spawn(&place.dir(), &request).unwrap();
        drop(session);
        eventually(patience(), || (processes_of(&place) == 1).then_some(()));
    }
    assert_eq!(
        fs::read_dir(place.dir().path().join("exec"))
            .unwrap()
            .count(),
        0
    );
    place.dismiss();
}

#[test]
fn a_command_that_does_not_exist_is_told_in_cruns_words() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    place.run();
    let request = ExecRequest {
        command: vec!["nonesuch".into()],
        tty: true,
        ..ExecRequest::default()
    };
    let mut session = exec::spawn(&place.dir(), &request).unwrap();
    drop(session.terminal.take());
    drop(session.streams.stdin.take());
    assert_ne!(session.process.wait().unwrap(), 0);
    let error = everything(session.streams.stdout.take().unwrap());
    assert!(error.contains("nonesuch"), "{error}");
    // After the end there is nothing to run it in, and so no terminal.
    place.stop(0);
    let error = exec::spawn(&place.dir(), &request).unwrap_err().to_string();
    assert!(error.starts_with("crun exec: "), "{error}");
    place.dismiss();
}

#[test]
fn a_terminal_is_had_however_long_the_path_of_the_records_is() {
    let Some(mut place) = place("exec sleep 1000") else {
        return;
    };
    place.launcher.state = StateRoot::new(place.root.path().join("a".repeat(150)));
    place.run();
    let mut session = exec::spawn(&place.dir(), &terminal("test -t 0; exit $((5 + $?))")).unwrap();
    assert_eq!(session.process.wait().unwrap(), 5);
    place.dismiss();
}

/// Asks for a command in a place's container, with `milo-driver exec`.
fn caller(place: &Place, options: &[&str]) -> Child {
    Command::new(tool_binary("milo-driver"))
        .env("MILO_STATE_DIR", place.launcher.state.path())
        .arg("exec")
        .arg(&place.task.id.0)
        .args(options)
        .args(["--", "sh", "-c", "sleep 999; true"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What commands in a place's container have left of their papers.
fn desks(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.dir().path().join("exec")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_command_and_what_it_has_started_die_with_the_one_who_asked_for_them() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    place.run();
    for (options, count) in [(&["-i"][..], 3), (&["-t"], 3)] {
        let mut caller = caller(&place, options);
        eventually(patience(), || (processes_of(&place) == count).then_some(()));
        caller.kill().unwrap();
        caller.wait().unwrap();
        eventually(patience(), || (processes_of(&place) == 1).then_some(()));
        // Not even its papers are left.
        eventually(patience(), || desks(&place).is_empty().then_some(()));
    }
    place.dismiss();
}

#[test]
fn the_papers_of_a_command_go_even_when_it_ends_just_before_the_one_who_asked_for_it() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    place.run();
    let mut caller = caller(&place, &["-i"]);
    eventually(patience(), || (processes_of(&place) == 3).then_some(()));
    let pid = eventually(patience(), || {
        let desk = desks(&place).pop()?;
        fs::read_to_string(desk.join("pid")).ok()?.parse().ok()
    });
    let asked = Pid::from_child(&caller);
    kill_process(asked, Signal::STOP).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    eventually(patience(), || desks(&place).is_empty().then_some(()));
    caller.kill().unwrap();
    caller.wait().unwrap();
    place.dismiss();
}

// === Standing by ===

/// The shims of a program that have no task, or had none when they were started.
fn standing_by(program: &Path) -> Vec<i32> {
    let shims = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let (exe, words) = (entry.path().join("exe"), entry.path().join("cmdline"));
        fs::read_link(exe).is_ok_and(|exe| exe == program)
            && fs::read(words).is_ok_and(|words| words == b"milo-driver\0shim\0")
    });
    shims
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[test]
fn a_shim_that_stands_by_takes_one_task_and_ends_without_one() {
    let Some(mut place) = place("exec sleep 1000") else {
        return;
    };
    // A name of its own, by which its processes are known.
    let program = place.root.path().join("milo-driver");
    let ours = tool_binary("milo-driver");
    fs::hard_link(&ours, &program)
        .or_else(|_| fs::copy(&ours, &program).map(drop))
        .unwrap();
    place.launcher.shim = program.clone();
    let spare = place.launcher.spare.clone();
    for _ in 0..2 {
        spare.keep(&program).unwrap();
        assert_eq!(standing_by(&program).len(), 1);
    }
    place.run();
    let shim = shim::process(&place.dir()).unwrap().unwrap();
    assert_eq!(standing_by(&program), [shim.started(0).pid]);
    place.dismiss();

    // It may have been killed while nobody needed it.
    spare.keep(&program).unwrap();
    let idle = Pid::from_raw(standing_by(&program)[0]).unwrap();
    kill_process(idle, Signal::KILL).unwrap();
    place.run();
    place.dismiss();

    spare.keep(&program).unwrap();
    assert_eq!(standing_by(&program).len(), 1);
    place.launcher.spare = Spare::default();
    drop(spare);
    eventually(patience(), || {
        standing_by(&program).is_empty().then_some(())
    });
}

// === Other versions ===

impl Place {
    /// The records are as another version writes them: of them only the header means anything here.
    fn of_layout(&self, layout: u32) {
        let path = self.dir().path().join("task.json");
        let text = fs::read(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        record["layout"] = layout.into();
        record["task"] = "of another kind".into();
        fs::write(path, record.to_string()).unwrap();
    }

    /// Every file of the task with what is in it and when that was written.
    fn files(&self) -> Vec<(PathBuf, SystemTime, u64)> {
        let entries = fs::read_dir(self.dir().path()).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                (entry.path(), metadata.modified().unwrap(), metadata.len())
            })
            .collect();
        files.sort();
        files
    }
}

#[test]
fn the_task_of_an_older_version_is_found_entered_watched_and_stopped() {
    let Some(place) = place("trap 'exit 42' TERM; echo; while :; do sleep 0.01; done") else {
        return;
    };
    let started = place.run();
    place.of_layout(LAYOUT - 1);
    assert_eq!(running(place.recover()), started);
    assert_eq!(running(place.launch().unwrap()), started);
    let output = exec::output(&place.dir(), shell("echo inside"), None, 4096).unwrap();
    assert_eq!(output.stdout, b"inside\n");
    assert_eq!(place.stop(30_000).code, 42);
    assert!(matches!(place.recover(), Recovered::Exited(exit) if exit.code == 42));
    place.dismiss();
}

#[test]
fn the_task_of_an_older_version_can_be_removed_when_its_shim_is_dead() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let started = place.run();
    place.kill_shim();
    place.of_layout(LAYOUT - 1);
    let error = place.launcher.recover(&place.dir()).unwrap_err();
    assert!(error.to_string().contains("older milo-driver"), "{error}");
    let init = init(&started);
    place.dismiss();
    assert!(!init.is_alive());
}

#[test]
fn the_task_of_a_newer_version_is_left_alone() {
    let Some(place) = place("exec sleep 1000") else {
        return;
    };
    let started = place.run();
    place.of_layout(LAYOUT + 1);
    let before = place.files();
    let errors = [
        place.launcher.recover(&place.dir()).unwrap_err(),
        place.launch().unwrap_err(),
        place.launcher.dismiss(&place.dir()).unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("newer milo-driver"), "{error}");
    }
    assert!(exec::output(&place.dir(), shell("true"), None, 0).is_err());
    assert!(init(&started).is_alive() && place.shim().is_alive());
    assert_eq!(place.files(), before);
    place.of_layout(LAYOUT - 1);
    place.dismiss();
}

/// A folder of the cpuset's hierarchy of version 1 like the ones that Nomad makes for tasks with `cores`.
struct Cpuset(PathBuf);

impl Cpuset {
    fn new(name: &str) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup/cpuset");
        if !root.join("cpuset.cpus").is_file() {
            eprintln!("skipped: needs cgroups of version 1");
            return None;
        }
        let folder = root.join(name);
        fs::create_dir_all(&folder).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(folder.join(file), fs::read(root.join(file)).unwrap()).unwrap();
        }
        Some(Self(folder))
    }

    fn processes(&self) -> usize {
        let procs = fs::read_to_string(self.0.join("cgroup.procs")).unwrap();
        procs.lines().count()
    }
}

impl Drop for Cpuset {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_command_is_in_the_cpuset_that_the_agent_made_for_the_task_from_its_first_moment() {
    let Some(mut place) = place("exec sleep 1000") else {
        return;
    };
    let name = format!("milo-test-{}", place.task.id.key());
    let Some(cpuset) = Cpuset::new(&name) else {
        return;
    };
    place.task.cgroup.join = vec![cpuset.0.clone()];
    place.run();
    assert_eq!(cpuset.processes(), 1);
    let asked = shell("grep cpuset: /proc/self/cgroup; grep memory: /proc/self/cgroup");
    let output = exec::output(&place.dir(), asked, None, 4096).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (of_cpuset, of_memory) = said.split_once('\n').unwrap();
    assert!(of_cpuset.ends_with(&format!(":/{name}")), "{said}");
    let own = &place.task.cgroup.path;
    assert!(of_memory.trim().ends_with(own.as_str()), "{said}");
    place.dismiss();
    assert_eq!(cpuset.processes(), 0);
}
