//! The part of the grammar for inherited listening sockets: `fd:`, and `systemd:` for sockets
//! passed by the init system (`sd_listen_fds(3)`).
//!
//! Listens on a duplicate. The socket itself stays open, so it can be used again later.
//!
//! Contract: 145.

use std::fmt;
use std::sync::Arc;

use crate::defer::Result;
#[cfg(unix)]
use crate::driver::{ListenOptions, ListeningSocket};
use crate::endpoints::grammar::{Part, Parts, escaped};
use crate::endpoints::{EndpointError, ServerEndpoint, SharedPort, Sharing};
#[cfg(unix)]
use crate::error::Plain;
use crate::factory::ErasedFactory;
use crate::reactor::{Port, Reactor};

/// The first descriptor passed by the init system.
const FIRST: i32 = 3;

/// `fd:N`: a listening socket inherited as descriptor N, TCP or UNIX.
///
/// Twisted's `AdoptedStreamServerEndpoint`.
#[derive(Clone, Debug)]
pub struct FdServer {
    number: i32,
    place: Part,
}

impl FdServer {
    /// The listening socket with this descriptor number.
    #[must_use]
    pub fn new(number: i32) -> FdServer {
        FdServer { number, place: Part::standalone(number.to_string()) }
    }
}

impl ServerEndpoint for FdServer {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        adopt(reactor, factory, || Ok((self.number, None)), &self.place)
    }

    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        let number = self.number;
        share(sharing, move || Ok((number, None)), &self.place, self.to_string())
    }
}

/// `systemd:NAME` or `systemd:INDEX`: a listening socket passed by the init system (socket
/// activation), identified by the `FileDescriptorName=` of its unit or by its index, starting at 0.
///
/// Also Twisted's `systemd:domain=INET:index=0` and `systemd:domain=UNIX:name=NAME`; the domain
/// must match the socket's.
#[derive(Clone, Debug)]
pub struct SystemdServer {
    which: SocketSelector,
    domain: Option<&'static str>,
    place: Part,
}

#[derive(Clone, Debug)]
enum SocketSelector {
    Index(i32),
    Name(String),
}

/// Twisted's names of the address families.
const DOMAINS: [&str; 3] = ["INET", "INET6", "UNIX"];

impl SystemdServer {
    /// The socket with this name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> SystemdServer {
        let name = name.into();
        SystemdServer {
            place: Part::standalone(name.clone()),
            which: SocketSelector::Name(name),
            domain: None,
        }
    }

    /// The socket with this index, starting at 0.
    #[must_use]
    pub fn at(index: u16) -> SystemdServer {
        let place = Part::standalone(index.to_string());
        SystemdServer { which: SocketSelector::Index(index.into()), domain: None, place }
    }

    /// The descriptor number, according to the environment.
    fn number(&self) -> Result<i32, EndpointError> {
        let passed =
            PassedSockets::from_environment().map_err(|problem| self.place.error(problem))?;
        self.find(&passed)
    }

    /// The matching descriptor among the passed ones.
    fn find(&self, passed: &PassedSockets) -> Result<i32, EndpointError> {
        let index = match &self.which {
            SocketSelector::Index(index) if *index < passed.count => *index,
            SocketSelector::Index(_) => {
                let count = passed.count;
                return Err(self
                    .place
                    .error(format!("the init system has passed {count} sockets")));
            }
            SocketSelector::Name(name) => {
                let at = passed.names.iter().position(|passed| passed == name);
                let at = at.filter(|at| *at < passed.count as usize).ok_or_else(|| {
                    let names = passed.names.join(", ").replace(char::is_control, "?");
                    self.place.error(format!(
                        "the init system has passed no socket with this name, only: {names}"
                    ))
                })?;
                at as i32
            }
        };
        Ok(FIRST + index)
    }
}

/// The sockets that the init system passed to this process.
struct PassedSockets {
    count: i32,
    names: Vec<String>,
}

