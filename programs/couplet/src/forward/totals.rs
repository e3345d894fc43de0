//! Totals that are printed at the end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::server::SessionPermit;

/// Counts over all sessions of all threads.
#[derive(Default)]
pub(crate) struct Totals {
    connections: AtomicU64,
    open: Arc<AtomicUsize>,
    sent: AtomicU64,
    received: AtomicU64,
    not_connected: AtomicU64,
    broken: AtomicU64,
    turned_away: AtomicU64,
    stopped: AtomicU64,
    servers: Vec<ServerTotals>,
}

/// Counts of the connects to one server.
struct ServerTotals {
    name: String,
    connections: AtomicU64,
    failures: AtomicU64,
}

impl Totals {
    /// Counts of zero, for servers with these names.
    pub(super) fn new(names: impl Iterator<Item = String>) -> Totals {
        let zero = AtomicU64::default;
        let servers =
            names.map(|name| ServerTotals { name, connections: zero(), failures: zero() });
        Totals { servers: servers.collect(), ..Totals::default() }
    }

    /// Reserves a place for a client, unless `most` are taken.
    pub(super) fn place(&self, most: usize) -> Option<SessionPermit> {
        SessionPermit::acquire(&self.open, most)
    }

    pub(super) fn begin(&self) {
        count(&self.connections, 1);
    }

    pub(super) fn end(&self, sent: u64, received: u64) {
        count(&self.sent, sent);
        count(&self.received, received);
    }

    pub(super) fn not_connected(&self) {
        count(&self.not_connected, 1);
    }

    /// A client was connected to this server.
    pub(super) fn reached(&self, server: usize) {
        count(&self.servers[server].connections, 1);
    }

    /// A client's connect to this server failed.
    pub(super) fn failed(&self, server: usize) {
        count(&self.servers[server].failures, 1);
    }

    pub(super) fn broken(&self) {
        count(&self.broken, 1);
    }

    /// Returns true for the first client turned away.
    pub(super) fn turn_away(&self) -> bool {
        count(&self.turned_away, 1) == 0
    }

    pub(super) fn count_stopped(&self) {
        count(&self.stopped, 1);
    }
}

/// Adds; returns the previous value.
fn count(counter: &AtomicU64, more: u64) -> u64 {
    counter.fetch_add(more, Ordering::Relaxed)
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let connections = number(&self.connections);
        let plural = plural(connections);
        let (sent, received) = (number(&self.sent), number(&self.received));
        write!(f, "{connections} connection{plural}, {sent} bytes sent, {received} received")?;
        for (number, what) in [
            (number(&self.not_connected), "not connected"),
            (number(&self.broken), "broken"),
            (number(&self.turned_away), "turned away"),
            (number(&self.stopped), "cut off at the end"),
        ] {
            if number > 0 {
                write!(f, ", {number} {what}")?;
            }
        }
        match &self.servers[..] {
            [] | [_] => Ok(()),
            servers => servers.iter().try_for_each(|server| write!(f, "\n  {server}")),
        }
    }
}

impl fmt::Display for ServerTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (connections, failures) = (number(&self.connections), number(&self.failures));
        write!(f, "{}: {connections} connection{}", self.name, plural(connections))?;
        write!(f, ", {failures} failure{}", plural(failures))
    }
}

fn plural(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_counts_are_left_out() {
        let totals = Totals::default();
        assert_eq!(totals.to_string(), "0 connections, 0 bytes sent, 0 received");
        let place = totals.place(1);
        assert!(place.is_some());
        totals.begin();
        totals.end(3, 4);
        assert!(totals.place(1).is_none(), "one is open");
        assert_eq!(totals.to_string(), "1 connection, 3 bytes sent, 4 received");
        drop(place);
        assert!(totals.place(1).is_some());
        totals.begin();
        totals.not_connected();
        assert!(totals.turn_away() && !totals.turn_away());
        let expected = "2 connections, 3 bytes sent, 4 received, 1 not connected, 2 turned away";
        assert_eq!(totals.to_string(), expected);
    }

    #[test]
    fn several_servers_have_a_line_each() {
        let one = Totals::new(["tcp:a:1".to_owned()].into_iter());
        one.reached(0);
        assert_eq!(one.to_string(), "0 connections, 0 bytes sent, 0 received");
        let two = Totals::new(["tcp:a:1", "tcp:b:2"].map(str::to_owned).into_iter());
        two.reached(1);
        two.failed(1);
        two.failed(1);
        let expected = "0 connections, 0 bytes sent, 0 received\n  \
                        tcp:a:1: 0 connections, 0 failures\n  \
                        tcp:b:2: 1 connection, 2 failures";
        assert_eq!(two.to_string(), expected);
    }
}
