//! The state directory: one folder a task, and the records in it that survive every process. What is written when, and
//! how a reader tells a whole record from half of one, is decided here; what the records lead to is not.
//!
//! ```text
//! <root>/                    0700, /run/milo unless something else is configured
//!   crun/                    crun's own state (its --root)
//!   locks/, owners/          who works on a task, and which plugins live
//!   tasks/<key>/             0700, one a task; <key> is TaskId::key
//!     task.json              the intent: written before anything is created
//!     bundle/                config.json, rootfs/, etc/: what crun is given
//!     shim.sock              where the shim listens
//!     shim.lock              locked by the shim, with its pid and start time in it
//!     shim.log               what the shim and crun had to say
//!     started.json           the container exists: its pid and that process' start time
//!     exit.json              it has ended: how
//!     owner.json             the plugin that answers for it
//!   gone/                    what nobody needs any more, until it is removed
//! ```
//!
//! Every record is written to a temporary name and renamed: no death of a process leaves half of one. How a task ended is
//! synced besides. The others are about processes, which do not outlive the machine; one of which a power failure has left
//! nothing but its name counts as not written.
//!
//! # Layouts
//!
//! Plugins are upgraded while tasks run, and sometimes downgraded. What every layout promises is enough to find, watch, stop
//! and remove a task:
//!
//! - the [`Header`] of `task.json`, whose fields are there in every layout and mean the same;
//! - the names of `shim.sock`, `shim.lock`, `started.json`, `exit.json` and `crun/`;
//! - [`Started`], [`Exit`] and the requests of a shim: fields and requests are added, never changed.
//!
//! Everything else (`task`, the bundle) is the layout's own, so a shim that has died is replaced by the same layout only. A
//! program leaves records of a newer layout than its own alone.

use std::{
    cmp::Ordering,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::task::{CgroupPlace, Exit, Origin, Task, TaskId};

/// The root of all state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRoot {
    path: PathBuf,
}

impl StateRoot {
    /// The root at `path`; nothing is created yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where crun keeps its own state.
    pub fn crun_root(&self) -> PathBuf {
        self.path.join("crun")
    }

    fn gone(&self) -> PathBuf {
        self.path.join("gone")
    }

    /// Removes what was set aside, also by those who died before they could.
    pub fn clear_away(&self) {
        for entry in fs::read_dir(self.gone()).into_iter().flatten().flatten() {
            // Somebody else may do the same; what stays is left to the next one.
            let _ = fs::remove_dir_all(entry.path());
        }
    }

    /// The folder of one task, which need not exist.
    pub fn task(&self, id: &TaskId) -> TaskDir {
        TaskDir {
            path: self.path.join("tasks").join(id.key()),
        }
    }

    /// Every folder of a task that exists, in the order of their keys.
    pub fn tasks(&self) -> io::Result<Vec<TaskDir>> {
        let entries = match fs::read_dir(self.path.join("tasks")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = entries
            .map(|entry| entry.map(|entry| TaskDir { path: entry.path() }))
            .collect::<io::Result<Vec<_>>>()?;
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }
}

/// The folder of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDir {
    path: PathBuf,
}

impl TaskDir {
    /// The folder at `path`, as a shim is told it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root it belongs to.
    pub fn root(&self) -> StateRoot {
        let root = self.path.parent().and_then(Path::parent);
        StateRoot::new(root.unwrap_or(Path::new("/")))
    }

    /// What crun is given.
    pub fn bundle(&self) -> PathBuf {
        self.path.join("bundle")
    }

    /// Where the shim listens.
    pub fn socket(&self) -> PathBuf {
        self.path.join("shim.sock")
    }

    /// What a shim holds locked, and in which it has written who it is.
    pub fn lock(&self) -> PathBuf {
        self.path.join("shim.lock")
    }

    /// What the shim and crun had to say.
    pub fn log(&self) -> PathBuf {
        self.path.join("shim.log")
    }

