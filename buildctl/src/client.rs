//! The typed client of a service's `/v1`: what the verbs of the command line speak with, blocking; and [`Remote`], the same as
//! [`Builds`](crate::service::Builds), for MCP on stdio and whoever else takes builds as they come. Errors are [`BuildError`]s,
//! as those of a service in this process are, so that callers need not know which one they have.

mod attempts;
mod follow;
mod refused;
mod remote;

use std::time::{Duration, Instant};

use runyard_common::{
    http::client::{Call, Client as Http, Response, path},
    report::Failure,
};
use serde::de::DeserializeOwned;

pub(crate) use attempts::Attempts;
pub use follow::Follow;
pub use remote::Remote;

use crate::{
    api::{
        CleanupAnswer, CleanupRequest, HealthAnswer, JobConfig, JobsAnswer, KillAnswer,
        KillRequest, LinesAnswer, SubmitRequest,
    },
    config::ClientConfig,
    job::JobId,
    server::LONGEST_WAIT,
    service::{
        BuildError, Cleaned, Cleanup, Health, JobFilter, JobList, JobView, Killed, LogPage,
        LogQuery, Submitted,
    },
    trace::{self, TRACEPARENT},
};

const AGENT: &str = concat!("buildctl/", env!("CARGO_PKG_VERSION"));

/// How long a request waits for a job's end, so that answers come before proxies lose their patience.
const WAIT: Duration = Duration::from_secs(25);

/// What a service may take beyond that.
const SLACK: Duration = Duration::from_secs(15);

/// A client of one service. It blocks, and must not be made, used or dropped in an async task; [`Remote`] may.
#[derive(Debug)]
pub struct Client {
    http: Http,
}

impl Client {
    /// A client of the service that a configuration names.
    ///
    /// Fails with [`runyard_common::exit::Exit::Config`] if the URL or a certificate cannot be used.
    pub fn new(config: &ClientConfig) -> Result<Self, Failure> {
        let http = Http::new(AGENT, config.url(), config.options())?;
        Ok(Self { http })
    }

    /// The service's URL, without a password.
    pub fn url(&self) -> &str {
        self.http.base()
    }

    /// Submits a job; with a key, a second submission with the same key is the same job.
    pub fn submit(&self, config: JobConfig, key: Option<String>) -> Result<Submitted, BuildError> {
        let request = SubmitRequest {
            job_config: config,
            idempotency_key: key,
        };
        let mut call = self.http.post("/v1/jobs").json(&request);
        if let Some(trace) = trace::current() {
            call = call.header(TRACEPARENT, &trace.to_string());
        }
        ask(call, None)
    }

    /// How far a job is.
    pub fn status(&self, id: JobId) -> Result<JobView, BuildError> {
        ask(self.http.get(&at(id, &[])), Some(id))
    }

    /// Waits at most `limit` for a job's end; its status then.
    pub fn wait(&self, id: JobId, limit: Duration) -> Result<JobView, BuildError> {
        let began = Instant::now();
        loop {
            let left = limit.saturating_sub(began.elapsed());
            let view = self.wait_once(id, left.min(WAIT.min(LONGEST_WAIT)))?;
            if view.job.state.is_terminal() || began.elapsed() >= limit {
                return Ok(view);
            }
        }
    }

    fn wait_once(&self, id: JobId, limit: Duration) -> Result<JobView, BuildError> {
        let wait = format!("{}ms", limit.as_millis());
        let call = self.http.get(&at(id, &[])).query("wait", &wait);
        ask(call.read_timeout(limit + SLACK), Some(id))
    }

    /// A page of a job's log.
    pub fn logs(&self, id: JobId, query: &LogQuery) -> Result<LogPage, BuildError> {
        let call = asked(self.http.get(&at(id, &["logs"])), query);
        let page: LinesAnswer = ask(call, Some(id))?;
        let next = page.next.parse().map_err(|error| unexpected(&error))?;
        Ok(LogPage {
            lines: page.lines.into_iter().map(Into::into).collect(),
            next,
            complete: page.complete,
            more: page.more,
            lost: page.lost,
        })
    }

