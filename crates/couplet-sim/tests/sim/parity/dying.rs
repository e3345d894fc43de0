//! Scenes in which the server's program is killed. On the kernel its loop is dropped, which closes
//! its sockets as the death of a process does; in the simulator a fault kills it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Fault, Sim};
use couplet::{Address, SocketOption, Transport};
use couplet_testkit_loops::PATIENCE;

use super::{kernel_loop, networks, reason, turn};
use crate::kit::{ms, s};
use crate::suite::kit::LOOPBACK;
use crate::suite::recorder::{A, On, Script};

/// The log of a client whose server plays this script and is killed once the client has received
/// its part: the same on the kernel and on every simulated network.
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
    let port = server.reactor().listen(LOOPBACK, accept).expect("a free port");
    let to = port.host().socket_addr().expect("a port has an address");
    let a = A::default();
    let mut plays = Some(a.plays(Script::new()));
    let made = move |_: &Address| plays.take();
    client.reactor().connect(to, made).detach();
    let late = client.reactor().now() + PATIENCE;
    while a.received_len() < PART.len() && client.reactor().now() < late {
        turn(&mut server, ms(1));
        turn(&mut client, Duration::ZERO);
    }
    // Lets the server finish its script.
    (0..5).for_each(|_| turn(&mut server, ms(1)));
    drop(server);
    while !a.is_lost() && client.reactor().now() < late {
        turn(&mut client, ms(1));
    }
    log_of(&a)
}

fn in_the_simulator(mut sim: Sim, script: fn() -> Script) -> Vec<String> {
    let server = sim.host("server", move |reactor| {
        let accept = move |_: &Address| Some(A::default().plays(script()));
        reactor.listen(SocketAddr::from(([0, 0, 0, 0], 80)), accept)?;
        Ok(())
    });
    let a = Rc::new(A::default());
    let plays = a.clone();
    sim.host("client", move |reactor| {
        let plays = plays.clone();
        let made = move |_: &Address| Some(plays.plays(Script::new()));
        reactor.connect(("server", 80), made).detach();
        Ok(())
    });
    let has_its_part = sim.run_until(s(60), |_| a.received_len() >= PART.len());
    assert!(has_its_part.expect("no invariant is violated"));
    sim.fault(sim.elapsed(), s(1), Fault::Kill(server));
    sim.run_until(s(60), |_| a.is_lost()).expect("no invariant is violated");
    let log = log_of(&a);
    sim.finish().expect("nothing is left");
    log
}

const PART: &str = "a part";

fn log_of(a: &A) -> Vec<String> {
    let mut entries = a.log.entries();
    entries.retain(|entry| !entry.starts_with("data"));
    entries.pop();
    entries.push(format!("lost: {}", reason(&a.reason())));
    entries.push(String::from_utf8(a.received()).expect("the part is UTF-8"));
    entries
}

fn promises() -> Script {
    Script::new().once(On::Made, |transport| {
        transport.set_option(SocketOption::ResetUnlessClosed(true));
        transport.write(PART);
    })
}

#[test]
fn a_killed_server_looks_like_one_that_closed() {
    let plain = || Script::new().once(On::Made, |transport| transport.write(PART));
    let log = client_of_a_killed(plain);
    assert_eq!(log, ["made", "read_closed", "lost: Done(Peer)", PART]);
}

#[test]
fn unless_it_promised_a_reset() {
    let log = client_of_a_killed(promises);
    assert_eq!(log, ["made", "lost: Lost(ConnectionReset)", PART]);
}

#[test]
fn a_server_killed_after_its_close_has_closed() {
    let closes: [fn() -> Script; 2] = [
        || promises().once(On::Made, Transport::lose_connection),
        || promises().once(On::Made, Transport::lose_write_connection),
    ];
    for script in closes {
        let log = client_of_a_killed(script);
        assert_eq!(log, ["made", "read_closed", "lost: Done(Peer)", PART]);
    }
}
