//! Forwarding as a service, in memory: attempts, lookups, and checks that end with their service.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Command, FromArgMatches};
use couplet::reactor::Snapshot;
use couplet::services::Supervisor;
use couplet::testing::{MemoryReactor, Wire, success_of};

use super::{Forward, server};

const FRONT: u16 = 8080;

/// A forwarder that listens on port [`FRONT`].
struct Scene {
    memory: MemoryReactor,
    services: Supervisor,
}

impl Scene {
    fn new(args: &[&str]) -> Scene {
        let command = Forward::augment_args(Command::new("forward").no_binary_name(true));
        let line = ["127.0.0.1:8080"].into_iter().chain(args.iter().copied());
        let matches = command.try_get_matches_from(line).unwrap();
        let forward = server(Forward::from_arg_matches(&matches).unwrap()).unwrap();
        let (memory, services) = (MemoryReactor::new(), Supervisor::new("test"));
        let child = forward.into_child("front", |endpoint| endpoint, || (0, 1));
        services.add(child(&memory.reactor()).unwrap()).detach();
        services.run(&memory.reactor()).detach();
        Scene { memory, services }
    }

    fn client(&mut self) -> Wire {
        self.memory.connect(FRONT)
    }

    /// The address and port of each attempt in progress.
    fn attempts(&mut self) -> Vec<String> {
        let attempts = self.memory.connecting().into_iter();
        attempts.map(|attempt| attempt.address().to_string()).collect()
    }

    /// Fails the only attempt in progress.
    fn refuse(&mut self) {
        let [attempt] = &self.memory.connecting()[..] else { panic!("one attempt is expected") };
        attempt.fail(ErrorKind::ConnectionRefused.into());
    }

    /// Completes the only attempt in progress, which must be at this address.
    #[track_caller]
    fn answer(&mut self, address: &str) -> Wire {
        assert_eq!(self.attempts(), [address]);
        let far = self.memory.connecting().remove(0).complete();
        self.memory.settle();
        far
    }

    fn stop(&mut self) {
        let stopped = self.services.stop_child("front");
        self.memory.settle();
        success_of(stopped);
    }

    fn snapshot(&mut self) -> Snapshot {
        let snapshot = self.memory.reactor().snapshot();
        self.memory.settle();
        success_of(snapshot)
    }

    /// Fails if the loop has a port, a connection, an attempt or a timed call.
    #[track_caller]
    fn assert_nothing_is_left(&mut self) {
        let snapshot = self.snapshot();
        let left = (snapshot.ports.len(), snapshot.connectors.len(), snapshot.connections.len());
        assert_eq!((left, snapshot.pending_calls), ((0, 0, 0), 0), "{snapshot}");
    }
}

#[test]
fn a_name_is_looked_up_for_each_client() {
    let mut scene = Scene::new(&["web.example:80", "--connect-timeout", "5"]);
    for address in ["10.0.0.7", "10.0.0.8"] {
        let found = Ok(vec![address.parse::<IpAddr>().unwrap()]);
        scene.memory.network().set_name("web.example", Duration::ZERO, found);
        let _client = scene.client();
        scene.answer(&format!("tcp:{address}:80"));
    }
}

#[test]
fn a_failed_lookup_and_a_time_out_lead_to_the_next_server() {
    let mut scene =
        Scene::new(&["gone.example:80", "10.0.0.2:80", "10.0.0.3:80", "--connect-timeout", "5"]);
    let gone = Err(ErrorKind::NotFound);
    scene.memory.network().set_name("gone.example", Duration::ZERO, gone);
    let client = scene.client();
    client.push(b"hello");
    assert_eq!(scene.attempts(), ["tcp:10.0.0.2:80"]);
    scene.memory.advance(Duration::from_secs(5));
    let far = scene.answer("tcp:10.0.0.3:80");
    assert_eq!(far.take(), b"hello");
    assert!(!client.saw_reset());
}

#[test]
fn a_client_that_leaves_ends_its_attempts_and_marks_no_server() {
    let mut scene = Scene::new(&["10.0.0.1:80", "10.0.0.2:80"]);
    scene.client().reset();
    assert_eq!(scene.attempts(), [""; 0]);
    let (_one, _other) = (scene.client(), scene.client());
    assert_eq!(scene.attempts(), ["tcp:10.0.0.2:80", "tcp:10.0.0.1:80"]);
}

#[test]
fn a_client_is_reset_after_one_attempt_at_each_server() {
    let mut scene = Scene::new(&["10.0.0.1:80", "10.0.0.2:80"]);
    let client = scene.client();
    for server in 1..=2 {
        assert!(!client.saw_reset());
        assert_eq!(scene.attempts(), [format!("tcp:10.0.0.{server}:80")]);
        scene.refuse();
    }
    assert_eq!(scene.attempts(), [""; 0]);
    assert!(client.saw_reset());
    scene.stop();
    scene.assert_nothing_is_left();
}

