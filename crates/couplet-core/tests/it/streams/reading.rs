//! Reads of bytes that have arrived, and of bytes that have not.

use std::io::ErrorKind;

use couplet::Result;
use couplet::stream::LONGEST_LINE;
use couplet::testing::Cut;

use super::{both_connected, connected, finish, hold, start, with};
use crate::secure::Rig;

#[test]
fn read_returns_arrived_bytes_or_waits_for_the_first() {
    for (mut rig, stream, wire) in both_connected() {
        let held = hold(stream);
        let mut reading = with(&mut rig, &held, async |stream| {
            let mut buffer = [0; 3];
            let n = stream.read(&mut buffer).await?;
            Ok(buffer[..n].to_vec())
        });
        assert!(reading.is_pending());
        rig.push(&wire, b"abcde");
        assert_eq!(reading.take().expect("bytes"), b"abc");
        reading = with(&mut rig, &held, async |stream| {
            let mut all = Vec::with_capacity(10);
            assert_eq!(stream.read(&mut []).await?, 0);
            stream.read_buf(&mut all).await?;
            Ok(all)
        });
        assert_eq!(reading.take().expect("bytes"), b"de");
    }
}

#[test]
fn lines_messages_and_the_rest_come_whole_however_they_are_cut() {
    for (cut, mut rig) in Rig::each([Cut::Whole, Cut::Most(1), Cut::Random(5)]) {
        let (mut stream, wire) = connected(&mut rig);
        rig.network.set_cut(cut);
        let reading = start(&mut rig, async move {
            let mut seen = vec![stream.read_line().await?.expect("a line")];
            let mut four = [0; 4];
            stream.read_exact(&mut four).await?;
            seen.push(four.to_vec());
            seen.push(stream.read_until(b';', 10).await?);
            while let Some(line) = stream.read_line().await? {
                seen.push(line);
            }
            Ok(seen)
        });
        wire.push(b"a line\r\nfourup to;\nno end");
        rig.fin(&wire);
        let seen = reading.take().expect("all of it");
        let whole = [&b"a line"[..], b"four", b"up to;", b"", b"no end"];
        assert_eq!(seen, whole, "{cut:?}");
    }
}

#[test]
fn read_to_end_stops_at_its_limit() {
    let cases = [(6, Some(6)), (100, Some(6)), (usize::MAX, Some(6)), (5, None)];
    for ((limit, expected), mut rig) in Rig::each(cases) {
        let (mut stream, wire) = connected(&mut rig);
        rig.network.set_cut(Cut::Most(4));
        wire.push(b"abcdef");
        wire.fin();
        let reading = start(&mut rig, async move {
            let mut bytes = b"> ".to_vec();
            let n = stream.read_to_end(&mut bytes, limit).await?;
            assert_eq!(bytes, b"> abcdef");
            Ok(n)
        });
        assert_eq!(reading.take().ok(), expected, "{limit}");
    }
}

#[test]
fn a_line_past_the_limit_is_refused_and_costs_no_memory() {
    for (mut rig, mut stream, wire) in both_connected() {
        let reading = start(&mut rig, async move {
            let error = stream.read_line().await.expect_err("it is too long");
            Ok((error.kind(), error.to_string(), stream))
        });
        let mut pushed = 0;
        while let n @ 1.. = rig.push(&wire, &[b'x'; 10_000]) {
            pushed += n;
            assert!(pushed < 1_000_000, "it takes no end of bytes");
        }
        let (kind, text, _stream) = reading.take().expect("an error");
        assert_eq!(kind, ErrorKind::InvalidData);
        assert_eq!(text, format!("cannot read a line of more than {} bytes", LONGEST_LINE + 2));
    }
}

