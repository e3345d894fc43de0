//! The client against HTTP/1.1 servers that close too early, send too much, or send something else.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use couplet::http::{BodyError, Client, ClientOptions, HttpError, Method, Request};
use couplet::{Reactor, Result, Stream};
use futures_util::future::join_all;

use crate::client::{cancelled_after, connections, secs, text, to_the_end};
use crate::kit::{counter, scripted, twice};

const URL: &str = "http://127.0.0.1:8000/";
pub(crate) const WHOLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";

/// Reads the head and the body of a request; false if the client has closed.
pub(crate) async fn request(stream: &mut Stream) -> Result<bool> {
    let (mut began, mut length) = (false, 0);
    while let Some(line) = stream.read_line().await? {
        began = true;
        let line = String::from_utf8_lossy(&line).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
        if line.is_empty() {
            stream.read_exact(&mut vec![0; length]).await?;
            return Ok(true);
        }
    }
    assert!(!began, "half a request");
    Ok(false)
}

async fn sent(client: &Client, method: &Method) -> Result<String> {
    let request = Request::builder().method(method).uri(URL).body("a body")?;
    text(client.send(request).await?.into_body()).await
}

/// A server whose connections end with the second request, after these bytes. Also returns the
/// count of requests.
fn ends_with_the_second(
    bytes: &'static str,
) -> (Rc<Cell<usize>>, impl AsyncFn(Stream) -> Result<()> + 'static) {
    let (requests, count) = counter();
    let server = async move |mut stream: Stream| {
        for answer in [WHOLE, bytes] {
            if !request(&mut stream).await? {
                break;
            }
            count.set(count.get() + 1);
            stream.write_all(answer).await?;
            stream.flush().await?;
        }
        Ok(())
    };
    (requests, server)
}

#[test]
fn c176_an_idempotent_request_is_sent_again_once_after_a_pause() {
    let (requests, server) = ends_with_the_second("");
    scripted(server, async move |reactor| {
        let options = ClientOptions::default().repeat_pause(secs(3));
        let client = Client::with_options(&reactor, options);
        for (n, method) in [Method::GET, Method::PUT, Method::DELETE].iter().enumerate() {
            assert_eq!(sent(&client, method).await?, "done", "a new connection, or the repeat's");
            let begun = reactor.now();
            assert_eq!(sent(&client, method).await?, "done");
            assert_eq!(reactor.now() - begun, secs(3));
            assert_eq!(requests.get(), 4 * n + 3);
            sent(&client, &Method::POST).await.expect_err("it may have been processed");
            assert_eq!(requests.get(), 4 * n + 4, "{method}");
        }
        Ok(())
    });
}

#[test]
fn c176_a_request_whose_answer_has_begun_is_not_sent_again() {
    for begun in
        ["H", "HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 100 Continue\r\n\r\n", "nonsense\r\n\r\n"]
    {
        let (requests, server) = ends_with_the_second(begun);
        scripted(server, async move |reactor| {
            let client = Client::new(&reactor);
            assert_eq!(sent(&client, &Method::GET).await?, "done");
            sent(&client, &Method::GET).await.expect_err("an answer has begun");
            assert_eq!(requests.get(), 2, "{begun:?}");
            Ok(())
        });
    }
}

#[test]
fn c176_a_request_over_a_new_connection_is_not_sent_again() {
    let (requests, count) = counter();
    let closes = async move |mut stream: Stream| {
        request(&mut stream).await?;
        count.set(count.get() + 1);
        Ok(())
    };
    scripted(closes, async move |reactor| {
        sent(&Client::new(&reactor), &Method::GET).await.expect_err("it closed");
        assert_eq!(requests.get(), 1);
        Ok(())
    });
}

