//! Flags that say which hub to talk to, and how. Every verb takes them; only those that connect look at them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueHint};
use runyard_common::{
    duration,
    report::Failure,
    secret::{Secret, SecretSource},
};

use crate::client::{DEFAULT_URL, Place, Target};

/// Flags of the connection.
#[expect(
    clippy::doc_markdown,
    reason = "the fields' comments are help texts, shown as they are"
)]
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectionArgs {
    /// The hub: ws://host:port/ws, wss://…, host:port, or unix:/path/of/socket
    #[arg(short, long, global = true, env = "OVERSEER_URL", value_name = "URL", default_value = DEFAULT_URL, hide_default_value = false)]
    pub(super) url: String,

    /// Present this token; --token-file keeps it from other users of this machine [variable: OVERSEER_TOKEN]
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        conflicts_with = "token_file"
    )]
    pub(super) token: Option<String>,

    // The same id and type as in `ServeArgs`, where it means the token that the hub demands.
    /// Present the token in this file [variable: OVERSEER_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) token_file: Option<String>,

    /// Trust the authorities in this PEM file instead of the system's
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ca: Option<PathBuf>,

    /// Wait so long for a connection or an answer
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    pub(super) timeout: Duration,
}

impl ConnectionArgs {
    /// The hub that is meant.
    pub(super) fn target(&self) -> Result<Target, Failure> {
        let url = if self.url.trim().is_empty() {
            DEFAULT_URL
        } else {
            &self.url
        };
        let token = self.token(&|name| std::env::var(name).ok())?;
        Ok(Target {
            place: Place::parse(url)?,
            token,
            ca: self.ca.clone(),
            timeout: self.timeout,
        })
    }

    /// The token to present: flags over environment, and what was said itself over a file.
    fn token(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Secret>, Failure> {
        let literal = |token: &String| SecretSource::Literal(Secret::new(token.as_str()));
        let file = |path: &String| SecretSource::File { file: path.into() };
        let variable = |name: &str| env(name).filter(|value| !value.is_empty());
        let source = self.token.as_ref().map(literal);
        let source = source.or_else(|| self.token_file.as_ref().map(file));
        let source = source.or_else(|| variable("OVERSEER_TOKEN").as_ref().map(literal));
        let source = source.or_else(|| variable("OVERSEER_TOKEN_FILE").as_ref().map(file));
        source.map(|source| source.load(env)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        connection: ConnectionArgs,
    }

    fn token(flags: &[&str], env: &[(&str, &str)]) -> Option<String> {
        let cli = Cli::try_parse_from([&["x"], flags].concat()).unwrap();
        let lookup = |name: &str| {
            env.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        cli.connection
            .token(&lookup)
            .unwrap()
            .map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn a_token_comes_from_flags_before_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from file\n").unwrap();
        let path = file.path().to_str().unwrap();
        let both = [
            ("OVERSEER_TOKEN", "from env"),
            ("OVERSEER_TOKEN_FILE", path),
        ];
        assert_eq!(token(&["--token", "flag"], &both).as_deref(), Some("flag"));
        assert_eq!(
            token(&["--token-file", path], &both).as_deref(),
            Some("from file")
        );
        assert_eq!(token(&[], &both).as_deref(), Some("from env"));
        assert_eq!(token(&[], &both[1..]).as_deref(), Some("from file"));
        assert_eq!(token(&[], &[("OVERSEER_TOKEN", "")]), None);
    }
}
