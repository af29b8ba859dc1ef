//! Fetching the source: exactly one commit of a Git repository, without its history, or a directory of this machine. What of it
//! is built is decided by [`super::build`].
//!
//! Git reads no configuration but ours, starts no helper but its own credential store, follows no protocol but the URL's, and
//! gets neither URL nor ref where they could be an option. The repository stays out of the work tree, so that what is built
//! depends on the files alone.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use runyard_common::secret::Secret;

use super::{
    credentials::{self, with_end},
    halt::Halt,
    mask::percent,
    place::{Ground, Place},
    session::{Call, Ended, Session},
    work::Credential,
};
use crate::{
    secrets::{Found, SSH_KEY},
    spec::Source,
};

/// What was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Where it is.
    pub(super) folder: PathBuf,
    /// Which commit it is; none for a directory that is not exactly one.
    pub(super) commit: Option<String>,
}

/// Fetches the source of a build.
pub(super) fn fetch(
    session: &mut Session<'_>,
    (ground, place): (&Ground, &Place),
    source: &Source,
    credential: Option<&Credential>,
) -> Result<Fetched, Halt> {
    let (url, reference) = match source {
        Source::Directory { path } => return directory(session, path),
        Source::Git { url, reference } => (url, reference),
    };
    let protocols = protocols(url)?;
    check_reference(reference)?;
    let found = match credential {
        Some(credential) => credentials::found(session, credential)?,
        None => None,
    };
    let git = Git {
        home: place.file("home"),
        repository: place.file("git"),
        tree: place.file("source"),
        ssh: configure(ground, place, url, found.as_ref())?,
        protocols,
        shown: shown(url),
    };
    session.say(format!("build: git fetch {} {reference}", git.shown));
    git.init(session)?;
    let commit = git.fetch(session, url, reference)?;
    git.check_out(session, &commit)?;
    session.say(format!("build: commit {commit}"));
    Ok(Fetched {
        folder: git.tree,
        commit: Some(commit),
    })
}

/// The calls that fetch a commit, if everything goes well; `folder` is the run's.
pub(super) fn calls(folder: &Path, url: &str, reference: &str, commit: &str) -> Vec<Call> {
    let git = Git {
        home: folder.join("home"),
        repository: folder.join("git"),
        tree: folder.join("source"),
        ssh: String::new(),
        protocols: "",
        shown: String::new(),
    };
    vec![
        git.init_call(),
        git.fetch_call(url, reference),
        git.check_out_call(commit),
    ]
}

struct Git {
    home: PathBuf,
    repository: PathBuf,
    tree: PathBuf,
    ssh: String,
    protocols: &'static str,
    shown: String,
}

impl Git {
    fn call(&self) -> Call {
        Call::of("git")
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", &self.home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "true")
            .env("SSH_ASKPASS", "true")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("GIT_ALLOW_PROTOCOL", self.protocols)
            .env("GIT_SSH_COMMAND", &self.ssh)
            .env("LC_ALL", "C")
            .option("--git-dir", &self.repository)
            .option("--work-tree", &self.tree)
    }

    fn init_call(&self) -> Call {
        let call = self.call().arg("init").arg("--quiet");
        call.option("--template", "")
    }

    fn fetch_call(&self, url: &str, reference: &str) -> Call {
        let call = self
            .call()
            .args(["fetch", "--quiet", "--no-tags", "--depth=1", "--"]);
        call.arg(url).arg(reference)
    }

    fn check_out_call(&self, commit: &str) -> Call {
        let call = self.call().args(["checkout", "--quiet", "--force"]);
        call.args(["--detach", commit])
    }

    fn run(&self, session: &mut Session<'_>, call: &Call) -> Result<Ended, Halt> {
        let ended = session.program(call)?;
        if ended.status.success() {
            Ok(ended)
        } else {
            Err(self.explain(&ended))
        }
    }

    fn init(&self, session: &mut Session<'_>) -> Result<(), Halt> {
        super::place::folder(&self.tree).map_err(|error| Halt::io(self.tree.display(), &error))?;
        self.run(session, &self.init_call()).map(drop)
    }

