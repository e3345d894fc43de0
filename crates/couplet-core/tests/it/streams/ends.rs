//! FIN, reset, drop, panics: how a stream ends.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::layers::tls::{ServerTls, ServerTlsOptions};
use couplet::protocols::LineReceiver;
use couplet::stream::copy_bidirectional;
use couplet::testing::Wire;
use couplet::transport::Timeout;
use couplet::{ConnectionLost, Failure, Reason, Result, Stream, Transport};
use futures_util::FutureExt;

use super::{both_connected, connected, finish, serve, start};
use crate::logged::logged;
use crate::secure::{NAME, Rig};
use crate::suite::kit::LOOPBACK;
use couplet_testkit_loops::authority::Authority;

#[test]
fn the_peers_fin_ends_reading_and_nothing_else() {
    for (mut rig, mut stream, wire) in both_connected() {
        wire.push(b"last");
        wire.fin();
        let ended = start(&mut rig, async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all, 100).await?;
            stream.write_all("answer").await?;
            stream.flush().await?;
            assert_eq!(stream.read(&mut [0]).await?, 0, "it stays the end");
            stream.close().await?;
            Ok(all)
        });
        assert_eq!(ended.take().expect("a clean end"), b"last");
        assert_eq!(wire.take(), b"answer");
        assert!(wire.saw_fin());
    }
}

#[test]
fn shutdown_ends_our_stream_and_reading_continues() {
    for (mut rig, mut stream, wire) in both_connected() {
        let talk = start(&mut rig, async move {
            stream.write_all("question").await?;
            stream.shutdown().await?;
            let error = stream.write_all("more").await.expect_err("our stream has ended");
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            let line = stream.read_line().await?;
            stream.close().await?;
            Ok(line)
        });
        assert!(talk.is_pending());
        assert_eq!(wire.take(), b"question");
        assert!(wire.saw_fin());
        wire.push(b"answer\n");
        rig.fin(&wire);
        assert_eq!(talk.take().expect("an answer").as_deref(), Some(&b"answer"[..]));
    }
}

#[test]
fn c105a_a_drain_wakes_a_stream_that_waits_for_it() {
    for mut rig in Rig::both() {
        let port = serve(&rig, async |mut stream| {
            stream.draining().await;
            stream.write_all("good-bye").await?;
            stream.close().await?;
            Ok(())
        });
        let wire = rig.wire_to(&port);
        assert!(wire.take().is_empty());
        let drained = rig.reactor.drain(Duration::from_secs(10));
        rig.turn();
        assert_eq!(wire.take(), b"good-bye");
        rig.close(&wire);
        assert_eq!(couplet::testing::success_of(drained).finished, 1);
    }
}

#[test]
fn c105a_every_wait_for_a_drain_ends_with_the_drain_or_the_connection() {
    for (is_lost, mut rig) in Rig::each([false, true]) {
        let ended = Rc::new(Cell::new(0));
        let counted = ended.clone();
        let port = serve(&rig, async move |stream: Stream| {
            let reactor = stream.transport().reactor().clone();
            for waits in [stream.draining(), stream.draining()] {
                let counted = counted.clone();
                let task = async move {
                    waits.await;
                    counted.set(counted.get() + 1);
                    Ok(())
                };
                reactor.spawn(task).detach();
            }
            stream.draining().await;
            // From then on there is nothing to wait for.
            stream.draining().await;
            counted.set(counted.get() + 1);
            Ok(stream.close().await?)
        });
        let wire = rig.wire_to(&port);
        assert_eq!(ended.get(), 0);
        if is_lost {
            rig.reset(&wire);
        } else {
            rig.reactor.drain(Duration::from_secs(10)).map(drop).detach();
            rig.turn();
        }
        assert_eq!(ended.get(), 3, "lost: {is_lost}");
        rig.close(&wire);
    }
}

#[test]
fn every_error_of_a_lost_stream_names_the_cause() {
    type End = fn(&Transport, &Wire);
    let ends: [(ErrorKind, &str, End); 4] = [
        (ErrorKind::ConnectionReset, "connection lost", |_, wire| wire.reset()),
        (ErrorKind::ConnectionAborted, "aborted", |transport, _| transport.abort_connection()),
        (ErrorKind::TimedOut, "timeout", |transport, _| {
            transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(1)));
        }),
        (ErrorKind::Other, "by wish", |transport, _| transport.fail(Failure::msg("by wish"))),
    ];
    for (kind, text, end) in ends {
        for (mut rig, mut stream, wire) in both_connected() {
            let transport = stream.transport().clone();
            let failing = start(&mut rig, async move {
                let errors = [
                    stream.read(&mut [0]).await.map(drop),
                    stream.write_all("x").await,
                    stream.write_bytes("x").await,
                    stream.flush().await,
                    stream.shutdown().await,
                    stream.read_line().await.map(drop),
                    stream.close().await,
                ];
                Ok(errors.map(|ended| ended.expect_err("it is lost")))
            });
            end(&transport, &wire);
            rig.turn();
            rig.advance(Duration::from_secs(31));
            for error in failing.take().expect("all of them fail") {
                assert_eq!(error.kind(), kind, "{error}");
                assert!(error.to_string().contains(text), "{error}");
            }
        }
    }
}

