//! The state of the view: the tab, the order and the filter of its rows, the selection, and the effects
//! of keys. No I/O: messages and keys go in, and `draw` shows the result.
//!
//! Contract: 183a.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

use super::acting::{Action, Prompt};
use super::filter::{Filter, number};
use super::store::{Mark, Row, Store};
use crate::inspect::fields::{Column, Kind, columns};

/// The longest filter, in characters.
const LONGEST: usize = 200;

/// The connection to the inspector.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Link {
    Live,
    /// The program does not answer, or was closed.
    Lost {
        reason: String,
        /// The seconds until the next attempt.
        retry_in: f64,
    },
}

/// The next step of the caller after a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Stay,
    /// The inspector is asked for an action.
    Act(Action),
    /// The inspector is asked to pause, or to resume.
    Pause,
    Quit,
}

/// The part of the screen that the keys belong to.
#[derive(Debug)]
pub(super) enum Mode {
    Rows,
    /// The user types a filter.
    Filter,
    Details(Opened),
    /// All flags and loops in full.
    Alerts {
        top: usize,
    },
    Help,
}

/// A row whose details are shown, also after its end.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) view: String,
    /// The last known values.
    pub(super) row: Rc<Row>,
    pub(super) is_gone: bool,
    pub(super) top: usize,
}

/// The table of a view.
#[derive(Debug, Default)]
pub(super) struct Pane {
    pub(super) columns: Vec<Column>,
    /// The column of the order; `None`: flagged rows first.
    pub(super) sort: Option<String>,
    pub(super) is_reversed: bool,
    pub(super) filter_text: String,
    pub(super) filter: Filter,
    /// The rows that are shown, in their order.
    pub(super) shown: Vec<(Mark, Rc<Row>)>,
    /// The position and the id of the selected row.
    pub(super) selected: Option<(usize, String)>,
    /// The first visible line.
    pub(super) top: usize,
    /// The widths of the columns, which only grow, so that the table does not jump.
    pub(super) widths: BTreeMap<String, u16>,
    /// The version of the store from which the rows were arranged; 0: they must be arranged again.
    version: u64,
}

pub(super) struct Model {
    pub(super) store: Store,
    pub(super) link: Link,
    pub(super) is_paused: bool,
    pub(super) mode: Mode,
    pub(super) prompt: Prompt,
    /// The name of the view, or `time`.
    tab: String,
    panes: BTreeMap<String, Pane>,
    /// The first visible line of the tab of times.
    pub(super) time_top: usize,
    /// The seconds since the last message.
    pub(super) since_message: f64,
    /// The number of lines of the table or text that the last draw had room for.
    pub(super) height: usize,
}

/// The name of the tab that shows where the time goes.
pub(super) const TIME: &str = "time";

impl Model {
    pub(super) fn new() -> Model {
        Model {
            store: Store::default(),
            link: Link::Live,
            is_paused: false,
            mode: Mode::Rows,
            prompt: Prompt::Nothing,
            tab: "connections".to_owned(),
            panes: BTreeMap::new(),
            time_top: 0,
            since_message: 0.0,
            height: 1,
        }
    }

    /// Applies a message of the inspector.
    pub(super) fn apply(&mut self, message: Value, is_first: bool) {
        self.store.apply(message, is_first);
        (self.link, self.since_message) = (Link::Live, 0.0);
        if let Mode::Details(opened) = &mut self.mode {
            let view = self.store.view(&opened.view);
            match view.and_then(|view| view.rows.get(&opened.row.id)) {
                Some(row) => (opened.row, opened.is_gone) = (row.clone(), false),
                None => opened.is_gone = true,
            }
        }
    }

    /// The displayed Unix time, which stands still while nothing new arrives.
    pub(super) fn unix(&self) -> f64 {
        let passed = match self.is_paused || self.link != Link::Live {
            true => 0.0,
            false => self.since_message,
        };
        self.store.now() + passed
    }

    /// The tabs in their order: the views of the inspector, and time.
    pub(super) fn tabs(&self) -> Vec<&str> {
        self.store.views().iter().map(|view| view.name.as_str()).chain([TIME]).collect()
    }

    pub(super) fn tab(&self) -> &str {
        &self.tab
    }

