//! [`send_file`]: sends a file as fast as its receiver accepts it. Twisted's `FileSender`.
//!
//! Contract: 74, 107.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read};
use std::rc::Rc;

use bytes::Bytes;

use crate::{Deferred, Failure, Producer, ProducerKind, Resolver, Result, Transport};

/// The size of a read, in bytes.
const PIECE: usize = 16 * 1024;

/// The result of [`send_file`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileSent {
    /// The number of bytes.
    pub len: u64,
    /// The last byte; `None` for an empty file. Shows whether a text ends with a newline.
    pub last: Option<u8>,
}

/// The connection closed before the whole file was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection closed after {written} bytes of the file were written")]
#[non_exhaustive]
pub struct FileCut {
    /// The number of bytes written to the transport. Not all of them may have been sent.
    pub written: u64,
}

/// Sends everything that can be read from `file`, in pieces of 16 KiB, each after the previous one
/// was sent.
///
/// A pull producer is registered until the file is sent; a
/// [`lose_connection`](Transport::lose_connection) in the meantime waits for it. A
/// [thread](crate::Reactor::defer_to_thread) reads the pieces, so a slow disk does not block the
/// loop, and at most one piece is in memory. The Deferred fires when the last byte was handed to
/// the system. Cancelling it discards a piece that is being read, and leaves the connection open.
///
/// The failure is [`FileCut`] if the connection closes first, the `io::Error` of a read, or,
/// immediately, [`ProducerRegistered`](crate::transport::ProducerRegistered) if the transport
/// already has a producer. After a failed read the connection stays open, so that its protocol can
/// report the error to the peer.
///
/// ```no_run
/// use couplet::protocols::send_file;
/// use couplet::{Protocol, Transport};
///
/// struct Download;
/// impl Protocol for Download {
///     fn connection_made(&mut self, transport: &Transport) {
///         match std::fs::File::open("poem.txt") {
///             Ok(file) => {
///                 let closing = transport.clone();
///                 send_file(transport, file).map(move |_| closing.lose_connection()).detach();
///             }
///             Err(error) => transport.fail(error),
///         }
///     }
///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
/// }
/// ```
pub fn send_file(transport: &Transport, file: impl Read + Send + 'static) -> Deferred<FileSent> {
    let cancelled = transport.clone();
    let (deferred, resolver) = Deferred::with_canceller(move |_| cancelled.unregister_producer());
    let sending = Rc::new(FileTransfer {
        transport: transport.clone(),
        file: RefCell::new(Some(Box::new(file))),
        sent: Cell::new(FileSent { len: 0, last: None }),
        resolver: RefCell::new(Some(resolver)),
    });
    let producer = FileSender(sending.clone());
    if let Err(error) = transport.register_producer(producer, ProducerKind::Pull) {
        sending.end(Err(error.into()));
    }
    deferred
}

struct FileTransfer {
    transport: Transport,
    /// `None` while a thread reads from it.
    file: RefCell<Option<Box<dyn Read + Send>>>,
    sent: Cell<FileSent>,
    /// `None` once the file is sent or has failed.
    resolver: RefCell<Option<Resolver<FileSent>>>,
}

impl FileTransfer {
    fn end(&self, result: Result<FileSent>) {
        let resolver = self.resolver.borrow_mut().take();
        let file = self.file.borrow_mut().take();
        drop(file);
        if let Some(resolver) = resolver {
            resolver.resolve(result);
        }
    }

    fn handle_read(&self, read: Result<(Box<dyn Read + Send>, Vec<u8>)>) {
        let is_wanted = self.resolver.borrow().as_ref().is_some_and(|one| !one.is_cancelled());
        match read {
            _ if !is_wanted => {}
            Err(failure) => {
                self.transport.unregister_producer();
                self.end(Err(failure));
            }
            Ok((_, piece)) if piece.is_empty() => {
                self.transport.unregister_producer();
                self.end(Ok(self.sent.get()));
            }
            Ok((file, piece)) => {
                *self.file.borrow_mut() = Some(file);
                let len = self.sent.get().len + piece.len() as u64;
                self.sent.set(FileSent { len, last: piece.last().copied() });
                self.transport.write_bytes(Bytes::from(piece));
            }
        }
    }
}

/// The producer of [`send_file`].
struct FileSender(Rc<FileTransfer>);

impl Producer for FileSender {
    fn resume_producing(&mut self) {
        let Some(file) = self.0.file.borrow_mut().take() else { return };
        let sending = self.0.clone();
        let reading = self.0.transport.reactor().defer_to_thread(move || read_piece(file));
        let done = reading.add_both(move |read| {
            sending.handle_read(read);
            Ok(())
        });
        done.detach();
    }

    fn stop_producing(&mut self) {
        let written = self.0.sent.get().len;
        self.0.end(Err(FileCut { written }.into()));
    }
}

fn read_piece(mut file: Box<dyn Read + Send>) -> Result<(Box<dyn Read + Send>, Vec<u8>)> {
    let mut piece = vec![0; PIECE];
    let read = loop {
        match file.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(n) if n > PIECE => {
                break Err(io::Error::other("the reader returned more than its buffer holds"));
            }
            other => break other,
        }
    };
    piece.truncate(read.map_err(Failure::from)?);
    Ok((file, piece))
}
