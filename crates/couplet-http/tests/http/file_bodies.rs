//! Bodies that are sent from files, by both versions, and read by wrappers.

use std::convert::Infallible;
use std::error::Error;
use std::fs::File;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use couplet::http::{Body, FileBody, HttpOptions, Request, Response};
use couplet::transport::SharedFile;
use couplet::{Bytes, Reactor, Result as Done, Stream};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::rt::{Read, ReadBuf, Write};

use crate::http2::{DATA, END_HEADERS, Frame, HEADERS, frame, frames, more, post, update};
use crate::http2::{get as get_h2, hello};
use crate::kit::{beside_files, beside_service, get, heard, opened, said};
use crate::logged::logged;
use crate::needed::Folder;

const SECOND: Duration = Duration::from_secs(1);

/// A file of 300 000 bytes.
fn noise() -> Vec<u8> {
    (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn shared(folder: &Folder) -> SharedFile {
    let path = folder.write("file", noise());
    // A change within the same tick of the system's clock is a change of the time then.
    let past = std::time::UNIX_EPOCH + SECOND;
    File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
    SharedFile::new(File::open(path).unwrap()).unwrap()
}

fn body(file: &SharedFile) -> FileBody {
    let mut body = FileBody::default();
    body.push_bytes("before ");
    body.push_file(file, 10..300_000);
    body.push_bytes("");
    body.push_file(file, 5..5);
    body.push_file(file, 0..3);
    body.push_bytes(" after");
    body
}

fn all() -> Vec<u8> {
    let noise = noise();
    [b"before ", &noise[10..], &noise[..3], b" after"].concat()
}

type Answered = Result<Response<FileBody>, Infallible>;

/// A service that answers with the file.
fn service(
    file: &SharedFile,
) -> impl AsyncFn(Reactor, Request<Body>) -> Answered + Clone + 'static {
    let file = file.clone();
    move |_, _| {
        let answer = Response::new(body(&file));
        async move { Ok(answer) }
    }
}

#[test]
fn bytes_and_parts_of_files_make_one_body_of_http1() {
    let folder = Folder::new();
    let got =
        beside_files(HttpOptions::default(), service(&shared(&folder)), async move |reactor| {
            said(&reactor, get("/").repeat(3)).await
        });
    let answers = got.bytes.windows(4).filter(|bytes| bytes == b"HTTP").count();
    assert_eq!(answers, 3, "{} bytes", got.bytes.len());
    let mut rest = &got.bytes[..];
    for _ in 0..3 {
        let at = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&rest[..at]).into_owned();
        assert!(head.contains(&format!("content-length: {}\r\n", all().len())), "{head}");
        assert!(rest[at..].starts_with(&all()));
        rest = &rest[at + all().len()..];
    }
    assert!(rest.is_empty());
}

#[test]
fn bytes_and_parts_of_files_make_one_body_of_http2() {
    let folder = Folder::new();
    let got =
        beside_files(HttpOptions::default(), service(&shared(&folder)), async move |reactor| {
            let windows = [0, 1].map(|stream| update(stream, 1_000_000));
            let bytes = [hello(), get_h2(1, "/"), windows.concat()].concat();
            heard(&mut opened(&reactor, bytes).await?, &reactor, SECOND).await
        });
    let data = frames(&got.bytes).into_iter().filter(|frame| frame.kind == DATA);
    let data: Vec<u8> = data.flat_map(|frame| frame.payload).collect();
    assert!(data == all(), "{} bytes", data.len());
}

#[test]
fn a_file_that_has_changed_ends_the_connection_and_never_completes() {
    let folder = Folder::new();
    let file = shared(&folder);
    File::options().write(true).open(folder.path("file")).unwrap().set_len(299_999).unwrap();
    for request in [get("/").into_bytes(), [hello(), get_h2(1, "/")].concat()] {
        let (got, lines) = logged(|| {
            beside_files(HttpOptions::default(), service(&file), async move |reactor| {
                heard(&mut opened(&reactor, request).await?, &reactor, SECOND).await
            })
        });
        assert!(got.is_closed && got.bytes.len() < 1000, "{} bytes", got.bytes.len());
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.contains("message=a response was cut off"), "{line}");
        assert!(line.contains("error=the file changed while it was sent"), "{line}");
        assert!(line.contains("connection=") && line.contains("peer=tcp:127."), "{line}");
    }
}

