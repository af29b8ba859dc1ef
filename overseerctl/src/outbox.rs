//! One client's outgoing queue: lossless while the client reads, harmless to others when it does not.
//!
//! Pushing never blocks, so it is allowed under any lock. Whoever produces output in quantity waits afterwards, in
//! [`Outbox::relieved`], and only for a client that still makes progress:
//!
//! ```text
//!            queued <= queue             queued > queue              no progress for `grace`
//!  flowing ─────────────────▶ flowing ─────────────────▶ slow ───────────────────────────────▶ stalled
//!     ▲                                                   │ producers wait                       │ nobody waits
//!     └────────────── progress, queued <= queue ──────────┴──────────── progress ───────────────┤
//!                                                                                               ▼
//!                                             queued > queue_max, or no progress for `timeout`: closed (1008)
//! ```
//!
//! "Progress" is the kernel taking bytes from us. With [`OnSlow::Drop`] output is not queued beyond `queue` at all:
//! the client sees a gap in `seq` and, if it asked for that, a `lagged` message; lifecycle messages are never dropped.

use std::{
    collections::VecDeque,
    io::IoSlice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use crate::frame;

/// What becomes of output for a client whose queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSlow {
    /// Producers wait for it; a client that stalls is closed.
    Close,
    /// Its output is dropped until it has caught up.
    Drop,
}

/// Limits of an [`Outbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowClient {
    /// Bytes queued beyond which producers wait.
    pub queue: usize,
    /// Bytes queued beyond which a stalled client is closed.
    pub queue_max: usize,
    /// Without progress for this long, nobody waits for the client any more.
    pub grace: Duration,
    /// Without progress for this long, the client is closed.
    pub timeout: Duration,
    /// See [`OnSlow`].
    pub on_slow: OnSlow,
}

impl Default for SlowClient {
    fn default() -> Self {
        Self {
            queue: 8 << 20,
            queue_max: 64 << 20,
            grace: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            on_slow: OnSlow::Close,
        }
    }
}

/// An extension of the protocol that a connection asked for with `hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `stop` and `replay` are answered.
    Acks = 1,
    /// Lifecycle messages of all tasks, subscribed or not.
    TaskEvents = 2,
    /// A `lagged` message when output was dropped.
    Lagged = 4,
    /// `remove` is understood.
    Remove = 8,
    /// `history` is understood.
    History = 16,
}

impl Feature {
    /// All features, by their wire name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("acks", Self::Acks),
        ("task_events", Self::TaskEvents),
        ("lagged", Self::Lagged),
        ("remove", Self::Remove),
        ("history", Self::History),
    ];
}

/// Number of a connection, unique in this process.
pub type ClientId = u64;

/// One client's outgoing queue.
#[derive(Debug)]
pub struct Outbox {
    id: ClientId,
    limits: SlowClient,
    features: AtomicU8,
    queue: Mutex<Queue>,
    /// Wakes the writer: there is something to write, or the end.
    filled: Notify,
    /// Wakes producers: there is room, or the client is gone.
    drained: Notify,
}

#[derive(Debug)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// Bytes pushed and not yet taken by the kernel.
    bytes: usize,
    /// When the kernel last took bytes, or when the queue last became non-empty.
    progress: Instant,
    /// Output lines dropped since the last one that was queued.
    dropped: u64,
    end: Option<End>,
}

/// Why an outbox takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Whatever is queued is still written, then the connection ends.
    Finish,
    /// The queue was thrown away: the client did not read.
    Slow,
    /// The connection is gone.
    Gone,
}

/// What the writer is to do next.
#[derive(Debug)]
pub enum Next {
    /// Write these frames.
    Write(Batch),
    /// Everything is written: end the connection.
    Finished,
    /// The client was too slow: tell it so if it can still hear, and end the connection.
    TooSlow,
}

impl Outbox {
    /// An empty queue for connection `id`.
    pub fn new(id: ClientId, limits: SlowClient) -> Arc<Self> {
        let queue = Queue {
            frames: VecDeque::new(),
            bytes: 0,
            progress: Instant::now(),
            dropped: 0,
            end: None,
        };
        Arc::new(Self {
            id,
            limits,
            features: AtomicU8::new(0),
            queue: Mutex::new(queue),
            filled: Notify::new(),
            drained: Notify::new(),
        })
    }

