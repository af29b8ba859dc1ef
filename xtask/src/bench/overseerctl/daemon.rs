//! One daemon of either side: how it is started, when it counts as ready, what it used, and that it is gone
//! afterwards.

use std::fs;
use std::fs::File;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;

use super::super::load::Connection;
use super::super::load::Kind;
use super::super::machine::Usage;
use super::super::plan::Side;
use super::super::sandbox;
use super::super::sandbox::Sandbox;
use super::Lab;

/// Hard limit for everything that is done with one daemon.
const RUN_LIMIT: Duration = Duration::from_mins(1);

const READY_LIMIT: Duration = Duration::from_secs(10);

/// Time to end politely; a daemon that hangs, as the original does behind a stalled subscriber, is killed afterwards.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Ports for the daemon that cannot tell its own. They lie below the range that Linux takes local ports from, so that
/// no connection attempt can be answered by itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A running daemon. Dropping it ends it and every process it started.
#[derive(Debug)]
pub(super) struct Daemon<'a> {
    child: Child,
    addr: SocketAddr,
    deadline: Instant,
    ready_after: Duration,
    sandbox: &'a Sandbox,
}

/// What a daemon used between two moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    /// CPU time of the daemon.
    pub(super) cpu: Duration,
    /// Memory at the later moment.
    pub(super) after: Usage,
}

impl Costs {
    /// Values for the metrics of [`super::with_costs`]: CPU in seconds times `scale` for each of `count` things, then
    /// RSS and PSS in MB.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of messages are far below 2^52"
    )]
    pub(super) fn values(&self, count: u64, scale: f64) -> [Option<f64>; 3] {
        let cpu = self.cpu.as_secs_f64() * scale / count.max(1) as f64;
        [
            Some(cpu),
            Some(self.after.rss_kb / 1024.0),
            self.after.pss_kb.map(|kb| kb / 1024.0),
        ]
    }
}

