//! A file, sent piece by piece: row 74 of the contract. Threads read the pieces, so these tests run
//! on real loops.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use couplet::protocols::{FileCut, FileSent, send_file};
use couplet::transport::ProducerRegistered;
use couplet::{
    Deferred, Failure, Producer, ProducerKind, Protocol, Reactor, Reason, Resolver, Result,
    Transport,
};

const PIECE: usize = 16 * 1024;

/// Yields `left` bytes, then the end or an error.
struct Source {
    left: usize,
    fails: bool,
    /// The sizes of the reads.
    reads: Arc<Mutex<Vec<usize>>>,
    drops: Arc<AtomicUsize>,
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = into.len().min(self.left);
        (0..n).for_each(|at| into[at] = pattern(self.left - at));
        self.left -= n;
        self.reads.lock().expect("no panic while locked").push(n);
        match self.fails && n == 0 {
            true => Err(io::Error::other("the disk is on fire")),
            false => Ok(n),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

fn pattern(left: usize) -> u8 {
    (left % 251) as u8
}

#[derive(Clone, Default)]
struct Log {
    reads: Arc<Mutex<Vec<usize>>>,
    drops: Arc<AtomicUsize>,
}

impl Log {
    fn source(&self, left: usize) -> Source {
        Source { left, fails: false, reads: self.reads.clone(), drops: self.drops.clone() }
    }

    fn reads(&self) -> Vec<usize> {
        self.reads.lock().expect("no panic while locked").clone()
    }
}

/// Serves a new connection; the Deferred fires with the outcome.
type Serve = Rc<dyn Fn(&Transport) -> Deferred<String>>;

struct Server {
    serve: Serve,
    outcome: Option<Resolver<String>>,
}

impl Protocol for Server {
    fn connection_made(&mut self, transport: &Transport) {
        let outcome = self.outcome.take().expect("one connection");
        (self.serve)(transport)
            .add_both(move |result| {
                outcome.resolve(result);
                Ok(())
            })
            .detach();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Collects the received bytes, and aborts after `leaves_at` of them.
struct Client {
    received: Rc<RefCell<Vec<u8>>>,
    leaves_at: usize,
    ended: Option<Resolver<()>>,
}

impl Protocol for Client {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.received.borrow_mut().extend_from_slice(data);
        if self.received.borrow().len() >= self.leaves_at {
            transport.abort_connection();
        }
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        if let Some(ended) = self.ended.take() {
            ended.callback(());
        }
    }
}

/// The outcome at the server, and the bytes that the client received before its connection ended.
fn serve(
    leaves_at: usize,
    serve: impl Fn(&Transport) -> Deferred<String> + 'static,
) -> (Result<String>, Vec<u8>) {
    let received = Rc::<RefCell<Vec<u8>>>::default();
    let outcome = Rc::new(RefCell::new(None));
    let (collected, told) = (received.clone(), outcome.clone());
    couplet::run_until(move |reactor: &Reactor| {
        let (deferred, resolver) = Deferred::new();
        let (serve, mut resolver) = (Rc::new(serve) as Serve, Some(resolver));
        let server = move || Server { serve: serve.clone(), outcome: resolver.take() };
        let port = reactor.listen("tcp:0:interface=127.0.0.1", server).expect("a free port");
        let (ended, ends) = Deferred::new();
        let client = Client { received: collected, leaves_at, ended: Some(ends) };
        reactor.connect_protocol(port.host().to_string(), client).detach();
        deferred
            .add_both(move |result| {
                *told.borrow_mut() = Some(result);
                Ok(())
            })
            .then(move |()| ended)
    })
    .expect("the connection ends");
    let outcome = outcome.borrow_mut().take().expect("an outcome");
    (outcome, received.take())
}

fn said(sent: FileSent) -> String {
    format!("{} {:?}", sent.len, sent.last)
}

#[test]
fn c74_a_file_is_sent_in_pieces_of_16_kib_and_its_last_byte_is_reported() {
    for len in [0, 1, PIECE, PIECE + 1, 1_000_000] {
        let log = Log::default();
        let file = log.clone();
        let (outcome, received) = serve(usize::MAX, move |transport| {
            let closing = transport.clone();
            send_file(transport, file.source(len)).map(move |sent| {
                // The file has left already.
                assert_eq!(closing.buffered(), 0);
                closing.lose_connection();
                said(sent)
            })
        });
        let last = (len > 0).then(|| pattern(1));
        assert_eq!(outcome.expect("it is sent"), format!("{len} {last:?}"));
        assert!(received == (0..len).map(|at| pattern(len - at)).collect::<Vec<_>>());
        let mut reads = vec![PIECE; len / PIECE];
        reads.extend((len % PIECE > 0).then_some(len % PIECE));
        reads.push(0);
        assert_eq!((log.reads(), log.drops.load(Ordering::SeqCst)), (reads, 1));
    }
}

/// Yields its bytes one by one, each after an interruption.
struct Interrupted {
    bytes: &'static [u8],
    is_interrupted: bool,
}

impl Read for Interrupted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.is_interrupted = !self.is_interrupted;
        if self.is_interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.bytes.read(&mut into[..1])
    }
}

#[test]
fn c74_interrupted_reads_are_repeated_and_a_second_file_follows_the_first() {
    let (outcome, received) = serve(usize::MAX, |transport| {
        let file = |bytes| Interrupted { bytes, is_interrupted: false };
        let (again, closing) = (transport.clone(), transport.clone());
        let first = send_file(transport, file(b"rose"));
        first.then(move |first| {
            let second = send_file(&again, file(b"red"));
            second.map(move |second| {
                closing.lose_connection();
                format!("{}, {}", said(first), said(second))
            })
        })
    });
    assert_eq!(outcome.expect("both are sent"), "4 Some(101), 3 Some(100)");
    assert_eq!(received, b"rosered");
}

#[test]
fn c74_a_close_waits_for_the_file() {
    let log = Log::default();
    let (outcome, received) = serve(usize::MAX, move |transport| {
        let sending = send_file(transport, log.source(200_000)).map(said);
        transport.lose_connection();
        sending
    });
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(received.len(), 200_000);
}

#[test]
fn c74_a_connection_that_ends_stops_the_file() {
    let log = Log::default();
    let file = log.clone();
    let (outcome, _) =
        serve(100_000, move |transport| send_file(transport, file.source(usize::MAX)).map(said));
    let failure = outcome.expect_err("it is cut");
    let cut: &FileCut = failure.downcast_ref().expect("the connection ended");
    assert!(cut.written >= 100_000, "{cut}");
    assert_eq!(log.drops.load(Ordering::SeqCst), 1, "the file is closed");
}

#[test]
fn c74_a_read_that_fails_leaves_the_connection_to_its_protocol() {
    let log = Log::default();
    let (outcome, received) = serve(usize::MAX, move |transport| {
        let (mut file, after) = (log.source(20_000), transport.clone());
        file.fails = true;
        send_file(transport, file).map(said).recover(move |failure| {
            after.write("sorry");
            after.lose_connection();
            Deferred::fail(failure)
        })
    });
    let failure = outcome.expect_err("the disk is on fire");
    assert!(failure.is::<io::Error>() && failure.to_string().contains("on fire"), "{failure}");
    assert_eq!(received.len(), 20_005);
}

#[test]
fn c74_a_cancelled_file_leaves_the_connection_as_it_is() {
    let (outcome, received) = serve(usize::MAX, move |transport| {
        let sending = send_file(transport, Log::default().source(usize::MAX)).map(said);
        let (canceller, after) = (sending.canceller(), transport.clone());
        let delayed = transport.reactor().call_later(Duration::ZERO, move || {
            canceller.cancel();
            assert!(after.wants_data(), "nothing but the file has ended");
            after.write("enough");
            after.lose_connection();
        });
        drop(delayed);
        sending
    });
    assert!(outcome.as_ref().is_err_and(Failure::is_cancelled), "{outcome:?}");
    assert!(received.ends_with(b"enough"));
}

/// Yields its bytes once it may.
struct Gated {
    begun: mpsc::Sender<()>,
    opened: mpsc::Receiver<()>,
}

impl Read for Gated {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.begun.send(()).expect("the test waits");
        self.opened.recv().expect("the test opens it");
        into.fill(b'x');
        Ok(into.len())
    }
}

