//! Cases about output on its way to subscribers: fan-out, latency, filters, long lines, a stalled neighbour. The gate
//! of all of them: each subscriber sees 1 to N without gap or repeat, and `exited` after the last line.

use std::thread;
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use serde_json::json;

use super::super::load::Connection;
use super::super::load::Event;
use super::super::load::Kind;
use super::super::machine::Usage;
use super::super::plan::Better;
use super::super::plan::Case;
use super::super::plan::Metric;
use super::super::plan::Reading;
use super::super::plan::Target;
use super::super::stats;
use super::Lab;
use super::daemon::Costs;
use super::daemon::Daemon;
use super::with_costs;

/// Lets one line in a hundred pass.
pub(super) const FILTER: &str = r#"output.data.endsWith("00")"#;

/// CPU time is given per million messages that were delivered.
const MILLION: f64 = 1e6;

/// Reader threads keep nothing on their stack, and there may be hundreds of them.
const STACK: usize = 256 * 1024;

/// Share of its cores above which the client may be what limits a number.
const CLIENT_BUSY: f64 = 0.9;

/// S1: one task, several subscribers.
pub(super) fn fan_out() -> Vec<Case<Lab>> {
    let case = |subscribers: usize, target, quick, full| {
        let metrics = vec![Metric::new("lines", "lines/s", Better::More).target(target)];
        let metrics = with_costs(metrics, "s/M msg");
        Case::new(
            "S1",
            format!("S1 fan-out to {subscribers}"),
            metrics,
            move |lab: &Lab, side, size| {
                let lines = size.pick(quick / 10, quick, full);
                let burst = Stream::of(lines).to(subscribers, &lab.start(side)?)?;
                Ok(burst.reading(lab, vec![burst.per_second(lines)]))
            },
        )
    };
    vec![
        case(1, Target::None, 100_000, 300_000),
        case(10, Target::Ratio(5.0), 10_000, 50_000),
        case(50, Target::Ratio(5.0), 2_000, 10_000),
        case(200, Target::None, 300, 2_000),
    ]
}

/// S2: many tasks, one subscriber each, at a rate that leaves the daemon time.
pub(super) fn latency() -> Case<Lab> {
    const TASKS: usize = 50;
    const RATE: u64 = 1000;
    let metrics = vec![
        Metric::new("latency p50", "ms", Better::Less),
        Metric::new("latency p99", "ms", Better::Less),
        Metric::new("lines", "lines/s", Better::More),
    ];
    let metrics = with_costs(metrics, "s/M msg");
    Case::new(
        "S2",
        "S2 50 tasks at 1000 lines/s",
        metrics,
        |lab: &Lab, side, size| {
            let stream = Stream {
                rate: RATE,
                ..Stream::of(size.pick(100, 1000, 3000))
            };
            let daemon = lab.start(side)?;
            let feeds = (0..TASKS)
                .map(|number| Feed::open(&daemon, &format!("drip{number}")))
                .collect::<Result<_>>()?;
            let burst = stream.watch(&daemon, feeds, true)?;
            let late = |percent| stats::percentile(&burst.latencies, percent).unwrap_or_default();
            Ok(burst.reading(
                lab,
                vec![late(50), late(99), burst.per_second(burst.messages)],
            ))
        },
    )
}

/// S6: a filter that lets few lines pass.
pub(super) fn filter() -> Case<Lab> {
    let metrics = with_costs(
        vec![Metric::new("lines read", "lines/s", Better::More)],
        "s/M passed",
    );
    Case::new(
        "S6",
        "S6 filter, 1 % passes",
        metrics,
        |lab: &Lab, side, size| {
            let lines = size.pick(20_000, 300_000, 1_000_000);
            let stream = Stream {
                action: "filtered",
                passing_of: 100,
                ..Stream::of(lines)
            };
            let burst = stream.to(1, &lab.start(side)?)?;
            Ok(burst.reading(lab, vec![burst.per_second(lines)]))
        },
    )
}

/// S8: short and very long lines.
pub(super) fn long_lines() -> Vec<Case<Lab>> {
    let case = |title: &str, bytes: u64, quick, full| {
        let metrics = with_costs(vec![Metric::new("data", "MB/s", Better::More)], "s/M msg");
        Case::new("S8", title, metrics, move |lab: &Lab, side, size| {
            let lines = size.pick(10, quick, full);
            let burst = Stream {
                bytes,
                ..Stream::of(lines)
            }
            .to(1, &lab.start(side)?)?;
            Ok(burst.reading(lab, vec![burst.per_second(lines * bytes) / 1e6]))
        })
    };
    vec![
        case("S8 200-byte lines", 200, 50_000, 200_000),
        case("S8 1 MB lines", 1_000_000, 50, 200),
    ]
}

