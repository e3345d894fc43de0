//! Addresses of connections and ports. Depends on no other module.
//!
//! Twisted's `IPv4Address`, `IPv6Address` and `UNIXAddress` as one enum.
//!
//! Contract: 144a, 145a, 161.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use couplet_os::interfaces::interface_number;

/// The address of one end of a connection, or of a listening port.
///
/// Displays as an endpoint string: `tcp:127.0.0.1:8000`, `tcp:[::1]:8000`, `unix:/run/app.sock`,
/// or, for a datagram socket, `udp:127.0.0.1:9000`.
///
/// ```
/// use couplet::Address;
///
/// let address: Address = "127.0.0.1:8000".parse::<std::net::SocketAddr>().unwrap().into();
/// assert_eq!(address.to_string(), "tcp:127.0.0.1:8000");
/// assert_eq!(address.port(), Some(8000));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address. An IPv4 peer of a dual-stack port appears as IPv4.
    Tcp(SocketAddr),
    /// A UDP address. An IPv4 peer of a dual-stack port appears as IPv4.
    Udp(SocketAddr),
    /// The name of a UNIX socket. A client's socket is usually [unnamed](UnixAddress::Unnamed).
    Unix(UnixAddress),
    /// Not a socket: pipes, a terminal, a file. The text names the kind, as in `stdio:`, and cannot
    /// be connected to.
    Pipe(Arc<str>),
}

impl Address {
    /// The address of an internet socket, whether of TCP or UDP, or else the name of a UNIX socket. A
    /// pipe fails like a UNIX socket without a name.
    pub(crate) fn into_socket(self) -> Result<SocketAddr, UnixAddress> {
        match self {
            Address::Tcp(address) | Address::Udp(address) => Ok(address),
            Address::Unix(name) => Err(name),
            Address::Pipe(_) => Err(UnixAddress::Unnamed),
        }
    }

    /// A UDP address.
    pub fn udp(address: impl Into<SocketAddr>) -> Address {
        Address::Udp(canonical(address.into()))
    }

    /// The socket address, including the scope of a link-local IPv6 address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(addr) | Address::Udp(addr) => Some(*addr),
            Address::Unix(_) | Address::Pipe(_) => None,
        }
    }

    /// The name of a UNIX socket.
    pub fn unix(&self) -> Option<&UnixAddress> {
        match self {
            Address::Unix(name) => Some(name),
            Address::Tcp(_) | Address::Udp(_) | Address::Pipe(_) => None,
        }
    }

    /// The path of a UNIX socket, if it has a path.
    pub fn path(&self) -> Option<&Path> {
        self.unix()?.path()
    }

    /// The IP address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|addr| addr.ip())
    }

    /// The port number.
    pub fn port(&self) -> Option<u16> {
        self.socket_addr().map(|addr| addr.port())
    }

    /// A URL of the server at this address, as a client on this machine reaches it. `None` without a
    /// port. The wildcard address becomes `localhost`.
    ///
    /// ```
    /// use couplet::Address;
    ///
    /// let url = |address: &str| {
    ///     let address: std::net::SocketAddr = address.parse().expect("an address");
    ///     Address::from(address).url("http")
    /// };
    /// assert_eq!(url("127.0.0.1:8000").as_deref(), Some("http://127.0.0.1:8000"));
    /// assert_eq!(url("[::1]:8000").as_deref(), Some("http://[::1]:8000"));
    /// assert_eq!(url("0.0.0.0:8000").as_deref(), Some("http://localhost:8000"));
    /// ```
    pub fn url(&self, scheme: &str) -> Option<String> {
        let address = self.socket_addr()?;
        Some(match self.is_wildcard() {
            true => format!("{scheme}://localhost:{}", address.port()),
            false => format!("{scheme}://{address}"),
        })
    }

    /// True for the wildcard address, which a port that listens on all interfaces has.
    pub fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }
}

/// The ASCII form of a host name, used in lookups, certificates and requests: IDNA, RFC 5891, with the
/// mapping of UTS 46. `None` if a name beyond ASCII can't be converted, or if the feature `idna` is off.
pub fn ascii_host(name: &str) -> Option<Cow<'_, str>> {
    if name.is_ascii() {
        return Some(Cow::Borrowed(name));
    }
    #[cfg(feature = "idna")]
    return idna::domain_to_ascii(name).ok().filter(|name| !name.is_empty()).map(Cow::Owned);
    #[cfg(not(feature = "idna"))]
    None
}

/// The IP address as text, with the scope of an IPv6 one.
pub(crate) fn host_of(address: &SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => address.ip().to_string(),
    }
}

