//! Frames for the client.
//!
//! Contract: 174d, 175c.

use http::StatusCode;
use http::header::{self, HeaderMap};

use super::super::frame::{ConnectionError, MAX_PAYLOAD, Reason, Then, kind};
use super::super::head::is_of_connection;
use super::super::hpack;
use super::super::streams::{Key, RequestState, ResponseState};
use super::{FAREWELL, Farewell, Machine, ResponseHead};
use crate::body::Content;
use couplet_http2::window::MAX_WINDOW;

/// Minimum length of a payload that is sent without a copy, in bytes.
const MIN_LENT: usize = 4 * 1024;

impl ResponseHead<'_> {
    fn encode(&self, block: &mut Vec<u8>) {
        hpack::encode_status(block, self.status);
        let (mut date, mut length) = (self.date.as_ref(), self.length);
        for (name, value) in self.headers {
            if is_of_connection(name) {
                continue;
            }
            if name == header::DATE {
                date = None;
            } else if name == header::CONTENT_LENGTH {
                length = None;
            }
            hpack::encode_field(block, name, value);
        }
        if let Some(date) = date {
            hpack::encode_field(block, &header::DATE, date);
        }
        if let Some(length) = length {
            hpack::encode_length(block, length);
        }
    }
}

impl Machine {
    /// Returns bytes of a body that were consumed to the window of its stream, and gives that its
    /// share of the connection's window.
    pub(in crate::http2) fn consume_stream(&mut self, key: Key, count: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if !stream.receive.consume(count) || stream.request != RequestState::Open {
            return;
        }
        let others = self.streams.iter().filter(|(other, _)| *other != key);
        let claims = others.map(|(_, stream)| stream.claim());
        let size = self.limits.shares().wider(self.first_window(), claims);
        if let Some(stream) = self.streams.get_mut(key)
            && let Some(increment) = stream.receive.update(size)
        {
            let (id, increment) = (stream.id, increment.to_be_bytes());
            self.out.write(kind::WINDOW_UPDATE, 0, id, &increment);
        }
    }

    /// Returns bytes that were consumed to the window of the connection.
    pub(in crate::http2) fn consume_connection(&mut self, count: usize) {
        if self.receive.consume(count)
            && let Some(increment) = self.receive.update(self.receive.size())
        {
            self.out.write(kind::WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
        }
    }

    /// Records that the rest of a request's body will not be read.
    pub(in crate::http2) fn abandon_request(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key)
            && stream.request == RequestState::Open
        {
            stream.request = RequestState::Unread;
            self.close_if_done(key);
        }
    }

    /// Removes a stream whose both sides are done.
    pub(super) fn close_if_done(&mut self, key: Key) {
        let Some(stream) =
            self.streams.get(key).filter(|stream| stream.response == ResponseState::Ended)
        else {
            return;
        };
        match stream.request {
            RequestState::Open => return,
            // RFC 9113, 8.1: the rest of the request is not needed.
            RequestState::Unread => self.reset(key, Reason::NO_ERROR),
            RequestState::Ended => drop(self.streams.remove(key)),
        }
        self.strikes = self.strikes.saturating_sub(1);
    }

    /// Resets a stream.
    pub(in crate::http2) fn reset(&mut self, key: Key, reason: Reason) {
        if let Some(stream) = self.streams.remove(key) {
            self.write_reset(stream.id, reason);
            self.streams.remember(stream.id);
        }
    }

    pub(super) fn write_reset(&mut self, id: u32, reason: Reason) {
        self.out.write(kind::RST_STREAM, 0, id, &reason.0.to_be_bytes());
    }

    pub(super) fn write_goaway(&mut self, last: u32, reason: Reason, why: &str) {
        self.out.write_with(kind::GOAWAY, 0, 0, |payload| {
            payload.extend_from_slice(&last.to_be_bytes());
            payload.extend_from_slice(&reason.0.to_be_bytes());
            payload.extend_from_slice(why.as_bytes());
        });
    }

    /// Announces the end of the connection: RFC 9113, 6.8. Requests that are on their way are still
    /// taken, until the client answers a PING.
    pub(in crate::http2) fn finish(&mut self) {
        if self.farewell == Farewell::None {
            self.farewell = Farewell::Announced;
            self.write_goaway(MAX_WINDOW as u32, Reason::NO_ERROR, "");
            self.out.write(kind::PING, 0, 0, &FAREWELL);
        }
    }

    /// Ends the connection because of an error.
    pub(in crate::http2) fn fail(&mut self, error: &ConnectionError) {
        self.write_goaway(self.streams.last(), error.reason, error.why);
    }

    /// Sends the head of a response, whose body follows unless it ends.
    pub(in crate::http2) fn send_head(&mut self, key: Key, head: &ResponseHead<'_>, then: Then) {
        let Some(id) = self.streams.get(key).map(|stream| stream.id) else { return };
        let is_first = !std::mem::replace(&mut self.has_sent_head, true);
        self.out.write_block(then.flag(), id, |block| {
            if is_first {
                hpack::encode_no_table(block);
            }
            head.encode(block);
        });
        self.after_response_frame(key, then);
    }

    /// Sends the trailers of a response, which end it.
    pub(in crate::http2) fn send_trailers(&mut self, key: Key, trailers: &HeaderMap) {
        let Some(id) = self.streams.get(key).map(|stream| stream.id) else { return };
        self.out.write_block(Then::End.flag(), id, |block| {
            for (name, value) in trailers.iter().filter(|(name, _)| !is_of_connection(name)) {
                hpack::encode_field(block, name, value);
            }
        });
        self.after_response_frame(key, Then::End);
    }

    /// The number of bytes that a stream may send in one frame.
    pub(in crate::http2) fn data_room(&self, key: Key) -> usize {
        let stream = self.streams.get(key).map_or(0, |stream| stream.send.room());
        stream.min(self.send.room()).min(MAX_PAYLOAD)
    }

    /// Whether the window of the connection is open.
    pub(in crate::http2) fn has_window(&self) -> bool {
        self.send.room() > 0
    }

    /// Sends a DATA frame of at most [`data_room`](Self::data_room) bytes; an empty one needs no
    /// window.
    pub(in crate::http2) fn send_data(&mut self, key: Key, data: Content, then: Then) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.send.spend(data.len());
        self.send.spend(data.len());
        let (flags, id) = (then.flag(), stream.id);
        match data {
            Content::Bytes(bytes) if bytes.len() < MIN_LENT => {
                self.out.write(kind::DATA, flags, id, &bytes);
            }
            lent => self.out.write_payload(kind::DATA, flags, id, lent),
        }
        self.after_response_frame(key, then);
    }

    fn after_response_frame(&mut self, key: Key, then: Then) {
        if let Some(stream) = self.streams.get_mut(key)
            && then == Then::End
        {
            stream.response = ResponseState::Ended;
            self.close_if_done(key);
        }
    }

    /// Sends 100 (Continue): RFC 9110, 15.2.1.
    pub(in crate::http2) fn send_continue(&mut self, key: Key) {
        if self.streams.get(key).is_some_and(|stream| stream.request == RequestState::Open) {
            let headers = HeaderMap::new();
            let head = ResponseHead::new(StatusCode::CONTINUE, &headers);
            self.send_head(key, &head, Then::More);
        }
    }
}
