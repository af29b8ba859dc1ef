//! To which trace of somebody else's a request belongs, and with it the job that it submits (W3C, "Trace Context"): read, handed
//! on, and said in log lines. No spans of our own are reported anywhere, so what is handed on is what came in.
//!
//! ```text
//!  traceparent header, _meta of MCP ──▶ within ──▶ Job::trace ──▶ log lines of whoever moves the job along
//!                                         │                  ├──▶ header of webhooks
//!                                         └─▶ log lines      └──▶ TRACEPARENT of tests
//! ```

use std::{fmt, future::Future, str::FromStr};

use axum::http::HeaderMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing::{Instrument, Span, info_span};

/// The header, and the key of `_meta` in MCP.
pub const TRACEPARENT: &str = "traceparent";

/// The variable by which programs are told, as by common agreement (OpenTelemetry, "Environment Variables as Context Propagation
/// Carriers").
pub const VARIABLE: &str = "TRACEPARENT";

/// The bits of the flags that mean something: sampled, and that the trace's id is random.
const FLAGS: u8 = 0b11;

/// A trace, and the span in it that caused what happens here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    parent: u64,
    flags: u8,
}

/// A text that is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no traceparent")]
pub struct NoTraceParent;

impl TraceParent {
    /// The one of a request; none if there is none, or more than one, or one that is none: those are ignored.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let only = all.next().filter(|_| all.next().is_none())?;
        only.to_str().ok()?.parse().ok()
    }

    /// The trace, in the 32 digits by which it is looked up.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The span of log lines.
    pub fn span(&self) -> Span {
        info_span!("trace", id = self.trace_id())
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace,
            parent,
            flags,
        } = self;
        write!(f, "00-{trace:032x}-{parent:016x}-{flags:02x}")
    }
}

impl FromStr for TraceParent {
    type Err = NoTraceParent;

    /// Section 3.2: `00-` 32 digits `-` 16 digits `-` 2 digits, none of the numbers 0. Later versions may have more behind that.
    fn from_str(text: &str) -> Result<Self, NoTraceParent> {
        let (version, trace, parent, flags) = parts(text).ok_or(NoTraceParent)?;
        let known = version != 0xff && (version != 0 || text.len() == LENGTH);
        if !known || trace == 0 || parent == 0 {
            return Err(NoTraceParent);
        }
        Ok(Self {
            trace,
            parent: u64::try_from(parent).map_err(|_| NoTraceParent)?,
            flags: u8::try_from(flags).map_err(|_| NoTraceParent)? & FLAGS,
        })
    }
}

/// How long one of version 0 is.
const LENGTH: usize = 55;

fn parts(text: &str) -> Option<(u128, u128, u128, u128)> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_number = digits.bytes().all(plain);
        is_number.then(|| u128::from_str_radix(digits, 16).ok())?
    };
    let dash = |at: usize| (text.as_bytes().get(at) == Some(&b'-')).then_some(());
    dash(2)?;
    dash(35)?;
    dash(52)?;
    if text.len() > LENGTH {
        dash(LENGTH)?;
    }
    Some((
        number(0, 2)?,
        number(3, 35)?,
        number(36, 52)?,
        number(53, LENGTH)?,
    ))
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceParent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

tokio::task_local! {
    static CURRENT: TraceParent;
}

/// The trace that the present task works for.
pub fn current() -> Option<TraceParent> {
    CURRENT.try_with(|current| *current).ok()
}

/// Does something for a trace, if there is one: [`current`] knows it meanwhile, and so do log lines.
pub async fn within<T>(trace: Option<TraceParent>, work: impl Future<Output = T>) -> T {
    match trace.filter(|trace| current() != Some(*trace)) {
        Some(trace) => CURRENT.scope(trace, work.instrument(trace.span())).await,
        None => work.await,
    }
}

/// The same for work that blocks, on a thread of its own.
pub(crate) fn within_blocking<T>(trace: Option<TraceParent>, work: impl FnOnce() -> T) -> T {
    match trace {
        Some(trace) => CURRENT.sync_scope(trace, work),
        None => work(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn one_is_read_and_written_as_it_came() {
        let read: TraceParent = GOOD.parse().unwrap();
        assert_eq!(read.to_string(), GOOD);
        assert_eq!(read.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let json = serde_json::to_string(&read).unwrap();
        assert_eq!(json, format!("\"{GOOD}\""));
        assert_eq!(serde_json::from_str::<TraceParent>(&json).unwrap(), read);
    }

    #[test]
    fn one_of_a_later_version_is_handed_on_as_ours_and_without_flags_that_mean_nothing_here() {
        for later in [
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-f5-what-the-future-holds",
        ] {
            assert_eq!(later.parse::<TraceParent>().unwrap().to_string(), GOOD);
        }
    }

    #[test]
    fn whatever_is_none_is_ignored() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
            "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn of_two_headers_none_is_meant() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceParent::of(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceParent::of(&headers), GOOD.parse().ok());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceParent::of(&headers), None);
    }

    #[tokio::test]
    async fn who_works_for_a_trace_knows_it() {
        let trace: Option<TraceParent> = GOOD.parse().ok();
        assert_eq!(within(trace, async { current() }).await, trace);
        assert_eq!(within(None, async { current() }).await, None);
    }
}
