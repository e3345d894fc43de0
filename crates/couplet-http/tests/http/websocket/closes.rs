//! How WebSockets end.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::http::HttpExt;
use couplet::http::websocket::{WebSocket, WebSocketError, WebSocketOptions, code};
use couplet::reactor::Drain;
use couplet::testing::{Manner, Memory};
use couplet::{Failure, Loop, LoopOptions, Reactor, Result, Stream};

use super::kit::*;
use crate::logged::logged;
use crate::needed::{Folder, SelfSigned};

/// How a WebSocket ended at one end: the number of messages, the close code, the error.
type Seen = Rc<RefCell<Option<(usize, Option<u16>, Option<String>)>>>;

/// Receives to the end, and records how it ended.
async fn to_the_end(mut socket: WebSocket, seen: &Seen) -> Result<()> {
    let (mut error, mut count) = (None, 0);
    while let Some(message) = socket.recv().await {
        match message {
            Ok(_) => count += 1,
            Err(wrong) => error = Some(wrong.to_string()),
        }
    }
    *seen.borrow_mut() = Some((count, socket.peer_close().map(|close| close.code), error));
    Ok(())
}

/// Runs a program with a server that receives to the end.
fn beside_receiver(program: impl AsyncFnOnce(Reactor, Seen) -> Result<()> + 'static) {
    let (seen, noted) = twice(Seen::default());
    let handle = async move |socket| to_the_end(socket, &noted).await;
    beside(WebSocketOptions::default(), handle, async move |reactor| program(reactor, seen).await);
}

#[test]
fn a_client_closes_and_the_server_ends_the_connection() {
    beside_receiver(async |reactor, seen| {
        let begun = reactor.now();
        let mut socket = reactor.connect_websocket(URL).await?;
        socket.close(4000, "enough").await?;
        assert_eq!(
            socket.peer_close().map(|close| close.to_string()),
            Some("4000 (enough)".into())
        );
        assert_eq!(reactor.now(), begun);
        assert_eq!(seen.take(), Some((0, Some(4000), None)));
        socket.close(code::NORMAL, "").await?;
        Ok(())
    });
}

#[test]
fn a_server_that_closes_receives_messages_before_the_answer() {
    let (seen, noted) = twice(Seen::default());
    let handle = async move |mut socket: WebSocket| {
        socket.begin_close(code::TRY_AGAIN_LATER, "busy")?;
        assert!(matches!(socket.send("a").await, Err(WebSocketError::Closed)));
        to_the_end(socket, &noted).await
    };
    beside(WebSocketOptions::default(), handle, async move |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        raw.write(masked(FIN | TEXT, "one").repeat(3)).await?;
        assert_eq!(raw.frame().await?, Some(Frame::of(FIN | CLOSE, close(1013, "busy"))));
        raw.write([masked(FIN | PING, "p"), masked(FIN | CLOSE, close(1013, ""))].concat()).await?;
        assert_eq!(raw.frames().await?, []);
        reactor.sleep(secs(1)).await?;
        assert_eq!(seen.take(), Some((3, Some(1013), None)));
        Ok(())
    });
}

#[test]
fn both_ends_may_close_at_once() {
    let handle = async |mut socket: WebSocket| {
        socket.close(code::NORMAL, "server").await?;
        Ok(())
    };
    beside(WebSocketOptions::default(), handle, async |reactor| {
        let mut socket = reactor.connect_websocket(URL).await?;
        socket.close(code::NORMAL, "client").await?;
        assert_eq!(socket.peer_close().map(|close| &*close.reason), Some("server"));
        Ok(())
    });
}

#[test]
fn a_close_of_the_client_is_answered_with_its_code_and_nothing_follows_it() {
    let with_more = [masked(FIN | CLOSE, close(1000, "")), masked(FIN | TEXT, "more")].concat();
    for (case, sent, payload, seen_code) in [
        ("without a code", masked(FIN | CLOSE, ""), vec![], code::NO_STATUS),
        ("before a message", with_more, close(1000, ""), 1000),
    ] {
        beside_receiver(async move |reactor, seen| {
            let mut raw = Raw::connect(&reactor).await?;
            raw.write(sent).await?;
            assert_eq!(raw.frames().await?, [Frame::of(FIN | CLOSE, payload)], "{case}");
            assert_eq!(seen.take(), Some((0, Some(seen_code), None)), "{case}");
            Ok(())
        });
    }
}

