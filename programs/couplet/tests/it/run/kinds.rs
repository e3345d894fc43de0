//! Kinds of services, with the keys of a configuration; other tests cover them as commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use super::Program;
use crate::kit::{Client, Upstream, noise, serve_raw, unused_port};

/// PROXY headers of a client at 203.0.113.7:4711 that has connected to 192.0.2.1:443, by version.
const HEADERS: [&[u8]; 2] = [
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\xc0\0\x02\x01\x12\x67\x01\xbb",
];

#[test]
fn a_forwarder_passes_the_address_of_a_proxy_header_on() {
    let upstream = Upstream::start();
    for (came, header) in HEADERS.into_iter().enumerate() {
        for (leaves, wanted) in HEADERS.into_iter().enumerate() {
            let text = format!(
                "[services.front]\nkind = \"forward\"\n\
                 listen = \"haproxy:tcp:0:interface=127.0.0.1\"\n\
                 connect = \"haproxy:tcp:{}:version={}\"\n",
                upstream.address,
                leaves + 1
            );
            let program = Program::start(&text);
            let mut near = Client::connect(program.wrapped_port());
            near.send(&[header, b"hello\n"].concat());
            let mut far = upstream.accept();
            let arrived = far.read_exact(wanted.len());
            assert_eq!(arrived, wanted, "{}, from {}", leaves + 1, came + 1);
            assert_eq!(far.read_line(), "hello");
            far.send(b"an answer\n");
            assert_eq!(near.read_line(), "an answer");
            drop((near, far));
            program.stop(Signal::TERM).quietly(0);
        }
    }
}

#[test]
fn a_proxy_fetches_the_poem_from_the_upstream_that_has_it_once() {
    let (bytes, fetches) = (Arc::new(noise(300_000)), Arc::<AtomicUsize>::default());
    let (poem, count) = (bytes.clone(), fetches.clone());
    let upstream = serve_raw(move |mut client| {
        count.fetch_add(1, Ordering::Relaxed);
        client.send(&poem);
    });
    let (closed, _reserved) = unused_port();
    let text = format!(
        "[services.cache]\nkind = \"proxy\"\nlisten = \"0\"\n\
         upstream = [\"{closed}\", \"{upstream}\"]\ntimeout = 30\nmax-bytes = 300_000\n"
    );
    let program = Program::start(&text);
    let port = program.port("cache");
    assert_eq!(fetches.load(Ordering::Relaxed), 0, "nobody has asked");
    for _ in 0..3 {
        assert!(Client::connect(port).read_to_end().unwrap() == *bytes);
    }
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
    let ended = program.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
