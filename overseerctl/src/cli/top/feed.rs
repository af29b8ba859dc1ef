//! What the hub says, for the view: asked for from time to time, and sooner when something has happened. Nothing here
//! waits, so that keys are answered at once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use runyard_common::report::Failure;
use serde_json::json;

use super::{
    due,
    view::{Order, Pool, View},
};
use crate::client::{Body, Client, Dialect, Event, Merge, Received, Refusal, Wake};

/// How soon after an event the list is asked for again.
const SOON: Duration = Duration::from_millis(100);

/// Messages that are taken between two looks at the keyboard.
const BATCH: usize = 2_000;

/// Messages after which the list is out of date.
const EVENTS: [&str; 8] = [
    "started",
    "exited",
    "restarting",
    "errored",
    "queued",
    "dequeued",
    "task_removed",
    "pool_updated",
];

/// The view's source.
pub(super) struct Feed {
    client: Client,
    title: String,
    interval: Duration,
    /// When to ask again; never while an answer is awaited.
    ask_at: Option<Instant>,
    list: String,
    /// Pools by the id of the request that asks for them.
    asked_pools: HashMap<String, String>,
    pools: Vec<String>,
    watched: Option<Watched>,
    orders: HashMap<String, (Order, String)>,
}

/// The selected task.
struct Watched {
    task_id: String,
    merge: Merge,
    /// The request whose reply ends the replay; empty after it.
    fence: String,
    /// Whether the view still shows another task's output.
    is_new: bool,
}

impl Feed {
    /// Finds out which pools there are, and asks for all tasks' events where the hub can send them.
    pub(super) fn open(mut client: Client, interval: Duration) -> Result<Self, Failure> {
        let dialect = client.hello(&["task_events", "lagged", "remove"])?;
        let name = match dialect {
            Dialect::Runyard {
                server, version, ..
            } => format!("{server} {version}"),
            Dialect::Original => "sticky-overseer".to_owned(),
        };
        let title = format!("{name} at {}", client.hub());
        let pools = pooled_actions(&mut client)?;
        let ask_at = Some(Instant::now());
        let list = String::new();
        let (asked_pools, orders) = (HashMap::new(), HashMap::new());
        Ok(Self {
            client,
            title,
            interval,
            ask_at,
            list,
            asked_pools,
            pools,
            watched: None,
            orders,
        })
    }

    /// The hub, in a few words.
    pub(super) fn title(&self) -> String {
        self.title.clone()
    }

    /// Passes on what has come; whether anything of it is seen.
    pub(super) fn pump(&mut self, view: &mut View) -> Result<bool, Failure> {
        if self.ask_at.is_some_and(due) {
            self.ask()?;
        }
        let mut changed = false;
        if let Some(watched) = self.watched.as_mut().filter(|watched| watched.is_new) {
            watched.is_new = false;
            view.clear_output();
            changed = true;
        }
        for _ in 0..BATCH {
            let Wake::Message(message) = self.client.next(Some(Instant::now()))? else {
                break;
            };
            changed |= self.take(message, view)?;
        }
        self.watch(view.selected())?;
        Ok(changed)
    }

    fn ask(&mut self) -> Result<(), Failure> {
        self.ask_at = None;
        for name in &self.pools {
            let action = if name == GLOBAL { "" } else { name };
            let id = self.client.send("pool_info", json!({ "action": action }))?;
            self.asked_pools.insert(id, name.clone());
        }
        self.list = self.client.send("list", json!({}))?;
        Ok(())
    }

    fn take(&mut self, message: Received, view: &mut View) -> Result<bool, Failure> {
        if message.id == self.list {
            view.set_tasks(message.tasks()?);
            self.ask_at = Some(Instant::now() + self.interval);
            return Ok(true);
        }
        if let Some(name) = self.asked_pools.remove(&message.id) {
            view.set_pool(Pool::of(&name, &message.field("pool")?));
            return Ok(true);
        }
        if let Some((order, task_id)) = self.orders.remove(&message.id) {
            return self.ordered(order, &task_id, &message, view).map(|()| true);
        }
        self.happened(message, view)
    }

