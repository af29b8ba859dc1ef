//! The `OpenAPI` document: the protocol as Swagger 2.0, with sticky-overseer's own `ws` method, from which generic web
//! interfaces build their forms.
//!
//! Requests are not described here: they are taken from the [`manifest`], and actions from what their
//! drivers say. A form sends every parameter that is `hidden` with its default; those of an action go under `params`.
//! As in sticky-overseer v2 a command that starts an action does not list `id`, which every request needs: the form has to
//! bring its own.

use std::ops::Not;

use serde::Serialize;
use serde_json::{Serializer, Value, json, ser::PrettyFormatter};

use crate::{
    api::{ActionInfo, ParamSpec, PoolConfig, RetryPolicy},
    manifest,
};

/// Title of a daemon that was given no name.
const DEFAULT_TITLE: &str = "sticky-overseer";

/// Requests that need no action, and how forms are headed; in sticky-overseer's order, extensions last.
const REQUESTS: [(&str, &str); 15] = [
    ("list", "All tasks"),
    ("stop", "Stop a task"),
    ("reset", "Reset a task"),
    ("replay", "Latest output of a task"),
    ("describe", "Actions and parameters"),
    ("pool_info", "State of a pool"),
    ("purge", "Empty a queue"),
    ("set_pool", "Change a pool"),
    ("subscribe", "Follow a task"),
    ("unsubscribe", "Follow a task no longer"),
    ("metrics", "Counters"),
    ("manifest", "Protocol manifest"),
    ("hello", "Switch extensions on"),
    ("remove", "Forget a task"),
    ("history", "Past runs"),
];

/// The document of a daemon called `name`, with a command for every request and for every action.
pub fn openapi(name: &str, actions: &[ActionInfo]) -> Value {
    let requests = REQUESTS
        .into_iter()
        .map(|(kind, summary)| Command::of_request(kind, summary));
    let starts = manifest::by_name(actions)
        .into_iter()
        .map(Command::of_action);
    let commands: Vec<_> = requests.chain(starts).collect();
    json!({
        "swagger": "2.0",
        "info": {
            "title": if name.is_empty() { DEFAULT_TITLE } else { name },
            "description": "Everything goes over the WebSocket at /ws, a JSON object in each message.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "produces": ["application/json"],
        "paths": {"/ws": {"ws": {"summary": "WebSocket", "commands": commands}}},
    })
}

/// A document as text, indented by four columns like the original's.
pub fn render(document: &Value) -> String {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    document
        .serialize(&mut Serializer::with_formatter(&mut text, formatter))
        .unwrap_or_else(|error| unreachable!("a Vec takes every write: {error}"));
    String::from_utf8(text).unwrap_or_else(|error| unreachable!("JSON is UTF-8: {error}"))
}

/// One message that a form can send.
#[derive(Default, Serialize)]
struct Command<'a> {
    summary: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(rename = "operationId")]
    operation_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<&'a str>,
    /// Where visible parameters go; without it, beside the hidden ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    params_key: Option<&'static str>,
    parameters: Vec<Parameter<'a>>,
    #[serde(rename = "x-action-type", skip_serializing_if = "str::is_empty")]
    action_type: &'a str,
    #[serde(rename = "x-task-pool", skip_serializing_if = "Option::is_none")]
    task_pool: Option<&'a PoolConfig>,
    #[serde(rename = "x-retry", skip_serializing_if = "Option::is_none")]
    retry: Option<&'a RetryPolicy>,
    #[serde(rename = "x-dedupe-key", skip_serializing_if = "<[String]>::is_empty")]
    dedupe_key: &'a [String],
    #[serde(skip_serializing_if = "Not::not")]
    extension: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature: Option<&'a str>,
}

impl Command<'static> {
    fn of_request(kind: &str, summary: &str) -> Self {
        let message = manifest::message(kind);
        let fields = message["fields"].as_object().into_iter().flatten();
        Self {
            summary: summary.to_owned(),
            description: message["description"].as_str().unwrap_or_default(),
            operation_id: format!("ws-{}", kind.replace('_', "-")),
            parameters: fields
                .map(|(name, field)| Parameter::of_field(name, field))
                .collect(),
            extension: message["extension"] == true,
            feature: message["feature"].as_str(),
            ..Self::default()
        }
    }
}