/// S9: one subscriber reads, another does not. The load is larger than what sockets and queues can hold together.
pub(super) fn stalled() -> Case<Lab> {
    const LINES: u64 = 400_000;
    let metrics = vec![
        Metric::new("lines", "lines/s", Better::More).target(Target::Complete),
        Metric::new("longest silence", "ms", Better::Less),
    ];
    let case = Case::new(
        "S9",
        "S9 beside a stalled subscriber",
        with_costs(metrics, "s/M msg"),
        |lab: &Lab, side, _| {
            let stream = Stream::of(LINES);
            let daemon = lab.start(side)?;
            let healthy = Feed::open(&daemon, "fan")?;
            let _never_read = daemon.subscribe(&["fan".to_owned()])?;
            let burst = stream.watch(&daemon, vec![healthy], true)?;
            Ok(burst.reading(
                lab,
                vec![burst.per_second(LINES), burst.silence.as_secs_f64() * 1e3],
            ))
        },
    );
    case.cold().once().at_most(3)
}

/// What a task prints and what of it arrives.
#[derive(Clone, Copy, Debug)]
struct Stream {
    action: &'static str,
    /// Lines that the task prints.
    lines: u64,
    /// Width of each line; 0 = that of its number.
    bytes: u64,
    /// Lines a second, each a time stamp; 0 = as many as the pipe takes.
    rate: u64,
    /// One line of this many passes the action's filter.
    passing_of: u64,
}

/// One subscriber of one task.
struct Feed {
    connection: Connection,
    task: String,
}

/// What one subscriber saw.
#[derive(Clone, Debug)]
struct Delivery {
    lines: u64,
    first: Instant,
    last: Instant,
    silence: Duration,
    /// Milliseconds from the stamp in a line to its arrival.
    latencies: Vec<f64>,
}

/// What all subscribers of a run saw together.
#[derive(Clone, Debug)]
struct Burst {
    messages: u64,
    /// From the first line at any subscriber to the last `exited`.
    elapsed: Duration,
    silence: Duration,
    latencies: Vec<f64>,
    costs: Costs,
    client_cpu: Duration,
}

impl Stream {
    /// Plain numbered lines, unfiltered, as fast as the pipe takes them.
    fn of(lines: u64) -> Self {
        Self {
            action: "emit",
            lines,
            bytes: 0,
            rate: 0,
            passing_of: 1,
        }
    }

    /// Runs one task with several subscribers, one of which starts it.
    fn to(self, subscribers: usize, daemon: &Daemon<'_>) -> Result<Burst> {
        let feeds = (0..subscribers)
            .map(|_| Feed::open(daemon, "fan"))
            .collect::<Result<_>>()?;
        self.watch(daemon, feeds, false)
    }

    fn start_request(self, task: &str) -> String {
        let text = |number: u64| number.to_string();
        let params = json!({ "count": text(self.lines), "bytes": text(self.bytes), "rate": text(self.rate) });
        json!({ "type": "start", "id": "start", "action": self.action, "task_id": task, "params": params }).to_string()
    }

