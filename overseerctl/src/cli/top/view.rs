//! What is seen, and what keys mean: a value without terminal and hub.

use std::collections::VecDeque;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use crate::{
    cli::list,
    client::{Output, Task},
};

/// Lines of the selected task that are kept.
const KEPT: usize = 500;

/// Columns of tasks.
const COLUMNS: [&str; 7] = ["TASK", "ACTION", "STATE", "PID", "EXIT", "RESTARTS", "AGE"];

const KEYS: &str = "↑↓ select  s stop  r reset  x remove  / filter  q quit";

/// What is seen.
#[derive(Debug, Default)]
pub(super) struct View {
    title: String,
    pools: Vec<Pool>,
    tasks: Vec<Task>,
    selected: Option<String>,
    output: VecDeque<String>,
    filter: String,
    is_filtering: bool,
    /// What the hub said last about an order.
    remark: String,
}

/// A pool's load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pool {
    /// Its action, or `global`.
    pub(super) name: String,
    /// 0 is unlimited.
    pub(super) limit: i64,
    pub(super) running: i64,
    pub(super) waiting: i64,
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// Something is to be done with a task.
    Task(Order, String),
}

/// What can be done with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Stop,
    Reset,
    Remove,
}

impl Order {
    /// The request's type.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Reset => "reset",
            Self::Remove => "remove",
        }
    }
}

/// A row of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) text: String,
    pub(super) style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Reverse,
}

impl Pool {
    /// Reads a `pool` object.
    pub(super) fn of(name: &str, pool: &Value) -> Self {
        let number = |key: &str| pool[key].as_i64().unwrap_or_default();
        let (limit, running, waiting) = (
            number("limit").max(0),
            number("running"),
            number("queue_depth"),
        );
        Self {
            name: name.to_owned(),
            limit,
            running,
            waiting,
        }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({ "name": self.name, "limit": self.limit, "running": self.running, "queue_depth": self.waiting })
    }

    /// Its load in words, with a bar of `width` columns if that is not 0 and there is a limit.
    pub(super) fn gauge(&self, width: usize) -> String {
        let waiting = if self.waiting > 0 {
            format!(", {} waiting", self.waiting)
        } else {
            String::new()
        };
        if self.limit == 0 {
            return format!("{} running{waiting}", self.running);
        }
        let share = usize::try_from(self.running * 100 / self.limit)
            .unwrap_or_default()
            .min(100);
        let full = width * share / 100;
        let bar = if width > 0 {
            format!("[{}{}] ", "|".repeat(full), " ".repeat(width - full))
        } else {
            String::new()
        };
        format!("{bar}{} of {} running{waiting}", self.running, self.limit)
    }
}

impl View {
    /// An empty view of a hub.
    pub(super) fn new(title: String) -> Self {
        Self {
            title,
            ..Self::default()
        }
    }

    /// The tasks are these now.
    pub(super) fn set_tasks(&mut self, tasks: Vec<Task>) {
        self.tasks = tasks;
        self.reselect();
    }

    /// A pool's load is this now.
    pub(super) fn set_pool(&mut self, pool: Pool) {
        match self.pools.iter_mut().find(|known| known.name == pool.name) {
            Some(known) => *known = pool,
            None => self.pools.push(pool),
        }
    }

    /// The selected task said something.
    pub(super) fn add_line(&mut self, output: &Output) {
        if self.output.len() == KEPT {
            self.output.pop_front();
        }
        self.output.push_back(output.data.clone());
    }

    /// Something else happened to the selected task.
    pub(super) fn add_note(&mut self, note: &str) {
        if self.output.len() == KEPT {
            self.output.pop_front();
        }
        self.output.push_back(format!("-- {note}"));
    }

    /// Another task was selected: what the last one said is gone.
    pub(super) fn clear_output(&mut self) {
        self.output.clear();
    }

    /// What the hub says about an order.
    pub(super) fn remark(&mut self, remark: impl Into<String>) {
        self.remark = remark.into();
    }

    /// The selected task.
    pub(super) fn selected(&self) -> Option<&str> {
        self.selected.as_deref()
    }

    fn shown(&self) -> impl Iterator<Item = &Task> {
        let matches = |task: &&Task| {
            [task.task_id.as_str(), &task.action, task.doing()]
                .iter()
                .any(|text| text.contains(&self.filter))
        };
        self.tasks.iter().filter(matches)
    }

    /// Keeps the selection where it is, or puts it on the first task.
    fn reselect(&mut self) {
        let is_shown = self
            .shown()
            .any(|task| Some(task.task_id.as_str()) == self.selected());
        if !is_shown {
            let first = self.shown().next().map(|task| task.task_id.clone());
            self.selected = first;
        }
    }

