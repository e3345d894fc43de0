//! The settings of a NATS client.

use std::fmt;

#[cfg(any(feature = "tls", feature = "ring"))]
use couplet_core::layers::tls::ClientTls;

#[cfg(any(feature = "tls", feature = "ring"))]
use super::nkey::Nkey;
use super::servers::{ServerError, parse};
use crate::client::{Settings, setters};

/// The credentials of a client.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Auth {
    /// None.
    #[default]
    None,
    /// A token.
    Token(String),
    /// A user's name and password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A user's nkey, which signs the server's nonce.
    #[cfg(any(feature = "tls", feature = "ring"))]
    Nkey(Nkey),
}

/// Without the secrets.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::Token(_) => f.write_str("Token(…)"),
            Auth::Password { user, .. } => write!(f, "Password({user:?}, …)"),
            #[cfg(any(feature = "tls", feature = "ring"))]
            Auth::Nkey(nkey) => write!(f, "{nkey:?}"),
        }
    }
}

/// The settings of a NATS client. See each for its default.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) settings: Settings,
    pub(super) name: Option<String>,
    pub(super) auth: Auth,
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(super) tls: Option<ClientTls>,
    pub(super) echo: bool,
}

impl Options {
    /// A client of these servers, which form a cluster: `nats://host:port`, `host:port` or `host`,
    /// with 4222 as the default port. The client tries them in random order, and those that a server
    /// names in addition.
    ///
    /// # Errors
    ///
    /// If there is no server, or one is not of this form. Credentials are given to
    /// [`auth`](Self::auth), not in an address, which is logged.
    pub fn new<S: AsRef<str>>(
        servers: impl IntoIterator<Item = S>,
    ) -> Result<Options, ServerError> {
        let servers = servers.into_iter().map(|server| parse(server.as_ref()));
        let servers: Vec<_> = servers.collect::<Result<_, _>>()?;
        if servers.is_empty() {
            return Err(ServerError::NoServer);
        }
        Ok(Options {
            settings: Settings::new(servers),
            name: None,
            auth: Auth::None,
            #[cfg(any(feature = "tls", feature = "ring"))]
            tls: None,
            echo: true,
        })
    }

    /// Names the client, for the server's monitoring; unnamed by default.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the credentials; none by default.
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Encrypts the connections, and refuses servers that can't; they are not encrypted by default.
    /// A server that requires TLS needs this setting. A certificate must be for the host that the
    /// program has named, unless
    /// [`server_name`](couplet_core::layers::tls::ClientTlsOptions::server_name) says otherwise. A
    /// server that another one names must have a certificate for the host of the latter, so a
    /// cluster whose certificates have different names is named in full. Nothing that a server says
    /// before TLS counts, neither its cluster nor its limits.
    #[cfg(any(feature = "tls", feature = "ring"))]
    #[must_use]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets whether the bus gets the messages that it publishes itself; it does by default. Without
    /// echo, subscriptions get the messages of other buses only.
    #[must_use]
    pub fn echo(mut self, on: bool) -> Self {
        self.echo = on;
        self
    }

    /// Sets the maximum size of headers and payload, in bytes; 1 MiB by default, as for servers.
    /// Larger messages can't be published, and are [dropped](crate::Event::Oversized) when they
    /// arrive. The server may have a smaller limit for publishing, which holds once it is known.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.settings.max_payload = bytes;
        self
    }

    setters!();
}
