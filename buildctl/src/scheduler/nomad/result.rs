//! What became of a run whose task ended by itself: the result that `buildctl run-phase` left in the allocation, or what can be
//! told without it.
//!
//! The result is a file of the allocation's shared folder, which is there as long as the node keeps the allocation. If it is gone,
//! or Nomad's policy does not let us read files, the task's exit code and (of a build) the last record of its log tell as much as
//! they can.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{
    client::{ApiError, NomadApi},
    logs,
    observe::Exit,
    wire::{TaskKind, absent},
};
use crate::{
    job::Job,
    phase::{Built, Ending, FailureKind, MovedTag, Outcome, Run, RunFailure, Usage},
    runner::RESULT_RECORD,
    spec::{Defaults, Spec},
};

/// Where the result is, below the allocation's folder.
const FILE: &str = "alloc/result.json";
/// How `run-phase` is told where: a constant that Nomad itself replaces.
pub(super) const ARGUMENT: &str = "${NOMAD_ALLOC_DIR}/result.json";
/// How long a node may be out of reach before what it keeps counts as gone.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);

/// The part of `run-phase`'s result that is of use here.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) ending: Ending,
    #[serde(default)]
    pub(super) usage: Usage,
    /// Whether this is no account of its own, but what can be told without it.
    #[serde(skip)]
    pub(super) unaccounted: bool,
}

impl From<Ending> for Report {
    fn from(ending: Ending) -> Self {
        Self {
            ending,
            usage: Usage::default(),
            unaccounted: false,
        }
    }
}

/// A task that ended by itself.
pub(super) struct Ended<'a> {
    pub(super) job: &'a Job,
    pub(super) run: Run,
    pub(super) kind: TaskKind,
    pub(super) exit: Exit,
    pub(super) allocation: &'a str,
    pub(super) at: Option<Timestamp>,
}

impl Ended<'_> {
    /// How the run ended. An error is one that may pass.
    pub(super) async fn report(
        &self,
        api: &NomadApi,
        defaults: &Defaults,
    ) -> Result<Report, ApiError> {
        if self.kind == TaskKind::Image {
            return Ok(self.of_image().into());
        }
        match self.result(api).await {
            Ok(Some(report)) => Ok(report),
            Err(error) if self.is_recent() && matches!(error, ApiError::Unreachable { .. }) => {
                Err(error)
            }
            Ok(None) | Err(_) => Ok(Report {
                unaccounted: true,
                ..self.without_result(defaults).into()
            }),
        }
    }

    /// What a task that was ended says of its run, if that can be read and it says anything. An error is one that may pass.
    pub(super) async fn told(&self, api: &NomadApi) -> Result<Option<Report>, ApiError> {
        if self.kind == TaskKind::Image {
            return Ok(None);
        }
        match self.result(api).await {
            Err(error) if self.is_recent() && matches!(error, ApiError::Unreachable { .. }) => {
                Err(error)
            }
            result => Ok(result.ok().flatten()),
        }
    }

    /// What the result says: its file, or its record in the log.
    async fn result(&self, api: &NomadApi) -> Result<Option<Report>, ApiError> {
        let stat = api.get(&["client", "fs", "stat", self.allocation]);
        let there = absent(stat.query("path", FILE).send().await);
        if let Ok(Some(_)) = there {
            let cat = api.get(&["client", "fs", "cat", self.allocation]);
            if let Some(answer) = absent(cat.query("path", FILE).send().await)?
                && let Ok(report) = answer.json::<Report>()
            {
                return Ok(Some(report));
            }
        }
        let recorded = logs::last_record(api, self.allocation, RESULT_RECORD).await?;
        let report = recorded.and_then(|text| serde_json::from_str::<Report>(&text).ok());
        there?;
        Ok(report)
    }

    fn is_recent(&self) -> bool {
        self.at
            .is_none_or(|at| Timestamp::now().duration_since(at) < PATIENCE)
    }

    /// The tested image was the task itself.
    fn of_image(&self) -> Ending {
        match self.exit {
            Exit {
                code: 0, signal: 0, ..
            } => Ending::Succeeded {
                outcome: Outcome::Tested,
            },
            Exit {
                out_of_memory: true,
                ..
            } => failed(FailureKind::OutOfMemory, "it used more memory than it may"),
            Exit { signal, .. } if signal != 0 => failed(
                FailureKind::Signal { signal },
                &format!("it was ended by signal {signal}"),
            ),
            Exit { code, .. } => failed(FailureKind::Exit { code }, &format!("exit code {code}")),
        }
    }

    /// What the exit code alone says; see `run-phase`'s.
    fn without_result(&self, defaults: &Defaults) -> Ending {
        const GONE: &str = "and what came of it can no longer be read (it needs read-fs, and the node to keep the allocation)";
        let Exit {
            code,
            signal,
            out_of_memory,
        } = self.exit;
        match code {
            _ if out_of_memory => {
                failed(FailureKind::OutOfMemory, "it used more memory than it may")
            }
            _ if signal != 0 => failed(
                FailureKind::Infrastructure,
                &format!("run-phase was ended by signal {signal}"),
            ),
            0 => self.outcome(defaults).map_or_else(
                || failed(FailureKind::Collected, &format!("it succeeded, {GONE}")),
                |outcome| Ending::Succeeded { outcome },
            ),
            1 => failed(FailureKind::Exit { code: 1 }, &format!("it failed, {GONE}")),
            124 => failed(FailureKind::Timeout, "it ran longer than it may"),
            143 => Ending::Cancelled,
            code => failed(
                FailureKind::Infrastructure,
                &format!("run-phase ended with exit code {code}, {GONE}"),
            ),
        }
    }

    /// What a success comes to where that follows from what was asked for.
    fn outcome(&self, defaults: &Defaults) -> Option<Outcome> {
        match self.run {
            // Only the registry knows the digest.
            Run::Build => None,
            Run::TestCommand(_) | Run::TestEntry => Some(Outcome::Tested),
            Run::Publish => {
                let (spec, built) = (
                    Spec::of(&self.job.config, defaults).ok()?,
                    self.job.built.as_ref()?,
                );
                Some(Outcome::Published {
                    tags: moved(self.job, &spec, built),
                    left: None,
                })
            }
            Run::Cleanup => Some(Outcome::Cleaned),
        }
    }
}

