//! Plans as a whole. What a real runtime makes of them is tested with one, in the crate's `tests/`.

use std::os::unix::fs::PermissionsExt;

use runyard_common::testing::tempdir;

use super::*;
use crate::{
    host::{Kind, Place, Purpose},
    task::{CgroupPlace, Dirs, Mount, Origin, Program, Task, Tmpfs},
};

pub(super) fn task() -> Task {
    let greeting = Program::Greeting {
        shell: "bash".into(),
        text: "hello".into(),
    };
    Task {
        name: "web".into(),
        origin: Origin::Nomad,
        alloc_id: "alloc".into(),
        cgroup: CgroupPlace {
            path: "/milo/test".into(),
            ..CgroupPlace::default()
        },
        ..Task::new("alloc/web/01234567", greeting)
    }
}

pub(super) fn account() -> Account {
    Account {
        uid: 65_534,
        gid: 65_534,
        groups: Vec::new(),
        name: "nobody".into(),
        home: "/nonexistent".into(),
    }
}

/// A machine with a merged `/usr`.
pub(super) fn host() -> Host {
    let place = |path: &str, kind, purpose| Place {
        path: path.into(),
        kind,
        purpose,
    };
    Host {
        cgroup: Mode::V2,
        cgroup_root: cgroup::ROOT.into(),
        cpus: 2,
        arch: "x86_64",
        hostname: "machine".into(),
        hosts: String::new(),
        resolv_conf: String::new(),
        resolv_stub: None,
        timezone: None,
        localtime: None,
        places: vec![
            place("/usr/lib", Kind::Folder, Purpose::Runtime),
            place("/lib", Kind::Link("usr/lib".into()), Purpose::Runtime),
            place("/usr/bin", Kind::Folder, Purpose::Tools),
        ],
        boot_id: String::new(),
        executable: std::env::current_exe().unwrap(),
    }
}

fn planned(task: &Task, host: &Host) -> Result<Plan, BundleError> {
    plan(task, &account(), None, host, Path::new("/bundle"))
}

fn targets(plan: &Plan) -> Vec<&str> {
    let mounts = plan.spec.mounts().as_ref().unwrap();
    mounts
        .iter()
        .map(|mount| mount.destination().to_str().unwrap())
        .collect()
}

fn options<'a>(plan: &'a Plan, target: &str) -> &'a [String] {
    let mounts = plan.spec.mounts().as_ref().unwrap();
    let mount = mounts
        .iter()
        .find(|mount| mount.destination() == Path::new(target));
    mount.unwrap().options().as_deref().unwrap()
}

fn mount(source: &str, target: &str) -> Mount {
    Mount {
        source: source.into(),
        target: target.into(),
        readonly: true,
        propagation: Propagation::Rprivate,
    }
}

#[test]
fn nothing_is_granted_that_was_not_asked_for() {
    let plan = planned(&task(), &host()).unwrap();
    let process = plan.spec.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), Some(true));
    assert_eq!(process.oom_score_adj(), Some(0));
    assert_eq!(process.user().uid(), 65_534);
    assert_eq!(plan.spec.root().as_ref().unwrap().readonly(), Some(true));
    let linux = plan.spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_some());
    assert!(
        linux
            .masked_paths()
            .as_ref()
            .unwrap()
            .contains(&"/proc/kcore".to_owned())
    );
    assert_eq!(
        linux.cgroups_path().as_deref(),
        Some(Path::new("/milo/test"))
    );
    assert_eq!(*linux.rootfs_propagation(), None);
    assert_eq!(options(&plan, "/usr/lib"), view::READ_ONLY);
}

