//! Endpoints as typed on the command line: the library's syntax, with the program's defaults.

use std::sync::Arc;

use couplet::ListenOptions;
use couplet::endpoints::{
    ClientEndpoint, EndpointError, IntoEndpoint, ServerEndpoint, client_from_string,
};

/// An endpoint to connect to, and its name in messages.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The endpoint.
    pub endpoint: Arc<dyn ClientEndpoint>,
    /// The endpoint in full.
    pub name: String,
}

/// Default of `backlog=`, in connections: clients arrive in crowds here, and a client that finds
/// the queue full waits for a second.
const BACKLOG: u32 = 1024;

/// Parses an endpoint to listen on.
pub fn to_listen(typed: &str) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    (typed, &ListenOptions::default().backlog(BACKLOG)).into_endpoint()
}

/// Parses an endpoint to connect to.
pub fn to_connect(typed: &str) -> Result<Peer, EndpointError> {
    let endpoint = client_from_string(typed)?;
    Ok(Peer { name: endpoint.to_string(), endpoint })
}

/// Defaults to a free port on this machine.
pub fn or_free_port(listen: Vec<Arc<dyn ServerEndpoint>>) -> Vec<Arc<dyn ServerEndpoint>> {
    if !listen.is_empty() {
        return listen;
    }
    to_listen("0").into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_in_crowds_unless_a_backlog_is_given() {
        for (typed, meant) in [
            ("10000", "tcp:10000:interface=127.0.0.1:backlog=1024"),
            (":0", "tcp:0:backlog=1024"),
            ("10000:backlog=5", "tcp:10000:interface=127.0.0.1:backlog=5"),
            ("haproxy:tls:unix:s:cert=a", "haproxy:tls:unix:s:backlog=1024:cert=a:key=a"),
            ("fd:3", "fd:3"),
        ] {
            assert_eq!(to_listen(typed).map(|it| it.to_string()), Ok(meant.to_owned()), "{typed}");
        }
    }

    #[test]
    fn a_peer_is_named_by_its_endpoint_in_full() {
        assert_eq!(to_connect("10000").unwrap().name, "tcp:127.0.0.1:10000");
        assert_eq!(to_connect("localhost:80").unwrap().name, "tcp:localhost:80");
        assert_eq!(to_connect(r"tcp:\:\:1:80").unwrap().name, "tcp:[::1]:80");
    }
}
