//! Reads of every kind, one after another: bytes read as they arrive and bytes read later give the
//! same result.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use couplet::task::yield_now;
use couplet::{Result, Stream};
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use proptest::prelude::*;

use super::{connected, start};
use crate::secure::Rig;

#[derive(Clone, Copy, Debug)]
enum Act {
    Read(usize),
    Exact(usize),
    Until,
    Buf(usize),
    /// Polls a `read_until` this many times, and drops it.
    GivesUp(usize),
    /// Races a `read_until` with a timer.
    Races,
    /// Reads in a part of a task that has its own waker.
    Apart(usize),
    /// Waits without reading.
    Sleep(u64),
    Yield,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (1..40_usize).prop_map(Act::Read),
        (1..40_usize).prop_map(Act::Exact),
        Just(Act::Until),
        (1..40_usize).prop_map(Act::Buf),
        (1..4_usize).prop_map(Act::GivesUp),
        Just(Act::Races),
        (1..40_usize).prop_map(Act::Apart),
        (0..3_u64).prop_map(Act::Sleep),
        Just(Act::Yield),
    ];
    prop::collection::vec(act, 1..12)
}

/// Performs one act; false at the end of the stream.
async fn act(stream: &mut Stream, act: Act, got: &RefCell<Vec<u8>>) -> Result<bool> {
    let reactor = stream.transport().reactor().clone();
    let keep = |bytes: &[u8]| {
        got.borrow_mut().extend_from_slice(bytes);
        !bytes.is_empty()
    };
    let mut buffer = [0; 40];
    match act {
        Act::Read(n) => {
            let n = stream.read(&mut buffer[..n]).await?;
            return Ok(keep(&buffer[..n]));
        }
        Act::Exact(n) => {
            // At the end of the stream, the buffer has the bytes read so far.
            buffer[..n].fill(b'-');
            let read = stream.read_exact(&mut buffer[..n]).await;
            let n =
                if read.is_ok() { n } else { buffer.iter().take_while(|b| **b != b'-').count() };
            keep(&buffer[..n]);
            return Ok(read.is_ok());
        }
        Act::Until => return Ok(keep(&stream.read_until(b'\n', 1 << 20).await?)),
        Act::Buf(n) => {
            let mut bytes = bytes::BytesMut::with_capacity(64);
            let mut limited = bytes::BufMut::limit(&mut bytes, n);
            stream.read_buf(&mut limited).await?;
            return Ok(keep(&bytes));
        }
        Act::GivesUp(polls) => {
            let mut reading = pin!(stream.read_until(b'\n', 1 << 20));
            for _ in 0..polls {
                let polled = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
                if let Poll::Ready(line) = polled {
                    return Ok(keep(&line?));
                }
                yield_now().await;
            }
        }
        Act::Races => {
            let sleep = reactor.sleep(Duration::from_millis(1));
            match select(pin!(stream.read_until(b'\n', 1 << 20)), sleep).await {
                Either::Left((line, _)) => return Ok(keep(&line?)),
                Either::Right((slept, _)) => slept?,
            }
        }
        Act::Apart(n) => {
            let part: Pin<Box<dyn Future<Output = std::io::Result<usize>> + '_>> =
                Box::pin(stream.read(&mut buffer[..n]));
            let mut parts = FuturesUnordered::from_iter([part]);
            let read = parts.next().await.expect("there is one")?;
            drop(parts);
            return Ok(keep(&buffer[..read]));
        }
        Act::Sleep(n) => reactor.sleep(Duration::from_millis(n)).await?,
        Act::Yield => yield_now().await,
    }
    Ok(true)
}

/// Letters and line ends, but no dash.
fn sent(pieces: &[(usize, usize)]) -> Vec<u8> {
    let len = pieces.iter().map(|(len, _)| len).sum::<usize>();
    (0..len).map(|at| if at % 23 == 22 { b'\n' } else { b'a' + (at % 19) as u8 }).collect()
}

fn step(rig: &mut Rig) {
    rig.network.advance(Duration::from_millis(1));
    for _ in 0..4 {
        rig.l.turn(Some(Duration::ZERO)).expect("memory does not fail");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_comes_once_and_in_order_whatever_reads_it(
        acts in acts(),
        pieces in prop::collection::vec((1..100_usize, 0..4_usize), 1..30),
        capacity in 1..200_usize,
    ) {
        for mut rig in Rig::both() {
            rig.network.set_capacity(capacity);
            let (mut stream, wire) = connected(&mut rig);
            let (sent, got) = (sent(&pieces), Rc::<RefCell<Vec<u8>>>::default());
            let (script, kept) = (acts.clone(), got.clone());
            let reading = start(&mut rig, async move {
                for next in script.iter().chain(&[Act::Read(7)]).cycle() {
                    if !act(&mut stream, *next, &kept).await? {
                        break;
                    }
                }
                // Collects any bytes that the last act left.
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest, 1 << 20).await?;
                kept.borrow_mut().extend(rest);
                Ok(())
            });
            let mut rest = &sent[..];
            for (len, turns) in &pieces {
                let mut piece;
                (piece, rest) = rest.split_at(*len);
                let mut tries = 0;
                while !piece.is_empty() {
                    piece = &piece[wire.push(piece)..];
                    if !piece.is_empty() {
                        step(&mut rig);
                    }
                    tries += 1;
                    prop_assert!(tries < 1000, "the reader has stopped: {acts:?}");
                }
                for _ in 0..*turns {
                    rig.l.turn(Some(Duration::ZERO)).expect("memory does not fail");
                }
            }
            wire.fin();
            for _ in 0..2000 {
                if !reading.is_pending() {
                    break;
                }
                step(&mut rig);
            }
            prop_assert!(!reading.is_pending(), "it never ends");
            prop_assert!(reading.take().is_ok());
            prop_assert_eq!(&*got.borrow(), &sent);
        }
    }
}
