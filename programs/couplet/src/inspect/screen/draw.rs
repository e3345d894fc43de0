//! Draws the view: flags and loops above, then the tabs and one of them, and the keys.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::model::{Link, Mode, Model, TIME};
use super::pages::{alerts, details, help, times, wrapped};
use super::store::Mark;
use super::table::table;
use crate::inspect::fields::{seconds, word};

/// Seconds without a message after which the header says so.
const SILENCE: f64 = 5.0;

/// Colours, or only emphasis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    pub(super) has_colours: bool,
}

impl Palette {
    pub(super) fn colour(self, colour: Color) -> Style {
        match self.has_colours {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    pub(super) fn bold() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn dim() -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn mark(self, mark: Mark) -> Style {
        match mark {
            Mark::Calm => Style::new(),
            Mark::Yellow => self.colour(Color::Yellow),
            Mark::Red => self.colour(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}

/// Draws the model.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, palette: Palette) {
    let area = frame.area();
    let mut above = vec![header(model, palette)];
    if !matches!(model.mode, Mode::Alerts { .. }) {
        above.extend(alerts(
            &model.store,
            palette,
            area.width.into(),
            Some(usize::from(area.height / 3)),
        ));
    }
    let mut rest = area;
    for line in above.into_iter().chain([tabs(model, area.width)]) {
        let row = take_row(&mut rest);
        frame.render_widget(line, row);
    }
    let last = rest.height.saturating_sub(1);
    let body = Rect { height: last, ..rest };
    let foot = Rect { y: rest.y + last, height: rest.height.min(1), ..rest };
    body_of(frame, body, model, palette);
    let line = footer(model, palette);
    frame.render_widget(line, foot);
    if let Mode::Filter = model.mode {
        let typed = model.pane().map_or(0, |pane| Span::raw(&pane.filter_text).width());
        let x = foot.x + u16::try_from(typed + FILTER.len()).unwrap_or(u16::MAX);
        frame.set_cursor_position((x.min(foot.right().saturating_sub(1)), foot.y));
    }
}

/// The first row of an area, which shrinks.
pub(super) fn take_row(area: &mut Rect) -> Rect {
    let row = Rect { height: area.height.min(1), ..*area };
    area.y += row.height;
    area.height -= row.height;
    row
}

fn body_of(frame: &mut Frame<'_>, body: Rect, model: &mut Model, palette: Palette) {
    model.height = usize::from(body.height);
    let unix = model.unix();
    let store = &model.store;
    let (is_time, width) = (model.tab() == TIME, usize::from(body.width));
    // The lines of the table of times are cut.
    let is_table = is_time && matches!(model.mode, Mode::Rows | Mode::Filter);
    let (lines, top) = match &mut model.mode {
        Mode::Help => (help(), None),
        Mode::Alerts { top } => (alerts(store, palette, width, None), Some(top)),
        Mode::Details(opened) => {
            let lines = details(store, opened, unix, palette);
            (lines, Some(&mut opened.top))
        }
        Mode::Rows | Mode::Filter if is_time => (times(store), Some(&mut model.time_top)),
        Mode::Rows | Mode::Filter => {
            // The head takes a line.
            model.height = model.height.saturating_sub(1);
            let height = model.height;
            match model.pane() {
                Some(pane) => table(frame.buffer_mut(), body, pane, unix, height, palette),
                None => frame.render_widget("no rows yet", body),
            }
            return;
        }
    };
    let lines = if is_table { lines } else { wrapped(lines, width) };
    let mut unscrolled = 0;
    let top = top.unwrap_or(&mut unscrolled);
    *top = (*top).min(lines.len().saturating_sub(1));
    let page: Vec<_> = lines.into_iter().skip(*top).take(model.height).collect();
    frame.render_widget(Paragraph::new(page), body);
}

fn header(model: &Model, palette: Palette) -> Line<'static> {
    let program = &model.store.program;
    let up = program["now"].as_f64().zip(program["started"].as_f64());
    let up = up.map_or(0.0, |(now, started)| now - started);
    let name = format!("{} {}", word(&program["name"]), word(&program["version"]));
    let about = format!("  pid {}, up {}  ", word(&program["pid"]), seconds(up));
    let (state, style) = match &model.link {
        Link::Lost { reason, retry_in } => {
            (format!("lost: {reason}; next try in {retry_in:.0} s"), palette.mark(Mark::Red))
        }
        Link::Live if model.is_paused => ("paused".to_owned(), palette.mark(Mark::Yellow)),
        Link::Live if model.since_message > SILENCE => {
            (format!("no message for {}", seconds(model.since_message)), palette.mark(Mark::Yellow))
        }
        Link::Live => ("live".to_owned(), palette.colour(Color::Green)),
    };
    Line::from(vec![
        Span::styled(name, Palette::bold()),
        Span::raw(about),
        Span::styled(state, style),
    ])
}

/// The tabs, from the first that leaves room for the selected one.
fn tabs(model: &Model, width: u16) -> Line<'static> {
    let names = model.tabs();
    let at = names.iter().position(|name| *name == model.tab()).unwrap_or(0);
    let texts: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let count = model.store.view(name).map_or(0, |view| view.rows.len());
            let key = match (*name, at) {
                (TIME, _) => "0 ".to_owned(),
                (_, ..9) => format!("{} ", at + 1),
                _ => String::new(),
            };
            match count {
                0 => format!(" {key}{name} "),
                count => format!(" {key}{name} {count} "),
            }
        })
        .collect();
    let width_from = |first: usize| -> usize {
        texts[first..=at].iter().map(|text| Span::raw(text.as_str()).width()).sum()
    };
    let first = (0..at).find(|first| width_from(*first) <= usize::from(width)).unwrap_or(at);
    let spans = texts.into_iter().enumerate().skip(first).map(|(number, text)| {
        let view = model.store.view(names[number]);
        let is_empty = view.is_some_and(|view| view.rows.is_empty());
        match number == at {
            true => Span::styled(text, Style::new().add_modifier(Modifier::REVERSED)),
            false if is_empty => Span::styled(text, Palette::dim()),
            false => Span::raw(text),
        }
    });
    Line::from(spans.collect::<Vec<_>>())
}

