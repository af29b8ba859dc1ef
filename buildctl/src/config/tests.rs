mod reference;

use std::fs;

use proptest::prelude::*;
use runyard_common::{
    config::{FileFormat, Layers},
    testing::tempdir,
};

use super::*;
use crate::settings::{KEYS, Settings, variable};

fn load(file: &str, env: &[(&str, &str)], args: SettingsArgs) -> Result<Loaded, Failure> {
    let dir = tempdir();
    let path = dir.path().join("config.yaml");
    fs::write(&path, file).unwrap();
    let args = SettingsArgs {
        config: Some(path),
        ..args
    };
    Config::load(&args, &lookup(env))
}

fn lookup(env: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let env: BTreeMap<String, String> = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    move |name| match name {
        "HOME" => Some("/home/red".to_owned()),
        name => env.get(name).cloned(),
    }
}

fn of(file: &str, env: &[(&str, &str)]) -> Config {
    load(file, env, SettingsArgs::default()).unwrap().config
}

fn refused(file: &str) -> String {
    let failure = load(file, &[], SettingsArgs::default()).unwrap_err();
    assert_eq!(failure.exit(), runyard_common::exit::Exit::Config);
    failure.to_string()
}

#[test]
fn the_example_holds_the_defaults() {
    let text = include_str!("../../config.example.yaml");
    let empty = Layers::defaults(&serde_json::json!({})).unwrap();
    let read = empty
        .text("config.example.yaml".as_ref(), text, FileFormat::Yaml)
        .unwrap()
        .resolve::<Settings>()
        .unwrap();
    assert_eq!(read.value, Settings::default());
    let mut missing: Vec<&str> = KEYS
        .into_iter()
        .filter(|key| !read.origins.contains_key(*key))
        .collect();
    missing.retain(|key| !key.is_empty());
    assert!(missing.is_empty(), "not in the example: {missing:?}");
}

#[test]
fn every_key_but_the_map_has_a_variable() {
    let value = serde_json::to_value(Settings::default()).unwrap();
    let mut leaves = Vec::new();
    gather("", &value, &mut leaves);
    leaves.retain(|key| key != "credentials");
    let mut keys: Vec<String> = KEYS.iter().map(ToString::to_string).collect();
    leaves.sort();
    keys.sort();
    assert_eq!(leaves, keys);
    let tls = variable("nomad.tls_server_name");
    assert_eq!(tls, "BUILDCTL_NOMAD_TLS_SERVER_NAME");
}

fn gather(above: &str, value: &serde_json::Value, leaves: &mut Vec<String>) {
    match value.as_object().filter(|fields| !fields.is_empty()) {
        Some(fields) => {
            for (name, value) in fields {
                let dot = if above.is_empty() { "" } else { "." };
                gather(&format!("{above}{dot}{name}"), value, leaves);
            }
        }
        None => leaves.push(above.to_owned()),
    }
}

#[test]
fn nothing_said_is_a_local_service_for_this_machine_only() {
    let config = of("", &[]);
    assert!(config.listen.is_local());
    assert_eq!(config.backend, Backend::Local);
    assert_eq!(
        (config.registry, config.consul, config.metrics),
        (None, None, None)
    );
    assert_eq!(config.log_bytes, 8 << 20);
    assert!(config.local.concurrency >= 1);
    assert_eq!(config.timeouts.build, Duration::from_mins(30));
    assert!(config.local.root.is_absolute());
}

#[test]
fn a_flag_wins_over_a_variable_over_the_originals_over_the_file() {
    let file = "listen: 127.0.0.1:1\nregistry: {url: one}\n";
    let seed = ("SERVER_PORT", "2");
    let ours = ("BUILDCTL_LISTEN", "127.0.0.1:3");
    let listen = |env: &[(&str, &str)], flag: Option<&str>| {
        let args = SettingsArgs {
            listen: flag.map(Into::into),
            ..SettingsArgs::default()
        };
        load(file, env, args).unwrap().config.listen.to_string()
    };
    assert_eq!(listen(&[], None), "127.0.0.1:1");
    assert_eq!(listen(&[seed], None), "127.0.0.1:2");
    assert_eq!(listen(&[seed, ours], None), "127.0.0.1:3");
    assert_eq!(listen(&[seed, ours], Some("127.0.0.1:4")), "127.0.0.1:4");
}

