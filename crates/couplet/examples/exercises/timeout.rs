//! Part 5, an exercise: a client that waits for its poem for a limited time. `call_later` sets the
//! limit, and `lose_connection` ends the wait with a FIN, which a well-behaved server answers with
//! its own.
//!
//! The call belongs to the connection and ends with it, so it need not be cancelled. (For silent
//! connections there is `Timeout::Idle`, for slow Deferreds `add_timeout`.)
//!
//! `cargo run --example exercises -- timeout 2000 127.0.0.1:10000`

use std::net::SocketAddr;
use std::time::Duration;

use couplet::{Address, Connector, Factory, Protocol, Reason, Transport};

struct Impatient {
    limit: Duration,
    poem: Vec<u8>,
    timed_out: bool,
}

impl Impatient {
    fn give_up(&mut self, transport: &Transport) {
        self.timed_out = true;
        transport.lose_connection();
    }
}

impl Protocol for Impatient {
    fn connection_made(&mut self, transport: &Transport) {
        transport.connection::<Self>().call_later(self.limit, Self::give_up);
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        if self.timed_out {
            println!("after {:?} we had {} bytes: {reason}", self.limit, self.poem.len());
        } else {
            print!("{}", String::from_utf8_lossy(&self.poem));
        }
    }
}

struct ImpatientFactory {
    limit: Duration,
}

impl Factory for ImpatientFactory {
    type Protocol = Impatient;

    fn build_protocol(&mut self, _: &Address) -> Option<Impatient> {
        Some(Impatient { limit: self.limit, poem: Vec::new(), timed_out: false })
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        println!("no connection: {reason}");
        connector.reactor().stop();
    }

    fn client_connection_lost(&mut self, connector: &Connector, _: &Reason) {
        connector.reactor().stop();
    }
}

pub(crate) fn main(milliseconds: u64, server: SocketAddr) -> couplet::Result<()> {
    couplet::run(|reactor| {
        let factory = ImpatientFactory { limit: Duration::from_millis(milliseconds) };
        reactor.connect(server, factory).detach();
        Ok(())
    })
}
