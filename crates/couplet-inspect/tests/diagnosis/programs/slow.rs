//! Makes thumbnails. The fault: it does so in `data_received`, and no other client gets a turn.

use std::net::SocketAddr;
use std::process::Command;

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

/// Waits for another program, in place of a real one that shrinks images.
fn shrink(image: &[u8]) -> Vec<u8> {
    let ended = Command::new("sleep").arg("0.4").status();
    assert!(ended.is_ok_and(|status| status.success()), "cannot shrink an image");
    image.iter().copied().step_by(16).collect()
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    Ok(super::address(&reactor.listen(super::FREE, move || Thumbnails(version))?))
}
