//! `buildctl build`: hand a job in, follow it, and say what came of it.

use std::path::PathBuf;

use clap::ValueHint;
use runyard_common::exit::Exit;

use super::{
    Context, answer, block_on,
    diary::Diary,
    follow::{End, Following, Patience, verdict},
    interrupt::Interrupts,
    job::{self, Absent, JobArgs},
    place::Place,
    screen::{Screen, Style},
};
use crate::{
    api::JobConfig,
    job::JobId,
    service::{LogQuery, Submitted},
};

/// Build, test and publish an image, and show how it goes
///
/// WHAT is a directory, a Git URL, a job file, YAML, or `-`; without it the directory one is in. Needs no service: Buildah builds
/// on this machine, in processes of their own, so that Ctrl-C only ends the view and prints how to come back to it.
///
/// The answer on standard output is the job as it ended. The exit code is 0 if every tag was moved, 1 if the job failed or was
/// killed, 2 or 3 if it was not accepted, 4 if nobody can say, and 130 after Ctrl-C.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    submit: SubmitArgs,
    /// Print the job's id and do not wait
    #[arg(short, long)]
    detach: bool,
}

/// Flags of verbs that hand a job in.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Handing in")]
pub(super) struct SubmitArgs {
    /// Hand the same job in once only: a second time with this key is the first job
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// Write down what becomes of it, in the deploy folder
    #[arg(long)]
    pub(super) history: bool,
}

/// Flags of verbs that follow a job to its end.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Following")]
pub(super) struct FollowArgs {
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value_t, value_name = "STYLE")]
    pub(super) progress: Style,

    /// Let Ctrl-C end the job instead of the view
    #[arg(long)]
    pub(super) kill_on_interrupt: bool,

    /// Write what was published as JSON: `containerimage.digest`, `IMAGE_URL`, `IMAGE_DIGEST`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) metadata_file: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let config = args.job.load(Absent::Directory)?;
    let job = Asked {
        args: &args.job,
        submit: &args.submit,
        config,
    };
    if args.detach {
        return detached(job, context);
    }
    followed(job, &args.follow, context)
}

/// A job that is to be handed in.
pub(super) struct Asked<'a> {
    pub(super) args: &'a JobArgs,
    pub(super) submit: &'a SubmitArgs,
    pub(super) config: JobConfig,
}

impl Asked<'_> {
    /// Where it will be built, and where it is written down.
    fn prepare(&self, context: &Context) -> anyhow::Result<(Place, Option<Diary>)> {
        job::check_source(&self.config, context.service()?.is_some())?;
        let diary = self
            .submit
            .history
            .then(|| Diary::open(&self.config.deploy_dir))
            .transpose()?;
        let place = context.place_with(&self.args.insecure(&self.config))?;
        Ok((place, diary))
    }

    async fn submit(self, place: &Place, context: &Context) -> anyhow::Result<Submitted> {
        let key = self.submit.idempotency_key.clone();
        let submitted = place.builds().submit(self.config, key).await;
        Ok(submitted.map_err(|error| context.failure(error))?)
    }
}

/// Hands a job in and says its id.
pub(super) fn detached(job: Asked<'_>, context: &Context) -> anyhow::Result<Exit> {
    let (place, diary) = job.prepare(context)?;
    block_on(async {
        let submitted = job.submit(&place, context).await?;
        if let Some(diary) = diary {
            note_down(&diary, &place, submitted.job_id).await;
        }
        match context.printer.format() {
            runyard_common::output::Format::Table => context.printer.line(submitted.job_id)?,
            _ => context.printer.value(&submitted)?,
        }
        Ok(Exit::Done)
    })
}

/// Hands a job in and follows it to its end.
pub(super) fn followed(
    job: Asked<'_>,
    args: &FollowArgs,
    context: &Context,
) -> anyhow::Result<Exit> {
    let mut screen = Screen::new(args.progress, context.bars)?;
    let (place, diary) = job.prepare(context)?;
    if let Some(path) = &args.metadata_file {
        answer::clear_metadata(path)?;
    }
    block_on(async {
        let mut interrupts = Interrupts::catch()?;
        let submitted = tokio::select! {
            submitted = job.submit(&place, context) => submitted?,
            interrupt = interrupts.next() => {
                screen.left(&["interrupted; the job may have been accepted".to_owned()]);
                return Ok(interrupt.exit());
            }
        };
        let id = submitted.job_id;
        screen.accepted(id, &place.name());
        if let Some(diary) = &diary {
            note_down(diary, &place, id).await;
        }
        to_the_end(
            id,
            (&place, diary.as_ref()),
            args,
            (&mut screen, &mut interrupts),
            context,
        )
        .await
    })
}

/// Follows a job to its end, writes down what came of it and says it.
pub(super) async fn to_the_end(
    id: JobId,
    (place, diary): (&Place, Option<&Diary>),
    args: &FollowArgs,
    (screen, interrupts): (&mut Screen, &mut Interrupts),
    context: &Context,
) -> anyhow::Result<Exit> {
    let following = Following {
        context,
        builds: place.builds(),
        id,
        query: LogQuery::default(),
        kills: args.kill_on_interrupt,
        patience: Patience::default(),
    };
    let view = match following.run(screen, interrupts).await? {
        End::Ended(view) => view,
        End::Left(interrupt) => {
            screen.left(&Following::farewell(context, id));
            return Ok(interrupt.exit());
        }
    };
    if let Some(diary) = diary {
        note_down(diary, place, id).await;
    }
    answer::status(&context.printer, &view)?;
    let exit = verdict(context, &view)?;
    if let Some(path) = &args.metadata_file {
        answer::write_metadata(path, &view.job)?;
    }
    Ok(exit)
}

/// Writes down how a job is. That it cannot be written down changes nothing about the job.
async fn note_down(diary: &Diary, place: &Place, id: JobId) {
    let noted = async {
        let view = place.builds().status(id).await?;
        diary.write(&view.job)?;
        if view.job.state.is_terminal() {
            diary.write_logs(place.builds(), id).await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = noted.await {
        let folder = diary.folder(id).display().to_string();
        tracing::warn!(
            folder,
            error = format!("{error:#}"),
            "the history is incomplete"
        );
    }
}
