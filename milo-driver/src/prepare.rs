//! From a task as it was asked for to one that can be run: its user known, its JAR found and looked into, its JVM chosen, its
//! bundle planned. Only looking; writing and starting are [`launch`](crate::launch)'s.

use std::path::{Component, Path, PathBuf};

use crate::{
    beneath,
    bundle::{self, BundleError, Plan, sources},
    host::Host,
    jar::{self, Jar, JarError},
    jre::{Jre, JreError, Jres, Search},
    jvm,
    task::{Java, JreSelect, Program, Task},
    user::{self, Account, UserError},
};

/// What a task is looked at with.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// This machine.
    pub host: &'a Host,
    /// Its JVMs.
    pub jres: &'a Jres,
    /// The JVM of tasks that ask for none.
    pub default_java: Option<&'a str>,
    /// Whether a task may run as root.
    pub allow_privileged_user: bool,
    /// Whether a task may name a JVM's home that was not looked at. What it holds, and what its links lead to, is mounted.
    pub any_java_home: bool,
}

/// A task that can be run.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The task, with its JAR.
    pub task: Task,
    /// Who it runs as.
    pub account: Account,
    /// Its JVM, if it is one.
    pub jre: Option<Jre>,
    /// Its bundle, not yet written.
    pub plan: Plan,
}

