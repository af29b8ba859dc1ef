//! What this machine has for tasks: crun, JVMs, cgroups. Looking again is cheap as long as nothing has changed: a program is
//! run once for each version of its file.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
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

/// What was learnt by running programs, by their files.
#[derive(Debug, Default)]
pub(super) struct Surveyor {
    crun: Option<(Stamp, Result<fingerprint::Crun, String>)>,
    /// Why a JVM does not run, or that it does.
    jres: HashMap<PathBuf, (Stamp, Option<String>)>,
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
        match &self.crun {
            Some((known, said)) if *known == stamp => said.clone(),
            _ => {
                let said = version(path);
                self.crun = Some((stamp, said.clone()));
                said
            }
        }
    }

    /// Why a JVM cannot be used, if it cannot.
    fn fault(&mut self, jre: &Jre) -> Option<String> {
        let stamp = Stamp::of(&jre.java);
        match self.jres.get(&jre.home) {
            Some((known, fault)) if *known == stamp => fault.clone(),
            _ => {
                let fault = jre::prove(jre).err().map(|error| super::whole(&error));
                self.jres.insert(jre.home.clone(), (stamp, fault.clone()));
                fault
            }
        }
    }
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
