//! A node: a process that publishes numbered messages to a room, or appends them to its log, and
//! receives the messages of all nodes. Each event is printed as a line, which survives a kill.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::process::{ChildStdin, Stdio};
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use couplet::bus::{
    Bus, Counts, Entry, Event, Following, Log, LogError, LogLimits, Message, Position,
    PublishError, Start, Subscription,
};
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::{LoopingCall, Reactor, Reason};
use couplet_testkit::processes::{Killed, lines};

use crate::apart::{again, told};
use crate::engines::Engine;
use crate::ledger::{Line, Story};

/// The bytes that a node queues without a connection: about 150 messages.
const QUEUE: usize = 4096;
const EVERY: Duration = Duration::from_millis(2);
const CONFIRM: Duration = Duration::from_millis(40);

/// In the process of a node.
#[test]
fn node() {
    let Some(told) = told() else { return };
    let mut words = told.split(' ');
    let mut word = || words.next().expect("an engine, a port and a name");
    let (engine, port, name) = (Engine::named(word()), word().parse().expect("a port"), word());
    let after = words.next().map(|after| after.parse().expect("a position"));
    // The harness has begun a line.
    println!();
    let start = |reactor: &Reactor| {
        let bus = (engine.bus)(reactor, port, QUEUE);
        let room = if engine.is_log { Room::log(&bus, after)? } else { Room::bus(&bus)? };
        Process::start(reactor, bus, room, name);
        Ok(())
    };
    couplet::run(start).expect("it runs");
}

/// The destination and source of messages.
enum Room {
    Bus {
        _subscription: Subscription,
    },
    Log {
        log: Log,
        /// The last position that was received.
        last: Rc<Cell<Option<Position>>>,
        _following: Following,
    },
}

impl Room {
    fn bus(bus: &Bus) -> couplet::Result<Room> {
        let subscription = bus.subscribe("room", |message| {
            println!("got {}", String::from_utf8_lossy(message.payload()));
        });
        Ok(Room::Bus { _subscription: subscription? })
    }

    /// Reads a log from the beginning, or after a position.
    fn log(bus: &Bus, after: Option<Position>) -> couplet::Result<Room> {
        let limits = LogLimits { patience: Duration::from_secs(60), ..LogLimits::default() };
        let (log, last) = (bus.log("room", limits)?, Rc::new(Cell::new(after)));
        let receiving = last.clone();
        let following =
            log.follow(after.map_or(Start::Oldest, Start::After), move |entry| match entry {
                Entry::Message { position, payload, .. } => {
                    receiving.set(Some(position));
                    println!("entry {position} {}", String::from_utf8_lossy(&payload));
                }
                other => println!("{}", Line::Broken(format!("{other:?}"))),
            });
        Ok(Room::Log { log, last, _following: following })
    }
}

struct Process {
    reactor: Reactor,
    bus: Bus,
    name: String,
    room: Room,
    /// The number of the last message, accepted or not.
    last: Cell<u64>,
    publishing: RefCell<Option<LoopingCall>>,
}

impl Process {
    fn start(reactor: &Reactor, bus: Bus, room: Room, name: &str) {
        let process = Rc::new(Process {
            reactor: reactor.clone(),
            bus: bus.clone(),
            name: name.to_owned(),
            room,
            last: Cell::new(0),
            publishing: RefCell::default(),
        });
        let weak = Rc::downgrade(&process);
        bus.on_event(move |event| {
            weak.upgrade().iter().for_each(|process| process.changed(event));
        });
        let publishing = process.clone();
        let call = LoopingCall::new(reactor, move || publishing.publish());
        call.start(EVERY).detach();
        process.publishing.replace(Some(call));
        if let Room::Bus { .. } = process.room {
            process.confirm_again();
        }
        let commands = move || LineReceiver::new(Commands(process.clone())).with_delimiter(b"\n");
        reactor.connect("fd:0", commands).detach();
    }

    fn changed(&self, event: &Event) {
        match event {
            Event::Connected { .. } => println!("{}", Line::Back),
            Event::Disconnected { unconfirmed, .. } => {
                println!("{}", Line::Away { unconfirmed: *unconfirmed, last: self.last.get() });
            }
            Event::Missed { messages, .. } => println!("{}", Line::Missed(*messages)),
            // Each refusal is printed where it happens.
            Event::AttemptFailed { .. } | Event::Lost { .. } => {}
            event => println!("{event:?}"),
        }
    }