#[test]
fn an_end_without_a_close_is_an_error() {
    beside_receiver(async |reactor, seen| {
        let mut raw = Raw::connect(&reactor).await?;
        raw.write(&masked(FIN | TEXT, "cut off")[..9]).await?;
        raw.stream.shutdown().await?;
        assert_eq!(raw.frames().await?, []);
        let (_, close, error) = seen.take().expect("it is over");
        assert!(close.is_none() && error.is_some_and(|error| error.contains("without a close")));
        // So is a reset.
        let raw = Raw::connect(&reactor).await?;
        raw.stream.abort();
        reactor.sleep(secs(1)).await?;
        let (_, close, error) = seen.take().expect("it is over");
        assert!(close.is_none() && error.is_some_and(|error| error.contains("was lost")));
        Ok(())
    });
}

/// The close code that a client gets from a handler.
fn code_of(handle: impl AsyncFn(WebSocket) -> Result<()> + 'static) -> Option<u16> {
    beside(WebSocketOptions::default(), handle, async move |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        raw.write(masked(FIN | TEXT, "go")).await?;
        let close = raw.frame().await?.expect("a close");
        raw.write(masked(FIN | CLOSE, &close.payload)).await?;
        assert_eq!(raw.frames().await?, []);
        Ok(close.code())
    })
}

#[test]
fn the_close_code_depends_on_the_end_of_the_handler() {
    assert_eq!(code_of(async |_| Ok(())), Some(1000));
    assert_eq!(code_of(async |_| Err(Failure::msg("no database"))), Some(1011));
    let panics = async |mut socket: WebSocket| {
        let message = socket.recv().await.transpose()?;
        panic!("as it was asked to by {message:?}")
    };
    assert_eq!(code_of(panics), Some(1011));
    let moves = async |socket: WebSocket| {
        let reactor = socket.transport().reactor().clone();
        reactor.call_later(secs(1), move || drop(socket));
        Ok(())
    };
    assert_eq!(code_of(moves), Some(1001));
    let panics_elsewhere = async |mut socket: WebSocket| {
        let reactor = socket.transport().reactor().clone();
        let panics = async move {
            let message = socket.recv().await.transpose()?;
            panic!("as it was asked to by {message:?}")
        };
        let ended: Result<()> = reactor.spawn(panics).await;
        ended.or(Ok(()))
    };
    assert_eq!(code_of(panics_elsewhere), Some(1011));
}

#[test]
fn c44_the_error_of_a_handler_is_logged_unless_its_websocket_failed() {
    let (_, lines) = logged(|| code_of(async |_| Err(Failure::msg("no database"))));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.contains("message=a WebSocket handler failed"), "{line}");
    assert!(line.contains("failure=no database"), "{line}");
    let panics = async |mut socket: WebSocket| {
        let message = socket.recv().await.transpose()?;
        panic!("as it was asked to by {message:?}")
    };
    let (_, lines) = logged(|| code_of(panics));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.contains("message=a WebSocket handler panicked"), "{line}");
    assert!(line.contains("panic=as it was asked to by Some(Text(\"go\"))"), "{line}");
    let ((), lines) = logged(|| {
        let handle = async |mut socket: WebSocket| loop {
            socket.recv().await.ok_or(WebSocketError::Closed)??;
        };
        beside(WebSocketOptions::default(), handle, async |reactor| {
            let raw = Raw::connect(&reactor).await?;
            raw.stream.abort();
            let mut raw = Raw::connect(&reactor).await?;
            raw.write(masked(FIN | TEXT, "\u{fffd}").split_last().expect("a byte").1).await?;
            raw.stream.shutdown().await?;
            raw.frames().await?;
            Ok(())
        });
    });
    assert_eq!(lines, [""; 0]);
}

