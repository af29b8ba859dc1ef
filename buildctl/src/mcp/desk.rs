//! The desk at which clients ask: each method of the protocol that is served, handed on to tools and resources, and a clear no to
//! all others.

use std::sync::Arc;

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CompleteRequestMethod,
        CompleteRequestParams, CompleteResult, ConstString, CustomRequest, CustomResult,
        DiscoverResult, ErrorCode, Implementation, InitializeRequestParams, InitializeResult,
        ListPromptsRequestMethod, ListPromptsResult, ListResourceTemplatesResult,
        ListResourcesResult, ListToolsResult, MetaObject, PaginatedRequestParams, ProtocolVersion,
        ReadResourceRequestParams, ReadResourceResponse, ResourcesCapability, ServerCapabilities,
        ServerConfig, SubscribeRequestMethod, SubscribeRequestParams, SubscriptionFilter, Tool,
        UnsubscribeRequestMethod, UnsubscribeRequestParams,
    },
    service::{RequestContext, SubscriptionContext},
};
use serde_json::Value;

use super::{door::OnlyJson, resources, tools};
use crate::{
    service::Builds,
    trace::{self, TRACEPARENT, TraceParent},
};

/// What models are told before they begin.
const INSTRUCTIONS: &str = "\
buildctl builds container images from Git repositories, tests them and publishes them to a registry. A job is one build, its \
tests and the publication; tags move only if all of it succeeds.

1. submitJob returns at once with a job_id. Give `test` (commands, or entry_point) unless the image may be published untested.
2. waitJob with that job_id waits for the end, up to 50 s a call; call it again while `ended` is false. Do not poll getStatus.
3. If the job FAILED, getLogs with the job_id and errors_only true shows what went wrong; getLogs with phase and grep, or with \
the cursor of an earlier answer, shows more.
4. After a correction, submit again; a job is never resumed. If another job works on the same image and ref, wait for it, or \
submit with on_conflict `queue` or `cancel-previous`.

To end a job, use killJob; a wait that is cancelled leaves its job running. listJobs and getHistory find jobs whose id you do \
not have. Credentials are given as paths (of Vault or Nomad), never as values.";

/// For how long lists that only change with this program may be kept.
const LONG: u64 = 300_000;

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Request by request.
    Http,
    /// By a pipe that stays open.
    Pipe,
}

/// What answers clients. Clones are the same one.
#[derive(Clone)]
pub(super) struct Desk {
    builds: Arc<dyn Builds>,
    line: Line,
    /// What the client of a pipe watches.
    watches: Arc<resources::Watches>,
}

impl Desk {
    pub(super) fn new(builds: Arc<dyn Builds>, line: Line) -> Self {
        Self {
            builds,
            line,
            watches: Arc::default(),
        }
    }

    pub(super) fn builds(&self) -> &dyn Builds {
        &*self.builds
    }
}

/// Who answers.
fn identity() -> Implementation {
    Implementation::new("buildctl", env!("CARGO_PKG_VERSION")).with_title("buildctl")
}

/// Whether the client speaks the protocol of this day or a later one.
pub(super) fn since(context: &RequestContext<RoleServer>, day: &ProtocolVersion) -> bool {
    let version = context.protocol_version();
    version.is_some_and(|version| version.as_str() >= day.as_str())
}

/// What answers say of who gives them, in the era in which no handshake says so.
fn signature(context: &RequestContext<RoleServer>) -> Option<MetaObject> {
    if !since(context, &ProtocolVersion::V_2026_07_28) {
        return None;
    }
    let mut meta = MetaObject::new();
    let identity = serde_json::to_value(identity()).unwrap_or_default();
    meta.insert("io.modelcontextprotocol/serverInfo".to_owned(), identity);
    Some(meta)
}

/// Whether the client can be told of progress: one that takes nothing but JSON gets one answer.
pub(super) fn can_stream(context: &RequestContext<RoleServer>) -> bool {
    let parts = context.extensions.get::<axum::http::request::Parts>();
    parts.is_none_or(|parts| parts.extensions.get::<OnlyJson>().is_none())
}

