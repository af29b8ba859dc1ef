//! The only writer of stdout: an answer as a table for people, or as JSON, in one piece or in lines, or YAML for programs.
//!
//! What goes to stderr is [`crate::log`]'s, [`crate::progress`]'s and [`crate::report`]'s.

mod table;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;

pub use table::Table;

use crate::terminal::{Color, Stream};

/// The form of an answer, as `--output` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people; not for programs to parse
    #[default]
    Table,
    /// JSON, stable and documented
    Json,
    /// The same, each answer in a line, and each item of a list in one of its own
    Ndjson,
    /// YAML, the same fields as JSON
    Yaml,
}

/// What can be shown as a table.
pub trait Tabular {
    /// The columns and rows that a person wants to see first.
    fn table(&self) -> Table;
}

impl<T: Tabular + ?Sized> Tabular for &T {
    fn table(&self) -> Table {
        (**self).table()
    }
}

/// Writes answers to stdout in the wished format. Every method flushes before it returns, so that
/// an answer that was reported as written has left the process.
pub struct Printer {
    format: Format,
    color: bool,
    width: Option<u16>,
    sink: Mutex<Sink>,
}

struct Sink {
    out: Box<dyn Write + Send>,
    /// Whether a YAML document was written already, so that the next one needs a separator.
    documents: bool,
}

impl Printer {
    /// A printer to stdout; tables fit the terminal's width, if there is a terminal.
    pub fn new(format: Format, color: Color) -> Self {
        let width = Stream::Stdout
            .is_terminal()
            .then(|| Stream::Stdout.width())
            .flatten();
        let out = Box::new(io::stdout());
        Self {
            format,
            color: color.on(Stream::Stdout),
            width,
            sink: Mutex::new(Sink {
                out,
                documents: false,
            }),
        }
    }

    /// A printer to any writer, without colour and width limit, as into a file.
    pub fn to(format: Format, out: impl Write + Send + 'static) -> Self {
        let sink = Sink {
            out: Box::new(out),
            documents: false,
        };
        Self {
            format,
            color: false,
            width: None,
            sink: Mutex::new(sink),
        }
    }

    /// The format that this printer writes.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes one answer in the wished format.
    pub fn answer<T: Serialize + Tabular + ?Sized>(&self, answer: &T) -> io::Result<()> {
        match self.format {
            Format::Table => self.write(answer.table().render(self.width, self.color).as_bytes()),
            Format::Json => self.json(answer),
            Format::Ndjson => self.lines(answer),
            Format::Yaml => self.yaml(answer),
        }
    }

    /// Writes one answer whose table was made apart from it: JSON and YAML show `value`, people see
    /// `table`.
    pub fn both<T: Serialize + ?Sized>(&self, value: &T, table: &Table) -> io::Result<()> {
        match self.format {
            Format::Table => self.write(table.render(self.width, self.color).as_bytes()),
            Format::Json => self.json(value),
            Format::Ndjson => self.lines(value),
            Format::Yaml => self.yaml(value),
        }
    }

    /// Writes a value that has no table: JSON or YAML, and YAML where a table was wished, as it
    /// reads best.
    pub fn value<T: Serialize + ?Sized>(&self, value: &T) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(value),
            Format::Ndjson => self.lines(value),
            Format::Table | Format::Yaml => self.yaml(value),
        }
    }

    /// Writes one item of a stream at once: its `Display` line, one compact JSON object a line, or
    /// a YAML document.
    pub fn item<T: Serialize + Display + ?Sized>(&self, item: &T) -> io::Result<()> {
        match self.format {
            Format::Table => self.write(format!("{item}\n").as_bytes()),
            Format::Json | Format::Ndjson => {
                let mut line = serde_json::to_vec(item)?;
                line.push(b'\n');
                self.write(&line)
            }
            Format::Yaml => self.yaml(item),
        }
    }

    /// Writes one line of text, whatever the format.
    pub fn line(&self, line: impl Display) -> io::Result<()> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// Writes bytes as they are: a child's output, a completion script, a manual page.
    pub fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes)
    }

    fn json<T: Serialize + ?Sized>(&self, value: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        self.write(&text)
    }

    fn lines<T: Serialize + ?Sized>(&self, value: &T) -> io::Result<()> {
        let value = serde_json::to_value(value)?;
        let items = match &value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut lines = Vec::new();
        for item in items {
            writeln!(lines, "{item}")?;
        }
        self.write(&lines)
    }

    fn yaml<T: Serialize + ?Sized>(&self, value: &T) -> io::Result<()> {
        let mut text = serde_saphyr::to_string(&value).map_err(io::Error::other)?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if sink.documents {
            text.insert_str(0, "---\n");
        }
        sink.documents = true;
        sink.write(text.as_bytes())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.sink
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out
            .write_all(bytes)
            .and_then(|()| self.out.flush())
            .map_err(mark)
    }
}

