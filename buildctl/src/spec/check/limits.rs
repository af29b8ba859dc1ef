//! What phases may use: the phase's own words win over those for all phases, and these over the service's; for tests
//! `test.resource_limits` wins over everything.

use super::Wrong;
use crate::{
    api::{JobConfig, PhaseResources},
    spec::{Limits, Resources},
};

pub(super) fn limits(config: &JobConfig, defaults: &Limits, wrong: &mut Wrong) -> Limits {
    let asked = config.resource_limits.as_ref();
    let all = asked.map(|limits| &limits.all);
    let own = config
        .test
        .as_ref()
        .and_then(|test| test.resource_limits.as_ref());
    let build = asked.and_then(|limits| limits.build.as_ref());
    let test = asked.and_then(|limits| limits.test.as_ref());
    let publish = asked.and_then(|limits| limits.publish.as_ref());
    let all = ("resource_limits", all);
    Limits {
        build: pick(
            &[("resource_limits.build", build), all],
            defaults.build,
            wrong,
        ),
        test: pick(
            &[
                ("test.resource_limits", own),
                ("resource_limits.test", test),
                all,
            ],
            defaults.test,
            wrong,
        ),
        publish: pick(
            &[("resource_limits.publish", publish), all],
            defaults.publish,
            wrong,
        ),
    }
}

/// Places to look at, the winning one first.
type Places<'a> = [(&'static str, Option<&'a PhaseResources>)];

fn pick(places: &Places<'_>, default: Resources, wrong: &mut Wrong) -> Resources {
    let mut one = |name: &str, unit: &str, of: fn(&PhaseResources) -> &str, default: u32| {
        let said = places.iter().find_map(|(place, resources)| {
            let text = of((*resources)?).trim();
            (!text.is_empty()).then_some((place, text))
        });
        let Some((place, text)) = said else {
            return default;
        };
        match text.parse() {
            Ok(number) if number > 0 => number,
            _ => {
                let what = format!(
                    "{place}.{name}: `{}` is no whole number of {unit} above 0",
                    text.escape_debug()
                );
                if !wrong.0.iter().any(|error| error.0 == what) {
                    wrong.say(what);
                }
                default
            }
        }
    };
    Resources {
        cpu: one("cpu", "MHz", |resources| &resources.cpu, default.cpu),
        memory: one(
            "memory",
            "MB",
            |resources| &resources.memory,
            default.memory,
        ),
        disk: one("disk", "MB", |resources| &resources.disk, default.disk),
    }
}
