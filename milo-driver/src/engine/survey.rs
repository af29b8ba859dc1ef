//! What this machine has for tasks: crun, JVMs, cgroups. Looking again is cheap as long as nothing has changed: a program
//! that works is run once for each version of its file. Nobody but another survey waits for what is run.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt::Write,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use super::lock;
use crate::{
    cgroup::{self, Mode},
    config::Config,
    fingerprint::{self, Survey},
    jre::{self, Jre, Jres},
    runtime,
};

/// How long `crun --version` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at the machine, and remembers what was learnt by running programs.
#[derive(Debug, Default)]
pub(super) struct Surveyor {
    /// That one looks at a time.
    turn: Mutex<()>,
    known: Mutex<Known>,
}

/// What was learnt, by the programs' files.
#[derive(Debug, Default)]
struct Known {
    crun: Option<(Stamp, fingerprint::Crun)>,
    /// What is wrong with JVMs that were looked at, by their homes: nothing, or a reason.
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
    /// What can be said without running anything: what is not known better is taken to be well.
    pub(super) fn glance(&self, config: &Config, jres: Jres) -> Survey {
        let crun = found_crun(config).map(|path| {
            Ok(self.known_crun(&path).unwrap_or(fingerprint::Crun {
                path,
                ..fingerprint::Crun::default()
            }))
        });
        described(config, crun, &self.sound(jres))
    }

    /// Looks at everything, and takes as long as it takes.
    pub(super) fn survey(&self, config: &Config, jres: Jres) -> Survey {
        let _turn = lock(&self.turn);
        let crun = found_crun(config).map(|path| self.crun(&path));
        for jre in jres.all() {
            self.examine(jre);
        }
        described(config, crun, &self.sound(jres))
    }

    /// The JVMs without those that are known not to work.
    pub(super) fn sound(&self, mut jres: Jres) -> Jres {
        let known = lock(&self.known);
        let fault = |jre: &Jre| {
            let (stamp, fault) = known.jres.get(&jre.home)?;
            let fault = fault.as_ref().filter(|_| *stamp == Stamp::of(&jre.java))?;
            Some((jre.home.clone(), fault.clone()))
        };
        let faults: Vec<_> = jres.all().iter().filter_map(fault).collect();
        for (home, reason) in faults {
            jres.reject(&home, &reason);
        }
        jres
    }

    fn known_crun(&self, path: &Path) -> Option<fingerprint::Crun> {
        let known = lock(&self.known);
        let (stamp, crun) = known.crun.as_ref()?;
        (*stamp == Stamp::of(path)).then(|| crun.clone())
    }

    fn crun(&self, path: &Path) -> Result<fingerprint::Crun, String> {
        if let Some(known) = self.known_crun(path) {
            return Ok(known);
        }
        let stamp = Stamp::of(path);
        let crun = version(path)?;
        lock(&self.known).crun = Some((stamp, crun.clone()));
        Ok(crun)
    }

    /// Finds out whether a JVM can be used. A failure may pass (a machine under load, an upgrade half-way), so it is looked
    /// at again each time.
    fn examine(&self, jre: &Jre) {
        let stamp = Stamp::of(&jre.java);
        let works = (stamp.clone(), None);
        if lock(&self.known).jres.get(&jre.home) == Some(&works) {
            return;
        }
        let fault = match strange_owner(jre) {
            Some(owner) => Some(format!(
                "it belongs to uid {owner}, and the driver starts its `java -version` as root: name it in java_homes to use it"
            )),
            None => jre::prove(jre).err().map(|error| super::whole(&error)),
        };
        if let Some(fault) = &fault {
            tracing::warn!(home = %jre.home.display(), fault, "a JVM is not used");
        }
        lock(&self.known)
            .jres
            .insert(jre.home.clone(), (stamp, fault));
    }
}

