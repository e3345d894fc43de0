//! Every wait for the peer ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::Stream;
use couplet::http::HttpExt;
use couplet::http::websocket::{
    WebSocket, WebSocketError, WebSocketOptions, WebSocketRequest, code,
};

use super::kit::*;

/// The error that ended the handler's `recv`, and when.
type Ended = Rc<RefCell<Option<(Option<WebSocketError>, Duration)>>>;

async fn noted(mut socket: WebSocket, ended: &Ended) {
    let reactor = socket.transport().reactor().clone();
    let begun = reactor.now();
    let mut error = None;
    while let Some(message) = socket.recv().await {
        error = message.err();
    }
    *ended.borrow_mut() = Some((error, reactor.now() - begun));
}

#[test]
fn a_silent_peer_is_pinged_and_then_given_up() {
    let (ended, end) = twice(Ended::default());
    let options = WebSocketOptions::default().ping_interval(Some(secs(20))).pong_timeout(secs(7));
    let handle = async move |socket: WebSocket| {
        noted(socket, &end).await;
        Ok(())
    };
    beside(options, handle, async move |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        let begun = reactor.now();
        // Any bytes are a sign of life.
        for answer in [masked(FIN | PONG, ""), masked(FIN | TEXT, "a"), vec![FIN | TEXT]] {
            assert_eq!(raw.frame().await?, Some(Frame::of(FIN | PING, "")));
            reactor.sleep(secs(6)).await?;
            raw.write(answer).await?;
            raw.stream.flush().await?;
        }
        assert_eq!(reactor.now() - begun, 3 * secs(26));
        assert_eq!(raw.frame().await?, Some(Frame::of(FIN | PING, "")));
        assert!(raw.frame().await.is_err(), "it is reset");
        let (error, time) = ended.take().expect("it is over");
        assert!(matches!(error, Some(WebSocketError::NoPong)), "{error:?}");
        assert_eq!(time, 3 * secs(26) + secs(27));
        Ok(())
    });
}

#[test]
fn two_of_us_stay_connected_in_silence() {
    beside(WebSocketOptions::default(), echo, async |reactor| {
        let mut socket = reactor.connect_websocket(URL).await?;
        let waiting = async { Ok(socket.recv().await) };
        assert!(reactor.timeout(secs(24 * 3600), waiting).await.is_err());
        socket.send("still there?").await?;
        assert_eq!(socket.recv().await.transpose()?, Some("still there?".into()));
        socket.close(code::NORMAL, "").await?;
        Ok(())
    });
}

