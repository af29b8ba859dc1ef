//! Conversations with a real daemon, and with a hub inside this process. One binary; a file a subject.
mod cli;
mod embed;
mod faults;
mod hub;
mod life;
mod original;
mod pools;
mod transports;
mod wire;
