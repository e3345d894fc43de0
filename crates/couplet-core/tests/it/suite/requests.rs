//! Rows 2a and 160f: each request of each handle, made inside each callback of that protocol.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use couplet::driver::CloseMode;
use couplet::{
    Datagram, DatagramOption, DatagramOptions, DatagramPort, DatagramProtocol, DatagramTransport,
    Group, Producer, ProducerKind, Transport,
};

use super::kit::{Kit, LOOPBACK, Rig, own_address};
use super::peer::{B, Saw};
use super::recorder::{A, Broken, Log, On, Recorder, Script};

const SECOND: Duration = Duration::from_secs(1);

/// The results of a request, for its check.
#[derive(Clone, Default)]
struct Asked {
    log: Log,
    /// Logs the callbacks of an upgrade's protocol.
    next: A,
    /// The reading end of a pipe whose writing end was sent.
    #[cfg(unix)]
    pipe: Rc<Cell<Option<std::io::PipeReader>>>,
}

/// A request: its name, how to check its effect, and how to make it in a callback.
type Request = (&'static str, fn(&mut Checked), fn(&Transport, &Asked));

/// The connection in whose callback a request was made.
struct Checked {
    rig: Rig,
    on: On,
    a: A,
    b: B,
    asked: Asked,
}

/// Logs the first request for data, and unregisters.
struct Pull(Log, Transport);

impl Producer for Pull {
    fn resume_producing(&mut self) {
        self.0.note("pulled");
        self.1.unregister_producer();
    }

    fn stop_producing(&mut self) {
        self.0.note("stopped");
    }
}

const REQUESTS: &[Request] = &[
    ("write", Checked::arrives, |t, _| t.write(b"asked")),
    ("write_bytes", Checked::arrives, |t, _| t.write_bytes(&b"asked"[..])),
    ("write_sequence", Checked::arrives, |t, _| t.write_sequence(["as", "ked"])),
    ("lose_connection", |c| c.closes("Done"), |t, _| t.lose_connection()),
    ("fail", |c| c.closes("Failed(on request)"), |t, _| t.fail(Broken("on request"))),
    ("abort_connection", |c| c.is_lost("Aborted"), |t, _| t.abort_connection()),
    (
        "set_close_at_once",
        |c| c.is_lost("Done"),
        |t, _| {
            t.set_close_at_once(true);
            t.lose_connection();
        },
    ),
    ("set_write_until_end", Checked::sends_late, |t, _| {
        t.set_write_until_end(true);
        t.lose_connection();
        t.write("asked");
    }),
    ("set_fin_timeout", Checked::closes_in_time, |t, _| {
        t.set_fin_timeout(Some(SECOND));
        t.lose_connection();
    }),
    ("lose_write_connection", Checked::stops_writing, |t, _| t.lose_write_connection()),
    ("pause_producing", Checked::is_paused, |t, _| t.pause_producing()),
    ("throttle", Checked::is_throttled, |t, _| t.throttle(SECOND)),
    ("drained", Checked::is_done, |t, asked| asked.log.watch("asked", t.drained())),
    ("flushed", Checked::is_done, |t, asked| asked.log.watch("asked", t.flushed())),
    ("peer_ended", Checked::peer_ended, |t, asked| asked.log.watch("asked", t.peer_ended())),
    ("register_producer", Checked::is_pulled, |t, asked| {
        let producer = Pull(asked.log.clone(), t.clone());
        t.register_producer(producer, ProducerKind::Pull).expect("there is no other");
    }),
    ("set_half_close_timeout", Checked::half_close_times_out, |t, _| {
        t.set_half_close_timeout(Some(SECOND));
    }),
    ("set_idle_timeout", Checked::times_out, |t, _| t.set_idle_timeout(Some(SECOND))),
    ("set_write_cap", Checked::overflows, |t, _| {
        t.set_write_cap(Some(3));
        t.write(b"more");
    }),
    ("set_write_marks", Checked::has_marks, |t, asked| {
        t.set_write_marks(0, 0);
        t.write(b"x");
        asked.log.note(format!("full: {}", t.is_full()));
    }),
    ("with_socket", Checked::has_socket, |t, asked| {
        let log = asked.log.clone();
        t.with_socket(move |_| {
            log.note("asked: ok");
            Ok(())
        });
    }),
    (
        "set_tcp_no_delay",
        |c| c.sets_option(false, Transport::tcp_no_delay),
        |t, _| t.set_tcp_no_delay(false),
    ),
    (
        "set_tcp_keep_alive",
        |c| c.sets_option(true, Transport::tcp_keep_alive),
        |t, _| t.set_tcp_keep_alive(Some(SECOND)),
    ),
    ("tell", Checked::is_done, |t, asked| {
        let log = asked.log.clone();
        assert!(t.connection::<Recorder>().tell(move |_, _| log.note("asked: ok")));
    }),
    ("ask", Checked::is_done, |t, asked| {
        asked.log.watch("asked", t.connection::<Recorder>().ask(|_, _| ()));
    }),
    ("call_later", Checked::is_done_later, |t, asked| {
        let log = asked.log.clone();
        let call = move |_: &mut Recorder, _: &Transport| log.note("asked: ok");
        t.connection::<Recorder>().call_later(SECOND, call);
    }),
    ("set_reset_unless_closed", Checked::resets, |t, _| t.set_reset_unless_closed(true)),
    #[cfg(unix)]
    ("send_descriptor", Checked::sends_descriptor, |t, asked| {
        let (reader, writer) = std::io::pipe().expect("the system has pipes");
        rustix::io::ioctl_fionbio(&reader, true).expect("it is open");
        asked.pipe.set(Some(reader));
        let sent = t.send_descriptor(writer.into());
        asked.log.note(if sent.is_ok() { "asked: ok" } else { "asked: refused" });
        t.write(b"asked");
    }),
    ("start_layer", Checked::starts_layer, |t, asked| {
        let started = t.start_layer(super::sealed::tls(false, t.reactor().now()));
        asked.log.note(if started.is_ok() { "asked: ok" } else { "asked: refused" });
    }),
    ("start_tls", Checked::starts_tls, |t, asked| {
        let started = t.start_tls(super::sealed::server());
        asked.log.note(if started.is_ok() { "asked: ok" } else { "asked: refused" });
    }),
    (
        "upgrade_with",
        |c| c.upgrades(b"unread"),
        |t, asked| t.upgrade_with(asked.next.plays(Script::new().aware()), b"unread"),
    ),
    ("upgrade", |c| c.upgrades(b""), |t, asked| t.upgrade(asked.next.plays(Script::new().aware()))),
];

impl Checked {
    /// B receives the written bytes, unless our end of the stream was sent.
    fn arrives(&mut self) {
        if self.on == On::WriteClosed {
            return assert_eq!(self.a.transport().dropped(), 5);
        }
        self.rig.gets(&self.b, b"asked");
    }

    /// Like [`arrives`](Self::arrives), for output after a close.
    fn sends_late(&mut self) {
        self.arrives();
        self.closes("Done");
    }

    fn is_lost(&mut self, reason: &str) {
        let lost = self.rig.lost(&self.a);
        assert!(lost.starts_with(reason), "{lost}");
    }

    fn closes(&mut self, reason: &str) {
        assert_eq!(self.rig.take_to_the_end(&self.b), Saw::Fin);
        self.fin();
        self.is_lost(reason);
    }

    /// B ends its stream, unless it has.
    fn fin(&mut self) {
        if self.on != On::ReadClosed {
            self.b.fin();
        }
    }

    fn closes_in_time(&mut self) {
        self.rig.take_to_the_end(&self.b);
        self.rig.pass(SECOND);
        self.is_lost("Done");
    }

    fn stops_writing(&mut self) {
        assert_eq!(self.rig.take_to_the_end(&self.b), Saw::Fin);
        self.rig.until("write_closed", || self.a.log.has("write_closed"));
    }

    fn is_done(&mut self) {
        let log = &self.asked.log;
        self.rig.until("its effect", || log.has("asked: ok"));
        assert_eq!(log.len(), 1, "{:?}", log.entries());
    }

    fn is_done_later(&mut self) {
        self.rig.pass(SECOND);
        self.is_done();
    }

    fn has_late(&self) -> bool {
        self.a.received().ends_with(b"late")
    }

    fn gets_late(&mut self) {
        self.rig.until("the rest", || self.a.received().ends_with(b"late"));
    }

    /// B sends, and nothing is delivered.
    fn holds_late(&mut self) {
        self.b.send(b"late");
        self.rig.turns(5);
        assert!(!self.has_late(), "it paused");
    }

    fn is_paused(&mut self) {
        self.holds_late();
        self.a.transport().resume_producing();
        self.gets_late();
    }

    fn is_throttled(&mut self) {
        self.holds_late();
        self.rig.pass(SECOND);
        self.gets_late();
    }

    fn peer_ended(&mut self) {
        self.fin();
        self.is_done();
    }

    fn is_pulled(&mut self) {
        let says = if self.on == On::WriteClosed { "stopped" } else { "pulled" };
        self.rig.until(says, || self.asked.log.has(says));
    }

    fn times_out(&mut self) {
        self.rig.turns(2);
        self.rig.pass(SECOND);
        self.is_lost("Timeout");
    }

    fn half_close_times_out(&mut self) {
        self.fin();
        if self.on == On::WriteClosed {
            return self.is_lost("Done(Peer)");
        }
        for _ in 0..8 {
            self.rig.turns(2);
            self.rig.pass(SECOND / 4);
        }
        self.is_lost("Timeout");
    }

    fn overflows(&mut self) {
        match self.on {
            On::WriteClosed => assert_eq!(self.a.transport().dropped(), 4),
            _ => self.is_lost("Overflow"),
        }
    }

    fn has_marks(&mut self) {
        let is_full = self.on != On::WriteClosed;
        assert_eq!(self.asked.log.entries(), [format!("full: {is_full}")]);
    }

    fn has_socket(&mut self) {
        match self.rig.kit.has_sockets() {
            true => self.is_done(),
            false => self.rig.turns(2),
        }
    }

    /// An option of TCP has this value, if A is a TCP socket.
    fn sets_option(&mut self, wanted: bool, option: fn(&Transport) -> Option<bool>) {
        self.rig.turns(2);
        let is_tcp = self.rig.kit.has_sockets() && !self.rig.kit.is_unix();
        assert_eq!(option(&self.a.transport()), is_tcp.then_some(wanted));
    }

    fn resets(&mut self) {
        self.a.tell(|_| panic!("on purpose"));
        if self.on == On::WriteClosed {
            self.b.fin();
        }
        assert_eq!(self.rig.lost(&self.a), "Panicked(on purpose)");
        // It has no effect after our end of the stream.
        let resets = self.rig.counts(&self.a).closes == [CloseMode::Reset];
        assert!(resets || self.on == On::WriteClosed);
    }

    #[cfg(unix)]
    fn sends_descriptor(&mut self) {
        let takes = self.rig.kit.is_unix() && self.on != On::WriteClosed;
        let wanted = if takes { "asked: ok" } else { "asked: refused" };
        assert_eq!(self.asked.log.entries(), [wanted]);
        let mut pipe = self.asked.pipe.take().expect("the request was made");
        let mut is_closed = || std::io::Read::read(&mut pipe, &mut [0]).is_ok();
        // The only other copy is in B's socket; B reads the bytes without the descriptor.
        self.rig.turns(5);
        let is_sent = takes && self.rig.kit.has_sockets();
        assert!(is_closed() || is_sent);
        self.arrives();
        assert!(is_closed());
    }

    fn starts_layer(&mut self) {
        match self.on {
            On::WriteClosed => assert_eq!(self.asked.log.entries(), ["asked: refused"]),
            // The peer's end is delivered first.
            On::ReadClosed => self.fails(),
            _ => {
                self.rig.until("a ClientHello", || {
                    self.b.take_all();
                    self.b.got().starts_with(&[22, 3, 1])
                });
                assert!(self.a.transport().is_starting_layer());
            }
        }
    }

    fn starts_tls(&mut self) {
        if self.on == On::WriteClosed {
            return assert_eq!(self.asked.log.entries(), ["asked: refused"]);
        }
        if self.on != On::ReadClosed {
            self.b.send(b"no ClientHello");
        }
        self.fails();
    }

    /// The handshake fails.
    fn fails(&mut self) {
        self.rig.take_to_the_end(&self.b);
        self.fin();
        let lost = self.rig.lost(&self.a);
        assert!(lost.starts_with("Tls") || lost == "Lost", "{lost}");
    }

    /// The next protocol is called, and has these bytes.
    fn upgrades(&mut self, unread: &[u8]) {
        let next = &self.asked.next;
        self.rig.until("the next protocol", || next.log.has("made") && next.received() == unread);
    }
}

/// Triggers A's callback, in which the request is made.
fn reach(rig: &mut Rig, on: On, a: &A, b: &B) {
    match on {
        On::Made => {}
        #[cfg(unix)]
        On::Descriptor => unreachable!("B sends none"),
        On::Data => b.send(b"x"),
        On::Resumed => a.transport().resume_producing(),
        On::ReadClosed => b.fin(),
        On::WriteClosed => a.transport().lose_write_connection(),
        On::Draining => rig.reactor.drain(100 * SECOND).detach(),
        On::Lost => a.transport().abort_connection(),
    }
    rig.until("the callback", || a.log.has(on.entry()));
}

/// A connection that has made the request in this callback.
fn with_request(kit: Kit, on: On, (_, _, ask): Request) -> Checked {
    let asked = Asked::default();
    let left = asked.clone();
    let mut script = Script::new().aware();
    if on == On::Resumed {
        script = script.once(On::Made, Transport::pause_producing);
    }
    let (mut rig, a, b) = kit.accept(script.once(on, move |transport| ask(transport, &left)));
    reach(&mut rig, on, &a, &b);
    Checked { rig, on, a, b, asked }
}

pub(crate) fn c02a_each_request_takes_effect_in_each_callback_of_its_protocol(kit: Kit) {
    for on in [On::Made, On::Data, On::Resumed, On::ReadClosed, On::WriteClosed, On::Draining] {
        for &request in REQUESTS {
            let (name, check, _) = request;
            // After the peer's end of the stream, no input remains for a pause to hold.
            if on == On::ReadClosed && ["pause_producing", "throttle"].contains(&name) {
                continue;
            }
            let place = format!("{name} in {on:?}");
            let _named = Named(&place);
            let mut checked = with_request(kit, on, request);
            check(&mut checked);
            let a = checked.a;
            assert!(!a.was_nested() && a.log.count("lost") <= 1, "{place}");
        }
    }
}

/// Prints the case in which a test failed.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was {}", self.0);
        }
    }
}

