//! Row 129b: a value that arrives in the turn in which its waiter is cancelled. Each test names the
//! place of the value afterwards.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::{DeferredEvent, DeferredQueue, DeferredSemaphore, first_of, race};
use couplet::endpoints::TcpClient;
use couplet::protocols::LineReceiver;
use couplet::services::ClientService;
use couplet::task::{FilesystemLock, Scope};
use couplet::testing::{MemoryReactor, hold, success_of};
use couplet::{
    Datagram, DatagramTransport, Deferred, Protocol, Reactor, Result, Stream, Transport,
};
use couplet_testkit_loops::doubles::Quiet;
use futures_util::future::{Either, select};

use crate::defer_witness::given;

fn rest<T: 'static>(queue: &DeferredQueue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.try_get()).collect()
}

/// Lets everything happen that is due.
fn settle(memory: &mut MemoryReactor) {
    memory.advance(Duration::ZERO);
}

type Received = Rc<RefCell<Vec<u8>>>;

const LIMIT: Duration = Duration::from_secs(5);

/// A task that takes one item after another until it is ended, and the function that ends it.
fn begin(
    how: &'static str,
    reactor: &Reactor,
    queue: DeferredQueue<u8>,
    received: Received,
) -> (Deferred<()>, Box<dyn Fn()>) {
    let clock = reactor.clone();
    let task = match how {
        "select" => {
            let stop = DeferredEvent::new();
            let stopped = stop.clone();
            let task = reactor.spawn(async move {
                loop {
                    match select(stopped.wait(), queue.get()).await {
                        Either::Left(_) => return Ok(()),
                        Either::Right((item, _)) => received.borrow_mut().push(item?),
                    }
                }
            });
            return (task, Box::new(move || stop.set()));
        }
        "Cancelling::or" => reactor.spawn_cancellable(async move |cancelling| {
            while let Ok(item) = cancelling.or(async { queue.get().await }).await {
                received.borrow_mut().push(item);
            }
            Ok(())
        }),
        "scope" => reactor.spawn(async move {
            let scoped = async |scope: &Scope| -> Result<()> {
                let child = scope.spawn(async move {
                    loop {
                        let item = queue.get().await?;
                        received.borrow_mut().push(item);
                    }
                });
                child.await
            };
            clock.scope(scoped).await
        }),
        _ => reactor.spawn(async move {
            loop {
                let (never, _resolver) = Deferred::new();
                let get = queue.get();
                let item = match how {
                    "cancel" => get.await?,
                    "add_timeout" => get.add_timeout(&clock, LIMIT).await?,
                    "abort_on_drop" => get.abort_on_drop().await?,
                    "first_of" => first_of([never, get]).await?.1?,
                    "race" => race([never, get]).await?.1,
                    "timeout" => clock.timeout(LIMIT, get).await?,
                    _ => panic!("{how}"),
                };
                received.borrow_mut().push(item);
            }
        }),
    };
    let canceller = task.canceller();
    (task, Box::new(move || canceller.cancel()))
}

#[test]
fn c129b_an_item_is_received_or_stays_first_however_the_task_that_waits_ends() {
    let all = "cancel add_timeout abort_on_drop select first_of race timeout Cancelling::or scope";
    for how in all.split(' ') {
        // The task ends after the put or before it; then the queue is empty or has the next item.
        for (ends_first, puts) in [(false, 1), (false, 3), (true, 1), (true, 3)] {
            let mut memory = MemoryReactor::new();
            let (queue, received) = (DeferredQueue::new(), Received::default());
            let (task, end) = begin(how, &memory.reactor(), queue.clone(), received.clone());
            settle(&mut memory);
            let putting = queue.clone();
            memory.reactor().call_soon(move || {
                if ends_first {
                    end();
                }
                (1..=puts).for_each(|item| putting.put(item).expect("it has no bounds"));
                if !ends_first {
                    end();
                }
            });
            settle(&mut memory);
            let all = [&received.borrow()[..], &rest(&queue)[..]].concat();
            let expected: Vec<u8> = (1..=puts).collect();
            assert_eq!(all, expected, "{how}, {ends_first}");
            drop(task);
        }
    }
}

