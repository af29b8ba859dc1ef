//! The configuration as its users meet it: texts, variables and flags in; values, warnings and faults out.

use std::{collections::HashMap, net::IpAddr, path::Path, time::Duration};

use runyard_common::{
    config::{FileFormat, Layers, Origin, UnknownKeys},
    exit::Exit,
    output::Tabular,
    report::{self, Failure},
};
use serde_json::json;

use super::{
    env::KEYS,
    file::ConfigFile,
    load::{Source, assemble},
    *,
};
use crate::{
    api::{Backoff, QueueConfig, RestartMode},
    driver::{CgroupParent, Orphans},
    duration::GoDuration,
    hub::Retention,
    outbox::{OnSlow, SlowClient},
    ring::RingLimits,
};

const EXAMPLE: &str = include_str!("../../config.example.yaml");

/// What a test loads: a text, variables and flags.
#[derive(Default)]
struct Case<'a> {
    text: Option<&'a str>,
    variables: HashMap<&'a str, &'a str>,
    args: ServeArgs,
}

impl<'a> Case<'a> {
    fn text(text: &'a str) -> Self {
        Self {
            text: Some(text),
            ..Self::default()
        }
    }

    fn var(mut self, name: &'a str, value: &'a str) -> Self {
        self.variables.insert(name, value);
        self
    }

    fn args(mut self, set: impl FnOnce(&mut ServeArgs)) -> Self {
        set(&mut self.args);
        self
    }

    fn try_load(&self) -> Result<Loaded, Failure> {
        let source = Source {
            path: "config.yaml".into(),
            explicit: true,
            text: self.text.map(str::to_owned),
        };
        assemble(&source, &self.args, &|name| {
            self.variables.get(name).map(|value| (*value).to_owned())
        })
    }

    fn load(&self) -> Loaded {
        self.try_load()
            .unwrap_or_else(|failure| panic!("{}", report::render(&failure.into(), false)))
    }

    fn fault(&self) -> String {
        let failure = self
            .try_load()
            .expect_err("this configuration should be refused");
        assert_eq!(failure.exit(), Exit::Config);
        report::render(&failure.into(), false)
    }
}

/// Loads a text that is in order, warnings included.
fn config(text: &str) -> Config {
    let loaded = Case::text(text).load();
    assert_eq!(loaded.warnings, [] as [&str; 0], "{text}");
    loaded.config
}

fn warnings(text: &str) -> Vec<String> {
    Case::text(text).load().warnings
}

fn fault(text: &str) -> String {
    Case::text(text).fault()
}

fn endpoint(text: &str) -> Endpoint {
    if text == "stdio" {
        Endpoint::Stdio
    } else {
        Endpoint::Socket(text.parse().unwrap())
    }
}

fn seconds(seconds: u64) -> GoDuration {
    GoDuration::from_std(Duration::from_secs(seconds))
}

// === Defaults ===

#[test]
fn example_config_is_the_default() {
    let of_example = config(EXAMPLE);
    let of_nothing = Config {
        path: of_example.path.clone(),
        ..config("")
    };
    assert_eq!(of_example, of_nothing);
}

/// The example with the keys that have no default taken out of their comments: `#key:`, and `#  key:` below it.
fn example_with_everything() -> String {
    let uncommented = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        match line[indent..].strip_prefix('#') {
            Some(rest)
                if !rest.is_empty()
                    && (!rest.starts_with(' ') || rest.starts_with("  "))
                    && !rest.starts_with("   ") =>
            {
                format!("{}{rest}\n", &line[..indent])
            }
            _ => format!("{line}\n"),
        }
    };
    EXAMPLE.lines().map(uncommented).collect()
}

#[test]
fn every_key_is_in_the_example() {
    let layers = Layers::defaults(&ConfigFile::default())
        .unwrap()
        .unknown_keys(UnknownKeys::Warn);
    let layers = layers
        .text(
            Path::new("all.yaml"),
            &example_with_everything(),
            FileFormat::Yaml,
        )
        .unwrap();
    let resolved = layers.resolve::<ConfigFile>().unwrap();
    assert_eq!(resolved.unknown, []);
    for key in KEYS.iter().filter(|key| **key != "token") {
        let origin = resolved.origins.get(*key);
        assert!(
            matches!(origin, Some(Origin::File { .. })),
            "{key} is not in config.example.yaml: {origin:?}"
        );
    }
    let known = |key: &String| KEYS.contains(&key.as_str()) || key == "actions";
    assert!(
        resolved.origins.keys().all(known),
        "a key has no variable: {:?}",
        resolved.origins.keys()
    );
}

