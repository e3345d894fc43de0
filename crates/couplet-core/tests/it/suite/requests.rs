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

/// A request, how to make it in a callback, and how to check its effect.
struct Request {
    name: &'static str,
    ask: fn(&Transport, &Asked),
    check: fn(&mut Checked<'_>),
}

/// The connection in whose callback a request was made.
struct Checked<'a> {
    rig: &'a mut Rig,
    on: On,
    a: &'a A,
    b: &'a B,
    asked: &'a Asked,
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
    Request { name: "write", ask: |t, _| t.write(b"asked"), check: |c| c.arrives() },
    Request {
        name: "write_bytes",
        ask: |t, _| t.write_bytes(&b"asked"[..]),
        check: |c| c.arrives(),
    },
    Request {
        name: "write_sequence",
        ask: |t, _| t.write_sequence(["as", "ked"]),
        check: |c| c.arrives(),
    },
    Request {
        name: "lose_connection",
        ask: |t, _| t.lose_connection(),
        check: |c| c.closes("Done"),
    },
    Request {
        name: "fail",
        ask: |t, _| t.fail(Broken("on request")),
        check: |c| c.closes("Failed(on request)"),
    },
    Request {
        name: "abort_connection",
        ask: |t, _| t.abort_connection(),
        check: |c| assert_eq!(c.rig.lost(c.a), "Aborted"),
    },
    Request {
        name: "set_close_at_once",
        ask: |t, _| {
            t.set_close_at_once(true);
            t.lose_connection();
        },
        check: |c| assert!(c.rig.lost(c.a).starts_with("Done")),
    },
    Request {
        name: "set_close_deadline",
        ask: |t, _| {
            t.set_close_deadline(Some(SECOND));
            t.lose_connection();
        },
        check: |c| {
            c.rig.take_to_the_end(c.b);
            c.rig.pass(SECOND);
            assert!(c.rig.lost(c.a).starts_with("Done"));
        },
    },
    Request {
        name: "lose_write_connection",
        ask: |t, _| t.lose_write_connection(),
        check: |c| {
            assert_eq!(c.rig.take_to_the_end(c.b), Saw::Fin);
            let a = c.a.clone();
            c.rig.until("write_closed", || a.log.has("write_closed"));
        },
    },
    Request { name: "pause_producing", ask: |t, _| t.pause_producing(), check: |c| c.is_paused() },
    Request {
        name: "throttle",
        ask: |t, _| t.throttle(SECOND),
        check: |c| {
            c.b.send(b"late");
            c.rig.turns(5);
            assert!(!c.has_late());
            c.rig.pass(SECOND);
            c.gets_late();
        },
    },
    Request {
        name: "drained",
        ask: |t, asked| asked.log.watch("asked", t.drained()),
        check: |c| c.is_done(),
    },
    Request {
        name: "flushed",
        ask: |t, asked| asked.log.watch("asked", t.flushed()),
        check: |c| c.is_done(),
    },
    Request {
        name: "peer_ended",
        ask: |t, asked| asked.log.watch("asked", t.peer_ended()),
        check: |c| {
            if c.on != On::ReadClosed {
                c.b.fin();
            }
            c.is_done();
        },
    },
    Request {
        name: "register_producer",
        ask: |t, asked| {
            let producer = Pull(asked.log.clone(), t.clone());
            t.register_producer(producer, ProducerKind::Pull).expect("there is no other");
        },
        check: |c| {
            let log = c.asked.log.clone();
            let says = if c.on == On::WriteClosed { "stopped" } else { "pulled" };
            c.rig.until(says, || log.has(says));
        },
    },
    Request {
        name: "set_idle_timeout",
        ask: |t, _| t.set_idle_timeout(Some(SECOND)),
        check: |c| {
            c.rig.turns(2);
            c.rig.pass(SECOND);
            assert_eq!(c.rig.lost(c.a), "Timeout");
        },
    },
    Request {
        name: "set_write_cap",
        ask: |t, _| {
            t.set_write_cap(Some(3));
            t.write(b"more");
        },
        check: |c| match c.on {
            On::WriteClosed => assert_eq!(c.a.transport().dropped(), 4),
            _ => assert_eq!(c.rig.lost(c.a), "Overflow"),
        },
    },
    Request {
        name: "set_write_marks",
        ask: |t, asked| {
            t.set_write_marks(0, 0);
            t.write(b"x");
            asked.log.note(format!("full: {}", t.is_full()));
        },
        check: |c| {
            let is_full = c.on != On::WriteClosed;
            assert_eq!(c.asked.log.entries(), [format!("full: {is_full}")]);
        },
    },
    Request {
        name: "with_socket",
        ask: |t, asked| {
            let log = asked.log.clone();
            t.with_socket(move |_| {
                log.note("asked: ok");
                Ok(())
            });
        },
        check: |c| match c.rig.kit.has_sockets() {
            true => c.is_done(),
            false => c.rig.turns(2),
        },
    },
    Request {
        name: "set_tcp_no_delay",
        ask: |t, _| t.set_tcp_no_delay(false),
        check: |c| {
            c.rig.turns(2);
            let is_tcp = c.rig.kit.has_sockets() && !c.rig.kit.is_unix();
            assert_eq!(c.a.transport().tcp_no_delay(), is_tcp.then_some(false));
        },
    },
    Request {
        name: "tell",
        ask: |t, asked| {
            let log = asked.log.clone();
            assert!(t.connection::<Recorder>().tell(move |_, _| log.note("asked: ok")));
        },
        check: |c| c.is_done(),
    },
    Request {
        name: "ask",
        ask: |t, asked| asked.log.watch("asked", t.connection::<Recorder>().ask(|_, _| ())),
        check: |c| c.is_done(),
    },
    Request {
        name: "call_later",
        ask: |t, asked| {
            let log = asked.log.clone();
            let call = move |_: &mut Recorder, _: &Transport| log.note("asked: ok");
            t.connection::<Recorder>().call_later(SECOND, call);
        },
        check: |c| {
            c.rig.pass(SECOND);
            c.is_done();
        },
    },
    Request {
        name: "set_tcp_keep_alive",
        ask: |t, _| t.set_tcp_keep_alive(Some(SECOND)),
        check: |c| {
            c.rig.turns(2);
            let is_tcp = c.rig.kit.has_sockets() && !c.rig.kit.is_unix();
            assert_eq!(c.a.transport().tcp_keep_alive(), is_tcp.then_some(true));
        },
    },
    Request {
        name: "set_reset_unless_closed",
        ask: |t, _| t.set_reset_unless_closed(true),
        check: |c| {
            c.a.tell(|_| panic!("on purpose"));
            if c.on == On::WriteClosed {
                c.b.fin();
            }
            assert_eq!(c.rig.lost(c.a), "Panicked(on purpose)");
            // It has no effect after our end of the stream.
            let resets = c.rig.counts(c.a).closes == [CloseMode::Reset];
            assert!(resets || c.on == On::WriteClosed);
        },
    },
    #[cfg(unix)]
    Request {
        name: "send_descriptor",
        ask: |t, asked| {
            let (reader, writer) = std::io::pipe().expect("the system has pipes");
            rustix::io::ioctl_fionbio(&reader, true).expect("it is open");
            asked.pipe.set(Some(reader));
            let sent = t.send_descriptor(writer.into());
            asked.log.note(if sent.is_ok() { "asked: ok" } else { "asked: refused" });
            t.write(b"asked");
        },
        check: |c| {
            let takes = c.rig.kit.is_unix() && c.on != On::WriteClosed;
            let wanted = if takes { "asked: ok" } else { "asked: refused" };
            assert_eq!(c.asked.log.entries(), [wanted]);
            let mut pipe = c.asked.pipe.take().expect("the request was made");
            let mut is_closed = || std::io::Read::read(&mut pipe, &mut [0]).is_ok();
            // The only other copy is in B's socket; B reads the bytes without the descriptor.
            c.rig.turns(5);
            let is_sent = takes && c.rig.kit.has_sockets();
            assert!(is_closed() || is_sent);
            c.arrives();
            assert!(is_closed());
        },
    },
    Request {
        name: "start_layer",
        ask: |t, asked| {
            let started = t.start_layer(super::sealed::tls(false, t.reactor().now()));
            asked.log.note(if started.is_ok() { "asked: ok" } else { "asked: refused" });
        },
        check: |c| match c.on {
            On::WriteClosed => assert_eq!(c.asked.log.entries(), ["asked: refused"]),
            // The peer's end is delivered first.
            On::ReadClosed => c.fails(),
            _ => {
                let b = c.b;
                c.rig.until("a ClientHello", || {
                    b.take_all();
                    b.got().starts_with(&[22, 3, 1])
                });
                assert!(c.a.transport().is_starting_layer());
            }
        },
    },
    Request {
        name: "start_tls",
        ask: |t, asked| {
            let started = t.start_tls(super::sealed::server());
            asked.log.note(if started.is_ok() { "asked: ok" } else { "asked: refused" });
        },
        check: |c| match c.on {
            On::WriteClosed => assert_eq!(c.asked.log.entries(), ["asked: refused"]),
            _ => {
                if c.on != On::ReadClosed {
                    c.b.send(b"no ClientHello");
                }
                c.fails();
            }
        },
    },
    Request {
        name: "upgrade_with",
        ask: |t, asked| t.upgrade_with(asked.next.plays(Script::new().aware()), b"unread"),
        check: |c| {
            let next = c.asked.next.clone();
            c.rig.until("the unread bytes", || next.received() == b"unread");
        },
    },
    Request {
        name: "upgrade",
        ask: |t, asked| t.upgrade(asked.next.plays(Script::new().aware())),
        check: |c| {
            let next = c.asked.next.clone();
            c.rig.until("the next protocol", || next.log.has("made"));
        },
    },
];

