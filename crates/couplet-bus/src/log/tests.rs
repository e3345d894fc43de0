//! A log whose engine loses requests, answers and messages, in virtual time.

use std::any::Any;

use couplet_core::hooks;
use couplet_core::services::Service;
use couplet_core::testing::{MemoryReactor, failure_of, success_of};

use super::*;
use crate::error::NotConfirmed;
use crate::memory::Memory;

const SECOND: Duration = Duration::from_secs(1);

/// The fate of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The request does not reach the stream.
    Lost,
    /// The answer gets lost.
    Unanswered,
    /// Neither an answer nor a failure arrives.
    Silent,
}

/// An engine in memory with faults for its next operations.
struct Faulty {
    engine: MemoryEngine,
    faults: RefCell<VecDeque<Fault>>,
    operations: RefCell<Vec<String>>,
    silent: RefCell<Vec<Box<dyn Any>>>,
}

impl Faulty {
    fn run<T: 'static>(
        &self,
        name: String,
        operation: impl FnOnce() -> Deferred<T>,
    ) -> Deferred<T> {
        self.operations.borrow_mut().push(name);
        let failed = || Deferred::fail(Failure::msg("the network failed"));
        match self.faults.borrow_mut().pop_front().unwrap_or(Fault::None) {
            Fault::None => operation(),
            Fault::Lost => failed(),
            Fault::Unanswered => operation().then(move |_| failed()),
            Fault::Silent => {
                let (silent, resolver) = Deferred::new();
                self.silent.borrow_mut().push(Box::new(resolver));
                silent
            }
        }
    }
}

impl Engine for Faulty {
    fn state(&self) -> Deferred<LogState> {
        self.run("state".to_owned(), || self.engine.state())
    }

    fn append(&self, id: &AppendId, payload: &Bytes) -> Deferred<Position> {
        self.run(format!("append {}", id.number), || self.engine.append(id, payload))
    }

    fn read(&self, from: u64, most: usize, wait: Duration) -> Deferred<Batch> {
        self.run(format!("read {from}"), || self.engine.read(from, most, wait))
    }
}

struct Scene {
    memory: MemoryReactor,
    hub: Memory,
    bus: Bus,
    faulty: Rc<Faulty>,
    log: Log,
    got: Rc<RefCell<Vec<String>>>,
}

impl Scene {
    fn new(limits: LogLimits) -> Scene {
        let (memory, hub) = (MemoryReactor::new(), Memory::new().max_payload(100));
        let bus = Bus::memory(&memory.reactor(), &hub);
        let engine = MemoryEngine::new(&bus, &hub, "a", &limits);
        let (faults, operations) = (RefCell::default(), RefCell::default());
        let faulty = Rc::new(Faulty { engine, faults, operations, silent: RefCell::default() });
        let log = Log::of(&bus, faulty.clone(), "a", limits);
        Scene { memory, hub, bus, faulty, log, got: Rc::default() }
    }

    fn fail(&self, faults: &[Fault]) {
        self.faulty.faults.borrow_mut().extend(faults);
    }

    fn append(&mut self, texts: &[&str]) -> Vec<u64> {
        let appended: Vec<_> =
            texts.iter().map(|text| self.log.append((*text).to_owned())).collect();
        self.memory.advance(10 * SECOND);
        appended.into_iter().map(|appended| success_of(appended).number()).collect()
    }

    fn follow(&self, start: Start) -> Following {
        let got = self.got.clone();
        self.log.follow(start, move |entry| got.borrow_mut().push(line(&entry)))
    }

    /// Takes the entries that a follower got.
    fn got(&mut self) -> Vec<String> {
        self.memory.advance(SECOND);
        self.got.take()
    }

    fn page(&mut self, page: Deferred<Page>) -> (Vec<String>, u64, u64) {
        self.memory.advance(SECOND);
        let page = success_of(page);
        let entries = page.entries.iter().map(line).collect();
        (entries, page.first.number(), page.last.number())
    }

    /// Changes the log behind the engine's back.
    fn change(&self, f: impl FnOnce(&mut MemoryLog)) {
        self.hub.with_log("a", || unreachable!("there is one"), f);
    }

