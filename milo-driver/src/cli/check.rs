//! `milo-driver check`: would a task run this JAR? What is wrong is said in the same four lines that the task's log gets.

use std::path::PathBuf;

use runyard_common::{
    exit::Exit,
    output::{Format, Table, Tabular},
    report::{Failure, OrExit},
};
use serde::Serialize;

use super::Context;
use crate::{
    jar::{self, Jar, JarError, Report},
    user,
};

/// Check whether a file is a JAR that a task can run.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The JAR
    #[arg(value_name = "JAR", value_hint = clap::ValueHint::FilePath)]
    jar: PathBuf,

    /// Take a JAR without a Main-Class, as a task does that names the class itself
    #[arg(long)]
    library: bool,

    /// Check too whether this user may read it: a name, a uid, or uid:gid
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

/// What was found out.
#[derive(Serialize)]
struct Verdict<'a> {
    path: &'a PathBuf,
    valid: bool,
    main_class: Option<&'a str>,
    class_path: &'a [String],
    /// The four lines, if it is not valid.
    #[serde(flatten)]
    report: Option<Report>,
}

impl Tabular for Verdict<'_> {
    fn table(&self) -> Table {
        let mut table = Table::headless()
            .row(["jar", &self.path.display().to_string()])
            .row(["main class", self.main_class.unwrap_or("-")]);
        if !self.class_path.is_empty() {
            table.push(["class path", &self.class_path.join(" ")]);
        }
        table.row(["verdict", "ok"])
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    match inspect(args)? {
        Ok(jar) => {
            context.printer.answer(&Verdict {
                path: &args.jar,
                valid: true,
                main_class: jar.main_class.as_deref(),
                class_path: &jar.class_path,
                report: None,
            })?;
            Ok(Exit::Done)
        }
        Err(error) => {
            refuse(args, context, &error)?;
            Ok(if error.is_missing() {
                Exit::NotFound
            } else {
                Exit::Failed
            })
        }
    }
}

fn inspect(args: &Args) -> Result<Result<Jar, JarError>, Failure> {
    let account = match &args.user {
        Some(user) => Some(user::resolve(user, true).or_exit(Exit::Usage)?),
        None => None,
    };
    let jar = jar::inspect_file(&args.jar, !args.library);
    Ok(jar.and_then(|jar| {
        if let Some(account) = account {
            jar.readable_by(account.uid, account.gid, &account.groups)?;
        }
        Ok(jar)
    }))
}

fn refuse(args: &Args, context: &Context, error: &JarError) -> std::io::Result<()> {
    if context.printer.format() == Format::Table {
        return context.printer.line(error);
    }
    context.printer.value(&Verdict {
        path: &args.jar,
        valid: false,
        main_class: None,
        class_path: &[],
        report: Some(error.report()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use runyard_common::{
        output::Printer,
        testing::{Paper, tempdir},
    };

    use super::*;
    use crate::config::Config;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// What `check` prints about a file, and how it ends.
    fn check(format: Format, name: &str, bytes: Option<&[u8]>) -> (String, u8) {
        let folder = tempdir();
        let path = folder.path().join(name);
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).unwrap();
        }
        let paper = Paper::default();
        let context = Context {
            printer: Printer::to(format, paper.clone()),
            config: Config::default(),
        };
        let line = Line::parse_from(["check", path.to_str().unwrap()]);
        let exit = run(&line.args, &context).unwrap();
        (paper.text(), exit.code())
    }

    #[test]
    fn a_file_that_is_no_jar_gets_four_lines_and_1() {
        let (text, code) = check(Format::Table, "my-script.py", Some(b"x"));
        assert!(
            text.starts_with("Error: Artifact must be a .jar file, got: my-script.py\nExpected: "),
            "{text}"
        );
        assert_eq!((text.lines().count(), code), (4, 1));
    }

    #[test]
    fn a_file_that_is_not_there_gets_5() {
        let (text, code) = check(Format::Table, "app.jar", None);
        assert!(
            text.starts_with("Error: Artifact file not found\n"),
            "{text}"
        );
        assert_eq!(code, 5);
    }

    #[test]
    fn programs_read_the_same_four_lines_as_fields() {
        let (text, code) = check(Format::Json, "app.jar", Some(b""));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["valid"], false);
        assert_eq!(value["error"], "JAR file is empty");
        assert!(value["suggestion"].is_string());
        assert_eq!(code, 1);
    }
}
