use jiff::Timestamp;

use super::*;
use crate::{
    api::{JobConfig, TestConfig, TestConstraint, VaultSecret},
    config::{NomadCache, Tier},
    runner::work::{Credential, Task},
    scheduler::nomad::settings::tests::{built, config, settings},
    secrets::SecretRef,
};

/// What tries to be code wherever it lands.
const HOSTILE: &str = "x'; touch /pwned; ${attr.unique.hostname} %{ if true } {{ key \"x\" }} $(id) `id` --upload-pack=id\n\"$$${X}";

fn job(config: JobConfig) -> Job {
    let mut job = Job::new(JobId::of_key("k"), config, Timestamp::now());
    job.built = Some(built());
    job
}

fn tested() -> JobConfig {
    JobConfig {
        test: Some(TestConfig {
            commands: vec![HOSTILE.to_owned()],
            entry_point: true,
            env: [("GREETING".to_owned(), HOSTILE.to_owned())].into(),
            ..TestConfig::default()
        }),
        ..config()
    }
}

fn docker() -> NomadSettings {
    let mut settings = settings();
    settings.nomad.driver = Driver::Docker;
    settings
}

fn task(rendered: &Value) -> &Value {
    &rendered["TaskGroups"][0]["Tasks"][0]
}

fn work(rendered: &Value) -> Work {
    let env = task(rendered)["Env"].as_object().unwrap();
    assert_eq!(env.len(), 2, "{env:?}");
    let bytes = STANDARD
        .decode(env[WORK_VARIABLE].as_str().unwrap())
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn nomad_runs_it_once_and_ends_it_in_time() {
    let rendered = render(&job(config()), Run::Build, &settings()).unwrap();
    let group = &rendered["TaskGroups"][0];
    assert_eq!(
        group["RestartPolicy"],
        json!({"Attempts": 0, "Mode": "fail"})
    );
    assert_eq!(
        group["ReschedulePolicy"],
        json!({"Attempts": 0, "Unlimited": false})
    );
    assert_eq!(group["Disconnect"], json!({"Replace": false}));
    let limit = Duration::from_mins(31) + Duration::from_secs(30);
    assert_eq!(group["MaxRunDuration"], nanoseconds(limit));
    let work = work(&rendered);
    assert_eq!(work.deadline, Duration::from_mins(30));
    assert!(
        work.grace < Duration::from_secs(30),
        "the runner is done before Nomad kills it"
    );
    let task = task(&rendered);
    assert_eq!(task["KillTimeout"], 30_000_000_000_i64);
    assert_eq!(task["KillSignal"], "SIGTERM", "raw_exec would send SIGINT");
}

#[test]
fn a_job_bears_the_original_s_name_and_marks() {
    let job = job(tested());
    let rendered = render(&job, Run::TestCommand(0), &settings()).unwrap();
    assert_eq!(rendered["ID"], format!("test-cmd-{}-0", job.id));
    assert_eq!(rendered["Type"], "batch");
    assert_eq!(rendered["Meta"][OF_JOB], job.id.to_string());
    assert_eq!(rendered["Meta"]["phase"], "test");
    assert_eq!(rendered["Meta"][OF_RUN], "test-cmd-0");
}

#[test]
fn a_process_of_the_node_gets_its_work_as_base64_and_nothing_else() {
    let rendered = render(&job(config()), Run::Build, &settings()).unwrap();
    let task = task(&rendered);
    assert_eq!(task["Driver"], "raw_exec");
    let config = json!({"command": "/usr/local/bin/buildctl",
        "args": ["run-phase", "--result", "${NOMAD_ALLOC_DIR}/result.json"]});
    assert_eq!(task["Config"], config);
    let store = work(&rendered).storage.root.unwrap();
    assert!(
        store.starts_with("/opt/nomad/data/buildah-cache"),
        "{store:?}"
    );
    assert_eq!(task.get("Templates"), None);
    assert_eq!(task.get("Vault"), None);
}

/// Every text in what Nomad evaluates.
fn evaluated(rendered: &Value) -> String {
    let task = task(rendered);
    let texts = task["Templates"].as_array().into_iter().flatten();
    let texts = texts.map(|template| template["EmbeddedTmpl"].to_string());
    let texts: String = texts.collect();
    format!(
        "{}{}{}{texts}",
        task["Config"], task["Env"], rendered["Meta"]
    )
}

#[test]
fn no_text_of_a_user_is_where_nomad_evaluates_it() {
    let mut hostile = tested();
    hostile.owner = HOSTILE.replace('\n', " ");
    hostile.build_args = [("A".to_owned(), HOSTILE.to_owned())].into();
    let label = HOSTILE.replace(['$', '\n'], "");
    hostile.labels = [("b".to_owned(), label)].into();
    let job = job(hostile);
    for settings in [settings(), docker()] {
        for run in [
            Run::Build,
            Run::TestCommand(0),
            Run::TestEntry,
            Run::Publish,
            Run::Cleanup,
        ] {
            let text = evaluated(&render(&job, run, &settings).unwrap());
            for part in [
                "pwned",
                "attr.unique",
                "if true",
                "key \\\"x",
                "upload-pack",
            ] {
                assert!(!text.contains(part), "{run}: {part} in {text}");
            }
        }
    }
}

#[test]
fn what_a_user_said_arrives_unchanged() {
    let rendered = render(&job(tested()), Run::TestCommand(0), &settings()).unwrap();
    let Task::Test { command, env, .. } = work(&rendered).task else {
        panic!("a test");
    };
    assert_eq!(command.as_deref(), Some(HOSTILE));
    assert_eq!(env["GREETING"], HOSTILE);
    assert!(!env.contains_key("TRACEPARENT"));
}

#[test]
fn a_test_is_told_of_the_trace_that_its_job_belongs_to_unless_it_has_one() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let told = |config: JobConfig| {
        let mut job = job(config);
        job.trace = trace.parse().ok();
        let rendered = render(&job, Run::TestEntry, &settings()).unwrap();
        let Task::Test { env, .. } = work(&rendered).task else {
            panic!("a test");
        };
        let image = render(&job, Run::TestEntry, &docker()).unwrap();
        let template = &task(&image)["Templates"][0]["EmbeddedTmpl"];
        assert!(
            template.as_str().unwrap().contains("TRACEPARENT"),
            "{template}"
        );
        env["TRACEPARENT"].clone()
    };
    assert_eq!(told(tested()), trace);
    let mut own = tested();
    let env = &mut own.test.as_mut().unwrap().env;
    env.insert("TRACEPARENT".to_owned(), "mine".to_owned());
    assert_eq!(told(own), "mine");
}

