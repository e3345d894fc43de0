//! Rows 5, 15, 17 and 24 where they depend on the kernel: its buffers, resets and error numbers.

use std::io;

use couplet::{SocketOption, Transport, hooks};
use rustix::io::Errno;

use crate::suite::endings::write_big;
use crate::suite::kit::{Kit, s};
use crate::suite::peer::Saw;
use crate::suite::recorder::{On, Script};

// Closing without a drain would deliver about 128 000 bytes here, then ECONNRESET.
#[test]
fn c05_unread_input_does_not_destroy_the_reply() {
    const ASKED: usize = 500_000;
    let reply: Vec<u8> = (0..70_000u32).flat_map(u32::to_le_bytes).collect();
    let answer = reply.clone();
    let (mut rig, a, b) =
        Kit::mio().read_buffer(16 * 1024).accept(Script::new().once(On::Data, move |transport| {
            transport.write(answer);
            transport.lose_connection();
        }));
    let send = |left: usize| if left > 0 { b.try_send(&vec![7; left]) } else { 0 };
    let mut sent = 0;
    loop {
        match send(ASKED - sent) {
            0 => break,
            n => sent += n,
        }
    }
    assert!(sent >= 200_000, "only {sent} bytes fit in the buffers");
    rig.until("our FIN", || {
        // B neither reads nor sends.
        a.log.has("data") && b.got_len() == 0 && a.transport().buffered() == 0
    });
    while rig.counts(&a).shut_writes == 0 {
        rig.turn();
    }
    rig.turns(10);
    rig.until("the end", || {
        sent += send(ASKED - sent);
        b.take(8 * 1024);
        b.saw() != Saw::Open
    });
    assert_eq!(b.saw(), Saw::Fin);
    assert!(b.got() == reply, "{} bytes", b.got_len());
    b.close();
    assert_eq!(rig.lost(&a), "Done(Us)");
}

// Linux reports a socket writable only when a third of its buffer is free: waiting for that would
// cut off a slow reader.
#[test]
fn c15_bytes_that_leave_the_kernel_are_progress() {
    let (mut rig, a, b) = Kit::mio().accept(Script::new());
    write_big(&rig, &a);
    a.transport().lose_connection();
    (0..3).for_each(|_| rig.tick());
    let stalled = rig.counts(&a);
    for at in 1..=25 {
        rig.pass(s(5));
        rig.turn();
        assert!(!a.is_lost(), "at {:?}", rig.passed());
        if at % 5 == 0 && at <= 20 {
            let left = || hooks::unacknowledged(&a.transport());
            let before = left();
            assert!(b.take(128 * 1024) > 0);
            // A busy system acknowledges them a little later.
            rig.until("an acknowledgement", || left() < before);
            rig.tick();
        }
    }
    let now = rig.counts(&a);
    let still = (now.sent, now.written) == (stalled.sent, stalled.written);
    assert!(still, "the socket became writable, so this test proves nothing");
    while !a.is_lost() {
        rig.pass(s(5));
        rig.turn();
    }
    assert_eq!(rig.lost(&a), "CloseTimedOut");
    assert!((s(130)..=s(165)).contains(&rig.passed()), "at {:?}", rig.passed());
}

// Dropping the loop closes its sockets, as the system does for a killed process.
#[test]
fn c17a_a_dropped_loop_resets_connections_that_were_not_closed() {
    let promise = |transport: &Transport| {
        transport.set_option(SocketOption::ResetUnlessClosed(true));
        transport.write("a part");
    };
    type Case = (bool, fn(&Transport), Saw);
    fn set(transport: &Transport, values: &[bool]) {
        values.iter().for_each(|on| transport.set_option(SocketOption::ResetUnlessClosed(*on)));
    }
    let cases: [Case; 7] = [
        (false, |_| {}, Saw::Fin),
        (true, |_| {}, Saw::Reset),
        // The last value counts, each time.
        (true, |transport| set(transport, &[false]), Saw::Fin),
        (true, |transport| set(transport, &[false, true]), Saw::Reset),
        (false, |transport| set(transport, &[true, false]), Saw::Fin),
        (true, Transport::lose_write_connection, Saw::Fin),
        (true, Transport::lose_connection, Saw::Fin),
    ];
    for (promises, close, sees) in cases {
        let mut rig = Kit::mio().rig();
        let script = Script::new();
        let (a, b) = rig.accept(if promises { script.once(On::Made, promise) } else { script });
        rig.tick();
        close(&a.transport());
        rig.tick();
        drop((a, rig));
        // The kernel has delivered the end before the drop returns.
        b.take_all();
        assert_eq!(b.saw(), sees, "promises: {promises}");
        assert!(sees == Saw::Reset || !b.is_broken(), "no reset after the FIN");
    }
}

// Reading SO_ERROR clears it: a driver that reads it twice gets 0 the second time.
#[test]
fn c24_lost_keeps_the_error_number() {
    for paused in [false, true] {
        let mut rig = Kit::mio().rig();
        let script = Script::new();
        let (a, b) = rig.accept(match paused {
            true => script.once(On::Made, Transport::pause_producing),
            false => script,
        });
        b.reset();
        assert_eq!(rig.lost(&a), "Lost");
        let reason = a.reason();
        let error: &io::Error = reason.downcast_ref().expect("an io::Error");
        assert_eq!(error.raw_os_error(), Some(Errno::CONNRESET.raw_os_error()));
    }
}
