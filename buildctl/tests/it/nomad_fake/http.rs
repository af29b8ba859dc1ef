//! The routes: what comes over the wire becomes a change or a look, and errors are plain text, as Nomad's are.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use futures_util::stream;
use regex::Regex;
use serde_json::{Value, json};
use tokio::{sync::broadcast, time::timeout};

use super::{Cluster, task};

type Params = Query<BTreeMap<String, String>>;

pub(super) fn routes(cluster: Cluster) -> Router {
    Router::new()
        .route("/v1/jobs", put(register).post(register).get(jobs))
        .route("/v1/job/{name}", get(job).delete(deregister))
        .route("/v1/job/{name}/allocations", get(allocations))
        .route("/v1/job/{name}/evaluations", get(evaluations))
        .route("/v1/client/fs/{verb}/{id}", get(files))
        .route("/v1/event/stream", get(events))
        .route("/v1/vars", get(variables))
        .route(
            "/v1/var/{*path}",
            get(variable).put(set_variable).delete(unset_variable),
        )
        .route("/v1/status/leader", get(async || Json("127.0.0.1:4647")))
        .route(
            "/v1/agent/self",
            get(async || Json(json!({"config": {"Version": {"Version": "2.0.6"}}}))),
        )
        .route("/v1/nodes", get(nodes))
        .layer(middleware::from_fn_with_state(cluster.clone(), watch))
        .with_state(cluster)
}

fn text(status: u16, text: impl Into<String>) -> Response {
    (StatusCode::from_u16(status).unwrap(), text.into()).into_response()
}

fn indexed(index: u64, body: &Value) -> Response {
    ([("X-Nomad-Index", index.to_string())], Json(body)).into_response()
}

/// Counts requests, checks the token, and makes go wrong what is to go wrong.
async fn watch(State(cluster): State<Cluster>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let token = request.headers().get("x-nomad-token").cloned();
    let fault = {
        let mut state = cluster.lock();
        state.requests += 1;
        state.at_once += 1;
        state.most_at_once = state.most_at_once.max(state.at_once);
        let stranger = state.faults.token.as_ref().is_some_and(|wanted| {
            token
                .as_ref()
                .is_none_or(|token| token.as_bytes() != wanted.as_bytes())
        });
        if stranger {
            Some((403, "Permission denied".to_owned()))
        } else {
            state.faults.next(&path)
        }
    };
    let answer = match fault {
        Some((status, words)) => text(status, words),
        None => next.run(request).await,
    };
    let mut state = cluster.lock();
    state.at_once -= 1;
    if state.faults.loses(&path) {
        text(502, "the answer got lost")
    } else {
        answer
    }
}

async fn register(State(cluster): State<Cluster>, Json(body): Json<Value>) -> Response {
    let job = body["Job"].clone();
    let Some(name) = job["ID"].as_str().map(str::to_owned) else {
        return text(400, "Job must be specified");
    };
    if job["TaskGroups"][0]["Tasks"][0]["Config"]["command"].is_null() && job["Stop"] != true {
        return text(
            500,
            "1 error occurred:\n\t* Task group validation failed: missing command\n\n",
        );
    }
    let exists = |index: u64| format!("Enforcing job modify index {index}: job already exists");
    let only_new = body["EnforceIndex"] == true && body["JobModifyIndex"] == 0;
    let done = cluster.change(|state| {
        if only_new && state.jobs.contains_key(&name) {
            return Err(exists(0));
        }
        Ok(state.register(job))
    });
    match done {
        Err(words) => text(500, words),
        Ok((index, wants_place)) => {
            if wants_place {
                task::place(&cluster, &name);
            }
            indexed(
                index,
                &json!({"EvalID": "", "JobModifyIndex": index, "Warnings": ""}),
            )
        }
    }
}

async fn jobs(State(cluster): State<Cluster>, Query(params): Params) -> Response {
    let state = cluster.lock();
    let matches = filter(params.get("filter").map_or("", String::as_str));
    let all = state
        .jobs
        .values()
        .filter(|job| matches(job["ID"].as_str().unwrap()));
    let stub = |job: &Value| {
        let mut stub = job.clone();
        stub.as_object_mut().unwrap().remove("TaskGroups");
        stub
    };
    indexed(state.index, &all.map(stub).collect())
}

