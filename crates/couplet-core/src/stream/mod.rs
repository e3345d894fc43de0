//! [`Stream`]: a connection in async style, for sequences: read this, then answer that.
//!
//! A stream is a [`Protocol`] underneath and runs over every transport: TCP, TLS, UNIX sockets,
//! memory, the simulator. Use callbacks if a connection reacts to events, and a stream if it
//! follows a script.
//!
//! ```
//! use couplet::stream::Stream;
//!
//! couplet::run_until(|reactor| {
//!     let port = reactor.serve("tcp:0:interface=127.0.0.1", async |mut stream: Stream| {
//!         while let Some(name) = stream.read_line().await? {
//!             stream.write_all([b"hello, ", &name[..], b"\n"].concat()).await?;
//!         }
//!         Ok(())
//!     });
//!     let inner = reactor.clone();
//!     reactor.spawn(async move {
//!         let server = port?.host().to_string();
//!         let mut stream = inner.connect_stream(&server).await?;
//!         stream.write_all("Ada\n").await?;
//!         assert_eq!(stream.read_line().await?.as_deref(), Some(&b"hello, Ada"[..]));
//!         stream.close().await?;
//!         inner.stop();
//!         Ok(())
//!     })
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! # Back-pressure
//!
//! A stream without a pending read stops its peer: it keeps the next bytes that arrive, at most one
//! read of the transport, and pauses the transport. A writer that is faster than the peer waits:
//! above the transport's high mark (64 KiB by default), a write is pending until the buffer has
//! drained to the low mark.
//!
//! # Ends
//!
//! The peer's FIN only ends reading; writing continues. If a connection is lost for another reason,
//! reads fail once the bytes that arrived have been read, and writes fail immediately. Errors are
//! [`std::io::Error`]s, whose source is the [`ConnectionLost`](crate::ConnectionLost) with the
//! reason.
//!
//! Dropping a stream closes the connection by the rules of
//! [`lose_connection`](crate::Transport::lose_connection): its output is sent first.
//!
//! # Libraries
//!
//! Streams and their halves implement `AsyncRead` and `AsyncWrite` of `futures-io` and, with the
//! feature `tokio-io`, of tokio. Flushing completes when all output was handed to the system;
//! closing, or tokio's shutdown, is [`Stream::shutdown`]. For libraries that require `Send`, use
//! [`Stream::into_send`].
//!
//! # Cancelling
//!
//! Each method documents how dropping its future early affects its bytes. Methods that wait for a
//! complete unit (a line, a message) leave its bytes in the stream until it is complete, so nothing
//! is lost; the exceptions are [`Stream::read_exact`] and [`Stream::write_all`].

mod copy;
mod framed;
pub(crate) mod guest;
mod halves;
mod io;
pub(crate) mod loop_owned;
mod read;
mod send;
mod serve;
mod shared;
mod write;

use std::fmt;
use std::rc::Rc;

pub use copy::copy_bidirectional;
pub use framed::{Framed, Messages};
pub use halves::{ReadHalf, WriteHalf};
pub use read::{LONGEST_LINE, Lines};
pub use send::SendStream;
pub use serve::{FromHandler, IsHandler};
use shared::{SharedStream, StreamHandle};

use crate::{Address, Protocol, Transport};

/// A connection in async style; see the [module](self).
pub struct Stream {
    owner: Rc<StreamHandle>,
}

impl Stream {
    /// Takes over an open connection from its protocol, which is dropped: an
    /// [upgrade](Transport::upgrade). Bytes that arrive after the call belong to the stream.
    ///
    /// ```
    /// use couplet::stream::Stream;
    /// use couplet::testing::hold;
    /// use couplet::{Protocol, Transport};
    ///
    /// struct Greeter;
    /// impl Protocol for Greeter {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         let mut stream = Stream::new(transport);
    ///         let talk = async move {
    ///             let name = stream.read_line().await?.unwrap_or_default();
    ///             stream.write_all([b"hello, ", &name[..]].concat()).await?;
    ///             stream.flush().await?;
    ///             Ok(())
    ///         };
    ///         transport.reactor().spawn(talk).detach();
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// let mut held = hold(Greeter);
    /// held.push(b"Ada\n");
    /// assert_eq!(held.wire.take(), b"hello, Ada");
    /// ```
    pub fn new(transport: &Transport) -> Stream {
        let shared = SharedStream::new(transport);
        transport.upgrade(shared::StreamProtocol::for_shared(&shared));
        Stream::from_shared(shared)
    }

    fn from_shared(shared: Rc<SharedStream>) -> Stream {
        Stream { owner: Rc::new(StreamHandle(shared)) }
    }

    fn shared(&self) -> &SharedStream {
        &self.owner.0
    }

    /// The transport underneath, for its settings: timeouts, marks, socket options.
    pub fn transport(&self) -> &Transport {
        &self.shared().transport
    }

    /// The address of the peer.
    pub fn peer(&self) -> &Address {
        self.transport().peer()
    }

    /// The address of our end.
    pub fn host(&self) -> &Address {
        self.transport().host()
    }

    /// The parameters negotiated by the TLS handshake, if the connection uses TLS.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub fn tls(&self) -> Option<Rc<crate::layers::tls::TlsInfo>> {
        self.transport().info()
    }

    /// Passes the connection to a protocol, with the unread bytes: an
    /// [upgrade](Transport::upgrade), which takes effect in the turn.
    pub fn upgrade<P: Protocol>(self, next: P) {
        self.shared().release();
        self.transport().upgrade(next);
    }

    /// Ready when the connection is asked to finish, because its server is shutting down, or when
    /// it is lost: [`Protocol::draining`] in async style. Cancel-safe.
    ///
    /// The future does not borrow the stream, so a handler can wait for it and for bytes at the
    /// same time. Between two requests, check [`Transport::is_draining`] instead.
    ///
    /// ```
    /// use couplet::Stream;
    /// use futures_util::future::{Either, select};
    /// use std::pin::pin;
    ///
    /// async fn answer(mut stream: Stream) -> couplet::Result<()> {
    ///     let mut draining = pin!(stream.draining());
    ///     loop {
    ///         let line = match select(pin!(stream.read_line()), draining.as_mut()).await {
    ///             Either::Left((line, _)) => line?,
    ///             Either::Right(_) => break,
    ///         };
    ///         let Some(line) = line else { return Ok(()) };
    ///         stream.write_all(line).await?;
    ///     }
    ///     Ok(stream.write_all("421 closing\r\n").await?)
    /// }
    /// ```
    pub fn draining(&self) -> impl Future<Output = ()> + use<> {
        self.shared().draining()
    }

    /// Splits the stream into two halves, which two tasks can use. The connection closes when both
    /// are dropped; dropping the writing half ends our side of the stream.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        halves::split(self.owner)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("peer", self.peer()).finish_non_exhaustive()
    }
}
