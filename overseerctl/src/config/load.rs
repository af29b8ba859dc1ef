//! Loading: flags over environment over file over defaults, and how their faults are told.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use runyard_common::{
    config::{ConfigError, FileFormat, Layers, Resolved, Shown, UnknownKey, UnknownKeys},
    exit::Exit,
    report::Failure,
    secret::Secret,
};

use super::{Config, ServeArgs, env, file::ConfigFile, places::Places, resolve::resolve, values};

/// Read when neither `--config` nor `OVERSEER_CONFIG` names a file.
const DEFAULT_PATH: &str = "./config.yaml";

/// How the environment is looked up; a value, so that tests need none of their own.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A configuration that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The validated values.
    pub config: Config,
    /// What is odd but usable, a line each: unknown keys, a file that does not exist.
    pub warnings: Vec<String>,
    /// The effective values with their origins, secrets redacted, for `config show`.
    pub show: Shown,
}

/// Loads the configuration of the daemon.
///
/// # Errors
/// A failure with [`Exit::Config`] that names file, line and key of the value, what was expected, and what to write.
pub fn load(args: &ServeArgs, env: &Environment<'_>) -> Result<Loaded, Failure> {
    let source = Source::find(args, env)?;
    assemble(&source, args, env)
}

/// The file, or the place where it would be.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Whether the user named it.
    pub(super) explicit: bool,
    /// `None` if there is no such file.
    pub(super) text: Option<String>,
}

impl Source {
    fn find(args: &ServeArgs, env: &Environment<'_>) -> Result<Self, Failure> {
        let from_env = || {
            env(env::CONFIG)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        };
        let named = args.config.clone().or_else(from_env);
        let explicit = named.is_some();
        let path = named.unwrap_or_else(|| DEFAULT_PATH.into());
        let text = read(&path)?;
        Ok(Self {
            path,
            explicit,
            text,
        })
    }
}

/// The text of a file; `None` if there is none, which leaves the defaults, as in sticky-overseer.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(
            Exit::Config,
            format!("failed to load config: cannot read `{}`", path.display()),
        )
        .caused_by(error)
        .hint("make it readable, or name another file with --config")),
    }
}

/// Puts the layers together and validates the result.
pub(super) fn assemble(
    source: &Source,
    args: &ServeArgs,
    env: &Environment<'_>,
) -> Result<Loaded, Failure> {
    let mut warnings = early_warnings(source, env);
    let resolved = layers(source, args, env)
        .and_then(Layers::resolve::<ConfigFile>)
        .map_err(refused)?;
    warnings.extend(resolved.unknown.iter().map(unknown_key));
    let places = Places(&resolved.origins);
    let token = token(&resolved, places, env)?;
    let path = source.text.as_ref().map(|_| source.path.clone());
    let config =
        resolve(resolved.value.clone(), path, token, places, &mut warnings).map_err(refused)?;
    Ok(Loaded {
        config,
        warnings,
        show: resolved.show().clone(),
    })
}

fn layers(source: &Source, args: &ServeArgs, env: &Environment<'_>) -> Result<Layers, ConfigError> {
    let layers = Layers::defaults(&ConfigFile::default())?
        .unknown_keys(UnknownKeys::Warn)
        .secrets(&["token", "actions.*.config.env"]);
    let layers = match &source.text {
        Some(text) => layers.text(&source.path, text, FileFormat::ByExtension)?,
        None => layers,
    };
    let variables = env::variables();
    let table: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, key)| (name.as_str(), *key))
        .collect();
    let lookup = |name: &str| match env(name) {
        Some(port) if name == env::PORT => env::address_of_port(&port),
        value => value,
    };
    let listen = (!args.listen.is_empty()).then(|| args.listen.clone());
    Ok(layers
        .env(&table, &lookup)
        .flag("--listen", "listen", listen)
        .flag("--db", "db", args.db.clone())
        .flag("--log-file", "log_file", args.log_file.clone())
        .flag("--token-file", "token.file", args.token_file.clone())
        .flag("--name", "name", args.name.clone()))
}

