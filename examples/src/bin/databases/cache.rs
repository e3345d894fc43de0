//! Redis, by the crate `redis` over a socket of the loop: one connection, shared by all callers.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::{AbortOnDrop, DeferredLock, TimedOut};
use couplet::endpoints::{TcpClient, UnixClient};
use couplet::{Failure, Reactor, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, FromRedisValue, Pipeline};

/// Time limit of an answer, a new connection included.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Cache {
    reactor: Reactor,
    info: ConnectionInfo,
    /// `None` if there is no connection.
    open: Rc<RefCell<Option<Open>>>,
    opening: DeferredLock,
}

/// The connection, and the task that moves its bytes; the task ends when this is dropped.
type Open = (MultiplexedConnection, AbortOnDrop<()>);

impl Cache {
    pub(crate) fn new(reactor: &Reactor, info: ConnectionInfo) -> Cache {
        let (open, opening) = (Rc::default(), DeferredLock::new());
        Cache { reactor: reactor.clone(), info, open, opening }
    }

    /// Sends the commands in one batch, with the commands of concurrent callers; returns their
    /// answers.
    pub(crate) async fn ask<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T> {
        let asking = async { Ok(commands.query_async(&mut self.connection().await?).await?) };
        let answer = self.reactor.timeout(PATIENCE, asking).await;
        // A server that does not answer may have disappeared silently: the next caller reconnects.
        if answer.as_ref().is_err_and(|failure| failure.is::<TimedOut>()) {
            drop(self.open.take());
        }
        answer
    }

    async fn connection(&self) -> Result<MultiplexedConnection> {
        // Callers that arrive during the connect wait for it.
        let _permit = self.opening.acquire().await?;
        if let Some((connection, _)) = &*self.open.borrow() {
            return Ok(connection.clone());
        }
        let stream = match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                self.reactor.connect_stream(TcpClient::new(host, *port))
            }
            ConnectionAddr::Unix(path) => self.reactor.connect_stream(UnixClient::new(&**path)),
            other => return Err(Failure::msg(format!("this example can't connect to {other}"))),
        };
        // The crate's own time limit would need tokio's timers.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (info, stream) = (self.info.redis_settings(), stream.await?.into_send());
        let (connection, life) =
            MultiplexedConnection::new_with_config(info, stream, config).await?;
        let open = Rc::downgrade(&self.open);
        let life = self.reactor.spawn_named("the connection to Redis", async move {
            life.await;
            drop(open.upgrade().and_then(|open| open.take()));
            Ok(())
        });
        *self.open.borrow_mut() = Some((connection.clone(), life.abort_on_drop()));
        Ok(connection)
    }
}