#[test]
fn every_key_is_in_the_reference() {
    const REFERENCE: &str = include_str!("../../../docs/overseerctl/configuration.md");
    for key in KEYS {
        assert!(
            REFERENCE.contains(&format!("| `{key}` |")),
            "{key} is not in docs/overseerctl/configuration.md"
        );
    }
}

#[test]
fn the_example_action_loads() {
    let (_, action) = EXAMPLE
        .split_once("# An action with every key:\n#\n")
        .unwrap();
    let lines: Vec<&str> = action
        .lines()
        .map(|line| line.trim_start_matches('#'))
        .collect();
    let action = lines.join("\n");
    let greet = &config(&action).actions["greet"];
    assert_eq!(
        (greet.kind.as_str(), greet.retry.restart),
        ("exec", RestartMode::OnFailure)
    );
    assert_eq!(greet.config["parameters"]["name"]["default"], "world");
}

#[test]
fn without_a_file_the_daemon_is_local_and_keeps_nothing() {
    let config = config("");
    assert_eq!(config.listen, [endpoint("127.0.0.1:8080")]);
    assert_eq!(
        (config.networks, config.origins),
        (Networks::Local, Origins::SameHostOrLoopback)
    );
    assert_eq!(
        (config.db, config.log_file, config.task_logs),
        (None, None, None)
    );
    assert_eq!(
        (config.worker, config.heartbeat),
        (WorkerDefaults::default(), Heartbeat::default())
    );
    assert_eq!(
        (config.unix_mode, config.shutdown_grace),
        (0o600, Duration::from_secs(15))
    );
    assert!(config.actions.is_empty() && config.settings.apply_config_retry);
}

#[test]
fn empty_texts_and_nulls_say_nothing() {
    let of_nothing = config("");
    let text = "name:\nlisten: \"\"\ndb: \"\"\nlog_file: ~\ntrusted_cidrs: \"\"\nretry: {}\ntask_pool:\nactions:\n";
    assert_eq!(config(text), of_nothing);
}

// === Files of sticky-overseer ===

const ORIGINAL: &str = "\
name: builder
listen: 9000
db: ./state.db
log_file: ./events.jsonl
trusted_cidrs: [10.0.0.0/8, 192.0.2.7, '::1']
retry: &policy
  restart_delay: 1s
  restart_jitter: 250ms
  error_window: 1m
  error_threshold: 3
task_pool: {limit: 4, queue: {enabled: yes, size: 2, order: last, max_age: 60, displace: no}, excess: {action: stop}}
actions:
  build.it:
    meta: {description: Builds}
    type: exec
    retry: {<<: *policy, restart_delay: 5s}
    task_pool: {limit: 1, excess: {order: last, grace: 3}}
    dedupe_key: [branch, 7]
    config: {entrypoint: make, command: ['[[ .target ]]'], parameters: {target: null, jobs: {default: '2'}}}
  plain: {type: exec, config: {entrypoint: 'true'}}
---
listen: 1
";

#[test]
fn a_file_of_the_original_keeps_its_meaning() {
    let Loaded {
        config, warnings, ..
    } = Case::text(ORIGINAL).load();
    assert_eq!(config.settings.name, "builder");
    assert_eq!(
        config.listen,
        [endpoint(":9000")],
        "the first document counts"
    );
    assert_eq!(
        (config.db, config.log_file),
        (Some("./state.db".into()), Some("./events.jsonl".into()))
    );
    let networks =
        ["10.0.0.0/8", "192.0.2.7/32", "::1/128"].map(|network| network.parse().unwrap());
    assert_eq!(config.networks, Networks::Listed(networks.to_vec()));
    let queue = QueueConfig {
        enabled: true,
        size: 2,
        order: "last".into(),
        max_age: 60,
        displace: "no".into(),
    };
    assert_eq!((config.pool.limit, config.pool.queue), (4, Some(queue)));
    assert_eq!(config.pool.excess.action, "stop");
    assert_eq!(
        warnings,
        [
            "config.yaml line 11: `task_pool.queue.displace`: \"no\" is none of true, false, prohibit; it is taken as true"
        ]
    );
}

