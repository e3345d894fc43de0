//! Rows 21 to 22a: stopping a port and listening again, pausing and resuming it. Rows 51a and 64a:
//! calls that need a real socket.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use couplet::{Address, ListenOptions, Port, SocketOption, SocketOptionKind, Transport};

use super::kit::{BOTH_ROLES, Kit, LOOPBACK, Rig, own_address, s};
use super::plays::play;
use super::recorder::{Log, Maker, On, Recorder, Script};
use crate::needed::has_ipv6;

/// A factory that logs to `log` and builds protocols that do nothing.
fn maker(rig: &Rig, log: &Log) -> Maker {
    let a = rig.end();
    Maker::new(log, move |_| Some(a.plays(Script::new())))
}

fn listening(kit: Kit) -> (Rig, Log, Port) {
    let (rig, log) = (kit.rig(), Log::default());
    let port = rig.listen_with(maker(&rig, &log));
    (rig, log, port)
}

pub(crate) fn c21_stop_listening_fires_in_a_later_turn(kit: Kit) {
    let scripts = [
        // From outside, with a connection not accepted yet. A connect after that is refused.
        "listens many; turn; peer; port stop stopped; turn; a log do_start, do_stop, stopped: ok; port refuses
        b sees; a lacks build",
        // Before its first turn.
        "listens many; port stop stopped; turns 2; a log stopped: ok",
    ];
    play(kit, &scripts);
    // From inside a callback.
    let (mut rig, log, port) = listening(kit);
    rig.turn();
    let inside = log.clone();
    rig.reactor.call_soon(move || {
        inside.watch("stopped", port.stop_listening().expect("the port listens"));
        inside.note("returned");
    });
    rig.until("stopped", || log.has("stopped"));
    assert_eq!(log.entries(), ["do_start", "returned", "do_stop", "stopped: ok"]);
}

scripted! {
    $ ports:

    fn c21_connections_outlive_their_port()
        "on data: write x; listens one; peer; a until made; port stop stopped; a until stopped
        <100:b send q; b more x;> a lose; b ends Done(Us)";

    fn c21_a_second_stop_listening_does_nothing()
        "listens many; turn; port stop stopped; port stopped; turns 3; port stopped; turns 3
        a log do_start, do_stop, stopped: ok";

    // Before its first turn, and after.
    fn c22a_a_paused_port_accepts_nothing_and_serves_its_queue_on_resume()
        "listens many; port pause; turn; peer; peer; tick; a count 0 build; port resume; a until-count 2 build
        port pause; turn; peer; peer; tick; a count 2 build; port resume; a until-count 4 build",
        // Also when it listens again.
        "listens many; turn; port pause; port stop stopped; turns 2; port start; turn; peer
        tick; a count 0 build; port resume; a until-count 1 build; port pause; turn
        peer; tick; a count 1 build; port resume; a until-count 2 build";

    fn c22c_a_full_port_accepts_nothing_until_a_connection_has_ended()
        "listens many max 2; turn; <5:peer;> a until-count 2 build; tick; a count 2 build; port held
        b close; a until-count 3 build; tick; a count 3 build; port held
        b2 close; a until-count 4 build; tick; a count 4 build; port held
        b3 close; a until-count 5 build; tick; port held; b4 close; b5 close; port until-free",
        // A connection that the factory refuses frees its place too.
        "listens none max 1; turn; <3:peer;> a until-count 3 build";

    // Paused, it accepts nothing although there is room; opened again, it still counts the connections
    // from before.
    fn c22c_a_full_port_stays_held_through_pause_and_resume()
        "listens many max 2; turn; <3:peer;> a until-count 2 build; port pause; tick; port resume; tick; a count 2 build
        port pause; b close; tick; port held; a count 2 build; port resume; a until-count 3 build
        port stop stopped; turns 2; port start; turns 2; peer; peer; tick; a count 3 build
        port held; b2 close; a until-count 4 build; tick; a count 4 build; port held";
}

pub(crate) fn c22b_a_port_has_a_descriptor_while_it_listens_where_there_are_sockets(kit: Kit) {
    #[cfg(unix)]
    {
        let (mut rig, _, port) = listening(kit);
        let number = port.descriptor();
        assert_eq!(number.is_some(), kit.has_sockets(), "before the first turn");
        rig.turn();
        assert_eq!(port.descriptor(), number);
        drop(port.stop_listening());
        assert_eq!(port.descriptor(), None);
        rig.turns(2);
        port.start_listening().expect("the address is free again");
        assert_eq!(port.descriptor().is_some(), kit.has_sockets());
    }
    #[cfg(not(unix))]
    let _ = kit;
}

