//! Progress on stderr: bars on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::fmt;
use std::io::IsTerminal;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use couplet::backlog::{self, Backlog};
use couplet::{LoopingCall, Reactor};

use console::{Term, measure_text_width, pad_str, style, truncate_str};
use indicatif::{
    HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};

use crate::logging::{Logging, is_dumb};
use crate::output;
use screen::Screen;

mod screen;

/// Interval at which changed bars are drawn.
const DRAW_EVERY: Duration = Duration::from_millis(50);
/// Shortest interval between plain lines about one transfer.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Minimum and maximum width of a bar, in columns.
const BAR: (usize, usize) = (8, 40);
/// Columns of the time at the end of a line: `12.3 s`.
const WORD: usize = 6;

/// The bars, each with the contents of its line.
type Rows = Arc<Mutex<Vec<(ProgressBar, Arc<Row>)>>>;

/// The progress of several transfers; cheap to clone.
#[derive(Clone)]
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
    rows: Rows,
    screen: Screen,
    /// Columns of the longest name.
    name_width: usize,
}

impl Progress {
    /// `names` are the names of all transfers that will have a bar.
    pub(crate) fn new<'a>(logging: &Logging, names: impl Iterator<Item = &'a str>) -> Progress {
        let drawn = std::io::stderr().is_terminal() && !is_dumb() && !logging.is_talkative();
        let screen = Screen::new(Backlog::stderr());
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 20);
        Progress {
            screen,
            bars: drawn.then(|| MultiProgress::with_draw_target(target)),
            rows: Arc::default(),
            name_width: names.map(measure_text_width).max().unwrap_or(0),
        }
    }

    /// Has the reactor draw the bars that have changed, until its loop ends.
    pub(crate) fn draw_in(&self, reactor: &Reactor) {
        if self.bars.is_some() {
            let progress = self.clone();
            let drawing = LoopingCall::new(reactor, move || progress.draw());
            drawing.start_later(DRAW_EVERY).detach();
        }
    }

    /// Draws the bars that have changed, all in one frame; later if the terminal has yet to take the
    /// frame before.
    fn draw(&self) {
        if self.screen.is_behind() {
            return;
        }
        let mut last = None;
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for (bar, row) in &*rows {
            if row.is_changed.swap(false, Ordering::Relaxed) {
                bar.tick();
                last = Some(bar);
            }
        }
        // The number of draws by `tick` is limited.
        if let Some(bar) = last {
            bar.force_draw();
        }
    }

    /// Adds a bar for one transfer: its name, its server unless the name includes it, and the
    /// number of bytes if known.
    pub(crate) fn bar(&self, name: &str, server: &str, total: Option<u64>, now: Instant) -> Bar {
        let row = Arc::new(Row {
            name: name.to_owned(),
            name_width: self.name_width,
            server: server.to_owned(),
            total,
            glyphs: Glyphs::of_locale(),
            bytes: AtomicU64::new(0),
            is_changed: AtomicBool::new(true),
            connected: OnceLock::new(),
            end: OnceLock::new(),
        });
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::no_length().with_style(row.clone().style()));
            bar.tick();
            let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            rows.push((bar.clone(), row.clone()));
            bar
        });
        Bar(Rc::new(BarState {
            bar,
            row,
            last_report: Cell::new(now),
            reported_quarter: Cell::new(0),
        }))
    }

    /// Prints a line above the bars.
    pub(crate) fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| output::print_to_stderr(text)),
            None => output::print_to_stderr(text),
        }
    }

    /// Leaves the bars of an interrupted run on the screen: the terminal has echoed a `^C` below
    /// them, so another draw would be a line too low.
    pub(crate) fn freeze(&self) {
        if let Some(bars) = &self.bars {
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// After [`freeze`](Self::freeze): moves below the bars and the `^C`.
    pub(crate) fn leave(&self) {
        if self.bars.is_some() {
            output::print_to_stderr("");
        }
    }

    /// Waits until the terminal has the last frame, for a print on stdout below it.
    pub(crate) fn settle(&self) {
        Backlog::stderr().settle(backlog::exit_wait());
    }

    /// Clears the bars while `f` prints on stdout, in another thread than the loop's, and hides the
    /// loop's draws: the terminal may have stopped.
    pub(crate) fn suspend<R>(&self, f: impl FnOnce() -> R) -> R {
        let Some(bars) = &self.bars else { return f() };
        let _ = bars.clear();
        self.screen.set_hidden(true);
        self.settle();
        let result = f();
        let _ = bars.clear();
        self.screen.set_hidden(false);
        // Draws them again.
        bars.suspend(|| ());
        result
    }
}

/// The progress of one transfer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Bar(Rc<BarState>);

#[derive(Debug)]
struct BarState {
    bar: Option<ProgressBar>,
    row: Arc<Row>,
    last_report: Cell<Instant>,
    reported_quarter: Cell<u64>,
}

impl Bar {
    /// Shows that the connection is established.
    pub(crate) fn connected(&self) {
        let _ = self.0.row.connected.set(());
        self.0.row.is_changed.store(true, Ordering::Relaxed);
    }

    /// Counts received bytes.
    pub(crate) fn add(&self, bytes: usize, now: Instant) {
        self.0.row.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.0.row.is_changed.store(true, Ordering::Relaxed);
        if self.0.bar.is_none() {
            self.report(now).iter().for_each(|line| output::print_to_stderr(line));
        }
    }

    /// True if the connection is established and nothing has been received.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.row.connected.get().is_some() && self.0.row.bytes() == 0
    }

    /// The plain line that is due: at each quarter of a known total, else every [`PLAIN_EVERY`].
    fn report(&self, now: Instant) -> Option<String> {
        let state = &*self.0;
        let (bytes, name) = (state.row.bytes(), &state.row.name);
        if let Some(total) = state.row.total.filter(|total| *total > 0) {
            let quarter = bytes * 4 / total;
            let (percent, server) = (bytes * 100 / total, &state.row.server);
            let is_due = quarter > state.reported_quarter.replace(quarter);
            is_due.then(|| format!("{name} ({server}): {percent} %, {bytes} of {total} bytes"))
        } else {
            let since = now.saturating_duration_since(state.last_report.get());
            (since >= PLAIN_EVERY).then(|| {
                state.last_report.set(now);
                format!("{name}: {bytes} bytes so far")
            })
        }
    }

    /// Ends the transfer; its bar stays, and ends with `how`.
    pub(crate) fn finish(&self, how: &str) {
        let _ = self.0.row.end.set(how.to_owned());
        if let Some(bar) = &self.0.bar {
            bar.abandon();
        }
    }

    /// Ends the transfer and removes its bar.
    pub(crate) fn remove(&self) {
        if let Some(bar) = &self.0.bar {
            bar.finish_and_clear();
        }
    }
}

