//! What a client asks for: `JobConfig` and its parts, as REST, MCP and job files have it.
//!
//! Reading is generous, as the original's decoder was and a little more: `null` is a missing value, keys may be camelCase
//! (`repoURL`, `imageTags`), durations may be `"30m"`, numbers may stand where the original has strings and the other way
//! round, one tag may stand for a list, and the test fields of before October 2025 (`test_commands`, `test_entry_point`,
//! `test_timeout` at the top) mean what they meant. Unknown keys are ignored on the wire; a job file with one is refused by
//! whoever reads the file. Writing is strict: the names and forms of the original.

use std::{collections::BTreeMap, fmt};

use runyard_common::{duration, number, secret::REDACTED};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::{lenient::Lenient, schema, words};
use crate::{
    job::JobId,
    spec::{Conflict, TestMode},
};

/// The ref where none is asked for.
pub(crate) const GIT_REF: &str = "main";

/// The Dockerfile where none is asked for.
pub(crate) const DOCKERFILE: &str = "Dockerfile";

/// A duration on the wire: an integer of nanoseconds, as Go's `time.Duration`; reads `"30m"` too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Nanoseconds(pub i64);

impl Nanoseconds {
    /// The duration; none for one that is not positive, or absent in Go's manner (0).
    pub fn positive(self) -> Option<std::time::Duration> {
        let nanoseconds = u64::try_from(self.0).ok().filter(|n| *n > 0)?;
        Some(std::time::Duration::from_nanos(nanoseconds))
    }
}

impl From<std::time::Duration> for Nanoseconds {
    fn from(duration: std::time::Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl<'de> Deserialize<'de> for Nanoseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NanosecondsVisitor)
    }
}

struct NanosecondsVisitor;

impl de::Visitor<'_> for NanosecondsVisitor {
    type Value = Nanoseconds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 30m, or a whole number of nanoseconds")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Nanoseconds, E> {
        Ok(Nanoseconds(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Nanoseconds, E> {
        i64::try_from(number)
            .map(Nanoseconds)
            .map_err(|_| E::custom(format_args!("`{number}` nanoseconds are too long")))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Nanoseconds, E> {
        number::whole(number)
            .map(Nanoseconds)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Nanoseconds, E> {
        if let Ok(number) = text.trim().parse() {
            return Ok(Nanoseconds(number));
        }
        let duration = duration::parse(text).map_err(E::custom)?;
        i64::try_from(duration.as_nanos())
            .map(Nanoseconds)
            .map_err(|_| E::custom(format_args!("duration `{text}` is too long")))
    }
}

impl JsonSchema for Nanoseconds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A duration such as \"30m\" or \"1h30m\", or an integer of nanoseconds.",
            "anyOf": [
                {"type": "string", "pattern": "^([0-9.]+(ns|us|ms|s|m|h|d))+$"},
                {"type": "integer", "minimum": 0}
            ]
        })
    }
}

