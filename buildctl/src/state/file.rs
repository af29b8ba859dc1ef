//! Files that are whole or absent, whatever happens to who writes them, and errors that name the file and the way out.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// An error with what was tried, the path and, for the usual misfortunes, the way out. Its kind stays.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it stands in `map_err`, which passes a value"
)]
pub fn explained(verb: &str, path: &Path, error: io::Error) -> io::Error {
    let way_out = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; free some space (`buildctl cleanup`), or have `local.root` elsewhere"
        }
        ErrorKind::ReadOnlyFilesystem => "; remount it, or have `local.root` elsewhere",
        ErrorKind::PermissionDenied => {
            "; use the account that owns it, or another `local.root` of your own"
        }
        _ => "",
    };
    io::Error::new(
        error.kind(),
        format!("cannot {verb} {}: {error}{way_out}", path.display()),
    )
}

/// Whether an error is for whoever runs this machine, and will come again until they have done something.
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
    )
}

/// The content of a file; none if it is not there.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(explained("read", path, error)),
    }
}

/// Writes a file that replaces what was there. After a power failure there is one of the two, whole.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = Temporary::write(path, bytes, true)?;
    fs::rename(&temporary.0, path).map_err(|error| explained("write", path, error))
}

/// Replaces a file that is not of the state but of whoever runs this: a link stays one, and what is replaced keeps its
/// permissions.
pub fn rewrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = Temporary(beside(&target));
    // A process that died may have had our number and left this.
    let _ = fs::remove_file(&temporary.0);
    let mut file = File::create_new(&temporary.0)?;
    file.write_all(bytes)?;
    if let Ok(old) = fs::metadata(&target) {
        file.set_permissions(old.permissions())?;
    }
    file.sync_data()?;
    fs::rename(&temporary.0, &target)
}

/// Writes a file unless there is one; whether it did. Of several at once, one does.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let is_new = link(&Temporary::write(path, bytes, true)?, path)?;
    if is_new {
        sync_folder_of(path)?;
    }
    Ok(is_new)
}

/// Like [`create`], but a power failure may leave the file empty or absent.
pub fn create_unsynced(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    link(&Temporary::write(path, bytes, false)?, path)
}

fn link(temporary: &Temporary, path: &Path) -> io::Result<bool> {
    match fs::hard_link(&temporary.0, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(explained("write", path, error)),
    }
}

/// Removes a file; one that is not there is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(explained("remove", path, error)),
        _ => Ok(()),
    }
}

/// Makes sure that it is on the disk which files are in the folder of this one.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| explained("write to", folder, error))
}

/// A name beside `path` that nobody else uses.
pub(crate) fn beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}.{number}", process::id()))
}

/// A file that is gone when this is dropped, unless it was renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn write(target: &Path, bytes: &[u8], is_synced: bool) -> io::Result<Self> {
        let temporary = Self(beside(target));
        // A process that died may have had our number and left this; its content is nobody's.
        remove(&temporary.0)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary.0)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                if is_synced { file.sync_data() } else { Ok(()) }
            })
            .map_err(|error| explained("write", target, error))?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn the_first_one_creates_and_leaves_nothing_else_behind() {
        let folder = tempdir();
        let path = folder.path().join("a");
        assert!(create(&path, b"one").unwrap());
        assert!(!create(&path, b"two").unwrap());
        assert_eq!(read(&path).unwrap().unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_rewritten_stays_a_link_and_keeps_its_permissions() {
        let folder = tempdir();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        rewrite(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        rewrite(&link, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_error_names_the_path_and_the_way_out() {
        let error = explained(
            "write",
            Path::new("/state/jobs/x/record.json"),
            ErrorKind::StorageFull.into(),
        );
        assert!(is_refusal(&error));
        let text = error.to_string();
        assert!(
            text.starts_with("cannot write /state/jobs/x/record.json: "),
            "{text}"
        );
        assert!(text.contains("free some space"), "{text}");
    }
}
