//! Output of a client: frames that wait for a connection, or for room in it.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use couplet_core::{Resolver, Transport};

use crate::message::Message;
use crate::subject::Pattern;

/// A PING that was sent.
pub(super) struct Pinged {
    /// The published messages that it confirms: all those sent before on this connection.
    pub(super) confirms: u64,
    pub(super) confirmed: Option<Resolver<()>>,
}

enum Frame {
    Message(Bytes),
    /// SUB or UNSUB, which a new connection makes unnecessary.
    Control(String),
    Ping(Option<Resolver<()>>),
}

#[derive(Default)]
pub(super) struct Queue {
    // Bound: `Options::queue` bytes of messages; SUB, UNSUB and PING as the program asks for them.
    frames: VecDeque<Frame>,
    /// The bytes of the messages.
    bytes: usize,
    /// The messages that were sent on this connection.
    sent: u64,
    /// The messages that the server has confirmed.
    confirmed: u64,
    /// The PINGs without an answer, in their order.
    // Bound: two of the client's own, and one for each pending flush.
    pinged: VecDeque<Pinged>,
}

impl Queue {
    /// Adds a message. Returns false if there is no room.
    pub(super) fn add_message(&mut self, message: &Message, most: usize) -> bool {
        let frame = encode(message);
        if self.bytes + frame.len() > most {
            return false;
        }
        self.bytes += frame.len();
        self.frames.push_back(Frame::Message(frame));
        true
    }

    pub(super) fn add_control(&mut self, line: String) {
        self.frames.push_back(Frame::Control(line));
    }

    pub(super) fn add_ping(&mut self, confirmed: Option<Resolver<()>>) {
        self.frames.push_back(Frame::Ping(confirmed));
    }

    pub(super) fn messages(&self) -> usize {
        self.frames.iter().filter(|frame| matches!(frame, Frame::Message(_))).count()
    }

    /// Writes until the transport is full. Returns false if frames are left.
    pub(super) fn pump(&mut self, transport: &Transport) -> bool {
        while !transport.is_full() {
            match self.frames.pop_front() {
                None => return true,
                Some(Frame::Message(bytes)) => {
                    self.bytes -= bytes.len();
                    self.sent += 1;
                    transport.write_bytes(bytes);
                }
                Some(Frame::Control(line)) => transport.write(line),
                Some(Frame::Ping(confirmed)) => {
                    self.pinged.push_back(Pinged { confirms: self.sent, confirmed });
                    transport.write("PING\r\n");
                }
            }
        }
        self.frames.is_empty()
    }

    /// A PONG has arrived. `None` if it answers no PING.
    pub(super) fn pong(&mut self) -> Option<Pinged> {
        let pinged = self.pinged.pop_front()?;
        self.confirmed = pinged.confirms;
        Some(pinged)
    }

    /// Forgets the connection. Returns the number of unconfirmed messages, and the flushes to fail.
    pub(super) fn lost(&mut self) -> (u64, Vec<Resolver<()>>) {
        self.frames.retain(|frame| match frame {
            Frame::Message(_) => true,
            Frame::Control(_) => false,
            Frame::Ping(confirmed) => confirmed.is_some(),
        });
        let unconfirmed = self.sent - self.confirmed;
        (self.sent, self.confirmed) = (0, 0);
        let failed = self.pinged.drain(..).filter_map(|pinged| pinged.confirmed).collect();
        (unconfirmed, failed)
    }

    /// Drops everything. Returns the flushes to fail.
    pub(super) fn clear(&mut self) -> Vec<Resolver<()>> {
        let mut failed = self.lost().1;
        self.bytes = 0;
        failed.extend(self.frames.drain(..).filter_map(|frame| match frame {
            Frame::Ping(confirmed) => confirmed,
            Frame::Message(_) | Frame::Control(_) => None,
        }));
        failed
    }
}

/// PUB, or HPUB with headers.
fn encode(message: &Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.size() + message.subject().len() + 64);
    let has_headers = message.has_headers();
    frame.put_slice(if has_headers { b"HPUB " } else { b"PUB " });
    for subject in [Some(message.subject()), message.reply()].into_iter().flatten() {
        frame.put_slice(subject.as_bytes());
        frame.put_u8(b' ');
    }
    if has_headers {
        frame.put_slice(format!("{} ", message.header_size()).as_bytes());
    }
    frame.put_slice(format!("{}\r\n", message.size()).as_bytes());
    if has_headers {
        message.put_headers(&mut frame);
    }
    frame.put_slice(message.payload());
    frame.put_slice(b"\r\n");
    frame.freeze()
}

pub(super) fn sub(id: u64, pattern: &Pattern) -> String {
    match pattern.group_name() {
        Some(group) => format!("SUB {} {group} {id}\r\n", pattern.subject()),
        None => format!("SUB {} {id}\r\n", pattern.subject()),
    }
}

pub(super) fn unsub(id: u64) -> String {
    format!("UNSUB {id}\r\n")
}
