//! What an agent keeps of a task, to find it again after a restart: a handle with the whole task in it, and a few words of
//! our own.
//!
//! An agent that restores a handle without a task does not ask to recover it, and starts a second copy.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    proto::drivers as wire,
    registry::{Begun, Identity},
    state::TaskDir,
    task::TaskId,
};

/// The version of handles; 0 is the agent's own.
const HANDLE: i32 = 1;

/// The version of our own words.
const WORDS: u32 = 1;

/// Our own words in a handle. `version`, `dir` and `container` are in every version and mean the same, so that a newer
/// plugin finds an older one's task; which of its own versions the records there have, they say themselves.
#[derive(Debug, Serialize, Deserialize)]
struct Words {
    version: u32,
    dir: PathBuf,
    container: String,
    pid: i32,
    start_time: u64,
    started_at: i64,
}

/// Why a handle leads to no task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// There is no task in it.
    #[error("the handle has no task in it, so there is nothing to recover")]
    Empty,
    /// It is of a newer plugin.
    #[error(
        "the task was started by a newer milo-driver (its handle has version {0}, this plugin reads up to {WORDS}): it is \
         left alone; use that version again, or stop the task with it"
    )]
    Version(u32),
    /// Our own words make no sense.
    #[error("the handle cannot be read: {0}")]
    Unreadable(String),
}

/// The handle of a task that runs.
pub fn handle(config: wire::TaskConfig, begun: &Begun) -> wire::TaskHandle {
    let words = Words {
        version: WORDS,
        dir: begun.dir.path().to_path_buf(),
        container: TaskId(config.id.clone()).container(),
        pid: begun.started.pid,
        start_time: begun.started.start_time,
        started_at: begun.started.started_at,
    };
    wire::TaskHandle {
        version: HANDLE,
        config: Some(config),
        state: wire::TaskState::Running.into(),
        // Paths that are no UTF-8 have no JSON; such a task is found by its id.
        driver_state: serde_json::to_vec(&words).unwrap_or_default(),
    }
}

/// Whose handle it is, and where the task's records are if the handle says so.
pub fn read(handle: Option<&wire::TaskHandle>) -> Result<(Identity, Option<TaskDir>), HandleError> {
    let config = handle.and_then(|handle| handle.config.as_ref());
    let Some((handle, config)) = handle
        .zip(config)
        .filter(|(_, config)| !config.id.is_empty())
    else {
        return Err(HandleError::Empty);
    };
    let who = Identity {
        id: TaskId(config.id.clone()),
        name: config.name.clone(),
        alloc_id: config.alloc_id.clone(),
    };
    Ok((who, words(&handle.driver_state)?))
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// What is in the words of every version.
#[derive(Deserialize)]
struct Place {
    dir: PathBuf,
}

fn words(bytes: &[u8]) -> Result<Option<TaskDir>, HandleError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let unreadable = |error: serde_json::Error| HandleError::Unreadable(error.to_string());
    let Version { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if version > WORDS {
        return Err(HandleError::Version(version));
    }
    let place: Place = serde_json::from_slice(bytes).map_err(unreadable)?;
    Ok(Some(TaskDir::at(place.dir)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::Started;

    fn config() -> wire::TaskConfig {
        wire::TaskConfig {
            id: "9f0c/web/01234567".to_owned(),
            name: "web".to_owned(),
            alloc_id: "9f0c".to_owned(),
            ..wire::TaskConfig::default()
        }
    }

    fn written() -> wire::TaskHandle {
        let started = Started {
            pid: 7,
            start_time: 9,
            started_at: 11,
        };
        let begun = Begun {
            dir: TaskDir::at("/run/milo/tasks/x"),
            started,
            facts: BTreeMap::new(),
        };
        handle(config(), &begun)
    }

    #[test]
    fn a_handle_holds_the_whole_task_and_leads_back_to_it() {
        let handle = written();
        assert_eq!((handle.version, handle.config.clone()), (1, Some(config())));
        assert!(handle.driver_state.len() < 512);
        let (who, dir) = read(Some(&handle)).unwrap();
        assert_eq!(
            (who.id.0.as_str(), who.name.as_str(), who.alloc_id.as_str()),
            ("9f0c/web/01234567", "web", "9f0c")
        );
        assert_eq!(dir, Some(TaskDir::at("/run/milo/tasks/x")));
    }

    /// What agents keep now. When this fails, [`WORDS`] needs another number.
    #[test]
    fn the_words_of_this_version_are_the_ones_on_record() {
        let words = String::from_utf8(written().driver_state).unwrap();
        assert_eq!(words, include_str!("golden/handle-1.json").trim());
    }

    #[test]
    fn a_handle_without_a_task_leads_nowhere() {
        assert_eq!(read(None), Err(HandleError::Empty));
        let handle = wire::TaskHandle {
            config: None,
            ..written()
        };
        assert_eq!(read(Some(&handle)), Err(HandleError::Empty));
    }

    #[test]
    fn a_newer_handle_is_refused_and_an_older_one_and_one_without_words_are_not() {
        let newer = wire::TaskHandle {
            driver_state: br#"{"version":2,"place":"/x"}"#.to_vec(),
            ..written()
        };
        assert_eq!(read(Some(&newer)), Err(HandleError::Version(2)));
        let older = wire::TaskHandle {
            driver_state: br#"{"version":0,"dir":"/x","container":"milo-x"}"#.to_vec(),
            ..written()
        };
        assert_eq!(read(Some(&older)).unwrap().1, Some(TaskDir::at("/x")));
        let silent = wire::TaskHandle {
            driver_state: Vec::new(),
            ..written()
        };
        assert_eq!(read(Some(&silent)).unwrap().1, None);
    }
}