    /// Starts the tasks and reads until every feed has seen its end. With `all`, every feed starts its own task, else
    /// the first one starts the task that they share.
    fn watch(self, daemon: &Daemon<'_>, mut feeds: Vec<Feed>, all: bool) -> Result<Burst> {
        let (before, client_before) = (daemon.usage()?, Usage::of(std::process::id())?);
        let starters = if all { feeds.len() } else { 1 };
        for feed in feeds.iter_mut().take(starters) {
            feed.connection.send(&self.start_request(&feed.task))?;
        }
        let deliveries = thread::scope(|scope| {
            let reader = |feed| {
                thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, move || self.follow(feed))
            };
            let readers: Vec<_> = feeds
                .iter_mut()
                .map(reader)
                .collect::<std::io::Result<_>>()?;
            readers
                .into_iter()
                .enumerate()
                .map(|(number, reader)| join(number, reader))
                .collect::<Result<Vec<_>>>()
        })?;
        let costs = daemon.costs_since(before)?;
        let client_cpu = Usage::of(std::process::id())?
            .cpu
            .saturating_sub(client_before.cpu);
        Burst::of(deliveries, costs, client_cpu)
    }

    fn follow(self, feed: &mut Feed) -> Result<Delivery> {
        let mut delivery = Delivery::none();
        let expected = self.lines / self.passing_of;
        self.read(&mut feed.connection, &mut delivery)
            .with_context(|| format!("after {} of {expected} lines", delivery.lines))?;
        if delivery.lines != expected {
            bail!("`exited` came after {} of {expected} lines", delivery.lines);
        }
        delivery.last = feed.connection.read_at();
        delivery.silence = feed.connection.longest_silence();
        Ok(delivery)
    }

    /// The hot path: one call of `next` and one comparison for a line.
    fn read(self, connection: &mut Connection, delivery: &mut Delivery) -> Result<()> {
        loop {
            let event = connection.next()?;
            match event.kind() {
                Kind::Output => {
                    let stamp = self.check(event, delivery.lines + 1)?;
                    if let Some(stamp) = stamp {
                        delivery
                            .latencies
                            .push(milliseconds_since(stamp, connection.read_wall()));
                    }
                    if delivery.lines == 0 {
                        delivery.first = connection.read_at();
                        connection.forget_silence();
                    }
                    delivery.lines += 1;
                }
                Kind::Exited => return Ok(()),
                Kind::Error => bail!("the daemon refused: {}", event.error_text()),
                _ => {}
            }
        }
    }

    /// Checks one line against the gate and returns the stamp in it, if this stream has stamps.
    #[inline]
    fn check(self, event: Event<'_>, due: u64) -> Result<Option<u64>> {
        match event.seq() {
            Some(seq) if seq == due => {}
            Some(seq) => bail!("seq {seq} came where {due} was due"),
            None => bail!("a line without seq came where {due} was due"),
        }
        if (event.bytes().len() as u64) < self.bytes {
            bail!("line {due} came shorter than it was printed");
        }
        if self.rate == 0 {
            return Ok(None);
        }
        event
            .leading_number()
            .map(Some)
            .ok_or_else(|| anyhow!("line {due} came without the stamp it was printed with"))
    }
}

impl Feed {
    /// Opens a connection that is subscribed to `task`, which does not exist yet.
    fn open(daemon: &Daemon<'_>, task: &str) -> Result<Self> {
        let task = task.to_owned();
        let connection = daemon.subscribe(std::slice::from_ref(&task))?;
        Ok(Self { connection, task })
    }
}

impl Delivery {
    fn none() -> Self {
        let now = Instant::now();
        Self {
            lines: 0,
            first: now,
            last: now,
            silence: Duration::ZERO,
            latencies: Vec::new(),
        }
    }
}

impl Burst {
    fn of(deliveries: Vec<Delivery>, costs: Costs, client_cpu: Duration) -> Result<Self> {
        let first = deliveries.iter().map(|delivery| delivery.first).min();
        let last = deliveries.iter().map(|delivery| delivery.last).max();
        let (first, last) = first
            .zip(last)
            .ok_or_else(|| anyhow!("a run without subscribers"))?;
        Ok(Self {
            messages: deliveries.iter().map(|delivery| delivery.lines).sum(),
            elapsed: last - first,
            silence: deliveries
                .iter()
                .map(|delivery| delivery.silence)
                .max()
                .unwrap_or_default(),
            latencies: deliveries
                .into_iter()
                .flat_map(|delivery| delivery.latencies)
                .collect(),
            costs,
            client_cpu,
        })
    }

    fn per_second(&self, count: u64) -> f64 {
        stats::per_second(count, self.elapsed)
    }

    /// The values of a case, then the costs. Says so when the client was busier than the daemon: then the number is
    /// only a lower limit.
    fn reading(&self, lab: &Lab, values: Vec<f64>) -> Reading {
        let share = |cpu: Duration, cores: u32| {
            (cpu / cores).as_secs_f64() / self.elapsed.as_secs_f64().max(1e-6)
        };
        let client = share(self.client_cpu, lab.cores.for_client());
        let daemon = share(self.costs.cpu, lab.cores.for_daemon());
        let limited = client > CLIENT_BUSY && daemon < CLIENT_BUSY;
        let note = limited.then(|| {
            format!(
                "the client used {:.0} % of its cores: a lower limit",
                client * 100.0
            )
        });
        let values = values
            .into_iter()
            .map(Some)
            .chain(self.costs.values(self.messages, MILLION))
            .collect();
        Reading { values, note }
    }
}

fn join(number: usize, reader: ScopedJoinHandle<'_, Result<Delivery>>) -> Result<Delivery> {
    let outcome = reader
        .join()
        .map_err(|_| anyhow!("the reader panicked"))
        .flatten();
    outcome.with_context(|| format!("subscriber {}", number + 1))
}

