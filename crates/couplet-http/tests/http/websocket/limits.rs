//! Limits and protocol violations: each is answered with the code of RFC 6455, 7.4.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::Stream;
use couplet::http::HttpExt;
use couplet::http::websocket::{WebSocket, WebSocketError, WebSocketOptions, WebSocketRequest};

use super::kit::*;

/// The server's answers to these frames, and its handler's error.
fn answered(options: WebSocketOptions, frames: Vec<u8>) -> (Vec<Frame>, Option<String>) {
    let (error, kept) = twice(Rc::new(RefCell::new(None)));
    let handle = async move |mut socket: WebSocket| {
        while let Some(message) = socket.recv().await {
            match message {
                Ok(message) => socket.send(message).await?,
                Err(error) => *kept.borrow_mut() = Some(error.to_string()),
            }
        }
        Ok(())
    };
    let answers = beside(options, handle, async move |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        let begun = reactor.now();
        raw.write(frames).await?;
        let answers = raw.frames().await?;
        assert_eq!(reactor.now(), begun, "it is answered and closed at once");
        Ok(answers)
    });
    (answers, error.take())
}

/// A client's answers to these frames of a server, and its error.
fn answered_by_client(frames: Vec<u8>) -> (Vec<Frame>, Option<WebSocketError>) {
    let (answers, got) = twice(Rc::new(RefCell::new(Vec::new())));
    let server = async move |stream: Stream| {
        let mut raw = raw_server(stream).await?;
        raw.write(&frames).await?;
        *got.borrow_mut() = raw.frames().await?;
        Ok(())
    };
    let error = scripted(server, async |reactor| {
        let mut socket = reactor.connect_websocket(URL).await?;
        let mut error = None;
        while let Some(message) = socket.recv().await {
            error = message.err();
        }
        drop(socket);
        reactor.sleep(secs(1)).await?;
        Ok(error)
    });
    (answers.take(), error)
}

fn codes(frames: &[Frame]) -> Vec<Option<u16>> {
    frames.iter().map(Frame::code).collect()
}

#[test]
fn protocol_violations_are_answered_with_1002() {
    let cases = [
        ("an unmasked frame", plain(FIN | TEXT, "a")),
        ("a reserved bit", masked(FIN | 0x40 | TEXT, "a")),
        ("a reserved opcode", masked(FIN | 3, "a")),
        ("a reserved control opcode", masked(FIN | 11, "a")),
        ("a fragmented ping", masked(PING, "a")),
        ("a ping of 126 bytes", masked(FIN | PING, [0; 126])),
        ("a continuation of nothing", masked(FIN | CONTINUATION, "a")),
        ("a message in a message", [masked(TEXT, "a"), masked(FIN | TEXT, "b")].concat()),
        ("a close of one byte", masked(FIN | CLOSE, "a")),
        ("a close with a code that none may send", masked(FIN | CLOSE, close(1005, ""))),
        ("a close with code 999", masked(FIN | CLOSE, close(999, ""))),
    ];
    for (what, frames) in cases {
        let (answers, error) = answered(WebSocketOptions::default(), frames);
        assert_eq!(codes(&answers), [Some(1002)], "{what}: {answers:?}");
        // The state machine answers an invalid code, and ends the conversation without an error.
        let is_close = what.starts_with("a close with");
        assert_eq!(error.is_some(), !is_close, "{what}: {error:?}");
    }
}

#[test]
fn a_masked_frame_of_a_server_is_answered_with_1002() {
    let (answers, error) = answered_by_client(masked(FIN | TEXT, "a"));
    assert_eq!(codes(&answers), [Some(1002)]);
    assert!(answers[0].is_masked);
    assert!(matches!(error, Some(WebSocketError::Protocol(_))), "{error:?}");
}

#[test]
fn invalid_utf8_is_answered_with_1007() {
    for frames in [
        masked(FIN | TEXT, b"\xff"),
        masked(FIN | TEXT, b"a\xc3"),
        masked(TEXT, b"a\xff"),
        [masked(TEXT, b"\xc3"), masked(FIN | CONTINUATION, b"a")].concat(),
        masked(FIN | CLOSE, b"\x03\xe8\xff"),
    ] {
        let (answers, error) = answered(WebSocketOptions::default(), frames);
        assert_eq!(codes(&answers), [Some(1007)]);
        assert!(error.is_some_and(|error| error.contains("not UTF-8")));
    }
}

/// RFC 6455, 8.1: the check does not wait for the whole frame.
#[test]
fn invalid_utf8_is_answered_before_the_rest_arrives() {
    let before = masked(FIN | TEXT, "fine");
    let begun = masked(FIN | TEXT, [&b"so far \xff"[..], &[b'x'; 9000]].concat());
    for cut in [6 + 8, 5000] {
        let frames = [&before[..], &begun[..8 + cut]].concat();
        let (answers, error) = answered(WebSocketOptions::default(), frames);
        assert_eq!(codes(&answers), [None, Some(1007)]);
        assert!(error.is_some_and(|error| error.contains("not UTF-8")));
    }
}

