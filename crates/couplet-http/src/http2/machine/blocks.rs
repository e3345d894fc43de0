//! Blocks of fields: HEADERS and CONTINUATION. RFC 9113, 4.3, 6.2 and 6.10.
//!
//! Contract: 172, 174a.

use std::ops::Range;

use super::super::frame::{self, ConnectionError, FrameHead, Reason, Then, flag};
use super::super::head::{HeadBuilder, RequestHead};
use super::super::streams::{Key, RequestState, ResponseState, Stream, StreamStage};
use super::{Event, Farewell, Machine, broken, failed};
use couplet_defer::bounded::Bounded;
use couplet_http2::window::{ReceiveWindow, SendWindow};

/// A block of fields may cost up to this multiple of the longest list. Then the connection ends with
/// ENHANCE_YOUR_CALM.
const MAX_BLOCK_FACTOR: usize = 4;

/// Cost of a frame in its block of fields, in bytes.
const FRAME_COST: usize = 32;

/// A block of fields, up to END_HEADERS.
pub(super) struct Block {
    pub(super) stream: u32,
    purpose: Purpose,
    head: HeadBuilder,
    /// The beginning of a field whose end has not arrived.
    rest: Bounded<Vec<u8>>,
    frames: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Request(Then),
    /// A request beyond `max_streams`, or after the client's GOAWAY.
    Refused,
    Trailers(Key),
    /// Of a stream that ends with this error.
    Wrong(Key, Reason),
    /// Of a stream that we reset, or beyond our GOAWAY.
    Ignored,
}

impl Machine {
    pub(super) fn receive_headers(
        &mut self,
        frame: &FrameHead,
        range: Range<usize>,
    ) -> Result<Option<Event>, ConnectionError> {
        let payload = frame::strip_padding(frame, &self.input[range.clone()])?;
        let begin = range.start + usize::from(frame.has(flag::PADDED));
        let mut fragment = begin..begin + payload.len();
        if frame.has(flag::PRIORITY) {
            if fragment.len() < 5 {
                // Padding may take the place of the priority.
                let is_padded = range.len() >= 5 + usize::from(frame.has(flag::PADDED));
                let reason =
                    if is_padded { Reason::PROTOCOL_ERROR } else { Reason::FRAME_SIZE_ERROR };
                return failed(reason, "headers without their priority");
            }
            fragment.start += 5;
        }
        let purpose = self.purpose(frame.stream, Then::of(frame))?;
        self.decoder.begin_block();
        let block = Block {
            stream: frame.stream,
            purpose,
            head: HeadBuilder::default(),
            rest: Bounded::new(MAX_BLOCK_FACTOR * self.limits.max_head + frame::MAX_PAYLOAD),
            frames: 0,
        };
        self.receive_fragment(block, frame, fragment)
    }

    fn purpose(&mut self, id: u32, then: Then) -> Result<Purpose, ConnectionError> {
        Ok(match self.streams.state(id) {
            StreamStage::Idle if id.is_multiple_of(2) => return broken("an even stream"),
            StreamStage::Idle => {
                if self.farewell == Farewell::Final {
                    return Ok(Purpose::Ignored);
                }
                self.streams.set_last(id);
                let has_room = self.streams.len() < self.limits.max_streams as usize;
                match has_room && !self.peer_leaves {
                    true => Purpose::Request(then),
                    false => Purpose::Refused,
                }
            }
            StreamStage::Open(key) => match self.streams.get(key).map(|stream| stream.request) {
                Some(RequestState::Ended) => Purpose::Wrong(key, Reason::STREAM_CLOSED),
                _ if then == Then::More => Purpose::Wrong(key, Reason::PROTOCOL_ERROR),
                _ => Purpose::Trailers(key),
            },
            StreamStage::Reset => Purpose::Ignored,
            StreamStage::Closed => return broken("headers on a closed stream"),
        })
    }

    pub(super) fn receive_continuation(
        &mut self,
        frame: &FrameHead,
        range: Range<usize>,
    ) -> Result<Option<Event>, ConnectionError> {
        let Some(block) = self.block.take() else { return broken("a continuation of nothing") };
        self.receive_fragment(*block, frame, range)
    }

