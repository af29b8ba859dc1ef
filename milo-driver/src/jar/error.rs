//! What can be wrong with a JAR, and the four lines that say so: `Error`, `Expected`, `Got`, `Suggestion`. They reach the
//! task's own log, a Nomad event and the command line alike, and people search for them: the texts are promises.

use std::{fmt, path::Path};

use serde::Serialize;

/// So many names are listed at most.
const LISTED: usize = 10;

/// Why a JAR cannot be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JarError {
    /// It is called otherwise.
    WrongExtension {
        /// The name.
        got: String,
    },
    /// Nothing was downloaded.
    NoneDownloaded {
        /// What is there instead.
        got: String,
    },
    /// There is no such file.
    Missing {
        /// The name.
        name: String,
    },
    /// There are more than one, and none was asked for.
    Several {
        /// Their names.
        names: Vec<String>,
    },
    /// It is not a whole ZIP archive.
    Corrupted {
        /// The name.
        name: String,
        /// What the archive's reader says.
        reason: String,
    },
    /// It has no content.
    Empty {
        /// The name.
        name: String,
    },
    /// It is a ZIP archive without `META-INF`.
    PlainZip {
        /// The name.
        name: String,
    },
    /// It is what a server sends in place of a file.
    Page {
        /// The name.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// It, or a folder on the way, may not be read.
    Denied {
        /// The name.
        name: String,
        /// Whom, if not this process.
        whom: Option<String>,
    },
    /// A symbolic link leads out of the task's folder.
    Link {
        /// The name.
        name: String,
        /// Where it points, if it is the last part of the name that is a link.
        target: Option<String>,
    },
    /// The name itself leads out of the task's folder.
    Outside {
        /// The name.
        name: String,
    },
    /// It is a folder, a FIFO or a device.
    NotAFile {
        /// The name.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// Its manifest names no class to run.
    NoMainClass {
        /// The name.
        name: String,
    },
    /// The kernel cannot open files below a folder only.
    OldKernel {
        /// The name.
        name: String,
    },
    /// The system refuses for another reason.
    Unreadable {
        /// The name.
        name: String,
        /// The reason.
        reason: String,
    },
}

/// The four lines, without their labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is wrong.
    pub error: String,
    /// What should have been there.
    pub expected: String,
    /// What is there.
    pub got: String,
    /// The way out.
    pub suggestion: String,
}

impl Report {
    fn new(
        error: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
        suggestion: impl Into<String>,
    ) -> Self {
        Self {
            error: error.into(),
            expected: expected.into(),
            got: got.into(),
            suggestion: suggestion.into(),
        }
    }
}

