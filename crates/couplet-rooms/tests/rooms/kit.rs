//! A loop in memory whose connections the test makes members, and the log of its events.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::rooms::{Departure, Event, Member, Position, RoomOptions, Rooms, SharedRooms};
use couplet::testing::{MemoryReactor, Wire};
use couplet::{Protocol, Transport};

pub(crate) type Guest = Member<&'static str, String>;

pub(crate) const ROOM: &str = "lobby";

/// Takes nothing, and keeps its transport for the test. Stays half-open after a FIN if it says so.
struct Kept {
    made: Rc<RefCell<Option<Transport>>>,
    stays_half_open: bool,
}

impl Protocol for Kept {
    fn connection_made(&mut self, transport: &Transport) {
        *self.made.borrow_mut() = Some(transport.clone());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        match data {
            b"lose" => transport.lose_connection(),
            b"panic" => panic!("as the client asked"),
            _ => {}
        }
    }

    fn read_closed(&mut self, transport: &Transport) {
        if !self.stays_half_open {
            transport.lose_connection();
        }
    }
}

pub(crate) struct Scene {
    pub(crate) memory: MemoryReactor,
    pub(crate) rooms: Rooms<&'static str, String>,
    made: Rc<RefCell<Option<Transport>>>,
    log: Rc<RefCell<Vec<String>>>,
}

impl Scene {
    /// A single loop, with these options for each room.
    pub(crate) fn new(options: RoomOptions) -> Scene {
        Scene::of(&SharedRooms::new(move |_| options.clone()))
    }

    /// One of several loops.
    pub(crate) fn of(shared: &SharedRooms<&'static str, String>) -> Scene {
        let memory = MemoryReactor::new();
        let rooms = shared.attach(&memory.reactor());
        let made = Rc::<RefCell<Option<Transport>>>::default();
        for (port, stays_half_open) in [("tcp:1", false), ("tcp:2", true)] {
            let made = made.clone();
            let factory = move || Kept { made: made.clone(), stays_half_open };
            memory.reactor().listen(port, factory).expect("a port in memory is free");
        }
        Scene { memory, rooms, made, log: Rc::default() }
    }

    /// Writes the events to the log from now on.
    pub(crate) fn observe(&self) {
        let log = self.log.clone();
        self.rooms.on_event(move |event| log.borrow_mut().push(line(event)));
    }

    /// Takes the lines of the log.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.take()
    }

    /// A connection that is in no room.
    pub(crate) fn connect(&mut self) -> (Wire, Transport) {
        self.connect_to(1)
    }

    /// A connection that stays half-open after the peer's FIN.
    pub(crate) fn connect_half_open(&mut self) -> (Wire, Transport) {
        self.connect_to(2)
    }

    fn connect_to(&mut self, port: u16) -> (Wire, Transport) {
        let wire = self.memory.connect(port);
        (wire, self.made.take().expect("the connection was made"))
    }

    /// A connection in the room, after its join has been delivered.
    pub(crate) fn guest(&mut self, name: &str) -> (Wire, Guest) {
        let (wire, transport) = self.connect();
        let member = self.rooms.join(&ROOM, &transport, name.to_owned()).expect("it may join");
        self.memory.settle();
        (wire, member)
    }

    /// A guest that takes at most `bytes` unless the test reads: half of them are in flight, the
    /// others in the transport. One message may exceed that.
    pub(crate) fn slow_guest(&mut self, name: &str, bytes: usize) -> (Wire, Guest) {
        self.memory.network().set_capacity(bytes / 2);
        let (wire, guest) = self.guest(name);
        guest.transport().set_write_marks(0, (bytes / 2).saturating_sub(1));
        self.memory.network().set_capacity(64 * 1024);
        (wire, guest)
    }

    /// Publishes a text, and settles.
    pub(crate) fn publish(&mut self, text: &str) -> Position {
        let position = self.rooms.publish(&ROOM, text.to_owned()).expect("there is such a room");
        self.memory.settle();
        position
    }

    /// Publishes the last digit of each number, and settles after each.
    pub(crate) fn publish_digits(&mut self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            self.publish(&digits([number]));
        }
    }

    /// Takes everything that the client gets, as it reads.
    pub(crate) fn read(&mut self, wire: &Wire) -> String {
        let mut all = Vec::new();
        loop {
            let some = wire.take();
            if some.is_empty() {
                return String::from_utf8(all).expect("texts");
            }
            all.extend(some);
            self.memory.settle();
        }
    }
}

/// An event as a line.
pub(crate) fn line(event: &Event<&'static str, String>) -> String {
    match event {
        Event::Joined { room, member } => format!("{room}: {} joined", member.meta),
        Event::Changed { room, member } => format!("{room}: now {}", member.meta),
        Event::Left { room, member, why } => {
            let why = match why {
                Departure::Lost(reason) => format!("lost: {reason:?}"),
                why => format!("{why:?}"),
            };
            format!("{room}: {} left ({why})", member.meta)
        }
        Event::Published { room, position, bytes, .. } => {
            let text = String::from_utf8_lossy(bytes);
            format!("{room}: {} {text}", position.number())
        }
        Event::Dropped { member, position } => {
            format!("{}: {} dropped for {}", member.room(), position.number(), member.id())
        }
        Event::Missed { room, messages, events } => {
            format!("{room}: missed {messages} and {events}")
        }
        event => format!("{event:?}"),
    }
}

/// The numbers as texts of one digit, joined.
pub(crate) fn digits(numbers: impl IntoIterator<Item = u32>) -> String {
    numbers.into_iter().map(|number| (number % 10).to_string()).collect()
}
