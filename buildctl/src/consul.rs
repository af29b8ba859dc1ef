//! A mirror of jobs in Consul, where the original's command line watches them (`submit-job --watch` reads
//! `nomad-build-service/jobs/ID`). Nothing of a job is ever read from here; a Consul that is out of reach delays nobody but those
//! who watch. What is read, once and at the start as by the original, is what it lets operators say there about all jobs:
//!
//! | key below `PREFIX/config/` | is |
//! |---|---|
//! | `build_timeout`, `test_timeout`, `kill_timeout` | `timeouts.build`, `.test`, `.kill` |
//! | `default_resource_limits/cpu`, `/memory`, `/disk` | `limits.build.cpu`, `.memory`, `.disk` |
//!
//! Each process of a service mirrors every record that it hears of. What is written is the record as it is at that moment, so that
//! it does not matter who writes, or how often; one that is older than what is there is not written.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::StreamExt;
use reqwest::{
    Client, StatusCode, Url,
    header::{HeaderMap, HeaderValue},
    redirect::Policy,
};
use runyard_common::{
    backoff::{Backoff, random},
    crypto,
    exit::Exit,
    report::Failure,
};
use serde::Deserialize;
use tokio::time::sleep;

use crate::{
    api::JobRecord,
    body::{self, Unread},
    config::{Config, ConsulConfig},
    job::JobId,
    ledger::{LedgerError, SharedLedger},
};

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The longest answer that is taken in: more than twice what one value may hold (512 KiB), where a few short ones belong.
const LONGEST: usize = 1 << 20;
/// How often one write is tried.
const ATTEMPTS: u32 = 5;
/// Between attempts.
const AGAIN: Backoff = Backoff {
    initial: Duration::from_millis(200),
    factor: 3.0,
    max: Duration::from_secs(10),
    jitter: 0.3,
};

/// Writes records to Consul's key-value store (Consul documentation, "KV Store HTTP API").
#[derive(Debug)]
pub struct Mirror {
    http: Client,
    base: Url,
    prefix: String,
}

/// Why a record could not be mirrored.
#[derive(Debug, thiserror::Error)]
enum MirrorError {
    #[error("Consul cannot be reached: {0}")]
    Unreachable(reqwest::Error),
    #[error("Consul answers {0}")]
    Refused(StatusCode),
    #[error("the answer of Consul cannot be read: {0}")]
    Unread(Unread),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("it is no JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl MirrorError {
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Ledger(LedgerError::Unreachable { .. }) => true,
            Self::Refused(status) => status.is_server_error() || status.as_u16() == 429,
            _ => false,
        }
    }
}

/// The configuration with what Consul says over it, if there is one. A Consul that does not answer, and a value that is none, are
/// told and change nothing.
pub async fn overridden(mut config: Config) -> Config {
    let Some(consul) = &config.consul else {
        return config;
    };
    let said = match Mirror::open(consul) {
        Ok(mirror) => mirror.said().await,
        // The daemon ends by it.
        Err(_) => return config,
    };
    match said {
        Ok(said) => said
            .iter()
            .for_each(|(key, text)| take(&mut config, key, text)),
        Err(error) => tracing::warn!(%error, "the configuration in Consul is not read"),
    }
    config
}

/// Takes one value in.
fn take(config: &mut Config, key: &str, text: &str) {
    let text = text.trim();
    let duration = || {
        runyard_common::duration::parse(text)
            .ok()
            .filter(|it| !it.is_zero())
    };
    let number = || text.parse::<u32>().ok().filter(|it| *it > 0);
    let Config {
        timeouts, limits, ..
    } = config;
    let taken = match key {
        "build_timeout" => duration().map(|it| timeouts.build = it),
        "test_timeout" => duration().map(|it| timeouts.test = it),
        "kill_timeout" => duration().map(|it| timeouts.kill = it),
        "default_resource_limits/cpu" => number().map(|it| limits.build.cpu = it),
        "default_resource_limits/memory" => number().map(|it| limits.build.memory = it),
        "default_resource_limits/disk" => number().map(|it| limits.build.disk = it),
        _ => return tracing::debug!(key, "a key in Consul means nothing here"),
    };
    if taken.is_some() {
        tracing::info!(key, value = text, "set in Consul");
    } else {
        tracing::warn!(key, value = text, "a value in Consul cannot be read");
    }
}

/// An entry, as Consul lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    /// Base64.
    value: Option<String>,
}

