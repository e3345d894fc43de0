//! A connection to a Redis server, which the test plays.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use couplet::bus::redis::{CommandError, Options, Redis, Reply};
use couplet::bus::{Message, NotConfirmed, PublishError};
use couplet::services::Health;
use couplet::testing::{Wire, failure_of, success_of};

use crate::kit::{LONG, Scene};

/// A command on the wire.
pub(crate) fn command(parts: &[&str]) -> String {
    let parts: String = parts.iter().map(|part| format!("${}\r\n{part}\r\n", part.len())).collect();
    format!("*{}\r\n{parts}", parts.matches('$').count())
}

fn options(address: &str) -> Options {
    Options::new(address).expect("it is valid")
}

/// A client that has logged in, and the server's end.
fn open(options: Options) -> (Scene, Wire) {
    let mut scene = Scene::redis(options);
    let wire = scene.complete();
    scene.take(&wire);
    scene.say(&wire, "%1\r\n+server\r\n+redis\r\n+PONG");
    assert_eq!(scene.log(), ["connected to a.example:6379"]);
    (scene, wire)
}

#[test]
fn c213_the_login_has_the_credentials_and_the_database() {
    let login = |options: Options| {
        let mut scene = Scene::redis(options);
        let wire = scene.complete();
        scene.take(&wire)
    };
    let (hello, ping) = (command(&["HELLO", "3"]), command(&["PING"]));
    assert_eq!(login(options("redis://a.example")), format!("{hello}{ping}"));
    let full = options("redis://ada:x@a.example/2").name("me, a n\u{f6}de");
    let hello = command(&["HELLO", "3", "AUTH", "ada", "x", "SETNAME", "me,_a_n_de"]);
    assert_eq!(login(full), format!("{hello}{}{ping}", command(&["SELECT", "2"])));
}

#[test]
fn c213_a_login_that_fails_is_an_attempt_that_failed() {
    for (said, why) in [
        ("", "cannot log in: the server did not answer in time"),
        ("%0", "cannot log in: the server did not answer in time"),
        ("-NOAUTH no", "cannot log in: NOAUTH no: the server requires a password"),
        ("%0\r\n-LOADING Redis is loading", "cannot log in: LOADING Redis is loading"),
        (
            "-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `ada`, `s3cret`, ",
            "cannot log in: ERR unknown command `HELLO`: Redis 6 or later is required",
        ),
        (">1\r\n+message", "cannot read from the server: a reply without a command"),
        ("SSH-2.0", "cannot read from the server: \"SSH-2.0\" is not a reply"),
    ] {
        let mut scene = Scene::redis(options("redis://ada:s3cret@a.example"));
        let wire = scene.complete();
        if !said.is_empty() {
            scene.say(&wire, said);
        }
        scene.memory.advance(Duration::from_secs(5));
        assert_eq!(scene.log(), [format!("a.example:6379 failed: {why}")], "{said:?}");
        assert!(matches!(scene.bus.health(), Health::Degraded(_)));
    }
}

#[test]
fn c216_replies_without_a_command_end_the_connection() {
    for said in [
        ":1",
        ">3\r\n+subscribe\r\n+a\r\n:1",
        // The answer to a PUBLISH is a number, to a SUBSCRIBE no reply.
        "PUBLISH +OK",
        "PUBLISH >3\r\n+subscribe\r\n+a\r\n:1",
        "SUBSCRIBE :1",
    ] {
        let (mut scene, wire) = open(options("redis://a.example"));
        let _subscription = said.starts_with("SUBSCRIBE").then(|| scene.subscribe("a"));
        if said.starts_with("PUBLISH") {
            scene.publish("");
        }
        scene.settle();
        scene.say(&wire, said.rsplit(' ').next().expect("a reply"));
        let log = scene.log();
        assert!(
            log[0].ends_with("unconfirmed: cannot read from the server: a reply without a command"),
            "{log:?}"
        );
    }
}

#[test]
fn c216_unconfirmed_messages_are_counted_and_flushes_and_calls_fail_with_the_connection() {
    let (mut scene, wire) = open(options("redis://a.example"));
    (0..3).for_each(|_| scene.publish(""));
    scene.bus.publish_message(&Message::new("a", "").reply_to("r")).expect("there is room");
    let flush = scene.bus.flush();
    let call = Redis::new(&scene.bus).command(&["GET", "a"]);
    scene.settle();
    scene.say(&wire, ":0\r\n:1");
    wire.reset();
    let log = scene.log();
    assert!(log[0].starts_with("disconnected with 2 unconfirmed: "), "{log:?}");
    assert_eq!(failure_of(flush).downcast_ref(), Some(&NotConfirmed));
    assert_eq!(failure_of(call).downcast_ref(), Some(&CommandError::Lost));
    assert_eq!(scene.bus.counts().unconfirmed, 2);
}

