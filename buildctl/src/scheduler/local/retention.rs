//! Folders that nobody asks for any more. What an ended job keeps until its retention is over is the service's decision, which
//! it carries out by [`collect`](crate::scheduler::Scheduler::collect) and by removing the record; this is for what is left
//! when that was cut short.

use std::{fs, io, time::Duration};

use super::{
    folder::{Begun, RunFolder},
    supervisor,
};
use crate::{
    job::JobId,
    state::{StateRoot, file, lock::Lock},
};

pub(super) fn remove_orphans(root: &StateRoot, older_than: Duration) -> io::Result<Vec<JobId>> {
    let mut removed = Vec::new();
    for id in root.job_ids()? {
        let folder = root.job(id);
        if !is_orphan(root, id, older_than)? {
            continue;
        }
        // Held until all is gone, so that no supervisor begins meanwhile.
        let Some(_alone) = Lock::try_exclusive(&supervisor::lock_file(root, id))? else {
            continue;
        };
        // Held until all is gone, too: a job that is handed in once more under its old id is written under it.
        let Some(_record) = Lock::try_exclusive(&folder.join("record.lock"))? else {
            continue;
        };
        if folder.join("record.json").exists() {
            continue;
        }
        fs::remove_dir_all(&folder).map_err(|error| file::explained("remove", &folder, error))?;
        removed.push(id);
    }
    Ok(removed)
}

/// Whether a job has no record, has not changed for so long, and nothing of it runs.
fn is_orphan(root: &StateRoot, id: JobId, older_than: Duration) -> io::Result<bool> {
    let folder = root.job(id);
    let age = fs::metadata(&folder).and_then(|folder| folder.modified());
    let is_old = age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age >= older_than));
    if !is_old || folder.join("record.json").exists() {
        return Ok(false);
    }
    for run in RunFolder::all(root, id)? {
        let is_at_work = match run.begun()? {
            Begun::As { process, .. } => process.is_alive(),
            Begun::NotYet => run.is_tended()?,
            Begun::Never { .. } => false,
        };
        if is_at_work {
            return Ok(false);
        }
    }
    Ok(true)
}
