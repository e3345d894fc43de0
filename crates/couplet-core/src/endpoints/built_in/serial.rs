//! The part of the grammar for serial lines: `serial:PATH`.
//!
//! Contract: 51c.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::defer::{Deferred, Result};
use crate::driver::{FlowControl, Parity, Pipe, SerialOptions};
use crate::endpoints::grammar::{Part, Parts, escaped};
use crate::endpoints::{ClientEndpoint, EndpointError};
use crate::error::Plain;
use crate::factory::ErasedFactory;
use crate::recorder::Reactor;
use crate::transport::Transport;

/// `serial:PATH[:speed=9600][:bits=8][:parity=none][:stop=1][:flow=none]`: a serial line, by the
/// path of its device, such as `/dev/ttyUSB0`. When the connection ends, the device's previous
/// settings are restored.
///
/// `parity` is `none`, `even` or `odd`; `flow` is `none`, `hardware` (RTS and CTS) or `software` (XON and
/// XOFF).
///
/// ```
/// use couplet::endpoints::client_from_string;
///
/// let endpoint = client_from_string("serial:/dev/ttyUSB0:speed=115200:stop=1")?;
/// assert_eq!(endpoint.to_string(), "serial:/dev/ttyUSB0:speed=115200");
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
///
/// Twisted's `SerialPort`.
#[derive(Clone, Debug)]
pub struct SerialClient {
    path: PathBuf,
    options: SerialOptions,
    place: Part,
}

impl SerialClient {
    /// The serial line of this device.
    #[must_use]
    pub fn new(path: impl AsRef<Path>, options: SerialOptions) -> SerialClient {
        let path = path.as_ref().to_owned();
        let place = Part::standalone(path.to_string_lossy().into_owned());
        SerialClient { path, options, place }
    }
}

impl ClientEndpoint for SerialClient {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        let line = Pipe::serial(&self.path, &self.options);
        match line.and_then(|line| reactor.adopt_pipe(line, factory)) {
            Ok(connecting) => connecting.map(|connection| connection.transport()),
            Err(error) => {
                let path = self.path.display();
                let error = format!("cannot use {path} as a serial line: {}", Plain(&error));
                Deferred::fail(self.place.error(error))
            }
        }
    }
}

pub(super) fn client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let mut options = SerialOptions::default();
    if let Some(speed) = parts.keyword("speed") {
        options = options.speed(speed.number("bits per second", 1, u32::MAX.into())? as u32);
    }
    if let Some(bits) = parts.keyword("bits") {
        options = options.bits(bits.number("bits of a character,", 5, 8)? as u8);
    }
    if let Some(part) = parts.keyword("parity") {
        let known = [Parity::None, Parity::Even, Parity::Odd];
        options = options.parity(one_of(&part, known)?);
    }
    if let Some(stop) = parts.keyword("stop") {
        options = options.stop(stop.number("stop bits,", 1, 2)? as u8);
    }
    if let Some(part) = parts.keyword("flow") {
        let known = [FlowControl::None, FlowControl::Hardware, FlowControl::Software];
        options = options.flow(one_of(&part, known)?);
    }
    let form = parts.form("PATH, a device such as /dev/ttyUSB0");
    let place = parts.positional().ok_or_else(|| parts.missing("path", &form))?;
    if place.text().is_empty() || place.text().contains('\0') {
        return Err(place.error(format!("expected {form}")));
    }
    Ok(Arc::new(SerialClient { path: place.text().into(), options, place }))
}

/// The known value that displays like this part.
fn one_of<T: fmt::Display + Copy>(part: &Part, known: [T; 3]) -> Result<T, EndpointError> {
    let [a, b, c] = known;
    let found = known.into_iter().find(|known| known.to_string() == part.text());
    found.ok_or_else(|| part.error(format!("expected {a}, {b} or {c}")))
}

impl fmt::Display for SerialClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "serial:{}", escaped(&self.path.to_string_lossy()))?;
        let (ours, usual) = (self.options.to_string(), SerialOptions::default().to_string());
        let pairs = ours.split(':').zip(usual.split(':'));
        pairs.filter(|(ours, usual)| ours != usual).try_for_each(|(ours, _)| write!(f, ":{ours}"))
    }
}
