//! A connection: login, messages, errors and its end.

use std::time::Duration;

use couplet::bus::nats::{Auth, Nkey};
use couplet::bus::{Message, NotConfirmed, Pattern, PublishError};
use couplet::layers::tls::{ClientTls, ClientTlsOptions};
use couplet::services::Health;
use couplet::testing::{failure_of, success_of};

use crate::kit::{INFO, LONG, Scene};

/// The CONNECT of a client with these credentials.
fn login(auth: Auth) -> String {
    let mut scene = Scene::nats(|options| options.auth(auth).name("me").echo(false));
    let wire = scene.complete();
    scene.say(&wire, r#"INFO {"headers":true,"nonce":"abc"}"#);
    scene.take(&wire)
}

#[test]
fn c208_the_login_has_the_credentials() {
    let start = r#"CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"lang":"rust","version":""#;
    let none = login(Auth::None);
    assert!(none.starts_with(start), "{none}");
    let end = r#""protocol":1,"echo":false,"headers":true,"no_responders":true,"name":"me"}"#;
    assert!(none.ends_with(&format!("{end}\r\nPING\r\n")), "{none}");
    assert!(login(Auth::Token("t".to_owned())).contains(r#","auth_token":"t"}"#));
    let password = Auth::Password { user: "ada".to_owned(), password: "\"".to_owned() };
    assert!(login(password).contains(r#","user":"ada","pass":"\""}"#));
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let nkey = login(Auth::Nkey(Nkey::from_seed(seed).expect("it is valid")));
    assert!(
        nkey.contains(
            r#","nkey":"UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4","sig":""#
        )
    );
}

#[test]
fn c208_a_login_that_fails_is_an_attempt_that_failed() {
    let tls = ClientTlsOptions::default().dangerously_accept_any_server_certificate();
    let tls = ClientTls::new(&tls).expect("it is valid");
    let timeout = "cannot log in: the server did not answer in time";
    for (with_tls, said, why) in [
        (false, "", timeout),
        (false, INFO, timeout),
        (
            false,
            "INFO {\"headers\":true}\r\n-ERR 'Authorization Violation'",
            "cannot log in: Authorization Violation",
        ),
        (
            false,
            "INFO {\"version\":\"1.4.1\"} ",
            "cannot log in: the server accepts no headers: NATS 2.2 or later is required",
        ),
        (
            false,
            "INFO {\"tls_required\":true}",
            "cannot log in: the server requires TLS, which `Options::tls` turns on",
        ),
        (false, "PONG", "cannot log in: the server sent something before INFO"),
        (
            false,
            "SSH-2.0-OpenSSH_9.2",
            "cannot read from the server: \"SSH-2.0-OpenSSH_9.2\" is not an operation",
        ),
        (true, INFO, "cannot log in: the server offers no TLS"),
        (
            true,
            "INFO {\"tls_required\":true}\r\nPING",
            "cannot log in: the server sent bytes before TLS",
        ),
        (true, "INFO {\"tls_available\":true}", timeout),
    ] {
        let mut scene =
            Scene::nats(|options| if with_tls { options.tls(tls.clone()) } else { options });
        assert_eq!(scene.bus.health(), Health::Starting);
        let wire = scene.complete();
        if !said.is_empty() {
            scene.say(&wire, said);
        }
        scene.memory.advance(Duration::from_secs(5));
        assert_eq!(scene.log(), [format!("a.example:4222 failed: {why}")], "{said:?}");
        assert!(wire.is_closed() || wire.saw_reset());
        assert!(matches!(scene.bus.health(), Health::Degraded(_)));
        scene.delay();
    }
}

#[test]
fn c204_messages_and_subscriptions_on_the_wire() {
    let (mut scene, wire) = Scene::open(|options| options);
    let plain = scene.subscribe("a.*");
    let _group = scene.subscribe(Pattern::new("b").group("workers"));
    scene.publish("hello");
    let full = Message::new("a", "x").reply_to("r").header("A", "b");
    scene.bus.publish_message(&full).expect("there is room");
    assert_eq!(
        scene.take(&wire),
        "SUB a.* 1\r\nSUB b workers 2\r\nPUB a 5\r\nhello\r\n\
         HPUB a r 18 19\r\nNATS/1.0\r\nA: b\r\n\r\nx\r\n"
    );
    scene.say(&wire, "MSG a.b 1 2\r\nhi\r\nMSG b 2 r 0\r\n\r\nMSG c 3 0\r\n\r\nPING");
    assert_eq!(scene.log(), ["a.b hi", "b "], "subscription 3 is unknown");
    assert_eq!(scene.take(&wire), "PONG\r\n");
    drop(plain);
    scene.say(&wire, "MSG a.b 1 0\r\n");
    assert_eq!(scene.take(&wire), "UNSUB 1\r\n");
    assert_eq!(scene.log(), [""; 0]);
}

#[test]
fn c204_the_limit_of_the_server_holds_for_publishing_and_ours_for_both() {
    let (mut scene, wire) = Scene::open(|options| options.max_payload(100));
    let _subscription = scene.subscribe("a");
    let too_large = |most| Err(PublishError::TooLarge { size: 101, most });
    assert_eq!(scene.bus.publish("a", vec![b'x'; 101]), too_large(100));
    scene.say(&wire, r#"INFO {"max_payload":50}"#);
    assert_eq!(scene.bus.publish("a", vec![b'x'; 101]), too_large(50));
    scene.bus.publish("a", vec![b'x'; 50]).expect("it fits");
    let large = format!("MSG a 1 101\r\n{}\r\nMSG a 1 2\r\nhi", "x".repeat(101));
    scene.say(&wire, &large);
    assert_eq!(scene.log(), ["a: 101 bytes", "a hi"]);
    assert_eq!(scene.bus.counts().oversized, 1);
}

#[test]
fn c206_errors_of_the_server_are_reported_and_explain_the_end() {
    let (mut scene, wire) = Scene::open(|options| options);
    scene.say(&wire, "-ERR 'Permissions Violation for Publish to \"a\"'");
    assert_eq!(scene.log(), ["error: Permissions Violation for Publish to \"a\""]);
    assert_eq!(scene.bus.health(), Health::Ready);
    scene.say(&wire, "PING\r\n-ERR 'Stale Connection'");
    wire.close();
    assert_eq!(
        scene.log(),
        [
            "error: Stale Connection",
            "disconnected with 0 unconfirmed: the server closed the connection: Stale Connection"
        ]
    );
    let wire = scene.accept();
    scene.say(&wire, "-ERR 'Permissions Violation'\r\nPING");
    scene.log();
    wire.close();
    let log = scene.log();
    assert!(!log[0].contains("Permissions"), "it did not end the connection: {log:?}");
    let wire = scene.accept();
    scene.say(&wire, "-ERR 'Permissions Violation'\r\n-ERR 'Stale Connection'");
    scene.log();
    wire.close();
    let last =
        "disconnected with 0 unconfirmed: the server closed the connection: Stale Connection";
    assert_eq!(scene.log(), [last]);
}

#[test]
fn c233_each_subscription_reports_what_it_has_missed_itself_also_across_a_loss() {
    let (mut scene, wire) = Scene::open(|options| options);
    let _both = [scene.subscribe("a"), scene.subscribe("*")];
    scene.settle();
    let numbered = |id: u32, number: u32| {
        let block = format!("NATS/1.0\r\nCouplet-Number: ada {number}\r\n\r\n");
        format!("HMSG a {id} {0} {0}\r\n{block}", block.len())
    };
    for (id, number, missed) in [(1, 1, 0), (2, 1, 0), (1, 3, 1), (2, 5, 3), (1, 4, 0)] {
        scene.say(&wire, &numbered(id, number));
        let report = (missed > 0).then(|| format!("missed {missed} to a"));
        let wanted: Vec<String> = report.into_iter().chain(["a ".to_owned()]).collect();
        assert_eq!(scene.log(), wanted, "{number} for {id}");
    }
    scene.reset(&wire);
    let wire = scene.accept();
    scene.log();
    for (id, missed) in [(2, 4), (1, 5)] {
        scene.say(&wire, &numbered(id, 10));
        assert_eq!(scene.log(), [format!("missed {missed} to a"), "a ".to_owned()]);
    }
    assert_eq!(scene.bus.counts().missed, 1 + 3 + 4 + 5);
}

#[test]
fn c211_bytes_that_are_not_the_protocol_end_the_connection_with_an_error() {
    let (mut scene, wire) = Scene::open(|options| options);
    let _subscription = scene.subscribe("a");
    scene.say(&wire, "MSG a 1 2\r\nok\r\nMSG a 1 99999999999\r\n");
    assert_eq!(
        scene.log(),
        [
            "a ok",
            "disconnected with 0 unconfirmed: cannot read from the server: a payload of 99999999999 bytes is too large"
        ]
    );
    let wire = scene.accept();
    assert_eq!(scene.take(&wire), "SUB a 1\r\n");
}

#[test]
fn c209_a_flush_confirms_earlier_messages() {
    let (mut scene, wire) = Scene::open(|options| options);
    let _subscription = scene.subscribe("a");
    scene.publish("1");
    let flushed = scene.bus.flush();
    scene.publish("2");
    assert_eq!(scene.take(&wire), "SUB a 1\r\nPUB a 1\r\n1\r\nPING\r\nPUB a 1\r\n2\r\n");
    assert!(!flushed.has_fired());
    scene.say(&wire, "MSG a 1 1\r\n1\r\nPONG\r\nPONG");
    success_of(flushed);
    let lost = scene.bus.flush();
    scene.settle();
    wire.reset();
    let log = scene.log();
    assert!(log[1].starts_with("disconnected with 1 unconfirmed: "), "{log:?}");
    assert_eq!(scene.bus.counts().unconfirmed, 1);
    assert_eq!(failure_of(lost).downcast_ref(), Some(&NotConfirmed));
}

#[test]
fn c209_a_connection_without_answers_to_two_pings_is_dropped() {
    let interval = Duration::from_secs(10);
    let (mut scene, wire) = Scene::open(|options| options.ping_interval(interval));
    for _ in 0..3 {
        scene.memory.advance(interval);
        assert_eq!(scene.take(&wire), "PING\r\n");
        scene.say(&wire, "PONG");
    }
    // An answer counts for both of them, the second time too.
    for is_answered in [true, true, false] {
        for _ in 0..2 {
            scene.memory.advance(interval);
            assert_eq!(scene.take(&wire), "PING\r\n");
        }
        if is_answered {
            scene.say(&wire, "PONG");
        }
    }
    scene.memory.advance(interval);
    assert_eq!(scene.log(), ["disconnected with 0 unconfirmed: the server does not answer PING"]);
}

#[test]
fn c209_a_drain_ends_subscriptions_delivers_sends_and_closes() {
    let (mut scene, wire) = Scene::open(|options| options);
    let replying = scene.bus.clone();
    let subscription = scene.bus.subscribe("a", move |message| {
        replying.reply(&message, "done").expect("the bus is open");
    });
    scene.settle();
    wire.take();
    let drained = scene.bus.drain();
    assert_eq!(scene.take(&wire), "UNSUB 1\r\nPING\r\n");
    scene.say(&wire, "MSG a 1 r 0\r\n\r\nPONG");
    assert_eq!(scene.take(&wire), "PUB r 4\r\ndone\r\nPING\r\n");
    assert!(!drained.has_fired());
    scene.say(&wire, "PONG");
    success_of(drained);
    assert!(wire.saw_fin());
    assert_eq!(scene.bus.publish("a", ""), Err(PublishError::Closed));
    wire.close();
    scene.memory.advance(LONG);
    assert!(scene.memory.connecting().is_empty(), "a closed bus does not connect");
    drop(subscription);
}
