//! Field blocks: HEADERS and CONTINUATION. RFC 9113, 4.3, 6.2 and 6.10.

use super::send::Pseudo;
use super::streams::{Closing, Inbound, Method, NumberStage, Outbound, Role, Stream};
use super::{Connection, calm, failed, protocol_error};
use crate::frame::{self, Head, flag, kind};
use crate::head::Fault;
use crate::window::Overflow;
use crate::{Code, Error, Event};

/// A block without its end.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    ends: bool,
    bytes: Vec<u8>,
}

impl Block {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl Connection {
    pub(super) fn receive_headers(&mut self, head: &Head, payload: &[u8]) -> Result<(), Error> {
        let mut fragment = frame::strip_padding(head, payload)?;
        if head.has(flag::PRIORITY) {
            let behind = fragment.split_at_checked(5);
            fragment = behind
                .map(|(_, fragment)| fragment)
                .ok_or(Error::new(Code::FRAME_SIZE_ERROR, "HEADERS without their priority"))?;
        }
        if head.stream.is_multiple_of(2) {
            return protocol_error("HEADERS on a stream with an even number");
        }
        let ends = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.receive_block(head.stream, ends, fragment);
        }
        self.block = Some(Block { stream: head.stream, ends, bytes: fragment.to_vec() });
        if fragment.is_empty() { self.count_idle() } else { Ok(()) }
    }

    pub(super) fn receive_continuation(
        &mut self,
        head: &Head,
        fragment: &[u8],
    ) -> Result<(), Error> {
        let Some(mut block) = self.block.take() else {
            return protocol_error("CONTINUATION without a field block");
        };
        block.bytes.extend_from_slice(fragment);
        if block.bytes.len() / 2 > self.options.max_head as usize {
            return calm("a field block without an end");
        }
        if head.has(flag::END_HEADERS) {
            return self.receive_block(block.stream, block.ends, &block.bytes);
        }
        self.block = Some(block);
        if fragment.is_empty() { self.count_idle() } else { Ok(()) }
    }

