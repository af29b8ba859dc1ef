//! Why a Buildah program failed, in one line and by whose matter it is: from its exit code and its last words. The words are
//! those of Buildah 1.28 and later.

use rustix::process::geteuid;

use crate::{
    account::{self, Lack},
    phase::FailureKind,
};

use super::{
    enclosure::Enclosure,
    halt::Halt,
    session::{Ended, Heard, Session},
};

/// Signals by the names that Go gives them, which Buildah prints.
const SIGNALS: &[(&str, i32)] = &[
    ("hangup", 1),
    ("interrupt", 2),
    ("quit", 3),
    ("illegal instruction", 4),
    ("trace/breakpoint trap", 5),
    ("aborted", 6),
    ("bus error", 7),
    ("floating point exception", 8),
    ("killed", 9),
    ("user defined signal 1", 10),
    ("segmentation fault", 11),
    ("user defined signal 2", 12),
    ("broken pipe", 13),
    ("alarm clock", 14),
    ("terminated", 15),
];

/// What a program in a container did in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// It ended with this code.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// It could not be started: there is no such file.
    Missing,
    /// It is not known to have run.
    Unknown,
}

impl Command {
    /// Reads it from what Buildah said. `chroot` isolation tells a signal in words only; an OCI runtime adds 128.
    fn of(heard: &Heard, code: Option<i32>) -> Self {
        let said = |words: &str| heard.errors.iter().any(|line| line.contains(words));
        if said("process failed to start with error")
            || said("executable file not found in $PATH")
            || said("executable file `")
        {
            return Self::Missing;
        }
        let signal = heard.errors.iter().find_map(|line| {
            let name = line.strip_prefix("subprocess exited on ")?;
            SIGNALS.iter().find(|(known, _)| *known == name.trim())
        });
        if let Some((_, number)) = signal {
            return Self::Signal(*number);
        }
        let told = heard.errors.iter().rev().find_map(|line| {
            let (_, code) = line.rsplit_once("exit status ")?;
            code.trim().parse().ok()
        });
        match told.filter(|told| Some(*told) == code) {
            Some(code @ 129..=159) => Self::Signal(code - 128),
            Some(code) => Self::Exit(code),
            None => Self::Unknown,
        }
    }
}

/// Why `buildah bud` failed. `dockerfile` is its path as the user knows it, and its text.
pub(super) fn build(session: &Session<'_>, ended: &Ended, dockerfile: (&str, &str)) -> Halt {
    let error = last_error(&ended.heard);
    let (path, text) = dockerfile;
    let Some((step, why)) = step(&error) else {
        return anything(session, ended, &error, "build");
    };
    let place = match line(text, &step) {
        Some(line) => format!("{path}:{line}: {step}"),
        None => format!("{path}: {step}"),
    };
    if let Some(lack) = lack(session, &ended.heard) {
        return lack_of(&lack, &place);
    }
    if !step.starts_with("RUN ") {
        return anything(session, ended, &format!("{place}: {why}"), "build");
    }
    match Command::of(&ended.heard, ended.status.code()) {
        _ if exceeded(session) => out_of_memory(session, &place),
        _ if why.contains("no space left on device") => {
            Halt::infrastructure(format!("disk full: {place}: {why}"))
        }
        Command::Exit(code) if disk_full(&ended.heard) => Halt::of(
            FailureKind::Exit { code },
            format!("{place}: exit code {code} (disk full)"),
        ),
        Command::Exit(code) => Halt::of(
            FailureKind::Exit { code },
            format!("{place}: exit code {code}"),
        ),
        Command::Signal(signal) => Halt::of(
            FailureKind::Signal { signal },
            format!("{place}: ended by signal {signal}"),
        ),
        Command::Missing => Halt::input(format!("{place}: there is no such program in the image")),
        Command::Unknown => anything(session, ended, &format!("{place}: {why}"), "build"),
    }
}

/// Why a test in a container failed.
pub(super) fn test(session: &Session<'_>, ended: &Ended, command: &str) -> Halt {
    if let Some(lack) = lack(session, &ended.heard) {
        return lack_of(&lack, command);
    }
    match Command::of(&ended.heard, ended.status.code()) {
        _ if exceeded(session) => out_of_memory(session, command),
        Command::Exit(code) => Halt::of(
            FailureKind::Exit { code },
            format!("{command}: exit code {code}"),
        ),
        Command::Signal(signal) => Halt::of(
            FailureKind::Signal { signal },
            format!("{command}: ended by signal {signal}"),
        ),
        Command::Missing => {
            Halt::input(format!("{command}: there is no such program in the image"))
        }
        Command::Unknown => anything(session, ended, &last_error(&ended.heard), "test"),
    }
}