    /// A job's log as it grows, until the job has ended and all is told. Goes on by itself after a cut.
    pub fn follow(&self, id: JobId, query: LogQuery) -> Result<Follow<'_>, BuildError> {
        Follow::begin(self, id, query)
    }

    /// Ends a job.
    pub fn kill(&self, id: JobId, reason: Option<String>) -> Result<Killed, BuildError> {
        let request = KillRequest {
            job_id: String::new(),
            reason,
        };
        let call = self.http.post(&at(id, &["kill"])).json(&request);
        let answer: KillAnswer = ask(call, Some(id))?;
        Ok(Killed {
            killed: answer.success,
            message: answer.message,
        })
    }

    /// Removes what ended jobs left behind.
    pub fn cleanup(&self, what: &Cleanup) -> Result<Cleaned, BuildError> {
        let (path, id, older_than) = match what {
            Cleanup::Job(id) => (at(*id, &["cleanup"]), Some(*id), None),
            Cleanup::Ended { older_than } => {
                ("/v1/cleanup".to_owned(), None, Some((*older_than).into()))
            }
        };
        let request = CleanupRequest {
            older_than,
            ..CleanupRequest::default()
        };
        let answer: CleanupAnswer = ask(self.http.post(&path).json(&request), id)?;
        Ok(Cleaned {
            jobs: answer.cleaned_jobs,
            problems: if answer.success {
                Vec::new()
            } else {
                answer.message.split("; ").map(str::to_owned).collect()
            },
        })
    }

    /// Forgets an ended job.
    pub fn purge(&self, id: JobId) -> Result<(), BuildError> {
        send(self.http.delete(&at(id, &[])), Some(id)).map(drop)
    }

    /// Jobs, newest first. A service answers a thousand at once at most: without a limit, all are asked for in turn.
    pub fn list(&self, filter: &JobFilter) -> Result<JobList, BuildError> {
        let mut list = JobList::default();
        loop {
            let limit = filter.limit.map(|limit| limit - list.jobs.len());
            let page = self.page(filter, filter.offset + list.jobs.len(), limit)?;
            let (count, wanted) = (page.jobs.len(), limit.unwrap_or(usize::MAX));
            list.total = page.total;
            list.jobs.extend(page.jobs);
            let is_last = filter.offset + list.jobs.len() >= list.total;
            if count == 0 || count >= wanted || is_last {
                return Ok(list);
            }
        }
    }

    fn page(
        &self,
        filter: &JobFilter,
        offset: usize,
        limit: Option<usize>,
    ) -> Result<JobsAnswer, BuildError> {
        let mut call = self.http.get("/v1/jobs");
        if let Some(owner) = &filter.owner {
            call = call.query("owner", owner);
        }
        if let Some(state) = filter.state {
            call = call.query("status", &state.to_string());
        }
        if let Some(ended) = filter.ended {
            call = call.query("ended", &ended.to_string());
        }
        let limit = limit.unwrap_or(1000).to_string();
        let call = call.query("limit", &limit);
        ask(call.query("offset", &offset.to_string()), None)
    }

    /// Whether what the service needs answers. An unwell service answers too.
    pub fn health(&self) -> Result<Health, BuildError> {
        let call = self.http.get("/health");
        let response = call.send_any().map_err(|failure| unreachable(&failure))?;
        let response = match response.status().as_u16() {
            200 | 503 => response,
            _ => return Err(refused::told(response, None)),
        };
        let answer: HealthAnswer = response.json().map_err(|failure| unexpected(&failure))?;
        let mut problems = answer.problems;
        let state = |(part, word): (String, String)| {
            let state = match word.as_str() {
                "healthy" => Ok(()),
                _ => Err(problems.remove(&part).unwrap_or(word)),
            };
            (part, state)
        };
        Ok(Health {
            services: answer.services.into_iter().map(state).collect(),
        })
    }
}

fn ask<T: DeserializeOwned>(call: Call<'_>, id: Option<JobId>) -> Result<T, BuildError> {
    let response = send(call, id)?;
    response.json().map_err(|failure| unexpected(&failure))
}

/// Sends a call about a job, if it is about one; what says no is an error.
fn send(call: Call<'_>, id: Option<JobId>) -> Result<Response, BuildError> {
    let response = call.send_any().map_err(|failure| unreachable(&failure))?;
    if response.status().is_success() {
        Ok(response)
    } else {
        Err(refused::told(response, id))
    }
}

fn unreachable(failure: &Failure) -> BuildError {
    BuildError::Unreachable(format!(
        "{} (is a service running there? start one with `serve`, or name another with --url)",
        spelled(failure)
    ))
}

/// A failure and its causes in one line.
fn spelled(failure: &Failure) -> String {
    let causes = std::iter::successors(std::error::Error::source(failure), |error| error.source());
    let causes: Vec<String> = causes.map(|cause| format!(": {cause}")).collect();
    format!("{}{}", failure.message(), causes.concat())
}

fn unexpected(error: &dyn std::error::Error) -> BuildError {
    BuildError::Internal(format!(
        "the service's answer is not what was expected: {error} (client and service may be of different versions)"
    ))
}

fn at(id: JobId, below: &[&str]) -> String {
    let id = id.to_string();
    let segments: Vec<&str> = ["v1", "jobs", &id]
        .into_iter()
        .chain(below.iter().copied())
        .collect();
    path(&segments)
}

fn asked<'c>(mut call: Call<'c>, query: &LogQuery) -> Call<'c> {
    let pairs = [
        ("phase", query.phase.map(|phase| phase.to_string())),
        ("cursor", query.cursor.as_ref().map(ToString::to_string)),
        ("tail", query.tail.map(|tail| tail.to_string())),
        ("max_bytes", query.max_bytes.map(|bytes| bytes.to_string())),
        ("grep", query.grep.clone()),
        ("errors_only", query.errors_only.then(|| "1".to_owned())),
    ];
    for (name, value) in pairs {
        if let Some(value) = value {
            call = call.query(name, &value);
        }
    }
    call
}