impl Mirror {
    /// What is said below `config/`: keys without what they begin with, and texts.
    async fn said(&self) -> Result<Vec<(String, String)>, MirrorError> {
        let folder = format!("{}/config/", self.prefix);
        let mut url = self.url(&folder);
        url.set_query(Some("recurse=true"));
        let answer = self.http.get(url).send().await;
        let answer = answer.map_err(|error| MirrorError::Unreachable(error.without_url()))?;
        let body = match answer.status() {
            StatusCode::NOT_FOUND => return Ok(Vec::new()),
            status if !status.is_success() => return Err(MirrorError::Refused(status)),
            _ => body::read(answer, LONGEST).await,
        };
        let body = body.map_err(|unread| match unread {
            Unread::Lost(error) => MirrorError::Unreachable(error.without_url()),
            Unread::TooLong(_) => MirrorError::Unread(unread),
        })?;
        let entries: Vec<Entry> = serde_json::from_slice(&body)?;
        let text = |entry: Entry| {
            let key = entry.key.strip_prefix(&folder)?.to_owned();
            let bytes = STANDARD.decode(entry.value?).ok()?;
            Some((key, String::from_utf8(bytes).ok()?))
        };
        Ok(entries.into_iter().filter_map(text).collect())
    }

    /// A mirror in the Consul that is configured. Fails with [`Exit::Config`] when its address or token cannot be used.
    pub fn open(config: &ConsulConfig) -> Result<Self, Failure> {
        crypto::install();
        let refuse = |why: String| {
            Failure::new(
                Exit::Config,
                format!("`{}` is no address of Consul: {why}", config.address),
            )
            .hint("write consul.address as http://host:8500")
        };
        let base = Url::parse(&config.address).map_err(|error| refuse(error.to_string()))?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &config.token {
            let mut value = HeaderValue::from_str(token.expose()).map_err(|_| {
                Failure::new(
                    Exit::Config,
                    "the token of Consul has characters that a header cannot hold",
                )
            })?;
            value.set_sensitive(true);
            headers.insert("x-consul-token", value);
        }
        let http = Client::builder()
            .timeout(LIMIT)
            // Consul does not redirect, and its token is for nobody else.
            .redirect(Policy::none())
            .default_headers(headers)
            .build()
            .map_err(|error| refuse(error.without_url().to_string()))?;
        Ok(Self {
            http,
            base,
            prefix: config.prefix.trim_matches('/').to_owned(),
        })
    }

    /// Mirrors every change from now on. Never ends.
    pub async fn run(&self, ledger: SharedLedger) {
        let mut changes = ledger.changes();
        let mut written: BTreeMap<JobId, u64> = BTreeMap::new();
        while let Some(id) = changes.next().await {
            self.mirror(&ledger, id, &mut written).await;
        }
    }

    /// Mirrors one job, in several attempts if need be.
    async fn mirror(&self, ledger: &SharedLedger, id: JobId, written: &mut BTreeMap<JobId, u64>) {
        for attempt in 0..ATTEMPTS {
            match self.once(ledger, id, written).await {
                Ok(()) => return,
                Err(error) if error.may_pass() && attempt + 1 < ATTEMPTS => {
                    sleep(AGAIN.delay(attempt, random())).await;
                }
                Err(error) => {
                    tracing::warn!(job = %id, %error, "a job is not mirrored in Consul");
                    return;
                }
            }
        }
    }

    async fn once(
        &self,
        ledger: &SharedLedger,
        id: JobId,
        written: &mut BTreeMap<JobId, u64>,
    ) -> Result<(), MirrorError> {
        let Some(known) = ledger.get(id).await? else {
            written.remove(&id);
            return self.send(self.http.delete(self.key(id))).await;
        };
        if written
            .get(&id)
            .is_some_and(|version| *version >= known.version)
        {
            return Ok(());
        }
        let value = serde_json::to_vec(&JobRecord::from(&known.job))?;
        self.send(self.http.put(self.key(id)).body(value)).await?;
        written.insert(id, known.version);
        Ok(())
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(), MirrorError> {
        let answer = request
            .send()
            .await
            .map_err(|error| MirrorError::Unreachable(error.without_url()))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(MirrorError::Refused(status)),
        }
    }

    fn key(&self, id: JobId) -> Url {
        self.url(&format!("{}/jobs/{id}", self.prefix))
    }

