//! When to speak about log files that cannot be written. Decides, does not write: time comes in, what to say comes out.
//!
//! A full disk makes every file of a directory fail, over and over, so an outage is a matter of the directory. It
//! begins with the first failure and ends when a file that had failed is written again, or when others have been
//! written for a while without a failure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So long must a directory be without failures before the success of a file that had never failed ends its outage. On
/// a disk that is nearly full, small writes succeed between large ones that fail.
const CALM: Duration = Duration::from_secs(5);

/// The directories that cannot be written at present.
#[derive(Debug, Default)]
pub(super) struct Outages(HashMap<PathBuf, Outage>);

#[derive(Debug)]
struct Outage {
    lost: u64,
    last_failure: Instant,
}

impl Outages {
    /// Records that `lost` bytes for a file in `directory` are gone; `again` if the file's previous write failed too.
    /// Returns whether this is worth saying.
    pub(super) fn failed(
        &mut self,
        directory: &Path,
        again: bool,
        lost: u64,
        now: Instant,
    ) -> bool {
        if let Some(outage) = self.0.get_mut(directory) {
            outage.lost += lost;
            outage.last_failure = now;
            return false;
        }
        self.0.insert(
            directory.to_owned(),
            Outage {
                lost,
                last_failure: now,
            },
        );
        !again
    }

    /// Records that a file in `directory` was written; `again` if its previous write had failed. Returns the bytes lost
    /// in the outage that this ends, if it ends one.
    pub(super) fn written(&mut self, directory: &Path, again: bool, now: Instant) -> Option<u64> {
        let outage = self.0.get(directory)?;
        if !again && now.saturating_duration_since(outage.last_failure) < CALM {
            return None;
        }
        self.0.remove(directory).map(|outage| outage.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_announced_once_however_many_files_fail() {
        let (mut outages, now) = (Outages::default(), Instant::now());
        let disk = Path::new("/var/log/tasks");
        assert!(outages.failed(disk, false, 10, now));
        assert!(!outages.failed(disk, true, 10, now));
        assert!(!outages.failed(disk, false, 10, now));
        assert!(outages.failed(Path::new("/elsewhere"), false, 10, now));
    }

    #[test]
    fn a_file_that_recovers_ends_the_outage_and_tells_the_loss() {
        let (mut outages, now) = (Outages::default(), Instant::now());
        let disk = Path::new("/var/log/tasks");
        outages.failed(disk, false, 10, now);
        outages.failed(disk, false, 5, now);
        assert_eq!(outages.written(disk, true, now), Some(15));
        assert_eq!(outages.written(disk, true, now), None);
        assert!(
            outages.failed(disk, false, 1, now),
            "the next outage is a new one"
        );
    }

    #[test]
    fn the_success_of_another_file_ends_an_outage_only_after_a_while() {
        let (mut outages, now) = (Outages::default(), Instant::now());
        let disk = Path::new("/var/log/tasks");
        outages.failed(disk, false, 10, now);
        assert_eq!(outages.written(disk, false, now + CALM / 2), None);
        outages.failed(disk, true, 10, now + CALM / 2);
        assert_eq!(outages.written(disk, false, now + CALM), None);
        assert_eq!(outages.written(disk, false, now + CALM * 2), Some(20));
    }

    #[test]
    fn one_bad_file_among_good_ones_is_not_announced_again() {
        let (mut outages, now) = (Outages::default(), Instant::now());
        let disk = Path::new("/var/log/tasks");
        assert!(outages.failed(disk, false, 10, now));
        assert!(outages.written(disk, false, now + CALM * 2).is_some());
        assert!(!outages.failed(disk, true, 10, now + CALM * 3));
    }
}
