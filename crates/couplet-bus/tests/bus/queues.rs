//! Queues of subscribers.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::Deferred;
use couplet::bus::{Limit, Memory};
use couplet::testing::success_of;

use crate::kit::Scene;

#[test]
fn c205_a_queue_hands_out_its_messages_in_order() {
    let mut scene = Scene::hub(&Memory::new());
    let messages = scene.bus.messages("a", Limit::default()).expect("it is valid");
    let (first, cancelled, second) = (messages.next(), messages.next(), messages.next());
    cancelled.cancel();
    for text in ["1", "2", "3", "4"] {
        scene.publish(text);
    }
    scene.settle();
    let taken = [first, second].map(|next| success_of(next).payload().clone());
    assert_eq!(taken, ["1", "2"]);
    couplet::testing::failure_of(cancelled);
    assert_eq!(messages.len(), 2);
    let taken = [messages.next(), messages.next()].map(|next| success_of(next).payload().clone());
    assert_eq!(taken, ["3", "4"]);
    assert!(messages.is_empty());
}

#[test]
fn c205_a_full_queue_drops_messages_and_reports_it_once() {
    let mut scene = Scene::hub(&Memory::new());
    let limit = Limit { messages: 4, bytes: 8 };
    let messages = scene.bus.messages("a", limit).expect("it is valid");
    let _other = scene.subscribe("b");
    let publish = |scene: &mut Scene, texts: &[&str]| {
        texts.iter().for_each(|text| scene.publish(text));
        scene.log()
    };
    assert_eq!(publish(&mut scene, &["1", "2", "3", "4", "5", "6"]), ["a is slow"]);
    assert_eq!((messages.len(), messages.dropped()), (4, 2));
    // One place is free: it is still the same trouble.
    assert_eq!(success_of(messages.next()).payload(), "1");
    assert!(publish(&mut scene, &["7", "8"]).is_empty());
    // Half of the places are free: it has caught up.
    (0..2).for_each(|_| drop(success_of(messages.next())));
    assert_eq!(publish(&mut scene, &["9", "1", "2"]), ["a is slow"]);
    (0..4).for_each(|_| drop(success_of(messages.next())));
    // By bytes.
    assert_eq!(publish(&mut scene, &["12345", "6789"]), ["a is slow"]);
    assert_eq!((messages.len(), messages.dropped()), (1, 5));
    assert_eq!(scene.bus.counts().dropped, 5);
    scene.bus.publish("b", "is not delayed").expect("there is room");
    assert_eq!(scene.log(), ["b is not delayed"]);
}

#[test]
fn c129b_a_message_stays_first_when_the_task_that_waits_for_it_is_cancelled() {
    for drops in [false, true] {
        let mut scene = Scene::hub(&Memory::new());
        let messages = Rc::new(scene.bus.messages("a", Limit::default()).expect("it is valid"));
        let received = Rc::new(RefCell::new(Vec::new()));
        let (waiting, log) = (messages.clone(), received.clone());
        let task = scene.memory.reactor().spawn(async move {
            loop {
                let message = waiting.next().await?;
                log.borrow_mut().push(message.payload().clone());
            }
        });
        scene.settle();
        let task: Rc<RefCell<Option<Deferred<()>>>> = Rc::new(RefCell::new(Some(task)));
        let ending = task.clone();
        // The delivery of the message calls this function after filling the queue.
        let _end = scene.bus.subscribe("a", move |_| {
            if let Some(task) = ending.take() {
                task.cancel();
                if !drops {
                    *ending.borrow_mut() = Some(task);
                }
            }
        });
        scene.publish("1");
        scene.publish("2");
        scene.settle();
        assert!(received.borrow().is_empty());
        let left: Vec<_> = (0..2).map(|_| success_of(messages.next()).payload().clone()).collect();
        assert_eq!((left.as_slice(), messages.len()), (&["1".into(), "2".into()][..], 0));
    }
}
