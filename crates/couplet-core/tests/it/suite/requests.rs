//! Rows 2a and 160f: each request of each handle, made inside each callback of that protocol.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use couplet::{
    Datagram, DatagramEndpoint, DatagramOptions, DatagramPort, DatagramProtocol, DatagramTransport,
    Group, SocketOption, SocketOptionKind,
};

use super::datagrams::vacated;
use super::kit::{Kit, LOOPBACK, Rig};
use super::plays::play;
use super::recorder::Log;

const SECOND: Duration = Duration::from_secs(1);

/// A request: the act, its effect when it is made in a callback, and its log in `connection_lost`.
type Request = (&'static str, &'static str, &'static str);

/// B receives the written bytes, unless our end of the stream was sent.
const ARRIVES: &str = "in !write_closed: b gets asked; in write_closed: a dropped 5";

const IS_DONE: &str = "a until asked: ok; a count 1 asked";

const REQUESTS: &[Request] = &[
    ("write asked", ARRIVES, ""),
    ("bytes asked", ARRIVES, ""),
    ("sequence as|ked", ARRIVES, ""),
    ("lose", "b sees Fin; in !read_closed: b fin; a lost Done", ""),
    ("fail e", "b sees Fin; in !read_closed: b fin; a lost Failed(e)", ""),
    ("abort", "a lost Aborted", ""),
    ("at-once, lose", "a lost Done", ""),
    ("until-end, lose, write asked", "in !write_closed: b gets asked; in write_closed: a dropped 5; b sees Fin; in !read_closed: b fin; a lost Done", ""),
    ("fin-timeout 1, lose", "b sees; pass 1; a lost Done", ""),
    ("half", "b sees Fin; a until write_closed", ""),
    // After the peer's end of the stream, no input remains for a pause to hold.
    (
        "pause",
        "in read_closed: end; b send late; turns 5; in data: a received x; in !data: a received ; a resume
        in data: a gets xlate; in !data: a gets late",
        "",
    ),
    (
        "pause_for 1",
        "in read_closed: end; b send late; turns 5; in data: a received x; in !data: a received ; pass 1
        in data: a gets xlate; in !data: a gets late",
        "",
    ),
    ("watch writable asked", IS_DONE, ", asked: failed"),
    ("watch flushed asked", IS_DONE, ", asked: failed"),
    ("watch ended asked", "in !read_closed: b fin; a until asked: ok; a count 1 asked", ", asked: failed"),
    ("pull", "in !write_closed: a until resume; in write_closed: a until stop", ", stop"),
    (
        "half-close-timeout 1",
        "in !read_closed: b fin; in write_closed: a lost Done(Peer); in write_closed: end
        <8:turns 2; pass 250ms;> a lost Timeout",
        "",
    ),
    ("idle 1", "turns 2; pass 1; a lost Timeout", ""),
    ("cap 3, write more", "in write_closed: a dropped 4; in !write_closed: a lost Overflow", ""),
    (
        "marks 0 0, write x, note-full",
        "in write_closed: a has full: false; in !write_closed: a has full: true",
        ", full: false",
    ),
    (
        "with-socket",
        "in sockets: a until asked: ok; in sockets: a count 1 asked; in !sockets: turns 2",
        "",
    ),
    ("no-delay off", "turns 2; in tcp: a tcp Some(false) Some(true); in !tcp: a tcp None None", ""),
    ("keep-alive 1", "turns 2; in tcp: a tcp Some(true) Some(true); in !tcp: a tcp None None", ""),
    ("tell note asked: ok", IS_DONE, "refused"),
    ("ask asked", IS_DONE, ", asked: failed"),
    ("after 1 note asked: ok", "pass 1; a until asked: ok; a count 1 asked", ""),
    // The request has no effect after our end of the stream.
    (
        "resetting",
        "a tells panic p; in write_closed: b fin; a lost Panicked(p); in !write_closed: a closes Reset",
        "",
    ),
    // The only other copy is in B's socket; B reads the bytes without the descriptor.
    #[cfg(unix)]
    (
        "send-pipe, write asked",
        "turns 5; in write_closed: pipe-closed; in !sockets: pipe-closed; in !unix: pipe-closed
        in !write_closed: b gets asked; in write_closed: a dropped 5; pipe-closed; in write_closed: a has asked: refused
        in !unix: a has asked: refused; in unix: in !write_closed: a has asked: ok",
        ", asked: refused",
    ),
    // The peer's end is delivered first.
    (
        "start-layer",
        "in write_closed: a has asked: refused; in write_closed: end; in read_closed: b sees
        in read_closed: a lost-tls; in read_closed: end; b reads 160301; a starting-layer",
        ", asked: ok",
    ),
    (
        "start-tls",
        "in write_closed: a has asked: refused; in write_closed: end; in !read_closed: b send no ClientHello
        b sees; in !read_closed: b fin; a lost-tls",
        ", asked: ok",
    ),
    ("upgrade 1 unread", "p until made; p gets unread", ""),
    ("upgrade 1", "p until made; p received ", ""),
];

pub(crate) fn c02a_each_request_takes_effect_in_each_callback_of_its_protocol(kit: Kit) {
    let reached = [
        ("made", "plain"),
        ("data", "b send x"),
        ("resumed", "a resume"),
        ("read_closed", "b fin"),
        ("write_closed", "a half"),
        ("draining", "drain 100"),
    ];
    for (on, reach) in reached {
        for (acts, effect, _) in REQUESTS {
            let pauses = if on == "resumed" { "once made: pause" } else { "plain" };
            let script = format!(
                "callback {on}; source resume = unregister; protocol; aware; connection; aware; {pauses}
                once {on}: {acts}; {reach}; a until {on}; {effect}; a at-most 1 lost"
            );
            play(kit, &[script]);
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
    // A tell reports a refusal, but the act expects success.
    for (acts, _, logged) in REQUESTS.iter().filter(|(.., logged)| *logged != "refused") {
        let script = format!(
            "protocol; aware; connection; aware; once lost: {acts}; a abort; a until lost; turns 2; pass 2; turns 2
            a log made, lost(Aborted){logged}; p entries 0"
        );
        play(kit, &[script]);
    }
}

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
    ("set_option", &["both are set"], |t, log| {
        t.set_option(SocketOption::Broadcast(false));
        t.set_option(SocketOption::Broadcast(true));
        let log = log.clone();
        t.port::<Port>().call_later(SECOND, move |_, t| {
            // Only drivers with sockets have options to read.
            let is_set = t.option(SocketOptionKind::Broadcast);
            if is_set.is_none_or(|option| option == SocketOption::Broadcast(true)) {
                log.note("both are set");
            }
        });
    }),
    ("groups", &["joined: ok", "left: ok"], |t, log| {
        let group = Group::new([239, 255, 155, 162]).interface(Ipv4Addr::LOCALHOST);
        log.watch("joined", t.join(group));
        log.watch("left", t.leave(group));
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
            if kit.is_unix() && name == "groups" {
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
        let to = vacated(&mut rig, 162);
        let log = Log::default();
        let asking = Port { log: log.clone(), at: At::Refused, ask: Some(ask) };
        let port = rig
            .reactor
            .listen_datagrams(DatagramEndpoint::to(to), asking)
            .expect("there is a route");
        port.send("to nobody").expect("there is room");
        rig.until("the callback", || log.has("Refused"));
        let peer = rig.reactor.listen_datagrams(to, Port::quiet()).expect("the port is free");
        // A connected port may send only to its peer.
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
            "groups" => &["joined: failed", "left: failed"],
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
    let member = rig.reactor.listen_datagrams(any, answers).expect("a free port");
    let seen = got.clone();
    let notes = move |_: &DatagramTransport, datagram: &Datagram<'_>| {
        seen.borrow_mut().push((datagram.data.to_vec(), datagram.from.clone()));
    };
    let asks = rig.reactor.listen_datagrams(LOOPBACK, notes).expect("a free port");
    log.watch("joined", member.join(Group::new([239, 255, 155, 161]).interface(local)));
    asks.set_option(SocketOption::MulticastInterface(local.into()));
    rig.until("a member", || log.len() == 1);
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
