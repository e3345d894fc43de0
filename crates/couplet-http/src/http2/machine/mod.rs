//! [`Machine`]: the state of a server's HTTP/2 connection, without I/O. RFC 9113.
//!
//! Received bytes go in by [`input`](Machine::input) and come out of
//! [`next_event`](Machine::next_event) as events; frames for the client are appended to
//! [`out`](Machine::out).
//!
//! Contract: 175b.

mod blocks;
mod frames;
mod send;

use std::ops::Range;

use http::header::{HeaderMap, HeaderValue};
use http::{Request, StatusCode};

use super::frame::{
    ConnectionError, FrameHead, FrameOutput, HEAD, MAX_PAYLOAD, PREFACE, Reason, Then,
};
use super::frame::{flag, kind, setting};
use super::hpack::Decoder;
use super::streams::{Key, Streams};
use blocks::Block;
use couplet_http2::window::{INITIAL_WINDOW, ReceiveWindow, SendWindow, Shares};

/// The size of the decoder's table, in bytes: the initial SETTINGS_HEADER_TABLE_SIZE.
pub(super) const MAX_TABLE: usize = 4096;

/// Useless work that a client may cause beyond its completed requests, in streams that are reset and
/// empty frames. Then the connection ends with ENHANCE_YOUR_CALM. As many refused streams are
/// remembered.
const MAX_STRIKES: u32 = 1024;

/// Payload of the PING whose answer confirms that the client has received our first GOAWAY.
const FAREWELL: [u8; 8] = *b"farewell";

const fn failed<T>(reason: Reason, why: &'static str) -> Result<T, ConnectionError> {
    Err(ConnectionError::new(reason, why))
}

/// Shorthand for the usual error.
const fn broken<T>(why: &'static str) -> Result<T, ConnectionError> {
    failed(Reason::PROTOCOL_ERROR, why)
}

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_streams: u32,
    /// The largest receive window of a stream, in bytes.
    pub(super) stream_window: u32,
    /// The receive window of the connection, in bytes.
    pub(super) connection_window: u32,
    /// Maximum length of a list of fields, in bytes: RFC 9113, 6.5.2.
    pub(super) max_head: usize,
}

impl Limits {
    fn shares(&self) -> Shares {
        Shares::new(self.connection_window, self.max_streams, self.stream_window)
    }
}

/// A client's action that concerns a stream.
#[derive(Debug)]
pub(super) enum Event {
    /// A request, with a body unless it ends.
    Request {
        key: Key,
        request: Request<()>,
        /// The declared length of its body.
        length: Option<u64>,
        then: Then,
    },
    /// A request whose list of fields exceeds the limit.
    TooLarge { key: Key },
    /// Bytes of a request's body, [in](Machine::data) the input.
    Data { key: Key, range: Range<usize>, then: Then },
    /// The end of a body, with trailers.
    Trailers { key: Key, trailers: HeaderMap },
    /// The stream was reset, by the client or because of the client's error, and is closed.
    Reset { key: Key, reason: Reason },
    /// The stream may send again.
    Window { key: Key },
    /// The connection, or each stream, may send again.
    Windows,
}

/// The head of a response.
pub(super) struct ResponseHead<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    /// Sent unless the headers have a Date.
    pub(super) date: Option<HeaderValue>,
    /// Length of the body, sent unless the headers have a Content-Length.
    pub(super) length: Option<u64>,
}

impl<'a> ResponseHead<'a> {
    /// Creates a head with these headers only.
    pub(super) fn new(status: StatusCode, headers: &'a HeaderMap) -> ResponseHead<'a> {
        ResponseHead { status, headers, date: None, length: None }
    }
}

/// How far the connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    None,
    /// Our first GOAWAY was sent, and its PING is not answered.
    Announced,
    /// No more requests are taken.
    Final,
}

/// The beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    Preface,
    Settings,
    /// Our settings are not acknowledged.
    Unacknowledged,
    Complete,
}

pub(super) struct Machine {
    limits: Limits,
    beginning: Beginning,
    farewell: Farewell,
    input: Vec<u8>,
    /// Number of these bytes that were processed.
    taken: usize,
    // The answers to one read, and the heads of `HttpOptions::max_streams` responses: nothing is
    // read while the transport is full. Bodies: one turn's.
    out: FrameOutput,
    decoder: Decoder,
    streams: Streams,
    block: Option<Box<Block>>,
    send: SendWindow,
    receive: ReceiveWindow,
    /// The client's SETTINGS_INITIAL_WINDOW_SIZE.
    stream_window: i64,
    /// The client's encoder knows that we use no table.
    has_sent_head: bool,
    peer_leaves: bool,
    strikes: u32,
}

