//! PROXY headers: a stream gives the same result for any cut, no byte after a header is lost or
//! added, and a parsed header can be written and parsed with the same meaning.
//!
//! The input is the stream.

use std::ops::ControlFlow::Continue;
use std::rc::Rc;

use couplet::layers::{Layers, ProxyHeader, ProxyReader, ProxyVersion, ProxyWriter, Up};
use couplet_core::driver::{Outbox, Spares};

use crate::now;

pub(crate) const WORDS: &[&str] = &[
    "PROXY ",
    "TCP4 ",
    "TCP6 ",
    "UNKNOWN",
    "1.2.3.4 ",
    "::1 ",
    "80",
    "65535",
    "\r\n",
    "\r\n\r\n\0\r\nQUIT\n",
    "\x21\x11\0\x0c",
    "\x21\x21\0\x24",
    "\x20\0\0\0",
    "\x01\0\x02h2",
    "\x20\0\x05\x01\0\0\0\0",
];

/// The outcome of reading a stream.
#[derive(Debug, Default, PartialEq)]
struct Read {
    header: Option<ProxyHeader>,
    data: Vec<u8>,
    failed: Option<String>,
}

/// Tries one input.
///
/// # Panics
///
/// If one of these properties is violated.
pub fn proxy(stream: &[u8]) {
    let whole = read(stream, usize::MAX);
    for piece in [1, 7, 16] {
        assert_eq!(read(stream, piece), whole, "in pieces of {piece}");
    }
    assert!(stream.ends_with(&whole.data));
    let Some(header) = whole.header else { return };
    assert!(stream.len() - whole.data.len() <= 4096, "a header beyond the limit");
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        if let Ok(writer) = ProxyWriter::new(&header, version) {
            let again = read(&written(writer), usize::MAX);
            assert_eq!(again.header.as_ref(), Some(&header), "{version:?}");
        }
    }
}

fn read(stream: &[u8], piece: usize) -> Read {
    let mut layers = Layers::new(ProxyReader::new(now()), &Rc::new(Spares::default()));
    let mut read = Read::default();
    for piece in stream.chunks(piece) {
        let flow = layers.feed(piece, now(), |up| {
            match up {
                Up::Data(data) => read.data.extend_from_slice(data),
                Up::Failed(reason) => read.failed = Some(reason.to_string()),
                Up::Open(_) => {}
                Up::Nothing | Up::Last(_) | Up::Closed => panic!("{up:?}"),
            }
            Continue(())
        });
        assert!(flow.is_continue());
    }
    read.header = layers.opened().find::<ProxyHeader>().map(|header| (*header).clone());
    assert!(read.header.is_none() || read.failed.is_none());
    read
}

fn written(writer: ProxyWriter) -> Vec<u8> {
    let mut layers = Layers::new(writer, &Rc::new(Spares::default()));
    layers.down(&mut Outbox::new(Rc::default()), now());
    layers.bottom().first().to_vec()
}
