//! From [`Settings`] to a [`Config`]: what values mean and whether they can be. Everything that is wrong is told by key, with
//! where it was set.

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use runyard_common::{
    config::{Origin, Resolved},
    duration,
    exit::Exit,
    http::server::{Listen, TlsConfig},
    report::Failure,
    secret::{Secret, SecretSource},
};

use super::{
    Config, ConsulConfig, Environment, Loaded, LocalConfig, NomadCache, NomadConfig, RunnerSource,
    Timeouts, WebhookPolicy,
};
use crate::{
    names::Repository,
    runner::work::Registries,
    secrets::SecretRef,
    service::Rounds,
    settings::{self, Backend, Settings},
    spec::{Limits, Resources},
};

/// How often is looked after things at most.
const SHORTEST_ROUND: Duration = Duration::from_millis(100);

/// Says what is wrong with the value of a key, and where it was set.
pub(super) struct Places<'a>(pub(super) &'a BTreeMap<String, Origin>);

impl Places<'_> {
    fn wrong(&self, key: &str, why: impl Display) -> Failure {
        let place = match self.0.get(key) {
            Some(Origin::Default) | None => String::new(),
            Some(origin) => format!("{origin}: "),
        };
        Failure::new(Exit::Config, format!("{place}`{key}`: {why}"))
    }

    fn is_set_above_the_file(&self, key: &str) -> bool {
        matches!(
            self.0.get(key),
            Some(Origin::Env { .. } | Origin::Flag { .. })
        )
    }

    fn parse<T: FromStr<Err: Display>>(&self, key: &str, text: &str) -> Result<T, Failure> {
        text.trim().parse().map_err(|error| self.wrong(key, error))
    }

    /// A duration that is not 0.
    fn duration(&self, key: &str, text: &str) -> Result<Duration, Failure> {
        match duration::parse(text) {
            Ok(Duration::ZERO) => Err(self.wrong(key, format!("`{text}` is no time at all"))),
            Ok(duration) => Ok(duration),
            Err(error) => Err(self.wrong(key, error)),
        }
    }

    fn absolute(&self, key: &str, text: &str) -> Result<PathBuf, Failure> {
        if Path::new(text).is_absolute() {
            Ok(PathBuf::from(text))
        } else {
            Err(self.wrong(key, format!("`{text}` is no absolute path")))
        }
    }

    fn bytes(&self, key: &str, text: &str) -> Result<u64, Failure> {
        bytes(text)
            .ok_or_else(|| self.wrong(key, format!("`{text}` is no size, as in 500MB or 20GiB")))
    }

    /// A file and what belongs to it: both or none.
    fn pair(
        &self,
        keys: [&str; 2],
        files: [&str; 2],
    ) -> Result<Option<(PathBuf, PathBuf)>, Failure> {
        match files {
            ["", ""] => Ok(None),
            [_, ""] => Err(self.wrong(keys[0], format!("it needs `{}` too", keys[1]))),
            ["", _] => Err(self.wrong(keys[1], format!("it needs `{}` too", keys[0]))),
            [one, other] => Ok(Some((one.into(), other.into()))),
        }
    }
}

/// A text that says something.
fn said(text: &str) -> Option<&str> {
    let text = text.trim();
    (!text.is_empty()).then_some(text)
}

/// `20GiB`, `500MB`, `1048576`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (kilo, power) = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => (1, 0),
        "k" | "kib" => (1024_u64, 1),
        "m" | "mib" => (1024, 2),
        "g" | "gib" => (1024, 3),
        "t" | "tib" => (1024, 4),
        "kb" => (1000, 1),
        "mb" => (1000, 2),
        "gb" => (1000, 3),
        "tb" => (1000, 4),
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(kilo.checked_pow(power)?)
}

