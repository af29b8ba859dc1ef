//! The system-call filter: the built-in one, none, or one from a file. The names of the built-in one are in [`table`].
//!
//! The built-in filter lets an unprivileged container do what Docker's and Podman's let it do:
//!
//! - What is not listed does not exist (`ENOSYS`), so that programs fall back to older calls, also from calls that are
//!   newer than the list. What is known and forbidden is forbidden (`EPERM`).
//! - `clone` makes threads and processes, but no namespaces. `clone3`, whose flags a filter cannot see, does not exist; the
//!   C library then uses `clone`.
//! - `personality` may not switch off address randomisation.
//! - `socket` opens no `AF_VSOCK`, which reaches around network namespaces.
//! - Programs of another architecture than the machine's are killed, but for a JVM of 32 bits.
//! - `io_uring` is forbidden, which reaches around this filter.

mod table;

use std::{collections::BTreeSet, fs, path::Path};

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

use super::{BundleError, security};
use crate::task::{Seccomp, Security};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The personalities that Docker allows: `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question which it is.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET` of clone(2).
const NAMESPACES: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];
const AF_VSOCK: u64 = 40;

/// The filter that a task asks for, on a machine of this architecture; `narrow` if its program is of 32 bits.
pub(super) fn filter(
    security: &Security,
    arch: &str,
    narrow: bool,
) -> Result<Option<LinuxSeccomp>, BundleError> {
    match &security.seccomp {
        Seccomp::Default => Ok(Some(default(&security::wanted(security)?, arch, narrow))),
        Seccomp::Unconfined => Ok(None),
        Seccomp::Profile(path) => profile(path).map(Some),
    }
}

fn default(capabilities: &Capabilities, arch: &str, narrow: bool) -> LinuxSeccomp {
    let mut allowed: BTreeSet<&str> = table::ALLOWED.iter().copied().collect();
    let mut denied: BTreeSet<&str> = table::DENIED.iter().copied().collect();
    let (architectures, more) = architectures(arch, narrow);
    allowed.extend(more);
    for (capability, names) in table::WITH_CAPABILITY {
        if capabilities.contains(capability) {
            allowed.extend(*names);
        } else {
            denied.extend(*names);
        }
    }
    denied.retain(|name| !allowed.contains(name) && !CONDITIONAL.contains(name));
    let mut rules = vec![
        rule(allowed, LinuxSeccompAction::ScmpActAllow, &[]),
        deny(denied, EPERM, &[]),
    ];
    rules.extend(conditional(capabilities));
    let mut filter = LinuxSeccomp::default();
    filter
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(ENOSYS))
        .set_architectures(architectures)
        .set_syscalls(Some(rules));
    filter
}

/// What is decided by its arguments, not by its name.
const CONDITIONAL: [&str; 4] = ["clone", "clone3", "personality", "socket"];

fn conditional(capabilities: &Capabilities) -> Vec<LinuxSyscall> {
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpMaskedEq, ScmpCmpNe};
    let allow = |name, arg| rule([name], LinuxSeccompAction::ScmpActAllow, &[arg]);
    let mut rules: Vec<_> = PERSONALITIES
        .map(|value| allow("personality", arg(ScmpCmpEq, value, None)))
        .to_vec();
    rules.push(allow("socket", arg(ScmpCmpNe, AF_VSOCK, None)));
    rules.push(deny(["socket"], EPERM, &[arg(ScmpCmpEq, AF_VSOCK, None)]));
    if !capabilities.contains(&Capability::SysAdmin) {
        let all = NAMESPACES.iter().sum();
        rules.push(allow("clone", arg(ScmpCmpMaskedEq, all, Some(0))));
        let flag = |flag| deny(["clone"], EPERM, &[arg(ScmpCmpMaskedEq, flag, Some(flag))]);
        rules.extend(NAMESPACES.map(flag));
        rules.push(deny(["clone3"], ENOSYS, &[]));
    }
    rules
}

/// The architectures whose programs may run, and the calls that only they have. The machine's own is enough for all
/// but a JVM of 32 bits: each further one makes crun compile the whole filter once more, for every container.
fn architectures(arch: &str, narrow: bool) -> (Option<Vec<Arch>>, &'static [&'static str]) {
    let (own, other, calls) = match arch {
        "x86_64" => (
            Arch::ScmpArchX86_64,
            Arch::ScmpArchX86,
            table::ALLOWED_X86_64,
        ),
        "aarch64" => (
            Arch::ScmpArchAarch64,
            Arch::ScmpArchArm,
            table::ALLOWED_AARCH64,
        ),
        _ => return (None, &[]),
    };
    let mut architectures = vec![own];
    architectures.extend(narrow.then_some(other));
    (Some(architectures), calls)
}

fn deny<'a>(
    names: impl IntoIterator<Item = &'a str>,
    errno: u32,
    args: &[LinuxSeccompArg],
) -> LinuxSyscall {
    let mut rule = rule(names, LinuxSeccompAction::ScmpActErrno, args);
    rule.set_errno_ret(Some(errno));
    rule
}

fn rule<'a>(
    names: impl IntoIterator<Item = &'a str>,
    action: LinuxSeccompAction,
    args: &[LinuxSeccompArg],
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(str::to_owned).collect())
        .set_action(action)
        .set_args((!args.is_empty()).then(|| args.to_vec()));
    rule
}

/// A condition on the first argument; `masked` is what the masked argument must be.
fn arg(op: LinuxSeccompOperator, value: u64, masked: Option<u64>) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .op(op)
        .value(value);
    let builder = match masked {
        Some(masked) => builder.value_two(masked),
        None => builder,
    };
    // No field is required, so it cannot fail.
    builder.build().unwrap_or_default()
}

