//! `buildctl watch`: follow a job that was handed in before, as `build` follows its own.

use runyard_common::exit::Exit;

use super::{
    Context, block_on,
    build::{self, FollowArgs},
    diary::Diary,
    interrupt::Interrupts,
    screen::Screen,
};
use crate::job::JobId;

/// Follow a job to its end, as `build` does
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its id
    #[arg(value_name = "JOB")]
    id: JobId,
    #[command(flatten)]
    follow: FollowArgs,
    /// Write down what becomes of it, in the deploy folder
    #[arg(long)]
    history: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut screen = Screen::new(args.follow.progress, context.bars)?;
    let place = context.place()?;
    block_on(async {
        let mut interrupts = Interrupts::catch()?;
        let view = place.builds().status(args.id).await;
        let view = view.map_err(|error| context.failure(error))?;
        let diary = args
            .history
            .then(|| Diary::open(&view.job.config.deploy_dir))
            .transpose()?;
        let ends = (&mut screen, &mut interrupts);
        build::to_the_end(
            args.id,
            (&place, diary.as_ref()),
            &args.follow,
            ends,
            context,
        )
        .await
    })
}