#[test]
fn the_network_decides_over_its_namespace() {
    let kinds = |network: Network| {
        let plan = planned(&Task { network, ..task() }, &host()).unwrap();
        let linux = plan.spec.linux().clone().unwrap();
        let namespaces = linux.namespaces().clone().unwrap();
        let network = namespaces
            .iter()
            .find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
        network.map(|namespace| namespace.path().clone())
    };
    let path = PathBuf::from("/run/netns/x");
    assert_eq!(kinds(Network::Host), None);
    assert_eq!(kinds(Network::None), Some(None));
    let joined = Network::Join {
        path: path.clone(),
        hostname: None,
        address: None,
    };
    assert_eq!(kinds(joined), Some(Some(path)));
}

#[test]
fn only_version_2_has_namespaces_of_control_groups() {
    let count = |cgroup| {
        let plan = planned(&task(), &Host { cgroup, ..host() }).unwrap();
        let linux = plan.spec.linux().clone().unwrap();
        linux.namespaces().as_ref().unwrap().len()
    };
    assert_eq!(count(Mode::V2), 5);
    assert_eq!(count(Mode::Hybrid), 4);
}

#[test]
fn without_control_groups_none_are_named_or_shown() {
    let mut task = task();
    task.cgroup.disabled = true;
    let plan = planned(&task, &host()).unwrap();
    let linux = plan.spec.linux().as_ref().unwrap();
    assert_eq!(*linux.cgroups_path(), None);
    assert_eq!(*linux.resources(), None);
    assert!(!targets(&plan).contains(&"/sys/fs/cgroup"));
}

#[test]
fn the_root_of_all_control_groups_is_refused() {
    let mut task = task();
    task.cgroup.path = "/".into();
    let error = planned(&task, &host()).unwrap_err().to_string();
    assert!(error.contains("`/` is not below the root"), "{error}");
}

#[test]
fn programs_of_the_host_are_there_only_if_wanted() {
    let mut task = task();
    assert!(targets(&planned(&task, &host()).unwrap()).contains(&"/usr/bin"));
    task.security.host_tools = false;
    assert!(!targets(&planned(&task, &host()).unwrap()).contains(&"/usr/bin"));
}

#[test]
fn what_is_written_can_run_from_local_but_not_from_secrets() {
    let folder = tempdir();
    let dir = Some(folder.path().to_owned());
    let mut task = task();
    task.dirs = Dirs {
        alloc: dir.clone(),
        local: dir.clone(),
        secrets: dir,
    };
    let plan = planned(&task, &host()).unwrap();
    let noexec = |target| options(&plan, target).contains(&"noexec".to_owned());
    assert!(!noexec("/local") && !noexec("/alloc") && !noexec("/tmp"));
    assert!(noexec("/secrets"));
    assert!(options(&plan, "/secrets").contains(&"rw".to_owned()));
}

#[test]
fn outer_mounts_come_before_those_within() {
    let mut task = task();
    task.mounts = vec![mount("/usr", "/data/a/b"), mount("/usr", "/data")];
    task.tmpfs = vec![Tmpfs {
        target: "data/a".into(),
        size: Some(4096),
        mode: None,
    }];
    let plan = planned(&task, &host()).unwrap();
    let targets = targets(&plan);
    assert_eq!(
        targets[targets.len() - 3..],
        ["/data", "/data/a", "/data/a/b"]
    );
    assert!(options(&plan, "/data/a").contains(&"size=4096".to_owned()));
}

#[test]
fn mounts_that_cannot_be_are_refused_with_the_reason() {
    let refused = |asked: Mount| {
        let mut task = task();
        task.mounts = vec![asked];
        planned(&task, &host()).unwrap_err().to_string()
    };
    assert!(refused(mount("/nowhere", "/data")).contains("`/nowhere` on the host"));
    assert!(refused(mount("/usr", "/")).contains("the root itself"));
    assert!(refused(mount("/usr", "/a/../b")).contains("`..`"));
    assert!(refused(mount("/usr", "/proc/1")).contains("/proc is the kernel's"));
    assert!(refused(mount("/usr", "/lib/nonesuch")).contains("/usr/lib is the host's"));
}

