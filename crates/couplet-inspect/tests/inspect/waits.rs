//! Who waits for whom: tasks, Deferreds, locks and children, planted in a real program.

use std::cell::RefCell;
use std::net::TcpStream;
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use couplet::defer::{Deferred, DeferredLock, DeferredSemaphore, Failure, Resolver, gather};
use couplet::inspect::{Inspector, TableLimits};
use couplet::process::{Command, Process, ProcessEnd, ProcessProtocol};
use couplet::stream::Stream;
use couplet::{LoopOptions, Reactor};
use serde_json::Value;

use crate::kit::{Program, deadlock, text};

const LONG: Duration = Duration::from_secs(3600);

/// The ids of the rows for which a row waits.
fn waits_for(row: &Value) -> Vec<&str> {
    let ids = row["waits_for"].as_array().expect("a list").iter();
    ids.map(|id| id.as_str().expect("an id")).collect()
}

/// The row with a view and an id.
fn row(program: &Program, path: &str) -> Value {
    let (view, id) = path.split_once('/').expect("a view and an id");
    program.until(&format!("/{view}.json"), |rows| {
        rows.as_array().expect("rows").iter().find(|row| row["id"] == id).cloned()
    })
}

/// The flag with this id.
fn flag(program: &Program, id: &str) -> Value {
    program.until("/flags.json", |flags| {
        flags.as_array().expect("flags").iter().find(|flag| flag["id"] == id).cloned()
    })
}

#[test]
fn c180a_a_task_waits_for_a_task_that_waits_for_a_job() {
    let (release, released) = mpsc::channel::<()>();
    let (program, ()) = Program::start(move |reactor| {
        let inner = reactor.clone();
        let login = reactor.spawn_named("login", async move {
            inner.defer_to_thread(move || Ok(released.recv().is_ok())).await?;
            Ok(())
        });
        reactor.spawn_named("talk", login).detach();
    });
    // Until a thread has begun the job.
    let talk = program.until("/tasks.json", |rows| {
        let runs = |row: &&Value| text(row, "why").contains(", which runs in a thread");
        let all = rows.as_array().expect("rows").iter();
        all.filter(|row| row["name"] == "talk").find(runs).cloned()
    });
    let why = text(&talk, "why");
    assert!(why.starts_with("waits for the task \"login\" spawned at "), "{why}");
    let (_, rest) = why.split_once(", which waits for a job requested at ").expect(why);
    assert!(rest.contains("waits.rs:"), "{why}");
    // The same by the rows: a Deferred of the task, the task, a Deferred of the job, the job.
    let result = row(&program, waits_for(&talk)[0]);
    assert_eq!(result["program"], false);
    assert_eq!(
        text(&result, "consumer"),
        format!("the task \"talk\" spawned at {}", text(&talk, "place"))
    );
    let login = row(&program, waits_for(&result)[0]);
    assert_eq!(text(&login, "name"), "login");
    let answer = row(&program, waits_for(&login)[0]);
    let job = row(&program, waits_for(&answer)[0]);
    assert_eq!((text(&job, "kind"), waits_for(&job).len()), ("job", 0));
    release.send(()).expect("it waits");
    program.until("/tasks.json", |rows| rows.as_array().expect("rows").is_empty().then_some(()));
    let has_ended = |row: &Value| row["state"] == "ended";
    program.until("/deferreds.json", |rows| {
        rows.as_array().expect("rows").iter().all(has_ended).then_some(())
    });
}

fn number(text: &str) -> couplet::Result<u16> {
    Ok(text.parse()?)
}

#[test]
fn a_history_has_each_callback_with_its_place_its_result_and_its_times() {
    let (program, ()) = Program::start(|reactor| {
        let (text, begin) = Deferred::<&str>::new();
        let (inner, end) = Deferred::<u16>::new();
        let inner = inner.map(|n| n + 1);
        let port = text.add_callback(number).add_errback(|_| Ok(80)).then(|_| inner);
        let later = reactor.clone();
        reactor.call_later(Duration::from_millis(20), move || {
            begin.callback("http");
            // Pending for as long as the loop.
            later.call_later(LONG, move || drop((port, end)));
        });
    });
    let chained = program.until("/deferreds.json", |rows| {
        let rows = rows.as_array().expect("rows").iter();
        rows.clone().find(|row| row["state"] == "chained").cloned()
    });
    let history = &chained["history"];
    let time = |of: &Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{key} of {of}"));
    assert_eq!(
        (text(history, "place"), text(history, "state")),
        (text(&chained, "place"), "value")
    );
    assert!(time(history, "ended") - time(history, "made") >= 0.02, "{history}");
    let [parsed, rescued, waiting] = &history["steps"].as_array().expect("steps")[..] else {
        panic!("three callbacks: {history}")
    };
    assert_eq!((text(parsed, "method"), text(parsed, "handles")), ("add_callback", "values"));
    assert!(text(parsed, "name").ends_with("waits::number"), "{parsed}");
    let failure = &parsed["failure"];
    assert_eq!(text(failure, "text"), "invalid digit found in string");
    assert!(text(failure, "place").contains("waits.rs:"), "{failure}");
    assert_eq!(failure["levels"][0], rescued["place"], "the errback was called for it");
    assert_eq!((text(rescued, "state"), text(rescued, "handles")), ("value", "failures"));
    assert_eq!((text(waiting, "state"), &waiting["ended"]), ("waiting", &Value::Null));
    assert_eq!(time(waiting, "called"), time(history, "ended"), "the time of the turn");
    let inner = &waiting["inner"];
    assert_eq!((text(inner, "state"), &inner["ended"]), ("pending", &Value::Null));
    assert_eq!(text(&inner["steps"][0], "state"), "next");
}

