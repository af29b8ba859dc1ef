//! Flags of a task's retry policy, and their form on the wire.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::duration::GoDuration;

/// Flags of a retry policy. Without any of them the task gets its action's.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Retry policy")]
pub(super) struct RetryArgs {
    /// When to restart the task: after every exit (also code 0), after failures, or never
    #[arg(long, value_name = "WHEN")]
    restart: Option<Restart>,

    /// Wait so long before a restart
    #[arg(long, value_name = "TIME", value_parser = go_duration)]
    retry_delay: Option<String>,

    /// Wait up to so much longer, at random
    #[arg(long, value_name = "TIME", value_parser = go_duration)]
    retry_jitter: Option<String>,

    /// Count only exits within this time
    #[arg(long, value_name = "TIME", value_parser = go_duration)]
    error_window: Option<String>,

    /// Give up after so many exits
    #[arg(long, value_name = "COUNT")]
    error_threshold: Option<u32>,

    /// Multiply the delay by this with every further restart
    #[arg(long, value_name = "FACTOR")]
    backoff_factor: Option<f64>,

    /// Never wait longer than this
    #[arg(long, value_name = "TIME", value_parser = go_duration, requires = "backoff_factor")]
    backoff_max: Option<String>,

    /// Exit codes that mean success [default: 0]
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    success_exit_codes: Vec<i32>,
}

/// Which exits are followed by a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Restart {
    Always,
    OnFailure,
    Never,
}

fn go_duration(text: &str) -> Result<String, String> {
    text.parse::<GoDuration>()
        .map(|_| text.to_owned())
        .map_err(|error| format!("{error} (use 500ms, 30s or 1m30s)"))
}

impl RetryArgs {
    /// The policy on the wire; none if no flag was given.
    pub(super) fn policy(&self) -> Option<Value> {
        let mut policy = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            policy.extend(value.map(|value| (name.to_owned(), value)));
        };
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        set("restart_delay", text(&self.retry_delay));
        set("restart_jitter", text(&self.retry_jitter));
        set("error_window", text(&self.error_window));
        set("error_threshold", self.error_threshold.map(Value::from));
        set(
            "restart",
            match self.restart {
                Some(Restart::OnFailure) => Some("on-failure".into()),
                Some(Restart::Never) => Some("never".into()),
                // What a policy means anyway.
                Some(Restart::Always) | None => None,
            },
        );
        set(
            "backoff",
            self.backoff_factor.map(|factor| match &self.backoff_max {
                Some(max) => json!({ "factor": factor, "max": max }),
                None => json!({ "factor": factor }),
            }),
        );
        set(
            "success_exit_codes",
            (!self.success_exit_codes.is_empty()).then(|| json!(self.success_exit_codes)),
        );
        (!policy.is_empty() || self.restart.is_some()).then_some(Value::Object(policy))
    }

    /// Whether the policy asks for what a sticky-overseer would ignore.
    pub(super) fn is_extended(&self) -> bool {
        let restart = matches!(self.restart, Some(Restart::OnFailure | Restart::Never));
        restart || self.backoff_factor.is_some() || !self.success_exit_codes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        retry: RetryArgs,
    }

    fn parsed(line: &str) -> Result<RetryArgs, clap::Error> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.retry)
    }

    #[test]
    fn no_flag_is_no_policy_and_restart_always_is_the_empty_one() {
        assert_eq!(parsed("").unwrap().policy(), None);
        let always = parsed("--restart always").unwrap();
        assert_eq!(
            (always.policy(), always.is_extended()),
            (Some(json!({})), false)
        );
    }

    #[test]
    fn flags_become_fields() {
        let policy = parsed("--retry-delay 1s --error-window 1m --error-threshold 3").unwrap();
        assert_eq!(
            policy.policy(),
            Some(json!({"restart_delay": "1s", "error_window": "1m", "error_threshold": 3}))
        );
        assert!(!policy.is_extended());
        let extended = parsed(
            "--restart on-failure --backoff-factor 2 --backoff-max 5m --success-exit-codes 0,3",
        )
        .unwrap();
        let expected = json!({"restart": "on-failure", "backoff": {"factor": 2.0, "max": "5m"}, "success_exit_codes": [0, 3]});
        assert_eq!(
            (extended.policy(), extended.is_extended()),
            (Some(expected), true)
        );
    }

    #[test]
    fn a_time_without_a_unit_never_reaches_the_hub() {
        // A sticky-overseer drops the connection for it.
        let error = parsed("--retry-delay 5").unwrap_err().to_string();
        assert!(error.contains("missing unit"), "{error}");
    }
}
