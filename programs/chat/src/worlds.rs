//! The simulated world: a chat in a storm. Members send numbered lines, come and go, and receive each other's lines.
//!
//! Each member receives another connection's lines in order, once, and without a gap while both
//! stay.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport, ReconnectingClientFactory};
use couplet::sim::{Notes, Sim};
use couplet::transport::Timeout;
use couplet::{Reactor, Transport};

use crate::member::ChatServer;
use crate::room::SharedRoom;

const MEMBERS: u32 = 5;
const STORM: Duration = Duration::from_secs(90);
const AFTER: Duration = Duration::from_secs(90);

/// A member's state across its connections.
#[derive(Clone)]
struct Person {
    name: String,
    /// Number of its connections; each one has its own voice.
    voices: Rc<Cell<u32>>,
    heard: Rc<Cell<u64>>,
    notes: Notes,
}

/// One connection of a member.
struct Member {
    person: Person,
    voice: u32,
    said: u32,
    /// The last line received from each voice.
    last: BTreeMap<String, u32>,
    /// The time between two lines.
    pause: Duration,
}

impl Member {
    fn say(&mut self, transport: &Transport) {
        self.said += 1;
        let Member { person, voice, said, .. } = self;
        transport.write(format!("say {}-{voice} {said}\n", person.name));
        transport.connection::<Member>().call_later(self.pause, Member::say);
    }

    fn hear(&mut self, voice: &str, number: u32) {
        self.person.heard.set(self.person.heard.get() + 1);
        if let Some(last) = self.last.insert(voice.to_owned(), number)
            && number != last + 1
        {
            let name = &self.person.name;
            self.person.notes.fail(format!("{name} heard {voice} say {number} after {last}"));
        }
    }
}

impl LineProtocol for Member {
    fn connection_made(&mut self, transport: &LineTransport) {
        // A member that receives nothing for this long has lost its server.
        transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(20)));
        self.say(transport);
    }

    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let Some((_, text)) = line.split_once("say ") else { return };
        let mut words = text.split_whitespace();
        if let (Some(voice), Some(Ok(number))) = (words.next(), words.next().map(str::parse)) {
            self.hear(voice, number);
        }
    }
}

/// A server and its members in a storm.
///
/// # Errors
///
/// If a member gets a line twice, out of order or not at all while the member and the speaker stay,
/// or gets nothing after the storm.
pub fn storm(sim: &mut Sim) -> couplet::Result<()> {
    sim.host("server", |reactor| {
        let room = SharedRoom::new(0).attach(reactor);
        reactor.listen("tcp:7777", move || ChatServer::new(&room, None))?;
        Ok(())
    });
    let mut people = Vec::new();
    for n in 0..MEMBERS {
        let person = Person {
            name: format!("member{n}"),
            voices: Rc::default(),
            heard: Rc::default(),
            notes: sim.notes(),
        };
        people.push(person.clone());
        let pause = Duration::from_millis(700 + 300 * u64::from(n));
        sim.host(&person.name.clone(), move |reactor| {
            join(reactor, &person, pause);
            Ok(())
        });
    }
    sim.draw_faults(STORM);
    sim.run_for(STORM + AFTER / 2)?;
    for person in &people {
        person.heard.set(0);
    }
    sim.run_for(AFTER / 2)?;
    match people.iter().find(|person| person.heard.get() == 0) {
        Some(deaf) => {
            let name = &deaf.name;
            sim.fail(format!("{name} hears nothing, though the storm is over for {AFTER:?}"))
        }
        None => Ok(()),
    }
}

fn join(reactor: &Reactor, person: &Person, pause: Duration) {
    let person = person.clone();
    let make = move || {
        person.voices.set(person.voices.get() + 1);
        let (person, voice) = (person.clone(), person.voices.get());
        let member = Member { person, voice, said: 0, last: BTreeMap::new(), pause };
        LineReceiver::new(member).with_delimiter(b"\n")
    };
    let factory = ReconnectingClientFactory::with(|reconnection| {
        move || {
            reconnection.reset_delay();
            make()
        }
    });
    reactor.connect(("server", 7777), factory.max_delay(Duration::from_secs(5))).detach();
}
