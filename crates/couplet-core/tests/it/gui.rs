//! A loop inside the main loop of a user interface, which draws 60 frames a second and serves 1000
//! connections: neither delays the other.

use std::cell::Cell;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use couplet::{Address, ListenOptions, Loop, Protocol, Reactor, Reason, Result, Transport};

use crate::apart::allow_descriptors;
use crate::suite::kit::LOOPBACK;
use crate::suite::outer::is_readable;

const CONNECTIONS: usize = 1000;
/// Frames that are drawn while all connections are busy.
const FRAMES: usize = 30;
const FRAME: Duration = Duration::from_micros(16_667);
/// Maximum turns between two frames: a turn with work takes at least 1 µs.
const MOST_TURNS: u128 = FRAME.as_micros();

/// State shared by the window and its connections.
#[derive(Default)]
struct Window {
    connected: std::cell::RefCell<Vec<Transport>>,
    /// Bytes echoed.
    echoed: Cell<usize>,
    /// Answers to the bytes of frames.
    answered: Cell<usize>,
    lost: Cell<usize>,
    /// Calls of `data_received` in this turn.
    delivered: Cell<usize>,
}

/// Echoes pings, and counts answers.
struct Served(Rc<Window>);

fn add(cell: &Cell<usize>, n: usize) {
    cell.set(cell.get() + n);
}

/// Counts `byte` in `data`.
fn count(data: &[u8], byte: u8) -> usize {
    data.iter().filter(|&&other| other == byte).count()
}

impl Protocol for Served {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.connected.borrow_mut().push(transport.clone());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        add(&self.0.delivered, 1);
        let pings = count(data, b'p');
        add(&self.0.echoed, pings);
        add(&self.0.answered, data.len() - pings);
        transport.write(vec![b'p'; pings]);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        assert!(reason.is_clean(), "{reason:?}");
        add(&self.0.lost, 1);
    }
}

/// Pings sent by the clients, and echoes received.
#[derive(Default)]
struct Pings {
    sent: Cell<usize>,
    echoed: Cell<usize>,
    /// Clients still connected.
    open: Cell<usize>,
}

/// Pings until it has received a byte of each frame; answers each such byte.
struct Client {
    pings: Rc<Pings>,
    frames: usize,
}

impl Client {
    fn ping(&self, transport: &Transport) {
        add(&self.pings.sent, 1);
        transport.write("p");
    }
}

impl Protocol for Client {
    fn connection_made(&mut self, transport: &Transport) {
        self.ping(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let echoes = count(data, b'p');
        self.frames += data.len() - echoes;
        transport.write(vec![b'f'; data.len() - echoes]);
        add(&self.pings.echoed, echoes);
        if echoes > 0 {
            match self.frames {
                FRAMES => transport.lose_connection(),
                _ => self.ping(transport),
            }
        }
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        assert!(reason.is_clean(), "{reason:?}");
        self.pings.open.set(self.pings.open.get() - 1);
        if self.pings.open.get() == 0 {
            transport.reactor().stop();
        }
    }
}

/// Runs the clients in another loop; returns the number of pings sent and of echoes received.
fn clients(to: Address) -> JoinHandle<Result<(usize, usize)>> {
    std::thread::spawn(move || {
        let pings = Rc::new(Pings { open: Cell::new(CONNECTIONS), ..Pings::default() });
        let shared = pings.clone();
        Loop::new()?.run(move |reactor: &Reactor| {
            for _ in 0..CONNECTIONS {
                let pings = shared.clone();
                let factory = move || Client { pings: pings.clone(), frames: 0 };
                reactor.connect(to.to_string(), factory).detach();
            }
            Ok(())
        })?;
        Ok((pings.sent.get(), pings.echoed.get()))
    })
}

/// The user interface: draws due frames, turns the loop when it has work, and sleeps otherwise.
struct Gui {
    window: Rc<Window>,
    next_frame: Instant,
    /// Frames drawn while all clients were connected.
    drawn: usize,
    turns: u128,
}

impl Gui {
    /// Handles one event; false when the run has ended.
    #[expect(clippy::disallowed_methods, reason = "the outer loop has its own clock")]
    fn step(&mut self, l: &mut Loop) -> bool {
        let now = Instant::now();
        if self.next_frame <= now {
            self.next_frame = now + FRAME;
            self.draw();
        }
        let until = l.next_turn().map_or(self.next_frame, |due| due.min(self.next_frame));
        let is_ready = is_readable(l, until.saturating_duration_since(now));
        if !is_ready && until == self.next_frame {
            return true;
        }
        self.turns += 1;
        self.window.delivered.set(0);
        let goes_on = l.turn(Some(Duration::ZERO)).expect("a turn");
        let delivered = self.window.delivered.get();
        assert!(delivered <= CONNECTIONS, "a turn with {delivered} reads delays the next frame");
        goes_on
    }

    /// Draws a frame, which sends a byte to each connection, outside of a turn.
    fn draw(&mut self) {
        let turns = std::mem::take(&mut self.turns);
        assert!(turns <= MOST_TURNS, "{turns} turns between two frames");
        let connected = self.window.connected.borrow();
        if connected.len() == CONNECTIONS && self.drawn < FRAMES {
            self.drawn += 1;
            connected.iter().for_each(|transport| transport.write("f"));
        }
    }
}

#[test]
fn a_user_interface_draws_60_frames_a_second_and_serves_1000_connections() {
    if !allow_descriptors(4096) {
        return;
    }
    let window = Rc::new(Window::default());
    let mut l = Loop::new().expect("a loop");
    let mut serving = None;
    l.begin(|reactor| {
        let window = window.clone();
        let options = ListenOptions::default().backlog(CONNECTIONS as u32);
        let factory = move || Served(window.clone());
        serving = Some(reactor.listen((LOOPBACK, options), factory)?);
        Ok(())
    })
    .expect("it begins");
    let clients = clients(serving.expect("it listens").host());
    let next_frame = l.reactor().now();
    let mut gui = Gui { window: window.clone(), next_frame, drawn: 0, turns: 0 };
    while gui.step(&mut l) {
        if window.lost.get() == CONNECTIONS {
            l.reactor().stop();
        }
    }
    l.end().expect("nothing is left to end");
    let (sent, echoed) = clients.join().expect("no panic").expect("its run ends");
    assert_eq!((sent, echoed), (window.echoed.get(), window.echoed.get()), "every echo arrives");
    assert!(sent > 2 * CONNECTIONS, "the connections were busy: {sent} pings");
    assert_eq!((gui.drawn, window.answered.get()), (FRAMES, FRAMES * CONNECTIONS));
}