#[test]
fn a_close_with_a_code_or_a_reason_that_cant_be_sent_does_nothing() {
    beside(WebSocketOptions::default(), echo, async |reactor| {
        let mut socket = reactor.connect_websocket(URL).await?;
        for (code, reason) in [(0, ""), (999, ""), (1004, ""), (1005, ""), (1006, ""), (1015, "")]
            .into_iter()
            .chain([(2999, ""), (5000, ""), (1000, "x".repeat(124).leak() as &str)])
        {
            let error = socket.close(code, reason).await.expect_err("it can't be sent");
            assert!(matches!(error, WebSocketError::Invalid(_)), "{code}: {error}");
        }
        assert!(matches!(socket.ping(vec![0; 126]).await, Err(WebSocketError::Invalid(_))));
        socket.ping(vec![0; 125]).await?;
        socket.send("still open").await?;
        assert_eq!(socket.recv().await.transpose()?, Some("still open".into()));
        socket.close(1000, &"x".repeat(123)).await?;
        Ok(())
    });
}

#[test]
fn c105b_a_drain_asks_idle_sockets_over_tls_and_waits_for_their_answer() {
    let folder = Folder::new();
    let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
    run(async move |reactor| {
        let at = format!("tls:0:interface=127.0.0.1:cert={file}");
        let port = serve(&reactor, &at, WebSocketOptions::default(), echo)?;
        let number = port.host().port().expect("a TCP port");
        let to = format!("tls:127.0.0.1:{number}:ca={file}:servername=localhost:alpn=http/1.1");
        let mut idle = Raw::new(reactor.connect_stream(&*to).await?);
        let mut silent = Raw::new(reactor.connect_stream(&*to).await?);
        for raw in [&mut idle, &mut silent] {
            raw.write(HELLO).await?;
            assert!(raw.head().await?.starts_with("HTTP/1.1 101 "));
        }
        reactor.sleep(secs(20)).await?;
        let began = reactor.now();
        let drained = port.drain(secs(60));
        assert_eq!(idle.frame().await?, Some(Frame::of(FIN | CLOSE, close(1001, "going away"))));
        idle.write(masked(FIN | CLOSE, close(1001, ""))).await?;
        assert_eq!((idle.frames().await?, reactor.now()), (vec![], began));
        drop(idle);
        let drained = drained.await?;
        assert_eq!((drained.finished, drained.closed + drained.aborted), (2, 0));
        drop(silent);
        Ok(())
    });
}

#[test]
fn c105b_a_peer_that_ignores_our_close_holds_a_drain_for_its_patience() {
    run(async move |reactor| {
        let handle = async |mut socket: WebSocket| {
            while let Some(message) = socket.recv().await.transpose()? {
                // One of them starts its close before the drain begins.
                if message == "close".into() {
                    let _ = socket.close(1000, "").await;
                }
            }
            Ok(())
        };
        let options = WebSocketOptions::default().close_timeout(secs(40));
        let port = serve(&reactor, AT, options, handle)?;
        let (idle, mut closing) = (Raw::connect(&reactor).await?, Raw::connect(&reactor).await?);
        closing.write(masked(FIN | TEXT, "close")).await?;
        let (timer, mut talking) = (reactor.clone(), Raw::connect(&reactor).await?);
        let talk = async move {
            while talking.write(masked(FIN | TEXT, "still here")).await.is_ok() {
                timer.sleep(secs(1)).await?;
            }
            Ok(())
        };
        let talked = reactor.spawn(talk);
        reactor.sleep(secs(1)).await?;
        let began = reactor.now();
        let drained = port.drain(Drain::within(secs(60)).patience(secs(3))).await?;
        assert_eq!((drained.finished, drained.closed + drained.aborted), (3, 0));
        assert_eq!(reactor.now() - began, secs(3));
        talked.await?;
        drop((idle, closing));
        Ok(())
    });
}

