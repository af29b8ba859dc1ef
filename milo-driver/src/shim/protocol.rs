//! What is said over a shim's socket: one JSON object a line. A request has one answer; `attach` and `wait` get theirs
//! when the container has ended.

use serde::{Deserialize, Serialize};

use crate::{state::Started, task::Exit};

/// What a shim is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Start the created container. Answered with [`Answer::Running`]; a second one does nothing and is answered alike.
    Start,
    /// Which state it is in. Answered at once.
    State,
    /// Answered with [`Answer::Exited`] when it has ended, any number of times.
    Wait,
    /// Like `wait`; but when this connection closes before, the container is killed.
    Attach,
    /// Send a signal to its first process. Answered with [`Answer::Done`].
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// Send a signal, wait, then kill everything in it. Answered with [`Answer::Exited`]; also when it had ended before.
    Stop {
        /// The first signal's number.
        signal: i32,
        /// How long it may take, in milliseconds; 0 kills at once.
        timeout_ms: u64,
    },
    /// Kill what runs, delete the container, and end. Answered with [`Answer::Done`], after which the directory may be
    /// removed.
    Dismiss,
}

/// What a shim answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    /// The container exists; its program has not begun.
    Created(Started),
    /// Its program runs.
    Running(Started),
    /// It has ended.
    Exited(Exit),
    /// It was done.
    Done,
    /// It could not be done.
    Failed {
        /// Why, in words for a user: what crun said, mostly.
        error: String,
    },
}