const FILTER: &str = "filter: ";

/// The question before an action or its outcome; or the keys, or the filter that the user types; at the right, the order and the filter in force.
fn footer(model: &mut Model, palette: Palette) -> Line<'static> {
    if let Some((words, is_error)) = model.prompt.line() {
        return Line::styled(words, palette.mark(if is_error { Mark::Red } else { Mark::Yellow }));
    }
    let is_typing = matches!(model.mode, Mode::Filter);
    let keys = match model.mode {
        Mode::Help => "any key: back",
        Mode::Details(_) => "Esc back  ↑↓ scroll  w what it waits for  q quit",
        Mode::Alerts { .. } => "Esc back  ↑↓ scroll  q quit",
        Mode::Rows | Mode::Filter => {
            "? help  / filter  s sort  Enter details  f flags  p pause  q quit"
        }
    };
    let all = model.store.view(model.tab()).map_or(0, |view| view.rows.len());
    let Some(pane) = model.pane() else { return Line::styled(keys, Palette::dim()) };
    if let Some(problem) = pane.filter.problem() {
        let text = format!("{FILTER}{}  ({problem})", pane.filter_text);
        return Line::styled(text, palette.mark(Mark::Red));
    }
    let shown = format!("{} of {all}", pane.shown.len());
    let mut spans = match is_typing {
        true => vec![Span::raw(format!("{FILTER}{}", pane.filter_text))],
        false => vec![Span::styled(keys, Palette::dim())],
    };
    if !pane.filter.is_empty() || is_typing {
        let filter =
            if is_typing { String::new() } else { format!("  {FILTER}{}", pane.filter_text) };
        spans.push(Span::styled(format!("{filter}  {shown}"), palette.mark(Mark::Yellow)));
    }
    Line::from(spans)
}
