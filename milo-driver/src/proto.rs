//! The wire formats, as `build.rs` generated them from `proto/`, under shorter names. Nothing here is written by hand but
//! the names; what the messages mean to the domain is in [`crate::api`].

#[expect(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    clippy::allow_attributes,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/milo_proto.rs"));
}

/// What every Nomad plugin speaks (`hashicorp.nomad.plugins.base.proto`).
pub use generated::hashicorp::nomad::plugins::base::proto as base;
/// What a Nomad task driver speaks (`hashicorp.nomad.plugins.drivers.proto`).
pub use generated::hashicorp::nomad::plugins::drivers::proto as drivers;
/// What a configuration block may hold (`hashicorp.nomad.plugins.shared.hclspec`).
pub use generated::hashicorp::nomad::plugins::shared::hclspec;
/// Attributes and details of errors (`hashicorp.nomad.plugins.shared.structs`).
pub use generated::hashicorp::nomad::plugins::shared::structs;
/// What go-plugin speaks (`plugin`).
pub use generated::plugin;

/// gRPC's error with details (`google.rpc`).
pub use generated::google::rpc;

/// The most bytes of a message that either side reads: a job's environment and templates may pass gRPC's 4 MiB.
pub const MESSAGE_BYTES: usize = 64 << 20;
