//! `milo-driver serve`: the plugin of a Nomad agent.

use runyard_common::exit::Exit;

use crate::{engine::Machine, jre::Search, serve};

pub(super) fn run() -> anyhow::Result<Exit> {
    let environment = |name: &str| std::env::var_os(name);
    let search = Search::standard(Vec::new(), environment("JAVA_HOME"), environment("PATH"));
    let machine = Machine::new(search);
    Ok(serve::run(machine, &environment, &mut std::io::stdout())?)
}
