//! Answers, and the turns of streams whose bytes wait. RFC 9113, 5.2, 6.9 and 8.1.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::Connection;
use super::streams::{Answer, Stream};
use crate::field::{lower_case, trimmed};
use crate::frame::{self, HEAD, MAX_SENT, flag, kind};
use crate::hpack;
use crate::{Event, Fields, SendError};

impl Stream {
    /// Queues the stream for a turn, if it can send.
    pub(super) fn queue_turn(&mut self, turns: &mut VecDeque<u32>) {
        if !self.has_turn && self.unsent.len() > 0 && self.send.room() > 0 {
            self.has_turn = true;
            turns.push_back(self.id);
        }
    }
}

impl Connection {
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
        let answer = &self.streams.get(stream).ok_or(SendError::Closed)?.answer;
        let is_informational = status < 200;
        if *answer != Answer::Awaited || (is_informational && ends) {
            return Err(SendError::Order);
        }
        if !(100..=999).contains(&status) || status == 101 {
            return Err(SendError::Status);
        }
        self.write_head(stream, Some(status), fields, ends)?;
        if ends {
            self.end_answer(stream);
        } else if !is_informational && let Some(stream) = self.streams.get_mut(stream) {
            stream.answer = Answer::Begun;
        }
        Ok(())
    }

    /// Sends bytes of the body, the last ones if it `ends`, and returns how many bytes of the
    /// stream wait for the client's windows or [`take_output`](Connection::take_output). Once they
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
            true if unsent == 0 => self.end_answer(id),
            true => stream.answer = Answer::Ending(None),
            false => {}
        }
        Ok(unsent)
    }

    /// Writes the first bytes to the output, unless others wait for their turn, and returns how
    /// many.
    fn send_now(&mut self, id: u32, bytes: &[u8], ends: bool) -> Result<usize, SendError> {
        let stream = self.streams.get_mut(id).ok_or(SendError::Closed)?;
        if stream.answer != Answer::Begun {
            return Err(SendError::Order);
        }
        if stream.unsent.len() > 0 {
            return Ok(0);
        }
        if bytes.is_empty() {
            if ends {
                frame::write(&mut self.output, kind::DATA, flag::END_STREAM, id, &[]);
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
            frame::write(&mut self.output, kind::DATA, flags, id, part);
            stream.send.spend(part.len());
            self.send.spend(part.len());
        }
        Ok(sent)
    }

    /// Ends the answer with trailers, after its body.
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
        if stream.answer != Answer::Begun {
            return Err(SendError::Order);
        }
        if stream.unsent.len() == 0 {
            self.write_head(id, None, fields, true)?;
            self.end_answer(id);
            return Ok(());
        }
        let fields: Fields = fields.into_iter().collect();
        let mut lower = Vec::new();
        for (name, value) in &fields {
            if !lower_case(name, &mut lower) || trimmed(value).is_none() {
                return Err(SendError::Field);
            }
        }
        stream.answer = Answer::Ending(Some(fields));
        Ok(())
    }

    /// Writes a field block: the head of an answer, or trailers if there is no status.
    pub(super) fn write_head<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        id: u32,
        status: Option<u16>,
        fields: impl IntoIterator<Item = (N, V)>,
        ends: bool,
    ) -> Result<(), SendError> {
        let out = &mut self.output;
        let begin = out.len();
        out.extend_from_slice(&[0; HEAD]);
        self.encoder.begin(out);
        if let Some(status) = status {
            hpack::status(out, status);
        }
        for (name, value) in fields {
            if let Err(error) = self.encoder.field(out, name.as_ref(), value.as_ref()) {
                out.truncate(begin);
                self.encoder.forget();
                return Err(error);
            }
        }
        let flags = if ends { flag::END_STREAM } else { 0 };
        let length = out.len() - begin - HEAD;
        if length > MAX_SENT {
            let block = out.split_off(begin + HEAD);
            out.truncate(begin);
            write_fragments(out, id, flags, &block);
        } else if let Some(head) = out.get_mut(begin..).and_then(|out| out.first_chunk_mut()) {
            *head = frame::head(length, kind::HEADERS, flags | flag::END_HEADERS, id);
        }
        Ok(())
    }

    /// Our side of a stream has ended.
    fn end_answer(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.answer = Answer::Ended;
        if stream.request == super::streams::Request::Ended {
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
        let ends = is_last && stream.answer == Answer::Ending(None);
        let flags = if ends { flag::END_STREAM } else { 0 };
        self.output.extend_from_slice(&frame::head(count, kind::DATA, flags, id));
        stream.unsent.take(count, &mut self.output);
        stream.send.spend(count);
        self.send.spend(count);
        stream.queue_turn(&mut self.turns);
        let is_ending = matches!(stream.answer, Answer::Ending(_));
        if stream.is_paused && !is_ending && stream.unsent.len() <= self.options.max_unsent / 2 {
            stream.is_paused = false;
            self.push_event(Event::Writable { stream: id });
        }
        if is_last && is_ending {
            self.end_queued(id);
        }
    }

    /// Ends an answer behind its last bytes.
    fn end_queued(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if let Answer::Ending(Some(fields)) = std::mem::replace(&mut stream.answer, Answer::Ended) {
            // They were checked when they were queued.
            let _ = self.write_head(id, None, &fields, true);
        }
        self.end_answer(id);
    }
}

/// Writes a block that needs several frames: RFC 9113, 4.3.
fn write_fragments(out: &mut Vec<u8>, id: u32, flags: u8, block: &[u8]) {
    let count = block.len().div_ceil(MAX_SENT);
    for (n, fragment) in block.chunks(MAX_SENT).enumerate() {
        let (kind, first) = if n == 0 { (kind::HEADERS, flags) } else { (kind::CONTINUATION, 0) };
        let last = if n + 1 == count { flag::END_HEADERS } else { 0 };
        frame::write(out, kind, first | last, id, fragment);
    }
}
