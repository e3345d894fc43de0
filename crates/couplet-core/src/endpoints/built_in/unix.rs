//! The UNIX part of the grammar: `unix:PATH`, and `unix:@NAME` for an abstract name.
//!
//! Twisted's keywords are accepted: `address=` for listening and `path=` for connecting, `mode=`,
//! `backlog=`, `lockfile=` and `timeout=`.
//!
//! Contract: 145.

use std::fmt;
use std::sync::Arc;

use crate::address::UnixAddress;
use crate::defer::{Deferred, Result};
use crate::driver::{ConnectOptions, ListenOptions, ListeningSocket};
use crate::endpoints::grammar::{Part, Parts, Seconds, escaped, print_limits, print_switches};
use crate::endpoints::{ClientEndpoint, EndpointError, ServerEndpoint, SharedPort, Sharing};
use crate::error::ListenError;
use crate::factory::ErasedFactory;
use crate::reactor::{Port, Reactor};
use crate::switches::Switch;
use crate::transport::Transport;

/// The keyword of a port's switch.
const SWITCHES: [(&str, Switch); 1] = [("lockfile", Switch::LockFile)];

const FORM: &str = "PATH, or @NAME for an abstract name";

/// `unix:`, for listening:
/// `unix:PATH[:mode=OCTAL][:owner=UID][:group=GID][:lockfile=yes|no][:backlog=N][:connections=N][:buffered=N][:buffered_by_peer=N]`. PATH may be
/// `@NAME`, an abstract name.
///
/// The path becomes a socket file, which is removed when the port closes. With
/// [`ListenOptions::lock_file`], which is on by default, the file of a crashed process is replaced, and
/// the file of a live process is kept: a lock file, `PATH.lock`, distinguishes the two.
///
/// Twisted's `UNIXServerEndpoint` and `listenUNIX`.
#[derive(Clone, Debug)]
pub struct UnixServer {
    /// The path or the abstract name.
    pub path: UnixAddress,
    /// The port's options.
    pub options: ListenOptions,
}

impl UnixServer {
    /// Listens on this socket.
    #[must_use]
    pub fn new(path: impl Into<UnixAddress>) -> UnixServer {
        UnixServer { path: path.into(), options: ListenOptions::default() }
    }

    /// Sets the port's options.
    #[must_use]
    pub fn options(mut self, options: ListenOptions) -> UnixServer {
        self.options = options;
        self
    }
}

/// `unix:`, for connecting: `unix:PATH[:timeout=SECONDS]`. PATH may be `@NAME`, an abstract name.
///
/// Twisted's `UNIXClientEndpoint`.
#[derive(Clone, Debug)]
pub struct UnixClient {
    /// The path or the abstract name.
    pub path: UnixAddress,
    /// The connection's options.
    pub options: ConnectOptions,
}

impl UnixClient {
    /// Connects to this socket.
    #[must_use]
    pub fn new(path: impl Into<UnixAddress>) -> UnixClient {
        UnixClient { path: path.into(), options: ConnectOptions::default() }
    }

    /// Sets the connection's options.
    #[must_use]
    pub fn options(mut self, options: ConnectOptions) -> UnixClient {
        self.options = options;
        self
    }
}

impl ServerEndpoint for UnixServer {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        Ok(reactor.listen_at(self.path.clone(), self.options.clone(), factory)?)
    }

    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        let (UnixServer { path, options }, sharing) = (self.clone(), sharing.clone());
        let tried = sharing.try_address(&path.clone().into(), &options, || self.to_string());
        let refused = |error| ListenError::new(self.path.clone().into(), error);
        if let Some(tried) = tried.map_err(refused)? {
            return Ok(tried);
        }
        let divided = options.divided(sharing.loops());
        let open = move || match sharing.choose_socket(Some(&path.clone().into())) {
            Some(socket) => socket.listening(&options),
            None => ListeningSocket::unix(&path, &options),
        };
        let shared = open()
            .and_then(|first| SharedPort::from_one_socket(first, &divided, self.to_string(), open));
        Ok(shared.map_err(refused)?)
    }
}