#[test]
fn a_reset_fails_reads_after_the_bytes_that_arrived() {
    for (mut rig, mut stream, wire) in both_connected() {
        rig.push(&wire, b"arrived");
        rig.reset(&wire);
        finish(&mut rig, async move {
            let mut buffer = [0; 100];
            assert_eq!(stream.read(&mut buffer).await?, 7);
            let error = stream.read(&mut buffer).await.expect_err("it is lost");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let source = error.get_ref().and_then(|source| source.downcast_ref());
            assert!(matches!(source, Some(ConnectionLost(Reason::Lost(_)))), "{error}");
            assert!(stream.close().await.is_err(), "that was no clean end");
            Ok(())
        });
    }
}

/// More than all buffers hold.
const MUCH: usize = 8 * 1024 * 1024;

const WAITS: &str = "read read_buf read_exact read_to_end read_until read_line lines messages \
                     write_all write_bytes flush shutdown close draining half-draining start_tls \
                     copy_bidirectional";

/// Waits with the stream, which is connected and whose peer reads nothing.
async fn wait(how: &str, mut stream: Stream) {
    if ["write_bytes", "flush", "shutdown"].contains(&how) {
        stream.write_bytes(vec![0; MUCH]).await.expect("the buffer is empty");
    }
    match how {
        "read" => drop(stream.read(&mut [0]).await),
        "read_buf" => drop(stream.read_buf(&mut vec![]).await),
        "read_exact" => drop(stream.read_exact(&mut [0]).await),
        "read_to_end" => drop(stream.read_to_end(&mut vec![], 9).await),
        "read_until" => drop(stream.read_until(0, 9).await),
        "read_line" => drop(stream.read_line().await),
        "lines" => drop(stream.lines().next().await),
        "messages" => drop(stream.framed(LineReceiver::new).next().await),
        "write_all" => drop(stream.write_all(vec![0; MUCH]).await),
        "write_bytes" => drop(stream.write_bytes("more").await),
        "flush" => drop(stream.flush().await),
        "shutdown" => drop(stream.shutdown().await),
        "close" => drop(stream.close().await),
        "draining" => stream.draining().await,
        "half-draining" => stream.split().0.draining().await,
        "start_tls" => {
            let identity = Authority::new().identity(NAME);
            let tls = ServerTls::new(&ServerTlsOptions::new(identity)).expect("it works");
            drop(stream.start_tls(&tls).await);
        }
        "copy_bidirectional" => {
            let reactor = stream.transport().reactor().clone();
            let other = reactor.connect_stream(format!("tcp:{OTHER}")).await.expect("it listens");
            drop(copy_bidirectional(stream, other).await);
        }
        _ => panic!("{how}"),
    }
}

/// A port of the test.
const OTHER: SocketAddr = SocketAddr::new(LOOPBACK.ip(), 7777);

#[test]
fn every_wait_of_a_stream_ends_with_its_connection() {
    let ends: [fn(&Transport, &Wire); 3] = [
        |_, wire| wire.reset(),
        |transport, _| transport.abort_connection(),
        |transport, _| transport.fail(Failure::msg("by wish")),
    ];
    for name in WAITS.split(' ') {
        for (at, end) in ends.iter().enumerate() {
            for (mut rig, stream, wire) in both_connected() {
                let other = rig.network.listen(OTHER, 1).expect("a free port");
                let transport = stream.transport().clone();
                let waiting = start(&mut rig, wait(name, stream).map(Ok));
                let other = rig.network.accept(other);
                assert!(waiting.is_pending(), "{name} has to wait");
                end(&transport, &wire);
                rig.turn();
                if let Some(other) = other {
                    rig.close(&other);
                }
                // After `fail` the output is still sent, for at most 30 s.
                rig.advance(Duration::from_secs(31));
                assert!(!waiting.is_pending(), "{name} waits on, at the end {at}");
            }
        }
    }
}

#[test]
fn a_stream_that_ends_early_fails_read_exact() {
    let [mut rig, _] = Rig::both();
    let (mut stream, wire) = connected(&mut rig);
    wire.push(b"ab");
    wire.fin();
    let kind = finish(&mut rig, async move {
        Ok(stream.read_exact(&mut [0; 3]).await.map_err(|error| error.kind()))
    });
    assert_eq!(kind, Err(ErrorKind::UnexpectedEof));
}

