//! Connections that end in their handshake: the time of the end, and the reason on both sides.

use std::time::{Duration, Instant};

use couplet::factory::Layered;
use couplet::layers::tls::{ServerTls, ServerTlsOptions, TlsVersion};
use couplet::layers::{Layer, Outbox, ProxyReader, Up};
use couplet::protocols::{LimitConnectionRate, LimitConnections, Policy};
use couplet::testing::{failure_of, success_of};
use couplet::{Address, Failure, Reactor, Reason};

use super::{End, NAME, Rig, accepting};
use crate::logged::logged;
use crate::suite::kit::LOOPBACK;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Fails with the first byte, and has no deadline.
#[derive(Debug)]
struct Fails;

impl Layer for Fails {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
        if std::mem::take(below).is_empty() {
            return Up::Nothing;
        }
        Up::Failed(Reason::Failed(Failure::msg("that is not the password")))
    }

    fn down(&mut self, _: &mut Outbox, _: &mut Outbox, _: Instant) {}

    fn ended(&mut self) {}

    fn close(&mut self, _: &mut Outbox) {}

    fn is_open(&self) -> bool {
        false
    }
}

/// The layers that must open before the protocol exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opens {
    /// TLS with this timeout.
    Tls(Option<Duration>),
    /// TLS with the timeout of 10 s above a PROXY header with this one.
    Proxy(Duration),
    WithoutDeadline,
}

impl Opens {
    fn listen(self, rig: &Rig) -> Address {
        let options = ServerTlsOptions::new(rig.authority.identity(NAME));
        let options = match self {
            Opens::Tls(Some(timeout)) => options.handshake_timeout(timeout),
            _ => options,
        };
        let tls = accepting(&ServerTls::new(&options).expect("a configuration that works"));
        match self {
            Opens::Tls(_) => rig.listen_over(&End::default(), tls),
            Opens::WithoutDeadline => rig.listen_over(&End::default(), |_, _| Fails),
            Opens::Proxy(timeout) => {
                let proxy = move |reactor: &Reactor, _: &Address| {
                    let now = reactor.now();
                    ProxyReader::new(now).deadline_at(Some(now + timeout))
                };
                let factory = Layered::new(Layered::new(End::default, tls), proxy);
                rig.reactor.listen(LOOPBACK, factory).expect("a free port").host()
            }
        }
    }

    /// Counts from the beginning of the connection, or of its end if there is no deadline.
    fn limit(self) -> Duration {
        match self {
            Opens::Tls(timeout) => timeout.unwrap_or(SECOND * 10),
            Opens::Proxy(timeout) => timeout.max(SECOND * 10),
            Opens::WithoutDeadline => SECOND * 30,
        }
    }
}

#[test]
fn c15b_the_end_of_a_failed_handshake_has_the_time_of_the_handshake() {
    let cases = [
        Opens::Tls(None),
        Opens::Tls(Some(SECOND * 3)),
        Opens::Tls(Some(SECOND * 60)),
        Opens::Proxy(SECOND * 5),
        Opens::Proxy(SECOND * 20),
        Opens::WithoutDeadline,
    ];
    // The peer keeps its side open, or closes it a second later.
    let cases = cases.iter().flat_map(|opens| [(*opens, false), (*opens, true)]);
    for ((opens, closes), mut rig) in Rig::each(cases) {
        let port = opens.listen(&rig);
        let wire = rig.wire_to(&port);
        rig.advance(SECOND);
        rig.push(&wire, b"GET / HTTP/1.1\r\n\r\n");
        let alert = wire.take();
        assert_eq!(alert.first(), matches!(opens, Opens::Tls(_)).then_some(&21), "{opens:?}");
        assert!(wire.saw_fin() && !wire.is_closed(), "{opens:?}");
        if closes {
            rig.advance(SECOND);
            rig.close(&wire);
        } else {
            let before = if opens == Opens::WithoutDeadline { Duration::ZERO } else { SECOND };
            rig.advance(opens.limit() - before - MS);
            assert!(!wire.is_closed() && rig.not_opened_and_open() == (0, 1), "{opens:?}");
            rig.advance(MS);
        }
        assert!(wire.is_closed() && !wire.saw_reset(), "{opens:?}");
        assert_eq!(rig.not_opened_and_open(), (1, 0), "{opens:?}");
    }
}