#[test]
fn a_tested_image_is_a_task_by_digest_where_containers_are() {
    let rendered = render(&job(tested()), Run::TestCommand(0), &docker()).unwrap();
    let task = task(&rendered);
    let image = task["Config"]["image"].as_str().unwrap();
    assert_eq!(
        image,
        format!("registry.example:5000/temp-app@sha256:{}", "e".repeat(64))
    );
    assert_eq!(task["Config"]["force_pull"], true);
    assert_eq!(task["Config"]["entrypoint"], json!(["sh", "-c"]));
    assert_eq!(task["Config"]["args"], json!(["${BUILDCTL_TEST_COMMAND}"]));
    assert_eq!(rendered["Meta"][OF_TASK], "image");
    let template = &task["Templates"][0];
    assert_eq!(template["Envvars"], true);
    let text = template["EmbeddedTmpl"].as_str().unwrap();
    let command = STANDARD.encode(HOSTILE);
    assert!(
        text.contains(&format!(
            "BUILDCTL_TEST_COMMAND={{{{ \"{command}\" | base64Decode | toJSON }}}}"
        )),
        "{text}"
    );
    assert!(text.contains("GREETING={{ \""), "{text}");
    assert_eq!(
        rendered["TaskGroups"][0]["MaxRunDuration"],
        nanoseconds(Duration::from_mins(15))
    );
    let entry = render(&job(tested()), Run::TestEntry, &docker()).unwrap();
    assert_eq!(
        entry["TaskGroups"][0]["Tasks"][0]["Config"].get("entrypoint"),
        None
    );
}

#[test]
fn an_image_that_needs_a_login_is_tested_inline_unless_told_otherwise() {
    let mut config = tested();
    config.registry_credentials_path = "secret/team/registry".to_owned();
    let inline = render(&job(config.clone()), Run::TestEntry, &docker()).unwrap();
    assert_eq!(inline["Meta"][OF_TASK], "runner");
    config.test.as_mut().unwrap().mode = Some(TestMode::Task);
    let own = render(&job(config), Run::TestEntry, &docker()).unwrap();
    let auth =
        json!([{"username": "${BUILDCTL_PULL_USERNAME}", "password": "${BUILDCTL_PULL_PASSWORD}"}]);
    assert_eq!(task(&own)["Config"]["auth"], auth);
    assert_eq!(task(&own)["Vault"]["Role"], "buildctl");
}

