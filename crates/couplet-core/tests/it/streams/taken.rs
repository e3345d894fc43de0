//! Streams in unusual states: after a dropped flush, on a connection that ends before the stream
//! takes it over, and without a loop.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;

use couplet::{Stream, Transport};

use super::{both_connected, connected, hold, poll_once, start, with};
use crate::secure::{End, Rig};

#[test]
fn a_flush_after_a_dropped_one_waits_for_bytes_written_since() {
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
fn a_write_after_a_dropped_one_waits_for_bytes_written_since() {
    for mut rig in Rig::both() {
        rig.network.set_capacity(1000);
        let (mut stream, wire) = connected(&mut rig);
        stream.transport().set_write_marks(1000, 2000);
        let mut taken = 0;
        for round in 1..=3 {
            stream.transport().write(vec![round; 5000]);
            assert!(poll_once(pin!(stream.write_bytes("x"))).is_pending(), "it is full: {round}");
            while taken < usize::from(round) * 5000 {
                taken += wire.take().len();
                rig.turn();
            }
        }
        assert!(poll_once(pin!(stream.write_bytes("last"))).is_ready());
        rig.turn();
        assert_eq!(wire.take(), b"last", "the dropped ones have written nothing");
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
    for ((before, after), mut rig) in Rig::each(before.into_iter().zip(after)) {
        let log = Rc::new(RefCell::new(Vec::new()));
        let noted = log.clone();
        let server = End::default().on("made", move |transport| {
            before(transport);
            reading(transport, &noted);
            after(transport);
        });
        let wire = rig.wire(&server);
        rig.fin(&wire);
        assert_eq!(log.borrow().len(), 1, "it does not wait for ever");
    }
}

#[test]
fn a_stream_of_a_dropped_loop_fails() {
    for (rig, mut stream, _wire) in both_connected() {
        assert!(poll_once(pin!(stream.read(&mut [0]))).is_pending());
        drop(rig);
        assert!(poll_once(pin!(stream.read(&mut [0]))).is_ready());
        assert!(poll_once(pin!(stream.close())).is_ready());
    }
}

#[test]
fn a_flush_after_an_abort_fails() {
    for (mut rig, mut stream, _wire) in both_connected() {
        let flush = start(&mut rig, async move {
            stream.write_all("lost").await?;
            stream.transport().abort_connection();
            Ok(stream.flush().await?)
        });
        assert!(flush.take().is_err());
    }
}

#[test]
fn shutdown_succeeds_if_our_stream_has_ended_before() {
    for mut rig in Rig::both() {
        let server = End::aware().on("made", Transport::lose_write_connection);
        let wire = rig.wire(&server);
        let held = hold(Stream::new(&server.transport()));
        rig.turn();
        let done = with(&mut rig, &held, async |stream| Ok(stream.shutdown().await?));
        assert!(wire.saw_fin());
        assert!(done.take().is_ok());
    }
}
