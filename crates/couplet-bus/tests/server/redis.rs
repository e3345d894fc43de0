//! The client and a Redis server.

use std::time::Duration;

use couplet::bus::redis::{CommandError, Options, Redis, Reply};
use couplet::bus::{Bus, Limit, LogLimits, Memory, Message, Pattern, SubjectError};
use couplet::layers::tls::{ClientTls, ClientTlsOptions, Roots};
use couplet::services::Health;

use crate::needed::{Folder, SelfSigned};
use crate::server::{Client, Server, Serves};

#[test]
fn c213_passwords_and_users_log_in_and_wrong_ones_do_not() {
    let user = ["--user", "ada", "on", ">s3cret", "~*", "&*", "+@all"];
    let arguments = [&["--requirepass", "p@ss"][..], &user].concat();
    let Some(server) = Server::start_redis(&arguments) else { return };
    let mut client = Client::new();
    let address = |login: &str| format!("redis://{login}127.0.0.1:{}/3", server.port);
    for login in [":p%40ss@", "p%40ss@", "default:p%40ss@", "ada:s3cret@"] {
        let options = Options::new(&address(login)).expect("it is valid");
        let bus = client.redis_bus(options.name("a n\u{f6}de"));
        assert_eq!(bus.health(), Health::Ready);
        let reply = client.finish(Redis::new(&bus).command(&["CLIENT", "INFO"]));
        let reply = reply.expect("it is connected");
        let info = String::from_utf8_lossy(reply.as_bytes().expect("text"));
        assert!(info.contains(" name=a_n_de ") && info.contains(" db=3 "), "{info}");
        client.log();
    }
    for (login, why) in [(":wr0ng@", "WRONGPASS"), ("ada:wr0ng@", "WRONGPASS"), ("", "NOAUTH")] {
        let options = Options::new(&address(login)).expect("it is valid");
        let refused = client.observe(Bus::redis(&client.l.reactor(), options));
        let log = client.until("failed: ");
        assert!(log[0].starts_with(&format!("failed: cannot log in: {why}")), "{log:?}");
        assert!(!format!("{log:?} {:?}", refused.health()).contains("wr0ng"));
        refused.close();
        client.log();
    }
}

#[test]
fn c213_rediss_is_tls_and_verifies_the_server() {
    let files = SelfSigned::new("localhost");
    let folder = Folder::new();
    let certificate = folder.write("cert", &files.certificate);
    let key = folder.write("key", &files.key);
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port().to_string();
    drop(free);
    let arguments = ["--tls-port", &port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let arguments = [&arguments[..], &["--tls-auth-clients", "no"]].concat();
    let Some(_server) = Server::start_redis(&arguments) else { return };
    let options = Options::new(&format!("rediss://localhost:{port}")).expect("it is valid");
    let trusting = |certificate: &str| {
        let roots = Roots::from_pem(certificate.as_bytes()).expect("a certificate");
        ClientTls::new(&ClientTlsOptions::default().roots(roots)).expect("it is valid")
    };
    let mut client = Client::new();
    let bus = client.redis_bus(options.clone().tls(trusting(&files.certificate)));
    let _subscription = client.subscribe(&bus, "a");
    bus.publish("a", "encrypted").expect("there is room");
    client.until("a encrypted");
    // The system's roots do not know it, nor do others.
    let stranger = trusting(&SelfSigned::new("localhost").certificate);
    for options in [options.clone(), options.tls(stranger)] {
        let refused = client.observe(Bus::redis(&client.l.reactor(), options));
        let log = client.until("failed: ");
        assert!(log[0].contains("certificate"), "{log:?}");
        refused.close();
        client.log();
    }
}

#[test]
fn c214_two_subscriptions_of_one_source_end_one_by_one() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options());
    let redis = Redis::new(&bus);
    let mut count = |what: &str, more: &[&str]| {
        let reply = client.finish(redis.command(&[&["PUBSUB", what], more].concat()));
        reply.expect("it is connected")
    };
    let globs = ["a.>", "a.*"].map(|pattern| bus.messages(pattern, Limit::default()));
    let channels = [0; 2].map(|_| bus.messages("a.b", Limit::default()));
    assert_eq!(count("NUMPAT", &[]), Reply::Number(1));
    let one = Reply::List(vec![Reply::Bytes("a.b".into()), Reply::Number(1)]);
    let none = Reply::List(vec![Reply::Bytes("a.b".into()), Reply::Number(0)]);
    assert_eq!(count("NUMSUB", &["a.b"]), one);
    let ([glob, other_glob], [channel, other_channel]) = (globs, channels);
    drop((glob, channel));
    assert_eq!(count("NUMPAT", &[]), Reply::Number(1));
    assert_eq!(count("NUMSUB", &["a.b"]), one);
    drop((other_glob, other_channel));
    assert_eq!(count("NUMPAT", &[]), Reply::Number(0));
    assert_eq!(count("NUMSUB", &["a.b"]), none);
}

