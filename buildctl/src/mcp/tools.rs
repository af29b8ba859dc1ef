//! The tools: what every one of them has, the list of them, and the way from a call to its answer. What a tool does is in the file
//! of its name; all of them ask [`Builds`].
//!
//! A call that cannot be answered is answered all the same, with a text that says what to do instead: models read answers, and
//! not the errors of the protocol. Those are for tools that do not exist.

mod cleanup;
mod get_history;
mod get_logs;
mod get_status;
mod kill_job;
mod list_jobs;
mod purge_failed_job;
mod submit_job;
mod wait_job;

use std::sync::LazyLock;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rmcp::{
    ErrorData, RoleServer,
    handler::server::tool::{schema_for_input, schema_for_output},
    model::{
        CallToolResult, ContentBlock, JsonObject, ProtocolVersion, Resource, Tool, ToolAnnotations,
    },
    service::RequestContext,
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{desk, schema};
use crate::{
    api::lenient,
    job::{JobId, NoJobId},
    service::{BuildError, Builds},
};

/// The context of a call.
type Context = RequestContext<RoleServer>;

/// What a tool does to the world, for those who decide whether it may be called.
#[derive(Clone, Copy)]
enum Effect {
    /// It looks.
    Reads,
    /// It changes or removes something; a second time changes no more.
    Settles,
    /// It changes something each time.
    Changes,
}

impl Effect {
    fn annotations(self, title: &str) -> ToolAnnotations {
        let reads = matches!(self, Self::Reads);
        ToolAnnotations::with_title(title)
            .read_only(reads)
            .destructive(!reads)
            .idempotent(!matches!(self, Self::Changes))
            // Repositories and registries are anywhere; everything else is the service's own.
            .open_world(matches!(self, Self::Changes))
    }
}

/// A tool.
#[async_trait]
trait Verb: Send + Sync + 'static {
    /// What it takes.
    type Arguments: DeserializeOwned + JsonSchema + Send + 'static;
    /// What it answers.
    type Answer: Serialize + JsonSchema + Send + 'static;

    const NAME: &'static str;
    const TITLE: &'static str;
    const DESCRIPTION: &'static str;
    const EFFECT: Effect;

    async fn call(
        builds: &dyn Builds,
        arguments: Self::Arguments,
        context: &Context,
    ) -> Result<Reply<Self::Answer>, Refusal>;
}

/// An answer, and documents that have more.
struct Reply<T> {
    answer: T,
    links: Vec<Resource>,
}

impl<T> From<T> for Reply<T> {
    fn from(answer: T) -> Self {
        Self {
            answer,
            links: Vec::new(),
        }
    }
}

/// Why a call is not answered as it was meant, for a model.
#[derive(Debug)]
struct Refusal(String);

impl From<NoJobId> for Refusal {
    fn from(error: NoJobId) -> Self {
        Self(format!(
            "{error}; submitJob answers one, and listJobs shows those of others"
        ))
    }
}

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        let text = error.to_string();
        Self(match error {
            BuildError::NotFound(id) => {
                format!("{text}: no job has the id {id}; listJobs shows those there are")
            }
            BuildError::Conflict { holder } => format!(
                "{text}: job {holder} works on this image and ref; wait for it with waitJob, or submit with on_conflict `queue` or `cancel-previous`"
            ),
            BuildError::Unreachable(_) => format!("{text}; nothing was changed, try again later"),
            BuildError::Invalid(_)
            | BuildError::BadRequest(_)
            | BuildError::WrongState(_)
            | BuildError::KeyReused(_)
            | BuildError::Forbidden(_)
            | BuildError::Internal(_) => text,
        })
    }
}

/// A job's id, as an argument.
fn job(text: &str) -> Result<JobId, Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal("job_id is required".to_owned()));
    }
    Ok(text.parse::<JobId>()?)
}

