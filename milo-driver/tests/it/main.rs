//! The pieces of the driver with real runtimes and real JVMs. One binary; a file a subject.
mod bundle;
