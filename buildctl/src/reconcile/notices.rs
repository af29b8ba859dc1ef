//! When each notice of a job is posted: one after the other, each a few times at most. An attempt is counted in the record
//! before it is made, and is made again if nobody says how it went, so that a crash neither loses a notice nor repeats it
//! without end.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    clock::{later, since},
    job::{JobId, Notice},
};

/// How often a delivery is tried, as by the original.
const ATTEMPTS: u32 = 3;

/// How long an attempt is given before it counts as made by somebody who is gone: more than a post may take.
const LEASE: Duration = Duration::from_mins(1);

/// How many notices that are delivered or given up a record keeps: a job has fewer events, and a record has to fit where ledgers
/// keep it.
const KEPT: usize = 8;

/// How much is kept of what a receiver said, in characters.
const WORDS: usize = 300;

/// The namespace of deliveries.
const DELIVERIES: Uuid = Uuid::from_u128(0x8f0f_62ce_41f5_4c8e_8dd4_6f6b_52b3_96d1);

/// Which events somebody wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// The success of a job.
    pub success: bool,
    /// The failure of a job or of a phase.
    pub failure: bool,
}

impl Events {
    /// From the two switches of a configuration; neither of them means both, as with the original.
    pub fn of(on_success: bool, on_failure: bool) -> Self {
        let both = !on_success && !on_failure;
        Self {
            success: on_success || both,
            failure: on_failure || both,
        }
    }

    /// Whether this one is wanted. What is neither the job's success nor a failure always is.
    pub fn include(self, event: &str) -> bool {
        match event {
            "job.completed" => self.success,
            event if event.ends_with(".failed") => self.failure,
            _ => true,
        }
    }
}

/// What came of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver has it.
    Done(String),
    /// It has not; again may help.
    Failed(String),
    /// It must not be posted there at all.
    Forbidden(String),
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// All are delivered or given up.
    Nobody,
    /// The first one waits.
    Later(Timestamp),
    /// This one's; its attempt is counted.
    Now(Uuid),
}

/// The name of a delivery: the same for whoever plans it.
pub(super) fn delivery(job: JobId, event: &str) -> Uuid {
    Uuid::new_v5(&DELIVERIES, format!("{job} {event}").as_bytes())
}

/// Takes in how an attempt went.
pub(super) fn delivered(notices: &mut [Notice], delivery: Uuid, result: &Delivery, now: Timestamp) {
    let mut waiting = notices.iter_mut().filter(|notice| notice.due.is_some());
    let Some(notice) = waiting.find(|notice| notice.delivery == delivery) else {
        return;
    };
    let (due, text) = match result {
        Delivery::Done(text) | Delivery::Forbidden(text) => (None, text.clone()),
        Delivery::Failed(text) if notice.attempts >= ATTEMPTS => {
            (None, format!("given up after {ATTEMPTS} attempts: {text}"))
        }
        Delivery::Failed(text) => {
            let pause = Duration::from_secs(1) * notice.attempts;
            (Some(later(now, pause)), text.clone())
        }
    };
    notice.due = due;
    notice.result = Some(brief(text, WORDS));
}

/// The beginning of a text that is too long.
pub(super) fn brief(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Forgets the oldest of those that nothing is left to do for.
pub(super) fn bound(notices: &mut Vec<Notice>) {
    let over = notices.iter().filter(|notice| notice.due.is_none()).count();
    let mut excess = over.saturating_sub(KEPT);
    notices.retain(|notice| {
        let goes = notice.due.is_none() && excess > 0;
        excess -= usize::from(goes);
        !goes
    });
}

/// Whose turn it is; counts the attempt.
pub(super) fn next(notices: &mut [Notice], now: Timestamp) -> Turn {
    for notice in notices {
        let Some(due) = notice.due else { continue };
        // Further away than any pause only after the clock was set back.
        let waits = due > now && since(due, now) <= LEASE;
        if waits {
            return Turn::Later(due);
        }
        if notice.attempts < ATTEMPTS {
            notice.attempts += 1;
            notice.due = Some(later(now, LEASE));
            return Turn::Now(notice.delivery);
        }
        notice.due = None;
        let given_up =
            || format!("given up after {ATTEMPTS} attempts, the last of which nobody saw end");
        notice.result.get_or_insert_with(given_up);
    }
    Turn::Nobody
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_what_is_undelivered_and_the_last_of_the_rest() {
        let now = Timestamp::from_second(1_763_000_000).unwrap();
        let notice = |index: usize| Notice {
            event: format!("event.{index}"),
            delivery: Uuid::from_u128(index as u128),
            at: now,
            attempts: 1,
            due: index.is_multiple_of(5).then_some(now),
            result: None,
        };
        let mut notices: Vec<Notice> = (0..50).map(notice).collect();
        bound(&mut notices);
        let (due, done): (Vec<_>, Vec<_>) = notices.iter().partition(|it| it.due.is_some());
        assert_eq!((due.len(), done.len()), (10, KEPT));
        assert_eq!(done.last().unwrap().event, "event.49");
        assert_eq!(done[0].event, "event.41");
    }

    #[test]
    fn what_a_receiver_says_is_kept_in_brief() {
        let now = Timestamp::from_second(1_763_000_000).unwrap();
        let mut notices = vec![Notice {
            event: "job.failed".to_owned(),
            delivery: Uuid::nil(),
            at: now,
            attempts: 1,
            due: Some(now),
            result: None,
        }];
        let said = Delivery::Failed("ä".repeat(100_000));
        delivered(&mut notices, Uuid::nil(), &said, now);
        let kept = notices[0].result.as_ref().unwrap();
        assert_eq!(kept.chars().count(), WORDS + 1, "and an ellipsis");
    }
}
