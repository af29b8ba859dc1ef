//! `buildctl spec`: what a job's description comes to, without handing it in.

use clap::{Subcommand, ValueEnum};
use runyard_common::{exit::Exit, output::Table, report::Failure};
use serde_json::{Value, json};

use super::{
    Context,
    job::{Absent, JobArgs},
    place,
};
use crate::{
    api::JobConfig,
    job::{Job, JobId},
    phase::{Built, Run},
    scheduler::local::{LocalConfig, work_of},
    service::{BuildError, tests},
    spec::{Defaults, Spec},
};

/// Check a job's description, or show what would be run for it
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether it would be accepted
    Validate {
        #[command(flatten)]
        job: Box<JobArgs>,
    },
    /// Print what would be run: the work of each run and the commands that carry it out
    Render {
        #[command(flatten)]
        job: Box<JobArgs>,
        /// For which backend
        #[arg(long, value_enum, default_value_t, value_name = "BACKEND")]
        backend: Backend,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// This machine: work and Buildah's command lines
    #[default]
    Local,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    match &args.verb {
        Verb::Validate { job } => {
            let config = job.load(Absent::Stdin)?;
            let here = context.here_with(&[])?;
            let spec = check(&config, &place::defaults(&here), context)?;
            let (answer, text) = accepted(&spec);
            context
                .printer
                .both(&answer, &Table::headless().row([text]))?;
        }
        Verb::Render {
            job,
            backend: Backend::Local,
        } => {
            let config = job.load(Absent::Stdin)?;
            let here = context.here_with(&job.insecure(&config))?;
            let spec = check(&config, &place::defaults(&here), context)?;
            let (_, scheduler) = place::here(&here)?;
            context
                .printer
                .value(&render(config, &spec, scheduler.config())?)?;
        }
    }
    Ok(Exit::Done)
}

fn check(config: &JobConfig, defaults: &Defaults, context: &Context) -> Result<Spec, Failure> {
    Spec::of(config, defaults).map_err(|wrong| {
        let wrong = wrong.iter().map(ToString::to_string).collect();
        context.failure(BuildError::Invalid(wrong))
    })
}

fn accepted(spec: &Spec) -> (Value, String) {
    let image = spec.repository.to_string();
    let tests: Vec<String> = tests(spec).iter().map(ToString::to_string).collect();
    let text = match tests.len() {
        0 => format!("ok: {image}, published untested"),
        1 => format!("ok: {image}, 1 test"),
        many => format!("ok: {image}, {many} tests"),
    };
    let answer = json!({ "valid": true, "image": image, "tags": spec.tags, "tests": tests });
    (answer, text)
}

/// The runs of a job on this machine, as far as they can be known before: the job's id is an example, and what a build gives is
/// made up of zeros.
fn render(config: JobConfig, spec: &Spec, local: &LocalConfig) -> anyhow::Result<Value> {
    let mut job = Job::new(JobId::of_key("render"), config, jiff::Timestamp::UNIX_EPOCH);
    job.built = Some(Built {
        commit: None,
        image_id: "0".repeat(64),
        temporary: spec.temporary(job.id, local.registry.as_deref(), &local.temp_prefix),
        digest: format!("sha256:{}", "0".repeat(64)).parse()?,
    });
    let mut runs = vec![Run::Build];
    runs.extend(tests(spec));
    runs.push(Run::Publish);
    let runs = runs.into_iter().map(|run| {
        let work = work_of(&job, run, local)?;
        anyhow::Ok(json!({ "run": run, "work": work }))
    });
    let runs: Vec<Value> = runs.collect::<Result<_, _>>()?;
    Ok(json!({ "backend": "local", "runs": runs }))
}
