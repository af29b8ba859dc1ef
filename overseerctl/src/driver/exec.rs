//! The exec driver: an action is a program with templated arguments, checked parameters and filtered output.
//!
//! Everything that can be checked without parameters is compiled when the configuration is loaded; templates are parsed
//! then too, but their errors are reported at start, as the original does. Processes themselves are [`crate::process`]'s.

pub mod config;
mod env;
mod identity;

use std::{path::PathBuf, sync::Arc};

use config::{ExecConfig, Scalar, StdinConfig};

use super::{ActionContext, BoxFuture, Driver, DriverFactory, Output, TaskContext, Worker};
use crate::{
    api::{ActionInfo, OutputStream, ParamSpec, Params},
    cgroup::{self, Cgroup},
    expr::{OutputFilter, Validator},
    process::{self, CommandSpec, Conduct, Rlimit, Stdin, escape},
    quote::go_quote,
    reaper,
    template::Template,
    topic::{Line, Pressure},
    utf8,
};

/// Makes `exec` drivers.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecFactory;

impl DriverFactory for ExecFactory {
    fn kind(&self) -> &'static str {
        "exec"
    }

    fn create(
        &self,
        config: serde_json::Value,
        context: ActionContext,
    ) -> Result<Arc<dyn Driver>, String> {
        let config = if config.is_null() {
            serde_json::json!({})
        } else {
            config
        };
        let config: ExecConfig = serde_json::from_value(config)
            .map_err(|error| format!("exec: failed to parse config: {error}"))?;
        Exec::new(config, context).map(|exec| Arc::new(exec) as Arc<dyn Driver>)
    }
}

/// A template, or why it is none; that is said when it is used.
type Parsed = Result<Template, String>;

/// One exec action.
#[derive(Debug)]
struct Exec {
    info: ActionInfo,
    context: ActionContext,
    entrypoint: Parsed,
    command: Vec<Parsed>,
    validators: Vec<(String, Validator)>,
    filters: Filters,
    env: env::Environment,
    cwd: Option<Parsed>,
    user: Option<String>,
    umask: Option<u32>,
    stdin: StdinPlan,
    rlimits: Vec<Rlimit>,
    cgroup: cgroup::Limits,
    conduct: Conduct,
}

/// Which lines of which stream pass.
#[derive(Clone, Debug, Default)]
struct Filters {
    stdout: Option<Arc<OutputFilter>>,
    stderr: Option<Arc<OutputFilter>>,
}

#[derive(Debug)]
enum StdinPlan {
    Null,
    Text(Parsed),
    File(PathBuf),
}

impl Exec {
    fn new(config: ExecConfig, context: ActionContext) -> Result<Self, String> {
        warn_about(&config, &context.name);
        let stop_signal = config
            .stop_signal
            .as_ref()
            .map_or(Ok(libc::SIGTERM), |Scalar(text)| config::signal(text));
        let here =
            |key: &str, error: String| format!("exec: action {:?} {key}: {error}", context.name);
        let conduct = Conduct {
            stop_signal: stop_signal.map_err(|error| here("stop_signal", error))?,
            stop_grace: config::duration(config.stop_grace, context.worker.stop_grace),
            orphans: config.orphans.unwrap_or(context.worker.orphans),
            drain_timeout: config::duration(config.drain_timeout, context.worker.drain_timeout),
            max_line: context.worker.max_line,
            cookie: std::ffi::OsString::new(),
        };
        let umask = config
            .umask
            .as_ref()
            .map(|Scalar(text)| config::umask(text))
            .transpose();
        Ok(Self {
            entrypoint: parse(&config.entrypoint.0),
            command: config
                .command
                .iter()
                .map(|Scalar(text)| parse(text))
                .collect(),
            validators: validators(&config, &context.name)?,
            filters: Filters::new(&config, &context.name)?,
            env: env::Environment::new(&config, &context.base_dir),
            cwd: config.cwd.as_ref().map(|Scalar(text)| parse(text)),
            user: config.user.as_ref().map(|Scalar(text)| text.clone()),
            umask: umask.map_err(|error| here("umask", error))?,
            stdin: StdinPlan::new(config.stdin.as_ref(), &context)
                .map_err(|error| here("stdin", error))?,
            rlimits: config::rlimits(&config.rlimits).map_err(|error| here("config", error))?,
            cgroup: config
                .cgroup
                .limits()
                .map_err(|error| here("config", error))?,
            conduct,
            info: ActionInfo {
                name: context.name.clone(),
                kind: "exec".to_owned(),
                description: context.description.clone(),
                params: config.parameters,
                task_pool: context.task_pool.clone(),
                retry: Some(context.retry.clone()),
                dedupe_key: context.dedupe_key.clone(),
            },
            context,
        })
    }