    /// The table of the tab, arranged for the last message; `None` for times.
    pub(super) fn pane(&mut self) -> Option<&mut Pane> {
        let unix = self.unix();
        let view = self.store.view(&self.tab)?;
        let pane = self.panes.entry(self.tab.clone()).or_default();
        if pane.version != self.store.version {
            pane.version = self.store.version;
            let fields = view.fields.iter().map(String::as_str);
            pane.columns = columns(&self.tab, fields);
            pane.filter = Filter::parse(&pane.filter_text, &pane.columns);
            let marks = self.store.marks(&self.tab);
            let rows = view.rows.values().filter(|row| pane.filter.matches(row, unix));
            pane.shown = rows
                .map(|row| (marks.get(row.id.as_str()).copied().unwrap_or_default(), row.clone()))
                .collect();
            pane.sort(unix);
            pane.keep_selection();
        }
        Some(pane)
    }

    /// The table of the tab in its last arrangement.
    fn arranged(&mut self) -> Option<&mut Pane> {
        // Keys that follow one another arrange the rows once.
        match self.panes.contains_key(&self.tab) {
            true => self.panes.get_mut(&self.tab),
            false => self.pane(),
        }
    }

    /// Handles a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Reply {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Reply::Quit,
                _ => Reply::Stay,
            };
        }
        // Esc and another key that follows immediately look like this one.
        if key.modifiers.contains(KeyModifiers::ALT) {
            self.press(KeyCode::Esc.into());
        }
        match self.prompt.press(key.code) {
            (_, Some(action)) => return Reply::Act(action),
            (true, None) => return Reply::Stay,
            (false, None) => {}
        }
        match (&self.mode, key.code) {
            (Mode::Filter, code) => self.type_filter(code),
            (_, KeyCode::Char('q')) => return Reply::Quit,
            (_, KeyCode::Char('p' | ' ')) => {
                self.is_paused = !self.is_paused;
                return Reply::Pause;
            }
            (Mode::Help, _) => self.mode = Mode::Rows,
            (_, KeyCode::Char('?')) => self.mode = Mode::Help,
            (Mode::Alerts { .. } | Mode::Details(_), KeyCode::Esc | KeyCode::Enter)
            | (Mode::Alerts { .. }, KeyCode::Char('f')) => self.mode = Mode::Rows,
            (_, KeyCode::Char('f')) => self.mode = Mode::Alerts { top: 0 },
            (Mode::Details(_), KeyCode::Char('w')) => self.follow_link(),
            (Mode::Details(_) | Mode::Rows, KeyCode::Char(key @ ('c' | 'x' | 'z' | 'l'))) => {
                return self.begin_action(key);
            }
            (_, KeyCode::Tab | KeyCode::Right) => self.turn(1),
            (_, KeyCode::BackTab | KeyCode::Left) => self.turn(-1),
            (_, KeyCode::Char('t' | '0')) => self.show(TIME.to_owned()),
            (_, KeyCode::Char(digit @ '1'..='9')) => {
                let number = digit as usize - '1' as usize;
                if let Some(view) = self.store.views().get(number) {
                    self.show(view.name.clone());
                }
            }
            (_, code) => self.move_or_change(code),
        }
        Reply::Stay
    }

    /// Handles a key that asks for an action, on the opened or the selected connection.
    fn begin_action(&mut self, key: char) -> Reply {
        let row = match &self.mode {
            Mode::Details(opened) if opened.view == "connections" => Some(opened.row.clone()),
            Mode::Rows if self.tab == "connections" => self.arranged().and_then(|pane| {
                let (at, _) = pane.selected.as_ref()?;
                pane.shown.get(*at).map(|(_, row)| row.clone())
            }),
            _ => None,
        };
        let (prompt, action) = Prompt::begin(key, &self.store, row.as_deref());
        self.prompt = prompt;
        action.map_or(Reply::Stay, Reply::Act)
    }

    /// Handles keys that move in the rows or in a text, or that change the rows.
    fn move_or_change(&mut self, code: KeyCode) {
        let page = isize::try_from(self.height.saturating_sub(1).max(1)).unwrap_or(1);
        match code {
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::PageDown => self.scroll(page),
            KeyCode::PageUp => self.scroll(-page),
            KeyCode::Home | KeyCode::Char('g') => self.scroll(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.scroll(isize::MAX),
            _ if !matches!(self.mode, Mode::Rows) => {}
            KeyCode::Enter => self.open(),
            KeyCode::Char('/') if self.pane().is_some() => self.mode = Mode::Filter,
            KeyCode::Char('s') => self.sort_by(1),
            KeyCode::Char('S') => self.sort_by(-1),
            KeyCode::Char('r') => {
                if let Some(pane) = self.arranged() {
                    (pane.is_reversed, pane.version) = (!pane.is_reversed, 0);
                }
            }
            KeyCode::Esc => {
                if let Some(pane) = self.arranged() {
                    match pane.filter_text.is_empty() {
                        true => pane.selected = None,
                        false => pane.filter_text.clear(),
                    }
                    pane.version = 0;
                }
            }
            _ => {}
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        let Some(pane) = self.arranged() else { return };
        match code {
            KeyCode::Char(letter) if pane.filter_text.chars().count() < LONGEST => {
                pane.filter_text.push(letter);
            }
            KeyCode::Backspace => drop(pane.filter_text.pop()),
            KeyCode::Esc => pane.filter_text.clear(),
            _ => {}
        }
        (pane.version, pane.top) = (0, 0);
        if matches!(code, KeyCode::Esc | KeyCode::Enter) {
            self.mode = Mode::Rows;
        }
    }

    /// Scrolls a text, or moves the selection. The largest steps lead to the ends.
    fn scroll(&mut self, by: isize) {
        let top = match &mut self.mode {
            Mode::Details(opened) => &mut opened.top,
            Mode::Alerts { top } => top,
            _ if self.tab == TIME => &mut self.time_top,
            _ => {
                if let Some(pane) = self.pane() {
                    pane.move_selection(by);
                }
                return;
            }
        };
        // `draw` limits it to the end of the text.
        *top = top.saturating_add_signed(by);
    }

    /// Shows the tab `by` places from this one.
    fn turn(&mut self, by: isize) {
        let tabs = self.tabs();
        let at = tabs.iter().position(|tab| *tab == self.tab).unwrap_or(0);
        let next = (at + tabs.len()).saturating_add_signed(by) % tabs.len();
        self.show(tabs[next].to_owned());
    }

    fn show(&mut self, tab: String) {
        (self.tab, self.mode) = (tab, Mode::Rows);
    }

    /// Sorts by the column `by` places from the current one; the order of the flags precedes the
    /// first.
    fn sort_by(&mut self, by: isize) {
        let Some(pane) = self.arranged() else { return };
        let at = pane.sort.as_ref();
        let at = at.and_then(|key| pane.columns.iter().position(|column| column.key == *key));
        let count = pane.columns.len() + 1;
        let next = (at.map_or(0, |at| at + 1) + count).saturating_add_signed(by) % count;
        let column = next.checked_sub(1).map(|at| &pane.columns[at]);
        // The largest number is the one that matters.
        pane.is_reversed = column.is_some_and(|column| column.kind.is_number());
        pane.sort = column.map(|column| column.key.clone());
        pane.version = 0;
    }

    /// Opens the details of the selected row, or else of the first visible one.
    fn open(&mut self) {
        let view = self.tab.clone();
        let Some(pane) = self.pane() else { return };
        let at = pane.selected.as_ref().map_or(pane.top, |(at, _)| *at);
        let Some((_, row)) = pane.shown.get(at) else { return };
        let row = row.clone();
        pane.selected = Some((at, row.id.clone()));
        self.mode = Mode::Details(Opened { view, row, is_gone: false, top: 0 });
    }

    /// Opens the details of the row that the opened one waits for.
    fn follow_link(&mut self) {
        let Mode::Details(opened) = &self.mode else { return };
        let found = opened.row.waits_for().find_map(|link| self.store.linked(link));
        let Some((view, row)) = found.map(|(view, row)| (view.name.clone(), row.clone())) else {
            return;
        };
        self.tab.clone_from(&view);
        self.mode = Mode::Details(Opened { view, row, is_gone: false, top: 0 });
    }
}

impl Pane {
    /// Sorts the rows: by the flags, or by a column. Rows without a value are the last.
    fn sort(&mut self, unix: f64) {
        let column = self.columns.iter().find(|column| Some(&column.key) == self.sort.as_ref());
        let Some(column) = column else {
            self.shown.sort_by(|(a_mark, a), (b_mark, b)| {
                let has_ended = |row: &Row| row.value("state") == "ended";
                let last = has_ended(a).cmp(&has_ended(b));
                b_mark.cmp(a_mark).then(last).then_with(|| natural(&a.id, &b.id))
            });
            if self.is_reversed {
                self.shown.reverse();
            }
            return;
        };
        let mut keyed: Vec<_> = std::mem::take(&mut self.shown)
            .into_iter()
            .map(|shown| (Key::of(column.kind, shown.1.value(&column.key), unix), shown))
            .collect();
        let is_reversed = self.is_reversed;
        let order = |a: &Key, b: &Key| match (a, b) {
            (Key::Absent, Key::Absent) => Ordering::Equal,
            (Key::Absent, _) => Ordering::Greater,
            (_, Key::Absent) => Ordering::Less,
            _ if is_reversed => b.compare(a),
            _ => a.compare(b),
        };
        keyed.sort_by(|(a, (_, one)), (b, (_, other))| {
            order(a, b).then_with(|| natural(&one.id, &other.id))
        });
        self.shown = keyed.into_iter().map(|(_, shown)| shown).collect();
    }

    /// Finds the selected row again. If it has ended, the row at its place is selected.
    fn keep_selection(&mut self) {
        let Some((at, id)) = self.selected.take() else { return };
        let found = match self.shown.get(at).is_some_and(|(_, row)| row.id == id) {
            true => Some(at),
            false => self.shown.iter().position(|(_, row)| row.id == id),
        };
        let at = found.unwrap_or(at).min(self.shown.len().saturating_sub(1));
        self.selected = self.shown.get(at).map(|(_, row)| (at, row.id.clone()));
    }

    /// Moves the selection by lines; without a selection, to the first visible line.
    fn move_selection(&mut self, by: isize) {
        let last = self.shown.len().saturating_sub(1);
        let at = match &self.selected {
            None if by.unsigned_abs() < self.shown.len().max(2) => self.top,
            None => 0_usize.saturating_add_signed(by),
            Some((at, _)) => at.saturating_add_signed(by),
        };
        let at = at.min(last);
        self.selected = self.shown.get(at).map(|(_, row)| (at, row.id.clone()));
    }

    /// Scrolls so that the selected row is among `height` visible lines.
    pub(super) fn scroll_into_view(&mut self, height: usize) {
        if let Some((at, _)) = self.selected {
            self.top = self.top.clamp((at + 1).saturating_sub(height), at);
        }
        self.top = self.top.min(self.shown.len().saturating_sub(height));
    }
}

/// The key of a row in an order.
enum Key {
    Absent,
    Number(f64),
    Text(String),
}

impl Key {
    fn of(kind: Kind, value: &Value, unix: f64) -> Key {
        if let Some(number) = number(kind, value, unix) {
            return Key::Number(number);
        }
        match crate::inspect::fields::format(Kind::Text, value, unix) {
            text if text.is_empty() => Key::Absent,
            text => Key::Text(text),
        }
    }

    fn compare(&self, other: &Key) -> Ordering {
        match (self, other) {
            (Key::Number(a), Key::Number(b)) => a.total_cmp(b),
            (Key::Text(a), Key::Text(b)) => natural(a, b),
            (Key::Number(_), _) => Ordering::Less,
            (_, Key::Number(_)) => Ordering::Greater,
            _ => Ordering::Equal,
        }
    }
}

/// Compares texts, and the numbers in them by their values: `1.9` is before `1.10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (x, y) = (digits(a), digits(b));
        if x > 0 && y > 0 {
            let (number, other) = (significant(&a[..x]), significant(&b[..y]));
            let order = number.len().cmp(&other.len()).then_with(|| number.cmp(other));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[x..], &b[y..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, rest)), Some((y, other))) if x == y => (a, b) = (rest, other),
            (x, y) => return x.map(|(byte, _)| byte).cmp(&y.map(|(byte, _)| byte)),
        }
    }
}

/// The number of digits at the beginning.
fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Digits without leading zeros.
fn significant(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}
