//! The peer's bytes: the preface and all frames but field blocks. RFC 9113, 3.4 and 6.

use super::streams::{Closing, Inbound, NumberStage, Outbound, Role};
use super::{Beginning, Connection, FAREWELL, GoawayPhase, calm, failed, protocol_error};
use crate::frame::{self, HEAD, Head, PREFACE, flag, kind, setting};
use crate::window::{INITIAL_WINDOW, MAX_WINDOW, Overflow};
use crate::{Code, Error, Event};

impl Connection {
    pub(super) fn receive_all(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut rest = self.receive_preface(data)?;
        if !self.partial.is_empty() {
            rest = self.complete_partial(rest)?;
        }
        while let Some((head, after)) = rest.split_first_chunk() {
            let head = self.check_head(head)?;
            let Some((payload, after)) = after.split_at_checked(head.length) else { break };
            self.receive_frame(&head, payload)?;
            rest = after;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Returns the bytes behind the preface.
    fn receive_preface<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], Error> {
        let Beginning::Preface(received) = self.beginning else { return Ok(data) };
        let expected = PREFACE.get(received..).unwrap_or_default();
        let length = expected.len().min(data.len());
        let (part, rest) = data.split_at_checked(length).unwrap_or_default();
        if !expected.starts_with(part) {
            return protocol_error("no preface of HTTP/2");
        }
        self.beginning = match length == expected.len() {
            true => Beginning::Settings,
            false => Beginning::Preface(received + length),
        };
        Ok(rest)
    }

    /// Adds bytes to the incomplete frame, as many as it lacks, and returns the others.
    fn complete_partial<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], Error> {
        let mut rest = self.fill_partial(HEAD, data);
        let Some(head) = self.partial.first_chunk().copied() else { return Ok(rest) };
        let head = self.check_head(&head)?;
        rest = self.fill_partial(HEAD + head.length, rest);
        if self.partial.len() == HEAD + head.length {
            let frame = std::mem::take(&mut self.partial);
            self.receive_frame(&head, frame.get(HEAD..).unwrap_or_default())?;
        }
        Ok(rest)
    }

