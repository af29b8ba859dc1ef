//! Which Nomad job carries a run out: a value, made from the job's record and the settings, without asking anybody. `buildctl spec
//! render` prints it.
//!
//! # What a user says is data
//!
//! Nomad evaluates `${…}` and `%{…}` in a task's `Config`, replaces `${…}` in `Env` without any way to escape it, and reads
//! templates as code (client/taskenv, helper/pluginutils/hclutils, client/allocrunner/taskrunner/template in Nomad's source).
//! So nothing of a user's is in any of them as it is:
//!
//! | what | how it travels |
//! |---|---|
//! | the whole work of a run | base64 of JSON in `BUILDCTL_WORK_B64` |
//! | the command and variables of a test whose image is the task | base64 inside of a template that decodes it into a variable; `Config` names the variable, whose value is not evaluated again |
//! | paths of secrets | inside of a template, after [`SecretRef`] has let through letters, digits, `_`, `.`, `-` and `/` only |
//! | names of images | in `Config`, after the grammar of [`crate::names`], which has no `$`, `%`, `{` |
//! | constraints | in `Constraints`, where Nomad looks up whole words such as `${attr.cpu.arch}` and evaluates nothing |
//!
//! # What Nomad must not do by itself
//!
//! It starts a task once: no restart, no rescheduling, no replacement while a node is out of reach, and a changed secret does not
//! end a build. A task that runs too long ends itself; `MaxRunDuration` (Nomad 2.0.3 and newer, others ignore it) is for tasks
//! that cannot.

mod driver;
mod secrets;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    settings::{NomadSettings, Runner},
    wire::{OF_JOB, OF_RUN, OF_TASK, TASK, TaskKind},
};
use crate::{
    config::Driver,
    hex::hex,
    job::{Job, JobId},
    phase::{Built, Phase, Run},
    runner::{
        RESULT_IN_LOG, WORK_VARIABLE,
        work::{Credential, Work},
    },
    scheduler::local::{LocalConfig, NoWork, work_of},
    secrets::SecretRef,
    service::tests,
    spec::{Resources, Spec, Test, TestMode},
};

/// How much longer than its deadline a task may take that ends itself.
const MARGIN: Duration = Duration::from_mins(1);
/// Files of a log, and their size in MB.
const LOG: (u64, u64) = (10, 10);
/// The least disk that Nomad accepts beside such logs, in MB.
const LEAST_DISK: u32 = 128;

/// Why a run cannot be a Nomad job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRender {
    /// The job has no such run, or its configuration is wrong.
    #[error(transparent)]
    Work(#[from] NoWork),
    /// The settings do not allow for it.
    #[error("{0}")]
    Settings(String),
}

/// The Nomad job (the value of `Job` in a registration) of `run` of `job`.
pub fn render(job: &Job, run: Run, settings: &NomadSettings) -> Result<Value, NoRender> {
    let spec = Spec::of(&job.config, &settings.defaults).map_err(NoWork::Config)?;
    let rendered = render_run(job, run, &spec, settings)?;
    if run == Run::Build && job.built.is_none() {
        // Nobody is to wait for a build to hear that its tests are impossible.
        let mut later = job.clone();
        later.built = Some(imagined(job, &spec, settings)?);
        for test in tests(&spec) {
            render_run(&later, test, &spec, settings)?;
        }
    }
    Ok(rendered)
}

/// What a build could come to.
fn imagined(job: &Job, spec: &Spec, settings: &NomadSettings) -> Result<Built, NoRender> {
    let digest = format!("sha256:{}", "0".repeat(64));
    Ok(Built {
        commit: None,
        image_id: "0".repeat(64),
        temporary: spec.temporary(job.id, settings.registry.as_deref(), &settings.temp_prefix),
        digest: digest
            .parse()
            .map_err(|error| NoRender::Settings(format!("{error}")))?,
    })
}

fn render_run(
    job: &Job,
    run: Run,
    spec: &Spec,
    settings: &NomadSettings,
) -> Result<Value, NoRender> {
    let mut work = work_of(job, run, &as_local(settings))?;
    let sheet = Sheet {
        job,
        run,
        spec,
        settings,
    };
    match sheet.task_kind(&work)? {
        TaskKind::Image => sheet.image_job(&work),
        TaskKind::Runner => sheet.runner_job(&mut work),
    }
}

