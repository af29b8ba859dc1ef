//! The exit codes of every tool, in one table. Which error earns which code is decided where the
//! error is made; turning an error into text is [`crate::report`]'s work.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | the operation is done |
//! | 1 | the operation failed |
//! | 2 | the command line is wrong |
//! | 3 | the configuration is wrong |
//! | 4 | a daemon or upstream cannot be reached |
//! | 5 | the named thing does not exist |
//! | 70 | a bug in the tool (`EX_SOFTWARE` of `sysexits.h`) |
//! | any | a child's own code, for verbs that run a command; 128+n when signal n ended it |

use std::process::{ExitCode, ExitStatus};

/// How a run of a tool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The operation is done: 0.
    Done,
    /// The operation was carried out and failed: 1.
    Failed,
    /// The command line does not parse or contradicts itself: 2.
    Usage,
    /// A configuration file, variable or value is wrong: 3.
    Config,
    /// The daemon or an upstream service cannot be reached: 4.
    Unreachable,
    /// What the user named does not exist: 5.
    NotFound,
    /// A bug in the tool itself: 70.
    Internal,
    /// The code of a child process, handed through unchanged.
    Child(u8),
}

impl Exit {
    /// The code that a finished child stands for: its own, or 128+n when signal n ended it, as
    /// shells report it.
    ///
    /// A status that has neither (nor fits a byte, as on Windows) is [`Exit::Failed`].
    pub fn from_status(status: ExitStatus) -> Self {
        if status.success() {
            return Self::Done;
        }
        let code = status.code().or_else(|| signal(status).map(|n| 128 + n));
        code.and_then(|code| u8::try_from(code).ok())
            .map_or(Self::Failed, Self::Child)
    }

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::Unreachable => 4,
            Self::NotFound => 5,
            Self::Internal => 70,
            Self::Child(code) => code,
        }
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    status.signal()
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_the_documented_one() {
        let table = [
            (Exit::Done, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::Config, 3),
            (Exit::Unreachable, 4),
            (Exit::NotFound, 5),
            (Exit::Internal, 70),
            (Exit::Child(42), 42),
        ];
        for (exit, code) in table {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_childs_code_is_kept_and_a_signal_is_128_plus_n() {
        use std::os::unix::process::ExitStatusExt;
        // A raw wait status: the code in the second byte, or the signal in the first.
        assert_eq!(Exit::from_status(ExitStatus::from_raw(0)), Exit::Done);
        assert_eq!(
            Exit::from_status(ExitStatus::from_raw(3 << 8)),
            Exit::Child(3)
        );
        assert_eq!(Exit::from_status(ExitStatus::from_raw(9)), Exit::Child(137));
        assert_eq!(
            Exit::from_status(ExitStatus::from_raw(15)),
            Exit::Child(143)
        );
    }
}
