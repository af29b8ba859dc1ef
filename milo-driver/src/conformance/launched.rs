//! A plugin as a process: its environment, its first line, its death. What it says over its socket is not here.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{sync::mpsc, time};

use super::agent::Agent;

/// How long an agent waits for the handshake.
const HANDSHAKE: Duration = Duration::from_mins(1);

/// How long it waits for the end.
const END: Duration = Duration::from_secs(2);

/// How long what was printed last may be on its way.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What an agent adds to its own environment.
const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "NOMAD_PLUGIN_MAGIC_COOKIE",
        "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255",
    ),
    ("PLUGIN_MIN_PORT", "10000"),
    ("PLUGIN_MAX_PORT", "25000"),
    ("PLUGIN_PROTOCOL_VERSIONS", "2"),
];

/// A plugin's process. Dropping it kills it.
pub(super) struct Launched {
    child: Child,
    socket: PathBuf,
    output: Lines,
    log: Lines,
}

impl Drop for Launched {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes out of a pipe, line by line; closed at its end.
struct Lines {
    incoming: mpsc::UnboundedReceiver<String>,
    seen: Vec<String>,
    is_over: bool,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, incoming) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            incoming,
            seen: Vec::new(),
            is_over: false,
        }
    }

    async fn next(&mut self) -> Option<String> {
        let line = self.incoming.recv().await;
        self.is_over |= line.is_none();
        self.seen.extend(line.clone());
        line
    }

    async fn until_over(&mut self) {
        while !self.is_over {
            self.next().await;
        }
    }
}