/// The trace that a request belongs to, by itself (`_meta`) or by the HTTP request that carries it.
fn trace_of(context: &RequestContext<RoleServer>) -> Option<TraceParent> {
    let said = context.meta.get(TRACEPARENT).and_then(Value::as_str);
    let parts = context.extensions.get::<axum::http::request::Parts>();
    said.and_then(|said| said.parse().ok())
        .or_else(|| TraceParent::of(&parts?.headers))
}

impl ServerHandler for Desk {
    fn get_info(&self) -> ServerConfig {
        let mut resources = ResourcesCapability::default();
        resources.subscribe = Some(true);
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources_with(resources)
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(identity())
            .with_instructions(INSTRUCTIONS)
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(request.clone());
        let mut result = self.negotiate_initialize(&request)?;
        // Who shakes hands is told of changes between requests, for which there is no stream over HTTP.
        let resources = result.capabilities.resources.as_mut();
        if let Some(resources) = resources.filter(|_| self.line == Line::Http) {
            resources.subscribe = None;
        }
        Ok(result)
    }

    async fn discover(&self, _: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let versions = self.supported_protocol_versions().into_owned();
        let result = DiscoverResult::from_server_info(versions, self.get_info());
        Ok(result
            .with_ttl_ms(LONG)
            .with_cache_scope(CacheScope::Public))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut result = ListToolsResult::with_all_items(tools::definitions())
            .with_ttl_ms(LONG)
            .with_cache_scope(CacheScope::Public);
        result.meta = signature(&context);
        Ok(result)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tools::definition(name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let answer = tools::call(self.builds(), &request.name, arguments, &context);
        let mut result = trace::within(trace_of(&context), answer).await?;
        result.meta = signature(&context);
        Ok(result.into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let cursor = request.and_then(|request| request.cursor);
        let mut result = resources::list(self.builds(), cursor.as_deref()).await?;
        result.meta = signature(&context);
        Ok(result)
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let mut result = ListResourceTemplatesResult::with_all_items(resources::templates())
            .with_ttl_ms(LONG)
            .with_cache_scope(CacheScope::Public);
        result.meta = signature(&context);
        Ok(result)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let mut result = resources::read(self.builds(), &request.uri).await?;
        result.meta = signature(&context);
        Ok(result.into())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(resources::subscribable(requested))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        resources::listen(self.builds(), &context).await;
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if self.line == Line::Http {
            return Err(unserved(SubscribeRequestMethod::VALUE));
        }
        let builds = Arc::clone(&self.builds);
        self.watches.begin(builds, request.uri, context.peer).await
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if self.line == Line::Http {
            return Err(unserved(UnsubscribeRequestMethod::VALUE));
        }
        self.watches.end(&request.uri);
        Ok(())
    }

    // What is not served is said not to be, instead of an empty answer.

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Err(unserved(ListPromptsRequestMethod::VALUE))
    }

    async fn complete(
        &self,
        _: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        Err(unserved(CompleteRequestMethod::VALUE))
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        // A request comes here too if its method is known and its parameters are not what the method takes.
        let method = &*request.method;
        let old = OLD.contains(&method) && !since(&context, &ProtocolVersion::V_2026_07_28);
        if old || SERVED.contains(&method) {
            let message = format!("the parameters of `{method}` are not what it takes");
            return Err(ErrorData::invalid_params(message, None));
        }
        Err(unserved(method))
    }
}

/// Methods whose parameters can be wrong.
const SERVED: [&str; 7] = [
    "server/discover",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "subscriptions/listen",
];

/// Those that only clients of the older era may ask for.
const OLD: [&str; 3] = ["initialize", "resources/subscribe", "resources/unsubscribe"];

/// The answer to a method that is not served.
fn unserved(method: &str) -> ErrorData {
    ErrorData::new(
        ErrorCode::METHOD_NOT_FOUND,
        format!("`{method}` is not served here"),
        None,
    )
}
