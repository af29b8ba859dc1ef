//! What the servers know. One index counts every change, as Raft's does.

#![expect(
    clippy::needless_pass_by_value,
    reason = "values are written where they are used"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use uuid::Uuid;

/// How many events are kept.
const BUFFER: usize = 100;

#[derive(Debug)]
pub(super) struct State {
    pub(super) index: u64,
    pub(super) jobs: BTreeMap<String, Value>,
    pub(super) evaluations: Vec<Value>,
    pub(super) allocations: BTreeMap<String, Value>,
    pub(super) variables: BTreeMap<String, Value>,
    pub(super) variables_index: u64,
    pub(super) events: Events,
    pub(super) faults: Faults,
    pub(super) exhausted: Option<String>,
    pub(super) rotate_at: Option<u64>,
    /// Allocation → process group of its task.
    pub(super) groups: BTreeMap<String, u32>,
    /// Allocations that are told to end.
    pub(super) doomed: BTreeSet<String>,
    pub(super) requests: usize,
    pub(super) at_once: usize,
    pub(super) most_at_once: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            index: 1,
            jobs: BTreeMap::new(),
            evaluations: Vec::new(),
            allocations: BTreeMap::new(),
            variables: BTreeMap::new(),
            variables_index: 1,
            events: Events::default(),
            faults: Faults::default(),
            exhausted: None,
            rotate_at: None,
            groups: BTreeMap::new(),
            doomed: BTreeSet::new(),
            requests: 0,
            at_once: 0,
            most_at_once: 0,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) planned: Vec<Fault>,
    pub(super) lost: Option<(String, usize)>,
    pub(super) token: Option<String>,
}

#[derive(Debug)]
pub(super) struct Fault {
    pub(super) path: String,
    pub(super) times: usize,
    pub(super) status: u16,
    pub(super) text: String,
}

impl Faults {
    pub(super) fn next(&mut self, path: &str) -> Option<(u16, String)> {
        let fault = self
            .planned
            .iter_mut()
            .find(|fault| fault.times > 0 && path.contains(&fault.path))?;
        fault.times -= 1;
        Some((fault.status, fault.text.clone()))
    }

    pub(super) fn loses(&mut self, path: &str) -> bool {
        match &mut self.lost {
            Some((part, times)) if *times > 0 && path.contains(part.as_str()) => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }
}

/// The newest events, and who follows them.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) kept: VecDeque<(u64, Value)>,
    pub(super) sender: broadcast::Sender<(u64, Value)>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            sender: broadcast::Sender::new(BUFFER),
        }
    }
}

impl Events {
    fn publish(&mut self, index: u64, event: Value) {
        self.kept.push_back((index, event.clone()));
        if self.kept.len() > BUFFER {
            self.kept.pop_front();
        }
        // Nobody may follow.
        let _ = self.sender.send((index, event));
    }

    pub(super) fn close(&mut self) {
        self.sender = broadcast::Sender::new(BUFFER);
    }
}

pub(super) fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap()
}

/// What became of a task's process.
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) signal: i32,
}

