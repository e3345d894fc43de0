//! The kinds of servers, and the roles that each can play.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::str::FromStr;

use couplet_testkit::bench::processors::pin;

/// A server's implementation, with the size of its read buffer in KiB if that can be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A server on the library; `couplet echo` and `couplet serve` where these play the role.
    Couplet,
    /// The same over io_uring.
    CoupletUring,
    /// `couplet serve --sendfile`: sends files without a copy, like `nginx`.
    CoupletSendfile,
    /// `couplet echo` with an inspector without readers.
    CoupletInspected,
    /// An echo over a layer that passes bytes unchanged.
    CoupletLayer,
    /// An echo or a relay in async style.
    CoupletStream,
    /// A fan-out by a room.
    CoupletRooms,
    /// Twisted on this library's loop.
    CoupletTwisted,
    /// Epoll by hand.
    Raw(usize),
    /// The same, which sends a fan-out once all events of a poll are handled.
    RawAfter,
    /// io_uring by hand, in C.
    RawUring,
    Mio(usize),
    Tokio(usize),
    /// A fan-out by a channel for each connection.
    TokioChannels,
    Hyper,
    /// With `sendfile on`.
    Nginx,
    /// With its default, `sendfile off`: copies files, like `couplet serve`.
    NginxCopies,
    Haproxy,
    H2o,
    Nghttpd,
    Node,
    Go,
    Uvloop,
    Twisted,
}

/// Default buffer size in KiB.
pub(crate) const USUAL: usize = 16;
/// Connections that the kernel queues for a server of any kind.
pub(crate) const BACKLOG: u16 = 1024;

/// The kinds that have one form, by their names on the command line.
const NAMED: [(&str, Kind); 21] = [
    ("couplet", Kind::Couplet),
    ("couplet-uring", Kind::CoupletUring),
    ("couplet-sendfile", Kind::CoupletSendfile),
    ("couplet-inspected", Kind::CoupletInspected),
    ("couplet-layer", Kind::CoupletLayer),
    ("couplet-stream", Kind::CoupletStream),
    ("couplet-rooms", Kind::CoupletRooms),
    ("couplet-twisted", Kind::CoupletTwisted),
    ("raw-after", Kind::RawAfter),
    ("raw-uring", Kind::RawUring),
    ("tokio-channels", Kind::TokioChannels),
    ("hyper", Kind::Hyper),
    ("nginx", Kind::Nginx),
    ("nginx-copies", Kind::NginxCopies),
    ("haproxy", Kind::Haproxy),
    ("h2o", Kind::H2o),
    ("nghttpd", Kind::Nghttpd),
    ("node", Kind::Node),
    ("go", Kind::Go),
    ("uvloop", Kind::Uvloop),
    ("twisted", Kind::Twisted),
];

/// The servers that are compared by default; the first is the base of the ratios.
pub(crate) const COMPARED: &[Kind] = &[
    Kind::Couplet,
    Kind::CoupletUring,
    Kind::CoupletSendfile,
    Kind::CoupletRooms,
    Kind::CoupletTwisted,
    Kind::Raw(USUAL),
    Kind::RawAfter,
    Kind::RawUring,
    Kind::Mio(USUAL),
    Kind::Tokio(USUAL),
    Kind::TokioChannels,
    Kind::Hyper,
    Kind::Nginx,
    Kind::NginxCopies,
    Kind::Haproxy,
    Kind::H2o,
    Kind::Nghttpd,
    Kind::Go,
    Kind::Node,
    Kind::Uvloop,
    Kind::Twisted,
];
/// The default where large buffers matter: also with buffers as large as a loop's of the library.
pub(crate) const COMPARED_IN_BULK: &[Kind] = &[
    Kind::Couplet,
    Kind::CoupletUring,
    Kind::Raw(USUAL),
    Kind::Raw(256),
    Kind::RawUring,
    Kind::Mio(USUAL),
    Kind::Mio(256),
    Kind::Tokio(USUAL),
    Kind::Tokio(256),
    Kind::Haproxy,
    Kind::Go,
    Kind::Node,
    Kind::Uvloop,
    Kind::Twisted,
];

