//! Part 5, an exercise: which methods are called around `connection_lost`, and in which order? The
//! protocol and the factory print each call. (`cargo run --example trace` shows the callers.)
//!
//! `cargo run --example exercises -- sequence 127.0.0.1:10000`

use std::net::SocketAddr;

use couplet::{Address, Connector, Factory, Protocol, Reason, Transport};

#[derive(Default)]
struct Witness {
    bytes: usize,
}

impl Protocol for Witness {
    fn connection_made(&mut self, _: &Transport) {
        println!("protocol: connection_made");
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        if self.bytes == 0 {
            println!("protocol: data_received");
        }
        self.bytes += data.len();
    }

    fn read_closed(&mut self, transport: &Transport) {
        println!("protocol: read_closed, after {} bytes", self.bytes);
        transport.lose_connection();
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        println!("protocol: connection_lost, {reason}");
    }
}

struct WitnessFactory;

impl Factory for WitnessFactory {
    type Protocol = Witness;

    fn do_start(&mut self) {
        println!("factory: do_start");
    }

    fn started_connecting(&mut self, _: &Connector) {
        println!("factory: started_connecting");
    }

    fn build_protocol(&mut self, _: &Address) -> Option<Witness> {
        println!("factory: build_protocol");
        Some(Witness::default())
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        println!("factory: client_connection_failed, {reason}");
        connector.reactor().stop();
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        println!("factory: client_connection_lost, {reason}");
        connector.reactor().stop();
    }

    fn do_stop(&mut self) {
        println!("factory: do_stop");
    }
}

pub(crate) fn main(server: SocketAddr) -> couplet::Result<()> {
    couplet::run(|reactor| {
        reactor.connect(server, WitnessFactory).detach();
        Ok(())
    })
}