#[test]
fn a_drain_sends_1001_and_receives_messages_before_the_answer() {
    let (seen, noted) = twice(Seen::default());
    run(async move |reactor| {
        let handle = async move |socket| to_the_end(socket, &noted).await;
        let port = serve(&reactor, AT, WebSocketOptions::default(), handle)?;
        let mut raw = Raw::connect(&reactor).await?;
        let mut client = reactor.connect_websocket(URL).await?;
        reactor.sleep(secs(1)).await?;
        let drained = port.drain(Drain::within(secs(60)).patience(secs(5)));
        let began = reactor.now();
        assert_eq!(raw.frame().await?, Some(Frame::of(FIN | CLOSE, close(1001, "going away"))));
        assert!(client.recv().await.is_none());
        assert_eq!(client.peer_close().map(|close| close.code), Some(1001));
        raw.write(masked(FIN | TEXT, "the last")).await?;
        reactor.sleep(secs(3)).await?;
        raw.write(masked(FIN | CLOSE, close(1001, ""))).await?;
        assert_eq!(raw.frames().await?, []);
        drop((raw, client));
        let drained = drained.await?;
        assert_eq!((drained.finished, drained.closed + drained.aborted), (2, 0));
        assert_eq!(reactor.now() - began, secs(3));
        assert_eq!(seen.take(), Some((1, Some(1001), None)));
        Ok(())
    });
}

#[test]
fn c31_a_stop_sends_1001_without_waiting() {
    let (driver, network) = Memory::new(Manner::Readiness, 0);
    let mut l = Loop::with_driver(driver, LoopOptions::default());
    let reactor = l.reactor();
    // Again, in the next run of the loop. One handler receives, the other waits for something else.
    for _ in 0..2 {
        let port = serve(&reactor, AT, WebSocketOptions::default(), async |mut socket| {
            if socket.recv().await.transpose()?.is_some_and(|message| message == "sleep".into()) {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        let to = port.expect("a free port").host().socket_addr().expect("TCP");
        let wires =
            [network.connect(to), network.connect(to)].map(|wire| wire.expect("it listens"));
        for wire in &wires {
            wire.push(HELLO.as_bytes());
        }
        let opened = reactor.sleep(secs(1));
        l.run_until(opened).expect("they open");
        wires[1].push(&masked(FIN | TEXT, "sleep"));
        let asleep = reactor.sleep(secs(1));
        l.run_until(asleep).expect("it sleeps");
        let (began, stopping) = (network.elapsed(), reactor.clone());
        l.run(|_| {
            stopping.stop();
            Ok(())
        })
        .expect("the run ends");
        assert_eq!(network.elapsed(), began);
        let close = plain(FIN | CLOSE, close(1001, "going away"));
        assert!(wires[0].take().ends_with(&close) && wires[0].saw_fin());
        assert!(wires[1].take().ends_with(b"\r\n\r\n") && wires[1].saw_fin());
    }
}

#[test]
fn a_websocket_that_is_dropped_while_its_output_is_full_still_closes() {
    let (last, seen) = twice(Rc::new(RefCell::new(None)));
    let server = async move |stream: Stream| {
        let reactor = stream.transport().reactor().clone();
        let mut raw = raw_server(stream).await?;
        reactor.sleep(secs(20)).await?;
        *seen.borrow_mut() = raw.frames().await?.pop();
        Ok(())
    };
    scripted(server, async move |reactor| {
        let mut socket = reactor.connect_websocket(URL).await?;
        let begun = reactor.now();
        let mut is_full = false;
        while !is_full {
            let sending = async { Ok(socket.send(vec![b'x'; 10_000]).await?) };
            is_full = reactor.timeout(secs(1), sending).await.is_err();
        }
        assert!(reactor.now() - begun < secs(10));
        drop(socket);
        reactor.sleep(secs(60)).await?;
        assert_eq!(last.take().and_then(|frame| frame.code()), Some(code::GOING_AWAY));
        Ok(())
    });
}
