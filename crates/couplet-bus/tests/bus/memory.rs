//! Messages and requests, in memory.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::{
    Bus, Limit, Memory, Message, Pattern, PublishError, RequestError, Subscription,
};
use couplet::defer::TimedOut;
use couplet::services::{Health, Service};
use couplet::testing::{failure_of, success_of};

use crate::kit::{Log, Scene};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn c201_messages_arrive_in_the_order_of_publishing_where_the_pattern_matches() {
    let mut scene = Scene::hub(&Memory::new());
    let (_exact, _any) = (scene.subscribe("a.b"), scene.subscribe("a.*"));
    let _group = scene.subscribe(Pattern::new("c").group("workers"));
    for (subject, text) in [("a.b", "1"), ("a.c", "2"), ("b", "3"), ("a.b", "4"), ("c", "5")] {
        scene.bus.publish(subject, text).expect("there is room");
    }
    assert_eq!(scene.bus.counts().delivered, 0, "none is delivered inside a call");
    assert_eq!(scene.log(), ["a.b 1", "a.b 1", "a.c 2", "a.b 4", "a.b 4", "c 5"]);
    let counts = scene.bus.counts();
    assert_eq!((counts.published, counts.delivered), (5, 6));
}

#[test]
fn c201_a_subscription_ends_with_its_drop() {
    let mut scene = Scene::hub(&Memory::new());
    let kept: Rc<RefCell<Option<Subscription>>> = Rc::default();
    let (ending, log) = (kept.clone(), Log::default());
    let heard = log.clone();
    let once = scene.bus.subscribe("a", move |message| {
        heard.borrow_mut().push(String::from_utf8_lossy(message.payload()).into_owned());
        drop(ending.take());
    });
    *kept.borrow_mut() = Some(once.expect("it is valid"));
    scene.publish("1");
    scene.publish("2");
    scene.settle();
    assert_eq!(log.take(), ["1"]);
}

#[test]
fn c201_all_loops_get_messages_in_one_order_and_without_echo_not_their_own() {
    let hub = Memory::new();
    let mut scenes = [Scene::hub(&hub), Scene::hub(&hub), Scene::hub(&hub.clone().echo(false))];
    let _all = scenes.each_ref().map(|scene| scene.subscribe("a"));
    scenes[0].publish("1");
    scenes[2].publish("2");
    scenes[1].publish("3");
    assert_eq!(scenes[0].log(), ["a 1", "a 2", "a 3"]);
    assert_eq!(scenes[1].log(), ["a 1", "a 2", "a 3"]);
    assert_eq!(scenes[2].log(), ["a 1", "a 3"]);
}

#[test]
fn c201_a_bus_in_another_thread_gets_the_messages() {
    let hub = Memory::new();
    let mut scene = Scene::hub(&hub);
    let _here = scene.subscribe("there");
    std::thread::spawn(move || {
        let mut scene = Scene::hub(&hub);
        scene.bus.publish("there", "from a thread").expect("there is room");
        scene.settle();
    })
    .join()
    .expect("no panic");
    assert_eq!(scene.log(), ["there from a thread"]);
}

#[test]
fn c202_one_member_of_a_group_gets_each_message() {
    let hub = Memory::new();
    let mut scenes = [Scene::hub(&hub), Scene::hub(&hub)];
    let workers = || Pattern::new("a").group("workers");
    let _workers =
        scenes.each_ref().map(|scene| [scene.subscribe(workers()), scene.subscribe(workers())]);
    let _others = scenes[0].subscribe(Pattern::new("a").group("others"));
    for _ in 0..100 {
        scenes[0].publish("");
    }
    let heard = scenes.each_mut().map(|scene| scene.log().len());
    assert_eq!(heard[0] + heard[1], 200, "100 for each group");
    assert!(heard[1] > 10 && heard[0] > 110, "members share the messages: {heard:?}");
    // Another pattern joins the group.
    let _more = scenes[1].subscribe(Pattern::new("*").group("workers"));
    (0..100).for_each(|_| scenes[0].publish(""));
    assert_eq!(scenes.each_mut().map(|scene| scene.log().len()).iter().sum::<usize>(), 200);
}

#[test]
fn c203_a_request_gets_its_own_reply() {
    let mut scene = Scene::hub(&Memory::new());
    let replying = scene.bus.clone();
    let _echo = scene.bus.subscribe("echo", move |asked| {
        replying.reply(&asked, asked.payload().clone()).expect("it wants a reply");
        replying.reply(&asked, "a second reply").expect("it wants a reply");
    });
    let requests = ["1", "2", "3"].map(|text| scene.bus.request("echo", text, SECOND));
    scene.settle();
    let replies = requests.map(|request| success_of(request).payload().clone());
    assert_eq!(replies, ["1", "2", "3"]);
    let message = Message::new("echo", "");
    assert_eq!(scene.bus.reply(&message, "").unwrap_err(), PublishError::NoReplyWanted);
}

