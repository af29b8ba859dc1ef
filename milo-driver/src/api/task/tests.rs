use super::*;
use crate::task::Propagation;

const ID: &str = "9f0c/web/01234567";

fn wire() -> wire::TaskConfig {
    wire::TaskConfig {
        id: ID.to_owned(),
        name: "web".to_owned(),
        alloc_id: "9f0c".to_owned(),
        alloc_dir: "/nomad/alloc/9f0c".to_owned(),
        stdout_path: "/nomad/alloc/9f0c/alloc/logs/.web.stdout.fifo".to_owned(),
        stderr_path: "/dev/null".to_owned(),
        ..wire::TaskConfig::default()
    }
}

fn with_memory(memory_mb: i64, memory_max_mb: i64) -> wire::TaskConfig {
    let mut wire = wire();
    wire.resources = Some(wire::Resources {
        allocated_resources: Some(wire::AllocatedTaskResources {
            memory: Some(wire::AllocatedMemoryResources {
                memory_mb,
                memory_max_mb,
            }),
            ..Default::default()
        }),
        linux_resources: Some(wire::LinuxResources {
            memory_limit_bytes: memory_mb.max(memory_max_mb) << 20,
            cpu_shares: 500,
            percent_ticks: 0.125,
            ..Default::default()
        }),
        ports: Vec::new(),
    });
    wire
}

fn with_cpuset_cgroup(path: &str) -> wire::TaskConfig {
    let mut wire = with_memory(256, 0);
    let resources = wire.resources.as_mut().unwrap();
    resources.linux_resources.as_mut().unwrap().cpuset_cgroup = path.to_owned();
    wire
}

fn with_network(spec: wire::NetworkIsolationSpec) -> wire::TaskConfig {
    wire::TaskConfig {
        network_isolation_spec: Some(spec),
        ..wire()
    }
}

const COMPUTE: Compute = Compute {
    megahertz: 16_000,
    cpus: 8,
};

fn convert(wire: &wire::TaskConfig, options: &TaskOptions) -> Result<Task, Refusal> {
    task(wire, options, &Config::default(), COMPUTE)
}

fn plain(wire: &wire::TaskConfig) -> Task {
    convert(wire, &TaskOptions::default()).unwrap()
}

fn refusal(options: &TaskOptions) -> String {
    convert(&wire(), options).unwrap_err().to_string()
}

#[test]
fn a_bare_task_is_a_jar_to_be_found_with_the_safest_settings() {
    let task = plain(&wire());
    let Program::Java(java) = task.program else {
        panic!("not Java");
    };
    assert_eq!(
        (java.jar, java.class, java.heap),
        (None, None, Heap::Percent(75.0))
    );
    assert!(java.exit_on_oom && !java.heap_dump);
    assert_eq!(task.security, Security::default());
    assert_eq!(
        (task.limits.pids, task.limits.oom_score_adj),
        (Some(4096), 0)
    );
    assert_eq!(task.network, Network::Host);
}

#[test]
fn the_tasks_folders_are_those_it_should_see_and_no_more() {
    let dirs = plain(&wire()).dirs;
    assert_eq!(dirs.alloc.unwrap(), Path::new("/nomad/alloc/9f0c/alloc"));
    assert_eq!(
        dirs.local.unwrap(),
        Path::new("/nomad/alloc/9f0c/web/local")
    );
    assert_eq!(
        dirs.secrets.unwrap(),
        Path::new("/nomad/alloc/9f0c/web/secrets")
    );
    for name in ["..", "a/b", ""] {
        let wire = wire::TaskConfig {
            name: name.to_owned(),
            ..wire()
        };
        assert!(convert(&wire, &TaskOptions::default()).is_err(), "{name}");
    }
}

#[test]
fn memory_is_limited_by_the_maximum_and_the_heap_sized_from_the_rest() {
    let memory = |memory, max| {
        let limits = plain(&with_memory(memory, max)).limits;
        (limits.memory, limits.memory_reservation, limits.heap_basis)
    };
    let mib = |size: u64| Some(size << 20);
    assert_eq!(memory(256, 0), (mib(256), None, mib(256)));
    assert_eq!(memory(256, 512), (mib(512), mib(256), mib(256)));
    assert_eq!(memory(256, -1), (None, mib(256), mib(256)));
}