    /// Makes the folder, for its owner only.
    pub fn create(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
    }

    /// Removes the folder and all records. One that is gone already is no error.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes the folder and all records away at once: nobody finds them any more, and another task may have the name.
    /// What is left to do is [`StateRoot::clear_away`], which takes longer.
    pub fn set_aside(&self) -> io::Result<()> {
        let gone = self.root().gone();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&gone)?;
        let name = uuid::Uuid::new_v4().simple().to_string();
        fs::rename(&self.path, gone.join(name))
    }

    /// What every layout says of the task, if the intent was written. It may be of a newer layout: see
    /// [`Header::readable`].
    pub fn header(&self) -> io::Result<Option<Header>> {
        self.read("task.json")
    }

    /// The intent, if it was written. It must be of this program's layout: see [`LayoutError`].
    pub fn intent(&self) -> io::Result<Option<Intent>> {
        let Some(header) = self.header()? else {
            return Ok(None);
        };
        header.layout(self)?;
        // Between the two looks it may have been removed, but not replaced by another layout.
        Ok(self
            .read("task.json")?
            .map(|Record { header, task }| Intent {
                task,
                crun: header.crun,
                boot_id: header.boot_id,
                created_at: header.created_at,
            }))
    }

    /// Writes the intent.
    pub fn write_intent(&self, intent: &Intent) -> io::Result<()> {
        let record = Record {
            header: Header::of(intent),
            task: &intent.task,
        };
        self.write("task.json", &record)
    }

    /// The record of the container's creation, if it was created.
    pub fn started(&self) -> io::Result<Option<Started>> {
        self.read("started.json")
    }

    /// Writes the record of the container's creation.
    pub fn write_started(&self, started: &Started) -> io::Result<()> {
        self.write("started.json", started)
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> io::Result<Option<Exit>> {
        self.read("exit.json")
    }

    /// Writes how it ended.
    pub fn write_exit(&self, exit: &Exit) -> io::Result<()> {
        self.put("exit.json", exit, true)
    }

    /// Writes how it ended where that is of no interest after the machine's next start.
    pub fn note_exit(&self, exit: &Exit) -> io::Result<()> {
        self.write("exit.json", exit)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let text = match fs::read(self.path.join(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if text.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let record = serde_json::from_slice(&text).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {error}", self.path.join(name).display()),
            )
        })?;
        Ok(Some(record))
    }

    fn write<T: Serialize>(&self, name: &str, record: &T) -> io::Result<()> {
        self.put(name, record, false)
    }

    /// Writes a record that is to be there after a power failure, or one that need not.
    fn put<T: Serialize>(&self, name: &str, record: &T, is_lasting: bool) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}.tmp"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        if is_lasting {
            file.sync_all()?;
        }
        fs::rename(&temporary, self.path.join(name))?;
        if is_lasting {
            File::open(&self.path)?.sync_all()?;
        }
        Ok(())
    }
}

/// A process that answers for tasks, as long as it lives: it holds a lock on a file of its own in `owners/`, and its name is
/// in the folder of each of its tasks. Whoever sweeps leaves the tasks of the living alone.
#[derive(Debug)]
pub struct Owner {
    name: String,
    _lock: File,
}

impl Owner {
    /// A new one, which lives until it is dropped or its process ends.
    pub fn new(root: &StateRoot) -> io::Result<Self> {
        let folder = root.path().join("owners");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let name = uuid::Uuid::new_v4().simple().to_string();
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.join(&name))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { name, _lock: file })
    }

    /// From now on the task is its.
    pub fn takes(&self, dir: &TaskDir) -> io::Result<()> {
        dir.write("owner.json", &self.name)
    }

    /// Whether the one that a task belongs to lives, be it this process or another. The mark of a dead one is removed.
    pub fn lives(dir: &TaskDir) -> bool {
        let Ok(Some(name)) = dir.read::<String>("owner.json") else {
            return false;
        };
        let path = dir.root().path().join("owners").join(&name);
        let Ok(file) = File::open(&path) else {
            return false;
        };
        let is_dead = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_dead {
            let _ = fs::remove_file(path);
        }
        !is_dead
    }
}

