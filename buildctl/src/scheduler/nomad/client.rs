//! The HTTP API of a Nomad agent, as far as builds need it: where it is, who asks, what may be repeated, and what its errors
//! mean. Which calls make up an operation is the callers' (Nomad documentation, "HTTP API").
//!
//! Answers that are errors are plain text. What may pass (429, a missing leader, a connection that broke) is tried again with
//! growing waits; a caller may be told twice of what it did once, so only calls that bear it are made here: reads, deletions, and
//! writes that name the version they replace.
//!
//! At most [`SHORT`] calls are under way at once, and two long ones besides (the event stream and the list of variables), whoever
//! many ask: an agent allows 100 connections from one address by default (`http_max_conns_per_client`).

use std::{fmt, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use reqwest::{
    Certificate, Client, ClientBuilder, Identity, Method, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderValue},
    redirect::Policy,
};
use runyard_common::{
    backoff::{Backoff, random},
    crypto,
    exit::Exit,
    http::client::path as url_path,
    report::Failure,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::sleep};

use crate::{
    body::{self, Unread},
    config::NomadConfig,
    ledger::LedgerError,
    scheduler::SchedulerError,
};

/// Calls at once.
const SHORT: usize = 4;
/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a call is made at most.
const ATTEMPTS: u32 = 4;
/// The longest answer that is taken in.
const LONGEST: usize = 64 << 20;
/// Between attempts.
const AGAIN: Backoff = Backoff {
    initial: Duration::from_millis(150),
    factor: 2.0,
    max: Duration::from_secs(2),
    jitter: 0.5,
};

/// Why a call did not do what it was for.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No answer, or none of use at present.
    #[error("{place} cannot be reached: {why}")]
    Unreachable {
        /// The agent's address.
        place: String,
        /// What happened.
        why: String,
    },
    /// The token may not.
    #[error(
        "Nomad does not permit {what}: {why}; give the token of `nomad.token_file` a policy that does"
    )]
    Forbidden {
        /// The call.
        what: String,
        /// What Nomad says.
        why: String,
    },
    /// There is no such thing.
    #[error("Nomad knows no such thing ({what}): {why}")]
    NotFound {
        /// The call.
        what: String,
        /// What Nomad says.
        why: String,
    },
    /// It was changed meanwhile: the answer's body says to what.
    #[error("it was changed meanwhile")]
    Conflict(Vec<u8>),
    /// A job of this name is registered.
    #[error("the job is registered already")]
    Exists,
    /// Nomad refuses for good.
    #[error("Nomad refuses {what}: {why}")]
    Refused {
        /// The call.
        what: String,
        /// What Nomad says.
        why: String,
    },
    /// An answer that is none.
    #[error("Nomad's answer to {what} cannot be read: {why}")]
    Unreadable {
        /// The call.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl From<ApiError> for SchedulerError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Unreachable { place, why } => Self::Unreachable { place, why },
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<ApiError> for LedgerError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Unreachable { place, why } => Self::Unreachable { place, why },
            // A token can be mended, and nothing of a job is wrong by it.
            ApiError::Forbidden { .. } => Self::Unreachable {
                place: "the ledger in Nomad".to_owned(),
                why: error.to_string(),
            },
            other => Self::Refused(other.to_string()),
        }
    }
}

/// A Nomad agent. Clones share their connections.
#[derive(Clone)]
pub struct NomadApi(Arc<Inner>);

struct Inner {
    http: Client,
    base: Url,
    shown: String,
    scope: Vec<(&'static str, String)>,
    places: Semaphore,
}

impl fmt::Debug for NomadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NomadApi").field(&self.0.shown).finish()
    }
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    what: String,
    /// `X-Nomad-Index`, for the next blocking query; 0 where there is none.
    pub(crate) index: u64,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| ApiError::Unreadable {
            what: self.what.clone(),
            why: error.to_string(),
        })
    }
}

/// A call that is to be made.
#[must_use = "a call does nothing until it is sent"]
pub(crate) struct Call<'a> {
    api: &'a NomadApi,
    method: Method,
    url: Url,
    what: String,
    body: Option<Vec<u8>>,
    limit: Duration,
    attempts: u32,
}

