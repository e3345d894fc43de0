//! The settings of a Redis client, and its address.
//!
//! Contract: 213.

use std::fmt;

#[cfg(any(feature = "tls", feature = "ring"))]
use couplet_core::layers::tls::{ClientTls, ClientTlsOptions};
use percent_encoding::percent_decode_str;

use crate::client::{Server, Settings, setters};

/// The default port of a server.
const PORT: u16 = 6379;

/// The address of a server is invalid. No error shows it, because it may have a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The address is not of the form `redis://host:port`.
    #[error(
        "the address of the Redis server is invalid: write redis://HOST:PORT, \
         redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss:// for TLS"
    )]
    BadAddress,
    /// The address asks for TLS, which this program lacks or cannot set up.
    #[error("cannot use TLS for Redis: {0}")]
    Tls(String),
}

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// Without the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, …)", self.user)
    }
}

/// The settings of a Redis client. See each for its default.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) settings: Settings,
    pub(super) name: Option<String>,
    pub(super) login: Option<Login>,
    pub(super) database: u32,
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(super) tls: Option<ClientTls>,
    pub(super) echo: bool,
}

impl Options {
    /// A client of this server: `redis://[[user]:password@]host[:port][/database]`, or `rediss://`
    /// for TLS. The port is 6379 and the database 0 by default. Users and passwords are
    /// percent-encoded.
    ///
    /// # Errors
    ///
    /// If the address is not of this form.
    pub fn new(address: &str) -> Result<Options, AddressError> {
        let bad = AddressError::BadAddress;
        let (scheme, rest) = address.trim().split_once("://").ok_or(bad.clone())?;
        let is_encrypted = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(bad),
        };
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(parse_login(login).ok_or(bad.clone())?), rest),
            None => (None, rest),
        };
        let (host, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            database => database.parse().map_err(|_| bad.clone())?,
        };
        let server = Server::parse(host, PORT).ok_or(bad)?;
        #[cfg(not(any(feature = "tls", feature = "ring")))]
        if is_encrypted {
            return Err(AddressError::Tls("it is not part of this program".to_owned()));
        }
        Ok(Options {
            settings: Settings::new(vec![server]),
            name: None,
            login,
            database,
            #[cfg(any(feature = "tls", feature = "ring"))]
            tls: if is_encrypted { Some(default_tls()?) } else { None },
            echo: true,
        })
    }

    /// Names the client, for the server's `CLIENT LIST`; unnamed by default. Such a name is
    /// printable ASCII without spaces; any other character becomes `_`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        let name: String = name.into();
        // The server refuses a login with any other name.
        self.name = Some(name.replace(|c: char| !c.is_ascii_graphic(), "_"));
        self
    }

    /// Encrypts the connection with these settings, also without `rediss://`; that address takes
    /// the system's roots by default.
    #[cfg(any(feature = "tls", feature = "ring"))]
    #[must_use]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets whether the bus gets the messages that it publishes itself; it does by default. Without
    /// echo, the messages are sent in an [envelope](crate::redis) that names their bus.
    #[must_use]
    pub fn echo(mut self, on: bool) -> Self {
        self.echo = on;
        self
    }

    /// Sets the maximum size of headers and payload, in bytes; 1 MiB by default. Larger messages
    /// can't be published, and are [dropped](crate::Event::Oversized) when they arrive.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.settings.max_payload = bytes;
        self
    }

    setters!();
}

/// `user:password`, `:password` or `password`.
fn parse_login(text: &str) -> Option<Login> {
    let (user, password) = text.split_once(':').unwrap_or(("", text));
    let decode = |text| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    let (user, password) = (decode(user)?, decode(password)?);
    // The user of servers with a single password.
    let user = if user.is_empty() { "default".to_owned() } else { user };
    Some(Login { user, password })
}

#[cfg(any(feature = "tls", feature = "ring"))]
fn default_tls() -> Result<ClientTls, AddressError> {
    let tls = ClientTls::new(&ClientTlsOptions::default());
    tls.map_err(|error| AddressError::Tls(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Host, user, password and database of an address.
    fn parsed(text: &str) -> Option<String> {
        let options = Options::new(text).ok()?;
        let login = options.login.map(|login| format!("{} {} ", login.user, login.password));
        let server = &options.settings.servers[0];
        Some(format!("{}{server} {}", login.unwrap_or_default(), options.database))
    }

    #[test]
    fn c213_addresses_of_redis() {
        for (text, shown) in [
            ("redis://localhost", Some("localhost:6379 0")),
            ("redis://127.0.0.1:1/15", Some("127.0.0.1:1 15")),
            ("redis://[::1]:9/", Some("[::1]:9 0")),
            (" redis://a ", Some("a:6379 0")),
            ("redis://:p@a", Some("default p a:6379 0")),
            ("redis://p%40ss@a", Some("default p@ss a:6379 0")),
            ("redis://u:p:@@a:1/2", Some("u p:@ a:1 2")),
            ("rediss://a", Some("a:6379 0")),
            ("a", None),
            ("redis://", None),
            ("redis://u:p@", None),
            ("redis://a:99999", None),
            ("redis://a/x", None),
            ("redis://a/-1", None),
            ("redis://a/1/2", None),
            ("redis://a b", None),
            ("redis://a,redis://b", None),
            ("redis://a,b", None),
            ("redis://%ff@a", None),
            ("nats://a", None),
        ] {
            assert_eq!(parsed(text), shown.map(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn c213_no_error_and_no_debug_shows_a_password() {
        let shown = format!("{:?}", Options::new("redis://ada:s3cret@a").expect("it is valid"));
        assert!(shown.contains("ada") && !shown.contains("s3cret"), "{shown}");
        let error = Options::new("redis://ada:s3cret@a:x").expect_err("its port is bad");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
