//! The settings that the clients of all kinds of servers have.

use std::time::Duration;

use super::servers::Server;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    // Bound: the servers that the program names.
    pub(crate) servers: Vec<Server>,
    /// The most bytes of queued messages.
    pub(crate) queue: usize,
    pub(crate) max_payload: usize,
    /// For a connect, and then for the login.
    pub(crate) connect_timeout: Duration,
    pub(crate) ping_interval: Duration,
    /// The first and the longest delay before an attempt to reconnect.
    pub(crate) back_off: (Duration, Duration),
}

impl Settings {
    pub(crate) fn new(servers: Vec<Server>) -> Settings {
        Settings {
            servers,
            queue: 8 * 1024 * 1024,
            max_payload: 1024 * 1024,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(30),
            back_off: (Duration::from_millis(250), Duration::from_secs(30)),
        }
    }
}
