//! The servers of a cluster: those that the program names, and those that they name.

use std::collections::VecDeque;
use std::fmt;

use couplet_core::Reactor;

/// Maximum number of servers learned from others.
const MAX_LEARNED: usize = 64;

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    is_learned: bool,
}

impl Server {
    /// Parses `host`, `host:port` or `[IPv6 address]:port`.
    pub(crate) fn parse(address: &str, default_port: u16) -> Option<Server> {
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']')?;
                match after.strip_prefix(':') {
                    None if after.is_empty() => (host, None),
                    port => (host, Some(port?)),
                }
            }
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = port.map_or(Some(default_port), |port| port.parse().ok())?;
        let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | ',');
        let is_valid = !host.is_empty() && !host.contains(is_bad);
        is_valid.then(|| Server { host: host.to_owned(), port, is_learned: false })
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
pub(crate) struct Servers(
    // Bound: those that the program names, and `MAX_LEARNED`.
    VecDeque<Server>,
);

impl Servers {
    /// In random order, so that clients spread over the servers.
    pub(crate) fn new(named: Vec<Server>, reactor: &Reactor) -> Servers {
        let mut servers = VecDeque::from(named);
        for place in (1..servers.len()).rev() {
            servers.swap(place, (reactor.random() % (place as u64 + 1)) as usize);
        }
        Servers(servers)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The next one to try.
    pub(crate) fn next(&mut self) -> Server {
        self.0.rotate_left(1);
        self.0.back().expect("at least one was named").clone()
    }

    /// Replaces the learned servers.
    pub(crate) fn learn(&mut self, listed: Vec<Server>) {
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

    fn server(text: &str) -> Option<Server> {
        Server::parse(text, 4222)
    }

    #[test]
    fn c207_learned_servers_are_bounded_and_replaced() {
        let reactor = couplet_core::Loop::new().expect("a loop").reactor();
        let mut servers = Servers::new(vec![server("a").expect("it is valid")], &reactor);
        servers.learn((0..200).filter_map(|port| server(&format!("b:{port}"))).collect());
        assert_eq!(servers.len(), 1 + MAX_LEARNED);
        servers.learn(["a:4222", "b:7", "c"].into_iter().filter_map(server).collect());
        let mut all: Vec<String> = (0..3).map(|_| servers.next().to_string()).collect();
        all.sort();
        assert_eq!(all, ["a:4222", "b:7", "c:4222"]);
    }
}
