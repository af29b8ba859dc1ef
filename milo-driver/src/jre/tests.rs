//! Homes that are built for the test, and the ones that this machine has.

use std::{ffi::OsString, os::unix::fs::symlink, time::Instant};

use runyard_common::testing::{TempDir, tempdir};

use super::*;

/// A JVM that says as little as possible.
pub(super) fn bare(home: &Path) -> Jre {
    Jre {
        home: home.to_owned(),
        java: home.join("bin/java"),
        version: "17".into(),
        major: 17,
        vendor: "unknown".into(),
        vm: "HotSpot".into(),
        arch: std::env::consts::ARCH.into(),
        libc: None,
        loader: None,
        source: Source::Configured,
        links: Vec::new(),
        broken: Vec::new(),
    }
}

/// A folder for homes, whose path has no links.
struct Ground {
    path: PathBuf,
    _folder: TempDir,
}

impl Ground {
    fn new() -> Self {
        let folder = tempdir();
        Self {
            path: folder.path().canonicalize().unwrap(),
            _folder: folder,
        }
    }

    /// A home with a program that this machine could start: a copy of something small.
    fn home(&self, name: &str, release: &str) -> PathBuf {
        let home = self.path.join(name);
        fs::create_dir_all(home.join("bin")).unwrap();
        fs::write(home.join("release"), release).unwrap();
        fs::copy("/bin/true", home.join("bin/java")).unwrap();
        home
    }

    fn java(&self, name: &str, version: &str, vendor: &str) -> PathBuf {
        self.home(
            name,
            &format!("JAVA_VERSION=\"{version}\"\nIMPLEMENTOR=\"{vendor}\"\n"),
        )
    }

    /// A search in this folder alone.
    fn search(&self) -> Search {
        Search {
            standard: vec![self.path.clone()],
            ..Search::default()
        }
    }
}

fn homes(jres: &Jres) -> Vec<String> {
    let name = |jre: &Jre| jre.home.file_name().unwrap().to_string_lossy().into_owned();
    jres.all().iter().map(name).collect()
}

fn reason(jres: &Jres) -> &str {
    &jres.rejected()[0].reason
}

#[test]
fn named_homes_come_first_and_then_the_newest() {
    let ground = Ground::new();
    let configured = ground.java("configured", "11.0.2", "Debian");
    let java_home = ground.java("java-home", "8", "Debian");
    let in_path = ground.java("in-path", "17.0.9", "Debian");
    ground.java("usual-21.0.9", "21.0.9", "Debian");
    ground.java("usual-21.0.10", "21.0.10", "Debian");
    ground.java("usual-old", "1.8.0_402", "Debian");
    fs::create_dir(ground.path.join("not-java-at-all")).unwrap();
    let jres = Jres::discover(&Search {
        homes: vec![configured],
        java_home: Some(java_home),
        path: Some(OsString::from(format!(
            "relative::{}",
            in_path.join("bin").display()
        ))),
        ..ground.search()
    });
    assert_eq!(
        homes(&jres),
        [
            "configured",
            "java-home",
            "in-path",
            "usual-21.0.10",
            "usual-21.0.9",
            "usual-old"
        ]
    );
    assert_eq!(jres.all()[1].source, Source::JavaHome);
    assert!(jres.rejected().is_empty(), "{:?}", jres.rejected());
    assert_eq!(jres.default(None).unwrap().version, "11.0.2");
}

#[test]
fn one_home_with_many_names_is_one_jvm() {
    let ground = Ground::new();
    let home = ground.java("java-17.0.15", "17.0.15", "Debian");
    symlink("java-17.0.15", ground.path.join("default-java")).unwrap();
    fs::create_dir_all(ground.path.join("elsewhere")).unwrap();
    symlink(home.join("bin/java"), ground.path.join("elsewhere/java")).unwrap();
    let jres = Jres::discover(&Search {
        java_home: Some(ground.path.join("default-java")),
        path: Some(ground.path.join("elsewhere").into()),
        ..ground.search()
    });
    assert_eq!(homes(&jres), ["java-17.0.15"]);
    let select = JreSelect {
        home: Some(ground.path.join("default-java")),
        ..JreSelect::default()
    };
    assert_eq!(jres.select(&select, None).unwrap().home, home);
}

#[test]
fn the_inner_folder_of_an_old_jdk_stands_for_the_whole() {
    let ground = Ground::new();
    let home = ground.java("jdk8", "1.8.0_402", "Debian");
    fs::create_dir_all(home.join("jre/bin")).unwrap();
    let jres = Jres::discover(&Search {
        java_home: Some(home.join("jre")),
        ..Search::default()
    });
    assert_eq!(jres.all()[0].home, home);
    assert_eq!((jres.all()[0].major, jres.all()[0].update()), (8, 402));
}

