//! `buildctl doctor`: what works here, what does not, and how to mend it. What is looked at of a backend is the backend's.

use runyard_common::{
    doctor::{self, Finding},
    exit::Exit,
};

use super::{Context, block_on, place::Place};
use crate::{
    scheduler::Scheduler,
    service::{Builds, Health},
};

/// Find out what works here, what does not, and how to mend it
///
/// Without a service it is this machine that is looked at: Buildah and its storage, Git, space, rights. With --url it is the
/// service.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(Args {}: &Args, context: &Context) -> anyhow::Result<Exit> {
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
    use runyard_common::doctor::Verdict;

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
