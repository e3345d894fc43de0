//! Why a connection ended, or why it could not be established.
//!
//! One type per operation: [`Reason`] for the end of a connection (Twisted's `ConnectionDone`,
//! `ConnectionLost`, …), [`ListenError`] and [`ConnectError`] for listening and connecting.
//!
//! Contract: 20b, 24, 28, 32, 32a, 34.

mod tls;

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::defer::Failure;
#[cfg(any(feature = "tls", feature = "ring"))]
pub(crate) use tls::alert_name;
pub use tls::{CertificateProblem, Fault, TlsError, TlsProblem};

/// The side that closed first, for a connection that ended cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Our side closed before the peer's EOF arrived.
    Us,
    /// The peer's EOF arrived first.
    Peer,
}

/// Why a connection was lost. Cheap to clone.
///
/// A connection has one reason. If several apply, the first in this order wins: `Failed` or
/// `Panicked` (whichever came first), `Aborted`, `Overflow`, `Tls`, `Lost`, `CloseTimedOut`,
/// `Timeout`, `Shutdown`, `Done`.
///
/// Twisted's `ConnectionDone`, `ConnectionLost`, `ConnectionAborted`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// A clean end: everything written and then our FIN were handed to the system, or the peer's
    /// FIN arrived. Whether the peer has read the data is unknown; events after our FIN do not
    /// change the reason.
    Done(By),
    /// The connection failed before that: a reset, or another read or write error.
    Lost(Arc<io::Error>),
    /// TLS failed, in the handshake or because of an invalid record. A stream that merely ends
    /// without close_notify is [`Lost`](Self::Lost).
    Tls(Arc<TlsError>),
    /// Our side called [`abort_connection`](crate::Transport::abort_connection).
    Aborted,
    /// Nothing was received for the [idle timeout](crate::transport::Timeout::Idle), or nothing
    /// moved for the [half-close](crate::transport::Timeout::HalfClose) or the
    /// [write timeout](crate::transport::Timeout::Write).
    Timeout,
    /// After `lose_connection`, no bytes were sent within the close deadline.
    CloseTimedOut,
    /// More was written than the transport's hard cap, or the [limits](crate::LoadLimits) of its loop,
    /// allow.
    Overflow,
    /// Our side called [`fail`](crate::Transport::fail) with this failure.
    Failed(Failure),
    /// A callback of the protocol panicked, with this message.
    Panicked(Arc<str>),
    /// The reactor closed the connection: it stopped, or a [drain](crate::Reactor::drain) reached
    /// its deadline.
    Shutdown,
    /// Another process continues the connection ([`Reactor::hand_over`](crate::Reactor::hand_over)).
    /// Only handles see this reason: `connection_lost` is not called.
    HandedOver,
}

impl Reason {
    /// True for [`Reason::Done`]: as far as this side knows, neither side cut the other off.
    pub fn is_clean(&self) -> bool {
        matches!(self, Reason::Done(_))
    }

    /// The underlying error, if it is an `E`: for `Failed` the protocol's error, for `Lost` the
    /// [`io::Error`] or its cause, for `Tls` the [`TlsError`].
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Reason::Failed(failure) => failure.downcast_ref::<E>(),
            Reason::Lost(error) => (error.as_ref() as &(dyn Error + 'static))
                .downcast_ref::<E>()
                .or_else(|| error.get_ref()?.downcast_ref::<E>()),
            Reason::Tls(error) => (error.as_ref() as &(dyn Error + 'static)).downcast_ref::<E>(),
            _ => None,
        }
    }

    /// The names of the variants, in lower case.
    pub(crate) const WORDS: [&str; 11] = [
        "done",
        "lost",
        "tls",
        "aborted",
        "timeout",
        "close timed out",
        "overflow",
        "failed",
        "panicked",
        "shutdown",
        "handed over",
    ];

    /// The name of the variant.
    pub(crate) fn word(&self) -> &'static str {
        Reason::WORDS[self.variant()]
    }

    /// The place of the variant in [`WORDS`](Self::WORDS).
    pub(crate) fn variant(&self) -> usize {
        match self {
            Reason::Done(_) => 0,
            Reason::Lost(_) => 1,
            Reason::Tls(_) => 2,
            Reason::Aborted => 3,
            Reason::Timeout => 4,
            Reason::CloseTimedOut => 5,
            Reason::Overflow => 6,
            Reason::Failed(_) => 7,
            Reason::Panicked(_) => 8,
            Reason::Shutdown => 9,
            Reason::HandedOver => 10,
        }
    }

    /// The rank in the order of precedence; the lower rank wins.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Reason::Failed(_) | Reason::Panicked(_) => 0,
            Reason::Aborted => 1,
            Reason::Overflow => 2,
            Reason::Tls(_) => 3,
            Reason::Lost(_) => 4,
            Reason::CloseTimedOut => 5,
            Reason::Timeout => 6,
            Reason::Shutdown => 7,
            Reason::Done(_) => 8,
            Reason::HandedOver => 9,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Done(By::Us) => write!(f, "connection closed by us"),
            Reason::Done(By::Peer) => write!(f, "connection closed by the peer"),
            Reason::Lost(error) => write!(f, "connection lost: {}", Plain(error)),
            Reason::Tls(error) => write!(f, "{error}"),
            Reason::Aborted => write!(f, "connection aborted by us"),
            Reason::Timeout => {
                write!(f, "timeout: the peer was silent, or took no output, for too long")
            }
            Reason::CloseTimedOut => write!(f, "close timed out: the peer stopped reading"),
            Reason::Overflow => write!(f, "the peer reads too slowly: the write buffer is full"),
            Reason::Failed(failure) => write!(f, "{failure}"),
            Reason::Panicked(text) => write!(f, "a callback panicked: {text}"),
            Reason::HandedOver => write!(f, "connection handed over to another process"),
            Reason::Shutdown => write!(f, "connection closed by the reactor"),
        }
    }
}