impl State {
    fn next(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    fn publish(&mut self, topic: &str, key: &str, others: &[&str], payload: &Value) {
        let event = json!({
            "Topic": topic, "Type": format!("{topic}Updated"), "Key": key, "FilterKeys": others,
            "Namespace": "default", "Index": self.index, "Payload": {topic: payload},
        });
        self.events.publish(self.index, event);
    }

    /// Registers a job; whether it wants a place.
    pub(super) fn register(&mut self, mut job: Value) -> (u64, bool) {
        let index = self.next();
        let name = job["ID"].as_str().unwrap().to_owned();
        let stopped = job["Stop"] == true;
        job["Stop"] = stopped.into();
        job["Status"] = if stopped { "dead" } else { "pending" }.into();
        job["SubmitTime"] = now().into();
        job["CreateIndex"] = index.into();
        job["JobModifyIndex"] = index.into();
        job["ModifyIndex"] = index.into();
        self.publish("Job", &name, &[], &job);
        self.jobs.insert(name.clone(), job);
        self.evaluate(&name, "complete", "job-register", Value::Null);
        (index, !stopped)
    }

    /// Adds an evaluation.
    pub(super) fn evaluate(&mut self, name: &str, status: &str, trigger: &str, failed: Value) {
        let index = self.next();
        let id = Uuid::new_v4().to_string();
        let evaluation = json!({
            "ID": id, "JobID": name, "Type": "batch", "Status": status, "TriggeredBy": trigger,
            "FailedTGAllocs": failed, "CreateIndex": index, "ModifyIndex": index, "CreateTime": now(),
            "Namespace": "default",
        });
        self.publish("Evaluation", &id, &[name, ""], &evaluation);
        self.evaluations.push(evaluation);
    }

    /// Why a job finds no place, as an evaluation has it.
    pub(super) fn obstacle(&self, job: &Value) -> Option<Value> {
        let group = &job["TaskGroups"][0];
        let memory = group["Tasks"][0]["Resources"]["MemoryMB"].as_u64();
        let foreign = group["Constraints"].as_array().is_some_and(|all| {
            let other =
                |it: &Value| it["LTarget"] == "${attr.kernel.name}" && it["RTarget"] != "linux";
            all.iter().any(other)
        });
        let mut metrics = json!({"NodesEvaluated": 1, "NodesInPool": 1, "NodesAvailable": {"dc1": 1},
            "ConstraintFiltered": null, "DimensionExhausted": null, "QuotaExhausted": null});
        if let Some(dimension) = &self.exhausted {
            metrics["DimensionExhausted"] = json!({dimension: 1});
        } else if memory.unwrap_or(0) > 1 << 20 {
            metrics["DimensionExhausted"] = json!({"memory": 1});
        } else if foreign {
            metrics["ConstraintFiltered"] = json!({"${attr.kernel.name} = plan9": 1});
        } else if group["Tasks"][0]["Driver"] != "raw_exec" {
            metrics["ConstraintFiltered"] = json!({"missing drivers": 1});
        } else {
            return None;
        }
        Some(json!({group["Name"].as_str().unwrap_or("g"): metrics}))
    }

    pub(super) fn exhaust(&mut self, dimension: Option<&str>) -> Vec<String> {
        self.exhausted = dimension.map(str::to_owned);
        if dimension.is_some() {
            return Vec::new();
        }
        let waits = |job: &&Value| job["Status"] == "pending" && job["Stop"] == false;
        let names = self.jobs.values().filter(waits);
        let names = names.map(|job| job["ID"].as_str().unwrap().to_owned());
        names.collect()
    }

    /// Places a job on the only node, or notes that it has to wait.
    pub(super) fn place(&mut self, name: &str) -> Option<(String, Value)> {
        let job = self.jobs.get(name)?.clone();
        if job["Stop"] == true || !self.allocations_of(name).is_empty() {
            return None;
        }
        if let Some(why) = self.obstacle(&job) {
            self.evaluate(name, "blocked", "queued-allocs", why);
            return None;
        }
        let (id, index) = (Uuid::new_v4().to_string(), self.next());
        let allocation = json!({
            "ID": id, "JobID": name, "JobCreateIndex": job["CreateIndex"], "NodeName": "fake-node", "Namespace": "default",
            "ClientStatus": "pending", "ClientDescription": "", "DesiredStatus": "run", "DesiredDescription": "",
            "CreateIndex": index, "ModifyIndex": index, "CreateTime": now(), "ModifyTime": now(), "TaskStates": null,
        });
        self.allocations.insert(id.clone(), allocation);
        self.event(&id, "Received", "Task received by client", json!({}));
        Some((id, job))
    }

    pub(super) fn allocations_of(&self, name: &str) -> Vec<String> {
        let created = self.jobs.get(name).map(|job| job["CreateIndex"].clone());
        let of = |(_, it): &(&String, &Value)| {
            it["JobID"] == name && Some(&it["JobCreateIndex"]) == created.as_ref()
        };
        self.allocations
            .iter()
            .filter(of)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Changes an allocation, and what follows for its job.
    pub(super) fn update(&mut self, id: &str, change: impl FnOnce(&mut Value)) {
        let index = self.next();
        let Some(allocation) = self.allocations.get_mut(id) else {
            return;
        };
        change(allocation);
        allocation["ModifyIndex"] = index.into();
        allocation["ModifyTime"] = now().into();
        let allocation = allocation.clone();
        let name = allocation["JobID"].as_str().unwrap().to_owned();
        self.publish("Allocation", id, &[&name, ""], &allocation);
        let Some(job) = self.jobs.get_mut(&name) else {
            return;
        };
        let status = match allocation["ClientStatus"].as_str().unwrap() {
            "pending" => "pending",
            "running" => "running",
            _ => "dead",
        };
        job["JobSummary"] = json!({"ModifyIndex": index});
        if job["Status"] != status && (job["Stop"] != true || status == "dead") {
            job["Status"] = status.into();
            job["ModifyIndex"] = index.into();
        }
    }

    /// Adds an event to an allocation's task.
    pub(super) fn event(&mut self, id: &str, kind: &str, says: &str, details: Value) {
        self.update(id, |allocation| {
            if allocation["TaskStates"].is_null() {
                let task = json!({"State": "pending", "Failed": false, "StartedAt": null, "FinishedAt": null, "Events": []});
                allocation["TaskStates"] = json!({"main": task});
            }
            let event = json!({"Type": kind, "DisplayMessage": says, "Details": details, "Time": now()});
            let events = &mut allocation["TaskStates"]["main"]["Events"];
            events.as_array_mut().unwrap().push(event);
        });
    }

    pub(super) fn started(&mut self, id: &str, group: u32) {
        self.groups.insert(id.to_owned(), group);
        self.event(id, "Started", "Task started by client", json!({}));
        self.update(id, |allocation| {
            allocation["ClientStatus"] = "running".into();
            let task = &mut allocation["TaskStates"]["main"];
            task["State"] = "running".into();
            task["StartedAt"] = Timestamp::now().to_string().into();
        });
    }

    /// A task's process ended.
    pub(super) fn exited(&mut self, id: &str, exit: &Exit) {
        self.groups.remove(id);
        let details = json!({"exit_code": exit.code.to_string(), "signal": exit.signal.to_string(), "oom_killed": "false"});
        self.event(
            id,
            "Terminated",
            &format!("Exit Code: {}", exit.code),
            details,
        );
        let killed = self.doomed.remove(id);
        match (killed, exit.code) {
            (true, _) => self.event(id, "Killed", "Task successfully killed", json!({})),
            (false, 0) => {}
            (false, _) => self.event(id, "Not Restarting", "Policy allows no restarts", json!({})),
        }
        self.finish(id, !killed && exit.code != 0);
    }

    pub(super) fn finish(&mut self, id: &str, failed: bool) {
        self.update(id, |allocation| {
            if allocation["ClientStatus"] == "lost" {
                return;
            }
            let (status, says) = if failed {
                ("failed", "Failed tasks")
            } else {
                ("complete", "All tasks have completed")
            };
            allocation["ClientStatus"] = status.into();
            allocation["ClientDescription"] = says.into();
            let task = &mut allocation["TaskStates"]["main"];
            task["State"] = "dead".into();
            task["Failed"] = failed.into();
            task["FinishedAt"] = Timestamp::now().to_string().into();
        });
    }

    /// Stops a job; which of its allocations have to end.
    pub(super) fn stop(&mut self, name: &str, purge: bool) -> Vec<String> {
        let Some(mut job) = self.jobs.get(name).cloned() else {
            return Vec::new();
        };
        let index = self.next();
        let mut ending = Vec::new();
        for id in self.allocations_of(name) {
            let status = self.allocations[&id]["ClientStatus"]
                .as_str()
                .unwrap()
                .to_owned();
            if matches!(status.as_str(), "pending" | "running") {
                self.update(&id, |allocation| {
                    allocation["DesiredStatus"] = "stop".into();
                    allocation["DesiredDescription"] = "alloc not needed due to job update".into();
                });
                ending.push(id);
            }
        }
        job["Stop"] = true.into();
        job["ModifyIndex"] = index.into();
        if ending.is_empty() {
            job["Status"] = "dead".into();
        }
        self.publish("Job", name, &[], &job);
        self.jobs.insert(name.to_owned(), job);
        for evaluation in &mut self.evaluations {
            if evaluation["JobID"] == name && evaluation["Status"] == "blocked" {
                evaluation["Status"] = "canceled".into();
            }
        }
        self.evaluate(name, "complete", "job-deregister", Value::Null);
        if purge {
            self.forget(name);
        }
        ending
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.next();
        self.jobs.remove(name);
        self.evaluations
            .retain(|evaluation| evaluation["JobID"] != name);
    }

    pub(super) fn lose(&mut self, name: &str) {
        for id in self.allocations_of(name) {
            self.update(&id, |allocation| {
                allocation["ClientStatus"] = "lost".into();
                allocation["ClientDescription"] = "alloc is lost since its node is down".into();
                allocation["DesiredStatus"] = "stop".into();
            });
        }
    }

    /// Writes a variable; what is there instead, if its version is another one.
    pub(super) fn set(
        &mut self,
        path: &str,
        items: &Value,
        cas: Option<u64>,
    ) -> Result<Value, Value> {
        self.check(path, cas)?;
        let index = self.next();
        self.variables_index = index;
        let known = self.variables.get(path);
        let created = known.map_or_else(
            || (index.into(), now().into()),
            |it| (it["CreateIndex"].clone(), it["CreateTime"].clone()),
        );
        let variable = json!({"Namespace": "default", "Path": path, "CreateIndex": created.0, "CreateTime": created.1,
            "ModifyIndex": index, "ModifyTime": now(), "Items": items});
        self.variables.insert(path.to_owned(), variable.clone());
        Ok(variable)
    }

    pub(super) fn unset(&mut self, path: &str, cas: Option<u64>) -> Result<(), Value> {
        self.check(path, cas)?;
        let index = self.next();
        if self.variables.remove(path).is_some() {
            self.variables_index = index;
        }
        Ok(())
    }

    fn check(&self, path: &str, cas: Option<u64>) -> Result<(), Value> {
        let known = self.variables.get(path);
        let version = known.map_or(0, |it| it["ModifyIndex"].as_u64().unwrap());
        match cas {
            Some(cas) if cas != version => Err(known.cloned().unwrap_or_else(|| {
                json!({"Namespace": "default", "Path": path, "CreateIndex": 0, "ModifyIndex": 0, "Items": null})
            })),
            _ => Ok(()),
        }
    }
}
