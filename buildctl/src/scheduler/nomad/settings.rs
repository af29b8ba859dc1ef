//! What the Nomad backend has to know, put together from the service's configuration. Nothing here asks Nomad.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use runyard_common::{exit::Exit, http::server::Listen, report::Failure};
use sha2::{Digest as _, Sha256};

use crate::{
    config::{Config, NomadConfig, RunnerSource},
    hex::hex,
    runner::work::Registries,
    secrets::SecretRef,
    spec::Defaults,
};

/// Where the service hands out its own program, for nodes that have none.
pub const RUNNER_ROUTE: &str = "/runner/buildctl";

/// Settings of the Nomad scheduler.
#[derive(Clone, Debug, PartialEq)]
pub struct NomadSettings {
    /// How Nomad is reached, and what its jobs look like.
    pub nomad: NomadConfig,
    /// Where tasks find `buildctl`.
    pub runner: Runner,
    /// What jobs leave open.
    pub defaults: Defaults,
    /// How long a publication or a cleanup may take.
    pub publish_timeout: Duration,
    /// How long programs have between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// The registry of temporary images; none for the one that the job publishes in.
    pub registry: Option<String>,
    /// What names of temporary images begin with.
    pub temp_prefix: String,
    /// How to talk to registries.
    pub registries: Registries,
    /// Where credentials are that jobs know by a path of Vault.
    pub credentials: BTreeMap<String, SecretRef>,
    /// Most bytes of cached images, for each owner.
    pub cache_limit: Option<u64>,
}

/// Where tasks find `buildctl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runner {
    /// A path in the image or on the node.
    Path(PathBuf),
    /// Nomad fetches it.
    Artifact {
        /// From there, as Nomad's `artifact` takes it.
        url: String,
        /// What it must be, if that is known: `sha256:…`.
        checksum: Option<String>,
    },
}

impl NomadSettings {
    /// What a configuration comes to. Reads this program itself, if nodes are to fetch it from the service.
    pub fn of(config: &Config) -> Result<Self, Failure> {
        Ok(Self {
            runner: runner(config)?,
            nomad: config.nomad.clone(),
            defaults: config.defaults(),
            publish_timeout: config.timeouts.publish,
            grace: config.timeouts.kill,
            registry: config.registry.clone(),
            temp_prefix: config.temp_prefix.clone(),
            registries: config.registries.clone(),
            credentials: config.credentials.clone(),
            cache_limit: config.local.cache_limit,
        })
    }
}

fn runner(config: &Config) -> Result<Runner, Failure> {
    let service = match &config.nomad.runner {
        RunnerSource::Path(path) => return Ok(Runner::Path(path.clone())),
        RunnerSource::Artifact(url) => {
            return Ok(Runner::Artifact {
                url: url.clone(),
                checksum: None,
            });
        }
        RunnerSource::Service(Some(url)) => url.clone(),
        RunnerSource::Service(None) => own_address(config)?,
    };
    // What the service hands out, whatever is at its path by now.
    let checksum = checksum(Path::new("/proc/self/exe")).map_err(|error| {
        Failure::new(Exit::Internal, "this program cannot read itself").caused_by(error)
    })?;
    Ok(Runner::Artifact {
        url: format!("{}{RUNNER_ROUTE}", service.trim_end_matches('/')),
        checksum: Some(checksum),
    })
}

/// The address that the service listens on, as a URL for nodes.
fn own_address(config: &Config) -> Result<String, Failure> {
    let listen = config.listen.to_string();
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let open = ["0.0.0.0:", "[::]:", ":"]
        .iter()
        .any(|any| listen.starts_with(any));
    let nowhere = match config.listen {
        Listen::Tcp { port, .. } => port == 0,
        Listen::Unix { .. } => true,
    };
    if nowhere || open {
        let message = format!("nodes cannot fetch buildctl from `{listen}`");
        return Err(Failure::new(Exit::Config, message).hint(
            "set nomad.runner.from_service to the URL at which nodes reach this service, \
             or nomad.runner.path to where they have buildctl",
        ));
    }
    Ok(format!("{scheme}://{listen}"))
}

