//! Bundles as a real crun and a real JVM take them: TLS, names, time zone, user, heap, the system-call filter and the init.
//!
//! They need root, crun and a JDK, and are skipped, saying so, without one of them. crun runs in a mount namespace of its
//! own in which a `unified` hierarchy beside version 1 is out of sight, for crun refuses such machines otherwise.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the failure")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use milo_driver::{
    bundle::{self, Plan},
    cgroup::Cgroup,
    host::Host,
    jre::{Jre, Jres, Search},
    task::{
        self, CgroupPlace, Device, Dirs, Heap, HostEntry, Java, Limits, Mount, Network, Origin,
        Program, Propagation, Seccomp, Security, Task, TaskId, Tmpfs,
    },
    user::Account,
};
use runyard_common::testing::{TempDir, eventually, patience, tempdir, tool_binary};

const MIB: u64 = 1024 * 1024;

/// What the container's root, user and limits look like from within a JVM.
const PROBE: &str = r#"
import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.file.*;
import java.security.*;
import java.util.*;
import javax.net.ssl.*;

public class Probe {
    public static void main(String[] args) throws Exception {
        System.out.println("args=" + String.join(",", args));
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init((KeyStore) null);
        X509TrustManager manager = (X509TrustManager) trust.getTrustManagers()[0];
        System.out.println("anchors=" + (manager.getAcceptedIssuers().length > 0));
        System.out.println("tls=" + String.join(",", SSLContext.getDefault().getDefaultSSLParameters().getProtocols()));
        InetAddress local = InetAddress.getLocalHost();
        System.out.println("host=" + local.getHostName());
        System.out.println("zone=" + TimeZone.getDefault().getID());
        System.out.println("user=" + System.getProperty("user.name"));
        System.out.println("home=" + System.getProperty("user.home"));
        System.out.println("cwd=" + System.getProperty("user.dir"));
        System.out.println("heap=" + Runtime.getRuntime().maxMemory() / 1048576);
        System.out.println("names=" + System.getProperty("sun.jnu.encoding"));
        threads();
        nio();
        write("/local"); write("/tmp"); write("/alloc"); write("/secrets"); write("/usr/lib"); write("/etc");
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("CapEff") || line.startsWith("Seccomp:") || line.startsWith("NoNewPrivs") || line.startsWith("Uid"))
                System.out.println(line.replaceAll("\\s+", ""));
        }
        System.out.println("oom=" + Files.readString(Path.of("/proc/self/oom_score_adj")).trim());
        System.out.println("env=" + System.getenv("JAVA_HOME") + "," + System.getenv("HOME") + "," + System.getenv("GREETING"));
        System.out.println("opt=" + Files.exists(Path.of("/opt/java/bin/java")));
        System.out.println("shm=" + Files.getFileStore(Path.of("/dev/shm")).getTotalSpace() / 1048576);
        System.exit(42);
    }

    static void threads() throws Exception {
        Thread[] threads = new Thread[50];
        for (int i = 0; i < threads.length; i++) { threads[i] = start(); }
        for (Thread thread : threads) thread.join();
        System.out.println("threads=50");
    }

    static Thread start() throws Exception {
        Runnable work = () -> { try { Thread.sleep(1); } catch (InterruptedException e) { } };
        try { return (Thread) Thread.class.getMethod("startVirtualThread", Runnable.class).invoke(null, work); }
        catch (NoSuchMethodException | UnsupportedOperationException | java.lang.reflect.InvocationTargetException e) {
            Thread thread = new Thread(work); thread.start(); return thread;
        }
    }

    static void nio() throws Exception {
        try (ServerSocketChannel server = ServerSocketChannel.open(); Selector selector = Selector.open()) {
            server.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
            SocketChannel client = SocketChannel.open(server.getLocalAddress());
            SocketChannel peer = server.accept();
            peer.configureBlocking(false);
            peer.register(selector, SelectionKey.OP_READ);
            client.write(ByteBuffer.wrap("x".getBytes()));
            System.out.println("nio=" + selector.select());
            client.close(); peer.close();
        }
        Path big = Files.createTempFile("map", "");
        try (FileChannel file = FileChannel.open(big, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            file.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 20).put(5, (byte) 1);
        }
        try (AsynchronousFileChannel file = AsynchronousFileChannel.open(big)) {
            System.out.println("aio=" + file.read(ByteBuffer.allocate(10), 0).get());
        }
    }

    static void write(String folder) {
        try { Files.writeString(Path.of(folder, "written-ä"), "x"); System.out.println("write " + folder + "=yes"); }
        catch (IOException e) { System.out.println("write " + folder + "=no"); }
    }
}
"#;