#[test]
fn an_action_of_the_original_keeps_its_meaning() {
    let actions = Case::text(ORIGINAL).load().config.actions;
    let action = &actions["build.it"];
    let retry = RetryPolicy {
        restart_delay: seconds(5),
        restart_jitter: GoDuration::from_std(Duration::from_millis(250)),
        error_window: seconds(60),
        error_threshold: 3,
        ..RetryPolicy::default()
    };
    assert_eq!(
        (&action.kind[..], &action.description[..], &action.retry),
        ("exec", "Builds", &retry)
    );
    assert_eq!(
        actions["plain"].retry.restart_delay,
        seconds(1),
        "the global policy"
    );
    assert_eq!(
        (action.task_pool.limit, &action.task_pool.queue),
        (1, &None)
    );
    assert_eq!(
        (
            action.task_pool.excess.order.as_str(),
            action.task_pool.excess.grace
        ),
        ("last", 3)
    );
    assert_eq!(action.dedupe_key, ["branch", "7"]);
    let block = json!({
        "entrypoint": "make",
        "command": ["[[ .target ]]"],
        "parameters": {"target": null, "jobs": {"default": "2"}},
    });
    assert_eq!(
        action.config, block,
        "the driver's block comes as it is written"
    );
}

#[test]
fn an_action_knows_its_place() {
    let config = config("# a comment\nactions:\n  a.b:\n    type: exec\n  c: {type: exec}\n  d:\n");
    assert_eq!(config.place_of_action("a.b"), " (config.yaml:4)");
    assert_eq!(config.place_of_action("c"), " (config.yaml:5)");
    assert_eq!(config.actions["d"].config, json!({}));
}

#[test]
fn a_json_file_is_read_too() {
    let source = Source {
        path: "config.json".into(),
        explicit: true,
        text: Some(
            "{\n\"listen\": 8081, \"ping\": {\"interval\": 0}, \"retry\": {\"restart_delay\": 5}}"
                .into(),
        ),
    };
    let failure = assemble(&source, &ServeArgs::default(), &|_| None).unwrap_err();
    assert_eq!(
        failure.message(),
        "failed to load config: config.json line 2: `retry.restart_delay`: time: missing unit in duration \"5\""
    );
}

// === Added keys ===

#[test]
fn keys_of_who_may_connect_reach_their_places() {
    let config = config(
        "listen: [stdio, 'unix:/run/x.sock', 127.0.0.1:0]
allowed_origins: ['https://a.example/', 'http://b.example:81']
token: s3cret
tls: {cert: c.pem, key: k.pem}
unix_socket_mode: 0660
unix_socket_users: [1000, 1001]
",
    );
    assert_eq!(
        config.listen,
        ["stdio", "unix:/run/x.sock", "127.0.0.1:0"].map(endpoint)
    );
    let origins = ["https://a.example", "http://b.example:81"].map(str::to_owned);
    assert_eq!(config.origins, Origins::Listed(origins.to_vec()));
    assert_eq!(config.token, Some(Secret::new("s3cret")));
    assert_eq!(
        config.tls,
        Some(TlsConfig {
            cert: "c.pem".into(),
            key: "k.pem".into(),
            client_ca: None
        })
    );
    assert_eq!(
        (config.unix_mode, config.unix_users),
        (0o660, vec![1000, 1001])
    );
}

#[test]
fn keys_of_tasks_and_clients_reach_their_places() {
    let config = config(
        "stop_grace: 1s
shutdown_grace: 1m
orphans: kill
drain_timeout: 0
max_line: 64KiB
cgroup_parent: off
apply_config_retry: off
task_pool: {hold_on_restart: true}
slow_client: {queue: 1MiB, queue_max: 2MiB, grace: 0, timeout: 9s, on_slow: drop}
ping: {interval: 1s, timeout: 3s}
",
    );
    let worker = WorkerDefaults {
        stop_grace: Duration::from_secs(1),
        orphans: Orphans::Kill,
        drain_timeout: Duration::ZERO,
        max_line: 65_536,
        cgroup_parent: CgroupParent::Off,
    };
    assert_eq!(
        (config.worker, config.shutdown_grace),
        (worker, Duration::from_mins(1))
    );
    assert!(!config.settings.apply_config_retry && config.pool.hold_on_restart);
    let slow = SlowClient {
        queue: 1 << 20,
        queue_max: 2 << 20,
        grace: Duration::ZERO,
        timeout: Duration::from_secs(9),
        on_slow: OnSlow::Drop,
    };
    assert_eq!(config.settings.slow_client, slow);
    let heartbeat = Heartbeat {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(3),
    };
    assert_eq!(config.heartbeat, heartbeat);
}

