//! Row 64: an option that the system refuses. Row 15c: more input than one wait reports.

use std::time::Duration;

use couplet::transport::Timeout;
use couplet::{SocketOption, Transport};

use crate::logged::logged;
use crate::suite::kit::Kit;
use crate::suite::recorder::{On, Script};

#[test]
fn c64_a_refused_no_delay_is_harmless() {
    let (mut rig, a, b) = Kit::mio().accept(Script::new());
    let ((), lines) = logged(|| {
        for on in [false, true, true, false] {
            a.transport().set_option(SocketOption::NoDelay(on));
            rig.turn();
        }
    });
    assert!(lines.is_empty(), "{lines:?}");
    // A value that every system refuses.
    let ((), lines) = logged(|| {
        let never = SocketOption::KeepAlive(Some(Duration::from_secs(1 << 40)));
        a.transport().set_option(never);
        rig.turn();
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    a.transport().write("still here");
    rig.gets(&b, b"still here");
    // On a lost connection.
    let (a, b) =
        rig.accept(Script::new().on(On::Lost, |t| t.set_option(SocketOption::NoDelay(true))));
    b.reset();
    a.transport().set_option(SocketOption::NoDelay(true));
    rig.lost(&a);
    a.transport().set_option(SocketOption::NoDelay(false));
    rig.turns(3);
    assert_eq!(a.log.entries(), ["made", "lost(Lost)"]);
}

#[test]
fn c15c_input_that_did_not_fit_into_one_wait_precedes_the_timers() {
    let idle =
        |transport: &Transport| transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(10)));
    let mut rig = Kit::mio().events_per_wait(2).rig();
    let pairs: Vec<_> = (0..10).map(|_| rig.accept(Script::new().once(On::Made, idle))).collect();
    // Twice, in one loop.
    for round in 1..=2 {
        for (_, b) in &pairs {
            b.send(b"x");
        }
        rig.pass(Duration::from_secs(10));
        rig.turn();
        for (a, _) in &pairs {
            assert_eq!(a.received_len(), round, "{:?}", a.log.entries());
        }
    }
    rig.pass(Duration::from_secs(10));
    rig.turn();
    assert!(pairs.iter().all(|(a, _)| a.is_lost()), "silence is still noticed");
}
