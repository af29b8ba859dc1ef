//! `buildctl version`: of this program, and of what is built.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum, ValueHint};
use runyard_common::{exit::Exit, output::Table, report::Failure};
use serde_json::json;

use super::{Context, name};
use crate::version::{Bump, DEPLOY_DIR, Info, VersionFile, branch_of};

/// Print the version of this program, or keep that of what is built
///
/// What is built has its version in `version.yaml` of the deploy folder; `build --version-tags` makes tags of it and of the
/// branch.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Folder of the version file
    #[arg(long, global = true, value_name = "DIR", default_value = DEPLOY_DIR, value_hint = ValueHint::DirPath)]
    deploy_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the version of what is built, its branch and its tags
    Info,
    /// Raise it
    Bump {
        /// Which number; those below it become 0
        #[arg(value_enum)]
        part: Part,
        /// Set the number to this instead of the next
        #[arg(value_name = "NUMBER")]
        to: Option<u32>,
    },
    /// Print the tags that a build of it gets, a line each
    Tags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What breaks
    Major,
    /// What is new
    Minor,
    /// Any build
    Patch,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let file = VersionFile::of(&args.deploy_dir);
    match &args.verb {
        None => program(context)?,
        Some(Verb::Info) => {
            let info = file.info()?;
            context.printer.both(&info, &table(&info))?;
        }
        Some(Verb::Bump { part, to }) => {
            let (before, after) = file.bump(change(*part, *to)?)?;
            let answer = json!({ "before": before.to_string(), "version": after.to_string() });
            let text = format!("{before} → {after}");
            context
                .printer
                .both(&answer, &Table::headless().row([text]))?;
        }
        Some(Verb::Tags) => {
            let tags = file
                .load()?
                .tags(branch_of(std::path::Path::new(".")).as_deref());
            let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
            let mut table = Table::headless();
            for tag in &tags {
                table.push([tag.as_str()]);
            }
            context.printer.both(&tags, &table)?;
        }
    }
    Ok(Exit::Done)
}

fn change(part: Part, to: Option<u32>) -> Result<Bump, Failure> {
    match (part, to) {
        (Part::Major, None) => Ok(Bump::Major),
        (Part::Major, Some(number)) => Ok(Bump::MajorTo(number)),
        (Part::Minor, None) => Ok(Bump::Minor),
        (Part::Minor, Some(number)) => Ok(Bump::MinorTo(number)),
        (Part::Patch, None) => Ok(Bump::Patch),
        (Part::Patch, Some(_)) => Err(Failure::new(
            Exit::Usage,
            "the patch number only counts builds: it can be raised, and not set",
        )),
    }
}

fn program(context: &Context) -> anyhow::Result<()> {
    let (own, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let answer = json!({ "name": own, "version": version, "called": name::name() });
    let text = format!("{own} {version}");
    context
        .printer
        .both(&answer, &Table::headless().row([text]))?;
    Ok(())
}

fn table(info: &Info) -> Table {
    let none = || "-".to_owned();
    Table::headless()
        .row(["version".to_owned(), info.version.clone()])
        .row(["tag".to_owned(), info.tag.clone()])
        .row([
            "branch".to_owned(),
            info.branch.clone().unwrap_or_else(none),
        ])
        .row([
            "branch tag".to_owned(),
            info.branch_tag.clone().unwrap_or_else(none),
        ])
        .row(["file".to_owned(), info.file.display().to_string()])
}
