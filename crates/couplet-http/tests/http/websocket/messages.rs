//! Messages, whole and in pieces.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use couplet::http::HttpExt;
use couplet::http::websocket::{Message, WebSocket, WebSocketError, WebSocketOptions, code};
use couplet::testing::every_split;
use couplet::{Bytes, Stream};
use futures_util::StreamExt;

use super::kit::*;

#[test]
fn messages_of_all_lengths_are_echoed() {
    beside(WebSocketOptions::default(), echo, async |reactor| {
        let mut socket = reactor.connect_websocket(URL).await?;
        for length in [0, 1, 7, 8, 9, 125, 126, 127, 4096, 8191, 8192, 65535, 65536, 1_000_000] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            socket.send(bytes.clone()).await?;
            let back = socket.next().await.transpose()?;
            assert_eq!(back, Some(Message::Binary(bytes.into())), "{length}");
            let text = "é".repeat(length / 2);
            socket.send(text.clone()).await?;
            let back = socket.recv().await.transpose()?;
            assert_eq!(back, Some(Message::Text(text.into())), "{length}");
        }
        socket.close(code::NORMAL, "done").await?;
        let close = socket.peer_close().expect("it answered");
        assert_eq!((close.code, &*close.reason), (1000, "done"));
        assert!(socket.recv().await.is_none());
        assert!(matches!(socket.send("late").await, Err(WebSocketError::Closed)));
        Ok(())
    });
}

/// Frames of a client, and the answers of an echo.
fn conversation() -> (Vec<u8>, Vec<Frame>) {
    let long = vec![0x2a; 300];
    let sent = [
        masked(FIN | TEXT, "whole"),
        masked(TEXT, "in "),
        masked(CONTINUATION, "pi"),
        masked(FIN | PING, "are you there?"),
        masked(CONTINUATION, "eces, ä"),
        masked(FIN | CONTINUATION, ""),
        masked(FIN | PONG, "unasked"),
        masked(FIN | BINARY, &long),
        masked(BINARY, ""),
        masked(FIN | CONTINUATION, ""),
        masked(FIN | CLOSE, close(4321, "bye")),
    ];
    let got = vec![
        Frame::of(FIN | TEXT, "whole"),
        Frame::of(FIN | PONG, "are you there?"),
        Frame::of(FIN | TEXT, "in pieces, ä"),
        Frame::of(FIN | BINARY, &long),
        Frame::of(FIN | BINARY, ""),
        Frame::of(FIN | CLOSE, close(4321, "bye")),
    ];
    (sent.concat(), got)
}

#[test]
fn a_handshake_and_its_frames_may_be_cut_anywhere() {
    let (frames, answers) = conversation();
    let whole = [HELLO.as_bytes(), &frames].concat();
    let mut splits = Vec::new();
    every_split(&whole, |pieces| splits.push(pieces.iter().map(|it| it.to_vec()).collect()));
    let ways: Vec<Vec<Vec<u8>>> = splits;
    assert!(ways.len() > whole.len());
    beside(WebSocketOptions::default(), echo, async move |reactor| {
        for pieces in ways {
            let mut raw = Raw::new(reactor.connect_stream(TO).await?);
            for piece in &pieces {
                raw.write(piece).await?;
                raw.stream.flush().await?;
                reactor.sleep(std::time::Duration::from_micros(1)).await?;
            }
            assert!(raw.head().await?.contains(ACCEPT));
            let lengths: Vec<usize> = pieces.iter().map(Vec::len).collect();
            assert_eq!(raw.frames().await?, answers, "{lengths:?}");
        }
        Ok(())
    });
}