#[test]
fn a_test_that_must_be_a_task_needs_containers() {
    let mut config = tested();
    config.test.as_mut().unwrap().mode = Some(TestMode::Task);
    let error = render(&job(config), Run::TestEntry, &settings()).unwrap_err();
    assert!(error.to_string().contains("raw_exec"), "{error}");
}

#[test]
fn credentials_are_rendered_into_files_and_named_in_the_work() {
    let mut config = config();
    config.git_credentials_path = "nomad:team/git".to_owned();
    config.registry_credentials_path = "secret/team/registry".to_owned();
    config.build_secrets = [("npmrc".to_owned(), "secret/team/npm".to_owned())].into();
    config.build_ssh = [("default".to_owned(), "nomad:team/git".to_owned())].into();
    let rendered = render(&job(config.clone()), Run::Build, &settings()).unwrap();
    let work_of = work(&rendered);
    let path = |name: &str| Credential::Rendered(format!("/proc/self/cwd/secrets/{name}").into());
    assert_eq!(work_of.registry_credentials, Some(path("registry-creds")));
    let Task::Build {
        git_credentials,
        options,
        ..
    } = work_of.task
    else {
        panic!("a build");
    };
    assert_eq!(git_credentials, Some(path("git-creds")));
    let file = SecretRef::File("/proc/self/cwd/secrets/build-0".into());
    assert_eq!(options.secrets["npmrc"], file);
    let key = SecretRef::File("/proc/self/cwd/secrets/ssh-0".into());
    assert_eq!(options.ssh["default"], key);
    let templates = task(&rendered)["Templates"].as_array().unwrap();
    for template in templates {
        assert_eq!(
            (&template["ChangeMode"], &template["Perms"]),
            (&json!("noop"), &json!("0600"))
        );
    }
    let texts: Vec<&str> = templates
        .iter()
        .map(|it| it["EmbeddedTmpl"].as_str().unwrap())
        .collect();
    assert!(
        texts
            .iter()
            .any(|text| text.contains("with secret \"secret/team/registry\"")),
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .any(|text| text.contains("with nomadVar \"team/git\"")),
        "{texts:?}"
    );
    let vault =
        json!({"ChangeMode": "noop", "Env": false, "DisableFile": true, "Role": "buildctl"});
    assert_eq!(task(&rendered)["Vault"], vault);
    let inside = render(&job(config), Run::Build, &docker()).unwrap();
    assert_eq!(
        work(&inside).registry_credentials,
        Some(Credential::Rendered("/secrets/registry-creds".into()))
    );
    assert_eq!(task(&inside)["Templates"][0]["Uid"], 1000);
}

#[test]
fn without_a_vault_only_credentials_that_may_be_missing_are_left_out() {
    let mut settings = settings();
    settings.nomad.vault = None;
    let mut config = config();
    config.registry_credentials_path = "secret/nomad/jobs/registry-credentials".to_owned();
    let rendered = render(&job(config.clone()), Run::Publish, &settings).unwrap();
    assert_eq!(work(&rendered).registry_credentials, None);
    assert!(work(&rendered).notes[0].contains("nobody named"));
    config.registry_credentials_path = "secret/team/registry".to_owned();
    let error = render(&job(config), Run::Publish, &settings).unwrap_err();
    assert!(error.to_string().contains("nomad.vault.enabled"), "{error}");
}

#[test]
fn credentials_that_nobody_named_are_waited_for_only_if_the_service_has_them() {
    let mut settings = settings();
    let mut config = config();
    config.registry_credentials_path = "secret/nomad/jobs/registry-credentials".to_owned();
    let path = config.registry_credentials_path.clone();
    let rendered = render(&job(config.clone()), Run::Publish, &settings).unwrap();
    assert_eq!(task(&rendered).get("Templates"), None, "a template waits");
    for (place, template) in [
        (SecretRef::Vault(path.clone()), "with secret"),
        (
            SecretRef::NomadVariable("ci/registry".to_owned()),
            "with nomadVar \"ci/registry\"",
        ),
    ] {
        settings.credentials.insert(path.clone(), place);
        let rendered = render(&job(config.clone()), Run::Publish, &settings).unwrap();
        let text = task(&rendered)["Templates"][0]["EmbeddedTmpl"].as_str();
        assert!(text.unwrap().contains(template), "{rendered}");
    }
    let file = SecretRef::File("/etc/x".into());
    settings.credentials.insert(path, file);
    let error = render(&job(config), Run::Publish, &settings).unwrap_err();
    assert!(error.to_string().contains("of one machine"), "{error}");
}

