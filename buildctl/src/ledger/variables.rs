//! Records as Nomad variables: `buildctl/jobs/ID` holds a job, `buildctl/claims/HASH` the claim on an image. Which changes a record
//! goes through is [`crate::reconcile`]'s; the calls are [`NomadApi`]'s (Nomad documentation, "Variables HTTP API").
//!
//! ```text
//!  buildctl/jobs/5c1d9c0e-…     record = {"id": …}                 or  record_deflate = base64 of it, deflated, if it is long
//!  buildctl/claims/9f86d081…    holder = 5c1d9c0e-…, key = image-registry.example-app-main
//! ```
//!
//! A variable's version is its `ModifyIndex`, by which Nomad compares and swaps (`cas`). All keys and values of one may be 64 KiB
//! together; a record that is too long even when deflated is refused, and says so.
//!
//! A list costs one call and one more for each record that changed since this process last saw it. What is remembered for that is a
//! copy and no more: a process without it answers the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use runyard_common::backoff::{Backoff, random};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::{Claim, Created, Ledger, LedgerError, Replaced, Versioned};
use crate::{
    hex::hex,
    job::{Job, JobId},
    scheduler::nomad::{ApiError, NomadApi, absent},
};

/// Where records are.
const JOBS: &str = "buildctl/jobs/";
/// Where claims are.
const CLAIMS: &str = "buildctl/claims/";
/// The item of a record as it is.
const PLAIN: &str = "record";
/// The item of a record that is deflated.
const DEFLATED: &str = "record_deflate";
/// Longer records are deflated.
const SHORT: usize = 16 << 10;
/// What Nomad allows for all items of a variable together, in bytes.
const LONGEST: usize = 64 << 10;
/// No record is longer when it is inflated, so that a broken one cannot fill the memory.
const MOST: u64 = 16 << 20;
/// How many records are fetched at once.
const AT_ONCE: usize = 4;
/// How long a list that does not change is waited for.
const WAIT: Duration = Duration::from_mins(2);
/// How often a claim may slip away between looking and taking before that is an error.
const COLLISIONS: usize = 20;
/// After a failure to wait for changes.
const AGAIN: Backoff = Backoff {
    initial: Duration::from_millis(200),
    factor: 2.0,
    max: Duration::from_secs(10),
    jitter: 0.3,
};

/// Records in a Nomad cluster.
pub struct VariableLedger {
    api: NomadApi,
    /// Records as they were when they were last read.
    seen: Mutex<BTreeMap<JobId, Versioned>>,
}

/// A variable, or what a list says of one.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Variable {
    path: String,
    modify_index: u64,
    items: BTreeMap<String, String>,
}

impl VariableLedger {
    /// The ledger in the namespace that `api` works in.
    pub fn open(api: NomadApi) -> Self {
        Self {
            api,
            seen: Mutex::default(),
        }
    }

    async fn read(&self, path: &str) -> Result<Option<Variable>, LedgerError> {
        let answer = self.api.get(&segments("var", path)).send().await;
        match absent(answer)? {
            Some(answer) => Ok(Some(answer.json()?)),
            None => Ok(None),
        }
    }

