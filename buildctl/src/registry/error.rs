//! What goes wrong with registries, in words, from status and error body (OCI Distribution Specification, "Error Codes").

use serde::Deserialize;

/// Why a registry did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It does not answer, or says that it is not able to now. It was tried more than once.
    #[error("the registry {host} cannot be reached: {why}")]
    Unreachable {
        /// Its host and port.
        host: String,
        /// What happened.
        why: String,
    },
    /// It does not know us, or does not let us.
    #[error("the registry refuses {what}: {why}")]
    Denied {
        /// What was asked for.
        what: String,
        /// Its words, and what to look at.
        why: String,
    },
    /// There is no such thing.
    #[error("{what} is not in the registry{}", after_colon(why))]
    NotFound {
        /// What was asked for.
        what: String,
        /// The registry's words.
        why: String,
    },
    /// The registry does not do such things.
    #[error("the registry does not support {what}: {why}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Its words.
        why: String,
    },
    /// It refuses for another reason.
    #[error("the registry refuses {what}: {why}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Its words.
        why: String,
    },
    /// What it answers makes no sense.
    #[error("{what} is not what it should be: {why}")]
    Unexpected {
        /// What was asked for.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A certificate or credential of ours cannot be used.
    #[error("{0}")]
    Setup(String),
    /// The run is to stop.
    #[error("stopped")]
    Stopped,
}

fn after_colon(why: &str) -> String {
    match why {
        "" => String::new(),
        why => format!(": {why}"),
    }
}

/// The body of a refusal.
#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "errors")]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default, rename = "detail")]
    more: Option<serde_json::Value>,
}

/// Turns a status that says no, and its body, into an error.
pub(super) fn refusal(status: u16, body: &[u8], host: &str, what: String) -> RegistryError {
    let (code, why) = words(status, body);
    match (status, code.as_str()) {
        (401 | 403, _) | (_, "UNAUTHORIZED" | "DENIED") => RegistryError::Denied {
            what,
            why: format!("{why} (are the registry's credentials right, and may they do this?)"),
        },
        (405 | 501, _) | (_, "UNSUPPORTED") => RegistryError::Unsupported { what, why },
        (404 | 410, _) => RegistryError::NotFound { what, why },
        (429 | 500.., _) => RegistryError::Unreachable {
            host: host.to_owned(),
            why: format!("{what}: {why}"),
        },
        _ => RegistryError::Refused { what, why },
    }
}

/// Code and words of the first error in a body.
fn words(status: u16, body: &[u8]) -> (String, String) {
    let first = serde_json::from_slice::<Refusal>(body)
        .ok()
        .and_then(|refusal| refusal.details.into_iter().next());
    let Some(Detail {
        code,
        message,
        more,
    }) = first
    else {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let joint = if text.is_empty() { "" } else { " " };
        return (String::new(), format!("HTTP status {status}{joint}{text}"));
    };
    let more = more.and_then(|more| more.as_str().map(|text| format!(" ({text})")));
    let why = format!(
        "{message}{} [{code}, HTTP {status}]",
        more.unwrap_or_default()
    );
    (code, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_quoted() {
        let body = br#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
        let error = refusal(403, body, "r:5000", "PUT r:5000/app:v1".to_owned()).to_string();
        assert!(
            error.starts_with(
                "the registry refuses PUT r:5000/app:v1: requested access is denied [DENIED, HTTP 403]"
            ),
            "{error}"
        );
    }

    #[test]
    fn each_status_has_its_meaning() {
        let of = |status| refusal(status, b"<html>no</html>", "r", "x".to_owned());
        assert!(matches!(of(404), RegistryError::NotFound { .. }));
        assert!(matches!(of(405), RegistryError::Unsupported { .. }));
        assert!(matches!(of(503), RegistryError::Unreachable { .. }));
        assert!(matches!(of(400), RegistryError::Refused { .. }));
        assert!(of(400).to_string().contains("<html>no</html>"));
    }
}
