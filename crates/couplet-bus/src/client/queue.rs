//! Output of a client: frames that wait for a connection, or for room in it, and then for answers.
//!
//! Contract: 209, 216, 230.

use std::collections::VecDeque;

use bytes::Bytes;
use couplet_core::{Resolver, Transport};

use super::Dialect;

/// A message in the words of a protocol.
pub(crate) struct Outgoing {
    pub(crate) frame: Bytes,
    /// The subject for replies, if the answer says whether anything was subscribed.
    pub(crate) reply: Option<String>,
}

enum Frame<C> {
    Message(Outgoing),
    /// The command of a subscription, which a new connection makes unnecessary.
    Control(Bytes),
    Ping(Option<Resolver<()>>),
    Call(Bytes, C),
}

/// Commands that were sent on this connection and have no answer.
pub(crate) enum Sent<C> {
    /// Consecutive messages.
    Messages(u64),
    /// A message with this subject for replies.
    Request(String),
    Control,
    Ping(Option<Resolver<()>>),
    Call(C),
}

impl<C> Sent<C> {
    pub(crate) fn messages(&self) -> u64 {
        match self {
            Sent::Messages(count) => *count,
            Sent::Request(_) => 1,
            Sent::Control | Sent::Ping(_) | Sent::Call(_) => 0,
        }
    }
}

pub(crate) struct Queue<D: Dialect> {
    frames: VecDeque<Frame<D::Call>>,
    /// The bytes of the messages and calls.
    bytes: usize,
    // Two PINGs of the client's own, one for each pending flush, and the messages between two of
    // them as one; where all commands are answered, those that the socket holds.
    sent: VecDeque<Sent<D::Call>>,
}

impl<D: Dialect> Default for Queue<D> {
    fn default() -> Queue<D> {
        Queue { frames: VecDeque::new(), bytes: 0, sent: VecDeque::new() }
    }
}

impl<D: Dialect> Queue<D> {
    /// Adds a message. Returns false if there is no room.
    pub(crate) fn add_message(&mut self, message: Outgoing, most: usize) -> bool {
        let has_room = self.reserve(message.frame.len(), most);
        if has_room {
            self.frames.push_back(Frame::Message(message));
        }
        has_room
    }

    /// Adds a call. Returns it if there is no room.
    pub(crate) fn add_call(
        &mut self,
        command: Bytes,
        call: D::Call,
        most: usize,
    ) -> Result<(), D::Call> {
        if !self.reserve(command.len(), most) {
            return Err(call);
        }
        self.frames.push_back(Frame::Call(command, call));
        Ok(())
    }

    fn reserve(&mut self, bytes: usize, most: usize) -> bool {
        let has_room = self.bytes + bytes <= most;
        if has_room {
            self.bytes += bytes;
        }
        has_room
    }

    pub(crate) fn add_control(&mut self, command: Bytes) {
        self.frames.push_back(Frame::Control(command));
    }

    pub(crate) fn add_ping(&mut self, confirmed: Option<Resolver<()>>) {
        self.frames.push_back(Frame::Ping(confirmed));
    }

    pub(crate) fn messages(&self) -> usize {
        self.frames.iter().filter(|frame| matches!(frame, Frame::Message(_))).count()
    }

    /// Writes until the transport is full. Returns false if frames are left.
    pub(crate) fn pump(&mut self, transport: &Transport) -> bool {
        while !transport.is_full() {
            match self.frames.pop_front() {
                None => return true,
                Some(Frame::Message(Outgoing { frame, reply })) => {
                    self.bytes -= frame.len();
                    transport.write_bytes(frame);
                    match (reply, self.sent.back_mut()) {
                        (Some(reply), _) => self.sent.push_back(Sent::Request(reply)),
                        (None, Some(Sent::Messages(count))) => *count += 1,
                        (None, _) => self.sent.push_back(Sent::Messages(1)),
                    }
                }
                Some(Frame::Control(command)) => self.send_control(transport, command),
                Some(Frame::Ping(confirmed)) => self.send_ping(transport, confirmed),
                Some(Frame::Call(command, call)) => {
                    self.bytes -= command.len();
                    transport.write_bytes(command);
                    self.sent.push_back(Sent::Call(call));
                }
            }
        }
        self.frames.is_empty()
    }

    /// Writes a PING, for a flush or to check the server.
    pub(crate) fn send_ping(&mut self, transport: &Transport, confirmed: Option<Resolver<()>>) {
        transport.write(if confirmed.is_some() { D::PING } else { D::CHECK });
        self.sent.push_back(Sent::Ping(confirmed));
    }

    /// Whether a PING has no answer.
    pub(crate) fn awaits_ping(&self) -> bool {
        self.sent.iter().any(|sent| matches!(sent, Sent::Ping(_)))
    }

    /// Writes the command of a subscription.
    pub(crate) fn send_control(&mut self, transport: &Transport, command: Bytes) {
        transport.write_bytes(command);
        if D::ANSWERS_ALL {
            self.sent.push_back(Sent::Control);
        }
    }

    /// A PING was answered, and so everything before it was processed. `None` without a PING.
    pub(crate) fn answer_ping(&mut self) -> Option<Option<Resolver<()>>> {
        let place = self.sent.iter().position(|sent| matches!(sent, Sent::Ping(_)))?;
        self.sent.drain(..place);
        match self.sent.pop_front() {
            Some(Sent::Ping(confirmed)) => Some(confirmed),
            _ => None,
        }
    }

    /// The oldest command was answered. `None` without a command.
    pub(crate) fn answer_next(&mut self) -> Option<Sent<D::Call>> {
        if let Some(Sent::Messages(count @ 2..)) = self.sent.front_mut() {
            *count -= 1;
            return Some(Sent::Messages(1));
        }
        self.sent.pop_front()
    }

    /// Forgets the connection. Returns the commands without an answer, sent or not.
    pub(crate) fn lost(&mut self) -> Vec<Sent<D::Call>> {
        let mut lost: Vec<Sent<D::Call>> = self.sent.drain(..).collect();
        for frame in std::mem::take(&mut self.frames) {
            match frame {
                Frame::Message(_) | Frame::Ping(Some(_)) => self.frames.push_back(frame),
                Frame::Control(_) | Frame::Ping(None) => {}
                Frame::Call(command, call) => {
                    self.bytes -= command.len();
                    lost.push(Sent::Call(call));
                }
            }
        }
        lost
    }

    /// Drops everything. Returns the commands without an answer.
    pub(crate) fn clear(&mut self) -> Vec<Sent<D::Call>> {
        let mut lost = self.lost();
        self.bytes = 0;
        lost.extend(self.frames.drain(..).filter_map(|frame| match frame {
            Frame::Ping(confirmed) => Some(Sent::Ping(confirmed)),
            _ => None,
        }));
        lost
    }
}