#[test]
fn an_open_mount_opens_the_root_for_it() {
    let mut task = task();
    task.mounts = vec![Mount {
        propagation: Propagation::Rslave,
        ..mount("/usr", "/data")
    }];
    let plan = planned(&task, &host()).unwrap();
    let linux = plan.spec.linux().as_ref().unwrap();
    assert_eq!(linux.rootfs_propagation().as_deref(), Some("rslave"));
    assert_eq!(options(&plan, "/data").last().unwrap(), "rslave");
}

#[test]
fn an_init_runs_what_was_to_be_run() {
    let mut task = task();
    task.init = true;
    let host = host();
    let plan = planned(&task, &host).unwrap();
    let args = plan
        .spec
        .process()
        .as_ref()
        .unwrap()
        .args()
        .clone()
        .unwrap();
    assert_eq!(args[..3], ["/run/milo-init", "init", "--"]);
    assert!(args[3].ends_with("/bash"));
    let mounts = plan.spec.mounts().as_ref().unwrap();
    assert_eq!(
        mounts.last().unwrap().source().as_ref(),
        Some(&host.executable)
    );
}

#[test]
fn a_root_file_system_of_ones_own_is_not_filled_with_the_hosts() {
    let rootfs = tempdir();
    fs::create_dir_all(rootfs.path().join("bin")).unwrap();
    fs::write(rootfs.path().join("bin/bash"), "").unwrap();
    let task = Task {
        rootfs: Some(rootfs.path().to_owned()),
        ..task()
    };
    let plan = planned(&task, &host()).unwrap();
    assert!(!targets(&plan).contains(&"/usr/lib"));
    assert!(targets(&plan).contains(&"/etc/hosts"));
    assert!(!targets(&plan).contains(&"/etc/passwd"));
    assert!(plan.files.iter().all(|file| file.path.starts_with("etc")));
    assert_eq!(plan.spec.root().as_ref().unwrap().path(), rootfs.path());

    let without = Task { init: true, ..task };
    let error = planned(&without, &host()).unwrap_err().to_string();
    assert!(
        error.contains("which is not in the root file system"),
        "{error}"
    );
}

#[test]
fn a_java_program_without_a_jvm_is_refused() {
    let task = Task {
        program: Program::Java(crate::task::Java::default()),
        ..task()
    };
    let error = planned(&task, &host()).unwrap_err().to_string();
    assert!(
        error.starts_with("no Java runtime was chosen for `web`"),
        "{error}"
    );
}

#[test]
fn a_bundle_is_written_twice_and_its_secrets_are_its_owners() {
    let folder = tempdir();
    let bundle = folder.path().join("bundle");
    let mut task = task();
    task.env.insert("PASSWORD".into(), "secret".into());
    let plan = plan(&task, &account(), None, &host(), &bundle).unwrap();
    plan.write(&bundle).unwrap();
    plan.write(&bundle).unwrap();
    let mode = |path: &str| {
        let metadata = fs::symlink_metadata(bundle.join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("config.json"), 0o600);
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("rootfs"), 0o755);
    assert_eq!(mode("rootfs/usr"), 0o755);
    assert_eq!(mode("rootfs/etc/passwd"), 0o644);
    assert_eq!(
        fs::read_link(bundle.join("rootfs/lib")).unwrap(),
        Path::new("usr/lib")
    );
    let spec = Spec::load(bundle.join("config.json")).unwrap();
    assert_eq!(spec, plan.spec);
}

#[test]
fn a_link_that_was_there_before_leads_nothing_to_the_host() {
    let folder = tempdir();
    let (bundle, outside) = (folder.path().join("bundle"), folder.path().join("outside"));
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, bundle.join("rootfs/etc")).unwrap();
    planned(&task(), &host()).unwrap().write(&bundle).unwrap();
    assert!(
        bundle
            .join("rootfs/etc")
            .symlink_metadata()
            .unwrap()
            .is_dir()
    );
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}
