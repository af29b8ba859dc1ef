//! Mounts from folders in which other tasks can write, with a real crun: what was looked at is what is mounted, whatever is
//! done to its path meanwhile, and nothing of it stays on the host.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
};

use milo_driver::{
    bundle::{self, Plan, sources},
    host::Host,
    launch::{LaunchError, Launcher, Recovered, Spare},
    runtime::{Create, Crun, Runtime},
    shim::{client::Connection, protocol::Request},
    state::{StateRoot, TaskDir},
    task::{Dirs, Mount, Origin, Program, Propagation, Stream, Task},
    user::Account,
};
use runyard_common::testing::{TempDir, eventually, patience, tempdir, tool_binary};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::support::{CRUN, fifo, open_to_all};

/// An allocation's folder with something of the task's in it, and beside it something that is the host's only.
struct Allocation {
    folder: TempDir,
    launcher: Launcher,
    task: Task,
}

fn allocation() -> Option<Allocation> {
    if !Path::new(CRUN).is_file() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root and crun in /usr/bin");
        return None;
    }
    let folder = tempdir();
    let path = folder.path();
    for (name, text) in [("a/alloc/data", "of the task\n"), ("host", "of the host\n")] {
        fs::create_dir_all(path.join(name)).unwrap();
        fs::write(path.join(name).join("file"), text).unwrap();
        open_to_all(&path.join(name), 0o755);
    }
    fs::create_dir_all(path.join("a/alloc/logs")).unwrap();
    let greeting = Program::Greeting {
        shell: "bash".into(),
        text: String::new(),
    };
    let mut task = Task {
        origin: Origin::Nomad,
        dirs: Dirs {
            alloc: Some(path.join("a/alloc")),
            ..Dirs::default()
        },
        ..Task::new(&path.display().to_string(), greeting)
    };
    let log = path.join("a/alloc/logs/.stdout.fifo");
    fifo(&log);
    task.stdio.stdout = Stream::Fifo(log);
    Some(Allocation {
        launcher: Launcher {
            state: StateRoot::new(path.join("state")),
            crun: CRUN.into(),
            shim: tool_binary("milo-driver"),
            spare: Spare::default(),
        },
        folder,
        task,
    })
}

impl Allocation {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn dir(&self) -> TaskDir {
        self.launcher.state.task(&self.task.id)
    }

    fn mount(&mut self, source: &str, target: &str) {
        self.task.mounts.push(Mount {
            source: self.path(source),
            target: target.into(),
            readonly: true,
            propagation: Propagation::Rprivate,
        });
    }

    /// The real plan, but for what is run in the end.
    fn plan(&self, args: &[&str]) -> Plan {
        let nobody = Account {
            uid: 65_534,
            gid: 65_534,
            groups: Vec::new(),
            name: "nobody".into(),
            home: "/nonexistent".into(),
        };
        let host = Host::detect().unwrap();
        let bundle = self.dir().bundle();
        let mut plan = bundle::plan(&self.task, &nobody, None, &host, &bundle).unwrap();
        let mut process = plan.spec.process().clone().unwrap();
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        process.set_args(Some(args));
        plan.spec.set_process(Some(process));
        plan
    }

    fn launch(&self, args: &[&str]) -> Result<Recovered, LaunchError> {
        let plan = self.plan(args);
        self.launcher
            .launch(&self.task, |bundle| plan.write(bundle))
    }

    fn reader(&self) -> File {
        let log = self.path("a/alloc/logs/.stdout.fifo");
        OpenOptions::new().read(true).write(true).open(log).unwrap()
    }

    /// What the task does that can write in `alloc`: in the place of something comes a link to the host's.
    fn swap(&self, name: &str, host: &str) {
        let path = self.path(name);
        fs::rename(&path, path.with_extension("away")).unwrap();
        symlink(self.path(host), path).unwrap();
    }

    fn mounts(&self) -> Vec<String> {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.folder.path().display().to_string();
        all.lines()
            .filter(|line| line.contains(&here))
            .map(str::to_owned)
            .collect()
    }

