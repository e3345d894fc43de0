//! A crowd in the simulator that joins and leaves while messages are delivered, in parts.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::rooms::{Limits, Member, Position, RoomOptions, Rooms, SharedRooms};
use couplet::sim::{self, Notes, Sim, Weather};
use couplet::transport::Timeout;
use couplet::{Reactor, Reason, Result, hooks};

const CLIENTS: usize = 7;
/// Members that get a message in one turn.
const PART: usize = 2;
const STORM: Duration = Duration::from_secs(30);
/// Time for all clients to return.
const END: Duration = Duration::from_secs(60);
/// Messages that are published together, and the time between them.
const BURST: usize = 3;
const PAUSE: Duration = Duration::from_millis(40);

/// Each line of a client toggles its membership.
struct Serves {
    rooms: Rooms<u8>,
    member: Option<Member<u8, ()>>,
}

impl LineProtocol for Serves {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(10)));
    }

    fn line_received(&mut self, transport: &LineTransport, _: &[u8]) {
        if let Some(member) = self.member.take() {
            member.leave();
            return transport.send_line("out");
        }
        match self.rooms.join(&1, transport, ()) {
            Ok(member) => self.member = Some(member),
            Err(error) => return transport.fail(error),
        }
        let newest = self.rooms.position(&1).map_or(0, Position::number);
        transport.send_line(format!("in {newest}"));
    }
}

fn publish(reactor: &Reactor, rooms: Rooms<u8>) {
    for _ in 0..BURST {
        let encode = |position: Position| format!("{}\r\n", position.number()).into();
        rooms.publish_encoded(&1, encode).expect("there is place for a room");
    }
    let again = reactor.clone();
    reactor.call_later(PAUSE, move || publish(&again, rooms));
}

fn server(reactor: &Reactor) -> Result<()> {
    let limits = Limits::default().deliveries(PART);
    // The history keeps the room while it is empty.
    let options = |_: &u8| RoomOptions::default().history(1, 100, END);
    let rooms = SharedRooms::with_limits(limits, options).attach(reactor);
    publish(reactor, rooms.clone());
    reactor.listen("tcp:8000", move || {
        LineReceiver::new(Serves { rooms: rooms.clone(), member: None })
    })?;
    Ok(())
}

#[derive(Clone)]
struct Client {
    notes: Notes,
    /// Messages of all clients.
    got: Rc<Cell<u64>>,
    /// The number of the last message, while it is a member.
    last: Option<u64>,
}

impl LineProtocol for Client {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(10)));
        toggle(transport);
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if let Some(newest) = line.strip_prefix("in ") {
            self.last = newest.parse().ok();
            return toggle(transport);
        }
        if line == "out" {
            self.last = None;
            return toggle(transport);
        }
        if self.last.map(|last| last + 1) != line.parse().ok() {
            self.notes.fail(format!("{line} after {:?}", self.last));
        }
        self.last = line.parse().ok();
        self.got.set(self.got.get() + 1);
    }

    fn connection_lost(&mut self, transport: &LineTransport, _: &Reason) {
        dial(transport.reactor(), Client { last: None, ..self.clone() });
    }
}

/// Joins or leaves after a while.
fn toggle(transport: &LineTransport) {
    let pause = Duration::from_millis(hooks::random(transport.reactor()) % 150);
    transport
        .connection::<Client>()
        .call_later(pause, |_, transport| transport.send_line("toggle"));
}

fn dial(reactor: &Reactor, client: Client) {
    let dialling = reactor.clone();
    reactor.call_later(Duration::from_secs(1), move || {
        let (again, redialling) = (client.clone(), dialling.clone());
        let made = move || LineReceiver::new(client.clone());
        let connected = dialling.connect("tcp:server:8000", made).map(drop);
        let failed = connected.add_errback(move |_| {
            dial(&redialling, again);
            Ok(())
        });
        failed.detach();
    });
}

#[test]
fn c193b_in_storms_members_that_come_and_go_get_the_messages_of_their_time() {
    for weather in [Weather::Calm, Weather::Storm] {
        sim::check(0..4, weather, |sim: &mut Sim| {
            sim.host("server", server);
            let client = Client { notes: sim.notes(), got: Rc::default(), last: None };
            for number in 0..CLIENTS {
                let client = client.clone();
                sim.host(&format!("client {number}"), move |reactor: &Reactor| {
                    dial(reactor, client.clone());
                    Ok(())
                });
            }
            sim.draw_faults(STORM);
            sim.run_for(END)?;
            if client.got.get() < 500 {
                sim.fail(format!("the clients got {} messages", client.got.get()))?;
            }
            sim.finish()
        });
    }
}
