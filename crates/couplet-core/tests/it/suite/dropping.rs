//! Users' objects are dropped while none of our cells is borrowed (law 2), and a panic in the drop
//! of a protocol affects nothing else (laws 5 and 10).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::transport::Timeout;
use couplet::{
    Bytes, Connector, Producer, ProducerKind, Reactor, Shutdown, SocketOption, Transport,
};

use super::endings::{ENDINGS, write_big};
use super::kit::{BOTH_ROLES, Kit, Rig};
use super::peer::B;
use super::recorder::{A, On, Script};
use crate::logged::logged;

thread_local! {
    /// Called by the drop of a [`Nosy`], which must be `Send` and so can't hold a handle.
    static LOOK: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
}

/// A user's object; its drop uses every handle. `dropped.rs` has such objects of every kind.
struct Nosy;

impl Drop for Nosy {
    fn drop(&mut self) {
        let look = LOOK.with_borrow(Clone::clone);
        if let Some(look) = look {
            look();
        }
    }
}

impl AsRef<[u8]> for Nosy {
    fn as_ref(&self) -> &[u8] {
        // A piece of at most 512 would be copied, and dropped before any cell is borrowed.
        &[b'f'; 1000]
    }
}

/// Borrows every cell that a handle can reach.
pub(crate) fn use_every_handle(transport: &Transport) {
    let buffered = transport.buffered();
    assert_eq!(transport.is_full(), buffered > 64 * 1024);
    transport.write("late");
    transport.writable().detach();
    transport.set_option(SocketOption::NoDelay(true));
    transport.set_timeout(Timeout::Close, Some(Duration::from_secs(30)));
    if transport.register_producer(Quiet, ProducerKind::Push).is_ok() {
        transport.unregister_producer();
    }
    transport.connection::<Quiet>().call_later(Duration::from_secs(1), |_, _| {}).cancel();
    transport.connection::<super::recorder::Recorder>().tell(|_, _| {});
    use_reactor(transport.reactor());
}

/// As [`use_every_handle`], for the handle to the loop.
pub(crate) fn use_reactor(reactor: &Reactor) {
    reactor.call_later(Duration::from_secs(1), || {}).cancel();
    reactor.call_soon(|| {});
    reactor.spawn(async { Ok(()) }).detach();
    reactor.snapshot().detach();
    reactor.on(Shutdown::After, || couplet::Deferred::succeed(()));
}

struct Quiet;

impl Producer for Quiet {
    fn resume_producing(&mut self) {}
}

/// A way to pass an object to the library and have it dropped: a name, and acts on connection A with
/// its peer B. The drop follows immediately, or within a few turns.
type Kind = (&'static str, fn(&mut Rig, &A, &B));

fn nosy_bytes() -> Bytes {
    Bytes::from_owner(Nosy)
}

/// Queues the bytes behind more than the socket accepts.
fn write_behind(rig: &Rig, a: &A) {
    write_big(rig, a);
    a.transport().write_bytes(nosy_bytes());
}

const KINDS: &[Kind] = &[
    ("sent bytes", |_, a, _| a.transport().write_bytes(nosy_bytes())),
    ("sent bytes between other pieces", |_, a, _| {
        a.transport().write("before");
        a.transport().write_bytes(nosy_bytes());
        a.transport().write("behind");
    }),
    ("bytes discarded by an abort", |rig, a, _| {
        write_behind(rig, a);
        a.transport().abort_connection();
    }),
    ("bytes discarded by a panic", |rig, a, _| {
        write_behind(rig, a);
        a.tell(|_| panic!("in a callback"));
    }),
    ("bytes discarded by a reset", |rig, a, b| {
        write_behind(rig, a);
        rig.turns(3);
        b.reset();
    }),
    ("bytes written after a close", |_, a, _| {
        a.transport().lose_connection();
        a.transport().write_bytes(nosy_bytes());
    }),
    ("bytes past the hard cap", |_, a, _| {
        a.transport().set_write_cap(Some(3));
        a.transport().write_bytes(nosy_bytes());
    }),
    ("a timed call that panics", |rig, _, _| {
        let nosy = Nosy;
        rig.reactor.call_later(Duration::ZERO, move || {
            let _held = nosy;
            panic!("by wish");
        });
        rig.turns(2);
    }),
    ("a callback of writable()", |rig, a, b| {
        write_big(rig, a);
        let nosy = Nosy;
        let fired = move |_| {
            drop(nosy);
            Ok(())
        };
        a.transport().writable().add_both(fired).detach();
        b.reset();
    }),
];

pub(crate) fn c50_an_object_may_use_every_handle_while_it_is_dropped(kit: Kit) {
    for (name, act) in KINDS {
        let (mut rig, a, b) = kit.accept(Script::new());
        let looked: Rc<Cell<u32>> = Rc::default();
        let (looks, end) = (looked.clone(), a.clone());
        LOOK.set(Some(Rc::new(move || {
            use_every_handle(&end.transport());
            looks.set(looks.get() + 1);
        })));
        act(&mut rig, &a, &b);
        for _ in 0..200 {
            if looked.get() > 0 {
                break;
            }
            b.take_all();
            rig.turn();
        }
        LOOK.set(None);
        assert_eq!(looked.get(), 1, "{name}: its drop could not use a handle, or never came");
        rig.still_echoes();
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a drop that panics");
        }
    }
}

