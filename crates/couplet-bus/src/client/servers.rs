//! The servers of a cluster: those that the program names, and those that they name.
//!
//! Contract: 207, 207a.

use std::collections::VecDeque;
use std::fmt;

use couplet_core::{Reactor, hooks};
use couplet_defer::bounded::Bounded;

/// Maximum number of servers learned from others.
const MAX_LEARNED: usize = 64;

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `None` if the program names it.
    learned: Option<Learned>,
}

/// A server that another one has named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Learned {
    /// The host that the program has named, by which it was learned, perhaps through others.
    through: String,
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
        is_valid.then(|| Server { host: host.to_owned(), port, learned: None })
    }

    /// The name that the server's certificate must have: one that the program has given, since
    /// another server's word does not prove that a host belongs to the cluster.
    #[cfg_attr(
        not(any(feature = "tls", feature = "ring")),
        expect(dead_code, reason = "nothing has a certificate")
    )]
    pub(crate) fn certificate_name(&self) -> &str {
        self.learned.as_ref().map_or(&self.host, |learned| &learned.through)
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
pub(crate) struct Servers(Bounded<VecDeque<Server>>);

impl Servers {
    /// In random order, so that clients spread over the servers.
    pub(crate) fn new(named: Vec<Server>, reactor: &Reactor) -> Servers {
        let mut servers: Bounded<VecDeque<Server>> = Bounded::new(named.len() + MAX_LEARNED);
        servers.edit().extend(named);
        for place in (1..servers.len()).rev() {
            servers.edit().swap(place, (hooks::random(reactor) % (place as u64 + 1)) as usize);
        }
        Servers(servers)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The next one to try.
    pub(crate) fn next(&mut self) -> Server {
        self.0.edit().rotate_left(1);
        self.0.back().expect("at least one was named").clone()
    }

    /// Replaces the learned servers by those that `from` lists.
    pub(crate) fn learn(&mut self, listed: Vec<Server>, from: &Server) {
        let is_same = |a: &Server, b: &Server| a.host == b.host && a.port == b.port;
        let is_listed = |known: &Server| listed.iter().any(|one| is_same(one, known));
        self.0.edit().retain(|known| known.learned.is_none() || is_listed(known));
        let through = from.learned.as_ref().map_or(&from.host, |learned| &learned.through);
        for server in listed {
            let learned = self.0.iter().filter(|known| known.learned.is_some()).count();
            if learned < MAX_LEARNED && !self.0.iter().any(|known| is_same(known, &server)) {
                let learned = Some(Learned { through: through.clone() });
                self.0.edit().push_front(Server { learned, ..server });
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
        let from = server("a").expect("it is valid");
        let mut servers = Servers::new(vec![from.clone()], &reactor);
        servers.learn((0..200).filter_map(|port| server(&format!("b:{port}"))).collect(), &from);
        assert_eq!(servers.len(), 1 + MAX_LEARNED);
        servers.learn(["a:4222", "b:7", "c"].into_iter().filter_map(server).collect(), &from);
        let mut all: Vec<String> = (0..3).map(|_| servers.next().to_string()).collect();
        all.sort();
        assert_eq!(all, ["a:4222", "b:7", "c:4222"]);
    }

    #[test]
    fn c207a_a_learned_server_needs_a_certificate_for_the_name_that_the_program_gave() {
        let reactor = couplet_core::Loop::new().expect("a loop").reactor();
        let [a, b] = ["a.example", "b.example"].map(|name| server(name).expect("it is valid"));
        let mut servers = Servers::new(vec![a.clone(), b], &reactor);
        let listed = || ["10.0.0.1", "b.example"].into_iter().filter_map(server).collect();
        servers.learn(listed(), &a);
        let learned = (0..3).map(|_| servers.next()).find(|one| one.host == "10.0.0.1");
        // A server listed by a learned one is checked against the same name.
        servers
            .learn(["10.0.0.2"].into_iter().filter_map(server).collect(), &learned.expect("one"));
        let mut names: Vec<String> = (0..3)
            .map(|_| servers.next())
            .map(|one| format!("{} as {}", one.host, one.certificate_name()))
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["10.0.0.2 as a.example", "a.example as a.example", "b.example as b.example"]
        );
    }
}
