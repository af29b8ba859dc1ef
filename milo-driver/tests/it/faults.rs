//! Faults around a task that are nobody's program: a disk that is full, a crun or a shim that is killed at any step, an
//! agent that dies, a plugin that outlives its agent. And what only an agent can give to a task.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use milo_driver::{
    launch::{LaunchError, Recovered},
    proto::drivers::{
        Device, HostsConfig, Mount, NetworkIsolationSpec, StopTaskRequest,
        network_isolation_spec::NetworkIsolationMode,
    },
    shim::protocol::Request,
    task::TaskId,
};
use runyard_common::testing::{eventually, patience, tool_binary};
use serde_json::json;

use crate::{
    plugin::{Job, Node, Plugin, node, node_with, soon, start},
    shim::{self, place},
    support::Place,
};

// === A full disk ===

/// A file system of a megabyte, which is unmounted with the value.
struct Disk {
    path: PathBuf,
    is_mounted: bool,
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

impl Disk {
    fn unmount(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            // Lazily: after a test that has failed somebody may still be in it.
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }

    fn mount(path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "none"]);
        assert!(mount.arg(path).status().unwrap().success());
        Self {
            path: path.to_owned(),
            is_mounted: true,
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Leaves so many bytes.
    fn fill(&self, left: u64) {
        let mut ballast = File::create(self.ballast()).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
        let size = ballast.metadata().unwrap().len();
        ballast.set_len(size.saturating_sub(left)).unwrap();
    }

    fn clear(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

/// A place whose records are on a small disk.
struct Cramped {
    place: shim::Place,
    disk: Disk,
}

impl Drop for Cramped {
    fn drop(&mut self) {
        // Before the disk goes. One that has failed may be full.
        let _ = fs::remove_file(self.disk.ballast());
        let _ = self.place.launcher.dismiss(&self.place.dir());
        self.disk.unmount();
    }
}

fn cramped(script: &str) -> Option<Cramped> {
    let place = place(script)?;
    let disk = Disk::mount(place.launcher.state.path());
    Some(Cramped { place, disk })
}

/// An error with its causes.
fn whole(error: &LaunchError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[test]
fn a_task_that_finds_no_space_is_refused_with_the_reason_and_leaves_nothing() {
    let Some(Cramped { place, disk }) = &cramped("exec sleep 1000") else {
        return;
    };
    let mut refusals = 0;
    // Each page more lets it come one record further.
    for pages in 0.. {
        disk.fill(pages * 4096);
        let Err(error) = place.launch() else { break };
        let text = whole(&error);
        assert!(text.contains("No space left on device"), "{pages}: {text}");
        place.assert_no_container();
        has_no_processes(place);
        assert!(!place.dir().path().exists(), "{pages}: {text}");
        refusals += 1;
    }
    assert!(refusals >= 4, "{refusals}");
    disk.clear();
    shim::running(place.launch().unwrap());
    place.dismiss();
}

/// Waits until nothing works on a task or in it any more: a shim ends after it has answered.
fn has_no_processes(place: &shim::Place) {
    eventually(patience(), || processes_of(place).is_empty().then_some(()));
}

/// The command lines of what still works on a task or in it: crun's have its container's name.
fn processes_of(place: &shim::Place) -> Vec<String> {
    let container = place.task.id.container();
    let key = place.task.id.key();
    let processes = fs::read_dir("/proc").unwrap();
    let lines = processes.filter_map(|entry| {
        let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines
        .filter(|line| line.contains(&container) || line.contains(&key))
        .collect()
}

#[test]
fn an_end_that_cannot_be_written_down_is_told_and_written_as_soon_as_there_is_space() {
    let Some(Cramped { place, disk }) =
        &cramped("while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 7")
    else {
        return;
    };
    place.run();
    disk.fill(0);
    place.go();
    let exit = place.exit();
    assert_eq!(exit.code, 7);
    assert_eq!(place.dir().exit().unwrap(), None);
    assert_eq!(place.recover(), Recovered::Exited(exit.clone()));
    disk.clear();
    assert_eq!(place.recover(), Recovered::Exited(exit.clone()));
    assert_eq!(place.dir().exit().unwrap(), Some(exit.clone()));
    // From now on no process has to remember it.
    place.kill_shim();
    assert_eq!(place.recover(), Recovered::Exited(exit));
    place.dismiss();
}

#[test]
fn a_task_is_dismissed_on_a_full_disk() {
    let Some(Cramped { place, disk }) = &cramped("exec sleep 1000") else {
        return;
    };
    place.run();
    disk.fill(0);
    place.dismiss();
    has_no_processes(place);
}

#[tokio::test]
async fn an_agent_is_told_of_a_full_disk_and_its_next_try_succeeds() {
    let Some(node) = node().await else { return };
    let disk = Disk::mount(node.place.state().path());
    disk.fill(0);
    let job = node.job("cramped", &["hello"]);
    let refused = soon(start(node.driver(), job.config.clone())).await;
    let refused = refused.unwrap_err();
    assert!(
        refused.message().contains("No space left on device"),
        "{refused}"
    );
    // A full disk may have space a moment later: the job's restarts are worth it.
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(node.place.tasks().is_empty());
    disk.clear();
    node.start(&job).await;
    assert_eq!(node.wait(&job).await.exit_code, 0);
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
}

// === A crun that is killed ===

/// Is killed once, with crun or instead of it, where a file says so.
const FRAGILE: &str = r#"#!/bin/sh
for word; do
    case $word in create|start|delete) verb=$word; break;; esac
done
for time in before amid after; do
    [ -e "$0.$verb.$time" ] && rm "$0.$verb.$time" && break
    time=never
done
case $time in
    before) kill -KILL $$;;
    amid) /usr/bin/crun "$@" & sleep 0.00MILLISECONDS; kill -KILL $!; wait $!; kill -KILL $$;;
    after) /usr/bin/crun "$@"; kill -KILL $$;;
    never) exec /usr/bin/crun "$@";;
esac
"#;

/// A place whose crun is killed once.
fn fragile(script: &str, verb: &str, time: &str, milliseconds: u32) -> Option<shim::Place> {
    let mut place = place(script)?;
    let crun = place.launcher.state.path().with_file_name("crun");
    let text = FRAGILE.replace("MILLISECONDS", &milliseconds.to_string());
    fs::write(&crun, text).unwrap();
    fs::set_permissions(&crun, fs::Permissions::from_mode(0o755)).unwrap();
    place.launcher.crun.clone_from(&crun);
    fs::write(marker(&place, verb, time), "").unwrap();
    Some(place)
}

fn marker(place: &shim::Place, verb: &str, time: &str) -> PathBuf {
    let crun = place.launcher.crun.to_str().unwrap();
    PathBuf::from(format!("{crun}.{verb}.{time}"))
}

/// Somewhere in a call of crun; where does not matter.
const TIMES: [(&str, u32); 5] = [
    ("before", 0),
    ("amid", 1),
    ("amid", 4),
    ("amid", 8),
    ("after", 0),
];

#[test]
fn a_crun_that_is_killed_before_the_program_began_is_told_and_leaves_nothing() {
    for verb in ["create", "start"] {
        for (time, milliseconds) in TIMES {
            let Some(place) = fragile("exec sleep 1000", verb, time, milliseconds) else {
                return;
            };
            let error = place.launch().unwrap_err().to_string();
            let expected = format!("crun {verb}: ");
            assert!(error.starts_with(&expected), "{verb} {time}: {error}");
            assert!(!marker(&place, verb, time).exists());
            place.assert_no_container();
            has_no_processes(&place);
            // Nothing of it is in the next one's way.
            shim::running(place.launch().unwrap());
            place.dismiss();
        }
    }
}

#[test]
fn a_crun_that_is_killed_after_the_end_changes_nothing_of_it() {
    for (time, milliseconds) in TIMES {
        let Some(place) = fragile("exit 7", "delete", time, milliseconds) else {
            return;
        };
        place.launch().unwrap();
        assert_eq!(place.exit().code, 7);
        let is_tried = || (!marker(&place, "delete", time).exists()).then_some(());
        eventually(patience(), is_tried);
        let Recovered::Exited(exit) = place.recover() else {
            panic!("it runs");
        };
        assert_eq!(exit.code, 7);
        place.dismiss();
    }
}

// === A shim that is killed ===

#[tokio::test]
async fn a_stop_whose_shim_is_killed_goes_on_without_it() {
    let Some(node) = node().await else { return };
    let mut job = node.job("lingerer", &["linger"]);
    node.start(&job).await;
    job.has_begun().await;
    let request = StopTaskRequest {
        task_id: job.config.id.clone(),
        timeout: Some(prost_types::Duration {
            seconds: 2,
            nanos: 0,
        }),
        signal: String::new(),
    };
    let mut driver = node.driver();
    let stopped = tokio::spawn(async move { driver.stop_task(request).await });
    // The signal is there, its time is not up.
    job.stdout.until("asked to end\n").await;
    let shim = milo_driver::shim::process(&node.place.tasks()[0])
        .unwrap()
        .expect("a shim");
    shim::kill(&shim);
    soon(stopped).await.unwrap().unwrap();
    let wait = milo_driver::proto::drivers::WaitTaskRequest {
        task_id: job.config.id.clone(),
    };
    let end = soon(node.driver().wait_task(wait)).await.unwrap();
    let end = end.into_inner();
    // Kernels before 6.15 forget how somebody else's child ended.
    let code = end.result.map(|result| result.exit_code);
    assert!(code == Some(137) || !end.err.is_empty(), "{end:?}");
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
}

// === An agent that dies ===

/// Reads something of a plugin's log, and closes it.
fn silence(child: &mut Child) -> io::Result<()> {
    let mut stderr = child.stderr.take().ok_or(io::ErrorKind::NotFound)?;
    let mut some = [0; 1];
    stderr.read_exact(&mut some)
}

#[tokio::test]
async fn a_plugin_whose_log_is_broken_goes_on_with_its_tasks() {
    let Some(mut node) = node().await else { return };
    node.plugin =
        Plugin::launch_with(&tool_binary("milo-driver"), &node.config, Stdio::piped()).await;
    let mut old = node.job("old", &["sleep"]);
    node.start(&old).await;
    old.has_begun().await;
    // The agent has read something, and dies: both pipes are broken.
    silence(&mut node.plugin.child).unwrap();
    drop(node.plugin.child.stdout.take());
    // Each of these says something in the log.
    let new = node.job("new", &["exit", "42"]);
    node.start(&new).await;
    assert_eq!(node.wait(&new).await.exit_code, 42);
    let wrong = Job::new(&node.place, "wrong", &json!({}));
    soon(start(node.driver(), wrong.config.clone()))
        .await
        .unwrap_err();
    node.stop(&old, 0).await;
    assert_eq!(node.wait(&old).await.signal, 9);
    assert!(node.plugin.child.try_wait().unwrap().is_none());
    for job in [old, new] {
        node.destroy(&job).await;
    }
    node.place.until_nothing_is_left();
}

// === A plugin that outlives its agent ===

/// The folder of a job's records.
fn records(place: &Place, job: &Job) -> PathBuf {
    let dir = place.state().task(&TaskId(job.config.id.clone()));
    dir.path().to_owned()
}

#[tokio::test]
async fn a_new_agents_sweep_leaves_what_an_old_plugin_answers_for() {
    let Some(mut node) = node_with(json!({ "gc": { "enabled": true, "grace": "1s" } })).await
    else {
        return;
    };
    let jobs = ["a", "b", "c"].map(|name| node.job(name, &["sleep"]));
    let mut jobs: Vec<Job> = jobs.into();
    // A sweep goes by the records' names: what it removes last shows that it has seen the first.
    jobs.sort_by_key(|job| records(&node.place, job));
    let gone = jobs.pop().unwrap();
    node.start(&gone).await;
    // Its plugin dies, and nobody asks for it any more.
    let mut config = node.config.clone();
    config["gc"]["enabled"] = json!(false);
    let old = Plugin::launch(&node.place, &config).await;
    for job in &jobs {
        soon(start(old.driver.clone(), job.config.clone()))
            .await
            .unwrap();
    }
    node.another_plugin().await;
    let is_gone = |job: &Job| !records(&node.place, job).exists();
    eventually(patience(), || is_gone(&gone).then_some(()));
    for job in &mut jobs {
        assert!(!is_gone(job));
        job.has_begun().await;
    }
    drop(old);
    eventually(patience(), || jobs.iter().all(is_gone).then_some(()));
    node.place.until_nothing_is_left();
}

// === What an agent gives ===

/// A folder of the host that is a mount of its own, whose mounts others see.
struct Volume(PathBuf);

impl Volume {
    fn new(path: PathBuf) -> Self {
        let text = path.to_str().unwrap();
        for arguments in [&["--bind", text, text][..], &["--make-shared", text]] {
            let status = Command::new("mount").args(arguments).status().unwrap();
            assert!(status.success(), "{arguments:?}");
        }
        Self(path)
    }

