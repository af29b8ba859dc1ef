//! One contiguous story out of two: what a hub replays of a task, and what it says of it live at the same time.
//!
//! A replay has no mark of its own and no end, so everything is held back until a fence, the reply to a later request.
//! Then it is put in order and told once. A sticky-overseer may still send a line live that its replay has shown
//! already, so what was told is remembered. A value without a socket; [`super::follow`] feeds it.
//!
//! Lines are known by worker and `seq`. `seq` goes on over restarts, yet starts anew when an id is used again, and a
//! pid alone may come back; both together do not.

use std::collections::{HashMap, HashSet};

use super::message::{Body, Event};

/// Events of one task on their way into order.
#[derive(Debug, Default)]
pub struct Merge {
    held: Vec<Event>,
    seen: HashSet<Mark>,
}

/// What makes two messages the same event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mark {
    Line { pid: u32, seq: u64 },
    Exit { pid: u32 },
}

impl Merge {
    /// Holds back an event that came before the fence.
    pub fn hold(&mut self, event: Event) {
        if self.is_news(&event) {
            self.held.push(event);
        }
    }

    /// The fence came: all that was held back, in order.
    pub fn release(&mut self) -> Vec<Event> {
        let mut workers = HashMap::new();
        for event in &self.held {
            // A worker's first event comes before those of its successor, live or replayed.
            let next = workers.len();
            workers.entry(pid(&event.body)).or_insert(next);
        }
        let mut events = std::mem::take(&mut self.held);
        events.sort_by_key(|event| (workers[&pid(&event.body)], rank(&event.body)));
        events
    }

    /// Whether an event has not been told yet; it counts as told from now on.
    ///
    /// Lines without `seq` never are news: a sticky-overseer replays lines that its output filter dropped, and those
    /// have none.
    pub fn is_news(&mut self, event: &Event) -> bool {
        match &event.body {
            Body::Output(output) if output.seq == 0 => false,
            Body::Output(output) => self.seen.insert(Mark::Line {
                pid: output.pid,
                seq: output.seq,
            }),
            Body::Exited(exited) => self.seen.insert(Mark::Exit { pid: exited.pid }),
            Body::Started(started) => {
                // A new worker: nothing of it was told, whatever its pid was used for before.
                self.seen.retain(|mark| mark.pid() != started.pid);
                true
            }
            _ => true,
        }
    }

    /// Whether an event after the fence is news. What was told before the fence is remembered for as long as its worker
    /// is the newest; live events do not come twice.
    pub fn passes(&mut self, event: &Event) -> bool {
        match &event.body {
            Body::Output(output) => {
                output.seq != 0
                    && !self.seen.remove(&Mark::Line {
                        pid: output.pid,
                        seq: output.seq,
                    })
            }
            Body::Exited(exited) => !self.seen.remove(&Mark::Exit { pid: exited.pid }),
            Body::Started(_) => {
                self.seen.clear();
                true
            }
            _ => true,
        }
    }
}

impl Mark {
    fn pid(self) -> u32 {
        match self {
            Self::Line { pid, .. } | Self::Exit { pid } => pid,
        }
    }
}

/// The worker that an event belongs to.
fn pid(body: &Body) -> u32 {
    match body {
        Body::Started(started) => started.pid,
        Body::Output(output) => output.pid,
        Body::Exited(exited) => exited.pid,
        Body::Restarting(restarting) => restarting.pid,
        Body::Errored(errored) => errored.pid,
        Body::Queued(_) | Body::Dequeued(_) | Body::Lagged(_) => 0,
    }
}