/// A place for bundles, state and folders of tasks, all below one temporary folder that others may pass through.
struct Stage {
    folder: TempDir,
    host: Host,
    jres: Jres,
}

/// Where these tests can run, if they can; else says why not.
fn stage() -> Option<Stage> {
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let jres = Jres::discover(&Search {
        standard: vec!["/usr/lib/jvm".into()],
        ..Search::default()
    });
    let missing = [
        ("root", rustix::process::geteuid().is_root()),
        ("crun", has("crun")),
        ("unshare", has("unshare")),
        ("javac", has("javac")),
        ("a JVM below /usr/lib/jvm", !jres.all().is_empty()),
    ];
    for (name, present) in missing {
        if !present {
            say(name);
            return None;
        }
    }
    let folder = tempdir();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), open).unwrap();
    Some(Stage {
        folder,
        host: Host::detect().unwrap(),
        jres,
    })
}

#[expect(clippy::print_stderr, reason = "says why a test did nothing")]
fn say(missing: &str) {
    eprintln!("skipped: {missing} is missing");
}

impl Stage {
    fn folder(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(&path, mode).unwrap();
        path
    }

    /// A task that may use 256 MiB, with the three folders.
    fn task(&self, program: Program) -> Task {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = TaskId(format!("bundle/{}/{count}", std::process::id()));
        Task {
            name: "probe".into(),
            origin: Origin::Cli,
            alloc_id: String::new(),
            program,
            env: [("GREETING".to_owned(), "a=b".to_owned())].into(),
            user: String::new(),
            dirs: Dirs {
                // What is beside it is the allocation's, too, and mounted by a shim only.
                alloc: Some(self.folder("allocation/alloc", 0o777)),
                local: Some(self.folder("local", 0o777)),
                secrets: Some(self.folder("secrets", 0o700)),
            },
            work_dir: None,
            limits: Limits {
                memory: Some(256 * MIB),
                pids: Some(200),
                cpu_shares: Some(100),
                cpu_quota: Some(1.5),
                oom_score_adj: 100,
                ..Limits::default()
            },
            cgroup: CgroupPlace {
                path: format!("/milo-bundle-{}", id.key()),
                ..CgroupPlace::default()
            },
            id,
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            devices: Vec::new(),
            network: Network::Host,
            dns: None,
            extra_hosts: Vec::new(),
            security: Security::default(),
            init: false,
            rootfs: None,
            stdio: task::Stdio::default(),
            ephemeral: false,
        }
    }

    fn java(&self, java: Java) -> Task {
        self.task(Program::Java(Java {
            heap: Heap::Jvm,
            ..java
        }))
    }

    fn greeting(&self, text: &str) -> Task {
        self.task(Program::Greeting {
            shell: "bash".into(),
            text: text.into(),
        })
    }

    /// Compiles the probe into a JAR in the task's `local`.
    fn probe(&self) -> Java {
        let build = self.folder("build", 0o755);
        let source = build.join("Probe.java");
        fs::write(&source, PROBE).unwrap();
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program)
                .args(args)
                .current_dir(&build)
                .output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        run(
            "javac",
            &["--release", "17", "-encoding", "UTF-8", "Probe.java"],
        );
        let jar = self.folder("local", 0o777).join("probe.jar");
        run(
            "jar",
            &["cfe", jar.to_str().unwrap(), "Probe", "Probe.class"],
        );
        Java {
            jar: Some("/local/probe.jar".into()),
            args: vec!["one".into(), "two words".into()],
            ..Java::default()
        }
    }

    /// Plans, writes and runs it.
    fn run(&self, task: &Task, jre: Option<&Jre>) -> Output {
        self.run_plan(task, &self.plan(task, jre))
    }

    fn bundle(&self, task: &Task) -> PathBuf {
        self.folder.path().join(task.id.key())
    }

    fn plan(&self, task: &Task, jre: Option<&Jre>) -> Plan {
        bundle::plan(task, &nobody(), jre, &self.host, &self.bundle(task)).unwrap()
    }

    fn run_plan(&self, task: &Task, plan: &Plan) -> Output {
        let bundle = self.bundle(task);
        plan.write(&bundle).unwrap();
        let mut command = self.crun(&["run", "--bundle", bundle.to_str().unwrap()], task);
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || sender.send(command.output().unwrap()));
        let output = ended.recv_timeout(patience()).unwrap_or_else(|_| {
            self.cgroup(task).kill().unwrap();
            panic!("it did not end: {:?}", ended.recv());
        });
        assert!(self.cgroup(task).is_empty().unwrap(), "{output:?}");
        output
    }

    /// A verb of crun, where a hierarchy it would refuse is out of its sight.
    fn crun(&self, verb: &[&str], task: &Task) -> Command {
        let script = "if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified && mount -t tmpfs none /sys/fs/cgroup/unified; fi; \
                      exec crun \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["-m", "--propagation", "slave", "sh", "-c", script, "sh"])
            .arg("--root")
            .arg(self.folder("state", 0o700))
            .args(verb)
            .arg(task.id.container());
        command
    }

    fn cgroup(&self, task: &Task) -> Cgroup {
        Cgroup::of(&self.host.cgroup, &self.host.cgroup_root, &task.cgroup)
    }
}

