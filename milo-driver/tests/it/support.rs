//! What the tests of the command line and of the plugin share: the program that runs in their containers, gates that it
//! waits at, and a place of records that is cleared whatever happens. What is asserted is the tests' own.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use milo_driver::{
    launch::{Launcher, Spare},
    state::{StateRoot, TaskDir},
};
use runyard_common::testing::{TempDir, eventually, patience, tempdir, tool_binary};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use sha2::{Digest, Sha256};

/// What runs in the containers: what it does is its first argument.
const KIT: &str = include_str!("java/Kit.java");

/// Where crun is.
pub(crate) const CRUN: &str = "/usr/bin/crun";

/// The JAR, which is built once; nothing where containers or JARs cannot be made, which is said.
pub(crate) fn kit() -> Option<&'static Path> {
    static KIT: OnceLock<Option<PathBuf>> = OnceLock::new();
    KIT.get_or_init(|| {
        let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
        let needed = [
            ("root", rustix::process::geteuid().is_root()),
            (CRUN, Path::new(CRUN).is_file()),
            ("javac", has("javac")),
            ("jar", has("jar")),
            ("unshare", has("unshare")),
        ];
        match needed.iter().find(|(_, is_there)| !is_there) {
            None => Some(built()),
            Some((missing, _)) => {
                eprintln!("skipped: {missing} is missing");
                None
            }
        }
    })
    .as_deref()
}

/// Kept from one run of the tests to the next, by what is in it.
fn built() -> PathBuf {
    let hash = Sha256::digest(KIT);
    let name = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    let there = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kit-{name:08x}.jar"));
    if there.is_file() {
        return there;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(folder.path().join("Kit.java"), KIT).unwrap();
    for line in [
        "javac --release 17 -encoding UTF-8 Kit.java",
        "jar cfe kit.jar Kit Kit.class",
    ] {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        let output = command.args(words).current_dir(folder.path()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
    // Another run that builds it too makes the same.
    fs::rename(folder.path().join("kit.jar"), &there).unwrap();
    there
}

/// A folder that everybody may look into, with records that are cleared when it is dropped.
pub(crate) struct Place {
    folder: TempDir,
    launcher: Launcher,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempdir();
        open_to_all(folder.path(), 0o755);
        Self {
            launcher: Launcher {
                state: StateRoot::new(folder.path().join("state")),
                crun: CRUN.into(),
                shim: tool_binary("milo-driver"),
                spare: Spare::default(),
            },
            folder,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> &StateRoot {
        &self.launcher.state
    }

    /// A folder of it that containers can use.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        open_to_all(&path, 0o777);
        path
    }

    pub(crate) fn tasks(&self) -> Vec<TaskDir> {
        self.state().tasks().unwrap_or_default()
    }

    /// Waits until no task and no container is on record any more.
    pub(crate) fn until_nothing_is_left(&self) {
        eventually(patience(), || self.is_clear().then_some(()));
    }

    fn is_clear(&self) -> bool {
        let containers = fs::read_dir(self.state().crun_root());
        self.tasks().is_empty() && containers.map_or(0, Iterator::count) == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After a test that has failed; one that has not has left nothing, or only what has ended.
        for dir in self.tasks() {
            let _ = self.launcher.dismiss(&dir);
        }
    }
}

pub(crate) fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A FIFO that programs wait at until it is opened, which ends what they read.
pub(crate) struct Gate {
    path: PathBuf,
    fifo: File,
}

impl Gate {
    /// Makes a closed one in a folder, where it is called `gate`.
    pub(crate) fn closed(folder: &Path) -> Self {
        let path = folder.join("gate");
        fifo(&path);
        open_to_all(&path, 0o666);
        // For reading too, so that this waits for nobody.
        let both = OpenOptions::new().read(true).write(true).open(&path);
        Self {
            path,
            fifo: both.unwrap(),
        }
    }

    /// Passes something in.
    pub(crate) fn pass(&mut self, text: &str) {
        self.fifo.write_all(text.as_bytes()).unwrap();
    }

    /// Lets everybody through, those who come later, too: they find an empty file.
    pub(crate) fn open(self) {
        let empty = self.path.with_extension("open");
        File::create(&empty).unwrap();
        fs::rename(empty, &self.path).unwrap();
    }
}

pub(crate) fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
}

/// The value in a line `name=value`.
#[track_caller]
pub(crate) fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("there is no {name} in:\n{text}"))
}
