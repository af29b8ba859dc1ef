//! An answer whose JSON form and table are made apart from each other: the JSON is what the hub sent, the table what
//! people want to see of it.

use std::io;

use runyard_common::output::{Printer, Table, Tabular};
use serde::Serialize;

/// A value and its table.
#[derive(Serialize)]
#[serde(transparent)]
struct Answer<'a, T: Serialize + ?Sized> {
    value: &'a T,
    #[serde(skip)]
    table: Table,
}

impl<T: Serialize + ?Sized> Tabular for Answer<'_, T> {
    fn table(&self) -> Table {
        self.table.clone()
    }
}

/// Prints `value`, or `table` where a table is wished.
pub(super) fn print<T: Serialize + ?Sized>(
    printer: &Printer,
    value: &T,
    table: Table,
) -> io::Result<()> {
    printer.answer(&Answer { value, table })
}