/// A registered job that is stopped: whoever wants to start the run from now on finds it started already.
pub(super) fn tombstone(id: JobId, run: Run, settings: &NomadSettings) -> Value {
    let name = run.of_job(&id);
    json!({
        "ID": name, "Name": name, "Type": "batch", "Stop": true,
        "Datacenters": settings.nomad.datacenters,
        "Meta": {OF_JOB: id.to_string(), OF_RUN: run.to_string(), OF_TASK: TaskKind::Runner.name()},
        "TaskGroups": [{
            "Name": group_name(run), "Count": 1,
            "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
            "ReschedulePolicy": {"Attempts": 0, "Unlimited": false},
            "Tasks": [{
                "Name": TASK, "Driver": driver::name(settings.nomad.driver),
                "Config": {"command": "/bin/false"},
            }],
        }],
    })
}

/// Nomad's name of a driver.
pub(super) fn driver_name(driver: Driver) -> &'static str {
    driver::name(driver)
}

/// A job that runs a script of ours once, in a task as a build's.
pub(super) fn probe(name: &str, script: &str, settings: &NomadSettings) -> Value {
    let (mut task, group) = driver::probe_task(settings, script);
    task.insert("Name".to_owned(), TASK.into());
    let driver = driver::name(settings.nomad.driver);
    task.insert("Driver".to_owned(), driver.into());
    let resources = json!({"CPU": 100, "MemoryMB": 256});
    task.insert("Resources".to_owned(), resources);
    let mut group = group;
    group.insert("Tasks".to_owned(), json!([task]));
    json!({
        "ID": name, "Name": name, "Type": "batch",
        "Namespace": settings.nomad.namespace,
        "Datacenters": settings.nomad.datacenters,
        "TaskGroups": [group],
    })
}

/// The settings that [`work_of`] asks for; folders of a machine are replaced later.
fn as_local(settings: &NomadSettings) -> LocalConfig {
    let nowhere = std::path::PathBuf::from("/nonexistent");
    LocalConfig {
        publish_timeout: settings.publish_timeout,
        grace: settings.grace,
        registry: settings.registry.clone(),
        temp_prefix: settings.temp_prefix.clone(),
        registries: settings.registries.clone(),
        credentials: settings.credentials.clone(),
        ..LocalConfig::new(nowhere.clone(), nowhere, settings.defaults.clone())
    }
}

fn group_name(run: Run) -> &'static str {
    run.phase().map_or("cleanup", Phase::name)
}

/// Where the credentials are with which an image is pulled, if somebody named any.
fn login(work: &Work) -> Option<&SecretRef> {
    match &work.registry_credentials {
        Some(Credential::Reference {
            at,
            optional: false,
        }) => Some(at),
        _ => None,
    }
}

/// Everything that a Nomad job is made from.
struct Sheet<'a> {
    job: &'a Job,
    run: Run,
    spec: &'a Spec,
    settings: &'a NomadSettings,
}

