//! `overseerctl doctor`: is there a hub, which one, and can this machine run one well. Every finding that is not good
//! says how to mend it.

mod hub;
mod machine;

use runyard_common::{exit::Exit, output::Table, report::Failure};
use serde::Serialize;

use super::{Context, answer};

/// Find out what works here, what does not, and how to mend it
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// It works.
    Ok,
    /// Something will be missing.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    says: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            says: says.into(),
            mend: None,
        }
    }

    fn warn(check: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Warn,
            says: says.into(),
            mend: Some(mend.into()),
        }
    }

    fn fail(check: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Fail,
            says: says.into(),
            mend: Some(mend.into()),
        }
    }

    /// What a failure says, with its cause and its hints.
    fn of(check: &'static str, failure: &Failure) -> Self {
        let cause = std::error::Error::source(failure)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        Self::fail(
            check,
            format!("{failure}{cause}"),
            failure.hints().join("; "),
        )
    }
}

pub(super) fn run(Args {}: &Args, context: &Context) -> anyhow::Result<Exit> {
    let target = context.connection.target()?;
    let mut findings = hub::examine(&target);
    findings.extend(machine::examine());
    let mut table = Table::headless();
    for Finding {
        check,
        verdict,
        says,
        mend,
    } in &findings
    {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let mend = mend
            .as_ref()
            .filter(|mend| !mend.is_empty())
            .map(|mend| format!(" → {mend}"))
            .unwrap_or_default();
        table.push([verdict, check, &format!("{says}{mend}")]);
    }
    answer::print(&context.printer, &findings, table)?;
    let has_failed = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Fail);
    Ok(if has_failed { Exit::Failed } else { Exit::Done })
}
