//! The layers as a tool uses them: from text and variables to a typed configuration, its origins
//! and its errors.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::output::Tabular;
use crate::report::{self, Failure};
use crate::secret::Secret;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    listen: String,
    workers: u16,
    ratio: f64,
    debug: bool,
    cidrs: Vec<String>,
    retry: Retry,
    actions: BTreeMap<String, Action>,
    #[serde(alias = "cert")]
    certificate: Option<String>,
    mode: Mode,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Retry {
    #[serde(with = "crate::duration::serde")]
    delay: Duration,
    limit: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Action {
    command: String,
    #[serde(default)]
    parameters: BTreeMap<String, Option<Parameter>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Parameter {
    default: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    First,
    Last,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: ":8080".to_owned(),
            workers: 2,
            ratio: 0.5,
            debug: false,
            cidrs: vec!["127.0.0.1".to_owned()],
            retry: Retry {
                delay: Duration::from_secs(1),
                limit: 3,
            },
            actions: BTreeMap::new(),
            certificate: None,
            mode: Mode::First,
        }
    }
}

fn layers() -> Layers {
    Layers::defaults(&Config::default()).unwrap()
}

fn yaml(text: &str) -> Layers {
    layers()
        .text(Path::new("hub.yaml"), text, FileFormat::ByExtension)
        .unwrap()
}

fn config(text: &str) -> Config {
    yaml(text).resolve::<Config>().unwrap().value
}

fn error(text: &str) -> String {
    let failure = Failure::from(yaml(text).resolve::<Config>().unwrap_err());
    report::render(&failure.into(), false)
}

#[test]
fn the_defaults_alone_come_back_as_they_were() {
    assert_eq!(
        layers().resolve::<Config>().unwrap().value,
        Config::default()
    );
    assert_eq!(config(""), Config::default());
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let environment = |name: &str| match name {
        "HUB_LISTEN" => Some(":2".to_owned()),
        "HUB_WORKERS" => Some("7".to_owned()),
        "HUB_MODE" => Some(String::new()),
        _ => None,
    };
    let resolved = yaml("listen: ':1'\nworkers: 5\nratio: 1\n")
        .env(
            &[
                ("HUB_LISTEN", "listen"),
                ("HUB_WORKERS", "workers"),
                ("HUB_MODE", "mode"),
            ],
            &environment,
        )
        .flag("--listen", "listen", Some(":3"))
        .flag("--limit", "retry.limit", Some(9))
        .flag("--mode", "mode", None::<String>)
        .resolve::<Config>()
        .unwrap();
    let expected = Config {
        listen: ":3".to_owned(),
        workers: 7,
        ratio: 1.0,
        retry: Retry {
            limit: 9,
            ..Config::default().retry
        },
        ..Config::default()
    };
    assert_eq!(resolved.value, expected);
    assert_eq!(
        resolved.origins["listen"],
        Origin::Flag {
            name: "--listen".to_owned()
        }
    );
    assert_eq!(
        resolved.origins["workers"],
        Origin::Env {
            var: "HUB_WORKERS".to_owned()
        }
    );
    assert_eq!(
        resolved.origins["ratio"],
        Origin::File {
            path: "hub.yaml".into(),
            line: 3
        }
    );
    assert_eq!(resolved.origins["retry.delay"], Origin::Default);
    assert_eq!(
        resolved.origins["retry.limit"],
        Origin::Flag {
            name: "--limit".to_owned()
        }
    );
}

#[test]
fn text_of_the_environment_is_read_as_the_wanted_type() {
    let set = |key: &str, text: &str| {
        let text = text.to_owned();
        layers()
            .env(&[("X", key)], &move |_| Some(text.clone()))
            .resolve::<Config>()
    };
    assert_eq!(
        set("cidrs", "10.0.0.0/8, ::1").unwrap().value.cidrs,
        ["10.0.0.0/8", "::1"]
    );
    assert!(set("debug", "yes").unwrap().value.debug);
    assert_eq!(
        set("retry.delay", "1m30s").unwrap().value.retry.delay,
        Duration::from_secs(90)
    );
    assert_eq!(set("mode", "last").unwrap().value.mode, Mode::Last);
    assert_eq!(
        set("certificate", "x.pem")
            .unwrap()
            .value
            .certificate
            .as_deref(),
        Some("x.pem")
    );
    assert_eq!(
        set("workers", "many").unwrap_err().to_string(),
        "$X: `workers`: expected a whole number from 0 to 65535, found the text `many`"
    );
}