/// Why a push, a pull or anything else of Buildah's failed.
pub(super) fn anything(session: &Session<'_>, ended: &Ended, error: &str, what: &str) -> Halt {
    if exceeded(session) {
        return out_of_memory(session, what);
    }
    if let Some(lack) = lack(session, &ended.heard) {
        return lack_of(&lack, what);
    }
    let message = match (error.is_empty(), ended.status.code()) {
        (false, _) => error.to_owned(),
        (true, Some(code)) => format!("{what}: buildah ended with {code} and said nothing"),
        (true, None) => format!("{what}: buildah was ended by a signal"),
    };
    Halt::of(
        kind(&message, &ended.heard),
        prefixed(&message, &ended.heard),
    )
}

/// What the account of this run lacks, if it is that which Buildah stumbled over: a container of an ordinary user has ids of
/// its own, and what Buildah says where there are none looks like a fault of the step that needed the first of them.
pub(super) fn lack(session: &Session<'_>, heard: &Heard) -> Option<Lack> {
    let said = heard.text();
    let path = session.environment.iter().find(|(name, _)| name == "PATH");
    let refused = || {
        Lack {
        what: "newuidmap or newgidmap did not give the account the ids that are listed for it".to_owned(),
        mend: "have both set-user-id root, or with file capabilities, as the package `uidmap` installs them".to_owned(),
    }
    };
    // A step may say the same of what it does itself, so that the account is looked at, too. Root has all ids, and in a container
    // as many as whoever made that gave it.
    match unmapped(&said)? {
        Unmapped::Program => account::mappers(path.map(|(_, path)| path.as_os_str())),
        Unmapped::Groups | Unmapped::Ids if geteuid().is_root() => None,
        Unmapped::Groups => account::ranges().err().or_else(|| Some(refused())),
        Unmapped::Ids => {
            let fell_back = said.contains("Falling back to single mapping");
            account::ranges().err().or_else(|| fell_back.then(refused))
        }
    }
}

/// The failure of a run whose account lacks something; `at` is where it was noticed.
pub(super) fn lack_of(lack: &Lack, at: &str) -> Halt {
    Halt::infrastructure(format!(
        "Buildah cannot make containers under this account: {} ({}); noticed at {at}",
        lack.what, lack.mend
    ))
}

/// How it shows that ids are not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unmapped {
    /// One of the programs that map is missing.
    Program,
    /// No groups can be set, as in a namespace with one id.
    Groups,
    /// An id was needed that there is not.
    Ids,
}

/// By what Buildah says: `containers/storage` in `pkg/unshare` and `pkg/idtools`, Buildah's `chroot` and `copier`.
fn unmapped(said: &str) -> Option<Unmapped> {
    let has = |words: &str| said.contains(words);
    let no_owner = |line: &str| {
        let line = line.to_lowercase();
        line.contains("invalid argument") && (line.contains("chown") || line.contains("ownership"))
    };
    match () {
        () if has("finding newuidmap") || has("finding newgidmap") => Some(Unmapped::Program),
        () if has("setting supplemental groups list: operation not permitted") => {
            Some(Unmapped::Groups)
        }
        () if has("potentially insufficient UIDs or GIDs") || said.lines().any(no_owner) => {
            Some(Unmapped::Ids)
        }
        () => None,
    }
}

/// Whether trying again may help: nobody answered, or not to the end.
pub(super) fn is_transport(heard: &Heard) -> bool {
    transport(&heard.text().to_lowercase())
}

fn transport(said: &str) -> bool {
    let words = [
        "connection refused",
        "connection reset",
        "no such host",
        "i/o timeout",
        "tls handshake timeout",
        "unexpected eof",
        ": eof",
        "broken pipe",
        "server misbehaving",
        "network is unreachable",
        "no route to host",
        "status: 50",
        "status code 50",
        "internal server error",
        "bad gateway",
        "service unavailable",
        "gateway timeout",
        "too many requests",
        "toomanyrequests",
        "context deadline exceeded",
        "temporary failure in name resolution",
    ];
    words.iter().any(|words| said.contains(words))
}

