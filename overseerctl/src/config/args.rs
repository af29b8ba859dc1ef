//! What `serve` takes on its command line. What the flags mean is [`super::load()`]'s.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Flags of `serve`. Each wins over its variable of the environment, which wins over the file.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Configuration file, else `OVERSEER_CONFIG`, else `./config.yaml` if it exists
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// Address to listen on, else `OVERSEER_LISTEN`: `host:port`, `:port`, `unix:/path` or `stdio`; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,

    /// Database of the history, else `OVERSEER_DB`; empty keeps none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub db: Option<String>,

    /// File for every event as a line of JSON, else `OVERSEER_LOG_FILE`; empty writes none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub log_file: Option<String>,

    /// File with the token that every client must present, else `OVERSEER_TOKEN_FILE`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<String>,

    /// Name of this daemon for its clients, else `OVERSEER_NAME`
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// List the action types that this binary knows, and exit
    #[arg(long)]
    pub list_handlers: bool,
}