    fn fill_partial<'a>(&mut self, length: usize, data: &'a [u8]) -> &'a [u8] {
        let missing = length.saturating_sub(self.partial.len()).min(data.len());
        let (part, rest) = data.split_at_checked(missing).unwrap_or_default();
        self.partial.extend_from_slice(part);
        rest
    }

    /// Checks the head, before the payload is kept.
    fn check_head(&self, head: &[u8; HEAD]) -> Result<Head, Error> {
        let head = Head::parse(head);
        if head.length > self.options.max_frame as usize {
            return failed(Code::FRAME_SIZE_ERROR, "a frame longer than SETTINGS_MAX_FRAME_SIZE");
        }
        let is_settings = head.kind == kind::SETTINGS && !head.has(flag::ACK);
        if self.beginning == Beginning::Settings && !is_settings {
            return protocol_error("the first frame is not SETTINGS");
        }
        match &self.block {
            Some(block) if head.kind != kind::CONTINUATION || head.stream != block.stream => {
                protocol_error("another frame within a field block")
            }
            None if head.kind == kind::CONTINUATION => {
                protocol_error("CONTINUATION without a field block")
            }
            _ => Ok(head),
        }
    }

    #[inline]
    fn receive_frame(&mut self, head: &Head, payload: &[u8]) -> Result<(), Error> {
        let needs_stream = matches!(
            head.kind,
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::PUSH_PROMISE
        );
        let needs_none = matches!(head.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        if (needs_stream && head.stream == 0) || (needs_none && head.stream != 0) {
            return protocol_error("a frame on the wrong stream");
        }
        match head.kind {
            kind::DATA => self.receive_data(head, payload),
            kind::HEADERS => self.receive_headers(head, payload),
            kind::PRIORITY => self.receive_priority(head, payload),
            kind::RST_STREAM => self.receive_reset(head, payload),
            kind::SETTINGS => self.receive_settings(head, payload),
            // A server's is not permitted by our settings: RFC 9113, 6.6.
            kind::PUSH_PROMISE => protocol_error("PUSH_PROMISE that is not permitted"),
            kind::PING => self.receive_ping(head, payload),
            kind::GOAWAY => self.receive_go_away(payload),
            kind::WINDOW_UPDATE => self.receive_window_update(head, payload),
            kind::CONTINUATION => self.receive_continuation(head, payload),
            // RFC 9113, 5.5.
            _ => self.count_idle(),
        }
    }

    /// Counts a frame without effect.
    pub(super) fn count_idle(&mut self) -> Result<(), Error> {
        self.idle_frames += 1;
        if self.idle_frames > self.options.max_idle_frames {
            return calm("too many frames without effect");
        }
        Ok(())
    }

    fn receive_data(&mut self, head: &Head, payload: &[u8]) -> Result<(), Error> {
        let body = frame::strip_padding(head, payload)?;
        let ends = head.has(flag::END_STREAM);
        if self.receive.spend(payload.len()).is_err() {
            return failed(Code::FLOW_CONTROL_ERROR, "more DATA than the connection's window");
        }
        if body.is_empty() && !ends {
            self.count_idle()?;
        } else {
            self.idle_frames = 0;
        }
        let received = match self.streams.stage(head.stream) {
            NumberStage::Open(stream) => {
                stream.receive_body(payload.len(), body.len(), ends).map(Some)
            }
            NumberStage::Ignored => Ok(None),
            NumberStage::Idle => return protocol_error("DATA on an idle stream"),
            NumberStage::Ended | NumberStage::Unknown => {
                return failed(Code::STREAM_CLOSED, "DATA on a closed stream");
            }
        };
        match received {
            Ok(Some(())) => {
                let padding = payload.len() - body.len();
                self.consume_connection(padding);
                if !ends {
                    self.consume_stream(head.stream, padding);
                }
                self.deliver(head.stream, body, ends);
                Ok(())
            }
            Ok(None) => {
                self.consume_connection(payload.len());
                Ok(())
            }
            Err(code) => {
                self.consume_connection(payload.len());
                self.fail_stream(head.stream, code)
            }
        }
    }

    /// Queues the events of DATA.
    fn deliver(&mut self, id: u32, body: &[u8], ends: bool) {
        match &mut self.collected {
            _ if body.is_empty() => {}
            Some((stream, bytes)) if *stream == id => bytes.extend_from_slice(body),
            _ => {
                self.flush_collected();
                self.collected = Some((id, body.to_vec()));
            }
        }
        if ends {
            self.end_inbound(id);
        }
    }

    /// Queues the end of a body.
    pub(super) fn end_inbound(&mut self, id: u32) {
        self.push_event(Event::End { stream: id });
        self.close_inbound(id);
    }

    /// The peer's side of a stream has ended.
    pub(super) fn close_inbound(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.inbound = Inbound::Ended;
        if stream.outbound == Outbound::Ended {
            self.complete(id);
        }
    }

    /// PRIORITY has no effect: RFC 9113, 5.3.2.
    fn receive_priority(&mut self, head: &Head, payload: &[u8]) -> Result<(), Error> {
        self.count_idle()?;
        if payload.len() == 5 {
            return Ok(());
        }
        match self.streams.stage(head.stream) {
            NumberStage::Open(_) => self.fail_stream(head.stream, Code::FRAME_SIZE_ERROR),
            _ => failed(Code::FRAME_SIZE_ERROR, "PRIORITY of a wrong length"),
        }
    }

    fn receive_reset(&mut self, head: &Head, payload: &[u8]) -> Result<(), Error> {
        let code = Code(u32::from_be_bytes(frame::fixed(payload)?));
        let is_rapid = match self.streams.stage(head.stream) {
            NumberStage::Open(stream) => stream.outbound == Outbound::Awaited,
            NumberStage::Idle => {
                return protocol_error("RST_STREAM on an idle stream");
            }
            _ => return self.count_idle(),
        };
        self.close(head.stream, Closing::Ended);
        self.push_event(Event::Reset { stream: head.stream, code });
        if is_rapid { self.count_reset() } else { Ok(()) }
    }

    fn receive_settings(&mut self, head: &Head, payload: &[u8]) -> Result<(), Error> {
        if head.has(flag::ACK) {
            let [] = frame::fixed(payload)?;
            return self.receive_acknowledgement();
        }
        let (settings, rest) = payload.as_chunks::<6>();
        let [] = frame::fixed(rest)?;
        if self.beginning == Beginning::Settings {
            // Without a setting, there is no limit: RFC 9113, 6.5.2.
            self.peer_streams = u32::MAX;
        }
        let mut window = self.peer_window;
        // Only a client may permit pushes.
        let max_push = u32::from(self.streams.role == Role::Server);
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
                setting::ENABLE_PUSH if value > max_push => {
                    return protocol_error("SETTINGS_ENABLE_PUSH is out of range");
                }
                setting::MAX_CONCURRENT_STREAMS => self.peer_streams = value,
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => {
                    let why = "SETTINGS_INITIAL_WINDOW_SIZE exceeds 2^31-1";
                    return failed(Code::FLOW_CONTROL_ERROR, why);
                }
                setting::INITIAL_WINDOW_SIZE => window = value.into(),
                // Our frames are never longer than the minimum.
                setting::MAX_FRAME_SIZE if !(16_384..=0xff_ffff).contains(&value) => {
                    return protocol_error("SETTINGS_MAX_FRAME_SIZE is out of range");
                }
                _ => {}
            }
        }
        self.change_windows(window)?;
        if self.beginning == Beginning::Settings {
            self.beginning = Beginning::Unacknowledged;
        }
        self.write_control(kind::SETTINGS, flag::ACK, 0, &[])
    }

    /// Applies the peer's initial window to all streams: RFC 9113, 6.9.2.
    fn change_windows(&mut self, window: i64) -> Result<(), Error> {
        let by = window - std::mem::replace(&mut self.peer_window, window);
        if by == 0 {
            return Ok(());
        }
        for stream in self.streams.iter_mut() {
            if let Err(Overflow) = stream.send.change(by) {
                return failed(Code::FLOW_CONTROL_ERROR, "a setting widens a window beyond 2^31-1");
            }
            stream.queue_turn(&mut self.turns);
        }
        Ok(())
    }

    /// The peer knows our settings: its windows and its table have our sizes from now on.
    fn receive_acknowledgement(&mut self) -> Result<(), Error> {
        if self.beginning != Beginning::Unacknowledged {
            return self.count_idle();
        }
        self.beginning = Beginning::Complete;
        self.decoder.shrink(self.options.max_table as usize);
        let by = i64::from(self.shares.first()) - INITIAL_WINDOW;
        for id in self.streams.beyond(0) {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.receive.change(by);
            }
            // Released bytes may be half of a smaller window.
            self.consume_stream(id, 0);
        }
        Ok(())
    }

    fn receive_ping(&mut self, head: &Head, payload: &[u8]) -> Result<(), Error> {
        let payload: [u8; 8] = frame::fixed(payload)?;
        if !head.has(flag::ACK) {
            return self.write_control(kind::PING, flag::ACK, 0, &payload);
        }
        if payload == FAREWELL && std::mem::take(&mut self.awaits_farewell) {
            // Unless the last GOAWAY was sent before the answer.
            if self.phase == GoawayPhase::Announced {
                self.go_away(Code::NO_ERROR, "");
            }
        } else if let Some(left) = self.pings.checked_sub(1) {
            self.pings = left;
            self.push_event(Event::Pong { payload });
        } else {
            self.count_idle()?;
        }
        Ok(())
    }

    fn receive_go_away(&mut self, payload: &[u8]) -> Result<(), Error> {
        let Some((last, [a, b, c, d, ..])) = payload.split_first_chunk::<4>() else {
            return failed(Code::FRAME_SIZE_ERROR, "GOAWAY without its code");
        };
        let code = Code(u32::from_be_bytes([*a, *b, *c, *d]));
        let refused = match self.streams.role {
            Role::Server => Vec::new(),
            Role::Client => self.streams.beyond(frame::number(*last)),
        };
        if self.peer_left.replace(code) == Some(code) && refused.is_empty() {
            return self.count_idle();
        }
        for stream in refused {
            self.close(stream, Closing::Reset);
            self.push_event(Event::Reset { stream, code: Code::REFUSED_STREAM });
        }
        self.push_event(Event::GoneAway { code });
        Ok(())
    }

    fn receive_window_update(&mut self, head: &Head, payload: &[u8]) -> Result<(), Error> {
        let increment = frame::number(frame::fixed(payload)?);
        if head.stream == 0 {
            if increment == 0 {
                return protocol_error("WINDOW_UPDATE by zero");
            }
            return match self.send.change(increment.into()) {
                Ok(_) => Ok(()),
                Err(Overflow) => failed(Code::FLOW_CONTROL_ERROR, "a window beyond 2^31-1"),
            };
        }
        let fault = match self.streams.stage(head.stream) {
            NumberStage::Idle => {
                return protocol_error("WINDOW_UPDATE on an idle stream");
            }
            NumberStage::Open(_) if increment == 0 => Code::PROTOCOL_ERROR,
            NumberStage::Open(stream) => {
                if stream.send.change(increment.into()).is_ok() {
                    stream.queue_turn(&mut self.turns);
                    return Ok(());
                }
                Code::FLOW_CONTROL_ERROR
            }
            _ => return self.count_idle(),
        };
        self.fail_stream(head.stream, fault)
    }
}