/// The contents of a bar's line.
#[derive(Debug)]
struct Row {
    name: String,
    name_width: usize,
    server: String,
    total: Option<u64>,
    glyphs: &'static Glyphs,
    bytes: AtomicU64,
    /// The line differs from the one drawn last.
    is_changed: AtomicBool,
    connected: OnceLock<()>,
    end: OnceLock<String>,
}

impl Row {
    /// A style that draws the whole line, to fit the terminal's current width.
    fn style(self: Arc<Row>) -> ProgressStyle {
        let draw = move |_: &ProgressState, out: &mut dyn fmt::Write| {
            // Leaves the last column free: some terminals wrap on its first character.
            let width = usize::from(Term::stderr().size().1).saturating_sub(1);
            let _ = out.write_str(&self.line(self.bytes(), width));
        };
        let style = ProgressStyle::with_template("{line}").expect("the template is well formed");
        style.with_key("line", draw)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The line in `width` columns; columns that do not fit are omitted, the least important first.
    fn line(&self, bytes: u64, width: usize) -> String {
        let name_width = self.name_width.min((width / 3).max(BAR.0));
        let name = truncate_str(&self.name, name_width, self.glyphs.ellipsis);
        let name = pad_str(&name, name_width, console::Alignment::Left, None);
        let Some(total) = self.total else {
            let line = format!("{name}  {}", self.state(bytes));
            return truncate_str(&line, width, "").into_owned();
        };
        let percent = (bytes * 100).checked_div(total).unwrap_or(100);
        let digits = total.to_string().len();
        let end = self.end.get().map_or("", |end| end);
        let parts = [
            format!("{percent:>3} %"),
            format!("{bytes:>digits$}/{total} B"),
            self.server.clone(),
            format!("{end:>WORD$}"),
        ];
        let mut left = width.saturating_sub(name_width + 2 + BAR.0);
        let mut shown = String::new();
        for part in parts {
            let Some(rest) = left.checked_sub(2 + measure_text_width(&part)) else { break };
            left = rest;
            shown = shown + "  " + &part;
        }
        let bar = self.glyphs.bar(bytes, total, (BAR.0 + left).min(BAR.1));
        truncate_str(&format!("{name}  {bar}{shown}"), width, "").into_owned()
    }

    /// The state of a transfer whose total is unknown.
    fn state(&self, bytes: u64) -> String {
        match (self.connected.get(), bytes) {
            (None, _) => "connecting".to_owned(),
            (Some(()), 0) => "connected".to_owned(),
            (Some(()), bytes) => HumanBytes(bytes).to_string(),
        }
    }
}

/// The characters of the bars.
#[derive(Debug)]
struct Glyphs {
    done: &'static str,
    to_come: &'static str,
    ellipsis: &'static str,
}

impl Glyphs {
    const UNICODE: Glyphs = Glyphs { done: "━", to_come: "─", ellipsis: "…" };
    const ASCII: Glyphs = Glyphs { done: "#", to_come: "-", ellipsis: "~" };