/// A file's checksum, as go-getter takes it.
fn checksum(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut part = vec![0; 256 << 10];
    loop {
        match file.read(&mut part)? {
            0 => break,
            length => hash.update(&part[..length]),
        }
    }
    Ok(format!("sha256:{}", hex(hash.finalize())))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        api::JobConfig,
        config::{Driver, NomadCache, SettingsArgs, Tier},
        phase::Built,
        spec::TestMode,
    };

    /// The defaults of the service.
    pub(in crate::scheduler::nomad) fn defaults() -> Defaults {
        loaded(&[]).defaults()
    }

    fn loaded(environment: &[(&str, &str)]) -> Config {
        let env = |name: &str| {
            let of = |(key, value): &(&str, &str)| (*key == name).then(|| (*value).to_owned());
            environment.iter().find_map(of)
        };
        Config::load(&SettingsArgs::default(), &env).unwrap().config
    }

    /// Settings for `raw_exec` with a runner of the node.
    pub(in crate::scheduler::nomad) fn settings() -> NomadSettings {
        let config = loaded(&[
            ("BUILDCTL_NOMAD_DRIVER", "raw_exec"),
            ("BUILDCTL_NOMAD_RUNNER_PATH", "/usr/local/bin/buildctl"),
            ("BUILDCTL_NOMAD_VAULT_ROLE", "buildctl"),
        ]);
        NomadSettings::of(&config).unwrap()
    }

    /// A job that says as little as it may.
    pub(in crate::scheduler::nomad) fn config() -> JobConfig {
        JobConfig {
            owner: "team".to_owned(),
            repo_url: "https://git.example/app.git".to_owned(),
            git_ref: "main".to_owned(),
            dockerfile_path: "Dockerfile".to_owned(),
            image_name: "app".to_owned(),
            image_tags: vec!["latest".to_owned()],
            registry_url: "registry.example:5000".to_owned(),
            ..JobConfig::default()
        }
    }

    /// What was built.
    pub(in crate::scheduler::nomad) fn built() -> Built {
        Built {
            commit: Some("c".repeat(40)),
            image_id: "d".repeat(64),
            temporary: "registry.example:5000/temp-app:main-1".parse().unwrap(),
            digest: format!("sha256:{}", "e".repeat(64)).parse().unwrap(),
        }
    }

    #[test]
    fn settings_are_those_of_the_configuration() {
        let settings = settings();
        assert_eq!(settings.nomad.driver, Driver::RawExec);
        assert_eq!(settings.nomad.tier, Tier::Rootless);
        assert_eq!(settings.nomad.test_mode, TestMode::Auto);
        assert!(matches!(settings.nomad.cache, NomadCache::Folder(_)));
        let path = PathBuf::from("/usr/local/bin/buildctl");
        assert_eq!(settings.runner, Runner::Path(path));
    }

    #[test]
    fn the_service_hands_itself_out_with_its_checksum() {
        let config = loaded(&[(
            "BUILDCTL_NOMAD_RUNNER_FROM_SERVICE",
            "http://builds.example:8080/",
        )]);
        let Runner::Artifact { url, checksum } = NomadSettings::of(&config).unwrap().runner else {
            panic!("it is fetched");
        };
        assert_eq!(url, "http://builds.example:8080/runner/buildctl");
        assert_eq!(checksum.unwrap().len(), "sha256:".len() + 64);
    }

    #[test]
    fn an_address_that_no_node_can_reach_is_refused() {
        for listen in ["0.0.0.0:8080", "127.0.0.1:0", "unix:/run/b.sock"] {
            let failure = NomadSettings::of(&loaded(&[("BUILDCTL_LISTEN", listen)])).unwrap_err();
            let hints = failure.hints().join(" ");
            assert!(hints.contains("nomad.runner.from_service"), "{failure:?}");
        }
        let local = loaded(&[]);
        assert!(NomadSettings::of(&local).is_ok());
    }
}
