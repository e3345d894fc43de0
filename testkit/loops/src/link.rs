//! A link that can be cut: a forwarder between a node and its server, in another thread.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use couplet::protocols::Relay;
use couplet::{Loop, LoopOptions, Remote};

pub struct Link {
    /// The port to which the node connects.
    pub port: u16,
    server: u16,
    /// The forwarder, unless the link is cut.
    running: Option<(Remote, JoinHandle<()>)>,
}

impl Link {
    /// A link to a server's port.
    pub fn to(server: u16) -> Link {
        let mut link = Link { port: 0, server, running: None };
        link.heal();
        link
    }

    /// Ends its connections, and refuses others.
    pub fn cut(&mut self) {
        if let Some((remote, forwarder)) = self.running.take() {
            remote.call(|reactor| reactor.stop()).expect("it runs");
            forwarder.join().expect("it ends");
        }
    }

    /// Lets connections through again.
    pub fn heal(&mut self) {
        if self.running.is_some() {
            return;
        }
        let (port, server) = (self.port, self.server);
        let (begun, beginning) = mpsc::channel();
        let forwarder = thread::spawn(move || {
            // Bytes on their way are lost, as on a link.
            let options = LoopOptions::default().signals(false).shutdown_grace(Duration::ZERO);
            let mut l = Loop::with_options(options).expect("a loop");
            let forward = |reactor: &couplet::Reactor| {
                let (connecting, server) = (reactor.clone(), format!("tcp:127.0.0.1:{server}"));
                let at = format!("tcp:{port}:interface=127.0.0.1");
                let port = reactor.listen(at, move || {
                    let (near, far) = Relay::pair();
                    // A failure ends the other side.
                    let connecting = connecting.connect_protocol(&server, far);
                    connecting.map(drop).add_errback(|_refused| Ok(())).detach();
                    near
                })?;
                let port = port.host().port().expect("a TCP port");
                begun.send((port, reactor.remote())).expect("it is awaited");
                Ok(())
            };
            l.run(forward).expect("it listens");
        });
        let (port, remote) = beginning.recv().expect("it begins");
        (self.port, self.running) = (port, Some((remote, forwarder)));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
    }
}
