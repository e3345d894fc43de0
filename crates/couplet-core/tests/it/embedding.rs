//! A loop embedded in another event loop. The outer loop, here a `poll(2)` in the test, waits for
//! our descriptor or our next turn, and never sleeps while there is work.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::{
    Address, Datagram, DatagramTransport, Deferred, Interest, Loop, Reactor, Shutdown, Transport,
    hooks,
};
use couplet_testkit_loops::PATIENCE;
use couplet_testkit_loops::doubles::Quiet;

use crate::needed::Folder;
use crate::suite::outer::is_readable;
use crate::suite::recorder::{A, Recorder, Script};

type Peer = std::net::TcpStream;

type DatagramPeer = std::net::UdpSocket;

/// Waits like an outer loop until the descriptor is readable or the next turn is due. False if
/// neither happens.
#[expect(clippy::disallowed_methods, reason = "the outer loop has its own clock")]
fn outer_loop_waits(l: &Loop) -> bool {
    let due = l.next_turn().map(|at| at.saturating_duration_since(Instant::now()));
    let longest = due.unwrap_or(PATIENCE).min(PATIENCE);
    is_readable(l, longest) || due.is_some()
}

fn turn(l: &mut Loop) -> bool {
    l.turn(Some(Duration::ZERO)).expect("a turn")
}

/// Turns whenever the outer loop wakes up, until `done`.
fn turn_until(l: &mut Loop, done: impl Fn() -> bool) {
    while !done() {
        assert!(outer_loop_waits(l), "it sleeps although there is work");
        turn(l);
    }
}

/// Turns until the outer loop would go to sleep.
fn turn_to_rest(l: &mut Loop) {
    while l.next_turn().is_some_and(|at| at <= l.reactor().now()) || is_readable(l, Duration::ZERO)
    {
        turn(l);
    }
}

/// A loop whose run has begun, and a peer connected to it.
fn connected() -> (Loop, Transport, Peer) {
    let mut l = Loop::new().expect("a loop");
    let (a, mut at) = (A::default(), None);
    l.begin(|reactor| {
        let port = reactor.listen("tcp:0:interface=127.0.0.1", a.once(Script::new()))?;
        at = port.host().socket_addr();
        Ok(())
    })
    .expect("it listens");
    let peer = Peer::connect(at.expect("TCP")).expect("it listens");
    peer.set_read_timeout(Some(PATIENCE)).expect("a socket");
    turn_until(&mut l, || a.is_made());
    turn_to_rest(&mut l);
    (l, a.transport(), peer)
}

/// Records a request; sets the cell once it has been executed.
type Record = fn(&Reactor, &Transport, Rc<Cell<bool>>);

const RECORDS: &[(&str, Record)] = &[
    ("a write", |_, transport, done| {
        transport.write("hello");
        transport.writable().map(move |()| done.set(true)).detach();
    }),
    ("a tell", |_, transport, done| {
        transport.connection::<Recorder>().tell(move |_, _| done.set(true));
    }),
    ("a task", |reactor, _, done| {
        let task = async move {
            done.set(true);
            Ok(())
        };
        reactor.spawn(task).detach();
    }),
    ("a timed call", |reactor, _, done| {
        reactor.call_later(Duration::from_millis(2), move || done.set(true));
    }),
    ("a job", |reactor, _, done| {
        reactor.defer_to_thread(|| Ok(())).map(move |()| done.set(true)).detach();
    }),
    ("a snapshot", |reactor, _, done| {
        reactor.snapshot().map(move |_| done.set(true)).detach();
    }),
    ("a connect", |reactor, transport, done| {
        let Address::Tcp(at) = transport.host() else { panic!("a TCP connection") };
        let connecting = reactor.connect(format!("tcp:{at}"), || Quiet);
        connecting.map(move |_| done.set(true)).detach();
    }),
    ("a call from another thread", |reactor, _, done| {
        let remote = reactor.remote();
        thread_local!(static DONE: RefCell<Option<Rc<Cell<bool>>>> = const { RefCell::new(None) });
        DONE.set(Some(done));
        std::thread::spawn(move || remote.call(|_| DONE.take().expect("it is set").set(true)));
    }),
];