#[test]
fn the_wanted_type_decides_what_a_scalar_means() {
    let text = "listen: 8080\ndebug: yes\ncidrs: [1.10, no, on]\ncertificate: true\nworkers: 1e1\n";
    let config = config(text);
    assert_eq!(config.listen, "8080");
    assert!(config.debug);
    assert_eq!(config.cidrs, ["1.10", "no", "on"]);
    assert_eq!(config.certificate.as_deref(), Some("true"));
    assert_eq!(config.workers, 10);
}

#[test]
fn a_null_is_a_value_in_a_map_and_nothing_in_a_struct() {
    let config = config(
        "listen:\nretry: ~\ncidrs:\nactions:\n  a:\n    command: x\n    parameters:\n      p: null\n",
    );
    assert_eq!(
        (
            config.listen.as_str(),
            config.cidrs.len(),
            config.retry.limit
        ),
        (":8080", 1, 3)
    );
    assert_eq!(config.actions["a"].parameters["p"], None);
}

#[test]
fn a_number_where_the_type_wants_another_is_told_with_its_place() {
    assert_eq!(
        error("\nworkers: 70000\n"),
        "error: hub.yaml line 2: `workers`: expected a whole number from 0 to 65535, found `70000`\n"
    );
    assert_eq!(
        error("workers: \"8\"\n"),
        "error: hub.yaml line 1: `workers`: expected a whole number from 0 to 65535, found the text `8`\n"
    );
    assert_eq!(
        error("debug: 3"),
        "error: hub.yaml line 1: `debug`: expected true or false, found `3`\n"
    );
}

#[test]
fn a_fault_deep_inside_is_told_with_the_whole_key() {
    assert_eq!(
        error("actions:\n  build.it:\n    command: [a]\n"),
        "error: hub.yaml line 3: `actions.\"build.it\".command`: expected a string, found a list\n"
    );
    assert_eq!(
        error("retry:\n  delay: 5\n"),
        "error: hub.yaml line 2: `retry.delay`: duration `5` has no unit, as in `5s`\n"
    );
    assert_eq!(
        error("cidrs:\n- a\n- {}\n"),
        "error: hub.yaml line 3: `cidrs.1`: expected a string, found a map\n"
    );
    assert_eq!(
        error("actions: {a: {}}\n"),
        "error: hub.yaml line 1: `actions.a`: `command` is required\n"
    );
    assert_eq!(
        error("mode: lst"),
        "error: hub.yaml line 1: `mode`: expected one of first, last, found `lst` (did you mean `last`?)\n"
    );
}

#[test]
fn unknown_keys_are_told_all_at_once() {
    assert_eq!(
        error("lisen: x\nretry:\n  max: 3\nactions: {a: {command: x}}\n"),
        "error: the configuration has 2 unknown keys:\n    hub.yaml line 1: unknown key `lisen` (did you mean `listen`?)\n    \
         hub.yaml line 3: unknown key `retry.max`\n  hint: known keys in `retry`: delay, limit\n"
    );
    assert_eq!(
        error("LISTEN: x"),
        "error: hub.yaml line 1: unknown key `LISTEN` (did you mean `listen`?)\n"
    );
}

#[test]
fn unknown_keys_can_be_a_warning() {
    let resolved = yaml("lisen: x\nworkers: 3")
        .unknown_keys(UnknownKeys::Warn)
        .resolve::<Config>()
        .unwrap();
    assert_eq!(resolved.value.workers, 3);
    let [unknown] = &resolved.unknown[..] else {
        panic!("{:?}", resolved.unknown)
    };
    assert_eq!(
        unknown.to_string(),
        "hub.yaml line 1: unknown key `lisen` (did you mean `listen`?)"
    );
}

#[test]
fn an_alias_is_no_unknown_key() {
    assert_eq!(config("cert: a.pem").certificate.as_deref(), Some("a.pem"));
}

#[test]
fn a_file_that_is_missing_is_an_error_only_where_it_was_asked_for() {
    let path = Path::new("/nonexistent/hub.yaml");
    assert!(layers().file(path, FileFormat::Yaml, Missing::Ok).is_ok());
    let error = layers()
        .file(path, FileFormat::Yaml, Missing::Error)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the configuration `/nonexistent/hub.yaml`"
    );
    assert_eq!(Failure::from(error).exit(), crate::exit::Exit::Config);
}

