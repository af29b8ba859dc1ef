//! Runs with real Git, Buildah and a real registry: what they leave in the registry, in the result and in the log, and that
//! they leave nothing else.

mod build;
mod failures;
mod options;
mod source;
mod stops;
mod store;
mod tags;

use buildctl::{
    phase::{Built, RunFailure},
    runner::work::{Task, Work},
};

use crate::support::{Registry, Repository, Yard, ready};

/// Builds on nothing; everything that busybox can do is in it.
const DOCKERFILE: &str = "\
FROM scratch AS tools
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]

FROM tools
ARG WHO=nobody
RUN echo built for $WHO
ENV FROM_IMAGE=yes
WORKDIR /work
USER 1000
ENTRYPOINT [\"/bin/sh\", \"-c\", \"echo entry $0 $FROM_IMAGE $(pwd) $(id -u); test $0 = ok\"]
CMD [\"ok\"]
";

/// A registry, a yard that publishes there, and a repository of [`DOCKERFILE`]; none where there is no Buildah, which is said.
fn site() -> Option<(Registry, Yard, Repository)> {
    if !ready() {
        return None;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    Some((registry, yard, Repository::with(DOCKERFILE)))
}

/// The failure of a build of this Dockerfile, whose first three lines install busybox.
fn failing(rest: &str, change: impl FnOnce(&mut Work)) -> Option<RunFailure> {
    if !ready() {
        return None;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let tools: Vec<&str> = DOCKERFILE.lines().take(3).collect();
    let repository = Repository::with(&format!("{}\n{rest}\n", tools.join("\n")));
    let mut work = yard.build(&repository.url(), "main");
    change(&mut work);
    let ended = yard.run(work);
    assert_eq!(yard.remains(), Vec::<String>::new());
    Some(ended.failure())
}

fn options(work: &mut Work) -> &mut buildctl::spec::BuildOptions {
    match &mut work.task {
        Task::Build { options, .. } => options,
        _ => panic!("no build"),
    }
}

fn temporary_tag(built: &Built) -> String {
    let name = built.temporary.to_string();
    name.rsplit_once(':').unwrap().1.to_owned()
}
