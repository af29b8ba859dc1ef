//! Command lines, also as the host's own JVMs take them.

use std::{path::PathBuf, process::Command};

use proptest::prelude::*;

use super::*;
use crate::{
    jre::{Jres, Search, Source},
    task::JreSelect,
};

fn jre(version: &str) -> Jre {
    let major = version
        .trim_start_matches("1.")
        .split(['.', '_'])
        .next()
        .unwrap();
    Jre {
        home: "/opt/java".into(),
        java: "/opt/java/bin/java".into(),
        version: version.to_owned(),
        major: major.parse().unwrap(),
        vendor: "Debian".into(),
        vm: "HotSpot".into(),
        arch: "x86_64".into(),
        libc: None,
        loader: None,
        source: Source::Configured,
        links: Vec::new(),
        broken: Vec::new(),
    }
}

fn java() -> Java {
    Java {
        jar: Some("/local/app.jar".into()),
        exit_on_oom: true,
        ..Java::default()
    }
}

fn limits(mebibytes: u64) -> Limits {
    Limits {
        heap_basis: Some(mebibytes << 20),
        ..Limits::default()
    }
}

fn with_options(options: &[&str]) -> Java {
    Java {
        jvm_options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..java()
    }
}

#[test]
fn everything_has_its_place() {
    let java = Java {
        class_path: Some("/local/lib/*".into()),
        jvm_options: vec!["-Dx=1".into(), "-ea".into()],
        args: vec!["serve".into(), "--port".into(), "80".into()],
        heap_dump: true,
        ..java()
    };
    let limits = Limits {
        cpuset: Some("0,2-3".into()),
        ..limits(512)
    };
    assert_eq!(
        command(&java, &jre("17.0.15"), &limits, 8, true),
        [
            "/opt/java/bin/java",
            "-Xmx384m",
            "-XX:ActiveProcessorCount=3",
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:+HeapDumpOnOutOfMemoryError",
            "-XX:HeapDumpPath=/alloc/logs",
            "-XX:ErrorFile=/alloc/logs/hs_err_%p.log",
            "-Dx=1",
            "-ea",
            "-cp",
            "/local/lib/*",
            "-jar",
            "/local/app.jar",
            "serve",
            "--port",
            "80",
        ]
    );
}

#[test]
fn a_class_comes_without_a_jar() {
    let java = Java {
        class: Some("com.example.Main".into()),
        class_path: Some("/local".into()),
        args: vec!["-jar".into()],
        ..Java::default()
    };
    assert_eq!(
        command(&java, &jre("21.0.4"), &Limits::default(), 2, false),
        [
            "/opt/java/bin/java",
            "-cp",
            "/local",
            "com.example.Main",
            "-jar"
        ]
    );
}

#[test]
fn without_limits_nothing_is_limited() {
    assert_eq!(
        command(&java(), &jre("25"), &Limits::default(), 2, false),
        [
            "/opt/java/bin/java",
            "-XX:+ExitOnOutOfMemoryError",
            "-jar",
            "/local/app.jar"
        ]
    );
}

fn heap_flag(java: &Java, limits: &Limits) -> Option<String> {
    command(java, &jre("17.0.15"), limits, 2, false)
        .into_iter()
        .find(|word| word.starts_with("-Xmx"))
}

#[test]
fn the_heap_is_a_share_of_the_memory_or_what_was_asked() {
    let heap = |heap, basis| {
        heap_flag(
            &Java {
                heap,
                ..Java::default()
            },
            &limits(basis),
        )
    };
    assert_eq!(heap(Heap::default(), 64).as_deref(), Some("-Xmx48m"));
    assert_eq!(
        heap(Heap::Percent(33.3), 100).as_deref(),
        Some("-Xmx34099k")
    );
    assert_eq!(heap(Heap::Mebibytes(100), 64).as_deref(), Some("-Xmx100m"));
    assert_eq!(heap(Heap::Percent(1.0), 1).as_deref(), Some("-Xmx2m"));
    assert_eq!(heap(Heap::Percent(f64::NAN), 64), None);
    assert_eq!(heap(Heap::Jvm, 64), None);
}

#[test]
fn a_user_who_sizes_the_heap_is_not_contradicted() {
    for option in [
        "-Xmx100m",
        "-XX:MaxHeapSize=1g",
        "-XX:MaxRAMPercentage=50",
        "-XX:MaxRAM=1g",
        "-XX:MaxRAMFraction=2",
    ] {
        assert_eq!(
            heap_flag(&with_options(&["-ea", option]), &limits(512)).filter(|flag| flag != option),
            None,
            "{option}"
        );
    }
    assert_eq!(
        heap_flag(&with_options(&["-Xms600m"]), &limits(512)).as_deref(),
        Some("-Xmx600m"),
        "a heap that begins larger than it may be ends the JVM"
    );
}

#[test]
fn the_environments_options_are_the_users_word_too() {
    let flags = |name: &str, options: &str| {
        let env = BTreeMap::from([(name.to_owned(), options.to_owned())]);
        let limits = limits(512);
        let said = Said::by(&java(), &env);
        Setting {
            limits: &limits,
            host_cpus: 2,
            crash_files: None,
            said,
        }
        .generated(&java(), &jre("17"))
    };
    for name in ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"] {
        let options = "-Dx=1 '-XX:MaxRAMPercentage=60' -XX:-ExitOnOutOfMemoryError";
        assert_eq!(flags(name, options), [""; 0], "{name}");
    }
    assert_eq!(flags("OTHER", "-Xmx1m").len(), 2);
}