    /// Something is mounted in it, with a file.
    fn grows(&self) {
        let inner = self.0.join("inner");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "none"]).arg(&inner);
        assert!(mount.status().unwrap().success());
        fs::write(inner.join("file"), "later\n").unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-lR").arg(&self.0).status();
    }
}

/// Something is mounted in the only task there is, by its own first process' view.
fn mount_inside(node: &Node, target: &str) {
    let started = node.place.tasks()[0].started().unwrap().unwrap();
    let mut enter = Command::new("nsenter");
    enter.args(["-m", "-t", &started.pid.to_string()]);
    enter.args(["mount", "-t", "tmpfs", "none", target]);
    assert!(enter.status().unwrap().success(), "{target}");
}

/// What a command in a task says.
async fn said(node: &Node, job: &Job, script: &str) -> String {
    let done = node.exec(job, script).await.unwrap();
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test]
async fn an_agents_volumes_and_devices_are_in_the_task_as_it_wants_them() {
    let Some(node) = node().await else { return };
    let host = node.place.folder("volume");
    for name in ["inner", "private", "slave", "shared"] {
        fs::create_dir(host.join(name)).unwrap();
    }
    fs::write(host.join("file"), "of the host\n").unwrap();
    let volume = Volume::new(host.clone());
    let mut job = node.job("given", &["sleep"]);
    let mount = |task_path: &str, readonly, propagation_mode: &str| Mount {
        task_path: task_path.to_owned(),
        host_path: host.to_str().unwrap().to_owned(),
        readonly,
        propagation_mode: propagation_mode.to_owned(),
        ..Mount::default()
    };
    job.config.mounts = vec![
        mount("/private", false, "private"),
        mount("/slave", true, "host-to-task"),
        mount("/shared", false, "bidirectional"),
    ];
    job.config.devices = vec![Device {
        task_path: "/dev/other".to_owned(),
        host_path: "/dev/full".to_owned(),
        cgroup_permissions: "rw".to_owned(),
    }];
    node.start(&job).await;
    job.has_begun().await;
    volume.grows();
    let look = "for name in private slave shared; do
            cat /$name/file
            echo x 2>/dev/null >/$name/new && echo written; rm -f /$name/new 2>/dev/null
            cat /$name/inner/file 2>/dev/null || echo nothing more
        done; echo x 2>/dev/null >/dev/other || echo full; echo end";
    assert_eq!(
        said(&node, &job, look).await,
        "of the host\nwritten\nnothing more\n\
         of the host\nlater\n\
         of the host\nwritten\nlater\nfull\nend\n"
    );
    // The other way: only from where it was asked for.
    for (name, is_seen) in [("private", false), ("slave", false), ("shared", true)] {
        mount_inside(&node, &format!("/{name}/{name}"));
        let inner = fs::metadata(host.join(name)).unwrap().dev();
        let is_mount = inner != fs::metadata(&host).unwrap().dev();
        assert_eq!(is_mount, is_seen, "{name}");
    }
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
    drop(volume);
}