    fn at(&self, number: u64) -> Position {
        let mut epoch = 0;
        self.change(|log| epoch = log.state().epoch);
        Position { epoch, number }
    }
}

fn line(entry: &Entry) -> String {
    match entry {
        Entry::Message { position, payload, .. } => {
            format!("{} {}", position.number(), String::from_utf8_lossy(payload))
        }
        Entry::Gap { from, to } => format!("gap {} {}", from.number(), to.number()),
        Entry::Reset { next } => format!("reset {}", next.number()),
    }
}

#[test]
fn c221_pages_of_a_log() {
    let mut scene = Scene::new(LogLimits { messages: 5, ..LogLimits::default() });
    let empty = scene.log.last(10);
    assert_eq!(scene.page(empty), (vec![], 1, 0));
    assert_eq!(scene.append(&["a", "b", "c", "d", "e", "f", "g"]), [1, 2, 3, 4, 5, 6, 7]);
    let (last, all) = (scene.log.last(2), scene.log.last(10));
    assert_eq!(scene.page(last).0, ["6 f", "7 g"]);
    assert_eq!(
        scene.page(all),
        (vec!["3 c", "4 d", "5 e", "6 f", "7 g"].into_iter().map(str::to_owned).collect(), 3, 7)
    );
    for (from, most, entries) in [
        (4, 2, &["4 d", "5 e"][..]),
        (8, 2, &[]),
        (1, 2, &["gap 1 2", "3 c", "4 d"]),
        (0, 1, &["gap 1 2", "3 c"]),
        (9, 2, &["reset 8"]),
    ] {
        let page = scene.log.read(scene.at(from), most);
        assert_eq!(scene.page(page).0, entries, "from {from}");
    }
    let other = Position { epoch: scene.at(0).epoch ^ 1, number: 4 };
    let page = scene.log.read(other, 1);
    assert_eq!(scene.page(page).0, ["reset 3", "3 c"]);
    // A client may send the highest number.
    let page = scene.log.read(scene.at(u64::MAX), 1);
    assert_eq!(scene.page(page).0, ["reset 8"]);
    let _following = scene.follow(Start::After(scene.at(u64::MAX)));
    assert_eq!(scene.got(), ["reset 8"]);
    assert_eq!(scene.append(&["h"]), [8]);
    assert_eq!(scene.got(), ["8 h"]);
}

#[test]
fn c222_a_message_whose_confirmation_is_lost_is_stored_once_and_in_its_order() {
    use Fault::{Lost, None, Unanswered};
    for faults in [
        &[Unanswered, Lost, None, Unanswered][..],
        &[Lost, Unanswered, Unanswered, None, None, Lost],
        &[None, Lost, Lost, Lost, Unanswered],
    ] {
        let mut scene = Scene::new(LogLimits::default());
        scene.fail(faults);
        assert_eq!(scene.append(&["a", "b", "c"]), [1, 2, 3]);
        let all = scene.log.last(10);
        assert_eq!(scene.page(all).0, ["1 a", "2 b", "3 c"]);
        assert_eq!(scene.log.health(), Health::Ready);
    }
}

#[test]
fn c222_an_append_is_tried_until_the_patience_ends() {
    let mut scene = Scene::new(LogLimits { patience: 5 * SECOND, ..LogLimits::default() });
    scene.fail(&[Fault::Lost; 20]);
    let (first, second) = (scene.log.append("a"), scene.log.append("b"));
    scene.memory.advance(2 * SECOND);
    assert_eq!(scene.log.health(), Health::Degraded("the log: the network failed".to_owned()));
    assert_eq!(scene.log.unconfirmed(), 2);
    scene.memory.advance(3 * SECOND);
    let error =
        LogError::Unavailable { patience: 5 * SECOND, why: "the network failed".to_owned() };
    for append in [first, second] {
        assert_eq!(failure_of(append).downcast_ref(), Some(&error));
    }
    // After 0, 0.1, 0.3, 0.7, 1.5 and 3.1 s; then after 0, 0.1, 0.3, 0.7 and 1.5 s more.
    let tried = scene.faulty.operations.take();
    assert_eq!(tried, [vec!["append 1"; 6], vec!["append 2"; 5]].concat());
    scene.faulty.faults.take();
    scene.fail(&[Fault::Silent]);
    let silent = scene.log.append("c");
    scene.memory.advance(5 * SECOND - Duration::from_nanos(1));
    assert!(!silent.has_fired());
    scene.memory.advance(Duration::from_nanos(1));
    assert!(failure_of(silent).is::<LogError>());
    assert_eq!(scene.append(&["d"]), [1], "the next one is not held up");
}

