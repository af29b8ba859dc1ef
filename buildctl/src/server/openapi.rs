//! `GET /v1/openapi.json`: the routes as `OpenAPI` 3.1 has them, with schemas from the types that requests are read into and answers are
//! made of. Put together when it is asked for.

use axum::Json;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::api::{
    CleanupAnswer, CleanupRequest, ErrorAnswer, HealthAnswer, HistoryAnswer, HistoryRequest,
    JobsAnswer, KillAnswer, KillRequest, LinesAnswer, LogsAnswer, LogsRequest, PurgeRequest,
    ReadyAnswer, StatusAnswer, StatusRequest, SubmitAnswer, SubmitRequest,
};

pub(super) async fn document() -> Json<Value> {
    Json(openapi())
}

/// The document.
pub fn openapi() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut paths = Paths {
        schemas: settings.into_generator(),
        paths: Map::new(),
    };
    paths.original();
    paths.jobs();
    paths.rest();
    let error = paths.schema::<ErrorAnswer>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "buildctl",
            "description": "Builds, tests and publishes container images. MCP is spoken at /mcp.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "security": [{}, {"bearer": []}],
        "paths": paths.paths,
        "components": {
            "schemas": paths.schemas.take_definitions(true),
            "responses": {"error": {"description": "What is wrong.", "content": content(&error)}},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    })
}

/// Paths, as they come together.
struct Paths {
    schemas: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Paths {
    /// The original's, of which those below `/mcp` are the same.
    fn original(&mut self) {
        self.post::<SubmitRequest, SubmitAnswer>("/json/submitJob", "Submits a job.");
        self.post::<StatusRequest, StatusAnswer>("/json/getStatus", "How far a job is.");
        self.post::<LogsRequest, LogsAnswer>("/json/getLogs", "What a job's runs said.");
        self.post::<KillRequest, KillAnswer>("/json/killJob", "Ends a job.");
        self.post::<CleanupRequest, CleanupAnswer>(
            "/json/cleanup",
            "Removes what ended jobs left behind.",
        );
        self.post::<HistoryRequest, HistoryAnswer>("/json/getHistory", "Jobs that have ended.");
        self.post_without_answer::<PurgeRequest>("/json/purgeJob", "Forgets an ended job.");
        self.get::<StatusAnswer>("/json/job/{job_id}/status", "How far a job is.", &[]);
        self.get::<LogsAnswer>("/json/job/{job_id}/logs", "What a job's runs said.", &[]);
    }

    fn jobs(&mut self) {
        let filter = ["owner", "status", "ended", "limit", "offset"];
        self.get::<JobsAnswer>("/v1/jobs", "Jobs, newest first.", &filter);
        self.post::<SubmitRequest, SubmitAnswer>(
            "/v1/jobs",
            "Submits a job; `Idempotency-Key` makes a second submission the same job.",
        );
        self.get::<Map<String, Value>>(
            "/v1/jobs/{job_id}",
            "A job as it is recorded, without secrets; `wait=30s` waits for its end.",
            &["wait"],
        );
        let purge = Self::operation("Forgets an ended job.", &["job_id"], &[], None);
        self.add("/v1/jobs/{job_id}", "delete", purge);
        let filter = [
            "phase",
            "cursor",
            "tail",
            "max_bytes",
            "grep",
            "errors_only",
            "follow",
        ];
        self.get::<LinesAnswer>(
            "/v1/jobs/{job_id}/logs",
            "A page of a job's log; with `follow=1` the log as it grows, as server-sent events.",
            &filter,
        );
        self.post::<KillRequest, KillAnswer>("/v1/jobs/{job_id}/kill", "Ends a job.");
        self.post::<CleanupRequest, CleanupAnswer>(
            "/v1/jobs/{job_id}/cleanup",
            "Removes what an ended job left behind.",
        );
        self.post::<CleanupRequest, CleanupAnswer>(
            "/v1/cleanup",
            "Removes what all ended jobs left behind.",
        );
    }

    fn rest(&mut self) {
        self.get::<HealthAnswer>("/health", "Whether what the service needs answers.", &[]);
        self.get::<ReadyAnswer>("/ready", "Whether the service takes work.", &[]);
        self.get::<ReadyAnswer>("/live", "That the process answers.", &[]);
    }

    fn schema<T: JsonSchema>(&mut self) -> Value {
        self.schemas.subschema_for::<T>().to_value()
    }

    fn get<T: JsonSchema>(&mut self, path: &str, summary: &str, query: &[&str]) {
        let answer = self.schema::<T>();
        let operation = Self::operation(summary, &of_path(path), query, Some(&answer));
        self.add(path, "get", operation);
    }

    fn post<Q: JsonSchema, A: JsonSchema>(&mut self, path: &str, summary: &str) {
        let answer = self.schema::<A>();
        let operation = Self::operation(summary, &of_path(path), &[], Some(&answer));
        self.add_post::<Q>(path, operation);
    }

    fn post_without_answer<Q: JsonSchema>(&mut self, path: &str, summary: &str) {
        let operation = Self::operation(summary, &of_path(path), &[], None);
        self.add_post::<Q>(path, operation);
    }

    fn add_post<Q: JsonSchema>(&mut self, path: &str, mut operation: Value) {
        let body = self.schema::<Q>();
        operation["requestBody"] = json!({"required": true, "content": content(&body)});
        self.add(path, "post", operation);
    }

    fn add(&mut self, path: &str, method: &str, operation: Value) {
        self.paths.entry(path).or_insert_with(|| json!({}))[method] = operation;
    }

    fn operation(summary: &str, path: &[&str], query: &[&str], answer: Option<&Value>) -> Value {
        let of = |place: &'static str, required: bool| move |name: &&str| json!({"name": name, "in": place, "required": required, "schema": {"type": "string"}});
        let parameters: Vec<Value> = path
            .iter()
            .map(of("path", true))
            .chain(query.iter().map(of("query", false)))
            .collect();
        let responses = match answer {
            Some(schema) => {
                json!({"200": {"description": "Done.", "content": content(schema)}, "default": refusal()})
            }
            None => json!({"204": {"description": "Done."}, "default": refusal()}),
        };
        json!({"summary": summary, "parameters": parameters, "responses": responses})
    }
}

fn of_path(path: &str) -> Vec<&str> {
    let parts = path.split('/');
    parts
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .collect()
}

fn content(schema: &Value) -> Value {
    json!({"application/json": {"schema": schema}})
}

fn refusal() -> Value {
    json!({"$ref": "#/components/responses/error"})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match value {
                Value::String(target) if key == "$ref" => {
                    found.insert(target);
                }
                other => references(other, found),
            }),
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = openapi();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 10, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn a_job_may_be_shown_and_purged_under_one_path() {
        let document = openapi();
        let job = &document["paths"]["/v1/jobs/{job_id}"];
        assert_eq!(job["get"]["parameters"][0]["name"], "job_id");
        assert!(job["delete"]["responses"]["204"].is_object());
    }
}