    /// Parameters with defaults filled in, or the first thing wrong with them, by name.
    fn resolve(&self, params: &Params) -> Result<Params, String> {
        let mut resolved = params.clone();
        for (name, spec) in &self.info.params {
            if resolved.contains_key(name) {
                continue;
            }
            let Some(ParamSpec {
                default: Some(default),
                ..
            }) = spec
            else {
                return Err(format!(
                    "exec: required parameter {} is missing",
                    go_quote(name)
                ));
            };
            resolved.insert(name.clone(), default.clone());
        }
        for (name, validator) in &self.validators {
            let value = resolved.get(name).map_or("", String::as_str);
            match validator.check(value) {
                Ok(true) => {}
                Ok(false) => {
                    let (name, value) = (go_quote(name), go_quote(value));
                    return Err(format!(
                        "exec: parameter {name} failed validation (value: {value})"
                    ));
                }
                Err(error) => {
                    return Err(format!(
                        "exec: CEL evaluation error for parameter {}: {error}",
                        go_quote(name)
                    ));
                }
            }
        }
        Ok(resolved)
    }

    /// What to run for these parameters.
    fn command_spec(
        &self,
        params: &Params,
        worker: &str,
        cookie: &std::ffi::OsStr,
    ) -> Result<CommandSpec, String> {
        let program = render(&self.entrypoint, params, "entrypoint")?;
        if program.is_empty() {
            return Err("exec: entrypoint must not be empty after template rendering".to_owned());
        }
        let args = self.command.iter().enumerate();
        let args = args
            .map(|(index, arg)| render(arg, params, &format!("command[{index}]")))
            .collect::<Result<_, _>>()?;
        let mut env = self.env.build(params)?;
        env.insert(escape::COOKIE.into(), cookie.to_owned());
        let cwd = self
            .cwd
            .as_ref()
            .map(|cwd| render(cwd, params, "cwd"))
            .transpose()?;
        let identity = self
            .user
            .as_deref()
            .map(identity::resolve)
            .transpose()
            .map_err(|error| format!("exec: user: {error}"))?;
        let parent = &self.context.worker.cgroup_parent;
        let cgroup = (!self.cgroup.is_empty())
            .then(|| Cgroup::create(parent, worker, &self.cgroup))
            .transpose();
        Ok(CommandSpec {
            program,
            args,
            env,
            cwd: cwd.map(|cwd| self.context.base_dir.join(cwd)),
            identity,
            umask: self.umask,
            stdin: self.stdin.build(params)?,
            rlimits: crate::rlimit::of_child(&self.rlimits),
            cgroup: cgroup.map_err(|error| format!("exec: {error}"))?,
        })
    }

    fn spawn(&self, task: TaskContext) -> Result<Worker, String> {
        let params = self.resolve(&task.params)?;
        let cookie = escape::cookie();
        let spec = self.command_spec(&params, &cookie.to_string_lossy(), &cookie)?;
        let (spawned, claim) = reaper::spawning(
            || process::spawn(spec),
            |spawned| spawned.as_ref().ok().map(|process| process.pid),
        );
        let process = spawned?;
        let pid = process.pid;
        let conduct = Conduct {
            cookie,
            ..self.conduct.clone()
        };
        let (filters, output) = (self.filters.clone(), task.output.of_process(pid));
        let run = async move {
            let publish = move |stream: OutputStream, lines: &[Line<'_>]| {
                filters.publish(&output, stream, lines)
            };
            let exit = process::supervise(process, conduct, task.stop, publish).await;
            drop(claim);
            exit
        };
        Ok(Worker::process(pid, run))
    }
}

impl Driver for Exec {
    fn describe(&self) -> ActionInfo {
        self.info.clone()
    }

    fn validate(&self, params: &Params) -> Result<(), String> {
        self.resolve(params).map(drop)
    }

    fn start(&self, task: TaskContext) -> BoxFuture<'_, Result<Worker, String>> {
        Box::pin(async move { self.spawn(task) })
    }
}

