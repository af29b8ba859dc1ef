//! `milo-driver jres`: which JVMs this host has, which one is the default and why, and what looks like one and is none.

use std::{collections::HashMap, path::PathBuf};

use runyard_common::{
    exit::Exit,
    output::{Format, Table, Tabular},
};
use serde::Serialize;

use super::Context;
use crate::{
    jre::{self, Jre, Jres, Proof, Rejected, Search},
    task::JreSelect,
};

/// List the JVMs of this host, and which one tasks get that ask for none.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Start each of them once (`java -version`) to see that it works
    #[arg(long)]
    prove: bool,
}

/// All that was found.
#[derive(Serialize)]
struct Answer<'a> {
    default: Option<Default<'a>>,
    jres: Vec<Row<'a>>,
    rejected: &'a [Rejected],
}

#[derive(Serialize)]
struct Default<'a> {
    home: &'a PathBuf,
    why: String,
}

#[derive(Serialize)]
struct Row<'a> {
    is_default: bool,
    #[serde(flatten)]
    jre: &'a Jre,
    /// What a start has shown; one that fails is rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
}

impl Tabular for Answer<'_> {
    fn table(&self) -> Table {
        let mut columns = vec![
            "default", "version", "vendor", "vm", "arch", "libc", "home", "found in",
        ];
        let is_proved = self.jres.iter().any(|row| row.proof.is_some());
        columns.extend(is_proved.then_some("works"));
        let mut table = Table::new(columns);
        for row in &self.jres {
            table.push(row.cells());
        }
        table
    }
}

impl Row<'_> {
    fn cells(&self) -> Vec<String> {
        let jre = self.jre;
        let mut cells = vec![
            if self.is_default { "*" } else { "" }.to_owned(),
            jre.version.clone(),
            jre.vendor.clone(),
            jre.vm.clone(),
            jre.arch.clone(),
            jre.libc.clone().unwrap_or_else(|| "-".to_owned()),
            jre.home.display().to_string(),
            jre.source.to_string(),
        ];
        cells.extend(self.proof.as_ref().map(|_| "yes".to_owned()));
        cells
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut jres = Jres::discover(&search(context));
    let mut proofs = if args.prove {
        jre::prove_all(&mut jres)
    } else {
        HashMap::new()
    };
    let wanted = context.config.default_java.as_deref();
    let default = jres.default(wanted);
    let rows: Vec<Row<'_>> = jres
        .all()
        .iter()
        .map(|jre| Row {
            is_default: default == Some(jre),
            jre,
            proof: proofs.remove(&jre.home),
        })
        .collect();
    let all_work = jres.broken().next().is_none();
    let answer = Answer {
        default: default.map(|jre| Default {
            home: &jre.home,
            why: why(jre, wanted),
        }),
        jres: rows,
        rejected: jres.rejected(),
    };
    print(context, &answer, &jres)?;
    Ok(match (default, all_work) {
        (None, _) => Exit::NotFound,
        (Some(_), false) => Exit::Failed,
        (Some(_), true) => Exit::Done,
    })
}

/// Where tasks' JVMs are looked for, with the environment of whoever asks.
fn search(context: &Context) -> Search {
    let search = Search::standard(
        context.config.java_homes.clone(),
        std::env::var_os("JAVA_HOME"),
        std::env::var_os("PATH"),
    );
    match std::env::home_dir() {
        Some(home) => search.and_of_user(&home),
        None => search,
    }
}

fn why(jre: &Jre, wanted: Option<&str>) -> String {
    match (wanted, &jre.source) {
        (Some(wanted), _) => format!("it matches default_java `{wanted}`"),
        (None, jre::Source::Configured) => "it is the first of java_homes".to_owned(),
        (None, jre::Source::JavaHome) => "JAVA_HOME names it".to_owned(),
        (None, jre::Source::Path) => "it is the first java in PATH".to_owned(),
        (None, jre::Source::Standard(_)) => {
            "it is the newest in the usual places, and nothing names another".to_owned()
        }
    }
}

/// A table has lines for what columns cannot say; JSON and YAML have it all in one value.
fn print(context: &Context, answer: &Answer<'_>, jres: &Jres) -> std::io::Result<()> {
    let printer = &context.printer;
    if printer.format() != Format::Table {
        return printer.answer(answer);
    }
    if !answer.jres.is_empty() {
        printer.answer(answer)?;
        printer.line("")?;
    }
    for line in remarks(answer, jres, context.config.default_java.as_deref()) {
        printer.line(line)?;
    }
    Ok(())
}

fn remarks(answer: &Answer<'_>, jres: &Jres, wanted: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(Default { home, why }) = &answer.default {
        lines.push(format!("default: {}, as {why}", home.display()));
    } else if let Err(error) = jres.select(&JreSelect::default(), wanted) {
        lines.push(error.to_string());
    }
    lines.extend(answer.rejected.iter().map(|rejected| {
        let (home, source) = (rejected.home.display(), &rejected.source);
        format!("rejected: {home} (from {source}): {}", rejected.reason)
    }));
    let broken = answer.jres.iter().flat_map(|row| &row.jre.broken);
    lines.extend(broken.map(|broken| {
        let (link, target) = (broken.link.display(), broken.target.display());
        format!("broken link: {link} -> {target}")
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jre::Source;

    #[test]
    fn the_default_has_its_reason_and_so_has_its_lack() {
        let jres = Jres::discover(&Search::default());
        let nothing = Answer {
            default: None,
            jres: Vec::new(),
            rejected: &[],
        };
        let text = remarks(&nothing, &jres, None).join("\n");
        assert!(
            text.starts_with("Error: No Java runtime found on host."),
            "{text}"
        );
        let found = Jres::discover(&Search::standard(
            Vec::new(),
            None,
            std::env::var_os("PATH"),
        ));
        let Some(jre) = found.default(None) else {
            println!("skipped: there is no Java here");
            return;
        };
        assert!(why(jre, Some("17")).contains("`17`"));
        let named = Jre {
            source: Source::JavaHome,
            ..jre.clone()
        };
        assert_eq!(why(&named, None), "JAVA_HOME names it");
    }

    #[test]
    fn a_table_has_a_column_for_what_was_proved_only_when_it_was() {
        let empty = Answer {
            default: None,
            jres: Vec::new(),
            rejected: &[],
        };
        assert!(!empty.table().render(None, false).contains("WORKS"));
    }
}
