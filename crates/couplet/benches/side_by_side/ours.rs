//! Couplet as an echo server: the library's public API alone, as a user would write it.
//!
//! Everything of this benchmark that names the library is in this file.

use std::fmt::Display;
use std::time::Duration;

use couplet::{Protocol, Transport};

struct Echo {
    close_first: bool,
}

impl Protocol for Echo {
    fn connection_made(&mut self, transport: &Transport) {
        // As a server on the open net would: what it costs belongs to the figures.
        transport.set_idle_timeout(Some(Duration::from_secs(180)));
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
        if self.close_first {
            transport.lose_connection();
        }
    }
}

/// Serves until the process ends; `ready` is told the address once it listens.
pub(crate) fn serve(close_first: bool, ready: impl FnOnce(&dyn Display)) -> couplet::Result<()> {
    couplet::run(|reactor| {
        let any = "127.0.0.1:0".parse().expect("a literal address");
        let port = reactor.listen_tcp(any, move || Echo { close_first })?;
        ready(&port.host());
        Ok(())
    })
}