impl Checked<'_> {
    /// B receives the written bytes, unless our end of the stream was sent.
    fn arrives(&mut self) {
        if self.on == On::WriteClosed {
            return assert_eq!(self.a.transport().dropped(), 5);
        }
        let b = self.b;
        self.rig.until("the bytes", || {
            b.take_all();
            b.got() == b"asked"
        });
    }

    fn closes(&mut self, reason: &str) {
        assert_eq!(self.rig.take_to_the_end(self.b), Saw::Fin);
        if self.on != On::ReadClosed {
            self.b.fin();
        }
        let lost = self.rig.lost(self.a);
        assert!(lost.starts_with(reason), "{lost}");
    }

    /// The handshake fails.
    fn fails(&mut self) {
        self.rig.take_to_the_end(self.b);
        if self.on != On::ReadClosed {
            self.b.fin();
        }
        let lost = self.rig.lost(self.a);
        assert!(lost.starts_with("Tls") || lost == "Lost", "{lost}");
    }

    fn is_done(&mut self) {
        let log = &self.asked.log;
        self.rig.until("its effect", || log.has("asked: ok"));
        assert_eq!(log.len(), 1, "{:?}", log.entries());
    }

    fn has_late(&self) -> bool {
        self.a.received().ends_with(b"late")
    }

    fn gets_late(&mut self) {
        let a = self.a.clone();
        self.rig.until("the rest", || a.received().ends_with(b"late"));
    }

    fn is_paused(&mut self) {
        self.b.send(b"late");
        self.rig.turns(5);
        assert!(!self.has_late(), "it paused");
        self.a.transport().resume_producing();
        self.gets_late();
    }
}

