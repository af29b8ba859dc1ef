//! One job takes every way that a secret can take, another fails on it, a third one is an agent's, and then they are looked for
//! everywhere: in what was answered and written down, in arguments and environments of everything that was started, in the store
//! of images.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
};

use runyard_common::testing::{TempDir, patience, tempdir};
use serde_json::{Value, json};

use super::{Plant, answering};
use crate::{
    cli::{Gate, go_on},
    support::{Registry, Repository, contains, ready},
};

const API: &str = "mark-api-q7";
const GIT: &str = "mark-git-q7";
const FILE: &str = "mark-file-q7";
const VARIABLE: &str = "mark-variable-q7";
const VAULT: &str = "mark-vault-q7";
const VAULT_TOKEN: &str = "mark-vaulttoken-q7";
const TEST: &str = "mark-test-q7";
const WEBHOOK: &str = "mark-webhook-q7";
const HEADER: &str = "mark-header-q7";
const WRONG: &str = "mark-wrong-q7";
/// How many events of its jobs the service tells of.
const POSTS: usize = 22;
/// The password of the private registry.
const REGISTRY: &str = "opensesame";
const ALL: [&str; 11] = [
    API,
    GIT,
    FILE,
    VARIABLE,
    VAULT,
    VAULT_TOKEN,
    TEST,
    WEBHOOK,
    HEADER,
    WRONG,
    REGISTRY,
];

const DOCKERFILE: &str = "\
FROM scratch
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
RUN --mount=type=secret,id=filed --mount=type=secret,id=varied --mount=type=secret,id=vaulted \
    for x in filed varied vaulted; do echo $x: $(cat /run/secrets/$x); done
";

/// Which of the marks are in this, but for those that may be.
fn found(bytes: &[u8], except: &[&str]) -> Vec<&'static str> {
    let wanted = ALL.into_iter().filter(|mark| !except.contains(mark));
    wanted.filter(|mark| contains(bytes, mark)).collect()
}

/// Puts a program before `git` and `buildah` that writes their arguments and environment down.
fn spied_on(folder: &Path) -> PathBuf {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    let calls = folder.join("calls");
    for name in ["git", "buildah"] {
        let script = format!(
            "#!/bin/sh\n{{ echo \"== {name} $*\"; env; }} >>{}\nPATH=${{PATH#*:}} exec {name} \"$@\"\n",
            calls.display()
        );
        fs::write(bin.join(name), script).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    calls
}

/// Where secrets are kept, which is not where they are looked for.
struct Safe(TempDir);

impl Safe {
    fn keep(&self, name: &str, content: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// The service's configuration, and the variables of its process.
    fn plant(&self) -> (Plant, PathBuf) {
        let credentials = [
            ("ci/git", format!("username=me\npassword={GIT}\n")),
            ("ci/wrong", format!("username=me\npassword={WRONG}\n")),
            ("ci/registry", format!("username=me\npassword={REGISTRY}\n")),
            ("ci/test", format!("{{\"api\": \"{TEST}\"}}")),
            ("ci/filed", format!("value={FILE}\n")),
        ];
        let mut config = "webhooks: {allow_private: true}\ncredentials:\n".to_owned();
        for (path, content) in credentials {
            let file = self.keep(&path.replace('/', "-"), &content);
            config.extend(["  ", path, ": file:", &file, "\n"]);
        }
        config += "  ci/varied: env:MARKED\n";
        let calls = spied_on(self.0.path());
        let vault = answering(|head, _| {
            let is_known = head
                .to_ascii_lowercase()
                .contains(&format!("x-vault-token: {VAULT_TOKEN}"));
            assert!(is_known, "{head}");
            let secret = json!({"data": {"data": {"value": VAULT}}});
            ("200 OK", secret.to_string())
        });
        let path = std::env::var("PATH").unwrap_or_default();
        let environment = vec![
            (
                "BUILDCTL_TOKEN_FILE",
                self.keep("tokens", &format!("{API}\n")),
            ),
            ("MARKED", VARIABLE.to_owned()),
            ("VAULT_ADDR", vault),
            ("VAULT_TOKEN", VAULT_TOKEN.to_owned()),
            (
                "PATH",
                format!("{}:{path}", self.0.path().join("bin").display()),
            ),
        ];
        (
            Plant::with(Registry::private(), &config, environment),
            calls,
        )
    }
}

/// No mark is in what runs now, but for those that whoever started the service has put into its environment, and those that the
/// environment of its programs may have.
fn look_at_processes(given: &[&str]) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let (cmdline, environ) = (read("cmdline"), read("environ"));
        assert_eq!(
            found(&cmdline, &[]),
            [""; 0],
            "{}",
            String::from_utf8_lossy(&cmdline)
        );
        let is_ours = cmdline
            .split(|byte| *byte == 0)
            .next()
            .is_some_and(|program| program.ends_with(b"buildctl"));
        let may: &[&str] = if is_ours {
            &[VARIABLE, VAULT_TOKEN]
        } else {
            given
        };
        assert_eq!(
            found(&environ, may),
            [""; 0],
            "{}",
            String::from_utf8_lossy(&cmdline)
        );
    }
}