impl<'a> Command<'a> {
    fn of_action(action: &'a ActionInfo) -> Self {
        let ActionInfo {
            name,
            kind,
            description,
            params,
            task_pool,
            retry,
            dedupe_key,
        } = action;
        let limits = task_pool.limit > 0 || task_pool.queue.is_some();
        Self {
            summary: if description.is_empty() {
                format!("Start {name}")
            } else {
                description.clone()
            },
            operation_id: format!("start-{name}"),
            tags: vec![name],
            params_key: Some("params"),
            parameters: start_parameters(name, params),
            action_type: kind,
            task_pool: limits.then_some(task_pool),
            retry: retry.as_ref(),
            dedupe_key,
            ..Self::default()
        }
    }
}

/// First what the protocol wants, then what must be filled in, then what may be.
fn start_parameters<'a>(
    action: &'a str,
    params: impl IntoIterator<Item = (&'a String, &'a Option<ParamSpec>)>,
) -> Vec<Parameter<'a>> {
    let visible = params
        .into_iter()
        .map(|(name, spec)| Parameter::of_param(name, spec.as_ref()));
    let (required, optional): (Vec<_>, Vec<_>) = visible.partition(|parameter| parameter.required);
    let hidden = [
        Parameter::hidden("type", "start".into()),
        Parameter::hidden("action", action.into()),
    ];
    hidden.into_iter().chain(required).chain(optional).collect()
}

/// One field of a message that a form can send.
#[derive(Default, Serialize)]
struct Parameter<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Not::not")]
    required: bool,
    #[serde(skip_serializing_if = "Not::not")]
    hidden: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<Value>,
    #[serde(skip_serializing_if = "str::is_empty")]
    validate: &'a str,
    #[serde(skip_serializing_if = "Not::not")]
    extension: bool,
}

impl<'a> Parameter<'a> {
    fn hidden(name: &'a str, value: Value) -> Self {
        Self {
            name,
            hidden: true,
            default: Some(value),
            ..Self::default()
        }
    }

    /// A field of a request, as the manifest has it.
    fn of_field(name: &'a str, field: &'a Value) -> Self {
        let default = field.get("default").cloned();
        if field["ui_hint"] == "hidden" {
            return Self::hidden(name, default.unwrap_or_default());
        }
        Self {
            name,
            description: field["description"].as_str().unwrap_or_default(),
            kind: manifest::type_word(field),
            required: field["required"] == true,
            default,
            extension: field["extension"] == true,
            ..Self::default()
        }
    }