impl NomadApi {
    /// The agent that these settings name. Fails with [`Exit::Config`] when a certificate or the address cannot be used.
    pub fn open(config: &NomadConfig) -> Result<Self, Failure> {
        let (base, socket) = base(&config.address)?;
        let mut builder = Client::builder()
            .user_agent(concat!("buildctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            // Nomad does not redirect, and its token is for nobody else.
            .redirect(Policy::none())
            .pool_max_idle_per_host(SHORT)
            .default_headers(headers(config)?);
        if let Some(socket) = socket {
            builder = builder.unix_socket(socket).no_proxy();
        }
        let (base, builder) = named(base, builder, config)?;
        let http = trust(builder, &base, config)?.build().map_err(|error| {
            Failure::new(
                Exit::Config,
                format!("cannot make a client for `{}`", config.address),
            )
            .caused_by(error.without_url())
        })?;
        let mut scope = vec![("namespace", config.namespace.clone())];
        scope.extend(config.region.clone().map(|region| ("region", region)));
        Ok(Self(Arc::new(Inner {
            http,
            base,
            shown: shown(&config.address),
            scope,
            places: Semaphore::new(SHORT),
        })))
    }

    /// The agent's address, without a password.
    pub(crate) fn place(&self) -> &str {
        &self.0.shown
    }

    /// The namespace that everything is in.
    pub(crate) fn namespace(&self) -> &str {
        self.0.scope.first().map_or("default", |(_, name)| name)
    }

    pub(crate) fn get(&self, segments: &[&str]) -> Call<'_> {
        self.call(Method::GET, segments)
    }

    pub(crate) fn put<T: Serialize>(&self, segments: &[&str], body: &T) -> Call<'_> {
        // A value of ours, whose keys are all texts, is always JSON.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Call {
            body: Some(body),
            ..self.call(Method::PUT, segments)
        }
    }

    pub(crate) fn delete(&self, segments: &[&str]) -> Call<'_> {
        self.call(Method::DELETE, segments)
    }

    fn call(&self, method: Method, segments: &[&str]) -> Call<'_> {
        let path = format!("/v1{}", url_path(segments));
        let mut url = self.0.base.clone();
        url.set_path(&format!(
            "{}{path}",
            self.0.base.path().trim_end_matches('/')
        ));
        url.query_pairs_mut().extend_pairs(&self.0.scope);
        Call {
            api: self,
            what: format!("{method} {path}"),
            method,
            url,
            body: None,
            limit: LIMIT,
            attempts: ATTEMPTS,
        }
    }

    /// Opens the event stream (Nomad documentation, "Events HTTP API") from behind `index` on. It is read by
    /// [`Response::chunk`] and does not end.
    pub(crate) async fn events(&self, topics: &[&str], index: u64) -> Result<Response, ApiError> {
        let mut call = self
            .get(&["event", "stream"])
            .query("index", &index.to_string());
        for topic in topics {
            call = call.query("topic", topic);
        }
        let request = call.request().timeout(Duration::from_hours(24 * 7));
        let response = request.send().await.map_err(|error| call.lost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        Err(call.refusal(status, &body).0)
    }
}

