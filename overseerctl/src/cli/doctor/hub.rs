//! The hub that the flags name: does it answer, is it ready, what does it speak.

use std::path::Path;

use runyard_common::{
    doctor::Finding,
    http::client::{self as http, ClientOptions, Response, Retry},
    report::Failure,
};

use crate::client::{Client, Dialect, Place, Target};

/// Looks at the hub from outside to inside, and no further than it can be reached.
pub(super) fn examine(target: &Target) -> Vec<Finding> {
    let mut findings: Vec<Finding> = socket(&target.place).into_iter().collect();
    match Client::connect(target) {
        Ok(mut client) => {
            findings.push(Finding::ok("hub", format!("answers at {}", target.place)));
            findings.extend(conversation(&mut client));
            findings.extend(routes(target));
        }
        Err(failure) => findings.push(Finding::of("hub", &failure)),
    }
    findings
}

/// The socket's file, where there is one.
fn socket(place: &Place) -> Option<Finding> {
    let Place::Unix { path } = place else {
        return None;
    };
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let shown = path.display();
    Some(match std::fs::symlink_metadata(path) {
        Ok(file) if std::os::unix::fs::FileTypeExt::is_socket(&file.file_type()) => {
            Finding::ok("socket", format!("{shown} is a socket"))
        }
        Ok(_) => Finding::fail(
            "socket",
            format!("{shown} is no socket"),
            "name the hub's socket with --url unix:/path",
        ),
        Err(_) if !directory.is_dir() => {
            let says = format!("the directory {} does not exist", directory.display());
            Finding::fail(
                "socket",
                says,
                "make it, and let the user of the hub write to it",
            )
        }
        Err(error) => Finding::fail(
            "socket",
            format!("{shown}: {error}"),
            "start the hub with --listen unix:PATH",
        ),
    })
}

/// What the hub says of itself over the WebSocket.
fn conversation(client: &mut Client) -> Vec<Finding> {
    let dialect = client.dialect().cloned().map(|dialect| match dialect {
        Dialect::Runyard {
            server,
            version,
            features,
        } => Finding::ok(
            "protocol",
            format!("{server} {version}, with {}", features.join(", ")),
        ),
        Dialect::Original => Finding::warn(
            "protocol",
            "sticky-overseer v2, without extensions",
            "`overseerctl serve` has remove, history, kill and signals as exit codes",
        ),
    });
    let actions = client.describe("").map(|actions| match actions.len() {
        0 => Finding::warn(
            "actions",
            "the hub has none, so nothing can be started",
            "add some under `actions` in its configuration",
        ),
        count => Finding::ok("actions", format!("{count} can be started")),
    });
    let found = |result: Result<Finding, Failure>, check| {
        result.unwrap_or_else(|failure| Finding::of(check, &failure))
    };
    vec![found(dialect, "protocol"), found(actions, "actions")]
}

/// The hub's HTTP routes, which proxies and orchestrators look at.
fn routes(target: &Target) -> Vec<Finding> {
    let options = ClientOptions {
        connect_timeout: target.timeout,
        read_timeout: target.timeout,
        retry: Retry::NEVER,
        token: target.token.clone(),
        ca: target.ca.clone(),
        ..ClientOptions::default()
    };
    let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    let client = match http::Client::new(agent, &target.place.http_base(), options) {
        Ok(client) => client,
        Err(failure) => return vec![Finding::of("health", &failure)],
    };
    let ask = |check, path| match client.get(path).send_any() {
        Ok(answer) => judged(check, path, &answer),
        Err(failure) => Finding::of(check, &failure),
    };
    vec![ask("health", "/health"), ask("ready", "/ready")]
}

fn judged(check: &'static str, path: &str, answer: &Response) -> Finding {
    match answer.status().as_u16() {
        200 => Finding::ok(check, format!("GET {path} says yes")),
        404 => Finding::warn(
            check,
            format!("there is no {path}"),
            "a sticky-overseer has none; probe /openapi.json instead",
        ),
        status => Finding::fail(
            check,
            format!("GET {path} says {status}"),
            "the hub is starting or ending; its log says why",
        ),
    }
}
