//! What this machine has for tasks: crun, JVMs, cgroups. Looking again is cheap as long as nothing has changed: a program is
//! run once for each version of its file.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use crate::{
    cgroup::{self, Mode},
    config::Config,
    fingerprint::{self, Survey},
    jre::{self, Jre, Jres},
    runtime,
};

/// How long `crun --version` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was learnt by running programs that worked, by their files.
#[derive(Debug, Default)]
pub(super) struct Surveyor {
    crun: Option<(Stamp, fingerprint::Crun)>,
    /// JVMs that have run.
    jres: HashMap<PathBuf, Stamp>,
}

/// A file, as far as it matters whether it is still the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    modified: Option<SystemTime>,
    length: u64,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let metadata = fs::metadata(path);
        Self {
            path: path.to_owned(),
            modified: metadata.as_ref().ok().and_then(|file| file.modified().ok()),
            length: metadata.map_or(0, |file| file.len()),
        }
    }
}

impl Surveyor {
    /// Looks at everything.
    pub(super) fn survey(&mut self, config: &Config, jres: &Jres) -> Survey {
        let mut problems = Vec::new();
        let path = crun(
            config.crun_path.as_deref(),
            std::env::var_os("PATH").as_deref(),
        );
        let crun = path.and_then(|path| match self.crun(&path) {
            Ok(crun) => Some(crun),
            Err(problem) => {
                problems.push(problem);
                None
            }
        });
        let mode = cgroup::detect(Path::new(cgroup::ROOT));
        problems.extend(cgroup_problem(&mode));
        let default = jres.default(config.default_java.as_deref());
        if let (None, Some(wanted), false) = (default, &config.default_java, jres.all().is_empty())
        {
            problems.push(format!(
                "default_java `{wanted}` is none of the JVMs of this host"
            ));
        }
        let mut java: Vec<&Jre> = jres.all().iter().collect();
        java.sort_by_key(|jre| default != Some(*jre));
        let works = |jre: &&Jre| match self.fault(jre) {
            None => true,
            Some(fault) => {
                problems.push(fault);
                false
            }
        };
        let java: Vec<&Jre> = java.into_iter().filter(works).collect();
        if !java.is_empty() {
            // Tasks can ask for one of the others.
            problems.retain(|problem| !problem.contains(" -version`"));
        }
        Survey {
            crun,
            java: java.into_iter().map(described).collect(),
            cgroup: mode.name().to_owned(),
            problems,
        }
    }

    fn crun(&mut self, path: &Path) -> Result<fingerprint::Crun, String> {
        let stamp = Stamp::of(path);
        if let Some((known, crun)) = &self.crun
            && *known == stamp
        {
            return Ok(crun.clone());
        }
        let crun = version(path)?;
        self.crun = Some((stamp, crun.clone()));
        Ok(crun)
    }

    /// Why a JVM cannot be used, if it cannot. A failure may pass (a machine under load, an upgrade half-way), so it is
    /// looked at again the next time.
    fn fault(&mut self, jre: &Jre) -> Option<String> {
        let stamp = Stamp::of(&jre.java);
        if self.jres.get(&jre.home) == Some(&stamp) {
            return None;
        }
        if let Some(owner) = strange_owner(jre) {
            let home = jre.home.display();
            return Some(format!(
                "`{home}` belongs to uid {owner}, and the driver starts its `java -version` as root: name it in java_homes to use it"
            ));
        }
        if let Err(error) = jre::prove(jre) {
            return Some(super::whole(&error));
        }
        self.jres.insert(jre.home.clone(), stamp);
        None
    }
}

/// Who else than root and we could have put something into a JVM that nobody has named.
fn strange_owner(jre: &Jre) -> Option<u32> {
    if jre.source == jre::Source::Configured {
        return None;
    }
    let us = rustix::process::geteuid().as_raw();
    let mut places = vec![jre.java.as_path()];
    places.extend(jre.home.ancestors());
    let owners = places
        .into_iter()
        .filter_map(|path| fs::metadata(path).ok());
    owners
        .map(|file| file.uid())
        .find(|owner| *owner != 0 && *owner != us)
}

