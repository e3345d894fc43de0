//! The proxy over an in-memory network: the test plays the servers and the clients, and waiting
//! takes no real time.

use std::net::SocketAddr;

use couplet::testing::{Held, Wire, hold};

use super::*;
use crate::endpoint::to_connect;
use crate::held::Nobody;

const TIMEOUT: Duration = Duration::from_secs(300);
const MAX_BYTES: u64 = 1000;

struct Scene {
    held: Held<Nobody>,
    upstreams: Vec<couplet::Address>,
    port: SocketAddr,
}

impl Scene {
    fn new(upstreams: usize, ttl: Option<u64>) -> Scene {
        let held = hold(Nobody);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = |_| held.network().listen(any, 10).unwrap();
        let addresses: Vec<couplet::Address> = (0..upstreams).map(listen).collect();
        let peers = addresses.iter().map(|at| to_connect(&at.to_string()).unwrap()).collect();
        let upstreams = Upstreams::new(peers, TIMEOUT, MAX_BYTES);
        let fetch = move |reactor: &Reactor| upstreams.clone().fetch(reactor);
        let store = PoemStore::new(fetch, ttl.map(Duration::from_secs), MAX_BYTES);
        let factory = move || ProxyServer::new(&store);
        let port = held.reactor().listen("tcp:0:interface=127.0.0.1", factory).unwrap();
        let port = port.host().socket_addr().unwrap();
        let mut scene = Scene { held, upstreams: addresses, port };
        scene.held.settle();
        scene
    }

    fn client(&mut self) -> Wire {
        let client = self.held.network().connect(self.port).unwrap();
        self.held.settle();
        client
    }

    /// Accepts the next fetch at an upstream.
    fn fetch(&self, upstream: usize) -> Option<Wire> {
        self.held.network().accept(&self.upstreams[upstream])
    }

    fn answer(&mut self, upstream: usize, poem: &[u8]) {
        let fetch = self.fetch(upstream).expect("a fetch");
        assert_eq!(fetch.push(poem), poem.len());
        fetch.close();
        self.held.settle();
    }

    /// A client gets this poem from an upstream.
    #[track_caller]
    fn serves(&mut self, upstream: usize, poem: &[u8]) -> Wire {
        let client = self.client();
        self.answer(upstream, poem);
        got(&client, poem);
        client
    }

    fn reset(&mut self, wire: &Wire) {
        wire.reset();
        self.held.settle();
    }

    fn refuse(&mut self, upstream: usize) {
        let fetch = self.fetch(upstream).expect("a fetch");
        self.reset(&fetch);
    }

    /// Takes everything that a client gets, and closes it.
    fn finish(&mut self, client: &Wire) {
        while client.waiting() > 0 {
            client.take();
            self.held.settle();
        }
        client.close();
        self.held.settle();
    }

    /// Number of connectors, which connect or have connected.
    fn connectors(&mut self) -> usize {
        let count = Rc::new(Cell::new(usize::MAX));
        let counted = count.clone();
        let snapshot = self.held.reactor().snapshot();
        snapshot.map(move |seen| counted.set(seen.connectors.len())).detach();
        self.held.settle();
        count.get()
    }

    fn advance(&mut self, seconds: u64) {
        self.held.advance(Duration::from_secs(seconds));
    }
}

#[track_caller]
fn got(client: &Wire, poem: &[u8]) {
    assert_eq!(String::from_utf8_lossy(&client.take()), String::from_utf8_lossy(poem));
    assert!(client.saw_fin(), "the end of the stream is the end of the poem");
}

#[track_caller]
fn waits(client: &Wire) {
    assert!(client.waiting() == 0 && !client.saw_fin() && !client.saw_reset());
}