/// What was to be run, and all that is needed to undo it.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// The task.
    pub task: Task,
    /// The crun to use.
    pub crun: PathBuf,
    /// The boot it belongs to (`/proc/sys/kernel/random/boot_id`): a record of another boot has no process.
    pub boot_id: String,
    /// When it was written, in nanoseconds since 1970.
    pub created_at: i64,
}

/// The layout that this program writes.
pub const LAYOUT: u32 = 1;

/// What `task.json` says in every layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The layout of the rest.
    pub layout: u32,
    /// The task's identity.
    pub id: TaskId,
    /// Who asked for it.
    pub origin: Origin,
    /// The container's name.
    pub container: String,
    /// The crun that has made it.
    pub crun: PathBuf,
    /// Its cgroup.
    pub cgroup: CgroupPlace,
    /// The boot it belongs to.
    pub boot_id: String,
    /// When it was written, in nanoseconds since 1970.
    pub created_at: i64,
}

/// `task.json` in this program's layout.
#[derive(Serialize, Deserialize)]
struct Record<T> {
    #[serde(flatten)]
    header: Header,
    task: T,
}

/// Records of another layout than this program's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// They are left alone.
    #[error(
        "the task in `{}` was started by a newer milo-driver (its records have layout {layout}, this program reads up to \
         {LAYOUT}): it is left alone; use that version again, or stop the task with it",
        path.display()
    )]
    Newer {
        /// The task's folder.
        path: PathBuf,
        /// Their layout.
        layout: u32,
    },
    /// The task can be found, watched, stopped and removed, but not taken over from a shim that has died.
    #[error(
        "the task in `{}` was started by an older milo-driver (its records have layout {layout}, this program writes \
         {LAYOUT}): it can be stopped and removed, but its shim cannot be replaced",
        path.display()
    )]
    Older {
        /// The task's folder.
        path: PathBuf,
        /// Their layout.
        layout: u32,
    },
}

