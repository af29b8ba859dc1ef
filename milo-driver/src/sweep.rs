//! What becomes of containers that no agent asks for any more: after a while they are removed, or only named. Which ones
//! these are is decided here; how one is removed is behind [`Engine`].
//!
//! An agent asks for its tasks in the first seconds after its start. What it has not asked for after the grace is nobody's:
//! its allocation is gone, or its agent lost its state. Tasks of the command line are their own shims' business, and those
//! of another plugin that uses the same state directory are that one's: whoever sweeps holds a lock on it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    config::Gc,
    registry::{Engine, Registry},
    state::{Owner, StateRoot, TaskDir},
    task::Origin,
};

/// What to do, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// The state directory.
    pub root: StateRoot,
    /// The operator's wish.
    pub gc: Gc,
}

/// A sweep's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What was removed, or would have been.
    pub removed: Vec<TaskDir>,
    /// What could not be.
    pub failed: Vec<TaskDir>,
}

/// The right to sweep a state directory: one process at a time has it, as long as it lives.
#[derive(Debug)]
struct Turn(#[expect(dead_code, reason = "held for its lock")] File);

impl Sweep {
    /// Sweeps again and again, each time after the grace. Never returns if it is this process' turn.
    pub async fn run<E: Engine>(self, registry: Registry<E>) {
        if !self.gc.enabled {
            return;
        }
        loop {
            tokio::time::sleep(self.gc.grace.max(Duration::from_secs(1))).await;
            match self.turn() {
                Ok(Some(turn)) => return self.keep_sweeping(&registry, turn).await,
                Ok(None) => {
                    tracing::info!(dir = %self.root.path().display(), "another plugin sweeps this state directory");
                }
                Err(error) => {
                    tracing::warn!(dir = %self.root.path().display(), %error, "cannot sweep");
                }
            }
        }
    }

    async fn keep_sweeping<E: Engine>(&self, registry: &Registry<E>, _turn: Turn) {
        loop {
            if let Err(error) = self.once(registry).await {
                tracing::warn!(dir = %self.root.path().display(), %error, "cannot list the state directory");
            }
            tokio::time::sleep(self.gc.grace.max(Duration::from_secs(1))).await;
        }
    }

    /// Sweeps once, whoever's turn it is.
    pub async fn once<E: Engine>(&self, registry: &Registry<E>) -> io::Result<Swept> {
        let mut swept = Swept::default();
        for dir in self.root.tasks()? {
            if registry.knows(&dir) || Owner::lives(&dir) || !self.is_leftover(&dir) {
                continue;
            }
            let path = dir.path().display().to_string();
            if self.gc.dry_run {
                tracing::info!(
                    dir = path,
                    "a container that nobody asked for would be removed"
                );
                swept.removed.push(dir);
                continue;
            }
            match registry.discard(&dir).await {
                Ok(()) => {
                    tracing::warn!(dir = path, "removed a container that nobody asked for");
                    swept.removed.push(dir);
                }
                Err(error) => {
                    tracing::warn!(dir = path, %error, "could not remove a container that nobody asked for");
                    swept.failed.push(dir);
                }
            }
        }
        Ok(swept)
    }

    /// Whether these records are an agent's, and so old that it had the time to ask. A record of a newer layout, or one that
    /// cannot be read, is left alone.
    fn is_leftover(&self, dir: &TaskDir) -> bool {
        let is_ours = match dir.header() {
            Ok(Some(header)) => header
                .readable(dir)
                .is_ok_and(|header| header.origin == Origin::Nomad),
            // The start broke off before the first record.
            Ok(None) => true,
            Err(_) => false,
        };
        is_ours && self.is_old(dir)
    }

    fn is_old(&self, dir: &TaskDir) -> bool {
        let changed = std::fs::metadata(dir.path()).and_then(|metadata| metadata.modified());
        let age = changed.map(|changed| SystemTime::now().duration_since(changed));
        matches!(age, Ok(Ok(age)) if age >= self.gc.grace)
    }

    fn turn(&self) -> io::Result<Option<Turn>> {
        let path = self.root.path().join("sweep.lock");
        let file = match OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
        {
            Ok(file) => file,
            // No state, nothing to sweep yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Turn(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::{TempDir, tempdir};

    use super::*;
    use crate::{
        api::{options::TaskOptions, task::task},
        config::{Compute, Config},
        proto::drivers::TaskConfig,
        registry::{Identity, fake::Fake},
        state::{Intent, LAYOUT},
        task::{Task, TaskId},
    };

    struct Scene {
        sweep: Sweep,
        engine: Fake,
        registry: Registry<Fake>,
        _dir: TempDir,
    }

    fn scene() -> Scene {
        let dir = tempdir();
        let root = StateRoot::new(dir.path());
        let engine = Fake::new(root.clone());
        let gc = Gc {
            grace: Duration::ZERO,
            ..Gc::default()
        };
        Scene {
            sweep: Sweep { root, gc },
            registry: Registry::new(engine.clone()),
            engine,
            _dir: dir,
        }
    }

    impl Scene {
        /// Records of a task that nobody asked for yet.
        fn record(&self, id: &str, origin: Origin) -> TaskDir {
            let wire = TaskConfig {
                id: id.to_owned(),
                name: "web".to_owned(),
                ..TaskConfig::default()
            };
            let compute = Compute {
                megahertz: 0,
                cpus: 1,
            };
            let task = task(&wire, &TaskOptions::default(), &Config::default(), compute).unwrap();
            let dir = self.sweep.root.task(&task.id);
            dir.create().unwrap();
            let task = Task { origin, ..task };
            dir.write_intent(&Intent {
                task,
                crun: "/c".into(),
                boot_id: String::new(),
                created_at: 0,
            })
            .unwrap();
            dir
        }
    }

    #[tokio::test]
    async fn only_what_nobody_asked_for_is_removed() {
        let scene = scene();
        let orphan = scene.record("a/orphan/1", Origin::Nomad);
        let typed = scene.record("typed", Origin::Cli);
        let kept = scene.record("a/kept/2", Origin::Nomad);
        let id = TaskId("a/kept/2".to_owned());
        scene.engine.left_behind(&id, None);
        let who = Identity {
            id,
            name: "kept".to_owned(),
            alloc_id: "a".to_owned(),
        };
        scene.registry.recover(who, None).await.unwrap();
        let swept = scene.sweep.once(&scene.registry).await.unwrap();
        assert_eq!(swept.removed, std::slice::from_ref(&orphan));
        assert!(!orphan.path().exists() && typed.path().exists() && kept.path().exists());
    }

    #[tokio::test]
    async fn the_task_of_another_plugin_that_lives_is_left() {
        let scene = scene();
        let dir = scene.record("a/other/1", Origin::Nomad);
        let owner = Owner::new(&scene.sweep.root).unwrap();
        owner.takes(&dir).unwrap();
        let swept = scene.sweep.once(&scene.registry).await.unwrap();
        assert_eq!(swept, Swept::default());
        drop(owner);
        let swept = scene.sweep.once(&scene.registry).await.unwrap();
        assert_eq!(swept.removed, [dir]);
    }

    #[tokio::test]
    async fn a_dry_run_removes_nothing() {
        let mut scene = scene();
        let orphan = scene.record("a/orphan/1", Origin::Nomad);
        scene.sweep.gc.dry_run = true;
        assert_eq!(
            scene
                .sweep
                .once(&scene.registry)
                .await
                .unwrap()
                .removed
                .len(),
            1
        );
        assert!(orphan.path().exists() && scene.engine.destroyed().is_empty());
    }

    #[tokio::test]
    async fn what_is_younger_than_the_grace_is_left() {
        let mut scene = scene();
        scene.record("a/orphan/1", Origin::Nomad);
        scene.sweep.gc.grace = Duration::from_mins(5);
        assert_eq!(
            scene.sweep.once(&scene.registry).await.unwrap(),
            Swept::default()
        );
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_left() {
        let scene = scene();
        let dir = scene.record("a/orphan/1", Origin::Nomad);
        std::fs::write(dir.path().join("task.json"), "{\"layout\":1}").unwrap();
        assert_eq!(
            scene.sweep.once(&scene.registry).await.unwrap(),
            Swept::default()
        );
    }

    /// Gives a record another layout, of which only the header means anything.
    fn relaid(dir: &TaskDir, layout: u32) {
        let path = dir.path().join("task.json");
        let text = std::fs::read(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        record["layout"] = layout.into();
        record["task"] = "of another kind".into();
        std::fs::write(path, record.to_string()).unwrap();
    }

    #[tokio::test]
    async fn what_an_older_plugin_has_left_is_removed_and_what_a_newer_one_has_is_not() {
        let scene = scene();
        let [older, newer] = ["a/older/1", "a/newer/1"].map(|id| scene.record(id, Origin::Nomad));
        let typed = scene.record("typed", Origin::Cli);
        relaid(&older, LAYOUT - 1);
        relaid(&newer, LAYOUT + 1);
        relaid(&typed, LAYOUT - 1);
        let swept = scene.sweep.once(&scene.registry).await.unwrap();
        assert_eq!(swept.removed, [older]);
        assert!(newer.path().exists() && typed.path().exists());
    }

    #[test]
    fn one_plugin_at_a_time_sweeps() {
        let scene = scene();
        let turn = scene.sweep.turn().unwrap().unwrap();
        assert!(scene.sweep.turn().unwrap().is_none());
        drop(turn);
        assert!(scene.sweep.turn().unwrap().is_some());
    }
}
