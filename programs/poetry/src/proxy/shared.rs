//! A cache in Redis that several proxies share: one fetches the poem for all.
//!
//! A poem is a key that expires. The proxy that fetches it holds another key as a lock, which it
//! renews and which expires soon after its crash. The others wait for the announcement that the lock
//! is free, and look regularly in case they miss it. A proxy that can't use Redis, or has waited for too
//! long, fetches without the lock, which saves work and protects nothing.
//!
//! Contract: 220.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use couplet::bus::redis::{Options, Redis, Reply};
use couplet::bus::{Bus, Event, Subscription};
use couplet::defer::{AbortOnDrop, DeferredEvent};
use couplet::services::{Child, Health, Service};
use couplet::{Deferred, Failure, Reactor, hooks};

use super::cache::Fetched;
use super::upstreams::Upstreams;
use crate::exit::Exit;
use crate::values::Secret;

/// Time for an answer of Redis, and for the first connection.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a lock outlives its holder.
const LEASE: Duration = Duration::from_secs(5);
/// Time between two looks of a waiter.
const LOOK: Duration = Duration::from_secs(1);
/// How long a poem is kept without --ttl.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Shortest and longest time in the cache: Redis counts milliseconds from 1970 in 64 bits.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Time between two PINGs of an idle connection.
const PING: Duration = Duration::from_secs(5);
/// First and longest delay before an attempt to reconnect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Longest poem that is shared, even with a larger --max-bytes; Redis takes 512 MiB.
const LONGEST: usize = 256 * 1024 * 1024;
/// The channel on which freed locks are announced.
const CHANNEL: &str = "couplet.poems";

/// Returns the poem and its time to live in milliseconds; without one, whether this proxy got the
/// lock.
const TAKE: &str = "
local poem = redis.call('GET', KEYS[1])
if poem then return {poem, redis.call('PTTL', KEYS[1])} end
return redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
";
/// Renews the lock, if this proxy still has it.
const RENEW: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
";
/// Frees the lock, if this proxy still has it.
const FREE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return redis.call('PUBLISH', ARGV[2], KEYS[1])
";

/// Why the loops of a process can't use the cache, for its health.
#[derive(Clone, Default)]
struct Troubles(Arc<Mutex<Vec<Option<String>>>>);