fn nobody() -> Account {
    Account {
        uid: 65_534,
        gid: 65_534,
        groups: Vec::new(),
        name: "nobody".into(),
        home: "/nonexistent".into(),
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn line<'a>(text: &'a str, key: &str) -> &'a str {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in {text}"))
}

#[test]
fn every_jvm_of_this_host_finds_all_it_needs() {
    let Some(stage) = stage() else { return };
    let java = stage.probe();
    for jre in stage.jres.all() {
        let task = stage.java(java.clone());
        let output = stage.run(&task, Some(jre));
        let text = text(&output);
        let is = |key: &str, value: &str| assert_eq!(line(&text, key), value, "{text}");
        assert_eq!(output.status.code(), Some(42), "{text}");
        is("args", "one,two words");
        is("anchors", "true");
        assert!(line(&text, "tls").contains("TLSv1.3"), "{text}");
        is("host", &stage.host.hostname);
        is("zone", stage.host.timezone.as_deref().unwrap());
        is("user", "nobody");
        is("home", "/local");
        is("cwd", "/");
        // A JVM that did not see its limit would take a quarter of the machine.
        assert!(line(&text, "heap").parse::<u64>().unwrap() < 150, "{text}");
        is("names", "UTF-8");
        is("threads", "50");
        is("nio", "1");
        is("aio", "10");
        for folder in ["/local", "/tmp", "/alloc"] {
            is(&format!("write {folder}"), "yes");
        }
        for folder in ["/secrets", "/usr/lib", "/etc"] {
            is(&format!("write {folder}"), "no");
        }
        assert!(text.contains("CapEff:0000000000000000\n"), "{text}");
        assert!(text.contains("Seccomp:2\n"), "{text}");
        assert!(text.contains("NoNewPrivs:1\n"), "{text}");
        assert!(text.contains("Uid:65534655346553465534\n"), "{text}");
        is("oom", "100");
        is("env", &format!("{},/local,a=b", jre.home.display()));
        is("opt", "true");
        is("shm", "64");
    }
}

#[test]
fn a_small_task_has_a_small_heap() {
    let Some(stage) = stage() else { return };
    let java = stage.probe();
    let mut task = stage.java(java);
    task.limits.memory = Some(128 * MIB);
    let output = stage.run(&task, stage.jres.all().first());
    let text = text(&output);
    assert!(line(&text, "heap").parse::<u64>().unwrap() <= 64, "{text}");
}

#[test]
fn a_greeting_needs_no_java_and_runs_nothing_that_is_in_it() {
    let Some(stage) = stage() else { return };
    let greet = |host_tools| {
        let mut task = stage.greeting("-n $(id) `id` \"'");
        task.security.host_tools = host_tools;
        let output = stage.run(&task, None);
        assert_eq!(text(&output), "-n $(id) `id` \"'\n");
    };
    greet(true);
    greet(false);
}

#[test]
fn a_network_of_its_own_has_a_loopback_device_only() {
    let Some(stage) = stage() else { return };
    let mut task = stage.java(stage.probe());
    task.network = Network::None;
    let output = stage.run(&task, stage.jres.all().first());
    let text = text(&output);
    assert_eq!(output.status.code(), Some(42), "{text}");
    assert_eq!(line(&text, "host"), stage.host.hostname);
    assert_eq!(line(&text, "nio"), "1");
}