#[test]
fn c222_a_patience_without_an_end_never_ends() {
    let mut scene = Scene::new(LogLimits { patience: Duration::MAX, ..LogLimits::default() });
    scene.fail(&[Fault::Lost; 20]);
    let append = scene.log.append("a");
    scene.memory.advance(1000 * SECOND);
    assert_eq!(success_of(append).number(), 1);
    let page = scene.log.last(1);
    assert_eq!(scene.page(page).0, ["1 a"]);
}

#[test]
fn c222_the_writers_that_a_log_in_memory_remembers_are_bounded() {
    let limits = LogLimits { messages: 10, ..LogLimits::default() };
    let mut scene = Scene::new(limits);
    for number in 1..=1000 {
        let log = scene.bus.log("a", limits).expect("it is valid");
        let append = log.append("a");
        scene.memory.advance(Duration::ZERO);
        assert_eq!(success_of(append).number(), number);
    }
    let mut writers = 0;
    scene.change(|log| writers = log.writers());
    assert!((10..=85).contains(&writers), "{writers}");
    // A writer of a message that is kept is recognized.
    scene.fail(&[Fault::Unanswered]);
    assert_eq!(scene.append(&["b"]), [1001]);
}

#[test]
fn c209_a_drain_waits_for_appends_and_a_close_does_not() {
    let mut scene = Scene::new(LogLimits::default());
    scene.fail(&[Fault::Lost, Fault::Unanswered]);
    let appended = [scene.log.append("a"), scene.log.append("b")];
    let drained = scene.bus.drain();
    scene.memory.advance(Duration::ZERO);
    assert!(!drained.has_fired());
    scene.memory.advance(SECOND);
    assert_eq!(appended.map(|append| success_of(append).number()), [1, 2]);
    success_of(drained);
    assert!(matches!(scene.bus.health(), Health::Failed(_)));

    let mut scene = Scene::new(LogLimits::default());
    scene.fail(&[Fault::Lost; 20]);
    let (appended, drained) = (scene.log.append("a"), scene.bus.drain());
    scene.memory.advance(SECOND);
    scene.bus.close();
    assert_eq!(failure_of(drained).downcast_ref(), Some(&NotConfirmed));
    scene.memory.advance(10 * SECOND);
    assert_eq!(failure_of(appended).downcast_ref(), Some(&LogError::Closed));
}

#[test]
fn c209_a_drain_waits_for_the_appends_from_before_a_restart() {
    let mut scene = Scene::new(LogLimits::default());
    for number in 1..=2 {
        scene.fail(&[Fault::Lost; 2]);
        let appended = scene.log.append("a");
        scene.memory.advance(Duration::ZERO);
        // It is between two attempts.
        scene.bus.close();
        success_of(scene.bus.clone().start(&scene.memory.reactor()));
        let drained = scene.bus.drain();
        scene.memory.advance(Duration::ZERO);
        assert!(!drained.has_fired(), "{number}");
        scene.memory.advance(SECOND);
        assert_eq!(success_of(appended).number(), number);
        success_of(drained);
        success_of(scene.bus.clone().start(&scene.memory.reactor()));
    }
}

