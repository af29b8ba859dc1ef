//! The store that Buildah works in: which driver, how much of it is used, whose containers are in it. Building and testing in it
//! is [`super::build`]'s and [`super::test`]'s.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    explain,
    halt::Halt,
    place::{self, Ground},
    session::{Call, Session},
    work::Storage,
};

/// How long the removal of containers may take.
const REMOVAL: Duration = Duration::from_secs(20);
/// What tells fuse-overlayfs from the kernel's overlay.
const FUSE: &str = "fuse-overlayfs";

/// Buildah, with one store.
#[derive(Clone, Debug)]
pub(super) struct Buildah {
    /// The store's folder.
    root: PathBuf,
    flags: Vec<OsString>,
    /// How `RUN` steps and tests are kept apart from the machine.
    pub(super) isolation: String,
    /// Whether the store is ours: one that we were not given may be others', too.
    own: bool,
}

impl Buildah {
    /// Buildah as it is called once a storage driver is known: the one that is asked for, else the first that is tried.
    pub(super) fn nominal(storage: &Storage) -> Self {
        let paths = [("--root", &storage.root), ("--runroot", &storage.runroot)];
        let paths = paths.into_iter().filter_map(|(flag, path)| {
            let path: OsString = path.clone()?.into();
            Some([flag.into(), path])
        });
        let driver = storage.driver.as_deref().unwrap_or(match storage.root {
            Some(_) => "overlay",
            None => "",
        });
        let isolation = storage.isolation.clone();
        Self {
            root: storage.root.clone().unwrap_or_else(|| "STORE".into()),
            flags: paths.flatten().chain(driver_flags(driver)).collect(),
            isolation: isolation.unwrap_or_else(|| "chroot".to_owned()),
            own: storage.root.is_some(),
        }
    }

    /// Finds a storage driver that works here, or takes the one that is asked for or that worked before.
    pub(super) fn open(session: &mut Session<'_>, storage: &Storage) -> Result<Self, Halt> {
        let mut base: Vec<OsString> = Vec::new();
        for (flag, path) in [("--root", &storage.root), ("--runroot", &storage.runroot)] {
            if let Some(path) = path {
                place::folder(path).map_err(|error| Halt::io(path.display(), &error))?;
                base.extend([flag.into(), path.clone().into()]);
            }
        }
        let made = |root: &Path, driver: &str| Self {
            root: root.to_owned(),
            flags: base.iter().cloned().chain(driver_flags(driver)).collect(),
            isolation: storage
                .isolation
                .clone()
                .unwrap_or_else(|| "chroot".to_owned()),
            own: storage.root.is_some(),
        };
        let known = storage
            .driver
            .clone()
            .or_else(|| remembered(storage.root.as_ref()?));
        if let (Some(root), Some(driver)) = (&storage.root, &known) {
            return Ok(made(root, driver));
        }
        let candidates: Vec<&str> = match (&known, &storage.root) {
            (Some(driver), _) => vec![driver],
            (None, Some(_)) => vec!["overlay", FUSE, "vfs"],
            // Without a driver Buildah takes what its own configuration says.
            (None, None) => vec!["", "overlay", FUSE, "vfs"],
        };
        let mut why = String::new();
        for driver in candidates {
            if driver == FUSE && !fuse_is_there(session) {
                continue;
            }
            match probe(session, &made(Path::new(""), driver))? {
                Ok(root) => {
                    remember(session, &root, driver, storage.root.is_some());
                    return Ok(made(&root, driver));
                }
                Err(error) => {
                    session.say(format!(
                        "storage driver {driver} does not work here: {error}"
                    ));
                    why = error;
                }
            }
        }
        Err(Halt::infrastructure(format!(
            "Buildah has no storage here: {why}"
        )))
    }

    /// The store's folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The store's own things.
    pub(super) fn ground(&self) -> Ground {
        Ground::of(&self.root)
    }

    /// A call of Buildah.
    pub(super) fn call(&self, verb: &str) -> Call {
        Call::of("buildah").args(&self.flags).arg(verb)
    }

    /// The same, with configuration of registries that its command line cannot express.
    pub(super) fn call_with(&self, registries: Option<&Path>, verb: &str) -> Call {
        let call = Call::of("buildah").args(&self.flags);
        match registries {
            Some(path) => call.option("--registries-conf", path).arg(verb),
            None => call.arg(verb),
        }
    }