    /// An order's reply. A stop that works has none.
    fn ordered(
        &mut self,
        order: Order,
        task_id: &str,
        reply: &Received,
        view: &mut View,
    ) -> Result<(), Failure> {
        self.hurry();
        if reply.kind == "error" {
            let failure = reply
                .read::<Refusal>()?
                .failure(&self.client.hub(), task_id);
            view.remark(failure.message());
        } else {
            view.remark(format!("{} {task_id}: done", order.as_str()));
        }
        Ok(())
    }

    /// Something happened to some task.
    fn happened(&mut self, message: Received, view: &mut View) -> Result<bool, Failure> {
        let is_fence = self
            .watched
            .as_ref()
            .is_some_and(|watched| watched.fence == message.id);
        if is_fence && let Some(watched) = &mut self.watched {
            watched.fence.clear();
            for event in watched.merge.release() {
                show(&event, view);
            }
            return Ok(true);
        }
        let is_watched = self
            .watched
            .as_ref()
            .is_some_and(|watched| watched.task_id == message.task_id);
        if !is_watched {
            if EVENTS.contains(&message.kind.as_str()) {
                self.hurry();
            }
            return Ok(false);
        }
        let Some(event) = Event::of(message)? else {
            return Ok(false);
        };
        if !matches!(event.body, Body::Output(_)) {
            self.hurry();
        }
        let Some(watched) = &mut self.watched else {
            return Ok(false);
        };
        if !watched.fence.is_empty() {
            watched.merge.hold(event);
        } else if watched.merge.passes(&event) {
            show(&event, view);
        }
        Ok(true)
    }

    /// The list is out of date.
    fn hurry(&mut self) {
        let soon = Instant::now() + SOON;
        self.ask_at = self.ask_at.map(|at| at.min(soon));
    }

    /// Listens to this task from now on, and to no other.
    pub(super) fn watch(&mut self, task_id: Option<&str>) -> Result<(), Failure> {
        if self
            .watched
            .as_ref()
            .map(|watched| watched.task_id.as_str())
            == task_id
        {
            return Ok(());
        }
        if let Some(watched) = self.watched.take() {
            self.client
                .send("unsubscribe", json!({ "task_id": watched.task_id }))?;
        }
        if let Some(task_id) = task_id {
            self.client
                .send("subscribe", json!({ "task_id": task_id }))?;
            // A task that has not run yet has nothing to replay; the refusal is no news.
            self.client.send("replay", json!({ "task_id": task_id }))?;
            let fence = self.client.send("metrics", json!({ "task_id": task_id }))?;
            let task_id = task_id.to_owned();
            self.watched = Some(Watched {
                task_id,
                merge: Merge::default(),
                fence,
                is_new: true,
            });
        }
        Ok(())
    }

    /// Has something done with a task.
    pub(super) fn order(&mut self, order: Order, task_id: &str) -> Result<(), Failure> {
        let id = self
            .client
            .send(order.as_str(), json!({ "task_id": task_id }))?;
        self.orders.insert(id, (order, task_id.to_owned()));
        self.hurry();
        Ok(())
    }
}

fn show(event: &Event, view: &mut View) {
    match &event.body {
        Body::Output(output) => view.add_line(output),
        note => view.add_note(&note.to_string()),
    }
}

/// What the pool over all actions is called here.
const GLOBAL: &str = "global";

/// The pools worth watching: the global one, and those with limits or queues of their own.
fn pooled_actions(client: &mut Client) -> Result<Vec<String>, Failure> {
    let mut names = vec![GLOBAL.to_owned()];
    for action in client.describe("")? {
        let pool = &action["task_pool"];
        let is_limited = pool["limit"].as_i64().is_some_and(|limit| limit > 0)
            || pool["queue"]["enabled"] == true;
        names.extend(
            action["name"]
                .as_str()
                .filter(|_| is_limited)
                .map(str::to_owned),
        );
    }
    Ok(names)
}

/// The loads of all pools worth watching.
pub(super) fn pools(client: &mut Client) -> Result<Vec<Pool>, Failure> {
    let names = pooled_actions(client)?;
    let mut load = |name: &String| {
        let action = if name == GLOBAL { "" } else { name };
        let reply = client.request("pool_info", json!({ "action": action }), action)?;
        Ok(Pool::of(name, &reply.field("pool")?))
    };
    names.iter().map(&mut load).collect()
}
