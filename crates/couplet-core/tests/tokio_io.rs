//! Streams used by tokio's libraries: its `copy_bidirectional`, and a codec of `tokio-util`.

#[macro_use]
extern crate couplet_testkit;

use couplet::testing::{Manner, Memory};
use couplet::{Loop, LoopOptions, Result, Stream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio_util::codec::{Framed, LinesCodec};

/// Runs a task on a loop over the memory driver, with this capacity of its connections; returns its
/// result.
fn run<T: 'static>(
    manner: Manner,
    capacity: usize,
    talk: impl AsyncFnOnce(couplet::Reactor) -> Result<T> + 'static,
) -> T {
    let (driver, network) = Memory::new(manner, 1);
    network.set_capacity(capacity);
    let mut l = Loop::with_driver(driver, LoopOptions::default());
    let reactor = l.reactor();
    let task = reactor.clone().spawn(talk(reactor));
    l.run_until(task).expect("the talk ends")
}

#[test]
fn tokio_copies_between_two_streams_and_half_closes_both() {
    for manner in [Manner::Readiness, Manner::Completion] {
        let echoed = run(manner, 3000, async |reactor| {
            let echo = reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
                let (mut reads, mut writes) = stream.split();
                tokio::io::copy(&mut reads, &mut writes).await?;
                Ok(writes.shutdown().await?)
            })?;
            let to = echo.host().to_string();
            let connects = reactor.clone();
            let proxy =
                reactor.serve("tcp:0:interface=127.0.0.1", async move |mut near: Stream| {
                    let mut far = connects.connect_stream(&to).await?;
                    copy_bidirectional(&mut near, &mut far).await?;
                    Ok(())
                })?;
            let (mut reads, mut writes) =
                reactor.connect_stream(proxy.host().to_string()).await?.split();
            let sent: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
            let expected = sent.clone();
            let writing = reactor.spawn(async move {
                AsyncWriteExt::write_all(&mut writes, &sent).await?;
                Ok(AsyncWriteExt::shutdown(&mut writes).await?)
            });
            let mut received = Vec::new();
            AsyncReadExt::read_to_end(&mut reads, &mut received).await?;
            writing.await?;
            Ok(received == expected)
        });
        assert!(echoed, "what came back is what was sent");
    }
}

#[test]
fn a_codec_of_tokio_util_frames_a_stream() {
    let answer = run(Manner::Readiness, 10, async |reactor| {
        let port = reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            let mut lines = Framed::new(stream, LinesCodec::new());
            while let Some(line) = lines.next().await {
                lines.send(line?.to_uppercase()).await?;
            }
            Ok(())
        })?;
        let stream = reactor.connect_stream(port.host().to_string()).await?;
        let mut lines = Framed::new(stream, LinesCodec::new());
        lines.send("a line that is cut").await?;
        Ok(lines.next().await.transpose()?)
    });
    assert_eq!(answer.as_deref(), Some("A LINE THAT IS CUT"));
}