/// A [`Reason`] as an error, for example of a failed `ask`, or of a `writable()` that never
/// completed.
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
            Reason::Tls(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

/// A port could not be opened. Twisted's `CannotListenError`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}{}", Plain(source), hint(address, source))]
#[non_exhaustive]
pub struct ListenError {
    /// The requested address.
    pub address: Address,
    /// The system's error.
    pub source: Arc<io::Error>,
}

impl ListenError {
    pub(crate) fn new(address: Address, source: io::Error) -> ListenError {
        ListenError { address, source: Arc::new(source) }
    }

    /// The system's error number, such as `EADDRINUSE`; `None` in memory and in the simulator.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// A connection could not be established. Twisted's `ConnectError` and its subclasses,
/// `DNSLookupError`, `TimeoutError` and `UserError`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nothing listens at the address (ECONNREFUSED).
    #[error("connection refused")]
    Refused(Arc<io::Error>),
    /// No route to the host (ENETUNREACH, EHOSTUNREACH).
    #[error("no route to the host")]
    NoRoute(Arc<io::Error>),
    /// The local address set by [`ConnectOptions::bind`](crate::ConnectOptions::bind) is not
    /// available. The peer was not contacted. Twisted's `ConnectBindError`.
    #[error("cannot connect from {address}: {}{}", Plain(source), bind_hint(source))]
    LocalBind {
        /// The requested local address.
        address: Address,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// No answer within the connect timeout.
    #[error("no answer within {:?}", .0)]
    TimedOut(Duration),
    /// The name has no address, or the lookup timed out.
    #[error("cannot find the host {name:?}: {}", Plain(source))]
    NameLookup {
        /// The name.
        name: String,
        /// The resolver's error.
        source: Arc<io::Error>,
    },
    /// [`stop_connecting`](crate::Connector::stop_connecting) or `disconnect` was called, or the
    /// Deferred of the attempt was cancelled.
    #[error("the attempt was stopped")]
    Stopped,
    /// The reactor stopped while the attempt was in progress.
    #[error("the reactor stopped")]
    Shutdown,
    /// The factory's `build_protocol` returned `None`. Twisted's `NoProtocol`.
    #[error("the factory built no protocol")]
    NoProtocol,
    /// A layer of the connection did not open, for example because its handshake failed.
    #[error("{}", .0)]
    NotOpened(Reason),
    /// Several addresses were tried and all failed. Listed in the order in which they failed.
    #[error("no address answered: {}", list(.0))]
    AllFailed(Vec<(Address, ConnectError)>),
    /// Any other system error.
    #[error("{}", Plain(.0))]
    System(Arc<io::Error>),
}

impl ConnectError {
    /// The error of a driver that could not bind the local address.
    pub(crate) fn local_bind(address: Address, error: io::Error) -> io::Error {
        let (kind, source) = (error.kind(), Arc::new(error));
        io::Error::new(kind, ConnectError::LocalBind { address, source })
    }

    /// The system's error number, such as `ENETUNREACH`; with several addresses, the number of the last
    /// failure. `None` if no system call failed, in memory, and in the simulator.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            ConnectError::Refused(source)
            | ConnectError::NoRoute(source)
            | ConnectError::LocalBind { source, .. }
            | ConnectError::NameLookup { source, .. }
            | ConnectError::NotOpened(Reason::Lost(source))
            | ConnectError::System(source) => source.raw_os_error(),
            ConnectError::AllFailed(errors) => errors.last()?.1.raw_os_error(),
            ConnectError::TimedOut(_)
            | ConnectError::Stopped
            | ConnectError::Shutdown
            | ConnectError::NoProtocol
            | ConnectError::NotOpened(_) => None,
        }
    }
}

/// Picks the matching variant. An error that contains a `ConnectError` is unwrapped, so that a
/// driver can report [`LocalBind`](ConnectError::LocalBind).
impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> ConnectError {
        match error.downcast::<ConnectError>() {
            Ok(error) => error,
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => ConnectError::Refused(Arc::new(error)),
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                    ConnectError::NoRoute(Arc::new(error))
                }
                _ => ConnectError::System(Arc::new(error)),
            },
        }
    }
}

fn list(errors: &[(Address, ConnectError)]) -> String {
    let each: Vec<String> = errors.iter().map(|(a, e)| format!("{a}: {e}")).collect();
    each.join("; ")
}

/// Formats an [`io::Error`] for people: in lower case and without "(os error 98)".
pub(crate) struct Plain<'a>(pub(crate) &'a io::Error);

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

/// The hint for a local address that a connect could not bind.
fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (another socket has it; with port 0 the system picks a free one)"
        }
        io::ErrorKind::PermissionDenied => LOW_PORTS,
        io::ErrorKind::AddrNotAvailable => NO_INTERFACE,
        _ => "",
    }
}

const LOW_PORTS: &str = " (ports below 1024 need CAP_NET_BIND_SERVICE)";
const NO_INTERFACE: &str = " (no interface of this machine has that address)";

fn hint(address: &Address, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse if address.unix().is_some() => {
            " (something listens there already, or a file is in the way)"
        }
        _ if address.unix().is_some() => "",
        io::ErrorKind::AddrInUse => {
            " (something listens there already; choose another port, or 0 for a free one)"
        }
        io::ErrorKind::PermissionDenied => LOW_PORTS,
        io::ErrorKind::AddrNotAvailable => NO_INTERFACE,
        _ => "",
    }
}