#[test]
fn shares_are_scaled_down_only_where_the_kernel_has_too_few() {
    let large = Compute {
        megahertz: 2 * MAX_SHARES,
        cpus: 128,
    };
    assert_eq!(shares(1000, COMPUTE), 1000);
    assert_eq!(shares(1000, large), 500);
    assert_eq!(shares(1, large), MIN_SHARES);
    assert_eq!(shares(-5, COMPUTE), MIN_SHARES);
}

#[test]
fn a_hard_limit_is_the_share_of_all_cpus() {
    let options = TaskOptions {
        cpu_hard_limit: Some(true),
        ..TaskOptions::default()
    };
    let task = convert(&with_memory(64, 0), &options).unwrap();
    assert_eq!(task.limits.cpu_quota, Some(1.0));
    assert_eq!(plain(&with_memory(64, 0)).limits.cpu_quota, None);
    assert!(convert(&wire(), &options).is_err());
}

#[test]
fn the_cgroup_is_the_agents_on_both_versions_and_our_own_without() {
    let place = |path| plain(&with_cpuset_cgroup(path)).cgroup;
    let two = place("/sys/fs/cgroup/nomad.slice/share.slice/9f0c.web.scope");
    assert_eq!(
        (two.path.as_str(), two.join.len()),
        ("/nomad.slice/share.slice/9f0c.web.scope", 0)
    );
    let one = place("/sys/fs/cgroup/cpuset/nomad/share");
    assert_eq!(one.path, "/nomad/9f0c.web");
    assert_eq!(one.join, [Path::new("/sys/fs/cgroup/cpuset/nomad/share")]);
    let own = cgroup::own(&Config::default().state_dir, &TaskId(ID.to_owned()));
    assert_eq!(place(""), own);
    assert!(convert(&with_cpuset_cgroup("/tmp/x"), &TaskOptions::default()).is_err());
    assert!(
        convert(
            &with_cpuset_cgroup("/sys/fs/cgroup/../../etc"),
            &TaskOptions::default()
        )
        .is_err()
    );
}

#[test]
fn a_group_network_is_joined() {
    let spec = wire::NetworkIsolationSpec {
        mode: Mode::Group.into(),
        path: "/run/netns/9f0c".to_owned(),
        hosts_config: Some(wire::HostsConfig {
            hostname: "web".to_owned(),
            address: "172.26.64.2".to_owned(),
        }),
        ..Default::default()
    };
    let Network::Join {
        path,
        hostname,
        address,
    } = plain(&with_network(spec.clone())).network
    else {
        panic!("not joined");
    };
    assert_eq!(path, Path::new("/run/netns/9f0c"));
    assert_eq!(
        (hostname.as_deref(), address.as_deref()),
        (Some("web"), Some("172.26.64.2"))
    );
    let nowhere = wire::NetworkIsolationSpec {
        path: String::new(),
        ..spec.clone()
    };
    assert!(convert(&with_network(nowhere), &TaskOptions::default()).is_err());
    let host = wire::NetworkIsolationSpec {
        mode: Mode::Host.into(),
        ..spec
    };
    assert_eq!(plain(&with_network(host)).network, Network::Host);
}

#[test]
fn logs_go_to_the_fifo_or_nowhere() {
    let stdio = plain(&wire()).stdio;
    assert_eq!(
        stdio.stdout,
        Stream::Fifo("/nomad/alloc/9f0c/alloc/logs/.web.stdout.fifo".into())
    );
    assert_eq!((stdio.stderr, stdio.stdin), (Stream::Null, Stream::Null));
}

