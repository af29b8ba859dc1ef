//! The command line: the tree of verbs and their dispatch, nothing else. One verb is one file below; what all verbs of all
//! tools share is [`runyard_common::cli`]'s.

mod check;
mod config;
mod conformance;
mod doctor;
mod exec;
mod inspect;
mod interrupt;
mod jres;
mod known;
mod logs;
mod ps;
mod rm;
mod run;
mod serve;
mod stop;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use runyard_common::{
    cli::{self, CompletionsArgs, GlobalArgs},
    exit::Exit,
    log::LogFormat,
    output::{Printer, Table},
    report::{self, Failure},
};
use serde_json::json;

use crate::{
    config::Config,
    jre::Search,
    launch::{self, Launcher},
    settings,
    state::StateRoot,
};

/// Run Java JARs in crun containers: as a Nomad task driver, and without Nomad
///
/// `milo-driver run app.jar` runs a JAR on this machine. A Nomad agent that finds this program in its plugin folder runs it
/// by itself.
#[derive(Debug, Parser)]
#[command(name = "milo-driver", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Configuration file [default: /etc/milo-driver/config.yaml, if there is one]
    #[arg(long, global = true, env = settings::FILE_VARIABLE, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where records of running tasks are [default: /run/milo]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a JAR in a container
    Run(Box<run::Args>),
    /// List what runs on this host, and what has ended and was not removed
    #[command(visible_alias = "ls")]
    Ps(ps::Args),
    /// Show what a task has said
    Logs(logs::Args),
    /// Stop a task: signal, wait, kill
    Stop(stop::Args),
    /// Run a command inside a running task
    Exec(exec::Args),
    /// Show everything about a task
    Inspect(inspect::Args),
    /// Remove a task and all its records
    Rm(rm::Args),
    /// List the JVMs of this host, and which one tasks get that ask for none
    Jres(jres::Args),
    /// Say whether a file is a JAR that can be run
    Check(check::Args),
    /// Be the plugin of a Nomad agent, which starts this by itself
    Serve,
    /// Play a Nomad agent against a driver plugin, and say what it does wrong
    Conformance(conformance::Args),
    /// Look at the configuration of the command line
    Config(config::Args),
    /// Find out what works here, what does not, and how to mend it
    Doctor(doctor::Args),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, as `man -l -` reads it
    Man,
    /// Print the version of this program and of the protocols it speaks
    Version,
}

/// What every verb may need.
pub(super) struct Context {
    pub(super) printer: Printer,
    pub(super) config: Config,
}

impl Context {
    /// Where records are.
    fn state(&self) -> StateRoot {
        StateRoot::new(&self.config.state_dir)
    }

    /// Where JVMs are looked for, with the environment of whoever asks.
    fn search(&self) -> Search {
        let search = Search::standard(
            self.config.java_homes.clone(),
            std::env::var_os("JAVA_HOME"),
            std::env::var_os("PATH"),
        );
        match std::env::home_dir() {
            Some(home) => search.and_of_user(&home),
            None => search,
        }
    }

    /// What launches tasks here.
    fn launcher(&self) -> Result<Launcher, Failure> {
        let path = std::env::var_os("PATH");
        let named = self.config.crun_path.as_deref();
        let crun = crate::engine::crun(named, path.as_deref()).ok_or_else(|| no_crun(named))?;
        Ok(Launcher {
            state: self.state(),
            crun,
            shim: launch::OURSELVES.into(),
            spare: launch::Spare::default(),
        })
    }
}

fn no_crun(named: Option<&std::path::Path>) -> Failure {
    let failure = match named {
        Some(named) => Failure::new(Exit::Failed, format!("crun is not at {}", named.display())),
        None => Failure::new(Exit::Failed, "crun is not in PATH"),
    };
    failure
        .hint("on Debian and Ubuntu: apt-get install crun")
        .hint("or name one: crun_path in the configuration file, or MILO_CRUN_PATH")
}

/// Runs what the command line asks for.
pub(super) fn main() -> ExitCode {
    report::main(|| run(std::env::args_os()))
}

/// Is the plugin of the agent that has started this program, which gives no arguments.
pub(super) fn plugin() -> ExitCode {
    report::main(|| run(["milo-driver", "serve"].map(OsString::from)))
}

fn run(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<Exit> {
    let cli = Cli::try_parse_from(args)?;
    let mut global = cli.global.clone();
    if matches!(cli.verb, Verb::Serve) {
        // An agent reads the log in no other form.
        global.log_format = LogFormat::Hclog;
    }
    global.start(env!("CARGO_PKG_NAME"))?;
    let settings = || settings::load(cli.config.as_deref(), cli.state_dir.as_deref());
    let printer = global.printer();
    match cli.verb {
        // None of these asks for the configuration, and a broken one must not keep them from working.
        Verb::Serve => return serve::run(),
        Verb::Completions(args) => return cli::print_completions::<Cli>(&args, &printer),
        Verb::Man => return cli::print_man::<Cli>(&printer),
        Verb::Version => return version(&printer),
        Verb::Conformance(args) => return conformance::run(args, &printer),
        Verb::Config(args) => return config::run(&args, &printer, settings),
        _ => {}
    }
    let context = Context {
        printer,
        config: settings()?.config,
    };
    dispatch(cli.verb, &context)
}

fn dispatch(verb: Verb, context: &Context) -> anyhow::Result<Exit> {
    match verb {
        Verb::Run(args) => run::run(&args, context),
        Verb::Ps(args) => ps::run(&args, context),
        Verb::Logs(args) => logs::run(&args, context),
        Verb::Stop(args) => stop::run(&args, context),
        Verb::Exec(args) => exec::run(&args, context),
        Verb::Inspect(args) => inspect::run(&args, context),
        Verb::Rm(args) => rm::run(&args, context),
        Verb::Jres(args) => jres::run(&args, context),
        Verb::Check(args) => check::run(&args, context),
        Verb::Doctor(args) => doctor::run(&args, context),
        Verb::Serve
        | Verb::Conformance(_)
        | Verb::Config(_)
        | Verb::Completions(_)
        | Verb::Man
        | Verb::Version => Ok(Exit::Internal),
    }
}

fn version(printer: &Printer) -> anyhow::Result<Exit> {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let answer = json!({ "name": name, "version": version, "driver": "milo", "driver_api": "v0.1.0", "go_plugin": 2 });
    let text =
        format!("{name} {version} (Nomad driver `milo`, driver API v0.1.0, go-plugin protocol 2)");
    printer.both(&answer, &Table::headless().row([text]))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_jar_belongs_to_the_program() {
        let cli =
            Cli::try_parse_from(["milo-driver", "run", "app.jar", "--", "--memory", "x"]).unwrap();
        let Verb::Run(args) = cli.verb else {
            panic!("run was asked for")
        };
        assert_eq!(args.program(), ["--memory", "x"]);
    }
}
