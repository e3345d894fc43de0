//! Reading, shared by [`Stream`] and [`ReadHalf`].

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BufMut;

use super::shared::{Decision, SharedStream};
use super::{ReadHalf, Stream};

/// The maximum line length of [`Stream::read_line`], in bytes.
pub const LONGEST_LINE: usize = 64 * 1024;

impl SharedStream {
    pub(super) fn poll_read_into(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        put: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<usize>> {
        self.poll_decision(cx, |arrived, ended| {
            let n = arrived.len().min(room);
            if n == 0 && room > 0 && !ended {
                return Ok(Decision::More);
            }
            put(&arrived[..n]);
            Ok(Decision::Taken(n, n))
        })
    }

    #[inline(never)]
    pub(super) fn poll_read_slow(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_into(cx, buffer.len(), |data| buffer[..data.len()].copy_from_slice(data))
    }

    #[inline]
    fn read(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
        poll_fn(move |cx| self.poll_read(cx, buffer))
    }

    async fn read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        let room = buffer.remaining_mut();
        poll_fn(|cx| self.poll_read_into(cx, room, |data| buffer.put_slice(data))).await
    }

    async fn read_exact(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer).await? {
                0 => return Err(cut("cannot fill the buffer: the stream has ended")),
                n => buffer = &mut buffer[n..],
            }
        }
        Ok(())
    }

    async fn read_to_end(&self, bytes: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
        let before = bytes.len();
        loop {
            let room = limit.saturating_sub(bytes.len() - before);
            let most = room.saturating_add(1);
            let n = poll_fn(|cx| self.poll_read_into(cx, most, |data| bytes.extend(data))).await?;
            match n {
                0 => return Ok(bytes.len() - before),
                n if n > room => return Err(too_long("stream", limit)),
                _ => {}
            }
        }
    }

    async fn read_until(&self, delimiter: u8, limit: usize) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        poll_fn(|cx| self.poll_until(cx, delimiter, limit, &mut searched)).await
    }

    /// `searched` is the number of bytes already searched, so that another poll searches only the
    /// new ones.
    fn poll_until(
        &self,
        cx: &mut Context<'_>,
        delimiter: u8,
        limit: usize,
        searched: &mut usize,
    ) -> Poll<io::Result<Vec<u8>>> {
        self.poll_decision(cx, |arrived, ended| {
            let unseen = &arrived[*searched..];
            let end = memchr::memchr(delimiter, unseen).map(|at| *searched + at + 1);
            let length = end.or_else(|| ended.then_some(arrived.len()));
            if length.unwrap_or(arrived.len()) > limit {
                return Err(too_long("line", limit));
            }
            *searched = if length.is_some() { 0 } else { arrived.len() };
            Ok(match length {
                Some(n) => Decision::Taken(n, arrived[..n].to_vec()),
                None => Decision::More,
            })
        })
    }

    fn poll_line(
        &self,
        cx: &mut Context<'_>,
        searched: &mut usize,
    ) -> Poll<io::Result<Option<Vec<u8>>>> {
        let mut line = ready!(self.poll_until(cx, b'\n', LONGEST_LINE + 2, searched))?;
        if line.is_empty() {
            return Poll::Ready(Ok(None));
        }
        if line.pop_if(|last| *last == b'\n').is_some() {
            line.pop_if(|last| *last == b'\r');
        }
        let fits = line.len() <= LONGEST_LINE;
        Poll::Ready(if fits { Ok(Some(line)) } else { Err(too_long("line", LONGEST_LINE)) })
    }

    fn lines(&self) -> Lines<'_> {
        Lines { shared: self, searched: 0 }
    }
}

/// The lines of a stream; see [`Stream::lines`]. Also a `Stream` of `futures-core`.
#[must_use = "nothing is read until `next` is called"]
pub struct Lines<'a> {
    shared: &'a SharedStream,
    searched: usize,
}

impl Lines<'_> {
    /// The next line, as from [`Stream::read_line`].
    ///
    /// Cancel-safe: the bytes stay in the stream until the line is complete.
    ///
    /// # Errors
    ///
    /// Like [`Stream::read_line`].
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        poll_fn(|cx| self.shared.poll_line(cx, &mut self.searched)).await
    }
}

impl futures_core::Stream for Lines<'_> {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Vec<u8>>>> {
        let Lines { shared, searched } = &mut *self;
        shared.poll_line(cx, searched).map(Result::transpose)
    }
}

