//! Two streams joined, and streams that are passed on to protocols.

use std::io::ErrorKind;

use couplet::stream::copy_bidirectional;
use couplet::testing::Wire;
use couplet_testkit_loops::doubles::Echo;

use super::{Running, connected, start};
use crate::secure::Rig;

/// Two streams that are joined, and the wires of their peers.
fn joined(rig: &mut Rig) -> (Running<(u64, u64)>, Wire, Wire) {
    let ((one, near), (other, far)) = (connected(rig), connected(rig));
    rig.push(&near, b"before, ");
    let copying = start(rig, async move { Ok(copy_bidirectional(one, other).await?) });
    (copying, near, far)
}

#[test]
fn bytes_are_copied_in_both_directions_and_counted() {
    for mut rig in Rig::both() {
        let (copying, near, far) = joined(&mut rig);
        near.push(b"and after");
        rig.push(&far, b"an answer");
        assert_eq!((far.take(), near.take()), (b"before, and after".into(), b"an answer".into()));
        rig.fin(&near);
        assert!(far.saw_fin() && copying.is_pending());
        far.push(b", and more");
        rig.fin(&far);
        assert_eq!(near.take(), b", and more");
        assert!(near.saw_fin());
        assert_eq!(copying.take().expect("a clean end"), (17, 19));
    }
}

#[test]
fn a_reset_of_one_resets_the_other_and_is_the_error() {
    for (far_breaks, mut rig) in Rig::each([false, true]) {
        let (copying, near, far) = joined(&mut rig);
        let (breaks, other) = if far_breaks { (far, near) } else { (near, far) };
        rig.reset(&breaks);
        assert!(other.saw_reset());
        let error = copying.take().expect_err("that was no clean end");
        let error: &std::io::Error = error.downcast_ref().expect("an I/O error");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_full_reader_stops_the_other_side() {
    let [mut rig, _] = Rig::both();
    rig.network.set_capacity(10_000);
    let (_copying, near, far) = joined(&mut rig);
    let mut sent = 0;
    for _ in 0..200 {
        sent += rig.push(&near, &[7; 10_000]);
    }
    assert!((16 * 1024..100_000).contains(&sent), "{sent}");
    let mut received = 0;
    while received < sent + 8 {
        received += far.take().len();
        rig.turn();
    }
}

#[test]
fn dropping_the_future_closes_both_streams() {
    for mut rig in Rig::both() {
        let ((one, near), (other, far)) = (connected(&mut rig), connected(&mut rig));
        let task = rig.reactor.spawn(async move { Ok(copy_bidirectional(one, other).await?) });
        rig.turn();
        rig.push(&near, b"last words");
        task.cancel();
        rig.turn();
        assert_eq!(far.take(), b"last words");
        assert!(near.saw_fin() && far.saw_fin());
    }
}

#[test]
fn a_stream_that_was_lost_before_breaks_the_other() {
    for mut rig in Rig::both() {
        let ((one, near), (other, far)) = (connected(&mut rig), connected(&mut rig));
        rig.reset(&near);
        let copying = start(&mut rig, async move { Ok(copy_bidirectional(one, other).await?) });
        assert!(copying.take().is_err());
        assert!(far.saw_reset());
    }
}

#[test]
fn a_protocol_takes_over_a_stream_with_its_unread_bytes() {
    for (mut rig, comes_first) in
        Rig::both().into_iter().chain(Rig::both()).zip([true, true, false, false])
    {
        let (mut stream, wire) = connected(&mut rig);
        if comes_first {
            rig.push(&wire, b"header\nbody");
            wire.push(b", and more");
        }
        let passed_on = start(&mut rig, async move {
            let header = stream.read_line().await?;
            stream.upgrade(Echo);
            Ok(header)
        });
        if !comes_first {
            rig.push(&wire, b"header\nbody, and more");
        }
        assert_eq!(passed_on.take().expect("a header").as_deref(), Some(&b"header"[..]));
        rig.push(&wire, b", later");
        assert_eq!(wire.take(), b"body, and more, later");
        rig.fin(&wire);
        assert!(wire.saw_fin(), "it is the protocol's to close");
    }
}
