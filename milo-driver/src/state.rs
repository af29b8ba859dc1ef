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
//!     shim.log               what the shim and crun had to say
//!     started.json           the container exists: its pid and that process' start time
//!     exit.json              it has ended: how
//!     owner.json             the plugin that answers for it
//! ```
//!
//! Every record is written to a temporary name, synced, and renamed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::task::{Exit, Task, TaskId};

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

    /// The intent, if it was written.
    pub fn intent(&self) -> io::Result<Option<Intent>> {
        self.read("task.json")
    }

    /// Writes the intent.
    pub fn write_intent(&self, intent: &Intent) -> io::Result<()> {
        self.write("task.json", intent)
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
        self.write("exit.json", exit)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let text = match fs::read(self.path.join(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let record = serde_json::from_slice(&text).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {error}", self.path.join(name).display()),
            )
        })?;
        Ok(Some(record))
    }

    fn write<T: Serialize>(&self, name: &str, record: &T) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}.tmp"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// The layout of this record; see [`Intent::VERSION`].
    pub version: u32,
    /// The task.
    pub task: Task,
    /// The crun to use.
    pub crun: PathBuf,
    /// The boot it belongs to (`/proc/sys/kernel/random/boot_id`): a record of another boot has no process.
    pub boot_id: String,
    /// When it was written, in nanoseconds since 1970.
    pub created_at: i64,
}

impl Intent {
    /// The layout that this program writes. It reads no other.
    pub const VERSION: u32 = 1;
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
    use runyard_common::testing::tempdir;

    use super::*;

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
