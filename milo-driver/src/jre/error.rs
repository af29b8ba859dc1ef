//! What is said when there is no JVM for a task. People search for these texts, and jobs' logs are tested for them: they
//! are promises.

use std::{fmt, path::PathBuf};

use super::{Jre, Rejected, Search, Source};
use crate::task::JreSelect;

/// Why there is no JVM for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JreError {
    /// There is none on this host.
    None {
        /// Where it was looked for, a line each.
        searched: Vec<String>,
    },
    /// What should be one has no `bin/java`.
    Invalid {
        /// The home.
        home: PathBuf,
        /// What is missing in it.
        missing: PathBuf,
    },
    /// There are some, but none of them starts.
    Broken {
        /// Which, and why not, a line each.
        broken: Vec<String>,
    },
    /// There are some, but none is what was asked for.
    NoMatch {
        /// What was asked for.
        asked: String,
        /// What there is.
        found: Vec<String>,
        /// What would match and does not start, a line each.
        broken: Vec<String>,
    },
}

impl JreError {
    /// For a host without any. A named home that is there and has no JVM in it is the reason; else it is that there is
    /// none at all.
    pub(super) fn nothing(search: &Search, rejected: &[Rejected]) -> Self {
        let halves = rejected
            .iter()
            .filter(|rejected| matches!(rejected.source, Source::Configured | Source::JavaHome));
        for half in halves {
            if let (true, Some(missing)) = (half.home.is_dir(), &half.missing) {
                return Self::Invalid {
                    home: half.home.clone(),
                    missing: missing.clone(),
                };
            }
        }
        Self::None {
            searched: searched(search, rejected),
        }
    }

    pub(super) fn broken(broken: &[(Jre, String)]) -> Self {
        Self::Broken {
            broken: broken.iter().map(line).collect(),
        }
    }

    pub(super) fn no_match<'a>(
        asked: &JreSelect,
        default: Option<&str>,
        found: &[Jre],
        broken: impl Iterator<Item = &'a (Jre, String)>,
    ) -> Self {
        Self::NoMatch {
            broken: broken.map(line).collect(),
            asked: wish(asked, default),
            found: found.iter().map(named).collect(),
        }
    }
}

impl fmt::Display for JreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None { searched } => write!(
                formatter,
                "Error: No Java runtime found on host. Please install Java to use Milo driver.\n\n\
                 Searched locations:\n{}\n\n\
                 To fix:\n\
                 1. Install Java: sudo apt install openjdk-17-jdk\n\
                 2. Or set JAVA_HOME to existing installation",
                searched.join("\n")
            ),
            Self::Invalid { home, missing } => write!(
                formatter,
                "Error: Java installation at {} appears invalid\n\
                 Missing executable: {}\n\
                 Suggestion: Install Java there, or name another home with java_homes or JAVA_HOME",
                home.display(),
                missing.display()
            ),
            Self::Broken { broken } => write!(
                formatter,
                "Error: No Java runtime of this host starts\n\
                 {}\n\
                 Suggestion: Repair or reinstall it, or name another home with java_homes or JAVA_HOME",
                broken.join("\n")
            ),
            Self::NoMatch {
                asked,
                found,
                broken,
            } => {
                write!(
                    formatter,
                    "Error: No matching Java runtime found on host\n\
                     Expected: {asked}\n\
                     Got: {}\n",
                    found.join(", ")
                )?;
                for line in broken {
                    writeln!(formatter, "{line}")?;
                }
                formatter.write_str(
                    "Suggestion: Install it, add its home to java_homes, or ask for one of these",
                )
            }
        }
    }
}

impl std::error::Error for JreError {}

fn named(jre: &Jre) -> String {
    let home = jre.home.display();
    format!("{} ({}) at {home}", jre.version, jre.vendor)
}

fn line((jre, reason): &(Jre, String)) -> String {
    format!("Rejected: {}: {reason}", named(jre))
}

fn searched(search: &Search, rejected: &[Rejected]) -> Vec<String> {
    let reason = |source: &Source| {
        let rejected = rejected
            .iter()
            .find(|rejected| rejected.source == *source)?;
        Some(format!("{}: {}", rejected.home.display(), rejected.reason))
    };
    let path = reason(&Source::Path).unwrap_or_else(|| "not found".to_owned());
    let mut lines = vec![format!("- PATH ({path})")];
    lines.push(match &search.java_home {
        None => "- JAVA_HOME environment variable (not set)".to_owned(),
        Some(home) => format!("- JAVA_HOME: {} (invalid or not found)", home.display()),
    });
    let homes = search.homes.iter();
    lines.extend(
        homes.map(|home| format!("- java_homes: {} (invalid or not found)", home.display())),
    );
    for folder in &search.standard {
        let source = Source::Standard(folder.clone());
        let reason = reason(&source).unwrap_or_else(|| "not found".to_owned());
        lines.push(format!("- {} ({reason})", folder.display()));
    }
    lines
}

fn wish(asked: &JreSelect, default: Option<&str>) -> String {
    let mut wishes = Vec::new();
    wishes.extend(
        asked
            .version
            .as_ref()
            .map(|version| format!("version {version}")),
    );
    wishes.extend(
        asked
            .vendor
            .as_ref()
            .map(|vendor| format!("vendor {vendor}")),
    );
    wishes.extend(
        asked
            .home
            .as_ref()
            .map(|home| format!("home {}", home.display())),
    );
    if wishes.is_empty() {
        wishes.extend(default.map(|default| format!("the default {default}")));
    }
    wishes.join(", ")
}
