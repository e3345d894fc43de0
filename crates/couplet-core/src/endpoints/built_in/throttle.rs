//! The throttle's part of the grammar: `throttle:` before another endpoint.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use crate::defer::{Deferred, Result};
use crate::endpoints::grammar::{Parts, print_over};
use crate::endpoints::{
    ClientEndpoint, EndpointError, Reload, ServerEndpoint, SharedPort, Sharing,
};
use crate::factory::ErasedFactory;
use crate::layers::{Bandwidth, Throttle};
use crate::reactor::{Port, Reactor};
use crate::transport::Transport;

/// `throttle:`, for either direction: `throttle:ENDPOINT[:read=N][:write=N][:shared=yes|no]`.
/// Limits reading and writing to N bytes per second, for each connection or, with `shared=yes`, for
/// all connections of the port together. The suffixes `k`, `M` and `G` stand for a thousand, a
/// million and a billion.
///
/// In a [`Cluster`](crate::Cluster), shared limits are divided equally among the loops.
///
/// A throttle counts bytes at its position: plaintext in `throttle:tls:443`, ciphertext in
/// `tls:throttle:443`. Twisted's `ThrottlingFactory`.
#[derive(Clone, Debug)]
pub struct Throttled<E> {
    over: E,
    limits: Limits,
}

#[derive(Clone, Debug, Default)]
struct Limits {
    read: Option<u64>,
    write: Option<u64>,
    scope: Scope,
}

/// The connections that a limit holds for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scope {
    /// Each connection has its own.
    #[default]
    Each,
    /// All connections of the port share it.
    All,
}

impl Scope {
    fn new(shared: bool) -> Scope {
        if shared { Scope::All } else { Scope::Each }
    }
}

impl<E> Throttled<E> {
    /// Wraps this endpoint. Until a limit is set, it does nothing, and prints as that endpoint.
    #[must_use]
    pub fn new(over: E) -> Throttled<E> {
        Throttled { over, limits: Limits::default() }
    }

    /// Limits reading, in bytes per second; at least 1.
    #[must_use]
    pub fn read(mut self, bytes_per_second: u64) -> Self {
        self.limits.read = Some(bytes_per_second.max(1));
        self
    }

    /// Limits writing, in bytes per second; at least 1.
    #[must_use]
    pub fn write(mut self, bytes_per_second: u64) -> Self {
        self.limits.write = Some(bytes_per_second.max(1));
        self
    }

    /// Sets whether the connections share the limits; by default each connection has its own.
    #[must_use]
    pub fn shared(mut self, shared: bool) -> Self {
        self.limits.scope = Scope::new(shared);
        self
    }
}

impl Limits {
    fn from_parts(parts: &mut Parts) -> Result<Limits, EndpointError> {
        let mut limits = Limits::default();
        for (key, limit) in [("read", &mut limits.read), ("write", &mut limits.write)] {
            *limit = parts.keyword(key).map(|part| part.bytes("bytes per second")).transpose()?;
        }
        limits.scope = Scope::new(parts.flag("shared")?.unwrap_or(false));
        Ok(limits)
    }

    /// Returns an error if no limit was given.
    fn check(&self, parts: &Parts) -> Result<(), EndpointError> {
        if self.is_none() {
            parts.finish()?;
            return Err(parts.missing("limit", "read=N or write=N, in bytes per second"));
        }
        Ok(())
    }

    fn is_none(&self) -> bool {
        self.read.or(self.write).is_none()
    }

    fn add_layer(&self, factory: ErasedFactory) -> ErasedFactory {
        if self.is_none() {
            return factory;
        }
        let Limits { read, write, scope } = *self;
        let both = move || (read.map(Bandwidth::new), write.map(Bandwidth::new));
        let together: Option<(Option<Rc<_>>, Option<Rc<_>>)> = (scope == Scope::All).then(both);
        factory.layered("throttle", move |_| {
            let (up, down) = together.clone().unwrap_or_else(both);
            Some(Box::new(Throttle::new(up, down)))
        })
    }
}

impl<E: ServerEndpoint> ServerEndpoint for Throttled<E> {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        self.over.listen(reactor, self.limits.add_layer(factory))
    }

    /// Divides shared limits among the loops.
    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        let Limits { read, write, scope } = self.limits;
        let parts = if scope == Scope::All { sharing.loops().max(1) as u64 } else { 1 };
        let part = |limit: u64| (limit / parts).max(1);
        let limits = Limits { read: read.map(part), write: write.map(part), scope };
        Ok(self.over.share(sharing)?.wrapped(|over| Throttled { over, limits }))
    }

    fn reload(&self) -> Result<Reload> {
        self.over.reload()
    }
}

impl<E: ClientEndpoint> ClientEndpoint for Throttled<E> {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        self.over.connect(reactor, self.limits.add_layer(factory))
    }

    fn host(&self) -> Option<&str> {
        self.over.host()
    }
}

pub(super) fn server(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let limits = Limits::from_parts(parts)?;
    let over = parts.server()?;
    limits.check(parts)?;
    Ok(Arc::new(Throttled { over, limits }))
}

pub(super) fn client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let limits = Limits::from_parts(parts)?;
    let over = parts.client()?;
    limits.check(parts)?;
    Ok(Arc::new(Throttled { over, limits }))
}

impl<E: fmt::Display> fmt::Display for Throttled<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.limits.is_none() {
            return self.over.fmt(f);
        }
        let Limits { read, write, scope } = self.limits;
        print_over(f, "throttle", &self.over.to_string())?;
        for (key, limit) in [("read", read), ("write", write)] {
            limit.iter().try_for_each(|limit| write!(f, ":{key}={limit}"))?;
        }
        match scope {
            Scope::All => write!(f, ":shared=yes"),
            Scope::Each => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::{SharedPort, Sharing, TcpServer};

    /// The limits of each of several loops that share `read` bytes per second.
    #[test]
    fn a_shared_limit_is_divided_among_the_loops_and_a_limit_per_connection_is_not() {
        let cases =
            [(10, true, 2, "5"), (1, true, 2, "1"), (10, false, 2, "10"), (10, true, 0, "10")];
        for (read, shared, loops, each) in cases {
            let limits = Limits { read: Some(read), write: None, scope: Scope::new(shared) };
            let over = TcpServer::new(([127, 0, 0, 1], 0).into());
            let port: SharedPort =
                Throttled { over, limits }.share(&Sharing::new(loops)).expect("a free port");
            let text = format!("{port:?}");
            assert!(text.contains(&format!("read={each}")), "{text}");
        }
    }
}
