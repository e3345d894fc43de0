//! The new process of a restart: it inherits the sockets of all ports, and reports that it serves.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::env;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use couplet::endpoints::FdClient;
use couplet::protocols::{IntReceiver, StringProtocol, StringTransport};
use couplet::reactor::HandedOver;
use couplet::{By, Deferred, Failure, Loop, Reactor, Reason, Resolver};

use super::generations::{Generation, Generations};
use super::wire::{self, Envelope, Reply, Request};
use super::{LINK, STARTED_BY, Takers};
use crate::loops::Loops;
use crate::places::{self, Place, PlacedSocket};

/// A process that the program's older process has started.
pub(crate) struct Heir {
    has_connected: Cell<bool>,
}

impl Heir {
    /// `None` if this process is the first.
    pub(crate) fn find() -> Option<Heir> {
        let starter: u32 = env::var(STARTED_BY).ok()?.parse().ok()?;
        let is_child = starter == std::os::unix::process::parent_id();
        is_child.then(|| Heir { has_connected: Cell::new(false) })
    }

    /// Receives the inheritance. The older process then waits for [`Older::ready`].
    pub(crate) fn receive(&self, loops: &Loops, takers: &Takers) -> Deferred<Inheritance> {
        let (deferred, resolver) = Deferred::new();
        let receiving = Box::new(Receiving::new(loops.clone(), takers.clone(), resolver));
        self.connect(loops.reactor(), HeirStage::Receiving(receiving)).detach();
        deferred
    }

    /// Reports to the older process that this one can't start, if nothing has been received.
    pub(crate) fn refuse(&self, words: &str) {
        if self.has_connected.get() {
            return;
        }
        let refused = Loop::new().map_err(Failure::from).and_then(|mut l| {
            l.run(|reactor| {
                let stopping = reactor.clone();
                let refused = self.connect(reactor, HeirStage::Refusing(words.to_owned()));
                let stopped = refused.add_both(move |_| {
                    stopping.stop();
                    Ok(())
                });
                stopped.detach();
                Ok(())
            })
        });
        if let Err(failure) = refused {
            tracing::debug!("cannot tell the older process: {failure}");
        }
    }

    /// The Deferred fires when the connection is lost.
    fn connect(&self, reactor: &Reactor, stage: HeirStage) -> Deferred<()> {
        self.has_connected.set(true);
        let (lost, resolver) = Deferred::new();
        let link = Link { stage, descriptors: VecDeque::new(), lost: Some(resolver) };
        let link = IntReceiver::<u32, _>::new(link).with_max_length(wire::MOST);
        let connected = reactor.connect_protocol(FdClient::new(LINK), link);
        connected.map(drop).then(move |()| lost)
    }
}

/// The inheritance of this process, apart from the sockets, which wait at their places.
pub(crate) struct Inheritance {
    pub(crate) generations: Generations,
    pub(crate) pid_file: Option<OwnedFd>,
    pub(crate) link: Older,
}

/// The older process, which waits for this one to start, and then gives its connections.
#[derive(Clone)]
pub(crate) struct Older(Rc<OlderCell>);

struct OlderCell {
    transport: StringTransport,
    stage: RefCell<Alone>,
    takers: Takers,
    loops: Loops,
    /// Connections that have moved, until all have.
    arrived: RefCell<Vec<HandedOver>>,
}

impl Older {
    /// Reports to the older process that this one can serve. The Deferred fires when this one is alone:
    /// the older one has given everything, or has died.
    pub(crate) fn ready(&self) -> Deferred<()> {
        if self.is_alone() {
            return Deferred::succeed(());
        }
        let (deferred, resolver) = Deferred::new();
        *self.0.stage.borrow_mut() = Alone::Waits(resolver);
        wire::send_reply(&self.0.transport, Reply::Serves { kinds: self.0.takers.kinds() });
        deferred
    }

    /// Reports to the older process that this one can't start.
    pub(crate) fn fail(&self, words: &str) {
        wire::send_reply(&self.0.transport, Reply::Failed(words.to_owned()));
    }

    fn is_alone(&self) -> bool {
        matches!(*self.0.stage.borrow(), Alone::Yes)
    }

    /// The older process has given everything, or has died: serves the connections that have come.
    fn become_alone(&self) {
        let before = self.0.stage.replace(Alone::Yes);
        if let Alone::Waits(resolver) = before {
            resolver.callback(());
        }
        let OlderCell { takers, loops, arrived, .. } = &*self.0;
        let arrived = arrived.take();
        if !arrived.is_empty() {
            tracing::info!(connections = arrived.len(), "took connections over");
        }
        for handed in arrived {
            takers.take_over(loops, handed);
        }
    }

    /// Reports to the older process that this one has taken over.
    pub(crate) fn confirm(&self) {
        wire::send_reply(&self.0.transport, Reply::Done);
    }

    /// Handles a request after the start. Returns whether it is answered now.
    fn handle(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
        record: &[u8],
    ) -> couplet::Result<bool> {
        match request {
            Request::Connections { lengths } => self.arrive(&lengths, descriptors, record)?,
            Request::Moved => {
                self.become_alone();
                return Ok(false);
            }
            Request::Forget if !self.is_alone() => drop(self.0.arrived.take()),
            _ => return Err(Failure::msg("a message came too late")),
        }
        Ok(true)
    }