impl ClientEndpoint for UnixClient {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        let (path, options) = (self.path.clone(), self.options.clone());
        let connecting = reactor.connect_to_deferred(path, options, factory);
        connecting.map(|connection| connection.transport())
    }
}

pub(super) fn server(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let path = parts.socket()?;
    let mut options = parts.options.clone();
    if let Some(mode) = parts.keyword("mode") {
        options = options.mode(mode.mode()?);
    }
    if let Some(owner) = parts.keyword("owner") {
        options = options.owner(owner.system_id()?);
    }
    if let Some(group) = parts.keyword("group") {
        options = options.group(group.system_id()?);
    }
    parts.read_switches(&SWITCHES, &mut options.switches)?;
    options = parts.read_limits(options)?;
    Ok(Arc::new(UnixServer { path, options }))
}

pub(super) fn client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let path = parts.socket()?;
    let mut options = ConnectOptions::default();
    if let Some(timeout) = parts.keyword("timeout") {
        options = options.timeout(timeout.seconds()?);
    }
    // Twisted's check before a connect. Ignored: a refused connect gives the same answer.
    parts.flag("lockfile")?;
    Ok(Arc::new(UnixClient { path, options }))
}

impl fmt::Display for UnixServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnixServer { path, options } = self;
        let default = ListenOptions::default();
        print_socket(f, path)?;
        let mode = options.mode & 0o7777;
        if mode != default.mode {
            write!(f, ":mode={mode:o}")?;
        }
        for (key, id) in [("owner", options.owner), ("group", options.group)] {
            // To the system, the last number means "leave unchanged".
            let id = id.filter(|id| *id != u32::MAX);
            id.iter().try_for_each(|id| write!(f, ":{key}={id}"))?;
        }
        print_switches(f, &SWITCHES, options.switches, default.switches)?;
        print_limits(f, options)
    }
}

impl fmt::Display for UnixClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_socket(f, &self.path)?;
        if self.options.timeout != ConnectOptions::default().timeout {
            write!(f, ":timeout={}", Seconds(self.options.timeout))?;
        }
        Ok(())
    }
}

impl Parts {
    /// The name of the socket: by keyword, otherwise by position.
    fn socket(&mut self) -> Result<UnixAddress, EndpointError> {
        let form = self.form(FORM);
        let named = self.one_of(&["path", "address"]);
        let part = named.or_else(|| self.positional());
        let part = part.ok_or_else(|| self.missing("path", &form))?;
        match (part.text.as_str(), part.text.strip_prefix('@')) {
            ("", _) => Err(part.error(format!("missing path: expected {form}"))),
            (path, _) if path.contains('\0') => {
                Err(part.error("the path of a socket must not contain a NUL"))
            }
            (_, Some("")) => Err(part.error("missing name after @")),
            (_, Some(name)) => Ok(UnixAddress::Abstract(name.as_bytes().into())),
            (path, None) => Ok(path.into()),
        }
    }
}

impl Part {
    /// Parses permissions, in octal.
    fn mode(&self) -> Result<u32, EndpointError> {
        let digits = self.text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        match u32::from_str_radix(&self.text, 8) {
            Ok(mode) if digits && mode <= 0o7777 => Ok(mode),
            _ => Err(self.error("expected permissions in octal, such as 660")),
        }
    }
}

/// Writes the exact name, so that it parses back; the address's `Display` hides control characters.
fn print_socket(f: &mut fmt::Formatter<'_>, name: &UnixAddress) -> fmt::Result {
    match name {
        UnixAddress::Path(path) if path.as_os_str().as_encoded_bytes().starts_with(b"@") => {
            write!(f, "unix:./{}", escaped(&path.to_string_lossy()))
        }
        UnixAddress::Path(path) => write!(f, "unix:{}", escaped(&path.to_string_lossy())),
        UnixAddress::Abstract(name) => {
            write!(f, "unix:@{}", escaped(&String::from_utf8_lossy(name)))
        }
        UnixAddress::Unnamed => write!(f, "unix:"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_client_connects_with_its_options() {
        let timeout = Duration::from_secs(12_345);
        let options = ConnectOptions::default().timeout(timeout);
        let client = UnixClient::new("/run/poems.socket").options(options);
        assert_eq!(client.options.timeout, timeout);
    }
}