    /// Makes room: forgets cached layers if asked to, or if there are more bytes of them than the limit. Only who is alone in
    /// the store may: what looks unused may be what another build uses next. Says whether the build must not use the cache.
    pub(super) fn tidy(
        &self,
        session: &mut Session<'_>,
        alone: bool,
        limit: Option<u64>,
        clear: bool,
    ) -> Result<bool, Halt> {
        if alone {
            self.bury(session)?;
        }
        if clear && !alone {
            session
                .say("build: other builds use the cache; it is left, and not used for this build");
            return Ok(true);
        }
        let over = limit.is_some_and(|limit| self.size() > limit);
        if clear {
            session.say("build: forgetting cached layers");
            self.prune(session, true)?;
            let mounts = self.ground().file("mounts");
            // The first run in a store has none yet; whoever needs the folder makes it.
            match fs::remove_dir_all(&mounts) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Halt::io(mounts.display(), &error));
                }
                _ => {}
            }
        } else if over && alone {
            session.say(format!("build: pruning the cache of {} bytes", self.size()));
            self.prune(session, false)?;
            if limit.is_some_and(|limit| self.size() > limit) {
                self.prune(session, true)?;
            }
        }
        Ok(false)
    }

    /// Removes what runs left that did not live to do it; whoever is alone in the store knows that nobody else will.
    fn bury(&self, session: &mut Session<'_>) -> Result<(), Halt> {
        let runs = self.ground().runs();
        let dead: Vec<PathBuf> = fs::read_dir(&runs)
            .map_err(|error| Halt::io(runs.display(), &error))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        if !dead.is_empty() {
            self.remove(session, &self.undescribed())?;
        }
        for folder in dead {
            self.bury_one(session, &folder)?;
        }
        Ok(())
    }

    /// Removes what one dead run left.
    pub(super) fn bury_one(&self, session: &mut Session<'_>, folder: &Path) -> Result<(), Halt> {
        session.say(format!("removing what {} left", folder.display()));
        super::sweep::programs(folder);
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let containers = self.containers(folder, &name);
        self.remove(session, &containers)?;
        // What stays is tried again by the next one.
        let _ = place::discard(folder);
        Ok(())
    }

    /// Removes images that nothing refers to; with `named`, in a store of our own, also those with names.
    fn prune(&self, session: &mut Session<'_>, named: bool) -> Result<(), Halt> {
        let prune = self.call("rmi").args(["--prune", "--force"]).quiet();
        let ended = session.program(&prune)?;
        if !ended.status.success() {
            session.say(format!("pruning: {}", ended.heard.text()));
        }
        if named && self.own {
            let list = self
                .call("images")
                .args(["--all", "--quiet", "--no-trunc"])
                .quiet();
            let text = session.program(&list)?.text();
            let mut ids: Vec<&str> = text.lines().collect();
            ids.sort_unstable();
            ids.dedup();
            if !ids.is_empty() {
                session.program(&self.call("rmi").arg("--force").args(ids).quiet())?;
            }
        }
        Ok(())
    }

    /// The bytes of all layers, as the store has counted them. What cannot be read counts nothing.
    fn size(&self) -> u64 {
        #[derive(Deserialize)]
        struct Layer {
            #[serde(rename = "diff-size", default)]
            size: u64,
        }
        let files = self
            .below("-layers")
            .into_iter()
            .map(|folder| folder.join("layers.json"));
        let layers = files
            .filter_map(|file| serde_json::from_slice::<Vec<Layer>>(&fs::read(file).ok()?).ok());
        layers.flatten().map(|layer| layer.size).sum()
    }

    /// The containers of a run: those that carry its mark, which Buildah writes down with each container, and the one with its
    /// name.
    pub(super) fn containers(&self, run: &Path, name: &str) -> Vec<String> {
        let mark = run.join("mark");
        let mark = mark.to_string_lossy();
        let is_of_run = |state: &Value| {
            let secrets = state
                .pointer("/CommonBuildOpts/Secrets")
                .and_then(Value::as_array);
            let marked = secrets.into_iter().flatten().filter_map(Value::as_str);
            let mut marked = marked.filter_map(|secret| secret.split_once("src="));
            state["container-name"] == name || marked.any(|(_, source)| source == mark)
        };
        self.states()
            .filter(|(_, state)| state.as_ref().is_some_and(is_of_run))
            .map(|(id, _)| id)
            .collect()
    }

    /// Containers that their maker was killed before it could describe. Whoever is alone in a store of ours may remove them: they
    /// are nobody's. Buildah removes only what is described, so they are, barely.
    pub(super) fn undescribed(&self) -> Vec<String> {
        if !self.own {
            return Vec::new();
        }
        let describe = |id: &str| {
            let folders = self.below("-containers").into_iter();
            let folder = folders
                .map(|folder| folder.join(id))
                .find(|folder| folder.is_dir());
            let userdata = folder?.join("userdata");
            let state = json!({ "type": "buildah 0.0.1", "container-id": id });
            place::folder(&userdata).ok()?;
            fs::write(userdata.join("buildah.json"), state.to_string()).ok()
        };
        let unknown = self.states().filter(|(_, state)| state.is_none());
        unknown
            .filter(|(id, _)| describe(id).is_some())
            .map(|(id, _)| id)
            .collect()
    }

    /// Removes containers, also in a run that is to stop.
    pub(super) fn remove(
        &self,
        session: &mut Session<'_>,
        containers: &[String],
    ) -> Result<(), Halt> {
        if containers.is_empty() {
            return Ok(());
        }
        let call = self.call("rm").args(containers).quiet();
        let ended = session.program(&call.cleaning_up(REMOVAL))?;
        if !ended.status.success() {
            session.say(format!("removing containers: {}", ended.heard.text()));
        }
        Ok(())
    }

    fn states(&self) -> impl Iterator<Item = (String, Option<Value>)> {
        let folders = self.below("-containers").into_iter();
        let entries =
            folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        entries.filter(|entry| entry.path().is_dir()).map(|entry| {
            let state = fs::read(entry.path().join("userdata/buildah.json"));
            let state = state
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok());
            (entry.file_name().to_string_lossy().into_owned(), state)
        })
    }

    /// Folders of the store whose names end so, whatever the driver.
    fn below(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths
            .filter(|path| path.to_string_lossy().ends_with(ending))
            .collect()
    }
}