    /// Decodes the next part of the block.
    fn receive_fragment(
        &mut self,
        mut block: Block,
        frame: &FrameHead,
        range: Range<usize>,
    ) -> Result<Option<Event>, ConnectionError> {
        let is_last = frame.has(flag::END_HEADERS);
        let has_rest = !block.rest.is_empty();
        if has_rest {
            block.rest.edit().extend_from_slice(&self.input[range.clone()]);
        }
        let fragment = if has_rest { &block.rest[..] } else { &self.input[range.clone()] };
        let max_head = self.limits.max_head;
        let head = &mut block.head;
        let decoded = self.decoder.decode(fragment, |field| head.add(field, max_head));
        let unreadable =
            ConnectionError::new(Reason::COMPRESSION_ERROR, "a block that HPACK cannot read");
        let count = decoded.map_err(|_| unreadable)?;
        block.frames += 1;
        let left = fragment.len() - count;
        let cost = head.size() + left + FRAME_COST * (block.frames - 1);
        if cost > MAX_BLOCK_FACTOR * max_head {
            return failed(Reason::ENHANCE_YOUR_CALM, "a block of fields without an end");
        }
        if is_last {
            return if left > 0 { Err(unreadable) } else { self.end_block(block) };
        }
        if has_rest {
            block.rest.edit().drain(..count);
        } else {
            block.rest.edit().extend_from_slice(&self.input[range][count..]);
        }
        self.block = Some(Box::new(block));
        Ok(None)
    }

    fn end_block(&mut self, block: Block) -> Result<Option<Event>, ConnectionError> {
        match block.purpose {
            Purpose::Ignored => Ok(None),
            Purpose::Wrong(key, reason) => self.stream_error(key, reason),
            Purpose::Refused => {
                self.refuse(block.stream, Reason::REFUSED_STREAM)?;
                Ok(None)
            }
            Purpose::Trailers(key) => self.end_by_trailers(key, block.head),
            Purpose::Request(then) if block.head.size() > self.limits.max_head => {
                let key = self.open(block.stream, then, None);
                Ok(Some(Event::TooLarge { key }))
            }
            Purpose::Request(then) => match block.head.into_request() {
                Ok(RequestHead { length: Some(1..), .. }) if then == Then::End => {
                    self.refuse(block.stream, Reason::PROTOCOL_ERROR)?;
                    Ok(None)
                }
                Ok(RequestHead { request, length }) => {
                    let key = self.open(block.stream, then, length);
                    Ok(Some(Event::Request { key, request, length, then }))
                }
                Err(_) => {
                    self.refuse(block.stream, Reason::PROTOCOL_ERROR)?;
                    Ok(None)
                }
            },
        }
    }

    fn end_by_trailers(
        &mut self,
        key: Key,
        head: HeadBuilder,
    ) -> Result<Option<Event>, ConnectionError> {
        let is_short = self.streams.get(key).is_some_and(|it| it.missing.is_some_and(|n| n > 0));
        let is_large = head.size() > self.limits.max_head;
        match head.into_trailers() {
            Ok(trailers) if !is_short && !is_large => {
                self.after_request_frame(key, Then::End);
                Ok(Some(Event::Trailers { key, trailers }))
            }
            _ => self.stream_error(key, Reason::PROTOCOL_ERROR),
        }
    }

    /// Resets a request that was not opened.
    fn refuse(&mut self, id: u32, reason: Reason) -> Result<(), ConnectionError> {
        self.strike()?;
        self.write_reset(id, reason);
        self.streams.remember(id);
        Ok(())
    }

    fn open(&mut self, id: u32, then: Then, missing: Option<u64>) -> Key {
        self.streams.insert(Stream {
            id,
            send: SendWindow::new(self.stream_window),
            receive: ReceiveWindow::new(self.first_window()),
            request: match then {
                Then::More => RequestState::Open,
                Then::End => RequestState::Ended,
            },
            missing,
            response: ResponseState::Open,
        })
    }
}