impl Call<'_> {
    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }

    /// Makes it once only.
    pub(crate) fn once(mut self) -> Self {
        self.attempts = 1;
        self
    }

    /// Waits at the agent until something is newer than `index`, but not longer than `wait`. Takes no place among the short
    /// calls. Nomad adds up to a sixteenth to the wait.
    pub(crate) async fn blocking(mut self, index: u64, wait: Duration) -> Result<Answer, ApiError> {
        self.limit = wait + wait / 16 + Duration::from_secs(10);
        let wait = format!("{}ms", wait.as_millis());
        let call = self.query("index", &index.to_string()).query("wait", &wait);
        call.attempt().await.map_err(|(error, _)| error)
    }

    pub(crate) async fn send(self) -> Result<Answer, ApiError> {
        let mut attempt = 0;
        loop {
            let answer = {
                let _place = self.api.0.places.acquire().await;
                self.attempt().await
            };
            attempt += 1;
            match answer {
                Err((_, true)) if attempt < self.attempts => {
                    sleep(AGAIN.delay(attempt - 1, random())).await;
                }
                answer => return answer.map_err(|(error, _)| error),
            }
        }
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let request = self
            .api
            .0
            .http
            .request(self.method.clone(), self.url.clone());
        match &self.body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body.clone()),
            None => request,
        }
    }

    /// Makes it now. An error says whether it may pass.
    async fn attempt(&self) -> Result<Answer, (ApiError, bool)> {
        let lost = |error: reqwest::Error| (self.lost(&error), true);
        let response = self
            .request()
            .timeout(self.limit)
            .send()
            .await
            .map_err(lost)?;
        let status = response.status();
        let index = response.headers().get("x-nomad-index");
        let index = index
            .and_then(|index| index.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        let body = body::read(response, LONGEST)
            .await
            .map_err(|unread| match unread {
                Unread::Lost(error) => lost(error),
                Unread::TooLong(_) => {
                    let (what, why) = (self.what.clone(), unread.to_string());
                    (ApiError::Unreadable { what, why }, false)
                }
            })?;
        if !status.is_success() {
            return Err(self.refusal(status, &body));
        }
        let what = self.what.clone();
        Ok(Answer { what, index, body })
    }

    fn lost(&self, error: &reqwest::Error) -> ApiError {
        // The last cause is what happened; those above it say where in the client.
        let mut cause: &dyn std::error::Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let why = if error.is_timeout() {
            format!(
                "no answer within {}",
                runyard_common::duration::format(self.limit)
            )
        } else {
            cause.to_string()
        };
        let place = self.api.place().to_owned();
        ApiError::Unreachable { place, why }
    }

    /// What an answer that is an error means, and whether it may pass.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> (ApiError, bool) {
        let why = one_line(&String::from_utf8_lossy(body));
        let what = self.what.clone();
        match status.as_u16() {
            401 | 403 => (ApiError::Forbidden { what, why }, false),
            404 => (ApiError::NotFound { what, why }, false),
            409 => (ApiError::Conflict(body.to_vec()), false),
            500 if why.contains("Enforcing job modify index") => (ApiError::Exists, false),
            500 if is_final(&why) => (ApiError::Refused { what, why }, false),
            429 | 500..=599 => (self.busy(status, &why), true),
            _ => (ApiError::Refused { what, why }, false),
        }
    }

    fn busy(&self, status: StatusCode, why: &str) -> ApiError {
        ApiError::Unreachable {
            place: self.api.place().to_owned(),
            why: format!("it answers {} ({why})", status.as_u16()),
        }
    }
}

/// Whether what a 500 says is wrong with what was asked for: Nomad has no other status for a job that it does not accept.
fn is_final(why: &str) -> bool {
    const WORDS: [&str; 8] = [
        "validation failed",
        "error occurred",
        "errors occurred",
        "invalid",
        "not enabled",
        "unsupported",
        "not allowed",
        "exceeds",
    ];
    WORDS.iter().any(|word| why.contains(word))
}

/// Errors of Nomad may be lists over several lines.
fn one_line(text: &str) -> String {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let mut line = parts.join(" ");
    if line.len() > 1000 {
        let end = (0..=1000).rev().find(|at| line.is_char_boundary(*at));
        line.truncate(end.unwrap_or(0));
        line.push('…');
    }
    line
}

fn base(address: &str) -> Result<(Url, Option<String>), Failure> {
    let wrong = |why: String| {
        Failure::new(Exit::Config, format!("`{address}` is no address of Nomad"))
            .hint(format!("write it as http://host:4646 ({why})"))
    };
    let (text, socket) = match address.strip_prefix("unix://") {
        // The host is sent along and means nothing on a socket.
        Some(path) => ("http://localhost", Some(path.to_owned())),
        None => (address, None),
    };
    let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok((url, socket)),
        other => Err(wrong(format!("its scheme is `{other}`"))),
    }
}