#[test]
fn a_file_is_read_as_its_name_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.JSON");
    std::fs::write(&path, "\u{feff}{\"workers\":\t4}").unwrap();
    let resolved = layers()
        .file(&path, FileFormat::ByExtension, Missing::Error)
        .unwrap()
        .resolve::<Config>()
        .unwrap();
    assert_eq!(resolved.value.workers, 4);
    assert_eq!(resolved.origins["workers"], Origin::File { path, line: 1 });
}

#[test]
fn a_file_that_is_a_list_is_refused() {
    let error = layers()
        .text(Path::new("hub.yaml"), "- a\n", FileFormat::Yaml)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "hub.yaml line 1: expected a map of keys at the top"
    );
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Guarded {
    token: Secret,
    port: u16,
    users: Vec<User>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct User {
    name: String,
    password: Secret,
}

fn guarded(text: &str) -> Layers {
    let layers = Layers::defaults(&Guarded {
        token: Secret::new("built in"),
        ..Guarded::default()
    })
    .unwrap();
    layers
        .secrets(&["token", "users.*.password"])
        .text(Path::new("g.yaml"), text, FileFormat::Yaml)
        .unwrap()
}

#[test]
fn what_is_shown_has_origins_and_no_secrets() {
    let resolved = guarded("token: abc\nport: 1\nusers:\n- {name: ann, password: xyz}\n")
        .resolve::<Guarded>()
        .unwrap();
    assert_eq!(
        (
            resolved.value.token.expose(),
            resolved.value.users[0].password.expose()
        ),
        ("abc", "xyz")
    );
    assert_eq!(
        serde_json::to_value(resolved.show()).unwrap(),
        json!({
            "port": {"value": 1, "from": "file", "path": "g.yaml", "line": 2},
            "token": {"value": "[redacted]", "from": "file", "path": "g.yaml", "line": 1},
            "users": {"value": [{"name": "ann", "password": "[redacted]"}], "from": "file", "path": "g.yaml", "line": 4},
        })
    );
    assert_eq!(
        resolved.show().table().render(None, false),
        "KEY    VALUE                                     FROM\n\
         port   1                                         g.yaml line 2\n\
         token  [redacted]                                g.yaml line 1\n\
         users  [{\"name\":\"ann\",\"password\":\"[redacted]\"}]  g.yaml line 4\n"
    );
}

#[test]
fn a_secret_is_not_quoted_in_errors() {
    let error = guarded("token: [hunter2]")
        .resolve::<Guarded>()
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "g.yaml line 1: `token`: the value does not fit (it is secret and not shown)"
    );
}

#[test]
fn a_secret_in_the_defaults_is_not_replaced_by_its_mark() {
    assert!(
        guarded("")
            .resolve::<Guarded>()
            .unwrap()
            .value
            .token
            .is_empty()
    );
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Backend {
    Mock,
    Qemu { image: String },
    Remote(String),
    Pair(u8, u8),
}

#[derive(Debug, PartialEq, Deserialize)]
struct Variants {
    backends: Vec<Backend>,
    by_port: BTreeMap<u16, char>,
    nested: Option<Box<Self>>,
}

#[test]
fn enums_and_typed_map_keys_are_read() {
    let text = "backends: [mock, {qemu: {image: x}}, {remote: 12}, {pair: [1, 2]}, {mock: }]\nby_port: {80: a}\n";
    let layers = Layers::defaults(&json!({}))
        .unwrap()
        .text(Path::new("v.yaml"), text, FileFormat::Yaml)
        .unwrap();
    let backends = vec![
        Backend::Mock,
        Backend::Qemu {
            image: "x".to_owned(),
        },
        Backend::Remote("12".to_owned()),
        Backend::Pair(1, 2),
        Backend::Mock,
    ];
    let expected = Variants {
        backends,
        by_port: BTreeMap::from([(80, 'a')]),
        nested: None,
    };
    assert_eq!(layers.resolve::<Variants>().unwrap().value, expected);
}

#[test]
fn an_unknown_key_in_a_variant_is_found() {
    let text = "backends: [{qemu: {image: x, imgae: y}}]\nby_port: {}\n";
    let layers = Layers::defaults(&json!({}))
        .unwrap()
        .text(Path::new("v.yaml"), text, FileFormat::Yaml)
        .unwrap();
    assert_eq!(
        layers.resolve::<Variants>().unwrap_err().to_string(),
        "v.yaml line 1: unknown key `backends.0.qemu.imgae` (did you mean `image`?)"
    );
}
