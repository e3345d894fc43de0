//! `couplet echo` over UDP: sends each datagram back to its sender.
//!
//! Senders can be forged, and two servers that answer each other would never stop. So service
//! ports, those below 1024, get no answer (another echo server may be there), and each peer gets a
//! limited number of answers per second: a loop between servers ends with the first datagram over
//! the limit.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use couplet::{Datagram, DatagramProtocol, DatagramTransport, hooks};

use super::{ListenUdp, OpenPorts, Part};
use crate::exit::Exit;
use crate::server::Threads;

/// Ports below this one belong to services; clients get higher ones.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
/// Number of groups that peers are counted in, by a hash of their addresses.
const BUCKETS: usize = 4096;

struct Echo {
    answers: ReplyLimiter,
    /// A refused answer has been logged.
    has_refused: bool,
}

/// Counts answers per second.
struct ReplyLimiter {
    /// Most answers per second to one peer; `None` is unlimited.
    most: Option<u32>,
    began: Option<Instant>,
    /// For each group, a second and the answers in it.
    counts: Vec<(u64, u32)>,
    /// Secret for the hash, so peers can't choose their groups.
    seed: u64,
}

impl ReplyLimiter {
    /// Allows `most` answers per second to each peer; 0 is unlimited.
    fn new(most: u32) -> ReplyLimiter {
        let most = Some(most).filter(|most| *most > 0);
        let counts = vec![(0, 0); if most.is_some() { BUCKETS } else { 0 }];
        ReplyLimiter { most, began: None, counts, seed: 0 }
    }

    /// Returns whether this peer may be answered, and counts the answer.
    fn allows_reply(&mut self, peer: SocketAddr, now: Instant) -> bool {
        if peer.port() < FIRST_UNPRIVILEGED_PORT {
            return false;
        }
        let Some(most) = self.most else { return true };
        let began = *self.began.get_or_insert(now);
        let this = now.saturating_duration_since(began).as_secs();
        let (second, count) = &mut self.counts[bucket_of(peer, self.seed)];
        if *second != this {
            (*second, *count) = (this, 0);
        }
        let is_one = *count < most;
        *count += u32::from(is_one);
        is_one
    }
}

/// Hashes the address with a secret, so that a peer can't choose its group.
fn bucket_of(peer: SocketAddr, seed: u64) -> usize {
    let ip = match peer.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let parts = [(ip >> 64) as u64, ip as u64, u64::from(peer.port())];
    let mix = |mixed: u64, part: u64| {
        let product = (mixed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ (product >> 29)
    };
    (parts.into_iter().fold(seed, mix) % BUCKETS as u64) as usize
}

impl DatagramProtocol for Echo {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        self.answers.seed = hooks::random(transport.reactor());
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        let now = transport.reactor().now();
        match datagram.from.socket_addr() {
            // Answers that do not fit into the queue are counted as dropped.
            Some(peer) if self.answers.allows_reply(peer, now) => {
                transport.answer(datagram, datagram.data).ok();
            }
            _ if !std::mem::replace(&mut self.has_refused, true) => {
                let peer = &datagram.from;
                tracing::warn!(%peer, "ignored a peer that exceeds the rate limit or uses a service port; further ones are not logged");
            }
            _ => {}
        }
    }
}

/// The UDP ports of a server in several loops.
pub(crate) fn ports(
    addresses: Vec<SocketAddr>,
    threads: Threads,
    rate: u32,
) -> Result<OpenPorts, Exit> {
    super::ports(addresses, threads, move || Echo::new(rate))
}

/// A UDP port of a service.
pub(crate) fn part(listen: ListenUdp, rate: u32) -> Part {
    super::part(listen, move || Echo::new(rate), |service| service)
}

impl Echo {
    fn new(rate: u32) -> Echo {
        Echo { answers: ReplyLimiter::new(rate), has_refused: false }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn answers_to_a_peer_are_limited_per_second() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let began = Instant::now();
        let mut answers = ReplyLimiter::new(3);
        for second in 0..3 {
            let now = began + Duration::from_secs(second);
            let later = now + Duration::from_millis(900);
            let got =
                [now, later, later, later, later].map(|now| answers.allows_reply(peer(5000), now));
            assert_eq!(got, [true, true, true, false, false]);
        }
        // A peer shares its count with one in 4096 others.
        let now = began + Duration::from_secs(2);
        let others = (2000..2100).filter(|port| answers.allows_reply(peer(*port), now)).count();
        assert!(others > 90, "{others}");
        let mut any = ReplyLimiter::new(0);
        assert!((0..100_000).all(|_| any.allows_reply(peer(5000), began)));
    }

    #[test]
    fn services_get_no_answer() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        for rate in [0, 1000] {
            let mut answers = ReplyLimiter::new(rate);
            for (port, is_answered) in
                [(0, false), (7, false), (1023, false), (1024, true), (65_535, true)]
            {
                assert_eq!(answers.allows_reply(peer(port), now), is_answered, "{port}");
            }
        }
    }
}
