//! `overseerctl logs`: what the hub remembers of a task's newest worker.

use std::collections::VecDeque;

use runyard_common::exit::Exit;

use super::{
    Context, follow,
    lines::{LineArgs, Lines},
    moment,
};
use crate::client::{Body, Event, Follow};

/// Show what a task's newest worker has said, as far as the hub remembers it.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The task
    #[arg(value_name = "ID")]
    id: String,

    /// Go on until the task ends
    #[arg(short, long, conflicts_with = "tail")]
    follow: bool,

    /// Leave out what is older: 10m, or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = moment::since)]
    since: Option<String>,

    /// Show only so many of the last lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<usize>,

    #[command(flatten)]
    lines: LineArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    if args.follow {
        let follow = Follow::attach(&mut client, &args.id, args.since.as_deref())?;
        return follow::tell(follow, context, &args.lines);
    }
    let events = client.logs(&args.id, args.since.as_deref())?;
    let mut lines = Lines::new(&context.printer, &args.lines);
    for event in last(events, args) {
        lines.event(&event)?;
    }
    lines.flush()?;
    Ok(Exit::Done)
}

/// The lines that are wished for: of those shown, the last.
fn last(events: Vec<Event>, args: &Args) -> VecDeque<Event> {
    let is_shown =
        |event: &Event| matches!(&event.body, Body::Output(output) if args.lines.shows(output));
    let mut shown: VecDeque<Event> = events.into_iter().filter(is_shown).collect();
    let surplus = shown.len().saturating_sub(args.tail.unwrap_or(usize::MAX));
    shown.drain(..surplus);
    shown
}
