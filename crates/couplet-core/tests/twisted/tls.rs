//! Differences between TLS and TCP: half-closes, which Twisted's TLS does not have, and TLS that
//! starts on a live connection.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::layers::tls::{ClientTls, ServerTls, TlsInfo};
use couplet::{By, Protocol, ProtocolExtension, Reason, TlsError, TlsProblem, Transport};

use crate::certificates::{Certificates, NAME};
use crate::meeting::{End, Intake, Over, in_both_directions, meet_over, pattern};

const MUCH: usize = 1_000_000;

/// Sends, and shuts down its write side.
struct Half {
    seen: Rc<RefCell<Vec<&'static str>>>,
    end: End,
}

impl Protocol for Half {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(pattern(0, MUCH));
        transport.lose_write_connection();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        self.seen.borrow_mut().push("data");
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.seen.borrow_mut().push("read closed");
        transport.lose_connection();
    }

    fn write_closed(&mut self, _: &Transport) {
        self.seen.borrow_mut().push("write closed");
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}

#[test]
fn twisted_reads_everything_before_our_half_close_and_closes() {
    let certificates = Certificates::new();
    in_both_directions(|at| {
        let seen = Rc::<RefCell<Vec<_>>>::default();
        let notes = seen.clone();
        let over = Over::Tls(&certificates);
        let met = meet_over(at, &over, "read-all", |_, end| Half { seen: notes, end });
        let mut seen = seen.take();
        seen.sort_unstable();
        assert_eq!(seen, ["read closed", "write closed"], "{at:?} listens");
        assert!(met.reason.is_clean(), "{at:?} listens: {}", met.reason);
        assert_eq!(met.said, ["received 1000000 intact", "lost ConnectionDone"], "{at:?} listens");
    });
}

/// Twisted's TLS has no half-close: it answers our close_notify with its own and closes; its
/// protocol, which would answer, gets no event before the connection is lost. We see a clean end
/// without an answer.
#[test]
fn c63_a_half_close_of_ours_is_a_close_for_twisted_and_nothing_answers_it() {
    let certificates = Certificates::new();
    in_both_directions(|at| {
        let seen = Rc::<RefCell<Vec<_>>>::default();
        let notes = seen.clone();
        let over = Over::Tls(&certificates);
        let met = meet_over(at, &over, "answer-after-shut", |_, end| Half { seen: notes, end });
        let mut seen = seen.take();
        seen.sort_unstable();
        assert_eq!(seen, ["read closed", "write closed"], "{at:?} listens");
        assert!(met.reason.is_clean(), "{at:?} listens: {}", met.reason);
        assert_eq!(met.said, ["lost ConnectionDone"], "{at:?} listens");
    });
}

/// Counts received bytes, and the ends of the stream.
struct Counting {
    seen: Rc<RefCell<(Intake, usize)>>,
    end: End,
}

impl Protocol for Counting {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.seen.borrow_mut().0.take(data);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.seen.borrow_mut().1 += 1;
        transport.lose_connection();
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}

/// `loseWriteConnection` of Twisted's TLS acts on the socket below: a FIN without a close_notify.
/// Every byte arrives, then the stream is truncated, which row 78 does not accept as its end.
#[test]
fn c63_c78_a_half_close_of_twisted_is_a_truncation_behind_every_byte() {
    let certificates = Certificates::new();
    in_both_directions(|at| {
        let seen = Rc::<RefCell<(Intake, usize)>>::default();
        let notes = seen.clone();
        let over = Over::Tls(&certificates);
        let met = meet_over(at, &over, "shut-over-tls", |_, end| Counting { seen: notes, end });
        let intake = Intake { received: MUCH, spoilt: false };
        assert_eq!(seen.take(), (intake, 0), "{at:?} listens");
        assert!(matches!(met.reason, Reason::Lost(_)), "{at:?} listens: {}", met.reason);
        let error = met.reason.downcast_ref::<TlsError>().expect("it says that it was cut");
        assert_eq!(error.problem, TlsProblem::Truncated, "{at:?} listens");
        assert_eq!(met.said, ["received 0 intact", "lost ConnectionLost"], "{at:?} listens");
    });
}

/// Starts TLS, as the server when asked, or as the client when the server agrees.
struct Starting {
    tls: Result<ServerTls, ClientTls>,
    log: Rc<RefCell<Vec<String>>>,
    end: End,
}

impl Protocol for Starting {
    fn connection_made(&mut self, transport: &Transport) {
        if self.tls.is_err() {
            transport.write("?");
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        self.log.borrow_mut().push(format!("heard {text}"));
        match (&self.tls, data) {
            (Ok(tls), b"?") => {
                transport.write("+");
                transport.start_tls(tls).expect("it may still write");
                transport.write("encrypted");
            }
            (Err(tls), b"+") => {
                transport.start_tls((tls, NAME)).expect("a good name");
                transport.write("secret");
            }
            (Err(_), _) => transport.lose_connection(),
            (Ok(_), _) => {}
        }
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Starting {
    fn handshake_completed(&mut self, transport: &Transport) {
        let is_server = self.tls.is_ok();
        let tls = transport.info::<TlsInfo>().expect("it is secure");
        assert_eq!(tls.peer_certificates.is_empty(), is_server);
        assert_eq!(tls.server_name.as_deref(), Some(NAME));
        self.log.borrow_mut().push("secure".to_owned());
    }
}

/// Each side of TCP plays each side of TLS.
#[test]
fn tls_is_started_on_a_live_connection() {
    let certificates = Certificates::new();
    in_both_directions(|at| {
        for we_serve in [true, false] {
            let log = Rc::<RefCell<Vec<String>>>::default();
            let notes = log.clone();
            let tls = match we_serve {
                true => Ok(certificates.server.clone()),
                false => Err(certificates.client.clone()),
            };
            let case = if we_serve { "start-tls-client" } else { "start-tls-server" };
            let over = Over::StartTls(&certificates);
            let met = meet_over(at, &over, case, |_, end| Starting { tls, log: notes, end });
            let client = ["heard +", "secure", "heard encrypted"];
            let server = ["heard ?", "secure", "heard secret"];
            let (ours, theirs) = if we_serve { (server, client) } else { (client, server) };
            assert_eq!(*log.borrow(), ours, "{at:?} listens");
            let (said, lost) = met.said.split_at(3);
            assert_eq!(said, theirs, "{at:?} listens");
            assert_eq!(lost, ["lost ConnectionDone"], "{at:?} listens");
            let by = if we_serve { By::Peer } else { By::Us };
            let Reason::Done(who) = met.reason else { panic!("{at:?}: {}", met.reason) };
            assert_eq!(who, by, "{at:?} listens");
        }
    });
}
