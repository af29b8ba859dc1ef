//! When each notice of a job is posted: one after the other, and again after growing pauses until its receiver has it, an hour
//! has passed since its event, or the receiver says that it will never take it. An attempt is counted in the record, with the
//! bytes that it posts, before it is made, and is made again if nobody says how it went: a crash neither loses a notice nor
//! repeats it without end, and whoever goes on (another process, another replica) posts the same.
//!
//! ```text
//!  planned ──▶ attempt ──▶ delivered
//!                │  ▲
//!                ├──┘ failed: 1 s, 2 s, 4 s … 10 min later, or when the receiver asks for it; the last one at the hour
//!                └──▶ given up: after the last one, or by an answer that stays the same
//! ```
//!
//! Notices keep their order, so one that waits holds up those behind it; they get an attempt each even if the hour is over for
//! them by then.

use std::time::Duration;

use jiff::Timestamp;
use runyard_common::backoff::Backoff;
use uuid::Uuid;

use crate::{
    api::WebhookPayload,
    clock::{later, since},
    job::{Job, JobId, Notice},
};

/// The pauses between attempts.
const PAUSES: Backoff = Backoff {
    initial: Duration::from_secs(1),
    factor: 2.0,
    max: Duration::from_mins(10),
    jitter: 0.2,
};

/// How long after its event a notice is tried for the last time.
const LAST: Duration = Duration::from_hours(1);

/// How often it is tried at most, whatever clocks and crashes do: more than fit into [`LAST`].
const ATTEMPTS: u32 = 24;

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
    Failed {
        /// What it said, or what came in between.
        why: String,
        /// How long it wants to be left alone.
        pause: Option<Duration>,
    },
    /// It never will: it says so, or posts must not go there at all.
    Hopeless(String),
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// All are delivered or given up.
    Nobody,
    /// The first one waits.
    Later(Timestamp),
    /// This one's; its attempt is counted.
    Now {
        delivery: Uuid,
        /// When the attempt counts as lost.
        until: Timestamp,
    },
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
    let text = match result {
        Delivery::Done(text) => {
            ends(notice, false);
            text.clone()
        }
        Delivery::Hopeless(why) => {
            ends(notice, true);
            format!("given up: {why}")
        }
        Delivery::Failed { why, pause } => {
            notice.due = again(notice, *pause, now);
            if notice.due.is_some() {
                why.clone()
            } else {
                ends(notice, true);
                format!("given up after {} attempts: {why}", notice.attempts)
            }
        }
    };
    notice.result = Some(brief(text, WORDS));
}

/// Nothing is left to do for it.
fn ends(notice: &mut Notice, given_up: bool) {
    notice.due = None;
    notice.body = None;
    notice.given_up = given_up;
}

/// When a notice whose attempts have all failed, the last of them now, is tried again; none for one that is to be given up. Its
/// receiver may ask for a longer pause than there would be, but not for more than is left.
fn again(notice: &Notice, asked: Option<Duration>, now: Timestamp) -> Option<Timestamp> {
    let last = later(notice.at, LAST);
    if now >= last || notice.attempts >= ATTEMPTS {
        return None;
    }
    let pause = PAUSES.delay(notice.attempts.saturating_sub(1), chance(notice));
    let pause = pause.max(asked.unwrap_or_default());
    Some(later(now, pause).min(last))
}

