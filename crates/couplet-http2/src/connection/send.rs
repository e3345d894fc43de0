//! Requests, answers, and the turns of streams whose bytes wait. RFC 9113, 5.2, 6.9 and 8.1.
//!
//! Contract: 175c.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::streams::{Inbound, Method, Outbound, Role, Stream, Unsent};
use super::{Connection, GoawayPhase};
use crate::field::{is_of_line, lower_case, trimmed};
use crate::frame::{MAX_SENT, flag, kind};
use crate::hpack;
use crate::window::{ReceiveWindow, SendWindow};
use crate::{Event, Fields, RequestLine, SendError};

impl Stream {
    /// Queues the stream for a turn, if it can send.
    pub(super) fn queue_turn(&mut self, turns: &mut VecDeque<u32>) {
        if !self.has_turn && self.unsent.len() > 0 && self.send.room() > 0 {
            self.has_turn = true;
            turns.push_back(self.id);
        }
    }
}

/// The pseudo-headers of a block.
pub(super) enum Pseudo<'a> {
    Status(u16),
    Line(&'a RequestLine<'a>),
    /// Trailers have none.
    None,
}

impl Connection {
    /// Opens a stream with a request, which is the whole request if it `ends`, and returns the
    /// number of the stream. The answer is [`Event::Response`], perhaps behind
    /// [`Event::Informational`].
    ///
    /// Fields are sent as in [`respond`](Connection::respond); the fields Host and TE are left out
    /// too, but for `te: trailers`.
    ///
    /// # Errors
    ///
    /// - [`SendError::Busy`] while as many streams are open as the server and
    ///   [`Options::max_streams`](crate::Options::max_streams) allow: try again after a
    ///   [`receive`](Connection::receive).
    /// - [`SendError::Closed`] once the connection has failed, one side sent GOAWAY, or the numbers
    ///   of streams are used up: another connection is needed.
    /// - [`SendError::Field`] for an invalid request.
    /// - [`SendError::Order`] on a server's connection.
    pub fn request<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        line: &RequestLine<'_>,
        fields: impl IntoIterator<Item = (N, V)>,
        ends: bool,
    ) -> Result<u32, SendError> {
        if self.streams.role == Role::Server {
            return Err(SendError::Order);
        }
        let id = self.next_request().ok_or(SendError::Closed)?;
        if self.streams.len() >= self.options.max_streams.min(self.peer_streams) as usize {
            return Err(SendError::Busy);
        }
        if !line.is_valid() {
            return Err(SendError::Field);
        }
        let fields =
            fields.into_iter().filter(|(name, value)| !is_of_line(name.as_ref(), value.as_ref()));
        self.write_block(id, Pseudo::Line(line), fields, ends)?;
        let method = if line.method == b"HEAD" { Method::Head } else { Method::Other };
        let outbound = if ends { Outbound::Ended } else { Outbound::Begun };
        self.streams.set_last(id);
        self.open_stream(id, Inbound::Awaited(method), outbound);
        Ok(id)
    }

    /// The number of the next request; `None` if there are no more requests.
    fn next_request(&self) -> Option<u32> {
        let is_open = self.phase == GoawayPhase::Open && self.peer_left.is_none();
        self.streams.next().filter(|_| is_open)
    }

    /// Whether a client's [`request`](Connection::request) may be sent, now or once fewer streams
    /// are open. Otherwise another connection is needed.
    pub fn takes_requests(&self) -> bool {
        self.streams.role == Role::Client && self.next_request().is_some()
    }

    /// Adds the stream with the highest number.
    pub(super) fn open_stream(&mut self, id: u32, inbound: Inbound, outbound: Outbound) {
        let window = self.first_window();
        self.streams.open(Stream {
            id,
            inbound,
            outbound,
            send: SendWindow::new(self.peer_window),
            receive: ReceiveWindow::new(window),
            unsent: Unsent::default(),
            has_turn: false,
            is_paused: false,
        });
    }

    /// Sends the head of an answer, which is the whole answer if it `ends`. A `status` below 200 is
    /// informational: it may be repeated, and the head follows.
    ///
    /// Names are sent in lower case, values without the space around them. Fields of connections
    /// are left out: Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding, Upgrade.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn respond<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        stream: u32,
        status: u16,
        fields: impl IntoIterator<Item = (N, V)>,
        ends: bool,
    ) -> Result<(), SendError> {
        let outbound = &self.streams.get(stream).ok_or(SendError::Closed)?.outbound;
        let is_informational = status < 200;
        if *outbound != Outbound::Awaited || (is_informational && ends) {
            return Err(SendError::Order);
        }
        if !(100..=999).contains(&status) || status == 101 {
            return Err(SendError::Status);
        }
        self.write_block(stream, Pseudo::Status(status), fields, ends)?;
        if ends {
            self.end_outbound(stream);
        } else if !is_informational && let Some(stream) = self.streams.get_mut(stream) {
            stream.outbound = Outbound::Begun;
        }
        Ok(())
    }

    /// Sends bytes of the body, the last ones if it `ends`, and returns how many bytes of the
    /// stream wait for the peer's windows or [`take_output`](Connection::take_output). Once they
    /// reach [`Options::max_unsent`](crate::Options::max_unsent), a producer should pause until
    /// [`Event::Writable`].
    ///
    /// [`Bytes`] that wait are not copied; [`Copied`](crate::Copied) lends bytes.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] or [`SendError::Order`].
    pub fn send(
        &mut self,
        stream: u32,
        bytes: impl AsRef<[u8]> + Into<Bytes>,
        ends: bool,
    ) -> Result<usize, SendError> {
        let id = stream;
        let length = bytes.as_ref().len();
        let sent = self.send_now(id, bytes.as_ref(), ends)?;
        let stream = self.streams.get_mut(id).ok_or(SendError::Closed)?;
        if sent < length {
            let mut rest = bytes.into();
            rest.advance(sent.min(rest.len()));
            stream.unsent.push(rest);
            stream.is_paused |= stream.unsent.len() >= self.options.max_unsent;
            stream.queue_turn(&mut self.turns);
        }
        let unsent = stream.unsent.len();
        match ends {
            true if unsent == 0 => self.end_outbound(id),
            true => stream.outbound = Outbound::Ending(None),
            false => {}
        }
        Ok(unsent)
    }

    /// Writes the first bytes to the output, unless others wait for their turn, and returns how
    /// many.
    fn send_now(&mut self, id: u32, bytes: &[u8], ends: bool) -> Result<usize, SendError> {
        let stream = self.streams.get_mut(id).ok_or(SendError::Closed)?;
        if stream.outbound != Outbound::Begun {
            return Err(SendError::Order);
        }
        if stream.unsent.len() > 0 {
            return Ok(0);
        }
        if bytes.is_empty() {
            if ends {
                self.output.write(kind::DATA, flag::END_STREAM, id, &[]);
            }
            return Ok(0);
        }
        let mut sent = 0;
        while sent < bytes.len()
            && self.turns.is_empty()
            && self.output.len() < self.options.max_output
        {
            let room = stream.send.room().min(self.send.room()).min(MAX_SENT);
            let rest = bytes.get(sent..).unwrap_or_default();
            let part = rest.get(..room).unwrap_or(rest);
            if part.is_empty() {
                break;
            }
            sent += part.len();
            let flags = if ends && sent == bytes.len() { flag::END_STREAM } else { 0 };
            self.output.write(kind::DATA, flags, id, part);
            stream.send.spend(part.len());
            self.send.spend(part.len());
        }
        Ok(sent)
    }

    /// Ends the answer or the request with trailers, after its body.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn trailers<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        stream: u32,
        fields: impl IntoIterator<Item = (N, V)>,
    ) -> Result<(), SendError> {
        let id = stream;
        let stream = self.streams.get_mut(id).ok_or(SendError::Closed)?;
        if stream.outbound != Outbound::Begun {
            return Err(SendError::Order);
        }
        if stream.unsent.len() == 0 {
            self.write_block(id, Pseudo::None, fields, true)?;
            self.end_outbound(id);
            return Ok(());
        }
        let fields: Fields = fields.into_iter().collect();
        let mut lower = Vec::new();
        for (name, value) in &fields {
            if !lower_case(name, &mut lower) || trimmed(value).is_none() {
                return Err(SendError::Field);
            }
        }
        stream.outbound = Outbound::Ending(Some(fields));
        Ok(())
    }

    /// Writes a field block.
    pub(super) fn write_block<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        id: u32,
        pseudo: Pseudo<'_>,
        fields: impl IntoIterator<Item = (N, V)>,
        ends: bool,
    ) -> Result<(), SendError> {
        let encoder = &mut self.encoder;
        let flags = if ends { flag::END_STREAM } else { 0 };
        let written = self.output.try_write_block(flags, id, |block| {
            encoder.begin(block);
            match pseudo {
                Pseudo::Status(status) => hpack::status(block, status),
                Pseudo::Line(line) => line.encode(encoder, block),
                Pseudo::None => {}
            }
            fields
                .into_iter()
                .try_for_each(|(name, value)| encoder.field(block, name.as_ref(), value.as_ref()))
        });
        if written.is_err() {
            self.encoder.forget();
        }
        written
    }

    /// Our side of a stream has ended.
    fn end_outbound(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.outbound = Outbound::Ended;
        if stream.inbound == Inbound::Ended {
            self.complete(id);
        }
    }

    /// Moves bytes of streams to the output, a frame of each stream in turn.
    pub(super) fn take_turns(&mut self) {
        while self.output.len() < self.options.max_output
            && self.send.room() > 0
            && let Some(id) = self.turns.pop_front()
        {
            self.take_turn(id);
        }
    }

    fn take_turn(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.has_turn = false;
        let room = stream.send.room().min(self.send.room()).min(MAX_SENT);
        let count = stream.unsent.len().min(room);
        let is_last = count == stream.unsent.len();
        let ends = is_last && stream.outbound == Outbound::Ending(None);
        let flags = if ends { flag::END_STREAM } else { 0 };
        let unsent = &mut stream.unsent;
        self.output.write_with(kind::DATA, flags, id, |payload| unsent.take(count, payload));
        stream.send.spend(count);
        self.send.spend(count);
        stream.queue_turn(&mut self.turns);
        let is_ending = matches!(stream.outbound, Outbound::Ending(_));
        if stream.is_paused && !is_ending && stream.unsent.len() <= self.options.max_unsent / 2 {
            stream.is_paused = false;
            self.push_event(Event::Writable { stream: id });
        }
        if is_last && is_ending {
            self.end_queued(id);
        }
    }

    /// Ends a message behind its last bytes.
    fn end_queued(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let ending = std::mem::replace(&mut stream.outbound, Outbound::Ended);
        if let Outbound::Ending(Some(fields)) = ending {
            // The trailers were checked when they were queued.
            let _ = self.write_block(id, Pseudo::None, &fields, true);
        }
        self.end_outbound(id);
    }
}
