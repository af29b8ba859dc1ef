//! One call and its answer: built, sent, repeated where [`super::retry`] says so, and checked.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::Response as HttpResponse;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, failure, retry};
use crate::backoff;
use crate::exit::Exit;
use crate::report::Failure;

/// A call that is being put together.
#[must_use = "a call does nothing until it is sent"]
#[derive(Debug)]
pub struct Call<'c> {
    client: &'c Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    read_timeout: Option<Duration>,
    /// The first mistake made in putting it together, told when it is sent.
    mistake: Option<Failure>,
}

/// How one attempt ended.
enum Attempt {
    Answered(HttpResponse),
    /// No connection came about: the server has seen nothing of the call.
    NotConnected(reqwest::Error),
    Lost(reqwest::Error),
}

impl<'c> Call<'c> {
    pub(super) fn new(client: &'c Client, method: Method, path: &str) -> Self {
        let mut url = client.base.url.clone();
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(path, query)| (path, Some(query)));
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/{}", path.trim_start_matches('/')));
        url.set_query(query);
        let headers = HeaderMap::new();
        Self {
            client,
            method,
            url,
            headers,
            body: None,
            read_timeout: None,
            mistake: None,
        }
    }

    /// Adds a pair to the query.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }

    /// Sets a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            (Ok(name), Ok(value)) => {
                self.headers.insert(name, value);
            }
            _ => self.mistake(format!(
                "`{name}` cannot be sent as a header with this value"
            )),
        }
        self
    }

    /// Sets the body to a value as JSON.
    pub fn json(mut self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => return self.body("application/json", bytes),
            Err(error) => self.mistake(format!(
                "the request's body cannot be written as JSON: {error}"
            )),
        }
        self
    }

    /// Sets the body.
    pub fn body(mut self, media_type: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        self.body = Some(bytes.into());
        self
    }

    /// Sets how long the server may be silent in this call, as a long poll needs it.
    pub fn read_timeout(mut self, limit: Duration) -> Self {
        self.read_timeout = Some(limit);
        self
    }

    fn mistake(&mut self, message: String) {
        self.mistake
            .get_or_insert(Failure::new(Exit::Failed, message));
    }

    /// Sends the call and waits for the head of the answer; a status that says no is an error.
    ///
    /// - [`Exit::Unreachable`]: no connection, no answer in time, or 502, 503, 504
    /// - [`Exit::NotFound`]: 404, 410
    /// - [`Exit::Failed`]: any other status from 400 on, with the words of a
    ///   [`Problem`](crate::http::problem::Problem) body
    pub fn send(self) -> Result<Response, Failure> {
        let place = self.place();
        let answer = self.send_any()?;
        if answer.status().is_client_error() || answer.status().is_server_error() {
            return Err(failure::refused(&place, answer));
        }
        Ok(answer)
    }

    /// Sends the call and waits for the head of the answer, whatever its status.
    pub fn send_any(mut self) -> Result<Response, Failure> {
        if let Some(mistake) = self.mistake.take() {
            return Err(mistake);
        }
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            let ended = self.attempt(started)?;
            let Some(wait) = self.wait_after(&ended, attempt, started) else {
                return self.settle(ended);
            };
            tracing::debug!(attempt, ?wait, method = %self.method, url = %self.shown(), "trying again");
            thread::sleep(wait);
            attempt += 1;
        }
    }

    fn attempt(&self, started: Instant) -> Result<Attempt, Failure> {
        let Client { http, options, .. } = self.client;
        let mut request = http
            .request(self.method.clone(), self.url.clone())
            .headers(self.headers.clone());
        if let Some(token) = &options.token {
            request = request.header(AUTHORIZATION, bearer(token.expose())?);
        }
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        let silent = self.read_timeout.unwrap_or(options.read_timeout);
        let left = options
            .total_timeout
            .map(|total| total.saturating_sub(started.elapsed()));
        // A wait of nothing is no wait at all in the library: the least is a millisecond.
        let limit = silent
            .min(left.unwrap_or(silent))
            .max(Duration::from_millis(1));
        Ok(match request.timeout(limit).send() {
            Ok(response) => Attempt::Answered(response),
            Err(error) if error.is_connect() => Attempt::NotConnected(error),
            Err(error) => Attempt::Lost(error),
        })
    }

    fn wait_after(&self, ended: &Attempt, attempt: u32, started: Instant) -> Option<Duration> {
        let asked = match ended {
            Attempt::Answered(response) if retry::may_pass(response.status()) => {
                retry::asked_wait(response.headers(), jiff::Timestamp::now())
            }
            Attempt::NotConnected(_) => None,
            Attempt::Answered(_) | Attempt::Lost(_) => return None,
        };
        let options = &self.client.options;
        let wait = options
            .retry
            .wait(&self.method, attempt, asked, backoff::random())?;
        let in_time = options
            .total_timeout
            .is_none_or(|total| started.elapsed() + wait < total);
        in_time.then_some(wait)
    }

    fn settle(&self, ended: Attempt) -> Result<Response, Failure> {
        match ended {
            Attempt::Answered(inner) => Ok(Response {
                inner,
                place: self.place(),
            }),
            Attempt::NotConnected(error) | Attempt::Lost(error) => Err(failure::unreachable(
                &self.client.base.shown,
                &self.place(),
                error,
            )),
        }
    }

    /// The call in words, for messages.
    fn place(&self) -> String {
        format!("{} {}", self.method, self.shown())
    }

    /// The URL below the base as the user gave it; no query, which may hold what should not be
    /// shown.
    fn shown(&self) -> String {
        let prefix = self.client.base.url.path().trim_end_matches('/');
        let below = self
            .url
            .path()
            .strip_prefix(prefix)
            .unwrap_or_else(|| self.url.path());
        format!("{}{below}", self.client.base.shown)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| {
        Failure::new(
            Exit::Config,
            "the token has characters that no header can carry",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The answer to a call. Reading from it streams its body.
#[derive(Debug)]
pub struct Response {
    inner: HttpResponse,
    place: String,
}

impl Response {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// The body as a value. Fails with [`Exit::Failed`] when it is none.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, Failure> {
        let place = self.place.clone();
        serde_json::from_slice(&self.bytes()?).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("the answer to {place} is not what was expected"),
            )
            .caused_by(error)
            .hint("client and server may be of different versions")
        })
    }

    /// The body as text; bytes that are none become U+FFFD.
    pub fn text(self) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// The body.
    pub fn bytes(self) -> Result<Vec<u8>, Failure> {
        let place = self.place;
        match self.inner.bytes() {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(Failure::new(
                Exit::Unreachable,
                format!("the answer to {place} broke off"),
            )
            .caused_by(error.without_url())),
        }
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}
