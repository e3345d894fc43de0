//! Clients that leave: the time until nothing of them is left, by the way of leaving and by the state
//! of the service.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::DeferredEvent;
use couplet::http::websocket::{self, WebSocket, WebSocketOptions};
use couplet::http::{Body, ClientLeft, HttpExt, HttpOptions, Request, Response};
use couplet::stream::copy_bidirectional;
use couplet::{Bytes, Port, Reactor, Result, Stream, Transport};
use futures_util::stream::{self, StreamExt};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame as Part;
use tower::service_fn;

use crate::http2::{self, frame, hello};
use crate::kit::{self, AT, HANDSHAKE, TO, any, beside_service, ended, heard, opened, run};
use crate::needed::{Folder, SelfSigned};
use crate::websocket::http2::asked as websocket_over_http2;

const SECOND: Duration = Duration::from_secs(1);

/// How finely the end is observed.
const STEP: Duration = Duration::from_millis(500);

/// Longer than any of the times.
const LONG: Duration = Duration::from_secs(400);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    WebSocket,
    WebSocketOverHttp2,
    /// The service's own protocol, after an upgrade.
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// By a FIN, or over TLS by a close_notify. The client still reads.
    Ends,
    /// Over TLS: by a FIN without a close_notify. The client still reads.
    Truncates,
    /// By a reset.
    Resets,
    /// HTTP/2: cancels its request.
    Cancels,
    /// Says nothing more.
    Vanishes,
}

/// The service's state when the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serves {
    /// The service has not answered.
    Nothing,
    /// The service has neither answered nor read the request's body.
    Upload,
    /// The service has sent a part of a body, and waits.
    Half,
    /// The service sends an event each second.
    Events,
    /// A WebSocket's handler waits for the next message.
    Receives,
}

/// Notes the time at which it is dropped.
struct Guard(Reactor, Rc<Cell<Option<std::time::Instant>>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.1.set(Some(self.0.now()));
    }
}

type AnyBody = Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = Infallible>>>;

/// Waits for the end of the test.
async fn forever(over: &DeferredEvent) {
    let _ = over.wait().await;
}

/// Keeps the guard in its handler, or in the body of its response.
async fn serve(
    reactor: Reactor,
    serves: Serves,
    mut request: Request<Body>,
    guard: Guard,
    over: DeferredEvent,
) -> Response<AnyBody> {
    if request.extensions().get::<hyper::upgrade::OnUpgrade>().is_some() {
        let is_websocket = request.headers().contains_key("sec-websocket-version");
        if is_websocket {
            let handle = async move |mut socket: WebSocket| {
                let _guard = guard;
                match serves {
                    Serves::Receives => while let Some(Ok(_)) = socket.recv().await {},
                    Serves::Events => loop {
                        reactor.sleep(SECOND).await?;
                        socket.send("event").await?;
                    },
                    _ => forever(&over).await,
                }
                Ok(())
            };
            return websocket::upgrade(&mut request, WebSocketOptions::default(), handle)
                .map(|text: String| Box::pin(Full::from(text)) as AnyBody);
        }
        let upgrading = hyper::upgrade::on(&mut request);
        reactor.spawn(hold_tunnel(upgrading, guard, over)).detach();
        let mut answer = Response::new(Box::pin(Full::default()) as AnyBody);
        *answer.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert("connection", "upgrade".parse().expect("it is valid"));
        answer.headers_mut().insert("upgrade", "own".parse().expect("it is valid"));
        return answer;
    }
    let first = stream::iter([Part::data(Bytes::from_static(b"some"))]);
    match serves {
        Serves::Half => {
            let rest = stream::once(async move {
                let _guard = guard;
                forever(&over).await;
                Part::data(Bytes::new())
            });
            Response::new(Box::pin(StreamBody::new(first.chain(rest).map(Ok))))
        }
        Serves::Events => {
            let events = stream::unfold(guard, move |guard| {
                let reactor = reactor.clone();
                async move {
                    let _ = reactor.sleep(SECOND).await;
                    Some((Part::data(Bytes::from_static(b"data: event\n\n")), guard))
                }
            });
            Response::new(Box::pin(StreamBody::new(first.chain(events).map(Ok))))
        }
        _ => {
            let _guard = guard;
            forever(&over).await;
            Response::new(Box::pin(Full::default()))
        }
    }
}

