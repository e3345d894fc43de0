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

/// The setters of the settings, in the options of each kind of servers.
macro_rules! setters {
    () => {
        /// Sets the maximum size of messages and commands that are queued, in bytes on the wire; 8 MiB
        /// by default. Messages are queued without a connection, and while the server reads slowly.
        /// Further ones are [lost](crate::Event::Lost).
        #[must_use]
        pub fn queue(mut self, bytes: usize) -> Self {
            self.settings.queue = bytes;
            self
        }

        /// Sets the time limit for a connect, and then for the login; 5 s by default.
        #[must_use]
        pub fn connect_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.settings.connect_timeout = timeout;
            self
        }

        /// Sets the time between two PINGs; 30 s by default. A connection that leaves two of them
        /// unanswered is dropped.
        #[must_use]
        pub fn ping_interval(mut self, interval: std::time::Duration) -> Self {
            self.settings.ping_interval = interval;
            self
        }

        /// Sets the first and the longest delay before an attempt to reconnect; 250 ms and 30 s by
        /// default. It doubles after all servers have failed, and is shortened at random by up to a half,
        /// so that clients that lost their server at the same time do not return at the same time.
        #[must_use]
        pub fn back_off(
            mut self,
            first: std::time::Duration,
            longest: std::time::Duration,
        ) -> Self {
            self.settings.back_off = (first, longest);
            self
        }
    };
}
pub(crate) use setters;
