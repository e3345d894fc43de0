//! The UNIX part of the grammar: `unix:PATH`, and `unix:@NAME` for an abstract name.
//!
//! Twisted's keywords are understood: `address=` to listen and `path=` to connect, `mode=`, `backlog=`,
//! `lockfile=` and `timeout=`.

use std::fmt;

use super::grammar::{Part, Parts, Seconds, quote};
use super::{ClientEndpoint, EndpointError, ServerEndpoint};
use crate::address::UnixAddress;
use crate::defer::Result;
use crate::driver::{ConnectOptions, ListenOptions};

const FORM: &str = "unix:PATH, or unix:@NAME for an abstract name";

impl ServerEndpoint {
    pub(super) fn read_unix(mut parts: Parts) -> Result<Self, EndpointError> {
        let path = parts.socket()?;
        let mut options = ListenOptions::default();
        if let Some(mode) = parts.keyword("mode") {
            options.mode = mode.mode()?;
        }
        for (key, id) in [("owner", &mut options.owner), ("group", &mut options.group)] {
            if let Some(part) = parts.keyword(key) {
                // The last number means "leave it" to the system.
                *id = Some(part.number("a number", 0, u64::from(u32::MAX) - 1)? as u32);
            }
        }
        parts.set("lockfile", &mut options.lock_file)?;
        if let Some(backlog) = parts.keyword("backlog") {
            options.backlog = backlog.backlog()?;
        }
        parts.expect_end("mode=, owner=, group=, lockfile= and backlog=")?;
        Ok(ServerEndpoint::Unix { path, options })
    }

    pub(super) fn print_unix(
        f: &mut fmt::Formatter<'_>,
        path: &UnixAddress,
        options: &ListenOptions,
    ) -> fmt::Result {
        let default = ListenOptions::default();
        print_socket(f, path)?;
        if options.mode != default.mode {
            write!(f, ":mode={:o}", options.mode)?;
        }
        for (key, id) in [("owner", options.owner), ("group", options.group)] {
            id.iter().try_for_each(|id| write!(f, ":{key}={id}"))?;
        }
        if options.lock_file != default.lock_file {
            write!(f, ":lockfile={}", if options.lock_file { "yes" } else { "no" })?;
        }
        if options.backlog != default.backlog {
            write!(f, ":backlog={}", options.backlog)?;
        }
        Ok(())
    }
}

impl ClientEndpoint {
    pub(super) fn read_unix(mut parts: Parts) -> Result<Self, EndpointError> {
        let path = parts.socket()?;
        let mut options = ConnectOptions::default();
        if let Some(timeout) = parts.keyword("timeout") {
            options.timeout = timeout.seconds()?;
        }
        // Twisted's check before a connect, which a refused connect answers as well.
        parts.set("lockfile", &mut false)?;
        parts.expect_end("timeout= and lockfile=")?;
        Ok(ClientEndpoint::Unix { path, options })
    }

    pub(super) fn print_unix(
        f: &mut fmt::Formatter<'_>,
        path: &UnixAddress,
        options: &ConnectOptions,
    ) -> fmt::Result {
        print_socket(f, path)?;
        if options.timeout != ConnectOptions::default().timeout {
            write!(f, ":timeout={}", Seconds(options.timeout))?;
        }
        Ok(())
    }
}

impl Parts {
    /// The name of the socket: by keyword, otherwise by position.
    fn socket(&mut self) -> Result<UnixAddress, EndpointError> {
        let named = self.keyword("address").or_else(|| self.keyword("path"));
        let part = named.or_else(|| self.unnamed());
        let part = part.ok_or_else(|| self.missing("path", FORM))?;
        match (part.text.as_str(), part.text.strip_prefix('@')) {
            ("", _) => Err(part.error(format!("missing path: expected {FORM}"))),
            (path, _) if path.contains('\0') => {
                Err(part.error("the path of a socket contains no NUL"))
            }
            (_, Some("")) => Err(part.error("missing name after @")),
            (_, Some(name)) => Ok(UnixAddress::Abstract(name.as_bytes().into())),
            (path, None) => Ok(path.into()),
        }
    }
}

impl Part {
    /// Permissions, in octal.
    fn mode(&self) -> Result<u32, EndpointError> {
        let digits = self.text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        match u32::from_str_radix(&self.text, 8) {
            Ok(mode) if digits && mode <= 0o7777 => Ok(mode),
            _ => Err(self.error("expected permissions in octal, such as 660")),
        }
    }
}

/// Exact, so that it reads back: unlike the address, which hides control characters.
fn print_socket(f: &mut fmt::Formatter<'_>, name: &UnixAddress) -> fmt::Result {
    match name {
        UnixAddress::Path(path) if path.as_os_str().as_encoded_bytes().starts_with(b"@") => {
            write!(f, "unix:./{}", escaped(&path.to_string_lossy()))
        }
        UnixAddress::Path(path) => write!(f, "unix:{}", escaped(&path.to_string_lossy())),
        UnixAddress::Abstract(name) => {
            write!(f, "unix:@{}", escaped(&String::from_utf8_lossy(name)))
        }
        UnixAddress::Unnamed => write!(f, "unix:"),
    }
}

/// With nothing in it that the grammar understands.
pub(super) fn escaped(text: &str) -> String {
    quote(text).replace('=', r"\=").replace('[', r"\[")
}