impl<'a> Daemon<'a> {
    /// Starts the daemon of one side and waits until a WebSocket to it is open.
    ///
    /// # Errors
    ///
    /// A daemon that ends or is not ready in time; the error holds the end of its log.
    pub(super) fn start(lab: &'a Lab, side: Side) -> Result<Self> {
        let begin = Instant::now();
        let log = lab.sandbox.dir().join(format!("{}.log", side.name()));
        let (mut command, port) = command(lab, side)?;
        let stderr =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // A file, not a pipe: it holds the address and, if need be, the reason of a failure, and nobody has to read it
        // while the clock runs. Neither daemon writes to it for single messages.
        let child = command
            .stdout(File::create("/dev/null")?)
            .stderr(stderr)
            .spawn();
        let child = child.with_context(|| format!("cannot start the daemon ({})", side.name()))?;
        let (deadline, unknown) = (begin + RUN_LIMIT, SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut daemon = Self {
            child,
            addr: unknown,
            deadline,
            ready_after: Duration::ZERO,
            sandbox: &lab.sandbox,
        };
        daemon.addr = daemon
            .wait_for_port(port, &log)
            .with_context(|| sandbox::last_lines(&log))?;
        daemon
            .connect()
            .with_context(|| sandbox::last_lines(&log))?;
        daemon.ready_after = begin.elapsed();
        Ok(daemon)
    }

    fn wait_for_port(&mut self, port: Option<u16>, log: &Path) -> Result<SocketAddr> {
        let limit = Instant::now() + READY_LIMIT;
        loop {
            let known = port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            if let Some(addr) = known
                .or_else(|| announced(log))
                .filter(|addr| TcpStream::connect(addr).is_ok())
            {
                return Ok(addr);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended at once ({status})");
            }
            if Instant::now() > limit {
                bail!(
                    "the daemon was not ready within {} s",
                    READY_LIMIT.as_secs()
                );
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Opens a connection that lives no longer than the run may.
    ///
    /// # Errors
    ///
    /// A daemon that does not accept.
    pub(super) fn connect(&self) -> Result<Connection> {
        Connection::open(self.addr, self.deadline)
    }

    /// Opens a connection that is subscribed to `tasks`, which need not exist yet. With the subscription in place
    /// before the start, no daemon can lose the first events.
    ///
    /// # Errors
    ///
    /// As for [`Self::connect`], or a daemon that refuses.
    pub(super) fn subscribe(&self, tasks: &[String]) -> Result<Connection> {
        let mut connection = self.connect()?;
        subscribe(&mut connection, tasks)?;
        Ok(connection)
    }

    /// Address that clients connect to.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Time from the start of the process until a WebSocket was open.
    pub(super) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// What the daemon has used up to now.
    ///
    /// # Errors
    ///
    /// A daemon that is gone.
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id()).context("the daemon ended during the run")
    }

    /// What the daemon has used since `before`.
    ///
    /// # Errors
    ///
    /// A daemon that is gone.
    pub(super) fn costs_since(&self, before: Usage) -> Result<Costs> {
        let after = self.usage()?;
        Ok(Costs {
            cpu: after.cpu.saturating_sub(before.cpu),
            after,
        })
    }

    fn end(&mut self) -> std::io::Result<()> {
        sandbox::signal("TERM", &[self.child.id()]);
        let limit = Instant::now() + STOP_LIMIT;
        while Instant::now() < limit {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // An error means that the process is gone already; the sweep finds it otherwise.
        let _gone = self.end();
        self.sandbox.sweep();
    }
}

/// Subscribes an open connection to `tasks` and waits for every confirmation.
///
/// # Errors
///
/// A daemon that refuses or does not answer.
pub(super) fn subscribe(connection: &mut Connection, tasks: &[String]) -> Result<()> {
    let request = |task: &String| {
        serde_json::json!({ "type": "subscribe", "id": "sub", "task_id": task }).to_string()
    };
    let requests: Vec<_> = tasks.iter().map(request).collect();
    connection.send_all(requests.iter().map(String::as_str))?;
    let mut confirmed = 0;
    while confirmed < tasks.len() {
        let event = connection.next()?;
        match event.kind() {
            Kind::Subscribed => confirmed += 1,
            Kind::Error => bail!("the daemon refused a subscription: {}", event.error_text()),
            _ => {}
        }
    }
    Ok(())
}

/// The command line of one side, and its port where that must be chosen beforehand.
fn command(lab: &Lab, side: Side) -> Result<(Command, Option<u16>)> {
    let mut words = lab.cores.daemon_prefix();
    let (binary, arguments, port) = match side {
        Side::Ours => (
            &lab.ours,
            ["serve", "--listen", "127.0.0.1:0", "--config"].as_slice(),
            None,
        ),
        Side::Peer => {
            let peer = lab
                .peer
                .as_ref()
                .ok_or_else(|| anyhow!("there is no peer on this machine"))?;
            (peer, ["-config"].as_slice(), Some(free_port()?))
        }
    };
    words.push(binary.to_string_lossy().into_owned());
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    let mut command = lab.sandbox.command(&words[0]);
    command.args(&words[1..]).arg(&lab.config);
    command.env("GOMAXPROCS", lab.cores.for_daemon().to_string());
    if let Some(port) = port {
        command.env("OVERSEER_LISTEN", format!("127.0.0.1:{port}"));
    }
    Ok((command, port))
}

/// A port nobody listens on. Each call goes on where the last one stopped.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(PORTS.start);
    for _ in PORTS {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port + 1 >= PORTS.end {
            NEXT.store(PORTS.start, Ordering::Relaxed);
        }
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}

/// The address in the log line that announces it.
fn announced(log: &Path) -> Option<SocketAddr> {
    let text = fs::read_to_string(log).ok()?;
    // A line without its end may hold half a port.
    let lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    lines
        .filter(|line| line.contains("listening"))
        .find_map(address_in)
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("addr=")?;
    rest.trim_start_matches('"')
        .split(|sign: char| sign.is_whitespace() || sign == '"')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_a_log_line() {
        let line =
            "2026-11-21T03:24:40Z  INFO overseerctl: listening addr=127.0.0.1:4711 tls=false\n";
        assert_eq!(
            address_in(line),
            Some(SocketAddr::from(([127, 0, 0, 1], 4711)))
        );
        assert_eq!(
            address_in("listening addr=\"127.0.0.1:4711\"\n"),
            address_in(line)
        );
        assert_eq!(address_in("listening\n"), None);
    }

    #[test]
    fn free_ports_differ_from_call_to_call() {
        let (first, second) = (free_port().unwrap(), free_port().unwrap());
        assert_ne!(first, second);
        assert!(PORTS.contains(&first) && PORTS.contains(&second));
    }
}
