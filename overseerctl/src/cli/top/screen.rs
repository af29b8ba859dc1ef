//! The terminal: taken over, drawn on, and given back whatever happens.

use std::{io, panic};

use crossterm::{
    cursor, queue,
    style::{Attribute, Print, SetAttribute},
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};
use runyard_common::output::Printer;

use super::view::{Row, Style};

/// A terminal that shows nothing but this program.
pub(super) struct Screen<'a> {
    printer: &'a Printer,
}

impl<'a> Screen<'a> {
    /// Takes the terminal over until the value is dropped, or until a panic.
    pub(super) fn enter(printer: &'a Printer) -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // From here on dropping it gives the terminal back.
        let screen = Self { printer };
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back(|bytes| io::Write::write_all(&mut io::stdout(), bytes));
            report(info);
        }));
        let mut bytes = Vec::new();
        queue!(
            bytes,
            EnterAlternateScreen,
            cursor::Hide,
            terminal::DisableLineWrap
        )?;
        printer.raw(&bytes)?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(super) fn size() -> io::Result<(usize, usize)> {
        terminal::size().map(|(columns, rows)| (columns.into(), rows.into()))
    }

    /// Draws rows from the top; what is below them is cleared.
    pub(super) fn draw(&mut self, rows: &[Row]) -> io::Result<()> {
        let mut bytes = Vec::new();
        queue!(bytes, terminal::BeginSynchronizedUpdate)?;
        for (index, row) in rows.iter().enumerate() {
            let attribute = match row.style {
                Style::Plain => Attribute::Reset,
                Style::Bold => Attribute::Bold,
                Style::Dim => Attribute::Dim,
                Style::Reverse => Attribute::Reverse,
            };
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            queue!(
                bytes,
                cursor::MoveTo(0, index),
                SetAttribute(attribute),
                Print(&row.text)
            )?;
            queue!(
                bytes,
                SetAttribute(Attribute::Reset),
                Clear(ClearType::UntilNewLine)
            )?;
        }
        queue!(
            bytes,
            Clear(ClearType::FromCursorDown),
            terminal::EndSynchronizedUpdate
        )?;
        self.printer.raw(&bytes)
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        give_back(|bytes| self.printer.raw(bytes));
    }
}

/// Puts the terminal back as it was. A terminal that is gone needs nothing more.
fn give_back(write: impl FnOnce(&[u8]) -> io::Result<()>) {
    let mut bytes = Vec::new();
    let queued = queue!(
        bytes,
        terminal::EnableLineWrap,
        cursor::Show,
        LeaveAlternateScreen
    );
    let _ = queued.and_then(|()| write(&bytes));
    let _ = terminal::disable_raw_mode();
}