fn shown(address: &str) -> String {
    let Ok(mut url) = Url::parse(address) else {
        return address.to_owned();
    };
    if url.password().is_some() {
        // Cannot fail: the URL has a host.
        let _ = url.set_password(Some("***"));
    }
    url.as_str().trim_end_matches('/').to_owned()
}

fn headers(config: &NomadConfig) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(token) = &config.token {
        let mut value = HeaderValue::from_str(token.expose()).map_err(|_| {
            Failure::new(
                Exit::Config,
                "the token of Nomad has characters that a header cannot hold",
            )
            .hint("look at `nomad.token_file` and NOMAD_TOKEN")
        })?;
        value.set_sensitive(true);
        headers.insert("x-nomad-token", value);
    }
    Ok(headers)
}

/// The URL that bears the name in the server's certificate, and a client that finds the server under that name.
fn named(
    mut base: Url,
    builder: ClientBuilder,
    config: &NomadConfig,
) -> Result<(Url, ClientBuilder), Failure> {
    let Some(name) = config
        .tls_server_name
        .as_deref()
        .filter(|_| base.scheme() == "https")
    else {
        return Ok((base, builder));
    };
    let host = base
        .host_str()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    base.set_host(Some(name)).map_err(|error| {
        Failure::new(
            Exit::Config,
            format!("`nomad.tls_server_name` is no host name: {error}"),
        )
    })?;
    let alias = Alias {
        name: name.to_ascii_lowercase(),
        host,
    };
    // A proxy would look the name up itself.
    Ok((base, builder.dns_resolver(alias).no_proxy()))
}

/// Finds a host under the name that its certificate bears.
struct Alias {
    name: String,
    host: String,
}

impl Resolve for Alias {
    fn resolve(&self, name: Name) -> Resolving {
        let host = if name.as_str().eq_ignore_ascii_case(&self.name) {
            self.host.clone()
        } else {
            name.as_str().to_owned()
        };
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

/// Sets whom to trust. The system's authorities are only read where they are needed, as that can be slow or fail.
fn trust(
    mut builder: ClientBuilder,
    base: &Url,
    config: &NomadConfig,
) -> Result<ClientBuilder, Failure> {
    crypto::install();
    builder = match &config.ca_file {
        Some(path) => {
            let certificates = Certificate::from_pem_bundle(&read(path)?)
                .map_err(|error| unusable(path).caused_by(error))?;
            builder.tls_certs_only(certificates)
        }
        None if base.scheme() == "http" => builder.tls_certs_only([]),
        None => builder,
    };
    if config.skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if let Some((cert, key)) = &config.identity {
        let pem = [read(key)?, b"\n".to_vec(), read(cert)?].concat();
        let identity = Identity::from_pem(&pem).map_err(|error| unusable(cert).caused_by(error))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| unusable(path).caused_by(error))
}

fn unusable(path: &Path) -> Failure {
    Failure::new(
        Exit::Config,
        format!("cannot use the certificates in `{}`", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_or_a_socket() {
        let (url, socket) = base("unix:///run/nomad/api.sock").unwrap();
        assert_eq!(
            (url.as_str(), socket.as_deref()),
            ("http://localhost/", Some("/run/nomad/api.sock"))
        );
        assert_eq!(base("https://n.example:4646").unwrap().1, None);
        assert!(base("nomad:4646").is_err() && base("").is_err());
        assert_eq!(
            shown("https://me:secret@n.example/"),
            "https://me:***@n.example"
        );
    }

    #[test]
    fn what_is_wrong_with_a_job_is_told_apart_from_what_may_pass() {
        assert!(is_final(
            "1 error occurred: * Task group main validation failed"
        ));
        assert!(!is_final("No cluster leader") && !is_final("rpc error: EOF"));
    }

    #[test]
    fn errors_are_one_line_and_short() {
        assert_eq!(one_line("a\n\t* b\n"), "a * b");
        let long = one_line(&"ä".repeat(5000));
        assert!(long.len() < 1010 && long.ends_with('…'));
    }
}
