//! [`Framed`]: the messages of a stream, parsed by a protocol's framer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::Stream;
use crate::Protocol;
use crate::protocols::{LineProtocol, LineTransport, StringProtocol, StringTransport};

/// The messages of a [`Stream`], split by a framer; see [`Stream::framed`]. Also a `Stream` of
/// `futures-core`.
pub struct Framed {
    stream: Stream,
    /// `None` once the stream has ended or the framer has rejected its input.
    framer: Option<Box<dyn Protocol>>,
    messages: Messages,
}

/// Receives the messages of the framer in [`Stream::framed`].
#[derive(Clone, Debug, Default)]
pub struct Messages(Rc<RefCell<VecDeque<Vec<u8>>>>);

impl LineProtocol for Messages {
    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        self.0.borrow_mut().push_back(line.to_vec());
    }
}

impl StringProtocol for Messages {
    fn string_received(&mut self, _: &StringTransport, string: &[u8]) {
        self.0.borrow_mut().push_back(string.to_vec());
    }
}

impl Stream {
    /// Reads messages instead of bytes, with the framers of callback protocols and their limits.
    ///
    /// ```
    /// use couplet::Stream;
    /// use couplet::protocols::{IntReceiver, LineReceiver, NetstringReceiver};
    ///
    /// async fn add(stream: Stream) -> couplet::Result<()> {
    ///     let mut strings = stream.framed(NetstringReceiver::new);
    ///     while let Some(string) = strings.next().await? {
    ///         let sum: i64 = String::from_utf8(string)?.split('+').filter_map(|n| n.parse::<i64>().ok()).sum();
    ///         strings.stream().write_all(sum.to_string()).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # let lines = |stream: Stream| stream.framed(LineReceiver::new);
    /// # let blobs = |stream: Stream| stream.framed(IntReceiver::<u32, _>::new);
    /// ```
    pub fn framed<F: Protocol>(self, framer: impl FnOnce(Messages) -> F) -> Framed {
        let messages = Messages::default();
        let mut framer = Box::new(framer(messages.clone()));
        framer.connection_made(self.transport());
        Framed { stream: self, framer: Some(framer), messages }
    }
}

impl Framed {
    /// The next message; `None` at the end of the stream, where an incomplete message is dropped.
    ///
    /// Cancel-safe: dropping the future loses no message.
    ///
    /// # Errors
    ///
    /// If the connection was lost, once the last complete message was returned;
    /// [`InvalidData`](io::ErrorKind::InvalidData) if the framer rejects the input, for example a
    /// message over its limit. The connection then closes, with the framer's error as its reason.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The stream underneath, for writing.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        loop {
            let next = self.messages.0.borrow_mut().pop_front();
            let (None, Some(framer)) = (&next, &mut self.framer) else {
                return Poll::Ready(Ok(next));
            };
            let transport = self.stream.transport().clone();
            if transport.is_closing() && !self.stream.shared().has_ended() {
                self.framer = None;
                let text = "the connection is closing: the framer rejected the input";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            // Copied, because the read must resume the transport before the framer checks for a
            // pause.
            let mut arrived = Vec::new();
            let put = |data: &[u8]| arrived.extend_from_slice(data);
            match ready!(self.stream.shared().poll_read_into(cx, usize::MAX, put))? {
                0 => self.framer = None,
                _ => {
                    let mut parse = || framer.data_received(&transport, &arrived);
                    match self.stream.shared().is_broken() {
                        // A framer gives nothing for a connection that is lost.
                        true => transport.cell.parse_before_loss(parse),
                        false => parse(),
                    }
                }
            }
        }
    }
}

impl futures_core::Stream for Framed {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Vec<u8>>>> {
        self.poll_message(cx).map(Result::transpose)
    }
}

impl fmt::Debug for Framed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framed").field("stream", &self.stream).finish_non_exhaustive()
    }
}
