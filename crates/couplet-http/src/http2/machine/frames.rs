//! Received frames other than blocks of fields: RFC 9113, 6.
//!
//! Contract: 174a.

use std::ops::Range;

use super::super::frame::{self, ConnectionError, FrameHead, Reason, Then, flag, kind, setting};
use super::super::streams::{Key, RequestState, StreamStage};
use super::{Beginning, Event, FAREWELL, Farewell, Machine, broken, failed};
use couplet_http2::window::{INITIAL_WINDOW, MAX_WINDOW, Overflow};

impl Machine {
    pub(super) fn receive_data(
        &mut self,
        frame: &FrameHead,
        range: Range<usize>,
    ) -> Result<Option<Event>, ConnectionError> {
        let payload = &self.input[range.clone()];
        let data = frame::strip_padding(frame, payload)?.len();
        let begin = range.start + usize::from(frame.has(flag::PADDED));
        let (count, then) = (range.len(), Then::of(frame));
        let key = match self.streams.state(frame.stream) {
            StreamStage::Idle => return broken("data on an idle stream"),
            StreamStage::Open(key) => Some(key),
            StreamStage::Reset | StreamStage::Closed => None,
        };
        if self.receive.spend(count).is_err() {
            return failed(Reason::FLOW_CONTROL_ERROR, "more data than the window allows");
        }
        let Some(key) = key else {
            self.consume_connection(count);
            if self.streams.state(frame.stream) == StreamStage::Closed {
                self.write_reset(frame.stream, Reason::STREAM_CLOSED);
                self.strike()?;
            }
            return Ok(None);
        };
        if data == 0 && then == Then::More {
            self.strike()?;
        }
        let Some(stream) = self.streams.get_mut(key) else { return Ok(None) };
        let wrong = if stream.request == RequestState::Ended {
            Some(Reason::STREAM_CLOSED)
        } else if stream.receive.spend(count).is_err() {
            Some(Reason::FLOW_CONTROL_ERROR)
        } else {
            let missing = stream.missing.map(|missing| missing.checked_sub(data as u64));
            stream.missing = missing.flatten();
            let is_wrong = match missing {
                None => false,
                Some(None) => true,
                Some(Some(missing)) => then == Then::End && missing > 0,
            };
            is_wrong.then_some(Reason::PROTOCOL_ERROR)
        };
        if let Some(reason) = wrong {
            self.consume_connection(count);
            return self.stream_error(key, reason);
        }
        if stream.request == RequestState::Unread {
            self.consume_connection(count);
            self.after_request_frame(key, then);
            return Ok(None);
        }
        self.consume_stream(key, count - data);
        self.consume_connection(count - data);
        self.after_request_frame(key, then);
        Ok(Some(Event::Data { key, range: begin..begin + data, then }))
    }

    /// Records END_STREAM.
    pub(super) fn after_request_frame(&mut self, key: Key, then: Then) {
        if let Some(stream) = self.streams.get_mut(key)
            && then == Then::End
        {
            stream.request = RequestState::Ended;
            self.close_if_done(key);
        }
    }

    pub(super) fn receive_priority(
        &mut self,
        frame: &FrameHead,
    ) -> Result<Option<Event>, ConnectionError> {
        match self.streams.state(frame.stream) {
            _ if frame.stream == 0 => broken("a priority of the stream 0"),
            _ if frame.length == 5 => Ok(None),
            StreamStage::Open(key) => self.stream_error(key, Reason::FRAME_SIZE_ERROR),
            _ => failed(Reason::FRAME_SIZE_ERROR, "a priority of a wrong length"),
        }
    }

    pub(super) fn receive_reset(
        &mut self,
        frame: &FrameHead,
        range: Range<usize>,
    ) -> Result<Option<Event>, ConnectionError> {
        let reason = Reason(u32::from_be_bytes(frame::fixed(&self.input[range])?));
        match self.streams.state(frame.stream) {
            StreamStage::Idle => broken("a reset of an idle stream"),
            StreamStage::Reset | StreamStage::Closed => Ok(None),
            StreamStage::Open(key) => {
                self.streams.remove(key);
                self.strike()?;
                Ok(Some(Event::Reset { key, reason }))
            }
        }
    }