pub(super) fn checked(
    resolved: &Resolved<Settings>,
    env: &Environment<'_>,
) -> Result<Loaded, Failure> {
    let settings = &resolved.value;
    let places = &Places(&resolved.origins);
    let config = config(settings, places, env)?;
    Ok(Loaded {
        warnings: warnings(&config),
        config,
        shown: resolved.show().clone(),
    })
}

fn config(
    settings: &Settings,
    places: &Places<'_>,
    env: &Environment<'_>,
) -> Result<Config, Failure> {
    Ok(Config {
        listen: places.parse("listen", &settings.listen)?,
        tokens: tokens(&settings.token_file)?,
        token_file: said(&settings.token_file).map(PathBuf::from),
        tls: tls(settings, places)?,
        allowed_hosts: lower(&settings.allowed_hosts),
        cors_origins: origins(&settings.cors_origins, places)?,
        backend: settings.backend,
        local: local(settings, places, env)?,
        nomad: nomad(&settings.nomad, places, env)?,
        registry: registry(&settings.registry.url, places)?,
        temp_prefix: prefix(&settings.registry.temp_prefix, places)?,
        registries: Registries {
            insecure: lower(&settings.registry.insecure),
            certificates: said(&settings.registry.certificates)
                .map(|path| places.absolute("registry.certificates", path))
                .transpose()?,
        },
        limits: limits(&settings.limits, places)?,
        timeouts: timeouts(&settings.timeouts, places)?,
        keep_records: places.duration("retention.records", &settings.retention.records)?,
        keep_logs: places.duration("retention.logs", &settings.retention.logs)?,
        rounds: rounds(&settings.housekeeping, places)?,
        webhooks: WebhookPolicy {
            allow_private: settings.webhooks.allow_private,
            hosts: lower(&settings.webhooks.hosts),
        },
        conflict: settings.conflict,
        vault_roles: settings.vault_roles.clone(),
        consul: consul(&settings.consul, places, env)?,
        metrics: said(&settings.metrics.listen)
            .map(|address| places.parse::<Listen>("metrics.listen", address))
            .transpose()?,
        log_bytes: log_bytes(&settings.logs, places)?,
        credentials: credentials(&settings.credentials, places)?,
        allow_file_urls: settings.allow_file_urls,
    })
}

fn lower(names: &[String]) -> Vec<String> {
    let names = names.iter().filter_map(|name| said(name));
    names.map(str::to_ascii_lowercase).collect()
}

/// The tokens in a file, one a line; what begins with `#` is a comment.
pub(crate) fn tokens(file: &str) -> Result<Vec<Secret>, Failure> {
    let Some(file) = said(file) else {
        return Ok(Vec::new());
    };
    let source = SecretSource::File { file: file.into() };
    let text = source.load(&|_| None)?;
    let lines = text.expose().lines().map(str::trim);
    let tokens: Vec<Secret> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(Secret::new)
        .collect();
    if tokens.is_empty() {
        Err(
            Failure::new(Exit::Config, format!("there is no token in `{file}`"))
                .hint("write one a line, or leave `token_file` empty to let everybody in"),
        )
    } else {
        Ok(tokens)
    }
}

/// The token in a file, if one is named by a flag or a variable; else the one in a variable; else the one of the file's key.
fn token(
    key: &str,
    file: &str,
    variable: &str,
    places: &Places<'_>,
    env: &Environment<'_>,
) -> Result<Option<Secret>, Failure> {
    let of_variable = env(variable).filter(|token| !token.trim().is_empty());
    match (said(file), of_variable) {
        (Some(file), None) => load(file).map(Some),
        (Some(file), Some(_)) if places.is_set_above_the_file(key) => load(file).map(Some),
        (_, Some(token)) => Ok(Some(Secret::new(token.trim()))),
        (None, None) => Ok(None),
    }
}

fn load(file: &str) -> Result<Secret, Failure> {
    SecretSource::File { file: file.into() }.load(&|_| None)
}

