//! A pool of connections to PostgreSQL, by `tokio-postgres` over sockets of the loop.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::{AbortOnDrop, DeferredSemaphore};
use couplet::endpoints::{TcpClient, UnixClient};
use couplet::{Failure, Reactor, Result};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};

use super::lease::Lease;

/// Time limit for getting a connection, returned or new.
const PATIENCE: Duration = Duration::from_secs(3);

/// Time limit of an idle connection's health check.
const CHECK: Duration = Duration::from_secs(1);

/// A client, and the task that moves its bytes; the task ends when this is dropped.
pub(crate) type Connection = (Client, AbortOnDrop<()>);

pub(crate) struct Pool {
    reactor: Reactor,
    config: Config,
    /// One permit for each connection that may be in use; callers queue for them.
    permits: DeferredSemaphore,
    pub(crate) idle: RefCell<Vec<Connection>>,
}

impl Pool {
    pub(crate) fn new(reactor: &Reactor, config: Config, size: usize) -> Rc<Pool> {
        let (permits, idle) = (DeferredSemaphore::new(size), RefCell::default());
        Rc::new(Pool { reactor: reactor.clone(), config, permits, idle })
    }

    /// Returns a working connection, pooled or new.
    pub(crate) async fn get(self: &Rc<Self>) -> Result<Lease> {
        self.reactor.timeout(PATIENCE, self.take()).await
    }

    async fn take(self: &Rc<Self>) -> Result<Lease> {
        let permit = self.permits.acquire().await?;
        let connection = loop {
            let idle = self.idle.borrow_mut().pop();
            let Some(connection) = idle else { break self.connect().await? };
            // Drops a connection whose server is down, and one that is still busy with the query of
            // a cancelled task.
            let check = async { Ok(connection.0.check_connection().await?) };
            if self.reactor.timeout(CHECK, check).await.is_ok() {
                break connection;
            }
        };
        Ok(Lease::new(connection, self.clone(), permit))
    }

    async fn connect(&self) -> Result<Connection> {
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let stream = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => self.reactor.connect_stream(TcpClient::new(name, port)),
            Some(Host::Unix(folder)) => {
                let path = folder.join(format!(".s.PGSQL.{port}"));
                self.reactor.connect_stream(UnixClient::new(path))
            }
            None => return Err(Failure::msg("the connection string names no host")),
        };
        let (client, connection) = self.config.connect_raw(stream.await?, NoTls).await?;
        let life = self.reactor.spawn_named("a connection to PostgreSQL", async {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "a connection to PostgreSQL broke");
            }
            Ok(())
        });
        Ok((client, life.abort_on_drop()))
    }
}
