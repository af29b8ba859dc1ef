//! A job's `config { }` block of a task: what it may hold, and the [`TaskOptions`] that were given. Whether they are legal,
//! and what they come to together with the task, is for [`super::task`].
//!
//! `class`, `class_path`, `jar_path`, `jvm_options`, `args`, `work_dir`, `cap_add`, `cap_drop`, `pid_mode` and `ipc_mode` are
//! those of Nomad's `java` driver.

use std::collections::BTreeMap;

use super::{
    hclspec::{attr, attrs, blocks, object, required},
    msgpack::{Options, OptionsError},
};
use crate::proto::hclspec::Spec;

/// What a job says of a task. What is `None` or empty was not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskOptions {
    /// The JAR, as the task sees it.
    pub jar_path: Option<String>,
    /// The main class.
    pub class: Option<String>,
    /// Where classes are.
    pub class_path: Option<String>,
    /// Options of the JVM.
    pub jvm_options: Vec<String>,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// A version of Java.
    pub java_version: Option<String>,
    /// A vendor of Java.
    pub java_vendor: Option<String>,
    /// A JVM's home on the host.
    pub java_home: Option<String>,
    /// The heap as a share of the memory.
    pub heap_percent: Option<f64>,
    /// The heap in MiB.
    pub heap_mb: Option<i64>,
    /// Whether the JVM ends at its first `OutOfMemoryError`; it does by default.
    pub exit_on_oom: Option<bool>,
    /// Whether it writes a heap dump then.
    pub heap_dump: Option<bool>,
    /// Where it begins.
    pub work_dir: Option<String>,
    /// Folders, files and memory.
    pub mounts: Vec<MountOption>,
    /// The same in short: `source:target[:ro]`.
    pub volumes: Vec<String>,
    /// Memory-backed folders: `target[:size=64m,mode=1777]`.
    pub tmpfs: Vec<String>,
    /// Capabilities to have.
    pub cap_add: Vec<String>,
    /// Capabilities not to have.
    pub cap_drop: Vec<String>,
    /// `default`, `unconfined`, or a profile's path.
    pub seccomp_profile: Option<String>,
    /// Whether the root is read-only; it is by default.
    pub readonly_rootfs: Option<bool>,
    /// Processes and threads together.
    pub pids_limit: Option<i64>,
    /// Resource limits: `soft` or `soft:hard`.
    pub ulimit: BTreeMap<String, String>,
    /// Kernel parameters.
    pub sysctl: BTreeMap<String, String>,
    /// The size of `/dev/shm`: `64m`.
    pub shm_size: Option<String>,
    /// Whether its share of the CPUs is also the most it gets.
    pub cpu_hard_limit: Option<bool>,
    /// More hosts: `name:address`.
    pub extra_hosts: Vec<String>,
    /// Whether a small init is PID 1.
    pub init: Option<bool>,
    /// A prepared root on the host.
    pub rootfs: Option<String>,
    /// What is echoed, where there is no JAR.
    pub greeting: Option<String>,
    /// What happens when the log is not read: `block` or `drop`.
    pub log_mode: Option<String>,
    /// Which processes it sees: `private` only.
    pub pid_mode: Option<String>,
    /// Which shared memory it sees: `private` only.
    pub ipc_mode: Option<String>,
}

/// One `mount { }`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MountOption {
    /// `bind` or `tmpfs`.
    pub kind: Option<String>,
    /// What is mounted.
    pub source: Option<String>,
    /// Where.
    pub target: Option<String>,
    /// Whether it cannot be written.
    pub readonly: Option<bool>,
    /// `rprivate`, `rslave` or `rshared`.
    pub propagation: Option<String>,
    /// The size of a tmpfs.
    pub size: Option<String>,
    /// The mode of a tmpfs, octal.
    pub mode: Option<String>,
}

/// What the block may hold.
pub fn schema() -> Spec {
    let string = |name| (name, attr(name, "string"));
    let strings = |name| (name, attr(name, "list(string)"));
    let flag = |name| (name, attr(name, "bool"));
    let number = |name| (name, attr(name, "number"));
    let map = |name| (name, attrs(name, "string"));
    object([
        string("jar_path"),
        string("class"),
        string("class_path"),
        strings("jvm_options"),
        strings("args"),
        string("java_version"),
        string("java_vendor"),
        string("java_home"),
        number("heap_percent"),
        number("heap_mb"),
        flag("exit_on_oom"),
        flag("heap_dump"),
        string("work_dir"),
        ("mount", blocks("mount", mount_schema())),
        strings("volumes"),
        strings("tmpfs"),
        strings("cap_add"),
        strings("cap_drop"),
        string("seccomp_profile"),
        flag("readonly_rootfs"),
        number("pids_limit"),
        map("ulimit"),
        map("sysctl"),
        string("shm_size"),
        flag("cpu_hard_limit"),
        strings("extra_hosts"),
        flag("init"),
        string("rootfs"),
        string("greeting"),
        string("log_mode"),
        string("pid_mode"),
        string("ipc_mode"),
    ])
}