/// Place of an event in the life of its worker.
fn rank(body: &Body) -> (u8, u64) {
    match body {
        Body::Queued(_) => (0, 0),
        Body::Started(_) | Body::Dequeued(_) => (1, 0),
        Body::Output(output) => (2, output.seq),
        Body::Lagged(_) => (2, u64::MAX),
        Body::Exited(_) => (3, 0),
        Body::Restarting(_) | Body::Errored(_) => (4, 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::client::message::Received;

    fn event(message: &serde_json::Value) -> Event {
        Event::of(Received::decode(message.to_string().into()).unwrap())
            .unwrap()
            .unwrap()
    }

    fn line(pid: u32, seq: u64) -> Event {
        event(
            &json!({"type": "output", "task_id": "t", "pid": pid, "stream": "stdout", "data": seq.to_string(), "seq": seq}),
        )
    }

    fn exited(pid: u32) -> Event {
        event(&json!({"type": "exited", "task_id": "t", "pid": pid, "exit_code": 1}))
    }

    fn started(pid: u32) -> Event {
        event(&json!({"type": "started", "id": "", "task_id": "t", "pid": pid, "restart_of": 1}))
    }

    fn told(events: &[Event]) -> Vec<String> {
        let tell = |event: &Event| match &event.body {
            Body::Output(output) => format!("{}:{}", output.pid, output.seq),
            body => body.to_string(),
        };
        events.iter().map(tell).collect()
    }

    #[test]
    fn replayed_and_live_lines_become_one_story() {
        let mut merge = Merge::default();
        // Line 5 was said after the subscription and before the replay, line 6 after it.
        for event in [line(7, 5), line(7, 3), line(7, 4), line(7, 5), line(7, 6)] {
            merge.hold(event);
        }
        assert_eq!(told(&merge.release()), ["7:3", "7:4", "7:5", "7:6"]);
        assert!(
            !merge.passes(&line(7, 6)),
            "a late live copy of a replayed line"
        );
        assert!(merge.passes(&line(7, 7)));
    }

    #[test]
    fn a_restart_within_the_fence_keeps_both_workers_apart() {
        let mut merge = Merge::default();
        for event in [
            line(7, 5),
            exited(7),
            started(8),
            line(8, 6),
            line(8, 6),
            line(8, 7),
        ] {
            merge.hold(event);
        }
        let expected = [
            "7:5",
            "exited with code 1",
            "restarted as pid 8",
            "8:6",
            "8:7",
        ];
        assert_eq!(told(&merge.release()), expected);
    }

    #[test]
    fn an_exit_is_told_once_and_a_reused_pid_is_a_new_worker() {
        let mut merge = Merge::default();
        merge.hold(exited(7));
        merge.hold(exited(7));
        assert_eq!(merge.release().len(), 1);
        assert!(merge.passes(&started(7)));
        assert!(merge.passes(&line(7, 1)));
        assert!(merge.passes(&exited(7)));
    }

    #[test]
    fn lines_that_a_filter_dropped_stay_dropped() {
        let mut merge = Merge::default();
        merge.hold(line(7, 0));
        assert!(merge.release().is_empty());
        assert!(!merge.passes(&line(7, 0)));
    }

    /// The worker that says line `seq`, if there is a restart after line `restart`.
    fn worker(seq: u64, restart: u64) -> u32 {
        if seq <= restart { 7 } else { 8 }
    }

    /// What a client gets from a hub that says `lines` lines: before the fence, and after it. It subscribes, is sent a
    /// replay of at most `ring` lines, and reaches the fence when so many lines had been said.
    fn conversation(
        lines: u64,
        ring: u64,
        restart: u64,
        [subscribed, replayed, fenced]: [u64; 3],
    ) -> (Vec<Event>, Vec<Event>) {
        let (mut wire, mut fence) = (Vec::new(), 0);
        for seq in 0..=lines {
            let pid = worker(seq, restart);
            if seq > subscribed {
                if seq == restart + 1 && restart > 0 {
                    wire.extend([exited(7), started(8)]);
                }
                wire.push(line(pid, seq));
            }
            if seq == replayed {
                let remembered = (seq.saturating_sub(ring) + 1..=seq)
                    .filter(|old| worker(*old, restart) == pid)
                    .map(|old| line(pid, old));
                wire.extend(remembered);
            }
            if seq == fenced {
                fence = wire.len();
            }
        }
        let after = wire.split_off(fence);
        (wire, after)
    }

    proptest! {
        #[test]
        fn the_story_has_no_gap_and_no_repetition(
            lines in 1u64..60,
            ring in 1u64..20,
            restart in 0u64..60,
            mut moments in prop::array::uniform3(0u64..60),
            late in 0usize..4,
        ) {
            moments.sort_unstable();
            let moments = moments.map(|moment| moment.min(lines));
            let (before, after) = conversation(lines, ring, restart, moments);
            let mut merge = Merge::default();
            for event in before {
                merge.hold(event);
            }
            let mut story = merge.release();
            // A sticky-overseer may say the last lines of the replay once more, live.
            let copies: Vec<Event> = story.iter().rev().take(late).rev().cloned().collect();
            let copies = copies.into_iter().filter(|event| matches!(event.body, Body::Output(_)));
            for event in copies.chain(after) {
                if merge.passes(&event) {
                    story.push(event);
                }
            }
            let seqs: Vec<u64> = story.iter().filter_map(|event| rank_of_line(&event.body)).collect();
            prop_assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{:?}", seqs);
            prop_assert!(seqs.last().is_none_or(|last| *last == lines), "{:?}", seqs);
            prop_assert!(moments[0] == lines || !seqs.is_empty(), "nothing was told");
        }
    }

    fn rank_of_line(body: &Body) -> Option<u64> {
        match body {
            Body::Output(output) => Some(output.seq),
            _ => None,
        }
    }
}
