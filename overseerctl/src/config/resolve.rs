//! From the file's form to the validated [`Config`]: what its values amount to, and whether they go together. Nothing
//! is read here.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use runyard_common::{config::ConfigError, secret::Secret};
use serde_json::Value;

use super::{
    ActionConfig, Config, Endpoint, TaskLogsConfig,
    file::{ActionFile, ConfigFile, RetryFile, TaskLogsFile, default_listen},
    places::{Places, segment},
    values::{List, Network, Refusal, WebOrigin},
};
use crate::{
    api::{PoolConfig, RetryPolicy},
    driver::WorkerDefaults,
    hub::{Retention, Settings},
    logfile::Rotation,
    ring::RingLimits,
    server::{Heartbeat, Networks, Origins},
    store::StoreOptions,
};

/// Makes the configuration out of a file's, its token read already. Appends what is odd but usable to `warnings`.
pub(super) fn resolve(
    file: ConfigFile,
    path: Option<PathBuf>,
    token: Option<Secret>,
    places: Places<'_>,
    warnings: &mut Vec<String>,
) -> Result<Config, ConfigError> {
    check(&file, places)?;
    warn_idle(&file, places, warnings);
    let settings = settings(&file);
    let worker = worker(&file);
    let retry = global_retry(file.retry, places)?;
    let pool = PoolConfig::from(file.task_pool);
    warn_words("task_pool", &pool, places, warnings);
    let action_lines = lines(file.actions.keys(), places);
    let actions = actions(file.actions, &retry, places, warnings)?;
    Ok(Config {
        base_dir: path
            .as_deref()
            .and_then(|path| path.parent())
            .map_or_else(PathBuf::new, PathBuf::from),
        path,
        listen: listen(file.listen),
        db: file.db.filter(|path| !path.as_os_str().is_empty()),
        store: StoreOptions {
            keep_runs: file.history.keep_runs,
            keep_for: nonzero(file.history.keep_for.0),
        },
        log_file: file.log_file.filter(|path| !path.as_os_str().is_empty()),
        log_rotation: Rotation {
            max_size: file.log_rotate.max_size.0,
            max_files: file.log_rotate.max_files,
        },
        task_logs: task_logs(file.task_logs),
        networks: networks(file.trusted_cidrs),
        origins: origins(file.allowed_origins),
        token,
        tls: file.tls,
        unix_mode: file.unix_socket_mode.0,
        unix_users: file.unix_socket_users,
        heartbeat: Heartbeat {
            interval: file.ping.interval.0,
            timeout: file.ping.timeout.0,
        },
        shutdown_grace: file.shutdown_grace.0,
        worker,
        settings,
        pool,
        actions,
        action_lines,
    })
}

// === Parts ===

fn settings(file: &ConfigFile) -> Settings {
    Settings {
        name: file.name.clone(),
        ring: RingLimits {
            events: file.ring.events,
            bytes: file.ring.bytes.in_memory(),
        },
        slow_client: file.slow_client.clone().into(),
        keep_finished: Retention {
            count: file.keep_finished.count,
            age: nonzero(file.keep_finished.age.0),
        },
        apply_config_retry: file.apply_config_retry,
        persist_queue: file.persist_queue,
    }
}

fn worker(file: &ConfigFile) -> WorkerDefaults {
    WorkerDefaults {
        stop_grace: file.stop_grace.0,
        orphans: file.orphans,
        drain_timeout: file.drain_timeout.0,
        max_line: file.max_line.in_memory(),
        cgroup_parent: file.cgroup_parent.0.clone(),
    }
}

/// `listen: ""` is sticky-overseer's way to say nothing.
fn listen(List(listed): List<Endpoint>) -> Vec<Endpoint> {
    if listed.is_empty() {
        default_listen().0
    } else {
        listed
    }
}

fn task_logs(file: TaskLogsFile) -> Option<TaskLogsConfig> {
    let rotation = Rotation {
        max_size: file.max_size.0,
        max_files: file.max_files,
    };
    let set = !file.dir.as_os_str().is_empty();
    set.then_some(TaskLogsConfig {
        dir: file.dir,
        rotation,
        format: file.format,
    })
}

fn networks(List(listed): List<Network>) -> Networks {
    if listed.is_empty() {
        return Networks::Local;
    }
    Networks::Listed(listed.into_iter().map(|Network(network)| network).collect())
}

fn origins(List(listed): List<WebOrigin>) -> Origins {
    if listed.iter().any(WebOrigin::is_any) {
        Origins::Any
    } else if listed.is_empty() {
        Origins::SameHostOrLoopback
    } else {
        Origins::Listed(listed.into_iter().map(|WebOrigin(origin)| origin).collect())
    }
}

fn nonzero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

// === Actions ===

fn actions(
    files: BTreeMap<String, ActionFile>,
    global: &RetryPolicy,
    places: Places<'_>,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, ActionConfig>, ConfigError> {
    let mut actions = BTreeMap::new();
    for (name, file) in files {
        let key = format!("actions.{}", segment(&name));
        let task_pool = PoolConfig::from(file.task_pool);
        warn_words(&format!("{key}.task_pool"), &task_pool, places, warnings);
        let action = ActionConfig {
            kind: file.kind,
            description: file.meta.description,
            retry: action_retry(global, file.retry, &key, places)?,
            task_pool,
            dedupe_key: file.dedupe_key.0,
            config: block(file.config),
        };
        actions.insert(name, action);
    }
    Ok(actions)
}

