//! An abort on one side arrives as a reset on the other.

use std::io::ErrorKind;

use couplet::{Protocol, Reason, Transport};

use crate::meeting::{End, Over, in_both_directions_and_over_tls, meet_over};

/// Asks the peer to abort, or aborts when asked.
struct Aborting {
    asks: bool,
    end: End,
}

impl Protocol for Aborting {
    fn connection_made(&mut self, transport: &Transport) {
        if self.asks {
            transport.write("now");
        }
    }

    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        transport.abort_connection();
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}

#[test]
fn an_abort_by_twisted_is_a_lost_connection() {
    in_both_directions_and_over_tls(|at, over| {
        let met = meet_over(at, over, "abort", |_, end| Aborting { asks: true, end });
        let Reason::Lost(error) = met.reason else { panic!("{at:?} listens: {}", met.reason) };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{at:?} listens");
        let lost = match over {
            Over::Tls(_) => "lost ConnectionLost",
            _ => "lost ConnectionAborted",
        };
        assert_eq!(met.said, [lost], "{at:?} listens");
    });
}

#[test]
fn our_abort_is_a_lost_connection_to_twisted() {
    in_both_directions_and_over_tls(|at, over| {
        let met = meet_over(at, over, "ask-for-abort", |_, end| Aborting { asks: false, end });
        assert!(matches!(met.reason, Reason::Aborted), "{at:?} listens: {}", met.reason);
        assert_eq!(met.said, ["lost ConnectionLost"], "{at:?} listens");
    });
}
