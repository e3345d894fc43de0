//! Small writes to a slow reader whose system has little room.

use couplet::SocketOption;

use crate::suite::kit::Kit;
use crate::suite::recorder::Script;

/// Each driver writes the rest of a piece that the system took in part.
#[test]
fn small_writes_to_a_slow_reader_arrive_once_and_in_order() {
    let kits = [
        Kit::mio(),
        #[cfg(all(target_os = "linux", feature = "uring"))]
        Kit::uring().in_ring(),
    ];
    for kit in kits {
        let (mut rig, a, b) = kit.accept(Script::new());
        a.transport().set_socket_option(SocketOption::SendBuffer(4096));
        let mut sent = Vec::new();
        for n in 0..4000_u32 {
            for m in 0..3 {
                let piece = (3 * n + m).to_be_bytes().repeat(100 + 50 * m as usize);
                a.transport().write(&piece);
                sent.extend(piece);
            }
            rig.turn();
            if a.transport().buffered() > 10_000 {
                b.take(7_000 + n as usize % 999);
            }
        }
        rig.until("all bytes", || {
            b.take_all();
            b.got_len() >= sent.len()
        });
        assert!(b.got() == sent, "{kit:?}");
    }
}