#[test]
fn c216_a_command_that_waits_for_a_slow_server_fails_with_the_connection() {
    let (mut scene, wire) = open(options("redis://a.example"));
    scene.memory.network().set_capacity(10_000);
    let redis = Redis::new(&scene.bus);
    let large = "x".repeat(1_000_000);
    let sent = redis.command(&["SET", "a", &large]);
    let queued = redis.command(&["SET", "b", &large]);
    scene.settle();
    scene.reset(&wire);
    for call in [sent, queued] {
        assert_eq!(failure_of(call).downcast_ref(), Some(&CommandError::Lost));
    }
    // Their bytes are free again: the whole queue is.
    let frame = command(&["PUBLISH", "a", &"x".repeat(1_000_000)]).len() - 1_000_000;
    for _ in 0..8 {
        scene.bus.publish("a", vec![b'x'; (1 << 20) - frame]).expect("there is room");
    }
    assert_eq!(scene.bus.publish("a", ""), Err(PublishError::Full));
}

#[test]
fn c214_subscriptions_are_restored_once_for_each_source() {
    let (mut scene, wire) = open(options("redis://a.example"));
    let held = ["a.>", "a.*", "b", "b", "c"].map(|pattern| scene.subscribe(pattern));
    let [glob, _same_glob, _channel, _same_channel, other] = held;
    scene.take(&wire);
    drop((glob, other));
    assert_eq!(scene.take(&wire), command(&["UNSUBSCRIBE", "c"]));
    wire.reset();
    scene.log();
    let wire = scene.complete();
    scene.take(&wire);
    scene.publish("first");
    scene.say(&wire, "%0\r\n+PONG");
    let expected = [
        command(&["SUBSCRIBE", "b"]),
        command(&["PSUBSCRIBE", "a.*"]),
        command(&["PUBLISH", "a", "first"]),
    ];
    assert_eq!(scene.take(&wire), expected.concat());
}

#[test]
fn c216_an_error_of_a_subscription_or_a_message_is_an_event_and_takes_its_place() {
    let (mut scene, wire) = open(options("redis://a.example"));
    let _subscriptions = ["a", "b"].map(|pattern| scene.subscribe(pattern));
    scene.publish("");
    let flush = scene.bus.flush();
    let failed = scene.bus.flush();
    let call = Redis::new(&scene.bus).command(&["GET", "a"]);
    scene.settle();
    let replies =
        "-NOPERM a\r\n>3\r\n+subscribe\r\n+b\r\n:1\r\n-MISCONF m\r\n+PONG\r\n-LOADING l\r\n+v";
    scene.say(&wire, replies);
    assert_eq!(scene.log(), ["error: NOPERM a", "error: MISCONF m", "error: LOADING l"]);
    success_of(flush);
    assert_eq!(failure_of(failed).downcast_ref(), Some(&NotConfirmed));
    assert_eq!(success_of(call), Reply::Bytes("v".into()));
}

#[test]
fn c215_a_bus_without_echo_ignores_only_its_own_messages() {
    let (mut scene, wire) = open(options("redis://a.example").echo(false));
    let _subscription = scene.subscribe("a");
    scene.take(&wire);
    scene.publish("mine");
    let sent = scene.take(&wire);
    let payload = sent.split_once("COUPLET/1 ").expect("an envelope").1.trim_end();
    let own = format!("COUPLET/1 {payload}");
    scene.say(&wire, ">3\r\n+subscribe\r\n+a\r\n:1\r\n:1");
    let other = "COUPLET/1 0123 -\r\n\r\ntheirs";
    for payload in [&own, other, "plain"] {
        let text = format!(">3\r\n+message\r\n+a\r\n${}\r\n{payload}", payload.len());
        scene.say(&wire, &text);
    }
    assert_eq!(scene.log(), ["a theirs", "a plain"]);
}

#[test]
fn c216_a_connection_without_answers_to_two_pings_is_dropped() {
    let (mut scene, wire) = open(options("redis://a.example"));
    for _ in 0..3 {
        scene.memory.advance(Duration::from_secs(30));
        assert_eq!(scene.take(&wire), command(&["HELLO", "3"]));
        scene.say(&wire, "%2\r\n+server\r\n+redis\r\n+role\r\n+master");
    }
    scene.memory.advance(LONG);
    scene.memory.advance(Duration::from_secs(30));
    let log = scene.log();
    assert_eq!(log[0], "disconnected with 0 unconfirmed: the server does not answer PING");
}

