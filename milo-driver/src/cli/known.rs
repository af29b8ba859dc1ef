//! The tasks of this host, found by what a user calls them: the id, the name, or the beginning of the key.

use runyard_common::{exit::Exit, report::Failure};

use crate::{
    shim::{
        client::Connection,
        protocol::{Answer, Request},
    },
    state::{Intent, Started, StateRoot, TaskDir},
    task::Exit as TaskExit,
};

/// A task with its records.
pub(super) struct Known {
    pub(super) dir: TaskDir,
    pub(super) intent: Intent,
}

/// How a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its container is being made, or waits for its start.
    Created,
    /// It runs.
    Running(Started),
    /// It has ended.
    Exited(TaskExit),
    /// Its shim is gone without a word: a recovery finds out what became of it.
    Lost,
}

impl Known {
    /// The beginning of its key, as lists show it.
    pub(super) fn key(&self) -> String {
        let mut key = self.intent.task.id.key();
        key.truncate(8);
        key
    }

    /// How it stands. Only its shim and its records are asked; nothing is changed.
    pub(super) fn standing(&self) -> Standing {
        if let Ok(Some(exit)) = self.dir.exit() {
            return Standing::Exited(exit);
        }
        let asked = Connection::open(&self.dir).and_then(|mut connection| {
            // A shim that is busy with crun answers late; a list does not wait for that.
            let _ = connection.set_patience(Some(std::time::Duration::from_secs(2)));
            connection.request(&Request::State)
        });
        match asked {
            Ok(Answer::Running(started)) => Standing::Running(started),
            Ok(Answer::Exited(exit)) => Standing::Exited(exit),
            Err(error) if error.is_dead() => Standing::Lost,
            Ok(_) | Err(_) => Standing::Created,
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let task = &self.intent.task;
        task.id.0 == name
            || task.name == name
            || (name.len() >= 4 && task.id.key().starts_with(name))
    }
}

/// Every task with readable records. Others are left out: they may be half written, or of another version.
pub(super) fn all(state: &StateRoot) -> Result<Vec<Known>, Failure> {
    let dirs = state.tasks().map_err(|error| {
        let place = state.path().display();
        Failure::new(Exit::Failed, format!("cannot read the records in {place}"))
            .caused_by(error)
            .hint("they belong to whoever runs tasks: root, mostly")
    })?;
    let known = dirs.into_iter().filter_map(|dir| {
        let intent = dir.intent().ok()??;
        Some(Known { dir, intent })
    });
    Ok(known.collect())
}

/// The one task that is called so.
pub(super) fn one(state: &StateRoot, name: &str) -> Result<Known, Failure> {
    let mut found: Vec<Known> = all(state)?;
    found.retain(|known| known.is_called(name));
    // An id is exact: it wins over a name that is the same.
    if let Some(exact) = found
        .iter()
        .position(|known| known.intent.task.id.0 == name)
    {
        return Ok(found.swap_remove(exact));
    }
    match found.len() {
        0 => Err(Failure::new(
            Exit::NotFound,
            format!("there is no task `{name}` on this host"),
        )
        .hint("`milo-driver ps --all` lists those there are")),
        1 => Ok(found.swap_remove(0)),
        count => {
            let keys: Vec<String> = found.iter().map(Known::key).collect();
            Err(Failure::new(
                Exit::Usage,
                format!("`{name}` is the name of {count} tasks"),
            )
            .hint(format!("use one of their keys: {}", keys.join(", "))))
        }
    }
}