/// Keeps the I/O of an upgraded connection until it fails.
async fn hold_tunnel(
    upgrading: hyper::upgrade::OnUpgrade,
    guard: Guard,
    over: DeferredEvent,
) -> Result<()> {
    let _guard = guard;
    let _io = upgrading.await?;
    // The tunnel ignores the end of the client's stream.
    forever(&over).await;
    Ok(())
}

/// The request.
fn asked(speaks: Speaks, serves: Serves) -> Vec<u8> {
    let upload = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n";
    match (speaks, serves) {
        (Speaks::Http1, Serves::Upload) => [&upload[..], &[b'x'; 30_000]].concat(),
        (Speaks::Http1, _) => kit::get("/").into_bytes(),
        (Speaks::Http2, Serves::Upload) => {
            let upload = frame(http2::DATA, 0, 1, &[b'x'; 16_000]);
            [hello(), http2::post(1, "/", b""), upload].concat()
        }
        (Speaks::Http2, _) => [hello(), http2::get(1, "/")].concat(),
        (Speaks::WebSocket, _) => HANDSHAKE.into(),
        (Speaks::WebSocketOverHttp2, _) => [hello(), websocket_over_http2(1)].concat(),
        (Speaks::Tunnel, _) => {
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n".into()
        }
    }
}

/// A server, and how its clients connect.
#[derive(Clone)]
struct Place {
    at: String,
    /// Without the protocol for ALPN.
    to: String,
}

impl Place {
    fn plain() -> Place {
        Place { at: AT.into(), to: TO.into() }
    }

    fn tls(folder: &Folder) -> Place {
        let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
        Place {
            at: format!("tls:8000:interface=127.0.0.1:cert={file}"),
            to: format!("tls:127.0.0.1:8000:ca={file}:servername=localhost"),
        }
    }

    async fn connect(&self, reactor: &Reactor, speaks: Speaks) -> Result<Stream> {
        let is_http2 = matches!(speaks, Speaks::Http2 | Speaks::WebSocketOverHttp2);
        let alpn = match self.to.starts_with("tls:") {
            false => "",
            true if is_http2 => ":alpn=h2",
            true => ":alpn=http/1.1",
        };
        reactor.connect_stream(format!("{}{alpn}", self.to)).await
    }

    /// Relays connections from another port, where the client then connects. Returns its port, and the
    /// end of the last connection towards the server.
    fn relay(&mut self, reactor: &Reactor) -> Result<(Port, Rc<RefCell<Option<Transport>>>)> {
        self.to = self.to.replace(":8000", ":8001");
        let last = Rc::<RefCell<Option<Transport>>>::default();
        let (connecting, noted) = (reactor.clone(), last.clone());
        let port = reactor.serve("tcp:8001:interface=127.0.0.1", async move |near| {
            let far = connecting.connect_stream(TO).await?;
            noted.replace(Some(far.transport().clone()));
            // The server may reset it.
            let _ = copy_bidirectional(near, far).await;
            Ok(())
        })?;
        Ok((port, last))
    }
}

/// The seconds until the service and until its connection have ended; `None` if that takes [`LONG`].
type Times = [Option<f64>; 2];