fn kind(message: &str, heard: &Heard) -> FailureKind {
    let said = format!("{message}\n{}", heard.text()).to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let infrastructure = [
        "no space left on device",
        "storage",
        "x509:",
        "http response to https client",
        "permission denied",
        "operation not permitted",
        "was ended by a signal",
        "cannot allocate memory",
        "read-only file system",
    ];
    let input = [
        "unauthorized",
        "authentication required",
        "denied:",
        "access to the resource is denied",
        "manifest unknown",
        "name unknown",
        "not found",
        "did not resolve to an alias",
        "no such file",
        "unknown instruction",
        "checking on sources",
        "parsing",
        "invalid reference",
        "no image",
        "building at step",
        "unknown flag",
        "dockerfile",
        "no stages",
        "target",
    ];
    match () {
        () if has(&["no space left on device"]) || transport(&said) => FailureKind::Infrastructure,
        () if has(&["unauthorized", "authentication required"]) => FailureKind::Input,
        () if has(&infrastructure) && !has(&["denied:"]) => FailureKind::Infrastructure,
        () if has(&input) => FailureKind::Input,
        () => FailureKind::Infrastructure,
    }
}

/// What many different messages have in common, said first.
fn prefixed(message: &str, heard: &Heard) -> String {
    let lower = message.to_lowercase();
    match () {
        () if lower.contains("no space left on device") || disk_full(heard) => {
            format!("disk full: {message}")
        }
        () if lower.contains("unauthorized") || lower.contains("authentication required") => {
            format!("{message} (are the registry's credentials right?)")
        }
        () => message.to_owned(),
    }
}

fn disk_full(heard: &Heard) -> bool {
    let full = |line: &String| line.to_lowercase().contains("no space left on device");
    heard.errors.iter().any(full)
}

fn exceeded(session: &Session<'_>) -> bool {
    session
        .enclosure
        .as_ref()
        .is_some_and(Enclosure::was_exceeded)
}

fn out_of_memory(session: &Session<'_>, place: &str) -> Halt {
    let limit = session.work.memory.unwrap_or_default() >> 20;
    Halt::of(
        FailureKind::OutOfMemory,
        format!("{place}: it used more than its {limit} MB of memory"),
    )
}

fn last_error(heard: &Heard) -> String {
    cause(heard.errors.iter().map(String::as_str))
}

/// Of the lines that Buildah said, the one that tells why it failed: the last `Error: …` (it was `error …` once), without that
/// word, else the last error that it logged, else the last line that is no warning, else the last one.
pub(crate) fn cause<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    let lines: Vec<&str> = lines.into_iter().collect();
    let of =
        |pick: &dyn Fn(&'a str) -> Option<&'a str>| lines.iter().rev().find_map(|line| pick(line));
    let marked = |line: &'a str| {
        let rest = line.strip_prefix("Error: ");
        rest.or_else(|| line.starts_with("error ").then_some(line))
    };
    if let Some(said) = of(&marked) {
        return said.trim().to_owned();
    }
    let logged = |line: &'a str| {
        let (_, message) = line.split_once(" level=error msg=")?;
        // What follows an error that was told before.
        (!message.contains("(Unable to determine exit status)")).then_some(message)
    };
    if let Some(message) = of(&logged) {
        return unquoted(message.trim());
    }
    let said = of(&|line| (!line.contains(" level=warning ")).then_some(line));
    said.or(lines.last().copied())
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// A message of Go's logger, which is quoted if it has spaces in it.
fn unquoted(message: &str) -> String {
    serde_json::from_str(message).unwrap_or_else(|_| message.to_owned())
}

/// `building at STEP "RUN make": exit status 2` → the step and what follows.
fn step(error: &str) -> Option<(String, String)> {
    let (_, rest) = error.split_once("building at STEP \"")?;
    let (step, why) = rest.split_once("\": ").unwrap_or((rest, ""));
    Some((step.trim().to_owned(), why.to_owned()))
}