#[test]
fn keys_of_what_is_kept_reach_their_places() {
    let config = config(
        "db: x.db
log_file: e.jsonl
log_rotate: {max_size: 1GiB, max_files: 2}
task_logs: {dir: logs, max_size: 5M, max_files: 1, format: json}
ring: {events: 5, bytes: 1k}
keep_finished: {count: 7, age: 1h}
history: {keep_runs: 8, keep_for: 48h}
persist_queue: on
",
    );
    assert_eq!(
        config.log_rotation,
        Rotation {
            max_size: 1 << 30,
            max_files: 2
        }
    );
    let rotation = Rotation {
        max_size: 5 << 20,
        max_files: 1,
    };
    assert_eq!(
        config.task_logs,
        Some(TaskLogsConfig {
            dir: "logs".into(),
            rotation,
            format: LogFormat::Json
        })
    );
    assert_eq!(
        config.settings.ring,
        RingLimits {
            events: 5,
            bytes: 1024
        }
    );
    assert_eq!(
        config.settings.keep_finished,
        Retention {
            count: 7,
            age: Some(Duration::from_hours(1))
        }
    );
    assert_eq!(
        config.store,
        StoreOptions {
            keep_runs: 8,
            keep_for: Some(Duration::from_hours(48))
        }
    );
    assert!(config.settings.persist_queue);
}

#[test]
fn a_comma_separated_text_stands_for_a_list() {
    let config =
        config("listen: ':1, stdio'\ntrusted_cidrs: 10.0.0.0/8, 192.0.2.7\nallowed_origins: '*'\n");
    assert_eq!(
        (config.listen, config.origins),
        ([":1", "stdio"].map(endpoint).to_vec(), Origins::Any)
    );
    let Networks::Listed(networks) = config.networks else {
        panic!("no list")
    };
    assert!(networks[1].contains(&IpAddr::from([192, 0, 2, 7])));
}

#[test]
fn an_action_overrides_the_global_policy_field_by_field() {
    let text = "
retry: {restart_delay: 1s, restart: on-failure, success_exit_codes: [0, 3], backoff: {factor: 2, max: 1m}}
actions:
  own: {type: exec, retry: {restart_delay: 2s, restart: always, backoff: {factor: 1.5}}}
  same: {type: exec}
";
    let actions = config(text).actions;
    let same = RetryPolicy {
        restart_delay: seconds(1),
        restart: RestartMode::OnFailure,
        success_exit_codes: vec![0, 3],
        backoff: Some(Backoff {
            factor: 2.0,
            max: seconds(60),
        }),
        ..RetryPolicy::default()
    };
    let own = RetryPolicy {
        restart_delay: seconds(2),
        restart: RestartMode::Always,
        backoff: Some(Backoff {
            factor: 1.5,
            max: seconds(0),
        }),
        ..same.clone()
    };
    assert_eq!(
        (&actions["same"].retry, &actions["own"].retry),
        (&same, &own)
    );
}

// === Faults ===

#[test]
fn a_fault_names_file_line_and_key_what_was_expected_and_the_way_out() {
    assert_eq!(
        fault("name: x\nretry:\n  restart_delay: 5\n"),
        "error: failed to load config: config.yaml line 3: `retry.restart_delay`: time: missing unit in duration \"5\"\n  \
         hint: write a number with a unit (ns, us, ms, s, m, h), such as 500ms, 5s or 1m30s\n"
    );
    assert_eq!(
        fault("trusted_cidrs:\n- 10.0.0.0/8\n- x\n"),
        "error: failed to load config: config.yaml line 3: `trusted_cidrs.1`: invalid CIDR or IP \"x\": \
         invalid CIDR address: x\n  hint: write networks such as 10.0.0.0/8 or addresses such as 192.0.2.7; an empty \
         list trusts loopback and the networks of this machine's interfaces\n"
    );
}