#[test]
fn c15b_a_handshake_without_an_end_closes_at_its_deadline() {
    for (opens, mut rig) in Rig::each([Opens::Tls(Some(SECOND * 3)), Opens::Tls(None)]) {
        let port = opens.listen(&rig);
        let wire = rig.wire_to(&port);
        // Bytes do not prolong it.
        for byte in [22, 3, 1, 1] {
            wire.push(&[byte]);
            rig.advance(SECOND / 2);
        }
        rig.advance(opens.limit() - 2 * SECOND - MS);
        assert!(!wire.saw_fin(), "{opens:?}");
        rig.advance(MS);
        assert!(wire.saw_fin() && wire.is_closed() && !wire.saw_reset(), "{opens:?}");
        assert_eq!(wire.take(), b"", "there is no alert for that");
        assert_eq!(rig.not_opened_and_open(), (1, 0), "{opens:?}");
    }
}

/// A policy that refuses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refuses {
    /// Before the handshake.
    First,
    /// After it.
    Last,
}

#[test]
fn c77_a_refused_connection_is_closed_before_or_after_its_handshake() {
    use TlsVersion::{Tls12, Tls13};
    let reset = "connection lost: connection reset";
    let truncated = "the stream ended without close_notify: it may have been cut";
    // The end of the connect, or of the client's connection.
    let cases = [
        (Refuses::First, Tls12, reset),
        (Refuses::First, Tls13, reset),
        (Refuses::Last, Tls12, "the stream ended during the handshake"),
        // The client's part of the handshake is complete before the server's.
        (Refuses::Last, Tls13, truncated),
    ];
    for ((refuses, version, expected), mut rig) in Rig::each(cases) {
        let case = format!("{refuses:?}, {version:?}");
        let options = ServerTlsOptions::new(rig.authority.identity(NAME));
        let tls = ServerTls::new(&options.versions(version, version)).expect("it works");
        let layer = accepting(&tls);
        let (server, client) = (End::default(), End::default());
        let inner = server.clone();
        let build = move || inner.clone();
        let port = match refuses {
            Refuses::First => {
                let limited = LimitConnections::new(0).wrap(build);
                rig.reactor.listen(LOOPBACK, Layered::new(limited, layer))
            }
            Refuses::Last => {
                let limited = LimitConnectionRate::new(0, SECOND).wrap(build);
                rig.reactor.listen(LOOPBACK, Layered::new(limited, layer))
            }
        };
        let connecting = rig.connect(&port.expect("a free port").host(), &client);
        rig.turn();
        let end = match client.is_made() {
            true => {
                drop(success_of(connecting));
                client.reason().to_string()
            }
            false => format!("{:#}", failure_of(connecting)),
        };
        assert!(end.contains(expected), "{case}: {end}");
        assert!(!server.is_made(), "{case}");
        let snapshot = rig.l.snapshot();
        assert_eq!(
            (snapshot.ports[0].counters.rejected, snapshot.connections.len()),
            (1, 0),
            "{case}"
        );
    }
}

#[test]
fn c77_a_stop_resets_a_silent_connection_in_its_handshake_after_the_grace() {
    for mut rig in Rig::both() {
        let server = End::default();
        let wire = rig.wire_to(&rig.listen(&server));
        rig.push(&wire, &[22, 3, 1]);
        let stopping = rig.reactor.clone();
        rig.reactor.call_soon(move || stopping.stop());
        let (run, log) = logged(|| rig.l.run(|_| Ok(())));
        run.expect("the run ends");
        let saw = (wire.saw_fin(), wire.is_closed(), wire.saw_reset());
        assert_eq!(saw, (false, true, true));
        assert!(!server.is_made() && rig.l.snapshot().is_empty());
        let reason = "cannot open a connection";
        assert!(
            log.iter().any(|line| line.contains(reason) && line.contains("reactor")),
            "{log:?}"
        );
    }
}