impl Kind {
    /// True if this kind has a server for the role.
    pub(crate) fn plays(self, role: Role) -> bool {
        use Role::{Echo, EchoOne, Files, Hello1, Hello2, Lines, Relay, Tls};
        match self {
            Kind::Couplet => true,
            Kind::CoupletUring => role != Tls,
            Kind::CoupletSendfile | Kind::NginxCopies => role == Files,
            Kind::CoupletInspected | Kind::CoupletLayer | Kind::RawUring => role == Echo,
            Kind::CoupletStream => matches!(role, Echo | Relay(_)),
            Kind::CoupletRooms | Kind::RawAfter | Kind::TokioChannels => role == Role::FanOut,
            Kind::Raw(_) => matches!(role, Echo | EchoOne | Relay(_) | Role::FanOut),
            Kind::Mio(_) => matches!(role, Echo | EchoOne),
            Kind::Tokio(_) => !matches!(role, Hello1 | Hello2 | Files),
            Kind::Hyper => matches!(role, Hello1 | Hello2 | Files),
            Kind::Nginx => matches!(role, Hello1 | Hello2 | Files),
            Kind::Haproxy => matches!(role, Hello1 | Hello2 | Relay(_)),
            Kind::H2o => matches!(role, Hello1 | Hello2 | Files),
            Kind::Nghttpd => role == Hello2,
            Kind::Node => matches!(role, Echo | EchoOne | Role::FanOut | Hello1 | Hello2),
            Kind::Go => matches!(role, Echo | EchoOne | Lines | Role::FanOut | Hello1),
            Kind::Uvloop => matches!(role, Echo | EchoOne | Lines | Role::FanOut),
            Kind::Twisted | Kind::CoupletTwisted => !matches!(role, Tls | Hello2 | Files),
        }
    }

    /// True for the servers of other projects, each a separate program.
    pub(crate) fn is_foreign(self) -> bool {
        use Kind::{
            CoupletTwisted, Go, H2o, Haproxy, Nghttpd, Nginx, NginxCopies, Node, RawUring, Twisted,
            Uvloop,
        };
        matches!(
            self,
            CoupletTwisted
                | RawUring
                | Nginx
                | NginxCopies
                | Haproxy
                | H2o
                | Nghttpd
                | Node
                | Go
                | Uvloop
                | Twisted
        )
    }
}

/// The form on the command line, and in tables.
impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Raw(size) => write!(f, "raw-{size}k"),
            Kind::Tokio(size) => write!(f, "tokio-{size}k"),
            Kind::Mio(size) => write!(f, "mio-{size}k"),
            _ => {
                let named = NAMED.iter().find(|(_, kind)| kind == self);
                f.write_str(named.map_or("", |(name, _)| name))
            }
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        if let Some((_, kind)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(*kind);
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
            _ => {
                let named = NAMED.map(|(name, _)| name).join(", ");
                Err(format!(
                    "no such server; there are {named}, raw, mio and tokio, these three with a read \
                     buffer of {USUAL} KiB or another one, as in raw-64k"
                ))
            }
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
    /// Echoes lines, each framed and written separately.
    Lines,
    /// Joins each connection to a new connection to this server.
    Relay(SocketAddr),
    /// Sends received bytes to every connection, including the sender's.
    FanOut,
    /// Echoes over TLS.
    Tls,
    /// Answers each request of HTTP/1.1 with [`crate::load::HELLO`].
    Hello1,
    /// The same in HTTP/2, without TLS.
    Hello2,
    /// Serves the files of a folder over HTTP/1.1.
    Files,
}

const RELAY: &str = "relay-to-";

const ROLES: [(&str, Role); 8] = [
    ("echo", Role::Echo),
    ("echo-one", Role::EchoOne),
    ("lines", Role::Lines),
    ("fan-out", Role::FanOut),
    ("tls", Role::Tls),
    ("hello-1", Role::Hello1),
    ("hello-2", Role::Hello2),
    ("files", Role::Files),
];

/// The form on the command line.
impl Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Relay(server) => write!(f, "{RELAY}{server}"),
            _ => {
                let named = ROLES.iter().find(|(_, role)| role == self);
                f.write_str(named.map_or("", |(name, _)| name))
            }
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let relay = text.strip_prefix(RELAY).and_then(|server| server.parse().ok());
        let named = ROLES.iter().find(|(name, _)| *name == text).map(|(_, role)| *role);
        named.or(relay.map(Role::Relay)).ok_or_else(|| format!("no role {text:?}"))
    }
}

/// A server's role and scheduling.
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
