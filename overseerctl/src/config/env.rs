//! Variables of the environment that set configuration keys: `OVERSEER_` and the key in capitals, with `_` for every dot.

/// Keys that a variable can set. Actions have none: their names are the user's.
pub(super) const KEYS: &[&str] = &[
    "name",
    "listen",
    "db",
    "log_file",
    "trusted_cidrs",
    "allowed_origins",
    "token",
    "token.file",
    "tls.cert",
    "tls.key",
    "tls.client_ca",
    "unix_socket_mode",
    "unix_socket_users",
    "stop_grace",
    "shutdown_grace",
    "orphans",
    "drain_timeout",
    "max_line",
    "ring.events",
    "ring.bytes",
    "slow_client.queue",
    "slow_client.queue_max",
    "slow_client.grace",
    "slow_client.timeout",
    "slow_client.on_slow",
    "ping.interval",
    "ping.timeout",
    "log_rotate.max_size",
    "log_rotate.max_files",
    "task_logs.dir",
    "task_logs.max_size",
    "task_logs.max_files",
    "task_logs.format",
    "keep_finished.count",
    "keep_finished.age",
    "history.keep_runs",
    "history.keep_for",
    "persist_queue",
    "apply_config_retry",
    "cgroup_parent",
    "retry.restart_delay",
    "retry.restart_jitter",
    "retry.error_window",
    "retry.error_threshold",
    "retry.restart",
    "retry.success_exit_codes",
    "retry.backoff.factor",
    "retry.backoff.max",
    "task_pool.limit",
    "task_pool.queue.enabled",
    "task_pool.queue.size",
    "task_pool.queue.order",
    "task_pool.queue.max_age",
    "task_pool.queue.displace",
    "task_pool.excess.action",
    "task_pool.excess.order",
    "task_pool.excess.grace",
    "task_pool.hold_on_restart",
];

/// Names the configuration file.
pub(super) const CONFIG: &str = "OVERSEER_CONFIG";

/// A port to listen on: sticky-overseer's documents have it, its code does not. `OVERSEER_LISTEN` wins over it.
pub(super) const PORT: &str = "OVERSEER_PORT";

/// Every variable with the key that it sets; of two that set the same key, the later one wins.
pub(super) fn variables() -> Vec<(String, &'static str)> {
    let port = (PORT.to_owned(), "listen");
    std::iter::once(port)
        .chain(KEYS.iter().map(|&key| (variable(key), key)))
        .collect()
}

fn variable(key: &str) -> String {
    format!("OVERSEER_{}", key.to_uppercase().replace('.', "_"))
}

/// What [`PORT`] means as an address. Kubernetes sets a variable of this name to a URL for every service that is called
/// `overseer`; that one is nobody's choice, and no address.
pub(super) fn address_of_port(value: &str) -> Option<String> {
    let port = value.trim();
    (!port.is_empty() && !is_service_link(port))
        .then(|| format!(":{}", port.trim_start_matches(':')))
}

/// Whether the value is a Kubernetes or Docker service link such as `tcp://10.0.0.1:8080`.
pub(super) fn is_service_link(value: &str) -> bool {
    value.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_variable_in_capitals() {
        assert_eq!(variable("log_file"), "OVERSEER_LOG_FILE");
        assert_eq!(
            variable("slow_client.queue_max"),
            "OVERSEER_SLOW_CLIENT_QUEUE_MAX"
        );
    }

    #[test]
    fn no_variable_sets_two_keys() {
        let mut names: Vec<String> = variables().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), KEYS.len() + 1);
    }

    #[test]
    fn a_port_is_an_address_and_a_service_link_is_none() {
        assert_eq!(address_of_port("9090").as_deref(), Some(":9090"));
        assert_eq!(address_of_port(":9090").as_deref(), Some(":9090"));
        assert_eq!(address_of_port("tcp://10.0.0.1:8080"), None);
        assert_eq!(address_of_port(" "), None);
    }
}