    /// Writes a variable if its version is `version` (0: if there is none); its version then, or what is there instead.
    async fn write(
        &self,
        path: &str,
        items: &BTreeMap<&str, String>,
        version: u64,
    ) -> Result<Result<u64, Option<Variable>>, LedgerError> {
        let body = json!({"Path": path, "Namespace": self.api.namespace(), "Items": items});
        let call = self.api.put(&segments("var", path), &body);
        match call.query("cas", &version.to_string()).send().await {
            Ok(answer) => Ok(Ok(answer.json::<Variable>()?.modify_index)),
            // The body is the variable as it is; of one that is gone there is none.
            Err(ApiError::Conflict(body)) => Ok(Err(serde_json::from_slice(&body)
                .ok()
                .filter(|it: &Variable| it.modify_index > 0))),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, path: &str, version: Option<u64>) -> Result<(), LedgerError> {
        let mut call = self.api.delete(&segments("var", path));
        if let Some(version) = version {
            call = call.query("cas", &version.to_string());
        }
        match absent(call.send().await) {
            // It is somebody else's by now.
            Err(ApiError::Conflict(_)) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }

    /// A record of the list, fetched only if it is not known in this version.
    async fn fetched(&self, id: JobId, version: u64) -> Result<Option<Versioned>, LedgerError> {
        if let Some(known) = self
            .lock()
            .get(&id)
            .filter(|known| known.version == version)
        {
            return Ok(Some(known.clone()));
        }
        match self.get(id).await {
            Err(LedgerError::Corrupt { place, why }) => {
                tracing::error!(place, why, "a record is left out");
                Ok(None)
            }
            found => found,
        }
    }

    fn remember(&self, record: &Versioned) {
        let mut seen = self.lock();
        let known = seen.get(&record.job.id).map_or(0, |known| known.version);
        if known < record.version {
            seen.insert(record.job.id, record.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<JobId, Versioned>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the holder of a claim has ended or is gone.
    async fn is_stale(&self, holder: Option<JobId>) -> Result<bool, LedgerError> {
        let Some(holder) = holder else {
            return Ok(true);
        };
        let record = self.get(holder).await?;
        Ok(record.is_none_or(|record| record.job.state.is_terminal()))
    }
}

#[async_trait]
impl Ledger for VariableLedger {
    async fn create(&self, job: &Job) -> Result<Created, LedgerError> {
        let (path, items) = (path_of(job.id), items(job)?);
        match self.write(&path, &items, 0).await? {
            Ok(version) => {
                let job = job.clone();
                self.remember(&Versioned { job, version });
                Ok(Created::Now)
            }
            Err(_) => match self.get(job.id).await? {
                // Ours, if the answer to a first attempt got lost.
                Some(known) if known.job == *job => Ok(Created::Now),
                Some(known) => Ok(Created::Already(Box::new(known))),
                None => Err(LedgerError::Unreachable {
                    place: path,
                    why: "it was created and removed at the same time".to_owned(),
                }),
            },
        }
    }

    async fn get(&self, id: JobId) -> Result<Option<Versioned>, LedgerError> {
        let Some(variable) = self.read(&path_of(id)).await? else {
            self.lock().remove(&id);
            return Ok(None);
        };
        let record = Versioned {
            job: record(&variable)?,
            version: variable.modify_index,
        };
        self.remember(&record);
        Ok(Some(record))
    }

    async fn replace(&self, job: &Job, version: u64) -> Result<Replaced, LedgerError> {
        if version == 0 {
            // Would create it.
            return Ok(Replaced::Conflict);
        }
        match self.write(&path_of(job.id), &items(job)?, version).await? {
            Ok(version) => {
                let job = job.clone();
                self.remember(&Versioned { job, version });
                Ok(Replaced::Now(version))
            }
            Err(_) => Ok(Replaced::Conflict),
        }
    }

    async fn list(&self) -> Result<Vec<Versioned>, LedgerError> {
        let answer = self.api.get(&["vars"]).query("prefix", JOBS).send().await?;
        let listed = versions(&answer.json::<Vec<Variable>>()?);
        self.lock().retain(|id, _| listed.contains_key(id));
        let fetched = stream::iter(listed)
            .map(|(id, version)| self.fetched(id, version))
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        let found: Result<Vec<_>, _> = fetched.into_iter().filter_map(Result::transpose).collect();
        let mut all = found?;
        all.sort_by_key(|record| std::cmp::Reverse((record.job.created_at, record.job.id)));
        Ok(all)
    }

    async fn remove(&self, id: JobId) -> Result<(), LedgerError> {
        self.delete(&path_of(id), None).await?;
        self.lock().remove(&id);
        Ok(())
    }

    async fn claim(&self, key: &str, id: JobId) -> Result<Claim, LedgerError> {
        let path = path_of_claim(key);
        let items = BTreeMap::from([("holder", id.to_string()), ("key", key.to_owned())]);
        let mut version = 0;
        for _ in 0..COLLISIONS {
            let Err(there) = self.write(&path, &items, version).await? else {
                return Ok(Claim::Held);
            };
            // A claim that was given up meanwhile is free.
            let there = match there {
                Some(there) => Some(there),
                None => self.read(&path).await?,
            };
            let Some(there) = there else {
                version = 0;
                continue;
            };
            let holder = holder(&there);
            match holder {
                Some(holder) if holder == id => return Ok(Claim::Held),
                Some(holder) if !self.is_stale(Some(holder)).await? => {
                    return Ok(Claim::HeldBy(holder));
                }
                _ => version = there.modify_index,
            }
        }
        Err(LedgerError::Unreachable {
            place: path,
            why: "the claim is taken and given up all the time".to_owned(),
        })
    }

    async fn release(&self, key: &str, id: JobId) -> Result<(), LedgerError> {
        let path = path_of_claim(key);
        match self.read(&path).await? {
            Some(there) if holder(&there) == Some(id) => {
                self.delete(&path, Some(there.modify_index)).await
            }
            _ => Ok(()),
        }
    }

    fn changes(&self) -> BoxStream<'static, JobId> {
        let watch = Watch {
            api: self.api.clone(),
            index: 0,
            known: None,
            pending: Vec::new(),
            failures: 0,
        };
        stream::unfold(watch, |mut watch| async move {
            let id = watch.next().await;
            Some((id, watch))
        })
        .boxed()
    }

    async fn healthy(&self) -> Result<(), LedgerError> {
        let call = self.api.get(&["vars"]).query("prefix", JOBS);
        Ok(call.query("per_page", "1").once().send().await.map(drop)?)
    }
}

/// Waits for the list of records to change, and finds out by their versions which did.
struct Watch {
    api: NomadApi,
    index: u64,
    /// None before the first list.
    known: Option<BTreeMap<JobId, u64>>,
    pending: Vec<JobId>,
    failures: u32,
}

impl Watch {
    async fn next(&mut self) -> JobId {
        loop {
            if let Some(id) = self.pending.pop() {
                return id;
            }
            match self.wait().await {
                Ok(()) => self.failures = 0,
                Err(error) => {
                    tracing::warn!(%error, "changes of records cannot be waited for");
                    sleep(AGAIN.delay(self.failures, random())).await;
                    self.failures += 1;
                }
            }
        }
    }

    async fn wait(&mut self) -> Result<(), LedgerError> {
        let call = self.api.get(&["vars"]).query("prefix", JOBS);
        let answer = call.blocking(self.index, WAIT).await?;
        // An index that goes back is another server's, restored from a snapshot: nothing that was known holds.
        self.index = if answer.index < self.index {
            0
        } else {
            answer.index
        };
        let now = versions(&answer.json::<Vec<Variable>>()?);
        // The first list tells of every record: any may have changed since the stream was asked for.
        let known = self.known.take().unwrap_or_default();
        let ids: BTreeSet<JobId> = known.keys().chain(now.keys()).copied().collect();
        let changed = ids.into_iter().filter(|id| known.get(id) != now.get(id));
        self.pending.extend(changed);
        self.known = Some(now);
        Ok(())
    }
}

fn segments<'a>(kind: &'a str, path: &'a str) -> Vec<&'a str> {
    [kind].into_iter().chain(path.split('/')).collect()
}

fn path_of(id: JobId) -> String {
    format!("{JOBS}{id}")
}

/// A variable's path may hold letters, digits, `-`, `_`, `~` and `/`, and be 128 characters long: less than an image's name.
fn path_of_claim(key: &str) -> String {
    format!("{CLAIMS}{}", hex(Sha256::digest(key)))
}

fn holder(claim: &Variable) -> Option<JobId> {
    claim.items.get("holder")?.parse().ok()
}

/// The records of a list, and their versions.
fn versions(listed: &[Variable]) -> BTreeMap<JobId, u64> {
    let of = |variable: &Variable| {
        let id = variable.path.strip_prefix(JOBS)?.parse().ok()?;
        Some((id, variable.modify_index))
    };
    listed.iter().filter_map(of).collect()
}

/// A record as items of a variable.
fn items(job: &Job) -> Result<BTreeMap<&'static str, String>, LedgerError> {
    let refused = |why: String| {
        LedgerError::Refused(format!(
            "the record of job {} cannot be kept: {why}",
            job.id
        ))
    };
    let text = serde_json::to_string(job).map_err(|error| refused(error.to_string()))?;
    if text.len() <= SHORT {
        return Ok(BTreeMap::from([(PLAIN, text)]));
    }
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    let deflated = encoder
        .write_all(text.as_bytes())
        .and_then(|()| encoder.finish())
        .map_err(|error| refused(error.to_string()))?;
    let encoded = STANDARD.encode(deflated);
    if DEFLATED.len() + encoded.len() > LONGEST {
        return Err(LedgerError::TooLong(format!(
            "the record of job {} cannot be kept: it has {} bytes, {} when deflated, and a Nomad variable holds {LONGEST}; \
             say less in its commands, arguments and labels",
            job.id,
            text.len(),
            encoded.len()
        )));
    }
    Ok(BTreeMap::from([(DEFLATED, encoded)]))
}

fn record(variable: &Variable) -> Result<Job, LedgerError> {
    let corrupt = |why: String| LedgerError::Corrupt {
        place: format!("variable {}", variable.path),
        why,
    };
    let text = match (variable.items.get(PLAIN), variable.items.get(DEFLATED)) {
        (Some(text), _) => text.clone(),
        (None, Some(encoded)) => inflate(encoded).map_err(corrupt)?,
        (None, None) => return Err(corrupt(format!("it has no item `{PLAIN}`"))),
    };
    serde_json::from_str(&text).map_err(|error| corrupt(error.to_string()))
}

fn inflate(encoded: &str) -> Result<String, String> {
    let bytes = STANDARD
        .decode(encoded)
        .map_err(|error| error.to_string())?;
    let mut text = String::new();
    DeflateDecoder::new(bytes.as_slice())
        .take(MOST)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::JobConfig;

    fn job(label: String) -> Job {
        let config = JobConfig {
            owner: label,
            ..JobConfig::default()
        };
        Job::new(JobId::random(), config, Timestamp::now())
    }

    fn read_back(job: &Job) -> Job {
        let items = items(job).unwrap();
        let items = items
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value));
        let variable = Variable {
            items: items.collect(),
            ..Variable::default()
        };
        record(&variable).unwrap()
    }

    /// Text that deflates to about its own size.
    fn noise(length: usize) -> String {
        let hash = |index: usize| STANDARD.encode(Sha256::digest(index.to_le_bytes()));
        (0..=length / 44).map(hash).collect()
    }

    #[test]
    fn short_and_long_records_read_as_they_were_written() {
        for text in ["x".to_owned(), "long ".repeat(100_000), noise(40_000)] {
            let job = job(text);
            assert_eq!(read_back(&job), job);
        }
    }

    #[test]
    fn a_record_that_does_not_fit_is_refused_and_says_how_long_it_is() {
        let error = items(&job(noise(80_000))).unwrap_err().to_string();
        assert!(error.contains("a Nomad variable holds 65536"), "{error}");
    }

    #[test]
    fn what_is_no_record_is_corrupt_and_says_where() {
        let variable = |key: &str, value: &str| Variable {
            path: "buildctl/jobs/x".to_owned(),
            items: BTreeMap::from([(key.to_owned(), value.to_owned())]),
            ..Variable::default()
        };
        for broken in [
            variable("other", "x"),
            variable(PLAIN, "{"),
            variable(DEFLATED, "AAAA"),
            variable(DEFLATED, "*"),
        ] {
            let error = record(&broken).unwrap_err();
            assert!(matches!(error, LedgerError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains("buildctl/jobs/x"), "{error}");
        }
    }

    #[test]
    fn paths_are_ones_that_nomad_accepts() {
        let key = "image-[::1]:5000-team/app:feature.x-ü";
        for path in [path_of(JobId::random()), path_of_claim(key)] {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_~/".contains(c);
            assert!(path.len() <= 128 && path.chars().all(plain), "{path}");
        }
        assert_ne!(path_of_claim("a"), path_of_claim("b"));
    }
}
