//! How a daemon learns that it should end, and how it says whether it is ready. What draining means
//! is the daemon's.
//!
//! ```text
//! Running ──first SIGTERM/SIGINT──▶ Draining ──second signal──▶ Ending
//! ```
//!
//! Readiness goes its own way: not ready until every [`Latch`] is released, and never again once
//! draining began.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No signal yet.
    Running,
    /// Take no new work, finish what is under way.
    Draining,
    /// End at once.
    Ending,
}

/// The wish to end, as any part of a daemon can await it. Clones share it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: watch::Receiver<Phase>,
    // Keeps the channel open when it is driven by hand and the trigger is gone: that is no wish to
    // end.
    _open: Arc<watch::Sender<Phase>>,
}

/// Moves a [`Shutdown`] by hand: in tests, and where something other than a signal ends a daemon.
#[derive(Clone, Debug)]
pub struct Trigger(Arc<watch::Sender<Phase>>);

impl Shutdown {
    /// Follows the process's signals: the first SIGTERM or SIGINT drains, the second ends.
    ///
    /// Must be called within a tokio runtime; from then on these signals no longer end the process
    /// by themselves.
    pub fn on_signals() -> io::Result<Self> {
        let (trigger, shutdown) = Self::manual();
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            while let Some(signal) = signals.next().await {
                trigger.advance();
                tracing::info!(signal, phase = ?trigger.phase(), "signal received");
            }
        });
        Ok(shutdown)
    }

    /// A shutdown that is moved by hand.
    pub fn manual() -> (Trigger, Self) {
        let (sender, phase) = watch::channel(Phase::Running);
        let sender = Arc::new(sender);
        (
            Trigger(sender.clone()),
            Self {
                phase,
                _open: sender,
            },
        )
    }

    /// Waits until draining should begin; returns at once when it should already.
    pub async fn drain(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until everything should end at once.
    pub async fn now(&self) {
        self.reached(Phase::Ending).await;
    }

    /// How far the end has come.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    async fn reached(&self, phase: Phase) {
        // The channel cannot close: this value holds a sender of it.
        let _ = self.phase.clone().wait_for(|now| *now >= phase).await;
    }
}

impl Trigger {
    /// Asks for draining; nothing happens when that was asked before.
    pub fn drain(&self) {
        self.raise(Phase::Draining);
    }

    /// Asks for an end at once.
    pub fn now(&self) {
        self.raise(Phase::Ending);
    }

    /// What a signal does: one phase on.
    pub fn advance(&self) {
        let next = if self.phase() == Phase::Running {
            Phase::Draining
        } else {
            Phase::Ending
        };
        self.raise(next);
    }

    /// How far the end has come.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    fn raise(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let raised = *now < phase;
            *now = (*now).max(phase);
            raised
        });
    }
}

#[cfg(unix)]
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Option<&'static str> {
        tokio::select! {
            signal = self.term.recv() => signal.map(|()| "SIGTERM"),
            signal = self.int.recv() => signal.map(|()| "SIGINT"),
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self(tokio::signal::windows::ctrl_c()?))
    }

    async fn next(&mut self) -> Option<&'static str> {
        self.0.recv().await.map(|()| "CTRL-C")
    }
}

/// Whether the daemon can do its work: true once all latches are released, until draining begins.
/// Clones share it.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<State>);

/// Holds readiness back while it lives; what is still starting keeps one, and drops it when it can
/// work.
#[derive(Clone, Debug)]
pub struct Latch {
    // Only the count of clones matters.
    _held: Arc<()>,
}

#[derive(Debug)]
struct State {
    latches: std::sync::Weak<()>,
    draining: AtomicBool,
}

impl Readiness {
    /// A daemon that is not ready, and the latch that makes it so when all its clones are dropped.
    pub fn new() -> (Self, Latch) {
        let held = Arc::new(());
        let state = State {
            latches: Arc::downgrade(&held),
            draining: AtomicBool::new(false),
        };
        (Self(Arc::new(state)), Latch { _held: held })
    }

    /// Whether all latches are released and draining has not begun.
    pub fn is_ready(&self) -> bool {
        self.0.latches.strong_count() == 0 && !self.is_draining()
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Says that no new work is taken; the daemon is never ready again.
    pub fn begin_drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }
}

impl Latch {
    /// Releases this latch; the same as dropping it, but it reads as what it does.
    pub fn release(self) {}
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_pending(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())) == Poll::Pending
    }

    #[test]
    fn the_first_signal_drains_and_the_second_ends() {
        let (trigger, shutdown) = Shutdown::manual();
        assert!(is_pending(shutdown.drain()));
        trigger.advance();
        assert_eq!(shutdown.phase(), Phase::Draining);
        assert!(!is_pending(shutdown.drain()));
        assert!(is_pending(shutdown.now()));
        trigger.advance();
        trigger.advance();
        assert_eq!(shutdown.phase(), Phase::Ending);
        assert!(!is_pending(shutdown.now()));
    }

    #[test]
    fn an_end_at_once_is_a_drain_too_and_there_is_no_way_back() {
        let (trigger, shutdown) = Shutdown::manual();
        trigger.now();
        trigger.drain();
        assert_eq!(shutdown.phase(), Phase::Ending);
        assert!(!is_pending(shutdown.clone().drain()));
    }

    #[test]
    fn a_lost_trigger_is_no_wish_to_end() {
        let (trigger, shutdown) = Shutdown::manual();
        drop(trigger);
        assert!(is_pending(shutdown.drain()));
    }

    #[test]
    fn readiness_waits_for_every_latch() {
        let (readiness, latch) = Readiness::new();
        let second = latch.clone();
        assert!(!readiness.is_ready());
        latch.release();
        assert!(!readiness.is_ready());
        drop(second);
        assert!(readiness.clone().is_ready());
    }

    #[test]
    fn nothing_is_ready_once_it_drains() {
        let (readiness, latch) = Readiness::new();
        latch.release();
        readiness.clone().begin_drain();
        assert!(!readiness.is_ready());
        assert!(readiness.is_draining());
    }
}
