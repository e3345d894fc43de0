//! The traffic log's part of the grammar: `log:` before another endpoint.
//!
//! Contract: 145d.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::record_file::{RecordFile, RecordFormat, RecordWriter};
use crate::address::Address;
use crate::defer::{Deferred, Failure, Result};
use crate::endpoints::grammar::{Part, Parts, print_over, print_part};
use crate::endpoints::{
    ClientEndpoint, EndpointError, Reload, ServerEndpoint, SharedPort, Sharing,
};
use crate::error::Plain;
use crate::factory::ErasedFactory;
use crate::layers::{Layer, Lines, LogForm, Pcap, Side, TrafficLog};
use crate::reactor::{Port, Reactor};
use crate::transport::Transport;

/// `log:`, for either direction: `log:ENDPOINT[:file=FILE][:form=text|hex|pcap][:limit=BYTES]`.
/// Logs traffic to the program's log, with the target `couplet::traffic`, or appends it to a file.
/// `form=pcap`, the default for names that end with `.pcap`, writes a capture file for Wireshark.
///
/// The limit is per connection, 64 KiB by default; for a capture it is on the size of the file,
/// including earlier content, 256 MiB by default. A log shows the bytes at its position: plaintext
/// in `log:tls:443`, ciphertext in `tls:log:443`. The loop writes the file, which should therefore
/// be on a fast disk; pipes are refused, because writing to one may block. Several loops, ports and
/// connects may write to one file: lines and packets are never interleaved, and a record cut by a
/// full disk is removed. Twisted's `TrafficLoggingFactory`.
#[derive(Clone, Debug)]
pub struct Logged<E> {
    over: E,
    log: LogOptions,
}

#[derive(Clone, Debug, Default)]
struct LogOptions {
    file: Option<Part>,
    form: Option<Form>,
    limit: Option<u64>,
    /// Set once the endpoint is in use; shared by its clones.
    opened: Arc<OnceLock<Arc<RecordFile>>>,
}

/// Default limit on the size of a capture file, in bytes.
const LIMIT: u64 = 256 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Hex,
    Pcap,
}

impl<E> Logged<E> {
    /// Wraps this endpoint, and logs text to the program's log.
    #[must_use]
    pub fn new(over: E) -> Logged<E> {
        Logged { over, log: LogOptions::default() }
    }

    /// Appends lines to this file.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, form: LogForm) -> Self {
        self.log = LogOptions {
            file: Some(Part::standalone(path.into())),
            limit: self.log.limit,
            ..LogOptions::default()
        };
        self.lines(form)
    }

    /// Sets the form of the lines.
    #[must_use]
    pub fn lines(mut self, form: LogForm) -> Self {
        self.log.form = Some(match form {
            LogForm::Hex => Form::Hex,
            LogForm::Text => Form::Text,
        });
        self
    }

    /// Appends to a capture file, or begins one.
    #[must_use]
    pub fn pcap(mut self, path: impl Into<String>) -> Self {
        let (file, form) = (Some(Part::standalone(path.into())), Some(Form::Pcap));
        self.log = LogOptions { file, form, limit: self.log.limit, ..LogOptions::default() };
        self
    }

    /// Limits the logged bytes: per connection, or the size of a capture file.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Self {
        self.log.limit = Some(bytes);
        self
    }
}

impl LogOptions {
    fn from_parts(parts: &mut Parts) -> Result<LogOptions, EndpointError> {
        let file = parts.keyword("file");
        let form = match parts.keyword("form") {
            None => None,
            Some(part) => Some(match part.text() {
                "text" => Form::Text,
                "hex" => Form::Hex,
                "pcap" if file.is_none() => return Err(part.error("a capture needs file=FILE")),
                "pcap" => Form::Pcap,
                _ => return Err(part.error("expected text, hex or pcap")),
            }),
        };
        let limit = parts.keyword("limit");
        let limit = limit.map(|part| part.number("bytes", 0, u64::MAX)).transpose()?;
        Ok(LogOptions { file, form, limit, ..LogOptions::default() })
    }

    /// The form that was set, or the one implied by the file name.
    fn form(&self) -> Form {
        let is_capture = |file: &Part| file.text().to_ascii_lowercase().ends_with(".pcap");
        match (self.form, &self.file) {
            (Some(form), _) => form,
            (None, Some(file)) if is_capture(file) => Form::Pcap,
            (None, _) => Form::Text,
        }
    }