    /// The connection's number.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &SlowClient {
        &self.limits
    }

    /// Grants a protocol extension.
    pub fn grant(&self, feature: Feature) {
        self.features.fetch_or(feature as u8, Ordering::Relaxed);
    }

    /// Whether a protocol extension was granted.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.load(Ordering::Relaxed) & feature as u8 != 0
    }

    /// Queues a reply or a lifecycle message. Never blocks and never drops, short of closing a stalled client.
    pub fn push(&self, frame: Bytes) {
        let mut queue = self.lock();
        if queue.end.is_none() {
            self.enqueue(&mut queue, frame);
        }
    }

    /// Queues `lines` lines of output. Returns whether the producer should wait in [`Outbox::relieved`].
    pub fn push_output(&self, frames: Bytes, lines: u64) -> bool {
        let mut queue = self.lock();
        if queue.end.is_some() {
            return false;
        }
        if self.limits.on_slow == OnSlow::Drop && queue.bytes > self.limits.queue {
            queue.dropped += lines;
            return false;
        }
        self.enqueue(&mut queue, frames);
        queue.end.is_none()
            && queue.bytes > self.limits.queue
            && self.limits.on_slow == OnSlow::Close
    }

    /// Output lines dropped since this was last asked, once there is room again to say so.
    pub fn take_dropped(&self) -> Option<u64> {
        let mut queue = self.lock();
        let room = queue.bytes <= self.limits.queue;
        (room && queue.dropped > 0).then(|| std::mem::take(&mut queue.dropped))
    }

    /// Waits until there is room again, or until nobody should wait for this client any more.
    pub async fn relieved(&self) {
        loop {
            let drained = self.drained.notified();
            let Some(patience) = self.patience() else {
                return;
            };
            // A timeout is no error here: the loop looks again and finds the client stalled.
            let _ = tokio::time::timeout(patience, drained).await;
        }
    }

    /// How much longer a producer should wait; `None` when it need not.
    fn patience(&self) -> Option<Duration> {
        let queue = self.lock();
        if queue.end.is_some() || queue.bytes <= self.limits.queue {
            return None;
        }
        self.limits
            .grace
            .checked_sub(queue.progress.elapsed())
            .filter(|left| !left.is_zero())
    }

    /// No more messages: what is queued is still written, then `last_word`, then the connection ends.
    pub fn finish(&self, last_word: Option<Bytes>) {
        let mut queue = self.lock();
        if queue.end.is_none() {
            if let Some(frame) = last_word {
                self.enqueue(&mut queue, frame);
            }
            queue.end.get_or_insert(End::Finish);
            drop(queue);
            self.filled.notify_one();
            self.drained.notify_waiters();
        }
    }

    /// The connection is gone; everything queued is forgotten and nobody waits.
    pub fn abandon(&self) {
        self.end(&mut self.lock(), End::Gone);
    }

    /// Gives up on a client that does not read.
    pub fn give_up(&self) {
        self.end(&mut self.lock(), End::Slow);
    }

    /// For the writer: what to do next, waiting until there is something.
    pub async fn next(&self) -> Next {
        loop {
            let filled = self.filled.notified();
            if let Some(next) = self.try_next() {
                return next;
            }
            filled.await;
        }
    }

    /// Resolves when the client has been given up on, even while the writer is stuck in a write.
    pub async fn given_up(&self) {
        loop {
            let drained = self.drained.notified();
            if matches!(self.lock().end, Some(End::Slow | End::Gone)) {
                return;
            }
            drained.await;
        }
    }

    /// Whether something waits to be taken by the kernel.
    pub fn has_backlog(&self) -> bool {
        self.lock().bytes > 0
    }

    /// For the writer: the kernel took `bytes` bytes.
    pub fn progressed(&self, bytes: usize) {
        let mut queue = self.lock();
        queue.bytes = queue.bytes.saturating_sub(bytes);
        queue.progress = Instant::now();
        let room = queue.bytes <= self.limits.queue;
        drop(queue);
        if room {
            self.drained.notify_waiters();
        }
    }

    fn try_next(&self) -> Option<Next> {
        let mut queue = self.lock();
        if queue.end == Some(End::Slow) {
            return Some(Next::TooSlow);
        }
        if queue.frames.is_empty() {
            return queue.end.map(|_| Next::Finished);
        }
        let count = queue.frames.len().min(Batch::FRAMES);
        Some(Next::Write(Batch(queue.frames.drain(..count).collect())))
    }

    fn enqueue(&self, queue: &mut Queue, frame: Bytes) {
        if queue.bytes == 0 {
            queue.progress = Instant::now();
        }
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        let stalled = queue.progress.elapsed() >= self.limits.grace;
        if queue.bytes > self.limits.queue_max && stalled {
            self.end(queue, End::Slow);
        } else {
            self.filled.notify_one();
        }
    }

    fn end(&self, queue: &mut Queue, end: End) {
        if !matches!(queue.end, Some(End::Slow | End::Gone)) {
            queue.end = Some(end);
        }
        queue.frames = VecDeque::new();
        queue.bytes = 0;
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frames that the writer hands to the kernel in one vectored write.
#[derive(Debug)]
pub struct Batch(VecDeque<Bytes>);

impl Batch {
    /// At most so many frames go into one write.
    const FRAMES: usize = 64;
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn has_remaining(&self) -> bool {
        !self.0.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |frame| frame)
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        let count = dst.len().min(self.0.len());
        for (slot, frame) in dst.iter_mut().zip(&self.0) {
            *slot = IoSlice::new(frame);
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let front = self
                .0
                .front_mut()
                .unwrap_or_else(|| unreachable!("advanced past the end"));
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.0.pop_front();
        }
    }
}