    /// Fetches the one commit, or, where the server does not give single commits away or only the beginning of an id is known,
    /// everything.
    fn fetch(&self, session: &mut Session<'_>, url: &str, reference: &str) -> Result<String, Halt> {
        let ended = session.program(&self.fetch_call(url, reference))?;
        if ended.status.success() {
            return self.resolve(session, "FETCH_HEAD");
        }
        let hex =
            (7..=64).contains(&reference.len()) && reference.bytes().all(|b| b.is_ascii_hexdigit());
        let said = ended.heard.text().to_lowercase();
        let missing = ["remote ref", "unadvertised", "not our ref", "upload-pack: "];
        if !hex || !missing.iter().any(|words| said.contains(words)) {
            return Err(self.explain_fetch(&ended, reference));
        }
        session.say(
            "build: the server does not give this commit alone; fetching all branches and tags",
        );
        let all = self.call().args(["fetch", "--quiet", "--tags", "--", url]);
        self.run(session, &all.args(["+refs/heads/*:refs/remotes/origin/*"]))?;
        match self.resolve(session, reference) {
            Err(Halt::Failed(_)) => Err(Halt::input(format!(
                "no commit `{reference}` is in a branch or tag of {}",
                self.shown
            ))),
            other => other,
        }
    }

    fn resolve(&self, session: &mut Session<'_>, name: &str) -> Result<String, Halt> {
        let call = self
            .call()
            .args(["rev-parse", "--verify", "--end-of-options"]);
        let call = call.arg(format!("{name}^{{commit}}")).quiet();
        self.run(session, &call).map(|ended| ended.text())
    }

    fn check_out(&self, session: &mut Session<'_>, commit: &str) -> Result<(), Halt> {
        self.run(session, &self.check_out_call(commit)).map(drop)
    }

    fn explain_fetch(&self, ended: &Ended, reference: &str) -> Halt {
        let said = ended.heard.text();
        if said.contains("couldn't find remote ref") || said.contains("Couldn't find remote ref") {
            return Halt::input(format!(
                "there is no branch, tag or ref `{reference}` in {}",
                self.shown
            ));
        }
        self.explain(ended)
    }

    /// Git's own words, and whose matter they are.
    fn explain(&self, ended: &Ended) -> Halt {
        let said = ended.heard.text();
        let line = telling(&said).unwrap_or("it said nothing");
        let message = format!("git: {}: {line}", self.shown);
        let lower = said.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if has(&["no space left", "disk quota"]) {
            return Halt::infrastructure(format!("disk full: {message}"));
        }
        let refused = [
            "authentication failed",
            "could not read username",
            "could not read password",
            "permission denied",
            "access denied",
            "terminal prompts disabled",
            "error: 403",
            "error: 401",
            "invalid credentials",
        ];
        if has(&refused) {
            return Halt::input(format!(
                "{message} (are the repository's credentials right?)"
            ));
        }
        let absent = [
            "not found",
            "does not appear to be a git repository",
            "does not exist",
            "error: 404",
            "not allowed",
            "host key verification failed",
            "remote ref",
            "not our ref",
            "dubious ownership",
            "malformed",
            "no such file",
        ];
        if has(&absent) && !has(&["could not resolve host"]) {
            Halt::input(message)
        } else {
            Halt::infrastructure(message)
        }
    }
}

/// The line that tells most: ssh's before Git's about it.
fn telling(said: &str) -> Option<&str> {
    let vague = |line: &&str| {
        line.starts_with("fatal: Could not read from remote repository")
            || line.starts_with("fatal: the remote end hung up")
            || line.starts_with("fatal: early EOF")
    };
    let marked = |line: &&str| {
        let words = ["fatal: ", "error: ", "ERROR: ", "remote: ", "ssh: "];
        words.iter().any(|word| line.starts_with(word))
            || line.contains("denied")
            || line.contains("failed")
    };
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let fatal = lines()
        .rev()
        .find(|line| line.starts_with("fatal: ") && !vague(line));
    fatal
        .or_else(|| lines().rev().find(|line| marked(line) && !vague(line)))
        .or_else(|| lines().next_back())
}