/// A number from 0 to 1, another one for each attempt of each delivery: it spreads pauses, and is the same for whoever asks.
fn chance(notice: &Notice) -> f64 {
    let drawn = Uuid::new_v5(&notice.delivery, &notice.attempts.to_le_bytes());
    let [a, b, c, d, ..] = *drawn.as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

/// Writes down what is posted, unless that has been done.
pub(super) fn write(job: &mut Job, delivery: Uuid) {
    let is_meant = |notice: &&Notice| notice.delivery == delivery && notice.body.is_none();
    let Some(notice) = job.notices.iter().find(is_meant) else {
        return;
    };
    // Plain texts, numbers and lists always have a JSON form.
    let body = serde_json::to_string(&WebhookPayload::of(job, notice)).ok();
    let mut notices = job.notices.iter_mut();
    if let Some(notice) = notices.find(|notice| notice.delivery == delivery) {
        notice.body = body;
    }
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
        let waits = due > now && since(due, now) <= LAST;
        if waits {
            return Turn::Later(due);
        }
        if notice.attempts < ATTEMPTS {
            let until = later(now, LEASE);
            notice.attempts += 1;
            notice.due = Some(until);
            return Turn::Now {
                delivery: notice.delivery,
                until,
            };
        }
        ends(notice, true);
        let given_up =
            || format!("given up after {ATTEMPTS} attempts, the last of which nobody saw end");
        notice.result.get_or_insert_with(given_up);
    }
    Turn::Nobody
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::constant(1_763_000_000, 0);

    fn notice(index: u128, due: Option<Timestamp>) -> Notice {
        Notice {
            event: format!("event.{index}"),
            delivery: Uuid::from_u128(index),
            at: T0,
            attempts: 1,
            due,
            result: None,
            body: None,
            given_up: false,
        }
    }

    fn failed(pause: Option<u64>) -> Delivery {
        Delivery::Failed {
            why: "no".to_owned(),
            pause: pause.map(Duration::from_secs),
        }
    }

    /// When a notice that fails again and again is tried, after its event.
    fn attempts(index: u128, pause: Option<u64>) -> Vec<Duration> {
        let mut notices = [notice(index, Some(T0))];
        notices[0].attempts = 0;
        let (mut now, mut tried) = (T0, Vec::new());
        loop {
            match next(&mut notices, now) {
                Turn::Nobody => return tried,
                Turn::Later(when) => now = when,
                Turn::Now { delivery, .. } => {
                    tried.push(since(now, T0));
                    delivered(&mut notices, delivery, &failed(pause), now);
                }
            }
        }
    }

    #[test]
    fn pauses_double_up_to_ten_minutes_and_the_last_attempt_is_at_the_hour() {
        let tried = attempts(1, None);
        assert_eq!(
            (tried[0], *tried.last().unwrap()),
            (Duration::ZERO, LAST),
            "{tried:?}"
        );
        let pauses = tried
            .windows(2)
            .map(|two| two[1].saturating_sub(two[0]).as_secs_f64());
        let pauses: Vec<f64> = pauses.collect();
        for (attempt, pause) in (0..).zip(&pauses[..pauses.len() - 1]) {
            let plain = f64::powi(2.0, attempt).min(600.0);
            let most = (plain * 1.2).min(600.0);
            assert!(
                (plain * 0.8..=most).contains(pause),
                "{attempt}: {pauses:?}"
            );
        }
        assert!((14..ATTEMPTS as usize).contains(&tried.len()), "{tried:?}");
        assert_ne!(tried, attempts(2, None), "they do not come together");
        assert_eq!(tried, attempts(1, None), "whoever asks");
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_pause_within_the_hour() {
        let asked = attempts(1, Some(1000));
        let expected = [0, 1000, 2000, 3000, 3600].map(Duration::from_secs);
        assert_eq!(asked, expected);
        let expected = [Duration::ZERO, LAST];
        assert_eq!(attempts(1, Some(u64::MAX)), expected);
        let shorter = attempts(1, Some(0));
        assert_eq!(shorter, attempts(1, None));
    }

    #[test]
    fn a_notice_that_had_to_wait_longer_than_the_hour_gets_its_attempt() {
        let late = later(T0, LAST * 3);
        let mut notices = [notice(1, Some(T0))];
        let Turn::Now { delivery, .. } = next(&mut notices, late) else {
            panic!("{notices:?}");
        };
        delivered(&mut notices, delivery, &failed(None), late);
        assert_eq!((notices[0].due, notices[0].given_up), (None, true));
    }

    #[test]
    fn an_attempt_that_nobody_saw_end_is_made_again_but_not_for_ever() {
        let mut notices = [notice(1, Some(T0))];
        notices[0].attempts = 0;
        let mut now = T0;
        for _ in 0..ATTEMPTS {
            assert!(matches!(next(&mut notices, now), Turn::Now { .. }));
            assert_eq!(next(&mut notices, now), Turn::Later(later(now, LEASE)));
            now = later(now, LEASE);
        }
        assert_eq!(next(&mut notices, now), Turn::Nobody);
        assert!(notices[0].given_up, "{notices:?}");
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nothing_waiting() {
        let mut notices = [notice(1, Some(T0))];
        let before = Timestamp::UNIX_EPOCH;
        assert!(matches!(next(&mut notices, before), Turn::Now { .. }));
    }

    #[test]
    fn what_will_never_be_taken_is_given_up_at_once_and_the_next_one_is_tried() {
        let mut notices = [1, 2].map(|index| notice(index, Some(T0)));
        let said = Delivery::Hopeless("the receiver answered 410 Gone".to_owned());
        delivered(&mut notices, Uuid::from_u128(1), &said, T0);
        let told = notices[0].result.as_deref();
        assert_eq!(told, Some("given up: the receiver answered 410 Gone"));
        assert!(notices[0].given_up);
        let turn = next(&mut notices, T0);
        assert!(
            matches!(turn, Turn::Now { delivery, .. } if delivery == Uuid::from_u128(2)),
            "{turn:?}"
        );
    }

    #[test]
    fn a_record_keeps_what_is_undelivered_and_the_last_of_the_rest() {
        let due = |index: u128| index.is_multiple_of(5).then_some(T0);
        let mut notices: Vec<Notice> = (0..50).map(|index| notice(index, due(index))).collect();
        bound(&mut notices);
        let (due, done): (Vec<_>, Vec<_>) = notices.iter().partition(|it| it.due.is_some());
        assert_eq!((due.len(), done.len()), (10, KEPT));
        assert_eq!(done.last().unwrap().event, "event.49");
        assert_eq!(done[0].event, "event.41");
    }

    #[test]
    fn what_a_receiver_says_is_kept_in_brief() {
        let mut notices = [notice(0, Some(T0))];
        let said = Delivery::Failed {
            why: "ä".repeat(100_000),
            pause: None,
        };
        delivered(&mut notices, Uuid::nil(), &said, T0);
        let kept = notices[0].result.as_ref().unwrap();
        assert_eq!(kept.chars().count(), WORDS + 1, "and an ellipsis");
    }
}
