//! Simulated worlds. [`storm`] is poetry in bad weather: a plain server, a by-name server, a proxy,
//! and clients that keep fetching.
//!
//! No client ever takes a truncated poem for a whole one: by name, the length comes first; where
//! the end of the stream ends the poem, a killed server resets. The proxy never has two fetches in
//! progress. After the storm all clients get their poems.
//!
//! [`naive`] shows the same without that reset: the kernel of a killed server sends a FIN.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use couplet::endpoints::ClientEndpoint;
use couplet::sim::{Notes, Sim};
use couplet::{Deferred, Reactor, Shared};

use crate::ask::ask_poem;
use crate::catalogue::Catalogue;
use crate::client::get_poem;
use crate::endpoint::to_connect;
use crate::named;
use crate::poems::Poem;
use crate::proxy::upstreams::Upstreams;
use crate::proxy::{PoemStore, ProxyServer};
use crate::recital::Pace;
use crate::serve::Anthology;

/// The timeout of one poem.
const PATIENCE: Duration = Duration::from_secs(40);
/// The time between two poems of one client.
const PAUSE: Duration = Duration::from_secs(2);
/// Duration of the storm, and the clients' time after it.
const STORM: Duration = Duration::from_secs(120);
const AFTER: Duration = Duration::from_secs(180);
/// How often the world is checked.
const LOOK: Duration = Duration::from_millis(500);
const MAX_BYTES: u64 = 1024 * 1024;
const CLIENTS: u32 = 3;

/// The server of a client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Source {
    /// The plain server of [`naive`].
    Naive,
    Plain,
    Named,
    Proxy,
}

const ALL: [Source; 3] = [Source::Plain, Source::Named, Source::Proxy];

/// A poem that a client received.
struct Receipt {
    client: u32,
    from: Source,
    at: Duration,
    whole: bool,
}

/// Servers, a proxy and readers in a storm.
///
/// # Errors
///
/// If a promise is broken: a reader takes a cut poem for a whole one, the proxy fetches twice at the
/// same time, or a reader gets no poem after the storm.
pub fn storm(sim: &mut Sim) -> couplet::Result<()> {
    let poem = poem();
    let plain = poem.clone();
    sim.host("plain", serve_plain(move || Anthology::new(vec![plain.clone()], PACE)));
    sim.host("named", serve_named(poem.clone()));
    sim.host("proxy", serve_proxy(sim.notes()));
    let got: Rc<RefCell<Vec<Receipt>>> = Rc::default();
    let clock = Clock::default();
    for client in 0..CLIENTS {
        let (got, clock, text) = (got.clone(), clock.clone(), poem.text.clone());
        sim.host(&format!("reader{client}"), move |reactor| {
            read(reactor, client, &ALL, clock.clone(), got.clone(), text.clone());
            Ok(())
        });
    }
    sim.draw_faults(STORM);
    while sim.elapsed() < STORM + AFTER {
        sim.run_for(LOOK)?;
        clock.0.set(sim.elapsed());
        if let Some(Receipt { client, from, .. }) = got.borrow().iter().find(|got| !got.whole) {
            return sim.fail(format!("reader{client} took a cut poem of {from:?} for a whole one"));
        }
    }
    for client in 0..CLIENTS {
        for from in ALL {
            let got = got.borrow();
            let mut whole = got.iter().filter(|got| got.whole && got.at > STORM);
            if !whole.any(|got| (got.client, got.from) == (client, from)) {
                return Err(couplet::Failure::msg(format!(
                    "{AFTER:?} after the storm reader{client} has got no poem from {from:?}"
                )));
            }
        }
    }
    Ok(())
}

