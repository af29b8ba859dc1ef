//! `milo-driver doctor`: what works here, what does not, and how to mend it. Nothing is changed but a scratch container that
//! is made, run and removed.

mod nomad;
mod runtime;

use runyard_common::{
    doctor::{self, Finding},
    exit::Exit,
};

use super::Context;

/// Find out what works here, what does not, and how to mend it
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(Args {}: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(runtime::examine(context));
    findings.extend(nomad::examine());
    Ok(doctor::report(&context.printer, &findings)?)
}