#[test]
fn c203_a_request_fails_without_subscribers_after_its_timeout_and_when_the_bus_is_closed() {
    let mut scene = Scene::hub(&Memory::new());
    let nothing = scene.bus.request("nobody", "", SECOND);
    scene.settle();
    assert_eq!(failure_of(nothing).downcast_ref(), Some(&RequestError::NoResponders));

    let _silent = scene.subscribe("silent");
    let late = scene.bus.request("silent", "", SECOND);
    scene.memory.advance(SECOND - Duration::from_nanos(1));
    assert!(!late.has_fired());
    scene.memory.advance(Duration::from_nanos(1));
    assert!(failure_of(late).is::<TimedOut>());

    let pending = scene.bus.request("silent", "", SECOND);
    scene.bus.close();
    assert_eq!(failure_of(pending).downcast_ref(), Some(&RequestError::Closed));
    let after = scene.bus.request("silent", "", SECOND);
    assert_eq!(failure_of(after).downcast_ref(), Some(&PublishError::Closed));
}

#[test]
fn c204_messages_that_are_too_large_or_malformed_are_refused() {
    let scene = Scene::hub(&Memory::new().max_payload(10));
    let refused = |message: &Message| scene.bus.publish_message(message).unwrap_err();
    let error = refused(&Message::new("a", vec![0; 11]));
    assert_eq!(error, PublishError::TooLarge { size: 11, most: 10 });
    let error = refused(&Message::new("a", "").header("b", "c"));
    assert_eq!(error, PublishError::TooLarge { size: 18, most: 10 });
    assert!(matches!(refused(&Message::new("a b", "")), PublishError::Subject(_)));
    assert!(scene.bus.subscribe("a..b", drop).is_err());
    scene.bus.publish("a", vec![0; 10]).expect("it has the right size");
    assert_eq!(scene.bus.counts().published, 1);
}

#[test]
fn c205_messages_for_a_busy_loop_are_bounded_and_the_lost_ones_reported() {
    let hub = Memory::new().queue(100);
    let (mut busy, other) = (Scene::hub(&hub), Scene::hub(&hub));
    let _busy = busy.subscribe("a");
    for (text, times) in [("1", 45), ("2", 45), ("3", 45), ("4", 3), ("5", 45)] {
        other.publish(&text.repeat(times));
    }
    // A message that fits is queued behind one that did not.
    let queued = [("1", 45), ("2", 45), ("4", 3)];
    let queued = queued.map(|(text, times)| format!("a {}", text.repeat(times)));
    assert_eq!(busy.log(), [&queued[..], &["lost 2".to_owned()]].concat());
    assert_eq!(busy.bus.counts().lost, 2);
    other.publish("4");
    assert_eq!(busy.log(), ["a 4"], "there is room again");
}

#[test]
fn c233_a_missed_message_is_reported_before_the_next_one_except_in_a_group() {
    let hub = Memory::new().queue(140);
    let (mut busy, other) = (Scene::hub(&hub), Scene::hub(&hub));
    let [_all, _some] =
        [Pattern::new("*"), Pattern::new("a").group("g")].map(|it| busy.subscribe(it));
    let publish = |text: &str| {
        let message = Message::new("a", text.to_owned()).numbered();
        other.bus.publish_message(&message).expect("there is room");
    };
    publish("1");
    assert_eq!(busy.log(), ["a 1", "a 1"]);
    // For each subscription.
    publish(&"2".repeat(150));
    publish(&"3".repeat(150));
    assert_eq!(busy.log(), ["lost 4"]);
    publish("4");
    assert_eq!(busy.log(), ["missed 2 to a", "a 4", "a 4"]);
    assert_eq!(busy.bus.counts().missed, 2);
    other.publish("not numbered");
    assert_eq!(busy.log(), ["a not numbered", "a not numbered"]);
}

#[test]
fn c206_a_panic_of_a_subscriber_ends_only_its_call() {
    let mut scene = Scene::hub(&Memory::new());
    let panics = scene.bus.subscribe("a", |message| assert_ne!(message.payload(), "1"));
    let _panics = panics.expect("it is valid");
    let _logs = scene.subscribe("a");
    scene.publish("1");
    scene.publish("2");
    assert!(scene.memory.take_panics().is_empty());
    assert_eq!(scene.log(), ["a 1", "a 2"]);
    assert_eq!(scene.memory.take_panics().len(), 1);
}

#[test]
fn c206_a_closed_bus_refuses_and_a_restarted_one_works() {
    let mut scene = Scene::hub(&Memory::new());
    let mut service = scene.bus.clone();
    let mut held = None;
    for _ in 0..3 {
        assert_eq!(scene.bus.health(), Health::Ready);
        let before = held.replace(scene.subscribe("a"));
        // The one of the run before has ended, and this one stays.
        drop(before);
        scene.publish("1");
        // Each run has its own subscription to replies.
        let nothing = scene.bus.request("nobody", "", SECOND);
        let stopped = service.stop();
        assert_eq!(scene.log(), ["a 1"], "a drain delivers first");
        assert_eq!(failure_of(nothing).downcast_ref(), Some(&RequestError::NoResponders));
        success_of(stopped);
        assert!(matches!(scene.bus.health(), Health::Failed(_)));
        assert_eq!(scene.bus.publish("a", "").unwrap_err(), PublishError::Closed);
        success_of(service.start(&scene.memory.reactor()));
    }
}

