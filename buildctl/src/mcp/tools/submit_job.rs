//! `submitJob`: accepts a job. Arguments are the fields of a job's configuration, as the original's tool has them, side by side.

use async_trait::async_trait;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value, json};

use super::{Context, Effect, Refusal, Reply, Verb};
use crate::{
    api::{DOCKERFILE, GIT_REF, JobConfig, SubmitAnswer, lenient},
    mcp::{resources, schema},
    phase::Phase,
    service::Builds,
};

/// Where the original looks for Git credentials that nobody named. That they are there is not expected.
const GIT_CREDENTIALS: &str = "secret/nomad/jobs/git-credentials";

/// Where the original looks for credentials of registries that nobody named.
const REGISTRY_CREDENTIALS: &str = "secret/nomad/jobs/registry-credentials";

pub(super) struct SubmitJob;

/// A job's configuration, and the key.
#[derive(Debug)]
pub(super) struct Arguments {
    config: JobConfig,
    key: Option<String>,
}

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let name = fields
            .keys()
            .find(|name| schema::is_spelling("idempotency_key", name));
        let key = name.cloned().and_then(|name| fields.remove(&name));
        let key = key.unwrap_or_default();
        Ok(Self {
            config: lenient::from_value(Value::Object(fields)).map_err(de::Error::custom)?,
            key: lenient::from_value(key).map_err(de::Error::custom)?,
        })
    }
}

impl JsonSchema for Arguments {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SubmitJob".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = schema::object_of::<JobConfig>(generator);
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        if let Some(properties) = properties {
            for (name, default) in [
                ("git_ref", GIT_REF),
                ("dockerfile_path", DOCKERFILE),
                ("git_credentials_path", GIT_CREDENTIALS),
                ("registry_credentials_path", REGISTRY_CREDENTIALS),
            ] {
                if let Some(property) = properties.get_mut(name) {
                    property["default"] = default.into();
                }
            }
            let key = json!({
                "type": "string",
                "description": "A second submission with the same key and configuration is the same job: use it to submit again when no answer came."
            });
            properties.insert("idempotency_key".to_owned(), key);
        }
        schema.into()
    }
}

/// An accepted job.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    #[serde(flatten)]
    accepted: SubmitAnswer,
    /// What to do next.
    hint: String,
}

#[async_trait]
impl Verb for SubmitJob {
    type Arguments = Arguments;
    type Answer = Answer;

    const NAME: &'static str = "submitJob";
    const TITLE: &'static str = "Submit a job";
    const DESCRIPTION: &'static str = "\
Submits a job: builds an image from a Git repository, tests it, and publishes it under its tags (the job's own id first, then \
image_tags) if all tests pass. Returns at once with the job_id; wait for the end with waitJob. Without `test` the image is \
published untested.";
    const EFFECT: Effect = Effect::Changes;

    async fn call(
        builds: &dyn Builds,
        arguments: Arguments,
        _: &Context,
    ) -> Result<Reply<Answer>, Refusal> {
        let config = with_defaults(arguments.config);
        let is_tested = config
            .test
            .as_ref()
            .is_some_and(|test| test.entry_point || !test.commands.is_empty());
        let key = arguments.key.filter(|key| !key.trim().is_empty());
        let accepted = builds.submit(config, key).await?;
        let id = accepted.job_id;
        let untested = if is_tested {
            ""
        } else {
            " No tests were asked for: the image will be published untested."
        };
        let hint = format!("Call waitJob with job_id {id}.{untested}");
        Ok(Reply {
            answer: Answer { accepted, hint },
            links: vec![
                resources::job_link(id),
                resources::log_link(id, Phase::Build),
            ],
        })
    }
}

/// With what the original's tool fills in.
fn with_defaults(config: JobConfig) -> JobConfig {
    let mut config = config.filled();
    // Credentials are not sent in the clear, and these were not asked for.
    let in_the_clear = config.repo_url.trim_start().starts_with("http://");
    if config.git_credentials_path.trim().is_empty() && !in_the_clear {
        GIT_CREDENTIALS.clone_into(&mut config.git_credentials_path);
    }
    if config.registry_credentials_path.trim().is_empty() {
        REGISTRY_CREDENTIALS.clone_into(&mut config.registry_credentials_path);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Arguments {
        lenient::from_value(value).unwrap()
    }

    #[test]
    fn tags_may_be_a_list_a_list_in_a_string_or_one() {
        for (tags, read_as) in [
            (json!(["v1", "latest"]), vec!["v1", "latest"]),
            (json!("[\"v1\", \"latest\"]"), vec!["v1", "latest"]),
            (json!("v1"), vec!["v1"]),
            (json!(null), vec![]),
        ] {
            assert_eq!(read(json!({"image_tags": tags})).config.image_tags, read_as);
        }
    }

    #[test]
    fn the_old_fields_for_tests_ask_for_tests() {
        let test = read(json!({"test_commands": ["make test"], "test_entry_point": true}))
            .config
            .test;
        let test = test.unwrap();
        assert_eq!(
            (test.commands, test.entry_point),
            (vec!["make test".to_owned()], true)
        );
    }

    #[test]
    fn what_is_not_said_is_filled_in_as_the_original_does() {
        let config = with_defaults(read(json!({"repo_url": "https://git.test/a"})).config);
        assert_eq!(
            (&*config.git_ref, &*config.dockerfile_path),
            ("main", "Dockerfile")
        );
        assert_eq!(config.git_credentials_path, GIT_CREDENTIALS);
        assert_eq!(config.registry_credentials_path, REGISTRY_CREDENTIALS);
        let config = with_defaults(
            read(json!({"repo_url": "http://git.test/a", "registry_credentials_path": "team/reg"}))
                .config,
        );
        assert_eq!(
            (
                &*config.git_credentials_path,
                &*config.registry_credentials_path
            ),
            ("", "team/reg")
        );
    }

    #[test]
    fn the_key_is_none_of_the_configuration() {
        let arguments = read(json!({"owner": "o", "idempotencyKey": "k"}));
        assert_eq!(
            (arguments.key.as_deref(), &*arguments.config.owner),
            (Some("k"), "o")
        );
        assert_eq!(read(json!({"owner": "o"})).key, None);
    }
}