fn tls(settings: &Settings, places: &Places<'_>) -> Result<Option<TlsConfig>, Failure> {
    let tls = &settings.tls;
    let files = [tls.cert_file.trim(), tls.key_file.trim()];
    let pair = places.pair(["tls.cert_file", "tls.key_file"], files)?;
    let client_ca = said(&tls.client_ca_file).map(PathBuf::from);
    match pair {
        None if client_ca.is_some() => {
            Err(places.wrong("tls.client_ca_file", "it needs `tls.cert_file` too"))
        }
        None => Ok(None),
        Some((cert, key)) => Ok(Some(TlsConfig {
            cert,
            key,
            client_ca,
        })),
    }
}

fn origins(origins: &[String], places: &Places<'_>) -> Result<Vec<String>, Failure> {
    let origins = lower(origins);
    for origin in &origins {
        let bare = origin.split_once("://").map(|(_, host)| host);
        if origin != "*" && bare.is_none_or(|host| host.is_empty() || host.contains('/')) {
            let why = format!("`{origin}` is no origin, as in https://builds.example.com");
            return Err(places.wrong("cors_origins", why));
        }
    }
    Ok(origins)
}

fn local(
    settings: &Settings,
    places: &Places<'_>,
    env: &Environment<'_>,
) -> Result<LocalConfig, Failure> {
    let local = &settings.local;
    let one_of = |key: &str, text: &str, known: &[&str]| match said(text) {
        None => Ok(None),
        Some(text) if known.contains(&text) => Ok(Some(text.to_owned())),
        Some(text) => {
            let why = format!("`{text}` is not known (known: {})", known.join(", "));
            Err(places.wrong(key, why))
        }
    };
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Ok(LocalConfig {
        root: root(settings, places, env)?,
        concurrency: match local.concurrency {
            0 => cores(),
            count => count,
        },
        storage_driver: one_of(
            "local.storage_driver",
            &local.storage_driver,
            &["overlay", "vfs"],
        )?,
        isolation: one_of("local.isolation", &local.isolation, &["chroot", "oci"])?,
        cache_limit: said(&local.cache_limit)
            .map(|text| places.bytes("local.cache_limit", text))
            .transpose()?,
    })
}

fn root(
    settings: &Settings,
    places: &Places<'_>,
    env: &Environment<'_>,
) -> Result<PathBuf, Failure> {
    match (said(&settings.local.root), state_root(env)) {
        (Some(path), _) => places.absolute("local.root", path),
        (None, Some(path)) => Ok(path),
        // Nobody will look at it.
        (None, None) if settings.backend != Backend::Local => Ok(SYSTEM_ROOT.into()),
        (None, None) => {
            Err(places.wrong("local.root", "there is no HOME to put it in: name a folder"))
        }
    }
}

/// Where root keeps local jobs.
const SYSTEM_ROOT: &str = "/var/lib/buildctl";

/// Where local jobs are kept: a folder of the system's for root, of the user's for others.
fn state_root(env: &Environment<'_>) -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(SYSTEM_ROOT.into());
    }
    let absolute = |name: &str| {
        env(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("buildctl"))
}

fn nomad(
    nomad: &settings::Nomad,
    places: &Places<'_>,
    env: &Environment<'_>,
) -> Result<NomadConfig, Failure> {
    let files = [nomad.cert_file.trim(), nomad.key_file.trim()];
    let datacenters: Vec<String> = nomad
        .datacenters
        .iter()
        .filter_map(|name| said(name))
        .map(Into::into)
        .collect();
    if datacenters.is_empty() {
        return Err(places.wrong("nomad.datacenters", "name one, or `*` for all"));
    }
    Ok(NomadConfig {
        address: nomad_address(&nomad.address, places)?,
        token: token(
            "nomad.token_file",
            &nomad.token_file,
            "NOMAD_TOKEN",
            places,
            env,
        )?,
        namespace: said(&nomad.namespace).unwrap_or("default").to_owned(),
        region: said(&nomad.region).map(Into::into),
        datacenters,
        ca_file: said(&nomad.ca_file).map(PathBuf::from),
        identity: places.pair(["nomad.cert_file", "nomad.key_file"], files)?,
        tls_server_name: said(&nomad.tls_server_name).map(Into::into),
        skip_verify: nomad.skip_verify,
        driver: nomad.driver,
        image: nomad.image.trim().to_owned(),
        tier: nomad.tier,
        runner: runner(&nomad.runner, places)?,
        cache: cache(&nomad.cache, places)?,
        vault: nomad
            .vault
            .enabled
            .then(|| nomad.vault.role.trim().to_owned()),
        test_mode: nomad.test_mode,
    })
}

