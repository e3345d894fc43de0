//! Couplet inside the main loop of a user interface. The [toolkit](toolkit.rs) is made up, but it
//! works like GLib and winit. Unix only.
//!
//! `cargo run --example gui_loop -- tcp:8000`, then `nc localhost 8000`, and type an answer
#![cfg_attr(not(unix), allow(dead_code, unused_imports))]

mod toolkit;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::{Loop, Protocol, Transport};
use toolkit::{Event, Toolkit};

/// The window's text and its visitor.
#[derive(Clone, Default)]
struct Window {
    text: Rc<RefCell<String>>,
    visitor: Rc<RefCell<Option<Transport>>>,
}

impl Protocol for Window {
    fn connection_made(&mut self, transport: &Transport) {
        self.text.replace("a visitor".into());
        self.visitor.replace(Some(transport.clone()));
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.text.replace(format!("says {}", String::from_utf8_lossy(data).trim()));
    }
}

#[cfg(unix)]
fn main() -> couplet::Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or("tcp:0:interface=127.0.0.1".into());
    let mut l = Loop::new()?;
    let reactor = l.reactor();
    let window = Window::default();
    l.begin(|reactor| {
        let window = window.clone();
        println!("listening on {}", reactor.listen(&endpoint, move || window.clone())?.host());
        Ok(())
    })?;
    let mut toolkit = Toolkit::new(reactor.now());
    loop {
        match toolkit.next_event(&l)? {
            Event::Frame => toolkit.draw(&window.text.borrow()),
            Event::Network => {
                if !l.turn(Some(Duration::ZERO))? {
                    return Ok(()); // the run has ended
                }
            }
            Event::Greet => {
                // Outside a turn: the write is recorded, and the loop's descriptor becomes
                // readable.
                if let Some(visitor) = &*window.visitor.borrow() {
                    visitor.write("hello\n");
                }
            }
            Event::Close => reactor.stop(),
        }
    }
}

#[cfg(not(unix))]
fn main() {}
