//! Logs in memory, on several loops.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::{Entry, Following, Log, LogLimits, Memory, Start};
use couplet::testing::success_of;

use crate::kit::Scene;

type Got = Rc<RefCell<Vec<String>>>;

fn follow(log: &Log, start: Start) -> (Following, Got) {
    let got = Got::default();
    let getting = got.clone();
    let following = log.follow(start, move |entry| match entry {
        Entry::Message { position, payload, .. } => {
            let text = String::from_utf8_lossy(&payload).into_owned();
            getting.borrow_mut().push(format!("{} {text}", position.number()));
        }
        other => getting.borrow_mut().push(format!("{other:?}")),
    });
    (following, got)
}

#[test]
fn c227_all_loops_and_threads_see_one_order_also_without_echo() {
    let hub = Memory::new().echo(false);
    let mut scenes = [Scene::hub(&hub), Scene::hub(&hub)];
    let logs = scenes.each_ref().map(|scene| scene.bus.log("a", LogLimits::default()));
    let [first, second] = logs.map(|log| log.expect("it is valid"));
    let followers = [&first, &second].map(|log| follow(log, Start::Next));
    scenes.iter_mut().for_each(Scene::settle);
    let stored: Vec<_> = (0..50)
        .flat_map(|n| [first.append(format!("x{n}")), second.append(format!("y{n}"))])
        .collect();
    let other = hub.clone();
    let thread = std::thread::spawn(move || {
        let mut scene = Scene::hub(&other);
        let log = scene.bus.log("a", LogLimits::default()).expect("it is valid");
        let stored: Vec<_> = (0..50).map(|n| log.append(format!("z{n}"))).collect();
        scene.settle();
        stored.into_iter().for_each(|stored| assert!(success_of(stored).number() > 0));
    });
    for scene in &mut scenes {
        scene.settle();
    }
    thread.join().expect("no panic");
    for scene in &mut scenes {
        scene.memory.advance(Duration::from_secs(1));
    }
    stored.into_iter().for_each(|stored| assert!(success_of(stored).number() > 0));
    let [one, two] = followers.map(|(_following, got)| got.take());
    assert_eq!(one, two);
    assert_eq!(one.len(), 150);
    for (index, line) in one.iter().enumerate() {
        assert!(line.starts_with(&format!("{} ", index + 1)), "{line}");
    }
    for writer in ["x", "y", "z"] {
        let numbers = one.iter().filter_map(|line| line.split_once(writer)?.1.parse::<i32>().ok());
        assert!(numbers.eq(0..50), "{writer}");
    }
}

#[test]
fn c227_logs_of_different_names_are_different_and_bad_names_are_errors() {
    let mut scene = Scene::hub(&Memory::new());
    let [a, b] = ["a.b", "a_b"].map(|name| scene.bus.log(name, LogLimits::default()));
    let (a, b) = (a.expect("it is valid"), b.expect("it is valid"));
    let stored = [a.append("1"), b.append("2"), a.append("3")];
    scene.settle();
    assert_eq!(stored.map(|stored| success_of(stored).number()), [1, 1, 2]);
    for name in ["", "a.*", "a b", ">"] {
        assert!(scene.bus.log(name, LogLimits::default()).is_err(), "{name:?}");
    }
}

#[test]
fn c227_the_last_handle_of_a_log_closes_the_bus_after_its_appends() {
    let hub = Memory::new();
    let mut scene = Scene::hub(&hub);
    let bus = std::mem::replace(&mut scene.bus, Scene::hub(&hub).bus);
    let log = bus.log("a", LogLimits::default()).expect("it is valid");
    let (following, got) = follow(&log, Start::Oldest);
    let stored = log.append("1");
    drop((bus, log));
    scene.memory.advance(Duration::from_secs(1));
    assert_eq!(success_of(stored).number(), 1);
    assert_eq!(got.take(), ["1 1"]);
    assert_eq!(format!("{hub:?}"), "Memory { buses: 2, .. }");
    drop(following);
    scene.settle();
    assert_eq!(format!("{hub:?}"), "Memory { buses: 1, .. }");
}
