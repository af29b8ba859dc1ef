//! The memory of a plugin and of its shims, as `/proc` tells it. Shims are the processes that say so in the records below the
//! state directory; a plugin without any has none to count.

use std::{fs, io, path::Path};

use serde::Serialize;

use crate::{shim, state::StateRoot};

/// Memory at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// How many tasks ran.
    pub tasks: usize,
    /// The plugin's own.
    pub plugin: Resident,
    /// That of all shims.
    pub shims: Shims,
}

/// What a process holds, in kB of 1024 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// All its resident pages.
    pub rss_kb: u64,
    /// The same with each shared page divided among those that share it.
    pub pss_kb: u64,
}

/// What all shims hold, in kB of 1024 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shims {
    /// How many there are.
    pub count: usize,
    /// The largest RSS among them.
    pub most_rss_kb: u64,
    /// The RSS of all.
    pub rss_kb: u64,
    /// The PSS of all: what they really take.
    pub pss_kb: u64,
}

impl Memory {
    /// Reads it now.
    ///
    /// # Errors
    ///
    /// A plugin that is gone, or whose memory is not ours to look at.
    pub(super) fn read(tasks: usize, plugin: u32, state: &Path) -> io::Result<Self> {
        // One that ends meanwhile holds nothing.
        let each = shims(state)?
            .into_iter()
            .filter_map(|pid| resident(pid).ok());
        Ok(Self {
            tasks,
            plugin: resident(plugin)?,
            shims: each.fold(Shims::default(), Shims::and),
        })
    }
}

impl Shims {
    fn and(self, one: Resident) -> Self {
        Self {
            count: self.count + 1,
            most_rss_kb: self.most_rss_kb.max(one.rss_kb),
            rss_kb: self.rss_kb + one.rss_kb,
            pss_kb: self.pss_kb + one.pss_kb,
        }
    }
}

fn shims(state: &Path) -> io::Result<Vec<u32>> {
    let tasks = StateRoot::new(state).tasks()?;
    let shims = tasks.iter().filter_map(|task| shim::process(task).ok()?);
    let pids = shims.map(|shim| u32::try_from(shim.started(0).pid));
    Ok(pids.filter_map(Result::ok).collect())
}

fn resident(pid: u32) -> io::Result<Resident> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let unknown = || io::Error::other(format!("/proc/{pid}/smaps_rollup has an unknown form"));
    Ok(Resident {
        rss_kb: kilobytes(&text, "Rss:").ok_or_else(unknown)?,
        pss_kb: kilobytes(&text, "Pss:").ok_or_else(unknown)?,
    })
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_memory_and_is_no_shim() {
        let memory = Memory::read(3, std::process::id(), Path::new("/no/such/state")).unwrap();
        assert!(memory.plugin.rss_kb >= memory.plugin.pss_kb && memory.plugin.pss_kb > 100);
        assert_eq!((memory.tasks, memory.shims), (3, Shims::default()));
    }

    #[test]
    fn shims_are_added_up_and_the_largest_is_kept() {
        let one = |rss_kb| Resident { rss_kb, pss_kb: 10 };
        let all = [one(300), one(500), one(400)].into_iter();
        let shims = all.fold(Shims::default(), Shims::and);
        assert_eq!(
            (shims.count, shims.most_rss_kb, shims.rss_kb, shims.pss_kb),
            (3, 500, 1200, 30)
        );
    }
}