/// The options with which others call Buildah for a store of ours: those of the driver that a run found to work there; none if
/// no run has found one.
pub(crate) fn driver_options(root: &Path) -> Option<Vec<OsString>> {
    remembered(root).map(|driver| driver_flags(&driver))
}

fn remembered(root: &Path) -> Option<String> {
    let text = fs::read_to_string(Ground::of(root).file("driver")).ok()?;
    Some(text.trim().to_owned())
}

fn driver_flags(driver: &str) -> Vec<OsString> {
    match driver {
        "" => Vec::new(),
        FUSE => vec![
            "--storage-driver".into(),
            "overlay".into(),
            "--storage-opt".into(),
            "overlay.mount_program=/usr/bin/fuse-overlayfs".into(),
        ],
        other => vec!["--storage-driver".into(), other.into()],
    }
}

fn fuse_is_there(session: &mut Session<'_>) -> bool {
    let there = Path::new("/dev/fuse").exists() && Path::new("/usr/bin/fuse-overlayfs").exists();
    if !there {
        session.say(
            "storage driver fuse-overlayfs does not work here: no /dev/fuse, or no fuse-overlayfs",
        );
    }
    there
}

/// Opens a store; where it is, or why it cannot be.
fn probe(session: &mut Session<'_>, buildah: &Buildah) -> Result<Result<PathBuf, String>, Halt> {
    let ended = session.program(&buildah.call("info").quiet())?;
    if ended.heard.text().contains("no space left") {
        return Err(Halt::infrastructure(
            "disk full: Buildah cannot open its storage",
        ));
    }
    if let Some(lack) = explain::lack(session, &ended.heard) {
        return Err(explain::lack_of(&lack, "the opening of its storage"));
    }
    let info: Option<Value> = serde_json::from_slice(&ended.output).ok();
    let root = info.and_then(|info| Some(PathBuf::from(info["store"]["GraphRoot"].as_str()?)));
    match root {
        Some(root) if ended.status.success() => Ok(Ok(root)),
        _ => Ok(Err(explain::cause(
            ended.heard.errors.iter().map(String::as_str),
        ))),
    }
}

fn remember(session: &mut Session<'_>, root: &Path, driver: &str, own: bool) {
    let name = if driver.is_empty() {
        "as configured"
    } else {
        driver
    };
    session.say(format!("storage: {name}, in {}", root.display()));
    if own {
        let ground = Ground::of(root);
        let file = ground.file("driver");
        let kept = place::folder(&ground.runs()).and_then(|()| fs::write(&file, driver));
        if let Err(error) = kept {
            session.say(format!("{}: {error}", file.display()));
        }
    }
}
