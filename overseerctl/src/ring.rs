//! The recent past of one worker: its last events, capped by count and by bytes, for `replay`.
//!
//! Output and exits share one ring, as in sticky-overseer; a restart begins an empty one. Replayed messages cannot be
//! told from live ones.

use std::collections::VecDeque;

use crate::{
    api::{Message, OutputStream},
    driver::WorkerExit,
    time::Timestamp,
};

/// Caps of a [`Ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimits {
    /// Events kept.
    pub events: usize,
    /// Bytes of output kept; a single longer line is kept alone.
    pub bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self {
            events: 100,
            bytes: 16 << 20,
        }
    }
}

/// Something a worker did.
#[derive(Clone, Debug)]
pub enum Event {
    /// It wrote a line.
    Output {
        /// Place in the task's output.
        seq: u64,
        /// When it was read.
        ts: Timestamp,
        /// Where it was written.
        stream: OutputStream,
        /// The line.
        data: Box<str>,
        /// Whether the line's tail is missing.
        truncated: bool,
    },
    /// It ended.
    Exited {
        /// When.
        ts: Timestamp,
        /// How.
        exit: WorkerExit,
        /// Whether it had been asked to.
        intentional: bool,
    },
}

impl Event {
    fn ts(&self) -> Timestamp {
        match self {
            Self::Output { ts, .. } | Self::Exited { ts, .. } => *ts,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Output { data, .. } => data.len(),
            Self::Exited { .. } => 0,
        }
    }

    /// The event as the message it was when it happened.
    pub fn message(&self, task_id: &str, pid: u32) -> Message {
        let task_id = task_id.to_owned();
        match self.clone() {
            Self::Output {
                seq,
                ts,
                stream,
                data,
                truncated,
            } => Message::Output {
                task_id,
                pid,
                stream,
                data: data.into(),
                ts,
                seq,
                truncated,
            },
            Self::Exited {
                ts,
                exit,
                intentional,
            } => {
                let WorkerExit {
                    code: exit_code,
                    signal,
                    out_of_memory,
                } = exit;
                Message::Exited {
                    task_id,
                    pid,
                    exit_code,
                    intentional,
                    ts,
                    signal,
                    out_of_memory,
                }
            }
        }
    }
}

/// The last events of one worker.
#[derive(Debug)]
pub struct Ring {
    limits: RingLimits,
    events: VecDeque<Event>,
    bytes: usize,
}

impl Ring {
    /// An empty ring; it takes no memory until something happens.
    pub fn new(limits: RingLimits) -> Self {
        Self {
            limits,
            events: VecDeque::new(),
            bytes: 0,
        }
    }

    /// So many events fit at most.
    pub fn capacity(&self) -> usize {
        self.limits.events
    }

    /// Adds an event and forgets the oldest ones over the caps.
    pub fn push(&mut self, event: Event) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.events.len() > self.limits.events
            || (self.bytes > self.limits.bytes && self.events.len() > 1)
        {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
        }
    }

    /// Forgets everything: a new worker starts.
    pub fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
    }

    /// A finished worker adds nothing more: gives spare memory back.
    pub fn seal(&mut self) {
        self.events.shrink_to_fit();
    }

    /// Events at or after `since`, oldest first.
    pub fn events(&self, since: Option<Timestamp>) -> impl Iterator<Item = &Event> {
        self.events
            .iter()
            .filter(move |event| since.is_none_or(|since| event.ts() >= since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, len: usize) -> Event {
        Event::Output {
            seq,
            ts: Timestamp::now(),
            stream: OutputStream::Stdout,
            data: "x".repeat(len).into(),
            truncated: false,
        }
    }

    fn seqs(ring: &Ring) -> Vec<u64> {
        ring.events(None)
            .map(|event| match event {
                Event::Output { seq, .. } => *seq,
                Event::Exited { .. } => 0,
            })
            .collect()
    }

    #[test]
    fn the_oldest_events_go_first() {
        let mut ring = Ring::new(RingLimits {
            events: 3,
            bytes: 1000,
        });
        (1..=5).for_each(|seq| ring.push(line(seq, 1)));
        assert_eq!(seqs(&ring), [3, 4, 5]);
    }

    #[test]
    fn bytes_are_capped_too_but_the_newest_line_always_stays() {
        let mut ring = Ring::new(RingLimits {
            events: 100,
            bytes: 10,
        });
        ring.push(line(1, 6));
        ring.push(line(2, 6));
        assert_eq!(seqs(&ring), [2]);
        ring.push(line(3, 50));
        assert_eq!(seqs(&ring), [3]);
        ring.push(line(4, 6));
        assert_eq!(seqs(&ring), [4]);
    }

    #[test]
    fn since_is_inclusive() {
        let mut ring = Ring::new(RingLimits::default());
        ring.push(line(1, 1));
        ring.push(line(2, 1));
        let second = ring.events(None).nth(1).map(Event::ts);
        assert!(
            ring.events(second)
                .any(|event| matches!(event, Event::Output { seq: 2, .. }))
        );
    }
}
