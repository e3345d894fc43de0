//! Good and bad handshakes of both ends.

use couplet::http::HttpExt;
use couplet::http::websocket::{HandshakeError, WebSocketOptions, WebSocketRequest, code};
use couplet::{Reactor, Result, Stream};

use super::kit::*;
use crate::needed::{Folder, SelfSigned};

/// The status of the answer to a handshake, and its head.
async fn answered(reactor: &Reactor, head: &str) -> Result<(u16, String)> {
    let mut raw = Raw::new(reactor.connect_stream(TO).await?);
    raw.write(head).await?;
    let head = raw.head().await?;
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    Ok((status, head.to_ascii_lowercase()))
}

#[test]
fn c173a_a_request_that_is_no_handshake_is_refused() {
    let without = |line: &str| HELLO.replace(line, "");
    let with = |from: &str, to: &str| HELLO.replace(from, to);
    let cases = [
        (HELLO.to_owned(), 101),
        (with("Upgrade: websocket", "uPgRaDe: foo, WebSocket"), 101),
        (with("Connection: Upgrade", "Connection: keep-alive, UPGRADE"), 101),
        (with("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), 101),
        (without("Upgrade: websocket\r\n"), 426),
        (with("Upgrade: websocket", "Upgrade: websockets"), 426),
        (with("Version: 13", "Version: 8"), 426),
        (without("Sec-WebSocket-Version: 13\r\n"), 400),
        (with("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13"), 400),
        (without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
        (with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR=="), 400),
        (with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j"), 400),
        (with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBu!25jZQ=="), 400),
        (with("Connection: Upgrade", "Connection: keep-alive"), 400),
        (with("GET ", "POST "), 400),
        (with("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"), 101),
        (with("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"), 400),
        (with("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (with("HTTP/1.1", "HTTP/1.0"), 400),
    ];
    beside(WebSocketOptions::default(), echo, async move |reactor| {
        for (head, status) in cases {
            let (answered, answer) = answered(&reactor, &head).await?;
            assert_eq!(answered, status, "{head}{answer}");
            let says_version = answer.contains("sec-websocket-version: 13");
            assert_eq!(says_version, status == 426, "{answer}");
            assert!(!answer.contains("sec-websocket-extensions"), "{answer}");
        }
        Ok(())
    });
}

#[test]
fn the_first_subprotocol_of_the_servers_list_is_chosen() {
    let options = || WebSocketOptions::default();
    beside(options().protocols(["v2", "v1"]), echo, async move |reactor| {
        for (offered, chosen) in
            [(&["v1", "v2"][..], Some("v2")), (&["v1"], Some("v1")), (&["v3"], None), (&[], None)]
        {
            let offer = options().protocols(offered.iter().copied());
            let request = WebSocketRequest::new(URL).options(offer);
            let socket = reactor.connect_websocket(request).await?;
            assert_eq!(socket.protocol(), chosen, "{offered:?}");
        }
        Ok(())
    });
}

/// The client's error message for a server that answers like this.
fn refusal(answer: impl Fn(&str) -> String + 'static) -> String {
    let server = async move |stream: Stream| {
        let mut raw = Raw::new(stream);
        let head = raw.head().await?;
        raw.write(answer(&head)).await
    };
    scripted(server, async |reactor| {
        let refused = reactor.connect_websocket(URL).await.expect_err("it is refused");
        assert!(refused.downcast_ref::<HandshakeError>().is_some(), "{refused}");
        Ok(refused.to_string())
    })
}

#[test]
fn errors_of_a_client_name_the_servers_answer() {
    let wrong = |from: &'static str, to: &'static str| {
        refusal(move |head| accepting(head, "").replace(from, to))
    };
    let cases = [
        (refusal(|_| "HTTP/1.1 404 Not Found\r\n\r\n".into()), "answered 404 Not Found instead"),
        (refusal(|_| "HTTP/1.1 302 \r\nLocation: /b\r\n\r\n".into()), "answered 302 Found instead"),
        (refusal(|_| "220 mail.example.com ESMTP\r\n".into()), "it is not HTTP/1.1"),
        (refusal(|_| "HTTP/1.0 101 \r\n\r\n".into()), "it is not HTTP/1.1"),
        (refusal(|_| "HTTP/1.1 ".to_owned() + &"x".repeat(70_000)), "exceeds 64 KiB"),
        (refusal(|_| "HTTP/1.1 101\r\n \0\r\n\r\n".into()), "its head is not HTTP/1.1"),
        (refusal(|_| "HTTP/1.1 10".into()), "ended the connection before it answered"),
        (wrong("Upgrade: WebSocket\r\n", ""), "Upgrade: websocket"),
        (wrong("Connection: keep-alive, Upgrade", "Connection: close"), "Connection: Upgrade"),
        (wrong("Accept: ", "Accept: x"), "does not match the key"),
        (refusal(|head| accepting(head, "Sec-WebSocket-Extensions: x\r\n")), "it has extensions"),
        (refusal(|head| accepting(head, "Sec-WebSocket-Protocol: x\r\n")), "was not offered"),
    ];
    for (said, expected) in cases {
        assert!(said.contains(expected), "{said:?} has no {expected:?}");
    }
}

#[test]
fn c176c_a_request_that_cant_be_sent_says_why() {
    run(async move |reactor| {
        let to = WebSocketRequest::new;
        let named = |names: [&str; 1]| WebSocketOptions::default().protocols(names);
        for (request, problem) in [
            (to("http://a/"), "the URL must begin with ws: or wss:"),
            (to("ws://"), "this is no URL"),
            (to("/chat"), "the URL must begin with ws: or wss:"),
            (to("ws://user:word@a/"), "not name a user"),
            (to("ws://a:99999/"), "the port is out of range: ports are 1 to 65535"),
            (to("ws://[::1]:0/"), "the port is out of range"),
            (to("ws://a/").header("Host", "b"), "the header Host can't be set"),
            (to("ws://a/").header("Sec-WebSocket-Key", "b"), "can't be set"),
            (to("ws://a/").header("a b", "c"), "invalid HTTP header name"),
            (to("ws://a/").header("a", "b\r\nc: d"), "failed to parse header value"),
            (to("ws://a/").options(named(["two words"])), "an HTTP token"),
        ] {
            let error = reactor.connect_websocket(request).await.expect_err("it fails");
            let said = error.to_string();
            assert!(said.contains(problem), "{said:?} has no {problem:?}");
        }
        Ok(())
    });
}

#[test]
fn the_handshake_of_a_client_has_its_options_and_headers() {
    let (heads, seen) = twice(std::rc::Rc::new(std::cell::RefCell::new(Vec::new())));
    let server = async move |stream: Stream| {
        let mut raw = Raw::new(stream);
        let head = raw.head().await?;
        seen.borrow_mut().push(head.clone());
        raw.write(accepting(&head, "Sec-WebSocket-Protocol: b\r\n")).await
    };
    scripted(server, async move |reactor| {
        let options = WebSocketOptions::default().protocols(["a", "b"]);
        let request = WebSocketRequest::new("ws://chat.example:80?room=1")
            .header("Authorization", "Bearer x")
            .options(options)
            .over(TO)?;
        let socket = reactor.connect_websocket(request).await?;
        assert_eq!(socket.protocol(), Some("b"));
        let head = heads.borrow()[0].clone();
        assert!(head.starts_with("GET /?room=1 HTTP/1.1\r\nHost: chat.example\r\n"), "{head}");
        for line in ["Sec-WebSocket-Protocol: a, b", "Authorization: Bearer x"] {
            assert!(head.contains(line), "{head}");
        }
        Ok(())
    });
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let server = async |mut stream: Stream| {
        let reactor = stream.transport().reactor().clone();
        // Occasional bytes do not extend the limit.
        for _ in 0..4 {
            stream.write_all("HTTP/1.1 101 a").await?;
            reactor.sleep(secs(4)).await?;
        }
        Ok(())
    };
    scripted(server, async |reactor| {
        let begun = reactor.now();
        let options = WebSocketOptions::default().handshake_timeout(secs(10));
        let request = WebSocketRequest::new(URL).options(options);
        let error = reactor.connect_websocket(request).await.expect_err("it is late");
        let error = error.downcast_ref::<HandshakeError>().expect("a handshake's");
        assert!(matches!(error, HandshakeError::TimedOut), "{error}");
        assert_eq!(reactor.now() - begun, secs(10));
        reactor.sleep(secs(10)).await
    });
}

#[test]
fn a_websocket_over_tls_is_one() {
    let folder = Folder::new();
    let path = folder.write("server.pem", SelfSigned::new("localhost").pem());
    run(async move |reactor| {
        let at = format!("tls:8443:interface=127.0.0.1:cert={path}:alpn=http/1.1");
        let port = serve(&reactor, &at, WebSocketOptions::default(), echo)?;
        let over = format!("tls:127.0.0.1:8443:ca={path}:servername=localhost");
        let request = WebSocketRequest::new("wss://localhost:8443/").over(over.as_str())?;
        let mut socket = reactor.connect_websocket(request).await?;
        socket.send("secret").await?;
        assert_eq!(socket.recv().await.transpose()?, Some("secret".into()));
        socket.close(code::NORMAL, "").await?;
        // A client that does not trust the certificate's issuer gets no connection.
        let error = reactor.connect_websocket("wss://127.0.0.1:8443/").await;
        assert!(error.is_err());
        port.stop_listening().expect("it listens").await
    });
}
