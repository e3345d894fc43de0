//! [`SendStream`]: a stream for libraries that require `Send` of values that never leave their
//! thread.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Stream;
use super::loop_owned::LoopOwned;

/// A stream that is `Send`, for libraries that require it. Created by [`Stream::into_send`].
///
/// Implements the I/O traits of a stream, which work in the thread of its loop, and fail in other
/// threads. If it is dropped in another thread, the loop closes it.
pub struct SendStream(LoopOwned<Stream>);

impl Stream {
    /// Converts the stream into a type that is `Send`, for libraries that require `Send` of
    /// connections although they stay in one task.
    ///
    /// ```
    /// use couplet::Stream;
    /// use futures_util::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    ///
    /// // A library's.
    /// async fn ask<S: AsyncRead + AsyncWrite + Send + Unpin>(mut stream: S) -> couplet::Result<String> {
    ///     stream.write_all(b"Ada\n").await?;
    ///     let mut answer = String::new();
    ///     stream.read_to_string(&mut answer).await?;
    ///     Ok(answer)
    /// }
    ///
    /// let answer = couplet::testing::run(|reactor| {
    ///     let reactor = reactor.clone();
    ///     reactor.clone().spawn(async move {
    ///         let port = reactor.serve("tcp:8000", async |mut stream: Stream| {
    ///             let name = stream.read_line().await?.unwrap_or_default();
    ///             Ok(stream.write_all([b"hello, ", &name[..]].concat()).await?)
    ///         })?;
    ///         let stream = reactor.connect_stream("tcp:localhost:8000").await?;
    ///         let answer = ask(stream.into_send()).await?;
    ///         port.stop_listening().expect("it listens").await?;
    ///         Ok(answer)
    ///     })
    /// })?;
    /// assert_eq!(answer, "hello, Ada");
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    pub fn into_send(self) -> SendStream {
        let reactor = self.transport().reactor().clone();
        SendStream(LoopOwned::new(&reactor, self))
    }
}

impl SendStream {
    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut Stream>> {
        let stream = self.get_mut().0.get_mut();
        stream
            .map(Pin::new)
            .ok_or_else(|| io::Error::other("cannot use the stream outside the thread of its loop"))
    }
}

impl fmt::Debug for SendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SendStream").field(&self.0.get()).finish()
    }
}

/// Implements the `AsyncWrite` in scope, with `$close` as the name of its last method and `$more`
/// as further items.
macro_rules! async_write {
    ($close:ident $($more:item)*) => {
        impl AsyncWrite for SendStream {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                AsyncWrite::poll_write(self.stream()?, cx, data)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                pieces: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                AsyncWrite::poll_write_vectored(self.stream()?, cx, pieces)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                AsyncWrite::poll_flush(self.stream()?, cx)
            }

            fn $close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                AsyncWrite::$close(self.stream()?, cx)
            }

            $($more)*
        }
    };
}

mod for_futures {
    use futures_io::{AsyncRead, AsyncWrite};

    use super::*;

    impl AsyncRead for SendStream {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            AsyncRead::poll_read(self.stream()?, cx, buffer)
        }
    }

    async_write!(poll_close);
}

#[cfg(feature = "tokio-io")]
mod for_tokio {
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::*;

    impl AsyncRead for SendStream {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            AsyncRead::poll_read(self.stream()?, cx, buffer)
        }
    }

    async_write! { poll_shutdown
        fn is_write_vectored(&self) -> bool {
            true
        }
    }
}
