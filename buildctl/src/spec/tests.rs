use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    api::{Nanoseconds, PhaseResources, ResourceLimits, TestConfig, TestConstraint, VaultSecret},
    names::Version,
};

fn defaults() -> Defaults {
    let resources = |cpu, memory, disk| Resources { cpu, memory, disk };
    Defaults {
        build_timeout: Duration::from_mins(30),
        test_timeout: Duration::from_mins(15),
        limits: Limits {
            build: resources(1000, 2048, 10240),
            test: resources(500, 1024, 2048),
            publish: resources(500, 1024, 2048),
        },
        conflict: Conflict::Reject,
        allow_file_urls: false,
        allow_directories: false,
        vault_roles: Vec::new(),
    }
}

fn config() -> JobConfig {
    JobConfig {
        owner: "team-red".into(),
        repo_url: "https://git.example.com/red/hello.git".into(),
        image_name: "hello".into(),
        registry_url: "registry.example.com:5000".into(),
        ..JobConfig::default()
    }
}

fn with(change: impl FnOnce(&mut JobConfig)) -> Result<Spec, Vec<String>> {
    let mut config = config();
    change(&mut config);
    Spec::of(&config, &defaults())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn testing(change: impl FnOnce(&mut TestConfig)) -> Result<Spec, Vec<String>> {
    let mut test = TestConfig {
        entry_point: true,
        ..TestConfig::default()
    };
    change(&mut test);
    with(|config| config.test = Some(test))
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn what_is_missing_is_told_as_the_original_does_and_all_at_once() {
    let errors = Spec::of(&JobConfig::default(), &defaults()).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "owner is required",
            "repo_url is required",
            "image_name is required",
            "registry_url is required"
        ]
    );
}

#[test]
fn the_rules_for_secrets_are_the_originals_and_come_before_ours() {
    let errors = testing(|test| {
        test.vault_secrets = vec![
            VaultSecret::default(),
            VaultSecret {
                path: "secret/ci".into(),
                fields: pairs(&[("token", "")]),
            },
        ];
        test.env = pairs(&[("1X", "")]);
    });
    assert_eq!(
        errors.unwrap_err(),
        [
            "vault_policies is required when vault_secrets are specified",
            "vault_secrets[0]: path is required",
            "vault_secrets[0]: fields map cannot be empty",
            "vault_secrets[1]: invalid field mapping (empty field or env var)",
            "test: `1X` is no name of a variable (letters, digits and `_`)",
        ]
    );
}

#[test]
fn what_is_not_said_is_the_default() {
    let spec = with(|_| ()).unwrap();
    let source = Source::Git {
        url: "https://git.example.com/red/hello.git".into(),
        reference: "main".into(),
    };
    assert_eq!(spec.source, source);
    assert_eq!(spec.build.dockerfile, "Dockerfile");
    assert_eq!(spec.build.context, "");
    assert_eq!((spec.tags.len(), spec.test), (0, None));
    assert_eq!(spec.limits, defaults().limits);
    assert_eq!(spec.build_timeout, Duration::from_mins(30));
}

#[test]
fn a_described_test_without_anything_to_run_is_no_test() {
    let spec = testing(|test| {
        test.entry_point = false;
        test.env = pairs(&[("A", "b")]);
    });
    assert_eq!(spec.unwrap().test, None);
}

#[test]
fn old_test_fields_that_were_never_moved_are_tests_too() {
    let spec = with(|config| config.test_commands = vec!["./t".into()]).unwrap();
    assert_eq!(spec.test.unwrap().commands, ["./t"]);
}

#[test]
fn a_test_from_outside_is_refused_and_not_left_out() {
    let errors = testing(|test| {
        test.entry_point = false;
        test.python_command = "run".into();
    });
    assert!(errors.unwrap_err()[0].contains("test.python_command"));
}

