//! Why a connection ended, and what can fail before one begins.
//!
//! One enum for each thing that can be tried: [`Reason`] for a connection's end (Twisted's
//! `ConnectionDone`, `ConnectionLost`, …), [`ListenError`] and [`ConnectError`] for its beginning.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::defer::Failure;

/// Who ended a connection that ended cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Our side asked for the close before the peer's end of stream had come.
    Us,
    /// The peer's end of stream came first.
    Peer,
}

/// Why a connection was lost. Cheap to clone.
///
/// A connection has one reason: where several things happened, the first of this list counts:
/// `Failed` or `Panicked` (whichever came first), `Aborted`, `Overflow`, `Lost`, `CloseTimedOut`,
/// `Timeout`, `Shutdown`, `Done`.
///
/// Twisted's `ConnectionDone`, `ConnectionLost`, `ConnectionAborted`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// A clean end: everything written was given to the system, and our FIN behind it, or the
    /// peer's FIN came. Whether the peer has read it is not known; what happens to the connection
    /// behind our FIN changes nothing.
    Done(By),
    /// The connection broke before that: a reset, or any error of reading or writing.
    Lost(Arc<io::Error>),
    /// Our side called [`abort_connection`](crate::Transport::abort_connection).
    Aborted,
    /// Nothing was received for the time of [`set_idle_timeout`](crate::Transport::set_idle_timeout).
    Timeout,
    /// After `lose_connection` nothing left for the time of the close deadline.
    CloseTimedOut,
    /// More was written than the hard cap of the transport allows.
    Overflow,
    /// Our side called [`fail`](crate::Transport::fail) with this failure.
    Failed(Failure),
    /// A callback of the protocol panicked; the text is the panic's message.
    Panicked(Arc<str>),
    /// The reactor stopped.
    Shutdown,
}

impl Reason {
    /// True for [`Reason::Done`]: neither side cut the other off, as far as is known here.
    pub fn is_clean(&self) -> bool {
        matches!(self, Reason::Done(_))
    }

    /// The error behind the reason, if it is of type `E`: of `Failed` any error that the protocol
    /// gave, of `Lost` the [`io::Error`].
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Reason::Failed(failure) => failure.downcast_ref::<E>(),
            Reason::Lost(error) => (error.as_ref() as &(dyn Error + 'static)).downcast_ref::<E>(),
            _ => None,
        }
    }

    /// The place in the order of precedence; the smaller wins.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Reason::Failed(_) | Reason::Panicked(_) => 0,
            Reason::Aborted => 1,
            Reason::Overflow => 2,
            Reason::Lost(_) => 3,
            Reason::CloseTimedOut => 4,
            Reason::Timeout => 5,
            Reason::Shutdown => 6,
            Reason::Done(_) => 7,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Done(By::Us) => write!(f, "connection closed by us"),
            Reason::Done(By::Peer) => write!(f, "connection closed by the peer"),
            Reason::Lost(error) => write!(f, "connection lost: {}", Plain(error)),
            Reason::Aborted => write!(f, "connection aborted by us"),
            Reason::Timeout => write!(f, "nothing received for too long"),
            Reason::CloseTimedOut => write!(f, "the peer took nothing while we were closing"),
            Reason::Overflow => write!(f, "the peer reads too slowly: the write buffer is full"),
            Reason::Failed(failure) => write!(f, "{failure}"),
            Reason::Panicked(text) => write!(f, "a callback panicked: {text}"),
            Reason::Shutdown => write!(f, "the reactor stopped"),
        }
    }
}

/// A [`Reason`] as an error, for the places that want one: a failed `ask`, a `drained()` that
/// never came.
#[derive(Clone, Debug)]
pub struct ConnectionLost(
    /// Why the connection was lost.
    pub Reason,
);

impl fmt::Display for ConnectionLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for ConnectionLost {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Reason::Lost(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

/// A port could not be opened. Twisted's `CannotListenError`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}{}", Plain(source), way_out(source))]
pub struct ListenError {
    /// The address that was asked for.
    pub address: Address,
    /// What the system said.
    pub source: Arc<io::Error>,
}

impl ListenError {
    pub(crate) fn new(address: Address, source: io::Error) -> ListenError {
        ListenError { address, source: Arc::new(source) }
    }
}

/// A connection could not be made. Twisted's `ConnectError` and its children, `DNSLookupError`,
/// `TimeoutError` and `UserError`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens there (ECONNREFUSED).
    #[error("connection refused")]
    Refused,
    /// There is no way there (ENETUNREACH, EHOSTUNREACH).
    #[error("no route to the host")]
    NoRoute,
    /// Neither yes nor no within the connect timeout.
    #[error("no answer within {:?}", .0)]
    TimedOut(Duration),
    /// The name has no address, or could not be looked up in time.
    #[error("cannot find the host {name:?}: {}", Plain(source))]
    NameLookup {
        /// The name that was asked for.
        name: String,
        /// What the resolver said.
        source: Arc<io::Error>,
    },
    /// [`stop_connecting`](crate::Connector::stop_connecting) or `disconnect` was called, or the
    /// Deferred of the attempt was cancelled.
    #[error("the attempt was stopped")]
    Stopped,
    /// The reactor stopped while the attempt was under way.
    #[error("the reactor stopped")]
    Shutdown,
    /// The factory's `build_protocol` gave no protocol. Twisted's `NoProtocol`.
    #[error("the factory built no protocol")]
    NoProtocol,
    /// Several addresses were tried, and each failed; in the order of their failing.
    #[error("no address answered: {}", list(.0))]
    AllFailed(Vec<(Address, ConnectError)>),
    /// Any other error of the system.
    #[error("{}", Plain(.0))]
    System(Arc<io::Error>),
}

impl ConnectError {
    pub(crate) fn from_io(error: io::Error) -> ConnectError {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectError::Refused,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                ConnectError::NoRoute
            }
            _ => ConnectError::System(Arc::new(error)),
        }
    }
}

fn list(errors: &[(Address, ConnectError)]) -> String {
    let each: Vec<String> = errors.iter().map(|(a, e)| format!("{a}: {e}")).collect();
    each.join("; ")
}

/// An [`io::Error`] in lower case and without "(os error 98)": for people.
pub(crate) struct Plain<'a>(pub(crate) &'a Arc<io::Error>);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        let mut letters = text.chars();
        match (letters.next(), text.chars().nth(1)) {
            (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
                write!(f, "{}{}", first.to_lowercase(), letters.as_str())
            }
            _ => f.write_str(text),
        }
    }
}

fn way_out(error: &Arc<io::Error>) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (something listens there already; choose another port, or 0 for a free one)"
        }
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}
