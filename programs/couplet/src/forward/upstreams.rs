//! The choice of a server for each client: the policies of `--balance`, and the servers that are down.
//!
//! Plain logic: the caller passes the time, connects, and reports the outcome. Each loop has its own
//! [`Balancer`].

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use couplet::Address;

/// How clients are distributed among the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balance {
    RoundRobin,
    LeastConnections,
    /// By rendezvous hashing of the client's IP address: without one server, only the clients of
    /// that server move.
    ByPeer,
}

/// When a server that is down is treated like the others again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    /// After this time, and once it is reached.
    After(Duration),
    /// Once it is reached: something other than clients tries it.
    Reached,
}

/// The servers of one loop.
pub(super) struct Balancer {
    balance: Balance,
    recovery: Recovery,
    servers: Vec<ServerState>,
    /// The server after the one that was chosen last.
    next: usize,
}

struct ServerState {
    /// Hash of its name.
    hash: u64,
    /// Sessions and attempts.
    open: usize,
    health: Health,
}

#[derive(Clone, Copy)]
enum Health {
    Up,
    /// The last connect failed. Tried last until this time; `None` until it is reached.
    Down(Option<Instant>),
}

/// The servers that one client has not tried yet, best first.
pub(super) struct Candidates(Vec<usize>);

impl Balancer {
    /// Servers with these names, all up.
    pub(super) fn new<'a>(
        names: impl Iterator<Item = &'a str>,
        balance: Balance,
        recovery: Recovery,
    ) -> Balancer {
        let up =
            |name: &str| ServerState { hash: fnv1a(name.as_bytes()), open: 0, health: Health::Up };
        Balancer { balance, recovery, servers: names.map(up).collect(), next: 0 }
    }

    /// All servers in the order of the policy.
    pub(super) fn candidates(&self, peer: &Address) -> Candidates {
        let count = self.servers.len();
        let mut order: Vec<usize> = (0..count).map(|n| (self.next + n) % count).collect();
        match (self.balance, peer.ip()) {
            (Balance::LeastConnections, _) => order.sort_by_key(|n| self.servers[*n].open),
            (Balance::ByPeer, Some(ip)) => {
                let client = hash_of(ip);
                order.sort_by_key(|n| Reverse(mix(self.servers[*n].hash ^ client)));
            }
            // Clients without an address take turns.
            (Balance::ByPeer, None) | (Balance::RoundRobin, _) => {}
        }
        Candidates(order)
    }

    /// Takes the best candidate, those that are down last, and counts an open session. `None` once
    /// each has been tried.
    pub(super) fn choose(&mut self, candidates: &mut Candidates, now: Instant) -> Option<usize> {
        let Candidates(left) = candidates;
        if left.is_empty() {
            return None;
        }
        let best = left.iter().position(|n| !self.servers[*n].is_avoided(now)).unwrap_or(0);
        let chosen = left.remove(best);
        let again = self.retry_time(now);
        let server = &mut self.servers[chosen];
        server.open += 1;
        if !server.is_avoided(now) && matches!(server.health, Health::Down(_)) {
            // Only this client tries whether the server is back.
            server.health = Health::Down(again);
        }
        self.next = (chosen + 1) % self.servers.len();
        Some(chosen)
    }

    /// A session or an attempt has ended.
    pub(super) fn release(&mut self, server: usize) {
        let open = &mut self.servers[server].open;
        *open = open.checked_sub(1).expect("each session is released once");
    }

    /// A connect succeeded. Returns true if the server was down.
    pub(super) fn mark_up(&mut self, server: usize) -> bool {
        let before = std::mem::replace(&mut self.servers[server].health, Health::Up);
        matches!(before, Health::Down(_))
    }

    /// A connect failed. Returns true if the server was up.
    pub(super) fn mark_down(&mut self, server: usize, now: Instant) -> bool {
        let down = Health::Down(self.retry_time(now));
        let before = std::mem::replace(&mut self.servers[server].health, down);
        matches!(before, Health::Up)
    }

    fn retry_time(&self, now: Instant) -> Option<Instant> {
        match self.recovery {
            Recovery::After(time) => now.checked_add(time),
            Recovery::Reached => None,
        }
    }
}

impl ServerState {
    fn is_avoided(&self, now: Instant) -> bool {
        match self.health {
            Health::Up => false,
            Health::Down(until) => until.is_none_or(|until| now < until),
        }
    }
}

fn hash_of(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => fnv1a(&ip.octets()),
        IpAddr::V6(ip) => fnv1a(&ip.octets()),
    }
}

/// FNV-1a with 64 bits: the same in every process, unlike the standard library's hash.
fn fnv1a(bytes: &[u8]) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, add)
}