#[test]
fn c129b_a_timeout_in_the_turn_of_the_item_leaves_it_in_the_queue_or_returns_it() {
    let mut memory = MemoryReactor::new();
    let reactor = memory.reactor();
    let queue = DeferredQueue::new();
    let (waiting, putting) = (queue.clone(), queue.clone());
    let clock = reactor.clone();
    let task = reactor.spawn(async move { waiting.get().add_timeout(&clock, LIMIT).await });
    let clock = reactor.clone();
    let waiting = queue.clone();
    let other = reactor.spawn(async move { clock.timeout(LIMIT, waiting.get()).await });
    settle(&mut memory);
    reactor.call_later(LIMIT, move || (1..=2).for_each(|item| putting.put(item).expect("room")));
    memory.advance(LIMIT);
    let outcomes = [given(task).take(), given(other).take()];
    let received: Vec<u8> = outcomes.into_iter().flatten().collect();
    assert_eq!([&received[..], &rest(&queue)].concat(), [1, 2]);
}

#[test]
fn c129b_a_permit_passes_to_the_next_waiter() {
    let mut memory = MemoryReactor::new();
    let one = DeferredSemaphore::new(1);
    let mut held = one.try_acquire();
    let (first, second) = (one.clone(), one.clone());
    let cancelled = memory.reactor().spawn(async move { first.acquire().await.map(drop) });
    settle(&mut memory);
    let next = memory.reactor().spawn(async move { second.acquire().await });
    settle(&mut memory);
    let canceller = cancelled.canceller();
    memory.reactor().call_soon(move || {
        drop(held.take());
        canceller.cancel();
    });
    settle(&mut memory);
    drop(success_of(next));
    assert_eq!((one.available(), one.waiting()), (1, 0));
}

#[test]
fn c129b_a_filesystem_lock_is_released() {
    let mut memory = MemoryReactor::new();
    let lock = FilesystemLock::new(&memory.reactor(), "/var/poems.lock");
    let mut held = lock.try_lock().expect("no error");
    let waiting = FilesystemLock::new(&memory.reactor(), "/var/poems.lock");
    let task = memory.reactor().spawn(async move { waiting.lock().await });
    settle(&mut memory);
    drop(held.take());
    // The next attempt and the cancel are due at the same time.
    let canceller = task.canceller();
    memory.reactor().call_later(Duration::from_millis(10), move || canceller.cancel());
    memory.advance(Duration::from_millis(10));
    drop(task);
    settle(&mut memory);
    assert!(lock.try_lock().expect("no error").is_some());
}

#[test]
fn c129b_a_cancelled_ask_takes_nothing_from_the_protocol() {
    struct Shelf(Vec<u8>);
    impl Protocol for Shelf {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }
    let mut held = hold(Shelf(vec![1, 2]));
    let answer = held.connection.ask(|shelf, _| shelf.0.pop());
    answer.cancel();
    held.settle();
    assert_eq!(held.with(|shelf, _| shelf.0.clone()), Some(vec![1, 2]));
    let answer = held.connection.ask(|shelf, _| shelf.0.pop());
    held.settle();
    assert_eq!(success_of(answer), Some(2));
    // Without a cancel, the call runs for its effect.
    held.connection.ask(|shelf, _| shelf.0.clear()).detach();
    held.settle();
    assert_eq!(held.with(|shelf, _| shelf.0.clone()), Some(vec![]));
}

#[test]
fn c129b_a_cancelled_ask_of_a_datagram_port_drops_its_call() {
    let mut memory = MemoryReactor::new();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let ignores = |_: &DatagramTransport, _: &Datagram<'_>| {};
    let port = memory.reactor().listen_datagrams(any, ignores).expect("a free port");
    settle(&mut memory);
    for (is_cancelled, expected) in [(true, 0), (false, 1)] {
        let calls = Rc::new(Cell::new(0));
        let counted = calls.clone();
        let answer = port.ask(move |_, _| counted.set(counted.get() + 1));
        if is_cancelled {
            answer.cancel();
        }
        settle(&mut memory);
        assert_eq!((calls.get(), Rc::strong_count(&calls)), (expected, 1));
        drop(answer);
    }
}