#[test]
fn nothing_is_sent_before_the_poem_is_whole_and_then_all_get_it() {
    let mut scene = Scene::new(1, None);
    let early = scene.client();
    let fetch = scene.fetch(0).unwrap();
    for byte in b"a poem" {
        fetch.push(&[*byte]);
        scene.held.settle();
        waits(&early);
    }
    let late = scene.client();
    fetch.fin();
    scene.held.settle();
    got(&early, b"a poem");
    got(&late, b"a poem");
    got(&scene.client(), b"a poem");
    assert!(scene.fetch(0).is_none(), "one fetch serves all");
}

#[test]
fn a_poem_that_is_cut_too_long_late_or_empty_closes_without_data_and_is_fetched_again() {
    let mut scene = Scene::new(1, None);
    let bad: [fn(&mut Scene, &Wire); 4] = [
        |_, fetch| fetch.reset(),
        |_, fetch| assert_eq!(fetch.push(&[b'x'; MAX_BYTES as usize + 1]), 1001),
        |scene, _| scene.advance(TIMEOUT.as_secs()),
        |_, fetch| fetch.close(),
    ];
    for (n, bad) in bad.into_iter().enumerate() {
        let clients = [scene.client(), scene.client()];
        let fetch = scene.fetch(0).unwrap();
        if n < 3 {
            fetch.push(b"half a po");
            scene.held.settle();
        }
        clients.iter().for_each(waits);
        bad(&mut scene, &fetch);
        scene.held.settle();
        clients.iter().for_each(|client| got(client, b""));
        assert!(fetch.is_closed(), "{n}");
    }
    scene.serves(0, b"a poem");
}

#[test]
fn a_poem_of_just_the_greatest_length_that_comes_just_in_time_is_served() {
    let mut scene = Scene::new(1, None);
    let client = scene.client();
    scene.advance(TIMEOUT.as_secs() - 1);
    scene.answer(0, &[b'x'; MAX_BYTES as usize]);
    got(&client, &[b'x'; MAX_BYTES as usize]);
}

#[test]
fn a_client_that_leaves_cancels_its_wait_and_the_last_one_the_fetch() {
    let mut scene = Scene::new(1, None);
    let (one, two) = (scene.client(), scene.client());
    let fetch = scene.fetch(0).unwrap();
    fetch.push(b"a po");
    scene.reset(&one);
    assert!(!fetch.is_closed());
    scene.reset(&two);
    assert!(fetch.is_closed(), "it has no waiters");
    scene.serves(0, b"a poem");
}

#[test]
fn where_one_upstream_fails_the_next_is_asked_and_the_dead_one_is_skipped_for_a_while() {
    let mut scene = Scene::new(2, Some(0));
    let client = scene.client();
    scene.refuse(0);
    scene.answer(1, b"a poem");
    got(&client, b"a poem");
    // Upstream 0 is next in rotation, but marked dead.
    for _ in 0..3 {
        let client = scene.client();
        assert!(scene.fetch(0).is_none());
        scene.answer(1, b"a poem");
        got(&client, b"a poem");
    }
    scene.advance(upstreams::SKIP_TIME.as_secs());
    scene.serves(0, b"another");
}

#[test]
fn where_all_upstreams_fail_the_next_client_makes_all_be_tried_again() {
    let mut scene = Scene::new(2, None);
    let client = scene.client();
    scene.refuse(0);
    scene.refuse(1);
    got(&client, b"");
    let client = scene.client();
    scene.refuse(0);
    scene.answer(1, b"a poem");
    got(&client, b"a poem");
}

#[test]
fn a_dead_upstream_that_has_a_poem_again_is_alive() {
    let mut scene = Scene::new(2, Some(0));
    scene.client();
    scene.refuse(0);
    scene.refuse(1);
    scene.client();
    scene.answer(0, b"a poem");
    scene.serves(0, b"another");
}

#[test]
fn an_upstream_whose_fetch_was_abandoned_is_not_dead() {
    let mut scene = Scene::new(2, None);
    let client = scene.client();
    scene.reset(&client);
    assert!(scene.fetch(0).is_some_and(|fetch| fetch.is_closed()));
    let client = scene.client();
    scene.reset(&client);
    assert!(scene.fetch(1).is_some());
    scene.client();
    assert!(scene.fetch(0).is_some());
}

