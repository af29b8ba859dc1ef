//! What a node says about itself because of this driver: from a [`Survey`] of the machine to attributes and a verdict, and
//! when to say it again. How the machine is surveyed is behind [`Engine`](crate::registry::Engine).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

/// What a machine has for tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// The crun that would be used.
    pub crun: Option<Crun>,
    /// The JVMs, the default first.
    pub java: Vec<Java>,
    /// JVMs that look well and do not work, each with the reason. Tasks do not get them.
    pub broken: Vec<String>,
    /// `v1`, `v2`, `hybrid` or `none`.
    pub cgroup: String,
    /// Why tasks would fail, each with its way out, other than a missing crun or JVM.
    pub problems: Vec<String>,
}

/// The crun that would be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crun {
    /// Its version; empty while nobody has asked it.
    pub version: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it was built with: `+SECCOMP +CAP`.
    pub features: String,
}

impl Crun {
    fn has_seccomp(&self) -> bool {
        self.features.contains("+SECCOMP")
    }
}

/// A JVM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Java {
    /// Its home.
    pub home: PathBuf,
    /// Its version: `17.0.12`.
    pub version: String,
    /// The first number that counts: 17; 8 for `1.8`.
    pub major: u32,
    /// Who built it.
    pub vendor: String,
    /// The virtual machine's name.
    pub vm: String,
    /// The processor that it was built for.
    pub arch: String,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text; an empty one takes the attribute away.
    Text(String),
    /// A number.
    Whole(i64),
    /// Yes or no.
    Flag(bool),
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The node's attributes.
    pub attributes: BTreeMap<String, Value>,
    /// Why no task should be placed here; `None` if tasks may.
    pub unhealthy: Option<String>,
}

/// What was said so far. An agent keeps an attribute until it is told that it is empty, so every name that was ever used is
/// said again, by whichever stream comes next.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeSet<String>>);

impl Memory {
    /// What to say after a survey.
    pub fn say(&self, survey: &Survey) -> Fingerprint {
        let mut fingerprint = describe(survey);
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names.iter() {
            let empty = || Value::Text(String::new());
            fingerprint
                .attributes
                .entry(name.clone())
                .or_insert_with(empty);
        }
        names.extend(fingerprint.attributes.keys().cloned());
        fingerprint
    }
}

/// A survey in Nomad's words.
pub fn describe(survey: &Survey) -> Fingerprint {
    let unhealthy = verdict(survey);
    let mut attributes = BTreeMap::new();
    let mut put = |name: &str, value: Value| {
        attributes.insert(format!("driver.milo.{name}"), value);
    };
    put("version", text(env!("CARGO_PKG_VERSION")));
    put("cgroup.version", text(&survey.cgroup));
    put(
        "java.count",
        Value::Whole(i64::try_from(survey.java.len()).unwrap_or(i64::MAX)),
    );
    if let Some(crun) = &survey.crun {
        put("crun.path", text(&crun.path.to_string_lossy()));
    }
    if let Some(crun) = survey.crun.as_ref().filter(|crun| !crun.version.is_empty()) {
        put("crun.version", text(&crun.version));
        put("crun.features", text(&crun.features));
        put("seccomp", Value::Flag(crun.has_seccomp()));
    }
    if !survey.broken.is_empty() {
        put("java.rejected", text(&survey.broken.join("; ")));
    }
    if let Some(java) = survey.java.first() {
        put("java.default.version", text(&java.version));
        put("java.default.major", Value::Whole(java.major.into()));
        put("java.default.vendor", text(&java.vendor));
        put("java.default.home", text(&java.home.to_string_lossy()));
        put("java.default.vm", text(&java.vm));
        put("java.default.arch", text(&java.arch));
    }
    // Of several of one version the first is meant.
    for java in survey.java.iter().rev() {
        put(
            &format!("java.{}", java.major),
            text(&java.home.to_string_lossy()),
        );
    }
    if let Some(reason) = &unhealthy {
        put("health", text(reason));
    }
    Fingerprint {
        attributes,
        unhealthy,
    }
}

/// What an agent is told when all is well.
pub const HEALTHY: &str = "Healthy";

