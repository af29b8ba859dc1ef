//! The command line as its users have it: JARs that are run, watched, entered and stopped, and all that is promised about
//! what they see, what they may do, and what is said when they cannot be run.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runyard_common::{
    exit::Exit,
    testing::{Daemon, Output, eventually, is_alive, patience, tool_binary},
};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use serde_json::Value;

use crate::support::{Gate, Place, kit, open_to_all, value};

const HELLO: &str = "Hello from Java!\nMilo driver test complete\n";

/// A user's machine: a JAR, and records of its own.
struct User {
    place: Place,
    jar: &'static Path,
}

/// The user, or nothing where containers cannot be made.
fn user() -> Option<User> {
    let jar = kit()?;
    let place = Place::new();
    fs::write(place.path().join("config.yaml"), "{}\n").unwrap();
    Some(User { place, jar })
}

impl User {
    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn plain(&self, args: &[&str]) -> Command {
        let mut command = Command::new(tool_binary("milo-driver"));
        command
            .args(args)
            .current_dir(self.place.path())
            .env("MILO_STATE_DIR", self.place.state().path())
            .env("MILO_CONFIG", self.path("config.yaml"));
        command
    }

    fn milo(&self, args: &[&str]) -> Output {
        Output::of(&mut self.plain(args))
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.milo(&[args, &["-o", "json"]].concat()).success();
        serde_json::from_str(&text).unwrap()
    }

    /// `run` with options, of the JAR with arguments.
    fn command(&self, options: &[&str], args: &[&str]) -> Command {
        let jar = self.jar.to_str().unwrap();
        self.plain(&[&["run"], options, &[jar, "--"], args].concat())
    }

    fn run(&self, options: &[&str], args: &[&str]) -> Output {
        Output::of(&mut self.command(options, args))
    }

    fn start(&self, options: &[&str], args: &[&str]) -> Daemon {
        Daemon::start(self.command(options, args), begun).0
    }

    /// One that waits at a gate, which is in a folder mounted at `/gate`.
    fn gated(&self, name: &str) -> (Gate, String) {
        let folder = self.place.folder(name);
        (Gate::closed(&folder), format!("{}:/gate", folder.display()))
    }
}

fn begun(line: &str) -> Option<()> {
    (line == "Starting application...").then_some(())
}

// === What it says ===

#[test]
fn a_program_says_what_it_says_and_nothing_else() {
    let Some(user) = user() else { return };
    let output = user.run(&[], &["hello"]);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        (HELLO, "")
    );
    assert_eq!(output.code, 0);
    user.place.until_nothing_is_left();
}

#[test]
fn a_programs_exit_code_is_the_commands() {
    let Some(user) = user() else { return };
    let codes = [0, 1, 2, 42, 127, 255];
    for code in codes {
        let output = user.run(&[], &["exit", &code.to_string()]);
        let expected = (code, "Application encountered an error\n");
        assert_eq!((output.code, output.stderr.as_str()), expected);
    }
    user.place.until_nothing_is_left();
}

#[test]
fn output_is_there_while_the_program_runs() {
    let Some(user) = user() else { return };
    let (gate, mount) = user.gated("gates");
    let mut milo = user.start(&["-v", &mount], &["gate", "/gate/gate", "3"]);
    assert!(!milo.output().contains("The gate was opened"));
    assert!(is_alive(milo.pid()));
    gate.open();
    assert_eq!(milo.wait(patience()).code(), Some(3));
    assert!(milo.output().contains("out The gate was opened\n"));
}

#[test]
fn input_reaches_the_program_and_ends() {
    let Some(user) = user() else { return };
    let text = "one line\n".repeat(20_000);
    let output = Output::with_input(&mut user.command(&[], &["cat"]), &text);
    assert_eq!(output.success(), text);
}

#[test]
fn two_programs_run_at_once() {
    let Some(user) = user() else { return };
    let (gate, mount) = user.gated("gates");
    let mut both =
        ["3", "4"].map(|code| user.start(&["-v", &mount], &["gate", "/gate/gate", code]));
    assert_eq!(user.json(&["ps"]).as_array().unwrap().len(), 2);
    gate.open();
    let codes = both.each_mut().map(|milo| milo.wait(patience()).code());
    assert_eq!(codes, [Some(3), Some(4)]);
    user.place.until_nothing_is_left();
}

