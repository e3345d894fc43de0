//! A custom framing: implements [`Framer`] on top of a grammar.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::grammar::{Found, command};
use couplet::protocols::{FrameBuffer, Framer};
use couplet::{Protocol, Transport};

#[derive(Default)]
pub(crate) struct Redis {
    pub(crate) buffer: FrameBuffer,
    pub(crate) store: Rc<RefCell<BTreeMap<Vec<u8>, Vec<u8>>>>,
}

impl Redis {
    fn answer(&self, transport: &Transport, words: &[&[u8]]) {
        let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        match (name.as_slice(), words) {
            (b"PING", [_]) => transport.write("+PONG\r\n"),
            (b"ECHO" | b"PING", [_, word]) => bulk(transport, word),
            (b"GET", [_, key]) => match self.store.borrow().get(*key) {
                Some(value) => bulk(transport, value),
                None => transport.write("$-1\r\n"),
            },
            (b"SET", [_, key, value]) => {
                self.store.borrow_mut().insert(key.to_vec(), value.to_vec());
                transport.write("+OK\r\n");
            }
            (b"QUIT", _) => {
                transport.write("+OK\r\n");
                transport.lose_connection();
            }
            _ => transport.write(format!("-ERR unknown command: {}\r\n", name.escape_ascii())),
        }
    }
}

fn bulk(transport: &Transport, word: &[u8]) {
    transport.write(format!("${}\r\n", word.len()));
    transport.write(word);
    transport.write("\r\n");
}

impl Framer for Redis {
    type Transport = Transport;

    fn step(&mut self, transport: &Transport, bytes: &[u8]) -> Option<usize> {
        match command(bytes) {
            Ok(Found::Command(words, length)) => {
                self.answer(transport, &words);
                return Some(length);
            }
            Ok(Found::Part(_)) => {}
            Err(error) => transport.fail(error),
        }
        None
    }

    fn needs(&self, held: &[u8], _: &[u8]) -> usize {
        if let Ok(Found::Part(missing)) = command(held) { missing } else { 1 }
    }

    fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.buffer
    }
}

impl Protocol for Redis {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.frame(transport, data);
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.frame_held(transport);
    }
}