/// The two forms of expressions that are used here.
fn filter(expression: &str) -> Box<dyn Fn(&str) -> bool> {
    let quoted = |rest: &str| rest.trim().trim_matches('"').to_owned();
    if let Some(rest) = expression.strip_prefix("ID contains ") {
        let part = quoted(rest);
        return Box::new(move |name| name.contains(&part));
    }
    if let Some(rest) = expression.strip_prefix("ID matches ") {
        let pattern = Regex::new(&quoted(rest)).unwrap();
        return Box::new(move |name| pattern.is_match(name));
    }
    assert_eq!(expression, "", "the fake knows no such filter");
    Box::new(|_| true)
}

async fn job(State(cluster): State<Cluster>, Path(name): Path<String>) -> Response {
    let state = cluster.lock();
    match state.jobs.get(&name) {
        Some(job) => indexed(state.index, job),
        None => text(404, "job not found"),
    }
}

async fn deregister(
    State(cluster): State<Cluster>,
    Path(name): Path<String>,
    Query(params): Params,
) -> Response {
    let purge = params.get("purge").is_some_and(|value| value == "true");
    let limit = cluster
        .lock()
        .jobs
        .get(&name)
        .and_then(|job| job["TaskGroups"][0]["Tasks"][0]["KillTimeout"].as_u64());
    let ending = cluster.change(|state| state.stop(&name, purge));
    for id in ending {
        task::kill(
            &cluster,
            &id,
            Duration::from_nanos(limit.unwrap_or(5_000_000_000)),
        );
    }
    indexed(
        cluster.lock().index,
        &json!({"EvalID": "", "JobModifyIndex": 0}),
    )
}

async fn allocations(State(cluster): State<Cluster>, Path(name): Path<String>) -> Response {
    let state = cluster.lock();
    let ids = state.allocations_of(&name);
    indexed(
        state.index,
        &ids.iter().map(|id| state.allocations[id].clone()).collect(),
    )
}

async fn evaluations(State(cluster): State<Cluster>, Path(name): Path<String>) -> Response {
    let state = cluster.lock();
    let of = |it: &&Value| it["JobID"] == name;
    indexed(
        state.index,
        &state.evaluations.iter().filter(of).cloned().collect(),
    )
}

/// Files of an allocation. `cat` and `readat` of a file that is not there answer 200 and say so in the body, as Nomad does.
async fn files(
    State(cluster): State<Cluster>,
    Path((verb, id)): Path<(String, String)>,
    Query(params): Params,
) -> Response {
    let folder = cluster.folder.join(&id);
    if !folder.is_dir() {
        return text(404, format!("Unknown allocation \"{id}\""));
    }
    let path = folder.join(params["path"].trim_start_matches('/'));
    let missing = format!("stat {}: no such file or directory", path.display());
    let number = |name: &str| params.get(name).and_then(|text| text.parse::<usize>().ok());
    match (verb.as_str(), path.exists()) {
        ("ls", true) => {
            let entries = std::fs::read_dir(&path).unwrap().flatten();
            let info = entries.filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                let name = entry.file_name().into_string().ok()?;
                Some(json!({"Name": name, "IsDir": metadata.is_dir(), "Size": metadata.len()}))
            });
            Json(info.collect::<Value>()).into_response()
        }
        ("stat", true) => {
            Json(json!({"Name": "", "Size": path.metadata().unwrap().len()})).into_response()
        }
        ("cat", true) => std::fs::read(&path).unwrap().into_response(),
        ("readat", true) => {
            let bytes = std::fs::read(&path).unwrap();
            let from = number("offset").unwrap_or(0).min(bytes.len());
            let until = from
                .saturating_add(number("limit").unwrap())
                .min(bytes.len());
            bytes[from..until].to_vec().into_response()
        }
        ("cat" | "readat", false) => text(200, missing),
        (_, false) => text(404, missing),
        (verb, true) => text(404, format!("no such verb: {verb}")),
    }
}

