//! The load for HTTP/1.1, RFC 9112: connections that stay, with one request or several in flight.
//! Every head must be a 200 with the expected length; every byte of a body is compared.

use std::io;
use std::net::{SocketAddr, TcpStream};

use couplet_os::read_buffer::ReadBuffer;
use memchr::memmem;

use super::{Clients, Waiting, connect, cut, receive_some, send_all, wrong};

/// Longest head that the load accepts.
const MOST_HEAD: usize = 8192;

/// Progress in the answers of a connection.
#[derive(Debug)]
enum Answer {
    /// The bytes of a head so far.
    Head(Vec<u8>),
    /// Bytes of a body so far.
    Body(usize),
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    answer: Answer,
}

/// Clients that ask for one resource.
#[derive(Debug)]
pub(crate) struct Http1 {
    waiting: Waiting,
    connections: Vec<Connection>,
    /// As many requests as are in flight on a connection.
    requests: Vec<u8>,
    request: usize,
    expected: Expected,
    buffer: ReadBuffer,
}

#[derive(Debug)]
struct Expected {
    body: Vec<u8>,
    /// The last valid head: the next one is the same unless the date has changed.
    head: Vec<u8>,
}

impl Http1 {
    /// Clients that ask for `path` with `depth` requests in flight at most; the answers must have
    /// that body.
    pub(crate) fn connect(
        server: SocketAddr,
        spin: bool,
        (connections, depth): (usize, usize),
        path: &str,
        body: Vec<u8>,
    ) -> io::Result<Http1> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n");
        let waiting = Waiting::new(spin)?;
        let open = |slot| {
            let stream = connect(server)?;
            waiting.add(&stream, slot)?;
            Ok(Connection { stream, answer: Answer::Head(Vec::new()) })
        };
        Ok(Http1 {
            connections: (0..connections).map(open).collect::<io::Result<_>>()?,
            waiting,
            requests: request.repeat(depth).into_bytes(),
            request: request.len(),
            expected: Expected { body, head: Vec::new() },
            buffer: ReadBuffer::new(256 << 10),
        })
    }
}

impl Clients for Http1 {
    fn count(&self) -> usize {
        self.connections.len()
    }

    fn send(&mut self, slot: usize, requests: usize) -> io::Result<()> {
        send_all(&self.connections[slot].stream, &self.requests[..requests * self.request])
    }

    fn receive(&mut self, slot: usize) -> io::Result<usize> {
        let Connection { stream, answer } = &mut self.connections[slot];
        let data = receive_some(stream, &mut self.buffer)?.ok_or_else(cut)?;
        answer.take(data, &mut self.expected)
    }

    fn waiting(&self) -> &Waiting {
        &self.waiting
    }
}

impl Answer {
    /// Checks received bytes; returns the number of answers that they complete.
    fn take(&mut self, mut data: &[u8], expected: &mut Expected) -> io::Result<usize> {
        let mut complete = 0;
        while !data.is_empty() {
            match self {
                Answer::Head(head) => match expected.end_of_head(head, data)? {
                    None => return Ok(complete),
                    Some(used) => {
                        data = &data[used..];
                        *self = Answer::Body(0);
                    }
                },
                Answer::Body(at) => {
                    let length = data.len().min(expected.body.len() - *at);
                    if data[..length] != expected.body[*at..*at + length] {
                        return Err(wrong("a body differs"));
                    }
                    *at += length;
                    data = &data[length..];
                    if *at == expected.body.len() {
                        complete += 1;
                        *self = Answer::Head(Vec::new());
                    }
                }
            }
        }
        Ok(complete)
    }
}

impl Expected {
    /// The number of bytes of `data` up to the end of a head that begins with `head`; keeps `data`
    /// in `head` if the head is not complete.
    fn end_of_head(&mut self, head: &mut Vec<u8>, data: &[u8]) -> io::Result<Option<usize>> {
        if head.is_empty() && data.starts_with(&self.head) && !self.head.is_empty() {
            return Ok(Some(self.head.len()));
        }
        let before = head.len();
        head.extend_from_slice(&data[..data.len().min(MOST_HEAD)]);
        let Some(end) = memmem::find(head, b"\r\n\r\n") else {
            return if head.len() < MOST_HEAD {
                Ok(None)
            } else {
                Err(wrong("a head is too long"))
            };
        };
        head.truncate(end + 4);
        self.check(&String::from_utf8_lossy(head).to_ascii_lowercase())?;
        self.head.clone_from(head);
        Ok(Some(end + 4 - before))
    }

    fn check(&self, head: &str) -> io::Result<()> {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|length| length.trim().parse().ok());
        match () {
            () if !head.starts_with("http/1.1 200 ") => {
                Err(wrong(head.lines().next().unwrap_or("an empty head")))
            }
            () if length != Some(self.body.len()) => Err(wrong("a length differs, or is missing")),
            () => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

    fn take(pieces: &[&str]) -> io::Result<usize> {
        let mut expected = Expected { body: b"hello".to_vec(), head: Vec::new() };
        let mut answer = Answer::Head(Vec::new());
        let each = pieces.iter().map(|piece| answer.take(piece.as_bytes(), &mut expected));
        each.sum()
    }

    #[test]
    fn answers_are_counted_however_they_are_cut() {
        let both = ANSWER.repeat(2);
        for cut in 0..both.len() {
            assert_eq!(take(&[&both[..cut], &both[cut..]]).expect("valid"), 2, "{cut}");
        }
    }

    #[test]
    fn another_body_length_or_status_is_an_error() {
        for (from, to) in [("hello", "hallo"), (": 5", ": 6"), ("200", "404"), ("Content", "X")] {
            assert!(take(&[&ANSWER.replace(from, to)]).is_err(), "{to}");
        }
    }
}