fn times(
    place: &Place,
    (speaks, leaves, serves): (Speaks, Leaves, Serves),
    options: HttpOptions,
) -> Times {
    let mut place = place.clone();
    run(async move |reactor| {
        let dropped = Rc::<Cell<Option<std::time::Instant>>>::default();
        let over = DeferredEvent::new();
        let (serving, noted, ends) = (reactor.clone(), dropped.clone(), over.clone());
        let service = service_fn(move |request| {
            let guard = Guard(serving.clone(), noted.clone());
            let answer = serve(serving.clone(), serves, request, guard, ends.clone());
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let port = reactor.serve_http_with(&*place.at, any(service), options)?;
        let relay = match leaves {
            Leaves::Truncates => Some(place.relay(&reactor)?),
            _ => None,
        };
        let mut client = place.connect(&reactor, speaks).await?;
        client.write_all(asked(speaks, serves)).await?;
        reactor.sleep(5 * SECOND).await?;
        assert!(dropped.get().is_none(), "it serves");
        let begun = reactor.now();
        let mut client = match leaves {
            Leaves::Ends => {
                client.transport().lose_write_connection();
                Some(client)
            }
            Leaves::Truncates => {
                let (_, last) = relay.as_ref().expect("there is a relay");
                last.take().expect("it relays").lose_write_connection();
                Some(client)
            }
            Leaves::Cancels => {
                client.write_all(http2::reset(1, http2::CANCEL)).await?;
                Some(client)
            }
            Leaves::Vanishes => Some(client),
            Leaves::Resets => {
                client.abort();
                None
            }
        };
        let mut gone = None;
        while reactor.now() < begun + LONG && (gone.is_none() || dropped.get().is_none()) {
            if let Some(client) = &mut client {
                // The client reads everything.
                let mut buffer = [0; 4096];
                let reading = async { Ok(client.read(&mut buffer).await) };
                let _ = reactor.timeout(STEP / 100, reading).await;
            }
            reactor.sleep(STEP).await?;
            let open = reactor.snapshot().await?.connections;
            if gone.is_none() && !open.iter().any(|one| one.host.port() == Some(8000)) {
                gone = Some(reactor.now());
            }
        }
        let seconds = |at: std::time::Instant| (at - begun).as_secs_f64();
        let times = [dropped.get().map(seconds), gone.map(seconds)];
        drop(client);
        for port in relay.map(|(port, _)| port).into_iter().chain([port]) {
            ended(port, ()).await?;
        }
        over.set();
        reactor.sleep(LONG).await?;
        Ok(times)
    })
}

#[track_caller]
fn assert_times(what: &str, got: Times, wanted: [Option<u64>; 2]) {
    for (got, wanted) in got.into_iter().zip(wanted) {
        let is_right = match (got, wanted) {
            (None, None) => true,
            (Some(got), Some(wanted)) => (wanted as f64 - 0.1..=wanted as f64 + 1.5).contains(&got),
            _ => false,
        };
        assert!(is_right, "{what}: {got:?} for {wanted:?}");
    }
}

#[test]
fn c58a_c58b_nothing_is_left_of_a_client_that_has_left() {
    use Leaves::{Cancels, Ends, Resets, Truncates, Vanishes};
    use Serves::{Events, Half, Nothing, Receives, Upload};
    use Speaks::{Http1, Http2, Tunnel, WebSocket, WebSocketOverHttp2};
    let folder = Folder::new();
    let places = [("plain", Place::plain()), ("TLS", Place::tls(&folder))];
    #[rustfmt::skip]
    let limits = [
        ("default", HttpOptions::default(), Some(30), Some(0)),
        ("5 s", HttpOptions::default().half_close_timeout(5 * SECOND).http2_half_close_timeout(5 * SECOND), Some(5), Some(5)),
        ("none", HttpOptions::default().half_close_timeout(None).http2_half_close_timeout(None), None, None),
    ];
    for (layer, place) in &places {
        for (limit, options, http1, http2) in &limits {
            let expect = |case: (Speaks, Leaves, Serves), wanted: [Option<u64>; 2]| {
                let what = format!("{layer}, {limit}: {case:?}");
                assert_times(&what, times(place, case, options.clone()), wanted);
            };
            let (http1, http2) = (*http1, *http2);
            for serves in [Nothing, Upload, Half, Events] {
                expect((Http1, Ends, serves), [http1; 2]);
                expect((Http2, Ends, serves), [http2; 2]);
                expect((Http1, Resets, serves), [Some(0); 2]);
                expect((Http2, Resets, serves), [Some(0); 2]);
                if *layer == "TLS" {
                    // Behind a body that is not read, the FIN is not known to come too early.
                    let of_http1 = if serves == Upload { http1 } else { Some(0) };
                    expect((Http1, Truncates, serves), [of_http1; 2]);
                    expect((Http2, Truncates, serves), [Some(0); 2]);
                }
                // Twice its keep-alive, as its GOAWAY is ignored, and the deadline of its close.
                expect((Http2, Cancels, serves), [Some(0), Some(180)]);
            }
            for serves in [Nothing, Events] {
                expect((WebSocket, Ends, serves), [http1; 2]);
            }
            // The handler gets an error.
            expect((WebSocket, Ends, Receives), [Some(0); 2]);
            expect((WebSocket, Resets, Receives), [Some(0); 2]);
            expect((WebSocket, Resets, Nothing), [http1, Some(0)]);
            if *layer == "TLS" {
                expect((WebSocket, Truncates, Receives), [Some(0); 2]);
                expect((WebSocket, Truncates, Nothing), [http1, Some(0)]);
                expect((WebSocketOverHttp2, Truncates, Receives), [Some(0); 2]);
                expect((WebSocketOverHttp2, Truncates, Nothing), [http1, Some(0)]);
                expect((Tunnel, Truncates, Nothing), [None, Some(0)]);
            }
            // Not by its ping, which is for those that receive, but by the probes of the system.
            expect((WebSocket, Vanishes, Nothing), [None; 2]);
            // A ping and its answer take 30 s each, the client was silent for 5 s.
            expect((WebSocket, Vanishes, Receives), [Some(54); 2]);
            expect((WebSocketOverHttp2, Ends, Nothing), [http1, Some(0)]);
            expect((WebSocketOverHttp2, Ends, Receives), [Some(0); 2]);
            expect((WebSocketOverHttp2, Resets, Nothing), [http1, Some(0)]);
            expect((WebSocketOverHttp2, Cancels, Nothing), [http1, http1.map(|it| it + 180)]);
            expect((Tunnel, Ends, Nothing), [None, http1]);
            expect((Tunnel, Resets, Nothing), [None, Some(0)]);
        }
    }
}

#[test]
fn c58b_long_polls_of_clients_that_left_do_not_block_a_port() {
    const PLACES: usize = 50;
    run(async |reactor| {
        let serving = reactor.clone();
        let service = service_fn(move |request: Request<Body>| {
            let serving = serving.clone();
            async move {
                if request.uri().path() == "/poll" {
                    let _ = serving.sleep(LONG).await;
                }
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
            }
        });
        let at = format!("{AT}:connections={PLACES}");
        let port = reactor.serve_http(&*at, any(service))?;
        for asked in [kit::get("/poll").into_bytes(), [hello(), http2::get(1, "/poll")].concat()] {
            // Again, in the places of the first.
            for _ in 0..2 {
                for _ in 0..PLACES {
                    opened(&reactor, &asked).await?.shutdown().await?;
                }
                let begun = reactor.now();
                let last = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
                let got = heard(&mut opened(&reactor, last).await?, &reactor, LONG).await?;
                assert_eq!(got.status(), Some(200));
                assert!(reactor.now() - begun <= 31 * SECOND, "{:?}", reactor.now() - begun);
            }
        }
        ended(port, ()).await
    });
}

#[test]
fn c58b_the_clock_of_the_service_stops_while_the_client_takes_no_output() {
    const SIZE: usize = 2_000_000;
    let big = async |_: Reactor, _: Request<Body>| {
        let pieces =
            (0..SIZE / 10_000).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 10_000])));
        Ok(Response::new(StreamBody::new(stream::iter(pieces.map(|it| it.map(Part::data))))))
    };
    // The client ends its side at once, or while it takes no output.
    for pause in [0, 10] {
        let options = HttpOptions::default().half_close_timeout(5 * SECOND);
        beside_service(options, big, async move |reactor| {
            let mut client = opened(&reactor, kit::get("/")).await?;
            reactor.sleep(pause * SECOND).await?;
            client.shutdown().await?;
            reactor.sleep(2 * pause * SECOND).await?;
            let (mut count, mut buffer) = (0, vec![0; 100_000]);
            loop {
                reactor.sleep(2 * SECOND).await?;
                match client.read(&mut buffer).await? {
                    0 => break,
                    n => count += n,
                }
            }
            assert!(count > SIZE, "{count} bytes of {SIZE}");
            Ok(())
        });
    }
}