fn token(
    resolved: &Resolved<ConfigFile>,
    places: Places<'_>,
    env: &Environment<'_>,
) -> Result<Option<Secret>, Failure> {
    let Some(source) = &resolved.value.token else {
        return Ok(None);
    };
    let refused = |failure: Failure| {
        let message = format!(
            "failed to load config: {}: `token` cannot be used",
            places.of("token")
        );
        Failure::new(Exit::Config, message)
            .caused_by(failure)
            .hint(WRITE_TOKEN)
    };
    source.load(env).map(Some).map_err(refused)
}

// === What is told ===

const WRITE_TOKEN: &str = "write the token as a text in quotes, or where it is: {file: /run/secrets/token} or {env: NAME}";

fn early_warnings(source: &Source, env: &Environment<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    if source.text.is_none() && source.explicit {
        let path = source.path.display();
        warnings.push(format!(
            "the configuration `{path}` does not exist; there are no actions, only defaults"
        ));
    }
    if let Some(link) = env(env::PORT).filter(|value| env::is_service_link(value)) {
        warnings.push(format!(
            "{} is ignored: {link:?} is a service link, not a port",
            env::PORT
        ));
    }
    warnings
}

/// Says what a key that means nothing was probably meant to be.
fn unknown_key(unknown: &UnknownKey) -> String {
    if unknown.suggestion.is_some() {
        return format!("{unknown}; it is ignored");
    }
    match moved(&unknown.key) {
        Some(meant) => format!("{unknown} (did you mean {meant}?); it is ignored"),
        None => format!(
            "{unknown}; it is ignored (known keys here: {})",
            unknown.known.join(", ")
        ),
    }
}

/// Keys that sticky-overseer's documents and older versions have, and its code does not read.
fn moved(key: &str) -> Option<&'static str> {
    let (above, last) = key.rsplit_once('.').unwrap_or(("", key));
    let in_action = above.starts_with("actions.");
    match last {
        "listen_addr" if above.is_empty() => Some("`listen`"),
        "description" if in_action => Some("`meta.description`"),
        "params" | "parameters" if in_action => Some("`config.parameters`"),
        "entrypoint" if in_action => Some("`config.entrypoint`"),
        "command" if in_action => Some("`config.command`"),
        "retry_policy" => Some("`retry`"),
        "size" if above.ends_with("task_pool") => Some("`limit`"),
        "queue_size" if above.ends_with("task_pool") => {
            Some("`queue.size`, with `queue.enabled: true`")
        }
        "queue_timeout" if above.ends_with("task_pool") => Some("`queue.max_age`, in seconds"),
        _ => None,
    }
}

fn refused(error: ConfigError) -> Failure {
    let failure =
        |error: &ConfigError| Failure::new(Exit::Config, format!("failed to load config: {error}"));
    match error {
        ConfigError::Invalid { key, origin, message } => {
            let (reason, way_out) = values::way_out(&message);
            let hint = way_out.unwrap_or_else(|| general_way_out(&key)).to_owned();
            failure(&ConfigError::Invalid { key, origin, message: reason.to_owned() }).hint(hint)
        }
        ConfigError::Syntax { .. } => failure(&error)
            .hint("indent with spaces, put texts with `: ` or ` #` in them into quotes, and give each key once"),
        other => other.into(),
    }
}

/// The way out where a type only says what it expected.
fn general_way_out(key: &str) -> &'static str {
    match key.rsplit('.').next().unwrap_or_default() {
        _ if key == "token" || key.starts_with("token.") => WRITE_TOKEN,
        "max_age" | "grace" => "it is a number of seconds, without a unit; 0 means none",
        "cert" | "key" | "tls" => {
            "tls needs the paths of `cert` and `key`, and may have `client_ca`"
        }
        "backoff" => "write the factor and the longest delay, such as {factor: 2, max: 1m}",
        _ => "`overseerctl config example` shows every key with its default",
    }
}