impl Troubles {
    fn with<R>(&self, f: impl FnOnce(&mut Vec<Option<String>>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place for one more loop.
    fn place(&self) -> usize {
        self.with(|all| {
            all.push(None);
            all.len() - 1
        })
    }
}

/// Reports the health of the cache, as a service.
struct CacheService(Troubles);

impl Service for CacheService {
    fn name(&self) -> &str {
        "cache"
    }

    fn start(&mut self, _: &Reactor) -> Deferred<()> {
        Deferred::succeed(())
    }

    fn stop(&mut self) -> Deferred<()> {
        Deferred::succeed(())
    }

    fn health(&self) -> Health {
        let why = self.0.with(|all| all.iter().flatten().next().cloned());
        why.map_or(Health::Ready, Health::Degraded)
    }
}

/// The shared cache as one loop uses it.
pub(crate) struct SharedCache {
    settings: Settings,
    upstreams: Rc<Upstreams>,
    place: usize,
    link: OnceCell<Link>,
}

/// The state shared by all loops of a process.
#[derive(Clone)]
pub(crate) struct Settings {
    options: Options,
    poem_key: String,
    lock_key: String,
    ttl: Duration,
    /// The time in which another proxy may fetch the poem.
    timeout: Duration,
    longest: usize,
    troubles: Troubles,
}

struct Link {
    bus: Bus,
    /// The first attempt to connect is over.
    tried: Rc<DeferredEvent>,
    /// The lock is free.
    freed: Rc<DeferredEvent>,
    _freed: Subscription,
}

enum Turn {
    Cached(Fetched),
    /// This proxy fetches the poem for all.
    Ours(Lock),
}

impl Settings {
    /// Proxies with the same `upstreams` and `ttl` share a poem.
    pub(crate) fn new(
        cache: &Secret,
        upstreams: &str,
        ttl: Option<Duration>,
        timeout: Duration,
        max_bytes: u64,
    ) -> Result<Settings, Exit> {
        let options = Options::new(&cache.0);
        let options = options.map_err(|error| Exit::bad_usage(format!("--cache: {error}")))?;
        let longest = usize::try_from(max_bytes).map_or(LONGEST, |most| most.min(LONGEST));
        let ttl = ttl.unwrap_or(KEPT).clamp(SHORTEST, LONGEST_TTL);
        // The braces keep both keys on one server of a cluster.
        let poem_key = format!("couplet:poem:{{{upstreams}}}:{}", ttl.as_millis());
        let options = options.name("couplet-proxy").max_payload(longest);
        // A poem, and the few small commands.
        let options = options.queue(longest + 1024 * 1024);
        let options = options.ping_interval(PING).back_off(BACK_OFF.0, BACK_OFF.1);
        let lock_key = format!("{poem_key}:lock");
        let troubles = Troubles::default();
        Ok(Settings { options, poem_key, lock_key, ttl, timeout, longest, troubles })
    }

    /// Makes the service that reports the health of the cache.
    pub(crate) fn service(&self) -> Box<dyn Fn() -> Child + Send + Sync> {
        let troubles = self.troubles.clone();
        Box::new(move || Child::new(CacheService(troubles.clone())))
    }
}

impl SharedCache {
    pub(crate) fn new(settings: Settings, upstreams: Rc<Upstreams>) -> Rc<SharedCache> {
        let place = settings.troubles.place();
        Rc::new(SharedCache { settings, upstreams, place, link: OnceCell::new() })
    }

    /// Connects, unless that has been done.
    pub(crate) fn connect(self: &Rc<Self>, reactor: &Reactor) {
        self.link(reactor);
    }

    fn link(self: &Rc<Self>, reactor: &Reactor) -> &Link {
        self.link.get_or_init(|| {
            let bus = Bus::redis(reactor, self.settings.options.clone());
            let (tried, freed) = (Rc::<DeferredEvent>::default(), Rc::<DeferredEvent>::default());
            let (me, trying) = (Rc::downgrade(self), tried.clone());
            let loop_of = reactor.clone();
            bus.on_event(move |event| {
                let Some(cache) = me.upgrade() else { return };
                match event {
                    Event::Connected { .. } => cache.well(),
                    Event::Disconnected { server, why, .. }
                    | Event::AttemptFailed { server, why, .. } => {
                        cache.trouble(&loop_of, format_args!("{server}: {why}"));
                    }
                    event => tracing::warn!("the shared cache: {event:?}"),
                }
                trying.set();
            });
            let (lock, ringing) = (self.settings.lock_key.clone(), freed.clone());
            let subscription = bus.subscribe(CHANNEL, move |message| {
                if *message.payload() == lock {
                    ringing.set();
                    ringing.clear();
                }
            });
            let _freed = subscription.expect("the channel is a valid subject");
            Link { bus, tried, freed, _freed }
        })
    }

    /// Fetches the poem, from the cache or for all proxies; without the cache if it can't be used.
    pub(crate) fn fetch(self: Rc<Self>, reactor: &Reactor) -> Deferred<Fetched> {
        let loop_of = reactor.clone();
        reactor.spawn(async move {
            let lock = match self.turn(&loop_of).await {
                Ok(Turn::Cached(poem)) => return Ok(poem),
                Ok(Turn::Ours(lock)) => Some(lock),
                Err(failure) => {
                    self.trouble(&loop_of, format_args!("{failure}"));
                    None
                }
            };
            let text = self.upstreams.clone().fetch(&loop_of).abort_on_drop().await?;
            if let Some(lock) = &lock {
                self.store(lock, &text);
            }
            Ok(Fetched::from(text))
        })
    }

    /// Waits for the poem, or for the lock, or for too long.
    async fn turn(self: &Rc<Self>, reactor: &Reactor) -> couplet::Result<Turn> {
        let link = self.link(reactor);
        link.tried.wait().add_timeout(reactor, ANSWER).abort_on_drop().await?;
        let began = reactor.now();
        let mut lock = Lock::new(link, &self.settings);
        loop {
            // The wait begins before the look, whose answer may be older than an announcement.
            let freed = link.freed.wait().add_timeout(reactor, LOOK).abort_on_drop();
            let reply = lock.take(&self.settings.poem_key).add_timeout(reactor, ANSWER);
            let reply = reply.abort_on_drop().await?;
            self.well();
            match reply {
                Reply::Number(1) => {
                    lock.renew();
                    return Ok(Turn::Ours(lock));
                }
                Reply::Number(_) => lock.may_hold.set(false),
                reply => {
                    lock.may_hold.set(false);
                    return self.cached(&reply).map(Turn::Cached);
                }
            }
            if reactor.now() - began >= self.settings.timeout {
                tracing::warn!(
                    "another proxy takes too long for the poem; this one fetches it too"
                );
                return Ok(Turn::Ours(lock));
            }
            // The time is over, or the lock is free.
            let _either = freed.await;
        }
    }

    fn cached(&self, reply: &Reply) -> couplet::Result<Fetched> {
        match reply.as_list() {
            Some([Reply::Bytes(text), Reply::Number(left)])
                if (1..=self.settings.longest).contains(&text.len()) =>
            {
                let left = Duration::from_millis(u64::try_from(*left).unwrap_or(0));
                tracing::info!(bytes = text.len(), "found the poem in the shared cache");
                Ok(Fetched { text: text.clone(), age: self.settings.ttl.saturating_sub(left) })
            }
            Some([Reply::Error(error), _]) => Err(Failure::msg(error.clone())),
            _ => Err(Failure::msg("the cache has something that is no poem")),
        }
    }

    /// Stores the poem, and frees the lock after it.
    fn store(self: &Rc<Self>, lock: &Lock, text: &Bytes) {
        if text.len() > self.settings.longest {
            return tracing::warn!(bytes = text.len(), "the poem is too long for the shared cache");
        }
        let ttl = self.settings.ttl.as_millis().to_string();
        let parts = [b"SET", self.settings.poem_key.as_bytes(), text, b"PX", ttl.as_bytes()];
        let stored = lock.redis.command(&parts);
        let (me, reactor) = (self.clone(), lock.reactor.clone());
        stored
            .map(drop)
            .add_errback(move |failure| {
                me.trouble(&reactor, format_args!("{failure}"));
                Ok(())
            })
            .detach();
    }

    /// Reports a failure of the cache, unless its connection only ends with the loop.
    fn trouble(&self, reactor: &Reactor, why: fmt::Arguments<'_>) {
        if reactor.is_stopping() {
            return tracing::debug!("the shared cache ends with its loop: {why}");
        }
        let why = format!("the shared cache can't be used: {why}");
        let before = self.settings.troubles.with(|all| all[self.place].replace(why.clone()));
        match before {
            None => tracing::warn!("{why}; this proxy fetches for itself"),
            Some(_) => tracing::debug!("{why}"),
        }
    }

    fn well(&self) {
        if self.settings.troubles.with(|all| all[self.place].take()).is_some() {
            tracing::info!("the shared cache can be used again");
        }
    }
}

/// The lock, freed when it is dropped.
struct Lock {
    redis: Redis,
    reactor: Reactor,
    key: String,
    /// The name of the holder.
    token: String,
    /// True while the lock is held, or an answer to `take` is pending.
    may_hold: Cell<bool>,
    renewing: Option<AbortOnDrop<()>>,
}

impl Lock {
    fn new(link: &Link, settings: &Settings) -> Lock {
        let (redis, reactor) = (Redis::new(&link.bus), link.bus.reactor().clone());
        let token = format!("{:016x}{:016x}", hooks::random(&reactor), hooks::random(&reactor));
        let (key, may_hold) = (settings.lock_key.clone(), Cell::new(false));
        Lock { redis, reactor, key, token, may_hold, renewing: None }
    }

    /// Gets the poem, or the lock.
    fn take(&self, poem: &str) -> Deferred<Reply> {
        self.may_hold.set(true);
        self.redis.command(&["EVAL", TAKE, "2", poem, &self.key, &self.token, &lease()])
    }

    /// Renews the lock until it is dropped.
    fn renew(&mut self) {
        let (redis, reactor) = (self.redis.clone(), self.reactor.clone());
        let (key, token) = (self.key.clone(), self.token.clone());
        let renewing = self.reactor.spawn(async move {
            loop {
                reactor.sleep(LEASE / 3).await?;
                let renewed = redis.command(&["EVAL", RENEW, "1", &key, &token, &lease()]);
                // Without it the lock expires, and another proxy may fetch too.
                let _renewed = renewed.abort_on_drop().await;
            }
        });
        self.renewing = Some(renewing.abort_on_drop());
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.may_hold.get() {
            let freed = self.redis.command(&["EVAL", FREE, "1", &self.key, &self.token, CHANNEL]);
            // Without it the lock expires.
            freed.map(drop).add_errback(|_lost| Ok(())).detach();
        }
    }
}

/// The time to live of a lock, in milliseconds.
fn lease() -> String {
    LEASE.as_millis().to_string()
}
