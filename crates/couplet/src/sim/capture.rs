//! The packets of a world as a capture file, and the keys of its TLS connections beside it.

use std::io::{self, Write};

use super::kernel::Kernel;
use super::{FIRST_DAY, Sim};
use crate::layers::Pcap;

impl Sim {
    /// Writes a capture file in libpcap's format, for Wireshark and tcpdump: the packets of TCP and UNIX
    /// connections that begin from now on, with the times at which their senders sent them, lost ones
    /// too; one that is sent again is shown once. At most 256 MiB are written, and after an error nothing
    /// more.
    ///
    /// What was sent through TLS is read with [its keys](Self::log_keys).
    ///
    /// # Errors
    ///
    /// When its header cannot be written.
    pub fn capture(&mut self, write: impl Write + 'static) -> io::Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        let pcap = Pcap::new(write, kernel.started, FIRST_DAY)?;
        kernel.capture = Some(pcap);
        Ok(())
    }

    /// Writes the secrets of TLS handshakes from now on, as `SSLKEYLOGFILE` has them: Wireshark takes them as
    /// its "(Pre)-Master-Secret log", and shows what was sent. After an error nothing more is written.
    pub fn log_keys(&mut self, write: impl Write + 'static) {
        self.kernel.borrow_mut().keys = Some(Box::new(write));
    }
}

impl Kernel {
    /// Writes a secret, if secrets are wanted.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(super) fn log_key(&mut self, label: &str, client_random: &[u8], secret: &[u8]) {
        let Some(write) = &mut self.keys else { return };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let written = writeln!(write, "{label} {} {}", hex(client_random), hex(secret));
        if let Err(error) = written {
            log_warn!(%error, "the keys of TLS cannot be written any more");
            self.keys = None;
        }
    }
}