pub(crate) fn c02a_c08_each_request_in_connection_lost_does_nothing(kit: Kit) {
    // A tell reports a refusal, but the table expects success.
    for &request in REQUESTS.iter().filter(|(name, ..)| *name != "tell") {
        let (name, ..) = request;
        let _named = Named(name);
        let Checked { mut rig, a, asked, b: _b, .. } = with_request(kit, On::Lost, request);
        rig.turns(2);
        rig.pass(2 * SECOND);
        rig.turns(2);
        let expected: &[&str] = match name {
            "drained" | "flushed" | "peer_ended" | "ask" => &["asked: failed"],
            "send_descriptor" => &["asked: refused"],
            // Accepted, as after a close.
            "start_layer" | "start_tls" => &["asked: ok"],
            "register_producer" => &["stopped"],
            "set_write_marks" => &["full: false"],
            _ => &[],
        };
        assert_eq!(asked.log.entries(), expected);
        assert!(asked.next.log.entries().is_empty() && !a.was_nested());
        assert_eq!(a.log.last_but(0), "lost(Aborted)");
    }
}

/// The callbacks of a datagram port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    Datagram,
    /// A datagram sent to its peer was refused.
    Refused,
    Stop,
}

type AskOfPort = fn(&DatagramTransport, &Log);

