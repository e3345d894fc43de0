//! Rows 23 to 31: the reason with which a connection is lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use couplet::{By, Reason, Transport};

use crate::logged::logged;

use super::endings::write_big;
use super::kit::Kit;
use super::peer::Saw;
use super::recorder::{Broken, Log, Maker, On, Script};

scripted! {
    $ reasons:

    fn c23_the_peers_close_is_done_by_peer() needs late_reads passive_peer
        "{server|client}; b send {1:x|}; b fin; a lost Done(Peer); a received {1:x|}
        a log made, {1:data(1), |}read_closed, lost(Done(Peer))",
        // Everything before the first turn.
        "arriving; b fin; a lost Done(Peer); a log made, read_closed, lost(Done(Peer))";

    fn c24_a_reset_is_lost_with_its_io_error() needs resets
        "{server|client}; b reset; a lost Lost; a error ConnectionReset",
        // Through a write.
        "{server|client}; aware; b close; a until read_closed; a writes-on; a lost Lost
        a error ConnectionReset BrokenPipe";

    fn c25_our_own_close_is_done_by_us()
        "{server|client}; a write {bye|}, lose; b ends Done(Us)";

    fn c30_a_panic_in_resume_producing_is_the_reason_and_stops_the_producer()
        "errors {1:1|1|1|2}; source {1:resume|resume|pause|resume} = panic p; {1:plain|plain|plain|source stop = panic s}
        a {1:pull|push, bytes BIG|push, bytes BIG|pull}; a until {1:resume|pause|pause|resume}; b ends Panicked(p)
        a log made, {1:resume|pause, resume|pause|resume}, stop, lost(Panicked(p))";

    // No time passes: nothing waits for the producer, and its bytes are sent.
    fn c30a_fail_in_a_producer_ends_its_work_and_is_the_reason_once()
        "source {1:resume|resume|pause} = write last words, fail e, fail another
        a {1:pull|push, bytes BIG|push, bytes BIG}; b ends Failed(e); b got {1:|BIG+|BIG+}last words
        a log made, {1:resume|pause, resume|pause}, stop, lost(Failed(e)); time 0";

    // Again, in the next run of the loop, and next to one that a drain has asked before.
    fn c31_a_connection_is_asked_to_finish_at_the_end_and_may_still_write()
        "on draining: write bye; next; on draining: write bye; stop 0; b sees Fin; b got bye; b2 sees Fin; b2 got bye
        sum 2 draining; sum 2 lost(Shutdown)
        next; on draining: write bye; next; on draining: write bye; drain 1000; a3 until draining; a4 until draining
        stop 0; b3 sees Fin; b3 got bye; b4 sees Fin; b4 got bye; sum 4 draining; sum 4 lost(Shutdown)
        next; on draining: write bye; stop 0; b5 sees Fin; b5 got bye; sum 5 draining; sum 5 lost(Shutdown)";

    fn c30a_after_a_panic_in_stop_producing_the_next_call_is_connection_lost()
        "errors 1; source resume = half, fail e; source stop = panic in stop; a pull; b sees Fin; b fin
        a lost Failed(e); a log made, resume, stop, lost(Failed(e))";
}

pub(crate) fn c26_c27_an_abort_is_aborted_here_and_lost_there(kit: Kit) {
    for unread in [false, true] {
        for server_aborts in [false, true] {
            let mut rig = kit.rig();
            let (server, client) = rig.couple(Script::new(), Script::new());
            if unread {
                for end in [&server, &client] {
                    end.transport().pause_producing();
                    end.transport().write("unread");
                }
                rig.tick();
            }
            let (here, there) = if server_aborts { (server, client) } else { (client, server) };
            here.transport().abort_connection();
            assert_eq!(rig.lost(&here), "Aborted");
            assert_eq!(rig.lost(&there), "Lost");
        }
    }
}

