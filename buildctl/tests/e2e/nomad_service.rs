//! `buildctl serve` over a real Nomad agent, from the command line to the registry: a job that is built, tested and published, and
//! one that is not; killed in each phase; services that are killed in each phase, and two that stand beside each other; a
//! repository that would like to be code; and where a secret is not.
//!
//! Builds, tests and publications are held where a test wants them: at a gate that they ask, or by a registry that does not answer.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use runyard_common::testing::{
    Daemon, Output, TempDir, eventually, patience, tempdir, tool_binary,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    cli::{DOCKERFILE, Gate, go_on, plain},
    nomad::ready,
    nomad_agent::Agent,
    support::{Registry, Repository},
};

/// A namespace of an agent, and a registry.
pub(crate) struct Cluster {
    pub(crate) agent: Arc<Agent>,
    pub(crate) namespace: String,
    pub(crate) registry: Registry,
    pub(crate) folder: TempDir,
    /// More variables of our program.
    pub(crate) more: Vec<(String, String)>,
    /// Where nodes have the program; empty for that they fetch it from the service.
    runner: String,
}

/// A service, and where it is.
pub(crate) struct Service {
    daemon: Daemon,
    url: String,
}

impl Cluster {
    fn open() -> Option<Self> {
        Self::with(Registry::open)
    }

    fn with(registry: fn() -> Registry) -> Option<Self> {
        if !ready() {
            return None;
        }
        Agent::shared().map(|agent| Self::on(agent, registry))
    }

    pub(crate) fn on(agent: Arc<Agent>, registry: fn() -> Registry) -> Self {
        Self {
            namespace: agent.namespace(),
            agent,
            registry: registry(),
            folder: tempdir(),
            more: Vec::new(),
            runner: tool_binary("buildctl").display().to_string(),
        }
    }

    /// The layers that builds of this cluster leave.
    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// The program, told of this cluster.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = plain(words);
        for (name, value) in [
            ("BACKEND", "nomad"),
            ("NOMAD_ADDRESS", &self.agent.address),
            ("NOMAD_NAMESPACE", &self.namespace),
            ("NOMAD_DRIVER", "raw_exec"),
            ("NOMAD_CACHE", &self.cache().display().to_string()),
            // A service that is killed hands nothing out any more.
            ("NOMAD_RUNNER_PATH", &self.runner),
            ("NOMAD_VAULT_ENABLED", "false"),
            ("ALLOW_FILE_URLS", "true"),
            ("REGISTRY_INSECURE", self.registry.host()),
            ("TIMEOUTS_KILL", "5s"),
            ("LIMITS_BUILD_CPU", "50"),
            ("LIMITS_TEST_CPU", "50"),
            ("LIMITS_PUBLISH_CPU", "50"),
            ("LIMITS_BUILD_MEMORY", "256"),
            ("LIMITS_TEST_MEMORY", "128"),
            ("LIMITS_PUBLISH_MEMORY", "128"),
            ("LIMITS_BUILD_DISK", "200"),
            ("LIMITS_TEST_DISK", "200"),
            ("LIMITS_PUBLISH_DISK", "200"),
        ] {
            command.env(format!("BUILDCTL_{name}"), value);
        }
        command
            .envs(self.more.iter().cloned())
            .current_dir(self.folder.path());
        command
    }

    pub(crate) fn serve(&self) -> Service {
        let command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        let (daemon, address) = Daemon::start(command, |line| {
            let (_, rest) = line
                .split_once("addr=")
                .filter(|_| line.contains("listening"))?;
            Some(rest.split_whitespace().next()?.to_owned())
        });
        Service {
            daemon,
            url: format!("http://{address}"),
        }
    }

    /// Submits a job for this repository; `more` are keys of its description.
    pub(crate) fn submit(&self, at: &Service, source: &Repository, more: &Value) -> String {
        let mut job = json!({
            "owner": "team", "repo_url": source.url(), "image_name": "app",
            "registry_url": self.registry.host(), "image_tags": ["v1"],
        });
        for (key, value) in more.as_object().unwrap() {
            job[key] = value.clone();
        }
        let output = Output::with_input(&mut at.command(&["submit"]), &job.to_string());
        output.success().trim().to_owned()
    }

    /// Whether the registry answers anybody.
    fn registry_answers(&self, answers: bool) {
        let signal = if answers { Signal::CONT } else { Signal::STOP };
        kill_process(Pid::from_child(&self.registry.process), signal).unwrap();
    }

    /// Tags of a repository, in the registry's own files.
    fn tags(&self, repository: &str) -> Vec<String> {
        let all = below(self.registry.tag_folder(repository, ""));
        let names = all.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
        let mut tags: Vec<String> = names.collect();
        tags.sort();
        tags
    }

    /// Waits until nothing of a job runs any more on the cluster.
    pub(crate) fn is_quiet(&self, id: &str) {
        let path = format!(
            "/v1/allocations?namespace={}&task_states=false",
            self.namespace
        );
        eventually(patience(), || {
            let all = self.agent.list(&path);
            let mut of_job = all
                .iter()
                .filter(|it| it["JobID"].as_str().is_some_and(|job| job.contains(id)));
            of_job
                .all(|it| it["ClientStatus"] != "running" && it["ClientStatus"] != "pending")
                .then_some(())
        });
    }

    /// Waits until the temporary image of a job is gone.
    fn is_clean(&self, service: &Service, id: &str) {
        let going = eventually(patience() * 2, || {
            let status = service.json(&["status", id]);
            let runs = status["runs"].as_array().unwrap();
            let mut going = runs
                .iter()
                .filter(|run| matches!(run["state"].as_str(), Some("waiting" | "running")));
            match going.next() {
                None if self.tags("temp-app").is_empty() => Some(None),
                // It may be about to begin.
                None => runs
                    .iter()
                    .any(|run| run["run"] == "cleanup")
                    .then(|| Some(status.clone())),
                Some(_) => None,
            }
        });
        assert_eq!(going, None, "{}", service.run(&["logs", id]));
    }

    /// Containers and folders of runs in stores, and their mounts.
    fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        for owner in below(self.cache()) {
            let root = owner.join("root");
            for place in ["overlay-containers", "vfs-containers", "buildctl/runs"] {
                let entries = below(root.join(place)).filter(|path| path.is_dir());
                found.extend(entries.map(|path| path.display().to_string()));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let cache = self.cache().display().to_string();
        let mounts = mounts.lines().filter(|line| line.contains(&cache));
        found.extend(mounts.map(str::to_owned));
        found
    }
}

