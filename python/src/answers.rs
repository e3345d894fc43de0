//! [`Answers`]: the datagrams that a UDP port holds back until it has delivered a batch. A system
//! call sends them all, and wakes a peer on another processor once.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

#[cfg(target_os = "linux")]
use couplet_os::datagrams::{self, Outgoing, Target};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

#[cfg(not(target_os = "linux"))]
use crate::batch;
use crate::looping::system_error;
use crate::peers::{Socket, Target as To};

/// Most answers held back.
const MOST: usize = 32;

/// Longest answer held back. Every network takes it, so its length is no error that the protocol
/// would have to get from its call.
const LONGEST: usize = 1200;

/// A datagram that is held back.
pub(crate) struct Answer {
    data: Py<PyBytes>,
    to: SocketAddr,
}

/// The answers that a port holds back.
#[derive(Default)]
pub(crate) struct Answers {
    /// The sender of the datagram that is being delivered, unless it can't be answered.
    sender: Option<(Py<PyAny>, SocketAddr)>,
    /// Law 9: at most [`MOST`].
    held: Vec<Answer>,
}

impl Answer {
    /// Sends answers without waiting. Returns how many the system took.
    pub(crate) fn send(
        py: Python<'_>,
        socket: BorrowedFd<'_>,
        answers: &[Answer],
    ) -> io::Result<usize> {
        let datagrams = answers.iter().map(|answer| (answer.data.as_bytes(py), answer.to));
        #[cfg(target_os = "linux")]
        {
            let outgoing = |(data, to)| Outgoing {
                data,
                to: Some(Target::Inet(to)),
                from: None,
                tos: None,
                segment: None,
            };
            datagrams::send(socket, &datagrams.map(outgoing).collect::<Vec<_>>())
        }
        #[cfg(not(target_os = "linux"))]
        batch::send(socket, datagrams)
    }

    /// Sends the answer once more, after the system refused it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn send_alone(&self, py: Python<'_>, socket: &Socket) -> PyResult<()> {
        match socket.send_to(self.data.as_bytes(py), &To::Inet(self.to)) {
            // Twisted's ports ignore it.
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Some(Err(error)) => Err(system_error(error)),
            _ => Ok(()),
        }
    }
}

impl Answers {
    /// Sets the sender of the datagram that is being delivered, without the flow label, which
    /// answers do not have. Returns the one before.
    pub(crate) fn set_sender(
        &mut self,
        mut sender: Option<(Py<PyAny>, SocketAddr)>,
    ) -> Option<(Py<PyAny>, SocketAddr)> {
        if let Some((_, SocketAddr::V6(address))) = &mut sender {
            address.set_flowinfo(0);
        }
        std::mem::replace(&mut self.sender, sender)
    }

    /// Whether a datagram to `to` is held back: a short one for the sender, named by the very
    /// object that the protocol got.
    pub(crate) fn accepts(&self, data: &[u8], to: &Bound<'_, PyAny>) -> bool {
        let is_sender = |(sender, _): &(Py<PyAny>, SocketAddr)| to.is(sender);
        data.len() <= LONGEST && self.sender.as_ref().is_some_and(is_sender)
    }

    /// Holds an answer to the sender back. Returns true if no other fits.
    pub(crate) fn push(&mut self, data: &Bound<'_, PyBytes>) -> bool {
        if let Some((_, to)) = self.sender {
            self.held.push(Answer { data: data.clone().unbind(), to });
        }
        self.held.len() >= MOST
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.held)
    }
}