/// Malformed texts, and what is said of each.
const MALFORMED: &[(&str, &str)] = &[
    ("name: []", "`name`: expected a string, found a list"),
    (
        "listen: here",
        "`listen`: `here` is no address to listen on: the port is not a number from 0 to 65535",
    ),
    (
        "listen: {}",
        "`listen`: expected a list, or an address such as 127.0.0.1:8080, :8080, unix:/path or stdio, found a map",
    ),
    (
        "listen: [8080, ':x']",
        "`listen.1`: `:x` is no address to listen on",
    ),
    ("db: {}", "`db`: expected"),
    ("log_file: []", "`log_file`: expected"),
    (
        "trusted_cidrs: 10.0.0.0/99",
        "`trusted_cidrs`: invalid CIDR or IP \"10.0.0.0/99\"",
    ),
    (
        "trusted_cidrs: [yes]",
        "`trusted_cidrs.0`: invalid CIDR or IP \"yes\"",
    ),
    (
        "allowed_origins: [example.org]",
        "`allowed_origins.0`: \"example.org\" is no origin of a web page",
    ),
    (
        "token: [a]",
        "`token`: the value does not fit (it is secret and not shown)",
    ),
    ("tls: {cert: c.pem}", "`tls`: `key` is required"),
    (
        "unix_socket_mode: rw",
        "`unix_socket_mode`: \"rw\" is no octal number from 0 to 0777",
    ),
    (
        "unix_socket_users: [root]",
        "`unix_socket_users.0`: expected a whole number from 0 to 4294967295, found the text `root`",
    ),
    (
        "stop_grace: soon",
        "`stop_grace`: time: invalid duration \"soon\"",
    ),
    (
        "shutdown_grace: -1s",
        "`shutdown_grace`: duration \"-1s\" is negative",
    ),
    (
        "drain_timeout: 2d",
        "`drain_timeout`: time: unknown unit \"d\" in duration \"2d\"",
    ),
    (
        "orphans: adopt",
        "`orphans`: expected one of wait, kill, detach, found `adopt`",
    ),
    ("max_line: 0", "`max_line`: a line needs at least one byte"),
    (
        "max_line: 10MX",
        "`max_line`: invalid size \"10MX\": expected a number of bytes such as 4096, 64KiB or 1.5GiB",
    ),
    (
        "ring: {events: -1}",
        "`ring.events`: expected a whole number, not negative, found `-1`",
    ),
    ("ring: {bytes: lots}", "`ring.bytes`: invalid size \"lots\""),
    ("ring: 5", "`ring`: expected a map of keys, found `5`"),
    (
        "slow_client: {queue: 100MiB}",
        "`slow_client`: queue is larger than queue_max",
    ),
    (
        "slow_client: {timeout: 0}",
        "`slow_client.timeout`: without any time to read",
    ),
    (
        "slow_client: {on_slow: wait}",
        "`slow_client.on_slow`: expected one of close, drop, found `wait`",
    ),
    (
        "ping: {interval: 60s}",
        "`ping`: timeout is not longer than interval",
    ),
    (
        "log_rotate: {max_size: -1}",
        "`log_rotate.max_size`: invalid size \"-1\"",
    ),
    (
        "log_rotate: {max_files: x}",
        "`log_rotate.max_files`: expected a whole number, not negative, found the text `x`",
    ),
    (
        "task_logs: {format: xml}",
        "`task_logs.format`: expected one of text, json, found `xml`",
    ),
    (
        "keep_finished: {count: some}",
        "`keep_finished.count`: expected a whole number",
    ),
    (
        "keep_finished: {age: 1 day}",
        "`keep_finished.age`: time: unknown unit \" day\" in duration \"1 day\"",
    ),
    (
        "history: {keep_for: [1h]}",
        "`history.keep_for`: expected a duration such as 500ms, 5s or 1m30s, found a list",
    ),
    (
        "persist_queue: 3",
        "`persist_queue`: expected true or false, found `3`",
    ),
    (
        "apply_config_retry: maybe",
        "`apply_config_retry`: expected true or false, found the text `maybe`",
    ),
    (
        "cgroup_parent: here",
        "`cgroup_parent`: \"here\" is neither auto, off nor an absolute path",
    ),
    (
        "retry: {error_threshold: few}",
        "`retry.error_threshold`: expected a whole number, found the text `few`",
    ),
    (
        "retry: {restart: sometimes}",
        "`retry.restart`: expected one of always, on-failure, never, found `sometimes`",
    ),
    (
        "retry: {restart: no}",
        "`retry.restart`: expected one of always, on-failure, never, found `no`",
    ),
    (
        "retry: {success_exit_codes: [a]}",
        "`retry.success_exit_codes.0`: expected a whole number, found the text `a`",
    ),
    (
        "retry: {backoff: {factor: 0.5}}",
        "`retry`: backoff.factor must be a finite number of at least 1, not 0.5",
    ),
    (
        "retry: {backoff: {max: 1m}}",
        "`retry.backoff`: `factor` is required",
    ),
    (
        "task_pool: {limit: 1.5}",
        "`task_pool.limit`: expected a whole number, found `1.5`",
    ),
    (
        "task_pool: {queue: {enabled: 2}}",
        "`task_pool.queue.enabled`: expected true or false, found `2`",
    ),
    (
        "task_pool: {queue: {max_age: 5m}}",
        "`task_pool.queue.max_age`: expected a whole number, found the text `5m`",
    ),
    (
        "task_pool: {excess: {grace: 5s}}",
        "`task_pool.excess.grace`: expected a whole number, found the text `5s`",
    ),
    ("actions: [a]", "`actions`: expected a map, found a list"),
    (
        "actions: {a: exec}",
        "`actions.a`: expected a map of keys, found the text `exec`",
    ),
    (
        "actions: {a: {retry: {error_window: x}}}",
        "`actions.a.retry.error_window`: time: invalid duration \"x\"",
    ),
    (
        "actions: {a: {retry: {backoff: {factor: .nan}}}}",
        "`actions.a.retry.backoff.factor`: expected a number",
    ),
    (
        "actions: {a: {dedupe_key: {}}}",
        "`actions.a.dedupe_key`: expected a list, or a text, found a map",
    ),
];