#[test]
fn without_an_interval_there_are_no_pings() {
    let options = WebSocketOptions::default().ping_interval(None);
    beside(options, echo, async |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        let waiting = async { raw.frame().await };
        assert!(reactor.timeout(secs(24 * 3600), waiting).await.is_err());
        raw.write(masked(FIN | CLOSE, "")).await?;
        assert_eq!(raw.frames().await?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_busy_handler_does_not_give_up_its_client() {
    let handle = async |mut socket: WebSocket| {
        let reactor = socket.transport().reactor().clone();
        while let Some(message) = socket.recv().await {
            let message = message?;
            reactor.sleep(secs(500)).await?;
            socket.send(message).await?;
        }
        Ok(())
    };
    let options = WebSocketOptions::default().ping_interval(Some(secs(10)));
    beside(options, handle, async |reactor| {
        // A client without pings tolerates silence.
        let options = WebSocketOptions::default().ping_interval(None);
        let request = WebSocketRequest::new(URL).options(options);
        let mut socket = reactor.connect_websocket(request).await?;
        reactor.sleep(secs(15)).await?;
        socket.send("a").await?;
        socket.send("b").await?;
        for expected in ["a", "b"] {
            assert_eq!(socket.recv().await.transpose()?, Some(expected.into()));
        }
        socket.close(code::NORMAL, "").await?;
        Ok(())
    });
}

#[test]
fn a_close_that_is_not_answered_is_not_waited_for() {
    let (ended, end) = twice(Ended::default());
    let options = WebSocketOptions::default().close_timeout(secs(5));
    let handle = async move |mut socket: WebSocket| {
        let reactor = socket.transport().reactor().clone();
        // Until then, the next deadline was a ping's, much later.
        let waiting = async { Ok(socket.recv().await) };
        assert!(reactor.timeout(secs(1), waiting).await.is_err());
        socket.begin_close(code::NORMAL, "")?;
        noted(socket, &end).await;
        Ok(())
    };
    beside(options, handle, async move |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        let frames = raw.frames().await?;
        assert_eq!(frames.iter().map(Frame::code).collect::<Vec<_>>(), [Some(1000)]);
        let (error, time) = ended.take().expect("it is over");
        assert!(matches!(error, Some(WebSocketError::NotClosed)), "{error:?}");
        assert_eq!(time, secs(5));
        Ok(())
    });
}

#[test]
fn a_client_waits_for_the_server_to_end_the_connection_but_not_for_long() {
    let server = async |stream: Stream| {
        let reactor = stream.transport().reactor().clone();
        let mut raw = raw_server(stream).await?;
        let close = raw.frame().await?.expect("a close");
        raw.write(plain(FIN | CLOSE, close.payload)).await?;
        reactor.sleep(secs(9)).await
    };
    scripted(server, async |reactor| {
        for (timeout, expected) in [(20, 9), (5, 5)] {
            let options = WebSocketOptions::default().close_timeout(secs(timeout));
            let request = WebSocketRequest::new(URL);
            let mut socket = reactor.connect_websocket(request.options(options)).await?;
            let begun = reactor.now();
            socket.close(code::NORMAL, "").await?;
            assert_eq!(reactor.now() - begun, secs(expected));
        }
        reactor.sleep(secs(20)).await
    });
}

#[test]
fn a_peer_that_does_not_read_stops_send() {
    let (sent, count) = twice(Rc::new(RefCell::new((0, 0, None))));
    let options = WebSocketOptions::default().write_timeout(secs(40));
    let handle = async move |mut socket: WebSocket| {
        let reactor = socket.transport().reactor().clone();
        for n in 1.. {
            let ended = socket.send(vec![b'x'; 10_000]).await;
            let most = socket.transport().buffered();
            let mut count = count.borrow_mut();
            *count = (n, most.max(count.1), ended.err().map(|error| (error, reactor.now())));
            if count.2.is_some() {
                break;
            }
        }
        Ok(())
    };
    beside(options, handle, async move |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        reactor.sleep(secs(30)).await?;
        let (before, most, _) = *sent.borrow();
        assert!(most < 100_000, "{most} bytes are buffered");
        // A client that reads something gets more time.
        for _ in 0..20 {
            raw.frame().await?;
        }
        let read = reactor.now();
        reactor.sleep(secs(35)).await?;
        assert!(sent.borrow().0 > before && sent.borrow().2.is_none());
        reactor.sleep(secs(35)).await?;
        let (_, most, error) = sent.take();
        let (error, when) = error.expect("it is over");
        assert!(matches!(error, WebSocketError::NotTaken), "{error}");
        assert_eq!(when - read, secs(40));
        assert!(most < 100_000, "{most} bytes are buffered");
        Ok(())
    });
}

#[test]
fn a_peer_that_takes_a_little_gets_more_time() {
    let (ended, end) = twice(Rc::new(RefCell::new(None)));
    let options = WebSocketOptions::default().write_timeout(secs(40));
    let handle = async move |mut socket: WebSocket| {
        let reactor = socket.transport().reactor().clone();
        // `send` waits until all output has left.
        socket.transport().set_write_marks(0, 10_000);
        socket.send(vec![b'x'; 1_000_000]).await?;
        let error = socket.send("more").await.expect_err("it is not taken");
        *end.borrow_mut() = Some((error, reactor.now()));
        Ok(())
    };
    beside(options, handle, async move |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        let begun = reactor.now();
        reactor.sleep(secs(30)).await?;
        assert_ne!(raw.stream.read(&mut [0; 100]).await?, 0);
        reactor.sleep(secs(200)).await?;
        let (error, when) = ended.take().expect("it is over");
        assert!(matches!(error, WebSocketError::NotTaken), "{error}");
        // From the time at which the server noticed the progress: its first deadline.
        assert_eq!(when - begun, secs(80));
        Ok(())
    });
}