#[test]
fn volumes_of_the_agent_come_before_the_jobs_own() {
    let mount = |mode: &str| wire::Mount {
        task_path: "/data".to_owned(),
        host_path: "/srv/data".to_owned(),
        readonly: true,
        propagation_mode: mode.to_owned(),
        ..Default::default()
    };
    let options = TaskOptions {
        volumes: vec!["local/x:/x".to_owned()],
        ..TaskOptions::default()
    };
    let wire = wire::TaskConfig {
        mounts: vec![mount("host-to-task"), mount("")],
        ..wire()
    };
    let mounts = convert(&wire, &options).unwrap().mounts;
    let kinds: Vec<_> = mounts
        .iter()
        .map(|mount| (mount.propagation, mount.readonly))
        .collect();
    assert_eq!(
        kinds,
        [
            (Propagation::Rslave, true),
            (Propagation::Rprivate, true),
            (Propagation::Rprivate, false)
        ]
    );
    let odd = wire::TaskConfig {
        mounts: vec![mount("sideways")],
        ..self::wire()
    };
    assert!(convert(&odd, &TaskOptions::default()).is_err());
}

#[test]
fn a_device_has_all_permissions_unless_told() {
    let given = wire::Device {
        host_path: "/dev/fuse".to_owned(),
        ..Default::default()
    };
    let wire = wire::TaskConfig {
        devices: vec![given],
        ..wire()
    };
    let devices = plain(&wire).devices;
    assert_eq!(
        (devices[0].permissions.as_str(), devices[0].target.as_path()),
        ("rwm", Path::new("/dev/fuse"))
    );
}

#[test]
fn a_class_of_a_jar_is_run_from_the_jar() {
    let options = TaskOptions {
        jar_path: Some("local/app.jar".to_owned()),
        class: Some("Main".to_owned()),
        class_path: Some("local/lib/*".to_owned()),
        ..TaskOptions::default()
    };
    let Program::Java(java) = convert(&wire(), &options).unwrap().program else {
        panic!("not Java");
    };
    assert_eq!(
        (java.jar, java.class_path.as_deref()),
        (None, Some("local/app.jar:local/lib/*"))
    );
}

#[test]
fn a_greeting_needs_no_java() {
    let options = TaskOptions {
        greeting: Some("hello".to_owned()),
        ..TaskOptions::default()
    };
    let program = convert(&wire(), &options).unwrap().program;
    assert_eq!(
        program,
        Program::Greeting {
            shell: "bash".to_owned(),
            text: "hello".to_owned()
        }
    );
    let both = TaskOptions {
        jar_path: Some("a.jar".to_owned()),
        ..options
    };
    assert_eq!(
        refusal(&both),
        "options `greeting` and `jar_path` exclude each other: drop one of them"
    );
}

#[test]
fn what_cannot_be_is_named() {
    let with = |set: fn(&mut TaskOptions)| {
        let mut options = TaskOptions::default();
        set(&mut options);
        refusal(&options)
    };
    assert!(with(|options| options.pid_mode = Some("host".to_owned())).contains("`pid_mode`"));
    assert!(with(|options| options.work_dir = Some("app".to_owned())).contains("`work_dir`"));
    assert!(with(|options| options.heap_mb = Some(0)).contains("`heap_mb`"));
    assert!(with(|options| options.log_mode = Some("lossy".to_owned())).contains("`log_mode`"));
    assert!(
        with(|options| options.rootfs = Some("/srv/root".to_owned()))
            .contains("allow_rootfs = true")
    );
    assert!(with(|options| options.extra_hosts = vec!["db".to_owned()]).contains("`extra_hosts`"));
    assert!(
        with(|options| options.extra_hosts = vec!["a\nb:10.0.0.1".to_owned()])
            .contains("`extra_hosts`")
    );
    let both = with(|options| (options.heap_mb, options.heap_percent) = (Some(1), Some(1.0)));
    assert!(both.contains("exclude each other"));
}

#[test]
fn a_host_may_have_an_address_of_either_kind() {
    let hosts = extra_hosts(&[
        "db:10.0.0.1".to_owned(),
        "six:fd00::1".to_owned(),
        "seven:[::1]".to_owned(),
    ])
    .unwrap();
    let addresses: Vec<_> = hosts.iter().map(|host| host.address.as_str()).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1", "::1"]);
}

#[test]
fn root_needs_the_operator() {
    let wire = wire::TaskConfig {
        user: "root".to_owned(),
        ..wire()
    };
    let text = convert(&wire, &TaskOptions::default())
        .unwrap_err()
        .to_string();
    assert!(text.contains("allow_privileged_user = true"), "{text}");
}