#[test]
fn c180a_a_task_waits_for_the_bytes_of_a_connection() {
    let (program, address) = Program::start(|reactor| {
        let port = reactor.serve("tcp:0:interface=127.0.0.1", |mut stream: Stream| async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all, 1000).await?;
            Ok(())
        });
        port.expect("a free port").host().socket_addr().expect("TCP")
    });
    let client = TcpStream::connect(address).expect("it listens");
    let task = program.row_with("tasks", "waits for bytes from tcp:127.0.0.1:");
    let connection = row(&program, waits_for(&task)[0]);
    let peer = format!("tcp:{}", client.local_addr().expect("an address"));
    assert_eq!(text(&connection, "peer"), peer);
    assert!(text(&task, "why").ends_with(&format!("(connection {})", text(&connection, "id"))));
}

#[test]
fn a_task_waits_for_a_sleep_and_for_a_group() {
    let (program, ()) = Program::start(|reactor| {
        let all = gather([reactor.sleep(LONG), reactor.sleep(2 * LONG)]);
        reactor.spawn_named("group", async move { all.await.map(drop) }).detach();
        let sleep = reactor.sleep(LONG);
        reactor.spawn_named("sleeper", sleep).detach();
    });
    let why = text(&program.row_with("tasks", "waits for a sleep requested at "), "why").to_owned();
    assert!(why.ends_with(", due in 60 min"), "{why}");
    let group = program.row_with("tasks", "waits for a Deferred made at ");
    let why = text(&group, "why");
    assert!(why.contains(", which waits for a sleep requested at "), "{why}");
    assert!(why.ends_with(", due in 60 min, and for 1 more"), "{why}");
    assert_eq!(waits_for(&row(&program, waits_for(&group)[0])).len(), 2);
}

#[test]
fn c180a_a_lock_is_held_across_an_await() {
    let (program, ()) = Program::start(|reactor| {
        let lock = DeferredLock::new();
        for name in ["holder", "waiter"] {
            let (lock, reactor_) = (lock.clone(), reactor.clone());
            let task = async move {
                let permit = lock.acquire().await?;
                reactor_.sleep(LONG).await?;
                drop(permit);
                Ok(())
            };
            reactor.spawn_named(name, task).detach();
        }
    });
    let waiter = program.row_with("tasks", "waits for the lock made at ");
    let why = text(&waiter, "why");
    assert!(why.contains(" of the task \"holder\" spawned at "), "{why}");
    assert!(why.contains(", which waits for a sleep requested at "), "{why}");
    let lock = program.row_with("locks", "held by the request at ");
    assert_eq!((&lock["held"], &lock["of"], &lock["waiting"]), (&1.into(), &1.into(), &1.into()));
    assert_eq!(text(&row(&program, waits_for(&lock)[0]), "name"), "holder");
    assert_eq!(waiter["cyclic"], false);
}