/// Marks a broken pipe as stdout's, to tell it from one of a socket, which is an error like any
/// other.
fn mark(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        io::Error::new(error.kind(), ClosedPipe)
    } else {
        error
    }
}

/// The reader of stdout has gone, as `head` does when it has seen enough.
#[derive(Debug, thiserror::Error)]
#[error("the reader of standard output is gone")]
struct ClosedPipe;

/// Whether an error says that the reader of stdout has gone. Such a run ends quietly, see
/// [`crate::report::main`].
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        // The chain of an `io::Error` skips what it wraps.
        let wrapped = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        wrapped.is_some_and(<dyn Error + Send + Sync>::is::<ClosedPipe>)
    })
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use super::*;

    /// A sink that can be read while a printer holds it.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Serialize)]
    struct Task {
        name: &'static str,
        pid: u32,
    }

    impl Tabular for Task {
        fn table(&self) -> Table {
            Table::new(["name", "pid"]).row([self.name.to_owned(), self.pid.to_string()])
        }
    }

    impl Display for Task {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} is {}", self.name, self.pid)
        }
    }

    const WEB: Task = Task {
        name: "web",
        pid: 7,
    };

    fn printed(format: Format, print: impl Fn(&Printer) -> io::Result<()>) -> String {
        let shared = Shared::default();
        print(&Printer::to(format, shared.clone())).unwrap();
        shared.text()
    }

    #[test]
    fn an_answer_has_four_forms() {
        let answer = |format| printed(format, |printer| printer.answer(&WEB));
        assert_eq!(answer(Format::Table), "NAME  PID\nweb   7\n");
        assert_eq!(
            answer(Format::Json),
            "{\n  \"name\": \"web\",\n  \"pid\": 7\n}\n"
        );
        assert_eq!(answer(Format::Ndjson), "{\"name\":\"web\",\"pid\":7}\n");
        assert_eq!(answer(Format::Yaml), "name: web\npid: 7\n");
    }

    #[test]
    fn a_list_in_lines_is_a_line_for_each_of_its_items() {
        let list = |items: &[Task]| {
            printed(Format::Ndjson, |printer| {
                printer.both(items, &Table::headless())
            })
        };
        let line = "{\"name\":\"web\",\"pid\":7}\n";
        assert_eq!(list(&[WEB, WEB]), format!("{line}{line}"));
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn a_value_without_a_table_is_yaml_for_people() {
        let value = |format| printed(format, |printer| printer.value(&WEB));
        assert_eq!(value(Format::Table), value(Format::Yaml));
        assert_eq!(
            value(Format::Json),
            "{\n  \"name\": \"web\",\n  \"pid\": 7\n}\n"
        );
    }

    #[test]
    fn a_stream_is_lines_objects_or_documents() {
        let twice = |format| {
            printed(format, |printer| {
                printer.item(&WEB).and_then(|()| printer.item(&WEB))
            })
        };
        assert_eq!(twice(Format::Table), "web is 7\nweb is 7\n");
        assert_eq!(
            twice(Format::Json),
            "{\"name\":\"web\",\"pid\":7}\n{\"name\":\"web\",\"pid\":7}\n"
        );
        assert_eq!(twice(Format::Ndjson), twice(Format::Json));
        assert_eq!(
            twice(Format::Yaml),
            "name: web\npid: 7\n---\nname: web\npid: 7\n"
        );
    }

    #[test]
    fn bytes_and_lines_pass_in_every_format() {
        for format in [Format::Table, Format::Json, Format::Yaml] {
            let text = printed(format, |printer| {
                printer.raw(b"a\x01").and_then(|()| printer.line("b"))
            });
            assert_eq!(text, "a\u{1}b\n");
        }
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_told_from_any_other_broken_pipe() {
        let error = Printer::to(Format::Json, Gone).answer(&WEB).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(
            &anyhow::Error::from(error).context("listing tasks")
        ));
        assert!(!is_closed_pipe(
            &io::Error::from(io::ErrorKind::BrokenPipe).into()
        ));
    }
}