#[test]
fn a_task_gets_the_version_and_vendor_that_it_asks_for() {
    let ground = Ground::new();
    ground.java("a", "17.0.9", "Debian");
    ground.java("b", "17.0.15", "Debian");
    ground.home(
        "c",
        "JAVA_VERSION=\"17.0.12\"\nIMPLEMENTOR=\"Eclipse Adoptium\"\nIMPLEMENTOR_VERSION=\"Temurin-17.0.12+7\"",
    );
    ground.java("d", "21.0.4", "Debian");
    let jres = Jres::discover(&ground.search());
    let select = |version: Option<&str>, vendor: Option<&str>, default| {
        let select = JreSelect {
            version: version.map(str::to_owned),
            vendor: vendor.map(str::to_owned),
            home: None,
        };
        jres.select(&select, default).map(|jre| jre.version.clone())
    };
    let some = |version: &str| Ok(version.to_owned());
    assert_eq!(select(None, None, None), some("21.0.4"));
    assert_eq!(select(None, None, Some("17")), some("17.0.15"));
    assert_eq!(select(None, None, Some("temurin")), some("17.0.12"));
    assert_eq!(select(Some("17"), None, None), some("17.0.15"));
    assert_eq!(
        select(Some("17"), None, Some("17.0.9")),
        some("17.0.9"),
        "the default, if it fits"
    );
    assert_eq!(select(Some("17"), None, Some("21")), some("17.0.15"));
    assert_eq!(select(Some("17"), Some("TEMURIN"), None), some("17.0.12"));
    let text = select(Some("99"), Some("temurin"), None)
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with(
            "Error: No matching Java runtime found on host\nExpected: version 99, vendor temurin\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("17.0.12 (Eclipse Adoptium (Temurin)) at "),
        "{text}"
    );
    assert!(
        select(None, None, Some("99"))
            .unwrap_err()
            .to_string()
            .contains("the default 99")
    );
}

