//! How commands print: for people or for programs, tables with aligned columns, colours on a terminal only.

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// Whether standard output takes colours (<https://no-color.org>).
pub(crate) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Of a line's first word.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tint {
    Red,
    Yellow,
    Green,
    Bold,
}

impl Tint {
    /// The codes before and after; empty without colours.
    pub(crate) fn codes(self, colours: bool) -> (&'static str, &'static str) {
        let before = match self {
            Tint::Red => "\x1b[31m",
            Tint::Yellow => "\x1b[33m",
            Tint::Green => "\x1b[32m",
            Tint::Bold => "\x1b[1m",
        };
        if colours { (before, "\x1b[0m") } else { ("", "") }
    }
}

pub(crate) fn json(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

pub(crate) fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// One line without anything that a terminal would obey: what is printed comes from configuration and from servers.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A table as kubectl prints it: a line a row, columns aligned, three spaces in between.
pub(crate) fn table(out: &mut impl Write, columns: &[&str], rows: &[Vec<String>], colours: bool) -> io::Result<()> {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(columns.get(column).map(|name| name.len())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    let (before, after) = Tint::Bold.codes(colours);
    writeln!(out, "{before}{}{after}", line(columns.to_vec()))?;
    rows.iter().try_for_each(|row| writeln!(out, "{}", line(row.iter().map(String::as_str).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_in_a_cell_reaches_the_terminal() {
        let mut out = Vec::new();
        let rows = [vec!["a × 1".to_owned(), "x".to_owned()], vec!["longer\x1b[31m".to_owned(), String::new()]];
        table(&mut out, &["NAME", "STATE"], &rows, false).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME          STATE\na × 1         x\nlonger [31m\n");
    }
}
