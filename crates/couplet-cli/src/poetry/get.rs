//! `couplet poetry get`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::defer::Canceller;
use couplet::endpoints::ClientEndpoint;
use couplet::{
    ConnectionLost, Deferred, Failure, Loop, LoopOptions, Protocol, Reactor, Reason, Resolver,
    Transport,
};

use crate::cli::{Get, Logging};
use crate::endpoint::Peer;
use crate::exit::Exit;
use crate::output;
use crate::progress::{Bar, Progress};

/// Collects one poem, and gives it out when it is whole.
struct PoetryClient {
    poem: Vec<u8>,
    max_bytes: u64,
    bar: Bar,
    order: Rc<Order>,
}

/// The poem is longer than we want it.
#[derive(Debug)]
struct TooLong(u64);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is longer than {} bytes (--max-bytes sets the limit)", self.0)
    }
}

impl std::error::Error for TooLong {}

/// The connection ended before the poem did.
#[derive(Debug)]
struct CutShort {
    bytes: usize,
    lost: ConnectionLost,
}

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it was cut after {} bytes: {}", self.bytes, self.lost)
    }
}

impl std::error::Error for CutShort {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.lost)
    }
}

impl Protocol for PoetryClient {
    fn connection_made(&mut self, transport: &Transport) {
        self.order.transport.replace(Some(transport.clone()));
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if (self.poem.len() + data.len()) as u64 > self.max_bytes {
            self.order.arrived(Err(TooLong(self.max_bytes).into()));
            return transport.abort_connection();
        }
        self.poem.extend_from_slice(data);
        self.bar.add(data.len(), transport.reactor().now());
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        if reason.is_clean() {
            self.order.arrived(Ok(std::mem::take(&mut self.poem)));
        } else {
            let lost = ConnectionLost(reason.clone());
            self.order.arrived(Err(CutShort { bytes: self.poem.len(), lost }.into()));
        }
    }
}

/// Gets one poem. Cancelling it ends the attempt to connect, or the connection.
pub(crate) fn get_poem(
    reactor: &Reactor,
    from: ClientEndpoint,
    max_bytes: u64,
    bar: Bar,
) -> Deferred<Vec<u8>> {
    let order = Rc::new(Order::default());
    let cancelled = order.clone();
    let (poem, whole) = Deferred::with_canceller(move |_resolver| cancelled.cancel());
    order.whole.replace(Some(whole));
    let mut client = Some(PoetryClient { poem: Vec::new(), max_bytes, bar, order: order.clone() });
    let connecting = reactor.connect(from, move |_: &couplet::Address| client.take());
    order.connecting.replace(Some(connecting.canceller()));
    let connected = connecting.add_both(move |connection| {
        if let Err(failure) = connection {
            order.arrived(Err(failure));
        }
        Ok(())
    });
    connected.detach();
    poem
}

/// A poem that was asked for: who waits for it, and what brings it.
#[derive(Default)]
struct Order {
    whole: RefCell<Option<Resolver<Vec<u8>>>>,
    connecting: RefCell<Option<Canceller>>,
    transport: RefCell<Option<Transport>>,
}

impl Order {
    /// The poem, or why there is none; what comes first counts.
    fn arrived(&self, poem: couplet::Result<Vec<u8>>) {
        let whole = self.whole.borrow_mut().take();
        if let Some(whole) = whole {
            whole.resolve(poem);
        }
    }

    fn cancel(&self) {
        if let Some(connecting) = self.connecting.take() {
            connecting.cancel();
        }
        if let Some(transport) = self.transport.take() {
            transport.abort_connection();
        }
    }
}

/// What became of the poems, in the order of the addresses.
struct Collected {
    poems: Vec<Option<Result<Vec<u8>, Failure>>>,
    printed: usize,
    bytes: usize,
    failed: usize,
}

