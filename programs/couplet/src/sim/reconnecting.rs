//! Reconnecting clients in a storm: afterwards all are connected again within the promised time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport, ReconnectingClientFactory};
use couplet::sim::Sim;
use couplet::transport::Timeout;

const CLIENTS: u32 = 8;
const STORM: Duration = Duration::from_secs(120);
const MAX_DELAY: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(15);
/// A dead connection is noticed by its silence; a pending connect takes at most 30 s. After them,
/// the longest delay, a successful connect (with a name lookup and slow first packets), and a ping
/// with its answer.
const PROMISED: Duration = Duration::from_secs(15 + 30 + 10 + 10 + 10);

/// Answers each ping.
struct Pong;

impl LineProtocol for Pong {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_timeout(Timeout::Idle, Some(SILENCE));
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        transport.send_line(line);
    }
}

/// Sends pings and counts the answers.
struct Ping {
    answers: Rc<Cell<u64>>,
}

impl Ping {
    fn ping(&mut self, transport: &couplet::Transport) {
        transport.write("ping\r\n");
        transport.connection::<Ping>().call_later(PING, Ping::ping);
    }
}

impl LineProtocol for Ping {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_timeout(Timeout::Idle, Some(SILENCE));
        self.ping(transport);
    }

    fn line_received(&mut self, _: &LineTransport, _: &[u8]) {
        self.answers.set(self.answers.get() + 1);
    }
}

pub(super) fn run(sim: &mut Sim) -> couplet::Result<()> {
    sim.host("server", |reactor| {
        reactor.listen("tcp:5000", || LineReceiver::new(Pong))?;
        Ok(())
    });
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let answers: Rc<Cell<u64>> = Rc::default();
        clients.push((format!("client{n}"), answers.clone()));
        sim.host(&format!("client{n}"), move |reactor| {
            let answers = answers.clone();
            let factory = ReconnectingClientFactory::with(|reconnection| {
                move || {
                    reconnection.reset_delay();
                    LineReceiver::new(Ping { answers: answers.clone() })
                }
            });
            reactor.connect(("server", 5000), factory.max_delay(MAX_DELAY)).detach();
            Ok(())
        });
    }
    sim.draw_faults(STORM);
    sim.run_for(STORM)?;
    for (_, answers) in &clients {
        answers.set(0);
    }
    sim.run_for(PROMISED)?;
    match clients.iter().find(|(_, answers)| answers.get() == 0) {
        Some((name, _)) => {
            sim.fail(format!("{name} is not back {PROMISED:?} after the storm is over"))
        }
        None => Ok(()),
    }
}