#[test]
fn the_longest_line_passes_with_any_end_and_a_longer_one_is_refused() {
    for more in [0, 1] {
        for (end, mut rig) in Rig::each([&b"\n"[..], b"\r\n", b""]) {
            rig.network.set_capacity(2 * LONGEST_LINE);
            let (mut stream, wire) = connected(&mut rig);
            wire.push(&[&vec![b'x'; LONGEST_LINE + more], end].concat());
            wire.fin();
            let reading = start(&mut rig, async move {
                let line = stream.read_line().await.map_err(|error| error.kind());
                Ok(line.map(|line| line.map_or(0, |line| line.len())))
            });
            let expected = if more == 0 { Ok(LONGEST_LINE) } else { Err(ErrorKind::InvalidData) };
            assert_eq!(reading.take().expect("a result"), expected, "{more}, {end:?}");
        }
    }
}

#[test]
fn a_delimiter_counts_for_the_limit_and_refused_bytes_stay_unread() {
    for (mut rig, mut stream, wire) in both_connected() {
        rig.push(&wire, b"abcde;fg;");
        finish(&mut rig, async move {
            for limit in [5, 0, 5] {
                let error = stream.read_until(b';', limit).await.expect_err("it is longer");
                assert_eq!(error.kind(), ErrorKind::InvalidData);
                let text = format!("cannot read a line of more than {limit} bytes");
                assert_eq!(error.to_string(), text);
            }
            assert_eq!(stream.read_until(b';', 6).await?, b"abcde;");
            assert_eq!(stream.read_until(b';', 3).await?, b"fg;");
            Ok(())
        });
    }
}

#[test]
fn a_stream_that_is_not_read_holds_the_peer_back() {
    for mut rig in Rig::both() {
        rig.network.set_capacity(5000);
        let (mut held, wire) = connected(&mut rig);
        for round in 0..3 {
            let mut pushed = 0;
            while let n @ 1.. = rig.push(&wire, &[b'x'; 1000]) {
                pushed += n;
                // One read is held, and the buffers of the network are full.
                assert!(pushed <= 3 * 5000, "{pushed} in round {round}");
            }
            let mut stream = held;
            held = finish(&mut rig, async move {
                stream.read_exact(&mut vec![0; pushed]).await?;
                Ok(stream)
            });
        }
        assert_eq!(wire.push(b"more"), 4, "who reads again lets it go on");
    }
}

#[test]
fn an_echo_returns_a_megabyte_through_small_buffers() {
    for mut rig in Rig::both() {
        rig.network.set_capacity(3000);
        rig.network.set_cut(Cut::Random(700));
        let port = super::serve(&rig, async |mut stream| -> Result<()> {
            let mut buffer = vec![0; 4096];
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return Ok(stream.close().await?),
                    n => stream.write_all(&buffer[..n]).await?,
                }
            }
        });
        let connecting = rig.reactor.connect_stream(port.to_string());
        let task = start(&mut rig, async move {
            let (mut reads, mut writes) = connecting.await?.split();
            let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
            let expected = sent.clone();
            let writing = reads.transport().reactor().spawn(async move {
                writes.write_all(&sent).await?;
                Ok(writes.shutdown().await?)
            });
            let mut received = Vec::new();
            reads.read_to_end(&mut received, 2_000_000).await?;
            writing.await?;
            Ok(received == expected)
        });
        for _ in 0..200 {
            if !task.is_pending() {
                break;
            }
            rig.turn();
        }
        assert!(task.take().expect("it ends"), "what came back is what was sent");
    }
}

#[test]
fn lines_come_one_by_one_however_they_are_cut() {
    for (mut rig, mut stream, wire) in both_connected() {
        let reading = start(&mut rig, async move {
            let mut all = Vec::new();
            let mut lines = stream.lines();
            while let Some(line) = lines.next().await? {
                all.push(String::from_utf8(line)?);
            }
            Ok(all)
        });
        for byte in b"one\r\n\ntwo\nthree" {
            rig.push(&wire, &[*byte]);
        }
        rig.fin(&wire);
        assert_eq!(reading.take().expect("a clean end"), ["one", "", "two", "three"]);
    }
}
