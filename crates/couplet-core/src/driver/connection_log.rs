//! [`ConnectionLog`]: the addresses of the last connections of a loop with a [`Ring`](super::ring::Ring),
//! whose records have only their slots.
//!
//! Contract: 184b.

use std::collections::{BTreeMap, VecDeque};

use super::Key;
use crate::address::Address;
use crate::bounded::Bounded;

/// A connection of a loop with a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedConnection {
    /// The slot, as in the records.
    pub slot: u32,
    /// Distinguishes connections of the same slot: the last part of the ID.
    pub generation: u32,
    /// The other end.
    pub peer: Address,
    /// Our end, if it is known.
    pub host: Option<Address>,
    /// When it was made, in ticks since the ring was made.
    pub made: u64,
    /// When it was closed, in ticks since the ring was made.
    pub ended: Option<u64>,
}

/// The last connections of a loop; new ones replace the oldest.
#[derive(Debug)]
pub(super) struct ConnectionLog {
    connections: Bounded<VecDeque<LoggedConnection>>,
    /// How many connections were replaced.
    replaced: u64,
    /// The number of the open connection in each slot, counted from the first connection.
    open: Bounded<BTreeMap<u32, u64>>,
    /// The targets of attempts to connect.
    targets: Bounded<BTreeMap<u32, Address>>,
}

impl ConnectionLog {
    pub(super) fn new(most: usize) -> ConnectionLog {
        let most = most.max(1);
        let (connections, open) = (Bounded::new(most), Bounded::new(most));
        ConnectionLog { connections, replaced: 0, open, targets: Bounded::new(most) }
    }

    /// An attempt to connect begins.
    pub(super) fn connecting(&mut self, key: Key, target: &Address) {
        if !self.targets.is_full() {
            self.targets.edit().insert(key.slot, target.clone());
        }
    }

    /// An attempt to connect has succeeded.
    pub(super) fn connected(&mut self, key: Key, host: &Address, now: u64) {
        let target = self.targets.edit().remove(&key.slot);
        if let Some(peer) = target {
            self.made(key, peer, Some(host.clone()), now);
        }
    }

    /// A connection was made.
    pub(super) fn made(&mut self, key: Key, peer: Address, host: Option<Address>, now: u64) {
        // The connection that had the slot before may have left without a close.
        self.closed(key.slot, now);
        while self.connections.is_full() {
            self.drop_oldest();
        }
        let number = self.replaced + self.connections.len() as u64;
        self.open.edit().insert(key.slot, number);
        let (slot, generation) = (key.slot, key.generation.get());
        let made = LoggedConnection { slot, generation, peer, host, made: now, ended: None };
        self.connections.edit().push_back(made);
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.connections.edit().pop_front() {
            if self.open.get(&oldest.slot) == Some(&self.replaced) {
                self.open.edit().remove(&oldest.slot);
            }
            self.replaced += 1;
        }
    }

    /// A connection or an attempt was closed.
    pub(super) fn closed(&mut self, slot: u32, now: u64) {
        self.targets.edit().remove(&slot);
        let Some(number) = self.open.edit().remove(&slot) else { return };
        let place = usize::try_from(number - self.replaced).unwrap_or(usize::MAX);
        if let Some(connection) = self.connections.edit().get_mut(place) {
            connection.ended = Some(now);
        }
    }

    /// The connections that have not ended before this time, in the order of their making.
    pub(super) fn since(&self, time: u64) -> Vec<LoggedConnection> {
        let lasted = |it: &&LoggedConnection| it.ended.is_none_or(|ended| ended >= time);
        self.connections.iter().filter(lasted).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    fn key(slot: u32, generation: u32) -> Key {
        Key { slot, generation: generation.try_into().expect("not 0") }
    }

    fn peer(port: u16) -> Address {
        Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// The ports of the peers since a time, and when they ended.
    fn since(log: &ConnectionLog, time: u64) -> Vec<(u32, u64, Option<u64>)> {
        log.since(time).iter().map(|it| (it.generation, it.made, it.ended)).collect()
    }

    #[test]
    fn connections_are_kept_with_their_times() {
        let mut log = ConnectionLog::new(10);
        log.made(key(1, 7), peer(1), None, 100);
        log.connecting(key(2, 8), &peer(2));
        log.connected(key(2, 8), &peer(3), 110);
        log.closed(1, 120);
        assert_eq!(since(&log, 0), [(7, 100, Some(120)), (8, 110, None)]);
        assert_eq!(since(&log, 121), [(8, 110, None)]);
        assert_eq!(log.since(121)[0].peer, peer(2));
        // The slot is used again, although no close was seen.
        log.made(key(2, 9), peer(4), None, 130);
        assert_eq!(since(&log, 121), [(8, 110, Some(130)), (9, 130, None)]);
        log.closed(7, 140);
    }

    #[test]
    fn c184b_the_newest_connections_are_kept() {
        let mut log = ConnectionLog::new(3);
        for n in 0..1000_u32 {
            log.made(key(n % 5, n + 1), peer(1), None, u64::from(n));
            log.connecting(key(1000 + n, 1), &peer(2));
            assert!(log.connections.len() <= 3 && log.open.len() <= 3 && log.targets.len() <= 3);
        }
        assert_eq!(since(&log, 0), [(998, 997, None), (999, 998, None), (1000, 999, None)]);
        log.closed(999 % 5, 2000);
        // An older connection, which the log no longer has.
        log.closed(996 % 5, 2001);
        assert_eq!(since(&log, 0), [(998, 997, None), (999, 998, None), (1000, 999, Some(2000))]);
        // The slot of the one that is dropped has a newer connection.
        let mut log = ConnectionLog::new(3);
        for (n, slot) in [(1, 1), (2, 1), (3, 2), (4, 3)] {
            log.made(key(slot, n), peer(1), None, u64::from(n));
        }
        log.closed(1, 10);
        assert_eq!(since(&log, 0), [(2, 2, Some(10)), (3, 3, None), (4, 4, None)]);
        let mut one = ConnectionLog::new(0);
        one.made(key(1, 1), peer(1), None, 1);
        assert_eq!(since(&one, 0), [(1, 1, None)]);
    }

    /// More attempts, one after the other, than the log keeps at a time.
    #[test]
    fn c184b_attempts_that_have_ended_leave_their_places_to_others() {
        let mut log = ConnectionLog::new(2);
        for n in 1..=6_u32 {
            let now = u64::from(n);
            log.connecting(key(n, n), &peer(n as u16));
            log.connecting(key(100 + n, n), &peer(9));
            // One fails; the other succeeds, and is closed later.
            log.closed(100 + n, now);
            log.connected(key(n, n), &peer(7), now);
            assert_eq!(log.targets.len(), 0);
            let made = log.since(now);
            let made = made.last().expect("it was made");
            assert_eq!((made.generation, &made.peer), (n, &peer(n as u16)));
            assert_eq!((&made.host, made.ended), (&Some(peer(7)), None));
            log.closed(n, now);
        }
        assert_eq!(since(&log, 0), [(5, 5, Some(5)), (6, 6, Some(6))]);
        assert_eq!((since(&log, 6).len(), since(&log, 7).len(), log.open.len()), (1, 0, 0));
        // An attempt that was closed is not made by another one in its slot.
        log.connecting(key(1, 8), &peer(8));
        log.closed(1, 10);
        log.connected(key(1, 9), &peer(7), 11);
        assert!(since(&log, 7).is_empty());
    }
}