#[test]
fn policies_that_choose_nothing_are_told_and_more_than_one_role_is_refused() {
    let mut config = tested();
    let test = config.test.as_mut().unwrap();
    test.vault_secrets = vec![VaultSecret {
        path: "secret/team/db".to_owned(),
        fields: [("password".to_owned(), "DB_PASSWORD".to_owned())].into(),
    }];
    test.vault_policies = vec!["one".to_owned(), "two".to_owned()];
    let mut settings = settings();
    let rendered = render(&job(config.clone()), Run::TestEntry, &settings).unwrap();
    assert_eq!(task(&rendered)["Vault"]["Role"], "buildctl");
    let notes = work(&rendered).notes;
    assert!(notes[0].contains("`vault_roles`"), "{notes:?}");
    settings.defaults.vault_roles = vec!["one".to_owned(), "two".to_owned()];
    let error = render(&job(config), Run::TestEntry, &settings).unwrap_err();
    assert!(error.to_string().contains("one, two"), "{error}");
}

#[test]
fn tests_that_cannot_be_are_refused_before_anything_is_built() {
    let mut config = tested();
    config.test.as_mut().unwrap().mode = Some(TestMode::Task);
    let mut job = job(config);
    job.built = None;
    let error = render(&job, Run::Build, &settings()).unwrap_err();
    assert!(error.to_string().contains("needs containers"), "{error}");
    assert!(render(&job, Run::Build, &docker()).is_ok());
}

#[test]
fn a_test_s_secrets_are_files_inline_and_variables_in_its_own_task() {
    let mut config = tested();
    let test = config.test.as_mut().unwrap();
    test.vault_secrets = vec![VaultSecret {
        path: "secret/team/db".to_owned(),
        fields: [("password".to_owned(), "DB_PASSWORD".to_owned())].into(),
    }];
    test.vault_policies = vec!["db-read".to_owned()];
    let mut settings = settings();
    settings.defaults.vault_roles = vec!["db-read".to_owned()];
    let inline = render(&job(config.clone()), Run::TestEntry, &settings).unwrap();
    assert_eq!(task(&inline)["Vault"]["Role"], "db-read");
    let Task::Test { secret_env, .. } = work(&inline).task else {
        panic!("a test");
    };
    assert_eq!(
        secret_env[0].from,
        Credential::Rendered("/proc/self/cwd/secrets/test-0".into())
    );
    let own = render(&job(config), Run::TestEntry, &docker()).unwrap();
    let text = task(&own)["Templates"].to_string();
    assert!(text.contains("DB_PASSWORD={{ index .Data.data"), "{text}");
    assert_eq!(
        task(&own)["Vault"]["Role"],
        "buildctl",
        "a role that is not listed is not used"
    );
}

#[test]
fn tiers_give_a_container_what_they_say() {
    let mut settings = docker();
    let config_of = |settings: &NomadSettings| {
        let rendered = render(&job(config()), Run::Build, settings).unwrap();
        let task = task(&rendered);
        (task["Config"].clone(), task.get("User").cloned())
    };
    let (rootless, user) = config_of(&settings);
    assert_eq!(user, Some(json!("build")));
    assert_eq!(rootless["devices"][0]["host_path"], "/dev/fuse");
    assert_eq!(
        (rootless.get("privileged"), rootless.get("cap_add")),
        (None, None)
    );
    assert_eq!(
        rootless["volumes"],
        json!(["/opt/nomad/data/buildah-cache:/var/cache/buildctl"])
    );
    settings.nomad.tier = Tier::SysAdmin;
    let (admin, user) = config_of(&settings);
    assert_eq!(
        (admin["cap_add"].clone(), user),
        (json!(["sys_admin"]), None)
    );
    settings.nomad.tier = Tier::Privileged;
    assert_eq!(config_of(&settings).0["privileged"], true);
}

