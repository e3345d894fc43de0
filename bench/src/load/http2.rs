//! The load for HTTP/2, RFC 9113, without TLS and with prior knowledge: a fixed number of streams in
//! flight on each connection. Every stream must end with a 200 and the expected body, which is
//! compared byte by byte. Requests name only entries of HPACK's static table (RFC 7541).

use std::io;
use std::net::{SocketAddr, TcpStream};

use couplet_os::read_buffer::ReadBuffer;

use super::{Clients, Waiting, connect, cut, receive_some, send_all, wrong};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's header.
const HEADER: usize = 9;
/// Longest frame that a server may send: the load announces no larger one.
const MOST_FRAME: usize = 16_384;
/// Bytes of bodies after which a connection's window is opened again.
const WINDOW_STEP: usize = 1 << 30;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// `:method GET`, `:scheme http`, `:path /`, and `:authority localhost` as a literal.
const REQUEST: &[u8] = b"\x82\x86\x84\x01\x09localhost";

/// A stream in flight: its number, and the bytes of its body so far; `None` before its head.
#[derive(Debug)]
struct Stream {
    id: u32,
    body: Option<usize>,
}

/// A received frame.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    id: u32,
    payload: &'a [u8],
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    next_id: u32,
    streams: Vec<Stream>,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// Bytes of bodies since the window was opened.
    received: usize,
    /// Frames to be sent.
    output: Vec<u8>,
}

/// Clients that ask for `/`.
#[derive(Debug)]
pub(crate) struct Http2 {
    waiting: Waiting,
    connections: Vec<Connection>,
    body: &'static [u8],
    buffer: ReadBuffer,
}

impl Http2 {
    pub(crate) fn connect(
        server: SocketAddr,
        spin: bool,
        connections: usize,
        body: &'static [u8],
    ) -> io::Result<Http2> {
        let waiting = Waiting::new(spin)?;
        let open = |slot| {
            let stream = connect(server)?;
            waiting.add(&stream, slot)?;
            Connection::begin(stream)
        };
        let connections = (0..connections).map(open).collect::<io::Result<_>>()?;
        Ok(Http2 { connections, waiting, body, buffer: ReadBuffer::new(256 << 10) })
    }
}

impl Clients for Http2 {
    fn count(&self) -> usize {
        self.connections.len()
    }

    fn send(&mut self, slot: usize, requests: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        for _ in 0..requests {
            let id = connection.next_id;
            connection.next_id += 2;
            connection.streams.push(Stream { id, body: None });
            frame(&mut connection.output, HEADERS, END_STREAM | END_HEADERS, id, REQUEST);
        }
        connection.flush()
    }

    fn receive(&mut self, slot: usize) -> io::Result<usize> {
        let connection = &mut self.connections[slot];
        let data = receive_some(&connection.stream, &mut self.buffer)?.ok_or_else(cut)?;
        let complete = connection.take(data, self.body)?;
        connection.flush()?;
        Ok(complete)
    }

    fn waiting(&self) -> &Waiting {
        &self.waiting
    }
}

impl Connection {
    fn begin(stream: TcpStream) -> io::Result<Connection> {
        let mut output = PREFACE.to_vec();
        // ENABLE_PUSH 0, INITIAL_WINDOW_SIZE 2^31 - 1
        frame(&mut output, SETTINGS, 0, 0, b"\0\x02\0\0\0\0\0\x04\x7f\xff\xff\xff");
        frame(&mut output, WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes());
        let (streams, partial) = (Vec::new(), Vec::new());
        let mut own = Connection { stream, next_id: 1, streams, partial, received: 0, output };
        own.flush()?;
        Ok(own)
    }