#[test]
fn c129b_the_bytes_and_messages_of_a_stream_stay_in_it() {
    for cut in 0..2 {
        let mut held = hold(Quiet);
        let stream = Rc::new(RefCell::new(Some(Stream::new(&held.connection.transport()))));
        let lent = stream.clone();
        let received: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
        let receiving = received.clone();
        let task = held.reactor().spawn(async move {
            let mut stream = lent.take().expect("a stream");
            let read = async {
                while let Some(line) = stream.read_line().await? {
                    receiving.borrow_mut().push(line);
                }
                Ok::<(), couplet::Failure>(())
            };
            let stop = DeferredEvent::new();
            let mut read = pin!(read);
            let _ = select(read.as_mut(), stop.wait()).await;
            Ok(())
        });
        held.settle();
        let canceller = task.canceller();
        let transport = held.connection.transport();
        if cut == 0 {
            canceller.cancel();
        }
        held.push(b"one\r\ntwo\r\n");
        canceller.cancel();
        held.settle();
        // The stream belonged to the task: it ends with it, and so does its connection.
        let expected: &[&[u8]] = if cut == 0 { &[] } else { &[b"one", b"two"] };
        assert_eq!(received.borrow().as_slice(), expected);
        assert!(transport.is_closing());
    }
    // A stream that outlives the wait keeps the bytes that have arrived.
    let mut held = hold(Quiet);
    let mut stream = Stream::new(&held.connection.transport());
    let stop = DeferredEvent::new();
    let stopped = stop.clone();
    let task = held.reactor().spawn(async move {
        {
            let reading = pin!(stream.read_line());
            let _ = select(stopped.wait(), reading).await;
        }
        stream.read_line().await.map_err(Into::into)
    });
    held.settle();
    stop.set();
    held.push(b"one\r\n");
    held.settle();
    assert_eq!(success_of(task).as_deref(), Some(&b"one"[..]));
    let mut held = hold(Quiet);
    let mut framed = Stream::new(&held.connection.transport()).framed(LineReceiver::new);
    let stop = DeferredEvent::new();
    let stopped = stop.clone();
    let task = held.reactor().spawn(async move {
        {
            let reading = pin!(framed.next());
            let _ = select(stopped.wait(), reading).await;
        }
        Ok((framed.next().await?, framed.next().await?))
    });
    held.settle();
    stop.set();
    held.push(b"one\r\ntwo\r\n");
    held.settle();
    assert_eq!(success_of(task), (Some(b"one".to_vec()), Some(b"two".to_vec())));
}

#[test]
fn c129b_a_stream_that_was_connected_in_vain_is_closed_and_a_protocol_keeps_its_connection() {
    for keeps in [false, true] {
        let mut memory = MemoryReactor::new();
        let reactor = memory.reactor();
        let endpoint = TcpClient::new("a.example", 1);
        let connected: Rc<Cell<bool>> = Rc::default();
        let connecting = reactor.clone();
        let noted = connected.clone();
        let task = reactor.spawn(async move {
            if keeps {
                let connection = connecting.connect_protocol(endpoint, Quiet).await?;
                noted.set(true);
                drop(connection);
            } else {
                let stream = connecting.connect_stream(endpoint).await?;
                noted.set(true);
                drop(stream);
            }
            Ok(())
        });
        settle(&mut memory);
        let wire = memory.connecting().remove(0).complete();
        let canceller = task.canceller();
        // The driver's event fires the Deferred; this call precedes the task in the same turn.
        reactor.call_later(Duration::ZERO, move || canceller.cancel());
        settle(&mut memory);
        assert!(!connected.get(), "the task was cancelled first");
        assert_eq!(wire.saw_fin(), !keeps);
    }
}

#[test]
fn c129b_a_client_service_keeps_its_connection_and_gives_it_to_the_next_waiter() {
    let mut memory = MemoryReactor::new();
    let reactor = memory.reactor();
    let service = ClientService::new(&reactor, "tcp:192.0.2.1:1", || Quiet).unwrap();
    service.start();
    let waiting = service.clone();
    let received: Rc<Cell<bool>> = Rc::default();
    let noted = received.clone();
    let task = reactor.spawn(async move {
        let connection = waiting.when_connected(None).await?;
        noted.set(true);
        connection.transport().lose_connection();
        Ok(())
    });
    settle(&mut memory);
    let wire = memory.connecting().remove(0).complete();
    let canceller = task.canceller();
    // The driver's event fires the Deferred; this call precedes the task in the same turn.
    reactor.call_later(Duration::ZERO, move || canceller.cancel());
    settle(&mut memory);
    assert!(!received.get(), "the task was cancelled first");
    assert!(!wire.saw_fin() && !wire.saw_reset());
    assert!(!success_of(service.when_connected(None)).is_lost());
    assert!(memory.connecting().is_empty());
}

#[test]
fn c129b_a_point_of_an_interval_is_counted_by_the_next_tick() {
    let mut memory = MemoryReactor::new();
    let reactor = memory.reactor();
    let mut interval = reactor.interval(Duration::from_secs(1));
    let stop = DeferredEvent::new();
    let stopped = stop.clone();
    let task = reactor.spawn(async move {
        interval.tick().await?;
        {
            let ticking = pin!(interval.tick());
            let _ = select(stopped.wait(), ticking).await;
        }
        interval.tick().await
    });
    settle(&mut memory);
    reactor.call_later(Duration::from_secs(1), move || stop.set());
    memory.advance(Duration::from_secs(1));
    assert_eq!(success_of(task), 1);
}