#[test]
fn flags_that_a_jvm_does_not_know_are_left_out() {
    let limits = Limits {
        cpu_quota: Some(1.0),
        ..Limits::default()
    };
    let flags = |version| {
        let words = command(&java(), &jre(version), &limits, 2, true);
        (
            words.contains(&"-XX:ActiveProcessorCount=1".to_owned()),
            words.contains(&"-XX:+ExitOnOutOfMemoryError".to_owned()),
        )
    };
    assert_eq!(flags("1.8.0_45"), (false, false));
    assert_eq!(flags("1.8.0_181"), (false, true));
    assert_eq!(flags("1.8.0_402"), (true, true));
    assert_eq!(flags("9.0.4"), (false, true));
    for version in ["11.0.22", "17.0.15", "21.0.4", "25.0.3"] {
        assert_eq!(flags(version), (true, true), "{version}");
    }
}

#[test]
fn a_quota_is_rounded_up_and_a_set_of_cpus_is_counted() {
    let count = |cpuset: Option<&str>, cpu_quota| {
        let cpuset = cpuset.map(str::to_owned);
        processors(
            &Limits {
                cpu_quota,
                cpuset,
                ..Limits::default()
            },
            8,
        )
    };
    assert_eq!(count(None, None), None);
    assert_eq!(count(None, Some(0.1)), Some(1));
    assert_eq!(count(None, Some(1.5)), Some(2));
    assert_eq!(count(None, Some(64.0)), Some(8));
    assert_eq!(count(None, Some(-1.0)), None);
    assert_eq!(count(Some("0,2-3"), None), Some(3));
    assert_eq!(count(Some("0-1,1-2,2"), None), Some(3));
    assert_eq!(count(Some("0-3"), Some(1.5)), Some(2));
    assert_eq!(count(Some(""), None), None);
    assert_eq!(count(Some("3-1"), None), None);
}

#[test]
fn reduced_signals_mean_that_sigterm_is_ignored() {
    assert!(!ignores_sigterm(&java()));
    assert!(ignores_sigterm(&with_options(&["-Xrs"])));
    assert!(ignores_sigterm(&with_options(&["-XX:+ReduceSignalUsage"])));
    assert!(!ignores_sigterm(&with_options(&[
        "-Xrs",
        "-XX:-ReduceSignalUsage"
    ])));
}

#[test]
fn a_tasks_name_cannot_break_a_files_name() {
    assert_eq!(plain("web/../50%p ä"), "web_.._50_p__");
}

#[test]
fn the_jvms_of_this_machine_take_all_generated_flags() {
    let found = Jres::discover(&Search::standard(
        Vec::new(),
        None,
        std::env::var_os("PATH"),
    ));
    if found.all().is_empty() {
        println!("skipped: there is no Java here");
    }
    for jre in found.all() {
        let limits = Limits {
            cpu_quota: Some(1.5),
            ..limits(256)
        };
        let java = Java {
            heap_dump: true,
            jar: None,
            class: Some("-version".into()),
            select: JreSelect::default(),
            ..java()
        };
        let words = command(&java, jre, &limits, 2, true);
        let said = Command::new(&words[0])
            .args(&words[1..])
            .args(["-XX:+PrintFlagsFinal"])
            .output()
            .unwrap();
        assert!(
            said.status.success(),
            "{}: {}",
            jre.home.display(),
            String::from_utf8_lossy(&said.stderr)
        );
    }
}

proptest! {
    #[test]
    fn a_percentage_never_exceeds_the_memory(basis in LEAST_HEAP..=1 << 45, percent in 0.001_f64..=100.0) {
        let limits = Limits { heap_basis: Some(basis), ..Limits::default() };
        let java = Java { heap: Heap::Percent(percent), ..Java::default() };
        let flag = heap_flag(&java, &limits).unwrap();
        let heap = Said::by(&with_options(&[&flag.replace("-Xmx", "-Xms")]), &BTreeMap::new()).initial_heap();
        prop_assert!((LEAST_HEAP..=basis).contains(&heap), "{}", flag);
    }

    #[test]
    fn there_is_always_a_processor(quota in any::<f64>(), cpuset in "[0-9,-]{0,12}", host in 0_usize..512) {
        let limits = Limits { cpu_quota: Some(quota), cpuset: Some(cpuset), ..Limits::default() };
        if let Some(count) = processors(&limits, host) {
            prop_assert!(count >= 1 && count <= host.max(1));
        }
    }

    #[test]
    fn the_users_own_words_stay_in_order_at_the_end(
        options in prop::collection::vec("-D[a-z]{1,5}=[a-z]{0,5}", 0..5),
        args in prop::collection::vec("[ -~]{0,8}", 0..5),
    ) {
        let java = Java { jvm_options: options.clone(), args: args.clone(), ..java() };
        let words = command(&java, &jre("17"), &limits(100), 2, true);
        let mut expected = options;
        expected.extend(["-jar".to_owned(), PathBuf::from("/local/app.jar").display().to_string()]);
        expected.extend(args);
        prop_assert!(words.ends_with(&expected));
    }
}
