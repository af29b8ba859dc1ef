//! What the terminal at the other end can show: colour and width. Decisions only; nothing here
//! writes.
//!
//! Colour is decided once a process, by `--color`, the `NO_COLOR` convention and whether the stream
//! is a terminal.

use std::io::IsTerminal;
use std::sync::OnceLock;

/// When to colour, as `--color` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always, even into a file
    Always,
    /// Never
    Never,
}

/// The streams that a tool writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The answer.
    Stdout,
    /// The log, progress and errors.
    Stderr,
}

static CHOICE: OnceLock<Color> = OnceLock::new();

/// Records what `--color` said, for everything that writes to this process's terminal. The first
/// call counts.
pub fn choose(color: Color) {
    // A second call can only come from a test or a nested run; the first choice is the user's.
    let _ = CHOICE.set(color);
}

/// The recorded choice, [`Color::Auto`] when none was made yet.
pub fn choice() -> Color {
    CHOICE.get().copied().unwrap_or_default()
}

impl Stream {
    /// Whether a person looks at the stream.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::Stderr => std::io::stderr().is_terminal(),
        }
    }

    /// Columns of the terminal behind the stream; nothing when it is a file or a pipe.
    #[cfg(unix)]
    pub fn width(self) -> Option<u16> {
        let size = match self {
            Self::Stdout => rustix::termios::tcgetwinsize(std::io::stdout()),
            Self::Stderr => rustix::termios::tcgetwinsize(std::io::stderr()),
        };
        size.ok()
            .map(|size| size.ws_col)
            .filter(|columns| *columns > 0)
    }

    /// Columns of the terminal behind the stream; never known on this system.
    #[cfg(not(unix))]
    pub fn width(self) -> Option<u16> {
        None
    }
}

impl Color {
    /// Whether to colour what goes to `stream`.
    pub fn on(self, stream: Stream) -> bool {
        self.decide(
            stream.is_terminal(),
            std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
        )
    }

    /// The rule itself: a wish beats `NO_COLOR`, which beats the terminal (<https://no-color.org>).
    fn decide(self, terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => terminal && !no_color,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_colours_terminals_only_and_obeys_no_color() {
        assert!(Color::Auto.decide(true, false));
        assert!(!Color::Auto.decide(true, true));
        assert!(!Color::Auto.decide(false, false));
    }

    #[test]
    fn an_explicit_wish_beats_everything() {
        assert!(Color::Always.decide(false, true));
        assert!(!Color::Never.decide(true, false));
    }
}