impl fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("peer", self.shared.transport.peer()).finish_non_exhaustive()
    }
}

fn cut(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

fn too_long(what: &str, limit: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("cannot read a {what} of more than {limit} bytes"),
    )
}

impl Stream {
    /// Reads the bytes that have arrived, up to the size of the buffer; waits until some arrive.
    /// Returns 0 at the end of the stream, or for an empty buffer.
    ///
    /// Cancel-safe: dropping the future loses no bytes.
    ///
    /// # Errors
    ///
    /// If the connection was lost, once all bytes that arrived were read.
    #[inline]
    pub fn read(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
        self.shared().read(buffer)
    }

    /// Like [`read`](Self::read), into the spare capacity of a buffer such as a `BytesMut`.
    ///
    /// Cancel-safe: dropping the future loses no bytes.
    ///
    /// # Errors
    ///
    /// Like [`read`](Self::read).
    pub async fn read_buf(&mut self, buffer: &mut impl BufMut) -> io::Result<usize> {
        self.shared().read_buf(buffer).await
    }

    /// Fills the buffer.
    ///
    /// Not cancel-safe: a dropped future may have read a part, which is in the buffer.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the stream ends first; otherwise like
    /// [`read`](Self::read).
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.shared().read_exact(buffer).await
    }

    /// Appends all bytes up to the end of the stream, and returns their number.
    ///
    /// Cancel-safe: bytes already read are in the vector.
    ///
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) if more than `limit` bytes arrive; otherwise
    /// like [`read`](Self::read).
    pub async fn read_to_end(&mut self, bytes: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
        self.shared().read_to_end(bytes, limit).await
    }

    /// Reads up to and including the delimiter. At the end of the stream it returns the remaining
    /// bytes, without a delimiter, and then an empty vector.
    ///
    /// Cancel-safe: the bytes stay in the stream until the delimiter has arrived.
    ///
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) if more than `limit` bytes would be returned;
    /// they stay unread. Otherwise like [`read`](Self::read).
    pub async fn read_until(&mut self, delimiter: u8, limit: usize) -> io::Result<Vec<u8>> {
        self.shared().read_until(delimiter, limit).await
    }

    /// Reads a line of at most [`LONGEST_LINE`] bytes, without its end, `\n` or `\r\n`. Returns
    /// `None` at the end of the stream; an unterminated last line counts as a line.
    ///
    /// Cancel-safe: the bytes stay in the stream until the line is complete.
    ///
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) if the line is longer; otherwise like
    /// [`read`](Self::read).
    pub async fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.lines().next().await
    }

    /// The remaining lines.
    ///
    /// ```
    /// use couplet::Stream;
    ///
    /// async fn greet(mut stream: Stream) -> couplet::Result<()> {
    ///     let mut greetings = Vec::new();
    ///     let mut lines = stream.lines();
    ///     while let Some(name) = lines.next().await? {
    ///         greetings.extend([b"hello, ", &name[..], b"\n"].concat());
    ///     }
    ///     Ok(stream.write_all(greetings).await?)
    /// }
    /// ```
    pub fn lines(&mut self) -> Lines<'_> {
        self.shared().lines()
    }
}

impl ReadHalf {
    /// See [`Stream::read`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::read`].
    #[inline]
    pub fn read(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
        self.shared().read(buffer)
    }

    /// See [`Stream::read_buf`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::read_buf`].
    pub async fn read_buf(&mut self, buffer: &mut impl BufMut) -> io::Result<usize> {
        self.shared().read_buf(buffer).await
    }

    /// See [`Stream::read_exact`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::read_exact`].
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.shared().read_exact(buffer).await
    }

    /// See [`Stream::read_to_end`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::read_to_end`].
    pub async fn read_to_end(&mut self, bytes: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
        self.shared().read_to_end(bytes, limit).await
    }

    /// See [`Stream::read_until`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::read_until`].
    pub async fn read_until(&mut self, delimiter: u8, limit: usize) -> io::Result<Vec<u8>> {
        self.shared().read_until(delimiter, limit).await
    }

    /// See [`Stream::read_line`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::read_line`].
    pub async fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.lines().next().await
    }

    /// See [`Stream::lines`].
    pub fn lines(&mut self) -> Lines<'_> {
        self.shared().lines()
    }
}
