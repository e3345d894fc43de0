//! The witness of a world compares the bytes that the protocols of both ends write and receive
//! above their layers.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use couplet::factory::Layered;
use couplet::layers::{Layer, Outbox, PassThrough, Up};
use couplet::sim::Sim;
use couplet::{Protocol, Result, Transport};
use couplet_testkit_loops::doubles::on_made;

use super::kit::{pattern, s};
use super::secure::both;
use crate::secure::NAME;

/// How a layer treats its input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Passes,
    /// Changes the byte at this offset.
    Flips(usize),
    /// Loses everything from this offset on.
    Loses(usize),
    /// Changes every byte, in both directions.
    Inverts,
}

/// A layer that may be broken.
struct Odd {
    how: How,
    says_transparent: bool,
    came: usize,
    lent: Vec<u8>,
    ended: bool,
}

impl Odd {
    fn new(how: How) -> Odd {
        Odd { how, says_transparent: false, came: 0, lent: Vec::new(), ended: false }
    }

    fn transparent(how: How) -> Odd {
        Odd { says_transparent: true, ..Odd::new(how) }
    }
}

impl Layer for Odd {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
        let (from, bytes) = (self.came, std::mem::take(below));
        self.came += bytes.len();
        self.lent = bytes.to_vec();
        match self.how {
            How::Passes => {}
            How::Flips(at) if (from..self.came).contains(&at) => self.lent[at - from] ^= 1,
            How::Flips(_) => {}
            How::Loses(at) => self.lent.truncate(at.saturating_sub(from)),
            How::Inverts => self.lent.iter_mut().for_each(|byte| *byte = !*byte),
        }
        match (&self.lent[..], self.ended) {
            ([], true) => Up::Closed,
            ([], false) => Up::Nothing,
            (bytes, _) => Up::Data(bytes),
        }
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
        while !above.is_empty() {
            let bytes = above.first();
            match self.how {
                How::Inverts => below.extend(&bytes.iter().map(|byte| !byte).collect::<Vec<_>>()),
                _ => below.extend(bytes),
            }
            above.advance(above.first().len());
        }
    }

    fn ended(&mut self) {
        self.ended = true;
    }

    fn is_transparent(&self) -> bool {
        self.says_transparent
    }
}

const MUCH: usize = 100_000;

fn talk(transport: &Transport) {
    let (all, mut sent) = (pattern(MUCH), 0);
    for size in 1.. {
        let next = (sent + 37 * size).min(MUCH);
        transport.write(&all[sent..next]);
        sent = next;
        if sent == MUCH {
            break;
        }
    }
    transport.lose_connection();
}

/// Keeps the bytes that it receives.
#[derive(Clone, Default)]
struct Keeps(Rc<RefCell<Vec<u8>>>);

impl Protocol for Keeps {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.0.borrow_mut().extend_from_slice(data);
    }
}

/// Runs a world in which a client talks to a server. Returns the violation, if any, and the bytes
/// that the server received.
fn run(
    server: impl Fn(Keeps, &couplet::Reactor) -> Result<()> + 'static,
    client: impl Fn(&couplet::Reactor) + 'static,
) -> (Option<String>, Vec<u8>) {
    let (mut sim, keeps) = (Sim::new(1), Keeps::default());
    let kept = keeps.clone();
    sim.host("server", move |reactor| server(kept.clone(), reactor));
    sim.host("client", move |reactor| {
        client(reactor);
        Ok(())
    });
    let outcome = sim.run_for(s(60));
    let broken = outcome.err().map(|failure| failure.to_string());
    (broken, keeps.0.take())
}

/// [`run`], with a layer under the protocol of each end.
fn over<A: Layer, B: Layer>(
    server: impl Fn() -> A + Clone + 'static,
    client: impl Fn() -> B + Clone + 'static,
) -> (Option<String>, Vec<u8>) {
    run(
        move |keeps, reactor| {
            let layer = server.clone();
            let factory = Layered::new(move || keeps.clone(), move |_, _| layer());
            reactor.listen("tcp:80", factory).map(drop)
        },
        move |reactor| {
            let layer = client.clone();
            let factory = Layered::new(|| on_made(talk), move |_, _| layer());
            reactor.connect("tcp:server:80", factory).add_both(|_| Ok(())).detach();
        },
    )
}

const NOT_NEXT: &str = "the protocol received bytes that its peer did not write next";
const TOO_EARLY: &str = "the end of the stream was reported before all its bytes";

fn assert_notices(what: &str, (broken, _): (Option<String>, Vec<u8>)) {
    let broken = broken.expect("the world is broken");
    assert!(broken.contains(what), "{broken}");
}