/// The beginning of a text, of at most so many bytes.
fn beginning(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Takes jobs from the end of an answer until it is short enough for a model to read; whether any were.
fn shorten<T>(answer: &mut T, jobs: fn(&mut T) -> bool) -> bool
where
    T: Serialize,
{
    let long = |answer: &T| serde_json::to_string(answer).is_ok_and(|text| text.len() > LONGEST);
    let mut shortened = false;
    while long(answer) && jobs(answer) {
        shortened = true;
    }
    shortened
}

/// The most bytes of an answer with many jobs. It is sent twice, as text and as structure, and some clients refuse more than
/// 25 000 tokens.
const LONGEST: usize = 32 << 10;

type Run = for<'a> fn(&'a dyn Builds, Value, &'a Context) -> BoxFuture<'a, CallToolResult>;

/// A tool, as a list holds it.
struct Entry {
    definition: Tool,
    run: Run,
}

/// All tools, in the order in which they are needed.
static TOOLS: LazyLock<[Entry; 9]> = LazyLock::new(|| {
    [
        entry::<submit_job::SubmitJob>(),
        entry::<wait_job::WaitJob>(),
        entry::<get_status::GetStatus>(),
        entry::<get_logs::GetLogs>(),
        entry::<kill_job::KillJob>(),
        entry::<list_jobs::ListJobs>(),
        entry::<get_history::GetHistory>(),
        entry::<cleanup::Cleanup>(),
        entry::<purge_failed_job::PurgeFailedJob>(),
    ]
});

fn entry<V: Verb>() -> Entry {
    // Arguments are structs, whose schemas are objects: the tests of the listing look at each.
    let input = schema_for_input::<V::Arguments>().unwrap_or_default();
    let output = schema_for_output::<V::Answer>();
    let definition = Tool::new(V::NAME, V::DESCRIPTION, schema::portable(&input))
        .with_title(V::TITLE)
        .with_raw_output_schema(schema::portable(&output).into())
        .with_annotations(V::EFFECT.annotations(V::TITLE));
    Entry {
        definition,
        run: run::<V>,
    }
}

fn run<'a, V: Verb>(
    builds: &'a dyn Builds,
    arguments: Value,
    context: &'a Context,
) -> BoxFuture<'a, CallToolResult> {
    Box::pin(async move {
        let answered = match read::<V::Arguments>(V::NAME, arguments) {
            Ok(arguments) => V::call(builds, arguments, context).await,
            Err(refusal) => Err(refusal),
        };
        match answered {
            Ok(reply) => told(reply, context),
            Err(Refusal(text)) => refused(text),
        }
    })
}

/// Reads arguments generously, except for names that are unknown: a model that asks for `tests` must not have its image
/// published without any.
fn read<A: DeserializeOwned>(tool: &str, arguments: Value) -> Result<A, Refusal> {
    let strangers = definition(tool)
        .map(|tool| schema::strangers(&tool.input_schema, &arguments))
        .unwrap_or_default();
    if !strangers.is_empty() {
        return Err(Refusal(strangers.join("; ")));
    }
    lenient::from_value(arguments).map_err(|error| Refusal(error.to_string()))
}

/// A reply as the protocol has it: structure, the same as text, links.
fn told<T: Serialize>(reply: Reply<T>, context: &Context) -> CallToolResult {
    let value = match serde_json::to_value(reply.answer) {
        Ok(value) => value,
        Err(error) => return refused(format!("the answer cannot be written: {error}")),
    };
    let mut result = CallToolResult::structured(value);
    // Links came with that day's revision.
    if desk::since(context, &ProtocolVersion::V_2025_06_18) {
        let links = reply.links.into_iter().map(ContentBlock::resource_link);
        result.content.extend(links);
    }
    result
}

fn refused(text: String) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(text)])
}

/// The tools, always in the same order.
pub(super) fn definitions() -> Vec<Tool> {
    TOOLS.iter().map(|entry| entry.definition.clone()).collect()
}

/// The tool of this name.
pub(super) fn definition(name: &str) -> Option<&'static Tool> {
    find(name).map(|entry| &entry.definition)
}

fn find(name: &str) -> Option<&'static Entry> {
    TOOLS.iter().find(|entry| entry.definition.name == name)
}

/// Calls a tool.
pub(super) async fn call(
    builds: &dyn Builds,
    name: &str,
    arguments: JsonObject,
    context: &Context,
) -> Result<CallToolResult, ErrorData> {
    let Some(entry) = find(name) else {
        let known: Vec<&str> = TOOLS.iter().map(|entry| &*entry.definition.name).collect();
        let message = format!("there is no tool `{name}` (known: {})", known.join(", "));
        return Err(ErrorData::invalid_params(message, None));
    };
    Ok((entry.run)(builds, Value::Object(arguments), context).await)
}

#[cfg(test)]
mod tests {
    use super::beginning;

    #[test]
    fn a_beginning_ends_between_characters() {
        assert_eq!(beginning("grün", 3), "gr");
        assert_eq!(beginning("grün", 99), "grün");
    }
}
