//! Futures dropped at an await point: every byte is in the stream, in the buffer or on the wire.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::{both_connected, connected, finish, poll_once, start};
use crate::secure::Rig;

#[test]
fn a_read_line_that_is_dropped_keeps_its_bytes() {
    for (mut rig, mut stream, wire) in both_connected() {
        for piece in [&b"ab"[..], b"cd", b"ef"] {
            rig.push(&wire, piece);
            assert!(poll_once(pin!(stream.read_line())).is_pending(), "it needs more");
        }
        wire.push(b"g\n");
        rig.fin(&wire);
        let line = finish(&mut rig, async move { Ok(stream.read_line().await?) });
        assert_eq!(line.as_deref(), Some(&b"abcdefg"[..]));
    }
}

#[test]
fn a_read_that_is_dropped_has_read_nothing() {
    for (mut rig, mut stream, wire) in both_connected() {
        assert!(poll_once(pin!(stream.read(&mut [0; 9]))).is_pending());
        let mut buffer = Vec::with_capacity(9);
        assert!(poll_once(pin!(stream.read_buf(&mut buffer))).is_pending());
        rig.push(&wire, b"all of it\n");
        let line = finish(&mut rig, async move { Ok(stream.read_line().await?) });
        assert_eq!(line.as_deref(), Some(&b"all of it"[..]));
    }
}

#[test]
fn a_read_exact_that_is_dropped_has_its_part_in_the_buffer() {
    let [mut rig, _] = Rig::both();
    let (mut stream, wire) = connected(&mut rig);
    rig.push(&wire, b"ab");
    let mut buffer = [0; 4];
    assert!(poll_once(pin!(stream.read_exact(&mut buffer))).is_pending());
    assert_eq!(&buffer, b"ab\0\0");
    rig.push(&wire, b"cd\n");
    let line = finish(&mut rig, async move { Ok(stream.read_line().await?) });
    assert_eq!(line.as_deref(), Some(&b"cd"[..]));
}

#[test]
fn a_write_that_is_dropped_has_written_a_part_in_order_or_nothing() {
    for mut rig in Rig::both() {
        rig.network.set_capacity(1000);
        let (mut stream, wire) = connected(&mut rig);
        let data: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        assert!(poll_once(pin!(stream.write_all(&data))).is_pending(), "it is past the mark");
        let part = stream.transport().buffered();
        assert!(part > 0 && part < data.len());
        // A write that does not begin writes nothing.
        assert!(poll_once(pin!(stream.write_bytes(vec![0; 10]))).is_pending());
        assert_eq!(stream.transport().buffered(), part);
        assert!(poll_once(pin!(stream.flush())).is_pending());
        for _ in 0..2 {
            assert!(poll_once(pin!(stream.shutdown())).is_pending(), "the FIN has not left");
            let refused = poll_once(pin!(stream.write_all("more")));
            assert!(matches!(refused, Poll::Ready(Err(_))), "our side has ended");
        }
        let mut taken = Vec::new();
        while !wire.saw_fin() || wire.waiting() > 0 {
            taken.append(&mut wire.take());
            rig.turn();
        }
        assert_eq!(taken, data[..part]);
        finish(&mut rig, async move { Ok(stream.shutdown().await?) });
    }
}

/// The waits have different wakers, as in `select` and `FuturesUnordered`.
#[test]
fn bytes_wake_the_wait_that_came_after_a_dropped_one() {
    for (mut rig, mut stream, wire) in both_connected() {
        let reading = start(&mut rig, async move {
            let mut buffer = [0; 9];
            for _ in 0..2 {
                assert_eq!(stream.read(&mut buffer).await?, 1);
            }
            {
                let mut dropped = pin!(stream.read(&mut buffer));
                let polled = poll_fn(|cx| Poll::Ready(dropped.as_mut().poll(cx))).await;
                assert!(polled.is_pending());
            }
            let line: Pin<Box<dyn Future<Output = std::io::Result<_>> + '_>> =
                Box::pin(stream.read_line());
            let mut lines = FuturesUnordered::from_iter([line]);
            Ok(lines.next().await.expect("there is one")?)
        });
        for piece in [&b"a"[..], b"b", b"line\n"] {
            assert!(reading.is_pending());
            rig.push(&wire, piece);
        }
        assert_eq!(reading.take().expect("a line").as_deref(), Some(&b"line"[..]));
    }
}

#[test]
fn a_close_that_is_dropped_closes() {
    for (mut rig, stream, wire) in both_connected() {
        assert!(poll_once(pin!(stream.close())).is_pending());
        rig.turn();
        assert!(wire.saw_fin());
    }
}