    /// Creates and runs the container in this process, with something happening after its sources were opened.
    fn raced(&self, args: &[&str], meanwhile: impl FnOnce()) -> String {
        let (dir, id) = (self.dir(), self.task.id.container());
        dir.create().unwrap();
        self.plan(args).write(&dir.bundle()).unwrap();
        let sources = sources::hold(&self.task, &dir.bundle()).unwrap();
        meanwhile();
        let crun = Crun::new(CRUN, self.launcher.state.crun_root());
        let (mut reader, writer) = io::pipe().unwrap();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let created = crun.create(Create {
            id: &id,
            bundle: &dir.bundle(),
            pid_file: &dir.path().join("pid"),
            log: &dir.log(),
            sources,
            stdio: [null(), writer.try_clone().unwrap().into(), writer.into()],
        });
        let started = created.and_then(|_| crun.start(&id));
        let mut said = String::new();
        if started.is_ok() {
            reader.read_to_string(&mut said).unwrap();
        }
        crun.delete(&id).unwrap();
        started.unwrap();
        said
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let _ = self.launcher.dismiss(&self.dir());
    }
}

#[test]
fn a_folder_that_is_swapped_for_a_link_after_it_was_looked_at_is_mounted_all_the_same() {
    let Some(mut allocation) = allocation() else {
        return;
    };
    allocation.mount("a/alloc/data", "/data");
    allocation.mount("a/alloc/data/file", "/one");
    let said = allocation.raced(&["/usr/bin/cat", "/data/file", "/one"], || {
        allocation.swap("a/alloc/data/file", "host/file");
        allocation.swap("a/alloc/data", "host");
    });
    // In the folder, which is the task's own to change, is the link by now; in the container it leads nowhere.
    assert!(said.contains("/data/file: No such file"), "{said}");
    assert!(said.ends_with("of the task\n"), "{said}");
    assert!(!said.contains("of the host"), "{said}");
    assert_eq!(allocation.mounts(), [""; 0]);
}

#[test]
fn a_root_file_system_that_is_swapped_for_a_link_is_the_one_that_was_looked_at() {
    let Some(mut allocation) = allocation() else {
        return;
    };
    for root in ["a/alloc/root", "host/root"] {
        let root = allocation.path(root);
        for name in ["usr/bin", "etc", "proc", "dev", "sys", "tmp", "run"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["lib", "lib64"] {
            symlink(format!("usr/{name}"), root.join(name)).unwrap();
        }
        // The plan looks for it; what is run is the host's.
        fs::write(root.join("usr/bin/bash"), "").unwrap();
        let whose = fs::read_to_string(root.with_file_name("data/file"));
        fs::write(
            root.join("file"),
            whose.as_deref().unwrap_or("of the host\n"),
        )
        .unwrap();
    }
    allocation.task.rootfs = Some(allocation.path("a/alloc/root"));
    allocation.task.mounts.push(Mount {
        source: "/usr".into(),
        target: "/usr".into(),
        readonly: true,
        propagation: Propagation::Rprivate,
    });
    let said = allocation.raced(&["/usr/bin/cat", "/file"], || {
        allocation.swap("a/alloc/root", "host/root");
    });
    assert_eq!(said, "of the task\n");
    assert_eq!(allocation.mounts(), [""; 0]);
}

#[test]
fn mounts_that_are_to_reach_the_host_do_so_beside_what_others_could_swap() {
    let Some(mut allocation) = allocation() else {
        return;
    };
    let shared = allocation.path("host/shared");
    fs::create_dir(&shared).unwrap();
    // In a namespace of this thread's own, which ends with it.
    // SAFETY: nothing in this thread depends on the folders that it shares with others.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS).unwrap() };
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    mount("tmpfs", &shared, "tmpfs", MountFlags::empty(), None).unwrap();
    mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
    allocation.mount("a/alloc/data", "/data");
    allocation.task.mounts.push(Mount {
        source: shared.clone(),
        target: "/shared".into(),
        readonly: false,
        propagation: Propagation::Rshared,
    });
    let said = allocation.raced(&["/usr/bin/cat", "/proc/self/mountinfo"], || {});
    let here = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let group = |mounts: &str, point: &Path| {
        let point = format!(" {} ", point.display());
        let line = mounts.lines().find(|line| line.contains(&point));
        let line = line.unwrap_or_else(|| panic!("no{point}in {mounts}"));
        let group = line.split(' ').find(|field| field.starts_with("shared:"));
        group.map(str::to_owned)
    };
    let of_host = group(&here, &shared);
    assert!(of_host.is_some());
    assert_eq!(group(&said, Path::new("/shared")), of_host, "{said}");
}

#[test]
fn what_is_mounted_for_a_task_is_seen_by_nobody_else_and_gone_with_it() {
    let Some(mut allocation) = allocation() else {
        return;
    };
    allocation.mount("a/alloc/data", "/data");
    let mut reader = allocation.reader();
    let script = "cat /data/file; exec sleep 1000";
    let running = allocation.launch(&["/usr/bin/sh", "-c", script]).unwrap();
    let Recovered::Running(started) = running else {
        panic!("it has ended: {running:?}");
    };
    let mut said = [0; 12];
    reader.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"of the task\n");
    assert_eq!(allocation.mounts(), [""; 0]);
    // Neither does the container itself see more than its own mount.
    let inside = fs::read_to_string(format!("/proc/{}/mountinfo", started.pid)).unwrap();
    assert!(inside.contains(" /data "), "{inside}");
    assert!(!inside.contains("/sources/"), "{inside}");

    let shim = milo_driver::shim::process(&allocation.dir())
        .unwrap()
        .expect("a shim");
    shim.signal(libc::SIGKILL).unwrap();
    eventually(patience(), || {
        Connection::open(&allocation.dir()).is_err().then_some(())
    });
    assert_eq!(allocation.mounts(), [""; 0]);
    let found = allocation.launcher.recover(&allocation.dir()).unwrap();
    assert_eq!(found, Recovered::Running(started));
    allocation.launcher.dismiss(&allocation.dir()).unwrap();
    assert_eq!(allocation.mounts(), [""; 0]);
    assert!(!allocation.dir().path().exists());
}

