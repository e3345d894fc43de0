//! A stream for libraries that require `Send`: in its own thread, and in another.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use couplet::Stream;
use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const ANY: &str = "tcp:0:interface=127.0.0.1";

#[test]
fn a_send_stream_works_in_its_thread_fails_in_another_and_is_closed_by_a_drop_there() {
    let ran = couplet::run_until(|reactor| {
        let reactor = reactor.clone();
        reactor.clone().spawn(async move {
            let (ended, has_ended) = couplet::Deferred::new();
            let has_ended = std::cell::Cell::new(Some(has_ended));
            let port = reactor.serve(ANY, async move |mut stream: Stream| {
                let line = stream.read_line().await?.unwrap_or_default();
                stream.write_all([&line[..], b", too"].concat()).await?;
                let rest = stream.read_to_end(&mut Vec::new(), 100).await;
                has_ended.take().expect("one connection").callback(rest);
                Ok(())
            })?;
            let mut stream = reactor.connect_stream(port.host().to_string()).await?.into_send();
            stream.write_all(b"hello\n").await?;
            let mut answer = [0; 10];
            stream.read_exact(&mut answer).await?;
            assert_eq!(&answer, b"hello, too");
            let elsewhere = reactor.defer_to_thread(move || {
                let mut cx = Context::from_waker(Waker::noop());
                let mut pinned = Pin::new(&mut stream);
                let read = AsyncRead::poll_read(pinned.as_mut(), &mut cx, &mut [0; 10]);
                let written = AsyncWrite::poll_write(pinned.as_mut(), &mut cx, b"not sent");
                let closed = AsyncWrite::poll_close(pinned, &mut cx).map_ok(|()| 0);
                assert_eq!(format!("{stream:?}"), "SendStream(None)");
                drop(stream);
                Ok([read, written, closed])
            });
            for polled in elsewhere.await? {
                let Poll::Ready(Err(error)) = polled else { panic!("{polled:?}") };
                assert_eq!(
                    error.to_string(),
                    "cannot use the stream outside the thread of its loop"
                );
            }
            assert_eq!(ended.await??, 0, "nothing more, and the end");
            Ok(())
        })
    });
    ran.expect("the program succeeds");
}