impl Filters {
    fn new(config: &ExecConfig, action: &str) -> Result<Self, String> {
        let compile = |stream: &str, condition: &str, alias: &Option<String>| {
            let condition = if condition.is_empty() {
                alias.as_deref().unwrap_or_default()
            } else {
                condition
            };
            if condition.is_empty() {
                return Ok(None);
            }
            let filter = OutputFilter::compile(condition);
            filter
                .map(|filter| Some(Arc::new(filter)))
                .map_err(|error| {
                    format!(
                        "exec: action {} {stream} filter CEL error: {error}",
                        go_quote(action)
                    )
                })
        };
        Ok(Self {
            stdout: compile(
                "stdout",
                &config.output.stdout.condition,
                &config.stdout_condition,
            )?,
            stderr: compile(
                "stderr",
                &config.output.stderr.condition,
                &config.stderr_condition,
            )?,
        })
    }

    /// Publishes the lines that pass. A filtered line leaves no trace: no seq, no replay, no log.
    fn publish(&self, output: &Output, stream: OutputStream, lines: &[Line<'_>]) -> Pressure {
        let filter = match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        };
        let Some(filter) = filter else {
            return output.publish(stream, lines);
        };
        let passes = |line: &&Line<'_>| filter.keep(stream.as_str(), &utf8::to_valid(line.data));
        let kept: Vec<Line<'_>> = lines.iter().filter(passes).copied().collect();
        output.publish(stream, &kept)
    }
}

impl StdinPlan {
    fn new(config: Option<&StdinConfig>, context: &ActionContext) -> Result<Self, String> {
        match config {
            None => Ok(Self::Null),
            Some(StdinConfig::Word(word)) if matches!(word.as_str(), "null" | "") => Ok(Self::Null),
            Some(StdinConfig::Word(word)) => Err(format!(
                "unknown source {word:?} (expected null, {{text: …}} or {{file: …}})"
            )),
            Some(StdinConfig::Text { text }) => Ok(Self::Text(parse(text))),
            Some(StdinConfig::File { file }) => Ok(Self::File(context.base_dir.join(file))),
        }
    }

    fn build(&self, params: &Params) -> Result<Stdin, String> {
        match self {
            Self::Null => Ok(Stdin::Null),
            Self::Text(text) => render(text, params, "stdin").map(Stdin::Text),
            Self::File(path) => Ok(Stdin::File(path.clone())),
        }
    }
}

fn validators(config: &ExecConfig, action: &str) -> Result<Vec<(String, Validator)>, String> {
    let checked = config
        .parameters
        .iter()
        .filter_map(|(name, spec)| Some((name, spec.as_ref()?)));
    let checked = checked.filter(|(_, spec)| !spec.validate.is_empty());
    checked
        .map(|(name, spec)| {
            let validator = Validator::compile(&spec.validate).map_err(|error| {
                let (action, name) = (go_quote(action), go_quote(name));
                format!("exec: action {action} parameter {name}: CEL compile error: {error}")
            })?;
            Ok((name.clone(), validator))
        })
        .collect()
}

fn parse(text: &str) -> Parsed {
    Template::parse(text).map_err(|error| format!("template parse error: {error}"))
}

/// Renders a template of the configuration; `place` is its key, for the message.
pub(super) fn render(template: &Parsed, params: &Params, place: &str) -> Result<String, String> {
    let rendered = match template {
        Ok(template) => template
            .render(params)
            .map_err(|error| format!("template execute error: {error}")),
        Err(error) => Err(error.clone()),
    };
    rendered.map_err(|error| format!("exec: failed to render {place} template: {error}"))
}

fn warn_about(config: &ExecConfig, action: &str) {
    for key in config.unknown.keys() {
        tracing::warn!("actions.{action}.config.{key}: unknown key, ignored");
    }
    for (key, alias) in [
        ("stdout", &config.stdout_condition),
        ("stderr", &config.stderr_condition),
    ] {
        if alias.is_some() {
            tracing::warn!(
                "actions.{action}.config.{key}_condition: taken as output.{key}.condition, which sticky-overseer ignores"
            );
        }
    }
    for (place, error) in broken_templates(config) {
        tracing::warn!("actions.{action}.config.{place}: {error}; every start will be refused");
    }
}

/// The templates that no start can render. They do not keep a configuration from loading, because they do not keep
/// sticky-overseer from it: there a shell's `[[ -f x ]]` waits in a config until somebody starts the action.
fn broken_templates(config: &ExecConfig) -> Vec<(String, String)> {
    let named = |(index, text)| (format!("command[{index}]"), text);
    let commands = config.command.iter().enumerate().map(named);
    let entrypoint = ("entrypoint".to_owned(), &config.entrypoint);
    let cwd = config.cwd.iter().map(|text| ("cwd".to_owned(), text));
    std::iter::once(entrypoint)
        .chain(commands)
        .chain(cwd)
        .filter_map(|(place, Scalar(text))| Some((place, parse(text).err()?)))
        .collect()
}