#[test]
fn a_link_that_was_there_before_the_container_is_refused_and_nothing_is_left() {
    let Some(mut allocation) = allocation() else {
        return;
    };
    allocation.mount("a/alloc/data", "/data");
    let plan = allocation.plan(&["/usr/bin/true"]);
    allocation.swap("a/alloc/data", "host");
    let launched = allocation
        .launcher
        .launch(&allocation.task, |bundle| plan.write(bundle));
    let error = launched.unwrap_err().to_string();
    assert!(
        error.contains("mount `/data`") && error.contains("without following links"),
        "{error}"
    );
    assert!(!allocation.dir().path().exists());
}

#[test]
fn a_link_in_place_of_the_logs_is_refused_and_nothing_is_written_there() {
    let Some(allocation) = allocation() else {
        return;
    };
    fifo(&allocation.path("host/.stdout.fifo"));
    allocation.swap("a/alloc/logs", "host");
    let error = allocation.launch(&["/usr/bin/true"]).unwrap_err();
    assert!(error.to_string().contains("symbolic links"), "{error}");
    assert!(!allocation.dir().path().exists());
}

#[test]
fn a_prepared_task_whose_caller_has_died_is_mounted_by_whoever_goes_on() {
    let Some(mut allocation) = allocation() else {
        return;
    };
    allocation.mount("a/alloc/data", "/data");
    let mut reader = allocation.reader();
    let plan = allocation.plan(&["/usr/bin/cat", "/data/file"]);
    let prepared = allocation
        .launcher
        .prepare(&allocation.task, |bundle| plan.write(bundle));
    let dir = prepared.unwrap();
    // Another launcher, as after a restart, which knows nothing but what is on record.
    let next = allocation.launcher.clone();
    next.spawn_shim(&dir, None).unwrap();
    next.begin(&dir).unwrap();
    let mut said = [0; 12];
    reader.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"of the task\n");
    let mut connection = Connection::open(&dir).unwrap();
    connection.set_patience(Some(patience())).unwrap();
    connection.request(&Request::Wait).unwrap();
    next.dismiss(&dir).unwrap();
}
