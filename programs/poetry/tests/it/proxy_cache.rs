//! `poetry proxy --cache`: a poem that proxies share, over a real Redis server.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use rustix::process::Signal;

use crate::kit::{Client, Server, Upstream, noise, run, wait_until};
use crate::proxy::counted;
use crate::servers;

fn proxy(upstream: &str, url: &str, more: &[&str]) -> Server {
    let command = ["-v", "proxy", "--upstream", upstream, "--cache", url];
    Server::start(&[&command, more].concat())
}

/// Runs a command of Redis.
fn redis(server: &servers::Server, command: &str) -> String {
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], server.port)));
    client.send(format!("{command}\r\n").as_bytes());
    client.read_line().trim_end().to_owned()
}

/// Sends the next client of this server a poem.
fn answer(upstream: &Upstream, poem: &[u8]) {
    let mut fetch = upstream.accept();
    fetch.send(poem);
    fetch.finish();
}

#[test]
fn c220_proxies_and_their_threads_fetch_a_poem_once() {
    let Some(cache) = servers::Server::start_redis(&[]) else { return };
    let (upstream, url) = (Upstream::start(), cache.url());
    let threads: &[&str] = &["--threads", "2"];
    let proxies = [&[], &[], threads].map(|more| proxy(&upstream.address, &url, more));
    let clients: Vec<Client> = (0..12).map(|number| proxies[number % 3].connect()).collect();
    let mut fetch = upstream.accept();
    fetch.send(b"one for ");
    let held = format!("EXISTS couplet:poem:{{tcp:{}}}:86400000:lock", upstream.address);
    assert_eq!(redis(&cache, &held), ":1");
    fetch.send(b"all");
    fetch.finish();
    for mut client in clients {
        assert_eq!(client.read_to_end().unwrap(), b"one for all");
    }
    assert!(upstream.is_unasked());
    assert_eq!(redis(&cache, &held), ":0");
    for server in proxies {
        assert_eq!(server.stop(Signal::TERM).code, Some(0));
    }
    // A new one needs no fetch; one with another --ttl does.
    let late = proxy(&upstream.address, &url, &[]);
    assert_eq!(late.connect().read_to_end().unwrap(), b"one for all");
    assert!(upstream.is_unasked());
    let other = proxy(&upstream.address, &url, &["--ttl", "60"]);
    let mut client = other.connect();
    answer(&upstream, b"another");
    assert_eq!(client.read_to_end().unwrap(), b"another");
}

#[test]
fn c220_a_poem_is_fetched_anew_when_its_time_is_over_for_all() {
    let Some(cache) = servers::Server::start_redis(&[]) else { return };
    let (upstream, fetches) = counted(b"a poem".to_vec());
    let proxies = [0; 2].map(|_| proxy(&upstream, &cache.url(), &["--ttl", "1"]));
    let get = |proxy: &Server| assert_eq!(proxy.connect().read_to_end().unwrap(), b"a poem");
    proxies.iter().for_each(get);
    wait_until("the poem's time", || {
        proxies.iter().for_each(get);
        fetches.load(Ordering::Relaxed) == 3
    });
    let found = |proxy: &Server| proxy.running.told().matches("found the poem").count();
    assert!(proxies.iter().map(found).sum::<usize>() >= 1, "the other one found it");
}

#[test]
fn c220_a_proxy_that_fails_or_crashes_during_its_fetch_leaves_it_to_another() {
    let Some(cache) = servers::Server::start_redis(&[]) else { return };
    let (upstream, url) = (Upstream::start(), cache.url());
    let mut proxies = [0; 3].map(|_| proxy(&upstream.address, &url, &[]));
    let _lost = proxies[0].connect();
    let _first = upstream.accept();
    let mut clients = [proxies[1].connect(), proxies[2].connect()];
    proxies[0].running.signal(Signal::KILL);
    // The lock expires. The next fetch fails, and the third proxy tries.
    upstream.accept().reset();
    answer(&upstream, b"at last");
    let mut got = clients.each_mut().map(|client| client.read_to_end().unwrap());
    got.sort();
    assert_eq!(got, [&b""[..], b"at last"]);
    assert!(upstream.is_unasked());
}

#[test]
fn c220_a_proxy_that_waits_for_too_long_fetches_the_poem_too_and_shares_it() {
    let Some(cache) = servers::Server::start_redis(&[]) else { return };
    let (upstream, url) = (Upstream::start(), cache.url());
    let [slow, fast, late] =
        ["300", "1", "300"].map(|time| proxy(&upstream.address, &url, &["--timeout", time]));
    let _waiting = slow.connect();
    let _slow = upstream.accept();
    let mut client = fast.connect();
    answer(&upstream, b"a poem");
    assert_eq!(client.read_to_end().unwrap(), b"a poem");
    assert_eq!(late.connect().read_to_end().unwrap(), b"a poem");
    let told = fast.running.told();
    assert!(told.contains("takes too long") && !told.contains("can't be used"), "{told}");
    assert!(upstream.is_unasked());
}

