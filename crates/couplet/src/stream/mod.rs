//! [`Stream`]: a connection in async style, for sequences: read this, then answer that.
//!
//! A stream is a [`Protocol`] underneath and runs over whatever carries one: TCP,
//! TLS, UNIX sockets, memory, the simulator. Use callbacks where a connection reacts, and a stream
//! where it follows a script.
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
//! Who does not read stops the peer: when bytes arrive and nobody waits for them, the stream keeps
//! them, at most one read, and the transport pauses. Who writes more than the peer takes waits: past
//! the high mark of the transport (64 KiB unless set) a write is pending until the buffer has drained
//! to the low mark.
//!
//! # Ends
//!
//! The peer's FIN is the end of reading, and nothing else: writing goes on. A connection that is lost
//! for another reason fails what is read after the bytes that arrived, and what is written. Errors are
//! [`std::io::Error`]s, whose source is the [`ConnectionLost`](crate::ConnectionLost) with the reason.
//!
//! Dropping a stream closes the connection by the rules of
//! [`lose_connection`](crate::Transport::lose_connection): what was written is sent first.
//!
//! # Libraries
//!
//! Streams and their halves implement `AsyncRead` and `AsyncWrite` of `futures-io`, and, with the
//! feature `tokio-io`, those of tokio. Flushing means that everything was handed to the system, and
//! closing, or tokio's shutdown, is [`Stream::shutdown`]. For libraries that ask for `Send` there is
//! [`Stream::into_send`].
//!
//! # Cancelling
//!
//! Each method says what happens to bytes when its future is dropped before it is ready. The methods
//! that wait for a whole thing (a line, a message) leave its bytes in the stream until it is there, so
//! nothing is lost; the exceptions are [`Stream::read_exact`] and [`Stream::write_all`].

mod copy;
mod framed;
mod halves;
pub(crate) mod homing;
mod io;
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
#[cfg(feature = "http")]
pub(crate) use io::Ending;
pub use read::{LONGEST_LINE, Lines};
pub use send::SendStream;
use shared::{Owner, Shared};

use crate::{Address, Protocol, Transport};

/// A connection in async style. The [module](self) explains it.
pub struct Stream {
    owner: Rc<Owner>,
}

impl Stream {
    /// Takes over an open connection from its protocol, which is dropped: an
    /// [upgrade](Transport::upgrade). Bytes that arrive from now on are the stream's.
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
        let shared = Shared::new(transport);
        transport.upgrade(shared::StreamProtocol::of(&shared));
        Stream::of(shared)
    }

    fn of(shared: Rc<Shared>) -> Stream {
        Stream { owner: Rc::new(Owner(shared)) }
    }

    fn shared(&self) -> &Shared {
        &self.owner.0
    }

    /// The transport underneath, for its settings: time limits, marks, options of the socket.
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

    /// What the TLS handshake settled, where there was one.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub fn tls(&self) -> Option<Rc<crate::layers::tls::TlsInfo>> {
        self.transport().tls()
    }

    /// Passes the connection on to a protocol, with the bytes that arrived and were not read: an
    /// [upgrade](Transport::upgrade), which takes effect in the turn.
    pub fn upgrade<P: Protocol>(self, next: P) {
        self.shared().release();
        self.transport().upgrade(next);
    }

    /// Ready when the connection is asked to finish, because its server is about to end, or when it is
    /// gone: [`Protocol::draining`] in async style. Cancel-safe.
    ///
    /// The future does not borrow the stream, so that a handler can wait for it and for bytes at once.
    /// Between two requests, [`Transport::is_draining`] tells the same.
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

    /// Two halves that can be used by two tasks. The connection closes when both are dropped; the end
    /// of the writing one ends our stream to the peer.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        halves::split(self.owner)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("peer", self.peer()).finish_non_exhaustive()
    }
}