    fn move_selection(&mut self, by: isize) {
        let ids: Vec<&str> = self.shown().map(|task| task.task_id.as_str()).collect();
        let at = ids
            .iter()
            .position(|id| Some(*id) == self.selected())
            .unwrap_or_default();
        let to = at
            .saturating_add_signed(by)
            .min(ids.len().saturating_sub(1));
        self.selected = ids.get(to).map(|id| (*id).to_owned());
    }

    /// What a key means.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Wish> {
        self.remark.clear();
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Some(Wish::Quit);
        }
        if self.is_filtering {
            self.edit_filter(key.code);
            return None;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Wish::Quit),
            KeyCode::Up | KeyCode::Char('k') => self.move_selection(-1),
            KeyCode::Down | KeyCode::Char('j') => self.move_selection(1),
            KeyCode::PageUp => self.move_selection(-10),
            KeyCode::PageDown => self.move_selection(10),
            KeyCode::Home => self.move_selection(isize::MIN),
            KeyCode::End => self.move_selection(isize::MAX),
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Char('s') => return self.order(Order::Stop),
            KeyCode::Char('r') => return self.order(Order::Reset),
            KeyCode::Char('x') => return self.order(Order::Remove),
            _ => {}
        }
        None
    }

    fn order(&self, order: Order) -> Option<Wish> {
        self.selected
            .clone()
            .map(|task_id| Wish::Task(order, task_id))
    }

    fn edit_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Esc => {
                self.is_filtering = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
        self.reselect();
    }

    /// The screen, from the top: title, pools, tasks, the selected task's last lines, keys.
    pub(super) fn draw(&self, (columns, rows): (usize, usize)) -> Vec<Row> {
        let mut screen = vec![self.head()];
        screen.extend(
            self.pools
                .iter()
                .map(|pool| plain(format!("{:<12} {}", pool.name, pool.gauge(20)))),
        );
        let left = rows.saturating_sub(screen.len() + 1);
        let for_output = left / 3;
        screen.extend(self.task_rows(left - for_output));
        if for_output > 1 {
            screen.extend(self.output_rows(for_output));
        }
        screen.truncate(rows.saturating_sub(1));
        screen.push(self.foot());
        for row in &mut screen {
            row.text = printable(&row.text, columns);
        }
        screen
    }

    fn head(&self) -> Row {
        let running = self
            .tasks
            .iter()
            .filter(|task| task.doing() == "running")
            .count();
        let text = format!(
            "{}   {} tasks, {running} running",
            self.title,
            self.tasks.len()
        );
        Row {
            text,
            style: Style::Bold,
        }
    }

    fn foot(&self) -> Row {
        let text = match (self.is_filtering, self.remark.as_str()) {
            (true, _) => format!("filter: {}▏ (Enter keeps it, Esc clears it)", self.filter),
            (false, "") if self.filter.is_empty() => KEYS.to_owned(),
            (false, "") => format!("filter: {}   {KEYS}", self.filter),
            (false, remark) => remark.to_owned(),
        };
        Row {
            text,
            style: Style::Dim,
        }
    }

    /// `height` rows: the header, then those tasks around the selected one that fit.
    fn task_rows(&self, height: usize) -> Vec<Row> {
        let shown: Vec<(&Task, [String; 7])> =
            self.shown().map(|task| (task, list::row(task))).collect();
        let widths: [usize; 7] = std::array::from_fn(|column| {
            let cells = shown.iter().map(|(_, cells)| cells[column].chars().count());
            cells
                .chain([COLUMNS[column].len()])
                .max()
                .unwrap_or_default()
                .min(40)
        });
        let line = |cells: &[String; 7]| -> String {
            let cells = cells.iter().zip(widths);
            cells.fold(String::new(), |text, (cell, width)| {
                format!("{text}{cell:<width$.width$}  ")
            })
        };
        let mut rows = vec![Row {
            text: line(&COLUMNS.map(str::to_owned)),
            style: Style::Bold,
        }];
        let fits = height.saturating_sub(1);
        let at = shown
            .iter()
            .position(|(task, _)| Some(task.task_id.as_str()) == self.selected())
            .unwrap_or_default();
        let first = at
            .saturating_sub(fits / 2)
            .min(shown.len().saturating_sub(fits));
        for (task, cells) in shown.iter().skip(first).take(fits) {
            let is_selected = Some(task.task_id.as_str()) == self.selected();
            rows.push(Row {
                text: line(cells),
                style: if is_selected {
                    Style::Reverse
                } else {
                    Style::Plain
                },
            });
        }
        rows.resize_with(height, || plain(String::new()));
        rows
    }

    fn output_rows(&self, height: usize) -> Vec<Row> {
        let title = self
            .selected()
            .map_or_else(String::new, |id| format!("── output of {id} "));
        let mut rows = vec![Row {
            text: format!("{title:─<200}"),
            style: Style::Dim,
        }];
        let first = self.output.len().saturating_sub(height - 1);
        rows.extend(self.output.iter().skip(first).cloned().map(plain));
        rows.resize_with(height, || plain(String::new()));
        rows
    }
}

