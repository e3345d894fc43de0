//! Captures of a simulated network, read by Wireshark: TCP, HTTP in both versions, WebSockets, and
//! the content of TLS, decrypted with the logged keys.

use std::cell::RefCell;
use std::io::{self, Write};
use std::process::Command;
use std::rc::Rc;

use couplet::Reactor;
use couplet::sim::{Fault, Sim, Trial, Weather};

use crate::determined::{secs, town};
use crate::needed::Folder;

/// A file in memory.
#[derive(Clone, Default)]
struct Kept(Rc<RefCell<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The packets and the keys of a world.
fn captured(world: impl Fn(&mut Sim) -> couplet::Result<()>) -> (Vec<u8>, Vec<u8>) {
    let (packets, keys) = (Kept::default(), Kept::default());
    let report = Trial::new(1, Weather::Calm).run(&|sim| {
        sim.capture(packets.clone())?;
        sim.log_keys(keys.clone());
        world(sim)
    });
    assert_eq!(report.failure, None);
    (packets.0.take(), keys.0.take())
}

/// A folder with the files of a world.
struct Files(Folder);

impl Files {
    fn of((packets, keys): (Vec<u8>, Vec<u8>)) -> Files {
        let folder = Folder::new();
        folder.write("pcap", packets);
        folder.write("keys", keys);
        Files(folder)
    }

    /// The values of a field in the packets that match a Wireshark filter.
    fn shown(&self, filter: &str, field: &str) -> Vec<String> {
        let output = Command::new("tshark")
            .args(["-n", "-r", &self.0.path("pcap")])
            .args(["-o", &format!("tls.keylog_file:{}", self.0.path("keys"))])
            .args(["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"])
            .args(["-Y", filter, "-T", "fields", "-e", field])
            .env("HOME", &*self.0)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

#[test]
fn wireshark_reads_each_protocol_and_what_tls_carries() {
    needs!("tshark");
    let files = Files::of(captured(town));
    let plain = files.shown("http.request && !http.upgrade", "http.request.uri");
    assert_eq!(plain.iter().filter(|uri| *uri == "/buy/7").count(), 1, "{plain:?}");
    let secure = files.shown("http2.headers.path && tcp.dstport == 443", "http2.headers.path");
    let secure: Vec<&str> = secure.iter().flat_map(|line| line.split(',')).collect();
    assert_eq!(secure.iter().filter(|path| **path == "/buy/7").count(), 1, "{secure:?}");
    #[cfg(feature = "websocket")]
    {
        let said = files.shown("websocket && tcp.dstport == 80", "websocket.payload.text");
        assert!(said.iter().any(|text| text == "message 3"), "{said:?}");
    }
    for wrong in ["tcp.analysis.flags", "tcp.checksum.status == 0", "ip.checksum.status == 0"] {
        let filter = format!("{wrong} && !tcp.analysis.duplicate_ack && !tcp.analysis.keep_alive");
        assert_eq!(files.shown(&filter, "frame.number"), [""; 0], "{wrong}");
    }
}

#[test]
fn a_refused_connect_and_a_reset_are_shown() {
    needs!("tshark");
    let files = Files::of(captured(|sim| {
        let server = sim.host("server", |reactor: &Reactor| {
            reactor.serve("tcp:80", async |mut stream: couplet::Stream| {
                stream.write_all("hello").await?;
                stream.read(&mut [0; 100]).await?;
                Ok(())
            })?;
            Ok(())
        });
        sim.host("client", |reactor: &Reactor| {
            let inner = reactor.clone();
            let tries = async move {
                assert!(inner.connect_stream("tcp:server:81").await.is_err());
                let mut stream = inner.connect_stream("tcp:server:80").await?;
                while stream.read(&mut [0; 100]).await.is_ok_and(|n| n > 0) {}
                Ok(())
            };
            reactor.spawn(tries).detach();
            Ok(())
        });
        sim.fault(secs(1), secs(0), Fault::Reset(server, 1));
        sim.run_for(secs(2))
    }));
    let resets = files.shown("tcp.flags.reset == 1", "tcp.srcport");
    // A host has two addresses, which both refuse. The injected fault shows as one reset at each
    // end.
    assert!(resets.len() == 4 && resets[..3] == ["81", "81", "80"], "{resets:?}");
    let opened = files.shown("tcp.flags.syn == 1", "tcp.flags.ack");
    assert_eq!(opened, ["0", "0", "0", "1"]);
    assert_eq!(files.shown("tcp.len > 0", "tcp.len"), ["5"]);
}
