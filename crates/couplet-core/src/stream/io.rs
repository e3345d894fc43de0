//! The I/O traits of `futures-io`, tokio and hyper for streams and their halves.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};

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
