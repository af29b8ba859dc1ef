//! The words of the wire: message and value types of the sticky-overseer v2 WebSocket protocol, and their JSON form.
//!
//! Field names, key order and omission rules are a contract with clients that exist; nothing here decides anything.
//! `types` holds the values that messages carry, `message` what the hub sends, `request` what clients send. Where a
//! field is an extension of ours it says so; extensions are added fields or messages that a client asked for with
//! `hello`, never a change of an old one.

pub mod message;
pub mod request;
pub mod types;

pub use message::{Message, OutputStream};
pub use request::{DecodeError, Incoming};
pub use types::{
    ActionInfo, ActionMetrics, Backoff, ExcessConfig, GlobalMetrics, ParamSpec, Params, Phase,
    PoolConfig, PoolInfo, QueueConfig, QueueItemInfo, RestartMode, RetryPolicy, TaskInfo,
    TaskMetrics, TaskState, WorkerState,
};