#[test]
fn c220_any_time_is_possible() {
    let Some(cache) = servers::Server::start_redis(&[]) else { return };
    let (upstream, _) = counted(b"a poem".to_vec());
    for time in ["0.0001", "18446744073709551615"] {
        let proxy = proxy(&upstream, &cache.url(), &["--ttl", time, "--timeout", time]);
        // The fetch may be too slow for the shortest time.
        assert!([&b""[..], b"a poem"].contains(&&*proxy.connect().read_to_end().unwrap()));
        let ended = proxy.stop(Signal::TERM);
        assert_eq!(ended.code, Some(0));
        assert!(!ended.stderr.contains("can't be used"), "{}", ended.stderr);
    }
    let kept = format!("EXISTS couplet:poem:{{tcp:{upstream}}}:3153600000000");
    assert_eq!(redis(&cache, &kept), ":1");
}

#[test]
fn c220_a_client_that_leaves_frees_the_lock() {
    let Some(cache) = servers::Server::start_redis(&[]) else { return };
    let (upstream, url) = (Upstream::start(), cache.url());
    let proxies = [0; 2].map(|_| proxy(&upstream.address, &url, &[]));
    let leaving = proxies[0].connect();
    let _first = upstream.accept();
    let mut staying = proxies[1].connect();
    leaving.reset();
    answer(&upstream, b"a poem");
    assert_eq!(staying.read_to_end().unwrap(), b"a poem");
}

#[test]
fn c220_without_its_cache_a_proxy_fetches_by_itself_and_says_so() {
    let Some(mut cache) = servers::Server::start_redis(&[]) else { return };
    let (upstream, fetches) = counted(b"a poem".to_vec());
    let proxies = [0; 2].map(|_| proxy(&upstream, &cache.url(), &["--ttl", "1"]));
    let get = |proxy: &Server| assert_eq!(proxy.connect().read_to_end().unwrap(), b"a poem");
    proxies.iter().for_each(get);
    cache.kill();
    for proxy in &proxies {
        proxy.wait_told("this proxy fetches for itself");
        let before = fetches.load(Ordering::Relaxed);
        wait_until("a fetch", || {
            get(proxy);
            fetches.load(Ordering::Relaxed) > before
        });
    }
    // A proxy that begins without a cache too.
    let late = proxy(&upstream, &cache.url(), &["--ttl", "1"]);
    get(&late);
    late.wait_told("this proxy fetches for itself");
    cache.start_again();
    for proxy in proxies.iter().chain([&late]) {
        proxy.wait_told("the shared cache can be used again");
        assert_eq!(proxy.running.told().matches("fetches for itself").count(), 1);
        get(proxy);
    }
}

#[test]
fn c220_a_cache_that_has_no_poem_or_no_room_does_no_harm() {
    let Some(cache) = servers::Server::start_redis(&[]) else { return };
    let poem = noise(100_000);
    let (upstream, fetches) = counted(poem.clone());
    let key = format!("couplet:poem:{{tcp:{upstream}}}:86400000");
    let more = ["--max-bytes", "100000"];
    for (change, why) in [
        (format!("LPUSH {key} x"), "WRONGTYPE"),
        (format!("SET {key} \"\""), "something that is no poem"),
        (format!("SETRANGE {key} 100000 x"), "something that is no poem"),
        (format!("SETRANGE {key} 200000 x"), "TOOLARGE 200001"),
        ("CONFIG SET maxmemory 1".to_owned(), "OOM"),
    ] {
        redis(&cache, &format!("DEL {key}"));
        redis(&cache, &change);
        let before = fetches.load(Ordering::Relaxed);
        let proxy = proxy(&upstream, &cache.url(), &more);
        assert!(proxy.connect().read_to_end().unwrap() == poem, "{change}");
        proxy.wait_told(why);
        assert_eq!(fetches.load(Ordering::Relaxed), before + 1);
    }
    redis(&cache, "CONFIG SET maxmemory 0");
    let proxy = proxy(&upstream, &cache.url(), &more);
    assert!(proxy.connect().read_to_end().unwrap() == poem);
    wait_until("the poem", || redis(&cache, &format!("STRLEN {key}")) == ":100000");
}

#[test]
fn bad_caches_are_usage_errors_without_the_password() {
    for (arguments, expected) in [
        (&["--cache", "redis://ada:s3cret@"][..], "--cache: the address of the Redis server is"),
        (&["--cache", "nats://ada:s3cret@a"], "--cache: the address of the Redis server is"),
        (&["--cache", "redis://a", "--ttl", "0"], "--cache keeps nothing with --ttl 0"),
    ] {
        let ended = run(&[&["proxy", "--upstream", "1"], arguments].concat());
        ended.says(2, expected);
        assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    }
}
