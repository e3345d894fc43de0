//! Row 51e: connections that another process continues after this one has died: here another loop,
//! after this one was dropped while a keeper had their sockets.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::reactor::{HandedOver, Keeper};
use couplet::transport::SockRef;
use couplet::transport::Timeout;
use couplet::{
    ConnectionId, HandOver, IntoFactory, ListenOptions, Protocol, ProtocolExtension, SocketOption,
    Transport, UnixAddress, hooks,
};

use super::{TCP, client, hand_over, served};
use crate::needed::Folder;
use crate::suite::kit::{Kit, Rig};

/// A socket and its record.
type Entry = (OwnedFd, Vec<u8>);

/// Keeps connections as another process would.
#[derive(Clone, Default)]
struct Store {
    entries: Rc<RefCell<BTreeMap<ConnectionId, Entry>>>,
    records: Rc<Cell<usize>>,
    forgotten: Rc<Cell<usize>>,
    panics: bool,
}

impl Store {
    /// The record of the only connection.
    fn record(&self) -> Vec<u8> {
        self.entries.borrow().values().next().expect("a connection").1.clone()
    }

    fn len(&self) -> usize {
        self.entries.borrow().len()
    }
}

impl Keeper for Store {
    fn keep(&mut self, connection: ConnectionId, socket: SockRef<'_>, record: &[u8]) {
        assert!(!self.panics, "a keeper that panics");
        self.records.set(self.records.get() + 1);
        let mut entries = self.entries.borrow_mut();
        let duplicate = || socket.as_fd().try_clone_to_owned().expect("a descriptor");
        entries.entry(connection).or_insert_with(|| (duplicate(), Vec::new())).1 =
            record.to_owned();
    }

    fn forget(&mut self, connection: ConnectionId) {
        self.forgotten.set(self.forgotten.get() + 1);
        self.entries.borrow_mut().remove(&connection);
    }
}

type Slot = Rc<RefCell<Option<Transport>>>;

/// Echoes, and keeps the number of its bytes.
#[derive(Clone, Default)]
struct Counter {
    transport: Slot,
    count: u8,
}

impl Counter {
    fn keep(&mut self, transport: &Transport) {
        hooks::keep(transport, self.hand_over());
    }
}

impl Protocol for Counter {
    fn connection_made(&mut self, transport: &Transport) {
        self.keep(transport);
        *self.transport.borrow_mut() = Some(transport.clone());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        assert_ne!(data, b"panic", "a protocol that panics");
        self.count += data.len() as u8;
        self.keep(transport);
        transport.write(data);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Counter {
    fn hand_over(&mut self) -> Option<HandOver> {
        HandOver::new("counter", [self.count])
    }
}

/// A line receiver that skips lines of more than 5 bytes.
struct Lines(Slot);

impl LineProtocol for Lines {
    fn connection_made(&mut self, transport: &LineTransport) {
        hooks::keep(transport, HandOver::new("lines", []));
        *self.0.borrow_mut() = Some(transport.as_ref().clone());
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        match line {
            b"raw" => transport.set_raw_mode(),
            line => transport.send_line(line),
        }
    }

    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        if let Some(rest) = data.strip_prefix(b"line") {
            transport.set_line_mode(rest);
        }
    }

    fn line_length_exceeded(&mut self, _: &LineTransport, _: &[u8]) {}
}

/// A loop with a keeper, one connection, and its client.
struct Old {
    rig: Rig,
    store: Store,
    slot: Slot,
    client: TcpStream,
}

impl Old {
    fn new() -> Old {
        Old::over(TCP)
    }

    fn over(endpoint: &str) -> Old {
        let counter = Counter::default();
        let slot = counter.transport.clone();
        Old::of(endpoint, Store::default(), slot, move || counter.clone())
    }

    fn of<K>(endpoint: &str, store: Store, slot: Slot, factory: impl IntoFactory<K>) -> Old {
        let mut rig = Kit::mio().rig();
        rig.l.keep_connections(store.clone());
        let client = served(&rig, endpoint, factory);
        rig.until("a connection", || slot.borrow().is_some());
        rig.turns(2);
        Old { rig, store, slot, client }
    }

    fn lines() -> Old {
        let slot = Slot::default();
        let its = slot.clone();
        let factory = move || LineReceiver::new(Lines(its.clone())).with_max_length(5);
        Old::of(TCP, Store::default(), slot, factory)
    }

