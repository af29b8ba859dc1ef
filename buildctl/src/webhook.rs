//! Posts events of jobs to where their submitters want them: signed, with a limit of time, and not to addresses that only this
//! machine or its network should reach. When a post is made and made again is [`crate::reconcile`]'s, and so is its body; what an
//! answer means is said here.
//!
//! | answer | means |
//! |---|---|
//! | 2xx | delivered |
//! | 408, 425, 429, and what is not 4xx | again later, not before what `Retry-After` says |
//! | any other 4xx | it will never be taken |
//!
//! Body, `User-Agent` family and signature are those of the original: `X-Webhook-Signature: sha256=` and the hexadecimal
//! HMAC-SHA256 of the body. `X-Buildctl-Event` names the event, `X-Buildctl-Delivery` the delivery. All of it is the same for each
//! attempt, so that a receiver can tell a repetition by the delivery.

mod egress;

use std::{
    error::Error,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use runyard_common::http::client::asked_wait;
use sha2::Sha256;

use crate::{
    hex::hex,
    job::{Job, Notice},
    reconcile::Delivery,
    trace::TRACEPARENT,
};

pub use egress::Egress;

/// How long a post may take.
const LIMIT: Duration = Duration::from_secs(30);

const AGENT: &str = concat!("buildctl/", env!("CARGO_PKG_VERSION"));

/// Headers that are not for users to set: they frame the message.
const RESERVED: [&str; 5] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "x-webhook-signature",
];

/// Posts events. Clones share their connections, which begin with the first post.
#[derive(Clone, Debug, Default)]
pub struct Webhooks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    egress: Egress,
    client: OnceLock<Client>,
}

impl Webhooks {
    /// Posts to where this allows it.
    pub fn new(egress: Egress) -> Self {
        Self(Arc::new(Inner {
            egress,
            client: OnceLock::new(),
        }))
    }

    /// Posts a notice of a job, whose body is written.
    pub async fn post(&self, job: &Job, notice: &Notice) -> Delivery {
        let url = match self.0.egress.allowed(&job.config.webhook_url) {
            Ok(url) => url,
            Err(why) => return Delivery::Hopeless(why.to_string()),
        };
        let Some(body) = notice.body.clone() else {
            return Delivery::Hopeless("it has no body".to_owned());
        };
        match self.send(url, job, notice, body).await {
            Ok(answer) => meaning(answer.status(), answer.headers(), Timestamp::now()),
            Err(error) => failure(error),
        }
    }

    async fn send(
        &self,
        url: Url,
        job: &Job,
        notice: &Notice,
        body: String,
    ) -> Result<Response, reqwest::Error> {
        let headers = headers(job, notice, body.as_bytes());
        let request = self.client()?.post(url).headers(headers).body(body);
        request.send().await
    }

    fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.0.client.get() {
            return Ok(client);
        }
        runyard_common::crypto::install();
        let client = Client::builder()
            .timeout(LIMIT)
            .redirect(redirect::Policy::none())
            // A proxy would resolve names itself.
            .no_proxy()
            .dns_resolver(self.0.egress.clone())
            .build()?;
        Ok(self.0.client.get_or_init(|| client))
    }
}

/// What an answer means.
fn meaning(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Delivery {
    let passes = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    let why = format!("the receiver answered {status}");
    if status.is_success() {
        Delivery::Done(status.to_string())
    } else if status.is_client_error() && !passes.contains(&status) {
        Delivery::Hopeless(why)
    } else {
        let pause = asked_wait(headers, now);
        Delivery::Failed { why, pause }
    }
}

/// What an error of a post means; never with the URL, which may hold a token.
fn failure(error: reqwest::Error) -> Delivery {
    let error = error.without_url();
    if let Some(refused) = causes(&error).find_map(|cause| cause.downcast_ref::<egress::Refused>())
    {
        return Delivery::Hopeless(refused.to_string());
    }
    let why = causes(&error)
        .last()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    Delivery::Failed {
        why: format!("{error}{why}"),
        pause: None,
    }
}

fn causes(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// The headers of a post: ours, the user's over them, and the signature.
fn headers(job: &Job, notice: &Notice, body: &[u8]) -> HeaderMap {
    let config = &job.config;
    let mut headers = HeaderMap::new();
    let trace = job.trace.map(|trace| trace.to_string());
    if let Some(Ok(trace)) = trace.map(HeaderValue::try_from) {
        headers.insert(TRACEPARENT, trace);
    }
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    for (name, value) in &config.webhook_headers {
        let name = HeaderName::try_from(name.to_ascii_lowercase());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value))
            && !RESERVED.contains(&name.as_str())
        {
            headers.insert(name, value);
        }
    }
    let own = [
        ("x-buildctl-event", notice.event.clone()),
        ("x-buildctl-delivery", notice.delivery.to_string()),
    ];
    let signature = (!config.webhook_secret.is_empty()).then(|| {
        (
            "x-webhook-signature",
            signature(&config.webhook_secret, body),
        )
    });
    for (name, value) in own.into_iter().chain(signature) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

/// What a receiver compares: `sha256=` and the hexadecimal HMAC-SHA256 of the body.
pub fn signature(secret: &str, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes());
    let digits = mac.map(|mut mac| {
        mac.update(body);
        hex(mac.finalize().into_bytes())
    });
    format!("sha256={}", digits.unwrap_or_default())
}

#[cfg(test)]
mod tests;
