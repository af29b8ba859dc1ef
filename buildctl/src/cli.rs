//! The command line: the tree of verbs and their dispatch, nothing else. One verb is one file below; what all verbs of all
//! tools share is [`runyard_common::cli`]'s.
//!
//! | file | holds |
//! |---|---|
//! | `name`, `argv` | what the program is called, and how the original spelled things |
//! | `place` | where builds happen: in this process, or at a service |
//! | `job` | flags and files that say what to build |
//! | `follow`, `lasting`, `screen` | following a job whatever happens to its log, and what is seen of it |
//! | `answer`, `diary` | what is said and written down about a job |
//! | all others | one verb each |

mod answer;
mod argv;
mod build;
mod cleanup;
mod config;
mod diary;
mod doctor;
mod follow;
mod health;
mod history;
mod interrupt;
mod job;
mod kill;
mod lasting;
mod logs;
mod mcp;
mod name;
mod place;
mod purge;
mod screen;
mod serve;
mod spec;
mod status;
mod submit;
mod version;
mod wait;
mod watch;

use std::{ffi::OsString, process::ExitCode};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};
use runyard_common::{
    cli::{self, CompletionsArgs, GlobalArgs},
    exit::Exit,
    output::{Format, Printer},
    report,
};

use self::place::PlaceArgs;
use crate::config::ClientArgs;

/// Build, test and publish container images: an image's tags move only to what passed its tests
///
/// `build` needs no service: it uses Buildah on this machine. With --url (or `BUILDCTL_URL`) every verb speaks to a service
/// instead, which `serve` runs.
#[derive(Debug, Parser)]
#[command(name = name::name(), bin_name = name::name(), version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Build(Box<build::Args>),
    Submit(Box<submit::Args>),
    Status(status::Args),
    Logs(logs::Args),
    Watch(watch::Args),
    Wait(wait::Args),
    Kill(kill::Args),
    Cleanup(cleanup::Args),
    Purge(purge::Args),
    #[command(visible_alias = "ls")]
    History(history::Args),
    Health(health::Args),
    Doctor(doctor::Args),
    Spec(spec::Args),
    Serve(serve::Args),
    Mcp(mcp::Args),
    Version(version::Args),
    Config(config::Args),
    /// Print a completion script for a shell
    #[command(visible_alias = "completion")]
    Completions(CompletionsArgs),
    /// Print the manual page, as `man -l -` reads it
    Man,
}

/// What every verb may need.
struct Context {
    printer: Printer,
    /// Whether bars are wanted on a terminal.
    bars: bool,
    client: ClientArgs,
    place: PlaceArgs,
    /// Whether the verb was called by the original's name.
    is_original: bool,
}

impl Context {
    /// The way that a job's followers can be told to go on with another verb.
    fn command(&self, verb: &str, rest: &str) -> String {
        let mut words = vec![name::name().to_owned(), verb.to_owned()];
        if let Some(url) = &self.client.url {
            words.push(format!("--url {}", quoted(url)));
        }
        if let Some(file) = &self.client.token_file {
            words.push(format!("--token-file {}", quoted(file)));
        }
        words.extend(self.place.typed());
        words.push(rest.to_owned());
        words.join(" ")
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:@%+=,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Looks a variable of the environment up.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Does something asynchronous to its end. What still runs in the background then does not keep the process.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// Runs what the command line asks for.
pub(super) fn main() -> ExitCode {
    report::main(|| run(std::env::args_os()))
}

fn run(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<Exit> {
    let argv::Line { words, is_original } = argv::conventional(args);
    let matches = Cli::command().try_get_matches_from(words)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let mut global = cli.global.clone();
    if is_original && !is_said(&matches, "output") {
        global.output = Format::Json;
    }
    let is_daemon = matches!(cli.verb, Verb::Serve(_) | Verb::Mcp(_));
    if !is_daemon && global.log_level.is_none() {
        // What a service of this process would tell its operator is of no interest to whoever types a verb.
        global.log_level = Some("warn".to_owned());
    }
    global.start(env!("CARGO_PKG_NAME"))?;
    let context = Context {
        printer: global.printer(),
        bars: !global.no_progress,
        client: cli.client,
        place: cli.place,
        is_original,
    };
    dispatch(cli.verb, &context)
}

fn is_said(matches: &ArgMatches, id: &str) -> bool {
    let here = matches.value_source(id) == Some(ValueSource::CommandLine);
    here || matches
        .subcommand()
        .is_some_and(|(_, below)| is_said(below, id))
}

fn dispatch(verb: Verb, context: &Context) -> anyhow::Result<Exit> {
    match verb {
        Verb::Build(args) => build::run(&args, context),
        Verb::Submit(args) => submit::run(&args, context),
        Verb::Status(args) => status::run(&args, context),
        Verb::Logs(args) => logs::run(&args, context),
        Verb::Watch(args) => watch::run(&args, context),
        Verb::Wait(args) => wait::run(&args, context),
        Verb::Kill(args) => kill::run(&args, context),
        Verb::Cleanup(args) => cleanup::run(&args, context),
        Verb::Purge(args) => purge::run(&args, context),
        Verb::History(args) => history::run(&args, context),
        Verb::Health(args) => health::run(&args, context),
        Verb::Doctor(args) => doctor::run(&args, context),
        Verb::Spec(args) => spec::run(&args, context),
        Verb::Serve(args) => serve::run(args, context),
        Verb::Mcp(args) => mcp::run(&args, context),
        Verb::Version(args) => version::run(&args, context),
        Verb::Config(args) => config::run(args, context),
        Verb::Completions(args) => cli::print_completions::<Cli>(&args, &context.printer),
        Verb::Man => cli::print_man::<Cli>(&context.printer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Cli {
        Cli::try_parse_from([&["buildctl"], words].concat()).unwrap()
    }

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_all_verbs_stand_before_or_after_the_verb() {
        for words in [
            ["-u", "http://b:1", "status", "x"],
            ["status", "x", "--url", "http://b:1"],
            ["status", "--url", "http://b:1", "x"],
        ] {
            let cli = Cli::try_parse_from([&["buildctl"], &words[..]].concat());
            // The id is none; everything before it was understood.
            let error = cli.unwrap_err().to_string();
            assert!(error.contains("is no job id"), "{error}");
        }
        let id = "0b0e2b9c-5a53-4f7e-9a0b-7c1d7d7c6f11";
        let cli = parsed(&["status", id, "--url", "http://b:1"]);
        assert_eq!(cli.client.url.as_deref(), Some("http://b:1"));
    }

    #[test]
    fn what_a_hint_shows_can_be_typed() {
        assert_eq!(quoted("http://b:1/x"), "http://b:1/x");
        assert_eq!(quoted("a b'c"), r"'a b'\''c'");
        let cli = parsed(&["--root", "/my dir", "-u", "http://b:1", "health"]);
        let context = Context {
            printer: Printer::to(Format::Table, std::io::sink()),
            bars: false,
            client: cli.client,
            place: cli.place,
            is_original: false,
        };
        let name = name::name();
        assert_eq!(
            context.command("watch", "ID"),
            format!("{name} watch --url http://b:1 --root '/my dir' ID")
        );
    }
}