    fn transport(&self) -> Transport {
        self.slot.borrow().clone().expect("a connection")
    }

    /// Sends bytes, and turns until the protocol has them.
    fn send(&mut self, bytes: &[u8]) {
        let received = |rig: &mut Rig| rig.l.snapshot().connections[0].bytes_in;
        let wanted = received(&mut self.rig) + bytes.len() as u64;
        self.client.write_all(bytes).expect("room");
        while received(&mut self.rig) < wanted {
            self.rig.turn();
        }
    }

    fn echo(&mut self, bytes: &[u8]) {
        self.send(bytes);
        let mut echo = vec![0; bytes.len()];
        self.client.read_exact(&mut echo).expect("an echo");
        assert_eq!(echo, bytes);
    }

    /// The process dies: its sockets close silently, and the store's stay open.
    fn crash(self) -> (Option<Entry>, TcpStream) {
        let entry = self.store.entries.take().into_values().next();
        drop((self.rig, self.slot));
        (entry, self.client)
    }

    /// Crashes, and returns the connection as the next process gets it.
    fn kept(self) -> (Option<HandedOver>, TcpStream) {
        let (entry, client) = self.crash();
        let (socket, record) = entry.expect("it was kept");
        (HandedOver::kept(socket, &record).expect("a record"), client)
    }

