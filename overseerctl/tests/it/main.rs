//! Conversations with a real daemon, and with a hub inside this process. One binary; a file a subject.
mod embed;
mod faults;
mod hub;
mod life;
mod pools;
mod transports;
mod wire;
