//! The screen of the bars: frames pass through the backlog of stderr, so that a stopped terminal stops
//! no loop.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use console::Term;
use couplet::backlog::Backlog;
use indicatif::TermLike;

/// Collects the output of each draw.
#[derive(Clone)]
pub(super) struct Screen {
    backlog: Backlog,
    frame: Arc<Mutex<Frame>>,
}

#[derive(Default)]
struct Frame {
    text: String,
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

    /// Whether the terminal has yet to take earlier frames.
    pub(super) fn is_behind(&self) -> bool {
        self.backlog.state().bytes > 0
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
        self.frame().text += text;
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.frame().text += "\r\x1b[2K";
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut frame = self.frame();
        let text = std::mem::take(&mut frame.text);
        if !text.is_empty() && !frame.is_hidden {
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
    use std::time::Duration;

    use super::*;

    struct Shown(Arc<Mutex<Vec<u8>>>);

    impl Write for Shown {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_frame_is_shown_whole_unless_the_screen_is_hidden() {
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let backlog = Backlog::new("test", Shown(shown.clone()));
        let screen = Screen::new(backlog.clone());
        for (text, is_hidden) in [("10 %", false), ("hidden", true), ("again", false)] {
            screen.set_hidden(is_hidden);
            screen.move_cursor_up(1).unwrap();
            screen.write_str(text).unwrap();
            screen.flush().unwrap();
            assert!(backlog.settle(Duration::from_secs(300)));
        }
        assert_eq!(*shown.lock().unwrap(), b"\x1b[1A10 %\x1b[1Aagain");
    }
}