    /// A parameter of an action. Without a default somebody has to fill it in.
    fn of_param(name: &'a str, spec: Option<&'a ParamSpec>) -> Self {
        let default = spec.and_then(|spec| spec.default.as_deref());
        Self {
            name,
            kind: "string",
            required: default.is_none(),
            default: default.map(Value::from),
            validate: spec.map_or("", |spec| &spec.validate),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(name: &str) -> ActionInfo {
        ActionInfo {
            name: name.to_owned(),
            kind: "exec".to_owned(),
            ..ActionInfo::default()
        }
    }

    fn param(default: Option<&str>, validate: &str) -> ParamSpec {
        ParamSpec {
            default: default.map(str::to_owned),
            validate: validate.to_owned(),
        }
    }

    /// Commands of a document, by `operationId`, in its order.
    fn commands(document: &Value) -> Vec<(&str, &Value)> {
        let commands = document["paths"]["/ws"]["ws"]["commands"]
            .as_array()
            .unwrap();
        commands
            .iter()
            .map(|command| (command["operationId"].as_str().unwrap(), command))
            .collect()
    }

    #[test]
    fn a_daemon_without_a_name_bears_the_originals() {
        assert_eq!(openapi("", &[])["info"]["title"], "sticky-overseer");
        assert_eq!(openapi("mill", &[])["info"]["title"], "mill");
    }

    #[test]
    fn every_request_but_start_has_a_command_and_every_command_a_request() {
        let manifest = manifest::manifest(&[]);
        let mut requests: Vec<_> = manifest["messages"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(kind, message)| message["direction"] == "c2s" && *kind != "start")
            .map(|(kind, _)| kind.as_str())
            .collect();
        let document = openapi("", &[]);
        let mut types: Vec<_> = commands(&document)
            .iter()
            .map(|(_, command)| command["parameters"][0]["default"].as_str().unwrap())
            .collect();
        requests.sort_unstable();
        types.sort_unstable();
        assert_eq!(types, requests);
    }

    #[test]
    fn the_twelve_commands_of_v2_come_first_and_are_no_extensions() {
        let document = openapi("", &[action("a")]);
        let commands = commands(&document);
        let is_extension = |(_, command): &(&str, &Value)| command["extension"] == true;
        assert_eq!(commands.iter().position(is_extension), Some(12));
        assert_eq!(commands.iter().rposition(is_extension), Some(14));
        assert_eq!(commands[13].1["feature"], "remove");
    }

    #[test]
    fn a_reference_becomes_the_word_for_its_type() {
        let document = openapi("", &[]);
        let set_pool = commands(&document)
            .into_iter()
            .find(|(id, _)| *id == "ws-set-pool")
            .unwrap()
            .1;
        let parameters = set_pool["parameters"].as_array().unwrap();
        let excess = parameters
            .iter()
            .find(|parameter| parameter["name"] == "excess")
            .unwrap();
        assert_eq!(excess["type"], "object");
        assert_eq!(
            parameters[0],
            json!({"name": "type", "hidden": true, "default": "set_pool"})
        );
    }

    #[test]
    fn required_parameters_come_before_optional_ones() {
        let mut deploy = action("deploy");
        deploy.params = [
            ("a".to_owned(), Some(param(Some(""), "value.size() < 4"))),
            ("b".to_owned(), None),
            ("c".to_owned(), Some(param(None, "value != ''"))),
        ]
        .into();
        let document = openapi("", &[deploy]);
        let start = commands(&document)[15].1;
        let expected = json!([
            {"name": "type", "hidden": true, "default": "start"},
            {"name": "action", "hidden": true, "default": "deploy"},
            {"name": "b", "type": "string", "required": true},
            {"name": "c", "type": "string", "required": true, "validate": "value != ''"},
            {"name": "a", "type": "string", "default": "", "validate": "value.size() < 4"},
        ]);
        assert_eq!(start["parameters"], expected);
        assert_eq!(start["params_key"], "params");
    }

    #[test]
    fn an_action_tells_only_what_it_has() {
        let mut busy = action("busy");
        busy.description = "Does much".to_owned();
        busy.task_pool.limit = 2;
        busy.retry = Some(RetryPolicy::default());
        busy.dedupe_key = vec!["k".to_owned()];
        let document = openapi("", &[busy, action("bare")]);
        let commands = commands(&document);
        let bare = json!({
            "summary": "Start bare", "operationId": "start-bare", "tags": ["bare"], "params_key": "params",
            "parameters": [
                {"name": "type", "hidden": true, "default": "start"},
                {"name": "action", "hidden": true, "default": "bare"},
            ],
            "x-action-type": "exec",
        });
        assert_eq!(commands[15], ("start-bare", &bare));
        let busy = commands[16].1;
        assert_eq!(busy["summary"], "Does much");
        assert_eq!(busy["x-task-pool"]["limit"], 2);
        assert_eq!(busy["x-retry"], json!({}));
        assert_eq!(busy["x-dedupe-key"], json!(["k"]));
    }

    #[test]
    fn text_is_indented_by_four_columns() {
        assert_eq!(
            render(&json!({"a": [1], "b": {}})),
            "{\n    \"a\": [\n        1\n    ],\n    \"b\": {}\n}"
        );
    }
}