pub(crate) fn c21_a_port_whose_handle_is_dropped_keeps_listening(kit: Kit) {
    let mut rig = kit.rig();
    let a = rig.end();
    let port = rig.listen(&a, Script::new());
    rig.turn();
    let to = port.host();
    drop(port);
    let b = rig.try_peer(to).expect("the port listens");
    rig.until("connection_made", || a.is_made());
    b.fin();
    rig.lost(&a);
}

pub(crate) fn a_port_on_all_addresses_accepts_ipv4_unless_it_is_for_ipv6_only(kit: Kit) {
    if !has_ipv6() {
        return;
    }
    let (v4, v6) = (own_address(22, 0).ip(), IpAddr::from(Ipv6Addr::LOCALHOST));
    let all_v6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    for (all, dual, accepts_v4) in [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), false, true),
        (all_v6, true, true),
        (all_v6, false, false),
    ] {
        let (rig, log) = (kit.rig(), Log::default());
        let options = ListenOptions::default().dual_stack(dual);
        let factory = maker(&rig, &log);
        let port = rig.reactor.listen((SocketAddr::new(all, 0), options), factory);
        let number = port.expect("a free port").host().port().expect("a number");
        for (ip, accepts) in [(v4, accepts_v4), (v6, all == all_v6)] {
            let connected = rig.try_peer(SocketAddr::new(ip, number).into());
            let error = connected.err().map(|error| error.kind());
            let refused = (!accepts).then_some(ErrorKind::ConnectionRefused);
            assert_eq!(error, refused, "{all}, {dual}: {ip}");
        }
    }
}

pub(crate) fn c22_a_stopped_port_can_listen_again(kit: Kit) {
    let (mut rig, log) = (kit.rig(), Log::default());
    let probe = rig.reactor.listen(own_address(22, 0), maker(&rig, &Log::default()));
    let probe = probe.expect("a free port can be opened");
    let number = probe.host().port().expect("a port has a number");
    drop(probe.stop_listening());
    rig.turns(2);
    for fixed in [false, true] {
        let address = own_address(22, if fixed { number } else { 0 });
        let port = rig.reactor.listen(address, maker(&rig, &log));
        let port = port.expect("a free port can be opened");
        rig.turn();
        log.watch("stopped", port.stop_listening().expect("the port listens"));
        rig.until("stopped", || log.has("stopped"));
        port.start_listening().expect("the number is free again");
        assert!(port.is_listening());
        rig.turn();
        let host: Address = port.host();
        port.start_listening().expect("it does nothing while the port listens");
        rig.turns(2);
        assert_eq!(port.host(), host);
        assert!(!fixed || host.port() == Some(number));
        let _b = rig.peer(&port);
        rig.until("build", || log.has("build"));
        let seen = log.take();
        assert_eq!(seen[..4], ["do_start", "do_stop", "stopped: ok", "do_start"]);
        assert_eq!(seen.len(), 5, "and the build: {seen:?}");
        drop(port.stop_listening());
        rig.turns(2);
        log.take();
    }
    // Stopped and started before the next turn: the old listener is closed, the new one serves.
    let port = rig.listen_with(maker(&rig, &log));
    rig.turn();
    let before = port.host();
    log.watch("stopped", port.stop_listening().expect("the port listens"));
    if kit.is_unix() {
        // A path cannot change like a port number.
        assert!(port.start_listening().is_err(), "the path is taken until the turn");
        return;
    }
    port.start_listening().expect("another number is free");
    rig.turns(2);
    assert!(port.host() == before || rig.try_peer(before).is_err());
    let _b = rig.peer(&port);
    rig.until("build", || log.has("build"));
    let seen = log.take();
    assert_eq!(seen[..4], ["do_start", "do_stop", "stopped: ok", "do_start"], "{seen:?}");
}

pub(crate) fn c21_a_port_can_be_stopped_by_its_own_connection(kit: Kit) {
    let (mut rig, log) = (kit.rig(), Log::default());
    let a = rig.end();
    let slot: Rc<std::cell::RefCell<Option<Port>>> = Default::default();
    let (stops, noted) = (slot.clone(), log.clone());
    let script = Script::new().once(On::Made, move |_: &Transport| {
        let port = stops.borrow().clone().expect("the port was opened");
        noted.watch("stopped", port.stop_listening().expect("the port listens"));
        noted.note("returned");
    });
    let port = rig.listen(&a, script);
    *slot.borrow_mut() = Some(port.clone());
    let b = rig.peer(&port);
    rig.until("stopped", || log.has("stopped"));
    assert_eq!(log.entries(), ["returned", "stopped: ok"]);
    rig.sends(&a, &b, b"x");
}