#[test]
fn sources_are_urls_that_git_can_take_for_nothing_else() {
    for url in [
        "https://git.example.com/red/hello.git",
        "https://git.example.com:8443/red/hello",
        "ssh://git@git.example.com:22/red/hello.git",
        "git@git.example.com:red/hello.git",
        "http://127.0.0.1:8000/hello.git",
        "  https://git.example.com/x  ",
    ] {
        let spec = with(|config| config.repo_url = url.into());
        assert!(spec.is_ok(), "{url}: {spec:?}");
    }
    for url in [
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=x",
        "ext::sh -c touch% /tmp/x",
        "ext::sh",
        "git@host:-x",
        "git@-oProxyCommand=x:y",
        "-x@host:y",
        "ssh://-oProxyCommand=x/y",
        "https://token@host/x",
        "https://",
        "https://host",
        "https://host/#x",
        "https://host/x;reboot",
        "https://host/$(reboot)",
        "https://host/x y",
        "https://host/x\ny",
        "git://host/x",
        "file:///srv/git/x",
        "/srv/git/x",
        "./x",
        "host/x",
        "user@host",
        "javascript:x",
    ] {
        let spec = with(|config| config.repo_url = url.into());
        assert!(spec.is_err(), "{url}");
    }
}

#[test]
fn files_and_directories_are_sources_only_where_that_is_allowed() {
    let of = |url: &str, defaults: &Defaults| {
        let mut config = config();
        config.repo_url = url.into();
        Spec::of(&config, defaults)
    };
    let files = Defaults {
        allow_file_urls: true,
        ..defaults()
    };
    assert!(of("file:///srv/git/x", &files).is_ok());
    assert!(of("/srv/git/x", &files).is_err());
    let here = Defaults {
        allow_directories: true,
        ..defaults()
    };
    let spec = of("/home/red/hello world", &here).unwrap();
    let path = "/home/red/hello world".into();
    assert_eq!(spec.source, Source::Directory { path });
    assert!(of("./x", &here).is_err());
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    let errors = with(|config| config.repo_url = "https://red:hunter2@host/x".into()).unwrap_err();
    assert!(errors[0].contains("git_credentials_path"), "{errors:?}");
    assert!(!errors[0].contains("hunter2"), "{errors:?}");
    let errors = with(|config| {
        config.repo_url = "http://git.example.com/x".into();
        config.git_credentials_path = "secret/ci/git".into();
    });
    assert!(errors.unwrap_err()[0].contains("in the clear"));
}

#[test]
fn refs_are_those_of_git_and_never_options() {
    for name in [
        "main",
        "feature/x",
        "v1.2.3",
        "refs/tags/v1",
        "dependabot/npm_and_yarn/a-1.0",
        "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        "über",
        "issue-#12",
    ] {
        assert!(
            with(|config| config.git_ref = name.into()).is_ok(),
            "{name}"
        );
    }
    for name in [
        "-x",
        "--upload-pack=x",
        "main; reboot",
        "a..b",
        "a:b",
        "a~1",
        "a^",
        "@{-1}",
        "@",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        "a.lock",
        "a.",
        "a\nb",
        "a\\b",
        "a*",
        "a?",
        "a[",
    ] {
        assert!(
            with(|config| config.git_ref = name.into()).is_err(),
            "{name}"
        );
    }
}

#[test]
fn paths_stay_in_the_repository() {
    let dockerfile = |path: &str| {
        with(|config| config.dockerfile_path = path.into()).map(|spec| spec.build.dockerfile)
    };
    assert_eq!(
        dockerfile("./docker//Dockerfile").unwrap(),
        "docker/Dockerfile"
    );
    assert_eq!(dockerfile(".").unwrap(), "Dockerfile");
    for path in [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "-",
        "./-x",
        "https://x/y",
        "a\0b",
    ] {
        assert!(dockerfile(path).is_err(), "{path}");
        let context = with(|config| config.dockerfile_context = path.into());
        assert!(context.is_err(), "{path}");
    }
    // The preprocessor that Buildah gives it to would read any file.
    assert!(dockerfile("docker/Dockerfile.in").is_err());
    let spec = with(|config| config.dockerfile_context = "./app/".into()).unwrap();
    assert_eq!(spec.build.context, "app");
}