#[test]
fn c216a_a_replica_is_an_attempt_that_failed() {
    for role in ["replica", "slave"] {
        let mut scene = Scene::redis(options("redis://a.example"));
        let wire = scene.complete();
        scene.say(&wire, &format!("%2\r\n+server\r\n+redis\r\n+role\r\n+{role}\r\n+PONG"));
        let why = "a.example:6379 failed: cannot log in: the server is a replica, not the master";
        assert_eq!(scene.log(), [why]);
        assert!(matches!(scene.bus.health(), Health::Degraded(_)));
    }
}

#[test]
fn c216a_a_server_that_was_demoted_is_left_at_its_refusal_or_its_next_check() {
    let read_only = "READONLY You can't write against a read only replica.";
    let script = format!("ERR Error running script: @user_script: 10: -{read_only}");
    for (error, is_demoted) in [
        (read_only, true),
        (script.as_str(), true),
        ("MASTERDOWN Link with MASTER is down.", true),
        ("ERR unknown command 'READONLY'", false),
        ("WRONGTYPE no", false),
    ] {
        // Twice, by two kinds of commands.
        let (mut scene, mut wire) = open(options("redis://a.example"));
        for by_message in [false, true] {
            let call = Redis::new(&scene.bus).command(&["SET", "a", "b"]);
            scene.settle();
            match by_message {
                true => {
                    scene.say(&wire, "+OK");
                    success_of(call);
                    scene.publish("");
                    scene.settle();
                    scene.say(&wire, &format!("-{error}"));
                }
                false => {
                    scene.say(&wire, &format!("-{error}"));
                    let failure = failure_of(call);
                    let expected = CommandError::Server(error.to_owned());
                    assert_eq!(failure.downcast_ref(), Some(&expected));
                }
            }
            let mut log = scene.log();
            assert_eq!(log.pop_if(|line| line.starts_with("disconnected")).is_some(), is_demoted);
            if is_demoted {
                assert!(matches!(scene.bus.health(), Health::Degraded(why) if why.contains(error)));
                wire = scene.complete();
                scene.say(&wire, "%2\r\n+server\r\n+redis\r\n+role\r\n+master\r\n+PONG");
                scene.log();
                assert_eq!(scene.bus.health(), Health::Ready);
            }
        }
    }
    let (mut scene, wire) = open(options("redis://a.example"));
    let waiting = scene.bus.flush();
    scene.settle();
    scene.say(&wire, "+PONG");
    success_of(waiting);
    for role in ["master", "replica"] {
        scene.memory.advance(Duration::from_secs(30));
        scene.say(&wire, &format!("%2\r\n+server\r\n+redis\r\n+role\r\n+{role}"));
    }
    let why = "disconnected with 0 unconfirmed: the server is not the master any more: its role is replica";
    assert_eq!(scene.log(), [why]);
}

#[test]
fn c216a_a_value_that_looks_like_a_role_is_a_value() {
    let (mut scene, wire) = open(options("redis://a.example"));
    let call = Redis::new(&scene.bus).command(&["HGETALL", "a"]);
    scene.settle();
    scene.say(&wire, "%2\r\n+server\r\n+x\r\n+role\r\n+replica");
    assert_eq!(success_of(call).as_list().map(<[Reply]>::len), Some(4));
    assert_eq!(scene.log(), [""; 0]);
}

#[test]
fn c206a_a_flood_of_errors_is_counted_and_reported_in_part() {
    let (mut scene, wire) = open(options("redis://a.example"));
    for _ in 0..2 {
        for _ in 0..100 {
            scene.publish("");
            scene.settle();
            scene.say(&wire, "-NOPERM no");
        }
        let log = scene.log();
        assert_eq!((log.len(), &*log[1]), (10, "error: NOPERM no"));
        scene.memory.advance(Duration::from_secs(10));
    }
    assert_eq!(scene.bus.counts().errors, 200);
}

