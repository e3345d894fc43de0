//! `LoopOptions::tokio`: a tokio runtime around the loop's calls.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use couplet::{Loop, LoopOptions, Protocol, Reactor, Reason, Result, Transport};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::{ANY, echoed};

pub(crate) fn with_tokio() -> Loop {
    Loop::with_options(LoopOptions::default().tokio()).expect("a loop with a runtime")
}

/// Runs a task of the loop.
pub(crate) fn run<T: 'static>(
    l: &mut Loop,
    task: impl AsyncFnOnce(Reactor) -> Result<T> + 'static,
) -> T {
    let reactor = l.reactor();
    let result = reactor.spawn(task(reactor.clone()));
    l.run_until(result).expect("the task succeeds")
}

#[test]
fn the_time_the_tasks_and_the_sockets_of_tokio_work_in_a_task_of_the_loop() {
    let mut l = with_tokio();
    // In each run of the loop.
    for word in ["hello", "again"] {
        let answer = run(&mut l, async move |reactor| {
            sleep(Duration::from_millis(1)).await;
            let timeout = tokio::time::timeout(Duration::from_millis(1), std::future::pending());
            let () = timeout.await.unwrap_or_default();
            let sum = tokio::spawn(async { 20 + 22 }).await?;
            assert_eq!(sum, 42);
            echoed(&reactor, word).await
        });
        assert_eq!(answer, word);
    }
}

/// Records whether each of its callbacks, and its drop, ran in a tokio context.
struct Asks(Rc<RefCell<Vec<(&'static str, bool)>>>);

impl Asks {
    fn note(&self, what: &'static str) {
        self.0.borrow_mut().push((what, Handle::try_current().is_ok()));
    }
}

impl Protocol for Asks {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_made(&mut self, transport: &Transport) {
        self.note("made");
        transport.lose_connection();
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.note("lost");
    }
}

impl Drop for Asks {
    fn drop(&mut self) {
        self.note("drop");
    }
}

/// Everything that a loop calls, when turned in every way, each with whether it ran in a tokio
/// context.
fn contexts(options: LoopOptions) -> Vec<(&'static str, bool)> {
    let mut l = Loop::with_options(options).expect("a loop");
    let noted: Rc<RefCell<Vec<_>>> = Rc::default();
    let setup = |reactor: &Reactor| {
        Asks(noted.clone()).note("setup");
        let factory = {
            let noted = noted.clone();
            move || Asks(noted.clone())
        };
        let port = reactor.listen(ANY, factory.clone())?;
        reactor.connect(port.host().to_string(), factory).detach();
        let (stopping, asks) = (reactor.clone(), Asks(noted.clone()));
        reactor.call_later(Duration::from_millis(20), move || {
            asks.note("timed call");
            stopping.stop();
        });
        Ok(())
    };
    l.run(setup).expect("it runs");
    l.begin(setup).expect("it begins");
    while l.turn(None).expect("a turn") {}
    l.begin(setup).expect("it begins");
    l.end().expect("it ends");
    let asks = Asks(noted.clone());
    let script = l.reactor().spawn(async move {
        asks.note("task");
        Ok(())
    });
    l.run_until(script).expect("the task succeeds");
    // Dropped with the loop.
    l.reactor().call_later(Duration::from_secs(3600), {
        let asks = Asks(noted.clone());
        move || drop(asks)
    });
    drop(l);
    noted.take()
}

#[test]
fn everything_that_the_loop_calls_runs_in_the_context_of_its_runtime() {
    let with = contexts(LoopOptions::default().tokio());
    assert!(with.len() > 10, "{with:?}");
    for what in ["setup", "made", "lost", "drop", "timed call", "task"] {
        assert!(with.iter().any(|(noted, _)| *noted == what), "no {what}: {with:?}");
    }
    assert!(with.iter().all(|(_, inside)| *inside), "{with:?}");
    assert!(Handle::try_current().is_err(), "it is left with the turn");
    let without = contexts(LoopOptions::default());
    assert!(without.iter().all(|(_, inside)| !*inside), "{without:?}");
}

#[test]
fn dropping_the_loop_waits_for_no_thread_of_tokio_even_inside_a_runtime() {
    let (let_go, waits) = mpsc::channel::<()>();
    let outer = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    outer.block_on(async {
        let mut l = with_tokio();
        l.begin(|_| {
            tokio::task::spawn_blocking(move || waits.recv());
            Ok(())
        })
        .expect("it begins");
        drop(l);
    });
    drop(let_go);
}

/// Answers each request in HTTP/1.1, with its path.
struct Responder {
    request: Vec<u8>,
}

impl Protocol for Responder {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.request.extend_from_slice(data);
        let text = String::from_utf8_lossy(&self.request);
        let Some((head, _)) = text.split_once("\r\n\r\n") else { return };
        let path = head.split(' ').nth(1).unwrap_or("nothing").to_owned();
        self.request.clear();
        let length = path.len();
        transport.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}"));
    }
}

#[test]
fn reqwest_fetches_from_a_server_of_the_same_loop() {
    let bodies = run(&mut with_tokio(), async |reactor| {
        let port = reactor.listen(ANY, || Responder { request: Vec::new() })?;
        let at = crate::address(&port);
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut bodies = Vec::new();
        for path in ["hello", "again"] {
            let response = client.get(format!("http://{at}/{path}")).send().await?;
            bodies.push(response.text().await?);
        }
        Ok(bodies)
    });
    assert_eq!(bodies, ["/hello", "/again"]);
}