#[test]
fn c180a_a_semaphore_is_in_a_cycle_only_with_all_its_holders() {
    for is_cycle in [false, true] {
        let (program, ()) = Program::start(move |reactor| {
            let (semaphore, lock) = (DeferredSemaphore::new(2), DeferredLock::new());
            for name in ["one", "another", "third"] {
                let (semaphore, lock, own) = (semaphore.clone(), lock.clone(), reactor.clone());
                let task = async move {
                    if name == "third" {
                        let permit = lock.acquire().await?;
                        own.sleep(Duration::from_millis(1)).await?;
                        drop((permit, semaphore.acquire().await?));
                        return Ok(());
                    }
                    let permit = semaphore.acquire().await?;
                    own.sleep(Duration::from_millis(1)).await?;
                    if is_cycle || name == "one" {
                        drop(lock.acquire().await?);
                    } else {
                        own.sleep(LONG).await?;
                    }
                    drop(permit);
                    Ok(())
                };
                reactor.spawn_named(name, task).detach();
            }
        });
        let semaphore = program.row_with("locks", "held by ");
        assert_eq!((&semaphore["held"], waits_for(&semaphore).len()), (&2.into(), 2));
        let why = |name: &'static str| match (name, is_cycle) {
            ("third", _) => "waits for the semaphore made at ",
            ("another", false) => "waits for a sleep requested at ",
            _ => "waits for the lock made at ",
        };
        let cyclic = program.until("/tasks.json", |rows| {
            let rows = rows.as_array()?;
            let of = |name: &'static str| {
                let row = rows.iter().find(|row| row["name"] == name)?;
                text(row, "why").starts_with(why(name)).then(|| row["cyclic"].clone())
            };
            Some(["one", "another", "third"].map(of)).filter(|all| all.iter().all(Option::is_some))
        });
        assert!(cyclic.iter().flatten().all(|cyclic| *cyclic == is_cycle), "{cyclic:?}");
        let flags = program.get("/flags.json");
        let mut flags = flags.as_array().expect("flags").iter();
        assert_eq!(flags.any(|flag| text(flag, "id") == "0.cycle"), is_cycle);
    }
}

/// Polls a future once.
async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// A task polls a request for a lock, puts it aside, and asks for the lock again.
async fn futurelock(reactor: Reactor, lock: DeferredLock) -> couplet::Result<()> {
    let permit = lock.acquire().await?;
    let mut aside = lock.acquire();
    assert!(poll_once(&mut aside).await.is_none());
    reactor.sleep(Duration::from_millis(1)).await?;
    drop(permit);
    drop(lock.acquire().await?);
    drop(aside);
    Ok(())
}

#[test]
fn c180a_a_futurelock_is_named() {
    let (program, ()) = Program::start(|reactor| {
        let task = futurelock(reactor.clone(), DeferredLock::new());
        reactor.spawn_named("select", task).detach();
    });
    let flag = flag(&program, "0.futurelock");
    let words = text(&flag, "words");
    assert!(words.starts_with("1 lock not taken, for 1.") && words.contains("waits.rs"), "{words}");
    let lock = row(&program, &format!("locks/{}", text(&flag, "row")));
    let why = text(&lock, "why");
    assert!(why.starts_with("granted to the request at "), "{why}");
    assert!(why.contains(" of the task \"select\""), "{why}");
    let task = program.row_with("tasks", "waits for the lock made at ");
    assert!(text(&task, "why").ends_with(": a cycle, in which each waits for the other"), "{task}");
    assert_eq!(task["cyclic"], true);
}

#[test]
fn c180a_tasks_that_wait_for_one_another_are_a_cycle() {
    let (program, ()) = Program::start(deadlock);
    let flag = flag(&program, "0.cycle");
    assert!(text(&flag, "words").starts_with("2 tasks in a cycle: one spawned at "), "{flag}");
}