    /// Every block is decoded, as it changes the table: RFC 9113, 4.3.
    fn receive_block(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Error> {
        self.builder.clear();
        if self.decoder.decode(block, &mut self.builder).is_err() {
            return failed(Code::COMPRESSION_ERROR, "a field block that is not HPACK");
        }
        if self.builder.is_abusive() {
            return calm("a list of fields far beyond the maximum");
        }
        match self.streams.stage(id) {
            NumberStage::Idle => match self.streams.role {
                Role::Server => self.receive_request(id, ends),
                Role::Client => protocol_error("HEADERS on an idle stream"),
            },
            NumberStage::Open(stream) => match stream.inbound {
                Inbound::Awaited(method) => self.receive_response(id, method, ends),
                Inbound::Open(_) => self.receive_trailers(id, ends),
                Inbound::Ended => self.fail_stream(id, Code::STREAM_CLOSED),
            },
            NumberStage::Ignored => Ok(()),
            NumberStage::Ended => failed(Code::STREAM_CLOSED, "HEADERS on a closed stream"),
            NumberStage::Unknown => protocol_error("a stream's number below an earlier one"),
        }
    }

    fn receive_request(&mut self, id: u32, ends: bool) -> Result<(), Error> {
        self.idle_frames = 0;
        self.streams.set_last(id);
        if self.streams.len() >= self.options.max_streams as usize {
            return self.fail_stream(id, Code::REFUSED_STREAM);
        }
        let head = match self.builder.request(self.options.connect_protocol) {
            Ok(head) => head,
            Err(Fault::TooLarge) => return self.refuse_large(id, ends),
            Err(Fault::Malformed) => return self.fail_stream(id, Code::PROTOCOL_ERROR),
        };
        let length = head.content_length();
        if ends && length.is_some_and(|length| length > 0) {
            return self.fail_stream(id, Code::PROTOCOL_ERROR);
        }
        let inbound = if ends { Inbound::Ended } else { Inbound::Open(length) };
        self.open_stream(id, inbound, Outbound::Awaited);
        self.push_event(Event::Request { stream: id, head, ends });
        Ok(())
    }

    /// Receives an informational or a final head: RFC 9113, 8.1 and 8.1.1.
    fn receive_response(&mut self, id: u32, method: Method, ends: bool) -> Result<(), Error> {
        let (status, fields, length) = match self.builder.response() {
            Ok(parts) => parts,
            Err(Fault::TooLarge) => return self.fail_stream(id, Code::ENHANCE_YOUR_CALM),
            Err(Fault::Malformed) => return self.fail_stream(id, Code::PROTOCOL_ERROR),
        };
        if status < 200 {
            self.count_idle()?;
            // RFC 9113, 8.6: there is no upgrade.
            if ends || status == 101 {
                return self.fail_stream(id, Code::PROTOCOL_ERROR);
            }
            self.push_event(Event::Informational { stream: id, status, fields });
            return Ok(());
        }
        self.idle_frames = 0;
        let left = match (method, status) {
            (Method::Head, _) | (_, 204 | 304) => Some(0),
            _ => length,
        };
        if ends && left.is_some_and(|left| left > 0) {
            return self.fail_stream(id, Code::PROTOCOL_ERROR);
        }
        if let Some(stream) = self.streams.get_mut(id) {
            stream.inbound = Inbound::Open(left);
        }
        let length = if ends { Some(0) } else { left };
        self.push_event(Event::Response { stream: id, status, fields, length, ends });
        if ends {
            self.close_inbound(id);
        }
        Ok(())
    }

    /// Answers a request with too many fields: RFC 9113, 10.5.1, and RFC 6585, 5.
    fn refuse_large(&mut self, id: u32, ends: bool) -> Result<(), Error> {
        let before = self.output.len();
        let no_fields: [(&[u8], &[u8]); 0] = [];
        if self.write_block(id, Pseudo::Status(431), no_fields, true).is_ok() {
            self.count_control(self.output.len() - before)?;
        }
        self.close(id, Closing::Reset);
        if !ends {
            self.write_control(kind::RST_STREAM, 0, id, &Code::NO_ERROR.0.to_be_bytes())?;
        }
        Ok(())
    }

    fn receive_trailers(&mut self, id: u32, ends: bool) -> Result<(), Error> {
        let is_short = self.streams.get(id).is_some_and(|stream| stream.lacks_bytes());
        if !ends || is_short {
            return self.fail_stream(id, Code::PROTOCOL_ERROR);
        }
        match self.builder.trailers() {
            Ok(fields) => {
                self.push_event(Event::Trailers { stream: id, fields });
                self.end_inbound(id);
                Ok(())
            }
            Err(Fault::TooLarge) => self.fail_stream(id, Code::ENHANCE_YOUR_CALM),
            Err(Fault::Malformed) => self.fail_stream(id, Code::PROTOCOL_ERROR),
        }
    }
}

impl Stream {
    /// Whether the body is shorter than its Content-Length.
    fn lacks_bytes(&self) -> bool {
        matches!(self.inbound, Inbound::Open(Some(left)) if left > 0)
    }

    /// Counts a frame of the body, whose length without padding is `body`.
    ///
    /// # Errors
    ///
    /// The code with which the stream is reset.
    pub(super) fn receive_body(
        &mut self,
        received: usize,
        body: usize,
        ends: bool,
    ) -> Result<(), Code> {
        let left = match &mut self.inbound {
            Inbound::Awaited(_) => return Err(Code::PROTOCOL_ERROR),
            Inbound::Open(left) => left,
            Inbound::Ended => return Err(Code::STREAM_CLOSED),
        };
        self.receive.spend(received).map_err(|Overflow| Code::FLOW_CONTROL_ERROR)?;
        if let Some(left) = left {
            *left = left.checked_sub(body as u64).ok_or(Code::PROTOCOL_ERROR)?;
        }
        if ends && self.lacks_bytes() {
            return Err(Code::PROTOCOL_ERROR);
        }
        Ok(())
    }
}