    /// The glyphs that the terminal's locale can show: the first of these variables that is set
    /// decides.
    fn of_locale() -> &'static Glyphs {
        Glyphs::of_variables(|name| std::env::var(name).ok())
    }

    fn of_variables(value: impl Fn(&str) -> Option<String>) -> &'static Glyphs {
        let set = |name| value(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.unwrap_or_default().to_lowercase();
        let is_unicode = locale.contains("utf-8") || locale.contains("utf8");
        if is_unicode { &Glyphs::UNICODE } else { &Glyphs::ASCII }
    }

    fn bar(&self, bytes: u64, total: u64, columns: usize) -> String {
        let done = (bytes.min(total) * columns as u64).checked_div(total);
        let done = done.map_or(columns, |done| done as usize);
        let (done, to_come) = (self.done.repeat(done), self.to_come.repeat(columns - done));
        format!("{}{}", style(done).for_stderr().cyan(), style(to_come).for_stderr().dim())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::mpsc::{Receiver, channel};

    use couplet::testing::hold;

    use super::*;
    use crate::held::Nobody;

    fn row(total: Option<u64>) -> Row {
        Row {
            name: "Ozymandias".to_owned(),
            name_width: 11,
            server: "tcp:127.0.0.1:43127".to_owned(),
            total,
            glyphs: &Glyphs::ASCII,
            bytes: AtomicU64::new(0),
            is_changed: AtomicBool::new(false),
            connected: OnceLock::new(),
            end: OnceLock::new(),
        }
    }

    #[test]
    fn a_line_shows_poem_bar_percent_bytes_and_server() {
        let line = row(Some(631)).line(315, 79);
        let expected = "Ozymandias   #########----------   49 %  315/631 B  tcp:127.0.0.1:43127";
        assert_eq!(line.trim_end(), expected);
    }

    #[test]
    fn a_line_fits_every_width_and_keeps_its_length_to_the_end() {
        for total in [None, Some(0), Some(1), Some(631), Some(u64::from(u32::MAX))] {
            for width in 0..200 {
                let row = row(total);
                let lines = [0, 1, 300, 631].map(|bytes| row.line(bytes, width));
                row.end.set("3.1 s".to_owned()).unwrap();
                let end = row.line(631, width);
                assert!(lines.iter().chain([&end]).all(|l| measure_text_width(l) <= width));
                if total == Some(631) {
                    assert!(lines.iter().all(|l| measure_text_width(l) == end.len()), "{width}");
                }
            }
        }
    }

    #[test]
    fn the_first_set_variable_decides_the_characters_of_a_terminal() {
        let cases: [(&[(&str, &str)], bool); 9] = [
            (&[], false),
            (&[("LC_ALL", "C.UTF-8"), ("LC_CTYPE", "C"), ("LANG", "C")], true),
            (&[("LC_ALL", "C"), ("LC_CTYPE", "C.UTF-8"), ("LANG", "C.UTF-8")], false),
            (&[("LC_CTYPE", "C"), ("LANG", "C.UTF-8")], false),
            (&[("LC_CTYPE", "de_DE.utf8"), ("LANG", "C")], true),
            (&[("LC_ALL", ""), ("LC_CTYPE", ""), ("LANG", "de_DE.UTF8@euro")], true),
            (&[("LC_ALL", ""), ("LANG", "de_DE.ISO-8859-1")], false),
            (&[("LC_ALL", "POSIX")], false),
            (&[("LC_MESSAGES", "C.UTF-8")], false),
        ];
        for (variables, is_unicode) in cases {
            let value = |name: &str| {
                let set = variables.iter().find(|(known, _)| *known == name);
                set.map(|(_, value)| (*value).to_owned())
            };
            let ellipsis = if is_unicode { "…" } else { "~" };
            assert_eq!(Glyphs::of_variables(value).ellipsis, ellipsis, "{variables:?}");
        }
    }

    /// The plain lines about a transfer in pieces of this size at these times.
    fn plain_lines(total: Option<u64>, piece: u64, times: &[Duration]) -> Vec<String> {
        let began = hold(Nobody).reactor().now();
        let screen = Screen::new(Backlog::stderr());
        let progress = Progress { bars: None, rows: Arc::default(), screen, name_width: 0 };
        let bar = progress.bar("Hope", "tcp:a:1", total, began);
        let lines = times.iter().filter_map(|at| {
            bar.0.row.bytes.fetch_add(piece, Ordering::Relaxed);
            bar.report(began + *at)
        });
        lines.collect()
    }

    #[test]
    fn plain_lines_come_with_each_quarter_or_else_every_five_seconds() {
        let times = [0, 4, 4999, 5000, 5001, 9999, 10_000, 16_000, 20_999, 21_000];
        let times = times.map(Duration::from_millis);
        let so_far = |bytes| format!("Hope: {bytes} bytes so far");
        let without = [4, 7, 8, 10].map(so_far);
        assert_eq!(plain_lines(None, 1, &times), without);
        // A total of 0 gives no quarters.
        assert_eq!(plain_lines(Some(0), 1, &times), without);
        let quarter =
            |(percent, bytes)| format!("Hope (tcp:a:1): {percent} %, {bytes} of 10 bytes");
        let quarters = [(30, 3), (50, 5), (80, 8), (100, 10)].map(quarter);
        assert_eq!(plain_lines(Some(10), 1, &times), quarters);
        // A piece that completes two quarters gives one line.
        assert_eq!(plain_lines(Some(10), 6, &times[..1]), [quarter((60, 6))]);
    }

    /// A terminal that takes nothing until the sender is dropped, and the text that it shows.
    // Nothing is sent.
    struct Stopped(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stopped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stopped_terminal_misses_frames_and_stops_nothing_and_shows_the_last_state_in_the_end() {
        let (go, stopped) = channel();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let backlog = Backlog::new("test", Stopped(stopped, shown.clone()));
        let screen = Screen::new(backlog.clone());
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 20);
        let bars = Some(MultiProgress::with_draw_target(target));
        let progress = Progress { bars, rows: Arc::default(), screen, name_width: 0 };
        let began = hold(Nobody).reactor().now();
        // More than the draws that the bars make by themselves.
        let all: Vec<Bar> = (0..40).map(|_| progress.bar("Hope", "", None, began)).collect();
        progress.draw();
        let queued = backlog.state().bytes;
        assert!(queued > 0);
        for _ in 0..100 {
            all.iter().for_each(|bar| bar.add(1000, began));
            progress.draw();
        }
        assert_eq!(backlog.state().bytes, queued, "frames are skipped");
        drop(go);
        assert!(backlog.settle(Duration::from_secs(300)));
        all.iter().for_each(Bar::connected);
        let frames = [(); 2].map(|()| {
            progress.draw();
            assert!(backlog.settle(Duration::from_secs(300)));
            shown.lock().unwrap().len()
        });
        assert_eq!(frames[0], frames[1], "nothing has changed");
        let text = String::from_utf8_lossy(&shown.lock().unwrap()).into_owned();
        assert!(text.contains("97.66 KiB"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_loses_the_server_first() {
        let line = row(Some(631)).line(631, 50);
        assert!(line.contains("100 %") && line.contains("631/631 B") && !line.contains("tcp:"));
        let line = row(Some(631)).line(631, 30);
        assert!(line.contains("100 %") && !line.contains("631/631 B"), "{line}");
    }

    #[test]
    fn without_a_total_a_line_shows_the_received_bytes() {
        let row = row(None);
        assert_eq!(row.line(0, 79), "Ozymandias   connecting");
        row.connected.set(()).unwrap();
        assert_eq!(row.line(0, 79), "Ozymandias   connected");
        assert_eq!(row.line(2048, 79), "Ozymandias   2.00 KiB");
    }
}
