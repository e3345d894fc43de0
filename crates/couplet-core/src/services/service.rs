//! [`Service`]: a part of a program that starts, runs and stops. Twisted's `IService`.
//!
//! Contract: 139i.

use std::fmt;

use crate::Reactor;
use crate::defer::Deferred;

/// A part of a program that starts, runs and stops: a port with its connections, a client, a timer,
/// a task. Twisted's `IService`.
///
/// A [`Supervisor`](super::Supervisor) starts services in order, restarts those that end, and stops
/// them. Supervisors are services too, so that programs are trees of services.
///
/// ```
/// use couplet::services::{Health, Service};
/// use couplet::{Deferred, Port, Protocol, Reactor, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// struct EchoService(Option<Port>);
///
/// impl Service for EchoService {
///     fn name(&self) -> &str {
///         "echo"
///     }
///     fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
///         let listening = reactor.listen("localhost:0", || Echo);
///         Deferred::from_result(listening.map(|port| self.0 = Some(port)))
///     }
///     fn stop(&mut self) -> Deferred<()> {
///         let port = self.0.take();
///         port.and_then(|port| port.stop_listening()).unwrap_or_else(|| Deferred::succeed(()))
///     }
/// }
/// ```
pub trait Service {
    /// The service's name, for people and for the methods of a supervisor: `web`, `metrics`.
    fn name(&self) -> &str;

    /// Starts the service. The Deferred fires once it is ready to do its work.
    ///
    /// A service whose start fails, or is cancelled because it took too long, has not started: it
    /// holds nothing and is not stopped. `start` is called again to restart a service, after it has
    /// ended, failed or stopped.
    fn start(&mut self, reactor: &Reactor) -> Deferred<()>;

    /// Stops the service. The Deferred fires once it holds nothing.
    ///
    /// Cancelled, because its time is over, the service ends everything it can immediately: it
    /// aborts connections and drops tasks.
    fn stop(&mut self) -> Deferred<()>;

    /// The condition of a service that has started. A service knows best whether it does its work,
    /// for example whether its database answers.
    fn health(&self) -> Health {
        Health::Ready
    }

    /// The end of a service that may end without a [`stop`](Self::stop). Called once after each
    /// start. The Deferred succeeds when the service has done its work, and fails when the service
    /// has failed; then a supervisor may restart it. `None`, the default, means that the service
    /// runs until it is stopped.
    fn take_end(&mut self) -> Option<Deferred<()>> {
        None
    }
}

/// The condition of a [`Service`]. A load balancer should send clients only to programs that are
/// `Ready` or `Degraded`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Starting, or waiting to be restarted: the service can't do its work yet.
    Starting,
    /// Working.
    Ready,
    /// Working with these restrictions.
    Degraded(String),
    /// Not working, for this reason.
    Failed(String),
    /// Stopping. Connections that are open are still served.
    Stopping,
}

impl Health {
    /// Whether new clients can be served: `Ready` or `Degraded`.
    pub fn is_ready(&self) -> bool {
        matches!(self, Health::Ready | Health::Degraded(_))
    }

    /// The worst of these, which is the health of a group; [`Ready`](Health::Ready) for
    /// an empty group.
    pub fn worst(all: impl IntoIterator<Item = Health>) -> Health {
        all.into_iter().max_by_key(Health::severity).unwrap_or(Health::Ready)
    }

    /// Puts the name of the service before the words.
    pub(super) fn of(self, name: &str) -> Health {
        match self {
            Health::Degraded(words) => Health::Degraded(format!("{name}: {words}")),
            Health::Failed(words) => Health::Failed(format!("{name}: {words}")),
            health => health,
        }
    }

    fn severity(&self) -> u8 {
        match self {
            Health::Ready => 0,
            Health::Degraded(_) => 1,
            Health::Starting => 2,
            Health::Stopping => 3,
            Health::Failed(_) => 4,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Starting => f.write_str("starting"),
            Health::Ready => f.write_str("ready"),
            Health::Degraded(words) => write!(f, "degraded: {words}"),
            Health::Failed(words) => write!(f, "failed: {words}"),
            Health::Stopping => f.write_str("stopping"),
        }
    }
}