/// A request of a port: its name, the log entries that it causes besides the callbacks, and how to
/// make it.
type OfPort = (&'static str, &'static [&'static str], AskOfPort);

/// Makes a request in one of its callbacks, once.
struct Port {
    log: Log,
    at: At,
    ask: Option<AskOfPort>,
}

impl Port {
    /// A port that asks for nothing.
    fn quiet() -> Port {
        Port { log: Log::default(), at: At::Stop, ask: None }
    }

    fn play(&mut self, at: At, transport: &DatagramTransport) {
        self.log.note(format!("{at:?}"));
        if let Some(ask) = self.ask.take_if(|_| at == self.at) {
            ask(transport, &self.log);
        }
    }
}

impl DatagramProtocol for Port {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        self.play(At::Start, transport);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        self.log.note(String::from_utf8_lossy(datagram.data));
        self.play(At::Datagram, transport);
    }

    fn connection_refused(&mut self, transport: &DatagramTransport) {
        self.play(At::Refused, transport);
    }

    fn stop_protocol(&mut self, transport: &DatagramTransport) {
        self.play(At::Stop, transport);
    }
}

const OF_PORTS: &[OfPort] = &[
    ("send_to", &["sent", "to itself"], |t, log| {
        let sent = t.send_to("to itself", t.host());
        log.note(if sent.is_ok() { "sent" } else { "refused" });
    }),
    ("set_option", &["option: ok"], |t, log| {
        log.watch("option", t.set_option(DatagramOption::Broadcast(true)));
    }),
    ("two options", &["one: ok", "two: ok"], |t, log| {
        log.watch("one", t.set_option(DatagramOption::Broadcast(true)));
        log.watch("two", t.set_option(DatagramOption::Broadcast(false)));
    }),
    ("groups", &["joined: ok", "left: ok", "leaves by: ok"], |t, log| {
        let group = Group::new([239, 255, 155, 162]).interface(Ipv4Addr::LOCALHOST);
        log.watch("joined", t.join_group(group));
        log.watch("left", t.leave_group(group));
        log.watch("leaves by", t.set_outgoing_interface(Ipv4Addr::LOCALHOST));
    }),
    ("stop_listening", &["Stop", "stopped: ok"], |t, log| match t.stop_listening() {
        Some(stopped) => log.watch("stopped", stopped),
        None => log.note("stops already"),
    }),
    ("pause and resume", &["a last one"], |t, _| {
        t.pause_producing();
        t.port::<Port>().call_later(SECOND, |_, transport| transport.resume_producing());
    }),
    ("tell", &["told"], |t, log| {
        let (done, log) = (log.clone(), log.clone());
        if !t.port::<Port>().tell(move |_, _| done.note("told")) {
            log.note("refused");
        }
    }),
    ("ask", &["asked: ok"], |t, log| log.watch("asked", t.port::<Port>().ask(|_, _| ()))),
    ("call_later", &["called"], |t, log| {
        let log = log.clone();
        t.port::<Port>().call_later(SECOND, move |_, _| log.note("called"));
    }),
];

/// The request was made; its effects follow. A pause holds what `from` sends.
fn has_effects(
    rig: &mut Rig,
    log: &Log,
    (name, effects, _): OfPort,
    from: [&DatagramPort<Port>; 2],
) {
    let [other, port] = from;
    if name == "pause and resume" {
        other.send_to("a last one", port.host()).expect("there is room");
        rig.turns(5);
        assert!(!log.has("a last one"), "it paused");
    }
    rig.turns(2);
    rig.pass(SECOND);
    rig.until("the effects", || effects.iter().all(|effect| log.has(effect)));
}

/// UNIX sockets have no such options.
const NEED_IP: [&str; 3] = ["set_option", "two options", "groups"];

/// A port that makes the request in this callback, and another port that sends to it.
fn port_with(
    rig: &Rig,
    at: At,
    (_, _, ask): OfPort,
) -> (DatagramPort<Port>, DatagramPort<Port>, Log) {
    let log = Log::default();
    let asking = Port { log: log.clone(), at, ask: Some(ask) };
    let options = DatagramOptions::default;
    (rig.datagrams(options(), asking), rig.datagrams(options(), Port::quiet()), log)
}

pub(crate) fn c160f_each_request_of_a_port_takes_effect_in_each_of_its_callbacks(kit: Kit) {
    for at in [At::Start, At::Datagram] {
        for &request in OF_PORTS {
            let (name, ..) = request;
            if kit.is_unix() && NEED_IP.contains(&name) {
                continue;
            }
            let mut rig = kit.rig();
            let place = format!("{name} in {at:?}");
            let _named = Named(&place);
            let (port, other, log) = port_with(&rig, at, request);
            rig.turns(2);
            if at == At::Datagram {
                other.send_to("x", port.host()).expect("there is room");
            }
            rig.until("the callback", || log.has(&format!("{at:?}")));
            has_effects(&mut rig, &log, request, [&other, &port]);
        }
    }
}

pub(crate) fn c160f_each_request_of_a_port_takes_effect_in_connection_refused(kit: Kit) {
    for &(name, effects, ask) in OF_PORTS {
        let mut rig = kit.rig();
        let _named = Named(name);
        let there =
            rig.reactor.listen_udp(own_address(162, 0), Port::quiet()).expect("a free port");
        let to = there.host().socket_addr().expect("an address");
        drop(there.stop_listening());
        rig.turns(2);
        let log = Log::default();
        let asking = Port { log: log.clone(), at: At::Refused, ask: Some(ask) };
        let port = rig.reactor.connect_udp(to, asking).expect("there is a route");
        port.send("to nobody").expect("there is room");
        rig.until("the callback", || log.has("Refused"));
        let peer = rig.reactor.listen_udp(to, Port::quiet()).expect("the port is free");
        // It may send only to its peer.
        let effects = if name == "send_to" { &["refused"] } else { effects };
        has_effects(&mut rig, &log, (name, effects, ask), [&peer, &port]);
    }
}

pub(crate) fn c160f_requests_in_stop_protocol_do_nothing_and_leave_nothing(kit: Kit) {
    for &request in OF_PORTS {
        let (name, ..) = request;
        let mut rig = kit.rig();
        let _named = Named(name);
        let (port, _other, log) = port_with(&rig, At::Stop, request);
        rig.turns(2);
        port.stop_listening().expect("it listens").detach();
        rig.until("the callback", || log.has("Stop"));
        rig.turns(2);
        rig.pass(2 * SECOND);
        rig.turns(2);
        let rest = log.entries()[2..].to_vec();
        let expected: &[&str] = match name {
            "send_to" | "tell" => &["refused"],
            "set_option" => &["option: failed"],
            "two options" => &["one: failed", "two: failed"],
            "groups" => &["joined: failed", "left: failed", "leaves by: failed"],
            "stop_listening" => &["stops already"],
            "ask" => &["asked: failed"],
            _ => &[],
        };
        assert_eq!(rest, expected, "{name}");
        assert_eq!(rig.l.snapshot().pending_calls, 0, "{name}");
    }
}

pub(crate) fn c160d_the_answer_to_a_multicast_comes_from_the_address_of_a_socket(kit: Kit) {
    let mut rig = kit.rig();
    let local = Ipv4Addr::LOCALHOST;
    let any = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let (log, got) = (Log::default(), Rc::new(std::cell::RefCell::new(Vec::new())));
    let answers = |transport: &DatagramTransport, datagram: &Datagram<'_>| {
        transport.answer(datagram, "an answer").expect("it can be answered");
    };
    let member = rig.reactor.listen_udp(any, answers).expect("a free port");
    let seen = got.clone();
    let notes = move |_: &DatagramTransport, datagram: &Datagram<'_>| {
        seen.borrow_mut().push((datagram.data.to_vec(), datagram.from.clone()));
    };
    let asks = rig.reactor.listen_udp(LOOPBACK, notes).expect("a free port");
    log.watch("joined", member.join_group(Group::new([239, 255, 155, 161]).interface(local)));
    log.watch("leaves by", asks.set_outgoing_interface(local));
    rig.until("a member", || log.len() == 2);
    assert!(log.has("joined: ok"), "{:?}", log.entries());
    let port = member.host().port().expect("a number");
    asks.send_to("a question", std::net::SocketAddr::from(([239, 255, 155, 161], port)))
        .expect("there is room");
    rig.until("the answer", || !got.borrow().is_empty());
    let from = std::net::SocketAddr::from((local, port)).to_string();
    let got = got.borrow();
    assert_eq!(
        (&got[0].0[..], got[0].1.socket_addr().map(|ip| ip.to_string())),
        (&b"an answer"[..], Some(from))
    );
}
