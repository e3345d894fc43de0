//! `--threads`: servers in several loops.

use rustix::process::Signal;

use crate::kit::{Client, Server, TempFile, noise, run};
use crate::serve::poet;

#[test]
fn a_proxy_in_several_threads_fetches_a_poem_once_for_each() {
    let bytes = noise(10_000);
    let (_poem, mut upstream) = poet(&bytes, &["--delay", "0"]);
    let from = upstream.ports[0].to_string();
    let mut proxy = Server::start(&["proxy", "--threads", "3", "--upstream", &from]);
    for _ in 0..40 {
        assert!(proxy.connect().read_to_end().expect("a clean end") == bytes);
    }
    let asked = proxy.accepted(3);
    let fetched = upstream.accepted(1);
    let busy = asked.iter().filter(|count| **count > 0).count();
    assert_eq!((asked.iter().sum::<usize>(), fetched), (40, vec![busy]), "{asked:?}");
    for server in [proxy, upstream] {
        let mut running = server.running;
        running.signal(Signal::TERM);
        assert_eq!(running.ended().code, Some(0));
    }
}

#[test]
fn each_client_gets_the_next_poem_whichever_thread_serves_it() {
    let poems = [&b"a rose"[..], b"a tiger"].map(TempFile::new);
    let files = poems.each_ref().map(TempFile::path);
    let args = ["serve", "--threads", "3", "--delay", "0"];
    let server = Server::start(&[&args[..], &files].concat());
    let read = |_| server.connect().read_to_end().expect("a poem");
    let mut got: Vec<_> = (0..20).map(read).collect();
    got.sort();
    assert_eq!(got, [vec![&b"a rose"[..]; 10], vec![&b"a tiger"[..]; 10]].concat());
}

#[test]
fn poems_by_name_and_transformations_come_from_several_threads() {
    let poem = TempFile::named("rose.txt", b"A rose is a rose");
    let threads = ["--threads", "2"];
    let serve = ["serve", "--by-name", "--delay", "0", poem.path()];
    let poet = Server::start(&[&serve[..], &threads].concat());
    let critic = Server::start(&[&["transform"][..], &threads].concat());
    for _ in 0..6 {
        let transform = ["--transform", &critic.address(), "--transform-name", "upper"];
        let get = ["get", &poet.address(), "--name", "rose"];
        let got = run(&[&get[..], &transform].concat());
        assert!(got.text().contains("A ROSE IS A ROSE"), "{got:?}");
    }
}

#[test]
fn a_sigterm_lets_the_connections_of_all_threads_finish() {
    let poem = TempFile::new(b"a poem that takes a second");
    let args = ["serve", "--threads", "3", "--delay", "0.2", "--num-bytes", "5"];
    let mut poet = Server::start(&[&args[..], &[poem.path()]].concat());
    let mut readers: Vec<Client> = (0..9).map(|_| poet.connect()).collect();
    let begun: Vec<_> = readers.iter_mut().map(|reader| reader.read_exact(5)).collect();
    poet.running.signal(Signal::TERM);
    for (mut reader, mut text) in readers.into_iter().zip(begun) {
        text.extend(reader.read_to_end().expect("a clean end"));
        assert_eq!(text, b"a poem that takes a second");
    }
    poet.running.ended().quietly(0);
}