#[test]
fn failed_attempts_and_ended_sessions_do_not_count_as_connections() {
    let least = ["--balance", "least-connections", "--down-for", "0"];
    let mut scene = Scene::new(&[&["10.0.0.1:80", "10.0.0.2:80"], &least[..]].concat());
    let first = scene.client();
    scene.refuse();
    let mut open = vec![scene.answer("tcp:10.0.0.2:80")];
    for server in ["tcp:10.0.0.1:80", "tcp:10.0.0.2:80"] {
        let client = scene.client();
        open.extend([client, scene.answer(server)]);
    }
    first.reset();
    scene.memory.settle();
    // One session each.
    let _next = scene.client();
    assert_eq!(scene.attempts(), ["tcp:10.0.0.1:80"]);
}

#[test]
fn a_session_ends_as_soon_as_it_has_been_idle_for_the_timeout() {
    let mut scene = Scene::new(&["10.0.0.1:80", "--idle-timeout", "10"]);
    let client = scene.client();
    let far = scene.answer("tcp:10.0.0.1:80");
    scene.memory.advance(Duration::from_secs(6));
    client.push(b"x");
    scene.memory.advance(Duration::from_secs(9));
    assert!(!client.saw_reset() && far.take() == b"x");
    scene.memory.advance(Duration::from_secs(2));
    assert!(client.saw_reset(), "ten seconds after the last byte");
}

#[test]
fn each_server_is_checked_at_the_interval() {
    let mut scene = Scene::new(&["10.0.0.1:80", "10.0.0.2:80", "--check", "2"]);
    for _ in 0..3 {
        assert_eq!(scene.attempts(), ["tcp:10.0.0.1:80", "tcp:10.0.0.2:80"]);
        for attempt in scene.memory.connecting() {
            let far = attempt.complete();
            scene.memory.settle();
            assert!(far.saw_fin() && !far.saw_reset());
            far.close();
        }
        assert_eq!(scene.attempts(), [""; 0]);
        scene.memory.advance(Duration::from_secs(2));
    }
}

#[test]
fn checks_in_every_state_end_with_their_service() {
    let states: [fn(&mut Scene); 3] = [
        |scene| assert_eq!(scene.attempts(), ["tcp:10.0.0.1:80"], "it is connecting"),
        |scene| assert!(!scene.answer("tcp:10.0.0.1:80").saw_reset(), "it is closing"),
        // While waiting for the next.
        Scene::refuse,
    ];
    for reach in states {
        let mut scene = Scene::new(&["10.0.0.1:80", "--check", "2"]);
        reach(&mut scene);
        scene.memory.settle();
        scene.stop();
        scene.assert_nothing_is_left();
        scene.memory.advance(Duration::from_secs(10));
        assert_eq!(scene.attempts(), [""; 0]);
    }
}

#[test]
fn checks_begin_again_with_their_service() {
    let mut scene = Scene::new(&["10.0.0.1:80", "--check", "2"]);
    scene.stop();
    let started = scene.services.start_child("front");
    assert_eq!(scene.attempts(), ["tcp:10.0.0.1:80"]);
    success_of(started);
}

#[test]
fn a_server_that_never_closes_its_side_is_checked_again() {
    let mut scene = Scene::new(&["10.0.0.1:80", "--check", "2"]);
    let _far = scene.answer("tcp:10.0.0.1:80");
    scene.memory.advance(Duration::from_secs(2));
    assert_eq!(scene.attempts(), [""; 0], "one check at a time");
    scene.memory.advance(Duration::from_secs(6));
    assert_eq!(scene.attempts(), ["tcp:10.0.0.1:80"]);
}

#[test]
fn a_session_with_an_ended_side_is_cut_when_nothing_moves_for_the_half_close_timeout() {
    let cases: [(&[&str], Option<u64>); 3] = [
        (&[], Some(60)),
        (&["--half-close-timeout", "8"], Some(8)),
        (&["--half-close-timeout", "0"], None),
    ];
    for (more, expected) in cases {
        for by_client in [true, false] {
            let mut scene = Scene::new(&[&["10.0.0.1:80"], more].concat());
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    let client = scene.client();
                    (client, scene.answer("tcp:10.0.0.1:80"))
                })
                .collect();
            for (client, far) in &clients {
                if by_client { client.fin() } else { far.fin() }
            }
            let half = Duration::from_secs(expected.unwrap_or(7200)) / 2;
            scene.memory.advance(half);
            // One of them still gets something, and so has more time.
            let (client, far) = &clients[0];
            let (ended, other) = if by_client { (client, far) } else { (far, client) };
            other.push(b"x");
            scene.memory.settle();
            assert_eq!(ended.take(), b"x");
            scene.memory.advance(half + Duration::from_millis(1));
            let left = scene.snapshot().connections.len();
            assert_eq!(left, if expected.is_some() { 2 } else { 40 }, "{more:?}");
            // Progress is noticed up to a quarter of the time later.
            scene.memory.advance(half + half / 2);
            assert_eq!(ended.saw_reset(), expected.is_some(), "{more:?}");
            if expected.is_some() {
                scene.stop();
                scene.assert_nothing_is_left();
            }
        }
    }
}
