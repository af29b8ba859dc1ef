//! `overseerctl describe`: what can be started. As JSON an array, or one object where an action was named.

use runyard_common::{exit::Exit, output::Table};
use serde_json::Value;

use super::Context;

/// Show actions, their parameters, pools and retry policies.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this action
    #[arg(value_name = "ACTION")]
    action: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let actions = context
        .connect()?
        .describe(args.action.as_deref().unwrap_or_default())?;
    match (&args.action, actions.as_slice()) {
        (Some(_), [action]) => context.printer.both(action, &details(action))?,
        _ => context.printer.both(&actions, &table(&actions))?,
    }
    Ok(Exit::Done)
}

fn table(actions: &[Value]) -> Table {
    let mut table = Table::new(["action", "type", "parameters", "pool", "description"]);
    for action in actions {
        let parameters: Vec<String> = parameters(action)
            .map(|(name, spec)| signature(name, spec))
            .collect();
        table.push([
            text(&action["name"]),
            text(&action["type"]),
            parameters.join(" "),
            pool(action),
            text(&action["description"]),
        ]);
    }
    table
}

fn details(action: &Value) -> Table {
    let mut table = Table::headless();
    for (label, key) in [
        ("action", "name"),
        ("type", "type"),
        ("description", "description"),
    ] {
        push_some(&mut table, label, text(&action[key]));
    }
    for (name, spec) in parameters(action) {
        let check = spec["validate"].as_str().filter(|check| !check.is_empty());
        let check = check
            .map(|check| format!(", must satisfy {check}"))
            .unwrap_or_default();
        let need = match spec["default"].as_str() {
            Some(default) => format!("default \"{default}\""),
            None => "required".to_owned(),
        };
        table.push(["parameter".to_owned(), format!("{name}: {need}{check}")]);
    }
    push_some(&mut table, "pool", pool(action));
    let retry = action["retry"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key} {}", text(value)));
    push_some(&mut table, "retry", retry.collect::<Vec<_>>().join(", "));
    let keys = action["dedupe_key"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text);
    push_some(&mut table, "unique by", keys.collect::<Vec<_>>().join(", "));
    table
}

fn push_some(table: &mut Table, label: &str, text: String) {
    if !text.is_empty() {
        table.push([label.to_owned(), text]);
    }
}

fn parameters(action: &Value) -> impl Iterator<Item = (&String, &Value)> {
    action["params"].as_object().into_iter().flatten()
}

/// A parameter as it is written on the command line.
fn signature(name: &str, spec: &Value) -> String {
    match spec["default"].as_str() {
        Some(default) => format!("[{name}={default}]"),
        None => format!("{name}=…"),
    }
}

/// A pool in a few words; nothing if it is unlimited.
fn pool(action: &Value) -> String {
    let pool = &action["task_pool"];
    let limit = pool["limit"].as_i64().unwrap_or_default();
    let mut words = Vec::new();
    if limit > 0 {
        words.push(format!("{limit} at once"));
    }
    if pool["queue"]["enabled"] == true {
        match pool["queue"]["size"].as_i64() {
            Some(size) if size > 0 => words.push(format!("{size} may wait")),
            _ => words.push("any number may wait".to_owned()),
        }
    }
    words.join(", ")
}

/// A value without quotes; nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