    fn arrive(
        &self,
        lengths: &[usize],
        descriptors: Vec<OwnedFd>,
        mut records: &[u8],
    ) -> couplet::Result<()> {
        for (length, socket) in lengths.iter().zip(descriptors) {
            let (record, rest) = records
                .split_at_checked(*length)
                .ok_or_else(|| Failure::msg("the record of a connection is cut"))?;
            records = rest;
            self.0.arrived.borrow_mut().push(HandedOver::from_parts(socket, record)?);
        }
        Ok(())
    }
}

/// Whether this process is alone.
enum Alone {
    /// This process starts.
    NotYet,
    /// This process serves, and waits for the older one to finish.
    Waits(Resolver<()>),
    Yes,
}

/// The connection to the older process.
struct Link {
    stage: HeirStage,
    /// Descriptors of the next request.
    descriptors: VecDeque<OwnedFd>,
    lost: Option<Resolver<()>>,
}

enum HeirStage {
    Refusing(String),
    Receiving(Box<Receiving>),
    Starting(Older),
    Lost,
}

struct Receiving {
    generation: Option<u32>,
    older: Vec<Generation>,
    sockets: Vec<(Place, PlacedSocket)>,
    pid_file: Option<OwnedFd>,
    loops: Loops,
    takers: Takers,
    done: Option<Resolver<Inheritance>>,
}

impl Receiving {
    fn new(loops: Loops, takers: Takers, done: Resolver<Inheritance>) -> Receiving {
        let (older, sockets) = (Vec::new(), Vec::new());
        let (generation, pid_file, done) = (None, None, Some(done));
        Receiving { generation, older, sockets, pid_file, loops, takers, done }
    }

    fn take(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> couplet::Result<()> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || {
            descriptors.next().ok_or_else(|| Failure::msg("a message came without its descriptor"))
        };
        match request {
            Request::Hello { version: wire::VERSION, generation } => {
                self.generation = Some(generation);
            }
            Request::Hello { version, .. } => {
                let ours = wire::VERSION;
                return Err(Failure::msg(format!(
                    "the running program hands over by version {version}, this one by {ours}"
                )));
            }
            Request::Generation { number, pid } => {
                self.older.push(Generation::new(number, pid, next()?)?);
            }
            Request::Socket(place) => {
                let first = next()?;
                let descriptors = std::iter::once(first).chain(descriptors).collect();
                let socket = PlacedSocket::from_descriptors(descriptors).map_err(|error| {
                    Failure::msg(format!("cannot inherit the socket {place}: {error}"))
                })?;
                self.sockets.push((place, socket));
            }
            Request::PidFile => self.pid_file = Some(next()?),
            Request::Start | Request::Connections { .. } | Request::Moved | Request::Forget => {
                return Err(Failure::msg("a message came too early"));
            }
        }
        Ok(())
    }

    fn finish(&mut self, transport: &StringTransport) -> couplet::Result<Older> {
        let generation = self.generation.ok_or_else(|| Failure::msg("a message is missing"))?;
        let generations = Generations::new(generation, std::mem::take(&mut self.older))?;
        places::inherit(std::mem::take(&mut self.sockets));
        let cell = OlderCell {
            transport: transport.clone(),
            stage: RefCell::new(Alone::NotYet),
            takers: self.takers.clone(),
            loops: self.loops.clone(),
            arrived: RefCell::default(),
        };
        let (older, pid_file) = (Older(Rc::new(cell)), self.pid_file.take());
        if let Some(done) = self.done.take() {
            done.callback(Inheritance { generations, pid_file, link: older.clone() });
        }
        Ok(older)
    }
}

impl Link {
    /// Handles a request. Returns its answer, if it comes now.
    fn handle(&mut self, transport: &StringTransport, string: &[u8]) -> couplet::Result<bool> {
        let (Envelope { descriptors, request }, record) = wire::read(string)?;
        let descriptors = wire::take(&mut self.descriptors, descriptors)?;
        match (&mut self.stage, request) {
            (HeirStage::Refusing(words), _) => Err(Failure::msg(words.clone())),
            (HeirStage::Receiving(receiving), Request::Start) => {
                self.stage = HeirStage::Starting(receiving.finish(transport)?);
                Ok(false)
            }
            (HeirStage::Receiving(receiving), request) => {
                receiving.take(request, descriptors).map(|()| true)
            }
            (HeirStage::Starting(older), request) => older.handle(request, descriptors, record),
            (HeirStage::Lost, _) => Err(Failure::msg("a message came too late")),
        }
    }
}

impl StringProtocol for Link {
    fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
        match self.handle(transport, string) {
            Ok(true) => wire::send_reply(transport, Reply::Done),
            Ok(false) => {}
            Err(failure) => {
                wire::send_reply(transport, Reply::Failed(failure.to_string()));
                if matches!(self.stage, HeirStage::Refusing(_)) {
                    transport.lose_connection();
                }
            }
        }
    }

    fn descriptor_received(&mut self, _: &StringTransport, descriptor: OwnedFd) {
        self.descriptors.push_back(descriptor);
    }

    fn connection_lost(&mut self, _: &StringTransport, reason: &Reason) {
        match std::mem::replace(&mut self.stage, HeirStage::Lost) {
            // The older process has died, or this one has refused a message of it.
            HeirStage::Starting(older) => {
                if matches!(reason, Reason::Lost(_) | Reason::Done(By::Peer)) {
                    older.become_alone();
                }
            }
            HeirStage::Receiving(mut receiving) => {
                if let Some(done) = receiving.done.take() {
                    done.errback(Failure::msg(format!("the older process is lost: {reason}")));
                }
            }
            HeirStage::Refusing(_) | HeirStage::Lost => {}
        }
        if let Some(lost) = self.lost.take() {
            lost.callback(());
        }
    }
}
