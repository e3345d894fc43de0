//! Row 97b: loops that poll before they sleep.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use couplet::{Address, Loop, LoopOptions, Reactor};
use couplet_testkit_loops::doubles::Echo;

use crate::suite::kit::LOOPBACK;

/// Sends messages, some of them after a pause, and checks the echoes.
fn talk(port: &Address) {
    let Address::Tcp(to) = *port else { panic!("{port}") };
    let mut peer = TcpStream::connect(to).expect("the port is open");
    for n in 0..200_u8 {
        if n.is_multiple_of(50) {
            // A pause, in which nothing comes.
            peer.set_read_timeout(Some(Duration::from_millis(5))).expect("it is not zero");
            assert!(peer.read(&mut [0]).is_err());
            peer.set_read_timeout(None).expect("a socket");
        }
        peer.write_all(&[n; 10]).expect("the connection is open");
        let mut echo = [0; 10];
        peer.read_exact(&mut echo).expect("an echo");
        assert_eq!(echo, [n; 10]);
    }
}

#[test]
fn c97b_a_loop_that_polls_before_it_sleeps_misses_nothing() {
    for spin in [Duration::from_micros(50), Duration::from_millis(2)] {
        let mut l =
            Loop::with_options(LoopOptions::default().tune(|it| it.spin(spin))).expect("a loop");
        let called = Rc::new(Cell::new(0));
        let calls = called.clone();
        let mut peer = None;
        l.run(|reactor| {
            let port = reactor.listen(LOOPBACK, || Echo)?.host();
            let remote = reactor.remote();
            peer = Some(thread::spawn(move || {
                let talked = catch_unwind(|| talk(&port));
                // The loop sleeps by now, or polls.
                remote.call(Reactor::stop).expect("the loop runs");
                talked.expect("all echoes come");
            }));
            reactor.call_later(Duration::from_millis(1), move || calls.set(calls.get() + 1));
            Ok(())
        })
        .expect("no error");
        assert_eq!(called.get(), 1);
        peer.expect("a peer").join().expect("no panic");
    }
}
