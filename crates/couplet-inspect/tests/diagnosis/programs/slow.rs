//! Makes thumbnails. The fault: it does so in `data_received`, and no other client gets a turn.

use std::net::SocketAddr;
use std::time::Duration;

use couplet::{Protocol, Reactor, Result, Transport};

use super::Version;

struct Thumbnails(Version);

impl Protocol for Thumbnails {
    fn data_received(&mut self, transport: &Transport, image: &[u8]) {
        match self.0 {
            Version::Faulty => transport.write(shrink(image)),
            Version::Mended => {
                let (client, image) = (transport.clone(), image.to_vec());
                let shrunk = transport.reactor().defer_to_thread(move || Ok(shrink(&image)));
                shrunk.map(move |thumbnail| client.write(thumbnail)).detach();
            }
        }
    }
}

/// A library that is not ours, and takes 400 ms.
#[expect(clippy::disallowed_methods, reason = "the fault")]
fn shrink(image: &[u8]) -> Vec<u8> {
    std::thread::sleep(Duration::from_millis(400));
    image.iter().copied().step_by(16).collect()
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    Ok(super::address(&reactor.listen(super::FREE, move || Thumbnails(version))?))
}