/// What was found, in the fingerprint's words.
fn described(
    config: &Config,
    crun: Option<Result<fingerprint::Crun, String>>,
    jres: &Jres,
) -> Survey {
    let mut problems = Vec::new();
    let crun = crun.and_then(|crun| crun.map_err(|problem| problems.push(problem)).ok());
    let mode = cgroup::detect(Path::new(cgroup::ROOT));
    problems.extend(cgroup_problem(&mode));
    let broken: Vec<String> = jres
        .broken()
        .map(|(jre, reason)| format!("{}: {reason}", jre.home.display()))
        .collect();
    let default = jres.default(config.default_java.as_deref());
    if let (None, Some(wanted), false) = (default, &config.default_java, jres.all().is_empty()) {
        let mut problem =
            format!("default_java `{wanted}` is none of the JVMs of this host that work");
        if !broken.is_empty() {
            let _ = write!(problem, " (rejected: {})", broken.join("; "));
        }
        problems.push(problem);
    }
    let mut java: Vec<&Jre> = jres.all().iter().collect();
    java.sort_by_key(|jre| default != Some(*jre));
    Survey {
        crun,
        java: java.into_iter().map(in_words).collect(),
        broken,
        cgroup: mode.name().to_owned(),
        problems,
    }
}

fn found_crun(config: &Config) -> Option<PathBuf> {
    let path = std::env::var_os("PATH");
    crun(config.crun_path.as_deref(), path.as_deref())
}