impl PassedSockets {
    fn from_environment() -> Result<PassedSockets, String> {
        let variable = |name: &str| std::env::var(name).ok();
        let number = |name: &str| match variable(name) {
            None => Err(format!("the init system has passed no sockets: {name} is not set")),
            Some(text) => text.parse::<u32>().map_err(|_| format!("{name} is not a number")),
        };
        let count = number("LISTEN_FDS")?;
        if number("LISTEN_PID")? != std::process::id() {
            return Err(
                "the init system has passed its sockets to another process: LISTEN_PID is \
                        not our process ID"
                    .to_owned(),
            );
        }
        let count = i32::try_from(count).ok().filter(|count| *count < i32::MAX - FIRST);
        let count = count.ok_or_else(|| "LISTEN_FDS is too large".to_owned())?;
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        Ok(PassedSockets { count, names: names.split(':').map(str::to_owned).collect() })
    }
}

/// Takes over the descriptors that the init system has passed to this process under names that begin
/// with `prefix`, such as those that an earlier process has put into its descriptor store, in the order
/// of their numbers. Children don't inherit them. A second call, and `systemd:` endpoints, don't find
/// them any more; the indices of others are unchanged.
///
/// Empty without the variables `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`, and if they are
/// malformed or meant for another process. A number that is not open is skipped.
#[cfg(unix)]
pub fn take_passed(prefix: &str) -> Vec<(String, std::os::fd::OwnedFd)> {
    let Ok(PassedSockets { count, names }) = PassedSockets::from_environment() else {
        return Vec::new();
    };
    let passed = (FIRST..FIRST + count).zip(names).filter(|(_, name)| name.starts_with(prefix));
    let taken = |number| couplet_os::descriptor::take_inherited(number).ok();
    passed.filter_map(|(number, name)| Some((name, taken(number)?))).collect()
}

impl ServerEndpoint for SystemdServer {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        adopt(reactor, factory, || Ok((self.number()?, self.domain)), &self.place)
    }

    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        let endpoint = self.clone();
        let which = move || Ok((endpoint.number()?, endpoint.domain));
        share(sharing, which, &self.place, self.to_string())
    }
}

