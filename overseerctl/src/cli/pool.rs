//! `overseerctl pool`: a pool's state, and `pool set`: its limits.
//!
//! On the wire a limit that is not named becomes 0, which is "unlimited". So `set` reads what is in force first and
//! sends it along.

use std::io;

use clap::{Subcommand, ValueEnum};
use runyard_common::{
    exit::Exit,
    output::{Printer, Table},
    report::Failure,
};
use serde_json::{Map, Value, json};

use super::{Context, moment};
use crate::client::Client;

/// Show a pool: how many run, how many wait.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// The action whose pool is meant [default: the global pool]
    #[arg(value_name = "ACTION")]
    action: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set the limits of a pool; what is not named stays as it is
    Set(Set),
}

#[derive(clap::Args, Debug)]
struct Set {
    /// The action whose pool is meant [default: the global pool]
    #[arg(value_name = "ACTION")]
    action: Option<String>,

    /// Run at most so many tasks at once; 0 is unlimited
    #[arg(long, value_name = "COUNT")]
    limit: Option<i64>,

    /// Let at most so many starts wait; 0 is unlimited
    #[arg(long, value_name = "COUNT")]
    queue_size: Option<i64>,

    /// What becomes of running tasks over the new limit
    #[arg(long, value_name = "WHAT")]
    excess_action: Option<ExcessAction>,

    /// Which of them go first: the oldest (first) or the newest (last)
    #[arg(long, value_name = "ORDER")]
    excess_order: Option<ExcessOrder>,

    /// Seconds that they have to end
    #[arg(long, value_name = "SECONDS")]
    grace: Option<i64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExcessAction {
    Stop,
    Requeue,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExcessOrder {
    First,
    Last,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    let (action, reply) = match &args.verb {
        Some(Verb::Set(set)) => (&set.action, self::set(&mut client, set)?),
        None => (&args.action, show(&mut client, args.action.as_deref())?),
    };
    print(action.as_deref(), reply, &context.printer)?;
    Ok(Exit::Done)
}

fn show(client: &mut Client, action: Option<&str>) -> Result<Value, Failure> {
    if let Some(action) = action {
        // An unknown action's pool would be answered with the global limit.
        client.describe(action)?;
    }
    info(client, action)
}

fn info(client: &mut Client, action: Option<&str>) -> Result<Value, Failure> {
    let action = action.unwrap_or_default();
    client
        .request("pool_info", json!({ "action": action }), action)?
        .field("pool")
}

fn set(client: &mut Client, set: &Set) -> Result<Value, Failure> {
    if set.limit.is_none() && set.queue_size.is_none() && !set.names_excess() {
        return Err(Failure::new(Exit::Usage, "nothing to set").hint(
            "name at least one of --limit, --queue-size, --excess-action, --excess-order, --grace",
        ));
    }
    let config = match &set.action {
        Some(action) => client
            .describe(action)?
            .pop()
            .map(|mut described| described["task_pool"].take()),
        None => None,
    };
    let present = info(client, set.action.as_deref())?;
    let body = set.body(&present, config.as_ref())?;
    client
        .request("set_pool", body, set.action.as_deref().unwrap_or_default())?
        .field("pool")
}

impl Set {
    fn names_excess(&self) -> bool {
        self.excess_action.is_some() || self.excess_order.is_some() || self.grace.is_some()
    }

    /// The whole request: what was named, and for the rest what is in force. `present` is the pool as it is now,
    /// `config` an action's as `describe` shows it.
    fn body(&self, present: &Value, config: Option<&Value>) -> Result<Value, Failure> {
        let limit = self
            .limit
            .or_else(|| present["limit"].as_i64())
            .unwrap_or_default();
        let queue_size =
            match self.queue_size.or_else(|| present["queue_size"].as_i64()) {
                Some(size) => size,
                None => match config {
                    Some(config) => config["queue"]["size"].as_i64().unwrap_or_default(),
                    None => return Err(Failure::new(
                        Exit::Usage,
                        "the queue size of the global pool is to be named too",
                    )
                    .hint(
                        "hubs do not tell what it is now; add --queue-size N, where 0 is unlimited",
                    )),
                },
            };
        let mut body = json!({ "limit": limit, "queue_size": queue_size });
        if let Some(action) = &self.action {
            body["action"] = action.as_str().into();
        }
        if self.names_excess() {
            let mut excess = config
                .and_then(|config| config["excess"].as_object().cloned())
                .unwrap_or_default();
            self.overlay(&mut excess);
            body["excess"] = excess.into();
        }
        Ok(body)
    }

    fn overlay(&self, excess: &mut Map<String, Value>) {
        let word = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map(|value| Value::from(value.get_name()))
        };
        let action = self
            .excess_action
            .and_then(|action| word(&|| action.to_possible_value()));
        let order = self
            .excess_order
            .and_then(|order| word(&|| order.to_possible_value()));
        let named = [
            ("action", action),
            ("order", order),
            ("grace", self.grace.map(Value::from)),
        ];
        excess.extend(
            named
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?))),
        );
    }
}

