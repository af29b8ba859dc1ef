//! Whether and when a failed call is tried again. Pure decisions; [`super::call`] waits and calls.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode};

use crate::backoff::Backoff;

/// How often and after which waits a call is tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// How often a call is tried again after its first failure; 0 for never.
    pub times: u32,
    /// The waits in between, where the server names none.
    pub backoff: Backoff,
    /// The longest wait that a server may ask for with `Retry-After`; beyond it the call fails at
    /// once.
    pub max_wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            times: 3,
            backoff: Backoff::default(),
            max_wait: Duration::from_mins(1),
        }
    }
}

impl Retry {
    /// No second attempt.
    pub const NEVER: Self = Self {
        times: 0,
        backoff: Backoff {
            initial: Duration::ZERO,
            factor: 1.0,
            max: Duration::ZERO,
            jitter: 0.0,
        },
        max_wait: Duration::ZERO,
    };

    /// How long to wait before the attempt after `attempt` (counted from 0), or nothing if there
    /// shall be none.
    ///
    /// `asked` is the wait that the server asked for. Only methods that may be repeated get another
    /// attempt: the server may have done the work and only its answer was lost.
    pub(super) fn wait(
        &self,
        method: &Method,
        attempt: u32,
        asked: Option<Duration>,
        random: f64,
    ) -> Option<Duration> {
        if attempt >= self.times || !method.is_idempotent() {
            return None;
        }
        let wait = self.backoff.delay(attempt, random);
        match asked {
            Some(asked) if asked > self.max_wait => None,
            Some(asked) => Some(asked.max(wait)),
            None => Some(wait),
        }
    }
}

/// Whether a status says that the same call may work later.
pub(super) fn may_pass(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The wait that a server asks for with `Retry-After`, in seconds or until a date (RFC 9110, section 10.2.3).
pub fn asked_wait(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry = Retry {
        times: 2,
        backoff: Backoff {
            initial: Duration::from_millis(100),
            factor: 2.0,
            max: Duration::from_secs(1),
            jitter: 0.0,
        },
        max_wait: Duration::from_secs(5),
    };

    fn wait(method: &Method, attempt: u32, asked: Option<u64>) -> Option<u128> {
        RETRY
            .wait(method, attempt, asked.map(Duration::from_secs), 0.5)
            .map(|wait| wait.as_millis())
    }

    #[test]
    fn waits_grow_and_end() {
        let waits: Vec<_> = (0..4)
            .map(|attempt| wait(&Method::GET, attempt, None))
            .collect();
        assert_eq!(waits, [Some(100), Some(200), None, None]);
    }

    #[test]
    fn only_methods_that_may_be_repeated_are() {
        for method in [
            Method::GET,
            Method::HEAD,
            Method::PUT,
            Method::DELETE,
            Method::OPTIONS,
        ] {
            assert!(wait(&method, 0, None).is_some(), "{method}");
        }
        for method in [Method::POST, Method::PATCH] {
            assert_eq!(wait(&method, 0, None), None, "{method}");
        }
    }

    #[test]
    fn the_servers_wish_counts_up_to_a_limit() {
        assert_eq!(wait(&Method::GET, 0, Some(3)), Some(3000));
        assert_eq!(wait(&Method::GET, 0, Some(0)), Some(100));
        assert_eq!(wait(&Method::GET, 0, Some(6)), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: jiff::Timestamp = "2026-11-21T08:00:00Z".parse().unwrap();
        let asked = |text: &'static str| {
            asked_wait(
                &HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]),
                now,
            )
            .map(|wait| wait.as_secs())
        };
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked("Sat, 21 Nov 2026 08:01:00 GMT"), Some(60));
        assert_eq!(asked("Sat, 21 Nov 2026 07:00:00 GMT"), Some(0));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked_wait(&HeaderMap::new(), now), None);
    }
}