impl Sheet<'_> {
    fn test(&self) -> Option<&Test> {
        let is_test = self.run.phase() == Some(Phase::Test);
        self.spec.test.as_ref().filter(|_| is_test)
    }

    /// Whether the tested image is a task of its own. Left to us, it is where a container driver can pull it as it is: with
    /// credentials in the task's environment the image under test could read them.
    fn task_kind(&self, work: &Work) -> Result<TaskKind, NoRender> {
        let Some(test) = self.test() else {
            return Ok(TaskKind::Runner);
        };
        let containers = matches!(self.settings.nomad.driver, Driver::Docker | Driver::Podman);
        let mode = match test.mode {
            TestMode::Auto => self.settings.nomad.test_mode,
            mode => mode,
        };
        match mode {
            TestMode::Task if !containers => Err(NoRender::Settings(format!(
                "test mode `task` needs containers: nomad.driver is `{}`, set it to docker or podman",
                driver::name(self.settings.nomad.driver)
            ))),
            TestMode::Task => Ok(TaskKind::Image),
            TestMode::Auto if containers && (test.gpu || login(work).is_none()) => {
                Ok(TaskKind::Image)
            }
            TestMode::Auto | TestMode::Inline => Ok(TaskKind::Runner),
        }
    }

    fn limits(&self) -> Resources {
        match self.run {
            Run::Build => self.spec.limits.build,
            Run::TestCommand(_) | Run::TestEntry => self.spec.limits.test,
            Run::Publish | Run::Cleanup => self.spec.limits.publish,
        }
    }

    /// A job whose task is `run-phase`.
    fn runner_job(&self, work: &mut Work) -> Result<Value, NoRender> {
        // The agent allows no more than its `max_kill_timeout`, 30 s unless set; the runner has to be done before.
        work.grace = self.settings.grace.mul_f64(0.8);
        work.storage = driver::storage(self.settings, &self.spec.owner);
        if self.settings.nomad.driver != Driver::RawExec {
            // The driver holds the task to it.
            work.memory = None;
        }
        let templates = secrets::of_work(work, self)?;
        work.notes.extend(secrets::note_on_policies(self));
        let encoded = serde_json::to_vec(&work).unwrap_or_default();
        let mut task = driver::runner_task(self);
        let env = json!({
            WORK_VARIABLE: STANDARD.encode(&encoded),
            RESULT_IN_LOG: "1",
        });
        task.insert("Env".to_owned(), env);
        task.insert("KillTimeout".to_owned(), nanoseconds(self.settings.grace));
        self.secrets_of(&mut task, &templates)?;
        let limit = work.deadline + self.settings.grace + MARGIN;
        Ok(self.nomad_job(task, TaskKind::Runner, limit, &encoded))
    }

    /// A job whose task is the tested image.
    fn image_job(&self, work: &Work) -> Result<Value, NoRender> {
        let encoded = serde_json::to_vec(work).unwrap_or_default();
        let (mut task, templates) = driver::image_task(self, work)?;
        task.insert("KillTimeout".to_owned(), nanoseconds(self.settings.grace));
        self.secrets_of(&mut task, &templates)?;
        Ok(self.nomad_job(task, TaskKind::Image, work.deadline, &encoded))
    }

    fn secrets_of(
        &self,
        task: &mut Map<String, Value>,
        templates: &[secrets::Template],
    ) -> Result<(), NoRender> {
        if templates.iter().any(|template| template.needs_vault) {
            task.insert("Vault".to_owned(), secrets::vault(self)?);
        }
        if !templates.is_empty() {
            let owner = driver::owner(&self.settings.nomad);
            let values = templates.iter().map(|template| template.value(owner));
            task.insert("Templates".to_owned(), values.collect());
        }
        Ok(())
    }

    fn nomad_job(
        &self,
        mut task: Map<String, Value>,
        kind: TaskKind,
        limit: Duration,
        work: &[u8],
    ) -> Value {
        let limits = self.limits();
        task.insert("Name".to_owned(), TASK.into());
        let driver = driver::name(self.settings.nomad.driver);
        task.insert("Driver".to_owned(), driver.into());
        let kill = "SIGTERM";
        task.insert("KillSignal".to_owned(), kill.into());
        let resources = json!({"CPU": limits.cpu.max(1), "MemoryMB": limits.memory.max(10)});
        task.insert("Resources".to_owned(), resources);
        let log = json!({"MaxFiles": LOG.0, "MaxFileSizeMB": LOG.1});
        task.insert("LogConfig".to_owned(), log);
        let mut group = json!({
            "Name": group_name(self.run), "Count": 1,
            "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
            "ReschedulePolicy": {"Attempts": 0, "Unlimited": false},
            "Disconnect": {"Replace": false},
            "MaxRunDuration": nanoseconds(limit),
            "EphemeralDisk": {"SizeMB": limits.disk.max(LEAST_DISK)},
            "Constraints": self.constraints(),
            "Tasks": [task],
        });
        if let Some(volumes) = driver::volumes(&self.settings.nomad, kind) {
            group["Volumes"] = volumes;
        }
        let name = self.run.of_job(&self.job.id);
        let mut job = json!({
            "ID": name, "Name": name, "Type": "batch",
            "Namespace": self.settings.nomad.namespace,
            "Datacenters": self.settings.nomad.datacenters,
            "Meta": {
                OF_JOB: self.job.id.to_string(), OF_RUN: self.run.to_string(), OF_TASK: kind.name(),
                "phase": group_name(self.run),
                "buildctl-spec-sha256": hex(Sha256::digest(work)),
            },
            "TaskGroups": [group],
        });
        if let Some(region) = &self.settings.nomad.region {
            job["Region"] = region.as_str().into();
        }
        job
    }

    fn constraints(&self) -> Vec<Value> {
        let one = |left: &str, operand: &str, right: &str| json!({"LTarget": left, "Operand": operand, "RTarget": right});
        let mut all = vec![one("${attr.kernel.name}", "=", "linux")];
        if let Runner::Artifact {
            checksum: Some(_), ..
        } = &self.settings.runner
        {
            // It is this very program.
            all.push(one("${attr.cpu.arch}", "=", go_arch()));
        }
        if let Some(test) = self.test() {
            if test.gpu {
                all.push(one("${meta.gpu-capable}", "=", "true"));
            }
            let asked = test.constraints.iter();
            all.extend(asked.map(|it| one(&it.attribute, &it.operand, &it.value)));
        }
        all
    }
}

/// This machine's architecture, as Nomad calls it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn nanoseconds(duration: Duration) -> Value {
    i64::try_from(duration.as_nanos())
        .unwrap_or(i64::MAX)
        .into()
}

#[cfg(test)]
mod tests;
