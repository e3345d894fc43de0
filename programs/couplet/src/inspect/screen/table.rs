//! The table of a view. Only the rows in sight are formatted.
//!
//! Contract: 183a.

use std::collections::BTreeMap;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Span;

use super::draw::{Palette, take_row};
use super::model::Pane;
use super::store::Row;
use crate::inspect::fields::{Column, format};

/// The widest column before the last one, in cells.
const WIDEST: u16 = 32;

/// The part of the width that the reason has at least, in percent.
const WHY_SHARE: u16 = 50;

/// The rows of a view in sight.
pub(super) fn table(
    buffer: &mut Buffer,
    body: Rect,
    pane: &mut Pane,
    unix: f64,
    height: usize,
    palette: Palette,
) {
    // Neither a head nor a cell has room.
    if body.height == 0 || body.width < 4 {
        return;
    }
    pane.scroll_into_view(height);
    let visible: Vec<_> = pane.shown.iter().skip(pane.top).take(height).cloned().collect();
    let cells: Vec<Vec<String>> =
        visible.iter().map(|(_, row)| cells(row, &pane.columns, unix)).collect();
    widen(&mut pane.widths, &pane.columns, &cells);
    let places = places(pane, body);
    let mut rest = body;
    let head = take_row(&mut rest);
    for (at, place) in &places {
        let column = &pane.columns[*at];
        let order = match (pane.sort.as_ref() == Some(&column.key), pane.is_reversed) {
            (false, _) => "",
            (true, true) => "↓",
            (true, false) => "↑",
        };
        let label = format!("{}{order}", column.label.to_uppercase());
        put(buffer, Rect { y: head.y, ..*place }, &label, column, Palette::bold());
    }
    for ((mark, row), cells) in visible.iter().zip(&cells) {
        let line = take_row(&mut rest);
        let style = palette.mark(*mark);
        let sign = [" ", "!", "!"][*mark as usize];
        buffer.set_stringn(line.x, line.y, sign, usize::from(line.width), style);
        for (at, place) in &places {
            let column = &pane.columns[*at];
            let style = if column.key == "why" { style.patch(Palette::bold()) } else { style };
            put(buffer, Rect { y: line.y, ..*place }, &cells[*at], column, style);
        }
        if pane.selected.as_ref().is_some_and(|(_, id)| *id == row.id) {
            buffer.set_style(line, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

/// The cells of a row.
fn cells(row: &Row, columns: &[Column], unix: f64) -> Vec<String> {
    columns.iter().map(|column| format(column.kind, row.value(&column.key), unix)).collect()
}

/// Widens the columns for cells that have come into sight.
fn widen(widths: &mut BTreeMap<String, u16>, columns: &[Column], cells: &[Vec<String>]) {
    for (at, column) in columns.iter().enumerate() {
        let texts = cells.iter().map(|cells| Span::raw(cells[at].as_str()).width());
        // The head has an arrow too.
        let head = Span::raw(column.label.as_str()).width() + 1;
        let width = texts.max().unwrap_or(0).max(head);
        let width = u16::try_from(width).unwrap_or(WIDEST).min(WIDEST);
        let known = widths.entry(column.key.clone()).or_default();
        *known = width.max(*known);
    }
}

/// The columns for which the body has room, with their places: the last one, the reason, has at
/// least its share of the width. The column of the order is among them.
fn places(pane: &Pane, body: Rect) -> Vec<(usize, Rect)> {
    let Pane { columns, widths, sort, .. } = pane;
    let Some(last) = columns.len().checked_sub(1) else { return Vec::new() };
    let others = body.width - body.width * WHY_SHARE / 100;
    // The sign of a mark and a space.
    let mut x = 2;
    let (mut places, mut is_full) = (Vec::new(), false);
    for (at, column) in columns[..last].iter().enumerate() {
        let width = widths.get(&column.key).copied().unwrap_or_default();
        let is_order = sort.as_ref() == Some(&column.key) && x + width < body.width;
        is_full |= x + width >= others;
        if !is_full || is_order {
            places.push((at, Rect { x: body.x + x, y: body.y, width, height: 1 }));
            x += width + 2;
        }
    }
    let width = body.width.saturating_sub(x);
    places.push((last, Rect { x: body.x + x, y: body.y, width, height: 1 }));
    places
}

/// Writes a cell: numbers are aligned to the right, and a text that is too long ends with an ellipsis.
fn put(buffer: &mut Buffer, place: Rect, text: &str, column: &Column, style: Style) {
    let (width, room) = (Span::raw(text).width(), usize::from(place.width));
    if width > room {
        let (x, _) = buffer.set_stringn(place.x, place.y, text, room.saturating_sub(1), style);
        buffer.set_stringn(x, place.y, "…", room.min(1), style);
        return;
    }
    let gap = if column.kind.is_number() { room - width } else { 0 };
    let gap = u16::try_from(gap).unwrap_or(0);
    buffer.set_stringn(place.x + gap, place.y, text, room, style);
}