#[test]
fn c129b_a_request_that_is_cancelled_in_any_turn_leaves_no_connection_that_waits() {
    const TURNS: usize = 16;
    let server = async |mut stream: Stream| {
        while let Ok(true) = request(&mut stream).await {
            stream.write_all(WHOLE).await?;
        }
        Ok(())
    };
    scripted(server, async move |reactor| {
        let options = ClientOptions::default().keep_alive(secs(10));
        let client = Client::with_options(&reactor, options);
        // The first request of a connection, and a later one.
        for is_pooled in [false, true] {
            let mut answered = 0;
            for turns in 0..TURNS {
                if is_pooled {
                    assert_eq!(sent(&client, &Method::GET).await?, "done");
                }
                answered += usize::from(cancelled_after(&reactor, &client, URL, turns).await?);
                assert!(connections(&reactor).await? <= 1, "{turns}");
                assert_eq!(sent(&client, &Method::GET).await?, "done");
                assert_eq!(connections(&reactor).await?, 1, "{turns}");
                reactor.sleep(secs(10)).await?;
                assert_eq!(connections(&reactor).await?, 0, "{turns}");
            }
            assert!((1..TURNS).contains(&answered), "{answered}: in each part of a request");
        }
        Ok(())
    });
}

#[test]
fn c176_a_repeat_goes_over_a_new_connection() {
    // The client keeps three connections, and each ends with its second request.
    let (requests, server) = ends_with_the_second("");
    scripted(server, async move |reactor| {
        let client = Client::new(&reactor);
        let other = client.get("http://127.0.0.2:8000/").await?;
        assert_eq!(text(other.into_body()).await?, "done");
        let together = join_all((0..3).map(|_| sent(&client, &Method::GET))).await;
        assert!(together.into_iter().all(|answer| answer.is_ok()));
        assert_eq!(connections(&reactor).await?, 4);
        assert_eq!(sent(&client, &Method::GET).await?, "done");
        assert_eq!(requests.get(), 6);
        let left = connections(&reactor).await?;
        assert_eq!(left, 2, "the idle ones beside it were as old, but for another server's");
        Ok(())
    });
}

/// A server that gives these answers in order, one to each request, across all connections.
fn answering(answers: &[&str], program: impl AsyncFnOnce(Reactor, Client) -> Result<()> + 'static) {
    let answers: Vec<String> = answers.iter().rev().map(ToString::to_string).collect();
    let answers = Rc::new(RefCell::new(answers));
    let server = async move |mut stream: Stream| {
        while request(&mut stream).await? {
            let Some(answer) = answers.borrow_mut().pop() else { break };
            stream.write_all(answer).await?;
        }
        Ok(())
    };
    scripted(server, async move |reactor| {
        let client = Client::new(&reactor);
        program(reactor, client).await
    });
}

#[test]
fn c176b_bytes_beyond_the_body_are_an_error_and_never_an_answer() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (sent, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone, and more".to_owned(), "done"),
        (format!("{WHOLE}{evil}"), "done"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore".to_owned(), ""),
        (
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\r\n{evil}"
            ),
            "done",
        ),
    ] {
        answering(&[&sent, WHOLE], {
            let sent = sent.clone();
            async move |_, client| {
                let (got, end) = to_the_end(client.get(URL).await?.into_body()).await;
                assert!(matches!(end, Err(BodyError::Surplus)), "{sent:?}: {end:?}");
                assert_eq!(got, body.as_bytes());
                assert_eq!(text(client.get(URL).await?.into_body()).await?, "done");
                Ok(())
            }
        });
    }
}

#[test]
fn c176b_an_answer_without_a_body_may_be_followed_by_one() {
    // Some servers wrongly answer HEAD with a body, which stays unread; its connection is closed.
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    answering(&[head, "HTTP/1.1 204 No Content\r\n\r\nevil", WHOLE], async |reactor, client| {
        let answer = client.send(Request::head(URL).body("")?).await?;
        assert_eq!(answer.headers()["content-length"], "4");
        assert_eq!(text(answer.into_body()).await?, "");
        assert_eq!(connections(&reactor).await?, 0);
        assert_eq!(text(client.get(URL).await?.into_body()).await?, "");
        assert_eq!(text(client.get(URL).await?.into_body()).await?, "done");
        Ok(())
    });
}