impl JarError {
    /// Whether there is no such file, as opposed to one that is wrong.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NoneDownloaded { .. })
    }

    /// The four lines.
    pub fn report(&self) -> Report {
        match self {
            Self::WrongExtension { .. }
            | Self::NoneDownloaded { .. }
            | Self::Missing { .. }
            | Self::Several { .. } => self.about_the_choice(),
            Self::Denied { .. }
            | Self::Link { .. }
            | Self::Outside { .. }
            | Self::NotAFile { .. }
            | Self::OldKernel { .. }
            | Self::Unreadable { .. } => self.about_the_way(),
            _ => self.about_the_content(),
        }
    }

    fn about_the_choice(&self) -> Report {
        match self {
            Self::WrongExtension { got } => Report::new(
                format!("Artifact must be a .jar file, got: {}", last(got)),
                "A Java archive whose name ends in .jar",
                got,
                "Point the artifact or jar_path at the JAR that your build makes",
            ),
            Self::NoneDownloaded { got } => Report::new(
                "Failed to download artifact: file not found",
                "Exactly one .jar file in local/",
                got,
                "Add an artifact block that fetches the JAR, or name it with jar_path",
            ),
            Self::Several { names } => Report::new(
                "Multiple JAR files found",
                "Exactly one .jar file in local/",
                format!("{} JAR files ({})", names.len(), listed(names)),
                "Use a single artifact or specify which JAR to execute",
            ),
            other => Report::new(
                "Artifact file not found",
                "A readable .jar file",
                format!("No such file: {}", other.name()),
                "Check the path, and that the artifact was downloaded",
            ),
        }
    }

    fn about_the_way(&self) -> Report {
        let name = self.name();
        let inside = "A file inside the task directory";
        let place_it = "Put the JAR itself into the task directory, or mount the folder it is in";
        match self {
            Self::Denied { whom, .. } => {
                let (whom, for_whom) = whom.as_ref().map_or_else(
                    || ("this user".to_owned(), String::new()),
                    |whom| (whom.clone(), format!(" for {whom}")),
                );
                Report::new(
                    "Cannot read JAR file",
                    format!(
                        "A file that {whom} may read, in folders that {whom} may enter ({name})"
                    ),
                    format!("Permission denied on {}{for_whom}", last(name)),
                    "Change its mode (chmod a+r, chmod a+x for folders), or run the task as another user",
                )
            }
            Self::Link { target, .. } => {
                let target = target.as_ref().map_or_else(
                    || format!("{name} (a link on the way points outside the task directory)"),
                    |target| format!("{name} -> {target} (pointing outside the task directory)"),
                );
                Report::new("JAR file is a symbolic link", inside, target, place_it)
            }
            Self::Outside { .. } => Report::new(
                "JAR file is outside the task directory",
                inside,
                name,
                place_it,
            ),
            Self::OldKernel { .. } => Report::new(
                "Cannot open JAR file safely",
                "A kernel with openat2 (Linux 5.6 or newer) that no system-call filter hides",
                format!("openat2 is not available to open {name}"),
                "Update the kernel, or let the agent's sandbox allow openat2",
            ),
            Self::Unreadable { reason, .. } => Report::new(
                "Cannot read JAR file",
                "A readable .jar file",
                format!("{reason} on {name}"),
                "Check the file system that it is on",
            ),
            Self::NotAFile { kind, .. } => Report::new(
                "Artifact must be a JAR file",
                "A regular file",
                format!("{kind}: {name}"),
                "Name the JAR itself",
            ),
            _ => self.about_the_content(),
        }
    }

    fn about_the_content(&self) -> Report {
        let name = self.name();
        let again = "Re-download the artifact or verify the source file";
        match self {
            Self::Empty { .. } => Report::new(
                "JAR file is empty",
                "A ZIP archive with META-INF",
                format!("0 bytes in {name}"),
                again,
            ),
            Self::PlainZip { .. } => Report::new(
                "Not a valid JAR file",
                "A ZIP archive with META-INF",
                format!("ZIP file without META-INF: {name}"),
                "Build it with `jar`, Maven or Gradle instead of `zip`",
            ),
            Self::Page { kind, .. } => Report::new(
                "Downloaded file is not a JAR",
                format!("A Java archive in {name}"),
                *kind,
                "Open the artifact's URL: it may need a login, another path or a direct link",
            ),
            Self::NoMainClass { .. } => Report::new(
                "JAR file has no main class",
                "Main-Class in META-INF/MANIFEST.MF, as `java -jar` needs it",
                format!("No Main-Class in {name}"),
                "Build an executable JAR, or name the class with class and class_path",
            ),
            Self::Corrupted { reason, .. } => Report::new(
                "Invalid JAR file format",
                format!("A complete ZIP archive in {name} ({reason})"),
                "Corrupted or incomplete file",
                again,
            ),
            _ => self.about_the_way(),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::WrongExtension { got } | Self::NoneDownloaded { got } => got,
            Self::Several { .. } => "local/",
            Self::Missing { name }
            | Self::Corrupted { name, .. }
            | Self::Empty { name }
            | Self::PlainZip { name }
            | Self::Page { name, .. }
            | Self::Denied { name, .. }
            | Self::Link { name, .. }
            | Self::Outside { name }
            | Self::NotAFile { name, .. }
            | Self::NoMainClass { name }
            | Self::OldKernel { name }
            | Self::Unreadable { name, .. } => name,
        }
    }
}

impl fmt::Display for JarError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            error,
            expected,
            got,
            suggestion,
        } = self.report();
        write!(
            formatter,
            "Error: {error}\nExpected: {expected}\nGot: {got}\nSuggestion: {suggestion}"
        )
    }
}

impl std::error::Error for JarError {}

/// How a file is called in an error: each stays one line, whatever the name holds.
pub(super) fn shown(path: &Path) -> String {
    let plain = path.to_string_lossy();
    plain.chars().map(visible).collect()
}

fn visible(character: char) -> char {
    if character.is_control() {
        char::REPLACEMENT_CHARACTER
    } else {
        character
    }
}

/// The last part of a name.
fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn listed(names: &[String]) -> String {
    let mut text = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED {
        text.push_str(", …");
    }
    text
}