/// A network namespace, as long as its only process lives.
struct Network(Child);

impl Network {
    fn new() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["-n", "sh", "-c", "echo up; exec sleep 1000"]);
        let mut child = unshare.stdout(Stdio::piped()).spawn().unwrap();
        let mut up = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        Self(child)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_task_is_in_its_groups_network_and_knows_its_name_there() {
    let Some(node) = node().await else { return };
    let network = Network::new();
    let mut job = node.job("grouped", &["sleep"]);
    job.config.network_isolation_spec = Some(NetworkIsolationSpec {
        mode: NetworkIsolationMode::Group.into(),
        path: network.path().to_str().unwrap().to_owned(),
        hosts_config: Some(HostsConfig {
            hostname: "web-1".to_owned(),
            address: "192.0.2.9".to_owned(),
        }),
        ..NetworkIsolationSpec::default()
    });
    node.start(&job).await;
    job.has_begun().await;
    let own = fs::read_link(network.path()).unwrap();
    let look = "readlink /proc/self/ns/net; getent hosts web-1; cat /proc/sys/kernel/hostname";
    assert_eq!(
        said(&node, &job, look).await,
        format!("{}\n192.0.2.9       web-1\nweb-1\n", own.display())
    );
    node.destroy(&job).await;
    node.place.until_nothing_is_left();
    // The namespace is the agent's.
    assert!(network.path().exists());
}

#[test]
fn a_request_of_a_full_disk_is_no_end_of_the_shim() {
    let Some(Cramped { place, disk }) = &cramped("exec sleep 1000") else {
        return;
    };
    let started = place.run();
    disk.fill(0);
    // Its log takes no word of these any more.
    place.ask(&Request::Signal {
        signal: libc::SIGURG,
    });
    place.ask(&Request::Signal { signal: 4711 });
    assert_eq!(shim::running(place.recover()), started);
}
