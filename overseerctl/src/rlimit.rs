//! The daemon's own limit on open files: raised for itself, put back for its children.
//!
//! A running task takes three descriptors; the usual soft limit of 1024 ends at some three hundred tasks. Children get
//! the limit that the daemon was started with, because programs that use `select(2)` break above 1024.

use std::sync::OnceLock;

use crate::process::Rlimit;

/// What the daemon was started with.
static ORIGINAL: OnceLock<libc::rlimit> = OnceLock::new();

/// Raises the soft limit on open files to the hard one. Returns what it was and what it is; `None` if nothing changed.
pub fn raise_open_files() -> Option<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0
        || limit.rlim_cur >= limit.rlim_max
    {
        return None;
    }
    let raised = libc::rlimit {
        rlim_cur: limit.rlim_max,
        ..limit
    };
    // SAFETY: `raised` is a valid rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
        return None;
    }
    ORIGINAL.get_or_init(|| limit);
    Some((limit.rlim_cur, limit.rlim_max))
}

/// Limits of a child: those configured, and the daemon's original one on open files.
pub fn of_child(configured: &[Rlimit]) -> Vec<Rlimit> {
    let resource = libc::RLIMIT_NOFILE;
    let original = ORIGINAL
        .get()
        .filter(|_| configured.iter().all(|limit| limit.resource != resource));
    let original = original.map(|limit| Rlimit {
        resource,
        soft: limit.rlim_cur,
        hard: limit.rlim_max,
    });
    original
        .into_iter()
        .chain(configured.iter().copied())
        .collect()
}
