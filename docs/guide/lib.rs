//! Compiles the chapters of the guide, runs their examples, and has the code that several of them
//! share. An example imports it in hidden lines.

pub mod poems;

use couplet::protocols::{LineProtocol, LineTransport};
use couplet::{Protocol, Transport};

/// Sends back each byte.
#[derive(Debug)]
pub struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Discards its input.
#[derive(Debug)]
pub struct Silent;

impl Protocol for Silent {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Greets each name, as in the first chapter.
#[derive(Debug)]
pub struct Greeter;

impl LineProtocol for Greeter {
    fn line_received(&mut self, transport: &LineTransport, name: &[u8]) {
        transport.send_line(format!("hello, {}", String::from_utf8_lossy(name)));
    }
}

/// Answers each number with the sum so far, as in the chapter about tests.
#[derive(Debug, Default)]
pub struct Sum(u64);

impl LineProtocol for Sum {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        match String::from_utf8_lossy(line).parse::<u64>() {
            Ok(n) => self.0 += n,
            Err(error) => return transport.fail(error),
        }
        transport.send_line(self.0.to_string());
    }
}

/// A module for each chapter, whose examples are the chapter's.
#[cfg(doctest)]
macro_rules! chapters {
    ($($name:ident = $file:literal)*) => {
        $(#[doc = include_str!($file)] mod $name {})*
    };
}

#[cfg(doctest)]
mod chapters {
    chapters! {
        back_pressure = "back-pressure.md"
        callbacks_to_async = "callbacks-to-async.md"
        cancellation = "cancellation.md"
        coming_from_tokio = "coming-from-tokio.md"
        coming_from_twisted = "coming-from-twisted.md"
        datagrams = "datagrams.md"
        deferreds = "deferreds.md"
        endpoints = "endpoints.md"
        first_steps = "first-steps.md"
        framing = "framing.md"
        half_close = "half-close.md"
        layers = "layers.md"
        many_cores = "many-cores.md"
        shared_state = "shared-state.md"
        simulator = "simulator.md"
        stopping = "stopping.md"
        services = "services.md"
        production = "production.md"
        log = "log.md"
        testing = "testing.md"
        threads = "threads.md"
        time = "time.md"
        tls = "tls.md"
    }
}

#[cfg(all(doctest, unix))]
mod unix {
    chapters! {
        embedding = "embedding.md"
        processes = "processes.md"
    }
}

#[cfg(all(doctest, unix, feature = "full"))]
mod full {
    chapters! {
        beside_tokio = "beside-tokio.md"
        databases = "databases.md"
        http = "http.md"
        storm = "storm.md"
        inspector = "inspector.md"
        many_machines = "many-machines.md"
        rooms = "rooms.md"
        websocket = "websocket.md"
    }
}
