//! `overseerctl top`: tasks, pools and the selected task's output, live. Without a terminal, one snapshot.
//!
//! `feed` talks to the hub, `view` is what is seen and what keys mean (a value), `screen` is the terminal.

mod feed;
mod screen;
mod view;

use std::time::{Duration, Instant};

use crossterm::event::{self, Event as Input, KeyEventKind};
use runyard_common::{
    duration,
    exit::Exit,
    output::{Format, Table},
    terminal::Stream,
};
use serde_json::{Value, json};

use self::{feed::Feed, screen::Screen, view::View};
use super::{Context, interrupt::Interrupts, list};
use crate::client::Client;

/// How long keys are waited for before the hub's messages are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Watch tasks and pools, and act on them.
///
/// Keys: arrows select, s stops, r resets, x removes, / filters, q quits.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Ask so often for what the hub does not tell unasked
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    interval: Duration,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.connect()?;
    if context.printer.format() != Format::Table || !Stream::Stdout.is_terminal() {
        return snapshot(client, context);
    }
    let mut interrupts = Interrupts::catch()?;
    let mut feed = Feed::open(client, args.interval)?;
    let mut view = View::new(feed.title());
    let mut screen = Screen::enter(&context.printer)?;
    let mut dirty = true;
    while interrupts.take(false) == 0 {
        if dirty {
            screen.draw(&view.draw(Screen::size()?))?;
        }
        dirty = feed.pump(&mut view)?;
        if !event::poll(TICK)? {
            continue;
        }
        dirty = true;
        match event::read()? {
            Input::Key(key) if key.kind != KeyEventKind::Release => match view.press(key) {
                Some(view::Wish::Quit) => return Ok(Exit::Done),
                Some(view::Wish::Task(order, task_id)) => feed.order(order, &task_id)?,
                None => {}
            },
            _ => {}
        }
        feed.watch(view.selected())?;
    }
    Ok(Exit::Done)
}

/// What the screen would show, once.
fn snapshot(mut client: Client, context: &Context) -> anyhow::Result<Exit> {
    let pools = feed::pools(&mut client)?;
    let tasks = client.list(None)?;
    let mut table = Table::new(["task", "action", "state", "pid", "exit", "restarts", "age"]);
    for task in &tasks {
        table.push(list::row(task));
    }
    for pool in &pools {
        table.push([format!("pool {}", pool.name), String::new(), pool.gauge(0)]);
    }
    let rows: Vec<&Value> = tasks.iter().map(|task| &task.row).collect();
    let pools: Vec<Value> = pools.iter().map(view::Pool::json).collect();
    let now = crate::time::Timestamp::now().to_string();
    context
        .printer
        .both(&json!({ "ts": now, "tasks": rows, "pools": pools }), &table)?;
    Ok(Exit::Done)
}

/// Whether a moment has come.
fn due(at: Instant) -> bool {
    at <= Instant::now()
}