/// Triggers A's callback, in which the request is made.
fn reach(rig: &mut Rig, on: On, a: &A, b: &B) {
    let callback = match on {
        On::Made => "made",
        On::Data => {
            b.send(b"x");
            "data"
        }
        On::Resumed => {
            a.transport().resume_producing();
            "resumed"
        }
        On::ReadClosed => {
            b.fin();
            "read_closed"
        }
        On::WriteClosed => {
            a.transport().lose_write_connection();
            "write_closed"
        }
        On::Draining => {
            rig.reactor.drain(100 * SECOND).detach();
            "draining"
        }
        On::Lost => {
            a.transport().abort_connection();
            "lost"
        }
    };
    let a = a.clone();
    rig.until("the callback", || a.log.has(callback));
}

/// A connection that makes the request in this callback.
fn with_request(rig: &mut Rig, on: On, request: &Request) -> (A, B, Asked) {
    let asked = Asked::default();
    let (ask, left) = (request.ask, asked.clone());
    let mut script = Script::new().aware();
    if on == On::Resumed {
        script = script.once(On::Made, Transport::pause_producing);
    }
    let (a, b) = rig.accept(script.once(on, move |transport| ask(transport, &left)));
    reach(rig, on, &a, &b);
    (a, b, asked)
}

pub(crate) fn c02a_each_request_takes_effect_in_each_callback_of_its_protocol(kit: Kit) {
    for on in [On::Made, On::Data, On::Resumed, On::ReadClosed, On::WriteClosed, On::Draining] {
        for request in REQUESTS {
            // After the peer's end of the stream, no input remains for a pause to hold.
            let holds = ["pause_producing", "throttle"].contains(&request.name);
            if on == On::ReadClosed && holds {
                continue;
            }
            let mut rig = kit.rig();
            let place = format!("{} in {on:?}", request.name);
            let _named = Named(&place);
            let (a, b, asked) = with_request(&mut rig, on, request);
            (request.check)(&mut Checked { rig: &mut rig, on, a: &a, b: &b, asked: &asked });
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

pub(crate) fn c08_each_request_in_connection_lost_does_nothing(kit: Kit) {
    for request in REQUESTS {
        // This request reports a refusal, but the table expects success.
        if request.name == "tell" {
            continue;
        }
        let mut rig = kit.rig();
        let _named = Named(request.name);
        let (a, _b, asked) = with_request(&mut rig, On::Lost, request);
        rig.turns(2);
        rig.pass(2 * SECOND);
        rig.turns(2);
        let fate = asked.log.entries();
        match request.name {
            "drained" | "flushed" | "peer_ended" | "ask" => assert_eq!(fate, ["asked: failed"]),
            "send_descriptor" => assert_eq!(fate, ["asked: refused"]),
            // Accepted, as after a close.
            "start_layer" | "start_tls" => assert_eq!(fate, ["asked: ok"]),
            "register_producer" => assert_eq!(fate, ["stopped"]),
            "set_write_marks" => assert_eq!(fate, ["full: false"]),
            _ => assert!(fate.is_empty(), "{fate:?}"),
        }
        assert!(asked.next.log.entries().is_empty() && !a.was_nested());
        assert_eq!(a.log.entries().last().map(String::as_str), Some("lost(Aborted)"));
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

/// Makes a request in one of its callbacks, once.
struct Port {
    log: Log,
    at: At,
    ask: Option<AskOfPort>,
}

impl Port {
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

/// The requests of a port, and the log entries they cause, besides its callbacks.
const OF_PORTS: &[(&str, AskOfPort, &[&str])] = &[
    (
        "send_to",
        |t, log| {
            let sent = t.send_to("to itself", t.host());
            log.note(if sent.is_ok() { "sent" } else { "refused" });
        },
        &["sent", "to itself"],
    ),
    (
        "set_option",
        |t, log| log.watch("option", t.set_option(DatagramOption::Broadcast(true))),
        &["option: ok"],
    ),
    (
        "two options",
        |t, log| {
            log.watch("one", t.set_option(DatagramOption::Broadcast(true)));
            log.watch("two", t.set_option(DatagramOption::Broadcast(false)));
        },
        &["one: ok", "two: ok"],
    ),
    (
        "groups",
        |t, log| {
            let group = Group::new([239, 255, 155, 162]).interface(Ipv4Addr::LOCALHOST);
            log.watch("joined", t.join_group(group));
            log.watch("left", t.leave_group(group));
            log.watch("leaves by", t.set_outgoing_interface(Ipv4Addr::LOCALHOST));
        },
        &["joined: ok", "left: ok", "leaves by: ok"],
    ),
    (
        "stop_listening",
        |t, log| match t.stop_listening() {
            Some(stopped) => log.watch("stopped", stopped),
            None => log.note("stops already"),
        },
        &["Stop", "stopped: ok"],
    ),
    (
        "pause and resume",
        |t, _| {
            t.pause_producing();
            t.port::<Port>().call_later(SECOND, |_, transport| transport.resume_producing());
        },
        &["a last one"],
    ),
    (
        "tell",
        |t, log| {
            let (done, log) = (log.clone(), log.clone());
            if !t.port::<Port>().tell(move |_, _| done.note("told")) {
                log.note("refused");
            }
        },
        &["told"],
    ),
    ("ask", |t, log| log.watch("asked", t.port::<Port>().ask(|_, _| ())), &["asked: ok"]),
    (
        "call_later",
        |t, log| {
            let log = log.clone();
            t.port::<Port>().call_later(SECOND, move |_, _| log.note("called"));
        },
        &["called"],
    ),
];

/// UNIX sockets have no such options.
const NEED_IP: [&str; 3] = ["set_option", "two options", "groups"];

/// A port that makes the request in this callback, and another port that sends to it.
fn port_with(rig: &Rig, at: At, ask: AskOfPort) -> (DatagramPort<Port>, DatagramPort<Port>, Log) {
    let log = Log::default();
    let asking = Port { log: log.clone(), at, ask: Some(ask) };
    let other = Port { log: Log::default(), at, ask: None };
    let options = DatagramOptions::default;
    (rig.datagrams(options(), asking), rig.datagrams(options(), other), log)
}

pub(crate) fn c160f_each_request_of_a_port_takes_effect_in_each_of_its_callbacks(kit: Kit) {
    for at in [At::Start, At::Datagram] {
        for (name, ask, effects) in OF_PORTS {
            if kit.is_unix() && NEED_IP.contains(name) {
                continue;
            }
            let mut rig = kit.rig();
            let place = format!("{name} in {at:?}");
            let _named = Named(&place);
            let (port, other, log) = port_with(&rig, at, *ask);
            let callback = format!("{at:?}");
            rig.turns(2);
            if at == At::Datagram {
                other.send_to("x", port.host()).expect("there is room");
            }
            rig.until("the callback", || log.has(&callback));
            if *name == "pause and resume" {
                other.send_to("a last one", port.host()).expect("there is room");
                rig.turns(5);
                assert!(!log.has("a last one"), "it paused");
            }
            rig.turns(2);
            rig.pass(SECOND);
            rig.until("the effects", || effects.iter().all(|effect| log.has(effect)));
        }
    }
}

pub(crate) fn c160f_each_request_of_a_port_takes_effect_in_connection_refused(kit: Kit) {
    for (name, ask, effects) in OF_PORTS {
        let mut rig = kit.rig();
        let _named = Named(name);
        let quiet = || Port { log: Log::default(), at: At::Refused, ask: None };
        let there = rig.reactor.listen_udp(own_address(162, 0), quiet()).expect("a free port");
        let to = there.host().socket_addr().expect("an address");
        drop(there.stop_listening());
        rig.turns(2);
        let log = Log::default();
        let asking = Port { log: log.clone(), at: At::Refused, ask: Some(*ask) };
        let port = rig.reactor.connect_udp(to, asking).expect("there is a route");
        port.send("to nobody").expect("there is room");
        rig.until("the callback", || log.has("Refused"));
        let peer = rig.reactor.listen_udp(to, quiet()).expect("the port is free");
        if *name == "pause and resume" {
            peer.send_to("a last one", port.host()).expect("there is room");
            rig.turns(5);
            assert!(!log.has("a last one"), "it paused");
        }
        rig.turns(2);
        rig.pass(SECOND);
        // It may send only to its peer.
        let effects = if *name == "send_to" { &["refused"] } else { *effects };
        rig.until("the effects", || effects.iter().all(|effect| log.has(effect)));
    }
}

pub(crate) fn c160f_requests_in_stop_protocol_do_nothing_and_leave_nothing(kit: Kit) {
    for (name, ask, _) in OF_PORTS {
        let mut rig = kit.rig();
        let _named = Named(name);
        let (port, _other, log) = port_with(&rig, At::Stop, *ask);
        rig.turns(2);
        port.stop_listening().expect("it listens").detach();
        rig.until("the callback", || log.has("Stop"));
        rig.turns(2);
        rig.pass(2 * SECOND);
        rig.turns(2);
        let rest = log.entries()[2..].to_vec();
        let expected: &[&str] = match *name {
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