thread_local! {
    static KEPT: RefCell<Vec<Resolver<u8>>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn c180a_a_deferred_shows_its_consumer_and_its_history() {
    let (program, ()) = Program::start(|_| {
        let (outer, resolver) = Deferred::<u8>::new();
        let (inner, kept) = Deferred::<u8>::new();
        KEPT.with_borrow_mut(|all| all.push(kept));
        let failing = outer.map(|n| n + 1).then(|_| inner).add_errback(|_| Ok(0));
        resolver.callback(1);
        failing.detach();
        let (held, kept) = Deferred::<u8>::new();
        KEPT.with_borrow_mut(|all| all.push(kept));
        std::mem::forget(held);
    });
    let rows = program.until("/deferreds.json", |rows| {
        let rows = rows.as_array().expect("rows");
        (rows.len() == 3).then(|| rows.clone())
    });
    let outer = rows.iter().find(|row| row["state"] == "chained").expect("the outer");
    assert_eq!((&outer["callbacks"], text(outer, "consumer")), (&3.into(), "its callbacks"));
    let steps = outer["history"]["steps"].as_array().expect("steps");
    let states: Vec<_> = steps.iter().map(|step| text(step, "state")).collect();
    assert_eq!(states, ["value", "waiting", "next"]);
    let inner = row(&program, waits_for(outer)[0]);
    assert_eq!(steps[1]["inner"]["place"], inner["place"]);
    let made = format!("the Deferred made at {}", text(outer, "place"));
    assert_eq!((text(&inner, "consumer"), text(&inner, "state")), (&*made, "pending"));
    assert!(rows.iter().all(|row| row["program"] == true));
    let held = rows.iter().find(|row| text(row, "consumer").starts_with("nothing: it is held"));
    assert!(text(held.expect("the last one"), "why").contains(", pending for "));
}

/// A chain whose failure passes two Deferreds and is handled.
fn handled() {
    let (outer, begin) = Deferred::<u8>::new();
    let (inner, end) = Deferred::<u8>::new();
    outer.then(|_| inner.map(|n| n + 1)).add_errback(|_| Ok(0)).detach();
    begin.callback(1);
    end.errback(Failure::msg("no poem"));
}

/// The ended Deferreds, once there are `count`.
fn ended(program: &Program, count: usize) -> Vec<Value> {
    program.until("/deferreds.json", |rows| {
        let rows = rows.as_array().expect("rows").iter();
        let ended: Vec<_> = rows.filter(|row| row["state"] == "ended").cloned().collect();
        (ended.len() == count).then_some(ended)
    })
}

#[test]
fn c180a_a_deferred_that_has_ended_keeps_its_history() {
    let (program, ()) = Program::start(|_| handled());
    let rows = ended(&program, 2);
    let why = text(&rows[0], "why");
    assert!(why.starts_with("ended ") && why.ends_with(" ago with a value"), "{why}");
    let history = &rows[0]["history"];
    let [waited, rescued] = &history["steps"].as_array().expect("steps")[..] else {
        panic!("two callbacks: {history}")
    };
    assert_eq!((text(waited, "state"), text(rescued, "state")), ("failed", "value"));
    // A failure keeps all levels that it passed, at the innermost Deferred.
    let inner = &waited["inner"];
    assert_eq!((text(inner, "state"), text(&inner["failure"], "text")), ("failed", "no poem"));
    let levels = inner["failure"]["levels"].as_array().expect("places");
    let passed = [inner, &inner["steps"][0], waited, rescued];
    assert_eq!(levels[..], passed.map(|it| it["place"].clone()));
    let why = text(&rows[1], "why");
    assert!(why.ends_with(" ago with a failure: no poem"), "{why}");
    // Each refresh of the page asks the loop by a Deferred, which is no part of the program.
    assert_eq!(ended(&program, 2)[0]["id"], rows[0]["id"]);
    assert_eq!(program.get("/loops.json")[0]["unhandled_failures"], 0, "it was handled");
}

#[test]
fn c180a_the_number_of_ended_deferreds_is_set() {
    for count in [0, 1, 3] {
        let limits = TableLimits::default().ended_deferreds(count);
        let inspector = Inspector::at("0").tables(limits);
        let (program, ()) = Program::start_with(inspector, LoopOptions::default(), |_| {
            (0..10).for_each(|_| handled());
            // The last one is pending.
            std::mem::forget(Deferred::<u8>::new());
        });
        program.row_with("deferreds", "waits for a Deferred made at ");
        let ids: Vec<_> =
            ended(&program, count).iter().map(|row| text(row, "id").to_owned()).collect();
        let last = ["0.17", "0.18", "0.19"];
        assert_eq!(ids, last[3 - count..]);
    }
}

/// Sends the first output of a child.
struct Told(Option<mpsc::Sender<String>>);

impl ProcessProtocol for Told {
    fn out_received(&mut self, _: &Process, data: &[u8]) {
        if let Some(tell) = self.0.take() {
            tell.send(String::from_utf8_lossy(data).into_owned()).expect("the test waits");
        }
    }

    fn process_ended(&mut self, _: &Process, _: &ProcessEnd) {}
}

#[test]
fn c180a_a_child_that_has_exited_keeps_a_pipe_open() {
    let (tell, told) = mpsc::channel();
    let (program, process) = Program::start(move |reactor| {
        // The grandchild has the pipes too.
        let command = Command::new("sh").args(["-c", "sleep 3600 & echo $!; exit 3"]);
        let process = reactor.spawn_process(command, Told(Some(tell))).expect("sh");
        process.pid().expect("it runs")
    });
    let grandchild = told.recv().expect("its number");
    let row = program.row_with("children", "exited (");
    assert_eq!((row["pid"].as_u64(), text(&row, "state")), (Some(process.into()), "exited"));
    assert!(text(&row, "why").contains("waits for its pipes to be closed: "), "{row}");
    let mut kill = std::process::Command::new("kill");
    assert!(kill.arg(grandchild.trim()).status().expect("a signal").success());
    program.until("/children.json", |rows| rows.as_array().expect("rows").is_empty().then_some(()));
}
