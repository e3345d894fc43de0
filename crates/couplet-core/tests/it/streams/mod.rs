//! Streams: connections in async style, over the memory driver in both manners, and over real
//! sockets.

mod cancelling;
mod copying;
mod ends;
mod framed;
mod lent;
mod reading;
#[cfg(unix)]
mod real;
mod send;
mod taken;
mod tls;
mod traits;
mod writing;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use couplet::testing::Wire;
use couplet::{Address, Result, Stream};

use crate::secure::Rig;
use crate::suite::kit::LOOPBACK;

/// A stream that has connected, and the wire of its peer.
fn connected(rig: &mut Rig) -> (Stream, Wire) {
    let port = rig.network.listen(LOOPBACK, 1).expect("a free port");
    let connecting = rig.reactor.connect_stream(port.to_string());
    let stream = finish(rig, connecting);
    let wire = rig.network.accept(port).expect("it has connected");
    (stream, wire)
}

/// A stream that has connected, in both manners of the driver.
fn both_connected() -> impl Iterator<Item = (Rig, Stream, Wire)> {
    Rig::both().into_iter().map(|mut rig| {
        let (stream, wire) = connected(&mut rig);
        (rig, stream, wire)
    })
}

/// A future that runs as a task; `None` while it is pending.
struct Running<T>(Rc<RefCell<Option<Result<T>>>>);

impl<T> Running<T> {
    fn is_pending(&self) -> bool {
        self.0.borrow().is_none()
    }

    #[track_caller]
    fn take(&self) -> Result<T> {
        self.0.borrow_mut().take().expect("it has finished")
    }
}

fn start<T: 'static>(
    rig: &mut Rig,
    future: impl Future<Output = Result<T>> + 'static,
) -> Running<T> {
    let result = Rc::new(RefCell::new(None));
    let place = result.clone();
    let task = rig.reactor.spawn(async move {
        let output = future.await;
        *place.borrow_mut() = Some(output);
        Ok(())
    });
    task.detach();
    rig.turn();
    Running(result)
}

/// Runs a future to its end, which needs no further input.
#[track_caller]
fn finish<T: 'static>(rig: &mut Rig, future: impl Future<Output = Result<T>> + 'static) -> T {
    start(rig, future).take().expect("it succeeds")
}

/// A port that serves with this handler.
fn serve(rig: &Rig, handle: impl AsyncFn(Stream) -> Result<()> + 'static) -> Address {
    rig.reactor.serve("tcp:0:interface=127.0.0.1", handle).expect("a free port").host()
}

/// Polls once, with a waker that does nothing.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A stream in a cell, for tests that use it in several tasks one after another.
type Held = Rc<RefCell<Option<Stream>>>;

/// Runs `f` with the stream, and puts it back.
#[track_caller]
fn with<T: 'static>(
    rig: &mut Rig,
    held: &Held,
    f: impl AsyncFnOnce(&mut Stream) -> Result<T> + 'static,
) -> Running<T> {
    let held = held.clone();
    start(rig, async move {
        let mut stream = held.take().expect("one at a time");
        let output = f(&mut stream).await;
        *held.borrow_mut() = Some(stream);
        output
    })
}

fn hold(stream: Stream) -> Held {
    Rc::new(RefCell::new(Some(stream)))
}