#[test]
fn c214_groups_are_errors() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options());
    let error = bus.subscribe(Pattern::new("a").group("workers"), drop).map(drop).unwrap_err();
    assert_eq!(error, SubjectError::NoGroups("workers".to_owned()));
    bus.publish("a", "").expect("there is room");
    client.finish(bus.flush()).expect("nothing is subscribed");
    assert_eq!(bus.counts().delivered, 0);
}

#[test]
fn c215_other_programs_send_and_get_payloads() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options().max_payload(1000));
    let messages = bus.messages(">", Limit::default()).expect("it is valid");
    let redis = Redis::new(&bus);
    let mut publish = |channel: &[u8], payload: &[u8]| {
        let reply = client.finish(redis.command(&[b"PUBLISH", channel, payload]));
        assert_eq!(reply.expect("it is connected"), Reply::Number(1));
    };
    publish(b"a.b", b"\xff\0");
    publish(b"a", b"COUPLET/1 - r.1\r\nFrom: ada\r\n\r\nhello");
    publish(b"a", b"COUPLET/1 nonsense");
    // Channels that are no subjects are ignored, and messages that are too large are dropped.
    publish(b"a b", b"");
    publish(b"\xff", b"");
    publish(b"a", &[b'x'; 1001]);
    publish(b"a", &[b'x'; 10_000]);
    publish(b"a", &[b'x'; 1000]);
    let expected = [
        Message::new("a.b", &b"\xff\0"[..]),
        Message::new("a", "hello").header("From", "ada").reply_to("r.1"),
        Message::new("a", "COUPLET/1 nonsense"),
        Message::new("a", vec![b'x'; 1000]),
    ];
    for expected in expected {
        assert_eq!(client.finish(messages.next()).expect("it arrives"), expected);
    }
    assert!(messages.is_empty());
    assert_eq!(bus.counts().oversized, 2);
    let log = client.log().join("\n");
    assert!(log.contains("Oversized { pattern: \"*\", size: 10000 }"), "{log}");
    assert!(log.contains("Oversized { pattern: \"*\", size: 1001 }"), "{log}");
}

#[test]
fn c216_commands_get_their_answers_in_order_and_errors_are_theirs() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options());
    let redis = Redis::new(&bus);
    let set = redis.command(&["SET", "a", "1"]);
    let wrong = redis.command(&["LPUSH", "a", "x"]);
    let get = redis.command(&[&b"GET"[..], b"a"]);
    let hash = redis.command(&["HSET", "h", "k", "v"]);
    let map = redis.command(&["HGETALL", "h"]);
    let nil = redis.command(&["GET", "none"]);
    assert_eq!(client.finish(set).expect("it runs"), Reply::Bytes("OK".into()));
    let error = client.finish(wrong).expect_err("it is a string");
    let Some(CommandError::Server(text)) = error.downcast_ref() else { panic!("{error}") };
    assert!(text.starts_with("WRONGTYPE "), "{text}");
    assert_eq!(client.finish(get).expect("it runs"), Reply::Bytes("1".into()));
    assert_eq!(client.finish(hash).expect("it runs"), Reply::Number(1));
    let map = client.finish(map).expect("it runs");
    assert_eq!(map, Reply::List(vec![Reply::Bytes("k".into()), Reply::Bytes("v".into())]));
    assert_eq!(client.finish(nil).expect("it runs"), Reply::Nil);
    let memory = Bus::memory(&client.l.reactor(), &Memory::new());
    let error = client.finish(Redis::new(&memory).command(&["PING"])).expect_err("no server");
    assert_eq!(error.downcast_ref(), Some(&CommandError::NotRedis));
}

