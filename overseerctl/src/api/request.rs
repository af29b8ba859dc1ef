//! What clients send: one record of all fields of all requests, decoded as leniently as the original decodes.
//!
//! The original decodes every message into one Go struct before it looks at `type`; a field of the wrong JSON type
//! therefore drops the connection whatever the type says, and unknown fields are ignored. Keys match in any case, the
//! last of several wins, `null` is as good as absent.

use super::types::{Backoff, ExcessConfig, Params, RestartMode, RetryPolicy};
use crate::{
    duration::GoDuration,
    json::{self, Fields, JsonError, Value},
    quote::go_quote,
};

/// One request, of any type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Incoming {
    /// Its type; empty when absent.
    pub kind: String,
    /// Correlation id.
    pub id: String,
    /// The task it is about.
    pub task_id: String,
    /// The action it is about.
    pub action: String,
    /// Of `start`.
    pub params: Params,
    /// Of `start`; extension: of `stop`, which then kills at once.
    pub force: bool,
    /// Of `set_pool`, and the number of runs for `history`.
    pub limit: Option<i64>,
    /// Of `set_pool`: what the original's documents call `limit`.
    pub size: Option<i64>,
    /// Of `set_pool`.
    pub queue_size: i64,
    /// Of `set_pool`.
    pub excess: Option<ExcessConfig>,
    /// Of `start`.
    pub retry_policy: Option<RetryPolicy>,
    /// Of `list` and `replay`: RFC 3339.
    pub since: String,
    /// Extension, of `start`: forget a finished task of the same id first.
    pub replace: bool,
    /// Extension, of `hello`: wanted features.
    pub features: Vec<String>,
}

/// A message that cannot be taken: broken JSON, a wrong type, a duration that is none. The text is Go's.
pub type DecodeError = JsonError;

impl Incoming {
    /// Decodes the first JSON value of a frame; what follows it is ignored.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let value = json::first_value(frame)?;
        Fields::decode(value, "overseer.IncomingMessage", |fields| Self {
            kind: fields.string("type"),
            id: fields.string("id"),
            task_id: fields.string("task_id"),
            action: fields.string("action"),
            params: fields.string_map("params"),
            force: fields.bool("force"),
            limit: fields.optional_int("limit"),
            queue_size: fields.int("queue_size"),
            excess: fields.optional_object("excess", "overseer.ExcessConfig", excess),
            retry_policy: fields.optional_custom("retry_policy", retry_policy),
            since: fields.string("since"),
            size: fields.optional_int("size"),
            replace: fields.bool("replace"),
            features: fields.string_list("features"),
        })
    }
}

impl RetryPolicy {
    /// Reads a policy back from its wire form; `None` if it is not one.
    pub fn from_wire(policy: &serde_json::Value) -> Option<Self> {
        let text = policy.to_string();
        let mut read = Self::default();
        retry_policy(&mut read, json::whole_value(text.as_bytes()).ok()?).ok()?;
        Some(read)
    }
}

fn excess(fields: &mut Fields<'_>) -> ExcessConfig {
    ExcessConfig {
        action: fields.named_string("action", "overseer.ExcessAction"),
        order: fields.named_string("order", "overseer.KillOrder"),
        grace: fields.int("grace"),
    }
}

/// Durations are strings, and an empty one sets nothing; the rest replaces what was there.
fn retry_policy(policy: &mut RetryPolicy, value: Value<'_>) -> Result<(), JsonError> {
    let raw = Fields::decode(value, "overseer.raw", RawPolicy::read)?;
    policy.error_threshold = raw.error_threshold;
    let durations = [
        (raw.restart_delay, &mut policy.restart_delay),
        (raw.restart_jitter, &mut policy.restart_jitter),
        (raw.error_window, &mut policy.error_window),
    ];
    for (text, duration) in durations {
        if !text.is_empty() {
            *duration = parse_duration(&text)?;
        }
    }
    policy.restart = restart_mode(&raw.restart)?;
    policy.success_exit_codes = raw.success_exit_codes;
    policy.backoff = raw
        .backoff
        .map(|(factor, max)| backoff(factor, &max))
        .transpose()?;
    Ok(())
}

/// A policy before its texts are understood.
struct RawPolicy {
    restart_delay: String,
    restart_jitter: String,
    error_window: String,
    error_threshold: i64,
    restart: String,
    success_exit_codes: Vec<i32>,
    backoff: Option<(f64, String)>,
}