#[test]
fn c58b_the_clock_of_the_service_resumes_where_it_stopped() {
    const SIZE: usize = 2_000_000;
    let service = async |reactor: Reactor, _: Request<Body>| {
        let big = async move {
            let _ = reactor.sleep(8 * SECOND).await;
            Ok::<_, Infallible>(Part::data(Bytes::from(vec![b'x'; SIZE])))
        };
        let pieces = stream::once(big).chain(stream::pending());
        Ok(Response::new(StreamBody::new(Box::pin(pieces))))
    };
    let options = HttpOptions::default().half_close_timeout(10 * SECOND);
    beside_service(options, service, async |reactor| {
        let begun = reactor.now();
        let mut client = opened(&reactor, kit::get("/")).await?;
        client.shutdown().await?;
        reactor.sleep(20 * SECOND).await?;
        let got = heard(&mut client, &reactor, LONG).await?;
        assert!(got.is_closed && got.bytes.len() > SIZE, "{} bytes of {SIZE}", got.bytes.len());
        // 2 s of the service's 10 s were left when the client stopped to read.
        assert_eq!(reactor.now() - begun, 22 * SECOND);
        Ok(())
    });
}

#[test]
fn c58b_pipelined_requests_share_the_time_after_the_clients_end() {
    let slow = async |reactor: Reactor, request: Request<Body>| {
        let _ = reactor.sleep(3 * SECOND).await;
        Ok(Response::new(Full::<Bytes>::from(request.uri().path().to_owned())))
    };
    let options = HttpOptions::default().half_close_timeout(5 * SECOND);
    beside_service(options, slow, async |reactor| {
        let begun = reactor.now();
        let all = ["/1", "/2", "/3"].map(kit::get).concat();
        let mut client = opened(&reactor, all).await?;
        client.shutdown().await?;
        let mut got = Vec::new();
        client.read_to_end(&mut got, 10_000).await.expect("no response is cut");
        let got = String::from_utf8(got)?;
        assert!(got.ends_with("/1"), "{got}");
        assert_eq!(reactor.now() - begun, 5 * SECOND);
        Ok(())
    });
}

