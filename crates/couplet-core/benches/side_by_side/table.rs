//! Aligned tables.

use std::fmt::Display;

/// A table with its first column aligned left and the others right.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<T: ToString>(heads: &[T]) -> Table {
        Table { rows: vec![heads.iter().map(T::to_string).collect()] }
    }

    pub(crate) fn row(&mut self, name: &dyn Display, cells: impl IntoIterator<Item = String>) {
        let mut row = vec![name.to_string()];
        row.extend(cells);
        self.rows.push(row);
    }

    pub(crate) fn print(&self, title: &str) {
        println!("\n{title}");
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let widths = self.rows.iter().map(|row| row[column].chars().count());
                let width = widths.max().unwrap_or(0);
                match column {
                    0 => print!("  {cell:<width$}"),
                    _ => print!("  {cell:>width$}"),
                }
            }
            println!();
        }
    }
}
