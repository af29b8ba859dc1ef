//! The variables that the original reads, and those of Nomad's and Consul's own programs, as keys of ours. What the original
//! reads and makes nothing of (`SERVER_TLS`, `VAULT_*`, `REGISTRY_USERNAME`, `HEALTH_PORT`) means nothing here either.

use super::Environment;

/// Variables and the keys that they set.
pub(crate) const VARIABLES: [(&str, &str); 26] = [
    // One key of ours is two variables of the original's; see `value`.
    ("SERVER_PORT", "listen"),
    ("CORS_ORIGIN", "cors_origins"),
    ("NOMAD_ADDR", "nomad.address"),
    ("NOMAD_REGION", "nomad.region"),
    ("NOMAD_NAMESPACE", "nomad.namespace"),
    ("NOMAD_DATACENTERS", "nomad.datacenters"),
    ("NOMAD_CACERT", "nomad.ca_file"),
    ("NOMAD_CLIENT_CERT", "nomad.cert_file"),
    ("NOMAD_CLIENT_KEY", "nomad.key_file"),
    ("NOMAD_TLS_SERVER_NAME", "nomad.tls_server_name"),
    ("NOMAD_SKIP_VERIFY", "nomad.skip_verify"),
    ("CONSUL_HTTP_ADDR", "consul.address"),
    ("CONSUL_HTTP_TOKEN_FILE", "consul.token_file"),
    ("CONSUL_KEY_PREFIX", "consul.prefix"),
    ("BUILD_TIMEOUT", "timeouts.build"),
    ("TEST_TIMEOUT", "timeouts.test"),
    ("KILL_TIMEOUT", "timeouts.kill"),
    ("REGISTRY_URL", "registry.url"),
    ("REGISTRY_TEMP_PREFIX", "registry.temp_prefix"),
    ("BUILD_CACHE_PATH", "nomad.cache"),
    ("DEFAULT_CPU_LIMIT", "limits.build.cpu"),
    ("DEFAULT_MEMORY_LIMIT", "limits.build.memory"),
    ("DEFAULT_DISK_LIMIT", "limits.build.disk"),
    ("LOG_RETENTION_DAYS", "retention.logs"),
    ("METRICS_PORT", "metrics.listen"),
    ("SERVER_HOST", "listen"),
];

/// The port where a variable of the original's says a host only.
const PORT: &str = "8080";

/// The value of a variable, in the form of its key.
pub(super) fn value(name: &str, env: &Environment<'_>) -> Option<String> {
    let get = |name: &str| {
        env(name)
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    };
    let host = || get("SERVER_HOST").unwrap_or_else(|| "127.0.0.1".to_owned());
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    match name {
        // Kubernetes sets variables such as this one to a URL for services of that name; those are nobody's choice.
        "SERVER_PORT" => get(name)
            .filter(|port| number(port))
            .map(|port| at(&host(), &port)),
        "SERVER_HOST" if get("SERVER_PORT").is_some_and(|port| number(&port)) => None,
        "SERVER_HOST" => get(name).map(|host| at(&host, PORT)),
        "METRICS_PORT" if get("MONITORING_ENABLED").is_some_and(|on| on == "false") => None,
        "METRICS_PORT" => get(name)
            .filter(|port| number(port))
            .map(|port| at(&host(), &port)),
        "LOG_RETENTION_DAYS" => get(name).map(|days| {
            if number(&days) {
                format!("{days}d")
            } else {
                days
            }
        }),
        _ => get(name),
    }
}

fn at(host: &str, port: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