fn below(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

impl Service {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = plain(words);
        command.env("BUILDCTL_URL", &self.url);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        Output::of(&mut self.command(words))
    }

    fn json(&self, words: &[&str]) -> Value {
        let text = self.run(&[&["-o", "json"], words].concat()).success();
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until a job is in this state.
    pub(crate) fn until(&self, id: &str, state: &str) -> Value {
        eventually(patience() * 2, || {
            let status = self.json(&["status", id]);
            let now = status["status"].as_str().unwrap();
            assert!(
                now == state || !matches!(now, "SUCCEEDED" | "FAILED"),
                "{status:#}\n{}",
                self.run(&["logs", id])
            );
            (now == state).then_some(status)
        })
    }

    /// Follows a job's log in the background.
    fn follow(&self, id: &str) -> Child {
        let mut command = self.command(&["logs", "-f", id]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Dies at once.
    fn die(mut self) {
        self.daemon.kill();
        self.daemon.wait(patience());
    }
}

#[test]
fn two_services_tell_the_same_of_a_job_and_one_of_them_is_enough() {
    let Some(cluster) = Cluster::open() else {
        return;
    };
    let (first, second) = (cluster.serve(), cluster.serve());
    let gate = Gate::open();
    let source = gate.repository();
    let test = json!({"test": {"commands": ["echo tested by busybox"], "entry_point": true}});
    let id = cluster.submit(&first, &source, &test);
    let log = second.follow(&id);
    let build = gate.reached();
    assert_eq!(second.json(&["status", &id])["status"], "BUILDING");
    first.die();
    go_on(build);
    let status = second.until(&id, "SUCCEEDED");

    let digest = status["digest"].as_str().unwrap();
    for tag in [id.as_str(), "v1"] {
        assert_eq!(
            cluster.registry.digest("app", tag).as_deref(),
            Some(digest),
            "{tag}"
        );
    }
    assert_eq!(cluster.tags("temp-app"), Vec::<String>::new());
    // It began before the build and ends by itself.
    let log = log.wait_with_output().unwrap();
    assert!(log.status.success(), "{log:?}");
    let log = String::from_utf8(log.stdout).unwrap();
    for words in [
        "waiting",
        "passed",
        "tested by busybox",
        "selftest",
        "publish: succeeded",
    ] {
        assert!(log.contains(words), "{words} is missing in\n{log}");
    }
    let third = cluster.serve();
    for words in [&["status", id.as_str()][..], &["history"]] {
        assert_eq!(third.json(words), second.json(words), "{words:?}");
    }
    assert_eq!(
        third.run(&["logs", &id]).success(),
        second.run(&["logs", &id]).success()
    );
    cluster.is_quiet(&id);
    assert_eq!(cluster.remains(), Vec::<String>::new());
}

#[test]
fn a_build_goes_on_while_its_agent_is_dead_and_is_heard_of_when_that_is_back() {
    let agent = ready().then(Agent::lasting).flatten();
    let Some(agent) = agent else { return };
    let mut cluster = Cluster::on(Arc::new(agent), Registry::open);
    let service = cluster.serve();
    let gate = Gate::open();
    let source = gate.repository();
    let id = cluster.submit(&service, &source, &json!({"test": {"commands": ["true"]}}));
    let build = gate.reached();
    Arc::get_mut(&mut cluster.agent).unwrap().kill();
    let asked = service.run(&["status", &id]);
    assert_eq!(asked.code, 4, "nothing is made up: {asked}");
    go_on(build);
    Arc::get_mut(&mut cluster.agent).unwrap().resume();
    let status = service.until(&id, "SUCCEEDED");
    let digest = status["digest"].as_str();
    assert_eq!(cluster.registry.digest("app", &id).as_deref(), digest);
    let log = service.run(&["logs", &id]).success();
    assert_eq!(log.matches("build: succeeded").count(), 1, "{log}");
    cluster.is_quiet(&id);
    assert_eq!(cluster.remains(), Vec::<String>::new());
}

#[test]
fn what_fails_its_test_is_not_published() {
    let Some(mut cluster) = Cluster::open() else {
        return;
    };
    cluster.runner.clear();
    let service = cluster.serve();
    let source = Repository::with(DOCKERFILE);
    let failing = json!({"test": {"commands": ["true", "echo out of order >&2; exit 3"]}});
    let id = cluster.submit(&service, &source, &failing);
    let waited = service.run(&["wait", &id]);
    assert_eq!(waited.code, 1, "{waited}");
    let status = service.json(&["status", &id]);
    let error = status["error"].as_str().unwrap();
    assert!(error.starts_with("Test phase failed: "), "{status:#}");
    assert!(error.contains("exit code 3"), "{error}");
    assert_eq!(cluster.tags("app"), Vec::<String>::new());
    // Its temporary image is removed by a run of its own.
    cluster.is_clean(&service, &id);
    cluster.is_quiet(&id);
    assert_eq!(cluster.remains(), Vec::<String>::new());
}

/// Which phase a test interrupts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Build,
    Test,
    Publish,
}

/// A job that is in this phase, and what lets it go on.
fn held(
    cluster: &Cluster,
    service: &Service,
    gate: &Gate,
    at: At,
) -> (String, Option<std::net::TcpStream>) {
    let source = match at {
        At::Build => gate.repository(),
        At::Test | At::Publish => Repository::with(DOCKERFILE),
    };
    let test = json!({"test": {"commands": [gate.command()]}, "git_ref": "main"});
    let id = cluster.submit(service, &source, &test);
    let stream = gate.reached();
    if at != At::Publish {
        return (id, Some(stream));
    }
    cluster.registry_answers(false);
    go_on(stream);
    service.until(&id, "PUBLISHING");
    let publish = format!("publish-{id}");
    let path = format!(
        "/v1/job/{publish}/allocations?namespace={}",
        cluster.namespace
    );
    eventually(patience(), || {
        let all = cluster.agent.list(&path);
        all.iter()
            .any(|it| it["ClientStatus"] == "running")
            .then_some(())
    });
    (id, None)
}

fn killed_in(at: At) {
    let Some(cluster) = Cluster::open() else {
        return;
    };
    let (service, gate) = (cluster.serve(), Gate::open());
    let (id, stream) = held(&cluster, &service, &gate, at);
    service.run(&["kill", &id]).success();
    let status = service.until(&id, "FAILED");
    assert_eq!(status["error"], "Job killed by user", "{at:?}");
    drop(stream);
    cluster.registry_answers(true);
    cluster.is_quiet(&id);
    assert_eq!(cluster.tags("app"), Vec::<String>::new(), "{at:?}");
    assert_eq!(cluster.remains(), Vec::<String>::new(), "{at:?}");
    cluster.is_clean(&service, &id);
    let log = service.run(&["logs", &id]).success();
    // A publication that waits for its registry has nothing more to say.
    assert!(
        at == At::Publish || log.contains("stopped"),
        "{at:?}: {log}"
    );
}

#[test]
fn a_job_that_is_killed_while_it_builds_leaves_nothing() {
    killed_in(At::Build);
}

#[test]
fn a_job_that_is_killed_while_it_is_tested_leaves_nothing() {
    killed_in(At::Test);
}

#[test]
fn a_job_that_is_killed_while_it_is_published_leaves_nothing() {
    killed_in(At::Publish);
}

#[test]
fn a_service_that_is_killed_in_each_phase_is_missed_by_nobody() {
    let Some(cluster) = Cluster::open() else {
        return;
    };
    let gate = Gate::open();
    let source = gate.repository();
    let test = json!({"test": {"commands": [gate.command()]}});

    let service = cluster.serve();
    let id = cluster.submit(&service, &source, &test);
    let build = gate.reached();
    service.die();
    go_on(build);

    let service = cluster.serve();
    let test = gate.reached();
    service.die();
    cluster.registry_answers(false);
    go_on(test);

    let service = cluster.serve();
    service.until(&id, "PUBLISHING");
    service.die();
    cluster.registry_answers(true);

    let service = cluster.serve();
    let status = service.until(&id, "SUCCEEDED");
    assert_eq!(
        cluster.registry.digest("app", "v1").as_deref(),
        status["digest"].as_str()
    );
    // Each phase was carried out once, whoever began it.
    let path = format!(
        "/v1/allocations?namespace={}&task_states=false",
        cluster.namespace
    );
    let mut ran: Vec<String> = cluster
        .agent
        .list(&path)
        .iter()
        .map(|it| it["JobID"].as_str().unwrap().to_owned())
        .collect();
    ran.sort();
    assert_eq!(
        ran,
        [
            format!("build-{id}"),
            format!("publish-{id}"),
            format!("test-cmd-{id}-0")
        ]
    );
    assert_eq!(cluster.remains(), Vec::<String>::new());
}

/// What a shell, HCL, a template or an option would take for code. A ref of Git may hold all of it.
const REF: &str =
    "f/$(touch${IFS}/tmp/PWNED)-${NOMAD_TOKEN}-%{if-true}-{{env-`HOME`}}-;touch|x&'\"#-<x>!";
/// A folder with more of it.
const FOLDER: &str =
    "$(touch PWNED) ${attr.unique.hostname} %{ for x in y } {{ key \"x\" }} ;& `touch PWNED`";
/// A file that would like to be an option.
const FILE: &str = "--upload-pack=touch PWNED;Dockerfile'$HOME\"";

#[test]
fn what_a_repository_calls_its_things_is_nobodys_code() {
    let Some(cluster) = Cluster::open() else {
        return;
    };
    let service = cluster.serve();
    let source = Repository::with(DOCKERFILE);
    source.git(&["checkout", "--quiet", "-b", REF]);
    fs::create_dir(source.path().join(FOLDER)).unwrap();
    fs::copy(
        source.path().join("busybox"),
        source.path().join(FOLDER).join("busybox"),
    )
    .unwrap();
    source.commit(&format!("{FOLDER}/{FILE}"), DOCKERFILE);
    let command = format!("echo '{}'", FOLDER.replace('\'', ""));
    let hostile = json!({
        "git_ref": REF, "dockerfile_path": format!("{FOLDER}/{FILE}"), "dockerfile_context": FOLDER,
        "build_args": {"A": REF}, "labels": {"b": FOLDER.replace('$', "")},
        "test": {"commands": [command], "env": {"C": FOLDER}},
    });
    let id = cluster.submit(&service, &source, &hostile);
    service.until(&id, "SUCCEEDED");
    let log = service.run(&["logs", "--phase", "test", &id]).success();
    assert!(log.contains(FOLDER), "it is echoed as it is: {log}");
    assert!(!PathBuf::from("/tmp/PWNED").exists());
    assert!(!source.path().join("PWNED").exists());

    let mut command = service.command(&["submit"]);
    for tag in ["$(id)", "--tls-verify=false", "${x}", "{{x}}", "a b"] {
        let job = json!({
            "owner": "team", "repo_url": source.url(), "image_name": "app",
            "registry_url": cluster.registry.host(), "image_tags": [tag],
        });
        let refused = Output::with_input(&mut command, &job.to_string());
        assert_eq!(refused.code, 2, "{tag}: {refused}");
    }
    let label = json!({
        "owner": "team", "repo_url": source.url(), "image_name": "app",
        "registry_url": cluster.registry.host(), "labels": {"b": "${HOME}"},
    });
    let refused = Output::with_input(&mut command, &label.to_string());
    assert_eq!(refused.code, 2, "Buildah would replace it: {refused}");
    for option in ["--upload-pack=touch /tmp/PWNED", "ext::sh -c id", "-x"] {
        let job = json!({
            "owner": "team", "repo_url": option, "image_name": "app",
            "registry_url": cluster.registry.host(),
        });
        let refused = Output::with_input(&mut command, &job.to_string());
        assert_eq!(refused.code, 2, "{option}: {refused}");
    }
}

/// The password of the registry that is not for everybody.
const PASSWORD: &str = "opensesame";

/// Looks for it, also as base64.
#[track_caller]
fn hunt(place: &str, text: &str) {
    for mark in [PASSWORD.to_owned(), STANDARD.encode(PASSWORD)] {
        assert!(!text.contains(&mark), "{mark} is in {place}:\n{text}");
    }
}

#[test]
fn a_secret_is_in_no_specification_record_log_answer_or_command_line() {
    let Some(cluster) = Cluster::with(Registry::private) else {
        return;
    };
    let variable = json!({
        "Path": "ci/registry", "Namespace": cluster.namespace,
        "Items": {"username": "me", "password": PASSWORD},
    });
    let path = format!("/v1/var/ci/registry?namespace={}", cluster.namespace);
    cluster.agent.put(&path, &variable);
    let (service, gate) = (cluster.serve(), Gate::open());
    let source = gate.repository();
    let test = json!({
        "registry_credentials_path": "nomad:ci/registry", "webhook_secret": "unused",
        "test": {
            "commands": ["echo the word is $WORD; test -n \"$WORD\""],
            "vault_secrets": [{"path": "nomad:ci/registry", "fields": {"password": "WORD"}}],
            "vault_policies": ["none"],
        },
    });
    let id = cluster.submit(&service, &source, &test);
    let build = gate.reached();
    for process in below(PathBuf::from("/proc")) {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(process.join(file)).unwrap_or_default();
            hunt(file, &String::from_utf8_lossy(&bytes));
        }
    }
    go_on(build);
    service.until(&id, "SUCCEEDED");

    let jobs = cluster.agent.list("/v1/jobs?namespace=*");
    let mut seen = 0;
    for job in jobs
        .iter()
        .filter(|job| job["Namespace"] == *cluster.namespace)
    {
        let (name, scope) = (job["ID"].as_str().unwrap(), &cluster.namespace);
        for below in ["", "/allocations", "/evaluations", "/versions"] {
            let path = format!("/v1/job/{name}{below}?namespace={scope}");
            hunt(&path, &cluster.agent.get(&path).unwrap());
        }
        seen += 1;
    }
    assert_eq!(seen, 3, "{jobs:?}");
    let record = format!("/v1/var/buildctl/jobs/{id}?namespace={}", cluster.namespace);
    hunt("the record", &cluster.agent.get(&record).unwrap());
    for words in [
        &["status", id.as_str()][..],
        &["logs", id.as_str()],
        &["history"],
    ] {
        let answer = service.run(&[&["-o", "json"], words].concat()).success();
        hunt(&format!("{words:?}"), &answer);
    }
    hunt("the service's log", &service.daemon.output());
    let log = service.run(&["logs", "--phase", "test", &id]).success();
    assert!(log.contains("the word is [redacted]"), "{log}");
    assert!(log.contains("note: vault_policies"), "{log}");
}

#[test]
fn a_cluster_is_looked_at_and_what_would_be_registered_can_be_planned() {
    let Some(cluster) = Cluster::open() else {
        return;
    };
    let doctor = Output::of(&mut cluster.command(&["doctor", "--nomad"]));
    assert_eq!(doctor.code, 0, "{doctor}");
    assert!(doctor.stdout.contains("works in a task"), "{doctor}");
    let job = json!({
        "owner": "team", "repo_url": "https://git.test/x.git", "image_name": "app",
        "registry_url": cluster.registry.host(), "test": {"entry_point": true},
    });
    for run in ["build", "test-entry", "publish"] {
        let mut render = cluster.command(&["-o", "json", "spec", "render", "--run", run]);
        let rendered = Output::with_input(&mut render, &job.to_string()).success();
        let validated = cluster
            .agent
            .command(&["job", "validate", "-json", "-"], &rendered);
        assert_eq!(validated.code, 0, "{run}: {validated}\n{rendered}");
    }
    let mut wrong = cluster.command(&["doctor", "--nomad"]);
    wrong.env("BUILDCTL_NOMAD_ADDRESS", "http://127.0.0.1:1");
    let wrong = Output::of(&mut wrong);
    assert_eq!(wrong.code, 1, "{wrong}");
    assert!(wrong.stdout.contains("nomad.address"), "{wrong}");
}