// === What it may use ===

#[test]
fn the_heap_is_a_share_of_the_memory() {
    let Some(user) = user() else { return };
    let text = user.run(&["--memory", "64m"], &["facts"]).success();
    let heap: u64 = value(&text, "heap").parse().unwrap();
    assert!((40..=48).contains(&heap), "{heap} MiB of 64");
}

#[test]
fn a_program_that_takes_more_memory_than_it_may_is_killed_and_the_limit_is_named() {
    let Some(user) = user() else { return };
    let options = ["--memory", "64m", "--jvm-opt", "-XX:MaxDirectMemorySize=1g"];
    let output = user.run(&options, &["eat"]);
    assert_eq!(output.code, 137, "{output}");
    assert!(output.stderr.contains("64 MiB (--memory)"), "{output}");
    user.place.until_nothing_is_left();
}

// === What it sees ===

#[test]
fn a_program_knows_where_and_who_it_is_and_has_no_privileges() {
    let Some(user) = user() else { return };
    let text = user.run(&[], &["facts"]).success();
    let plain = Command::new("java")
        .arg("-jar")
        .arg(user.jar)
        .arg("facts")
        .output();
    let host = String::from_utf8(plain.unwrap().stdout).unwrap();
    for (name, expected) in [
        ("zone", value(&host, "zone")),
        ("user", "nobody"),
        ("cwd", "/"),
        ("anchors", "true"),
        ("Uid", "65534 65534 65534 65534"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(value(&text, name), expected, "{name}");
    }
    assert!(value(&text, "host").parse::<std::net::IpAddr>().is_ok());
}

#[test]
fn a_program_runs_as_whom_it_is_told_to() {
    let Some(user) = user() else { return };
    let text = user
        .run(&["--user", "1234:5678", "--workdir", "/tmp"], &["facts"])
        .success();
    assert_eq!(value(&text, "Uid"), "1234 1234 1234 1234");
    assert_eq!(value(&text, "Gid"), "5678 5678 5678 5678");
    assert_eq!(value(&text, "cwd"), "/tmp");
    let output = user.run(&["--user", "nobody-of-that-name"], &["facts"]);
    let error = output.failure(Exit::Failed);
    assert!(error.contains("nobody-of-that-name"), "{error}");
}

#[test]
fn a_program_has_the_variables_it_was_given_and_no_others() {
    let Some(user) = user() else { return };
    fs::write(
        user.path("file.env"),
        "# a comment\n\nFILE=of file\nBOTH=file\n",
    )
    .unwrap();
    let options = [
        "--env-file",
        "file.env",
        "-e",
        "BOTH=flag",
        "-e",
        "HERE",
        "-e",
        "EMPTY=",
    ];
    let names = ["env", "FILE", "BOTH", "HERE", "EMPTY", "MILO_STATE_DIR"];
    let mut command = user.command(&options, &names);
    let text = Output::of(command.env("HERE", "from here")).success();
    let expected = "FILE=of file\nBOTH=flag\nHERE=from here\nEMPTY=\nMILO_STATE_DIR=null\n";
    assert_eq!(text, expected);
    fs::write(user.path("file.env"), "FINE=1\nnonsense\n").unwrap();
    let error = user.run(&options, &names).failure(Exit::Config);
    assert!(error.contains("file.env line 2: `nonsense`"), "{error}");
}

#[test]
fn a_program_writes_where_it_may_and_nowhere_else() {
    let Some(user) = user() else { return };
    let folder = user.place.folder("mine");
    let mine = folder.display();
    let (ro, rw) = (format!("{mine}:/ro:ro"), format!("{mine}:/rw"));
    let options = ["-v", &ro, "-v", &rw, "--tmpfs", "/mem:size=1m"];
    let text = user.run(
        &options,
        &["write", "/ro", "/rw", "/mem", "/tmp", "/", "/etc", "/app"],
    );
    let expected = "/ro=no\n/rw=yes\n/mem=yes\n/tmp=yes\n/=no\n/etc=no\n/app=no\n";
    assert_eq!(text.success(), expected);
    assert_eq!(fs::read_to_string(folder.join("written")).unwrap(), "x");
}

#[test]
fn a_program_without_a_network_has_no_way_out() {
    let Some(user) = user() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let connected = |network| {
        let text = user
            .run(&["--network", network], &["connect", &port])
            .success();
        (
            value(&text, "connected").to_owned(),
            value(&text, "interfaces").to_owned(),
        )
    };
    assert_eq!(connected("host").0, "yes");
    assert_eq!(connected("none"), ("no".to_owned(), "[lo]".to_owned()));
}

// === TLS ===

/// Serves HTTPS with a certificate of a new authority, which is written to a file. Answers the port.
fn https(authority: &Path) -> u16 {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(authority, ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        );
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            // A client that does not trust the certificate goes away in the middle.
            let _ = answer(StreamOwned::new(connection, socket.unwrap()));
        }
    });
    port
}