/// The finalizer of `SplitMix64`: every bit of the result depends on all bits of `hash`.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use couplet::testing::hold;

    use super::*;
    use crate::held::Nobody;

    const DOWN_FOR: Duration = Duration::from_secs(10);

    fn start() -> Instant {
        hold(Nobody).reactor().now()
    }

    fn balancer(servers: usize, balance: Balance) -> Balancer {
        recovering(servers, balance, Recovery::After(DOWN_FOR))
    }

    fn recovering(servers: usize, balance: Balance, recovery: Recovery) -> Balancer {
        let names: Vec<String> = (0..servers).map(|n| format!("tcp:10.0.0.{n}:80")).collect();
        Balancer::new(names.iter().map(String::as_str), balance, recovery)
    }

    fn client(ip: [u8; 4]) -> Address {
        Address::Tcp(SocketAddr::from((ip, 40_000)))
    }

    fn anyone() -> Address {
        client([127, 0, 0, 1])
    }

    fn without_address() -> Address {
        Address::Pipe("unix".into())
    }

    /// The servers in the order in which a client tries them if none answers.
    fn attempts(balancer: &mut Balancer, peer: &Address, now: Instant) -> Vec<usize> {
        let mut candidates = balancer.candidates(peer);
        let mut order = Vec::new();
        while let Some(server) = balancer.choose(&mut candidates, now) {
            balancer.release(server);
            order.push(server);
        }
        order
    }

    /// The server that a client uses if it answers; its session stays open.
    fn use_one(balancer: &mut Balancer, peer: &Address, now: Instant) -> usize {
        let mut candidates = balancer.candidates(peer);
        balancer.choose(&mut candidates, now).expect("a server")
    }

    fn uses(balancer: &mut Balancer, peer: &Address, now: Instant, count: usize) -> Vec<usize> {
        (0..count).map(|_| use_one(balancer, peer, now)).collect()
    }

    #[test]
    fn each_policy_tries_each_server_once() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::ByPeer] {
            for peer in [anyone(), without_address()] {
                let mut order = attempts(&mut balancer(5, balance), &peer, start());
                order.sort_unstable();
                assert_eq!(order, [0, 1, 2, 3, 4], "{balance:?}");
            }
        }
    }

    #[test]
    fn round_robin_takes_turns_among_the_servers_that_are_up() {
        let now = start();
        for (down, meant) in [
            (&[][..], [0, 1, 2, 0, 1, 2]),
            (&[1], [0, 2, 0, 2, 0, 2]),
            (&[0, 2], [1, 1, 1, 1, 1, 1]),
            (&[0, 1, 2], [0, 1, 2, 0, 1, 2]),
        ] {
            let mut balancer = balancer(3, Balance::RoundRobin);
            for server in down {
                assert!(balancer.mark_down(*server, now));
            }
            assert_eq!(uses(&mut balancer, &anyone(), now, 6), meant, "{down:?}");
        }
    }

    #[test]
    fn a_client_whose_server_fails_gets_the_next_and_so_does_the_client_after_it() {
        let now = start();
        let mut balancer = balancer(3, Balance::RoundRobin);
        let mut candidates = balancer.candidates(&anyone());
        assert_eq!(balancer.choose(&mut candidates, now), Some(0));
        balancer.mark_down(0, now);
        assert_eq!(balancer.choose(&mut candidates, now), Some(1));
        assert_eq!(uses(&mut balancer, &anyone(), now, 3), [2, 1, 2]);
    }

    #[test]
    fn servers_that_are_down_are_tried_last() {
        let now = start();
        for (down, meant) in [
            (&[][..], [0, 1, 2, 3]),
            (&[0], [1, 2, 3, 0]),
            (&[1, 2], [0, 3, 1, 2]),
            (&[0, 1, 2, 3], [0, 1, 2, 3]),
        ] {
            let mut balancer = balancer(4, Balance::RoundRobin);
            for server in down {
                balancer.mark_down(*server, now);
            }
            assert_eq!(attempts(&mut balancer, &anyone(), now), meant, "{down:?}");
        }
    }

    #[test]
    fn a_server_that_is_down_costs_one_attempt_in_each_period() {
        let began = start();
        let mut balancer = balancer(2, Balance::RoundRobin);
        balancer.mark_down(0, began);
        let almost = began + DOWN_FOR - Duration::from_nanos(1);
        assert_eq!(uses(&mut balancer, &anyone(), almost, 3), [1, 1, 1]);
        // One client's attempt is in progress; the others don't wait for it.
        assert_eq!(uses(&mut balancer, &anyone(), began + DOWN_FOR, 4), [0, 1, 1, 1]);
        assert!(!balancer.mark_down(0, began + DOWN_FOR), "it was down already");
        assert_eq!(uses(&mut balancer, &anyone(), began + 2 * DOWN_FOR, 3), [0, 1, 1]);
        assert!(balancer.mark_up(0), "it was down");
        assert!(!balancer.mark_up(0));
        assert_eq!(uses(&mut balancer, &anyone(), began + 2 * DOWN_FOR, 4), [0, 1, 0, 1]);
    }

    #[test]
    fn without_a_period_a_failed_server_keeps_its_turn() {
        let now = start();
        let mut balancer = recovering(2, Balance::RoundRobin, Recovery::After(Duration::ZERO));
        assert!(balancer.mark_down(0, now));
        assert_eq!(uses(&mut balancer, &anyone(), now, 4), [0, 1, 0, 1]);
    }

    #[test]
    fn a_checked_server_is_down_until_it_is_reached() {
        let began = start();
        let mut balancer = recovering(2, Balance::RoundRobin, Recovery::Reached);
        balancer.mark_down(0, began);
        let later = began + Duration::from_secs(1_000_000);
        assert_eq!(uses(&mut balancer, &anyone(), later, 2), [1, 1]);
        balancer.mark_up(0);
        assert_eq!(uses(&mut balancer, &anyone(), later, 2), [0, 1]);
    }

    #[test]
    fn a_period_beyond_the_end_of_time_does_not_end() {
        let mut balancer = recovering(2, Balance::RoundRobin, Recovery::After(Duration::MAX));
        balancer.mark_down(0, start());
        assert_eq!(uses(&mut balancer, &anyone(), start(), 2), [1, 1]);
    }

    #[test]
    fn least_connections_counts_sessions_and_attempts_until_they_end() {
        let now = start();
        let mut balancer = balancer(3, Balance::LeastConnections);
        assert_eq!(uses(&mut balancer, &anyone(), now, 6), [0, 1, 2, 0, 1, 2]);
        balancer.release(1);
        balancer.release(1);
        balancer.release(2);
        assert_eq!(uses(&mut balancer, &anyone(), now, 3), [1, 2, 1]);
        balancer.release(0);
        balancer.mark_down(0, now);
        assert_ne!(use_one(&mut balancer, &anyone(), now), 0, "it is down");
    }

    #[test]
    fn short_sessions_take_turns_with_least_connections() {
        let now = start();
        let mut balancer = balancer(3, Balance::LeastConnections);
        let served = (0..4).map(|_| {
            let server = use_one(&mut balancer, &anyone(), now);
            balancer.release(server);
            server
        });
        assert_eq!(served.collect::<Vec<_>>(), [0, 1, 2, 0]);
    }

    #[test]
    fn clients_without_an_address_take_turns() {
        let mut balancer = balancer(3, Balance::ByPeer);
        assert_eq!(uses(&mut balancer, &without_address(), start(), 4), [0, 1, 2, 0]);
    }

    /// A thousand clients with addresses of a fixed random sequence.
    fn clients() -> Vec<Address> {
        (1..=1000_u64)
            .map(|n| {
                let [a, b, c, d, ..] = mix(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
                client([a, b, c, d])
            })
            .collect()
    }

    #[test]
    fn by_peer_spreads_clients_evenly() {
        let (mut balancer, mut counts) = (balancer(5, Balance::ByPeer), [0; 5]);
        for client in clients() {
            counts[use_one(&mut balancer, &client, start())] += 1;
        }
        assert!(counts.iter().all(|count| (160..=240).contains(count)), "{counts:?}");
    }

    #[test]
    fn by_peer_moves_only_the_clients_of_a_server_that_is_down() {
        let now = start();
        for down in 0..5 {
            let (mut all, mut fewer) = (balancer(5, Balance::ByPeer), balancer(5, Balance::ByPeer));
            fewer.mark_down(down, now);
            let mut moved = [0; 5];
            for client in clients() {
                let before = use_one(&mut all, &client, now);
                let after = use_one(&mut fewer, &client, now);
                assert_eq!(before == down, before != after, "{client}");
                moved[after] += usize::from(before == down);
            }
            let others = moved.iter().enumerate().filter(|(n, _)| *n != down);
            assert!(others.into_iter().all(|(_, count)| *count > 20), "{moved:?}");
        }
    }

    #[test]
    fn by_peer_does_not_depend_on_the_order_of_the_arguments() {
        let names = ["tcp:a:80", "tcp:b:80", "tcp:c:80"];
        let recovery = Recovery::After(DOWN_FOR);
        let mut one = Balancer::new(names.into_iter(), Balance::ByPeer, recovery);
        let mut other = Balancer::new(names.into_iter().rev(), Balance::ByPeer, recovery);
        for client in clients() {
            let first = use_one(&mut one, &client, start());
            assert_eq!(first, 2 - use_one(&mut other, &client, start()));
        }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_F739_67E8);
        // The first output of SplitMix64 with the seed 0.
        assert_eq!(mix(0x9E37_79B9_7F4A_7C15), 0xE220_A839_7B1D_CDAF);
    }
}
