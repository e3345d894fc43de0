//! Commands over the connection of a bus.

use couplet_core::Deferred;

use super::parser::{Reply, command};
use crate::bus::Bus;

/// A command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The server's error, such as `OOM command not allowed when used memory > 'maxmemory'.`
    #[error("cannot run a command of Redis: {0}")]
    Server(String),
    /// There is no connection, or its queue is full: the command was not sent.
    #[error("cannot run a command of Redis: there is no connection, or its queue is full")]
    NotSent,
    /// The connection was lost before the answer: the command ran, or not.
    #[error("cannot run a command of Redis: the connection was lost before the answer")]
    Lost,
    /// The reply is not one of this command.
    #[error("cannot run a command of Redis: its reply is of another kind")]
    BadReply,
    /// The bus is not one of Redis.
    #[error("cannot run a command of Redis: the bus is not one of Redis")]
    NotRedis,
}

/// The commands of a Redis server, over the connection of a bus. Commands and messages of the bus
/// are processed in the order of their calls.
///
/// ```no_run
/// use couplet::bus::{Bus, redis};
///
/// # async fn example(bus: Bus) -> couplet::Result<()> {
/// let redis = redis::Redis::new(&bus);
/// redis.command(&["SET", "poem", "Tyger", "PX", "60000"]).await?;
/// let poem = redis.command(&["GET", "poem"]).await?;
/// assert_eq!(poem, redis::Reply::Bytes("Tyger".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Redis {
    bus: Bus,
}

impl Redis {
    /// The commands over this bus.
    pub fn new(bus: &Bus) -> Redis {
        Redis { bus: bus.clone() }
    }

    /// Runs a command. Fails with [`CommandError`]; without a connection it fails immediately.
    ///
    /// A command that blocks, such as BLPOP, delays all commands and messages behind it, and ends
    /// the connection after two PINGs without an answer. So does a reply beyond the limits of a
    /// [`Parser`](super::Parser::new).
    #[track_caller]
    pub fn command<P: AsRef<[u8]>>(&self, parts: &[P]) -> Deferred<Reply> {
        self.bus.core.command(command(parts))
    }
}