fn mount_schema() -> Spec {
    object([
        ("type", attr("type", "string")),
        ("source", attr("source", "string")),
        ("target", required("target", "string")),
        ("readonly", attr("readonly", "bool")),
        ("propagation", attr("propagation", "string")),
        ("size", attr("size", "string")),
        ("mode", attr("mode", "string")),
    ])
}

/// The options in a block in msgpack.
pub fn decode(bytes: &[u8]) -> Result<TaskOptions, OptionsError> {
    let options = Options::decode(bytes)?;
    Ok(TaskOptions {
        jar_path: options.text("jar_path")?,
        class: options.text("class")?,
        class_path: options.text("class_path")?,
        jvm_options: options.texts("jvm_options")?,
        args: options.texts("args")?,
        java_version: options.text("java_version")?,
        java_vendor: options.text("java_vendor")?,
        java_home: options.text("java_home")?,
        heap_percent: options.number("heap_percent")?,
        heap_mb: options.whole("heap_mb")?,
        exit_on_oom: options.flag("exit_on_oom")?,
        heap_dump: options.flag("heap_dump")?,
        work_dir: options.text("work_dir")?,
        mounts: options
            .blocks("mount")?
            .iter()
            .map(mount)
            .collect::<Result<_, _>>()?,
        volumes: options.texts("volumes")?,
        tmpfs: options.texts("tmpfs")?,
        cap_add: options.texts("cap_add")?,
        cap_drop: options.texts("cap_drop")?,
        seccomp_profile: options.text("seccomp_profile")?,
        readonly_rootfs: options.flag("readonly_rootfs")?,
        pids_limit: options.whole("pids_limit")?,
        ulimit: options.map("ulimit")?,
        sysctl: options.map("sysctl")?,
        shm_size: options.text("shm_size")?,
        cpu_hard_limit: options.flag("cpu_hard_limit")?,
        extra_hosts: options.texts("extra_hosts")?,
        init: options.flag("init")?,
        rootfs: options.text("rootfs")?,
        greeting: options.any_text("greeting")?,
        log_mode: options.text("log_mode")?,
        pid_mode: options.text("pid_mode")?,
        ipc_mode: options.text("ipc_mode")?,
    })
}

fn mount(options: &Options) -> Result<MountOption, OptionsError> {
    Ok(MountOption {
        kind: options.text("type")?,
        source: options.text("source")?,
        target: options.text("target")?,
        readonly: options.flag("readonly")?,
        propagation: options.text("propagation")?,
        size: options.text("size")?,
        mode: options.text("mode")?,
    })
}

#[cfg(test)]
mod tests {
    use rmpv::Value;

    use super::*;
    use crate::proto::hclspec::spec;

    fn names() -> Vec<String> {
        let Some(spec::Block::Object(object)) = schema().block else {
            panic!("not an object");
        };
        object.attributes.into_keys().collect()
    }

    fn encode(members: Vec<(Value, Value)>) -> Vec<u8> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &Value::Map(members)).unwrap();
        bytes
    }

    #[test]
    fn a_block_of_nils_says_nothing() {
        let mut nils: Vec<_> = names()
            .into_iter()
            .map(|name| (name.into(), Value::Nil))
            .collect();
        assert_eq!(decode(&encode(nils.clone())), Ok(TaskOptions::default()));
        // Blocks that may be repeated come as an empty list.
        nils.retain(|(name, _)| name != &Value::from("mount"));
        nils.push(("mount".into(), Value::Array(Vec::new())));
        assert_eq!(decode(&encode(nils)), Ok(TaskOptions::default()));
    }

    #[test]
    fn the_java_drivers_options_are_all_known() {
        let names = names();
        for name in [
            "class",
            "class_path",
            "jar_path",
            "jvm_options",
            "args",
            "pid_mode",
            "ipc_mode",
            "cap_add",
            "cap_drop",
            "work_dir",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn mounts_keep_their_order() {
        let mount = |target: &str| {
            Value::Map(vec![
                ("target".into(), target.into()),
                ("source".into(), Value::Nil),
            ])
        };
        let bytes = encode(vec![(
            "mount".into(),
            Value::Array(vec![mount("/b"), mount("/a")]),
        )]);
        let targets: Vec<_> = decode(&bytes)
            .unwrap()
            .mounts
            .into_iter()
            .map(|mount| mount.target.unwrap())
            .collect();
        assert_eq!(targets, ["/b", "/a"]);
    }
}