fn verdict(survey: &Survey) -> Option<String> {
    let mut reasons = Vec::new();
    if survey.crun.is_none() {
        reasons.push("crun is not installed: install it, or set `crun_path`".to_owned());
    }
    if survey.java.is_empty() && !survey.broken.is_empty() {
        let broken = survey.broken.join("; ");
        reasons.push(format!(
            "no Java runtime works ({broken}): repair or reinstall one, or set `java_homes`"
        ));
    } else if survey.java.is_empty() {
        reasons.push("no Java runtime found: install one, or set `java_homes`".to_owned());
    }
    reasons.extend(survey.problems.iter().cloned());
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn java(major: u32, home: &str) -> Java {
        Java {
            home: home.into(),
            version: format!("{major}.0.1"),
            major,
            vendor: "Debian".to_owned(),
            ..Java::default()
        }
    }

    fn good() -> Survey {
        Survey {
            crun: Some(Crun {
                version: "1.8.1".to_owned(),
                path: "/usr/bin/crun".into(),
                features: "+SYSTEMD +SECCOMP +CAP".to_owned(),
            }),
            java: vec![java(17, "/jdk17"), java(21, "/jdk21"), java(17, "/other17")],
            cgroup: "v2".to_owned(),
            ..Survey::default()
        }
    }

    #[test]
    fn a_good_machine_is_healthy_and_names_each_version_once() {
        let fingerprint = describe(&good());
        let attribute = |name: &str| fingerprint.attributes[&format!("driver.milo.{name}")].clone();
        assert_eq!(fingerprint.unhealthy, None);
        assert_eq!(attribute("java.17"), text("/jdk17"));
        assert_eq!(attribute("java.21"), text("/jdk21"));
        assert_eq!(attribute("java.count"), Value::Whole(3));
        assert_eq!(attribute("java.default.version"), text("17.0.1"));
        assert_eq!(attribute("seccomp"), Value::Flag(true));
        assert!(!fingerprint.attributes.contains_key("driver.milo.health"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let survey = Survey {
            problems: vec!["cgroups are hybrid".to_owned()],
            ..Survey::default()
        };
        let reason = describe(&survey).unhealthy.unwrap();
        assert!(
            reason.contains("crun")
                && reason.contains("Java")
                && reason.ends_with("; cgroups are hybrid"),
            "{reason}"
        );
    }

    #[test]
    fn a_broken_jvm_is_named_and_makes_a_machine_unhealthy_only_if_it_is_the_last() {
        let mut survey = good();
        survey.broken = vec!["/jdk11: it failed".to_owned()];
        let fingerprint = describe(&survey);
        let rejected = &fingerprint.attributes["driver.milo.java.rejected"];
        assert_eq!(
            (rejected, fingerprint.unhealthy),
            (&text("/jdk11: it failed"), None)
        );
        survey.java.clear();
        let reason = describe(&survey).unhealthy.unwrap();
        assert!(
            reason.starts_with("no Java runtime works (/jdk11: it failed): "),
            "{reason}"
        );
    }

    #[test]
    fn what_nobody_has_asked_crun_yet_is_not_said() {
        let mut survey = good();
        survey.crun.as_mut().unwrap().version.clear();
        let fingerprint = describe(&survey);
        let said = |name: &str| {
            fingerprint
                .attributes
                .contains_key(&format!("driver.milo.{name}"))
        };
        assert_eq!(
            ["crun.path", "crun.version", "seccomp"].map(said),
            [true, false, false]
        );
        assert_eq!(fingerprint.unhealthy, None);
    }

    #[test]
    fn an_attribute_that_is_gone_is_said_to_be_empty() {
        let memory = Memory::default();
        memory.say(&good());
        let mut less = good();
        less.java.remove(1);
        let fingerprint = memory.say(&less);
        assert_eq!(fingerprint.attributes["driver.milo.java.21"], text(""));
        // And again, to whoever listens next; until it is back.
        assert_eq!(memory.say(&less), fingerprint);
        assert_eq!(
            memory.say(&good()).attributes["driver.milo.java.21"],
            text("/jdk21")
        );
    }

    #[test]
    fn a_reason_disappears_with_its_cause() {
        let memory = Memory::default();
        assert!(memory.say(&Survey::default()).unhealthy.is_some());
        let fingerprint = memory.say(&good());
        assert_eq!(
            (
                fingerprint.unhealthy,
                &fingerprint.attributes["driver.milo.health"]
            ),
            (None, &text(""))
        );
    }
}