fn answer(stream: impl Read + Write) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfine\n";
    stream.get_mut().write_all(reply)?;
    stream.get_mut().flush()
}

#[test]
fn a_program_speaks_tls_with_whom_it_trusts_and_with_nobody_else() {
    let Some(user) = user() else { return };
    let authority = user.path("ca.pem");
    let url = format!("https://localhost:{}/", https(&authority));
    open_to_all(&authority, 0o644);
    let mount = format!("{}:/ca.pem:ro", authority.display());
    let text = user
        .run(&["-v", &mount], &["tls", "/ca.pem", &url])
        .success();
    assert_eq!(text, "mine=fine\ndefault=refused\n");
}

// === Its end ===

#[test]
fn signals_reach_the_program() {
    let Some(user) = user() else { return };
    let mut milo = user.start(&[], &["sleep"]);
    milo.interrupt();
    assert_eq!(milo.wait(patience()).code(), Some(130));
    let mut milo = user.start(&["--init"], &["sleep"]);
    milo.terminate();
    assert_eq!(milo.wait(patience()).code(), Some(143));
    user.place.until_nothing_is_left();
}

#[test]
fn a_second_interrupt_kills_what_ignores_the_first() {
    let Some(user) = user() else { return };
    let mut milo = user.start(&["--jvm-opt", "-Xrs"], &["sleep"]);
    // Both are seen, even if they come at once: the first is taken before the second is sent.
    milo.interrupt();
    let signals = || fs::read_to_string(format!("/proc/{}/status", milo.pid())).unwrap();
    let is_pending = |text: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with("ShdPnd:"));
        lines.any(|line| !line.ends_with("0000000000000000"))
    };
    eventually(patience(), || (!is_pending(&signals())).then_some(()));
    milo.interrupt();
    assert_eq!(milo.wait(patience()).code(), Some(137));
    user.place.until_nothing_is_left();
}

#[test]
fn a_command_that_is_killed_leaves_no_container() {
    let Some(user) = user() else { return };
    let mut milo = user.start(&[], &["sleep"]);
    let running = user.json(&["ps"]);
    let pid = u32::try_from(running[0]["pid"].as_u64().unwrap()).unwrap();
    milo.kill();
    user.place.until_nothing_is_left();
    eventually(patience(), || (!is_alive(pid)).then_some(()));
}

// === By itself ===