/// The line of the Dockerfile with this step, if there is exactly one. Buildah shows steps with their white space and quotes
/// changed, so only letters and digits are compared.
fn line(dockerfile: &str, step: &str) -> Option<usize> {
    let letters = |text: &str| {
        text.chars()
            .filter(|c| c.is_alphanumeric())
            .collect::<String>()
    };
    let wanted = letters(step);
    let mut found = None;
    let mut begun: Option<(usize, String)> = None;
    for (index, text) in dockerfile.lines().enumerate() {
        if text.trim_start().starts_with('#') {
            continue;
        }
        let (at, so_far) = begun.take().unwrap_or((index + 1, String::new()));
        let (text, goes_on) = match text.trim_end().strip_suffix('\\') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let instruction = so_far + &letters(text);
        if goes_on {
            begun = Some((at, instruction));
        } else if !instruction.is_empty() && instruction.eq_ignore_ascii_case(&wanted) {
            if found.is_some() {
                return None;
            }
            found = Some(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Heard {
        Heard {
            step: None,
            errors: lines.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn the_line_of_a_step_is_found_across_continuations_and_quotes() {
        let text = "# RUN make\nFROM scratch\nRUN a && \\\n  # between\n  b\nRUN [\"/bin/x\", \"y z\"]\nRUN c\nRUN c\n";
        assert_eq!(line(text, "RUN a &&   b"), Some(3));
        assert_eq!(line(text, "RUN /bin/x y z"), Some(6));
        assert_eq!(line(text, "RUN c"), None);
        assert_eq!(line(text, "RUN make"), None);
    }

    #[test]
    fn a_commands_end_is_told_truthfully() {
        let of = |lines: &[&str], code| Command::of(&heard(lines), Some(code));
        let exited = ["subprocess exited with status 3", "Error: exit status 3"];
        assert_eq!(of(&exited, 3), Command::Exit(3));
        let killed = [
            "subprocess exited on killed",
            "subprocess exited with status 1",
            "Error: exit status 1",
        ];
        assert_eq!(of(&killed, 1), Command::Signal(9));
        assert_eq!(
            of(&["Error: while running runtime: exit status 137"], 137),
            Command::Signal(9)
        );
        assert_eq!(of(&["Error: exit status 125"], 125), Command::Exit(125));
        assert_eq!(of(&["Error: container not known"], 125), Command::Unknown);
        let missing = "process failed to start with error: exec: \"nope\": executable file not found in $PATHprocess";
        assert_eq!(of(&[missing, "Error: exit status 1"], 1), Command::Missing);
    }

    #[test]
    fn a_failure_is_whose_matter_it_is() {
        let of = |message: &str| kind(message, &heard(&[]));
        let down = "creating build container: pinging container registry r:1: dial tcp 127.0.0.1:1: connect: connection refused";
        assert_eq!(of(down), FailureKind::Infrastructure);
        assert_eq!(
            of("initializing source: reading manifest x: manifest unknown"),
            FailureKind::Input
        );
        assert_eq!(of("authentication required"), FailureKind::Input);
        assert_eq!(
            of("write /x: no space left on device"),
            FailureKind::Infrastructure
        );
        assert_eq!(
            of("Dockerfile: COPY a /: checking on sources under \"/c\": no such file"),
            FailureKind::Input
        );
    }

    #[test]
    fn what_buildah_says_without_ids_is_known_from_what_a_step_says() {
        let of = |lines: &[&str]| unmapped(&heard(lines).text());
        let none = [
            "error setting supplemental groups list: operation not permittedsubprocess exited with status 1",
            "Error: building at STEP \"RUN /bin/sh -c echo hi\": exit status 1",
        ];
        assert_eq!(of(&none), Some(Unmapped::Groups));
        let owner = "Error: building at STEP \"COPY --chown=1:1 a /x\": storing \"/c/a\": error during bulk transfer: copier: put: error setting ownership of \"/x\" to 1:1: lchown /x: invalid argument";
        assert_eq!(of(&[owner]), Some(Unmapped::Ids));
        let program = "time=\"t\" level=error msg=\"finding newgidmap: exec: \\\"newgidmap\\\": executable file not found in $PATH\"";
        assert_eq!(of(&[program]), Some(Unmapped::Program));
        let tar = "tar: x: Cannot change ownership to uid 5, gid 5: Invalid argument";
        assert_eq!(of(&[tar]), Some(Unmapped::Ids));
        for own in ["dd: invalid argument", "chown: /x: Operation not permitted"] {
            assert_eq!(of(&[own, "Error: exit status 1"]), None, "{own}");
        }
    }

    #[test]
    fn the_cause_is_quoted_and_neither_warnings_nor_what_follows_it() {
        let warning = "time=\"t\" level=warning msg=\"Found no UID ranges\"";
        let logged = "time=\"t\" level=error msg=\"finding \\\"x\\\"\"";
        let after = "time=\"t\" level=error msg=\"(Unable to determine exit status)\"";
        for (lines, told) in [
            (&["Error: a: b", logged, warning][..], "a: b"),
            (&[warning, logged, after], "finding \"x\""),
            (&["plain", warning], "plain"),
            (&[warning], warning),
            (&[], ""),
        ] {
            assert_eq!(cause(lines.iter().copied()), told, "{lines:?}");
        }
    }

    #[test]
    fn a_step_is_read_from_buildahs_words() {
        let error = "building at STEP \"RUN echo \"a\": b\": exit status 2";
        let (found, _) = step(error).unwrap();
        assert!(found.starts_with("RUN echo"));
        let heard = heard(&[
            "Error: building at STEP \"COPY x /\": copier: stat: \"/x\": no such file or directory",
        ]);
        let error = last_error(&heard);
        assert_eq!(step(&error).unwrap().0, "COPY x /");
    }
}