fn print(action: Option<&str>, pool: Value, printer: &Printer) -> io::Result<()> {
    let mut answer = Map::new();
    answer.extend(action.map(|action| ("action".to_owned(), action.into())));
    if let Value::Object(fields) = pool {
        answer.extend(fields);
    }
    let table = table(action, &answer);
    printer.both(&answer, &table)
}

fn table(action: Option<&str>, pool: &Map<String, Value>) -> Table {
    let number = |key: &str| pool.get(key).and_then(Value::as_i64).unwrap_or_default();
    let limit = match number("limit") {
        limit if limit > 0 => limit.to_string(),
        _ => "unlimited".to_owned(),
    };
    let mut table = Table::headless()
        .row(["pool", action.unwrap_or("global")])
        .row(["limit", &limit])
        .row(["running", &number("running").to_string()])
        .row(["waiting", &number("queue_depth").to_string()]);
    for item in pool
        .get("queue_items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let word = |key: &str| item[key].as_str().unwrap_or_default();
        let forced = if item["forced"] == true {
            ", forced"
        } else {
            ""
        };
        let waited = moment::age(item["queued_at"].as_str());
        let text = format!(
            "{} {} ({}), for {waited}{forced}",
            item["position"],
            word("task_id"),
            word("action")
        );
        table.push(["", text.as_str()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        set: Set,
    }

    fn set(line: &str) -> Set {
        Cli::try_parse_from(std::iter::once("x").chain(line.split_whitespace()))
            .unwrap()
            .set
    }

    #[test]
    fn what_is_not_named_stays_in_force() {
        let present = json!({"limit": 3, "running": 1, "queue_depth": 0});
        let config = json!({"limit": 3, "queue": {"enabled": true, "size": 7}, "excess": {"action": "stop", "order": "last", "grace": 5}});
        let body = |line: &str| set(line).body(&present, Some(&config)).unwrap();
        assert_eq!(
            body("a --queue-size 2"),
            json!({"limit": 3, "queue_size": 2, "action": "a"})
        );
        assert_eq!(
            body("a --limit 1"),
            json!({"limit": 1, "queue_size": 7, "action": "a"})
        );
        let excess = json!({"action": "stop", "order": "first", "grace": 5});
        assert_eq!(
            body("a --excess-order first"),
            json!({"limit": 3, "queue_size": 7, "action": "a", "excess": excess})
        );
    }

    #[test]
    fn the_global_queue_is_never_made_unlimited_by_accident() {
        let present = json!({"limit": 3, "running": 1, "queue_depth": 0});
        let failure = set("--limit 1").body(&present, None).unwrap_err();
        assert!(failure.exit() == Exit::Usage && failure.hints()[0].contains("--queue-size"));
        assert_eq!(
            set("--limit 1 --queue-size 4")
                .body(&present, None)
                .unwrap(),
            json!({"limit": 1, "queue_size": 4})
        );
    }
}