#[test]
fn a_wrapper_reads_the_same_bytes_and_an_error_where_the_file_has_changed() {
    let folder = Folder::new();
    let file = shared(&folder);
    let collect = |body: FileBody| {
        assert_eq!(body.size_hint().exact(), Some(all().len() as u64));
        let mut frames = Box::pin(body.collect());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match frames.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(read) => read.map(|read| read.to_bytes()),
            std::task::Poll::Pending => unreachable!("a file is read at once"),
        }
    };
    assert!(collect(body(&file)).unwrap() == all());
    let wraps = file.clone();
    let wrapped = async move |_: Reactor, _: Request<Body>| {
        Ok(Response::new(body(&wraps).map_err(|error| error)))
    };
    let got = beside_service(HttpOptions::default(), wrapped, async move |reactor| {
        said(&reactor, get("/")).await
    });
    assert!(got.bytes.ends_with(&all()));
    File::options().write(true).open(folder.path("file")).unwrap().set_len(1000).unwrap();
    let mut changed = body(&file);
    assert!(collect(body(&file)).is_err());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut next = || std::pin::Pin::new(&mut changed).poll_frame(&mut cx);
    let first = next().map(|frame| frame.unwrap().unwrap().into_data().unwrap());
    assert_eq!(first, std::task::Poll::Ready(Bytes::from("before ")));
    assert!(matches!(next(), std::task::Poll::Ready(Some(Err(_)))));
    assert!(matches!(next(), std::task::Poll::Ready(None)), "nothing follows");
}

#[test]
fn c175c_files_of_one_connection_take_turns() {
    let folder = Folder::new();
    let file = shared(&folder);
    beside_files(HttpOptions::default(), service(&file), async move |reactor| {
        let room = |stream| update(stream, 10_000_000);
        let files = [1, 3, 5].map(|stream| [get_h2(stream, "/a"), room(stream)].concat());
        let mut stream = opened(&reactor, [hello(), room(0)].concat()).await?;
        let got = more(&mut stream, &reactor, files.concat()).await?;
        let sent = |until: usize, stream| {
            let frames = got[..until].iter().filter(|it| (it.kind, it.stream) == (DATA, stream));
            frames.map(|it| it.payload.len()).sum::<usize>()
        };
        for until in 0..got.len() {
            let sent = [1, 3, 5].map(|stream| sent(until, stream));
            let least = sent.iter().min().expect("three");
            // Whole frames, and the short pieces around the file.
            assert!(sent.iter().all(|sent| sent - least <= 2 * 16_384), "{until}: {sent:?}");
        }
        assert_eq!([1, 3, 5].map(|stream| sent(got.len(), stream)), [all().len(); 3]);
        Ok(())
    });
}

