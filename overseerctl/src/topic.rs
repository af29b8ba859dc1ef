//! What one task says, and who listens: the output path, which takes no lock but its own.
//!
//! All lines of one read are stamped with consecutive `seq` numbers, encoded once into one run of WebSocket frames,
//! and handed to every listener, all under this topic's lock: the order on the wire is the order of `seq`, over both
//! streams. The lock is never held while anything waits; producers wait afterwards (see [`Pressure`]).
//!
//! A topic outlives its workers: `seq` goes on over restarts and resets, the ring begins anew with each worker. It may
//! exist before its task, because clients may subscribe to an id that nobody has started yet.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::{
    api::{Message, OutputStream},
    frame,
    logfile::{LogFile, TaskLogs},
    metrics::ActionCounters,
    outbox::{ClientId, Feature, Outbox},
    ring::{Event, Ring, RingLimits},
    time::Timestamp,
    utf8,
};

/// A line as it was read: without its end, with bytes of any kind.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Its bytes.
    pub data: &'a [u8],
    /// Whether its tail was cut off.
    pub truncated: bool,
}

/// What one task says, and who listens.
#[derive(Debug)]
pub struct Topic {
    task_id: Arc<str>,
    /// Lines published since the task was started.
    lines: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seq: u64,
    pid: u32,
    /// Whether there has been a worker, so that there is something to replay.
    opened: bool,
    ring: Ring,
    listeners: Vec<Arc<Outbox>>,
    sinks: Sinks,
}

/// Where a task's output goes besides its listeners.
#[derive(Clone, Debug, Default)]
pub struct Sinks {
    /// The daemon's event log.
    pub events: Option<LogFile>,
    /// The task's own log file.
    pub log: Option<TaskLog>,
    /// Counters of its action.
    pub counters: Option<Arc<ActionCounters>>,
}

/// A task's own log file.
#[derive(Clone, Debug)]
pub struct TaskLog {
    /// How its lines look.
    pub logs: TaskLogs,
    /// Where they go.
    pub file: LogFile,
}

/// Whom a producer of output should wait for before it reads more.
#[derive(Debug, Default)]
#[must_use = "without waiting, a slow client makes the daemon grow"]
pub struct Pressure {
    outboxes: Vec<Arc<Outbox>>,
    files: Vec<LogFile>,
}

impl Pressure {
    /// Waits until everybody has caught up or need not be waited for.
    pub async fn relieved(self) {
        for outbox in self.outboxes {
            outbox.relieved().await;
        }
        for file in self.files {
            file.ready().await;
        }
    }
}

/// What a replay sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Messages.
    pub count: usize,
    /// Lowest seq among them; 0 if there was no output.
    pub first_seq: u64,
    /// Highest seq among them; 0 if there was no output.
    pub last_seq: u64,
}

impl Topic {
    /// A silent topic.
    pub fn new(task_id: Arc<str>, limits: RingLimits) -> Arc<Self> {
        let state = State {
            seq: 0,
            pid: 0,
            opened: false,
            ring: Ring::new(limits),
            listeners: Vec::new(),
            sinks: Sinks::default(),
        };
        Arc::new(Self {
            task_id,
            lines: AtomicU64::new(0),
            state: Mutex::new(state),
        })
    }

    /// The task's id.
    pub fn task_id(&self) -> &Arc<str> {
        &self.task_id
    }

    /// Lines published so far.
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// A task begins under this id: `seq` starts anew, listeners stay.
    pub fn begin(&self, sinks: Sinks) {
        let mut state = self.lock();
        state.seq = 0;
        state.opened = false;
        state.sinks = sinks;
        state.ring.clear();
        self.lines.store(0, Ordering::Relaxed);
    }

    /// A new worker: what the last one said is no longer replayed.
    pub fn open(&self, pid: u32) {
        let mut state = self.lock();
        state.pid = pid;
        state.opened = true;
        state.ring.clear();
    }

    /// Adds a listener; twice is once.
    pub fn subscribe(&self, outbox: &Arc<Outbox>) {
        let mut state = self.lock();
        if state
            .listeners
            .iter()
            .all(|listener| listener.id() != outbox.id())
        {
            state.listeners.push(Arc::clone(outbox));
        }
    }

    /// Removes a listener, if it was one.
    pub fn unsubscribe(&self, client: ClientId) {
        self.lock()
            .listeners
            .retain(|listener| listener.id() != client);
    }

    /// Whether nobody listens.
    pub fn is_deserted(&self) -> bool {
        self.lock().listeners.is_empty()
    }