impl Machine {
    /// Creates the state before the client's preface, with our settings in `out`.
    pub(super) fn new(limits: Limits) -> Machine {
        let mut out = FrameOutput::default();
        let max_head = u32::try_from(limits.max_head).unwrap_or(u32::MAX);
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, limits.max_streams),
            (setting::INITIAL_WINDOW_SIZE, limits.shares().first()),
            (setting::MAX_HEADER_LIST_SIZE, max_head),
            (setting::ENABLE_CONNECT_PROTOCOL, 1),
        ];
        out.write_with(kind::SETTINGS, 0, 0, |payload| {
            for (name, value) in settings {
                payload.extend_from_slice(&name.to_be_bytes());
                payload.extend_from_slice(&value.to_be_bytes());
            }
        });
        let window = i64::from(limits.connection_window);
        if let Some(increment @ 1..) = limits.connection_window.checked_sub(INITIAL_WINDOW as u32) {
            out.write(kind::WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
        }
        Machine {
            limits,
            beginning: Beginning::Preface,
            farewell: Farewell::None,
            input: Vec::new(),
            taken: 0,
            out,
            decoder: Decoder::new(MAX_TABLE),
            streams: Streams::new(limits.max_streams, MAX_STRIKES),
            block: None,
            send: SendWindow::new(INITIAL_WINDOW),
            receive: ReceiveWindow::new(window),
            stream_window: INITIAL_WINDOW,
            has_sent_head: false,
            peer_leaves: false,
            strikes: 0,
        }
    }

    /// Appends received bytes.
    pub(super) fn input(&mut self, data: &[u8]) {
        self.input.drain(..self.taken);
        self.taken = 0;
        self.input.extend_from_slice(data);
    }

    /// Frames for the client, to be taken.
    pub(super) fn out(&mut self) -> &mut FrameOutput {
        &mut self.out
    }

    /// The bytes of [`Event::Data`].
    pub(super) fn data(&self, range: Range<usize>) -> &[u8] {
        &self.input[range]
    }

    /// Whether the stream is open.
    pub(super) fn is_open(&self, key: Key) -> bool {
        self.streams.get(key).is_some()
    }

    /// The receive window of a new stream, for a client that may not know our settings.
    fn first_window(&self) -> i64 {
        match self.beginning {
            Beginning::Complete => self.limits.shares().first().into(),
            _ => INITIAL_WINDOW,
        }
    }

    pub(super) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Whether no request is open and none will come.
    pub(super) fn is_over(&self) -> bool {
        (self.farewell == Farewell::Final || self.peer_leaves) && self.streams.is_empty()
    }

    /// Frees buffers that an idle connection does not need.
    pub(super) fn free_memory(&mut self) {
        const SMALL: usize = 512;
        if self.streams.is_empty() {
            self.input.drain(..self.taken);
            self.taken = 0;
            if self.input.capacity() > SMALL {
                self.input.shrink_to(0);
            }
            self.out.free_memory(SMALL);
            self.streams.free_memory();
        }
    }

    /// Processes the input up to the next event; `None` once it is used up.
    ///
    /// # Errors
    ///
    /// The error that ends the connection; [`fail`](Self::fail) must follow.
    pub(super) fn next_event(&mut self) -> Result<Option<Event>, ConnectionError> {
        while let Some((frame, payload)) = self.next_frame()? {
            if let Some(event) = self.receive(&frame, payload)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn next_frame(&mut self) -> Result<Option<(FrameHead, Range<usize>)>, ConnectionError> {
        if self.beginning == Beginning::Preface && !self.take_preface()? {
            return Ok(None);
        }
        let Some(head) = self.input[self.taken..].first_chunk::<HEAD>() else { return Ok(None) };
        let frame = FrameHead::parse(head);
        if frame.length > MAX_PAYLOAD {
            return failed(Reason::FRAME_SIZE_ERROR, "a frame that is too long");
        }
        let begin = self.taken + HEAD;
        let end = begin + frame.length;
        if self.input.len() < end {
            return Ok(None);
        }
        self.taken = end;
        Ok(Some((frame, begin..end)))
    }

    fn take_preface(&mut self) -> Result<bool, ConnectionError> {
        let count = self.input.len().min(PREFACE.len());
        if self.input[..count] != PREFACE[..count] {
            return broken("an invalid preface");
        }
        if count < PREFACE.len() {
            return Ok(false);
        }
        self.taken = count;
        self.beginning = Beginning::Settings;
        Ok(true)
    }

    fn receive(
        &mut self,
        frame: &FrameHead,
        range: Range<usize>,
    ) -> Result<Option<Event>, ConnectionError> {
        if self.beginning == Beginning::Settings {
            if frame.kind != kind::SETTINGS || frame.has(flag::ACK) {
                return broken("a preface without settings");
            }
            self.beginning = Beginning::Unacknowledged;
        }
        if let Some(block) = &self.block
            && (frame.kind != kind::CONTINUATION || frame.stream != block.stream)
        {
            return broken("a frame within a block of fields");
        }
        match frame.kind {
            kind::DATA => self.receive_data(frame, range),
            kind::HEADERS => self.receive_headers(frame, range),
            kind::CONTINUATION => self.receive_continuation(frame, range),
            kind::PRIORITY => self.receive_priority(frame),
            kind::RST_STREAM => self.receive_reset(frame, range),
            kind::SETTINGS => self.receive_settings(frame, range),
            kind::PUSH_PROMISE => broken("a push by a client"),
            kind::PING => self.receive_ping(frame, range),
            kind::GOAWAY => self.receive_goaway(frame),
            kind::WINDOW_UPDATE => self.receive_window_update(frame, range),
            _ => Ok(None),
        }
    }

    /// Counts an action that costs the client less than us.
    fn strike(&mut self) -> Result<(), ConnectionError> {
        self.strikes += 1;
        if self.strikes > MAX_STRIKES {
            return failed(Reason::ENHANCE_YOUR_CALM, "too many resets or empty frames");
        }
        Ok(())
    }

    /// Ends a stream because of its client's error: RFC 9113, 5.4.2.
    fn stream_error(&mut self, key: Key, reason: Reason) -> Result<Option<Event>, ConnectionError> {
        self.reset(key, reason);
        self.strike()?;
        Ok(Some(Event::Reset { key, reason }))
    }
}
