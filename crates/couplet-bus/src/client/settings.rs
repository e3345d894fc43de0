//! The settings that the clients of all kinds of servers have.
//!
//! Contract: 204, 207, 207c–209, 213.

use std::time::Duration;

use super::servers::Server;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) servers: Vec<Server>,
    /// The most bytes of queued messages.
    pub(crate) queue: usize,
    pub(crate) max_payload: usize,
    /// For a connect, and then for the login.
    pub(crate) connect_timeout: Duration,
    pub(crate) ping_interval: Duration,
    /// The first and the longest delay before an attempt to reconnect.
    pub(crate) back_off: (Duration, Duration),
    /// The age at which the loss of a connection is the first of its kind.
    pub(crate) steady_after: Duration,
    /// The time between two lookups of the server's name.
    pub(crate) name_check: Option<Duration>,
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
            steady_after: Duration::from_secs(10),
            name_check: Some(Duration::from_secs(60)),
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
        /// default. The delay doubles after all servers have failed, and is shortened at random by up to
        /// a half, so that clients that lost their server at the same time return at different times. A
        /// [steady](Self::steady_after) connection resets the delay.
        #[must_use]
        pub fn back_off(
            mut self,
            first: std::time::Duration,
            longest: std::time::Duration,
        ) -> Self {
            self.settings.back_off = (first, longest);
            self
        }

        /// Sets the age at which a connection counts as steady; 10 s by default. A connection that is
        /// lost earlier counts as a failed attempt, so that a server that breaks right after each login
        /// is retried at growing [delays](Self::back_off).
        #[must_use]
        pub fn steady_after(mut self, age: std::time::Duration) -> Self {
            self.settings.steady_after = age;
            self
        }

        /// Sets the time between two lookups of the name of the server that the client is connected to;
        /// 60 s by default, and `None` makes none. If two in a row lack the address of the connection,
        /// the name has moved: the client ends the connection and connects again. A lookup that fails
        /// changes nothing.
        #[must_use]
        pub fn name_check(mut self, interval: Option<std::time::Duration>) -> Self {
            self.settings.name_check = interval;
            self
        }
    };
}
pub(crate) use setters;