impl Launched {
    /// Starts a plugin as an agent does, and reads its first line.
    pub(super) async fn start(plugin: &Path, args: &[String]) -> Result<Self, String> {
        let mut child = Command::new(plugin)
            .args(args)
            .envs(ENVIRONMENT)
            .env_remove("PLUGIN_CLIENT_CERT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("`{}` cannot be started: {error}", plugin.display()))?;
        let (Some(output), Some(log)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("the plugin has no pipes".to_owned());
        };
        let mut launched = Self {
            child,
            socket: PathBuf::new(),
            output: Lines::of(output),
            log: Lines::of(log),
        };
        let first = time::timeout(HANDSHAKE, launched.output.next()).await;
        let first = first.map_err(|_| format!("no handshake within {HANDSHAKE:?}"))?;
        launched.socket = socket(&first.ok_or("it ended without a handshake")?)?;
        Ok(launched)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether nobody else can connect.
    pub(super) fn is_private(&self) -> Result<(), String> {
        let others = |path: &Path| match path.metadata() {
            Ok(metadata) => Ok(metadata.permissions().mode() & 0o077),
            Err(error) => Err(format!("`{}`: {error}", path.display())),
        };
        let folder = self.socket.parent().unwrap_or(Path::new("/"));
        if others(&self.socket)? & 0o022 == 0 || others(folder)? == 0 {
            return Ok(());
        }
        Err(format!(
            "others may connect to `{}`: make it 0600, or its folder 0700",
            self.socket.display()
        ))
    }

    /// Asks for its end as an agent does.
    pub(super) async fn end(&mut self, agent: &Agent) -> Result<(), String> {
        let asked = Instant::now();
        let reply = time::timeout(END, agent.shut_down()).await;
        self.gone_by(asked + END).await?;
        // Its last words; a pipe that stays open is another rule's business.
        let last = async {
            self.output.until_over().await;
            self.log.until_over().await;
        };
        let _ = time::timeout(LAST_WORDS, last).await;
        reply.map_err(|_| "it did not answer Shutdown".to_owned())?
    }

    async fn gone_by(&mut self, deadline: Instant) -> Result<(), String> {
        loop {
            match self.child.try_wait() {
                Ok(Some(_)) => return Ok(()),
                Ok(None) if Instant::now() < deadline => {
                    time::sleep(Duration::from_millis(5)).await;
                }
                Ok(None) => {
                    return Err(format!(
                        "it still runs {END:?} after Shutdown: exit at once, whatever streams are open"
                    ));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Sends what Ctrl-C sends.
    pub(super) async fn survives_interrupt(&mut self) -> Result<(), String> {
        self.send(Signal::INT)?;
        time::sleep(Duration::from_millis(200)).await;
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!(
                "SIGINT ended it ({status}): ignore it, the agent decides"
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    fn send(&self, signal: Signal) -> Result<(), String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or("it has no pid")?;
        kill_process(pid, signal).map_err(|error| error.to_string())
    }

    /// Kills it, and waits as an agent does until both pipes have ended.
    pub(super) async fn kill_and_be_seen(&mut self) -> Result<(), String> {
        self.send(Signal::KILL)?;
        let (output, log) = (&mut self.output, &mut self.log);
        let both = async {
            output.until_over().await;
            log.until_over().await;
        };
        let seen = time::timeout(END, both).await;
        seen.map_err(|_| format!("its stdout or stderr was still open {END:?} after its death: start children with neither"))
    }

    /// Whether the handshake was all that it printed.
    pub(super) fn was_silent(&mut self) -> Result<(), String> {
        while let Ok(line) = self.output.incoming.try_recv() {
            self.output.seen.push(line);
        }
        match self.output.seen.get(1) {
            None => Ok(()),
            Some(line) => Err(format!("it printed `{line}` to stdout after the handshake")),
        }
    }

    /// Whether an agent can read its log.
    pub(super) fn log_is_sound(&mut self) -> Result<(), String> {
        while let Ok(line) = self.log.incoming.try_recv() {
            self.log.seen.push(line);
        }
        self.log.seen.iter().try_for_each(|line| sound(line))
    }
}

/// Lines that are no JSON object are taken as they are; in one that is, hclog's own fields must be strings.
fn sound(line: &str) -> Result<(), String> {
    let Ok(serde_json::Value::Object(entry)) = serde_json::from_str(line) else {
        return Ok(());
    };
    for name in ["@message", "@level", "@timestamp"] {
        if entry.get(name).is_some_and(|value| !value.is_string()) {
            return Err(format!("`{name}` is no string in the log line {line}"));
        }
    }
    Ok(())
}

/// The socket in a handshake.
fn socket(line: &str) -> Result<PathBuf, String> {
    let wrong = |what: &str| {
        Err(format!(
            "{what} in the handshake `{line}`: expected `1|2|unix|/path|grpc`"
        ))
    };
    let fields: Vec<&str> = line.trim().split('|').collect();
    let [core, version, network, address, protocol, rest @ ..] = fields.as_slice() else {
        return wrong("fewer than five fields");
    };
    if *core != "1" || *version != "2" {
        return wrong("a wrong version");
    }
    if *network != "unix" {
        return wrong("a network that any local user can reach");
    }
    if *protocol != "grpc" {
        return wrong("a protocol other than gRPC");
    }
    if rest
        .first()
        .is_some_and(|certificate| !certificate.is_empty())
    {
        return wrong("a certificate that nobody asked for");
    }
    if !address.starts_with('/') || address.len() > 107 {
        return wrong("a path that is relative or longer than 107 bytes");
    }
    Ok(PathBuf::from(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_has_five_fields_of_the_right_kind() {
        assert_eq!(
            socket("1|2|unix|/tmp/p.sock|grpc"),
            Ok("/tmp/p.sock".into())
        );
        assert_eq!(
            socket("1|2|unix|/tmp/p.sock|grpc|"),
            Ok("/tmp/p.sock".into())
        );
        let long = format!("1|2|unix|/{}|grpc", "p".repeat(107));
        for line in [
            "hello",
            "1|2|unix|/p",
            "1|1|unix|/p|grpc",
            "2|2|unix|/p|grpc",
            "1|2|tcp|127.0.0.1:1|grpc",
            "1|2|unix|/p|netrpc",
            "1|2|unix|p|grpc",
            "1|2|unix|/p|grpc|MII",
            &long,
        ] {
            assert!(socket(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_log_entry_with_a_number_for_a_message_is_found() {
        assert!(sound(r#"{"@message":"up","@level":"info"}"#).is_ok());
        assert!(sound("plain words").is_ok());
        assert!(sound(r#"{"@message":7}"#).unwrap_err().contains("@message"));
    }
}
