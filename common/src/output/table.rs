//! Tables for people: no borders, columns two spaces apart, headers in capitals. What goes into the
//! cells is the tool's.

use comfy_table::{CellAlignment, ContentArrangement, TableStyle};

/// Columns and rows of an answer.
///
/// ```
/// # use runyard_common::output::Table;
/// let table = Table::new(["task", "pid"]).right("pid").row(["web", "4711"]).row(["db", "9"]);
/// assert_eq!(table.render(None, false), "TASK   PID\nweb   4711\ndb       9\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    header: Vec<String>,
    right: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with the columns' names, and no rows yet.
    pub fn new<N: Into<String>>(columns: impl IntoIterator<Item = N>) -> Self {
        Self {
            header: columns.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// A table without a header, for the properties of one thing: a name and a value a row.
    pub fn headless() -> Self {
        Self::default()
    }

    /// Aligns the named column to the right, as numbers want it. A name that is no column changes
    /// nothing.
    #[must_use]
    pub fn right(mut self, column: &str) -> Self {
        self.right
            .extend(self.header.iter().position(|name| name == column));
        self
    }

    /// Adds a row, and returns the table for the next.
    #[must_use]
    pub fn row<C: Into<String>>(mut self, cells: impl IntoIterator<Item = C>) -> Self {
        self.push(cells);
        self
    }

    /// Adds a row.
    pub fn push<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, wrapped to `width` columns if there is a width, the header bold if there is
    /// colour. Lines carry no trailing spaces; a table without header and rows is empty text.
    pub fn render(&self, width: Option<u16>, color: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(TableStyle::new());
        table.force_no_tty();
        if let Some(width) = width {
            table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width);
        }
        if !self.header.is_empty() {
            table.set_header(self.header.iter().map(|name| name.to_uppercase()));
        }
        table.add_rows(&self.rows);
        self.space_out(&mut table);
        let mut text = String::new();
        for (index, line) in table.lines().enumerate() {
            let line = line.trim_end();
            if color && index == 0 && !self.header.is_empty() {
                text.extend(["\x1b[1m", line, "\x1b[0m\n"]);
            } else {
                text.extend([line, "\n"]);
            }
        }
        text
    }

    /// Two spaces between columns, none before the first.
    fn space_out(&self, table: &mut comfy_table::Table) {
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new(["name", "count"])
            .right("count")
            .row(["a", "1000"])
            .row(["longer", "7"])
    }

    #[test]
    fn columns_line_up_and_numbers_are_on_the_right() {
        assert_eq!(
            table().render(None, false),
            "NAME    COUNT\na        1000\nlonger      7\n"
        );
    }

    #[test]
    fn only_the_header_is_painted() {
        assert_eq!(
            table().render(None, true),
            "\x1b[1mNAME    COUNT\x1b[0m\na        1000\nlonger      7\n"
        );
    }

    #[test]
    fn a_narrow_terminal_wraps_and_a_file_does_not() {
        let table = Table::new(["id", "text"]).row(["1", "one two three four five six"]);
        let wrapped = table.render(Some(20), false);
        assert!(wrapped.lines().all(|line| line.len() <= 20), "{wrapped}");
        assert!(wrapped.lines().count() > 2, "{wrapped}");
        assert_eq!(
            table.render(None, false),
            "ID  TEXT\n1   one two three four five six\n"
        );
    }

    #[test]
    fn a_table_without_rows_is_its_header_and_one_without_both_is_nothing() {
        assert_eq!(Table::new(["a", "b"]).render(None, false), "A  B\n");
        assert_eq!(Table::headless().render(None, true), "");
    }

    #[test]
    fn properties_need_no_header() {
        let table = Table::headless()
            .row(["state", "running"])
            .row(["pid", "7"]);
        assert_eq!(table.render(None, true), "state  running\npid    7\n");
    }
}