#[test]
fn what_is_no_jvm_is_rejected_with_its_reason() {
    for (release, program, expected) in [
        (Some("JAVA_VERSION=\"17\""), None, "bin/java is missing"),
        (None, Some(elf::tests::program(62, "")), "no release file"),
        (
            Some("NAME=x"),
            Some(elf::tests::program(62, "")),
            "JAVA_VERSION",
        ),
        (
            Some("JAVA_VERSION=\"17\""),
            Some(b"#!/bin/sh".to_vec()),
            "not an ELF program",
        ),
        (
            Some("JAVA_VERSION=\"17\""),
            Some(elf::tests::program(22, "")),
            "built for s390x",
        ),
        (
            Some("JAVA_VERSION=\"17\""),
            Some(elf::tests::program(62, "/no/lib/ld-musl-x86_64.so.1")),
            "needs the loader /no/lib/ld-musl-x86_64.so.1",
        ),
    ] {
        if cfg!(not(target_arch = "x86_64")) && expected.starts_with("needs") {
            println!("skipped: this machine is no x86_64");
            continue;
        }
        let ground = Ground::new();
        let home = ground.java("home", "17", "x");
        fs::remove_file(home.join("release")).unwrap();
        fs::remove_file(home.join("bin/java")).unwrap();
        if let Some(release) = release {
            fs::write(home.join("release"), release).unwrap();
        }
        if let Some(program) = program {
            fs::write(home.join("bin/java"), program).unwrap();
            fs::set_permissions(home.join("bin/java"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let jres = Jres::discover(&ground.search());
        assert!(jres.all().is_empty());
        assert!(reason(&jres).contains(expected), "{}", reason(&jres));
    }
}

#[test]
fn one_that_does_not_start_is_rejected_and_never_chosen() {
    let ground = Ground::new();
    let newest = ground.java("jdk-21", "21.0.9", "Temurin");
    ground.java("jdk-17", "17.0.9", "Debian");
    let mut jres = Jres::discover(&ground.search());
    assert_eq!(jres.default(None).unwrap().home, newest);
    jres.reject(&newest, "it crashed");
    assert_eq!(jres.default(None).unwrap().version, "17.0.9");
    assert_eq!(
        (jres.rejected()[0].home.as_path(), reason(&jres)),
        (newest.as_path(), "it crashed")
    );
    let wanted = |version: &str| JreSelect {
        version: Some(version.to_owned()),
        ..JreSelect::default()
    };
    assert_eq!(jres.select(&wanted("17"), None).unwrap().major, 17);
    let error = jres.select(&wanted("21"), None).unwrap_err().to_string();
    let line = format!(
        "\nRejected: 21.0.9 (Temurin) at {}: it crashed\n",
        newest.display()
    );
    assert!(error.contains(&line), "{error}");
    // What is wrong with another one does not matter to whoever asks for this.
    let error = jres.select(&wanted("8"), None).unwrap_err().to_string();
    assert!(!error.contains("it crashed"), "{error}");
    jres.reject(&ground.path.join("jdk-17"), "it crashed, too");
    let error = jres.select(&wanted("17"), None).unwrap_err().to_string();
    assert!(
        error.starts_with("Error: No Java runtime of this host starts\nRejected: 21.0.9"),
        "{error}"
    );
    assert!(error.contains("it crashed, too"), "{error}");
}

#[test]
fn a_host_without_java_is_told_where_it_was_looked_for() {
    let nowhere = |java_home: Option<&str>| {
        let search = Search {
            java_home: java_home.map(PathBuf::from),
            ..Search::default()
        };
        let jres = Jres::discover(&search);
        jres.select(&JreSelect::default(), None)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        nowhere(None),
        "Error: No Java runtime found on host. Please install Java to use Milo driver.\n\
         \n\
         Searched locations:\n\
         - PATH (not found)\n\
         - JAVA_HOME environment variable (not set)\n\
         \n\
         To fix:\n\
         1. Install Java: sudo apt install openjdk-17-jdk\n\
         2. Or set JAVA_HOME to existing installation"
    );
    assert!(nowhere(Some("/no/java")).contains("\n- JAVA_HOME: /no/java (invalid or not found)\n"));
}

#[test]
fn a_java_home_without_a_program_appears_invalid() {
    let ground = Ground::new();
    let half = ground.path.join("half");
    fs::create_dir_all(half.join("bin")).unwrap();
    let search = Search {
        java_home: Some(half.clone()),
        ..Search::default()
    };
    let error = Jres::discover(&search)
        .select(&JreSelect::default(), None)
        .unwrap_err();
    let text = error.to_string();
    let expected = format!(
        "Error: Java installation at {0} appears invalid\nMissing executable: {0}/bin/java\n",
        half.display()
    );
    assert!(text.starts_with(&expected), "{text}");

    ground.java("whole", "17", "x");
    let search = Search {
        java_home: Some(half.clone()),
        ..ground.search()
    };
    let jres = Jres::discover(&search);
    assert!(
        jres.select(&JreSelect::default(), None).is_ok(),
        "another one will do"
    );
    let asked = JreSelect {
        home: Some(half),
        ..JreSelect::default()
    };
    assert!(matches!(
        jres.select(&asked, None),
        Err(JreError::Invalid { .. })
    ));
}

#[test]
fn changes_are_noticed_and_nothing_else_is_looked_at_again() {
    let ground = Ground::new();
    let home = ground.java("java-17", "17", "x");
    let mut jres = Jres::discover(&ground.search());
    assert!(!jres.refresh());

    ground.java("java-21", "21", "x");
    assert!(jres.refresh());
    assert_eq!(homes(&jres), ["java-21", "java-17"]);

    fs::write(home.join("release"), "JAVA_VERSION=\"22\"").unwrap();
    assert!(jres.refresh());
    assert_eq!(homes(&jres), ["java-17", "java-21"]);

    fs::remove_file(home.join("bin/java")).unwrap();
    assert!(jres.refresh());
    assert_eq!(homes(&jres), ["java-21"]);
    assert_eq!(jres.rejected().len(), 1);

    fs::write(ground.path.join("unrelated"), "x").unwrap();
    assert!(!jres.refresh(), "it is looked at, and it is the same");
}

#[test]
fn a_home_that_was_being_unpacked_is_found_once_it_is_complete() {
    let ground = Ground::new();
    let home = ground.path.join("java-17");
    fs::create_dir_all(home.join("bin")).unwrap();
    let mut jres = Jres::discover(&ground.search());
    assert!(jres.all().is_empty() && jres.rejected().is_empty());
    ground.java("java-17", "17", "x");
    assert!(jres.refresh());
    assert_eq!(jres.all().len(), 1);
}

#[test]
fn the_jvms_of_this_machine_bring_their_configuration_and_trust_store() {
    let path = std::env::var_os("PATH");
    let mut jres = Jres::discover(&Search::standard(Vec::new(), None, path));
    if jres.all().is_empty() {
        println!("skipped: there is no Java here");
    }
    for jre in jres.all() {
        assert!(jre.major >= 8 && jre.libc.is_some(), "{jre:?}");
        for name in [
            "lib/security/cacerts",
            "conf/security/java.security",
            "lib/jvm.cfg",
        ] {
            let Ok(target) = fs::read_link(jre.home.join(name)) else {
                continue; // a file of its own, or in another place in this version
            };
            let is_there = target
                .ancestors()
                .any(|above| jre.links.iter().any(|link| link == above));
            assert!(is_there || target.is_relative(), "{name}: {:?}", jre.links);
        }
    }
    let begun = Instant::now();
    assert!(!jres.refresh());
    println!("unchanged: {:?}", begun.elapsed());
}

#[test]
fn the_usual_places_come_after_those_of_the_environment() {
    let search = Search::standard(Vec::new(), Some(OsString::new()), None)
        .and_of_user(Path::new("/home/me"));
    assert_eq!(search.java_home, None, "an empty variable is none");
    assert_eq!(search.standard[0], Path::new("/usr/lib/jvm"));
    assert!(
        search
            .standard
            .contains(&PathBuf::from("/home/me/.sdkman/candidates/java"))
    );
}
