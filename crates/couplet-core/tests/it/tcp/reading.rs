//! Row 64: an option that the system refuses.

use std::time::Duration;

use couplet::SocketOption;

use crate::logged::logged;
use crate::suite::kit::Kit;
use crate::suite::recorder::{On, Script};

#[test]
fn c64_a_refused_no_delay_is_harmless() {
    let (mut rig, a, b) = Kit::mio().accept(Script::new());
    let ((), lines) = logged(|| {
        for on in [false, true, true, false] {
            a.transport().set_tcp_no_delay(on);
            rig.turn();
        }
    });
    assert!(lines.is_empty(), "{lines:?}");
    // A value that every system refuses.
    let ((), lines) = logged(|| {
        let never = SocketOption::KeepAlive(Some(Duration::from_secs(1 << 40)));
        a.transport().set_socket_option(never);
        rig.turn();
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    a.transport().write("still here");
    rig.gets(&b, b"still here");
    // On a lost connection.
    let (a, b) = rig.accept(Script::new().on(On::Lost, |t| t.set_tcp_no_delay(true)));
    b.reset();
    a.transport().set_tcp_no_delay(true);
    rig.lost(&a);
    a.transport().set_tcp_no_delay(false);
    rig.turns(3);
    assert_eq!(a.log.entries(), ["made", "lost(Lost)"]);
}
