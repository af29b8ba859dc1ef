//! Devices of the host in a container: a node and a rule for each. Everything that was not asked for is denied, but for
//! what crun allows every container (`/dev/null`, `/dev/urandom` and the like).

use std::{
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{major, minor};

use super::{BundleError, view};
use crate::task::Device;

/// How deep a folder of devices is looked into: `/dev/dri/by-path` is one below.
const DEPTH: usize = 4;

#[derive(Default)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

/// Nodes and rules for what was asked for. A folder stands for all devices in it.
pub(super) fn of(asked: &[Device]) -> Result<Devices, BundleError> {
    let mut devices = Devices::default();
    let mut none = LinuxDeviceCgroup::default();
    none.set_allow(false);
    none.set_access(Some("rwm".to_owned()));
    devices.rules.push(none);
    for device in asked {
        let before = devices.nodes.len();
        let target = target(device)?;
        devices.add(&device.source, &target, permissions(device)?, DEPTH)?;
        if devices.nodes.len() == before {
            return Err(refused(&device.source, "there is no device in it"));
        }
    }
    Ok(devices)
}

impl Devices {
    fn add(
        &mut self,
        source: &Path,
        target: &Path,
        access: &str,
        depth: usize,
    ) -> Result<(), BundleError> {
        let error = |error: std::io::Error| refused(source, &error.to_string());
        let metadata = fs::metadata(source).map_err(error)?;
        if metadata.is_dir() && depth > 0 {
            for entry in fs::read_dir(source).map_err(error)?.flatten() {
                // A link within the folder names a device that is there under its own name as well.
                if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                    self.add(
                        &entry.path(),
                        &target.join(entry.file_name()),
                        access,
                        depth - 1,
                    )?;
                }
            }
            return Ok(());
        }
        match kind(&metadata) {
            Some(kind) => self.push(kind, &metadata, target, access),
            None if depth < DEPTH => {}
            None => return Err(refused(source, "is no device: use a mount for files")),
        }
        Ok(())
    }

    fn push(&mut self, kind: LinuxDeviceType, metadata: &Metadata, target: &Path, access: &str) {
        let numbers = (
            i64::from(major(metadata.rdev())),
            i64::from(minor(metadata.rdev())),
        );
        let mut node = LinuxDevice::default();
        node.set_path(target.to_owned());
        node.set_typ(kind);
        node.set_major(numbers.0);
        node.set_minor(numbers.1);
        node.set_file_mode(Some(metadata.mode() & 0o777));
        node.set_uid(Some(metadata.uid()));
        node.set_gid(Some(metadata.gid()));
        self.nodes.push(node);
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true);
        rule.set_typ(Some(kind));
        rule.set_major(Some(numbers.0));
        rule.set_minor(Some(numbers.1));
        rule.set_access(Some(access.to_owned()));
        self.rules.push(rule);
    }
}

fn kind(metadata: &Metadata) -> Option<LinuxDeviceType> {
    let kind = metadata.file_type();
    if kind.is_char_device() {
        Some(LinuxDeviceType::C)
    } else {
        kind.is_block_device().then_some(LinuxDeviceType::B)
    }
}

fn target(device: &Device) -> Result<std::path::PathBuf, BundleError> {
    let asked = if device.target.as_os_str().is_empty() {
        &device.source
    } else {
        &device.target
    };
    view::target(asked).map_err(|reason| refused(asked, reason))
}

/// All three unless some are named.
fn permissions(device: &Device) -> Result<&str, BundleError> {
    let asked = device.permissions.as_str();
    if asked.contains(|letter| !"rwm".contains(letter)) {
        let reason = format!("permissions `{asked}`: only r, w and m are known");
        return Err(refused(&device.source, &reason));
    }
    Ok(if asked.is_empty() { "rwm" } else { asked })
}

fn refused(path: &Path, reason: &str) -> BundleError {
    BundleError::Device {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(source: &str, permissions: &str) -> Device {
        Device {
            source: source.into(),
            target: "/dev/other".into(),
            permissions: permissions.into(),
        }
    }

    #[test]
    fn a_device_is_a_node_and_a_rule_after_the_one_that_denies_all() {
        let devices = of(&[device("/dev/full", "rw")]).unwrap();
        let node = &devices.nodes[0];
        assert_eq!(node.path(), Path::new("/dev/other"));
        assert_eq!((node.major(), node.minor()), (1, 7));
        assert_eq!(node.typ(), LinuxDeviceType::C);
        assert!(!devices.rules[0].allow());
        assert_eq!(devices.rules[1].to_string(), "c 1:7 rw");
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let error = |asked| of(&[asked]).err().unwrap().to_string();
        assert!(error(device("/etc/passwd", "")).contains("is no device"));
        assert!(error(device("/dev/nonesuch", "")).contains("No such file"));
        assert!(error(device("/dev/null", "rx")).contains("`rx`"));
    }
}