#[test]
fn c176b_a_body_that_ends_too_early_is_an_error() {
    for sent in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
    ] {
        let server = async move |mut stream: Stream| {
            request(&mut stream).await?;
            Ok(stream.write_all(sent).await?)
        };
        scripted(server, async move |reactor| {
            let mut body = Client::new(&reactor).get(URL).await?.into_body();
            assert_eq!(body.next().await?.as_deref(), Some(&b"half"[..]));
            let end = body.next().await;
            assert!(matches!(end, Err(BodyError::Broken(_))), "{sent:?}: {end:?}");
            Ok(())
        });
    }
}

#[test]
fn c176c_a_switch_of_protocols_is_an_error() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    answering(&[switch, WHOLE], async |reactor, client| {
        let switched = client.get(URL).await;
        assert!(matches!(switched, Err(HttpError::Switched)), "{switched:?}");
        assert_eq!(connections(&reactor).await?, 0);
        assert_eq!(text(client.get(URL).await?.into_body()).await?, "done");
        Ok(())
    });
}

#[test]
fn c176c_a_transfer_coding_other_than_chunked_is_an_error() {
    for codings in ["gzip, chunked", "chunked, chunked", "gzip", "chunked\r\nTransfer-Encoding: x"]
    {
        let coded = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: {codings}\r\n\r\n4\r\nevil\r\n0\r\n\r\n"
        );
        let none = format!("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: {codings}\r\n\r\n");
        answering(&[&coded, &none, WHOLE], async |reactor, client| {
            let refused = client.get(URL).await;
            assert!(matches!(refused, Err(HttpError::TransferCoding)), "{refused:?}");
            assert_eq!(connections(&reactor).await?, 0);
            assert_eq!(text(client.get(URL).await?.into_body()).await?, "", "no body");
            assert_eq!(text(client.get(URL).await?.into_body()).await?, "done");
            Ok(())
        });
    }
}

#[test]
fn c176c_a_port_out_of_range_is_an_error() {
    let redirects =
        "HTTP/1.1 302 Found\r\nLocation: //127.0.0.1:99999/\r\nContent-Length: 0\r\n\r\n";
    answering(&[redirects, WHOLE], async |_, client| {
        for url in [
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:65536/",
            "http://127.0.0.1:0/",
            "http://[::1]:99999/",
            "http://user:1@127.0.0.1:80000000000000000000/",
            "https://127.0.0.1:99999/",
            URL,
        ] {
            let said = client.get(url).await.expect_err("no such port").to_string();
            assert!(said.contains("is out of range: ports are 1 to 65535"), "{url}: {said}");
        }
        // Without a number, the port is the default.
        let said = client.get("http://127.0.0.1:/").await.expect_err("nobody listens").to_string();
        assert!(said.starts_with("cannot connect to 127.0.0.1:80: "), "{said}");
        Ok(())
    });
}

#[test]
fn c176a_a_connection_is_kept_from_the_end_of_its_answer() {
    let slow = async |mut stream: Stream| {
        let reactor = stream.transport().reactor().clone();
        while request(&mut stream).await? {
            stream.write_all("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo").await?;
            reactor.sleep(secs(30)).await?;
            stream.write_all("ne").await?;
        }
        Ok(())
    };
    scripted(slow, async |reactor| {
        let client = Client::with_options(&reactor, ClientOptions::default().keep_alive(secs(10)));
        assert_eq!(text(client.get(URL).await?.into_body()).await?, "done");
        reactor.sleep(secs(9)).await?;
        assert_eq!(connections(&reactor).await?, 1);
        reactor.sleep(secs(2)).await?;
        assert_eq!(connections(&reactor).await?, 0);
        Ok(())
    });
}