#[test]
fn a_dropped_stream_sends_written_bytes_and_closes() {
    for (mut rig, mut stream, wire) in both_connected() {
        finish(&mut rig, async move { Ok(stream.write_all("the last words").await?) });
        assert_eq!(wire.take(), b"the last words");
        assert!(wire.saw_fin());
        rig.close(&wire);
        assert!(rig.l.snapshot().connections.is_empty());
    }
}

#[test]
fn an_aborted_stream_resets() {
    for (mut rig, stream, wire) in both_connected() {
        stream.abort();
        rig.turn();
        assert!(wire.saw_reset());
    }
}

#[test]
fn the_connection_closes_with_its_second_half() {
    for (mut rig, stream, wire) in both_connected() {
        let (reads, mut writes) = stream.split();
        finish(&mut rig, async move { Ok(writes.write_all("done").await?) });
        assert_eq!(wire.take(), b"done");
        assert!(wire.saw_fin(), "the writing half has ended our stream");
        assert_eq!(rig.l.snapshot().connections.len(), 1);
        drop(reads);
        rig.close(&wire);
        assert!(rig.l.snapshot().connections.is_empty());
    }
    // The reading half goes first.
    for (mut rig, stream, wire) in both_connected() {
        let (reads, mut writes) = stream.split();
        drop(reads);
        rig.push(&wire, b"unread");
        let writes = finish(&mut rig, async move {
            writes.write_all("done").await?;
            Ok(writes)
        });
        assert_eq!(wire.take(), b"done");
        assert!(!wire.saw_fin(), "the writing half is there");
        drop(writes);
        rig.turn();
        assert!(wire.saw_fin());
        rig.close(&wire);
        assert!(rig.l.snapshot().connections.is_empty());
    }
}

#[test]
fn c44_a_handler_that_panics_or_fails_ends_only_its_own_connection() {
    for mut rig in Rig::both() {
        let port = serve(&rig, async |mut stream| -> Result<()> {
            stream.write_all("hello").await?;
            match stream.read_line().await?.as_deref() {
                Some(b"panic") => panic!("asked for"),
                Some(b"fail") => Err(std::io::Error::other("asked for"))?,
                _ => Ok(()),
            }
        });
        let other = rig.network.connect(port.clone()).expect("the port listens");
        for (line, resets) in [(&b"panic\n"[..], true), (b"fail\n", false)] {
            let wire = rig.network.connect(port.clone()).expect("the port listens");
            rig.turn();
            rig.push(&wire, line);
            assert_eq!(wire.saw_reset(), resets, "{line:?}");
            if !resets {
                assert_eq!(wire.take(), b"hello");
                assert!(wire.saw_fin());
            }
            rig.close(&wire);
        }
        assert_eq!(other.take(), b"hello");
        assert_eq!(rig.l.snapshot().connections.len(), 1, "the other one");
        rig.push(&other, b"bye\n");
        assert!(other.saw_fin());
    }
}

#[test]
fn c44_the_error_of_a_handler_is_logged_unless_its_stream_failed() {
    for mut rig in Rig::both() {
        let port = serve(&rig, async |mut stream| -> Result<()> {
            match stream.read_line().await?.as_deref() {
                Some(b"fail") => Err(Failure::msg("asked for")),
                _ => stream.read_exact(&mut [0; 10]).await.map_err(Into::into),
            }
        });
        let ((), lines) = logged(|| {
            for (line, resets) in [("go on\n", true), ("go on\n", false), ("fail\n", false)] {
                let wire = rig.network.connect(port.clone()).expect("the port listens");
                rig.push(&wire, line.as_bytes());
                if resets {
                    wire.reset();
                    rig.turn();
                    rig.turn();
                } else {
                    rig.close(&wire);
                }
            }
        });
        assert!(rig.l.snapshot().connections.is_empty());
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.contains("message=a handler failed"), "{line}");
        assert!(line.contains("failure=asked for"), "{line}");
    }
}

#[test]
fn a_connect_that_fails_or_is_cancelled_leaves_nothing() {
    let [mut rig, _] = Rig::both();
    let connecting = rig.reactor.connect_stream("tcp:127.0.0.1:9");
    let refused = start(&mut rig, async move { connecting.await.map(drop) });
    assert!(refused.take().is_err());
    let port = rig.network.listen(LOOPBACK, 1).expect("a free port");
    let seen = Rc::new(RefCell::new(false));
    let (note, connecting) = (seen.clone(), rig.reactor.connect_stream(port.to_string()));
    let canceller = connecting.canceller();
    connecting
        .add_both(move |result| {
            *note.borrow_mut() = result.is_err();
            Ok(())
        })
        .detach();
    canceller.cancel();
    rig.turn();
    assert!(*seen.borrow());
    assert!(rig.l.snapshot().connections.is_empty());
}