#[test]
fn c223_the_queue_of_appends_is_bounded_and_large_messages_are_refused() {
    let queue = Limit { messages: 3, bytes: 110 };
    let mut scene = Scene::new(LogLimits { queue, ..LogLimits::default() });
    let full = |append: Deferred<Position>| {
        assert_eq!(failure_of(append).downcast_ref(), Some(&LogError::Full));
    };
    let kept: Vec<_> = ["a", "b", "c"].map(|text| scene.log.append(text)).into();
    full(scene.log.append("d"));
    scene.memory.advance(SECOND);
    assert_eq!(kept.into_iter().map(|append| success_of(append).number()).sum::<u64>(), 6);
    let kept = scene.log.append(vec![b'x'; 100]);
    full(scene.log.append(vec![b'x'; 11]));
    let large = scene.log.append("0123456789");
    scene.memory.advance(SECOND);
    assert_eq!((success_of(kept).number(), success_of(large).number()), (4, 5));
    let large = scene.log.append(vec![b'x'; 101]);
    scene.memory.advance(Duration::ZERO);
    let error = PublishError::TooLarge { size: 101, most: 100 };
    assert_eq!(failure_of(large).downcast_ref(), Some(&error));
    scene.fail(&[Fault::Silent]);
    let pending = scene.log.append("e");
    scene.memory.advance(SECOND);
    scene.bus.close();
    let after = scene.log.append("f");
    scene.memory.advance(30 * SECOND);
    for append in [pending, after] {
        assert_eq!(failure_of(append).downcast_ref(), Some(&LogError::Closed));
    }
}

#[test]
fn c224_a_follower_gets_each_message_once_and_in_order_despite_failures() {
    use Fault::{Lost, None, Unanswered};
    for faults in [
        &[Lost, Unanswered, None, Unanswered, Lost][..],
        &[None, Unanswered, None, Lost, None, Unanswered],
    ] {
        let mut scene = Scene::new(LogLimits::default());
        scene.append(&["a", "b"]);
        let _following = scene.follow(Start::Oldest);
        scene.fail(faults);
        assert_eq!(scene.got(), ["1 a", "2 b"]);
        scene.fail(faults);
        scene.append(&["c", "d"]);
        assert_eq!(scene.got(), ["3 c", "4 d"]);
        // The wait of a read ends many times.
        scene.memory.advance(200 * SECOND);
        scene.append(&["e"]);
        assert_eq!(scene.got(), ["5 e"]);
    }
}