    /// Sends a lifecycle message to the listeners, and to `watchers` who are not among them.
    pub fn announce<'a>(&self, message: &Message, watchers: impl Iterator<Item = &'a Arc<Outbox>>) {
        let state = self.lock();
        let mut encoded = None;
        let mut frame = || {
            encoded
                .get_or_insert_with(|| frame::encode(message))
                .clone()
        };
        for listener in &state.listeners {
            listener.push(frame());
        }
        for watcher in watchers.filter(|watcher| !state.listens(watcher.id())) {
            watcher.push(frame());
        }
    }

    /// Records the end of the worker for replay.
    pub fn close(&self, event: Event) {
        let mut state = self.lock();
        state.ring.push(event);
        state.ring.seal();
        if let Some(log) = &state.sinks.log {
            log.file.finish();
        }
    }

    /// Publishes lines that were read together from one stream of worker `pid`.
    pub fn publish(&self, pid: u32, stream: OutputStream, lines: &[Line<'_>]) -> Pressure {
        if lines.is_empty() {
            return Pressure::default();
        }
        let count = lines.len() as u64;
        let ts = Timestamp::now();
        let mut state = self.lock();
        self.lines.fetch_add(count, Ordering::Relaxed);
        if let Some(counters) = &state.sinks.counters {
            counters.output(count);
        }
        let first = state.seq + 1;
        state.seq += count;
        let mut encoder = Encoder::new(&self.task_id, pid, stream, ts, &state);
        let unremembered = lines.len().saturating_sub(state.ring.capacity());
        for ((index, line), seq) in lines.iter().enumerate().zip(first..) {
            let data = utf8::to_valid(line.data);
            encoder.line(&data, seq, line.truncated, state.sinks.log.as_ref());
            if index >= unremembered {
                let data = data.into();
                state.ring.push(Event::Output {
                    seq,
                    ts,
                    stream,
                    data,
                    truncated: line.truncated,
                });
            }
        }
        encoder.deliver(&self.task_id, &state, count, ts)
    }

    /// Sends what the newest worker said, at or after `since`, to one client; `None` if there was no worker yet.
    pub fn replay(&self, since: Option<Timestamp>, to: &Outbox) -> Option<Replayed> {
        let state = self.lock();
        if !state.opened {
            return None;
        }
        let mut replayed = Replayed::default();
        for event in state.ring.events(since) {
            if let Event::Output { seq, .. } = event {
                replayed.last_seq = *seq;
                if replayed.first_seq == 0 {
                    replayed.first_seq = *seq;
                }
            }
            replayed.count += 1;
            to.push(frame::encode(&event.message(&self.task_id, state.pid)));
        }
        Some(replayed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn listens(&self, client: ClientId) -> bool {
        self.listeners
            .iter()
            .any(|listener| listener.id() == client)
    }
}

/// Builds, line by line, only the forms of the output that somebody wants.
struct Encoder {
    /// Constant part of every message up to the data; empty when no JSON is wanted.
    head: Vec<u8>,
    /// Constant part between the data and the number.
    tail: Vec<u8>,
    payload: Vec<u8>,
    frames: Option<Vec<u8>>,
    events: Option<Vec<u8>>,
    log: Option<Vec<u8>>,
    stream: OutputStream,
    ts: Timestamp,
}

impl Encoder {
    fn new(task_id: &str, pid: u32, stream: OutputStream, ts: Timestamp, state: &State) -> Self {
        let frames = (!state.listeners.is_empty()).then(Vec::new);
        let events = state.sinks.events.is_some().then(Vec::new);
        let log = state.sinks.log.is_some().then(Vec::new);
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        if frames.is_some() || events.is_some() {
            head.extend_from_slice(b"{\"type\":\"output\",\"task_id\":");
            append_json(task_id, &mut head);
            head.extend_from_slice(
                format!(
                    ",\"pid\":{pid},\"stream\":\"{}\",\"data\":",
                    stream.as_str()
                )
                .as_bytes(),
            );
            tail.extend_from_slice(format!(",\"ts\":\"{ts}\",\"seq\":").as_bytes());
        }
        Self {
            head,
            tail,
            payload: Vec::new(),
            frames,
            events,
            log,
            stream,
            ts,
        }
    }

    fn line(&mut self, data: &str, seq: u64, truncated: bool, log: Option<&TaskLog>) {
        if !self.head.is_empty() {
            self.payload.clear();
            self.payload.extend_from_slice(&self.head);
            append_json(data, &mut self.payload);
            self.payload.extend_from_slice(&self.tail);
            append_number(seq, &mut self.payload);
            self.payload.extend_from_slice(if truncated {
                b",\"truncated\":true}\n"
            } else {
                b"}\n"
            });
        }
        if let Some(frames) = &mut self.frames {
            frame::append_text(&self.payload, frames);
        }
        if let Some(events) = &mut self.events {
            events.extend_from_slice(&self.payload);
        }
        if let (Some(text), Some(log)) = (&mut self.log, log) {
            log.logs.append_line(text, self.ts, self.stream, data);
        }
    }

    fn deliver(self, task_id: &str, state: &State, count: u64, ts: Timestamp) -> Pressure {
        let mut pressure = Pressure::default();
        if let Some(frames) = self.frames.map(Bytes::from) {
            for listener in &state.listeners {
                report_dropped(task_id, listener, ts);
                if listener.push_output(frames.clone(), count) {
                    pressure.outboxes.push(Arc::clone(listener));
                }
            }
        }
        if let (Some(events), Some(file)) = (self.events, &state.sinks.events) {
            file.push(Bytes::from(events));
            pressure.files.push(file.clone());
        }
        if let (Some(text), Some(log)) = (self.log, &state.sinks.log) {
            log.file.push(Bytes::from(text));
            pressure.files.push(log.file.clone());
        }
        pressure
    }
}

/// Tells a client that asked for it how many lines it missed, before it gets the next ones.
fn report_dropped(task_id: &str, listener: &Outbox, ts: Timestamp) {
    if let Some(dropped) = listener.take_dropped()
        && listener.has(Feature::Lagged)
    {
        listener.push(frame::encode(&Message::Lagged {
            task_id: task_id.to_owned(),
            dropped,
            ts,
        }));
    }
}

fn append_json(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text)
        .unwrap_or_else(|error| unreachable!("a Vec takes every write: {error}"));
}

fn append_number(number: u64, out: &mut Vec<u8>) {
    use std::io::Write;
    write!(out, "{number}")
        .unwrap_or_else(|error| unreachable!("a Vec takes every write: {error}"));
}
