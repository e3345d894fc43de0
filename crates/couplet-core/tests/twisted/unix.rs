//! A UNIX socket, with a descriptor passed in each direction.

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::OwnedFd;

use couplet::{By, Protocol, ProtocolExtension, Reason, Transport};

use crate::meeting::{End, Listener, Over, in_both_directions, meet_over};
use crate::needed::Folder;

/// Writes to the descriptor that it receives, then passes the write end of a pipe.
struct Passing {
    ours: Option<OwnedFd>,
    passed: usize,
    text: Vec<u8>,
    end: End,
}

impl Protocol for Passing {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        assert_eq!(self.passed, 1, "it comes first");
        self.text.extend_from_slice(data);
        if self.text != b"yours" {
            // Twisted sends one byte with a descriptor, and the others after it.
            return;
        }
        let ours = self.ours.take().expect("there is one");
        transport.send_descriptor(ours).expect("a UNIX socket");
        transport.write("mine");
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Passing {
    fn descriptor_received(&mut self, _: &Transport, descriptor: OwnedFd) {
        self.passed += 1;
        File::from(descriptor).write_all(b"from Couplet").expect("a pipe");
    }
}

#[test]
fn c162_descriptors_are_passed_to_twisted_and_from_it() {
    in_both_directions(|at: Listener| {
        let folder = Folder::new();
        let path = folder.path("socket");
        let (mut reader, writer): (PipeReader, _) = std::io::pipe().expect("a pipe");
        let ours = Some(OwnedFd::from(writer));
        let met = meet_over(at, &Over::Unix(&path), "descriptors", |_, end| Passing {
            ours,
            passed: 0,
            text: Vec::new(),
            end,
        });
        assert!(matches!(met.reason, Reason::Done(By::Peer)), "{at:?} listens: {}", met.reason);
        let said = ["passed 1 with mine", "read from Couplet", "lost ConnectionDone"];
        assert_eq!(met.said, said, "{at:?} listens");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("every copy is closed");
        assert_eq!(text, "from Twisted");
        assert_eq!(folder.names(), [""; 0], "whoever listened has removed it");
    });
}
