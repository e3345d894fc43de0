//! Writing, which [`Stream`] and [`WriteHalf`] have in common, and the end.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Poll, ready};

use bytes::Bytes;

use super::shared::Shared;
use super::{Stream, WriteHalf};
#[cfg(any(feature = "tls", feature = "ring"))]
use crate::layers::StartLayerError;

impl Shared {
    #[inline]
    fn write_all(&self, data: impl AsRef<[u8]>) -> impl Future<Output = io::Result<()>> {
        let mut written = 0;
        poll_fn(move |cx| {
            let data = data.as_ref();
            while written < data.len() {
                written += ready!(self.poll_write(cx, &data[written..]))?;
            }
            Poll::Ready(Ok(()))
        })
    }

    async fn write_bytes(&self, bytes: Bytes) -> io::Result<()> {
        poll_fn(|cx| self.poll_room(cx)).await?;
        self.transport.write_bytes(bytes);
        Ok(())
    }
}

impl Stream {
    /// Writes all of `data`, in pieces; each waits while more is buffered than the high mark.
    /// What is buffered is sent by the end of the turn.
    ///
    /// Not cancel-safe: a future that is dropped may have written a part.
    ///
    /// # Errors
    ///
    /// When the connection was lost, or our stream to the peer was ended.
    #[inline]
    pub fn write_all(&mut self, data: impl AsRef<[u8]>) -> impl Future<Output = io::Result<()>> {
        self.shared().write_all(data)
    }

    /// Writes a buffer without copying it, once less is buffered than the high mark.
    ///
    /// Cancel-safe: a future that is dropped has written nothing.
    ///
    /// # Errors
    ///
    /// As for [`write_all`](Self::write_all).
    pub async fn write_bytes(&mut self, bytes: impl Into<Bytes>) -> io::Result<()> {
        self.shared().write_bytes(bytes.into()).await
    }

    /// Waits until everything written was handed to the system.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the connection is lost first.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared().poll_flush(cx)).await
    }

    /// Ends our stream to the peer, and waits until everything written has left, and the FIN
    /// (over TLS: the close_notify). Reading goes on.
    ///
    /// Cancel-safe: the stream ends nevertheless.
    ///
    /// # Errors
    ///
    /// When the connection is lost first.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared().poll_shutdown(cx)).await
    }
}

impl WriteHalf {
    /// [`Stream::write_all`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn write_all(&mut self, data: impl AsRef<[u8]>) -> impl Future<Output = io::Result<()>> {
        self.shared().write_all(data)
    }

    /// [`Stream::write_bytes`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn write_bytes(&mut self, bytes: impl Into<Bytes>) -> io::Result<()> {
        self.shared().write_bytes(bytes.into()).await
    }

    /// [`Stream::flush`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared().poll_flush(cx)).await
    }

    /// [`Stream::shutdown`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared().poll_shutdown(cx)).await
    }
}

impl Stream {
    /// Closes the connection by the rules of
    /// [`lose_connection`](crate::Transport::lose_connection), and waits for its end.
    ///
    /// Cancel-safe: the connection closes nevertheless.
    ///
    /// # Errors
    ///
    /// When the connection ended otherwise, before what was written had left, say.
    pub async fn close(self) -> io::Result<()> {
        self.transport().lose_connection();
        poll_fn(|cx| self.shared().poll_lost(cx)).await
    }

    /// Ends the connection at once, with a reset; what was written and has not left is lost.
    pub fn abort(self) {
        self.transport().abort_connection();
    }

    /// Encrypts the connection as a server, from here on: what was written before goes out in clear,
    /// and bytes in clear that stand behind what was read cut the connection. Ready when the handshake
    /// is complete.
    ///
    /// A client begins when it has read your answer, so ask for this before you answer, or right after.
    /// A connection that is encrypted from its beginning has a `tls:` endpoint instead.
    ///
    /// Cancel-safe: the handshake goes on nevertheless.
    ///
    /// # Errors
    ///
    /// When the handshake fails; the source is the reason of the loss. After a [`shutdown`](Self::shutdown),
    /// with [`BrokenPipe`](io::ErrorKind::BrokenPipe).
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub async fn start_tls(&mut self, tls: &crate::layers::tls::ServerTls) -> io::Result<()> {
        let before = self.begin_tls()?;
        self.transport().start_tls(tls).map_err(not_started)?;
        poll_fn(|cx| self.shared().poll_handshake(cx, before)).await
    }

    /// [`start_tls`](Self::start_tls) as a client, which verifies that the server is `name`.
    ///
    /// Cancel-safe: the handshake goes on nevertheless.
    ///
    /// # Errors
    ///
    /// When `name` is no name of a host, and as for [`start_tls`](Self::start_tls).
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub async fn start_tls_client(
        &mut self,
        tls: &crate::layers::tls::ClientTls,
        name: &str,
    ) -> io::Result<()> {
        let before = self.begin_tls()?;
        self.transport().start_tls_client(tls, name).map_err(not_started)?;
        poll_fn(|cx| self.shared().poll_handshake(cx, before)).await
    }

    /// Bytes that were not read before an upgrade are not encrypted; to take them for encrypted ones would be
    /// an injection (CVE-2011-0411).
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