#[test]
fn c216_commands_and_flushes_fail_with_a_close_whether_they_were_sent_or_not() {
    let (mut scene, wire) = open(options("redis://a.example"));
    scene.memory.network().set_capacity(10_000);
    let (redis, large) = (Redis::new(&scene.bus), "x".repeat(1_000_000));
    let first = scene.bus.flush();
    let calls = ["a", "b", "c"].map(|key| redis.command(&["SET", key, &large]));
    let last = scene.bus.flush();
    scene.settle();
    scene.take(&wire);
    scene.bus.close();
    scene.settle();
    for call in calls {
        assert_eq!(failure_of(call).downcast_ref(), Some(&CommandError::Lost));
    }
    for flush in [first, last] {
        assert_eq!(failure_of(flush).downcast_ref(), Some(&NotConfirmed));
    }
}

#[test]
fn c204_a_message_that_is_too_large_is_one_event_and_the_next_arrives() {
    let (mut scene, wire) = open(options("redis://a.example").max_payload(100));
    let _held = ["a", "a", "b.*"].map(|pattern| scene.subscribe(pattern));
    scene.settle();
    scene.say(&wire, ">3\r\n+subscribe\r\n+a\r\n:1\r\n>3\r\n+psubscribe\r\n+b.*\r\n:2");
    // Larger than a payload, and than an envelope may be.
    for size in [101, 5000] {
        let text = format!("${size}\r\n{}", "x".repeat(size));
        scene.say(&wire, &format!(">3\r\n+message\r\n+a\r\n{text}"));
        scene.say(&wire, &format!(">4\r\n+pmessage\r\n+b.*\r\n+b.c\r\n{text}"));
        assert_eq!(scene.log(), [format!("a: {size} bytes"), format!("b.*: {size} bytes")]);
    }
    scene.say(&wire, ">3\r\n+message\r\n+a\r\n$2\r\nhi");
    assert_eq!(scene.log(), ["a hi", "a hi"]);
    assert_eq!(scene.bus.counts().oversized, 4);
}

#[test]
fn c213_a_login_ends_with_the_last_of_its_answers_each_time() {
    let mut scene = Scene::redis(options("redis://a.example/2"));
    for _ in 0..2 {
        let wire = scene.complete();
        scene.log();
        for answer in ["%0", "+OK"] {
            scene.say(&wire, answer);
            assert_eq!(scene.log(), [""; 0], "{answer}");
        }
        scene.say(&wire, "+PONG");
        assert_eq!(scene.log(), ["connected to a.example:6379"]);
        scene.reset(&wire);
    }
}

#[test]
fn c207c_a_client_of_redis_leaves_for_a_new_address_once_all_is_answered() {
    let minute = Duration::from_secs(60);
    let mut scene = Scene::redis(options("redis://a.example").ping_interval(10 * minute));
    let name = |scene: &Scene, last: u8| {
        let addresses = Ok(vec![IpAddr::from([10, 0, 0, last])]);
        scene.memory.network().set_name("a.example", Duration::ZERO, addresses);
    };
    name(&scene, 1);
    scene.memory.connecting().remove(0).fail(ErrorKind::ConnectionRefused.into());
    scene.settle();
    let wire = scene.complete();
    scene.say(&wire, "%1\r\n+server\r\n+redis\r\n+PONG");
    let _subscription = scene.subscribe("a");
    scene.publish("1");
    let redis = Redis::new(&scene.bus);
    let (call, flush) = (redis.command(&["GET", "a"]), scene.bus.flush());
    scene.take(&wire);
    name(&scene, 2);
    scene.memory.advance(2 * minute);
    assert_eq!(scene.take(&wire), command(&["HELLO", "3"]));
    let refused = redis.command(&["GET", "a"]);
    assert_eq!(failure_of(refused).downcast_ref(), Some(&CommandError::NotSent));
    scene.publish("2");
    scene.say(&wire, ">3\r\n+subscribe\r\n+a\r\n:1\r\n:1\r\n+v\r\n+PONG");
    assert_eq!(success_of(call), Reply::Bytes("v".into()));
    success_of(flush);
    assert_eq!((scene.take(&wire), wire.saw_fin()), (String::new(), false));
    assert_eq!(scene.bus.health(), Health::Ready);
    scene.say(&wire, "%2\r\n+server\r\n+redis\r\n+role\r\n+master");
    assert!(wire.saw_fin());
    wire.close();
    let wire = scene.complete();
    scene.take(&wire);
    scene.say(&wire, "%1\r\n+server\r\n+redis\r\n+PONG");
    let expected = [command(&["SUBSCRIBE", "a"]), command(&["PUBLISH", "a", "2"])];
    assert_eq!(scene.take(&wire), expected.concat());
    assert_eq!(scene.bus.counts().unconfirmed, 0);
}