/// Parses an IP address with an optional scope, an interface number or name: `fe80::1%2`,
/// `fe80::1%eth0`. Only IPv6 addresses have scopes.
pub(crate) fn scoped_ip(text: &str, port: u16) -> Result<SocketAddr, NotAnIp<'_>> {
    let Some((ip, scope)) = split_scope(text) else {
        let ip: IpAddr = text.parse().map_err(|_| NotAnIp::NoAddress)?;
        return Ok(SocketAddr::new(ip, port));
    };
    let number = match scope.parse() {
        Ok(number) => number,
        Err(_) => interface_number(scope).ok_or(NotAnIp::NoInterface(scope))?,
    };
    Ok(SocketAddrV6::new(ip, port, 0, number).into())
}

/// Splits an IPv6 address from its scope.
pub(crate) fn split_scope(text: &str) -> Option<(Ipv6Addr, &str)> {
    let (ip, scope) = text.split_once('%')?;
    Some((ip.parse().ok()?, scope))
}

/// The reason why [`scoped_ip`] rejected its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAnIp<'a> {
    NoAddress,
    /// No interface has this name.
    NoInterface(&'a str),
}

/// Converts an IPv4-mapped IPv6 address to IPv4.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (v4, v6.port()).into(),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

/// A TCP address; for UDP use [`Address::udp`].
impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Address {
        Address::Tcp(canonical(addr))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "tcp:{addr}"),
            Address::Udp(addr) => write!(f, "udp:{addr}"),
            Address::Unix(name) => write!(f, "unix:{name}"),
            Address::Pipe(name) => f.write_str(name),
        }
    }
}

/// The name of a UNIX socket. Twisted's `UNIXAddress`.
///
/// Built from a path: as in Twisted, a path that begins with a NUL is an
/// [abstract](Self::Abstract) name, and an empty path is [unnamed](Self::Unnamed).
///
/// ```
/// use couplet::{Address, UnixAddress};
///
/// let name = UnixAddress::from("/run/app.sock");
/// assert_eq!(Address::from(name).to_string(), "unix:/run/app.sock");
/// assert_eq!(UnixAddress::from("\0app"), UnixAddress::Abstract((*b"app").into()));
/// assert_eq!(UnixAddress::from("\0app").to_string(), "@app");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum UnixAddress {
    /// The path of a socket file.
    Path(Arc<Path>),
    /// An abstract name, which belongs to no file, without the NUL that precedes it in the system's
    /// interface. Linux only.
    Abstract(Arc<[u8]>),
    /// The socket has no name, like a client's socket or a socket pair.
    Unnamed,
}

impl UnixAddress {
    /// The path, if it has one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            UnixAddress::Path(path) => Some(path),
            _ => None,
        }
    }
}

impl From<&Path> for UnixAddress {
    fn from(path: &Path) -> UnixAddress {
        match path.as_os_str().as_encoded_bytes() {
            [] => UnixAddress::Unnamed,
            [0, name @ ..] => UnixAddress::Abstract(name.into()),
            _ => UnixAddress::Path(path.into()),
        }
    }
}

impl From<&str> for UnixAddress {
    fn from(path: &str) -> UnixAddress {
        Path::new(path).into()
    }
}

impl From<&OsStr> for UnixAddress {
    fn from(path: &OsStr) -> UnixAddress {
        Path::new(path).into()
    }
}

impl From<String> for UnixAddress {
    fn from(path: String) -> UnixAddress {
        Path::new(&path).into()
    }
}

impl From<PathBuf> for UnixAddress {
    fn from(path: PathBuf) -> UnixAddress {
        path.as_path().into()
    }
}

impl From<&PathBuf> for UnixAddress {
    fn from(path: &PathBuf) -> UnixAddress {
        path.as_path().into()
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Address {
        address.clone()
    }
}

impl From<UnixAddress> for Address {
    fn from(name: UnixAddress) -> Address {
        Address::Unix(name)
    }
}

/// Formats a name as ss(8) prints it, escaped for an endpoint string: the path, `@` and the
/// abstract name, or `*` for an unnamed socket. `./` is put before a path that begins with `@` or
/// `*`. Control characters and invalid UTF-8 are replaced by U+FFFD.
impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, name): (&str, Cow<'_, str>) = match self {
            UnixAddress::Path(path) => {
                let path = path.to_string_lossy();
                (if path.starts_with(['@', '*']) { "./" } else { "" }, path)
            }
            UnixAddress::Abstract(name) => ("@", String::from_utf8_lossy(name)),
            UnixAddress::Unnamed => return f.write_str("*"),
        };
        f.write_str(before)?;
        name.chars().try_for_each(|letter| match letter {
            ':' | '\\' | '=' | '[' => write!(f, "\\{letter}"),
            letter if letter.is_control() => write!(f, "\u{fffd}"),
            letter => write!(f, "{letter}"),
        })
    }
}
