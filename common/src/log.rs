//! The log on stderr: as text, as JSON, or as `HashiCorp`'s hclog JSON. Answers never come here,
//! see [`crate::output`].

mod hclog;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use hclog::HclogLayer;

use crate::exit::Exit;
use crate::report::Failure;
use crate::terminal::{Color, Stream};

/// The form of log lines, as `--log-format` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people: time, level, place, message, fields
    #[default]
    Text,
    /// One JSON object a line
    Json,
    /// One JSON object a line as go-hclog writes it, for hosts of go-plugin plugins
    #[value(skip)]
    Hclog,
}

/// Starts the log of `tool` on stderr.
///
/// `level` is a level for the tool (`debug`) or a whole filter (`warn,overseerctl::hub=trace`);
/// without one the tool logs from info, everything else from warn. Fails with [`Exit::Usage`] when
/// the filter cannot be parsed. A second call leaves the first log as it is.
pub fn init(
    tool: &str,
    level: Option<&str>,
    format: LogFormat,
    color: Color,
) -> Result<(), Failure> {
    let registry = tracing_subscriber::registry().with(filter(tool, level)?);
    let ansi = color.on(Stream::Stderr);
    // An error means that a log exists already, as in tests; it stays.
    let _ = match format {
        LogFormat::Text => {
            let text = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(ansi);
            registry.with(text).try_init()
        }
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::io::stderr);
            registry.with(json).try_init()
        }
        LogFormat::Hclog => registry.with(HclogLayer::new(std::io::stderr)).try_init(),
    };
    Ok(())
}

fn filter(tool: &str, level: Option<&str>) -> Result<EnvFilter, Failure> {
    let wish = level
        .map(str::trim)
        .filter(|level| !level.is_empty())
        .unwrap_or("info");
    let crate_name = tool.replace('-', "_");
    let directives = if wish.contains(['=', ',']) {
        wish.to_owned()
    } else {
        format!("warn,{crate_name}={wish},runyard_common={wish}")
    };
    EnvFilter::try_new(&directives).map_err(|error| {
        Failure::new(Exit::Usage, format!("log filter `{wish}` is not valid"))
            .caused_by(error)
            .hint("use error, warn, info, debug, trace or off, or a filter such as `warn,hvpool::slot=debug`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(level: Option<&str>) -> String {
        let mut parts: Vec<String> = filter("milo-driver", level)
            .unwrap()
            .to_string()
            .split(',')
            .map(str::to_owned)
            .collect();
        parts.sort();
        parts.join(",")
    }

    #[test]
    fn the_tool_logs_from_info_and_the_rest_from_warn() {
        assert_eq!(
            directives(None),
            "milo_driver=info,runyard_common=info,warn"
        );
        assert_eq!(directives(Some(" ")), directives(None));
    }

    #[test]
    fn a_level_is_the_tools_and_a_filter_is_taken_as_it_is() {
        assert_eq!(
            directives(Some("debug")),
            "milo_driver=debug,runyard_common=debug,warn"
        );
        assert_eq!(directives(Some("error,hyper=trace")), "error,hyper=trace");
    }

    #[test]
    fn a_filter_that_cannot_be_parsed_is_a_usage_error() {
        let failure = filter("hvpool", Some("loud")).unwrap_err();
        assert_eq!(
            (failure.exit(), failure.message()),
            (Exit::Usage, "log filter `loud` is not valid")
        );
    }
}