impl From<LayoutError> for io::Error {
    fn from(error: LayoutError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl Header {
    fn of(intent: &Intent) -> Self {
        Self {
            layout: LAYOUT,
            id: intent.task.id.clone(),
            origin: intent.task.origin,
            container: intent.task.id.container(),
            crun: intent.crun.clone(),
            cgroup: intent.task.cgroup.clone(),
            boot_id: intent.boot_id.clone(),
            created_at: intent.created_at,
        }
    }

    /// The header, if this program may do anything to its task: not if the layout is newer.
    pub fn readable(self, dir: &TaskDir) -> Result<Self, LayoutError> {
        match self.layout(dir) {
            Err(error @ LayoutError::Newer { .. }) => Err(error),
            _ => Ok(self),
        }
    }

    /// Whether the rest of the record is of this program's layout.
    pub fn layout(&self, dir: &TaskDir) -> Result<(), LayoutError> {
        let (path, layout) = (dir.path().to_owned(), self.layout);
        match layout.cmp(&LAYOUT) {
            Ordering::Less => Err(LayoutError::Older { path, layout }),
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(LayoutError::Newer { path, layout }),
        }
    }
}

/// A container's first process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its pid on the host.
    pub pid: i32,
    /// Its start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`): with the pid, an identity.
    pub start_time: u64,
    /// When its program began, in nanoseconds since 1970; 0 as long as it is only created.
    pub started_at: i64,
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::{TempDir, tempdir};
    use serde_json::{Value, json};

    use super::*;
    use crate::task::{
        Device, Dns, Heap, HostEntry, Java, JreSelect, Mount, Network, OnFull, Program,
        Propagation, Seccomp, Stream, Tmpfs,
    };

    /// What `layout-1/task.json` is the record of: as many values as there are, and not the defaults.
    fn intent() -> Intent {
        let java = Java {
            jar: Some("/local/app.jar".into()),
            class: Some("Main".to_owned()),
            class_path: Some("/local/lib/*".to_owned()),
            jvm_options: vec!["-Xss1m".to_owned()],
            args: vec!["one".to_owned()],
            select: JreSelect {
                version: Some("17".to_owned()),
                vendor: Some("debian".to_owned()),
                home: Some("/opt/jdk".into()),
            },
            heap: Heap::Percent(62.5),
            exit_on_oom: true,
            heap_dump: true,
        };
        let mut task = Task::new("9f0c/web/01234567", Program::Java(java));
        task.name = "web".to_owned();
        task.origin = Origin::Nomad;
        task.alloc_id = "9f0c".to_owned();
        task.env = [("A".to_owned(), "1".to_owned())].into();
        task.user = "nobody".to_owned();
        task.dirs.alloc = Some("/alloc".into());
        task.dirs.local = Some("/web/local".into());
        task.dirs.secrets = Some("/web/secrets".into());
        task.work_dir = Some("/local".into());
        task.limits.memory = Some(1 << 29);
        task.limits.cpu_quota = Some(1.5);
        task.limits.cpuset = Some("0,2-3".to_owned());
        task.limits.ulimits = [("nofile".to_owned(), (1024, 4096))].into();
        task.cgroup = CgroupPlace {
            path: "/nomad/9f0c.web".to_owned(),
            join: vec!["/sys/fs/cgroup/cpuset/nomad/reserve/9f0c.web".into()],
            disabled: false,
        };
        surround(&mut task);
        Intent {
            task,
            crun: "/usr/bin/crun".into(),
            boot_id: "6f1e".to_owned(),
            created_at: 1_700_000_000_000_000_000,
        }
    }

    fn surround(task: &mut Task) {
        task.mounts.push(Mount {
            source: "/srv".into(),
            target: "/srv".into(),
            readonly: true,
            propagation: Propagation::Rslave,
        });
        task.tmpfs.push(Tmpfs {
            target: "/cache".into(),
            size: Some(1 << 20),
            mode: Some(0o1777),
        });
        task.devices.push(Device {
            source: "/dev/null".into(),
            target: "/dev/nothing".into(),
            permissions: "rw".to_owned(),
        });
        task.network = Network::Join {
            path: "/run/netns/9f0c".into(),
            hostname: Some("web".to_owned()),
            address: Some("172.26.64.2".to_owned()),
        };
        task.dns = Some(Dns {
            servers: vec!["192.0.2.1".to_owned()],
            searches: vec!["example.com".to_owned()],
            options: vec!["ndots:2".to_owned()],
        });
        task.extra_hosts.push(HostEntry {
            name: "db".to_owned(),
            address: "192.0.2.2".to_owned(),
        });
        task.security.capabilities = vec!["CAP_NET_BIND_SERVICE".to_owned()];
        task.security.seccomp = Seccomp::Profile("/etc/seccomp.json".into());
        task.init = true;
        task.rootfs = Some("/srv/rootfs".into());
        task.stdio.stdout = Stream::Fifo("/alloc/stdout".into());
        task.stdio.stderr = Stream::File {
            path: "/var/log/web".into(),
            max_bytes: 1 << 24,
        };
        task.stdio.on_full = OnFull::Drop;
    }

    /// The folder of a task with the records that are kept in the repository.
    fn golden() -> (TempDir, TaskDir) {
        let root = tempdir();
        let dir = TaskDir::at(root.path());
        for (name, text) in [
            ("task.json", include_str!("state/layout-1/task.json")),
            ("started.json", include_str!("state/layout-1/started.json")),
            ("exit.json", include_str!("state/layout-1/exit.json")),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        (root, dir)
    }

    /// When this fails, tasks that run would not be found after an upgrade: [`LAYOUT`] needs another number, and this one
    /// folder more.
    #[test]
    fn this_layout_is_the_one_on_record() {
        let (_root, dir) = golden();
        assert_eq!(dir.intent().unwrap(), Some(intent()));
        let started = Started {
            pid: 7,
            start_time: 9,
            started_at: 11,
        };
        assert_eq!(dir.started().unwrap().as_ref(), Some(&started));
        let exit = Exit {
            code: 137,
            signal: 9,
            oom_killed: true,
            ended_at: 13,
            error: Some("why".to_owned()),
        };
        assert_eq!(dir.exit().unwrap().as_ref(), Some(&exit));
        let records = || ["task.json", "started.json", "exit.json"].map(|name| value(&dir, name));
        let kept = records();
        dir.write_intent(&intent()).unwrap();
        dir.write_started(&started).unwrap();
        dir.write_exit(&exit).unwrap();
        assert_eq!(records(), kept);
    }

    fn value(dir: &TaskDir, name: &str) -> Value {
        serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap()
    }

    #[test]
    fn every_layout_has_the_same_header_and_only_this_one_the_same_task() {
        let (_root, dir) = golden();
        let header = dir.header().unwrap().unwrap();
        assert_eq!(header, Header::of(&intent()));
        for (layout, is_readable, word) in
            [(LAYOUT - 1, true, "older"), (LAYOUT + 1, false, "newer")]
        {
            let mut record = value(&dir, "task.json");
            record["layout"] = layout.into();
            record["task"] = json!(["of", "another", "kind"]);
            record["more"] = json!({});
            fs::write(dir.path().join("task.json"), record.to_string()).unwrap();
            let other = dir.header().unwrap().unwrap();
            assert_eq!(
                other,
                Header {
                    layout,
                    ..header.clone()
                }
            );
            assert_eq!(other.readable(&dir).is_ok(), is_readable);
            let error = dir.intent().unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains(&format!("layout {layout}")),
                "{error}"
            );
        }
    }

    #[test]
    fn of_what_a_power_failure_has_emptied_nothing_is_known() {
        let root = tempdir();
        let dir = StateRoot::new(root.path()).task(&TaskId("t".to_owned()));
        dir.create().unwrap();
        dir.write_exit(&Exit::default()).unwrap();
        assert_eq!(dir.exit().unwrap(), Some(Exit::default()));
        for torn in ["", "\0\0\0\0"] {
            fs::write(dir.path().join("exit.json"), torn).unwrap();
            assert_eq!(dir.exit().unwrap(), None);
        }
        fs::write(dir.path().join("exit.json"), "{\"code\":").unwrap();
        assert!(dir.exit().is_err());
    }

    #[test]
    fn what_is_set_aside_is_nobodys_and_its_name_is_free() {
        let root = tempdir();
        let root = StateRoot::new(root.path());
        let dir = root.task(&TaskId("t".to_owned()));
        dir.create().unwrap();
        fs::write(dir.path().join("left"), "").unwrap();
        dir.set_aside().unwrap();
        assert_eq!(root.tasks().unwrap(), []);
        dir.create().unwrap();
        root.clear_away();
        assert_eq!(fs::read_dir(root.gone()).unwrap().count(), 0);
        assert_eq!(root.tasks().unwrap(), [dir]);
    }

    #[test]
    fn a_task_belongs_to_a_living_owner_until_that_ends() {
        let root = tempdir();
        let root = StateRoot::new(root.path());
        let dir = root.task(&TaskId("t".to_owned()));
        dir.create().unwrap();
        assert!(!Owner::lives(&dir));
        let owner = Owner::new(&root).unwrap();
        owner.takes(&dir).unwrap();
        assert!(Owner::lives(&dir));
        let next = Owner::new(&root).unwrap();
        next.takes(&dir).unwrap();
        drop(owner);
        assert!(Owner::lives(&dir));
        drop(next);
        assert!(!Owner::lives(&dir));
    }
}
