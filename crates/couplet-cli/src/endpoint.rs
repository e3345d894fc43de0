//! Endpoints as typed on the command line: the library's syntax, with the program's defaults.

use couplet::endpoints::{ClientEndpoint, EndpointError, ServerEndpoint};

/// Where to connect, and its name in messages.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) endpoint: ClientEndpoint,
    pub(crate) name: String,
}

/// Connections that may wait to be accepted, unless `backlog=` says otherwise: clients come in
/// crowds here, and one that finds the queue full waits for a second.
const BACKLOG: u32 = 1024;

/// Where to listen.
pub(crate) fn to_listen(typed: &str) -> Result<ServerEndpoint, EndpointError> {
    let mut endpoint: ServerEndpoint = typed.parse()?;
    let carrier = match &mut endpoint {
        ServerEndpoint::Tls { over, .. } => over,
        plain => plain,
    };
    if let ServerEndpoint::Tcp { options, .. } | ServerEndpoint::Unix { options, .. } = carrier
        && !typed.contains("backlog=")
    {
        options.backlog = BACKLOG;
    }
    Ok(endpoint)
}

/// Where to connect.
pub(crate) fn to_connect(typed: &str) -> Result<Peer, EndpointError> {
    let endpoint: ClientEndpoint = typed.parse()?;
    Ok(Peer { name: endpoint.to_string(), endpoint })
}

/// The default: a free port on this machine.
pub(crate) fn or_any(listen: Vec<ServerEndpoint>) -> Vec<ServerEndpoint> {
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
        for (typed, backlog) in [("10000", 1024), (":0", 1024), ("10000:backlog=5", 5)] {
            let ServerEndpoint::Tcp { options, .. } = to_listen(typed).unwrap() else { panic!() };
            assert_eq!(options.backlog, backlog, "{typed}");
        }
    }

    #[test]
    fn a_peer_is_named_by_its_endpoint_in_full() {
        assert_eq!(to_connect("10000").unwrap().name, "tcp:127.0.0.1:10000");
        assert_eq!(to_connect("localhost:80").unwrap().name, "tcp:localhost:80");
        assert_eq!(to_connect(r"tcp:\:\:1:80").unwrap().name, "tcp:[::1]:80");
    }
}