    fn publish(&self) {
        let number = self.last.get() + 1;
        self.last.set(number);
        let text = format!("{} {number}", self.name);
        match &self.room {
            Room::Bus { .. } => {
                match self.bus.publish_message(&Message::new("room", text).numbered()) {
                    Ok(()) => {}
                    Err(PublishError::Full) => println!("{}", Line::Refused(number)),
                    Err(error) => panic!("{error}"),
                }
            }
            Room::Log { log, .. } => {
                let stored = log.append(text).add_both(move |stored| {
                    let line = match stored {
                        Ok(position) => Line::Stored { number, position },
                        Err(error) if matches!(error.downcast_ref(), Some(LogError::Full)) => {
                            Line::Refused(number)
                        }
                        Err(error) => Line::Broken(error.to_string()),
                    };
                    println!("{line}");
                    Ok(())
                });
                stored.detach();
            }
        }
    }

    /// Prints the confirmed messages again and again.
    fn confirm_again(self: &Rc<Self>) {
        let (last, process) = (self.last.get(), self.clone());
        let confirmed = self.bus.flush().add_both(move |confirmed| {
            if confirmed.is_ok() {
                println!("{}", Line::Confirmed(last));
            }
            let reactor = process.reactor.clone();
            reactor.call_later(CONFIRM, move || process.confirm_again());
            Ok(())
        });
        confirmed.detach();
    }

    /// Flushes until it succeeds, and waits until a log has all appends of this node.
    async fn flushed(self: Rc<Self>) -> couplet::Result<()> {
        while self.bus.flush().await.is_err() {}
        if let Room::Log { log, .. } = &self.room {
            while log.unconfirmed() > 0 {
                self.reactor.sleep(EVERY).await?;
            }
        }
        Ok(())
    }

    /// Waits until everything was received that was published before by anyone.
    async fn received(self: Rc<Self>) -> couplet::Result<()> {
        self.clone().flushed().await?;
        if let Room::Log { log, last, .. } = &self.room {
            let page = log.last(1).await?;
            while last.get().is_none_or(|last| last.number() < page.last.number()) {
                self.reactor.sleep(EVERY).await?;
            }
        }
        Ok(())
    }

    fn obey(self: &Rc<Self>, command: &[u8]) {
        let process = self.clone();
        let stopping = self.publishing.borrow_mut().take_if(|_| command != b"ready");
        if let Some(publishing) = stopping {
            publishing.stop();
        }
        let done = self.reactor.spawn({
            let command = command.to_vec();
            async move {
                match &*command {
                    b"ready" => {
                        while process.bus.flush().await.is_err() {}
                        println!("{}", Line::Ready);
                    }
                    b"finish" => {
                        process.clone().flushed().await?;
                        println!("{}", Line::Finished(process.last.get()));
                    }
                    b"report" => {
                        process.clone().received().await?;
                        let Counts { lost, unconfirmed, missed, .. } = process.bus.counts();
                        println!("{}", Line::Report { lost, unconfirmed, missed });
                    }
                    command => panic!("{:?}", String::from_utf8_lossy(command)),
                }
                Ok(())
            }
        });
        done.detach();
    }
}

/// The commands of the parent.
struct Commands(Rc<Process>);

impl LineProtocol for Commands {
    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        self.0.obey(line);
    }

    /// The parent has ended.
    fn connection_lost(&mut self, _: &LineTransport, _: &Reason) {
        std::process::exit(0);
    }
}

/// A node's process, in the parent.
pub(crate) struct Node {
    child: Killed,
    commands: ChildStdin,
    lines: Receiver<String>,
    pub(crate) story: Story,
}

impl Node {
    /// Starts one, which reads a log after this position.
    pub(crate) fn start(engine: &Engine, port: u16, name: &str, after: Option<Position>) -> Node {
        let after = after.map(|after| format!(" {after}")).unwrap_or_default();
        let mut command = again("node::node", format!("{} {port} {name}{after}", engine.name));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Killed::start(&mut command);
        let commands = child.stdin.take().expect("a pipe");
        let lines = lines(child.stdout.take().expect("a pipe"));
        Node { child, commands, lines, story: Story::of(name) }
    }

    /// Reads its lines up to one that is wanted.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Line) -> bool) {
        while let Ok(said) = self.lines.recv() {
            if let Some(line) = Line::parse(&said) {
                let is_wanted = wanted(&line);
                self.story.lines.push(line);
                if is_wanted {
                    return;
                }
            }
        }
        panic!("{} has ended", self.story.name);
    }

    pub(crate) fn command(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("it runs");
    }

    /// Kills it; returns all that it has printed.
    pub(crate) fn kill(mut self) -> Story {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
        let rest: Vec<Line> = self.lines.iter().filter_map(|said| Line::parse(&said)).collect();
        self.story.lines.extend(rest);
        std::mem::replace(&mut self.story, Story::of(""))
    }
}