#[test]
fn a_detached_program_is_listed_followed_entered_looked_at_stopped_and_removed() {
    let Some(user) = user() else { return };
    let (mut gate, mount) = user.gated("gates");
    let options = ["-d", "--name", "one", "-e", "TOKEN=hush", "-v", &mount];
    assert_eq!(
        user.run(&options, &["tell", "/gate/gate"]).success(),
        "one\n"
    );
    let (mut follower, ()) = Daemon::start(user.plain(&["logs", "-f", "one"]), begun);
    gate.pass("a");
    follower.wait_for_line(|line| (line == "line a").then_some(()));
    let row = &user.json(&["ps"])[0];
    assert_eq!(
        (row["name"].as_str(), row["state"].as_str()),
        (Some("one"), Some("running"))
    );
    let script = "cat; echo \"$TOKEN $(id -u)\" >&2; exit 7";
    let mut exec = user.plain(&["exec", "-i", "one", "--", "/bin/sh", "-c", script]);
    let inside = Output::with_input(&mut exec, "to exec\n");
    assert_eq!(
        (inside.stdout.as_str(), inside.stderr.as_str()),
        ("to exec\n", "hush 65534\n")
    );
    assert_eq!(inside.code, 7);
    let shown = user.milo(&["inspect", "one"]).success();
    assert!(
        shown.contains("TOKEN") && !shown.contains("hush"),
        "{shown}"
    );
    let shown = user.json(&["inspect", "one", "--show-secrets"]);
    assert_eq!(shown["task"]["env"]["TOKEN"], "hush");
    let error = user.milo(&["rm", "one"]).failure(Exit::Failed);
    assert!(error.contains("`one` runs"), "{error}");
    assert_eq!(
        user.milo(&["stop", "one"]).success(),
        "one  ended with 143\n"
    );
    assert!(follower.wait(patience()).success());
    assert_eq!(user.milo(&["logs", "-n", "1", "one"]).success(), "line a\n");
    assert_eq!(user.json(&["ps"]), Value::Array(Vec::new()));
    assert_eq!(user.json(&["ps", "--all"])[0]["exit_code"], 143);
    assert_eq!(user.milo(&["rm", "one"]).success(), "removed  one\n");
    user.place.until_nothing_is_left();
}

#[test]
fn a_name_is_given_once() {
    let Some(user) = user() else { return };
    let options = ["-d", "--name", "one"];
    user.run(&options, &["sleep"]).success();
    let error = user.run(&options, &["hello"]).failure(Exit::Failed);
    assert!(error.contains("there is a task `one` already"), "{error}");
    assert!(error.contains("milo-driver rm one"), "{error}");
    assert_eq!(user.json(&["ps"])[0]["state"], "running");
    user.milo(&["rm", "--force", "one"]).success();
    user.place.until_nothing_is_left();
}

#[test]
fn programs_of_one_name_whose_records_are_apart_do_not_know_of_each_other() {
    let (Some(one), Some(other)) = (user(), user()) else {
        return;
    };
    for user in [&one, &other] {
        user.run(&["-d", "--name", "same"], &["sleep"]).success();
    }
    one.milo(&["rm", "--force", "same"]).success();
    let row = &other.json(&["ps"])[0];
    assert_eq!(row["state"], "running");
    let ended = other.milo(&["stop", "same"]).success();
    assert_eq!(ended, "same  ended with 143\n");
}

#[test]
fn what_is_not_there_is_said_so() {
    let Some(user) = user() else { return };
    for args in [
        &["inspect", "nope"][..],
        &["stop", "nope"],
        &["rm", "nope"],
        &["logs", "nope"],
        &["exec", "nope", "--", "true"],
    ] {
        let error = user.milo(args).failure(Exit::NotFound);
        assert!(
            error.contains("there is no task `nope`"),
            "{args:?}: {error}"
        );
    }
}

// === What cannot be run ===

