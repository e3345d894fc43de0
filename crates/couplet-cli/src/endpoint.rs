//! Addresses as people type them: a bare port, `HOST:PORT`, or an endpoint string.

use std::fmt;

use couplet::endpoints::{ClientEndpoint, EndpointError, ServerEndpoint};

/// Where to connect, and how it is named in messages.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) endpoint: ClientEndpoint,
    pub(crate) name: String,
}

/// What was typed is no endpoint. It prints what was typed, with a caret under the place.
#[derive(Debug)]
pub(crate) struct BadEndpoint {
    problem: String,
    typed: String,
    /// Byte offset of the place in `typed`.
    at: usize,
    hint: Option<String>,
}

impl BadEndpoint {
    /// The library's error is about `tcp:` and more put before what was typed.
    fn new(error: &EndpointError, typed: &str, put_before: usize) -> BadEndpoint {
        let at = error.at().saturating_sub(put_before).min(typed.len());
        let problem = error.problem().to_owned();
        BadEndpoint { problem, typed: typed.to_owned(), at, hint: None }
    }
}

impl fmt::Display for BadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Control characters would move the caret, or worse.
        let shown = self.typed.replace(char::is_control, "?");
        let indent = self.typed.get(..self.at).unwrap_or_default().chars().count();
        write!(f, "{}\n    {shown}\n    {:indent$}^", self.problem, "")?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n{hint}"))
    }
}

impl std::error::Error for BadEndpoint {}

/// Connections that may wait to be accepted, unless `backlog=` tells: clients come in crowds here,
/// and who finds the queue full waits for a second.
const BACKLOG: u32 = 1024;

/// Where to listen: a bare port means this machine alone.
pub(crate) fn to_listen(typed: &str) -> Result<ServerEndpoint, BadEndpoint> {
    let mut endpoint = server_endpoint(typed)?;
    if let ServerEndpoint::Tcp { options, .. } = &mut endpoint
        && !typed.contains("backlog=")
    {
        options.backlog = BACKLOG;
    }
    Ok(endpoint)
}

fn server_endpoint(typed: &str) -> Result<ServerEndpoint, BadEndpoint> {
    if is_port(typed) {
        let full = format!("tcp:{typed}:interface=127.0.0.1");
        return full.parse().map_err(|error| BadEndpoint::new(&error, typed, "tcp:".len()));
    }
    if !typed.contains(':') {
        let problem = "a port number, or tcp:PORT, is expected here".to_owned();
        return Err(BadEndpoint { problem, typed: typed.to_owned(), at: 0, hint: None });
    }
    typed.parse().map_err(|error| BadEndpoint {
        hint: listening_there(typed),
        ..BadEndpoint::new(&error, typed, 0)
    })
}

/// Who types `127.0.0.1:8000` wants to listen there.
fn listening_there(typed: &str) -> Option<String> {
    let ClientEndpoint::Tcp { host, port, .. } = to_connect(typed).ok()?.endpoint else {
        return None;
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let meant = format!("tcp:{port}:interface={host}");
    meant.parse::<ServerEndpoint>().ok().map(|_| format!("  perhaps {meant} is meant"))
}

/// Where to connect: a bare port means this machine, and `tcp:` may be left out.
pub(crate) fn to_connect(typed: &str) -> Result<Peer, BadEndpoint> {
    let put_before = match typed {
        _ if is_port(typed) => "tcp:127.0.0.1:",
        _ if typed.starts_with("tcp:") => "",
        _ => "tcp:",
    };
    let endpoint: ClientEndpoint = format!("{put_before}{typed}")
        .parse()
        .map_err(|error| BadEndpoint::new(&error, typed, put_before.len()))?;
    if let ClientEndpoint::Tcp { port: 0, .. } = endpoint {
        return Err(BadEndpoint {
            problem: "nobody listens on port 0; a number from 1 to 65535 is expected here".into(),
            typed: typed.to_owned(),
            at: typed.rfind(":0").map_or(0, |colon| colon + 1),
            hint: None,
        });
    }
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
        assert_eq!(to_connect(r"tcp:\:\:1:80").unwrap().name, "tcp:[::1]:80");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "localhost", "tcp:80", "70000", "localhost:http", "::1:80", "0", "a:0"] {
            assert!(to_connect(bad).is_err(), "{bad}");
        }
        for bad in ["", "localhost", "70000", "tcp:", "tcp:80:interface=here", "tcp:80:x=1"] {
            assert!(to_listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_caret_stands_under_the_place_in_what_was_typed() {
        for (typed, place) in [
            ("70000", "    70000\n    ^"),
            ("localhost:http", "    localhost:http\n    \u{20}         ^"),
            ("tcp:h\u{e4}ll:http", "    tcp:h\u{e4}ll:http\n    \u{20}        ^"),
            ("localhost", "    localhost\n    \u{20}        ^"),
            ("a:0:timeout=5", "    a:0:timeout=5\n    \u{20} ^"),
            ("", "    \n    ^"),
        ] {
            let error = to_connect(typed).unwrap_err().to_string();
            assert!(error.ends_with(place), "{error}");
        }
        let error = to_listen("65536").unwrap_err().to_string();
        assert!(error.ends_with("    65536\n    ^"), "{error}");
        let error = to_listen("80x").unwrap_err().to_string();
        assert_eq!(error, "a port number, or tcp:PORT, is expected here\n    80x\n    ^");
    }

    #[test]
    fn who_names_an_interface_as_a_host_is_told_how_to_name_it() {
        let error = to_listen("127.0.0.1:8000").unwrap_err().to_string();
        assert!(error.ends_with("perhaps tcp:8000:interface=127.0.0.1 is meant"), "{error}");
        let error = to_listen("[::1]:8000").unwrap_err().to_string();
        assert!(error.ends_with("perhaps tcp:8000:interface=[::1] is meant"), "{error}");
    }
}