#[test]
fn an_answer_and_its_frames_may_be_cut_anywhere() {
    let frames = [
        plain(FIN | TEXT, "whole"),
        plain(TEXT, "in "),
        plain(FIN | PING, "there?"),
        plain(FIN | CONTINUATION, "pieces, ä"),
        plain(FIN | CLOSE, close(1001, "")),
    ]
    .concat();
    // The answer adds about a hundred bytes.
    let cuts = 1..frames.len() + 120;
    let (cut, chosen) = twice(Rc::new(Cell::new(0)));
    let server = async move |stream: Stream| {
        let reactor = stream.transport().reactor().clone();
        let mut raw = Raw::new(stream);
        let head = raw.head().await?;
        let all = [accepting(&head, "").as_bytes(), &frames].concat();
        let at = all.len().min(chosen.get());
        raw.write(&all[..at]).await?;
        reactor.sleep(std::time::Duration::from_micros(1)).await?;
        raw.write(&all[at..]).await?;
        let got = raw.frame().await?.expect("a pong");
        assert_eq!((got.first, &got.payload[..]), (FIN | PONG, &b"there?"[..]));
        assert!(got.is_masked);
        let got = raw.frame().await?.expect("a close");
        assert_eq!((got.code(), got.is_masked), (Some(1001), true));
        Ok(())
    };
    scripted(server, async move |reactor| {
        for at in cuts {
            cut.set(at);
            let mut socket = reactor.connect_websocket(URL).await?;
            for expected in ["whole", "in pieces, ä"] {
                let message = socket.recv().await.transpose()?;
                assert_eq!(message, Some(expected.into()), "{at}");
            }
            assert!(socket.recv().await.is_none(), "{at}");
            assert_eq!(socket.peer_close().map(|close| close.code), Some(1001));
        }
        Ok(())
    });
}

#[test]
fn a_cancelled_recv_loses_nothing() {
    beside(WebSocketOptions::default(), echo, async |reactor| {
        let mut socket = reactor.connect_websocket(URL).await?;
        let mut got = Vec::new();
        for n in 0..50u8 {
            socket.send(vec![n; usize::from(n) * 1000]).await?;
            // Some messages arrive in time, and some do not.
            let patience = std::time::Duration::from_micros(u64::from(n));
            let receiving = async { Ok(socket.recv().await) };
            if let Ok(Some(message)) = reactor.timeout(patience, receiving).await {
                got.push(message?);
            }
        }
        while got.len() < 50 {
            got.push(socket.recv().await.expect("an echo")?);
        }
        for (n, message) in got.into_iter().enumerate() {
            assert_eq!(message.into_bytes(), vec![n as u8; n * 1000]);
        }
        Ok(())
    });
}

/// The bytes that a client writes in its own simulation.
fn bytes_of_a_client() -> Vec<u8> {
    let (got, seen) = twice(Rc::new(RefCell::new(Vec::new())));
    let server = async move |stream: Stream| {
        let mut raw = raw_server(stream).await?;
        raw.write(plain(FIN | PING, "ping")).await?;
        let mut buffer = [0; 512];
        while let Ok(n @ 1..) = raw.stream.read(&mut buffer).await {
            seen.borrow_mut().extend(&buffer[..n]);
        }
        Ok(())
    };
    scripted(server, async |reactor| {
        let mut socket = reactor.connect_websocket(URL).await?;
        for _ in 0..3 {
            socket.send("the same").await?;
        }
        let answer = socket.close(code::NORMAL, "").await;
        assert!(matches!(answer, Err(WebSocketError::NotClosed | WebSocketError::Cut)));
        Ok(())
    });
    got.take()
}

#[test]
fn masks_differ_and_can_be_repeated() {
    let (once, again) = (bytes_of_a_client(), bytes_of_a_client());
    assert_eq!(once, again);
    let masks: Vec<&[u8]> = (0..3).map(|at| &once[at * 14 + 2..at * 14 + 6]).collect();
    assert!(masks[0] != masks[1] && masks[1] != masks[2] && !masks.contains(&&[0; 4][..]));
}

#[test]
fn a_text_is_shared_and_no_message_is_copied_to_be_sent_again() {
    let whole = Bytes::from(vec![b'x'; 100_000]);
    let text = Message::from("héllo");
    assert_eq!((text.as_text(), text.len(), text.is_empty()), (Some("héllo"), 6, false));
    assert_eq!(text.into_bytes(), "héllo");
    let binary = Message::from(whole.clone());
    assert_eq!(binary.as_text(), None);
    assert_eq!(binary.into_bytes().as_ptr(), whole.as_ptr());
}

#[test]
fn a_socket_that_was_moved_on_outlives_its_handler() {
    let handle = async |socket: WebSocket| {
        let reactor = socket.transport().reactor().clone();
        reactor.spawn(echo(socket)).detach();
        Ok(())
    };
    beside(WebSocketOptions::default(), handle, async |reactor| {
        let mut socket = reactor.connect_websocket(URL).await?;
        reactor.sleep(secs(1)).await?;
        socket.send("still there?").await?;
        assert_eq!(socket.recv().await.transpose()?, Some("still there?".into()));
        socket.close(code::NORMAL, "").await?;
        Ok(())
    });
}
