//! Where both sides keep what they note about containers. `/run` is in memory on a node, and is what both use by default; a
//! disk would add the time of its journal to every file that one of them makes.

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;

/// Where every Linux has memory with names, whatever it makes of `/run`.
const MEMORY: &str = "/dev/shm";

/// A folder that lasts as long as the value.
#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
    in_memory: bool,
}

impl Records {
    /// A folder in memory with the name of `place`; one in `place` if there is no memory to be had.
    ///
    /// # Errors
    ///
    /// A folder that cannot be made.
    pub(super) fn beside(place: &Path) -> Result<Self> {
        let in_memory = is_memory(Path::new(MEMORY));
        let folder = match place.file_name() {
            Some(name) if in_memory => Path::new(MEMORY).join(name),
            _ => place.join("records"),
        };
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self { folder, in_memory })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn describe(&self) -> String {
        let place = if self.in_memory {
            "in memory"
        } else {
            "on a disk"
        };
        format!("{place}, of both sides")
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        // What stays is small, and gone with the next start of the machine.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Whether a folder is in a tmpfs.
fn is_memory(folder: &Path) -> bool {
    let Ok(folder) = CString::new(folder.as_os_str().as_bytes()) else {
        return false;
    };
    let mut about = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the name ends with a zero, and `about` has room for what is written, which is read only after success.
    unsafe {
        libc::statfs(folder.as_ptr(), about.as_mut_ptr()) == 0
            && about.assume_init().f_type == libc::TMPFS_MAGIC
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lasts_as_long_as_its_value() {
        let place = std::env::temp_dir().join(format!("runyard-records-{}", std::process::id()));
        let records = Records::beside(&place).unwrap();
        let folder = records.folder().to_owned();
        assert!(folder.is_dir());
        assert_eq!(records.describe().contains("memory"), is_memory(&folder));
        drop(records);
        assert!(!folder.exists());
        let _ = fs::remove_dir(place);
    }

    #[test]
    fn a_file_system_of_the_kernels_own_is_no_memory() {
        assert!(!is_memory(Path::new("/proc")));
        assert!(!is_memory(Path::new("/no/such")));
    }
}
