//! HTTP as the tools speak it: a blocking client for verbs, a server for daemons, and the body of
//! an error between them.

pub mod client;
pub mod problem;
pub mod server;