#[test]
fn a_jar_that_cannot_be_run_is_named_in_four_lines() {
    let Some(user) = user() else { return };
    for (name, text) in [
        ("my-script.py", "print()"),
        ("page.jar", "<!DOCTYPE html>"),
        ("empty.jar", ""),
    ] {
        fs::write(user.path(name), text).unwrap();
    }
    symlink(user.jar, user.path("linked.jar")).unwrap();
    let refused = Exit::Failed;
    for (name, exit, first, got) in [
        (
            "nope.jar",
            Exit::NotFound,
            "Artifact file not found",
            "nope.jar",
        ),
        (
            "my-script.py",
            refused,
            "Artifact must be a .jar file, got: my-script.py",
            "my-script.py",
        ),
        (
            "page.jar",
            refused,
            "Downloaded file is not a JAR",
            "HTML document (possibly error page)",
        ),
        ("empty.jar", refused, "JAR file is empty", ""),
    ] {
        let output = user.milo(&["run", name]);
        assert_eq!(output.stdout, "");
        let error = output.failure(exit);
        let lines: Vec<&str> = error.lines().map(str::trim).collect();
        let [headline, expected, found, suggestion] = lines[..] else {
            panic!("not four lines: {error}");
        };
        assert_eq!(headline, format!("error: {first}"));
        assert!(
            found.starts_with("Got: ") && found.ends_with(got),
            "{error}"
        );
        assert!(
            expected.starts_with("Expected: ") && suggestion.starts_with("Suggestion: "),
            "{error}"
        );
    }
    assert_eq!(user.milo(&["run", "linked.jar"]).success(), HELLO);
    assert!(user.place.tasks().is_empty());
}

#[test]
fn a_host_without_java_is_told_where_it_was_looked_for() {
    let Some(user) = user() else { return };
    if ["/opt", "/usr/local"]
        .iter()
        .any(|folder| Path::new(folder).join("java").exists())
    {
        eprintln!("skipped: there is a JVM that cannot be hidden");
        return;
    }
    let script = "mount -t tmpfs none /usr/lib/jvm && exec env -u JAVA_HOME PATH=/nowhere HOME=/nowhere \"$@\"";
    let milo = user.command(&[], &["hello"]);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(milo.get_program())
        .args(milo.get_args())
        .env("MILO_STATE_DIR", user.place.state().path())
        .env("MILO_CONFIG", user.path("config.yaml"));
    let error = Output::of(&mut command).failure(Exit::NotFound);
    for part in [
        "error: No Java runtime found on host. Please install Java to use Milo driver.\n",
        "Searched locations:\n",
        "- PATH (not found)\n",
        "- JAVA_HOME environment variable (not set)\n",
        "To fix:\n",
        "1. Install Java: sudo apt install openjdk-17-jdk\n",
        "2. Or set JAVA_HOME to existing installation\n",
    ] {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
}

// === Without running ===

#[test]
fn a_printed_bundle_is_one_that_crun_runs() {
    let Some(user) = user() else { return };
    let folder = user.path("bundle");
    let said = user
        .run(
            &["--print-bundle", folder.to_str().unwrap()],
            &["exit", "42"],
        )
        .success();
    let script = "if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified && mount -t tmpfs none /sys/fs/cgroup/unified; fi; exec \"$@\"";
    let mut words = said.split_whitespace();
    assert_eq!(words.next(), Some("crun"));
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "slave",
            "sh",
            "-c",
            script,
            "sh",
            "crun",
            "--root",
        ])
        .arg(user.path("crun"))
        .args(words);
    let output = Output::of(&mut command);
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (42, "Application encountered an error\n")
    );
}