/// Why a task cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Its JAR.
    #[error(transparent)]
    Jar(#[from] JarError),
    /// Its JVM.
    #[error(transparent)]
    Jre(#[from] JreError),
    /// Its user.
    #[error(transparent)]
    User(#[from] UserError),
    /// Anything else that its container would need.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Prepares a task whose bundle will be in the folder `bundle`.
pub fn prepare(mut task: Task, means: Means<'_>, bundle: &Path) -> Result<Prepared, PrepareError> {
    // Again when they are mounted: until then anything may happen to them. Here it is said early, and nothing is left behind.
    sources::check(&task)?;
    let account = user::resolve(&task.user, means.allow_privileged_user)?;
    let mut jre = None;
    if let Program::Java(java) = &task.program {
        let jar = find_jar(&task, java)?;
        if let Some(jar) = &jar {
            jar.readable_by(account.uid, account.gid, &account.groups)?;
        }
        jre = Some(find_jre(&java.select, means)?);
        if jvm::ignores_sigterm(java) && !task.init {
            tracing::warn!(task = %task.id, "-Xrs makes a JVM ignore SIGTERM as PID 1: only a kill ends it, unless `init` is set");
        }
        let chosen = jar.and_then(|jar| in_container(&task, &jar));
        if let (Program::Java(java), Some(path)) = (&mut task.program, chosen) {
            java.jar.get_or_insert(path);
        }
    }
    let plan = bundle::plan(&task, &account, jre.as_ref(), means.host, bundle)?;
    Ok(Prepared {
        task,
        account,
        jre,
        plan,
    })
}

/// The JVM that the task runs on. A home that it may name need not be one that was looked at.
fn find_jre(select: &JreSelect, means: Means<'_>) -> Result<Jre, JreError> {
    match (means.jres.select(select, means.default_java), &select.home) {
        (Err(_), Some(home)) if means.any_java_home => {
            let there = Jres::discover(&Search {
                homes: vec![home.clone()],
                ..Search::default()
            });
            there.select(select, None).cloned()
        }
        (found, _) => found.cloned(),
    }
}

/// The JAR that the task runs: the named one, or the only one it was brought. None where a class is named instead.
///
/// What is found decides only what is said early. The JVM opens the JAR by itself, in the container and as the task's user:
/// another file in its place by then is one that the task could have read and run anyway.
fn find_jar(task: &Task, java: &Java) -> Result<Option<Jar>, JarError> {
    let Some(path) = &java.jar else {
        if java.class.is_some() {
            return Ok(None);
        }
        let Some(local) = &task.dirs.local else {
            let got = "No JAR was named".to_owned();
            return Err(JarError::NoneDownloaded { got });
        };
        return jar::choose(local).map(Some);
    };
    let need_main = java.class.is_none();
    let inside = absolute(path, task.work_dir.as_deref());
    match behind(task, &inside) {
        Some(Behind::Folder { root, relative }) => match task.dirs.around(&root) {
            Some((top, below)) => {
                let folder = beneath::named(top, below);
                jar::inspect_held(folder, &root, &relative, need_main).map(Some)
            }
            None => jar::inspect(&root, &relative, need_main).map(Some),
        },
        Some(Behind::File(file)) => match task.dirs.around(&file) {
            Some((top, below)) => {
                let named = beneath::named(top, below);
                jar::inspect_held_file(named, &file, need_main).map(Some)
            }
            None => jar::inspect_file(&file, need_main).map(Some),
        },
        None => Err(JarError::Missing {
            name: path.display().to_string(),
        }),
    }
}

/// A path as the program would understand it, without `.` and `..`.
fn absolute(path: &Path, work_dir: Option<&Path>) -> PathBuf {
    let mut whole = PathBuf::from("/");
    for part in work_dir.unwrap_or(Path::new("/")).join(path).components() {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            Component::Normal(name) => whole.push(name),
            _ => {}
        }
    }
    whole
}

/// What of the host a path of the container shows.
enum Behind {
    /// A file in a folder of the host.
    Folder { root: PathBuf, relative: PathBuf },
    /// A file that is mounted by itself.
    File(PathBuf),
}

/// What is behind a path of the container. The mount that is nearest to it decides, and of two the later one.
fn behind(task: &Task, inside: &Path) -> Option<Behind> {
    let (root, relative) = folders(task)
        .into_iter()
        .filter_map(|(target, source)| Some((source, inside.strip_prefix(target).ok()?.to_owned())))
        .rev()
        .min_by_key(|(_, relative)| relative.components().count())?;
    if relative.as_os_str().is_empty() {
        return Some(Behind::File(root));
    }
    Some(Behind::Folder { root, relative })
}

/// Where folders and files of the host are in the container, in the order in which they are mounted.
fn folders(task: &Task) -> Vec<(PathBuf, PathBuf)> {
    let dirs = [
        ("/alloc", &task.dirs.alloc),
        ("/local", &task.dirs.local),
        ("/secrets", &task.dirs.secrets),
    ];
    let dirs = dirs
        .into_iter()
        .filter_map(|(target, source)| Some((PathBuf::from(target), source.clone()?)));
    let rootfs = task
        .rootfs
        .iter()
        .map(|rootfs| ("/".into(), rootfs.clone()));
    let mounts = task.mounts.iter().map(|mount| {
        let target = absolute(&mount.target, None);
        (target, mount.source.clone())
    });
    rootfs.chain(dirs).chain(mounts).collect()
}

/// Where the container has the JAR that was found in the task's own folder.
fn in_container(task: &Task, jar: &Jar) -> Option<PathBuf> {
    let local = task.dirs.local.as_ref()?;
    let relative = jar.path.strip_prefix(local).ok()?;
    Some(Path::new("/local").join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Dirs, Mount, Propagation};

    fn task(mounts: &[(&str, &str)]) -> Task {
        let mounts = mounts.iter().map(|(source, target)| Mount {
            source: source.into(),
            target: target.into(),
            readonly: true,
            propagation: Propagation::Rprivate,
        });
        Task {
            dirs: Dirs {
                alloc: Some("/host/alloc".into()),
                local: Some("/host/task/local".into()),
                secrets: None,
            },
            mounts: mounts.collect(),
            ..Task::new("t", Program::Java(Java::default()))
        }
    }

    fn shown(task: &Task, path: &str) -> String {
        match behind(task, &absolute(Path::new(path), None)) {
            Some(Behind::Folder { root, relative }) => {
                format!("{} in {}", relative.display(), root.display())
            }
            Some(Behind::File(file)) => file.display().to_string(),
            None => "nothing".to_owned(),
        }
    }

    #[test]
    fn a_path_of_the_container_leads_to_the_folder_behind_it() {
        let task = task(&[("/host/jars", "/jars"), ("/host/app.jar", "/app/app.jar")]);
        for (path, expected) in [
            ("local/app.jar", "app.jar in /host/task/local"),
            ("/local/lib/a.jar", "lib/a.jar in /host/task/local"),
            ("/alloc/data/a.jar", "data/a.jar in /host/alloc"),
            ("/jars/a.jar", "a.jar in /host/jars"),
            ("/app/app.jar", "/host/app.jar"),
            ("/local/../jars/a.jar", "a.jar in /host/jars"),
            ("/secrets/a.jar", "nothing"),
            ("/../../etc/a.jar", "nothing"),
        ] {
            assert_eq!(shown(&task, path), expected, "{path}");
        }
    }

    #[test]
    fn a_link_in_the_tasks_own_folder_is_no_way_out_of_it() {
        let dir = runyard_common::testing::tempdir();
        let local = dir.path().join("local");
        std::fs::create_dir_all(local.join("data")).unwrap();
        std::os::unix::fs::symlink("/etc", local.join("out")).unwrap();
        let mounting = |source: &str| {
            let source = local.join(source).display().to_string();
            let mut task = task(&[(source.as_str(), "/x")]);
            task.dirs.local = Some(local.clone());
            sources::check(&task)
        };
        mounting("data").unwrap();
        for source in ["out", "out/ssl", "none"] {
            let error = mounting(source).unwrap_err().to_string();
            assert!(error.contains(source), "{error}");
        }
    }

    #[test]
    fn a_jar_is_looked_for_in_the_folder_that_is_mounted_and_not_behind_a_link_in_its_place() {
        let dir = runyard_common::testing::tempdir();
        let (data, host) = (dir.path().join("a/alloc/data"), dir.path().join("host"));
        for folder in [&data, &host] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join("app.jar"), "").unwrap();
        }
        let found = |source: &Path, inside: &str| {
            let source = source.display().to_string();
            let mut task = task(&[(source.as_str(), "/data")]);
            task.dirs.alloc = Some(dir.path().join("a/alloc"));
            let java = Java {
                jar: Some(inside.into()),
                ..Java::default()
            };
            find_jar(&task, &java).unwrap_err()
        };
        let is_empty = |error: &JarError| matches!(error, JarError::Empty { .. });
        assert!(is_empty(&found(&data, "/data/app.jar")));
        std::fs::rename(&data, data.with_extension("away")).unwrap();
        std::os::unix::fs::symlink(&host, &data).unwrap();
        for (source, inside) in [
            (data.clone(), "/data/app.jar"),
            (data.join("app.jar"), "/data/app.jar"),
        ] {
            let error = found(&source, inside);
            assert!(!is_empty(&error), "{error}");
        }
    }

    #[test]
    fn of_two_mounts_the_nearer_one_decides_and_of_equals_the_later_one() {
        let task = task(&[
            ("/one", "/jars"),
            ("/two", "/jars/more"),
            ("/three", "/jars/more"),
        ]);
        assert_eq!(shown(&task, "/jars/more/a.jar"), "a.jar in /three");
        assert_eq!(shown(&task, "/jars/a.jar"), "a.jar in /one");
    }

    #[test]
    fn a_task_without_a_folder_and_without_a_jar_says_what_is_missing() {
        let mut task = task(&[]);
        task.dirs.local = None;
        let error = find_jar(&task, &Java::default()).unwrap_err();
        assert!(error.to_string().contains("No JAR was named"), "{error}");
    }
}
