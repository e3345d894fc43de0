//! Accepting: how many connections a round takes from one port, and what each error of `accept`
//! asks for. Twisted's `Port.doRead` and its answers to EMFILE and the like.

use std::io;

/// Connections that the first round takes.
const FIRST: u32 = 100;
/// How many more it may be after a round that met its bound.
const STEP: u32 = 20;

/// How many connections a port gives in one round, between two waits: so that a flood at one port
/// leaves room for the rest of the loop. It adapts to what comes.
#[derive(Debug)]
pub(super) struct Share {
    bound: u32,
    taken: u32,
}

impl Share {
    pub(super) fn new() -> Share {
        Share { bound: FIRST, taken: 0 }
    }

    /// Counts a connection that was taken; false when it was the last of this round.
    pub(super) fn take(&mut self) -> bool {
        self.taken += 1;
        self.taken < self.bound
    }

    /// The round is over: a bound that was met grows, another becomes what there was.
    pub(super) fn end_round(&mut self) {
        let met = self.taken >= self.bound;
        self.bound = if met { self.bound.saturating_add(STEP) } else { self.taken.max(1) };
        self.taken = 0;
    }
}

/// What to do when `accept` gives no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody waits.
    Done,
    /// It was interrupted: ask again.
    Again,
    /// It may not be taken: go on with the next.
    Next,
    /// It was gone before it could be taken: go on in the next round.
    EndRound,
    /// No descriptors: turn away who waits, with the one held in reserve.
    TurnAway,
    /// No memory, or something that nobody knows: try again after a rest.
    Rest,
}

pub(super) fn answer(error: &io::Error) -> Answer {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, WouldBlock,
    };
    const EPROTO: i32 = if cfg!(target_os = "linux") { 71 } else { 100 };
    match (error.kind(), error.raw_os_error()) {
        (WouldBlock, _) => Answer::Done,
        (Interrupted, _) => Answer::Again,
        (PermissionDenied, _) => Answer::Next,
        (ConnectionAborted | ConnectionReset, _) | (_, Some(EPROTO)) => Answer::EndRound,
        // EMFILE and ENFILE; Windows tells with WSAEMFILE.
        (_, Some(24 | 23 | 10024)) => Answer::TurnAway,
        _ => Answer::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn c48_each_accept_error_has_its_answer() {
        use rustix::io::Errno;
        let answers = [
            (Errno::WOULDBLOCK, Answer::Done),
            (Errno::INTR, Answer::Again),
            (Errno::PERM, Answer::Next),
            (Errno::CONNABORTED, Answer::EndRound),
            (Errno::PROTO, Answer::EndRound),
            (Errno::MFILE, Answer::TurnAway),
            (Errno::NFILE, Answer::TurnAway),
            (Errno::NOBUFS, Answer::Rest),
            (Errno::NOMEM, Answer::Rest),
        ];
        for (errno, wanted) in answers {
            assert_eq!(answer(&errno.into()), wanted, "{errno:?}");
        }
    }

    #[test]
    fn a_bound_that_was_met_grows_and_another_becomes_what_there_was() {
        let mut share = Share::new();
        let mut round = |waiting: u32| {
            let taken = (1..=waiting).find(|_| !share.take()).unwrap_or(waiting);
            share.end_round();
            taken
        };
        let rounds = [150, 50, 60, 10, 0, 5].map(&mut round);
        assert_eq!(rounds, [100, 50, 50, 10, 0, 1]);
        assert_eq!([50, 50].map(&mut round), [21, 41]);
    }
}