#[test]
fn every_malformed_value_is_refused_with_its_key_and_a_way_out() {
    for (text, expected) in MALFORMED {
        let told = fault(&format!("# first line\n{text}\n"));
        let prefix = format!("error: failed to load config: config.yaml line 2: {expected}");
        assert!(told.starts_with(&prefix), "{text}: {told}");
        assert!(told.contains("\n  hint: "), "{text}: no way out in {told}");
        assert!(!told.contains('\u{1f}'), "{text}: {told:?}");
    }
}

#[test]
fn a_file_that_is_no_yaml_is_refused_with_its_place() {
    let open = fault("a: [1, 2\nb");
    assert!(
        open.starts_with(
            "error: failed to load config: config.yaml line 1 column 4: unclosed bracket"
        ),
        "{open}"
    );
    let twice = fault("name: a\nname: b\n");
    assert!(
        twice.contains("config.yaml line 2 column 1: duplicate mapping key: name\n  hint: "),
        "{twice}"
    );
    assert!(fault("- a\n").contains("config.yaml line 1: expected a map of keys at the top"));
}

#[test]
fn a_fault_in_a_variable_or_flag_names_it() {
    let env = Case::default().var("OVERSEER_STOP_GRACE", "soon").fault();
    assert!(
        env.contains("$OVERSEER_STOP_GRACE: `stop_grace`: time: invalid duration \"soon\""),
        "{env}"
    );
    let flag = Case::default()
        .args(|args| args.listen = vec![":1".into(), "x".into()])
        .fault();
    assert!(
        flag.contains("--listen: `listen.1`: `x` is no address to listen on"),
        "{flag}"
    );
    let port = Case::default().var("OVERSEER_PORT", "/tmp/x").fault();
    assert!(
        port.contains("$OVERSEER_PORT: `listen`: `:/tmp/x` is no address to listen on"),
        "{port}"
    );
}

#[test]
fn a_token_that_cannot_be_read_is_told_with_its_place_and_cause() {
    let told = fault("\ntoken: {file: /nonexistent/token}\n");
    assert!(
        told.starts_with(
            "error: failed to load config: config.yaml line 2: `token` cannot be used\n"
        ),
        "{told}"
    );
    assert!(
        told.contains("caused by: cannot read the secret in `/nonexistent/token`"),
        "{told}"
    );
    assert!(fault("token: {env: UNSET}").contains("variable `UNSET`"));
    assert!(fault("token: 12345").contains("hint: write the token as a text in quotes"));
}

#[test]
fn a_configuration_that_cannot_be_read_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let args = ServeArgs {
        config: Some(dir.path().to_owned()),
        ..ServeArgs::default()
    };
    let failure = load(&args, &|_| None).unwrap_err();
    assert_eq!(failure.exit(), Exit::Config);
    assert!(
        failure
            .message()
            .starts_with("failed to load config: cannot read `"),
        "{failure}"
    );
}

// === Warnings ===

#[test]
fn unknown_keys_are_warned_of_by_name_and_line() {
    let text = "
lisen: x
listen_addr: ':1'
retry: {max: 3}
task_pool: {size: 3, queue_size: 1}
actions:
  a: {type: exec, description: d, taskpool: {}, config: {whatever: 1}}
";
    assert_eq!(
        warnings(text),
        [
            "config.yaml line 2: unknown key `lisen` (did you mean `listen`?); it is ignored",
            "config.yaml line 3: unknown key `listen_addr` (did you mean `listen`?); it is ignored",
            "config.yaml line 4: unknown key `retry.max`; it is ignored (known keys here: restart_delay, restart_jitter, \
             error_window, error_threshold, restart, success_exit_codes, backoff)",
            "config.yaml line 5: unknown key `task_pool.size` (did you mean `limit`?); it is ignored",
            "config.yaml line 5: unknown key `task_pool.queue_size` (did you mean `queue.size`, with `queue.enabled: \
             true`?); it is ignored",
            "config.yaml line 7: unknown key `actions.a.description` (did you mean `meta.description`?); it is ignored",
            "config.yaml line 7: unknown key `actions.a.taskpool` (did you mean `task_pool`?); it is ignored",
        ]
    );
}

#[test]
fn words_that_mean_something_else_are_warned_of() {
    assert_eq!(
        warnings(
            "actions:\n  a:\n    type: exec\n    task_pool: {queue: {order: newest}, excess: {action: kill}}\n"
        ),
        [
            "config.yaml line 4: `actions.a.task_pool.excess.action`: \"kill\" is none of stop, requeue; it is taken as stop",
            "config.yaml line 4: `actions.a.task_pool.queue.order`: \"newest\" is none of first, last; it is taken as first",
        ]
    );
}