fn plain(text: String) -> Row {
    Row {
        text,
        style: Style::Plain,
    }
}

/// The first `columns` characters, without any that would move the cursor.
fn printable(text: &str, columns: usize) -> String {
    let visible = |letter: char| match letter {
        '\t' => ' ',
        letter if letter.is_control() => '·',
        letter => letter,
    };
    text.chars().take(columns).map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, state: &str) -> Task {
        Task {
            task_id: id.to_owned(),
            action: "act".to_owned(),
            state: state.to_owned(),
            ..Task::default()
        }
    }

    fn view(ids: &[&str]) -> View {
        let mut view = View::new("hub".to_owned());
        view.set_tasks(ids.iter().map(|id| task(id, "stopped")).collect());
        view
    }

    fn press(view: &mut View, keys: &str) -> Option<Wish> {
        keys.chars()
            .map(|letter| view.press(KeyEvent::from(KeyCode::Char(letter))))
            .last()
            .flatten()
    }

    #[test]
    fn the_selection_moves_within_the_tasks_and_outlives_a_refresh() {
        let mut view = view(&["a", "b", "c"]);
        assert_eq!(view.selected(), Some("a"));
        press(&mut view, "jjjj");
        assert_eq!(view.selected(), Some("c"));
        press(&mut view, "k");
        view.set_tasks(vec![task("x", "queued"), task("b", "queued")]);
        assert_eq!(view.selected(), Some("b"));
        view.set_tasks(vec![task("x", "queued")]);
        assert_eq!(view.selected(), Some("x"));
        view.set_tasks(Vec::new());
        assert_eq!(view.selected(), None);
        assert_eq!(press(&mut view, "s"), None);
    }

    #[test]
    fn keys_are_orders_unless_a_filter_is_written() {
        let mut view = view(&["abc", "xs"]);
        assert_eq!(
            press(&mut view, "s"),
            Some(Wish::Task(Order::Stop, "abc".to_owned()))
        );
        assert_eq!(press(&mut view, "/xs"), None);
        assert_eq!(view.selected(), Some("xs"));
        view.press(KeyEvent::from(KeyCode::Enter));
        assert_eq!(
            press(&mut view, "x"),
            Some(Wish::Task(Order::Remove, "xs".to_owned()))
        );
        press(&mut view, "/");
        view.press(KeyEvent::from(KeyCode::Esc));
        assert_eq!(view.shown().count(), 2);
        assert_eq!(press(&mut view, "q"), Some(Wish::Quit));
    }

    #[test]
    fn ctrl_c_quits_even_from_the_filter() {
        let mut view = view(&[]);
        press(&mut view, "/");
        assert_eq!(
            view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)),
            Some(Wish::Quit)
        );
    }

    #[test]
    fn a_gauge_is_as_long_as_its_share() {
        let pool = |limit, running, waiting| Pool {
            name: "p".into(),
            limit,
            running,
            waiting,
        };
        assert_eq!(
            pool(4, 1, 2).gauge(8),
            "[||      ] 1 of 4 running, 2 waiting"
        );
        assert_eq!(pool(0, 3, 0).gauge(8), "3 running");
        assert_eq!(pool(1, 5, 0).gauge(2), "[||] 5 of 1 running");
    }

    #[test]
    fn the_screen_is_never_larger_than_the_terminal() {
        let ids: Vec<String> = (0..100).map(|n| format!("task-{n}")).collect();
        let mut view = view(&ids.iter().map(String::as_str).collect::<Vec<_>>());
        view.set_pool(Pool {
            name: "global".into(),
            ..Pool::default()
        });
        view.add_note("exited\twith \x1b[31mcolour");
        press(&mut view, &"j".repeat(60));
        for rows in 1..40 {
            for columns in [1, 10, 80] {
                let screen = view.draw((columns, rows));
                assert!(screen.len() <= rows.max(1), "{rows}: {}", screen.len());
                assert!(screen.iter().all(|row| row.text.chars().count() <= columns
                    && !row.text.contains(char::is_control)));
            }
            if rows >= 8 {
                let screen = view.draw((80, rows));
                let selected = screen
                    .iter()
                    .find(|row| row.style == Style::Reverse)
                    .unwrap();
                assert!(
                    selected.text.starts_with("task-60 "),
                    "{rows}: {selected:?}"
                );
            }
        }
    }
}