#[test]
fn a_message_past_the_limit_is_answered_with_1009() {
    let options = || WebSocketOptions::default().max_message(1000);
    let half = vec![b'x'; 500];
    let two = [masked(TEXT, &half), masked(FIN | CONTINUATION, &half)].concat();
    let (answers, error) = answered(options(), [two, masked(FIN | CLOSE, "")].concat());
    assert_eq!(codes(&answers), [None, None]);
    assert_eq!((answers[0].payload.len(), error), (1000, None));
    for frames in [
        masked(FIN | TEXT, [b'x'; 1001]),
        [masked(TEXT, &half), masked(CONTINUATION, &half), masked(CONTINUATION, "x")].concat(),
    ] {
        let (answers, error) = answered(options(), frames);
        assert_eq!(codes(&answers), [Some(1009)]);
        assert!(error.is_some_and(|error| error.contains("the limit of 1000")));
    }
}

#[test]
fn a_frame_past_the_limit_is_answered_before_it_comes() {
    let options = || WebSocketOptions::default().max_frame(1000);
    for (length, is_fine) in [(1000, true), (1001, false)] {
        let frames = [masked(TEXT, vec![b'x'; length]), masked(FIN | CONTINUATION, "")].concat();
        let (answers, _) = answered(options(), [frames, masked(FIN | CLOSE, "")].concat());
        assert_eq!(codes(&answers)[0] == Some(1009), !is_fine);
    }
    // Only the head of a frame, with a length beyond any memory.
    let head = [&[FIN | BINARY, 0xff][..], &[0x7f; 12]].concat();
    let (answers, error) = answered(WebSocketOptions::default(), head);
    assert_eq!(codes(&answers), [Some(1009)]);
    assert!(error.is_some_and(|error| error.contains("the limit of 16777216")));
}

#[test]
fn messages_before_a_violation_are_received() {
    let frames = [masked(FIN | TEXT, "a"), masked(FIN | TEXT, "b"), plain(FIN | TEXT, "c")];
    let (answers, error) = answered(WebSocketOptions::default(), frames.concat());
    assert_eq!(codes(&answers), [None, None, Some(1002)]);
    assert!(error.is_some());
}

#[test]
fn pings_that_are_never_taken_cost_no_memory() {
    let handle = async |mut socket: WebSocket| {
        while socket.recv().await.is_some() {}
        Ok(())
    };
    beside(WebSocketOptions::default(), handle, async |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        let pings = masked(FIN | PING, [b'p'; 125]).repeat(1000);
        // The server keeps reading, although the client reads none of its pongs.
        for _ in 0..100 {
            raw.write(&pings).await?;
            raw.stream.flush().await?;
            reactor.sleep(secs(1)).await?;
        }
        raw.write([masked(FIN | PING, "last"), masked(FIN | CLOSE, "")].concat()).await?;
        let frames = raw.frames().await?;
        let sent: usize = frames.iter().map(|frame| frame.payload.len() + 2).sum();
        assert!(sent < 4_000_000, "{sent}");
        let [.., last, close] = &frames[..] else { panic!("{} frames", frames.len()) };
        assert_eq!((last, close.first), (&Frame::of(FIN | PONG, "last"), FIN | CLOSE));
        Ok(())
    });
}

#[test]
fn a_pong_waits_until_the_output_has_room() {
    let handle = async |mut socket: WebSocket| {
        socket.send(vec![b'x'; 1_000_000]).await?;
        while socket.recv().await.is_some() {}
        Ok(())
    };
    beside(WebSocketOptions::default().ping_interval(None), handle, async |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        reactor.sleep(secs(1)).await?;
        raw.write(masked(FIN | PING, "still there?")).await?;
        raw.stream.flush().await?;
        // Longer than an idle WebSocket keeps its state machine.
        reactor.sleep(secs(60)).await?;
        let message = raw.frame().await?.expect("the message");
        assert_eq!(message.payload.len(), 1_000_000);
        assert_eq!(raw.frame().await?, Some(Frame::of(FIN | PONG, "still there?")));
        Ok(())
    });
}

#[test]
fn options_of_a_client_are_its_own() {
    let handle = async |mut socket: WebSocket| Ok(socket.send("x".repeat(11)).await?);
    beside(WebSocketOptions::default(), handle, async |reactor| {
        let options = WebSocketOptions::default().max_message(10);
        let request = WebSocketRequest::new(URL).options(options);
        let mut socket = reactor.connect_websocket(request).await?;
        let error = socket.recv().await.expect("an error").expect_err("it is too long");
        assert!(matches!(error, WebSocketError::TooBig { size: 11, limit: 10 }), "{error}");
        assert!(socket.recv().await.is_none());
        Ok(())
    });
}
