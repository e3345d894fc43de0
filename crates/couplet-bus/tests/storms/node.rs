//! A node: a process that publishes numbered messages to a room, receives those of all, and prints
//! each event as a line, which survives its death.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use couplet::bus::{Bus, Event, PublishError, Subscription};
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::{Deferred, LoopingCall, Reactor, Reason};

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
    // The harness has begun a line.
    println!();
    couplet::run(|reactor| Process::start(reactor, (engine.bus)(reactor, port, QUEUE), name))
        .expect("it runs");
}

struct Process {
    reactor: Reactor,
    bus: Bus,
    name: String,
    /// The number of the last message, accepted or not.
    last: Cell<u64>,
    publishing: RefCell<Option<LoopingCall>>,
    _subscription: Subscription,
}

impl Process {
    fn start(reactor: &Reactor, bus: Bus, name: &str) -> couplet::Result<()> {
        let subscription = bus.subscribe("room", |message| {
            println!("got {}", String::from_utf8_lossy(message.payload()));
        })?;
        let process = Rc::new(Process {
            reactor: reactor.clone(),
            bus: bus.clone(),
            name: name.to_owned(),
            last: Cell::new(0),
            publishing: RefCell::default(),
            _subscription: subscription,
        });
        let weak = Rc::downgrade(&process);
        bus.on_event(move |event| {
            weak.upgrade().iter().for_each(|process| process.changed(event));
        });
        let publishing = process.clone();
        let call = LoopingCall::new(reactor, move || publishing.publish());
        call.start(EVERY).detach();
        process.publishing.replace(Some(call));
        process.confirm_again();
        let commands = move || LineReceiver::new(Commands(process.clone())).with_delimiter(b"\n");
        reactor.connect("fd:0", commands).detach();
        Ok(())
    }

    fn changed(&self, event: &Event) {
        match event {
            Event::Connected { .. } => println!("{}", Line::Back),
            Event::Disconnected { unconfirmed, .. } => {
                println!("{}", Line::Away { unconfirmed: *unconfirmed, last: self.last.get() });
            }
            // Each refusal is printed where it happens.
            Event::AttemptFailed { .. } | Event::Lost { .. } => {}
            event => println!("{event:?}"),
        }
    }

    fn publish(&self) {
        self.last.set(self.last.get() + 1);
        let text = format!("{} {}", self.name, self.last.get());
        match self.bus.publish("room", text) {
            Ok(()) => {}
            Err(PublishError::Full) => println!("{}", Line::Refused(self.last.get())),
            Err(error) => panic!("{error}"),
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

    /// Flushes until it succeeds.
    fn flushed(self: &Rc<Self>) -> Deferred<()> {
        let bus = self.bus.clone();
        self.reactor.spawn(async move {
            while bus.flush().await.is_err() {}
            Ok(())
        })
    }

    fn obey(self: &Rc<Self>, command: &[u8]) {
        let process = self.clone();
        let stopping = self.publishing.borrow_mut().take_if(|_| command != b"ready");
        if let Some(publishing) = stopping {
            publishing.stop();
        }
        let done = match command {
            b"ready" => self.flushed().map(|()| println!("{}", Line::Ready)),
            b"finish" => self.flushed().map(move |()| {
                println!("{}", Line::Finished(process.last.get()));
            }),
            b"report" => self.flushed().map(move |()| {
                let counts = process.bus.counts();
                println!("{}", Line::Report { lost: counts.lost, unconfirmed: counts.unconfirmed });
            }),
            b"drain" => self.bus.drain().map(move |()| {
                println!("{}", Line::Finished(process.last.get()));
                process.reactor.stop();
            }),
            command => panic!("{:?}", String::from_utf8_lossy(command)),
        };
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
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    pub(crate) story: Story,
}

impl Node {
    pub(crate) fn start(engine: &Engine, port: u16, name: &str) -> Node {
        let mut command = again("node::node", format!("{} {port} {name}", engine.name));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let commands = child.stdin.take().expect("a pipe");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let all = said.lines().map_while(Result::ok);
            all.for_each(|said| drop(line.send(said)));
        });
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
        self.ended()
    }

    /// Its story after its end.
    pub(crate) fn ended(mut self) -> Story {
        self.child.wait().expect("it is ours");
        let rest: Vec<Line> = self.lines.iter().filter_map(|said| Line::parse(&said)).collect();
        self.story.lines.extend(rest);
        std::mem::replace(&mut self.story, Story::of(""))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
