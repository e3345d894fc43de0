//! Frames for the client.

use http::StatusCode;
use http::header::{self, HeaderMap};

use super::super::flow::MAX_WINDOW;
use super::super::frame::{self, ConnectionError, HEAD, MAX_PAYLOAD, Reason, Then, kind};
use super::super::head::is_of_connection;
use super::super::hpack;
use super::super::streams::{Key, RequestState, ResponseState};
use super::{FAREWELL, Farewell, Machine, ResponseHead};

impl Machine {
    /// Returns bytes of a body that were consumed to the window of its stream.
    pub(in crate::http2) fn consume_stream(&mut self, key: Key, count: usize) {
        if let Some(stream) = self.streams.get_mut(key)
            && stream.request == RequestState::Open
            && let Some(increment) = stream.receive.consume(count)
        {
            let (id, increment) = (stream.id, increment.to_be_bytes());
            frame::write(&mut self.out, kind::WINDOW_UPDATE, 0, id, &increment);
        }
    }

    /// Returns bytes that were consumed to the window of the connection.
    pub(in crate::http2) fn consume_connection(&mut self, count: usize) {
        if let Some(increment) = self.receive.consume(count) {
            frame::write(&mut self.out, kind::WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
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
        frame::write(&mut self.out, kind::RST_STREAM, 0, id, &reason.0.to_be_bytes());
    }

    pub(super) fn write_goaway(&mut self, last: u32, reason: Reason, why: &str) {
        let payload = [&last.to_be_bytes()[..], &reason.0.to_be_bytes(), why.as_bytes()].concat();
        frame::write(&mut self.out, kind::GOAWAY, 0, 0, &payload);
    }

    /// Announces the end of the connection: RFC 9113, 6.8. Requests that are on their way are still
    /// taken, until the client answers a PING.
    pub(in crate::http2) fn finish(&mut self) {
        if self.farewell == Farewell::None {
            self.farewell = Farewell::Announced;
            self.write_goaway(MAX_WINDOW as u32, Reason::NO_ERROR, "");
            frame::write(&mut self.out, kind::PING, 0, 0, &FAREWELL);
        }
    }

    /// Ends the connection because of an error.
    pub(in crate::http2) fn fail(&mut self, error: &ConnectionError) {
        self.write_goaway(self.streams.last(), error.reason, error.why);
    }

    /// Sends the head of a response, whose body follows unless it ends.
    pub(in crate::http2) fn send_head(&mut self, key: Key, head: &ResponseHead<'_>, then: Then) {
        let Some(id) = self.streams.get(key).map(|stream| stream.id) else { return };
        let begin = self.begin_block();
        if !self.has_sent_head {
            self.has_sent_head = true;
            hpack::encode_no_table(&mut self.out);
        }
        hpack::encode_status(&mut self.out, head.status);
        let (mut date, mut length) = (head.date.as_ref(), head.length);
        for (name, value) in head.headers {
            if is_of_connection(name) {
                continue;
            }
            if name == header::DATE {
                date = None;
            } else if name == header::CONTENT_LENGTH {
                length = None;
            }
            hpack::encode_field(&mut self.out, name, value);
        }
        if let Some(date) = date {
            hpack::encode_field(&mut self.out, &header::DATE, date);
        }
        if let Some(length) = length {
            hpack::encode_length(&mut self.out, length);
        }
        frame::end_block(&mut self.out, begin, then.flag(), id);
        self.after_response_frame(key, then);
    }

    /// Sends the trailers of a response, which end it.
    pub(in crate::http2) fn send_trailers(&mut self, key: Key, trailers: &HeaderMap) {
        let Some(id) = self.streams.get(key).map(|stream| stream.id) else { return };
        let begin = self.begin_block();
        for (name, value) in trailers {
            if !is_of_connection(name) {
                hpack::encode_field(&mut self.out, name, value);
            }
        }
        frame::end_block(&mut self.out, begin, Then::End.flag(), id);
        self.after_response_frame(key, Then::End);
    }

    fn begin_block(&mut self) -> usize {
        let begin = self.out.len();
        self.out.extend_from_slice(&[0; HEAD]);
        begin
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

    /// Sends the head of a DATA frame, whose payload of at most [`data_room`](Self::data_room)
    /// bytes must follow in [`out`](Self::out); an empty payload needs no
    /// window.
    pub(in crate::http2) fn send_data(&mut self, key: Key, length: usize, then: Then) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.send.spend(length);
        self.send.spend(length);
        self.out.extend_from_slice(&frame::head(length, kind::DATA, then.flag(), stream.id));
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