/// A filter from a file in the runtime specification's form. Docker's form, with its conditions on architectures and
/// capabilities, would be read without them and so allow more than it says.
fn profile(path: &Path) -> Result<LinuxSeccomp, BundleError> {
    let refused = |reason: String| BundleError::Seccomp {
        path: path.to_owned(),
        reason,
    };
    let text = fs::read(path).map_err(|error| refused(error.to_string()))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    if is_dockers(&json) {
        return Err(refused(
            "is in Docker's form (`archMap`, `includes`, `excludes`): give it in the form of \
             `linux.seccomp` in the OCI runtime specification"
                .to_owned(),
        ));
    }
    serde_json::from_value(json).map_err(|error| refused(error.to_string()))
}

fn is_dockers(json: &serde_json::Value) -> bool {
    let rules = json["syscalls"].as_array().map_or(&[][..], Vec::as_slice);
    let is_filled =
        |value: &serde_json::Value| value.as_object().is_some_and(|members| !members.is_empty());
    json.get("archMap").is_some()
        || rules
            .iter()
            .any(|rule| is_filled(&rule["includes"]) || is_filled(&rule["excludes"]))
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::tempdir;

    use super::*;

    fn action(filter: &LinuxSeccomp, name: &str) -> Vec<(LinuxSeccompAction, Option<u32>)> {
        let rules = filter.syscalls().as_ref().unwrap();
        rules
            .iter()
            .filter(|rule| rule.names().iter().any(|known| known == name))
            .map(|rule| (rule.action(), rule.errno_ret()))
            .collect()
    }

    fn none() -> Capabilities {
        Capabilities::new()
    }

    #[test]
    fn the_tables_are_sorted_and_do_not_contradict_each_other() {
        let with: Vec<_> = table::WITH_CAPABILITY
            .iter()
            .map(|(_, names)| *names)
            .collect();
        let mut lists = vec![
            table::ALLOWED,
            table::ALLOWED_X86_64,
            table::ALLOWED_AARCH64,
            table::DENIED,
        ];
        lists.extend(&with);
        for list in lists {
            assert!(list.is_sorted_by(|one, other| one < other), "{list:?}");
        }
        for names in with.into_iter().chain([table::DENIED, &CONDITIONAL]) {
            for name in names
                .iter()
                .filter(|name| **name != "personality" && **name != "socket")
            {
                assert!(table::ALLOWED.binary_search(name).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn every_call_has_one_rule_unless_arguments_decide() {
        for arch in ["x86_64", "aarch64", "riscv64"] {
            let filter = default(&none(), arch, false);
            for rule in &filter.syscalls().as_ref().unwrap()[..2] {
                for name in rule.names() {
                    assert_eq!(action(&filter, name).len(), 1, "{name}");
                }
            }
        }
    }

    #[test]
    fn what_reaches_around_the_container_is_forbidden_and_not_missing() {
        let filter = default(&none(), "x86_64", false);
        let forbidden = [(LinuxSeccompAction::ScmpActErrno, Some(EPERM))];
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "io_uring_setup",
            "keyctl",
            "reboot",
        ] {
            assert_eq!(action(&filter, name), forbidden, "{name}");
        }
        assert_eq!(filter.default_errno_ret(), Some(ENOSYS));
    }

    #[test]
    fn another_architecture_is_for_programs_of_32_bits_only() {
        let count = |arch, narrow| {
            let filter = default(&none(), arch, narrow);
            filter.architectures().as_ref().map(Vec::len)
        };
        assert_eq!(count("x86_64", false), Some(1));
        assert_eq!(count("aarch64", true), Some(2));
        assert_eq!(count("riscv64", true), None);
    }

    #[test]
    fn threads_but_no_namespaces_are_cloned() {
        let filter = default(&none(), "x86_64", false);
        assert_eq!(
            action(&filter, "clone3"),
            [(LinuxSeccompAction::ScmpActErrno, Some(ENOSYS))]
        );
        let rules = filter.syscalls().as_ref().unwrap();
        let clone: Vec<_> = rules
            .iter()
            .filter(|rule| rule.names().contains(&"clone".to_owned()))
            .collect();
        assert_eq!(clone.len(), 8);
        let allowed = clone[0].args().as_ref().unwrap()[0];
        assert_eq!(allowed.value(), 0x7e02_0000);
        assert_eq!(allowed.value_two(), Some(0));
    }

    #[test]
    fn a_capability_brings_its_calls() {
        let admin = Capabilities::from([Capability::SysAdmin]);
        let filter = default(&admin, "x86_64", false);
        let allowed = [(LinuxSeccompAction::ScmpActAllow, None)];
        for name in ["mount", "clone", "clone3", "bpf"] {
            assert_eq!(action(&filter, name), allowed, "{name}");
        }
        assert_eq!(
            action(&filter, "chroot")[0].0,
            LinuxSeccompAction::ScmpActErrno
        );
    }

    #[test]
    fn a_profile_in_dockers_form_is_refused() {
        let folder = tempdir();
        let path = folder.path().join("profile.json");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            profile(&path)
        };
        let good = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{}}]}"#;
        assert_eq!(read(good).unwrap().syscalls().as_ref().unwrap().len(), 1);
        for bad in [
            r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[]}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF"]}}]}"#,
        ] {
            assert!(read(bad).unwrap_err().to_string().contains("Docker's form"));
        }
        assert!(read("{}").is_err());
        assert!(profile(Path::new("/nowhere.json")).is_err());
    }
}
