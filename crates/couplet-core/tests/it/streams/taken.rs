//! Streams in unusual states: after a dropped flush, on a connection that ends before the stream
//! takes it over, and without a loop.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;

use couplet::{Stream, Transport};

use super::{connected, finish, hold, poll_once, start, with};
use crate::secure::{End, Rig};

#[test]
fn a_flush_after_one_that_was_dropped_waits_for_what_was_written_since() {
    for mut rig in Rig::both() {
        rig.network.set_capacity(1000);
        let (mut stream, wire) = connected(&mut rig);
        stream.transport().write(vec![1; 5000]);
        assert!(poll_once(pin!(stream.flush())).is_pending());
        let mut taken = 0;
        while taken < 5000 {
            taken += wire.take().len();
            rig.turn();
        }
        stream.transport().write(vec![2; 5000]);
        assert!(poll_once(pin!(stream.flush())).is_pending(), "5000 bytes have not left");
        while taken < 10_000 {
            taken += wire.take().len();
            rig.turn();
        }
        assert!(poll_once(pin!(stream.flush())).is_ready());
    }
}

#[test]
fn all_of_a_stream_without_a_limit() {
    for mut rig in Rig::both() {
        let (mut stream, wire) = connected(&mut rig);
        wire.push(b"all of it");
        wire.fin();
        let all = finish(&mut rig, async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all, usize::MAX).await?;
            Ok(all)
        });
        assert_eq!(all, b"all of it");
    }
}

/// Reads, and logs the result.
fn reading(transport: &Transport, log: &Rc<RefCell<Vec<String>>>) {
    let (mut stream, log) = (Stream::new(transport), log.clone());
    let read = async move {
        let read = stream.read(&mut [0; 9]).await;
        log.borrow_mut().push(format!("{:?}", read.map_err(|error| error.kind())));
        Ok(())
    };
    transport.reactor().spawn(read).detach();
}

#[test]
fn a_stream_of_a_connection_that_ends_before_it_is_taken_over_fails() {
    type Case = fn(&Transport);
    let before: [Case; 4] =
        [|_| {}, Transport::lose_connection, Transport::abort_connection, |_| {}];
    let after: [Case; 4] = [Transport::abort_connection, |_| {}, |_| {}, |_| panic!("a failure")];
    for (before, after) in before.into_iter().zip(after) {
        for mut rig in Rig::both() {
            let log = Rc::new(RefCell::new(Vec::new()));
            let noted = log.clone();
            let server = End::default().on("made", move |transport| {
                before(transport);
                reading(transport, &noted);
                after(transport);
            });
            let port = rig.listen_in_clear(&server);
            let wire = rig.network.connect(port).expect("the port listens");
            rig.turn();
            wire.fin();
            rig.turn();
            assert_eq!(log.borrow().len(), 1, "it does not wait for ever");
        }
    }
}

#[test]
fn a_stream_of_a_loop_that_is_gone_fails() {
    for mut rig in Rig::both() {
        let (mut stream, _wire) = connected(&mut rig);
        assert!(poll_once(pin!(stream.read(&mut [0]))).is_pending());
        drop(rig);
        assert!(poll_once(pin!(stream.read(&mut [0]))).is_ready());
        assert!(poll_once(pin!(stream.close())).is_ready());
    }
}

#[test]
fn a_flush_after_an_abort_fails() {
    for mut rig in Rig::both() {
        let (mut stream, _wire) = connected(&mut rig);
        let flush = start(&mut rig, async move {
            stream.write_all("lost").await?;
            stream.transport().abort_connection();
            Ok(stream.flush().await?)
        });
        assert!(flush.take().is_err());
    }
}

#[test]
fn shutdown_where_our_stream_had_ended_before() {
    for mut rig in Rig::both() {
        let held = hold_of(&mut rig);
        let done = with(&mut rig, &held.0, async |stream| Ok(stream.shutdown().await?));
        assert!(held.1.saw_fin());
        assert!(done.take().is_ok());
    }
}

fn hold_of(rig: &mut Rig) -> (super::Held, couplet::testing::Wire) {
    let server = End::aware().on("made", Transport::lose_write_connection);
    let port = rig.listen_in_clear(&server);
    let wire = rig.network.connect(port).expect("the port listens");
    rig.turn();
    let stream = Stream::new(&server.transport());
    rig.turn();
    (hold(stream), wire)
}

#[test]
fn a_cancelled_task_reads_no_more() {
    for mut rig in Rig::both() {
        let (stream, wire) = connected(&mut rig);
        let log = Rc::new(RefCell::new(Vec::new()));
        let (noted, mut reads) = (log.clone(), stream);
        let task = rig.reactor.spawn(async move {
            let n = reads.read(&mut [0; 100]).await?;
            noted.borrow_mut().push(n);
            Ok(())
        });
        rig.turn();
        task.cancel();
        wire.push(b"late");
        rig.turn();
        assert_eq!(*log.borrow(), [0_usize; 0]);
    }
}