#[test]
fn a_host_volume_is_mounted_where_a_driver_can() {
    let mut settings = docker();
    settings.nomad.cache = NomadCache::HostVolume("buildah".to_owned());
    let rendered = render(&job(config()), Run::Build, &settings).unwrap();
    assert_eq!(
        rendered["TaskGroups"][0]["Volumes"]["cache"]["Source"],
        "buildah"
    );
    assert_eq!(
        task(&rendered)["VolumeMounts"][0]["Destination"],
        "/var/cache/buildctl"
    );
    assert_eq!(task(&rendered)["Config"].get("volumes"), None);
    assert!(
        work(&rendered)
            .storage
            .root
            .unwrap()
            .starts_with("/var/cache/buildctl")
    );
    settings.nomad.driver = Driver::RawExec;
    let rendered = render(&job(config()), Run::Build, &settings).unwrap();
    assert_eq!(rendered["TaskGroups"][0].get("Volumes"), None);
    assert_eq!(work(&rendered).storage.root, None);
}

#[test]
fn a_fetched_runner_is_checked_and_runs_on_its_own_architecture() {
    let mut settings = settings();
    settings.runner = Runner::Artifact {
        url: "http://builds.example/runner/buildctl".to_owned(),
        checksum: Some("sha256:00".to_owned()),
    };
    let rendered = render(&job(config()), Run::Build, &settings).unwrap();
    let artifact = json!([{"GetterSource": "http://builds.example/runner/buildctl", "GetterMode": "file",
        "RelativeDest": "local/buildctl", "GetterOptions": {"checksum": "sha256:00"}}]);
    assert_eq!(task(&rendered)["Artifacts"], artifact);
    assert_eq!(
        task(&rendered)["Config"]["command"],
        "${NOMAD_TASK_DIR}/buildctl"
    );
    let constraints = rendered["TaskGroups"][0]["Constraints"].to_string();
    assert!(constraints.contains("${attr.cpu.arch}"), "{constraints}");
    settings.nomad.driver = Driver::Docker;
    let rendered = render(&job(config()), Run::Build, &settings).unwrap();
    assert_eq!(task(&rendered)["Config"]["entrypoint"][0], "/bin/sh");
}

#[test]
fn where_a_test_may_run_is_what_was_asked_for() {
    let mut config = tested();
    let test = config.test.as_mut().unwrap();
    test.gpu_required = true;
    test.constraints = vec![TestConstraint {
        attribute: "${attr.cpu.arch}".to_owned(),
        value: "arm64".to_owned(),
        operand: "=".to_owned(),
    }];
    let rendered = render(&job(config.clone()), Run::TestEntry, &docker()).unwrap();
    let constraints = rendered["TaskGroups"][0]["Constraints"].as_array().unwrap();
    assert!(
        constraints
            .contains(&json!({"LTarget": "${attr.cpu.arch}", "Operand": "=", "RTarget": "arm64"}))
    );
    assert!(
        constraints.contains(
            &json!({"LTarget": "${meta.gpu-capable}", "Operand": "=", "RTarget": "true"})
        )
    );
    assert_eq!(task(&rendered)["Config"]["runtime"], "nvidia");
    let build = render(&job(config), Run::Build, &docker()).unwrap();
    assert_eq!(
        build["TaskGroups"][0]["Constraints"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn resources_are_the_phases_and_logs_fit_the_disk() {
    let mut config = config();
    config.resource_limits = Some(
        serde_json::from_value(json!({"build": {"cpu": "700", "memory": "900", "disk": "50"}}))
            .unwrap(),
    );
    let rendered = render(&job(config), Run::Build, &settings()).unwrap();
    assert_eq!(
        task(&rendered)["Resources"],
        json!({"CPU": 700, "MemoryMB": 900})
    );
    assert_eq!(rendered["TaskGroups"][0]["EphemeralDisk"]["SizeMB"], 128);
    assert_eq!(work(&rendered).memory, Some(900 << 20));
}

#[test]
fn a_run_that_never_began_leaves_a_stopped_job() {
    let id = JobId::of_key("k");
    let job = tombstone(id, Run::TestCommand(1), &settings());
    assert_eq!(job["ID"], format!("test-cmd-{id}-1"));
    assert_eq!(job["Stop"], true);
}

#[test]
fn a_job_that_no_longer_is_acceptable_is_refused() {
    let mut config = config();
    config.repo_url = "--upload-pack=id".to_owned();
    assert!(matches!(
        render(&job(config), Run::Build, &settings()),
        Err(NoRender::Work(NoWork::Config(_)))
    ));
    let mut nothing = job(self::config());
    nothing.built = None;
    assert!(matches!(
        render(&nothing, Run::Publish, &settings()),
        Err(NoRender::Work(NoWork::NothingBuilt(_)))
    ));
}
