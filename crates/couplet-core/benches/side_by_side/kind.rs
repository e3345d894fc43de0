//! The kinds of servers, the roles each can play, and how this program becomes one.

use std::fmt::{self, Display};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::ours::DriverChoice;
use crate::program::pin;
use crate::{ours, peer_mio, peer_raw, peer_tokio};

/// A server's implementation, with the size of its read buffer in KiB if that can be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Raw(usize),
    Tokio(usize),
    Mio(usize),
    /// `couplet echo` for the role of an echo, otherwise our own servers.
    Couplet,
    /// A `LineReceiver` with the limits of a public server.
    CoupletLines,
    /// An echo over a layer that passes bytes unchanged.
    CoupletLayer,
    /// An echo in async style.
    CoupletStream,
    /// The same over io_uring.
    CoupletUring,
    /// `couplet echo` with an inspector without readers.
    CoupletInspected,
    Twisted,
}

/// Default buffer size in KiB.
const USUAL: usize = 16;
/// The read buffer of Twisted's TCP connections, in KiB.
const TWISTED: usize = 64;
/// Connections that the kernel queues for a server of any kind.
pub(crate) const BACKLOG: u16 = 1024;

impl Kind {
    /// Name in tables; it includes the size of the read buffer.
    pub(crate) fn label(self) -> String {
        match self {
            Kind::Raw(_) | Kind::Tokio(_) | Kind::Mio(_) => self.to_string(),
            Kind::Couplet
            | Kind::CoupletLines
            | Kind::CoupletLayer
            | Kind::CoupletStream
            | Kind::CoupletUring
            | Kind::CoupletInspected => format!("{self} ({}k)", ours::READ_BUFFER),
            Kind::Twisted => format!("{self} ({TWISTED}k)"),
        }
    }

    /// True if this kind has a server for the role.
    pub(crate) fn plays(self, role: Role) -> bool {
        match self {
            Kind::Raw(_) | Kind::Tokio(_) | Kind::Couplet | Kind::CoupletUring | Kind::Twisted => {
                true
            }
            Kind::Mio(_) => matches!(role, Role::Echo | Role::EchoOne),
            Kind::CoupletLines | Kind::CoupletLayer | Kind::CoupletInspected => role == Role::Echo,
            Kind::CoupletStream => matches!(role, Role::Echo | Role::Relay(_)),
        }
    }
}

/// The form on the command line.
impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Raw(size) => write!(f, "raw-{size}k"),
            Kind::Tokio(size) => write!(f, "tokio-{size}k"),
            Kind::Mio(size) => write!(f, "mio-{size}k"),
            Kind::Couplet => f.write_str("couplet"),
            Kind::CoupletLines => f.write_str("couplet-lines"),
            Kind::CoupletLayer => f.write_str("couplet-layer"),
            Kind::CoupletStream => f.write_str("couplet-stream"),
            Kind::CoupletUring => f.write_str("couplet-uring"),
            Kind::CoupletInspected => f.write_str("couplet-inspected"),
            Kind::Twisted => f.write_str("twisted"),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        match text {
            "couplet" => return Ok(Kind::Couplet),
            "couplet-lines" => return Ok(Kind::CoupletLines),
            "couplet-layer" => return Ok(Kind::CoupletLayer),
            "couplet-stream" => return Ok(Kind::CoupletStream),
            "couplet-uring" => return Ok(Kind::CoupletUring),
            "couplet-inspected" => return Ok(Kind::CoupletInspected),
            "twisted" => return Ok(Kind::Twisted),
            _ => {}
        }
        let (name, size) = text.split_once('-').unwrap_or((text, ""));
        let size = match size {
            "" => Some(USUAL),
            size => size.strip_suffix('k').and_then(|size| size.parse().ok()),
        };
        match (name, size.filter(|size| (1..=65536).contains(size))) {
            ("raw", Some(size)) => Ok(Kind::Raw(size)),
            ("tokio", Some(size)) => Ok(Kind::Tokio(size)),
            ("mio", Some(size)) => Ok(Kind::Mio(size)),
            _ => Err(format!(
                "no server {text:?}; there are raw, tokio, mio (with a buffer of {USUAL} KiB, or \
                 another as in raw-64k), couplet, couplet-lines, couplet-layer, couplet-stream, \
                 couplet-uring, couplet-inspected and twisted"
            )),
        }
    }
}

/// A server's treatment of received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Role {
    #[default]
    Echo,
    /// Echoes the first message of each connection, then closes it.
    EchoOne,
    /// Joins each connection to a new connection to this server.
    Relay(SocketAddr),
    /// Sends received bytes to every connection, including the sender's.
    FanOut,
}

const RELAY: &str = "relay-to-";

/// The form on the command line.
impl Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Echo => f.write_str("echo"),
            Role::EchoOne => f.write_str("echo-one"),
            Role::Relay(server) => write!(f, "{RELAY}{server}"),
            Role::FanOut => f.write_str("fan-out"),
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let relay = text.strip_prefix(RELAY).and_then(|server| server.parse().ok());
        match (text, relay) {
            ("echo", _) => Ok(Role::Echo),
            ("echo-one", _) => Ok(Role::EchoOne),
            ("fan-out", _) => Ok(Role::FanOut),
            (_, Some(server)) => Ok(Role::Relay(server)),
            _ => Err(format!("no role {text:?}")),
        }
    }
}

/// A server's role and scheduling, passed on its command line.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Manner {
    pub(crate) role: Role,
    /// The processor to pin to.
    pub(crate) cpu: Option<usize>,
    /// Lets all other processes on that processor run first.
    pub(crate) meek: bool,
}

impl Manner {
    /// Applies to this process from now on, and to the processes that it starts.
    pub(crate) fn apply(self) -> crate::Result<()> {
        if let Some(cpu) = self.cpu {
            pin(cpu)?;
        }
        if self.meek {
            rustix::process::nice(19)?;
        }
        Ok(())
    }
}

/// Becomes a server of that kind; returns only with an error.
pub(crate) fn serve(kind: Kind, role: Role) -> crate::Result<()> {
    // The parent ends this process; the signal is for a parent that was killed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match kind {
        Kind::Raw(size) => peer_raw::serve(listen()?, size << 10, role)?,
        Kind::Tokio(size) => peer_tokio::serve(listen()?, size << 10, role)?,
        Kind::Mio(size) => peer_mio::serve(listen()?, size << 10, role)?,
        Kind::Couplet => {
            ours::serve(DriverChoice::Auto, role, ready).map_err(|error| error.to_string())?
        }
        Kind::CoupletUring => {
            ours::serve(DriverChoice::Uring, role, ready).map_err(|error| error.to_string())?
        }
        Kind::CoupletLines => ours::serve_lines(ready).map_err(|error| error.to_string())?,
        Kind::CoupletLayer => ours::serve_layer(ready).map_err(|error| error.to_string())?,
        Kind::CoupletStream => {
            ours::serve_stream(role, ready).map_err(|error| error.to_string())?
        }
        Kind::CoupletInspected | Kind::Twisted => {
            return Err(format!("{kind} is another program, not this").into());
        }
    }
    Ok(())
}

/// Creates the listener for peers without their own, and prints its address.
fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Listens a second time to change the backlog.
    rustix::net::listen(&listener, BACKLOG.into())?;
    listener.set_nonblocking(true)?;
    ready(&listener.local_addr()?);
    Ok(listener)
}

fn ready(address: &dyn Display) {
    println!("listening on {address}");
}