#[test]
fn names_of_images_and_tags_follow_the_grammar_and_the_registry_stays_the_registry() {
    for (registry, name) in [
        ("registry.example.com", "Hello"),
        ("registry.example.com", "a:b"),
        ("registry.example.com", "a@b"),
        ("registry.example.com", "../a"),
        ("-x", "a"),
        ("https:", "/evil.example.com/app"),
        ("a b", "c"),
    ] {
        let spec = with(|config| {
            config.registry_url = registry.into();
            config.image_name = name.into();
        });
        assert!(spec.is_err(), "{registry} {name}: {spec:?}");
    }
    let tags = |tags: &[&str]| {
        let tags = tags.iter().map(ToString::to_string).collect();
        with(|config| config.image_tags = tags).map(|spec| {
            spec.tags
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(tags(&["v1", " latest ", "v1"]).unwrap(), ["v1", "latest"]);
    assert_eq!(tags(&["", "-x", "a b"]).unwrap_err().len(), 3);
}

#[test]
fn a_service_reads_no_files_and_variables_for_its_clients() {
    for text in ["file:/etc/shadow", "env:HOME"] {
        let errors = with(|config| config.registry_credentials_path = text.into()).unwrap_err();
        assert!(errors[0].contains("for its clients"), "{errors:?}");
        let errors = with(|config| config.build_secrets = pairs(&[("x", text)])).unwrap_err();
        assert!(errors[0].starts_with("build_secrets.x"), "{errors:?}");
        let mut config = config();
        config.registry_credentials_path = text.into();
        let here = Defaults {
            allow_directories: true,
            ..defaults()
        };
        assert!(Spec::of(&config, &here).is_ok(), "{text}");
    }
    let spec = with(|config| config.git_credentials_path = "secret/data/ci/git".into()).unwrap();
    assert_eq!(
        spec.git_credentials,
        Some(SecretRef::Vault("secret/ci/git".into()))
    );
    let errors = with(|config| config.git_credentials_path = "a\" }}{{ x".into());
    assert!(errors.unwrap_err()[0].starts_with("git_credentials_path"));
}

#[test]
fn names_for_the_build_are_names() {
    let spec = with(|config| {
        config.build_args = pairs(&[("VERSION", "$(x) \"y\"\n")]);
        config.labels = pairs(&[("org.opencontainers.image.title", "a b")]);
        config.target = "prod".into();
        config.platform = "linux/arm64/v8".into();
    });
    assert!(spec.is_ok(), "{spec:?}");
    let wrong: [fn(&mut JobConfig); 16] = [
        |config| config.build_args = pairs(&[("A=B", "x")]),
        |config| config.build_args = pairs(&[("-A", "x")]),
        |config| config.build_args = pairs(&[("A", "x\0")]),
        |config| config.labels = pairs(&[("a=b", "x")]),
        |config| config.labels = pairs(&[("", "x")]),
        // Buildah would put a variable of the image there.
        |config| config.labels = pairs(&[("b", "${HOME}")]),
        |config| config.target = "--squash".into(),
        |config| config.platform = "linux".into(),
        |config| config.build_secrets = pairs(&[("a,src=/x", "secret/x")]),
        // What buildctl says with it would be somebody else's word.
        |config| config.labels = pairs(&[(ANNOTATED, "x")]),
        |config| config.annotations = pairs(&[("a=b", "x")]),
        |config| config.annotations = pairs(&[("-a", "x")]),
        |config| config.annotations = pairs(&[("a", "x\ny")]),
        |config| config.build_ssh = pairs(&[("a=/root/.ssh/id", "secret/x")]),
        |config| config.build_ssh = pairs(&[("a", "env:SSH_AUTH_SOCK")]),
        |config| config.build_contexts = pairs(&[("a=b", "docs")]),
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        assert_eq!(with(change).unwrap_err().len(), 1, "{index}");
    }
}

#[test]
fn a_context_is_a_folder_of_the_source_or_an_image() {
    let contexts = |places: &[(&str, &str)]| {
        let spec = with(|config| config.build_contexts = pairs(places));
        spec.map(|spec| spec.build.contexts)
    };
    let found = contexts(&[
        ("docs", "./docs/"),
        ("all", "."),
        ("base", "docker-image://r:1/a:v1"),
    ])
    .unwrap();
    assert_eq!(found["docs"], BuildContext::Path("docs".into()));
    assert_eq!(found["all"], BuildContext::Path(String::new()));
    let image = BuildContext::Image("r:1/a:v1".parse().unwrap());
    assert_eq!(found["base"], image);
    for wrong in [
        "/etc",
        "../x",
        "https://git.test/x.git",
        "git://git.test/x",
        "oci-layout:///x",
        "docker-image://app",
        "docker-image://r/a b",
        "-x",
    ] {
        let errors = contexts(&[("x", wrong)]).unwrap_err();
        assert!(
            errors[0].starts_with("build_contexts.x"),
            "{wrong}: {errors:?}"
        );
    }
}

#[test]
fn a_cache_is_where_the_credentials_of_the_job_are_right() {
    let own = config().registry_url;
    let cache = |from: &[&str], to: &[&str], ttl: Option<i64>| {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let spec = with(|config| {
            config.cache_from = texts(from);
            config.cache_to = texts(to);
            config.cache_ttl = ttl.map(Nanoseconds);
        });
        spec.map(|spec| spec.build.cache)
    };
    let host = own.split('/').next().unwrap();
    let (one, two) = (format!("{host}/team/cache"), format!("{host}/c"));
    let found = cache(&[&one, &one, &two], &[&two], Some(3_600_000_000_000)).unwrap();
    assert_eq!(found.from.len(), 2);
    assert_eq!(found.to[0].to_string(), two);
    assert_eq!(found.ttl, Some(Duration::from_hours(1)));
    let errors = cache(&["elsewhere.test/team/cache"], &[], None).unwrap_err();
    assert!(
        errors[0].contains("is not in the image's registry"),
        "{errors:?}"
    );
    for wrong in [
        "cache",
        &format!("{one}:tag"),
        &format!("{host}/Cache"),
        "$(x)/y",
    ] {
        assert!(cache(&[], &[wrong], None).is_err(), "{wrong}");
    }
    let errors = cache(&[], &[&one], Some(3_600_000_000_000)).unwrap_err();
    assert!(errors[0].starts_with("cache_ttl"), "{errors:?}");
}

#[test]
fn no_client_of_a_service_joins_a_network_of_its_machine() {
    let network = |name: &str| with(|config| config.network = name.into());
    assert_eq!(network("").unwrap().build.network, None);
    assert_eq!(network("none").unwrap().build.network, Some(Network::None));
    for wrong in ["host", "ns:/proc/1/ns/net", "NONE", "container:x"] {
        assert!(
            network(wrong).unwrap_err()[0].starts_with("network: "),
            "{wrong}"
        );
    }
    let mut config = config();
    config.network = "host".into();
    let here = Defaults {
        allow_directories: true,
        ..defaults()
    };
    let spec = Spec::of(&config, &here).unwrap();
    assert_eq!(spec.build.network, Some(Network::Host));
}

#[test]
fn tests_are_checked_down_to_their_constraints() {
    let constraint = |attribute: &str, operand: &str, value: &str| TestConstraint {
        attribute: attribute.into(),
        operand: operand.into(),
        value: value.into(),
    };
    let spec = testing(|test| {
        test.gpu_count = 1;
        test.constraints = vec![
            constraint("${meta.zone}", "", "east"),
            constraint("", "distinct_hosts", "true"),
            constraint("${attr.cpu.arch}", "regexp", "^(amd|arm)64$"),
        ];
    });
    let test = spec.unwrap().test.unwrap();
    assert!(test.gpu);
    assert_eq!(test.constraints[0].operand, "=");
    for wrong in [
        constraint("${meta.zone}", "resembles", "x"),
        constraint("", "=", "x"),
        constraint("${a} ${b}", "=", "x"),
        constraint("${meta.zone}", "=", "a\nb"),
    ] {
        let text = format!("{wrong:?}");
        let errors = testing(|test| test.constraints = vec![wrong]).unwrap_err();
        assert!(errors[0].starts_with("test.constraints[0]"), "{text}");
    }
    let errors = testing(|test| test.commands = vec![" ".into()]).unwrap_err();
    assert!(errors[0].contains("test.commands[0]"), "{errors:?}");
    let errors = testing(|test| {
        test.env = pairs(&[("A", "x")]);
        test.vault_policies = vec!["ci".into()];
        test.vault_secrets = vec![VaultSecret {
            path: "secret/ci".into(),
            fields: pairs(&[("token", "A")]),
        }];
    });
    assert_eq!(errors.unwrap_err(), ["test: the variable `A` is set twice"]);
}

#[test]
fn policies_are_among_the_roles_that_the_service_allows() {
    let mut config = config();
    config.test = Some(TestConfig {
        entry_point: true,
        vault_policies: vec!["admin".into()],
        ..TestConfig::default()
    });
    assert!(Spec::of(&config, &defaults()).is_ok());
    let strict = Defaults {
        vault_roles: vec!["ci-read".into()],
        ..defaults()
    };
    let errors = Spec::of(&config, &strict).unwrap_err();
    assert!(errors[0].0.contains("known: ci-read"), "{errors:?}");
}

#[test]
fn the_nearest_limit_wins() {
    let limits = |cpu: &str, memory: &str, disk: &str| PhaseResources {
        cpu: cpu.into(),
        memory: memory.into(),
        disk: disk.into(),
    };
    let mut job = config();
    job.resource_limits = Some(ResourceLimits {
        all: limits("100", "200", ""),
        build: Some(limits("", "300", "")),
        test: Some(limits("11", "22", "33")),
        publish: None,
    });
    job.test = Some(TestConfig {
        entry_point: true,
        resource_limits: Some(limits("1", "", "")),
        ..TestConfig::default()
    });
    let found = Spec::of(&job, &defaults()).unwrap().limits;
    let numbers = |r: Resources| (r.cpu, r.memory, r.disk);
    assert_eq!(numbers(found.build), (100, 300, 10240));
    assert_eq!(numbers(found.test), (1, 22, 33));
    assert_eq!(numbers(found.publish), (100, 200, 2048));
    for text in ["0", "-1", "2G", "1.5", "99999999999"] {
        job.resource_limits = Some(ResourceLimits {
            all: limits(text, "", ""),
            ..ResourceLimits::default()
        });
        let errors = Spec::of(&job, &defaults()).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].0.starts_with("resource_limits.cpu"), "{errors:?}");
    }
}

#[test]
fn a_timeout_in_seconds_is_taken_for_what_it_is() {
    let timeout = |number| {
        with(|config| config.build_timeout = Some(Nanoseconds(number)))
            .map(|spec| spec.build_timeout)
    };
    assert_eq!(timeout(0).unwrap(), Duration::from_mins(30));
    assert_eq!(timeout(1_000_000_000).unwrap(), Duration::from_secs(1));
    for number in [1800, -1, i64::MIN, i64::MAX] {
        assert!(
            timeout(number).unwrap_err()[0].starts_with("build_timeout"),
            "{number}"
        );
    }
}

#[test]
fn webhooks_are_urls_and_headers() {
    for url in ["ftp://x/y", "x", "http://"] {
        assert!(
            with(|config| config.webhook_url = url.into()).is_err(),
            "{url}"
        );
    }
    let errors = with(|config| config.webhook_headers = pairs(&[("X", "hunter2\r\nY: z")]));
    let text = errors.unwrap_err().concat();
    assert!(
        text.starts_with("webhook_headers") && !text.contains("hunter2"),
        "{text}"
    );
}

const ID: &str = "2f1c9f0a-7d3e-4c55-9a0b-6f2d1e3c4b5a";

#[test]
fn the_temporary_name_is_the_originals() {
    let spec = with(|config| {
        config.image_name = "blue/my_app".into();
        config.registry_url = "registry.example.com:5000/team".into();
        config.git_ref = "feature/New_Login.v2".into();
    });
    let spec = spec.unwrap();
    let id = ID.parse().unwrap();
    assert_eq!(
        spec.temporary(id, Some("temp.example.com:5000"), "bdtemp")
            .to_string(),
        format!("temp.example.com:5000/bdtemp-blue-my-app:feature-new-login-v2-{ID}")
    );
    assert_eq!(
        spec.temporary(id, None, "temp").to_string(),
        format!("registry.example.com:5000/team/blue/temp-my-app:feature-new-login-v2-{ID}")
    );
    let long = with(|config| config.git_ref = "x".repeat(200)).unwrap();
    let Version::Tag(tag) = long.temporary(id, None, "temp").version else {
        panic!("a temporary image has a tag");
    };
    assert_eq!(tag.as_str(), format!("{}-{ID}", "x".repeat(50)));
}

#[test]
fn a_claim_is_named_like_the_originals_lock() {
    let change = |config: &mut JobConfig| {
        config.image_name = "blue/app".into();
        config.git_ref = "Feature/x".into();
    };
    let spec = with(change).unwrap();
    let key = "image-registry.example.com:5000-blue-app-feature-x";
    assert_eq!(spec.claim_key(), key);
    let mut config = config();
    change(&mut config);
    assert_eq!(claim_key_of(&config), key);
}

proptest! {
    #[test]
    fn whatever_the_parts_are_the_temporary_name_is_a_reference(
        prefix in ".{0,40}", registry in ".{0,40}", reference in ".{0,300}", image in "[a-z0-9]{1,3}([._/-][a-z0-9]{1,40}){0,4}",
    ) {
        let spec = with(|config| config.image_name = image);
        let Ok(mut spec) = spec else { return Ok(()) };
        spec.source = Source::Git { url: String::new(), reference };
        let id = ID.parse().unwrap();
        for registry in [None, Some(registry.as_str())] {
            let name = spec.temporary(id, registry, &prefix);
            prop_assert_eq!(name.to_string().parse::<Reference>().unwrap(), name.clone());
            let Version::Tag(tag) = name.version else { panic!("a tag") };
            prop_assert!(tag.as_str().ends_with(ID));
        }
        let key = spec.claim_key();
        prop_assert!(key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._:[]-".contains(&b)), "{}", key);
    }

    #[test]
    fn what_is_accepted_means_nothing_to_a_shell_or_a_template(
        url in ".{0,40}", reference in ".{0,20}", path in ".{0,20}", target in ".{0,20}", name in ".{0,20}", at in ".{0,20}",
    ) {
        let mut config = config();
        config.repo_url = format!("https://host/{url}");
        config.git_ref = reference;
        config.dockerfile_path = path;
        config.target = target;
        config.git_credentials_path = at;
        config.test = Some(TestConfig {
            entry_point: true,
            env: BTreeMap::from([(name, String::new())]),
            ..TestConfig::default()
        });
        let Ok(spec) = Spec::of(&config, &defaults()) else { return Ok(()) };
        let Source::Git { url, reference } = &spec.source else { panic!("a URL") };
        let parts = [Some(url.clone()), spec.build.target, spec.git_credentials.map(|at| at.to_string())];
        let names = spec.test.unwrap().env.into_keys();
        for text in parts.into_iter().flatten().chain(names) {
            prop_assert!(!text.starts_with('-'), "{}", text);
            prop_assert!(!text.contains(['$', '`', '"', '\'', '\\', ';', '{', '}', '<', '>', '|', '(', '\n', ' ', '\0']), "{}", text);
        }
        prop_assert!(!reference.starts_with('-') && !reference.contains([' ', '\n', '\0']));
        let dockerfile = &spec.build.dockerfile;
        prop_assert!(!dockerfile.starts_with(['-', '/']) && !dockerfile.split('/').any(|part| part == ".."), "{}", dockerfile);
    }

    #[test]
    fn no_configuration_panics(texts in prop::collection::vec(".{0,30}", 19), numbers in prop::collection::vec(any::<i64>(), 3)) {
        let mut text = texts.into_iter();
        let mut next = || text.next().unwrap_or_default();
        let config = JobConfig {
            owner: next(), repo_url: next(), git_ref: next(), dockerfile_path: next(), dockerfile_context: next(),
            image_name: next(), registry_url: next(), image_tags: vec![next()], platform: next(), webhook_url: next(),
            build_secrets: BTreeMap::from([(next(), next())]), network: next(), cache_from: vec![next()], cache_to: vec![next()],
            build_contexts: BTreeMap::from([(next(), next())]), annotations: BTreeMap::from([(next(), next())]),
            cache_ttl: Some(Nanoseconds(numbers[2])),
            build_timeout: Some(Nanoseconds(numbers[0])),
            test: Some(TestConfig { gpu_count: numbers[1], timeout: Some(Nanoseconds(numbers[2])), ..TestConfig::default() }),
            ..JobConfig::default()
        };
        let _ = Spec::of(&config, &defaults());
        let _ = claim_key_of(&config);
        let _ = config.redacted();
    }
}