#[test]
fn a_silent_server_costs_the_time_limit_and_its_connection_is_reset() {
    let (was_reset, noted) = twice(Rc::new(Cell::new(None)));
    let server = async move |mut stream: Stream| {
        request(&mut stream).await?;
        // A FIN would be the end of a client that still waits for its answer.
        noted.set(Some(stream.read(&mut [0; 10]).await.is_err()));
        Ok(())
    };
    scripted(server, async move |reactor| {
        let begun = reactor.now();
        let options = ClientOptions::default().timeout(Some(secs(5)));
        let client = Client::with_options(&reactor, options);
        let late = client.get(URL).await;
        assert!(matches!(late, Err(HttpError::TimedOut)), "{late:?}");
        assert_eq!(reactor.now() - begun, secs(5));
        assert_eq!(connections(&reactor).await?, 0);
        assert_eq!(was_reset.get(), Some(true));
        Ok(())
    });
}

#[test]
fn a_server_that_does_not_shake_hands_costs_the_connect_timeout() {
    let silent = async |mut stream: Stream| {
        let _ = stream.read_to_end(&mut Vec::new(), 10_000).await;
        Ok(())
    };
    scripted(silent, async |reactor| {
        let options = ClientOptions::default().connect_timeout(secs(5)).timeout(None);
        let client = Client::with_options(&reactor, options);
        let begun = reactor.now();
        // The requests wait for one attempt, and share its error.
        let together = (0..3).map(|_| client.get("https://127.0.0.1:8000/"));
        let mut errors = Vec::new();
        for late in join_all(together).await {
            assert!(matches!(late, Err(HttpError::Connect { .. })), "{late:?}");
            errors.push(late.map_err(|error| error.to_string()).expect_err("it is late"));
        }
        assert!(errors[0].starts_with("cannot connect to 127.0.0.1:8000: "), "{errors:?}");
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
        assert_eq!(reactor.now() - begun, secs(5));
        assert_eq!(connections(&reactor).await?, 0);
        Ok(())
    });
}

#[test]
fn a_proxy_that_does_not_come_to_an_end_or_to_a_success_is_an_error() {
    let (accepted, count) = counter();
    let proxy = async move |mut stream: Stream| {
        request(&mut stream).await?;
        count.set(count.get() + 1);
        let answer = match count.get() {
            1 => format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(200)),
            2 => "HTTP/1.1 302 Found\r\n\r\n".to_owned(),
            _ => "HTTP/1.1 200 OK\r\n".to_owned(),
        };
        Ok(stream.write_all(answer).await?)
    };
    scripted(proxy, async move |reactor| {
        let options = ClientOptions::default().proxy(Some(("127.0.0.1".into(), 8000)));
        let client = Client::with_options(&reactor, options);
        for n in 1..4 {
            let together = join_all((0..3).map(|_| client.get("https://couplet.test/"))).await;
            for refused in together {
                assert!(matches!(refused, Err(HttpError::Proxy(_))), "{n}: {refused:?}");
            }
            assert_eq!(accepted.get(), n, "one attempt for all of them");
        }
        Ok(())
    });
}

#[test]
fn the_limit_of_a_body_holds_for_all_its_pieces() {
    let server = async |mut stream: Stream| {
        let reactor = stream.transport().reactor().clone();
        while let Ok(true) = request(&mut stream).await {
            stream.write_all("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            for piece in ["4\r\nfour\r\n", "4\r\nmore\r\n", "0\r\n\r\n"] {
                reactor.sleep(secs(1)).await?;
                // The client may have closed.
                let _ = stream.write_all(piece).await;
            }
        }
        Ok(())
    };
    scripted(server, async |reactor| {
        let client = Client::new(&reactor);
        for limit in [9, 8, 7, 4, 3, 0, 8] {
            match client.get(URL).await?.into_body().bytes(limit).await {
                Ok(whole) => assert!(limit >= 8 && whole == "fourmore", "{limit}: {whole:?}"),
                Err(BodyError::TooLong(told)) => assert!(limit < 8 && told == limit, "{limit}"),
                Err(error) => panic!("{limit}: {error}"),
            }
        }
        reactor.sleep(secs(10)).await
    });
}