#[test]
fn c175c_a_short_response_overtakes_a_file() {
    let folder = Folder::new();
    let file = shared(&folder);
    let service = async move |_: Reactor, request: Request<Body>| {
        let mut body = FileBody::default();
        body.push_bytes("short");
        Ok(Response::new(if request.uri().path() == "/long" { long(&file) } else { body }))
    };
    beside_files(HttpOptions::default(), service, async move |reactor| {
        let room = |stream| update(stream, 10_000_000);
        let asked = [hello(), room(0), get_h2(1, "/long"), room(1)].concat();
        let mut stream = opened(&reactor, asked).await?;
        let mut buffer = [0; 4096];
        let mut bytes = Vec::new();
        // Twice: the file's turns continue after the first.
        for id in [3, 5] {
            while bytes.len() < id as usize * 100_000 {
                let count = stream.read(&mut buffer).await?;
                bytes.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(get_h2(id, "/short")).await?;
        }
        bytes.extend(heard(&mut stream, &reactor, SECOND).await?.bytes);
        let got = frames(&bytes);
        let last = |stream| got.iter().rposition(|it| (it.kind, it.stream) == (DATA, stream));
        assert!(last(3) < last(5) && last(5) < last(1), "{:?}", [3, 5, 1].map(last));
        let of_long = got.iter().filter(|it| (it.kind, it.stream) == (DATA, 1));
        assert_eq!(of_long.map(|it| it.payload.len()).sum::<usize>(), 20 * 300_000);
        Ok(())
    });
}

/// A file of 6 MB, in 20 pieces.
fn long(file: &SharedFile) -> FileBody {
    let mut body = FileBody::default();
    (0..20).for_each(|_| body.push_file(file, 0..300_000));
    body
}

/// Reads the next frame.
async fn next_frame(stream: &mut Stream, unread: &mut Vec<u8>) -> Done<Frame> {
    loop {
        if let Some(&[a, b, c]) = unread.first_chunk() {
            let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
            if unread.len() >= end {
                let bytes: Vec<u8> = unread.drain(..end).collect();
                return Ok(frames(&bytes).remove(0));
            }
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await?;
        assert_ne!(count, 0, "the server has closed");
        unread.extend_from_slice(&buffer[..count]);
    }
}

/// Reads a long file, and during that sends events on a stream that returns them. Checks that few
/// bytes of the file overtake an event.
async fn send_events(reactor: Reactor, head: Vec<u8>) -> Done<()> {
    let room = |stream| update(stream, 100_000_000);
    let asked = [hello(), room(0), get_h2(1, "/long"), room(1), head].concat();
    let (mut stream, mut unread) = (opened(&reactor, asked).await?, Vec::new());
    for count in 1..=10 {
        for awaits_event in [false, true] {
            let mut passed = 0;
            while passed < MOST {
                let got = next_frame(&mut stream, &mut unread).await?;
                if (got.kind, got.stream) == (DATA, 1) {
                    passed += got.payload.len();
                } else if (got.kind, got.stream) == (DATA, 3) && !got.payload.is_empty() {
                    assert_eq!((awaits_event, &got.payload[..]), (true, &b"event"[..]));
                    break;
                }
            }
            if awaits_event {
                assert!(passed < MOST, "event {count}: behind {passed} bytes");
            } else {
                stream.write_all(frame(DATA, 0, 3, b"event")).await?;
            }
        }
    }
    stream.abort();
    reactor.sleep(SECOND).await
}

/// Bytes of a file on their way: in the transport, and a turn's.
const MOST: usize = 300_000;

#[test]
fn c175c_an_event_stream_next_to_a_file_keeps_its_pace() {
    let folder = Folder::new();
    let file = shared(&folder);
    let service = async move |_: Reactor, request: Request<Body>| {
        type Failure = Box<dyn Error + Send + Sync>;
        Ok(Response::new(match request.uri().path() {
            "/long" => long(&file).map_err(Failure::from).boxed_unsync(),
            _ => request.into_body().map_err(Failure::from).boxed_unsync(),
        }))
    };
    beside_service(HttpOptions::default(), service, async |reactor| {
        send_events(reactor, post(3, "/events", b"")).await
    });
}

/// A WebSocket, for example.
#[test]
fn c175c_a_tunnel_next_to_a_file_keeps_its_pace() {
    let folder = Folder::new();
    let file = shared(&folder);
    let service = async move |reactor: Reactor, mut request: Request<Body>| {
        if request.uri().path() == "/long" {
            return Ok(Response::new(long(&file)));
        }
        let upgrading = hyper::upgrade::on(&mut request);
        let echoing = async move {
            let mut io = pin!(upgrading.await?);
            loop {
                let mut room = [0; 1000];
                let mut buffer = ReadBuf::new(&mut room);
                let read = poll_fn(|cx| io.as_mut().poll_read(cx, buffer.unfilled())).await;
                if read.is_err() || buffer.filled().is_empty() {
                    return Ok(());
                }
                let count = poll_fn(|cx| io.as_mut().poll_write(cx, buffer.filled())).await?;
                assert_eq!(count, buffer.filled().len());
            }
        };
        reactor.spawn(echoing).detach();
        Ok(Response::new(FileBody::default()))
    };
    let head = [&[0x02, 7], &b"CONNECT"[..], &[0x01, 3], b"a:1"].concat();
    beside_files(HttpOptions::default(), service, async move |reactor| {
        send_events(reactor, frame(HEADERS, END_HEADERS, 3, &head)).await
    });
}
