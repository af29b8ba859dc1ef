//! `buildctl history`: jobs, newest first.

use runyard_common::{
    exit::Exit,
    output::{Format, Table},
};

use super::{Context, answer, block_on};
use crate::{
    api::HistoryAnswer,
    job::{Job, State},
    service::JobFilter,
};

/// List jobs, newest first
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// At most so many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    limit: usize,
    /// After so many
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    offset: usize,
    /// Of this owner
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// In this state: PENDING, BUILDING, TESTING, PUBLISHING, SUCCEEDED or FAILED
    #[arg(long, value_name = "STATE", value_parser = state)]
    status: Option<State>,
    /// As the original takes them: limit and offset
    #[arg(hide = true, num_args = 0..=2, value_name = "COUNT")]
    counts: Vec<usize>,
}

fn state(text: &str) -> Result<State, String> {
    const ALL: [State; 6] = [
        State::Pending,
        State::Building,
        State::Testing,
        State::Publishing,
        State::Succeeded,
        State::Failed,
    ];
    ALL.into_iter()
        .find(|state| state.to_string().eq_ignore_ascii_case(text))
        .ok_or_else(|| {
            let names = ALL.map(|state| state.to_string());
            format!("known are {}", names.join(", "))
        })
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let place = context.place()?;
    let filter = JobFilter {
        owner: args.owner.clone(),
        state: args.status,
        ended: None,
        limit: Some(args.counts.first().copied().unwrap_or(args.limit)),
        offset: args.counts.get(1).copied().unwrap_or(args.offset),
    };
    block_on(async {
        let list = place.builds().list(filter).await;
        let list = list.map_err(|error| context.failure(error))?;
        let table = table(list.jobs.iter().map(|view| &view.job));
        let answer = HistoryAnswer::from(&list);
        match context.printer.format() {
            // Of a page of jobs, the jobs are the items.
            Format::Ndjson => context.printer.value(&answer.jobs)?,
            _ => context.printer.both(&answer, &table)?,
        }
        Ok(Exit::Done)
    })
}

/// Jobs, a row each.
pub(super) fn table<'j>(jobs: impl Iterator<Item = &'j Job>) -> Table {
    let columns = [
        "job",
        "status",
        "submitted",
        "took",
        "owner",
        "image",
        "ref",
    ];
    jobs.map(row).fold(Table::new(columns), Table::row)
}

fn row(job: &Job) -> [String; 7] {
    let reference = if job.config.repo_url.starts_with('/') {
        job.config.repo_url.clone()
    } else {
        job.config.git_ref.clone()
    };
    [
        job.id.to_string(),
        job.state.to_string(),
        format!("{:.0}", job.created_at),
        answer::took(job).unwrap_or_else(|| "-".to_owned()),
        job.config.owner.clone(),
        answer::repository(job),
        reference,
    ]
}
