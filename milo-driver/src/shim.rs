//! The one process that owns a container.

pub mod protocol;