#[test]
fn the_variables_of_the_original_mean_what_they_meant() {
    let config = of(
        "",
        &[
            ("SERVER_HOST", "0.0.0.0"),
            ("CORS_ORIGIN", "*"),
            ("NOMAD_ADDR", "https://nomad.example.com:4646/"),
            ("NOMAD_TOKEN", "made-up"),
            ("NOMAD_DATACENTERS", "east, west"),
            ("CONSUL_HTTP_ADDR", "consul.example.com:8500"),
            ("CONSUL_KEY_PREFIX", "jobforge-service"),
            ("BUILD_TIMEOUT", "45m"),
            ("REGISTRY_URL", "registry.example.com:5000"),
            ("REGISTRY_TEMP_PREFIX", "bdtemp"),
            ("LOG_RETENTION_DAYS", "3"),
            ("METRICS_PORT", "9090"),
            ("DEFAULT_MEMORY_LIMIT", "4096"),
        ],
    );
    assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.cors_origins, ["*"]);
    assert_eq!(config.nomad.address, "https://nomad.example.com:4646");
    assert_eq!(config.nomad.token, Some(Secret::new("made-up")));
    assert_eq!(config.nomad.datacenters, ["east", "west"]);
    let consul = config.consul.unwrap();
    assert_eq!(consul.address, "http://consul.example.com:8500");
    assert_eq!(consul.prefix, "jobforge-service");
    assert_eq!(config.timeouts.build, Duration::from_mins(45));
    assert_eq!(
        config.registry.as_deref(),
        Some("registry.example.com:5000")
    );
    assert_eq!(config.temp_prefix, "bdtemp");
    assert_eq!(config.keep_logs, Duration::from_hours(72));
    assert_eq!(config.metrics.unwrap().to_string(), "0.0.0.0:9090");
    assert_eq!(config.limits.build.memory, 4096);
    // They say where Nomad is, not that it is to be used.
    assert_eq!(config.backend, Backend::Local);
}

#[test]
fn who_builds_without_a_service_is_not_misled_by_variables_of_other_programs() {
    let env = [
        ("BUILD_TIMEOUT", "30"),
        ("REGISTRY_URL", "x y"),
        ("BUILDCTL_TIMEOUTS_TEST", "9m"),
    ];
    let args = SettingsArgs::default();
    assert!(Config::load(&args, &lookup(&env)).is_err());
    let config = Config::load_here(&args, &lookup(&env)).unwrap().config;
    assert_eq!(config.timeouts.test, Duration::from_mins(9));
    assert_eq!(config.registry, None);
}

#[test]
fn a_port_that_kubernetes_sets_is_no_port() {
    let env = [
        ("SERVER_PORT", "tcp://10.0.0.1:80"),
        ("METRICS_PORT", "tcp://10.0.0.1:90"),
    ];
    let config = of("", &env);
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.metrics, None);
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_key() {
    for (file, words) in [
        ("\nlisten: nowhere\n", ["line 2", "listen"]),
        ("nomad:\n  adress: x\n", ["line 2", "nomad.adress"]),
        ("timeouts:\n  build: 0s\n", ["line 2", "timeouts.build"]),
        ("timeouts: {kill: soon}\n", ["line 1", "timeouts.kill"]),
        (
            "local: {storage_driver: btrfs}\n",
            ["local.storage_driver", "overlay, vfs"],
        ),
        (
            "housekeeping: {attend: 1ms}\n",
            ["housekeeping.attend", "100ms"],
        ),
        ("local: {root: here}\n", ["local.root", "absolute"]),
        (
            "local: {cache_limit: much}\n",
            ["local.cache_limit", "20GiB"],
        ),
        ("registry: {url: \"x y\"}\n", ["registry.url", "x y"]),
        (
            "registry: {temp_prefix: \"-x\"}\n",
            ["registry.temp_prefix", "-x"],
        ),
        (
            "nomad: {address: \"localhost:4646\"}\n",
            ["nomad.address", "localhost:4646"],
        ),
        (
            "nomad: {cert_file: /c}\n",
            ["nomad.cert_file", "nomad.key_file"],
        ),
        (
            "nomad: {runner: {path: /a, artifact: b}}\n",
            ["nomad.runner", "only one"],
        ),
        ("nomad: {cache: ../x}\n", ["nomad.cache", "../x"]),
        (
            "tls: {client_ca_file: /c}\n",
            ["tls.client_ca_file", "tls.cert_file"],
        ),
        (
            "cors_origins: [example.com]\n",
            ["cors_origins", "example.com"],
        ),
        ("limits: {test: {cpu: 0}}\n", ["limits.test.cpu", "above 0"]),
        ("logs: {max_bytes: 1}\n", ["logs.max_bytes", "4096"]),
        (
            "credentials: {a/b: nomad:x y}\n",
            ["credentials.a/b", "nomad:x y"],
        ),
        ("backend: docker\n", ["backend", "local, nomad"]),
    ] {
        let said = refused(file);
        for word in words {
            assert!(said.contains(word), "{file}: {said}");
        }
    }
}

#[test]
fn a_service_for_everybody_is_warned_of() {
    let warnings = |file: &str| load(file, &[], SettingsArgs::default()).unwrap().warnings;
    assert!(warnings("").is_empty());
    assert!(warnings("listen: \":8080\"")[0].contains("token_file"));
    assert!(warnings("cors_origins: [\"*\"]")[0].contains("cors_origins"));
}