#[test]
fn a_client_that_takes_nothing_for_a_minute_is_cut_and_a_slow_reader_is_not() {
    let mut scene = Scene::new(1, None);
    scene.held.network().set_capacity(100);
    let (never, slow) = (scene.client(), scene.client());
    let fetch = scene.fetch(0).unwrap();
    for _ in 0..10 {
        assert_eq!(fetch.push(&[b'x'; 100]), 100);
        scene.held.settle();
    }
    fetch.fin();
    scene.held.settle();
    let mut taken = 0;
    for _ in 0..10 {
        taken += slow.take_most(100).len();
        scene.advance(STALL.as_secs() - 1);
    }
    assert_eq!(taken, 1000);
    assert!(slow.saw_fin() && never.saw_reset());
}

/// Clients that share a fetch of the longest poem, and have room for a tenth of it.
fn edition<const N: usize>(scene: &mut Scene) -> [Wire; N] {
    scene.held.network().set_capacity(100);
    let clients = std::array::from_fn(|_| scene.client());
    scene.held.network().set_capacity(10_000);
    let fetch = scene.fetch(0).unwrap();
    for _ in 0..10 {
        fetch.push(&[b'x'; 100]);
        scene.held.settle();
    }
    fetch.fin();
    scene.held.settle();
    clients
}

#[test]
fn an_old_poem_is_kept_until_its_last_reader_has_it() {
    let mut scene = Scene::new(1, Some(0));
    let [quick, slow] = edition(&mut scene);
    scene.finish(&quick);
    let others: Vec<[Wire; 1]> = (1..KEPT).map(|_| edition(&mut scene)).collect();
    assert!(!slow.saw_reset());
    let [_last] = edition(&mut scene);
    assert!(slow.saw_reset(), "its poem was the oldest of too many");
    assert!(others.iter().flatten().all(|client| !client.saw_reset()));
}

#[test]
fn of_many_old_poems_the_readers_of_the_oldest_are_cut() {
    let mut scene = Scene::new(1, Some(0));
    let mut clients: Vec<Wire> = (0..KEPT).flat_map(|_| edition::<1>(&mut scene)).collect();
    assert!(clients.iter().all(|client| !client.saw_reset()));
    clients.extend(edition::<1>(&mut scene));
    let cut: Vec<bool> = clients.iter().map(Wire::saw_reset).collect();
    assert_eq!(cut, [true, false, false, false, false]);
    // A poem that all its readers have received is no longer kept.
    scene.finish(&clients[2]);
    clients.extend(edition::<1>(&mut scene));
    assert!([1, 3, 4, 5].iter().all(|n: &usize| !clients[*n].saw_reset()));
}

#[test]
fn an_attempt_to_connect_that_was_abandoned_has_ended_and_its_upstream_is_not_dead() {
    let mut scene = Scene::new(2, None);
    scene.held.network().set_silent(&scene.upstreams[0]);
    let before = scene.connectors();
    let client = scene.client();
    assert!(!client.saw_fin());
    assert_eq!(scene.connectors(), before + 1);
    scene.reset(&client);
    assert_eq!(scene.connectors(), before);
    let client = scene.client();
    assert!(scene.fetch(1).is_some(), "the other one's turn");
    scene.reset(&client);
    let client = scene.client();
    assert!(scene.fetch(1).is_none(), "the first one's turn again");
    // Upstream 0 does not answer within the connect timeout.
    scene.advance(30);
    scene.answer(1, b"a poem");
    got(&client, b"a poem");
}

#[test]
fn a_client_that_stays_after_the_whole_poem_is_closed_after_30_s() {
    let mut scene = Scene::new(1, None);
    let client = scene.serves(0, b"a poem");
    scene.advance(LEAVE.as_secs() - 1);
    assert!(!client.is_closed());
    scene.advance(1);
    assert!(client.is_closed());
}