/// Listens on the factory's socket if it has one, or else on a duplicate of a descriptor, whose
/// socket must be of this domain.
#[cfg(unix)]
fn adopt(
    reactor: &Reactor,
    mut factory: ErasedFactory,
    which: impl FnOnce() -> Result<(i32, Option<&'static str>), EndpointError>,
    place: &Part,
) -> Result<Port> {
    let socket = match factory.choose_socket(None) {
        Some(socket) => socket,
        None => inherit(which()?, place)?,
    };
    Ok(reactor.adopt_port(socket, factory).map_err(|error| socket_error(place, &error))?)
}

/// Shares the chosen socket among several loops, or else a duplicate of the descriptor's.
#[cfg(unix)]
fn share(
    sharing: &Sharing,
    which: impl Fn() -> Result<(i32, Option<&'static str>), EndpointError> + Send + Sync + 'static,
    place: &Part,
    text: String,
) -> Result<SharedPort> {
    let (sharing, inherited) = (sharing.clone(), place.clone());
    let open = move || match sharing.choose_socket(None) {
        Some(socket) => Ok(socket),
        None => inherit(which()?, &inherited),
    };
    let first = open()?;
    let again = move || open().map_err(std::io::Error::other);
    let shared = SharedPort::from_one_socket(first, &ListenOptions::default(), text, again);
    Ok(shared.map_err(|error| socket_error(place, &error))?)
}

#[cfg(unix)]
fn inherit(
    (number, domain): (i32, Option<&str>),
    place: &Part,
) -> Result<ListeningSocket, EndpointError> {
    let socket = ListeningSocket::inherited(number);
    let socket = socket.map_err(|error| passed_socket_error(number, place, &error))?;
    match domain {
        Some(domain) if socket.family() != Some(domain) => {
            Err(place.error(format!("descriptor {number} is not a socket of the domain {domain}")))
        }
        _ => Ok(socket),
    }
}

#[cfg(unix)]
fn socket_error(place: &Part, error: &std::io::Error) -> EndpointError {
    place.error(format!("cannot use the socket: {}", Plain(error)))
}

#[cfg(unix)]
fn passed_socket_error(number: i32, place: &Part, error: &std::io::Error) -> EndpointError {
    place.error(format!("cannot use descriptor {number}: {}", Plain(error)))
}

#[cfg(not(unix))]
fn share(
    _: &Sharing,
    which: impl FnOnce() -> Result<(i32, Option<&'static str>), EndpointError>,
    place: &Part,
    _: String,
) -> Result<SharedPort> {
    let (number, _) = which()?;
    Err(place.error(format!("cannot use descriptor {number}: this system passes no descriptors")))?
}

#[cfg(not(unix))]
fn adopt(
    _: &Reactor,
    _: ErasedFactory,
    which: impl FnOnce() -> Result<(i32, Option<&'static str>), EndpointError>,
    place: &Part,
) -> Result<Port> {
    let (number, _) = which()?;
    Err(place.error(format!("cannot use descriptor {number}: this system passes no descriptors")))?
}

pub(super) fn fd(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let form = parts.form("N, the number of a listening socket");
    let place = parts.positional().ok_or_else(|| parts.missing("number", &form))?;
    let number = place.number("the number of a descriptor", 0, i32::MAX as u64 - 1)? as i32;
    Ok(Arc::new(FdServer { number, place: place.with_value(number) }))
}

pub(super) fn systemd(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let domain = parts.keyword("domain").map(|part| {
        let known = DOMAINS.into_iter().find(|domain| *domain == part.text());
        known.ok_or_else(|| part.error("expected INET, INET6 or UNIX"))
    });
    let domain = domain.transpose()?;
    let (index, name) = (parts.keyword("index"), parts.keyword("name"));
    let is_index = |part: &Part| part.text().bytes().all(|byte| byte.is_ascii_digit());
    let form = parts.form("NAME or INDEX, of a socket that the init system passes");
    let missing = parts.missing("name", &form);
    let (which, place) = match (index, name) {
        (Some(index), None) => (index.index()?, index),
        (None, Some(name)) => (name.socket_name()?, name),
        (Some(_), Some(name)) => return Err(name.error("expected a name or an index, not both")),
        (None, None) => match parts.positional().ok_or(missing)? {
            index if !index.text().is_empty() && is_index(&index) => (index.index()?, index),
            name => (name.socket_name()?, name),
        },
    };
    let place = match &which {
        SocketSelector::Index(index) => place.with_value(index),
        SocketSelector::Name(_) => place,
    };
    Ok(Arc::new(SystemdServer { which, domain, place }))
}

impl Part {
    fn index(&self) -> Result<SocketSelector, EndpointError> {
        Ok(SocketSelector::Index(self.number("an index", 0, 65_535)? as i32))
    }

    /// Parses a name as allowed by the init system: at most 255 printable ASCII characters, without
    /// a colon.
    fn socket_name(&self) -> Result<SocketSelector, EndpointError> {
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b':' || byte == b' ';
        match self.text() {
            name if name.is_empty() || name.len() > 255 || !name.bytes().all(fits) => {
                Err(self.error("expected the FileDescriptorName= of a socket, or its index"))
            }
            name => Ok(SocketSelector::Name(name.to_owned())),
        }
    }
}

impl fmt::Display for FdServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd:{}", self.number)
    }
}

impl fmt::Display for SystemdServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "systemd")?;
        if let Some(domain) = self.domain {
            write!(f, ":domain={domain}")?;
        }
        match &self.which {
            SocketSelector::Index(index) => write!(f, ":index={index}"),
            SocketSelector::Name(name) => write!(f, ":name={}", escaped(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_socket_is_found_by_its_number_or_its_name() {
        let names = ["web", "mail", "unknown"].map(str::to_owned).to_vec();
        let passed = PassedSockets { count: 2, names };
        let find = |which| {
            let place = Part::standalone("here".to_owned());
            SystemdServer { which, domain: None, place }.find(&passed).ok()
        };
        let named = |name: &str| find(SocketSelector::Name(name.to_owned()));
        let first = named("web").expect("it is passed");
        assert_eq!(named("mail"), Some(first + 1));
        assert_eq!((named("unknown"), named("ftp")), (None, None));
        assert_eq!(find(SocketSelector::Index(1)), Some(first + 1));
        assert_eq!(find(SocketSelector::Index(2)), None);
    }
}
