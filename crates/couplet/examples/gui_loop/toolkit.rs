//! The features shared by GLib and winit: events, frames, and a wait for a descriptor with a
//! deadline. A simulated user greets a visitor, and closes the window after the answer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use couplet::Loop;

const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 60);

pub(crate) enum Event {
    /// Time to draw a frame.
    Frame,
    /// The loop's descriptor is readable, or its deadline has passed.
    Network,
    /// The button was pressed.
    Greet,
    Close,
}

pub(crate) struct Toolkit {
    events: VecDeque<Event>,
    next_frame: Instant,
    shown: String,
}

impl Toolkit {
    pub(crate) fn new(now: Instant) -> Toolkit {
        Toolkit { events: VecDeque::new(), next_frame: now, shown: String::new() }
    }

    /// The next event. GLib would watch the descriptor with `g_unix_fd_add`; winit would be woken
    /// through its proxy by a thread that waits for the descriptor; both support a deadline.
    #[cfg(unix)]
    #[expect(clippy::disallowed_methods, reason = "the toolkit has its own clock")]
    pub(crate) fn next_event(&mut self, l: &Loop) -> couplet::Result<Event> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        let until = l.next_turn().map_or(self.next_frame, |due| due.min(self.next_frame));
        let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        let descriptor = l.descriptor().expect("the driver has one");
        poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout))?;
        let now = Instant::now();
        if now < self.next_frame {
            return Ok(Event::Network);
        }
        // A turn follows each frame, so neither delays the other for long.
        self.events.push_back(Event::Network);
        self.next_frame = now + FRAME;
        Ok(Event::Frame)
    }

    /// Draws the text if it has changed; the simulated user reacts to it.
    pub(crate) fn draw(&mut self, text: &str) {
        if self.shown != text {
            println!("[{text}]");
            self.shown = text.to_owned();
            self.events.push_back(if text == "a visitor" { Event::Greet } else { Event::Close });
        }
    }
}
