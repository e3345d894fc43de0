//! Writing and closing, shared by [`Stream`] and [`WriteHalf`].
//!
//! Contract: 84.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::shared::SharedStream;
use super::{Stream, WriteHalf};
#[cfg(any(feature = "tls", feature = "ring"))]
use crate::layers::StartLayerError;

impl SharedStream {
    #[inline]
    fn write_all(&self, data: impl AsRef<[u8]>) -> impl Future<Output = io::Result<()>> {
        let mut written = 0;
        poll_fn(move |cx| {
            let data = data.as_ref();
            match written == 0 && self.write_at_once(data) {
                true => Poll::Ready(Ok(())),
                false => self.poll_write_all(cx, data, &mut written),
            }
        })
    }

    #[inline(never)]
    fn poll_write_all(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
        written: &mut usize,
    ) -> Poll<io::Result<()>> {
        while *written < data.len() {
            *written += ready!(self.poll_write(cx, &data[*written..]))?;
        }
        Poll::Ready(Ok(()))
    }

    async fn write_bytes(&self, bytes: Bytes) -> io::Result<()> {
        poll_fn(|cx| self.poll_room(cx)).await?;
        self.transport.write_bytes(bytes);
        Ok(())
    }
}

impl Stream {
    /// Writes all of `data`, in pieces; each waits while more than the high mark is buffered.
    /// Buffered bytes are sent by the end of the turn.
    ///
    /// Not cancel-safe: a dropped future may have written a part.
    ///
    /// # Errors
    ///
    /// If the connection was lost, or our side of the stream was ended.
    #[inline]
    pub fn write_all(&mut self, data: impl AsRef<[u8]>) -> impl Future<Output = io::Result<()>> {
        self.shared().write_all(data)
    }

    /// Writes a buffer without copying it, once at most the high mark is buffered.
    ///
    /// Cancel-safe: dropping the future before it is ready writes nothing.
    ///
    /// # Errors
    ///
    /// Like [`write_all`](Self::write_all).
    pub async fn write_bytes(&mut self, bytes: impl Into<Bytes>) -> io::Result<()> {
        self.shared().write_bytes(bytes.into()).await
    }

    /// Waits until all output was handed to the system.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the connection is lost first.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared().poll_flush(cx)).await
    }

    /// Ends our side of the stream, and waits until all output and the FIN (over TLS, the
    /// close_notify) have been sent. Reading continues.
    ///
    /// Cancel-safe: once polled, our side ends even if the future is dropped.
    ///
    /// # Errors
    ///
    /// If the connection is lost first.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared().poll_shutdown(cx)).await
    }
}

impl WriteHalf {
    /// See [`Stream::write_all`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::write_all`].
    #[inline]
    pub fn write_all(&mut self, data: impl AsRef<[u8]>) -> impl Future<Output = io::Result<()>> {
        self.shared().write_all(data)
    }

    /// See [`Stream::write_bytes`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::write_bytes`].
    pub async fn write_bytes(&mut self, bytes: impl Into<Bytes>) -> io::Result<()> {
        self.shared().write_bytes(bytes.into()).await
    }

    /// See [`Stream::flush`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::flush`].
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared().poll_flush(cx)).await
    }

    /// See [`Stream::shutdown`].
    ///
    /// # Errors
    ///
    /// Like [`Stream::shutdown`].
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared().poll_shutdown(cx)).await
    }
}

impl Stream {
    /// Closes the connection by the rules of
    /// [`lose_connection`](crate::Transport::lose_connection), and waits for its end.
    ///
    /// Cancel-safe: the connection closes even if the future is dropped.
    ///
    /// # Errors
    ///
    /// If the connection did not end cleanly, for example before all output was sent.
    pub async fn close(self) -> io::Result<()> {
        self.transport().lose_connection();
        poll_fn(|cx| self.shared().poll_lost(cx)).await
    }

    /// Ends the connection immediately, with a reset; unsent output is lost.
    pub fn abort(self) {
        self.transport().abort_connection();
    }

    /// Encrypts the connection from this call on: as a server, with a
    /// [`ServerTls`](crate::layers::tls::ServerTls), or as a client, with a
    /// [`ClientTls`](crate::layers::tls::ClientTls) and the host that the server has to be:
    /// `start_tls((&tls, "example.com"))`. Earlier output is sent in plaintext, and plaintext that
    /// arrives after the bytes already read ends the connection. Ready when the handshake is complete.
    ///
    /// A client starts the handshake once it has read your answer, so call this right before or
    /// after the answer. To encrypt a connection from its beginning, use a `tls:` endpoint instead.
    ///
    /// Cancel-safe: once polled, the handshake continues even if the future is dropped.
    ///
    /// # Errors
    ///
    /// If the handshake fails, where the source is the reason of the loss, or if the host is not valid.
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) after a [`shutdown`](Self::shutdown).
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub async fn start_tls<'a>(
        &mut self,
        side: impl Into<crate::layers::tls::TlsSide<'a>>,
    ) -> io::Result<()> {
        let before = self.begin_tls()?;
        self.transport().start_tls(side).map_err(not_started)?;
        poll_fn(|cx| self.shared().poll_handshake(cx, before)).await
    }

    /// Unread bytes from before an upgrade are plaintext. Accepting them as encrypted would be an
    /// injection (CVE-2011-0411), so they fail the connection.
    #[cfg(any(feature = "tls", feature = "ring"))]
    fn begin_tls(&self) -> io::Result<usize> {
        if self.shared().has_unread() {
            let error = crate::layers::PlaintextAfterUpgrade;
            self.transport().fail(error);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(self.shared().handshakes())
    }
}

#[cfg(any(feature = "tls", feature = "ring"))]
fn not_started(error: StartLayerError) -> io::Error {
    let kind = match error {
        StartLayerError::WriteClosed => io::ErrorKind::BrokenPipe,
        StartLayerError::Tls(_) => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, error)
}