/// What to build, how to test it and where to publish it.
///
/// Deserialising is generous whatever the format (see the head of this file), except for [`JobConfig::strictly`].
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, remote = "Self")]
#[schemars(
    description = "What to build, how to test it and where to publish it.",
    extend("required" = ["owner", "repo_url", "image_name", "registry_url"]),
    transform = schema::without_defaults
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the fields are those of the original"
)]
pub struct JobConfig {
    /// Who the job is for.
    #[schemars(length(min = 1))]
    pub owner: String,
    /// The Git repository to build: an `https://` or `ssh://` URL or `user@host:path`.
    #[schemars(length(min = 1))]
    pub repo_url: String,
    /// Branch, tag or commit [default: main].
    pub git_ref: String,
    /// Where the credentials for the repository are: a Vault path, or `nomad:PATH`. Never the credentials themselves.
    pub git_credentials_path: String,
    /// Path of the Dockerfile in the repository [default: Dockerfile].
    pub dockerfile_path: String,
    /// Path of the build's context in the repository [default: all of it]; in the original since December 2025.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dockerfile_context: String,
    /// Name of the image in the registry.
    #[schemars(length(min = 1))]
    pub image_name: String,
    /// Tags to publish, besides the job's id.
    #[serde(
        deserialize_with = "words::list",
        serialize_with = "words::null_if_empty"
    )]
    #[schemars(with = "schema::Words")]
    pub image_tags: Vec<String>,
    /// The registry, with a path if need be: `registry.example:5000/team`.
    #[schemars(length(min = 1))]
    pub registry_url: String,
    /// Where the credentials for the registry are: a Vault path, or `nomad:PATH`. Never the credentials themselves.
    pub registry_credentials_path: String,
    /// How to test the image. Without commands and entry point it is published untested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<TestConfig>,
    /// What the phases may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_limits: Option<ResourceLimits>,
    /// How long the build may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_timeout: Option<Nanoseconds>,
    /// Forget cached layers first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub clear_cache: bool,
    /// Where to post events to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub webhook_url: String,
    /// What to sign them with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub webhook_secret: String,
    /// Whether to tell of success.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub webhook_on_success: bool,
    /// Whether to tell of failure. Neither of the two means both.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub webhook_on_failure: bool,
    /// Headers of the posts.
    #[serde(
        deserialize_with = "words::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub webhook_headers: BTreeMap<String, String>,
    /// Where the command line keeps histories and the version [default: ./deploy]; the service makes nothing of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(skip)]
    pub deploy_dir: String,

    // What follows is not in the original.
    /// The stage of the Dockerfile to build.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Values of `ARG`s. They show in the image's history: no place for secrets.
    #[serde(
        deserialize_with = "words::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image.
    #[serde(
        deserialize_with = "words::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The platform to build for, as in `linux/arm64`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Secrets for `RUN --mount=type=secret,id=…`: id → reference.
    #[serde(
        deserialize_with = "words::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub build_secrets: BTreeMap<String, String>,
    /// SSH keys for `RUN --mount=type=ssh,id=…`: id → reference.
    #[serde(
        deserialize_with = "words::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub build_ssh: BTreeMap<String, String>,
    /// Further contexts, for `COPY --from=NAME` and `FROM NAME`: name → a path in the repository, or `docker-image://IMAGE`.
    #[serde(
        deserialize_with = "words::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub build_contexts: BTreeMap<String, String>,
    /// Annotations of the image's manifest.
    #[serde(
        deserialize_with = "words::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Make one layer of all that the build adds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub squash: bool,
    /// Repositories of the image's registry to take cached layers from.
    #[serde(
        deserialize_with = "words::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "schema::Words")]
    pub cache_from: Vec<String>,
    /// Repositories of the image's registry to keep cached layers in.
    #[serde(
        deserialize_with = "words::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "schema::Words")]
    pub cache_to: Vec<String>,
    /// How old cached layers of `cache_from` may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_ttl: Option<Nanoseconds>,
    /// The network of `RUN` steps: `none`, `private`, `host` [default: that of the service's isolation].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// What to do while another job works on the same image and ref; the service's decision if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_conflict: Option<Conflict>,

    // How tests were asked for before October 2025. Reading moves them to `test`; see `JobConfig::settled`.
    /// Deprecated: `test.commands`.
    #[serde(deserialize_with = "words::list", skip_serializing)]
    #[schemars(with = "schema::Words", extend("deprecated" = true))]
    pub test_commands: Vec<String>,
    /// Deprecated: `test.entry_point`.
    #[serde(skip_serializing)]
    #[schemars(extend("deprecated" = true))]
    pub test_entry_point: bool,
    /// Deprecated: `test.timeout`.
    #[serde(skip_serializing)]
    #[schemars(extend("deprecated" = true))]
    pub test_timeout: Option<Nanoseconds>,
}

impl<'de> Deserialize<'de> for JobConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::strictly(Lenient(value)).map_err(de::Error::custom)
    }
}

impl Serialize for JobConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The old fields are not written: whoever filled them in by hand means what they mean.
        if self.has_old_fields() {
            Self::serialize(&self.clone().settled(), serializer)
        } else {
            Self::serialize(self, serializer)
        }
    }
}

/// Redacted: it may end in a log.
impl fmt::Debug for JobConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(&self.redacted()).map_err(|_| fmt::Error)?;
        f.debug_tuple("JobConfig")
            .field(&format_args!("{text}"))
            .finish()
    }
}

impl JobConfig {
    /// Reads one as the deserializer reads it, whose matter unknown keys and other spellings are.
    pub fn strictly<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer).map(Self::settled)
    }

    fn has_old_fields(&self) -> bool {
        !self.test_commands.is_empty() || self.test_entry_point || self.test_timeout.is_some()
    }

    /// With the old fields for tests moved to where they are now: what they ask for comes on top of what `test` does.
    #[must_use]
    pub fn settled(mut self) -> Self {
        let commands = std::mem::take(&mut self.test_commands);
        let entry_point = std::mem::take(&mut self.test_entry_point);
        let timeout = self.test_timeout.take();
        if commands.is_empty() && !entry_point && (timeout.is_none() || self.test.is_none()) {
            // A timeout of no test is nothing; one for tests that are described anew is taken below.
            return self;
        }
        let test = self.test.get_or_insert_default();
        for command in commands {
            if !test.commands.contains(&command) {
                test.commands.push(command);
            }
        }
        test.entry_point |= entry_point;
        test.timeout = test.timeout.or(timeout);
        self
    }

    /// With what the original's documents promise for fields that say nothing: the branch `main`, the file `Dockerfile`.
    #[must_use]
    pub fn filled(self) -> Self {
        let mut config = self.settled();
        for (field, default) in [
            (&mut config.git_ref, GIT_REF),
            (&mut config.dockerfile_path, DOCKERFILE),
        ] {
            if field.trim().is_empty() {
                default.clone_into(field);
            }
        }
        config
    }

    /// As it may leave the service: secrets are `[redacted]`.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut config = self.clone();
        if !config.webhook_secret.is_empty() {
            REDACTED.clone_into(&mut config.webhook_secret);
        }
        for value in config.webhook_headers.values_mut() {
            REDACTED.clone_into(value);
        }
        config.webhook_url = without_password(&config.webhook_url);
        config.repo_url = without_password(&config.repo_url);
        config
    }

    /// As answers about job `id` show it: redacted, and with the job's own tag first.
    #[must_use]
    pub fn shown(&self, id: JobId) -> Self {
        let mut config = self.redacted();
        config.image_tags = self.all_tags(id);
        config
    }

    /// The tags that the job moves: its id, then those asked for.
    pub fn all_tags(&self, id: JobId) -> Vec<String> {
        let own = id.to_string();
        let others = self.image_tags.iter().filter(|tag| **tag != own).cloned();
        std::iter::once(own.clone()).chain(others).collect()
    }
}

