//! What a Nomad agent on this host would do with the plugin. Where there is no Nomad, there is nothing to find.

use std::{fs, path::Path};

use runyard_common::doctor::Finding;

/// Where packages put the unit of the agent.
const UNITS: [&str; 3] = [
    "/etc/systemd/system/nomad.service",
    "/lib/systemd/system/nomad.service",
    "/usr/lib/systemd/system/nomad.service",
];

/// Where `systemctl edit` puts what changes the unit.
const DROP_INS: &str = "/etc/systemd/system/nomad.service.d";

/// Where packages put the agent's configuration.
const CONFIGURATION: &str = "/etc/nomad.d";

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(unit) = UNITS.iter().find_map(|path| fs::read_to_string(path).ok()) {
        let changes = texts(Path::new(DROP_INS)).collect::<String>();
        findings.push(kill_mode(&(unit + "\n" + &changes)));
    }
    if Path::new(CONFIGURATION).is_dir() {
        findings.push(block(Path::new(CONFIGURATION)));
    }
    findings
}

/// The files of a folder that can be read.
fn texts(folder: &Path) -> impl Iterator<Item = String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_to_string(file.path()).ok())
}

/// Whether tasks outlive the agent. What is said last holds.
fn kill_mode(unit: &str) -> Finding {
    let mut said = unit
        .lines()
        .filter_map(|line| line.trim().strip_prefix("KillMode="));
    if said.next_back() == Some("process") {
        return Finding::ok(
            "nomad unit",
            "tasks survive a restart of the agent (KillMode=process)",
        );
    }
    Finding::warn(
        "nomad unit",
        "systemd kills every task when the agent is restarted",
        "set KillMode=process in the unit's [Service] section (systemctl edit nomad)",
    )
}

/// Whether the agent would load the plugin: it skips programs that its configuration does not name.
fn block(folder: &Path) -> Finding {
    let names_us = texts(folder).any(|text| text.contains("plugin \"milo-driver\""));
    if names_us {
        return Finding::ok("nomad plugin", "the agent's configuration names it");
    }
    Finding::warn(
        "nomad plugin",
        format!(
            "no file in {} has a plugin \"milo-driver\" block: the agent would skip it",
            folder.display()
        ),
        "add `plugin \"milo-driver\" {}`, and put this program into the agent's plugin_dir",
    )
}

#[cfg(test)]
mod tests {
    use runyard_common::doctor::Verdict;

    use super::*;

    #[test]
    fn a_unit_that_kills_tasks_is_a_warning() {
        assert_eq!(
            kill_mode("[Service]\nKillMode=process\n").verdict,
            Verdict::Ok
        );
        let changed = "[Service]\nKillMode=control-group\n\n[Service]\nKillMode=process\n";
        assert_eq!(kill_mode(changed).verdict, Verdict::Ok);
        assert_eq!(
            kill_mode("[Service]\nKillMode=control-group\n").verdict,
            Verdict::Warn
        );
    }

    #[test]
    fn a_block_with_the_programs_name_is_looked_for() {
        let dir = runyard_common::testing::tempdir();
        assert_eq!(block(dir.path()).verdict, Verdict::Warn);
        fs::write(dir.path().join("milo.hcl"), "plugin \"milo-driver\" {\n}\n").unwrap();
        assert_eq!(block(dir.path()).verdict, Verdict::Ok);
    }
}
