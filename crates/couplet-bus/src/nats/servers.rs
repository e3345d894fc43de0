//! The addresses of NATS servers, and their errors.

use crate::client::Server;

/// The default port of a server.
const PORT: u16 = 4222;

/// The address of a server is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No server was named.
    #[error("cannot use NATS: no server is named")]
    NoServer,
    /// The address is not of the form `nats://host:port`.
    #[error("{0:?} is not a NATS server: write nats://host:port or host:port")]
    BadAddress(String),
    /// The address contains credentials.
    #[error("the address of a NATS server contains credentials: give them to `Options::auth`")]
    Credentials,
}

pub(super) fn parse(text: &str) -> Result<Server, ServerError> {
    let address = text.strip_prefix("nats://").unwrap_or(text);
    if address.contains('@') {
        return Err(ServerError::Credentials);
    }
    Server::parse(address, PORT).ok_or_else(|| ServerError::BadAddress(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c207_addresses_of_servers() {
        for (text, shown) in [
            ("nats://localhost:1", Some("localhost:1")),
            ("localhost", Some("localhost:4222")),
            ("127.0.0.1:65535", Some("127.0.0.1:65535")),
            ("nats://[::1]", Some("[::1]:4222")),
            ("[::1]:9", Some("[::1]:9")),
            ("", None),
            ("nats://", None),
            (":4222", None),
            ("a:b", None),
            ("a:65536", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]9", None),
            ("http://a", None),
            ("a b", None),
            ("nats://ada:secret@a", None),
        ] {
            let shown = shown.map(str::to_owned);
            assert_eq!(parse(text).ok().map(|server| server.to_string()), shown, "{text:?}");
        }
        assert!(!parse("nats://ada:secret@a").unwrap_err().to_string().contains("secret"));
    }
}