    /// Asserts that the next process resets the connection.
    fn expect_reset(self, what: &str) {
        let (handed, client) = self.kept();
        assert!(handed.is_none(), "{what}");
        ends_with_reset(client);
    }
}

/// Reads up to the end, which is a reset.
fn ends_with_reset(mut client: TcpStream) {
    let mut bytes = [0; 65536];
    loop {
        match client.read(&mut bytes) {
            Ok(0) => panic!("a FIN"),
            Ok(_) => {}
            Err(error) => return assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

/// Continues a connection in a new loop, which keeps it too.
fn take_over(handed: HandedOver, client: TcpStream) -> Old {
    assert_eq!(handed.kind(), "counter");
    let counter = Counter { count: handed.state()[0], ..Counter::default() };
    let (mut rig, store, slot) = (Kit::mio().rig(), Store::default(), counter.transport.clone());
    rig.l.keep_connections(store.clone());
    rig.reactor.take_over(handed, counter).expect("a socket").detach();
    rig.until("the connection", || slot.borrow().is_some());
    rig.turns(2);
    Old { rig, store, slot, client }
}

#[test]
fn c51e_an_idle_connection_continues_with_its_state_and_settings() {
    let mut old = Old::new();
    old.transport().set_write_cap(Some(1000));
    old.transport().write("hello");
    old.rig.turns(2);
    old.client.read_exact(&mut [0; 5]).expect("bytes");
    old.echo(b"abc");
    for total in [3, 6, 9] {
        let (handed, client) = old.kept();
        let handed = handed.expect("nothing was pending");
        assert_eq!(handed.state(), [total]);
        old = take_over(handed, client);
        let shown = &old.rig.l.snapshot().connections[0];
        assert_eq!((shown.bytes_in, shown.bytes_out), (total.into(), u64::from(total) + 5));
        old.echo(b"def");
    }
    old.transport().write(vec![0; 1001]);
    old.rig.turns(2);
    assert_eq!(old.rig.l.snapshot().connections.len(), 0, "its cap was kept");
}

#[test]
fn c51e_bytes_in_the_kernels_queues_are_not_lost() {
    let mut old = Old::new();
    old.echo(b"abc");
    old.send(b"answered, but not read by the client");
    old.client.write_all(b"unread").expect("room");
    let (handed, client) = old.kept();
    let mut old = take_over(handed.expect("nothing was pending"), client);
    let wanted = b"answered, but not read by the clientunread";
    old.rig.turns(3);
    let mut got = vec![0; wanted.len()];
    old.client.read_exact(&mut got).expect("bytes");
    assert_eq!(got, wanted);
}

#[test]
fn c51e_a_connection_whose_message_a_dead_process_read_in_part_is_reset() {
    let mut old = Old::lines();
    old.send(b"one\r\nha");
    old.expect_reset("half a line");
    let mut old = Old::lines();
    old.send(b"much too long");
    old.expect_reset("inside a line that is too long");
    let mut old = Old::lines();
    old.send(b"raw\r\n");
    old.expect_reset("in raw mode, without bytes");
    let mut old = Old::lines();
    old.send(b"raw\r\nbytes");
    old.expect_reset("in raw mode");
    // Between messages, the connection continues.
    for whole in
        [&[&b"ha"[..], b"lf\r\n"][..], &[b"much too", b" long\r\n"], &[b"raw\r\n", b"line"]]
    {
        let mut old = Old::lines();
        for bytes in whole {
            old.send(bytes);
        }
        assert!(old.kept().0.is_some(), "{whole:?}");
    }
}

#[test]
fn c51e_a_line_that_a_pause_holds_back_is_reset() {
    let mut old = Old::lines();
    old.transport().pause_producing();
    old.rig.turns(2);
    let (handed, _client) = old.kept();
    assert!(handed.is_some(), "a pause alone changes nothing");
    let slot = Slot::default();
    let its = slot.clone();
    let factory = move || LineReceiver::new(Pausing(its.clone()));
    let store = Store::default();
    let mut old = Old::of(TCP, store.clone(), slot.clone(), factory.clone());
    old.send(b"one\r\ntwo\r\n");
    old.expect_reset("a line that is held");
    let mut old = Old::of(TCP, store, slot, factory);
    old.send(b"one\r\ntwo\r\n");
    old.transport().resume_producing();
    old.rig.turns(3);
    assert!(old.kept().0.is_some(), "it was delivered");
}

/// Pauses after each line.
struct Pausing(Slot);

impl LineProtocol for Pausing {
    fn connection_made(&mut self, transport: &LineTransport) {
        hooks::keep(transport, HandOver::new("lines", []));
        *self.0.borrow_mut() = Some(transport.as_ref().clone());
    }

    fn line_received(&mut self, transport: &LineTransport, _: &[u8]) {
        transport.pause_producing();
    }
}

#[test]
fn c51e_the_next_protocol_is_inside_no_message() {
    let mut old = Old::lines();
    old.send(b"ab");
    old.transport().upgrade(Counter::default());
    old.rig.turns(3);
    assert!(old.kept().0.is_some(), "it has the part of the line");
}

#[test]
fn c51e_unsent_output_is_reset() {
    let mut old = Old::new();
    let transport = old.transport();
    transport.set_option(SocketOption::SendBuffer(4096));
    old.rig.turns(2);
    transport.write(vec![0; 1024 * 1024]);
    old.rig.turns(3);
    assert!(transport.buffered() > 0);
    old.expect_reset("a full outbox");
}

#[test]
fn c51e_an_older_record_is_never_continued() {
    // The process dies in the middle of a turn, in which it read, wrote, or both.
    let mut old = Old::new();
    old.echo(b"abc");
    let before = old.store.record();
    old.echo(b"def");
    let after = old.store.record();
    let written = Old::new();
    let unwritten = written.store.record();
    written.transport().write("x");
    let mut written = written;
    written.rig.turns(2);
    assert_ne!((&before, &unwritten), (&after, &written.store.record()));
    for (old, record) in [(old, before), (written, unwritten)] {
        let (entry, client) = old.crash();
        let (socket, _) = entry.expect("it was kept");
        assert!(HandedOver::kept(socket, &record).expect("a record").is_none());
        ends_with_reset(client);
    }
}

/// Uses the first three bytes, and keeps the others with its state.
struct Holding(Slot);

impl Protocol for Holding {
    fn connection_made(&mut self, transport: &Transport) {
        *self.0.borrow_mut() = Some(transport.clone());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let state = HandOver::new("counter", [3]).expect("it is short");
        hooks::keep(transport, Some(state.with_unread(&data[3..])));
    }
}

#[test]
fn c51e_bytes_that_the_protocol_keeps_come_first() {
    let (slot, store) = (Slot::default(), Store::default());
    let its = slot.clone();
    let factory = move || Holding(its.clone());
    let mut old = Old::of(TCP, store, slot, factory);
    old.send(b"abcdef");
    old.client.write_all(b"ghi").expect("room");
    let (handed, client) = old.kept();
    let mut old = take_over(handed.expect("nothing was pending"), client);
    old.rig.turns(3);
    let mut got = [0; 6];
    old.client.read_exact(&mut got).expect("bytes");
    assert_eq!(&got, b"defghi");
    let (handed, _client) = old.kept();
    assert_eq!(handed.expect("nothing was pending").state(), [9]);
}

#[test]
fn c51e_a_record_follows_each_turn_with_bytes_and_no_other() {
    let mut old = Old::new();
    let count = |old: &Old| old.store.records.get();
    assert_eq!(count(&old), 1);
    old.echo(b"abc");
    old.rig.turns(2);
    assert_eq!(count(&old), 2);
    old.transport().write("x");
    old.transport().write("y");
    old.rig.turns(3);
    assert_eq!(count(&old), 3);
}

#[test]
fn c51e_a_close_sends_a_fin_while_the_keeper_has_the_socket() {
    // The duplicate stays open after the store has removed the loop's entry.
    let duplicate = |old: &Old| {
        let entries = old.store.entries.borrow();
        entries.values().next().expect("it is kept").0.try_clone().expect("a descriptor")
    };
    let mut old = Old::new();
    let _duplicate = duplicate(&old);
    old.transport().write("bye");
    old.transport().lose_connection();
    old.rig.turns(3);
    let mut got = Vec::new();
    old.client.read_to_end(&mut got).expect("a clean end");
    assert_eq!(got, b"bye");
    let mut old = Old::new();
    let _duplicate = duplicate(&old);
    old.client.shutdown(Shutdown::Write).expect("it is connected");
    old.rig.until("its end", || old.store.forgotten.get() == 1);
    old.rig.turns(3);
    assert_eq!(old.client.read(&mut [0]).expect("a clean end"), 0);
    let mut old = Old::new();
    let _duplicate = duplicate(&old);
    old.rig.stop(Duration::ZERO);
    assert_eq!(old.client.read(&mut [0]).expect("a clean end"), 0);
}

#[test]
fn c51e_a_connection_that_ends_or_changes_is_forgotten() {
    type Act = fn(&mut Old);
    let acts: [(&str, Act); 12] = [
        ("lose", |old| old.transport().lose_connection()),
        ("lose_write", |old| old.transport().lose_write_connection()),
        ("abort", |old| old.transport().abort_connection()),
        ("none", |old| hooks::keep(&old.transport(), None)),
        ("too long", |old| {
            hooks::keep(&old.transport(), HandOver::new("counter", vec![0; 1 << 20]))
        }),
        ("upgrade", |old| old.transport().upgrade(Holding(Slot::default()))),
        ("fin", |old| old.client.shutdown(Shutdown::Write).expect("it is connected")),
        ("reset", |old| {
            SockRef::from(&old.client).set_linger(Some(Duration::ZERO)).expect("an option");
            let other = UnixStream::pair().expect("two sockets").0;
            drop(std::mem::replace(&mut old.client, TcpStream::from(OwnedFd::from(other))));
        }),
        ("panic", |old| old.client.write_all(b"panic").expect("room")),
        ("timeout", |old| {
            old.transport().set_timeout(Timeout::Idle, Some(Duration::from_secs(1)));
            old.rig.turns(2);
            old.rig.pass(Duration::from_secs(2));
            old.rig.tick();
        }),
        ("hand over", |old| {
            let id = old.transport().id();
            assert!(hand_over(&mut old.rig, id).is_some());
        }),
        ("stop", |old| old.rig.stop(Duration::ZERO)),
    ];
    for (what, act) in acts {
        let mut old = Old::new();
        old.echo(b"abc");
        assert_eq!((old.store.len(), old.store.forgotten.get()), (1, 0), "{what}");
        act(&mut old);
        if what != "stop" {
            old.rig.until(what, || old.store.forgotten.get() == 1);
            old.rig.turns(3);
        }
        assert_eq!((old.store.len(), old.store.forgotten.get()), (0, 1), "{what}");
    }
    let old = Old::new();
    let store = old.store.clone();
    drop(old);
    assert_eq!((store.len(), store.forgotten.get()), (0, 1), "drop of the loop");
}

#[test]
fn c51e_other_connections_are_not_kept() {
    let layered = Old::over("throttle:tcp:0:interface=127.0.0.1:read=1M");
    assert_eq!(layered.store.records.get(), 0, "layers");
    let (mut rig, store, folder) = (Kit::mio().rig(), Store::default(), Folder::new());
    rig.l.keep_connections(store.clone());
    let counter = Counter::default();
    let (slot, path) = (counter.transport.clone(), folder.join("port"));
    let _port = rig
        .reactor
        .listen((UnixAddress::from(&*path), ListenOptions::default()), move || counter.clone())
        .expect("a free path");
    let _client = UnixStream::connect(&path).expect("it listens");
    rig.until("a connection", || slot.borrow().is_some());
    rig.turns(2);
    assert_eq!(store.records.get(), 0, "UNIX sockets");
    // One that was made by a connect, in a loop that keeps the other end.
    let mut old = Old::new();
    let counter = Counter::default();
    let (slot, host) = (counter.transport.clone(), old.client.peer_addr().expect("an address"));
    old.rig.reactor.connect_protocol(&*format!("tcp:{host}"), counter).detach();
    old.rig.until("a client", || slot.borrow().is_some() && old.store.len() == 2);
    old.rig.turns(2);
    assert_eq!(old.store.len(), 2, "the connections that were accepted");
}

#[test]
fn c51e_a_stream_that_has_received_bytes_is_reset() {
    let (mut rig, store) = (Kit::mio().rig(), Store::default());
    rig.l.keep_connections(store.clone());
    let port = rig.reactor.serve(TCP, async |mut stream| {
        hooks::keep(stream.transport(), HandOver::new("stream", []));
        let mut bytes = [0; 10];
        loop {
            let count = stream.read(&mut bytes).await?;
            stream.transport().write(&bytes[..count]);
        }
    });
    let client = client(&port.expect("a free port").host());
    rig.until("a record", || store.records.get() == 1);
    let mut old = Old { rig, store, slot: Slot::default(), client };
    old.echo(b"abc");
    old.expect_reset("read, as far as the loop knows");
}

#[test]
fn c51e_a_wrong_record_or_socket_is_an_error() {
    let changes: [fn(&mut Vec<u8>); 3] =
        [Vec::clear, |record| record[16] += 1, |record| record.push(0)];
    for change in changes {
        let (entry, client) = Old::new().crash();
        let (socket, mut record) = entry.expect("it was kept");
        change(&mut record);
        let error = HandedOver::kept(socket, &record).expect_err("no record");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        ends_with_reset(client);
    }
    let (entry, _client) = Old::new().crash();
    let (one, _other) = UnixStream::pair().expect("two sockets");
    assert!(HandedOver::kept(one.into(), &entry.expect("it was kept").1).is_err());
}

#[test]
fn c51e_a_keeper_that_panics_disturbs_no_connection() {
    let (counter, store) = (Counter::default(), Store { panics: true, ..Store::default() });
    let slot = counter.transport.clone();
    let mut old = Old::of(TCP, store, slot, move || counter.clone());
    old.echo(b"abc");
    old.echo(b"def");
}

#[test]
fn c51e_another_keeper_takes_the_place_of_the_first() {
    let mut old = Old::new();
    let (first, second) = (old.store.clone(), Store::default());
    old.rig.l.keep_connections(second.clone());
    old.echo(b"abc");
    old.rig.turns(2);
    assert_eq!((first.records.get(), second.records.get()), (1, 1));
    old.transport().abort_connection();
    old.rig.until("its end", || second.forgotten.get() == 1);
    assert_eq!((first.forgotten.get(), second.len()), (0, 0));
}

#[test]
fn c51e_each_connection_with_bytes_in_a_turn_is_kept() {
    let (mut rig, store) = (Kit::mio().rig(), Store::default());
    rig.l.keep_connections(store.clone());
    let port = rig.reactor.listen(TCP, Counter::default).expect("a free port");
    let mut clients = [(); 3].map(|()| client(&port.host()));
    rig.until("all connections", || store.len() == 3);
    rig.turns(2);
    for round in 1..=2 {
        clients.iter_mut().for_each(|client| client.write_all(b"abc").expect("room"));
        while rig.l.snapshot().connections.iter().any(|it| it.bytes_in < 3 * round) {
            rig.turn();
        }
        // The records of that turn match the sockets.
        for (socket, record) in store.entries.borrow().values() {
            let socket = socket.try_clone().expect("a descriptor");
            let handed = HandedOver::kept(socket, record).expect("a record");
            assert_eq!(handed.expect("an up-to-date record").state(), [3 * round as u8]);
        }
    }
}
