//! The I/O traits of `futures-io`, tokio and hyper for streams and their halves.

use std::io::{self, IoSlice};
use std::pin::Pin;
#[cfg(feature = "http")]
use std::rc::Rc;
#[cfg(feature = "http")]
use std::task::ready;
use std::task::{Context, Poll};

#[cfg(feature = "http")]
use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};

#[cfg(feature = "http")]
use super::shared::{Look, Shared};
use super::{ReadHalf, Stream, WriteHalf};

macro_rules! async_read {
    ($type:ty) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.shared().poll_read(cx, buffer)
            }
        }
    };
}

/// Implements the `AsyncWrite` in scope, with `$close` as the name of its last method and `$more`
/// as further items.
macro_rules! async_write {
    ($type:ty, $close:ident $($more:item)*) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.shared().poll_write(cx, data)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                pieces: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.shared().poll_write_vectored(cx, pieces)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.shared().poll_flush(cx)
            }

            fn $close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.shared().poll_shutdown(cx)
            }

            $($more)*
        }
    };
}

async_read!(Stream);
async_read!(ReadHalf);
async_write!(Stream, poll_close);
async_write!(WriteHalf, poll_close);

/// Implements a runtime's traits, in scope as `AsyncRead` and `AsyncWrite`, with a buffer type that
/// has `put_slice`.
#[cfg(any(feature = "hyper", feature = "tokio-io"))]
macro_rules! runtime_traits {
    ($buffer:ty: $read:ty, $write:ty) => {
        impl AsyncRead for $read {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                #[allow(unused_mut, reason = "one of them is a reference")] mut buffer: $buffer,
            ) -> Poll<io::Result<()>> {
                let room = buffer.remaining();
                let read = self.shared().poll_read_into(cx, room, |data| buffer.put_slice(data));
                read.map_ok(drop)
            }
        }

        async_write! { $write, poll_shutdown
            fn is_write_vectored(&self) -> bool {
                true
            }
        }
    };
}

#[cfg(feature = "tokio-io")]
mod for_tokio {
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::*;

    runtime_traits!(&mut ReadBuf<'_>: Stream, Stream);
    runtime_traits!(&mut ReadBuf<'_>: ReadHalf, WriteHalf);
}

#[cfg(feature = "hyper")]
mod for_hyper {
    use hyper::rt::{Read as AsyncRead, ReadBufCursor, Write as AsyncWrite};

    use super::*;

    runtime_traits!(ReadBufCursor<'_>: Stream, Stream);
    runtime_traits!(ReadBufCursor<'_>: ReadHalf, WriteHalf);
}

/// Observes the end of a stream's connection, for the task that serves it.
#[cfg(feature = "http")]
pub(crate) struct Ending(Rc<Shared>);

#[cfg(feature = "http")]
impl Ending {
    /// Ready when the connection is lost, with an error unless it ended cleanly. A pending poll
    /// wakes the task at that point, and also when the connection is asked to finish.
    pub(crate) fn poll_lost(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_lost(cx)
    }
}

/// For the `http` module, which writes body chunks without copying them.
#[cfg(feature = "http")]
impl Stream {
    /// Observes the end of its connection.
    pub(crate) fn ending(&self) -> Ending {
        Ending(self.owner.0.clone())
    }

    /// Ready with true when bytes have arrived, which stay unread, or with false at the end of the
    /// stream.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.shared().poll_look(cx, |arrived, ended| {
            let is_over = !arrived.is_empty() || ended;
            Ok(if is_over { Look::Taken(0, !arrived.is_empty()) } else { Look::More })
        })
    }

    /// Ready when the connection is asked to finish or is lost. One task may wait for it.
    #[cfg(feature = "websocket")]
    pub(crate) fn poll_draining(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared().poll_draining(cx)
    }

    pub(crate) fn poll_read_slice(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.shared().poll_read(cx, buffer)
    }

    pub(crate) fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        put: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<()>> {
        self.shared().poll_read_into(cx, room, put).map_ok(drop)
    }

    pub(crate) fn poll_write_slice(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared().poll_write(cx, data)
    }

    /// Ready when the buffer has room to write.
    #[cfg(feature = "websocket")]
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared().poll_room(cx)
    }

    /// Writes all of `bytes`, without a copy, once the buffer has room.
    pub(crate) fn poll_write_bytes(
        &self,
        cx: &mut Context<'_>,
        bytes: Bytes,
    ) -> Poll<io::Result<usize>> {
        ready!(self.shared().poll_room(cx))?;
        let n = bytes.len();
        self.transport().write_bytes(bytes);
        Poll::Ready(Ok(n))
    }
}