#[test]
fn c216_commands_fail_without_a_connection_and_when_it_is_lost() {
    let Some(mut server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options().queue(1000));
    let redis = Redis::new(&bus);
    let large = "x".repeat(1001);
    let error = client.finish(redis.command(&["SET", "a", &large])).expect_err("it is too large");
    assert_eq!(error.downcast_ref(), Some(&CommandError::NotSent));
    let blocked = redis.command(&["BLPOP", "list", "0"]);
    let behind = redis.command(&["PING"]);
    let pause = client.l.reactor().sleep(Duration::from_millis(20));
    client.finish(pause).expect("time passes");
    server.kill();
    for lost in [blocked, behind] {
        let error = client.finish(lost).expect_err("the server was killed");
        assert_eq!(error.downcast_ref(), Some(&CommandError::Lost));
    }
    let error = client.finish(redis.command(&["PING"])).expect_err("there is no connection");
    assert_eq!(error.downcast_ref(), Some(&CommandError::NotSent));
}

#[test]
fn c216_a_user_without_permission_gets_errors_and_stays_connected() {
    let user = ["--user", "ada", "on", ">x", "~*", "resetchannels", "&ours.*", "+@all", "-set"];
    let Some(server) = Server::start_redis(&user) else { return };
    let mut client = Client::new();
    let address = format!("redis://ada:x@127.0.0.1:{}", server.port);
    let bus = client.redis_bus(Options::new(&address).expect("it is valid"));
    bus.publish("theirs", "").expect("the server checks it");
    let _theirs = client.subscribe(&bus, "theirs");
    let _ours = client.subscribe(&bus, "ours.a");
    let set = Redis::new(&bus).command(&["SET", "a", "b"]);
    bus.publish("ours.a", "still connected").expect("there is room");
    let log = client.until("ours.a still connected");
    let errors = log.iter().filter(|line| line.starts_with("error: NOPERM")).count();
    assert_eq!(errors, 2, "{log:?}");
    let error = client.finish(set).expect_err("it is not allowed");
    assert!(error.to_string().contains("NOPERM"), "{error}");
}

#[test]
fn c216a_a_redis_that_is_demoted_is_left_until_it_is_the_master_again() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let long = Duration::from_secs(600);
    let silent = client.redis_bus(server.redis_options().ping_interval(Duration::from_millis(20)));
    let _subscription = client.subscribe(&silent, "a");
    client.log();
    // Twice: it is demoted again after its return.
    for round in 0..2 {
        server.administer("REPLICAOF 127.0.0.1 1");
        client.until("disconnected: the server is not the master any more: its role is replica");
        client.until("failed: cannot log in: the server is a replica, not the master");
        assert!(matches!(silent.health(), Health::Degraded(_)));
        silent.publish("a", round.to_string()).expect("there is room");
        server.administer("REPLICAOF NO ONE");
        client.until_all(&["connected", &format!("a {round}")]);
    }
    // A program that writes notices it at its next write.
    let mut client = Client::new();
    let writing = client.redis_bus(server.redis_options().ping_interval(long));
    server.administer("REPLICAOF 127.0.0.1 1");
    let refused = client.finish(Redis::new(&writing).command(&["SET", "a", "b"]));
    assert!(refused.is_err_and(|failure| failure.to_string().contains("READONLY")));
    client.until("disconnected: the server is not the master any more: READONLY");
    let stored = writing.log("lines", LogLimits::default()).expect("it is valid").append("one");
    server.administer("REPLICAOF NO ONE");
    client.finish(stored).expect("it is stored at the master");
}