/// What a script says that runs instead of the greeting.
fn script(stage: &Stage, interpreter: &str, task: &Task, script: &str) -> String {
    let local = stage.folder("local", 0o777);
    fs::write(local.join("script"), script).unwrap();
    let mut plan = stage.plan(task, None);
    let process = plan.spec.process_mut().as_mut().unwrap();
    process.set_args(Some(vec![interpreter.into(), "/local/script".into()]));
    text(&stage.run_plan(task, &plan))
}

const CALLS: &str = r#"
import ctypes, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
numbers = {
    "x86_64": dict(unshare=272, mount=165, clone=56, clone3=435, io_uring_setup=425, keyctl=250, bpf=321, personality=135, nonesuch=1000),
    "aarch64": dict(unshare=97, mount=40, clone=220, clone3=435, io_uring_setup=425, keyctl=219, bpf=280, personality=92, nonesuch=1000),
}
first = dict(unshare=0x10000000, clone=0x10000011, personality=0xffffffff)
for name, number in numbers[platform.machine()].items():
    ctypes.set_errno(0)
    answer = libc.syscall(number, ctypes.c_ulong(first.get(name, 0)), 0, 0, 0, 0)
    print(name, answer if answer >= 0 else os.strerror(ctypes.get_errno()), flush=True)
    if name == "clone" and answer == 0: os._exit(0)
try: socket.socket(40, socket.SOCK_STREAM)
except OSError as error: print("vsock", error.strerror)
"#;

#[test]
fn the_filter_forbids_what_reaches_around_the_container() {
    let Some(stage) = stage() else { return };
    if !Path::new("/usr/bin/python3").exists() {
        say("python3");
        return;
    }
    let mut task = stage.greeting("");
    assert_eq!(
        script(&stage, "/usr/bin/python3", &task, CALLS),
        "unshare Operation not permitted\nmount Operation not permitted\n\
         clone Operation not permitted\nclone3 Function not implemented\n\
         io_uring_setup Operation not permitted\nkeyctl Operation not permitted\n\
         bpf Operation not permitted\npersonality 0\n\
         nonesuch Function not implemented\nvsock Operation not permitted\n"
    );
    task.security.seccomp = Seccomp::Unconfined;
    let open = script(&stage, "/usr/bin/python3", &task, CALLS);
    assert!(open.contains("clone3 Invalid argument"), "{open}");
}

const LOOK: &str = r#"
cat /data/file /run/milo-data/file
echo x 2>/dev/null >/data/file || echo "data is read-only"
stat -f -c %T /data/cache
echo x 2>/dev/null >/dev/other || echo "other is full"
ulimit -n
grep CapAmb /proc/self/status
getent hosts db
cat /proc/sys/kernel/msgmax
awk 'BEGIN { print "awk" }'
cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null
cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
ls /sys/firmware | wc -l
ls -d /root /home /boot /var/lib 2>/dev/null
id -un
readlink /proc/self/cwd
"#;

#[test]
fn what_was_asked_for_is_there_and_nothing_else() {
    let Some(stage) = stage() else { return };
    let data = stage.folder("data", 0o777);
    fs::write(data.join("file"), "of the host\n").unwrap();
    fs::create_dir_all(data.join("cache")).unwrap();
    let mut task = stage.greeting("");
    task.work_dir = Some("/local".into());
    task.mounts = vec![Mount {
        source: data,
        target: "/data".into(),
        readonly: true,
        propagation: Propagation::Rslave,
    }];
    // In the container /var/run is /run; on the host nothing may happen there.
    task.mounts.push(Mount {
        target: "/var/run/milo-data".into(),
        ..task.mounts[0].clone()
    });
    task.tmpfs = vec![Tmpfs {
        target: "/data/cache".into(),
        size: Some(MIB),
        mode: None,
    }];
    task.devices = vec![Device {
        source: "/dev/full".into(),
        target: "/dev/other".into(),
        permissions: "rw".into(),
    }];
    task.limits.ulimits = [("nofile".to_owned(), (123, 456))].into();
    task.security.capabilities = vec!["CAP_NET_BIND_SERVICE".into()];
    task.security.sysctl = [("kernel.msgmax".to_owned(), "4321".to_owned())].into();
    task.extra_hosts = vec![HostEntry {
        name: "db".into(),
        address: "192.0.2.7".into(),
    }];
    assert_eq!(
        script(&stage, "/usr/bin/bash", &task, LOOK),
        "of the host\nof the host\ndata is read-only\ntmpfs\nother is full\n123\n\
         CapAmb:\t0000000000000400\n192.0.2.7       db\n4321\nawk\n\
         268435456\n200\n0\nnobody\n/local\n"
    );
    assert!(!Path::new("/run/milo-data").exists());
}

