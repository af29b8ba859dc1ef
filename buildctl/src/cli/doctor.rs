//! `buildctl doctor`: what works here, what does not, and how to mend it. What is looked at of a backend is the backend's.

use runyard_common::{
    doctor::{self, Finding, Verdict},
    exit::Exit,
    report::Failure,
};

use super::{Context, block_on, environment, place::Place};
use crate::{
    config::{Config, SettingsArgs, Tier},
    scheduler::{
        Scheduler,
        nomad::{NomadScheduler, NomadSettings},
    },
    service::{Builds, Health},
};

/// Find out what works here, what does not, and how to mend it
///
/// Without a service it is this machine that is looked at: Buildah and its storage, Git, space, rights. With --url it is the
/// service. With --nomad it is the Nomad of the service's configuration (or of `NOMAD_ADDR`): what its token may, drivers, nodes,
/// Vault, and, by jobs that try, with which rights Buildah works there.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Look at Nomad, as `serve` would use it, and try which tier of rights works there
    #[arg(long, conflicts_with_all = ["local", "url"])]
    nomad: bool,
}

pub(super) fn run(Args { nomad }: &Args, context: &Context) -> anyhow::Result<Exit> {
    if *nomad {
        let findings = match cluster(context) {
            Ok(scheduler) => block_on(async { Ok(of_cluster(&scheduler).await) })?,
            Err(failure) => vec![Finding::of("configuration", &failure)],
        };
        return Ok(doctor::report(&context.printer, &findings)?);
    }
    let place = match context.place() {
        Ok(place) => place,
        Err(failure) => {
            let finding = Finding::of("configuration", &failure);
            return Ok(doctor::report(&context.printer, &[finding])?);
        }
    };
    let findings = block_on(async {
        Ok(match &place {
            Place::Here { scheduler, .. } => scheduler.doctor().await,
            Place::There { remote, url } => vec![match remote.health().await {
                Ok(health) => judged(url, &health),
                Err(error) => Finding::of("service", &context.failure(error)),
            }],
        })
    })?;
    Ok(doctor::report(&context.printer, &findings)?)
}

/// The Nomad that `serve` would use.
fn cluster(context: &Context) -> Result<NomadScheduler, Failure> {
    let settings = context.settings(SettingsArgs::default());
    let config = Config::load(&settings, &environment)?.config;
    NomadScheduler::open(NomadSettings::of(&config)?)
}

/// What is there, and, if there is a place for builds at all, what works there.
async fn of_cluster(scheduler: &NomadScheduler) -> Vec<Finding> {
    let mut findings = scheduler.doctor().await;
    let needed = ["nomad", "submit-job", "nodes", "driver"];
    let lacks = |it: &Finding| it.verdict == Verdict::Fail && needed.contains(&it.check);
    if !findings.iter().any(lacks) {
        let tiers = [Tier::Rootless, Tier::SysAdmin, Tier::Privileged];
        findings.extend(scheduler.probe(&tiers).await);
    }
    findings
}

fn judged(name: &str, health: &Health) -> Finding {
    let ill: Vec<String> = health
        .services
        .iter()
        .filter_map(|(part, state)| Some(format!("{part}: {}", state.as_ref().err()?)))
        .collect();
    if ill.is_empty() {
        return Finding::ok("service", format!("{name} is healthy"));
    }
    Finding::fail(
        "service",
        format!("{name} is not healthy: {}", ill.join("; ")),
        "look at its log; `doctor` on its own machine says more",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_that_is_ill_is_enough() {
        let health = |ledger: Result<(), String>| Health {
            services: vec![("local".into(), Ok(())), ("ledger".into(), ledger)],
        };
        assert_eq!(judged("x", &health(Ok(()))).verdict, Verdict::Ok);
        let finding = judged("x", &health(Err("full".into())));
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.says.contains("ledger: full"), "{}", finding.says);
    }
}