fn assert_whole((broken, received): (Option<String>, Vec<u8>)) {
    assert_eq!(broken, None);
    assert!(received == pattern(MUCH), "{} bytes", received.len());
}

#[test]
fn a_layer_that_changes_a_byte_is_noticed() {
    assert_whole(over(|| Odd::new(How::Passes), || Odd::new(How::Passes)));
    assert_whole(over(|| Odd::new(How::Inverts), || Odd::new(How::Inverts)));
    for at in [0, 1, MUCH / 2, MUCH - 1] {
        let flips = over(move || Odd::new(How::Flips(at)), || Odd::new(How::Passes));
        assert_notices(NOT_NEXT, flips);
    }
}

#[test]
fn a_layer_that_loses_the_last_bytes_is_noticed() {
    for at in [0, MUCH / 2, MUCH - 1] {
        let loses = over(move || Odd::new(How::Loses(at)), || Odd::new(How::Passes));
        assert_notices(TOO_EARLY, loses);
    }
}

/// A transparent layer need not have a counterpart at the other end.
#[test]
fn a_transparent_layer_that_changes_a_byte_is_noticed() {
    let flips = || Odd::transparent(How::Flips(MUCH / 2));
    assert_whole(over(|| Odd::transparent(How::Passes), PassThrough::default));
    assert_notices(NOT_NEXT, over(flips, PassThrough::default));
    let in_clear = run(
        move |keeps, reactor| {
            let factory = Layered::new(move || keeps.clone(), move |_, _| flips());
            reactor.listen("tcp:80", factory).map(drop)
        },
        |reactor| {
            reactor.connect("tcp:server:80", || on_made(talk)).add_both(|_| Ok(())).detach();
        },
    );
    assert_notices(NOT_NEXT, in_clear);
}

#[test]
fn bytes_before_and_after_tls_are_compared() {
    let over_tls = |how: How| {
        run(
            move |keeps, reactor| {
                let odd = Layered::new(move || keeps.clone(), move |_, _| Odd::transparent(how));
                let tls = both().0.clone();
                let factory = Layered::new(odd, move |reactor, _| tls.layer(reactor.now()));
                reactor.listen("tcp:80", factory).map(drop)
            },
            |reactor| {
                let tls = both().1.clone();
                let factory = Layered::new(
                    || on_made(talk),
                    move |reactor, _| tls.layer(NAME, reactor.now()).expect("a DNS name"),
                );
                reactor.connect("tcp:server:80", factory).add_both(|_| Ok(())).detach();
            },
        )
    };
    assert_whole(over_tls(How::Passes));
    assert_notices(NOT_NEXT, over_tls(How::Flips(MUCH / 2)));
    assert_notices(TOO_EARLY, over_tls(How::Loses(MUCH / 2)));
}

/// Starts a layer when both ends have agreed to, and continues above it.
struct Upgrades {
    asks: bool,
    how: How,
    keeps: Keeps,
    agreed: bool,
}

impl Protocol for Upgrades {
    fn connection_made(&mut self, transport: &Transport) {
        if self.asks {
            transport.write("upgrade?");
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if std::mem::replace(&mut self.agreed, true) {
            return self.keeps.data_received(transport, data);
        }
        if !self.asks {
            transport.write("yes");
        }
        transport.start_layer(Odd::new(self.how)).expect("it may still write");
        if self.asks {
            talk(transport);
        }
    }
}

#[test]
fn bytes_through_a_layer_of_a_live_connection_are_compared() {
    let live = |how: How| {
        run(
            move |keeps, reactor| {
                let build =
                    move || Upgrades { asks: false, how, keeps: keeps.clone(), agreed: false };
                reactor.listen("tcp:80", build).map(drop)
            },
            |reactor| {
                let keeps = Keeps::default();
                let build = move || {
                    let how = How::Passes;
                    Upgrades { asks: true, how, keeps: keeps.clone(), agreed: false }
                };
                reactor.connect("tcp:server:80", build).add_both(|_| Ok(())).detach();
            },
        )
    };
    assert_whole(live(How::Passes));
    assert_notices(NOT_NEXT, live(How::Flips(MUCH / 2)));
    assert_notices(TOO_EARLY, live(How::Loses(MUCH / 2)));
}

/// Behind a relay, for example, the stream differs from the one that went into the layers.
#[test]
fn different_layers_are_not_compared() {
    let inverted: Vec<u8> = pattern(MUCH).iter().map(|byte| !byte).collect();
    let (broken, received) = over(PassThrough::default, || Odd::new(How::Inverts));
    assert_eq!(broken, None);
    assert!(received == inverted, "{} bytes", received.len());
}
