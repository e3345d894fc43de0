//! The parts of services that run in all loops, in one of these loops: each is started, reports its
//! health and its end, and is stopped, as the main loop asks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use couplet::hooks::SortedMap;
use couplet::services::{Child, Health, Service};
use couplet::{Deferred, LoopingCall, Reactor, Resolver};

/// Makes the part of a service in a loop.
pub(crate) type MakePart = dyn Fn(&Reactor) -> couplet::Result<Child> + Send + Sync;

/// The health of a part, which its loop renews.
#[derive(Clone)]
pub(crate) struct SharedHealth(Arc<Mutex<Health>>);

impl Default for SharedHealth {
    fn default() -> SharedHealth {
        SharedHealth(Arc::new(Mutex::new(Health::Starting)))
    }
}

impl SharedHealth {
    pub(crate) fn read(&self) -> Health {
        self.lock().clone()
    }

    fn set(&self, health: Health) {
        *self.lock() = health;
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a loop renews the health of a part.
const RENEWAL: Duration = Duration::from_secs(1);

thread_local! {
    /// The parts of this loop that have started, by the numbers of their runs.
    static PARTS: RefCell<SortedMap<u64, Rc<Part>>> = const { RefCell::new(SortedMap::new()) };
}

/// A part that has started, or starts.
struct Part {
    /// `None` while one of its methods runs.
    child: RefCell<Option<Child>>,
    end: RefCell<End>,
}

/// The end of a part.
enum End {
    /// Not requested yet.
    Kept(Option<Deferred<()>>),
    Awaited,
    /// The part runs until it is stopped.
    Never {
        #[expect(dead_code, reason = "its Deferred is pending as long as the part runs")]
        resolver: Resolver<()>,
    },
}

/// Makes a part and starts it. The Deferred fires when the part has started.
pub(crate) fn start(
    reactor: &Reactor,
    run: u64,
    make: &MakePart,
    health: SharedHealth,
) -> Deferred<()> {
    let child = match make(reactor) {
        Ok(child) => child,
        Err(failure) => return Deferred::fail(failure),
    };
    let part = Rc::new(Part { child: RefCell::new(Some(child)), end: RefCell::new(End::Awaited) });
    let (starting, reactor) = (part.call(|child| child.start(reactor)), reactor.clone());
    starting.map(move |()| {
        PARTS.with_borrow_mut(|parts| parts.insert(run, part.clone()));
        let end = part.call(Service::take_end);
        part.end.replace(End::Kept(end));
        health.set(part.clone().health());
        renew_health(&reactor, &part, health);
    })
}

/// Renews the health of a part until it is stopped.
fn renew_health(reactor: &Reactor, part: &Rc<Part>, health: SharedHealth) {
    let part = Rc::downgrade(part);
    let call = Rc::new(RefCell::new(None::<LoopingCall>));
    let own = call.clone();
    let renewal = LoopingCall::new(reactor, move || match part.upgrade() {
        Some(part) => health.set(part.health()),
        None => {
            if let Some(call) = own.take() {
                call.stop();
            }
        }
    });
    *call.borrow_mut() = Some(renewal.clone());
    renewal.start(RENEWAL).detach();
}

/// The end of a part without a stop.
pub(crate) fn end(run: u64) -> Deferred<()> {
    let part = PARTS.with_borrow(|parts| parts.get(&run).cloned());
    let Some(part) = part else { return Deferred::succeed(()) };
    if let End::Kept(Some(end)) = part.end.replace(End::Awaited) {
        return end;
    }
    let (never, resolver) = Deferred::new();
    part.end.replace(End::Never { resolver });
    never
}

/// Drops the parts of a loop that has ended without stopping them.
pub(crate) fn forget_all() {
    drop(PARTS.take());
}

/// Stops a part, if it has started.
pub(crate) fn stop(run: u64) -> Deferred<()> {
    let part = PARTS.with_borrow_mut(|parts| parts.remove(&run));
    let Some(part) = part else { return Deferred::succeed(()) };
    let stopping = part.call(Service::stop);
    stopping.add_both(move |outcome| {
        drop(part);
        outcome
    })
}

impl Part {
    fn health(self: Rc<Self>) -> Health {
        let said = Rc::new(RefCell::new(Health::Starting));
        let answer = said.clone();
        // Called in a callback, so that a panic is contained.
        let asked = Deferred::succeed(()).map(move |()| self.call(|child| child.health()));
        asked
            .add_errback(|panic| Ok(Health::Failed(panic.to_string())))
            .map(move |health| *answer.borrow_mut() = health)
            .detach();
        said.replace(Health::Starting)
    }

    /// Calls a method of the part, while nothing is borrowed.
    fn call<R>(&self, method: impl FnOnce(&mut Child) -> R) -> R {
        struct Lent<'a>(&'a Part, Option<Child>);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                *self.0.child.borrow_mut() = self.1.take();
            }
        }
        let child = self.child.borrow_mut().take();
        let mut lent = Lent(self, child);
        method(lent.1.as_mut().expect("a part is called by one method at a time"))
    }
}

#[cfg(test)]
mod tests {
    use couplet::services::TimerService;
    use couplet::testing::MemoryReactor;

    use super::*;

    #[test]
    fn the_health_of_a_part_is_known_once_it_has_started_and_renewed_until_it_stops() {
        let mut memory = MemoryReactor::new();
        let reactor = memory.reactor();
        let make = |_: &Reactor| {
            Ok(Child::new(TimerService::new("part", Duration::from_secs(1000), || ())))
        };
        let health = SharedHealth::default();
        let seen = Rc::new(RefCell::new(Health::Starting));
        let (slot, read) = (seen.clone(), health.clone());
        let started = start(&reactor, u64::MAX, &make, health);
        started.map(move |()| *slot.borrow_mut() = read.read()).detach();
        memory.settle();
        assert_eq!(*seen.borrow(), Health::Ready);
        memory.advance(2 * RENEWAL);
        stop(u64::MAX).detach();
        memory.advance(2 * RENEWAL);
        let calls = Rc::new(RefCell::new(None));
        let slot = calls.clone();
        let snapshot = reactor.snapshot();
        snapshot.map(move |snapshot| *slot.borrow_mut() = Some(snapshot.pending_calls)).detach();
        memory.settle();
        assert_eq!(*calls.borrow(), Some(0));
    }
}
