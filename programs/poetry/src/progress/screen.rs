//! The screen of the bars: frames pass through the backlog of stderr, so that a stopped terminal stops
//! no loop.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use console::{Term, measure_text_width};
use couplet::backlog::Backlog;
use indicatif::TermLike;

/// Collects the output of each draw. While earlier frames wait for the terminal, a frame that only
/// replaces the one before is skipped.
#[derive(Clone)]
pub(super) struct Screen {
    backlog: Backlog,
    frame: Arc<Mutex<Frame>>,
}

#[derive(Default)]
struct Frame {
    text: String,
    columns: usize,
    /// The columns of the frame before.
    columns_before: usize,
    /// Frames are not shown.
    is_hidden: bool,
}

impl Screen {
    pub(super) fn new(backlog: Backlog) -> Screen {
        Screen { backlog, frame: Arc::default() }
    }

    /// Whether frames are dropped.
    pub(super) fn set_hidden(&self, is_hidden: bool) {
        self.frame().is_hidden = is_hidden;
    }

    fn frame(&self) -> MutexGuard<'_, Frame> {
        self.frame.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an escape sequence with a count, or nothing for 0.
    fn move_cursor(&self, count: usize, direction: char) -> io::Result<()> {
        if count > 0 {
            self.frame().text += &format!("\x1b[{count}{direction}");
        }
        Ok(())
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        Term::stderr().size().1
    }

    fn height(&self) -> u16 {
        Term::stderr().size().0
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'D')
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.write_str(line)?;
        self.write_str("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let mut frame = self.frame();
        frame.columns += measure_text_width(text);
        frame.text += text;
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.frame().text += "\r\x1b[2K";
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut frame = self.frame();
        let (text, columns) = (std::mem::take(&mut frame.text), std::mem::take(&mut frame.columns));
        // A frame of another height moves the cursor, on which later frames rely.
        let replaces = columns == std::mem::replace(&mut frame.columns_before, columns);
        let is_skipped = replaces && self.backlog.state().bytes > 0;
        if !text.is_empty() && !frame.is_hidden && !is_skipped {
            self.backlog.push(text);
        }
        Ok(())
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;

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
    fn a_stopped_terminal_misses_frames_and_stops_nothing() {
        let (go, stopped) = channel();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let backlog = Backlog::new("test", Stopped(stopped, shown.clone()));
        let screen = Screen::new(backlog.clone());
        let draw = |text: &str| {
            screen.move_cursor_up(1).unwrap();
            screen.write_str(text).unwrap();
            screen.flush().unwrap();
        };
        draw("10 %");
        let queued = backlog.state().bytes;
        for percent in 11..99 {
            draw(&format!("{percent} %"));
        }
        assert_eq!(backlog.state().bytes, queued, "frames of the same size are skipped");
        draw("100 %");
        assert!(backlog.state().bytes > queued, "one of another size moves the cursor");
        drop(go);
        assert!(backlog.settle(Duration::from_secs(60)));
        let expected = "\u{1b}[1A10 %\u{1b}[1A100 %";
        assert_eq!(String::from_utf8_lossy(&shown.lock().unwrap()), expected);
        screen.set_hidden(true);
        draw("hidden");
        screen.set_hidden(false);
        draw("again");
        assert!(backlog.settle(Duration::from_secs(60)));
        assert!(shown.lock().unwrap().ends_with(b"100 %\x1b[1Aagain"));
    }
}
