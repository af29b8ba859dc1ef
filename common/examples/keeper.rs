//! A whole tool in one file, on the ground that this crate gives: global flags, an answer in three
//! forms, a stream, errors with hints and exit codes, completions and manual pages. The integration
//! tests run it as a process.

use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use axum::routing::get;
use clap::{CommandFactory, Parser, Subcommand};
use runyard_common::cli::{self, GlobalArgs};
use runyard_common::exit::Exit;
use runyard_common::http::server::{self, LayerOptions, Listen, ServeOptions};
use runyard_common::output::{Table, Tabular};
use runyard_common::report::{self, Failure, OrExit};
use runyard_common::shutdown::{Readiness, Shutdown};
use serde::Serialize;

/// Keep things and show them
#[derive(Debug, Parser)]
#[command(name = "keeper", version)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show one thing
    Show {
        /// Name of the thing
        name: String,
    },
    /// Count without end
    Count,
    /// Run a command and end with its code
    Exec {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Serve until told to end
    Serve {
        /// Address to listen on
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: Listen,
    },
    /// Show a mistake of ours
    Bug,
    /// Write the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual page
    Man,
}

#[derive(Serialize)]
struct Thing {
    name: String,
    size: u64,
}

impl Tabular for Thing {
    fn table(&self) -> Table {
        Table::new(["name", "size"])
            .right("size")
            .row([self.name.clone(), self.size.to_string()])
    }
}

fn main() -> ExitCode {
    report::main(|| {
        let cli = Cli::try_parse()?;
        cli.global.start("keeper")?;
        run(&cli)
    })
}

fn run(cli: &Cli) -> anyhow::Result<Exit> {
    let printer = cli.global.printer();
    match &cli.verb {
        Verb::Show { name } => printer.answer(&find(name)?)?,
        Verb::Count => {
            for number in 0_u64.. {
                printer.item(&number)?;
            }
        }
        Verb::Exec { command } => return Ok(Exit::from_status(exec(command)?)),
        Verb::Serve { listen } => serve(listen)?,
        Verb::Bug => {
            let things: Vec<Thing> = Vec::new();
            printer.answer(&things[3])?;
        }
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            cli::completions(&mut Cli::command(), *shell, &mut script)?;
            printer.raw(&script)?;
        }
        Verb::Man => {
            let mut page = Vec::new();
            cli::man(&Cli::command(), &mut page)?;
            printer.raw(&page)?;
        }
    }
    Ok(Exit::Done)
}

fn find(name: &str) -> Result<Thing, Failure> {
    if name == "nothing" {
        return Err(Failure::new(Exit::NotFound, "there is no thing `nothing`")
            .hint("known things: all others"));
    }
    Ok(Thing {
        name: name.to_owned(),
        size: name.len() as u64,
    })
}

fn exec(command: &[String]) -> Result<ExitStatus, Failure> {
    let [program, arguments @ ..] = command else {
        return Err(Failure::new(Exit::Usage, "there is no command to run"));
    };
    Command::new(program)
        .args(arguments)
        .status()
        .or_exit(Exit::NotFound)
        .hint(|| format!("is `{program}` in PATH?"))
}

/// A request that is never answered, for whoever wants to see a drain take long.
async fn sleep() {
    tracing::info!("asleep");
    std::future::pending::<()>().await;
}

/// The life of a daemon: bind, announce, become ready, run, drain.
fn serve(listen: &Listen) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let bound = server::bind(listen).await?;
        tracing::info!(address = %bound.address(), "listening");
        let (readiness, latch) = Readiness::new();
        let routes =
            server::health_routes(readiness.clone(), String::new).route("/sleep", get(sleep));
        let routes =
            server::standard_layers(server::problem_fallbacks(routes), &LayerOptions::default());
        latch.release();
        let drain = async {
            shutdown.drain().await;
            readiness.begin_drain();
        };
        let options = ServeOptions {
            drain_deadline: Duration::from_secs(5),
            ..ServeOptions::default()
        };
        tokio::select! {
            served = server::serve(bound, None, routes, options, drain) => served?,
            () = shutdown.now() => tracing::warn!("second signal, ending at once"),
        }
        tracing::info!("ended");
        Ok(())
    })
}