#[test]
fn keys_without_the_one_they_need_are_warned_of() {
    assert_eq!(
        warnings("persist_queue: true\nhistory: {keep_for: 1h}\nlog_rotate: {max_size: 1k}\n"),
        [
            "config.yaml line 1: `persist_queue` has no effect without `db`",
            "config.yaml line 2: `history` has no effect without `db`",
            "config.yaml line 3: `log_rotate` has no effect without `log_file`",
        ]
    );
}

#[test]
fn a_named_file_that_is_missing_is_a_warning_and_the_default_one_is_none() {
    let named = Case::default().load();
    assert_eq!(
        named.warnings,
        ["the configuration `config.yaml` does not exist; there are no actions, only defaults"]
    );
    assert_eq!(
        (named.config.path, named.config.base_dir),
        (None, PathBuf::new())
    );
    let source = Source {
        path: "./config.yaml".into(),
        explicit: false,
        text: None,
    };
    let silent = assemble(&source, &ServeArgs::default(), &|_| None).unwrap();
    assert_eq!(silent.warnings, [] as [&str; 0]);
}

// === Layers ===

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let case = Case::text("name: file\nlisten: ':1'\ndb: file.db\nlog_file: file.log\n")
        .var("OVERSEER_NAME", "env")
        .var("OVERSEER_LISTEN", ":2, unix:/x")
        .var("OVERSEER_DB", "env.db")
        .var("OVERSEER_PING_INTERVAL", "1s")
        .args(|args| {
            args.name = Some("flag".into());
            args.listen = vec![":3".into(), "stdio".into()];
        });
    let Loaded { config, show, .. } = case.load();
    assert_eq!(
        (config.settings.name.as_str(), config.listen),
        ("flag", vec![endpoint(":3"), Endpoint::Stdio])
    );
    assert_eq!(
        (config.db, config.log_file),
        (Some("env.db".into()), Some("file.log".into()))
    );
    let shown = serde_json::to_value(&show).unwrap();
    assert_eq!(
        shown["name"],
        json!({"value": "flag", "from": "flag", "name": "--name"})
    );
    assert_eq!(
        shown["listen"],
        json!({"value": [":3", "stdio"], "from": "flag", "name": "--listen"})
    );
    assert_eq!(
        shown["db"],
        json!({"value": "env.db", "from": "env", "var": "OVERSEER_DB"})
    );
    assert_eq!(
        shown["ping.interval"],
        json!({"value": "1s", "from": "env", "var": "OVERSEER_PING_INTERVAL"})
    );
    assert_eq!(
        shown["log_file"],
        json!({"value": "file.log", "from": "file", "path": "config.yaml", "line": 4})
    );
    assert_eq!(
        shown["ping.timeout"],
        json!({"value": "1m0s", "from": "default"})
    );
    assert_eq!(
        shown["ring.bytes"],
        json!({"value": "16MiB", "from": "default"})
    );
}

#[test]
fn variables_are_read_as_their_keys_want_them() {
    let case = Case::default()
        .var("OVERSEER_LISTEN", "[::1]:80, stdio")
        .var("OVERSEER_TRUSTED_CIDRS", "10.0.0.0/8,192.0.2.7")
        .var(
            "OVERSEER_ALLOWED_ORIGINS",
            "https://a.example, https://b.example",
        )
        .var("OVERSEER_UNIX_SOCKET_MODE", "0660")
        .var("OVERSEER_UNIX_SOCKET_USERS", "1000, 1001")
        .var("OVERSEER_PERSIST_QUEUE", "no")
        .var("OVERSEER_MAX_LINE", "64KiB")
        .var("OVERSEER_ORPHANS", "detach")
        .var("OVERSEER_TASK_POOL_QUEUE_ENABLED", "yes")
        .var("OVERSEER_TASK_POOL_LIMIT", "3")
        .var("OVERSEER_TLS_CERT", "c.pem")
        .var("OVERSEER_TLS_KEY", "k.pem");
    let config = case.load().config;
    assert_eq!(config.listen, ["[::1]:80", "stdio"].map(endpoint));
    assert!(matches!(config.networks, Networks::Listed(listed) if listed.len() == 2));
    assert!(matches!(config.origins, Origins::Listed(listed) if listed.len() == 2));
    assert_eq!(
        (config.unix_mode, config.unix_users),
        (0o660, vec![1000, 1001])
    );
    assert_eq!(
        (config.worker.max_line, config.worker.orphans),
        (65_536, Orphans::Detach)
    );
    assert_eq!(
        (
            config.pool.limit,
            config.pool.queue.map(|queue| queue.enabled)
        ),
        (3, Some(true))
    );
    assert_eq!(config.tls.map(|tls| tls.key), Some("k.pem".into()));
}