/// A script that owns a [`Bomb`], as a protocol owns its fields.
pub(super) fn explosive() -> Script {
    let bomb = Bomb;
    Script::new().on(On::Made, move |_| {
        let _ = &bomb;
    })
}

/// Asserts that the drop of this many bombs was logged.
fn assert_dropped(bombs: usize, by: &str, lines: &[String]) {
    let drops = lines.iter().filter(|line| line.contains("a drop that panics"));
    assert_eq!(drops.count(), bombs, "{by}: each is logged once: {lines:?}");
}

pub(crate) fn c44_a_panic_in_the_drop_of_a_protocol_affects_nothing_else(kit: Kit) {
    for (role, ending) in BOTH_ROLES.into_iter().flat_map(|r| ENDINGS.iter().map(move |e| (r, e))) {
        let name = ending.name;
        let mut rig = kit.rig();
        let ((), lines) = logged(|| {
            let (a, b) = rig.pair(role, ending.script(explosive()));
            ending.bring(&mut rig, &a, &b);
            rig.until(name, || a.is_lost());
            rig.turns(3);
            assert_eq!(a.log.count("lost"), 1, "{name}: {:?}", a.log.entries());
        });
        assert_dropped(1, name, &lines);
        rig.still_echoes();
    }
}

pub(crate) fn c44_a_factory_gets_client_connection_lost_though_the_drop_of_its_protocol_panics(
    kit: Kit,
) {
    let mut rig = kit.rig();
    let (a, peer) = (rig.end(), rig.peer_port());
    let mut again = true;
    let factory = a.makes(explosive).on_lost(move |connector: &Connector| {
        if std::mem::take(&mut again) {
            assert_eq!(connector.connect(), Ok(()));
        }
    });
    let ((), lines) = logged(|| {
        rig.connect_with(peer.address(), factory);
        for n in 1..=2 {
            rig.accepted(&peer).fin();
            rig.until("a loss", || a.log.count("client_connection_lost") == n);
        }
        rig.until("do_stop", || a.log.has("do_stop"));
    });
    assert_dropped(2, "a FIN", &lines);
}

pub(crate) fn c44_a_panic_in_the_drop_of_a_protocol_does_not_stop_the_drop_of_its_loop(kit: Kit) {
    let (mut rig, _a, _b) = kit.accept(explosive());
    let (_c, _d) = rig.accept(explosive());
    let held = Rc::new(());
    let kept = held.clone();
    let (_e, _f) = rig.accept(Script::new().on(On::Made, move |_: &Transport| {
        let _ = &kept;
    }));
    let ((), lines) = logged(move || drop(rig));
    assert_dropped(2, "the loop", &lines);
    assert_eq!(Rc::strong_count(&held), 1, "protocols after those that panic are dropped too");
}