/// Who else than root and we could have put something into a JVM that nobody has named.
fn strange_owner(jre: &Jre) -> Option<u32> {
    if jre.source == jre::Source::Configured {
        return None;
    }
    let us = rustix::process::geteuid().as_raw();
    // Whoever owns one of the folders on the way can put another program there.
    let real = fs::canonicalize(&jre.java).unwrap_or_default();
    let places = [&jre.java, &jre.home, &real].map(|path| path.ancestors());
    let owners = places
        .into_iter()
        .flatten()
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

fn in_words(jre: &Jre) -> fingerprint::Java {
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
    use std::os::unix::fs::PermissionsExt;

    use runyard_common::testing::{TempDir, tempdir};

    use super::*;
    use crate::{fingerprint::describe, jre::Search, task::JreSelect};

    /// Homes whose program is one that succeeds, or one that fails, whatever it is asked.
    struct Ground(TempDir);

    impl Ground {
        fn jvm(&self, version: &str, program: &str) -> PathBuf {
            let home = self.0.path().join(version);
            fs::create_dir_all(home.join("bin")).unwrap();
            fs::write(
                home.join("release"),
                format!("JAVA_VERSION=\"{version}\"\n"),
            )
            .unwrap();
            // By another process: what this one has written cannot be started while a fork of another test has it open.
            let copied = Command::new("cp")
                .args(["--remove-destination", program])
                .arg(home.join("bin/java"))
                .status();
            assert!(copied.unwrap().success());
            home
        }

        fn jres(&self) -> Jres {
            Jres::discover(&Search {
                standard: vec![self.0.path().to_owned()],
                ..Search::default()
            })
        }
    }

    fn homes(survey: &Survey) -> Vec<&Path> {
        survey.java.iter().map(|java| java.home.as_path()).collect()
    }

    #[test]
    fn a_jvm_that_does_not_start_is_not_offered_from_then_on_until_it_is_mended() {
        let ground = Ground(tempdir());
        let (new, old) = (
            ground.jvm("21", "/bin/false"),
            ground.jvm("17", "/bin/true"),
        );
        let (surveyor, config) = (Surveyor::default(), Config::default());
        let usual = |jres: Jres| {
            let sound = surveyor.sound(jres);
            sound.select(&JreSelect::default(), None).unwrap().major
        };
        // At first nobody knows, because nothing is started.
        let glance = surveyor.glance(&config, ground.jres());
        assert_eq!(homes(&glance), [&new, &old]);
        assert_eq!(usual(ground.jres()), 21);
        let survey = surveyor.survey(&config, ground.jres());
        assert_eq!(homes(&survey), [&old]);
        let reason = format!("{}: `", new.display());
        assert!(survey.broken[0].starts_with(&reason), "{survey:?}");
        assert_eq!(usual(ground.jres()), 17);
        assert_eq!(
            surveyor.glance(&config, ground.jres()),
            Survey {
                crun: surveyor.glance(&config, ground.jres()).crun,
                ..survey
            }
        );
        ground.jvm("21", "/bin/true");
        assert_eq!(usual(ground.jres()), 21);
        let survey = surveyor.survey(&config, ground.jres());
        assert_eq!(homes(&survey), [&new, &old]);
        assert!(survey.broken.is_empty());
    }

    #[test]
    fn a_machine_is_unhealthy_when_its_last_jvm_does_not_start() {
        let ground = Ground(tempdir());
        let home = ground.jvm("17", "/bin/false");
        let survey = Surveyor::default().survey(&Config::default(), ground.jres());
        let reason = describe(&survey).unhealthy.unwrap();
        let expected = format!("no Java runtime works ({}: `", home.display());
        assert!(reason.contains(&expected), "{reason}");
    }

    #[test]
    fn the_operators_wish_goes_to_the_next_that_is_like_it_and_to_no_other() {
        let ground = Ground(tempdir());
        ground.jvm("21.0.2", "/bin/false");
        let next = ground.jvm("21.0.1", "/bin/true");
        ground.jvm("17.0.1", "/bin/true");
        let surveyor = Surveyor::default();
        let wish = |wanted: &str| {
            let config = Config {
                default_java: Some(wanted.to_owned()),
                ..Config::default()
            };
            surveyor.survey(&config, ground.jres())
        };
        let survey = wish("21");
        assert_eq!(
            (homes(&survey)[0], survey.problems.len()),
            (next.as_path(), 0)
        );
        let reason = &wish("21.0.2").problems[0];
        let expected =
            "default_java `21.0.2` is none of the JVMs of this host that work (rejected: ";
        assert!(reason.starts_with(expected), "{reason}");
    }

    #[test]
    fn a_failure_that_has_passed_is_forgotten() {
        let ground = Ground(tempdir());
        let home = ground.jvm("17", "/bin/true");
        let surveyor = Surveyor::default();
        let stamp = Stamp::of(&home.join("bin/java"));
        let fault = Some("the machine was busy".to_owned());
        lock(&surveyor.known).jres.insert(home, (stamp, fault));
        assert!(
            surveyor
                .glance(&Config::default(), ground.jres())
                .java
                .is_empty()
        );
        let survey = surveyor.survey(&Config::default(), ground.jres());
        assert_eq!(survey.java.len(), 1);
    }

    const SAID: &str = "\
crun version 1.8.1
commit: f8a096be060b22ccd3d5f3ebe44108517fbf6c30
rundir: /run/user/0/crun
spec: 1.0.0
+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +CRIU +YAJL
";

    /// A JVM that is a script.
    fn jre(home: &Path, script: &str) -> Jre {
        let java = home.join("bin/java");
        fs::create_dir_all(home.join("bin")).unwrap();
        fs::write(&java, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&java, fs::Permissions::from_mode(0o755)).unwrap();
        Jre {
            home: home.to_owned(),
            java,
            version: "17.0.15".to_owned(),
            major: 17,
            vendor: "Debian".to_owned(),
            vm: "HotSpot".to_owned(),
            arch: "x86_64".to_owned(),
            libc: None,
            loader: None,
            source: jre::Source::JavaHome,
            links: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// What a surveyor has against a JVM after a look.
    fn found(surveyor: &Surveyor, jre: &Jre) -> Option<String> {
        surveyor.examine(jre);
        lock(&surveyor.known).jres[&jre.home].1.clone()
    }

    #[test]
    fn a_jvm_that_failed_is_tried_again_and_one_that_ran_is_not() {
        let home = tempdir();
        let whole = home.path().join("whole");
        let jre = jre(home.path(), &format!("cat {} >&2", whole.display()));
        let surveyor = Surveyor::default();
        let fault = found(&surveyor, &jre).expect("a fault");
        assert!(fault.contains("-version` failed"), "{fault}");
        // Nothing has changed in the JVM itself.
        fs::write(&whole, "openjdk version \"17.0.15\"\n").unwrap();
        assert_eq!(found(&surveyor, &jre), None);
        fs::remove_file(&whole).unwrap();
        assert_eq!(found(&surveyor, &jre), None);
    }

    #[test]
    fn a_jvm_that_another_user_could_have_changed_is_not_run_unless_it_is_named() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root, to give a file to somebody else");
            return;
        }
        let home = tempdir();
        let ran = home.path().join("ran");
        let mut jre = jre(home.path(), &format!("touch {}", ran.display()));
        std::os::unix::fs::chown(jre.home.join("bin"), Some(4711), None).unwrap();
        let fault = found(&Surveyor::default(), &jre).expect("a fault");
        assert!(
            fault.contains("uid 4711") && fault.contains("java_homes"),
            "{fault}"
        );
        assert!(!ran.exists());
        jre.source = jre::Source::Configured;
        assert_eq!(found(&Surveyor::default(), &jre), None);
        assert!(ran.exists());
    }

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
