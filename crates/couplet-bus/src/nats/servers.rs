//! The servers of a cluster: those that the program names, and those that they name.

use std::collections::VecDeque;
use std::fmt;

use couplet_core::Reactor;

/// The default port of a server.
const PORT: u16 = 4222;
/// Maximum number of servers learned from others.
const MAX_LEARNED: usize = 64;

/// The address of a server is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No server was named.
    #[error("cannot use NATS: no server is named")]
    NoServer,
    /// It is not of the form `nats://host:port`.
    #[error("{0:?} is not a NATS server: write nats://host:port or host:port")]
    BadAddress(String),
    /// It contains credentials.
    #[error("the address of a NATS server contains credentials: give them to `Options::auth`")]
    Credentials,
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    is_learned: bool,
}

impl Server {
    pub(super) fn parse(text: &str) -> Result<Server, ServerError> {
        let bad = || ServerError::BadAddress(text.to_owned());
        let address = text.strip_prefix("nats://").unwrap_or(text);
        if address.contains('@') {
            return Err(ServerError::Credentials);
        }
        let (host, port) = match address.strip_prefix('[') {
            // An IPv6 address.
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(bad)?;
                (
                    host,
                    if after.is_empty() {
                        None
                    } else {
                        Some(after.strip_prefix(':').ok_or_else(bad)?)
                    },
                )
            }
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| bad()))?;
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/')
        {
            return Err(bad());
        }
        Ok(Server { host: host.to_owned(), port, is_learned: false })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The servers in the order of the attempts.
#[derive(Debug)]
pub(super) struct Servers(
    // Bound: those that the program names, and `MAX_LEARNED`.
    VecDeque<Server>,
);

impl Servers {
    /// In random order, so that clients spread over the servers.
    pub(super) fn new(named: Vec<Server>, reactor: &Reactor) -> Servers {
        let mut servers = VecDeque::from(named);
        for place in (1..servers.len()).rev() {
            servers.swap(place, (reactor.random() % (place as u64 + 1)) as usize);
        }
        Servers(servers)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The next one to try.
    pub(super) fn next(&mut self) -> Server {
        self.0.rotate_left(1);
        self.0.back().expect("at least one was named").clone()
    }

    /// Replaces the learned servers. Malformed ones are ignored.
    pub(super) fn learn(&mut self, addresses: &[String]) {
        let listed: Vec<Server> =
            addresses.iter().filter_map(|address| Server::parse(address).ok()).collect();
        let is_same = |a: &Server, b: &Server| a.host == b.host && a.port == b.port;
        self.0.retain(|known| !known.is_learned || listed.iter().any(|one| is_same(one, known)));
        for server in listed {
            let learned = self.0.iter().filter(|known| known.is_learned).count();
            if learned < MAX_LEARNED && !self.0.iter().any(|known| is_same(known, &server)) {
                self.0.push_front(Server { is_learned: true, ..server });
            }
        }
    }
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
            assert_eq!(
                Server::parse(text).ok().map(|server| server.to_string()),
                shown,
                "{text:?}"
            );
        }
        assert!(!Server::parse("nats://ada:secret@a").unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn c207_learned_servers_are_bounded_and_replaced() {
        let reactor = couplet_core::Loop::new().expect("a loop").reactor();
        let mut servers = Servers::new(vec![Server::parse("a").expect("it is valid")], &reactor);
        let many: Vec<String> = (0..200).map(|port| format!("b:{port}")).collect();
        servers.learn(&many);
        assert_eq!(servers.len(), 1 + MAX_LEARNED);
        servers.learn(&["a:4222".to_owned(), "b:7".to_owned(), "c".to_owned(), "?:x".to_owned()]);
        let mut all: Vec<String> = (0..3).map(|_| servers.next().to_string()).collect();
        all.sort();
        assert_eq!(all, ["a:4222", "b:7", "c:4222"]);
    }
}