    pub(super) fn receive_settings(
        &mut self,
        frame: &FrameHead,
        range: Range<usize>,
    ) -> Result<Option<Event>, ConnectionError> {
        if frame.stream != 0 {
            return broken("settings on a stream");
        }
        if frame.has(flag::ACK) {
            if frame.length > 0 {
                return failed(Reason::FRAME_SIZE_ERROR, "an acknowledgement with settings");
            }
            self.acknowledge();
            return Ok(None);
        }
        if !frame.length.is_multiple_of(6) {
            return failed(Reason::FRAME_SIZE_ERROR, "settings of a wrong length");
        }
        let mut window = self.stream_window;
        for entry in self.input[range].chunks_exact(6) {
            let name = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            match name {
                setting::ENABLE_PUSH if value > 1 => return broken("an invalid ENABLE_PUSH"),
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => {
                    return failed(
                        Reason::FLOW_CONTROL_ERROR,
                        "an initial window that is too large",
                    );
                }
                setting::INITIAL_WINDOW_SIZE => window = value.into(),
                setting::MAX_FRAME_SIZE if !(16_384..1 << 24).contains(&value) => {
                    return broken("an invalid MAX_FRAME_SIZE");
                }
                _ => {}
            }
        }
        self.out.write(kind::SETTINGS, flag::ACK, 0, b"");
        self.set_stream_window(window)
    }

    /// Our settings hold from now on.
    fn acknowledge(&mut self) {
        if self.beginning == Beginning::Unacknowledged {
            self.beginning = Beginning::Complete;
            let by = i64::from(self.limits.shares().first()) - INITIAL_WINDOW;
            for key in self.streams.keys() {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.receive.change(by);
                }
                // Consumed bytes may be half of a smaller window.
                self.consume_stream(key, 0);
            }
        }
    }

    fn set_stream_window(&mut self, window: i64) -> Result<Option<Event>, ConnectionError> {
        let by = window - std::mem::replace(&mut self.stream_window, window);
        for stream in self.streams.iter_mut() {
            if let Err(Overflow) = stream.send.change(by) {
                return failed(Reason::FLOW_CONTROL_ERROR, "a setting that overflows a window");
            }
        }
        Ok((by > 0).then_some(Event::Windows))
    }

    pub(super) fn receive_ping(
        &mut self,
        frame: &FrameHead,
        range: Range<usize>,
    ) -> Result<Option<Event>, ConnectionError> {
        if frame.stream != 0 {
            return broken("a ping on a stream");
        }
        let payload = frame::fixed::<8>(&self.input[range])?;
        if !frame.has(flag::ACK) {
            self.out.write(kind::PING, flag::ACK, 0, &payload);
        } else if payload == FAREWELL && self.farewell == Farewell::Announced {
            self.farewell = Farewell::Final;
            self.write_goaway(self.streams.last(), Reason::NO_ERROR, "");
        }
        Ok(None)
    }

    pub(super) fn receive_goaway(
        &mut self,
        frame: &FrameHead,
    ) -> Result<Option<Event>, ConnectionError> {
        if frame.stream != 0 {
            return broken("a GOAWAY on a stream");
        }
        if frame.length < 8 {
            return failed(Reason::FRAME_SIZE_ERROR, "a GOAWAY of a wrong length");
        }
        self.peer_leaves = true;
        Ok(None)
    }

    pub(super) fn receive_window_update(
        &mut self,
        frame: &FrameHead,
        range: Range<usize>,
    ) -> Result<Option<Event>, ConnectionError> {
        let by = i64::from(frame::number(frame::fixed(&self.input[range])?));
        if frame.stream == 0 {
            return match self.send.change(by) {
                _ if by == 0 => broken("a window that grows by nothing"),
                Err(Overflow) => failed(Reason::FLOW_CONTROL_ERROR, "a window that overflows"),
                Ok(is_open) => Ok(is_open.then_some(Event::Windows)),
            };
        }
        let key = match self.streams.state(frame.stream) {
            StreamStage::Idle => return broken("a window of an idle stream"),
            StreamStage::Reset | StreamStage::Closed => return Ok(None),
            StreamStage::Open(key) => key,
        };
        let Some(stream) = self.streams.get_mut(key) else { return Ok(None) };
        match stream.send.change(by) {
            _ if by == 0 => self.stream_error(key, Reason::PROTOCOL_ERROR),
            Err(Overflow) => self.stream_error(key, Reason::FLOW_CONTROL_ERROR),
            Ok(is_open) => Ok(is_open.then_some(Event::Window { key })),
        }
    }
}