/// Drivers get a map where the file has nothing.
fn block(config: Value) -> Value {
    if config.is_null() {
        Value::Object(serde_json::Map::new())
    } else {
        config
    }
}

fn global_retry(file: RetryFile, places: Places<'_>) -> Result<RetryPolicy, ConfigError> {
    let policy = RetryPolicy::from(file);
    check_retry(&policy, "retry", places)?;
    Ok(policy)
}

/// The global policy, overridden field by field. `restart: always` counts as set, so that an action can go back to it.
fn action_retry(
    global: &RetryPolicy,
    file: RetryFile,
    key: &str,
    places: Places<'_>,
) -> Result<RetryPolicy, ConfigError> {
    let restart = file.restart.unwrap_or(global.restart);
    let own = RetryPolicy::from(file);
    check_retry(&own, &format!("{key}.retry"), places)?;
    Ok(RetryPolicy {
        restart,
        ..RetryPolicy::merge(global, &own)
    })
}

fn lines<'a>(names: impl Iterator<Item = &'a String>, places: Places<'_>) -> BTreeMap<String, u64> {
    let line = |name: &String| {
        Some((
            name.clone(),
            places.line(&format!("actions.{}", segment(name)))?,
        ))
    };
    names.filter_map(line).collect()
}

// === Checks ===

fn check_retry(policy: &RetryPolicy, key: &str, places: Places<'_>) -> Result<(), ConfigError> {
    let way_out = "backoff multiplies the delay by its factor after every further exit: write 1 or more, such as 2";
    policy
        .check()
        .map_err(|reason| refuse(key, places, &Refusal::new(reason, way_out)))
}

/// Values that are well written and cannot work.
fn check(file: &ConfigFile, places: Places<'_>) -> Result<(), ConfigError> {
    let (slow, ping) = (&file.slow_client, &file.ping);
    let pings = !ping.interval.0.is_zero() && !ping.timeout.0.is_zero();
    let faults = [
        (
            file.max_line.0 == 0,
            "max_line",
            "a line needs at least one byte",
            "write a size such as 64KiB",
        ),
        (
            slow.queue.0 > slow.queue_max.0,
            "slow_client",
            "queue is larger than queue_max, beyond which clients are closed",
            "raise queue_max, or lower queue",
        ),
        (
            slow.timeout.0.is_zero(),
            "slow_client.timeout",
            "without any time to read, every client would be closed",
            "write a duration above zero, such as 5s",
        ),
        (
            pings && ping.timeout.0 <= ping.interval.0,
            "ping",
            "timeout is not longer than interval, so that quiet clients would be closed before they are asked",
            "make timeout twice the interval, or 0 to wait for ever",
        ),
    ];
    match faults.into_iter().find(|(is_fault, ..)| *is_fault) {
        Some((_, key, reason, way_out)) => Err(refuse(key, places, &Refusal::new(reason, way_out))),
        None => Ok(()),
    }
}

fn refuse(key: &str, places: Places<'_>, refusal: &Refusal) -> ConfigError {
    ConfigError::Invalid {
        key: key.to_owned(),
        origin: places.of(key),
        message: refusal.to_string(),
    }
}

// === Warnings ===

/// Keys that do nothing without another one.
fn warn_idle(file: &ConfigFile, places: Places<'_>, warnings: &mut Vec<String>) {
    let has = |path: &Option<PathBuf>| {
        path.as_ref()
            .is_some_and(|path| !path.as_os_str().is_empty())
    };
    let history = file.history.keep_runs > 0 || !file.history.keep_for.0.is_zero();
    let rotates = file.log_rotate.max_size.0 > 0;
    let idle = [
        ("persist_queue", file.persist_queue && !has(&file.db), "db"),
        ("history", history && !has(&file.db), "db"),
        ("log_rotate", rotates && !has(&file.log_file), "log_file"),
    ];
    for (key, _, needed) in idle.into_iter().filter(|(_, idle, _)| *idle) {
        warnings.push(format!(
            "{}: `{key}` has no effect without `{needed}`",
            places.of(key)
        ));
    }
    if places.is_set("token.file") && places.is_set("token.env") {
        warnings.push(format!(
            "{}: `token.env` is ignored, as `token.file` is given",
            places.of("token.env")
        ));
    }
}

/// Words that sticky-overseer takes without a word, and reads as something else.
fn warn_words(key: &str, pool: &PoolConfig, places: Places<'_>, warnings: &mut Vec<String>) {
    let mut words = vec![
        (
            "excess.action",
            &pool.excess.action,
            &["stop", "requeue"][..],
            "stop",
        ),
        (
            "excess.order",
            &pool.excess.order,
            &["first", "last"],
            "first",
        ),
    ];
    if let Some(queue) = &pool.queue {
        words.push(("queue.order", &queue.order, &["first", "last"], "first"));
        words.push((
            "queue.displace",
            &queue.displace,
            &["true", "false", "prohibit"],
            "true",
        ));
    }
    for (below, word, known, taken_as) in words {
        if !word.is_empty() && !known.contains(&word.as_str()) {
            let key = format!("{key}.{below}");
            let known = known.join(", ");
            let place = places.of(&key);
            warnings.push(format!(
                "{place}: `{key}`: {word:?} is none of {known}; it is taken as {taken_as}"
            ));
        }
    }
}
