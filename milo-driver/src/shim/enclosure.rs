//! The cgroup around a container, as far as a shim needs it: the evidence of an OOM kill, the last resort of a kill, and
//! that nothing of it is left. What a cgroup is, and how each version of it is read, is the [`cgroup`]
//! module's knowledge.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    cgroup::{self, Cgroup},
    task::CgroupPlace,
};

/// Where cgroup file systems are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// The cgroup around a container. One that does not exist has killed nobody, holds nobody and is removed.
pub trait Enclosure {
    /// How many processes the kernel has killed for lack of memory under the cgroup's own limit.
    fn oom_kills(&self) -> io::Result<u64>;

    /// Kills every process in it.
    fn kill(&self) -> io::Result<()>;

    /// Removes it from the hierarchies in which the container's processes are in one of these folders instead, so that the
    /// runtime moves no later process there either.
    fn yield_to(&self, others: &[PathBuf]) -> io::Result<()>;

    /// Removes it. It must be empty.
    fn remove(&self) -> io::Result<()>;
}

/// No cgroup at all, where they are not ours to write.
#[derive(Clone, Copy, Debug)]
pub struct Open;

/// The enclosure at a place on this machine.
pub fn of(place: &CgroupPlace) -> Box<dyn Enclosure> {
    if place.disabled {
        return Box::new(Open);
    }
    let root = Path::new(ROOT);
    Box::new(Cgroup::of(&cgroup::detect(root), root, place))
}

impl Enclosure for Open {
    fn oom_kills(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn kill(&self) -> io::Result<()> {
        Ok(())
    }

    fn yield_to(&self, _: &[PathBuf]) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Enclosure for Cgroup {
    fn oom_kills(&self) -> io::Result<u64> {
        absent_is(0, Self::oom_kills(self))
    }

    fn kill(&self) -> io::Result<()> {
        absent_is((), Self::kill(self))
    }

    fn yield_to(&self, others: &[PathBuf]) -> io::Result<()> {
        Self::yield_to(self, others)
    }

    fn remove(&self) -> io::Result<()> {
        absent_is((), Self::remove(self))
    }
}

fn absent_is<T>(value: T, result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(value),
        result => result,
    }
}