    fn flush(&mut self) -> io::Result<()> {
        send_all(&self.stream, &self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Checks received bytes; returns the number of streams that they end.
    fn take(&mut self, data: &[u8], body: &[u8]) -> io::Result<usize> {
        let mut kept = std::mem::take(&mut self.partial);
        kept.extend_from_slice(data);
        let mut rest = &kept[..];
        let mut complete = 0;
        while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
            let [a, b, c, kind, flags, id @ ..] = *header;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MOST_FRAME {
                return Err(wrong("a frame is too long"));
            }
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            let id = u32::from_be_bytes(id);
            complete += self.frame(Frame { kind, flags, id, payload }, body)?;
            rest = after;
        }
        self.partial = rest.to_vec();
        Ok(complete)
    }

    /// Takes a frame; returns 1 if it ends a stream.
    fn frame(&mut self, received: Frame<'_>, body: &[u8]) -> io::Result<usize> {
        let is_ack = received.flags & ACK != 0;
        match received.kind {
            HEADERS | DATA => return self.of_stream(received, body),
            SETTINGS if !is_ack => frame(&mut self.output, SETTINGS, ACK, 0, &[]),
            PING if !is_ack => frame(&mut self.output, PING, ACK, 0, received.payload),
            SETTINGS | PING | PRIORITY | WINDOW_UPDATE => {}
            RST_STREAM => return Err(wrong("a stream was reset")),
            GOAWAY => return Err(wrong("GOAWAY")),
            CONTINUATION => return Err(wrong("a head in several frames")),
            _ => {} // Extensions are ignored: section 5.5.
        }
        Ok(0)
    }

    fn of_stream(&mut self, received: Frame<'_>, body: &[u8]) -> io::Result<usize> {
        let Frame { kind, flags, id, payload } = received;
        let at = self.streams.iter().position(|stream| stream.id == id);
        let at = at.ok_or_else(|| wrong("a frame of a stream that is not open"))?;
        let stream = &mut self.streams[at];
        if flags & PADDED != 0 {
            return Err(wrong("padding"));
        }
        if kind == HEADERS {
            // After updates of the table's size, 200 is entry 8 of the static table.
            let status = payload.iter().find(|&&byte| byte & 0xe0 != 0x20);
            if stream.body.is_some() || status != Some(&0x88) {
                return Err(wrong("a status other than 200"));
            }
            stream.body = Some(0);
        } else {
            let rest = stream.body.and_then(|so_far| body.get(so_far..));
            if !rest.is_some_and(|rest| rest.starts_with(payload)) {
                return Err(wrong("a body differs"));
            }
            stream.body = stream.body.map(|so_far| so_far + payload.len());
            self.received += payload.len();
        }
        if flags & END_STREAM == 0 {
            return Ok(0);
        }
        if self.streams.swap_remove(at).body != Some(body.len()) {
            return Err(wrong("a body is too short"));
        }
        if self.received > WINDOW_STEP {
            let step = (self.received as u32).to_be_bytes();
            frame(&mut self.output, WINDOW_UPDATE, 0, 0, &step);
            self.received = 0;
        }
        Ok(1)
    }
}

/// Appends a frame.
fn frame(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    output.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    output.extend_from_slice(&[kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
    output.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pieces: &[&[u8]]) -> io::Result<usize> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let mut connection = Connection::begin(connect(listener.local_addr()?)?)?;
        for id in [1, 3] {
            connection.streams.push(Stream { id, body: None });
        }
        pieces.iter().map(|piece| connection.take(piece, b"hello")).sum()
    }

    fn answer(status: u8, body: &[u8], ids: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        for &id in ids {
            frame(&mut bytes, HEADERS, END_HEADERS, id, &[0x20, status]);
            frame(&mut bytes, DATA, END_STREAM, id, body);
        }
        bytes
    }

    #[test]
    fn answers_are_counted_however_they_are_cut() {
        let both = answer(0x88, b"hello", &[3, 1]);
        for cut in 0..both.len() {
            assert_eq!(take(&[&both[..cut], &both[cut..]]).expect("valid"), 2, "{cut}");
        }
    }

    #[test]
    fn another_body_status_or_stream_is_an_error() {
        assert!(take(&[&answer(0x88, b"hallo", &[1])]).is_err());
        assert!(take(&[&answer(0x88, b"hell", &[1])]).is_err());
        assert!(take(&[&answer(0x88, b"hello!", &[1])]).is_err());
        assert!(take(&[&answer(0x8d, b"hello", &[1])]).is_err());
        assert!(take(&[&answer(0x88, b"hello", &[5])]).is_err());
        assert!(take(&[&answer(0x88, b"hello", &[1, 1])]).is_err());
    }
}