fn nomad_address(text: &str, places: &Places<'_>) -> Result<String, Failure> {
    let text = text.trim().trim_end_matches('/');
    match text.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(text.to_owned()),
        Some(_) => Err(places.wrong("nomad.address", format!("`{text}` has no absolute path"))),
        None => http_url("nomad.address", text, places),
    }
}

fn http_url(key: &str, text: &str, places: &Places<'_>) -> Result<String, Failure> {
    let text = text.trim().trim_end_matches('/');
    let ok = url::Url::parse(text)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if ok {
        Ok(text.to_owned())
    } else {
        Err(places.wrong(key, format!("`{text}` is no http:// or https:// URL")))
    }
}

fn runner(runner: &settings::Runner, places: &Places<'_>) -> Result<RunnerSource, Failure> {
    let said = (
        said(&runner.path),
        said(&runner.artifact),
        said(&runner.from_service),
    );
    match said {
        (Some(path), None, None) => places
            .absolute("nomad.runner.path", path)
            .map(RunnerSource::Path),
        (None, Some(url), None) => Ok(RunnerSource::Artifact(url.to_owned())),
        (None, None, Some(url)) => http_url("nomad.runner.from_service", url, places)
            .map(|url| RunnerSource::Service(Some(url))),
        (None, None, None) => Ok(RunnerSource::Service(None)),
        _ => Err(places.wrong(
            "nomad.runner",
            "only one of `path`, `artifact` and `from_service` can hold",
        )),
    }
}

fn cache(text: &str, places: &Places<'_>) -> Result<NomadCache, Failure> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    match said(text) {
        None => Ok(NomadCache::None),
        Some(path) if path.starts_with('/') => Ok(NomadCache::Folder(path.into())),
        Some(name) if name.bytes().all(word) => Ok(NomadCache::HostVolume(name.to_owned())),
        Some(text) => {
            let why = format!("`{text}` is neither an absolute path nor the name of a host volume");
            Err(places.wrong("nomad.cache", why))
        }
    }
}

/// A registry with an optional path, to which names can be added.
fn registry(text: &str, places: &Places<'_>) -> Result<Option<String>, Failure> {
    let Some(text) = said(text) else {
        return Ok(None);
    };
    Repository::of(text, "temp")
        .map_err(|error| places.wrong("registry.url", format!("`{text}`: {}", error.why)))?;
    Ok(Some(text.trim_end_matches('/').to_owned()))
}

fn prefix(text: &str, places: &Places<'_>) -> Result<String, Failure> {
    let text = text.trim();
    match Repository::of("registry", text) {
        Ok(name) if name.path() == text && !text.contains('/') => Ok(text.to_owned()),
        _ => Err(places.wrong(
            "registry.temp_prefix",
            format!("`{text}` is no beginning of an image name, as in `temp`"),
        )),
    }
}