/// The crun to use: the named one, or the first in `path`.
pub(crate) fn crun(named: Option<&Path>, path: Option<&OsStr>) -> Option<PathBuf> {
    if let Some(named) = named {
        return named.is_file().then(|| named.to_owned());
    }
    let folders = std::env::split_paths(path?);
    folders
        .map(|folder| folder.join("crun"))
        .find(|program| program.is_absolute() && program.is_file())
}

/// What a crun says of itself.
pub(crate) fn version(path: &Path) -> Result<fingerprint::Crun, String> {
    let failed = |reason: String| format!("`{} --version`: {reason}", path.display());
    let file = tempfile::tempfile().map_err(|error| failed(error.to_string()))?;
    let output = file
        .try_clone()
        .map_err(|error| failed(error.to_string()))?;
    let mut command: Command = runtime::alone(path);
    command.arg("--version").stdout(output);
    let finished =
        runtime::run(&mut command, PATIENCE).map_err(|error| failed(error.to_string()))?;
    if !finished.status.success() {
        return Err(failed(finished.status.to_string()));
    }
    let text = std::io::read_to_string(rewound(file)).map_err(|error| failed(error.to_string()))?;
    parse(&text, path).ok_or_else(|| failed(format!("`{}` names no version", text.trim())))
}

fn rewound(mut file: fs::File) -> fs::File {
    use std::io::Seek;
    // Of a file that was just written this cannot fail; and if it did, nothing would be read.
    let _ = file.rewind();
    file
}

/// Reads `crun version 1.8.1` and the line of features.
fn parse(text: &str, path: &Path) -> Option<fingerprint::Crun> {
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("crun version "))?;
    let features = text.lines().find(|line| line.starts_with('+'));
    Some(fingerprint::Crun {
        version: version.trim().to_owned(),
        path: path.to_owned(),
        features: features.unwrap_or_default().trim().to_owned(),
    })
}

fn cgroup_problem(mode: &Mode) -> Option<String> {
    let is_root = rustix::process::geteuid().is_root();
    match mode {
        Mode::None => Some("no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup".to_owned()),
        Mode::Hybrid if !is_root => Some(
            "cgroups are in hybrid mode, which crun refuses: run as root, or boot with systemd.unified_cgroup_hierarchy=1"
                .to_owned(),
        ),
        _ => None,
    }
}

fn described(jre: &Jre) -> fingerprint::Java {
    fingerprint::Java {
        home: jre.home.clone(),
        version: jre.version.clone(),
        major: jre.major,
        vendor: jre.vendor.clone(),
        vm: jre.vm.clone(),
        arch: jre.arch.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
crun version 1.8.1
commit: f8a096be060b22ccd3d5f3ebe44108517fbf6c30
rundir: /run/user/0/crun
spec: 1.0.0
+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +CRIU +YAJL
";

    #[test]
    fn version_and_features_are_read_from_what_crun_says() {
        let crun = parse(SAID, Path::new("/usr/bin/crun")).unwrap();
        assert_eq!(crun.version, "1.8.1");
        assert!(crun.features.contains("+SECCOMP"));
        assert_eq!(parse("runc version 1.1", Path::new("/x")), None);
    }

    #[test]
    fn a_program_that_is_no_crun_is_a_problem_with_its_name() {
        let problem = version(Path::new("/bin/true")).unwrap_err();
        assert!(problem.starts_with("`/bin/true --version`: "), "{problem}");
    }

    #[test]
    fn a_named_crun_is_the_only_one_that_is_tried() {
        let path = std::env::var_os("PATH");
        assert_eq!(
            crun(Some(Path::new("/nowhere/crun")), path.as_deref()),
            None
        );
        assert_eq!(crun(None, None), None);
    }
}