pub(crate) fn run(options: Get, logging: &Logging) -> Result<(), Exit> {
    let progress = Progress::new(logging);
    let mut l = Loop::with_options(LoopOptions::default().signals(true)).map_err(Exit::failed)?;
    let count = options.addresses.len();
    let collected = Rc::new(RefCell::new(Collected {
        poems: (0..count).map(|_| None).collect(),
        printed: 0,
        bytes: 0,
        failed: 0,
    }));
    let printed: Rc<Cell<Option<Exit>>> = Rc::default();
    let (began, waiting) = (l.reactor().now(), Rc::new(Cell::new(count)));
    l.run(|reactor| {
        for (index, address) in options.addresses.into_iter().enumerate() {
            let bar = progress.bar(&address.name, None, began);
            let poem = get_one(reactor, &address, options.timeout, options.max_bytes, &bar);
            let (collected, printed) = (collected.clone(), printed.clone());
            let (progress, waiting, reactor) = (progress.clone(), waiting.clone(), reactor.clone());
            let arrived = poem.add_both(move |poem| {
                let took = reactor.now().saturating_duration_since(began);
                tell(&progress, &bar, &address.name, &poem, took);
                collected.borrow_mut().poems[index] = Some(poem);
                waiting.set(waiting.get() - 1);
                if let Err(exit) = progress.suspend(|| collected.borrow_mut().print()) {
                    printed.set(Some(exit));
                    reactor.stop();
                } else if waiting.get() == 0 {
                    reactor.stop();
                }
                Ok(())
            });
            arrived.detach();
        }
        Ok(())
    })?;
    if let Some(exit) = printed.take() {
        return Err(exit);
    }
    if let Some(signal) = l.stopped_by().filter(|_| waiting.get() > 0) {
        return Err(Exit::interrupted(signal));
    }
    let took = l.reactor().now().saturating_duration_since(began);
    let collected = collected.borrow();
    let (whole, bytes) = (count - collected.failed, collected.bytes);
    progress
        .line(&format!("{whole} of {count} poems, {bytes} bytes in {:.1} s", took.as_secs_f64()));
    if collected.failed > 0 { Err(Exit::failed_quietly()) } else { Ok(()) }
}

fn get_one(
    reactor: &Reactor,
    address: &Peer<ClientEndpoint>,
    timeout: Option<Duration>,
    max_bytes: u64,
    bar: &Bar,
) -> Deferred<Vec<u8>> {
    let poem = get_poem(reactor, address.endpoint.clone(), max_bytes, bar.clone());
    match timeout {
        Some(timeout) => poem.add_timeout(reactor, timeout),
        None => poem,
    }
}

fn tell(
    progress: &Progress,
    bar: &Bar,
    name: &str,
    poem: &Result<Vec<u8>, Failure>,
    took: Duration,
) {
    match poem {
        Ok(poem) => {
            bar.finish("done");
            let took = took.as_secs_f64();
            progress.line(&format!("{name}: a poem of {} bytes in {took:.1} s", poem.len()));
        }
        Err(failure) => {
            bar.finish("failed");
            progress.line(&format!("no poem from {name}: {}", why(failure)));
        }
    }
}

fn why(failure: &Failure) -> String {
    match failure.downcast_ref::<couplet::defer::TimedOut>() {
        Some(late) => format!("it was not whole after {} s", late.after.as_secs_f64()),
        None => failure.to_string(),
    }
}

impl Collected {
    /// Prints the poems that have come and before which none is missing.
    fn print(&mut self) -> Result<(), Exit> {
        while let Some(Some(poem)) = self.poems.get_mut(self.printed) {
            match std::mem::replace(poem, Ok(Vec::new())) {
                Ok(poem) => {
                    self.bytes += poem.len();
                    output::print(&poem)?;
                }
                Err(_) => self.failed += 1,
            }
            self.printed += 1;
        }
        Ok(())
    }
}

/// The time between two moments, in seconds.
pub(crate) fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
