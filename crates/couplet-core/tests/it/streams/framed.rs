//! Messages of a stream, split by the framers of protocols.

use std::io::ErrorKind;
use std::pin::pin;

use couplet::protocols::{IntReceiver, LineReceiver, NetstringReceiver};
use couplet::stream::Framed;
use couplet::testing::Cut;
use couplet::{Result, Stream};
use futures_util::StreamExt;

use super::{both_connected, connected, finish, poll_once, start};
use crate::secure::Rig;

#[test]
fn messages_come_whole_however_they_are_cut_and_the_end_follows() {
    type Begin = fn(Stream) -> Framed;
    let kinds: [(&str, Begin, &[u8]); 3] = [
        ("lines", |stream| stream.framed(LineReceiver::new), b"one\r\n\r\nthree\r\ncut"),
        ("netstrings", |stream| stream.framed(NetstringReceiver::new), b"3:one,0:,5:three,3:c"),
        (
            "strings",
            |stream| stream.framed(IntReceiver::<u8, _>::new),
            b"\x03one\x00\x05three\x03c",
        ),
    ];
    let cuts = [Cut::Whole, Cut::Most(1), Cut::Random(5)];
    let cases = cuts.into_iter().flat_map(|cut| kinds.map(|kind| (cut, kind)));
    for ((cut, (kind, begin, bytes)), mut rig) in Rig::each(cases) {
        rig.network.set_cut(cut);
        let (stream, wire) = connected(&mut rig);
        let mut messages = begin(stream);
        wire.push(bytes);
        wire.fin();
        let seen = start(&mut rig, async move {
            let mut seen = Vec::new();
            while let Some(message) = messages.next().await? {
                seen.push(message);
            }
            assert_eq!(messages.next().await?, None, "it stays the end");
            Ok(seen)
        });
        let seen = seen.take().expect("all of it");
        assert_eq!(seen, [&b"one"[..], b"", b"three"], "{kind} {cut:?}");
    }
}

#[test]
fn a_message_that_the_framer_refuses_is_an_error_behind_those_before_it() {
    for (mut rig, stream, wire) in both_connected() {
        let mut messages = stream.framed(NetstringReceiver::new);
        wire.push(b"3:one,x:two,");
        let seen = start(&mut rig, async move {
            let first = messages.next().await?;
            let error = messages.next().await.expect_err("that is no netstring");
            assert_eq!(messages.next().await?, None, "nothing follows");
            Ok((first, error.kind()))
        });
        assert_eq!(seen.take().expect("both"), (Some(b"one".to_vec()), ErrorKind::InvalidData));
        rig.close(&wire);
        assert!(rig.l.snapshot().connections.is_empty());
    }
}

#[test]
fn messages_that_arrived_come_before_the_error_of_a_lost_connection() {
    for (mut rig, stream, wire) in both_connected() {
        let mut messages = stream.framed(LineReceiver::new);
        rig.push(&wire, b"one\r\ntwo\r\ncut");
        rig.reset(&wire);
        let (whole, errors) = finish(&mut rig, async move {
            let whole = [messages.next().await?, messages.next().await?];
            let errors = [messages.next().await, messages.next().await];
            Ok((whole, errors.map(|ended| ended.expect_err("it is lost").kind())))
        });
        assert_eq!(whole, [Some(b"one".to_vec()), Some(b"two".to_vec())]);
        assert_eq!(errors, [ErrorKind::ConnectionReset; 2]);
    }
}

#[test]
fn a_stream_whose_messages_are_not_taken_holds_the_peer_back() {
    for mut rig in Rig::both() {
        rig.network.set_capacity(5000);
        let (stream, wire) = connected(&mut rig);
        let mut messages = stream.framed(LineReceiver::new);
        rig.push(&wire, &b"a line\r\n".repeat(100));
        let messages = finish(&mut rig, async move {
            messages.next().await?;
            Ok(messages)
        });
        let mut pushed = 0;
        while let n @ 1.. = rig.push(&wire, b"a line\r\n") {
            pushed += n;
        }
        // The messages of one read, another read, and the buffers of the network.
        assert!(pushed <= 4 * 5000, "{pushed}");
        drop(messages);
    }
}

#[test]
fn a_next_that_is_dropped_keeps_its_bytes_and_it_is_a_stream_of_futures() {
    for (mut rig, stream, wire) in both_connected() {
        let mut messages = stream.framed(LineReceiver::new);
        for piece in [&b"a"[..], b"b", b"c\r\nde"] {
            assert!(poll_once(pin!(messages.next())).is_pending());
            rig.push(&wire, piece);
        }
        wire.push(b"f\r\n");
        rig.fin(&wire);
        let seen = finish(&mut rig, async move {
            let all: Vec<_> = StreamExt::collect(messages).await;
            let all: Vec<_> = all.into_iter().collect::<std::io::Result<_>>()?;
            Ok(all)
        });
        assert_eq!(seen, [b"abc", b"def"]);
    }
}

#[test]
fn once_closing_has_begun_the_end_of_the_stream_is_no_error() {
    for (mut rig, stream, wire) in both_connected() {
        let mut messages = stream.framed(LineReceiver::new);
        wire.push(b"a\r\n");
        rig.fin(&wire);
        messages.stream().transport().lose_connection();
        rig.turn();
        // A close discards further input.
        let seen = finish(&mut rig, async move { Ok(messages.next().await?) });
        assert_eq!(seen, None);
    }
}

#[test]
fn answers_go_through_the_stream_underneath() {
    for mut rig in Rig::both() {
        let port = super::serve(&rig, async |stream| -> Result<()> {
            let mut lines = stream.framed(LineReceiver::new);
            while let Some(line) = lines.next().await? {
                lines.stream().write_all([&line[..], b"!\r\n"].concat()).await?;
            }
            Ok(())
        });
        let wire = rig.network.connect(port).expect("the port listens");
        wire.push(b"hello\r\nbye\r\n");
        rig.fin(&wire);
        assert_eq!(wire.take(), b"hello!\r\nbye!\r\n");
        assert!(wire.saw_fin());
    }
}