    /// The file, which is opened once.
    fn open_file(&self, file: &Part) -> Result<Arc<RecordFile>, EndpointError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened.clone());
        }
        let (records, limit) = match self.form() {
            Form::Pcap => (RecordFormat::Packets, self.limit.unwrap_or(LIMIT)),
            Form::Text | Form::Hex => (RecordFormat::Lines, u64::MAX),
        };
        let refused = |error| file.error(format!("cannot write to this file: {}", Plain(&error)));
        let opened = Arc::new(RecordFile::open(file.text(), records, limit).map_err(refused)?);
        Ok(self.opened.get_or_init(|| opened).clone())
    }

    fn add_layer(
        &self,
        reactor: &Reactor,
        factory: ErasedFactory,
        side: Side,
    ) -> Result<ErasedFactory, EndpointError> {
        let limit = self.limit;
        let form = match (self.form(), &self.file) {
            (Form::Pcap, Some(file)) => {
                let file = RecordWriter(self.open_file(file)?);
                let pcap = Pcap::resume(file, reactor.now(), reactor.unix_time());
                let pcap = pcap.limit(u64::MAX);
                return Ok(factory.layered("log", move |new| {
                    let unknown = Address::from(SocketAddr::from(([0, 0, 0, 0], 0)));
                    let host = new.host().unwrap_or(unknown);
                    let tap = pcap.tap(new.peer(), &host, side == Side::Accepted);
                    Some(Box::new(TrafficLog::new(tap)))
                }));
            }
            (Form::Hex, _) => LogForm::Hex,
            (Form::Text | Form::Pcap, _) => LogForm::Text,
        };
        let lines = self.file.as_ref().map(|file| self.open_file(file)).transpose()?;
        Ok(factory.layered("log", move |new| Some(log_lines(form, limit, new.peer(), &lines))))
    }
}

/// The layer that logs lines for one connection.
fn log_lines(
    form: LogForm,
    limit: Option<u64>,
    peer: &Address,
    file: &Option<Arc<RecordFile>>,
) -> Box<dyn Layer> {
    let (peer, file) = (peer.clone(), file.clone());
    let lines = Lines::new(form, move |line: &str| match &file {
        Some(file) => file.append(format!("{peer} {line}\n").as_bytes()),
        None => tracing::info!(target: "couplet::traffic", %peer, "{line}"),
    });
    Box::new(TrafficLog::new(match limit {
        Some(limit) => lines.limit(limit),
        None => lines,
    }))
}

impl<E: ServerEndpoint> ServerEndpoint for Logged<E> {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        self.over.listen(reactor, self.log.add_layer(reactor, factory, Side::Accepted)?)
    }

    /// Opens the file once, for all loops.
    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        let log = self.log.clone();
        if let Some(file) = &log.file {
            let tried = sharing.try_file(Path::new(file.text()));
            let refused =
                |error| file.error(format!("cannot write to this file: {}", Plain(&error)));
            if !tried.map_err(refused)? {
                log.open_file(file)?;
            }
        }
        Ok(self.over.share(sharing)?.wrapped(|over| Logged { over, log }))
    }

    fn reload(&self) -> Result<Reload> {
        self.over.reload()
    }
}

impl<E: ClientEndpoint> ClientEndpoint for Logged<E> {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        match self.log.add_layer(reactor, factory, Side::Connected) {
            Ok(factory) => self.over.connect(reactor, factory),
            Err(error) => Deferred::fail(Failure::from(error)),
        }
    }

    fn host(&self) -> Option<&str> {
        self.over.host()
    }
}

pub(super) fn server(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let log = LogOptions::from_parts(parts)?;
    let over = parts.server()?;
    Ok(Arc::new(Logged { over, log }))
}

pub(super) fn client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let log = LogOptions::from_parts(parts)?;
    let over = parts.client()?;
    Ok(Arc::new(Logged { over, log }))
}

impl<E: fmt::Display> fmt::Display for Logged<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogOptions { file, form, limit, .. } = &self.log;
        print_over(f, "log", &self.over.to_string())?;
        print_part(f, "file", file.as_ref())?;
        let form = form.map(|form| match form {
            Form::Text => "text",
            Form::Hex => "hex",
            Form::Pcap => "pcap",
        });
        form.iter().try_for_each(|form| write!(f, ":form={form}"))?;
        limit.iter().try_for_each(|limit| write!(f, ":limit={limit}"))
    }
}