#[test]
fn tokens_are_lines_of_a_file_and_are_not_shown() {
    let dir = tempdir();
    let path = dir.path().join("tokens");
    fs::write(&path, "# ours\nfirst\n\nsecond \n").unwrap();
    let file = format!("token_file: {}\n", path.display());
    let config = of(&file, &[]);
    assert_eq!(config.tokens, [Secret::new("first"), Secret::new("second")]);
    assert!(!format!("{config:?}").contains("second"));
    fs::write(&path, "# none\n").unwrap();
    assert!(refused(&file).contains("no token"));
}

#[test]
fn a_named_token_file_wins_over_the_variable_only_from_the_command_or_environment() {
    let dir = tempdir();
    let path = dir.path().join("token");
    fs::write(&path, "of-file\n").unwrap();
    let path = path.to_str().unwrap();
    let file = format!("nomad: {{token_file: {path}}}\n");
    let token = |file: &str, env: &[(&str, &str)]| of(file, env).nomad.token.unwrap();
    assert_eq!(token(&file, &[]).expose(), "of-file");
    assert_eq!(
        token(&file, &[("NOMAD_TOKEN", "of-env")]).expose(),
        "of-env"
    );
    let both = [
        ("NOMAD_TOKEN", "of-env"),
        ("BUILDCTL_NOMAD_TOKEN_FILE", path),
    ];
    assert_eq!(token("", &both).expose(), "of-file");
}

#[test]
fn credentials_map_paths_of_vault_to_where_they_are() {
    let config = of(
        "credentials:\n  secret/ci/git: env:CI_GIT\n  vault:a/b: file:/x\n  c: nomad:ci/c\n",
        &[],
    );
    let at = |path: &str| config.credentials[path].to_string();
    assert_eq!(
        (at("secret/ci/git"), at("a/b"), at("c")),
        ("env:CI_GIT".into(), "file:/x".into(), "nomad:ci/c".into())
    );
}

#[test]
fn hosts_of_webhooks_match_by_name_or_below_one() {
    let policy = WebhookPolicy {
        allow_private: false,
        hosts: vec!["hooks.example.com".into(), "*.example.org".into()],
    };
    for (host, allowed) in [
        ("hooks.example.com", true),
        ("HOOKS.example.com", true),
        ("x.hooks.example.com", false),
        ("a.example.org", true),
        ("a.b.example.org", true),
        ("example.org", false),
        ("evilexample.org", false),
        (".example.org", false),
    ] {
        assert_eq!(policy.allows_host(host), allowed, "{host}");
    }
    assert!(WebhookPolicy::default().allows_host("anything"));
}

#[test]
fn a_client_finds_its_service_by_flag_then_variable_then_the_originals() {
    let url = |flag: Option<&str>, env: &[(&str, &str)]| {
        let args = ClientArgs {
            url: flag.map(Into::into),
            token_file: None,
        };
        ClientConfig::load(&args, &lookup(env))
    };
    let seed = ("JOB_SERVICE_URL", "http://a:1/");
    let ours = ("BUILDCTL_URL", "http://b:2");
    let none = url(None, &[]).unwrap();
    assert_eq!((none.named.as_deref(), none.url()), (None, DEFAULT_URL));
    assert_eq!(url(None, &[seed]).unwrap().url(), "http://a:1");
    assert_eq!(url(None, &[seed, ours]).unwrap().url(), "http://b:2");
    assert_eq!(
        url(Some("unix:/run/b.sock"), &[seed, ours]).unwrap().url(),
        "unix:/run/b.sock"
    );
    let failure = url(Some("builds:8080"), &[]).unwrap_err();
    assert!(failure.to_string().contains("builds:8080"));
}

#[test]
fn a_clients_token_comes_from_flag_variable_or_file() {
    let dir = tempdir();
    let path = dir.path().join("token");
    fs::write(&path, "# ours\nof-file\nother\n").unwrap();
    let path = path.to_str().unwrap();
    let token = |flag: Option<&str>, env: &[(&str, &str)]| {
        let args = ClientArgs {
            url: None,
            token_file: flag.map(Into::into),
        };
        let config = ClientConfig::load(&args, &lookup(env)).unwrap();
        config.token.map(|token| token.expose().to_owned())
    };
    let held = ("BUILDCTL_TOKEN", "of-env");
    assert_eq!(token(None, &[]), None);
    assert_eq!(token(None, &[held]).as_deref(), Some("of-env"));
    assert_eq!(token(Some(path), &[held]).as_deref(), Some("of-file"));
    let named = ("BUILDCTL_TOKEN_FILE", path);
    assert_eq!(token(None, &[named]).as_deref(), Some("of-file"));
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = load(&text, &[], SettingsArgs::default());
    }
}