/// The bytes buffered for a client before and after it reads `messages` messages, and whether it is
/// given up later.
fn blocked_twice(messages: usize) -> (usize, usize, bool) {
    // With its head, a quarter of the client's read size.
    const MESSAGE: usize = 16 * 1024 - 4;
    let flood = async |mut socket: WebSocket| {
        loop {
            socket.send(vec![b'x'; MESSAGE]).await?;
        }
    };
    let options = WebSocketOptions::default().ping_interval(None).write_timeout(secs(60));
    beside(options, flood, async move |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        let waiting = async || {
            let connections = reactor.snapshot().await?.connections;
            Ok::<_, couplet::Failure>(connections.iter().map(|one| one.buffered).max())
        };
        reactor.sleep(secs(20)).await?;
        let first = waiting().await?.unwrap_or_default();
        reactor.sleep(secs(20)).await?;
        raw.stream.read_exact(&mut vec![0; messages * (MESSAGE + 4)]).await?;
        reactor.sleep(secs(10)).await?;
        let second = waiting().await?.unwrap_or_default();
        reactor.sleep(secs(30)).await?;
        let is_given_up = reactor.snapshot().await?.connections.len() < 2;
        reactor.sleep(secs(60)).await?;
        assert!(reactor.snapshot().await?.connections.len() < 2, "it takes nothing for 60 s");
        Ok((first, second, is_given_up))
    })
}

#[test]
fn a_peer_that_takes_all_and_is_sent_as_much_again_is_not_given_up() {
    let mut equal = 0;
    // Fewer than twelve messages would come from the client's own buffer.
    for messages in (12..40).step_by(4) {
        let (first, second, is_given_up) = blocked_twice(messages);
        assert!(
            !is_given_up,
            "{messages} messages were taken: {first} bytes waited, {second} wait"
        );
        equal += usize::from(first == second);
    }
    assert!(equal > 0, "none waited twice with one count");
}

#[test]
fn sends_that_wait_for_as_many_bytes_have_their_time_each() {
    const LENGTH: usize = 1_000_000;
    const ROUNDS: usize = 3;
    let options = WebSocketOptions::default().write_timeout(secs(40));
    let handle = async |mut socket: WebSocket| {
        let reactor = socket.transport().reactor().clone();
        for _ in 0..ROUNDS {
            // All from before has left: the second message waits behind as many bytes each time.
            reactor.sleep(secs(50)).await?;
            assert_eq!(socket.transport().buffered(), 0);
            socket.send(vec![b'x'; LENGTH]).await?;
            socket.send("more").await?;
        }
        Ok(())
    };
    beside(options, handle, async |reactor| {
        let mut raw = Raw::connect(&reactor).await?;
        for round in 1..=ROUNDS {
            let long = raw.frame().await?.map(|frame| frame.payload.len());
            assert_eq!(long, Some(LENGTH), "{round}");
            assert_eq!(raw.frame().await?, Some(Frame::of(FIN | TEXT, "more")), "{round}");
        }
        Ok(())
    });
}

#[test]
fn the_deadline_of_a_websocket_wakes_the_task_that_polls_it_now() {
    let handle = async |mut socket: WebSocket| {
        let reactor = socket.transport().reactor().clone();
        // Another task polls it first.
        let timer = reactor.clone();
        let polled = reactor.spawn(async move {
            let waiting = async { Ok(socket.recv().await) };
            assert!(timer.timeout(secs(1), waiting).await.is_err());
            Ok(socket)
        });
        let mut socket = polled.await?;
        while socket.recv().await.is_some() {}
        Ok(())
    };
    let options = WebSocketOptions::default().ping_interval(Some(secs(20)));
    beside(options, handle, async |reactor| {
        let begun = reactor.now();
        let mut raw = Raw::connect(&reactor).await?;
        let ping = reactor.timeout(secs(60), async { raw.frame().await }).await?;
        assert_eq!((ping, reactor.now() - begun), (Some(Frame::of(FIN | PING, "")), secs(20)));
        Ok(())
    });
}
