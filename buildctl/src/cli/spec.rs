//! `buildctl spec`: what a job's description comes to, without handing it in.

use clap::{Subcommand, ValueEnum};
use runyard_common::{exit::Exit, output::Table, report::Failure};
use serde_json::{Value, json};

use super::{
    Context, environment,
    job::{Absent, JobArgs},
    place, quoted,
};
use crate::{
    api::JobConfig,
    backend,
    config::{self, Config, SettingsArgs},
    job::{Job, JobId},
    phase::{Built, Run},
    runner::commands,
    scheduler::{
        self,
        local::{NoWork, work_of},
        nomad::{NoRender, NomadSettings},
    },
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
    /// Print what would be run: on this machine the work of each run and the command lines that carry it out, on Nomad its jobs
    ///
    /// Nobody is asked. The job's id is an example; what only a build tells is made up of zeros, or stands in capitals.
    Render {
        #[command(flatten)]
        job: Box<JobArgs>,
        /// For which backend, else the configured one
        #[arg(long, value_enum, value_name = "BACKEND")]
        backend: Option<Backend>,
        /// Only this run, such as `build` or `test-cmd-0`; of Nomad, what `nomad job plan -json` reads
        #[arg(long, value_name = "RUN")]
        run: Option<Run>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// This machine: work and command lines of Git and Buildah
    Local,
    /// Nomad: the jobs that would be registered
    Nomad,
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
        Verb::Render { job, backend, run } => {
            let config = job.load(Absent::Stdin)?;
            let rendered = match backend.unwrap_or(configured(context)?) {
                Backend::Local => local(config, job, *run, context)?,
                Backend::Nomad => nomad(config, *run, context)?,
            };
            context.printer.value(&rendered)?;
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

/// The backend of whoever would build: a service's configuration may say Nomad.
fn configured(context: &Context) -> Result<Backend, Failure> {
    let settings = context.settings(SettingsArgs::default());
    let backend = Config::load(&settings, &environment)?.config.backend;
    Ok(match backend {
        config::Backend::Nomad if !context.place.local => Backend::Nomad,
        _ => Backend::Local,
    })
}

/// The runs of a job on this machine, where nothing is made for them.
fn local(
    config: JobConfig,
    args: &JobArgs,
    only: Option<Run>,
    context: &Context,
) -> anyhow::Result<Value> {
    let here = context.here_with(&args.insecure(&config))?;
    let spec = check(&config, &place::defaults(&here), context)?;
    let settings = &backend::local_config(&here, place::defaults(&here))?;
    let job = example(
        config,
        &spec,
        settings.registry.as_deref(),
        &settings.temp_prefix,
    )?;
    let of_run = |run| {
        let refused = |error: NoWork| Failure::new(Exit::Usage, error.to_string());
        let work = work_of(&job, run, settings).map_err(refused)?;
        let commands: Vec<String> = commands(&work).iter().map(|words| typed(words)).collect();
        anyhow::Ok(json!({ "run": run, "work": work, "commands": commands }))
    };
    Ok(match only {
        Some(run) => of_run(run)?,
        None => {
            json!({ "backend": "local", "runs": all(&spec).map(of_run).collect::<Result<Vec<_>, _>>()? })
        }
    })
}

/// The jobs of Nomad that a job becomes.
fn nomad(config: JobConfig, only: Option<Run>, context: &Context) -> anyhow::Result<Value> {
    let settings = context.settings(SettingsArgs::default());
    let service = Config::load(&settings, &environment)?.config;
    let spec = check(&config, &service.defaults(), context)?;
    let settings = NomadSettings::of(&service)?;
    let job = example(
        config,
        &spec,
        settings.registry.as_deref(),
        &settings.temp_prefix,
    )?;
    let of_run = |run| {
        let of_nomad = scheduler::nomad::render(&job, run, &settings);
        let refused = |error: NoRender| Failure::new(Exit::Usage, format!("{run}: {error}"));
        of_nomad.map_err(refused)
    };
    if let Some(run) = only {
        return Ok(json!({ "Job": of_run(run)? }));
    }
    let both = |run| anyhow::Ok(json!({ "run": run, "job": of_run(run)? }));
    let runs = all(&spec).map(both).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "backend": "nomad", "runs": runs }))
}

/// A command line as a shell takes it.
fn typed(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

fn all(spec: &Spec) -> impl Iterator<Item = Run> {
    let tests = tests(spec).into_iter();
    std::iter::once(Run::Build)
        .chain(tests)
        .chain([Run::Publish])
}

/// A job, as far as it can be known before: its id is an example, and what a build gives is made up of zeros.
fn example(
    config: JobConfig,
    spec: &Spec,
    registry: Option<&str>,
    prefix: &str,
) -> anyhow::Result<Job> {
    let mut job = Job::new(JobId::of_key("render"), config, jiff::Timestamp::UNIX_EPOCH);
    job.built = Some(Built {
        commit: None,
        image_id: "0".repeat(64),
        temporary: spec.temporary(job.id, registry, prefix),
        digest: format!("sha256:{}", "0".repeat(64)).parse()?,
    });
    Ok(job)
}
