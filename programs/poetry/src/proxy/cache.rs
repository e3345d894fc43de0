//! One poem for many clients: fetched once, cached for a while, delivered to all waiters.
//!
//! Contract: 220.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use couplet::defer::{Cancelled, Canceller};
use couplet::{Deferred, Failure, Reactor, Resolver};

/// A poem delivered by one fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edition {
    /// The number of the fetch.
    pub(crate) number: u64,
    pub(crate) text: Bytes,
}

/// A whole poem as it arrives.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) text: Bytes,
    /// The time since it was complete, perhaps in another proxy.
    pub(crate) age: Duration,
}

impl From<Bytes> for Fetched {
    fn from(text: Bytes) -> Fetched {
        Fetched { text, age: Duration::ZERO }
    }
}

/// Fetches one whole poem; cancelling it stops the fetch.
type Fetch = dyn Fn(&Reactor) -> Deferred<Fetched>;

/// Caches the last poem fetched; clones share it.
#[derive(Clone)]
pub(crate) struct Cache(Rc<CacheCell>);

struct CacheCell {
    fetch: Box<Fetch>,
    ttl: Option<Duration>,
    fetches: Cell<u64>,
    waits: Cell<u64>,
    state: RefCell<CacheState>,
}

enum CacheState {
    Empty,
    Fetching {
        number: u64,
        /// Waiters in order of arrival.
        waiting: BTreeMap<u64, Resolver<Edition>>,
        fetch: Option<Canceller>,
    },
    Cached {
        poem: Edition,
        /// `None` means forever.
        until: Option<Instant>,
    },
}

impl Cache {
    /// Fetches on demand. A poem is cached for `ttl` after it is complete; `None` means forever,
    /// zero not at all.
    pub(crate) fn new<F: Into<Fetched> + 'static>(
        ttl: Option<Duration>,
        fetch: impl Fn(&Reactor) -> Deferred<F> + 'static,
    ) -> Cache {
        Cache(Rc::new(CacheCell {
            fetch: Box::new(move |reactor| fetch(reactor).map(Into::into)),
            ttl,
            fetches: Cell::new(0),
            waits: Cell::new(0),
            state: RefCell::new(CacheState::Empty),
        }))
    }

    /// The poem, from the cache or from a fetch that is in progress or starts now.
    ///
    /// Cancelling the Deferred removes this waiter; without other waiters the fetch is cancelled
    /// too.
    pub(crate) fn get(&self, reactor: &Reactor) -> Deferred<Edition> {
        if let Some(poem) = self.0.cached(reactor.now()) {
            return Deferred::succeed(poem);
        }
        let id = count(&self.0.waits);
        let cache = Rc::downgrade(&self.0);
        let (poem, resolver) = Deferred::with_canceller(move |_| leave(&cache, id));
        if let Some(number) = self.0.wait(id, resolver) {
            self.begin(number, reactor);
        }
        poem
    }

    fn begin(&self, number: u64, reactor: &Reactor) {
        let fetched = (self.0.fetch)(reactor);
        let canceller = fetched.canceller();
        match &mut *self.0.state.borrow_mut() {
            CacheState::Fetching { number: now, fetch, .. } if *now == number => {
                *fetch = Some(canceller);
            }
            _ => unreachable!("no waiter leaves or arrives while the fetch begins"),
        }
        let (cache, reactor) = (self.0.clone(), reactor.clone());
        let arrived = fetched.add_both(move |text| {
            cache.complete_fetch(number, text, reactor.now());
            Ok(())
        });
        arrived.detach();
    }
}

impl CacheCell {
    fn cached(&self, now: Instant) -> Option<Edition> {
        match &*self.state.borrow() {
            CacheState::Cached { poem, until } if until.is_none_or(|until| now < until) => {
                Some(poem.clone())
            }
            _ => None,
        }
    }

    /// Adds a waiter. Returns the number of the fetch to start, unless one is in progress.
    fn wait(&self, id: u64, resolver: Resolver<Edition>) -> Option<u64> {
        let mut state = self.state.borrow_mut();
        if let CacheState::Fetching { waiting, .. } = &mut *state {
            waiting.insert(id, resolver);
            return None;
        }
        let number = count(&self.fetches);
        let waiting = BTreeMap::from([(id, resolver)]);
        *state = CacheState::Fetching { number, waiting, fetch: None };
        Some(number)
    }

