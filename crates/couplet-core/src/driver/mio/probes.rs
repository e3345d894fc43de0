//! Keep-alive probes.
//!
//! Contract: 64d.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Sets the silence of a connection's peer after which the system probes it; `None` turns the probes
/// off.
pub(super) fn set(connection: &SockRef<'_>, silence: Option<Duration>) -> io::Result<()> {
    let Some(silence) = silence else { return connection.set_keepalive(false) };
    // The system counts in seconds.
    let again = (silence / 4).max(Duration::from_secs(1));
    connection.set_tcp_keepalive(&TcpKeepalive::new().with_time(silence).with_interval(again))
}

/// The probes of the connections that a port accepts. On Linux they inherit them from its socket;
/// other systems would probe the listening socket itself, and close it after a time without an
/// answer.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::driver) struct PortProbes {
    #[cfg(not(target_os = "linux"))]
    silence: Option<Duration>,
}

#[cfg(target_os = "linux")]
impl PortProbes {
    pub(super) fn set(&mut self, port: &SockRef<'_>, silence: Option<Duration>) -> io::Result<()> {
        set(port, silence)
    }

    pub(super) fn apply(self, _: &SockRef<'_>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
impl PortProbes {
    pub(super) fn set(&mut self, _: &SockRef<'_>, silence: Option<Duration>) -> io::Result<()> {
        self.silence = silence;
        Ok(())
    }

    /// Sets them on an accepted connection.
    pub(super) fn apply(self, connection: &SockRef<'_>) -> io::Result<()> {
        match self.silence {
            Some(_) => set(connection, self.silence),
            None => Ok(()),
        }
    }
}
