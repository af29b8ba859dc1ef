//! `overseerctl doctor`: is there a hub, which one, and can this machine run one well. Every finding that is not good
//! says how to mend it.

mod hub;
mod machine;

use runyard_common::{doctor, exit::Exit};

use super::Context;

/// Find out what works here, what does not, and how to mend it
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(Args {}: &Args, context: &Context) -> anyhow::Result<Exit> {
    let target = context.connection.target()?;
    let mut findings = hub::examine(&target);
    findings.extend(machine::examine());
    Ok(doctor::report(&context.printer, &findings)?)
}