/// The close frame for a client that does not read.
pub fn slow_consumer() -> Bytes {
    frame::close(1008, "slow consumer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(on_slow: OnSlow) -> SlowClient {
        SlowClient {
            queue: 10,
            queue_max: 20,
            grace: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
            on_slow,
        }
    }

    fn frame(len: usize) -> Bytes {
        Bytes::from(vec![b'x'; len])
    }

    #[test]
    fn a_producer_waits_only_beyond_the_soft_limit() {
        let outbox = Outbox::new(1, limits(OnSlow::Close));
        assert!(!outbox.push_output(frame(10), 1), "at the limit");
        assert!(outbox.push_output(frame(1), 1), "beyond it");
    }

    #[tokio::test]
    async fn progress_relieves_a_waiting_producer() {
        let outbox = Outbox::new(
            1,
            SlowClient {
                grace: Duration::from_hours(1),
                ..limits(OnSlow::Close)
            },
        );
        assert!(outbox.push_output(frame(15), 1));
        let waiting = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.relieved().await }
        });
        outbox.progressed(5);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_a_stalled_client() {
        let outbox = Outbox::new(1, limits(OnSlow::Close));
        assert!(outbox.push_output(frame(15), 1));
        outbox.relieved().await;
        assert!(
            matches!(outbox.next().await, Next::Write(_)),
            "it is still being served"
        );
    }

    #[tokio::test]
    async fn a_stalled_client_that_overflows_is_given_up() {
        let outbox = Outbox::new(1, limits(OnSlow::Close));
        outbox.push_output(frame(15), 1);
        outbox.relieved().await;
        outbox.push_output(frame(15), 1);
        outbox.given_up().await;
        assert!(matches!(outbox.next().await, Next::TooSlow));
        assert!(
            !outbox.push_output(frame(100), 1),
            "nothing more is queued and nobody waits"
        );
    }

    #[test]
    fn a_client_that_makes_progress_may_exceed_the_hard_limit_for_a_moment() {
        let outbox = Outbox::new(
            1,
            SlowClient {
                grace: Duration::from_hours(1),
                ..limits(OnSlow::Close)
            },
        );
        assert!(outbox.push_output(frame(15), 1));
        assert!(
            outbox.push_output(frame(15), 1),
            "queued, and the producer waits"
        );
    }

    #[test]
    fn with_drop_output_is_skipped_and_counted_and_lifecycle_is_not() {
        let outbox = Outbox::new(1, limits(OnSlow::Drop));
        assert!(!outbox.push_output(frame(15), 1));
        assert!(!outbox.push_output(frame(15), 7), "nobody waits");
        outbox.push(frame(1));
        assert_eq!(outbox.take_dropped(), None, "no room yet to say so");
        outbox.progressed(15);
        assert_eq!(outbox.take_dropped(), Some(7));
        assert_eq!(outbox.take_dropped(), None);
    }

    #[tokio::test]
    async fn finishing_writes_what_is_queued_first() {
        let outbox = Outbox::new(1, limits(OnSlow::Close));
        outbox.push(frame(3));
        outbox.finish(Some(frame(2)));
        outbox.push(frame(4));
        let Next::Write(batch) = outbox.next().await else {
            panic!("frames first")
        };
        assert_eq!(batch.remaining(), 5);
        assert!(matches!(outbox.next().await, Next::Finished));
    }

    #[test]
    fn a_batch_advances_over_frame_borders() {
        let mut batch = Batch([frame(3), frame(3)].into());
        batch.advance(4);
        assert_eq!((batch.remaining(), batch.chunk().len()), (2, 2));
        batch.advance(2);
        assert!(!batch.has_remaining());
    }
}
