//! The command line: the tree of verbs and their dispatch, nothing else. One verb is one file below; what all verbs of
//! all tools share is [`runyard_common::cli`]'s.

mod argv;
mod config;
mod connection;
mod describe;
mod doctor;
mod follow;
mod history;
mod interrupt;
mod lines;
mod list;
mod logs;
mod manifest;
mod metrics;
mod moment;
mod pool;
mod purge;
mod remove;
mod reset;
mod retry;
mod run;
mod serve;
mod start;
mod stop;
mod top;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use runyard_common::{
    cli::{self, CompletionsArgs, GlobalArgs},
    exit::Exit,
    output::Printer,
    report::{self, Failure},
};

use self::connection::ConnectionArgs;
use crate::{client::Client, driver::Registry};

/// Supervise processes: a hub that starts, restarts, queues and stops them, and its client
///
/// `overseerctl serve` is the hub. All other verbs talk to one, over the WebSocket protocol of sticky-overseer v2.
#[derive(Debug, Parser)]
#[command(name = "overseerctl", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the hub
    Serve(serve::Args),
    /// Start a task
    Start(start::Args),
    /// Start a task, show its output, and exit with its code
    ///
    /// The task's stdout goes to stdout and its stderr to stderr. Ctrl-C stops the task; a second one leaves it alone.
    Run(run::Args),
    /// Stop tasks
    Stop(stop::Args),
    /// Start a task again that gave up
    Reset(reset::Args),
    /// List tasks: running, ended and waiting
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Show what a task has said
    Logs(logs::Args),
    /// Show what a task has said and says, until it ends
    Follow(follow::Args),
    /// Show actions, their parameters and pools
    Describe(describe::Args),
    /// Show or set the limits of a pool
    Pool(pool::Args),
    /// Drop starts that wait in a queue
    Purge(purge::Args),
    /// Show counters of the hub, of an action or of a task
    Metrics(metrics::Args),
    /// Print the hub's description of its protocol
    Manifest(manifest::Args),
    /// Forget finished tasks, so that their ids can be used again
    #[command(visible_alias = "rm")]
    Remove(remove::Args),
    /// Show past runs from the hub's store
    History(history::Args),
    /// Watch tasks and pools, and act on them
    Top(top::Args),
    /// Look at the hub's configuration
    Config(config::Args),
    /// Find out what works here, what does not, and how to mend it
    Doctor(doctor::Args),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, as `man -l -` reads it
    Man,
    /// Print the version
    Version(version::Args),
}

/// What every verb may need.
struct Context {
    printer: Printer,
    connection: ConnectionArgs,
    registry: Registry,
}

impl Context {
    /// Connects to the hub that the flags and the environment name.
    fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.connection.target()?)
    }
}

/// The `overseerctl` program, with the standard drivers.
pub fn main() -> ExitCode {
    main_with(Registry::standard())
}

/// The `overseerctl` program with the drivers of `registry`: the `main` of programs that bring drivers of their own.
pub fn main_with(registry: Registry) -> ExitCode {
    report::main(|| {
        let cli = Cli::try_parse_from(argv::conventional(std::env::args_os()))?;
        cli.global.start(env!("CARGO_PKG_NAME"))?;
        let context = Context {
            printer: cli.global.printer(),
            connection: cli.connection,
            registry,
        };
        dispatch(cli.verb, &context)
    })
}

fn dispatch(verb: Verb, context: &Context) -> anyhow::Result<Exit> {
    match verb {
        Verb::Serve(args) => serve::run(args, context),
        Verb::Start(args) => start::run(&args, context),
        Verb::Run(args) => run::run(&args, context),
        Verb::Stop(args) => stop::run(&args, context),
        Verb::Reset(args) => reset::run(&args, context),
        Verb::List(args) => list::run(&args, context),
        Verb::Logs(args) => logs::run(&args, context),
        Verb::Follow(args) => follow::run(&args, context),
        Verb::Describe(args) => describe::run(&args, context),
        Verb::Pool(args) => pool::run(&args, context),
        Verb::Purge(args) => purge::run(&args, context),
        Verb::Metrics(args) => metrics::run(&args, context),
        Verb::Manifest(args) => manifest::run(&args, context),
        Verb::Remove(args) => remove::run(&args, context),
        Verb::History(args) => history::run(&args, context),
        Verb::Top(args) => top::run(&args, context),
        Verb::Config(args) => config::run(args, context),
        Verb::Doctor(args) => doctor::run(&args, context),
        Verb::Completions(args) => cli::print_completions::<Cli>(&args, &context.printer),
        Verb::Man => cli::print_man::<Cli>(&context.printer),
        Verb::Version(args) => version::run(&args, context),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(words: &[&str]) -> Cli {
        Cli::try_parse_from([&["overseerctl"], words].concat()).unwrap()
    }

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_the_connection_stand_before_or_after_the_verb() {
        for words in [
            ["--url", "hub:1", "list"],
            ["list", "--url", "hub:1"],
            ["-u", "hub:1", "list"],
        ] {
            let target = parsed(&words).connection.target().unwrap();
            assert_eq!(target.place.to_string(), "ws://hub:1/ws");
        }
    }

    #[test]
    fn the_token_file_of_serve_is_not_that_of_the_client() {
        let Verb::Serve(args) = parsed(&["serve", "--token-file", "/run/t"]).verb else {
            panic!("serve was asked for")
        };
        assert_eq!(args.serve.token_file.as_deref(), Some("/run/t"));
    }
}