    fn url(&self, key: &str) -> Url {
        let mut url = self.base.clone();
        let above = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{above}/v1/kv/{key}"));
        url
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{
        Router,
        body::Bytes,
        extract::{Path, State},
        http::HeaderMap as Headers,
        routing::put,
    };
    use jiff::Timestamp;
    use runyard_common::{secret::Secret, testing::patience};
    use serde_json::Value;
    use tokio::{net::TcpListener, sync::mpsc, time::timeout};

    use super::*;
    use crate::{
        api::JobConfig,
        job::{Job, State as Progress},
        ledger::{Ledger, memory::MemoryLedger},
    };

    type Written = (String, String, Option<Value>);

    #[derive(Clone)]
    struct Consul {
        written: mpsc::UnboundedSender<Written>,
        failures: Arc<Mutex<usize>>,
    }

    async fn store(
        State(consul): State<Consul>,
        Path(key): Path<String>,
        headers: Headers,
        body: Bytes,
    ) -> StatusCode {
        let mut failures = consul.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        let token = headers["x-consul-token"].to_str().unwrap().to_owned();
        let value = serde_json::from_slice(&body).ok();
        consul.written.send((key, token, value)).unwrap();
        StatusCode::OK
    }

    /// A Consul that fails so often at first, a mirror in it, and what is written there.
    async fn consul(failures: usize) -> (Mirror, mpsc::UnboundedReceiver<Written>) {
        let (sender, written) = mpsc::unbounded_channel();
        let state = Consul {
            written: sender,
            failures: Arc::new(Mutex::new(failures)),
        };
        let app = Router::new()
            .route("/v1/kv/{*key}", put(store).delete(store))
            .with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let config = ConsulConfig {
            address: format!("http://{address}"),
            token: Some(Secret::new("t")),
            prefix: "nomad-build-service".to_owned(),
        };
        (Mirror::open(&config).unwrap(), written)
    }

    fn job() -> Job {
        let config = JobConfig {
            webhook_secret: "hidden".to_owned(),
            ..JobConfig::default()
        };
        Job::new(JobId::random(), config, Timestamp::now())
    }

    #[tokio::test]
    async fn a_change_is_written_where_the_original_watches_without_secrets() {
        let (mirror, mut written) = consul(2).await;
        let ledger = Arc::new(MemoryLedger::default());
        let shared: SharedLedger = ledger.clone();
        let mirroring = tokio::spawn(async move { mirror.run(shared).await });
        let mut job = job();
        while ledger.get(job.id).await.unwrap().is_none() {
            tokio::task::yield_now().await;
            ledger.create(&job).await.unwrap();
        }
        job.state = Progress::Building;
        let mut next = async || {
            // The mirror may have begun to listen after the creation.
            let version = ledger.get(job.id).await.unwrap().unwrap().version;
            ledger.replace(&job, version).await.unwrap();
            timeout(Duration::from_millis(500), written.recv()).await
        };
        let (key, token, value) = loop {
            if let Ok(Some(found)) = next().await
                && found.2.as_ref().unwrap()["status"] == "BUILDING"
            {
                break found;
            }
        };
        assert_eq!(key, format!("nomad-build-service/jobs/{}", job.id));
        assert_eq!(token, "t");
        assert!(!value.unwrap().to_string().contains("hidden"));
        ledger.remove(job.id).await.unwrap();
        let gone = async { while written.recv().await.unwrap().2.is_some() {} };
        timeout(patience(), gone).await.unwrap();
        mirroring.abort();
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_taken_in() {
        let endless = || async {
            let part = || Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b' '; 1 << 12]));
            let parts = futures_util::stream::repeat_with(part);
            axum::body::Body::from_stream(parts)
        };
        let app = Router::new().route("/v1/kv/p/config/", axum::routing::get(endless));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = ConsulConfig {
            address: format!("http://{}", listener.local_addr().unwrap()),
            token: None,
            prefix: "p".to_owned(),
        };
        tokio::spawn(async move { axum::serve(listener, app).await });
        let said = timeout(patience(), Mirror::open(&config).unwrap().said()).await;
        assert_eq!(
            said.unwrap().unwrap_err().to_string(),
            "the answer of Consul cannot be read: it is longer than 1048576 bytes"
        );
    }

    async fn listing(State(list): State<Value>, headers: Headers) -> axum::Json<Value> {
        assert_eq!(headers["x-consul-token"], "t");
        axum::Json(list)
    }

    #[tokio::test]
    async fn what_an_operator_says_in_consul_wins_and_nonsense_changes_nothing() {
        let entry = |key: &str, text: &str| serde_json::json!({"Key": format!("p/config/{key}"), "Value": STANDARD.encode(text)});
        let list = serde_json::json!([
            {"Key": "p/config/", "Value": null},
            entry("build_timeout", "45m\n"),
            entry("test_timeout", "soon"),
            entry("default_resource_limits/memory", "4096"),
            entry("default_resource_limits/cpu", "-1"),
            entry("default_resource_limits/disk", "0"),
            entry("other", "x"),
        ]);
        let app = Router::new()
            .route("/v1/kv/p/config/", axum::routing::get(listing))
            .with_state(list);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let loaded = Config::load(&crate::config::SettingsArgs::default(), &|_| None);
        let mut before = loaded.unwrap().config;
        assert_eq!(overridden(before.clone()).await, before);
        before.consul = Some(ConsulConfig {
            address: format!("http://{address}"),
            token: Some(Secret::new("t")),
            prefix: "p".to_owned(),
        });
        let after = overridden(before.clone()).await;
        let mut expected = before;
        expected.timeouts.build = Duration::from_mins(45);
        expected.limits.build.memory = 4096;
        assert_eq!(after, expected);
    }

    #[test]
    fn what_is_wrong_with_the_address_is_said() {
        let config = ConsulConfig {
            address: "consul".to_owned(),
            token: None,
            prefix: String::new(),
        };
        let failure = Mirror::open(&config).unwrap_err();
        assert!(failure.to_string().contains("`consul`"), "{failure}");
    }
}