#[test]
fn a_request_recorded_outside_of_a_turn_wakes_an_embedded_loop() {
    for (what, record) in RECORDS {
        let (mut l, transport, _peer) = connected();
        let done = Rc::new(Cell::new(false));
        // The outer loop knows the time of the next turn, and would sleep until then.
        let asleep_until = l.next_turn();
        record(&l.reactor(), &transport, done.clone());
        let woken = is_readable(&l, PATIENCE);
        assert!(woken, "{what} is stuck: the outer loop sleeps until {asleep_until:?}");
        turn_until(&mut l, || done.get());
        assert!(!l.reactor().is_stopping());
        l.end().expect("the run ends");
    }
}

#[test]
fn a_request_recorded_before_the_descriptor_is_queried_makes_it_readable() {
    let mut l = Loop::new().expect("a loop");
    l.turn(Some(Duration::ZERO)).expect("a turn");
    l.reactor().call_soon(|| ());
    assert!(is_readable(&l, Duration::ZERO));
    turn_to_rest(&mut l);
    assert!(!is_readable(&l, Duration::ZERO));
}

#[test]
fn a_request_recorded_around_a_wait_ends_it() {
    let mut l = Loop::new().expect("a loop");
    let (reactor, calls) = (l.reactor(), Rc::new(Cell::new(0)));
    let counted = calls.clone();
    l.around_wait(move |wait| {
        let counted = counted.clone();
        reactor.call_soon(move || counted.set(counted.get() + 1));
        wait();
    });
    let before = l.reactor().now();
    l.turn(Some(PATIENCE)).expect("a turn");
    assert!(calls.get() == 1 && l.reactor().now() < before + PATIENCE);
}

#[test]
fn the_rest_of_a_watched_source_is_due_without_another_edge() {
    let mut l = Loop::new().expect("a loop");
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let seen = Rc::new(RefCell::new(Vec::new()));
    let read = seen.clone();
    let one_byte = move |socket: &mut UnixStream, _| {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("it is ready");
        read.borrow_mut().push(byte[0]);
    };
    l.reactor().watch(ours, Interest::Readable, one_byte).expect("a socket");
    turn(&mut l);
    theirs.write_all(b"poem").expect("room in the buffer");
    // An edge-triggered outer loop notices the bytes once, and then asks for the next turn.
    turn(&mut l);
    while l.next_turn().is_some_and(|at| at <= l.reactor().now()) {
        turn(&mut l);
    }
    assert_eq!(*seen.borrow(), b"poem");
}

#[test]
fn a_trigger_that_fires_between_two_turns_wakes_the_outer_loop() {
    let mut l = Loop::new().expect("a loop");
    let (ready, resolver) = Deferred::new();
    l.begin(|reactor| {
        reactor.on(Shutdown::Before, move || ready);
        Ok(())
    })
    .expect("it begins");
    l.reactor().stop();
    turn_to_rest(&mut l);
    assert!(!is_readable(&l, Duration::ZERO), "the shutdown waits for the trigger");
    resolver.callback(());
    assert!(is_readable(&l, PATIENCE), "the shutdown is stuck");
    while turn(&mut l) {}
    l.end().expect("the run ends");
}

#[test]
fn a_call_moved_to_an_earlier_time_wakes_the_outer_loop() {
    let mut l = Loop::new().expect("a loop");
    l.begin(|_| Ok(())).expect("it begins");
    let call = l.reactor().call_later(Duration::from_secs(3600), || ());
    turn_to_rest(&mut l);
    assert!(call.reset(Duration::from_secs(7200)) && !is_readable(&l, Duration::ZERO));
    assert!(call.reset(Duration::from_secs(60)) && is_readable(&l, Duration::ZERO));
    l.end().expect("the run ends");
}

#[test]
fn a_loop_turns_until_a_time_or_an_interruption() {
    let mut l = Loop::new().expect("a loop");
    let calls = Rc::new(Cell::new(0));
    let (reactor, counted) = (l.reactor(), calls.clone());
    reactor.call_later(Duration::from_millis(1), move || counted.set(1));
    let at = reactor.now() + Duration::from_millis(20);
    assert!(l.turn_until(Some(at)).expect("turns"));
    assert_eq!(calls.get(), 1, "the turns before that time were made");
    assert!(reactor.now() >= at);
    // Interrupted by a call in a turn, and by another thread.
    let interrupting = reactor.clone();
    reactor.call_later(Duration::from_millis(1), move || hooks::interrupt(&interrupting));
    assert!(l.turn_until(None).expect("turns"));
    let remote = reactor.remote();
    let other = std::thread::spawn(move || remote.call(hooks::interrupt));
    assert!(l.turn_until(Some(reactor.now() + PATIENCE)).expect("turns"));
    other.join().expect("no panic").expect("the loop is there");
    // Interrupted outside of a turn: the next turn does not wait.
    hooks::interrupt(&reactor);
    let before = reactor.now();
    assert!(l.turn_until(Some(before + PATIENCE)).expect("a turn"));
    assert!(reactor.now() < before + PATIENCE);
}