#[test]
fn c224_followers_begin_where_they_say_and_end_with_their_drop() {
    let mut scene = Scene::new(LogLimits::default());
    let texts: Vec<String> = (1..=250).map(|n| n.to_string()).collect();
    scene.append(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    for (start, first) in [
        (Start::Oldest, Some(1)),
        (Start::Next, None),
        (Start::After(scene.at(0)), Some(1)),
        (Start::After(scene.at(249)), Some(250)),
        (Start::After(scene.at(250)), None),
    ] {
        let following = scene.follow(start);
        assert!(scene.got.borrow().is_empty(), "nothing is called inside the call");
        let expected: Vec<String> =
            first.into_iter().flat_map(|first| first..=250).map(|n| format!("{n} {n}")).collect();
        assert_eq!(scene.got(), expected, "{start:?}");
        drop(following);
    }
    scene.append(&["more"]);
    assert_eq!(scene.got(), Vec::<String>::new());
    let mut twice = Some(());
    let (kept, got) = (Rc::new(RefCell::new(None)), scene.got.clone());
    let ending = kept.clone();
    let following = scene.log.follow(Start::Oldest, move |entry| {
        got.borrow_mut().push(line(&entry));
        // Dropped inside its call, with a batch of messages left.
        if twice.take().is_none() {
            ending.take();
        }
    });
    *kept.borrow_mut() = Some(following);
    assert_eq!(scene.got(), ["1 1", "2 2"]);
}

#[test]
fn c224_a_panic_ends_only_its_call() {
    let mut scene = Scene::new(LogLimits::default());
    let got = scene.got.clone();
    let _following = scene.log.follow(Start::Oldest, move |entry| {
        assert_ne!(line(&entry), "2 b");
        got.borrow_mut().push(line(&entry));
    });
    assert!(scene.memory.take_panics().is_empty());
    scene.append(&["a", "b", "c"]);
    assert_eq!(scene.got(), ["1 a", "3 c"]);
    assert_eq!(scene.memory.take_panics().len(), 1);
}

#[test]
fn c225_removed_messages_are_a_gap() {
    let age = 1000 * SECOND;
    let limits = LogLimits { messages: 4, bytes: 40, age, ..LogLimits::default() };
    let mut scene = Scene::new(limits);
    scene.append(&["a", "b"]);
    let following = scene.follow(Start::Oldest);
    assert_eq!(scene.got(), ["1 a", "2 b"]);
    drop(following);
    let after = scene.at(2);
    scene.append(&["c", "d", "e", "f", "g", "h"]);
    let following = scene.follow(Start::After(after));
    assert_eq!(scene.got(), ["gap 3 4", "5 e", "6 f", "7 g", "8 h"]);
    // The reads fail while the messages are appended and removed.
    scene.fail(&[Fault::Lost; 6]);
    scene.append(&["i"]);
    assert_eq!(scene.got(), ["9 i"]);
    drop(following);
    scene.append(&[&"x".repeat(39), "y"]);
    let following = scene.follow(Start::Oldest);
    assert_eq!(scene.got(), [&*format!("10 {}", "x".repeat(39)), "11 y"], "by their bytes");
    drop(following);
    let after = scene.at(9);
    scene.memory.advance(age);
    let _following = scene.follow(Start::After(after));
    assert_eq!(scene.got(), ["gap 10 11"], "by their age");
    scene.append(&["z"]);
    assert_eq!(scene.got(), ["12 z"]);
}

#[test]
fn c225_messages_that_are_removed_while_a_follower_cannot_read_are_a_gap() {
    let mut scene = Scene::new(LogLimits { messages: 2, ..LogLimits::default() });
    scene.append(&["a"]);
    let _following = scene.follow(Start::Oldest);
    assert_eq!(scene.got(), ["1 a"]);
    for (number, text) in ["b", "c", "d", "e"].into_iter().enumerate() {
        let id = AppendId { writer: "other".into(), number: number as u64 + 1 };
        let time = hooks::unix_time(&scene.memory.reactor());
        scene.change(|log| {
            log.append(&id, &Bytes::from(text), time);
            log.trim(time);
        });
    }
    scene.append(&["f"]);
    assert_eq!(scene.got(), ["gap 2 4", "5 e", "6 f"]);
}

#[test]
fn c226_a_log_that_begins_anew_is_an_entry() {
    let mut scene = Scene::new(LogLimits::default());
    scene.append(&["a", "b", "c"]);
    let _following = scene.follow(Start::Oldest);
    assert_eq!(scene.got(), ["1 a", "2 b", "3 c"]);
    let old = scene.at(2);
    scene.change(|log| *log = MemoryLog::new(old.epoch ^ 1, LogLimits::default()));
    // The new log has reached the old numbers when the follower reads again.
    scene.append(&["d", "e", "f", "g"]);
    assert_eq!(scene.got(), ["reset 1", "1 d", "2 e", "3 f", "4 g"]);
    let _other = scene.follow(Start::After(old));
    assert_eq!(scene.got(), ["reset 1", "1 d", "2 e", "3 f", "4 g"]);
}

#[test]
fn c226_a_log_that_loses_its_newest_messages_is_an_entry() {
    let mut scene = Scene::new(LogLimits::default());
    scene.append(&["a", "b", "c"]);
    let following = scene.follow(Start::Oldest);
    assert_eq!(scene.got(), ["1 a", "2 b", "3 c"]);
    // The server restarts without the last message, and stores another one at its position before
    // the follower looks.
    scene.change(|log| log.lose_newest());
    scene.fail(&[Fault::None, Fault::Lost]);
    scene.append(&["d"]);
    assert_eq!(scene.got(), ["reset 3", "3 d"]);
    // The connection is lost again and again, and only the last time with a message.
    for _ in 0..3 {
        scene.fail(&[Fault::Lost]);
        scene.memory.advance(100 * SECOND);
        assert!(scene.got().is_empty());
    }
    scene.change(|log| log.lose_newest());
    scene.fail(&[Fault::None, Fault::Lost]);
    scene.append(&["f"]);
    assert_eq!(scene.got(), ["reset 3", "3 f"]);
    drop(following);
    let after = scene.at(3);
    scene.change(|log| log.lose_newest());
    let _following = scene.follow(Start::After(after));
    assert_eq!(scene.got(), ["reset 3"]);
    scene.append(&["e"]);
    assert_eq!(scene.got(), ["3 e"]);
}
