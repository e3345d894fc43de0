//! How far a transfer is, on stderr: bars on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Logging;

/// Plain lines about one transfer come no more often than this.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// The progress of several transfers.
#[derive(Clone)]
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    pub(crate) fn new(logging: &Logging) -> Progress {
        let drawn = std::io::stderr().is_terminal() && !logging.is_talkative();
        let target = ProgressDrawTarget::stderr_with_hz(20);
        Progress { bars: drawn.then(|| MultiProgress::with_draw_target(target)) }
    }

    /// One transfer: of what, from where, and how many bytes where that is known.
    pub(crate) fn bar(&self, what: &str, total: Option<u64>, now: Instant) -> Bar {
        let bar = self.bars.as_ref().map(|bars| {
            let form = match total {
                Some(_) => "{prefix:<34} {bar:24.cyan/dim} {percent:>3} % {bytes:>9} {msg}",
                None => "{prefix:<34} {spinner} {bytes:>9} {msg}",
            };
            let style = ProgressStyle::with_template(form)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━━─");
            let bar = match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::no_length(),
            };
            let bar = bars.add(bar.with_style(style).with_prefix(what.to_owned()));
            bar.tick();
            bar
        });
        let state = BarState {
            bar,
            what: what.to_owned(),
            total,
            bytes: Cell::new(0),
            told_at: Cell::new(now),
            told_quarter: Cell::new(0),
        };
        Bar(Rc::new(state))
    }

    /// A line among the bars.
    pub(crate) fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Clears the way for what comes on stdout.
    pub(crate) fn suspend<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.bars {
            Some(bars) => bars.suspend(f),
            None => f(),
        }
    }
}

/// The progress of one transfer; cheap to clone.
#[derive(Clone)]
pub(crate) struct Bar(Rc<BarState>);

struct BarState {
    bar: Option<ProgressBar>,
    what: String,
    total: Option<u64>,
    bytes: Cell<u64>,
    told_at: Cell<Instant>,
    told_quarter: Cell<u64>,
}

impl Bar {
    /// More bytes came.
    pub(crate) fn add(&self, bytes: usize, now: Instant) {
        let state = &*self.0;
        state.bytes.set(state.bytes.get() + bytes as u64);
        match &state.bar {
            Some(bar) => bar.set_position(state.bytes.get()),
            None => self.tell(now),
        }
    }

    /// In plain lines: each quarter where the total is known, else from time to time.
    fn tell(&self, now: Instant) {
        let state = &*self.0;
        let bytes = state.bytes.get();
        if let Some(total) = state.total.filter(|total| *total > 0) {
            let quarter = bytes * 4 / total;
            if quarter > state.told_quarter.replace(quarter) {
                eprintln!("{}: {} %, {bytes} of {total} bytes", state.what, bytes * 100 / total);
            }
        } else if now.saturating_duration_since(state.told_at.get()) >= PLAIN_EVERY {
            state.told_at.set(now);
            eprintln!("{}: {bytes} bytes so far", state.what);
        }
    }

    /// The transfer is over.
    pub(crate) fn finish(&self, how: &str) {
        if let Some(bar) = &self.0.bar {
            if self.0.total.is_none() {
                bar.set_length(self.0.bytes.get());
            }
            bar.abandon_with_message(how.to_owned());
        }
    }
}