/// Time from a stamp in nanoseconds since the epoch to `now`; 0 when the clock went back in between.
fn milliseconds_since(stamp: u64, now: SystemTime) -> f64 {
    now.duration_since(UNIX_EPOCH + Duration::from_nanos(stamp))
        .unwrap_or_default()
        .as_secs_f64()
        * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn delivery(begin: Instant, first_ms: u64, last_ms: u64, lines: u64) -> Delivery {
        let at = |ms| begin + Duration::from_millis(ms);
        Delivery {
            lines,
            first: at(first_ms),
            last: at(last_ms),
            silence: Duration::ZERO,
            latencies: vec![1.0],
        }
    }

    /// What a subscriber makes of a daemon that sends lines with these sequence numbers, then `exited`.
    fn follow(seqs: &[u64], expected: u64) -> Result<Delivery> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let line = |seq| {
            format!("{{\"type\":\"output\",\"task_id\":\"t\",\"data\":\"x\",\"seq\":{seq}}}\n")
        };
        let mut messages: Vec<_> = seqs.iter().map(line).collect();
        messages.push("{\"type\":\"exited\",\"task_id\":\"t\"}\n".to_owned());
        let server = thread::spawn(move || {
            let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
            // A subscriber that has found a fault leaves before the end; one that has not closes first, so that no
            // unread line is lost to a reset.
            let _left = messages
                .into_iter()
                .try_for_each(|message| socket.send(message.into()));
            while socket.read().is_ok() {}
        });
        let connection = Connection::open(addr, Instant::now() + Duration::from_secs(10)).unwrap();
        let mut feed = Feed {
            connection,
            task: "t".into(),
        };
        let outcome = Stream::of(expected).follow(&mut feed);
        drop(feed);
        server.join().unwrap();
        outcome
    }

    fn refusal(seqs: &[u64], expected: u64) -> String {
        format!("{:#}", follow(seqs, expected).unwrap_err())
    }

    #[test]
    fn every_line_in_order_passes_the_gate() {
        assert_eq!(follow(&[1, 2, 3], 3).unwrap().lines, 3);
    }

    #[test]
    fn gaps_repeats_and_missing_lines_fail_the_gate() {
        assert_eq!(
            refusal(&[1, 3], 3),
            "after 1 of 3 lines: seq 3 came where 2 was due"
        );
        assert_eq!(
            refusal(&[1, 2, 2, 3], 3),
            "after 2 of 3 lines: seq 2 came where 3 was due"
        );
        assert_eq!(
            refusal(&[2, 1], 2),
            "after 0 of 2 lines: seq 2 came where 1 was due"
        );
        assert_eq!(refusal(&[1, 2], 3), "`exited` came after 2 of 3 lines");
        assert_eq!(
            refusal(&[1, 2, 3, 4], 3),
            "`exited` came after 4 of 3 lines"
        );
    }

    fn costs() -> Costs {
        Costs {
            cpu: Duration::from_secs(1),
            after: Usage::default(),
        }
    }

    #[test]
    fn a_burst_lasts_from_the_first_line_to_the_last_exit_of_all() {
        let begin = Instant::now();
        let deliveries = vec![delivery(begin, 10, 400, 3), delivery(begin, 0, 300, 3)];
        let burst = Burst::of(deliveries, costs(), Duration::ZERO).unwrap();
        assert_eq!(burst.elapsed, Duration::from_millis(400));
        assert_eq!((burst.messages, burst.latencies.len()), (6, 2));
    }

    #[test]
    fn costs_are_scaled_to_a_million_messages() {
        assert_eq!(
            costs().values(500_000, MILLION),
            [Some(2.0), Some(0.0), None]
        );
    }

    #[test]
    fn latency_counts_from_the_stamp_and_never_below_zero() {
        let stamp = 1_800_000_000_000_000_000;
        let at = |nanos| UNIX_EPOCH + Duration::from_nanos(stamp) + Duration::from_nanos(nanos);
        assert!((milliseconds_since(stamp, at(1_500_000)) - 1.5).abs() < 1e-9);
        assert!(milliseconds_since(stamp, at(0) - Duration::from_secs(1)).abs() < f64::EPSILON);
    }

    #[test]
    fn numbers_travel_as_strings_because_parameters_are_strings() {
        let request = Stream {
            bytes: 200,
            ..Stream::of(5)
        }
        .start_request("t");
        let request: serde_json::Value = serde_json::from_str(&request).unwrap();
        assert_eq!(
            request["params"],
            json!({ "count": "5", "bytes": "200", "rate": "0" })
        );
    }
}