#[test]
fn a_port_in_the_environment_listens_everywhere_unless_an_address_says_otherwise() {
    let port = Case::default().var("OVERSEER_PORT", "9090");
    assert_eq!(port.load().config.listen, [endpoint(":9090")]);
    let both = port.var("OVERSEER_LISTEN", "127.0.0.1:1");
    assert_eq!(both.load().config.listen, [endpoint("127.0.0.1:1")]);
}

#[test]
fn a_service_link_of_kubernetes_is_no_port() {
    let loaded = Case::text("")
        .var("OVERSEER_PORT", "tcp://10.0.0.1:8080")
        .load();
    assert_eq!(loaded.config.listen, [endpoint("127.0.0.1:8080")]);
    assert_eq!(
        loaded.warnings,
        ["OVERSEER_PORT is ignored: \"tcp://10.0.0.1:8080\" is a service link, not a port"]
    );
}

#[test]
fn a_token_comes_from_a_text_a_variable_or_a_file_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "in-file\n").unwrap();
    let token = |case: Case<'_>| {
        let loaded = case.load();
        let secret = loaded.config.token.clone().unwrap();
        for shown in [
            format!("{loaded:?}"),
            serde_json::to_string(&loaded.show).unwrap(),
            loaded.show.table().render(None, false),
        ] {
            assert!(!shown.contains(secret.expose()), "{shown}");
        }
        secret.expose().to_owned()
    };
    let by_flag = |case: Case<'static>| {
        case.args(|args| args.token_file = Some(path.to_str().unwrap().to_owned()))
    };
    assert_eq!(token(Case::text("token: lit-eral")), "lit-eral");
    assert_eq!(
        token(Case::text("token: {env: MINE}").var("MINE", "in-env")),
        "in-env"
    );
    assert_eq!(
        token(Case::text("token: lit-eral").var("OVERSEER_TOKEN", "of-var")),
        "of-var"
    );
    assert_eq!(
        token(Case::text("").var("OVERSEER_TOKEN", "12345")),
        "12345",
        "a number is a text here"
    );
    assert_eq!(
        token(by_flag(
            Case::text("token: lit-eral").var("OVERSEER_TOKEN", "of-var")
        )),
        "in-file"
    );
    let with_file = by_flag(Case::text("token: {env: MINE}")).load();
    assert_eq!(
        with_file.warnings,
        ["config.yaml line 1: `token.env` is ignored, as `token.file` is given"]
    );
}

#[test]
fn environments_of_actions_are_not_shown() {
    let loaded =
        Case::text("actions: {a: {type: exec, config: {env: {KEY: hunter2}, entrypoint: ls}}}")
            .load();
    let shown = serde_json::to_value(&loaded.show).unwrap();
    assert_eq!(shown["actions.a.config.env.KEY"]["value"], "[redacted]");
    assert_eq!(shown["actions.a.config.entrypoint"]["value"], "ls");
    assert_eq!(loaded.config.actions["a"].config["env"]["KEY"], "hunter2");
}

#[test]
fn the_file_is_named_by_flag_variable_or_default() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("name: {name}")).unwrap();
        path
    };
    let (by_flag, by_var) = (write("flag"), write("variable"));
    let env = |name: &str| (name == "OVERSEER_CONFIG").then(|| by_var.to_str().unwrap().to_owned());
    let named = |args: &ServeArgs| load(args, &env).unwrap().config;
    let config = named(&ServeArgs {
        config: Some(by_flag.clone()),
        ..ServeArgs::default()
    });
    assert_eq!(
        (
            config.settings.name.as_str(),
            config.path,
            config.base_dir.as_path()
        ),
        ("flag", Some(by_flag), dir.path())
    );
    assert_eq!(named(&ServeArgs::default()).settings.name, "variable");
}

// === Reloads ===

#[test]
fn only_keys_that_need_a_restart_are_named_as_such() {
    let running = config("listen: ':1'\ntoken: a\nname: x\n");
    let reloaded = config(
        "listen: ':2'\ntoken: b\nname: y\nunix_socket_mode: 0660\nactions: {a: {type: exec}}\n",
    );
    assert_eq!(
        running.fixed_differences(&reloaded),
        ["listen", "token", "unix_socket_mode"]
    );
    assert_eq!(running.fixed_differences(&running.clone()), [] as [&str; 0]);
}