#[test]
fn a_piece_that_was_being_read_when_its_file_was_cancelled_is_not_sent() {
    let (outcome, received) = serve(usize::MAX, |transport| {
        let ((begun, begins), (opens, opened)) = (mpsc::channel(), mpsc::channel());
        let sending = send_file(transport, Gated { begun, opened }).map(said);
        let (canceller, after) = (sending.canceller(), transport.clone());
        let reactor = transport.reactor().clone();
        let begun = reactor.defer_to_thread(move || Ok(begins.recv()?));
        let ending = begun.then(move |()| {
            canceller.cancel();
            opens.send(()).expect("it waits");
            // Long enough for a piece that would be sent.
            reactor.sleep(Duration::from_millis(50))
        });
        ending
            .map(move |()| {
                after.write("enough");
                after.lose_connection();
            })
            .detach();
        sending
    });
    assert!(outcome.is_err_and(|failure| failure.is_cancelled()));
    assert_eq!(received, b"enough");
}

#[test]
fn c67_a_file_is_not_sent_beside_another_producer() {
    struct Other;
    impl Producer for Other {
        fn resume_producing(&mut self) {}
    }
    let log = Log::default();
    let file = log.clone();
    let (outcome, received) = serve(usize::MAX, move |transport| {
        transport.register_producer(Other, ProducerKind::Push).expect("the first");
        let refused = send_file(transport, file.source(1)).map(said);
        transport.unregister_producer();
        transport.lose_connection();
        refused
    });
    assert!(outcome.expect_err("there is one").is::<ProducerRegistered>());
    assert_eq!((received.len(), log.reads().len(), log.drops.load(Ordering::SeqCst)), (0, 0, 1));
}