#[test]
fn c58b_c175_a_handler_can_wait_for_its_client_to_leave() {
    for (http2, leaves) in [
        (false, Leaves::Ends),
        (false, Leaves::Resets),
        (true, Leaves::Ends),
        (true, Leaves::Resets),
    ] {
        let heard_of = Rc::<Cell<u32>>::default();
        let noted = heard_of.clone();
        let service = async move |reactor: Reactor, request: Request<Body>| {
            let left = request.extensions().get::<ClientLeft>().expect("the option is set").clone();
            assert!(!left.has_left());
            // A task may outlive the service, which a reset drops.
            let (watching, counts) = (left.clone(), noted.clone());
            let watches = async move {
                watching.wait().await;
                counts.set(counts.get() + 1);
                Ok(())
            };
            reactor.spawn(watches).detach();
            left.wait().await;
            assert!(left.has_left());
            Ok(Response::new(Full::<Bytes>::from("left")))
        };
        let options = HttpOptions::default().client_left(true).http2_half_close_timeout(LONG);
        beside_service(options, service, async move |reactor| {
            for round in 1..=2 {
                let asked = match http2 {
                    true => [hello(), http2::get(1, "/")].concat(),
                    false => kit::get("/").into_bytes(),
                };
                let mut client = opened(&reactor, asked).await?;
                reactor.sleep(SECOND).await?;
                assert_eq!(heard_of.get(), round - 1);
                if leaves == Leaves::Resets {
                    client.abort();
                    reactor.sleep(SECOND).await?;
                } else {
                    client.shutdown().await?;
                    let got = heard(&mut client, &reactor, SECOND).await?;
                    assert!(got.is_closed && got.text().contains("left"), "{}", got.text());
                }
                assert_eq!(heard_of.get(), round);
            }
            Ok(())
        });
    }
}

#[test]
fn c58b_c175_requests_learn_that_their_client_has_left() {
    let service = async |_: Reactor, request: Request<Body>| {
        let left = request.extensions().get::<ClientLeft>().expect("the option is set").clone();
        left.wait().await;
        assert!(left.has_left());
        Ok(Response::new(Full::<Bytes>::from("left")))
    };
    let http1 = kit::get("/").repeat(3).into_bytes();
    let http2 = [hello(), [1, 3, 5].map(|id| http2::get(id, "/")).concat()].concat();
    for asked in [http1, http2] {
        let options = HttpOptions::default().client_left(true).http2_half_close_timeout(LONG);
        beside_service(options, service, async move |reactor| {
            let mut client = opened(&reactor, asked).await?;
            client.shutdown().await?;
            let got = heard(&mut client, &reactor, SECOND).await?;
            assert!(got.is_closed, "{}", got.text());
            assert_eq!(got.text().matches("left").count(), 3, "{}", got.text());
            Ok(())
        });
    }
}
