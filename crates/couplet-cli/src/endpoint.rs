//! Addresses as people type them: a bare port, `HOST:PORT`, or an endpoint string.

use std::str::FromStr;

use couplet::endpoints::{ClientEndpoint, EndpointError, ServerEndpoint};

/// An endpoint, and how it is named in messages.
#[derive(Clone, Debug)]
pub(crate) struct Peer<E> {
    pub(crate) endpoint: E,
    pub(crate) name: String,
}

/// Where to listen: a bare port means this machine alone.
pub(crate) fn to_listen(text: &str) -> Result<ServerEndpoint, EndpointError> {
    if is_port(text) {
        return format!("tcp:{text}:interface=127.0.0.1").parse();
    }
    text.parse()
}

/// Where to connect: a bare port means this machine, and `tcp:` may be left out.
pub(crate) fn to_connect(text: &str) -> Result<Peer<ClientEndpoint>, EndpointError> {
    let full = if is_port(text) {
        format!("tcp:127.0.0.1:{text}")
    } else if text.starts_with("tcp:") || !text.contains(':') {
        text.to_owned()
    } else {
        format!("tcp:{text}")
    };
    let endpoint = ClientEndpoint::from_str(&full)?;
    Ok(Peer { name: endpoint.to_string(), endpoint })
}

/// The default: a free port on this machine.
pub(crate) fn or_any(listen: Vec<ServerEndpoint>) -> Vec<ServerEndpoint> {
    if !listen.is_empty() {
        return listen;
    }
    to_listen("0").into_iter().collect()
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_on_this_machine() {
        assert_eq!(to_listen("10000").unwrap().to_string(), "tcp:10000:interface=127.0.0.1");
        assert_eq!(to_connect("10000").unwrap().name, "tcp:127.0.0.1:10000");
    }

    #[test]
    fn tcp_may_be_left_out_of_an_address() {
        assert_eq!(to_connect("localhost:80").unwrap().name, "tcp:localhost:80");
        assert_eq!(to_connect("[::1]:80").unwrap().name, "tcp:[::1]:80");
        assert_eq!(to_connect("tcp:localhost:80").unwrap().name, "tcp:localhost:80");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "localhost", "tcp:80", "70000", "localhost:http", "::1:80", "udp:a:1"] {
            assert!(to_connect(bad).is_err(), "{bad}");
        }
        for bad in ["", "localhost", "70000", "tcp:", "tcp:80:interface=here", "tcp:80:x=1"] {
            assert!(to_listen(bad).is_err(), "{bad}");
        }
    }
}
