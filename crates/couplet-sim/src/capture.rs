//! Packet captures of a world, and the TLS key log that decrypts them.

use std::io::{self, Write};

use couplet_core::layers::Pcap;

use super::kernel::Kernel;
use super::{FIRST_DAY, Sim};

impl Sim {
    /// Writes a capture file in libpcap's format, for Wireshark and tcpdump, of the TCP and UNIX
    /// connections that begin after this call. Each packet carries the time at which it was first
    /// sent; lost packets are included, retransmissions are not. Writes at most 256 MiB, and stops
    /// at the first write error.
    ///
    /// Decrypt TLS traffic in it with [the key log](Self::log_keys).
    ///
    /// # Errors
    ///
    /// If the file header cannot be written.
    pub fn capture(&mut self, write: impl Write + 'static) -> io::Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        let pcap = Pcap::new(write, kernel.started, FIRST_DAY)?;
        kernel.capture = Some(pcap);
        Ok(())
    }

    /// Logs the secrets of subsequent TLS handshakes in the format of `SSLKEYLOGFILE`. Wireshark
    /// decrypts a capture with this file as its "(Pre)-Master-Secret log". Stops at the first write
    /// error.
    pub fn log_keys(&mut self, write: impl Write + 'static) {
        self.kernel.borrow_mut().keys = Some(Box::new(write));
    }
}

impl Kernel {
    /// Writes a secret, if key logging is on.
    pub(super) fn log_key(&mut self, label: &str, client_random: &[u8], secret: &[u8]) {
        let Some(write) = &mut self.keys else { return };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let written = writeln!(write, "{label} {} {}", hex(client_random), hex(secret));
        if let Err(error) = written {
            log_warn!(%error, "cannot write the TLS key log");
            self.keys = None;
        }
    }
}