/// Events from behind an index on: those that are kept, then new ones, and something every now and then.
async fn events(State(cluster): State<Cluster>, Query(params): Params) -> Response {
    let from: u64 = params
        .get("index")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let (kept, receiver) = {
        let state = cluster.lock();
        let newer = state.events.kept.iter().filter(|(index, _)| *index >= from);
        let lines: String = newer.map(|(index, event)| line(*index, event)).collect();
        (format!("{{}}\n{lines}"), state.events.sender.subscribe())
    };
    let follow = |mut receiver: broadcast::Receiver<(u64, Value)>| async move {
        let part = match timeout(Duration::from_secs(10), receiver.recv()).await {
            Ok(Ok((index, event))) => line(index, &event),
            Err(_) => "{}\n".to_owned(),
            Ok(Err(_)) => return None,
        };
        Some((Ok::<_, std::convert::Infallible>(part), receiver))
    };
    let first = stream::iter([Ok(kept)]);
    let rest = stream::unfold(receiver, follow);
    Body::from_stream(futures_util::StreamExt::chain(first, rest)).into_response()
}

fn line(index: u64, event: &Value) -> String {
    format!("{}\n", json!({"Index": index, "Events": [event]}))
}

async fn variables(State(cluster): State<Cluster>, Query(params): Params) -> Response {
    let after: u64 = params
        .get("index")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let wait = params
        .get("wait")
        .and_then(|text| text.strip_suffix("ms")?.parse().ok());
    let mut changed = cluster.changed.subscribe();
    let newer = changed.wait_for(|_| after == 0 || cluster.lock().variables_index > after);
    // Nothing new is an answer too.
    let _ = timeout(Duration::from_millis(wait.unwrap_or(0)), newer)
        .await
        .map(drop);
    let state = cluster.lock();
    let prefix = params.get("prefix").map_or("", String::as_str);
    let listed = state
        .variables
        .iter()
        .filter(|(path, _)| path.starts_with(prefix));
    let stubs = listed.map(|(_, variable)| {
        let mut stub = variable.clone();
        stub.as_object_mut().unwrap().remove("Items");
        stub
    });
    indexed(state.variables_index, &stubs.collect())
}

async fn variable(State(cluster): State<Cluster>, Path(path): Path<String>) -> Response {
    let state = cluster.lock();
    match state.variables.get(&path) {
        Some(variable) => indexed(variable["ModifyIndex"].as_u64().unwrap(), variable),
        None => text(404, "variable not found"),
    }
}

async fn set_variable(
    State(cluster): State<Cluster>,
    Path(path): Path<String>,
    Query(params): Params,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    assert!(headers.contains_key("content-type"));
    let body: Value = serde_json::from_slice(&body).unwrap();
    let pattern = Regex::new("^[a-zA-Z0-9-_~/]{1,128}$").unwrap();
    if !pattern.is_match(&path) {
        return text(400, format!("invalid path \"{path}\""));
    }
    let items = body["Items"].as_object().unwrap();
    let size: usize = items
        .iter()
        .map(|(key, value)| key.len() + value.as_str().unwrap().len())
        .sum();
    if size > 64 << 10 {
        return text(
            400,
            "RPC Error:: 400,variables are limited to 64KiB in total size",
        );
    }
    match cluster.change(|state| state.set(&path, &body["Items"], cas(&params))) {
        Ok(variable) => indexed(variable["ModifyIndex"].as_u64().unwrap(), &variable),
        Err(there) => (StatusCode::CONFLICT, Json(there)).into_response(),
    }
}

async fn unset_variable(
    State(cluster): State<Cluster>,
    Path(path): Path<String>,
    Query(params): Params,
) -> Response {
    match cluster.change(|state| state.unset(&path, cas(&params))) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(there) => (StatusCode::CONFLICT, Json(there)).into_response(),
    }
}

fn cas(params: &BTreeMap<String, String>) -> Option<u64> {
    params.get("cas")?.parse().ok()
}

async fn nodes(Query(params): Params) -> Response {
    let driver =
        json!({"Healthy": true, "Detected": true, "Attributes": {"driver.raw_exec": "true"}});
    let node = json!({"Name": "fake-node", "Datacenter": "dc1", "Status": "ready", "SchedulingEligibility": "eligible",
        "Drivers": {"raw_exec": driver}, "HostVolumes": {}});
    if params.contains_key("filter") {
        Json(json!([])).into_response()
    } else {
        Json(json!([node])).into_response()
    }
}
