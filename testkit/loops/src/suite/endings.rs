//! The ways a connection can end: a table for the facts that hold for each of them.

use std::time::Duration;

use couplet::transport::Timeout;
use couplet::{Bytes, SocketOption, Transport};

use super::kit::Rig;
use super::peer::B;
use super::recorder::{A, Broken, On, Script};

/// One way to end.
pub struct Ending {
    pub name: &'static str,
    /// The expected reason.
    pub reason: &'static str,
    /// Prepares A's script.
    script: fn(Script) -> Script,
    /// Acts once the connection is made; `connection_lost` follows.
    act: fn(&mut Rig, &A, &B),
}

impl Ending {
    pub fn named(name: &str) -> &'static Ending {
        ENDINGS.iter().find(|ending| ending.name == name).expect("a known ending")
    }

    pub fn script(&self, script: Script) -> Script {
        (self.script)(script)
    }

    pub fn bring(&self, rig: &mut Rig, a: &A, b: &B) {
        (self.act)(rig, a, b);
    }
}

const fn ending(name: &'static str, reason: &'static str, act: fn(&mut Rig, &A, &B)) -> Ending {
    Ending { name, reason, script: |script| script, act }
}

/// B closes its half when it sees our FIN.
fn b_answers(rig: &mut Rig, b: &B) {
    rig.take_to_the_end(b);
    b.fin();
}

/// A writes BIG.
pub fn write_big(rig: &Rig, a: &A) {
    a.transport().write_bytes(Bytes::from_static(rig.kit.big()));
}

pub const ENDINGS: &[Ending] = &[
    ending("lose", "Done(Us)", |rig, a, b| {
        a.tell(Transport::lose_connection);
        b_answers(rig, b);
    }),
    Ending {
        name: "lose in connection_made",
        reason: "Done(Us)",
        script: |script| script.once(On::Made, Transport::lose_connection),
        act: |rig, _, b| b_answers(rig, b),
    },
    ending("fail", "Failed(broken)", |rig, a, b| {
        a.tell(|transport| transport.fail(Broken("broken")));
        b_answers(rig, b);
    }),
    ending("abort", "Aborted", |_, a, _| {
        a.tell(Transport::abort_connection);
    }),
    ending("lose, then abort", "Aborted", |_, a, _| {
        a.tell(|transport| {
            transport.lose_connection();
            transport.abort_connection();
        });
    }),
    ending("abort, then panic", "Panicked(ending)", |_, a, _| {
        a.tell(|transport| {
            transport.abort_connection();
            panic!("ending");
        });
    }),
    ending("panic", "Panicked(ending)", |rig, a, b| {
        a.tell(|_| panic!("ending"));
        b_answers(rig, b);
    }),
    ending("the peer's FIN", "Done(Peer)", |_, _, b| b.fin()),
    ending("the peer's reset", "Lost", |_, _, b| b.reset()),
    Ending {
        name: "lose after the peer's FIN",
        reason: "Done(Peer)",
        script: Script::aware,
        act: |rig, a, b| {
            rig.fin(a, b);
            a.transport().lose_connection();
        },
    },
    ending("a reset while flushing", "Lost", |rig, a, b| {
        write_big(rig, a);
        a.transport().lose_connection();
        rig.turns(3);
        b.reset();
    }),
    ending("the idle timeout", "Timeout", |rig, a, _| {
        a.transport().set_timeout(Timeout::Idle, Some(Duration::from_secs(10)));
        rig.turn();
        rig.pass(Duration::from_secs(10));
    }),
    ending("the close deadline", "CloseTimedOut", |rig, a, _| {
        write_big(rig, a);
        a.transport().lose_connection();
        rig.tick();
        // Bytes that a busy system moves after the tick count as progress and postpone the
        // deadline.
        for _ in 0..3 {
            rig.pass(Duration::from_secs(30));
            rig.turn();
        }
    }),
    ending("the hard cap", "Overflow", |_, a, _| {
        a.transport().set_write_cap(Some(1000));
        a.transport().write([0; 1001]);
    }),
    ending("stopped while open", "Shutdown", |rig, _, _| {
        rig.stop(Duration::ZERO);
    }),
    ending("stopped while flushing", "Shutdown", |rig, a, _| {
        write_big(rig, a);
        a.transport().lose_connection();
        rig.turns(3);
        rig.stop(Duration::from_millis(100));
    }),
];

/// Calls every method of a transport. Returns whether it wants data.
pub fn call_everything(transport: &Transport) -> bool {
    transport.write("late");
    transport.write_bytes("late");
    transport.lose_connection();
    transport.lose_write_connection();
    transport.abort_connection();
    transport.fail(Broken("late"));
    transport.pause_producing();
    transport.resume_producing();
    transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(1)));
    transport.set_timeout(Timeout::Close, Some(Duration::from_secs(1)));
    transport.set_timeout(Timeout::Fin, Some(Duration::from_secs(1)));
    transport.set_write_marks(1, 2);
    transport.set_write_cap(Some(1));
    transport.set_option(SocketOption::NoDelay(false));
    transport.set_option(SocketOption::KeepAlive(Some(Duration::from_secs(60))));
    transport.unregister_producer();
    transport.is_full();
    transport.wants_data()
}
