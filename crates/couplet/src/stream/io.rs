//! The traits of `futures-io` for streams and their halves, and those of tokio.

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

macro_rules! async_write {
    ($type:ty) => {
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

            fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.shared().poll_shutdown(cx)
            }
        }
    };
}

async_read!(Stream);
async_read!(ReadHalf);
async_write!(Stream);
async_write!(WriteHalf);

#[cfg(feature = "tokio-io")]
mod for_tokio {
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::*;

    macro_rules! async_read {
        ($type:ty) => {
            impl AsyncRead for $type {
                fn poll_read(
                    self: Pin<&mut Self>,
                    cx: &mut Context<'_>,
                    buffer: &mut ReadBuf<'_>,
                ) -> Poll<io::Result<()>> {
                    let room = buffer.remaining();
                    let read =
                        self.shared().poll_read_into(cx, room, |data| buffer.put_slice(data));
                    read.map_ok(drop)
                }
            }
        };
    }

    macro_rules! async_write {
        ($type:ty) => {
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

                fn is_write_vectored(&self) -> bool {
                    true
                }

                fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                    self.shared().poll_flush(cx)
                }

                fn poll_shutdown(
                    self: Pin<&mut Self>,
                    cx: &mut Context<'_>,
                ) -> Poll<io::Result<()>> {
                    self.shared().poll_shutdown(cx)
                }
            }
        };
    }

    async_read!(Stream);
    async_read!(ReadHalf);
    async_write!(Stream);
    async_write!(WriteHalf);
}