#[test]
fn a_dry_run_says_what_would_be_run_and_leaves_no_trace() {
    let Some(user) = user() else { return };
    let text = user
        .run(&["--dry-run", "-o", "json", "--memory", "100m"], &["hello"])
        .success();
    let answer: Value = serde_json::from_str(&text).unwrap();
    let command: Vec<&str> = answer["command"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(command.contains(&"-Xmx75m"), "{command:?}");
    assert_eq!(command.last(), Some(&"hello"));
    assert_eq!(answer["user"]["name"], "nobody");
    assert!(!user.place.state().path().exists());
}

#[test]
fn a_jar_is_checked_without_being_run() {
    let Some(user) = user() else { return };
    let jar = user.jar.to_str().unwrap();
    let answer = user.json(&["check", jar]);
    assert_eq!(
        (&answer["valid"], &answer["main_class"]),
        (&true.into(), &"Kit".into())
    );
    fs::write(user.path("bad.jar"), "PK").unwrap();
    let output = user.milo(&["check", "bad.jar", "-o", "json"]);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(output.code, 1);
    assert_eq!(
        (&answer["valid"], &answer["got"]),
        (&false.into(), &"Corrupted or incomplete file".into())
    );
    assert_eq!(user.milo(&["check", "nope.jar"]).code, 5);
}

#[test]
fn jvms_are_listed_with_the_reason_for_the_default() {
    let Some(user) = user() else { return };
    let answer = user.json(&["jres"]);
    let is_default = |jre: &&Value| jre["is_default"] == true;
    let default = answer["jres"]
        .as_array()
        .unwrap()
        .iter()
        .find(is_default)
        .unwrap();
    assert_eq!(default["home"], answer["default"]["home"]);
    let mut named = user.plain(&["jres", "-o", "json"]);
    named.env("MILO_DEFAULT_JAVA", default["version"].as_str().unwrap());
    let text = Output::of(&mut named).success();
    assert!(text.contains("it matches default_java"), "{text}");
    named.env("MILO_DEFAULT_JAVA", "4711");
    assert_eq!(Output::of(&mut named).code, 5);
}

#[test]
fn a_jvm_that_does_not_start_is_listed_with_its_reason_and_is_no_default() {
    let Some(user) = user() else { return };
    let home = user.path("broken");
    fs::create_dir_all(home.join("bin")).unwrap();
    fs::write(home.join("release"), "JAVA_VERSION=\"99.0.1\"\n").unwrap();
    fs::copy("/bin/false", home.join("bin/java")).unwrap();
    let home = home.canonicalize().unwrap();
    let mut proving = user.plain(&["jres", "--prove", "-o", "json"]);
    proving.env("JAVA_HOME", &home);
    let output = Output::of(&mut proving);
    assert_eq!(output.code, 1);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    let is_it = |row: &&Value| row["home"] == home.to_str().unwrap();
    let rows = |name: &str| answer[name].as_array().unwrap().clone();
    let rejected = rows("rejected");
    let reason = rejected.iter().find(is_it).expect("rejected")["reason"].clone();
    assert!(
        reason.as_str().unwrap().contains("-version` failed"),
        "{reason}"
    );
    assert!(!rows("jres").iter().any(|row| is_it(&row)));
    assert_ne!(answer["default"]["home"], home.to_str().unwrap());
}

#[test]
fn the_doctor_finds_what_is_wrong() {
    let Some(user) = user() else { return };
    let findings = user.json(&["doctor"]);
    let verdicts = |findings: &Value| -> Vec<String> {
        let all = findings.as_array().unwrap().iter();
        all.map(|finding| {
            format!(
                "{} {}",
                finding["check"].as_str().unwrap(),
                finding["verdict"].as_str().unwrap()
            )
        })
        .collect()
    };
    let found = verdicts(&findings);
    for expected in ["user ok", "crun ok", "container ok"] {
        assert!(found.iter().any(|finding| finding == expected), "{found:?}");
    }
    user.place.until_nothing_is_left();
    let mut ill = user.plain(&["doctor", "-o", "json"]);
    let output = Output::of(ill.env("MILO_CRUN_PATH", "/nonexistent/crun"));
    assert_eq!(output.code, 1, "{output}");
    let found = verdicts(&serde_json::from_str(&output.stdout).unwrap());
    assert!(
        found.iter().any(|finding| finding == "crun fail"),
        "{found:?}"
    );
}

#[test]
fn the_configuration_is_shown_with_where_it_comes_from() {
    let Some(user) = user() else { return };
    fs::write(user.path("config.yaml"), "heap_percent: 50\n").unwrap();
    let answer = user.json(&["config", "show"]);
    assert_eq!(answer["heap_percent"]["value"], 50);
    assert_eq!(answer["heap_percent"]["from"], "file");
    let text = user.run(&["--dry-run", "--memory", "100m"], &[]).success();
    assert!(text.contains("-Xmx50m"), "{text}");
    fs::write(user.path("config.yaml"), "heap_procent: 50\n").unwrap();
    let error = user.milo(&["config", "show"]).failure(Exit::Config);
    assert!(error.contains("heap_procent"), "{error}");
    let error = user.run(&[], &["hello"]).failure(Exit::Config);
    assert!(error.contains("heap_percent"), "{error}");
}