fn limits(limits: &settings::Limits, places: &Places<'_>) -> Result<Limits, Failure> {
    let phase = |name: &str, phase: settings::Phase| {
        for (what, value) in [
            ("cpu", phase.cpu),
            ("memory", phase.memory),
            ("disk", phase.disk),
        ] {
            if value == 0 {
                return Err(places.wrong(&format!("limits.{name}.{what}"), "it must be above 0"));
            }
        }
        Ok(Resources {
            cpu: phase.cpu,
            memory: phase.memory,
            disk: phase.disk,
        })
    };
    Ok(Limits {
        build: phase("build", limits.build)?,
        test: phase("test", limits.test)?,
        publish: phase("publish", limits.publish)?,
    })
}

fn timeouts(timeouts: &settings::Timeouts, places: &Places<'_>) -> Result<Timeouts, Failure> {
    Ok(Timeouts {
        build: places.duration("timeouts.build", &timeouts.build)?,
        test: places.duration("timeouts.test", &timeouts.test)?,
        publish: places.duration("timeouts.publish", &timeouts.publish)?,
        queue: places.duration("timeouts.queue", &timeouts.queue)?,
        kill: places.duration("timeouts.kill", &timeouts.kill)?,
    })
}

fn rounds(house: &settings::Housekeeping, places: &Places<'_>) -> Result<Rounds, Failure> {
    let round = |key: &str, text: &str| match places.duration(key, text)? {
        span if span < SHORTEST_ROUND => {
            Err(places.wrong(key, format!("`{text}` is less than 100ms")))
        }
        span => Ok(span),
    };
    Ok(Rounds {
        attend: round("housekeeping.attend", &house.attend)?,
        tidy: round("housekeeping.tidy", &house.tidy)?,
    })
}

fn consul(
    consul: &settings::Consul,
    places: &Places<'_>,
    env: &Environment<'_>,
) -> Result<Option<ConsulConfig>, Failure> {
    let Some(address) = said(&consul.address) else {
        return Ok(None);
    };
    // Consul's own programs take an address without a scheme.
    let address = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let prefix = consul.prefix.trim().trim_matches('/');
    if prefix.is_empty() {
        return Err(places.wrong("consul.prefix", "keys begin with something"));
    }
    Ok(Some(ConsulConfig {
        address: http_url("consul.address", &address, places)?,
        token: token(
            "consul.token_file",
            &consul.token_file,
            "CONSUL_HTTP_TOKEN",
            places,
            env,
        )?,
        prefix: prefix.to_owned(),
    }))
}

fn log_bytes(logs: &settings::Logs, places: &Places<'_>) -> Result<usize, Failure> {
    const LEAST: u64 = 4096;
    let bytes = places.bytes("logs.max_bytes", &logs.max_bytes)?;
    match usize::try_from(bytes) {
        Ok(count) if bytes >= LEAST => Ok(count),
        _ => Err(places.wrong("logs.max_bytes", format!("it must be at least {LEAST}"))),
    }
}

fn credentials(
    map: &BTreeMap<String, String>,
    places: &Places<'_>,
) -> Result<BTreeMap<String, SecretRef>, Failure> {
    let mut credentials = BTreeMap::new();
    for (path, text) in map {
        let key = format!("credentials.{path}");
        let here = places.parse(&key, text)?;
        match places.parse(&key, path)? {
            SecretRef::Vault(path) => credentials.insert(path, here),
            _ => return Err(places.wrong(&key, format!("`{path}` is no path of Vault's"))),
        };
    }
    Ok(credentials)
}

fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let guarded = config
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_ca.is_some());
    if !config.listen.is_local() && config.tokens.is_empty() && !guarded {
        warnings.push(
            "everybody who reaches the service's address may build and kill: set `token_file`, or `tls.client_ca_file`"
                .to_owned(),
        );
    }
    if config.cors_origins.iter().any(|origin| origin == "*") && config.tokens.is_empty() {
        warnings.push("any web page may call the service: `cors_origins` is `*`".to_owned());
    }
    if config.keep_logs > config.keep_records {
        warnings.push(
            "`retention.logs` is longer than `retention.records`, with which logs go".to_owned(),
        );
    }
    warnings
}
