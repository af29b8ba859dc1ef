//! Between the wire and the domain: what a message becomes, and what a value becomes on its way out. Nothing is decided
//! here but what is legal to ask for; nothing is read from the machine.
//!
//! ```text
//!  agent's config {} ──▶ agent_options ──▶ Config ─┐
//!  job's config {}   ──▶ options ──▶ TaskOptions ──┼──▶ task ──▶ Task
//!  TaskConfig        ──────────────────────────────┘
//!  Begun ──▶ handle      Reading ──▶ measure      Survey ──▶ attribute      StartError ──▶ error
//! ```

pub mod agent_options;
pub mod attribute;
pub mod error;
pub mod handle;
pub mod hclspec;
pub mod measure;
pub mod msgpack;
pub mod options;
pub mod policy;
pub mod task;
pub mod volume;