pub(crate) fn c51a_a_driver_without_sockets_refuses_an_adoption(kit: Kit) {
    let rig = kit.rig();
    let listener = std::net::TcpListener::bind(LOOPBACK).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let socket = std::net::TcpStream::connect(address).expect("it listens");
    let nobody = || |_: &Address| None::<Recorder>;
    let connection = rig.reactor.adopt(socket, nobody()).map(|adopted| adopted.detach());
    let port = rig.reactor.adopt_port(listener, nobody()).map(drop);
    let outcomes = [connection, port].map(|outcome| outcome.map_err(|error| error.kind()));
    let wanted = if kit.has_sockets() { Ok(()) } else { Err(ErrorKind::Unsupported) };
    assert_eq!(outcomes, [wanted; 2]);
}

pub(crate) fn c64d_options_of_a_port_are_set_and_read_and_inherited_until_it_stops(kit: Kit) {
    use SocketOption::{KeepAlive, NoDelay, ReceiveBuffer, Tos, Ttl};
    let mut rig = kit.rig();
    let a = rig.end();
    let port = rig.listen_with(a.maker(Script::new()));
    let (has_sockets, has_ip) = (kit.has_sockets(), kit.has_sockets() && !kit.is_unix());
    let read = |kind| port.option(kind);
    for (kind, [first, second], exists) in [
        (SocketOptionKind::NoDelay, [NoDelay(true), NoDelay(false)], has_ip),
        (SocketOptionKind::KeepAlive, [KeepAlive(None), KeepAlive(Some(s(7)))], has_ip),
        (SocketOptionKind::Ttl, [Ttl(9), Ttl(33)], has_ip),
        (SocketOptionKind::Tos, [Tos(0x20), Tos(0xb8)], has_ip),
        (SocketOptionKind::Broadcast, [SocketOption::Broadcast(true); 2], false),
    ] {
        for option in [first, second] {
            port.set_option(first);
            port.set_option(option);
            assert_eq!(read(kind), exists.then_some(option), "before the turn: {option:?}");
            rig.turn();
            assert_eq!(read(kind), exists.then_some(option), "{option:?}");
        }
    }
    port.set_option(ReceiveBuffer(96 * 1024));
    rig.turn();
    let buffer = has_sockets.then_some(ReceiveBuffer(192 * 1024));
    assert_eq!(read(SocketOptionKind::ReceiveBuffer), buffer, "twice, on Linux");
    let b = rig.peer(&port);
    rig.until("a connection", || a.is_made());
    let inherited = [SocketOptionKind::NoDelay, SocketOptionKind::KeepAlive, SocketOptionKind::Tos]
        .map(|kind| a.transport().option(kind));
    let expected = [NoDelay(false), KeepAlive(Some(s(7))), Tos(0xb8)];
    assert_eq!(inherited, expected.map(|option| has_ip.then_some(option)));
    rig.sends(&a, &b, b"x");
    port.stop_listening().expect("it listens").detach();
    port.set_option(Ttl(10));
    assert_eq!(read(SocketOptionKind::Ttl), None);
    rig.turns(2);
    port.start_listening().expect("the address is free");
    rig.turns(2);
    let ttl = read(SocketOptionKind::Ttl);
    assert_eq!((ttl.is_some(), ttl == Some(Ttl(33))), (has_ip, false), "a new socket: {ttl:?}");
}

pub(crate) fn c64a_with_socket_runs_before_more_bytes_where_there_is_a_socket(kit: Kit) {
    for role in BOTH_ROLES {
        let mut rig = kit.rig();
        let (log, held) = (rig.end().log, Rc::new(()));
        let (notes, dropped) = (log.clone(), Rc::downgrade(&held));
        let script = Script::new().once(On::Made, move |transport| {
            let (notes, held) = (notes.clone(), held.clone());
            transport.with_socket(move |socket| {
                drop(held);
                notes.note(format!("{}", socket.keepalive()?));
                Ok(())
            });
            transport.set_option(SocketOption::KeepAlive(None));
        });
        let script = script.on(On::Data, {
            let log = log.clone();
            move |_| log.note("data")
        });
        let (a, b) = rig.pair(role, script);
        rig.sends(&a, &b, b"x");
        let wanted: &[&str] = match (kit.has_sockets(), kit.is_unix()) {
            (true, false) => &["true", "data"],
            (true, true) => &["false", "data"],
            (false, _) => &["data"],
        };
        assert_eq!(log.entries(), wanted);
        b.fin();
        rig.lost(&a);
        assert!(dropped.upgrade().is_none(), "the call is kept");
    }
}