/// What a publication moves that succeeds.
fn moved(job: &Job, spec: &Spec, built: &Built) -> Vec<MovedTag> {
    let own = job.id.to_string().parse().ok();
    let mut tags: Vec<MovedTag> = Vec::new();
    for tag in own.into_iter().chain(spec.tags.iter().cloned()) {
        if tags.iter().all(|moved| moved.tag != tag) {
            tags.push(MovedTag {
                tag,
                digest: built.digest.clone(),
                previous: None,
            });
        }
    }
    tags
}

fn failed(kind: FailureKind, message: &str) -> Ending {
    Ending::Failed(RunFailure {
        kind,
        message: message.to_owned(),
        moved: Vec::new(),
        built: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    fn defaults() -> Defaults {
        super::super::settings::tests::defaults()
    }

    fn ending(run: Run, kind: TaskKind, exit: Exit) -> Ending {
        let mut job = Job::new(
            JobId::random(),
            super::super::settings::tests::config(),
            Timestamp::now(),
        );
        job.built = Some(super::super::settings::tests::built());
        let ended = Ended {
            job: &job,
            run,
            kind,
            exit,
            allocation: "a",
            at: None,
        };
        match kind {
            TaskKind::Image => ended.of_image(),
            TaskKind::Runner => ended.without_result(&defaults()),
        }
    }

    fn kind_of(ending: &Ending) -> Option<FailureKind> {
        match ending {
            Ending::Failed(failure) => Some(failure.kind),
            _ => None,
        }
    }

    fn code(code: i32) -> Exit {
        Exit {
            code,
            ..Exit::default()
        }
    }

    #[test]
    fn an_image_that_is_the_task_ends_as_its_process_does() {
        let image = |exit| ending(Run::TestEntry, TaskKind::Image, exit);
        assert!(matches!(image(code(0)), Ending::Succeeded { .. }));
        assert_eq!(
            kind_of(&image(code(3))),
            Some(FailureKind::Exit { code: 3 })
        );
        let killed = Exit {
            code: 137,
            signal: 9,
            out_of_memory: false,
        };
        assert_eq!(
            kind_of(&image(killed)),
            Some(FailureKind::Signal { signal: 9 })
        );
        let oom = Exit {
            out_of_memory: true,
            ..killed
        };
        assert_eq!(kind_of(&image(oom)), Some(FailureKind::OutOfMemory));
    }

    #[test]
    fn without_a_result_only_what_cannot_be_otherwise_has_succeeded() {
        let lost = |run, exit| ending(run, TaskKind::Runner, code(exit));
        assert_eq!(
            kind_of(&lost(Run::Build, 0)),
            Some(FailureKind::Collected),
            "the digest is not known"
        );
        assert_eq!(
            lost(Run::TestEntry, 0),
            Ending::Succeeded {
                outcome: Outcome::Tested
            }
        );
        let Ending::Succeeded {
            outcome: Outcome::Published { tags, .. },
        } = lost(Run::Publish, 0)
        else {
            panic!("every tag moved");
        };
        assert_eq!(tags.len(), 2);
        assert_eq!(lost(Run::Build, 143), Ending::Cancelled);
        assert_eq!(kind_of(&lost(Run::Build, 124)), Some(FailureKind::Timeout));
        assert_eq!(
            kind_of(&lost(Run::Build, 70)),
            Some(FailureKind::Infrastructure)
        );
        assert_eq!(
            kind_of(&lost(Run::Publish, 1)),
            Some(FailureKind::Exit { code: 1 })
        );
    }
}
