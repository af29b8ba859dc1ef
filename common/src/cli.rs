//! The part of the command line that all tools share: global flags, completions and manual pages.
//! Verbs belong to the tools.

use std::io::{self, Write};

use clap::{Arg, Args, Command, CommandFactory, builder::PossibleValuesParser};
use clap_complete::Shell;

use crate::exit::Exit;
use crate::log::{self, LogFormat};
use crate::output::{Format, Printer};
use crate::progress::Progress;
use crate::report::Failure;
use crate::terminal::{self, Color};

/// Flags that every verb of every tool takes, before or after the verb.
///
/// Flatten it into the tool's `Parser` and call [`GlobalArgs::start`] once after parsing.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Format of the answer on stdout
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub output: Format,

    /// What to log on stderr: a level, or a filter such as `warn,overseerctl::hub=debug`
    #[arg(long, global = true, env = "RUNYARD_LOG", value_name = "FILTER")]
    pub log_level: Option<String>,

    /// Form of the log on stderr
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,

    /// Show no progress bars
    #[arg(long, global = true)]
    pub no_progress: bool,

    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
}

impl GlobalArgs {
    /// Makes the process-wide choices: colour, and the log of `tool` on stderr.
    pub fn start(&self, tool: &str) -> Result<(), Failure> {
        terminal::choose(self.color);
        log::init(tool, self.log_level.as_deref(), self.log_format, self.color)
    }

    /// The writer of this run's answer.
    pub fn printer(&self) -> Printer {
        Printer::new(self.output, self.color)
    }

    /// The progress display of this run.
    pub fn progress(&self) -> Progress {
        Progress::new(!self.no_progress)
    }
}

/// Print a completion script for a shell
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = PossibleValuesParser::new(SHELLS))]
    shell: String,
}

/// Shells that there are completion scripts for.
const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// The verb `completions` of the tool whose command line is `C`.
pub fn print_completions<C: CommandFactory>(
    args: &CompletionsArgs,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let shell = args
        .shell
        .parse()
        .map_err(|error: String| Failure::new(Exit::Internal, error))?;
    let mut script = Vec::new();
    completions(&mut C::command(), shell, &mut script)?;
    printer.raw(&script)?;
    Ok(Exit::Done)
}

/// The verb `man` of the tool whose command line is `C`: its page, as `man -l -` reads it.
pub fn print_man<C: CommandFactory>(printer: &Printer) -> anyhow::Result<Exit> {
    let mut page = Vec::new();
    man(&C::command(), &mut page)?;
    printer.raw(&page)?;
    Ok(Exit::Done)
}

/// Writes the completion script of `command` for `shell`.
pub fn completions(command: &mut Command, shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    // Into memory first: clap_complete panics when its writer fails, as a closed pipe does.
    clap_complete::generate(shell, command, name, &mut script);
    out.write_all(&script)
}

/// Writes the manual page of `command` in roff: the command itself, then one section for each
/// subcommand that is not hidden, however deep, with its own options.
pub fn man(command: &Command, out: &mut dyn Write) -> io::Result<()> {
    let mut command = command.clone();
    command.build();
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    for subcommand in visible(&command) {
        man_section(subcommand, &mut text)?;
    }
    // clap_mangen panics where there is no version, as on the page of a subcommand.
    if command.get_version().is_some() {
        page.render_version_section(&mut text)?;
    }
    out.write_all(once_defined(&String::from_utf8_lossy(&text)).as_bytes())
}

