//! The programs of `docs/diagnosis.md` whose flags are raised after half a minute or later, in
//! virtual time. `tests/diagnosis` has the others, and the rows of these.

use std::net::SocketAddr;

use couplet_core::testing::Wire;
use couplet_core::{Reactor, Result};

use super::{Duration, Measured, Observing, Snapshot};

#[path = "../../../tests/diagnosis/programs/mod.rs"]
mod programs;
#[path = "../../../tests/diagnosis/quotes.rs"]
mod quotes;

use programs::Version::{self, Faulty, Mended};
use programs::{answers, half_closed, locked, paused};
use quotes::Quote;

type Start = fn(&Reactor, Version) -> Result<SocketAddr>;

/// The program shows the quoted flags after this time and not earlier, and never if it is mended.
fn raises(name: &str, limit: Duration, start: Start, clients: fn(&mut Measured, u16) -> Vec<Wire>) {
    // The programs are in a folder of the library's crate.
    let of_program = |snapshot: &mut Snapshot| {
        let own = |file: &str| file.ends_with(&format!("{name}.rs"));
        snapshot.deferreds.iter_mut().for_each(|it| it.is_program |= own(it.place.file()));
    };
    for version in [Faulty, Mended] {
        let mut measured = Measured::new();
        let _observing = Observing::begin(&measured.reactor(), 4);
        let address = start(&measured.reactor(), version).expect("a free port");
        measured.memory.settle();
        let _wires = clients(&mut measured, address.port());
        let early = measured.pass(limit - Duration::from_secs(1)).flags_with(of_program);
        assert!(early.is_empty(), "{version:?}: {early:?}");
        let flags = measured.pass(Duration::from_secs(2)).flags_with(of_program);
        let json = serde_json::to_value(&flags).expect("JSON");
        let quote = Quote::of(name);
        match version {
            Faulty => assert_eq!(quote.different_flags(&json), Vec::<String>::new(), "{json:#}"),
            Mended => assert_eq!(quote.unhealthy(&json), Vec::<String>::new()),
        }
    }
}

impl Measured {
    /// A client that has sent this.
    fn client(&mut self, port: u16, text: &str) -> Wire {
        let wire = self.memory.connect(port);
        wire.push(text.as_bytes());
        self.memory.settle();
        wire
    }
}

#[test]
fn a_resolver_that_is_kept() {
    raises("answers", super::FORGOTTEN, answers::start, |measured, port| {
        vec![measured.client(port, "wait Door\r\nannounce Door\r\n")]
    });
}

#[test]
fn reading_that_is_never_resumed() {
    raises("paused", super::PAUSED, paused::start, |measured, port| {
        vec![measured.client(port, "!")]
    });
}

#[test]
fn a_lock_that_is_held_across_an_await() {
    raises("locked", super::LOCKED, locked::start, |measured, port| {
        let silent = measured.client(port, "");
        let other = measured.client(port, "rose\n");
        other.fin();
        measured.memory.settle();
        vec![silent, other]
    });
}

#[test]
fn a_connection_that_stays_half_closed() {
    raises("half_closed", super::HALF_CLOSED, half_closed::start, |measured, port| {
        let client = measured.client(port, "four");
        client.fin();
        measured.memory.settle();
        vec![client]
    });
}