#[test]
fn the_evidence_of_an_oom_kill_is_there_until_the_container_is_deleted() {
    let Some(stage) = stage() else { return };
    let mut task = stage.java(Java {
        jvm_options: vec![
            "-Xmx512m".into(),
            "-Xms512m".into(),
            "-XX:+AlwaysPreTouch".into(),
        ],
        ..stage.probe()
    });
    task.limits.memory = Some(64 * MIB);
    let bundle = stage.bundle(&task);
    stage
        .plan(&task, stage.jres.all().first())
        .write(&bundle)
        .unwrap();
    let succeeds = |verb: &[&str]| {
        let mut command = stage.crun(verb, &task);
        // Its pipes would be the container's as well, which lives on.
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success(), "{verb:?}");
    };
    succeeds(&["create", "--bundle", bundle.to_str().unwrap()]);
    let group = stage.cgroup(&task);
    assert_eq!(group.pids().unwrap().len(), 1);
    assert_eq!(group.oom_kills().unwrap(), 0);
    succeeds(&["start"]);
    eventually(patience(), || group.is_empty().unwrap().then_some(()));
    assert!(group.oom_kills().unwrap() > 0);
    let most = group.usage().unwrap().memory.max;
    assert!(most.is_none_or(|most| most <= 64 * MIB), "{most:?}");
    succeeds(&["delete"]);
    assert!(group.oom_kills().is_err());
}

#[test]
fn an_init_passes_signals_on_and_reaps_orphans() {
    let Some(mut stage) = stage() else { return };
    stage.host.executable = tool_binary("milo-driver");
    let mut task = stage.greeting("");
    task.init = true;
    let run = |text: &str| {
        let local = stage.folder("local", 0o777);
        fs::write(local.join("script"), text).unwrap();
        let mut plan = stage.plan(&task, None);
        let process = plan.spec.process_mut().as_mut().unwrap();
        let mut args = process.args().clone().unwrap();
        args.splice(
            3..,
            ["/usr/bin/bash".to_owned(), "/local/script".to_owned()],
        );
        process.set_args(Some(args));
        stage.run_plan(&task, &plan)
    };
    let output = run("echo $$; exit 42");
    assert_eq!(
        (output.status.code(), text(&output)),
        (Some(42), "2\n".to_owned())
    );
    // The orphan has ended and its line in /proc is gone, or this never ends.
    let orphans = "read -r child < <(bash -c 'sh -c \"exit 3\" & echo $!'); \
                   while [ -e /proc/$child ]; do :; done; echo reaped $((child > 2))";
    assert_eq!(text(&run(orphans)), "reaped 1\n");
    let blocked = text(&run(
        "while read -r key value; do [ $key = SigBlk: ] && echo $value; done </proc/self/status",
    ));
    assert_eq!(blocked, "0000000000000000\n");
    let signalled = run("trap 'echo got it; exit 7' TERM; kill -TERM 1; while :; do :; done");
    assert_eq!(
        (signalled.status.code(), text(&signalled)),
        (Some(7), "got it\n".to_owned())
    );
    assert_eq!(run("kill -KILL $$").status.code(), Some(137));
}

#[test]
fn a_root_file_system_of_ones_own_is_used_as_it_is() {
    let Some(stage) = stage() else { return };
    let rootfs = stage.folder("rootfs", 0o755);
    let libraries = Command::new("ldd").arg("/usr/bin/bash").output().unwrap();
    let libraries = text(&libraries);
    let paths = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in paths.chain(["/usr/bin/bash", "/usr/bin/cat"]) {
        let copy = rootfs.join(path.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(path, copy).unwrap();
    }
    fs::write(rootfs.join("mine"), "my own\n").unwrap();
    let mut task = stage.greeting("");
    task.rootfs = Some(rootfs);
    task.network = Network::None;
    task.extra_hosts = vec![HostEntry {
        name: "db".into(),
        address: "192.0.2.7".into(),
    }];
    let look = "cat /mine; while read -r line; do case $line in *db) echo $line;; esac; done </etc/hosts; \
                echo x 2>/dev/null >/mine || echo read-only; [ -e /usr/share ] || echo alone";
    assert_eq!(
        script(&stage, "/usr/bin/bash", &task, look),
        "my own\n192.0.2.7 db\nread-only\nalone\n"
    );
}
