//! crun from within a mount namespace of the caller's own, for a caller that makes several calls in a row on a host where
//! each of them would need one: that costs milliseconds when it goes, most of a call's time. What crun sees is
//! [`crun`](super::crun)'s knowledge.
//!
//! The caller lives in that namespace from its first call until it [rests](Runtime::rest): a namespace that lasts would
//! keep what the host unmounts meanwhile, where the host's mounts are not shared.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    process::Command,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Create, Crun, Exec, Runtime, RuntimeError, Status, crun::detach_unified};

/// The mount namespace of this thread.
const HERE: &str = "/proc/thread-self/ns/mnt";

/// crun, and where the caller is.
#[derive(Debug)]
pub struct Apart {
    /// As it is called from here.
    inside: Crun,
    /// As it is called from anywhere.
    anywhere: Crun,
    /// The host's namespace, as long as the caller is in its own.
    host: RefCell<Option<OwnedFd>>,
}

impl Apart {
    /// Enters a namespace. To be called by a process with one thread.
    ///
    /// # Errors
    ///
    /// Where that is not allowed. The caller is where it was; crun can still be tried without this.
    pub fn enter(crun: Crun) -> io::Result<Self> {
        let apart = Self {
            inside: Crun {
                private_cgroups: false,
                ..crun.clone()
            },
            anywhere: crun,
            host: RefCell::default(),
        };
        apart.again()?;
        Ok(apart)
    }

    /// Enters, if the caller is not inside.
    fn again(&self) -> io::Result<()> {
        let mut host = self.host.borrow_mut();
        if host.is_none() {
            let outside = File::open(HERE)?.into();
            detach_unified().inspect_err(|_| {
                // It may have come half the way.
                let _ = leave(&outside);
            })?;
            *host = Some(outside);
        }
        Ok(())
    }

    /// crun as it is to be called now.
    fn crun(&self) -> &Crun {
        match self.again() {
            Ok(()) => &self.inside,
            Err(_) => &self.anywhere,
        }
    }
}

fn leave(outside: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(
        outside.as_fd(),
        Some(LinkNameSpaceType::Mount),
    )?)
}

impl Runtime for Apart {
    fn create(&self, create: Create<'_>) -> Result<i32, RuntimeError> {
        self.crun().create(create)
    }

    fn run(&self, create: Create<'_>) -> Result<i32, RuntimeError> {
        self.crun().run(create)
    }

    fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.crun().start(id)
    }

    fn kill(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        self.crun().kill(id, signal)
    }

    fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        self.crun().delete(id)
    }

    fn status(&self, id: &str) -> Result<Option<Status>, RuntimeError> {
        self.crun().status(id)
    }

    /// Runs anywhere: the caller may rest before it does.
    fn exec(&self, exec: &Exec<'_>) -> Command {
        self.anywhere.exec(exec)
    }

    fn rest(&self) {
        let mut host = self.host.borrow_mut();
        if host.as_ref().is_some_and(|host| leave(host).is_ok()) {
            *host = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        thread,
    };

    use rustix::{process::geteuid, thread::set_thread_uid};

    use super::*;

    fn here() -> PathBuf {
        fs::read_link(HERE).unwrap()
    }

    fn crun() -> Crun {
        Crun {
            private_cgroups: true,
            ..Crun::new("/bin/true", "/nowhere/root")
        }
    }

    /// In a thread, whose namespace no other test shares.
    fn alone(test: impl FnOnce() + Send + 'static) {
        if !geteuid().is_root() {
            eprintln!("skipped: only root has namespaces");
            return;
        }
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn calls_in_a_row_share_a_namespace_that_is_left_at_rest() {
        alone(|| {
            let host = here();
            let apart = Apart::enter(crun()).unwrap();
            let own = here();
            assert_ne!(own, host);
            apart.start("x").unwrap();
            assert_eq!(here(), own);
            let unified = Path::new("/sys/fs/cgroup/unified");
            if unified.exists() {
                // Neither the hierarchy nor what lies below it on the host.
                assert_eq!(fs::read_dir(unified).unwrap().count(), 0);
                fs::write(unified.join("x"), "").unwrap();
            }
            apart.rest();
            assert_eq!(here(), host);
            apart.start("x").unwrap();
            assert_ne!(here(), host);
            assert!(!unified.join("x").exists());
        });
    }

    #[test]
    fn who_may_not_have_a_namespace_stays_where_it_is() {
        alone(|| {
            let host = here();
            let apart = Apart::enter(crun()).unwrap();
            apart.rest();
            // Only this thread changes, and it ends with the test.
            set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
            assert!(Apart::enter(crun()).is_err());
            assert_eq!(apart.crun(), &apart.anywhere);
            assert_eq!(here(), host);
        });
    }
}
