//! The traffic log's part of the grammar: `log:` before another endpoint.

use std::cell::RefCell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::grammar::{Part, Parts, print_over, print_part};
use super::{ClientEndpoint, EndpointError, ServerEndpoint, SharedPort};
use crate::address::Address;
use crate::defer::{Deferred, Failure, Result};
use crate::error::Plain;
use crate::factory::ErasedFactory;
use crate::layers::{Layer, Lines, LogForm, Pcap, TrafficLog};
use crate::reactor::{Port, Reactor};
use crate::transport::Transport;

/// `log:`, for either direction: `log:ENDPOINT[:file=FILE][:form=text|hex|pcap][:limit=BYTES]`. Logs
/// what passes: without a file to the program's log, with the target `couplet::traffic`; with one at
/// its end. `form=pcap`, which is what a name that ends with `.pcap` means, is a file for Wireshark.
///
/// The limit is of each connection, 64 KiB unless set; that of a capture is of the file, 256 MiB. A
/// log shows what passes at its place: in `log:tls:443` plaintext, in `tls:log:443` what is on the
/// wire. It is written in the loop, so the file is to be on a disk that is not slow. Twisted's
/// `TrafficLoggingFactory`.
#[derive(Clone, Debug)]
pub struct Logged<E> {
    over: E,
    log: Log,
}

#[derive(Clone, Debug, Default)]
struct Log {
    file: Option<Part>,
    form: Option<Form>,
    limit: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Hex,
    Pcap,
}

impl<E> Logged<E> {
    /// Over this endpoint, as text to the program's log.
    #[must_use]
    pub fn new(over: E) -> Logged<E> {
        Logged { over, log: Log::default() }
    }

    /// Appends lines to this file.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, form: LogForm) -> Self {
        self.log.file = Some(Part::alone(path.into()));
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

    /// Writes a capture file, or continues it.
    #[must_use]
    pub fn pcap(mut self, path: impl Into<String>) -> Self {
        self.log.file = Some(Part::alone(path.into()));
        self.log.form = Some(Form::Pcap);
        self
    }

    /// Logs at most so many bytes: of a connection, or in a capture file.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Self {
        self.log.limit = Some(bytes);
        self
    }
}

impl Log {
    fn take(parts: &mut Parts) -> Result<Log, EndpointError> {
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
        let limit = limit.map(|part| part.number("bytes", 1, u64::MAX)).transpose()?;
        Ok(Log { file, form, limit })
    }

    /// As set, or as the file's name says.
    fn form(&self) -> Form {
        let is_capture = |file: &Part| file.text().to_ascii_lowercase().ends_with(".pcap");
        match (self.form, &self.file) {
            (Some(form), _) => form,
            (None, Some(file)) if is_capture(file) => Form::Pcap,
            (None, _) => Form::Text,
        }
    }

    fn put(
        &self,
        reactor: &Reactor,
        factory: ErasedFactory,
        opened_by_peer: bool,
    ) -> Result<ErasedFactory, EndpointError> {
        let limit = self.limit;
        let form = match (self.form(), &self.file) {
            (Form::Pcap, Some(file)) => {
                let pcap = capture(file.text(), reactor).map_err(|error| refused(file, &error))?;
                let pcap = if let Some(limit) = limit { pcap.limit(limit) } else { pcap };
                return Ok(factory.layered("log", move |new| {
                    let unknown = Address::from(SocketAddr::from(([0, 0, 0, 0], 0)));
                    let host = new.host().unwrap_or(unknown);
                    let tap = pcap.tap(new.peer(), &host, opened_by_peer);
                    Some(Box::new(TrafficLog::new(tap)))
                }));
            }
            (Form::Hex, _) => LogForm::Hex,
            (Form::Text | Form::Pcap, _) => LogForm::Text,
        };
        let lines = match &self.file {
            Some(file) => {
                let opened = OpenOptions::new().create(true).append(true).open(file.text());
                Some(LogFile::new(opened.map_err(|error| refused(file, &error))?))
            }
            None => None,
        };
        Ok(factory.layered("log", move |new| Some(log_lines(form, limit, new.peer(), &lines))))
    }
}

/// The layer of a connection that logs lines.
fn log_lines(
    form: LogForm,
    limit: Option<u64>,
    peer: &Address,
    file: &Option<LogFile>,
) -> Box<dyn Layer> {
    let (peer, file) = (peer.clone(), file.clone());
    let lines = Lines::new(form, move |line: &str| match &file {
        Some(file) => file.log(&peer, line),
        None => tracing::info!(target: "couplet::traffic", %peer, "{line}"),
    });
    Box::new(TrafficLog::new(match limit {
        Some(limit) => lines.limit(limit),
        None => lines,
    }))
}

fn refused(file: &Part, error: &io::Error) -> EndpointError {
    file.error(format!("cannot write to this file: {}", Plain(error)))
}

/// A file of lines; after an error nothing more is written.
#[derive(Clone)]
struct LogFile(Rc<RefCell<Option<File>>>);

impl LogFile {
    fn new(file: File) -> LogFile {
        LogFile(Rc::new(RefCell::new(Some(file))))
    }

    fn log(&self, peer: &Address, line: &str) {
        let mut file = self.0.borrow_mut();
        let Some(open) = file.as_mut() else { return };
        if let Err(error) = open.write_all(format!("{peer} {line}\n").as_bytes()) {
            tracing::warn!(%error, "the traffic log ends here");
            *file = None;
        }
    }
}

/// A capture file, begun or continued.
fn capture(path: &str, reactor: &Reactor) -> io::Result<Pcap> {
    let file = begin_capture(path)?;
    Ok(Pcap::resumed(file, reactor.now(), reactor.unix_time()))
}

/// A file that begins as a capture does.
fn begin_capture(path: &str) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let mut header = Vec::new();
    Read::by_ref(&mut file).take(Pcap::HEADER.len() as u64).read_to_end(&mut header)?;
    match &*header {
        [] => file.write_all(&Pcap::HEADER)?,
        header if header == Pcap::HEADER => {}
        _ => return Err(io::Error::other("it exists, and is not a capture file of this kind")),
    }
    Ok(file)
}

impl<E: ServerEndpoint> ServerEndpoint for Logged<E> {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        self.over.listen(reactor, self.log.put(reactor, factory, true)?)
    }

    /// A capture file is begun here: two loops might both find it empty.
    fn share(&self, loops: usize) -> Result<SharedPort> {
        let log = self.log.clone();
        if let (Form::Pcap, Some(file)) = (log.form(), &log.file) {
            begin_capture(file.text()).map_err(|error| refused(file, &error))?;
        }
        Ok(self.over.share(loops)?.wrapped(|over| Logged { over, log }))
    }
}

impl<E: ClientEndpoint> ClientEndpoint for Logged<E> {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        match self.log.put(reactor, factory, false) {
            Ok(factory) => self.over.connect(reactor, factory),
            Err(error) => Deferred::fail(Failure::from(error)),
        }
    }

    fn host(&self) -> Option<&str> {
        self.over.host()
    }
}

pub(super) fn server(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let log = Log::take(parts)?;
    let over = parts.server()?;
    Ok(Arc::new(Logged { over, log }))
}

pub(super) fn client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let log = Log::take(parts)?;
    let over = parts.client()?;
    Ok(Arc::new(Logged { over, log }))
}

impl<E: fmt::Display> fmt::Display for Logged<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Log { file, form, limit } = &self.log;
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
