//! What a tool's `doctor` finds: what works here, what does not, and how to mend it. What is looked at
//! is the tool's.

use std::io;

use serde::Serialize;

use crate::exit::Exit;
use crate::output::{Printer, Table};
use crate::report::Failure;

/// How good something is. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It works.
    Ok,
    /// Something will be missing.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub says: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    /// It works.
    pub fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, says, None)
    }

    /// Something will be missing unless it is mended.
    pub fn warn(check: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warn, says, Some(mend.into()))
    }

    /// It does not work until it is mended.
    pub fn fail(check: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fail, says, Some(mend.into()))
    }

    /// What a failure says, with its cause and its hints.
    pub fn of(check: &'static str, failure: &Failure) -> Self {
        let cause = std::error::Error::source(failure)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        let says = format!("{failure}{cause}");
        Self::fail(check, says, failure.hints().join("; "))
    }

    fn new(
        check: &'static str,
        verdict: Verdict,
        says: impl Into<String>,
        mend: Option<String>,
    ) -> Self {
        Self {
            check,
            verdict,
            says: says.into(),
            mend: mend.filter(|mend| !mend.is_empty()),
        }
    }

    fn cells(&self) -> [String; 3] {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let mend = self.mend.as_ref().map(|mend| format!(" → {mend}"));
        let says = format!("{}{}", self.says, mend.unwrap_or_default());
        [verdict.to_owned(), self.check.to_owned(), says]
    }
}

/// Prints the findings. The operation has failed when one of them has.
pub fn report(printer: &Printer, findings: &[Finding]) -> io::Result<Exit> {
    let mut table = Table::headless();
    for finding in findings {
        table.push(finding.cells());
    }
    printer.both(findings, &table)?;
    let worst = findings.iter().map(|finding| finding.verdict).max();
    Ok(match worst {
        Some(Verdict::Fail) => Exit::Failed,
        _ => Exit::Done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn exit_of(findings: &[Finding]) -> Exit {
        report(&Printer::to(Format::Json, io::sink()), findings).unwrap()
    }

    #[test]
    fn only_a_failure_fails() {
        let (ok, warn) = (
            Finding::ok("a", "fine"),
            Finding::warn("b", "meh", "mend it"),
        );
        assert_eq!(exit_of(&[ok.clone(), warn.clone()]), Exit::Done);
        assert_eq!(
            exit_of(&[ok, Finding::fail("c", "no", "do"), warn]),
            Exit::Failed
        );
    }

    #[test]
    fn a_failure_without_a_hint_has_no_mend() {
        let finding = Finding::of("x", &Failure::new(Exit::Failed, "broken"));
        assert_eq!((finding.says.as_str(), finding.mend), ("broken", None));
    }
}
