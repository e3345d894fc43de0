//! The counts that are printed at the end.

use std::cell::Cell;
use std::fmt;

/// Counts over all sessions.
#[derive(Default)]
pub(super) struct Totals {
    connections: Cell<u64>,
    open: Cell<usize>,
    sent: Cell<u64>,
    received: Cell<u64>,
    not_connected: Cell<u64>,
    broken: Cell<u64>,
    turned_away: Cell<u64>,
    stopped: Cell<u64>,
}

impl Totals {
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    pub(super) fn begin(&self) {
        count(&self.connections);
        self.open.set(self.open.get() + 1);
    }

    pub(super) fn end(&self, sent: u64, received: u64) {
        self.open.set(self.open.get().saturating_sub(1));
        self.sent.set(self.sent.get().saturating_add(sent));
        self.received.set(self.received.get().saturating_add(received));
    }

    pub(super) fn not_connected(&self) {
        count(&self.not_connected);
    }

    pub(super) fn broken(&self) {
        count(&self.broken);
    }

    pub(super) fn turn_away(&self) {
        count(&self.turned_away);
    }

    pub(super) fn stopped(&self) {
        count(&self.stopped);
    }
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.connections.get();
        let plural = if connections == 1 { "" } else { "s" };
        let (sent, received) = (self.sent.get(), self.received.get());
        write!(f, "{connections} connection{plural}, {sent} bytes sent, {received} received")?;
        for (number, what) in [
            (self.not_connected.get(), "not connected"),
            (self.broken.get(), "broken"),
            (self.turned_away.get(), "turned away"),
            (self.stopped.get(), "cut off at the end"),
        ] {
            if number > 0 {
                write!(f, ", {number} {what}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_happen_is_left_out() {
        let totals = Totals::default();
        assert_eq!(totals.to_string(), "0 connections, 0 bytes sent, 0 received");
        totals.begin();
        totals.end(3, 4);
        assert_eq!(totals.to_string(), "1 connection, 3 bytes sent, 4 received");
        totals.begin();
        totals.not_connected();
        totals.turn_away();
        let expected = "2 connections, 3 bytes sent, 4 received, 1 not connected, 1 turned away";
        assert_eq!((totals.to_string(), totals.open()), (expected.to_owned(), 1));
    }
}
