//! `buildctl submit`: hand a job in; with `--watch` follow it, as `build` does.

use runyard_common::exit::Exit;

use super::{
    Context,
    build::{self, Asked, FollowArgs, SubmitArgs},
    job::{Absent, JobArgs},
};

/// Hand a job in and print its id
///
/// WHAT is a job file, YAML, a directory, a Git URL, or `-`; without it YAML is read from standard input.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Follow it to its end
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let config = args.job.load(Absent::Stdin)?;
    let job = Asked {
        args: &args.job,
        submit: &args.submit,
        config,
    };
    if args.watch {
        build::followed(job, &args.follow, context)
    } else {
        build::detached(job, context)
    }
}