    /// Ends fetch `number`. A cancelled fetch has no waiters.
    fn complete_fetch(&self, number: u64, fetched: couplet::Result<Fetched>, now: Instant) {
        let ttl = match &fetched {
            Ok(Fetched { age, .. }) => self.ttl.map(|ttl| ttl.saturating_sub(*age)),
            Err(_) => None,
        };
        let poem = fetched.map(|Fetched { text, .. }| Edition { number, text });
        for resolver in self.take_waiters(number, &poem, ttl, now).into_values() {
            resolver.resolve(poem.clone());
        }
    }

    /// Leaves the state `Fetching`; returns the waiters.
    fn take_waiters(
        &self,
        number: u64,
        poem: &Result<Edition, Failure>,
        ttl: Option<Duration>,
        now: Instant,
    ) -> BTreeMap<u64, Resolver<Edition>> {
        let mut state = self.state.borrow_mut();
        if !matches!(&*state, CacheState::Fetching { number: current, .. } if *current == number) {
            return BTreeMap::new();
        }
        let next = match poem {
            Ok(poem) if ttl != Some(Duration::ZERO) => {
                // An expiry beyond the clock's range means forever.
                let until = ttl.and_then(|ttl| now.checked_add(ttl));
                CacheState::Cached { poem: poem.clone(), until }
            }
            _ => CacheState::Empty,
        };
        match std::mem::replace(&mut *state, next) {
            CacheState::Fetching { waiting, .. } => waiting,
            _ => BTreeMap::new(),
        }
    }
}

/// Removes a waiter; the last one cancels the fetch.
fn leave(cache: &Weak<CacheCell>, id: u64) {
    let Some(cache) = cache.upgrade() else { return };
    let (mut resolver, mut abandoned) = (None, None);
    let mut state = cache.state.borrow_mut();
    if let CacheState::Fetching { waiting, fetch, .. } = &mut *state {
        resolver = waiting.remove(&id);
        if waiting.is_empty() {
            abandoned = fetch.take();
            *state = CacheState::Empty;
        }
    }
    // Both the resolver and the canceller run callbacks.
    drop(state);
    if let Some(resolver) = resolver {
        resolver.errback(Cancelled::of("the wait for a poem"));
    }
    if let Some(fetch) = abandoned {
        fetch.cancel();
    }
}