impl RawPolicy {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            restart_delay: fields.string("restart_delay"),
            restart_jitter: fields.string("restart_jitter"),
            error_window: fields.string("error_window"),
            error_threshold: fields.int("error_threshold"),
            restart: fields.string("restart"),
            success_exit_codes: exit_codes(&fields.int_list("success_exit_codes")),
            backoff: fields.optional_object("backoff", "Backoff", |backoff| {
                (backoff.float("factor"), backoff.string("max"))
            }),
        }
    }
}

/// Codes that no process can exit with never match.
fn exit_codes(codes: &[i64]) -> Vec<i32> {
    codes
        .iter()
        .filter_map(|code| i32::try_from(*code).ok())
        .collect()
}

fn restart_mode(text: &str) -> Result<RestartMode, JsonError> {
    match text {
        "" | "always" => Ok(RestartMode::Always),
        "on-failure" => Ok(RestartMode::OnFailure),
        "never" => Ok(RestartMode::Never),
        other => Err(JsonError::Meaning(format!(
            "unknown restart mode {} (known modes: always, on-failure, never)",
            go_quote(other)
        ))),
    }
}

fn backoff(factor: f64, max: &str) -> Result<Backoff, JsonError> {
    let max = if max.is_empty() {
        GoDuration::default()
    } else {
        parse_duration(max)?
    };
    Ok(Backoff { factor, max })
}

fn parse_duration(text: &str) -> Result<GoDuration, JsonError> {
    text.parse()
        .map_err(|error: crate::duration::DurationError| JsonError::Meaning(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Incoming, String> {
        Incoming::decode(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_start_is_decoded_whole() {
        let start = decode(
            r#"{"type":"start","id":"1","task_id":"t","action":"a","params":{"k":"v","n":null},"force":true,
                "retry_policy":{"restart_delay":"1m30s","error_threshold":3,"backoff":{"factor":2,"max":"5m"},
                "restart":"on-failure","success_exit_codes":[0,3]}}"#,
        );
        let start = start.unwrap();
        assert_eq!((start.kind.as_str(), start.force), ("start", true));
        assert_eq!(start.params["k"], "v");
        assert_eq!(start.params["n"], "");
        let policy = start.retry_policy.unwrap();
        assert_eq!(policy.restart_delay.to_string(), "1m30s");
        assert_eq!(policy.backoff.unwrap().max.to_string(), "5m0s");
        assert_eq!(
            (policy.restart, policy.success_exit_codes),
            (RestartMode::OnFailure, vec![0, 3])
        );
    }

    #[test]
    fn keys_match_in_any_case_the_last_wins_and_what_follows_is_ignored() {
        let request = decode(r#"{"TYPE":"list","Id":"a","id":"b","ID":null} trailing {"#).unwrap();
        assert_eq!((request.kind.as_str(), request.id.as_str()), ("list", "b"));
    }

    #[test]
    fn an_empty_policy_is_a_policy_and_null_is_none() {
        assert_eq!(
            decode(r#"{"retry_policy":{}}"#).unwrap().retry_policy,
            Some(RetryPolicy::default())
        );
        assert_eq!(
            decode(r#"{"retry_policy":null}"#).unwrap().retry_policy,
            None
        );
    }

    #[test]
    fn a_wrong_type_anywhere_spoils_the_message() {
        for text in [
            r#"{"id":5}"#,
            r#"{"params":{"c":1}}"#,
            "[]",
            "{",
            r#"{"limit":1.5}"#,
            r#"{"type":"list","force":"x"}"#,
        ] {
            assert!(decode(text).is_err(), "{text}");
        }
        assert_eq!(
            decode(r#"{"retry_policy":{"restart_delay":"5"}}"#).unwrap_err(),
            "time: missing unit in duration \"5\""
        );
        assert!(
            decode(r#"{"retry_policy":{"restart":"sometimes"}}"#)
                .unwrap_err()
                .contains("known modes")
        );
    }

    #[test]
    fn set_pool_tells_absent_from_zero() {
        let request = decode(r#"{"type":"set_pool","id":"1","size":3,"queue_size":2}"#).unwrap();
        assert_eq!(
            (request.limit, request.size, request.queue_size),
            (None, Some(3), 2)
        );
    }
}
