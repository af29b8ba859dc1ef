//! Ctrl-C and SIGTERM, counted instead of obeyed, so that what was started can be ended first.

use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// From now on both signals only count. Programs that are started do not inherit that.
pub(super) fn hold() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler adds to an atomic and does nothing else, which is safe in a handler.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

extern "C" fn note(_signal: libc::c_int) {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// How often somebody wished an end.
pub(super) fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}