/// A reader that trusts the end of the stream: it fails as soon as a server is killed.
///
/// # Errors
///
/// If the reader takes a cut poem for a whole one.
pub fn naive(sim: &mut Sim) -> couplet::Result<()> {
    let poem = poem();
    let naive = poem.clone();
    sim.host("server", serve_plain(move || Anthology::new(vec![naive.clone()], PACE).naive()));
    let got: Rc<RefCell<Vec<Receipt>>> = Rc::default();
    let (seen, clock, text) = (got.clone(), Clock::default(), poem.text);
    sim.host("reader", move |reactor| {
        read(reactor, 0, &[Source::Naive], clock.clone(), seen.clone(), text.clone());
        Ok(())
    });
    sim.draw_faults(STORM);
    while sim.elapsed() < STORM {
        sim.run_for(LOOK)?;
        if got.borrow().iter().any(|got| !got.whole) {
            return sim.fail("the reader took a cut poem for a whole one");
        }
    }
    Ok(())
}

/// The world's time, to half a second, for code without a reactor.
#[derive(Clone, Default)]
struct Clock(Rc<Cell<Duration>>);

/// A poem long enough to be cut in many places.
fn poem() -> Poem {
    let text: String = (0..1500).map(|n| format!("line {n} of a long poem\n")).collect();
    Poem { name: "long".to_owned(), title: "A long poem".to_owned(), text: text.into() }
}

const PACE: Pace = Pace { num_bytes: 2000, delay: Duration::from_millis(200) };

fn serve_plain(anthology: impl Fn() -> Anthology) -> impl Fn(&Reactor) -> couplet::Result<()> {
    move |reactor| reactor.listen("tcp:10000", Shared::new(anthology())).map(drop)
}

fn serve_named(poem: Poem) -> impl Fn(&Reactor) -> couplet::Result<()> {
    move |reactor| {
        let catalogue = Catalogue::new(vec![poem.clone()]).map_err(couplet::Failure::msg)?;
        reactor.listen("tcp:10000", named::factory(catalogue, PACE, None))?;
        Ok(())
    }
}

fn serve_proxy(notes: Notes) -> impl Fn(&Reactor) -> couplet::Result<()> {
    move |reactor| {
        let plain = to_connect("plain:10000").map_err(couplet::Failure::msg)?;
        let upstreams = Upstreams::new(vec![plain], PATIENCE, MAX_BYTES);
        let (notes, fetching) = (notes.clone(), Rc::new(Cell::new(false)));
        let fetch = move |reactor: &Reactor| -> Deferred<Bytes> {
            if fetching.replace(true) {
                notes.fail("the proxy fetches twice at the same time");
            }
            let over = fetching.clone();
            upstreams.clone().fetch(reactor).add_both(move |poem| {
                over.set(false);
                poem
            })
        };
        let store = PoemStore::new(fetch, Some(Duration::from_secs(10)), MAX_BYTES);
        reactor.listen("tcp:10000", move || ProxyServer::new(&store))?;
        Ok(())
    }
}

/// Fetches from one server after another, forever.
fn read(
    reactor: &Reactor,
    client: u32,
    servers: &'static [Source],
    clock: Clock,
    got: Rc<RefCell<Vec<Receipt>>>,
    text: Bytes,
) {
    let inner = reactor.clone();
    let reading = reactor.spawn(async move {
        loop {
            for &from in servers {
                // "No poem" is an error, so it cannot pass for a poem.
                let poem = get(&inner, from)?.add_timeout(&inner, PATIENCE).await;
                if let Ok(poem) = poem {
                    let (at, whole) = (clock.0.get(), poem == text);
                    got.borrow_mut().push(Receipt { client, from, at, whole });
                }
                inner.sleep(PAUSE).await?;
            }
        }
    });
    let reading: Deferred<()> = reading;
    reading.detach();
}

fn get(reactor: &Reactor, from: Source) -> couplet::Result<Deferred<Vec<u8>>> {
    let name = match from {
        Source::Naive => "server:10000",
        Source::Plain => "plain:10000",
        Source::Named => "named:10000",
        Source::Proxy => "proxy:10000",
    };
    let server: Arc<dyn ClientEndpoint> = to_connect(name).map_err(couplet::Failure::msg)?.endpoint;
    Ok(match from {
        Source::Named => ask_poem(reactor, server, "long".to_owned(), MAX_BYTES, None),
        Source::Naive | Source::Plain | Source::Proxy => get_poem(reactor, server, MAX_BYTES, None),
    })
}
