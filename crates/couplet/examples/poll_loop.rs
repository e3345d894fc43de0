//! Couplet inside a loop that waits in `poll(2)`: text from stdin is sent to every connection,
//! until the end of stdin. Unix only. The program waits for two descriptors, its stdin and
//! Couplet's.
//!
//! `cargo run --example poll_loop -- tcp:8000`, then `nc localhost 8000`
#![cfg_attr(not(unix), allow(dead_code, unused_imports))]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::{Loop, Protocol, Reason, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

type Everyone = Rc<RefCell<Vec<Transport>>>;

struct Listener(Everyone);

impl Protocol for Listener {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.borrow_mut().push(transport.clone());
        println!("{} listening", self.0.borrow().len());
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        self.0.borrow_mut().retain(|other| other.id() != transport.id());
    }
}

/// Sleeps until stdin is readable (if `typing`) or the loop needs a turn; true if stdin is
/// readable.
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "the outer loop has its own clock")]
fn wait(l: &Loop, typing: bool) -> couplet::Result<bool> {
    let due = l.next_turn().map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = due.map(Timespec::try_from).transpose()?;
    let (stdin, network) = (std::io::stdin(), l.descriptor().expect("the driver has one"));
    let (network, typed) =
        (PollFd::new(&network, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN));
    let mut waiting = [network, typed];
    let count = if typing { 2 } else { 1 };
    poll(&mut waiting[..count], timeout.as_ref())?;
    Ok(!waiting[1].revents().is_empty())
}

#[cfg(unix)]
fn main() -> couplet::Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or("tcp:0:interface=127.0.0.1".into());
    let everyone = Everyone::default();
    let mut l = Loop::new()?;
    l.begin(|reactor| {
        let everyone = everyone.clone();
        let port = reactor.listen(&endpoint, move || Listener(everyone.clone()))?;
        println!("listening on {}", port.host());
        Ok(())
    })?;
    let mut typing = true;
    while l.turn(Some(Duration::ZERO))? {
        if wait(&l, typing)? {
            let mut text = [0; 1024];
            let length = rustix::io::read(std::io::stdin(), &mut text)?;
            // Outside a turn: the write is recorded, and the next turn sends it.
            everyone.borrow().iter().for_each(|transport| transport.write(&text[..length]));
            typing = length > 0;
            if !typing {
                l.reactor().stop();
            }
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn main() {}