/// No mark is in a file, but for what a job's record has to keep; that only its owner can read.
fn look_at_files(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            look_at_files(&path);
        }
        if !kind.is_file() {
            continue;
        }
        let is_record = path.file_name().is_some_and(|name| name == "record.json");
        let may: &[&str] = if is_record { &[WEBHOOK, HEADER] } else { &[] };
        assert_eq!(
            found(&fs::read(&path).unwrap(), may),
            [""; 0],
            "{}",
            path.display()
        );
        if is_record {
            let mode = fs::metadata(&path).unwrap().mode();
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
        }
    }
}

/// A job that needs every kind of secret.
fn needy(hook: &str, git: &str, test: &str) -> Value {
    json!({
        "git_credentials_path": git, "registry_credentials_path": "ci/registry",
        "build_secrets": {"filed": "ci/filed", "varied": "ci/varied", "vaulted": "secret/ci/vaulted"},
        "test": {
            "commands": [test], "vault_policies": ["any"],
            "vault_secrets": [{"path": "ci/test", "fields": {"api": "TOKEN"}}],
        },
        "webhook_url": hook, "webhook_secret": WEBHOOK,
        "webhook_headers": {"Authorization": format!("Bearer {HEADER}")},
    })
}

/// Everything that can be asked about these jobs, which end like this.
fn answers(plant: &Plant, jobs: &[(&str, &str)]) -> Vec<String> {
    let mut answers = Vec::new();
    for (id, status) in jobs {
        let ended = plant.end(id);
        let log = plant.log(id);
        assert_eq!(ended["status"], *status, "{ended}\n{log}");
        let one = plant.run(&["-o", "json", "logs", id]).success();
        answers.extend([ended.to_string(), log, one]);
        answers.push(get(&plant.url, &format!("/v1/jobs/{id}")));
    }
    answers.push(plant.run(&["-o", "json", "history"]).success());
    answers.extend(["/metrics", "/v1/jobs", "/health"].map(|path| get(&plant.url, path)));
    answers.push(plant.daemon.output());
    answers
}

/// A test's secret gets into its container through the environment of one call; nothing else gets anywhere so.
fn look_at_calls(path: &Path) {
    let calls = fs::read_to_string(path).unwrap();
    assert!(calls.contains("== git ") && calls.contains("== buildah "));
    let marked: Vec<&str> = calls
        .lines()
        .filter(|line| !found(line.as_bytes(), &[]).is_empty())
        .collect();
    assert_eq!(marked, vec![format!("TOKEN={TEST}"); 3]);
}

/// A job stands still in each phase, and is looked at.
fn look_at_phases(plant: &Plant, url: &str, hook: &str, build: &Gate) -> String {
    let test = Gate::open();
    let command = format!(
        "wget -q -O - http://127.0.0.1:{}/; echo tested: $TOKEN",
        test.port()
    );
    let publish = plant.toll.hold("PUT", "/v2/good/manifests/");
    let id = plant
        .submit("good", url, &needy(hook, "ci/git", &command))
        .unwrap();
    let building = build.reached();
    look_at_processes(&[]);
    go_on(building);
    let testing = test.reached();
    look_at_processes(&[TEST]);
    go_on(testing);
    let publishing = publish.recv_timeout(patience()).unwrap();
    look_at_processes(&[]);
    publishing.go_on();
    assert_eq!(plant.end(&id)["status"], "SUCCEEDED");
    id
}