#[test]
fn c201_messages_that_a_call_adds_are_delivered_in_a_later_call() {
    let mut scene = Scene::hub(&Memory::new());
    let (log, reactor, bus) = (Log::default(), scene.memory.reactor(), scene.bus.clone());
    let noted = log.clone();
    let first = scene.bus.flush().map(move |()| {
        let other = noted.clone();
        reactor.call_soon(move || other.borrow_mut().push("a call".to_owned()));
        bus.flush().map(move |()| noted.borrow_mut().push("a flush".to_owned())).detach();
    });
    first.detach();
    scene.settle();
    assert_eq!(log.take(), ["a call", "a flush"]);
}

#[test]
fn c201_all_loops_that_ended_without_a_close_are_forgotten_at_the_next_message() {
    let hub = Memory::new();
    let mut live = Scene::hub(&hub);
    let _live = live.subscribe("a");
    let ended = [(); 2].map(|()| {
        let scene = Scene::hub(&hub);
        let held = scene.subscribe("a");
        let Scene { memory, bus, .. } = scene;
        drop(memory);
        (bus, held)
    });
    assert_eq!(format!("{hub:?}"), "Memory { buses: 3, .. }");
    live.publish("1");
    assert_eq!(format!("{hub:?}"), "Memory { buses: 1, .. }");
    assert_eq!(live.log(), ["a 1"]);
    drop(ended);
}

#[test]
fn c206_the_last_handle_closes_the_bus() {
    let hub = Memory::new();
    let mut scene = Scene::hub(&hub);
    let other = Bus::memory(&scene.memory.reactor(), &hub);
    let subscription = other.subscribe("a", |_| {}).expect("it is valid");
    drop(other);
    assert_eq!(subscription.bus().health(), Health::Ready);
    assert_eq!(format!("{hub:?}"), "Memory { buses: 2, .. }");
    drop(subscription);
    assert_eq!(format!("{hub:?}"), "Memory { buses: 1, .. }");
    scene.publish("nobody minds");
    scene.settle();
}

#[test]
fn c232_a_bus_is_a_row_in_the_snapshots_of_its_loop() {
    let mut scene = Scene::hub(&Memory::new());
    let subscription = scene.subscribe("a");
    scene.publish("1");
    scene.publish("2");
    scene.settle();
    let snapshot = scene.memory.reactor().snapshot();
    scene.settle();
    let rows = success_of(snapshot).rows;
    let row = "buses       memory health ready published 2 delivered 2 lost 0 missed 0 dropped 0 oversized 0 \
               unconfirmed 0 connects 0";
    assert_eq!(rows.iter().map(ToString::to_string).collect::<Vec<_>>(), [row]);
    let reactor = scene.memory.reactor();
    drop((scene.bus, subscription));
    let snapshot = reactor.snapshot();
    scene.memory.advance(Duration::ZERO);
    assert!(success_of(snapshot).rows.is_empty());
}

#[test]
fn c232_each_count_of_a_bus_has_its_own_place_in_its_row() {
    let (mut scene, wire) = Scene::open(|options| options.queue(60).max_payload(100));
    let one = Limit { messages: 1, bytes: 1000 };
    let _slow = scene.bus.messages("a", one).expect("it is valid");
    let numbered = |number: u32| {
        let block = format!("NATS/1.0\r\nCouplet-Number: ada {number}\r\n\r\n");
        format!("HMSG a 1 {0} {0}\r\n{block}", block.len())
    };
    for message in [numbered(1), numbered(7), "MSG a 1 0\r\n".into(), "MSG a 1 0\r\n".into()] {
        scene.say(&wire, &message);
    }
    let large = format!("MSG a 1 101\r\n{}", "x".repeat(101));
    (0..8).for_each(|_| scene.say(&wire, &large));
    for _ in 0..6 {
        scene.publish("");
        scene.settle();
    }
    scene.reset(&wire);
    // Each has 11 bytes.
    let refused = (0..12).filter(|_| scene.bus.publish("a", "").is_err()).count();
    assert_eq!(refused, 7);
    scene.accept();
    let snapshot = scene.memory.reactor().snapshot();
    scene.settle();
    let rows = success_of(snapshot).rows;
    let row = "buses       NATS health ready published 11 delivered 4 lost 7 missed 5 dropped 3 oversized 8 \
               unconfirmed 6 connects 2";
    assert_eq!(rows.iter().map(ToString::to_string).collect::<Vec<_>>(), [row]);
}