/// A URL without what could be a password: one, or whatever stands before the host of a web address, where tokens are put too.
/// Texts that are no URL stay as they are.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let Some((user, host)) = authority.rsplit_once('@') else {
        return text.to_owned();
    };
    match user.split_once(':') {
        _ if scheme.starts_with("http") => format!("{scheme}://{REDACTED}@{host}{path}"),
        Some((name, _)) => format!("{scheme}://{name}:{REDACTED}@{host}{path}"),
        None => text.to_owned(),
    }
}

/// How to test an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = schema::without_defaults)]
pub struct TestConfig {
    /// Commands for the image's shell, each in a container of its own.
    #[serde(
        deserialize_with = "words::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "schema::Words")]
    pub commands: Vec<String>,
    /// Whether to run the image as it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub entry_point: bool,
    /// Environment variables.
    #[serde(
        deserialize_with = "words::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub env: BTreeMap<String, String>,
    /// Variables from Vault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vault_secrets: Vec<VaultSecret>,
    /// Policies (on current Nomad: roles) under which to read them.
    #[serde(
        deserialize_with = "words::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "schema::Words")]
    pub vault_policies: Vec<String>,
    /// What each test may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_limits: Option<PhaseResources>,
    /// How long each test may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Nanoseconds>,
    /// Whether a GPU is needed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gpu_required: bool,
    /// Deprecated: more than 0 means `gpu_required`.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(extend("deprecated" = true))]
    pub gpu_count: i64,
    /// Where tests may run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<TestConstraint>,
    /// How tests run. Not in the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<TestMode>,
    /// The original's test from outside, by its command line; here a job with one is refused, not published untested.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(skip)]
    pub python_command: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Variables of tests that come from one secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["path", "fields"]), transform = schema::without_defaults)]
pub struct VaultSecret {
    /// Where it is.
    pub path: String,
    /// Its fields → variables.
    #[serde(deserialize_with = "words::map")]
    pub fields: BTreeMap<String, String>,
}

/// Where a test may run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["attribute", "value"]), transform = schema::without_defaults)]
pub struct TestConstraint {
    /// What of a node: `${meta.zone}`.
    pub attribute: String,
    /// To compare with.
    pub value: String,
    /// How, as in Nomad; empty for `=`.
    pub operand: String,
}

/// What all phases, or single ones, may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "LimitsOnTheWire", into = "LimitsOnTheWire")]
pub struct ResourceLimits {
    /// For all phases.
    pub all: PhaseResources,
    /// For the build.
    pub build: Option<PhaseResources>,
    /// For tests.
    pub test: Option<PhaseResources>,
    /// For the publication.
    pub publish: Option<PhaseResources>,
}

/// The form of [`ResourceLimits`]: what holds for all phases stands beside what holds for one.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ResourceLimits")]
#[schemars(description = "What all phases, or single ones, may use; numbers as strings.")]
struct LimitsOnTheWire {
    /// MHz, for phases that say nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "schema::Count")]
    cpu: String,
    /// MB, for phases that say nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "schema::Count")]
    memory: String,
    /// MB, for phases that say nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "schema::Count")]
    disk: String,
    /// For the build.
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<PhaseResources>,
    /// For tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<PhaseResources>,
    /// For the publication.
    #[serde(skip_serializing_if = "Option::is_none")]
    publish: Option<PhaseResources>,
}

impl From<LimitsOnTheWire> for ResourceLimits {
    fn from(wire: LimitsOnTheWire) -> Self {
        Self {
            all: PhaseResources {
                cpu: wire.cpu,
                memory: wire.memory,
                disk: wire.disk,
            },
            build: wire.build,
            test: wire.test,
            publish: wire.publish,
        }
    }
}

impl From<ResourceLimits> for LimitsOnTheWire {
    fn from(limits: ResourceLimits) -> Self {
        Self {
            cpu: limits.all.cpu,
            memory: limits.all.memory,
            disk: limits.all.disk,
            build: limits.build,
            test: limits.test,
            publish: limits.publish,
        }
    }
}

impl JsonSchema for ResourceLimits {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        LimitsOnTheWire::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        LimitsOnTheWire::json_schema(generator)
    }
}

/// What a phase may use; numbers as strings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = schema::without_defaults)]
pub struct PhaseResources {
    /// MHz.
    #[schemars(with = "schema::Count")]
    pub cpu: String,
    /// MB.
    #[schemars(with = "schema::Count")]
    pub memory: String,
    /// MB.
    #[schemars(with = "schema::Count")]
    pub disk: String,
}