pub(crate) fn c28_only_done_is_clean(_: Kit) {
    let each = [
        (Reason::Done(By::Us), true),
        (Reason::Done(By::Peer), true),
        (Reason::Lost(Arc::new(io::ErrorKind::ConnectionReset.into())), false),
        (Reason::Aborted, false),
        (Reason::Timeout, false),
        (Reason::CloseTimedOut, false),
        (Reason::Overflow, false),
        (Reason::Failed(Broken("e").into()), false),
        (Reason::Panicked("p".into()), false),
        (Reason::Shutdown, false),
    ];
    for (reason, is_clean) in each {
        assert_eq!(reason.is_clean(), is_clean, "{reason}");
    }
}

pub(crate) fn c29_a_panic_in_data_received_is_logged_and_is_the_reason(kit: Kit) {
    type Panic = (fn(&Transport), &'static str);
    let panics: [Panic; 3] = [
        (|_| panic!("no {}", 1), "no 1"),
        (|_| panic!("lit"), "lit"),
        (|_| std::panic::panic_any(5), ""),
    ];
    for (panic, text) in panics {
        let mut rig = kit.rig();
        let ends = [rig.end(), rig.end(), rig.end()];
        let mut next = ends.clone().into_iter();
        let answer: fn(&Transport) = |transport| transport.write("y");
        let mut acts = [panic, answer, answer].into_iter();
        let port = rig.listen_with(Maker::new(&Log::default(), move |_| {
            Some(next.next()?.plays(Script::new().on(On::Data, acts.next()?)))
        }));
        let b = rig.peer(&port);
        rig.until("connection_made", || ends[0].is_made());
        let well = rig.peer(&port);
        rig.until("connection_made", || ends[1].is_made());
        let ((), lines) = logged(|| {
            b.send(b"x");
            well.send(b"x");
            assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
            b.fin();
            rig.lost(&ends[0]);
        });
        let Reason::Panicked(found) = ends[0].reason() else { panic!("{:?}", ends[0].reason()) };
        assert!(!found.is_empty() && (text.is_empty() || &*found == text), "{found}");
        assert_eq!(lines.len(), 1, "{lines:?}");
        let peer = ends[0].transport().peer().to_string();
        assert!(lines[0].contains(&*found) && lines[0].contains(&peer), "{lines:?}");
        rig.until("an answer", || well.take_all() > 0);
        let _new = rig.peer(&port);
        rig.until("connection_made", || ends[2].is_made());
    }
}

pub(crate) fn c31_a_connection_open_at_the_end_gets_shutdown(kit: Kit) {
    let mut rig = kit.rig();
    let log = Log::default();
    let (server, b1) = rig.accept(Script::new());
    let (paused, b2) = rig.accept(Script::new().once(On::Made, Transport::pause_producing));
    let (peer, client) = (rig.peer_port(), rig.end());
    rig.connect_with(peer.address(), client.maker(Script::new()));
    let b3 = rig.accepted(&peer);
    rig.until("connection_made", || client.is_made());
    rig.settle(&client);
    let silent = rig.silent_port();
    rig.connect_with(silent.address(), Maker::new(&log, |_| None));
    rig.until("an attempt", || log.has("started_connecting"));
    rig.stop(Duration::ZERO);
    for (a, b) in [(&server, &b1), (&paused, &b2), (&client, &b3)] {
        assert_eq!(a.log.count("lost"), 1);
        assert!(a.log.has("lost(Shutdown)"), "{:?}", a.log.entries());
        assert_eq!(rig.take_to_the_end(b), Saw::Fin);
    }
    let ends = ["draining", "lost(Shutdown)", "client_connection_lost(Shutdown)", "do_stop"];
    assert_eq!(client.log.entries()[4..], ends);
    assert_eq!(
        log.entries()[2..],
        ["client_connection_failed(Failed(the reactor stopped))", "do_stop"]
    );
    assert_eq!(rig.passed(), Duration::ZERO);
}

pub(crate) fn c31_a_flush_at_the_end_lasts_no_longer_than_the_grace(kit: Kit) {
    let (mut rig, a, _b) = kit.accept(Script::new());
    write_big(&rig, &a);
    rig.turns(3);
    let before = rig.passed();
    rig.stop(Duration::from_millis(100));
    assert_eq!(rig.lost(&a), "Shutdown");
    let lasted = rig.passed() - before;
    assert!((500..=1000).contains(&lasted.as_millis()), "{lasted:?}");
}
