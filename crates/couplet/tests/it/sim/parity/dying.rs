//! Scenes in which the server's program is killed: on the kernel its loop is dropped, and its sockets
//! are closed as those of a dead process are; in the simulator a fault kills it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Fault, Sim};
use couplet::{Address, Transport};

use super::{kernel_loop, networks, reason, turn};
use crate::sim::kit::{ms, s};
use crate::suite::kit::LOOPBACK;
use crate::suite::recorder::{A, On, Script};

/// What the client of a server is told that plays this script, and is killed when the client has
/// its part: over the kernel, and the same over every simulated network.
fn client_of_a_killed(script: fn() -> Script) -> Vec<String> {
    let kernel = on_the_kernel(script);
    for (seed, link) in (1..).zip(networks()) {
        let mut sim = Sim::new(seed);
        sim.set_default_link(link);
        assert_eq!(in_the_simulator(sim, script), kernel, "over {link:?}");
    }
    kernel
}

fn on_the_kernel(script: fn() -> Script) -> Vec<String> {
    let (mut server, mut client) = (kernel_loop(), kernel_loop());
    let accept = move |_: &Address| Some(A::default().plays(script()));
    let port = server.reactor().listen_tcp(LOOPBACK, accept).expect("a free port");
    let to = port.host().socket_addr().expect("a port has an address");
    let a = A::default();
    let mut plays = Some(a.plays(Script::new()));
    let made = move |_: &Address| plays.take();
    client.reactor().connect_tcp(&to.ip().to_string(), to.port(), made);
    for _ in 0..5_000 {
        if a.received_len() >= PART.len() {
            break;
        }
        turn(&mut server, ms(1));
        turn(&mut client, Duration::ZERO);
    }
    // What it was going to do besides is done.
    (0..5).for_each(|_| turn(&mut server, ms(1)));
    drop(server);
    for _ in 0..5_000 {
        if a.is_lost() {
            break;
        }
        turn(&mut client, ms(1));
    }
    told(&a)
}

fn in_the_simulator(mut sim: Sim, script: fn() -> Script) -> Vec<String> {
    let server = sim.host("server", move |reactor| {
        let accept = move |_: &Address| Some(A::default().plays(script()));
        reactor.listen_tcp(SocketAddr::from(([0, 0, 0, 0], 80)), accept)?;
        Ok(())
    });
    let a = Rc::new(A::default());
    let plays = a.clone();
    sim.host("client", move |reactor| {
        let plays = plays.clone();
        let made = move |_: &Address| Some(plays.plays(Script::new()));
        reactor.connect_tcp("server", 80, made);
        Ok(())
    });
    let has_its_part = sim.run_until(s(60), |_| a.received_len() >= PART.len());
    assert!(has_its_part.expect("the world is whole"));
    sim.fault(sim.elapsed(), s(1), Fault::Kill(server));
    sim.run_until(s(60), |_| a.is_lost()).expect("the world is whole");
    let told = told(&a);
    sim.finish().expect("nothing is left");
    told
}

const PART: &str = "a part";

fn told(a: &A) -> Vec<String> {
    let mut entries = a.log.entries();
    entries.retain(|entry| !entry.starts_with("data"));
    entries.pop();
    entries.push(format!("lost: {}", reason(&a.reason())));
    entries.push(String::from_utf8(a.received()).expect("a text"));
    entries
}

fn promises() -> Script {
    Script::new().once(On::Made, |transport| {
        transport.set_reset_unless_closed(true);
        transport.write(PART);
    })
}

#[test]
fn the_end_of_a_killed_server_cannot_be_told_from_a_close() {
    let plain = || Script::new().once(On::Made, |transport| transport.write(PART));
    let told = client_of_a_killed(plain);
    assert_eq!(told, ["made", "read_closed", "lost: Done(Peer)", PART]);
}

#[test]
fn unless_it_promised_a_reset() {
    let told = client_of_a_killed(promises);
    assert_eq!(told, ["made", "lost: Lost(ConnectionReset)", PART]);
}

#[test]
fn a_server_that_is_killed_after_its_close_has_closed() {
    let closes: [fn() -> Script; 2] = [
        || promises().once(On::Made, Transport::lose_connection),
        || promises().once(On::Made, Transport::lose_write_connection),
    ];
    for script in closes {
        let told = client_of_a_killed(script);
        assert_eq!(told, ["made", "read_closed", "lost: Done(Peer)", PART]);
    }
}