#[test]
fn blocking_waits_run_inside_the_function_given_to_around_wait() {
    let mut l = Loop::new().expect("a loop");
    let (is_inside, waits) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
    let (inside, counted) = (is_inside.clone(), waits.clone());
    l.around_wait(move |wait| {
        inside.set(true);
        wait();
        inside.set(false);
        counted.set(counted.get() + 1);
        assert!(counted.get() != 2, "a panic is logged, and no more");
    });
    let reactor = l.reactor();
    for _ in 0..3 {
        let was_inside = Rc::new(Cell::new(None));
        let (noted, seen) = (was_inside.clone(), is_inside.clone());
        // Not due before the turn that waits for it, even if this thread has to wait for its processor.
        reactor.call_later(Duration::from_millis(50), move || noted.set(Some(seen.get())));
        let before = waits.get();
        while was_inside.get().is_none() {
            l.turn(Some(PATIENCE)).expect("a turn");
        }
        assert_eq!(was_inside.get(), Some(false), "nothing else is made inside");
        let after = waits.get();
        assert!(after > before);
        l.turn(Some(Duration::ZERO)).expect("a turn that does not block");
        assert_eq!(waits.get(), after);
    }
}

/// A connection that this loop accepted or opened, and its UNIX peer.
fn local_peer(l: &mut Loop, folder: &Folder, accepted: bool) -> (Transport, UnixStream) {
    let (a, path) = (A::default(), folder.path("socket"));
    let factory = a.once(Script::new());
    let listener = (!accepted).then(|| UnixListener::bind(&path).expect("a free path"));
    let (reactor, at) = (l.reactor(), format!("unix:{path}"));
    let peer = match &listener {
        None => {
            drop(reactor.listen(at, factory).expect("a free path"));
            turn(l);
            UnixStream::connect(&path)
        }
        Some(listener) => {
            reactor.connect(at, factory).detach();
            turn_until(l, || a.is_made());
            listener.accept().map(|(peer, _)| peer)
        }
    };
    turn_until(l, || a.is_made());
    turn_to_rest(l);
    (a.transport(), peer.expect("it is accepted"))
}

#[test]
fn a_sent_answer_does_not_wake_the_outer_loop() {
    for accepted in [false, true] {
        let (mut l, folder) = (Loop::new().expect("a loop"), Folder::new());
        let (transport, mut peer) = local_peer(&mut l, &folder, accepted);
        let mut answer = [0; 6];
        transport.write("answer");
        turn_to_rest(&mut l);
        peer.read_exact(&mut answer).expect("an answer");
        assert!(!is_readable(&l, Duration::ZERO), "the peer has read, accepted: {accepted}");
        // A full socket must report that it is writable again, the second time too.
        for _ in 0..2 {
            transport.write(vec![7; 1 << 20]);
            turn_to_rest(&mut l);
            assert!(transport.buffered() > 0, "its socket is full");
            let mut got = vec![0; 1 << 20];
            std::thread::scope(|scope| {
                scope.spawn(|| peer.read_exact(&mut got).expect("all of it"));
                turn_until(&mut l, || transport.buffered() == 0);
            });
        }
    }
}

#[test]
fn a_sent_datagram_does_not_wake_the_outer_loop() {
    let mut l = Loop::new().expect("a loop");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let nothing = |_: &DatagramTransport, _: &Datagram<'_>| {};
    let (a, b) = (l.reactor().listen_datagrams(any, nothing), DatagramPeer::bind("127.0.0.1:0"));
    let (a, b) = (a.expect("a free port"), b.expect("a free port"));
    turn_to_rest(&mut l);
    a.send_to("x", b.local_addr().expect("bound")).expect("there is room");
    turn(&mut l);
    assert_eq!(b.recv(&mut [0; 2]).expect("it has left"), 1);
    assert!(!is_readable(&l, Duration::ZERO), "the datagram has left");
}