/// Keeps the definitions that `clap_mangen` puts before every section at the top only.
fn once_defined(page: &str) -> String {
    let is_definition = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
    let definitions = page.lines().take_while(is_definition);
    let rest = page.lines().filter(|line| !is_definition(line));
    definitions
        .chain(rest)
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// Writes the manual page of one subcommand, named by the words that lead to it (`["config",
/// "show"]`).
///
/// Fails with [`io::ErrorKind::NotFound`] when there is no such subcommand.
pub fn man_of(command: &Command, words: &[impl AsRef<str>], out: &mut dyn Write) -> io::Result<()> {
    let mut command = command.clone();
    command.build();
    let mut found = &command;
    for word in words {
        found = found.find_subcommand(word.as_ref()).ok_or_else(|| {
            let message = format!(
                "`{}` has no subcommand `{}`",
                found.get_name(),
                word.as_ref()
            );
            io::Error::new(io::ErrorKind::NotFound, message)
        })?;
    }
    man(found, out)
}

/// One subcommand as a section of its parent's page, followed by its own subcommands. Flags that
/// the page has already are left out.
fn man_section(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let told = |arg: &Arg| arg.is_global_set() || arg.get_id() == "help";
    let own = command
        .clone()
        .mut_args(|arg| if told(&arg) { arg.hide(true) } else { arg });
    let has_options = own.get_arguments().any(|arg| !arg.is_hide_set());
    let name = command
        .get_bin_name()
        .unwrap_or_else(|| command.get_name())
        .to_uppercase();
    let mut parts = Vec::new();
    let own = clap_mangen::Man::new(own);
    own.render_description_section(&mut parts)?;
    own.render_synopsis_section(&mut parts)?;
    if has_options {
        own.render_options_section(&mut parts)?;
    }
    writeln!(page, ".SH \"{name}\"")?;
    // Sections of the subcommand's own page become subsections here.
    for line in String::from_utf8_lossy(&parts).lines() {
        match line.strip_prefix(".SH ") {
            Some("DESCRIPTION") => {}
            Some(title) => writeln!(page, ".SS {title}")?,
            None => writeln!(page, "{line}")?,
        }
    }
    visible(command).try_for_each(|subcommand| man_section(subcommand, page))
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set() && subcommand.get_name() != "help")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser, Subcommand};

    use super::*;

    /// Keeps things.
    #[derive(Debug, Parser)]
    #[command(name = "keeper", version = "1.2.3")]
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
        /// Look at the configuration
        Config {
            #[command(subcommand)]
            verb: ConfigVerb,
        },
        #[command(hide = true)]
        Internal,
    }

    #[derive(Debug, Subcommand)]
    enum ConfigVerb {
        /// Print where every value came from
        Origins,
    }

    fn roff(page: impl Fn(&mut dyn Write) -> io::Result<()>) -> String {
        let mut text = Vec::new();
        page(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_verb() {
        for words in [
            ["keeper", "-o", "json", "show", "x"],
            ["keeper", "show", "x", "--output", "json"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(cli.global.output, Format::Json);
        }
    }

    #[test]
    fn a_flag_that_is_none_is_a_usage_error_in_the_tools_style() {
        let error = Cli::try_parse_from(["keeper", "show", "x", "--output", "xml"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .starts_with("error: invalid value 'xml' for '--output <FORMAT>'"),
            "{error}"
        );
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in [
            Shell::Bash,
            Shell::Zsh,
            Shell::Fish,
            Shell::PowerShell,
            Shell::Elvish,
        ] {
            let script = roff(|out| completions(&mut Cli::command(), shell, out));
            assert!(
                script.contains("keeper") && script.contains("origins"),
                "{shell}"
            );
        }
    }

    #[test]
    fn the_manual_page_has_a_section_for_every_verb() {
        let page = roff(|out| man(&Cli::command(), out));
        assert_eq!(page.matches(".TH ").count(), 1, "{page}");
        let sections: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix(".SH "))
            .collect();
        assert_eq!(
            sections,
            [
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "OPTIONS",
                "\"GLOBAL OPTIONS\"",
                "\"KEEPER SHOW\"",
                "\"KEEPER CONFIG\"",
                "\"KEEPER CONFIG ORIGINS\"",
                "VERSION"
            ]
        );
        assert!(
            page.contains("Name of the thing")
                && page.contains("Print where every value came from"),
            "{page}"
        );
    }

    #[test]
    fn a_subcommand_has_a_page_of_its_own() {
        let page = roff(|out| man_of(&Cli::command(), &["config", "origins"], out));
        assert!(page.contains(".TH keeper-config-origins 1"), "{page}");
        let error = man_of(&Cli::command(), &["config", "orgins"], &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "`config` has no subcommand `orgins`");
    }
}