/// An agent submits such a job and asks for all that it can; the job, and the answers.
fn agent(plant: &Plant, config: &Value) -> (String, Vec<String>) {
    let call = |method: &str, params: &Value| {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = ask(&plant.url, "POST", "/mcp", &message.to_string());
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
        answer["result"].clone()
    };
    let tool = |name: &str, arguments: &Value| {
        let result = call("tools/call", &json!({"name": name, "arguments": arguments}));
        assert_ne!(result["isError"], true, "{result}");
        result
    };
    let submitted = tool("submitJob", config);
    let id = submitted["structuredContent"]["job_id"].as_str().unwrap();
    plant.end(id);
    let this = json!({"job_id": id});
    let of_it = ["waitJob", "getStatus", "getLogs"].map(|name| tool(name, &this));
    let of_all = ["listJobs", "getHistory"].map(|name| tool(name, &json!({"owner": "tester"})));
    let documents = ["", "/logs/build", "/logs/test", "/logs/publish"].map(|part| {
        call(
            "resources/read",
            &json!({"uri": format!("buildctl://jobs/{id}{part}")}),
        )
    });
    let answers = [submitted.clone()]
        .into_iter()
        .chain(of_it)
        .chain(of_all)
        .chain(documents);
    (
        id.to_owned(),
        answers.map(|answer| answer.to_string()).collect(),
    )
}

#[test]
fn secrets_take_every_way_and_show_nowhere() {
    if !ready() {
        return;
    }
    let safe = Safe(tempdir());
    let (plant, calls) = safe.plant();
    let gate = Gate::open();
    let pause = format!("RUN wget -q -O - http://127.0.0.1:{}/\n", gate.port());
    let source = Repository::with(&format!("{DOCKERFILE}{pause}"));
    let url = source.serve_to("me", GIT);
    let (heard, posts) = mpsc::channel();
    let hook = answering(move |head, body| {
        let _ = heard.send((head.to_owned(), body.to_owned()));
        ("200 OK", String::new())
    });
    let good = look_at_phases(&plant, &url, &hook, &gate);
    // Its steps are cached now.
    let submit = |image: &str, git: &str, test: &str| {
        plant.submit(image, &url, &needy(&hook, git, test)).unwrap()
    };
    let asked = plant.config("asked", &url, &needy(&hook, "ci/git", "echo $TOKEN"));
    let (asked, told) = agent(&plant, &asked);
    let failing = submit("failing", "ci/git", "echo $TOKEN >&2; exit 1");
    let refused = submit("refused", "ci/wrong", "true");
    let ends = [
        (good, "SUCCEEDED"),
        (asked, "SUCCEEDED"),
        (failing, "FAILED"),
        (refused, "FAILED"),
    ];
    let mut answers = answers(
        &plant,
        &ends.each_ref().map(|(id, end)| (id.as_str(), *end)),
    );
    answers.extend(told);
    // They got where they were to get to.
    for name in ["filed", "varied", "vaulted", "tested"] {
        let said = format!("{name}: [redacted]");
        assert!(
            answers.iter().any(|answer| answer.contains(&said)),
            "{said}: {answers:#?}"
        );
    }
    for _ in 0..POSTS {
        let (head, body) = posts.recv_timeout(patience()).unwrap();
        assert!(head.contains(HEADER), "{head}");
        let is_signed = head
            .to_ascii_lowercase()
            .contains("x-webhook-signature: sha256=");
        assert!(is_signed, "{head}");
        answers.push(body);
    }
    for answer in &answers {
        assert_eq!(found(answer.as_bytes(), &[]), [""; 0], "{answer}");
    }
    look_at_calls(&calls);
    look_at_files(&plant.path().join("state"));
}

fn get(url: &str, path: &str) -> String {
    ask(url, "GET", path, "")
}

/// What the service answers, without the head.
fn ask(url: &str, method: &str, path: &str, body: &str) -> String {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {API}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {answer}");
    assert_eq!(found(head.as_bytes(), &[]), [""; 0], "{head}");
    body.to_owned()
}