fn count(counter: &Cell<u64>) -> u64 {
    counter.set(counter.get() + 1);
    counter.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held::Nobody;
    use couplet::testing::{Held, hold};

    /// The resolver of each fetch; a test sees cancellation through it.
    type Fetches = Rc<RefCell<Vec<Option<Resolver<Bytes>>>>>;

    struct Scene {
        clock: Held<Nobody>,
        cache: Cache,
        fetches: Fetches,
    }

    /// The outcome of a wait.
    #[derive(Clone)]
    struct Wait {
        outcome: Rc<RefCell<Option<Result<Edition, Failure>>>>,
        canceller: Canceller,
    }

    impl Scene {
        fn new(ttl: Option<u64>) -> Scene {
            let fetches = Fetches::default();
            let begun = fetches.clone();
            let cache = Cache::new(ttl.map(Duration::from_secs), move |_| {
                let (poem, resolver) = Deferred::new();
                begun.borrow_mut().push(Some(resolver));
                poem
            });
            Scene { clock: hold(Nobody), cache, fetches }
        }

        fn get(&self) -> Wait {
            let outcome = Rc::<RefCell<Option<_>>>::default();
            let slot = outcome.clone();
            let poem = self.cache.get(&self.clock.reactor());
            let canceller = poem.canceller();
            let told = poem.add_both(move |poem| {
                assert!(slot.replace(Some(poem)).is_none());
                Ok(())
            });
            told.detach();
            Wait { outcome, canceller }
        }

        fn fetches(&self) -> usize {
            self.fetches.borrow().len()
        }

        fn is_cancelled(&self, fetch: usize) -> bool {
            self.fetches.borrow()[fetch].as_ref().unwrap().is_cancelled()
        }

        fn answer(&self, fetch: usize, poem: &'static str) {
            let resolver = self.fetches.borrow_mut()[fetch].take().unwrap();
            resolver.callback(Bytes::from(poem));
        }
    }

    impl Wait {
        /// The poem; `None` while pending.
        fn got(&self) -> Option<String> {
            let text = |poem: &Result<Edition, Failure>| poem.as_ref().unwrap().text.to_vec();
            self.outcome.borrow().as_ref().map(|poem| String::from_utf8(text(poem)).unwrap())
        }
    }

    fn poem(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_client_that_leaves_cancels_only_its_own_wait() {
        let scene = Scene::new(None);
        let (one, two) = (scene.get(), scene.get());
        one.canceller.cancel();
        assert!(one.outcome.borrow().as_ref().unwrap().as_ref().unwrap_err().is_cancelled());
        assert!(!scene.is_cancelled(0));
        scene.answer(0, "a poem");
        assert_eq!(two.got(), poem("a poem"));
    }

    #[test]
    fn the_last_one_to_leave_cancels_the_fetch_and_the_next_one_begins_another() {
        let scene = Scene::new(None);
        let (one, two) = (scene.get(), scene.get());
        one.canceller.cancel();
        two.canceller.cancel();
        assert!(scene.is_cancelled(0));
        let three = scene.get();
        assert_eq!(scene.fetches(), 2);
        // The poem of the first fetch arrives after it was cancelled, and is dropped.
        scene.answer(0, "an old poem");
        assert_eq!(three.got(), None);
        scene.answer(1, "a poem");
        assert_eq!(three.got(), poem("a poem"));
    }

    #[test]
    fn leaving_after_the_poem_arrived_is_harmless() {
        let scene = Scene::new(None);
        let one = scene.get();
        scene.answer(0, "a poem");
        one.canceller.cancel();
        assert_eq!(scene.get().got(), poem("a poem"));
    }

    #[test]
    fn a_poem_is_fetched_anew_when_its_time_is_over_and_not_before() {
        let mut scene = Scene::new(Some(60));
        scene.get();
        // The time to live starts when the poem is complete.
        scene.clock.advance(Duration::from_secs(100));
        scene.answer(0, "old");
        scene.clock.advance(Duration::from_secs(59));
        assert_eq!(scene.get().got(), poem("old"));
        scene.clock.advance(Duration::from_secs(1));
        let wait = scene.get();
        assert_eq!(wait.got(), None);
        scene.answer(1, "new");
        assert_eq!(wait.got(), poem("new"));
        assert_eq!(wait.outcome.borrow().as_ref().unwrap().as_ref().unwrap().number, 2);
    }

    #[test]
    fn a_poem_of_another_proxy_is_kept_for_the_rest_of_its_time() {
        let mut clock = hold(Nobody);
        let fetches = Rc::new(Cell::new(0));
        let counting = fetches.clone();
        let cache = Cache::new(Some(Duration::from_secs(60)), move |_| {
            counting.set(counting.get() + 1);
            let (text, age) = (Bytes::from("a poem"), Duration::from_secs(50));
            Deferred::succeed(Fetched { text, age })
        });
        for (passes, expected) in [(0, 1), (9, 1), (1, 2)] {
            clock.advance(Duration::from_secs(passes));
            cache.get(&clock.reactor()).map(drop).detach();
            assert_eq!(fetches.get(), expected);
        }
    }

    #[test]
    fn a_ttl_beyond_the_clock_never_expires() {
        let mut scene = Scene::new(Some(u64::MAX));
        scene.get();
        scene.answer(0, "a poem");
        scene.clock.advance(Duration::from_secs(1_000_000_000));
        assert_eq!(scene.get().got(), poem("a poem"));
    }

    #[test]
    fn a_fetch_that_completes_immediately_is_delivered() {
        let clock = hold(Nobody);
        let cache = Cache::new(None, |_| Deferred::succeed(Bytes::from("a poem")));
        let got = Rc::new(Cell::new(false));
        let slot = got.clone();
        cache.get(&clock.reactor()).map(move |_| slot.set(true)).detach();
        assert!(got.get());
    }
}