/// The protocols that Git may speak for this URL: its own, and HTTPS where plain HTTP redirects to it.
fn protocols(url: &str) -> Result<&'static str, Halt> {
    let allowed = match url.split_once("://") {
        Some(("https", _)) => "https",
        Some(("http", _)) => "http:https",
        Some(("ssh", _)) => "ssh",
        Some(("git", _)) => "git",
        Some(("file", _)) => "file",
        None if is_scp(url) => "ssh",
        _ => {
            return Err(Halt::input(format!(
                "`{}` is no URL of a repository: use https://, ssh:// or user@host:path",
                shown(url)
            )));
        }
    };
    Ok(allowed)
}

/// `user@host:path`; `transport::address` is not.
fn is_scp(url: &str) -> bool {
    let Some((host, path)) = url.split_once(':') else {
        return false;
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"@._-[]".contains(&b);
    !host.is_empty()
        && !host.starts_with('-')
        && host.bytes().all(plain)
        && !path.is_empty()
        && !path.starts_with([':', '-'])
}

/// The URL without a name or password in it.
fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// A ref that can be nothing else: no option, no refspec, no revision expression (git-check-ref-format(1)).
fn check_reference(reference: &str) -> Result<(), Halt> {
    let odd = |b: u8| b <= b' ' || b == 0x7F || b"~^:?*[\\".contains(&b);
    let wrong = reference.is_empty()
        || reference.starts_with(['-', '+', '/'])
        || reference.ends_with(['/', '.'])
        || reference.contains("..")
        || reference.contains("@{")
        || reference.bytes().any(odd);
    if wrong {
        Err(Halt::input(format!(
            "`{reference}` is no name of a branch, tag, ref or commit"
        )))
    } else {
        Ok(())
    }
}

/// Writes Git's configuration and the credentials, and returns the command for SSH.
fn configure(
    ground: &Ground,
    place: &Place,
    url: &str,
    found: Option<&Found>,
) -> Result<String, Halt> {
    let mut config = String::from(
        "[core]\n\thooksPath = /dev/null\n[submodule]\n\trecurse = false\n[fetch]\n\trecurseSubmodules = false\n\
         [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[advice]\n\tdetachedHead = false\n[init]\n\tdefaultBranch = main\n\
         [credential]\n\thelper =\n",
    );
    if url.starts_with("file://") {
        // Whoever allowed such URLs trusts what is there.
        config.push_str("[safe]\n\tdirectory = *\n");
    }
    if let Some(login) = found.and_then(|found| login(url, found)) {
        let path = place.keep("home/credentials", login.expose().as_bytes())?;
        let command = format!("store --file={}", quoted(&path));
        let value = command.replace('\\', "\\\\").replace('"', "\\\"");
        // Writing to a string cannot fail.
        let _ = writeln!(config, "\thelper = \"{value}\"");
    }
    place.keep("home/.gitconfig", config.as_bytes())?;
    ssh(ground, place, found)
}

/// The line of Git's credential store: it is given to this host only.
fn login(url: &str, found: &Found) -> Option<Secret> {
    let (scheme @ ("https" | "http"), rest) = url.split_once("://")? else {
        return None;
    };
    let host = rest.split('/').next()?.rsplit('@').next()?;
    let password = found.get("password").or_else(|| found.get("token"))?;
    let username = found.get("username").map_or("git", Secret::expose);
    Some(Secret::new(format!(
        "{scheme}://{}:{}@{host}\n",
        percent(username),
        percent(password.expose())
    )))
}

/// Hosts are known from the credential (then no other key is accepted), or become known when they are first met.
fn ssh(ground: &Ground, place: &Place, found: Option<&Found>) -> Result<String, Halt> {
    let mut command = String::from("ssh -o BatchMode=yes -o ConnectTimeout=30");
    let known = found.and_then(|found| found.get("known_hosts"));
    let (policy, file) = match known {
        Some(known) => (
            "yes",
            place.keep("home/known_hosts", with_end(known.expose()).as_bytes())?,
        ),
        None => ("accept-new", ground.file("known_hosts")),
    };
    let _ = write!(
        command,
        " -o StrictHostKeyChecking={policy} -o UserKnownHostsFile={}",
        quoted(&file)
    );
    if let Some(key) = found.and_then(|found| found.get(SSH_KEY)) {
        let file = place.keep("home/ssh_key", with_end(key.expose()).as_bytes())?;
        let _ = write!(
            command,
            " -o IdentitiesOnly=yes -o IdentityAgent=none -i {}",
            quoted(&file)
        );
    }
    Ok(command)
}

/// A path as one word for the shell that Git starts its helpers with.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// A directory is built as it is. It is a commit if it is a work tree without changes.
fn directory(session: &mut Session<'_>, path: &Path) -> Result<Fetched, Halt> {
    if !path.is_absolute() || !path.is_dir() {
        return Err(Halt::input(format!(
            "there is no directory {}",
            path.display()
        )));
    }
    session.say(format!("build: directory {}", path.display()));
    let tree = path.ancestors().any(|above| above.join(".git").exists());
    let commit = if tree { commit(session, path)? } else { None };
    if let Some(commit) = &commit {
        session.say(format!("build: commit {commit}"));
    }
    Ok(Fetched {
        folder: path.to_owned(),
        commit,
    })
}

fn commit(session: &mut Session<'_>, path: &Path) -> Result<Option<String>, Halt> {
    let git = |args: &[&str]| {
        let call = Call::of("git")
            .option("-c", "core.fsmonitor=false")
            .option("-C", path);
        call.args(args).env("GIT_OPTIONAL_LOCKS", "0").quiet()
    };
    let ask = |session: &mut Session<'_>, args: &[&str]| match session.program(&git(args)) {
        Ok(ended) if ended.status.success() => Ok(Some(ended.text())),
        // Without Git, or with one that mistrusts the folder, nothing is known of a commit.
        Ok(_) | Err(Halt::Failed(_)) => Ok(None),
        Err(Halt::Stopped) => Err(Halt::Stopped),
    };
    match ask(session, &["status", "--porcelain", "--", "."])? {
        Some(changes) if changes.is_empty() => ask(session, &["rev-parse", "--verify", "HEAD"]),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_opens_its_own_protocol_only() {
        let of = |url: &str| protocols(url).ok();
        assert_eq!(of("https://h/r"), Some("https"));
        assert_eq!(of("git@h:me/r.git"), Some("ssh"));
        assert_eq!(of("ssh://git@h/r"), Some("ssh"));
        for url in [
            "ext::sh -c id",
            "--upload-pack=id",
            "-x:y",
            "fd::3",
            "ftp://h/r",
            "h",
            "a b:c",
        ] {
            assert_eq!(of(url), None, "{url}");
        }
    }

    #[test]
    fn a_ref_is_nothing_but_a_name() {
        for name in [
            "main",
            "feature/x",
            "v1.2",
            "refs/pull/7/head",
            "HEAD",
            "0123abc",
        ] {
            assert!(check_reference(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "--exec=id",
            "a:b",
            "+main",
            "a..b",
            "HEAD~1",
            "a b",
            "x@{1}",
            "refs/*",
        ] {
            assert!(check_reference(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_login_is_for_its_host_and_percent_encoded() {
        let mut found = Found::default();
        found.fields.insert("username".to_owned(), "me".into());
        found
            .fields
            .insert("password".to_owned(), "p@ss/w\nx".into());
        let line = login("https://other@h:8443/a/b.git", &found).unwrap();
        assert_eq!(line.expose(), "https://me:p%40ss%2Fw%0Ax@h:8443\n");
        assert_eq!(login("git@h:r", &found), None);
        assert_eq!(shown("https://u:secret@h/r"), "https://h/r");
    }

    #[test]
    fn the_line_that_tells_most_is_quoted() {
        let ssh = "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.\n\nPlease make sure";
        assert_eq!(telling(ssh), Some("git@h: Permission denied (publickey)."));
        let https = "remote: Repository not found.\nfatal: repository 'https://h/r/' not found";
        assert_eq!(
            telling(https),
            Some("fatal: repository 'https://h/r/' not found")
        );
    }
}
