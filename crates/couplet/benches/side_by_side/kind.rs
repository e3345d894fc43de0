//! The kinds of servers, and how this program becomes one.

use std::fmt::{self, Display};
use std::str::FromStr;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{ours, peer_mio, peer_raw, peer_tokio};

/// A server's make, with the size of its read buffer in KiB where that can be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Raw(usize),
    Tokio(usize),
    Mio(usize),
    /// The program's own: `couplet echo`.
    Couplet,
    /// A `LineReceiver` with what a server on the open net has.
    CoupletLines,
    Twisted,
}

/// The buffer of a kind that is named without a size, in KiB.
const USUAL: usize = 16;

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, size) = match *self {
            Kind::Raw(size) => ("raw", size),
            Kind::Tokio(size) => ("tokio", size),
            Kind::Mio(size) => ("mio", size),
            Kind::Couplet => ("couplet", USUAL),
            Kind::CoupletLines => ("couplet-lines", USUAL),
            Kind::Twisted => ("twisted", USUAL),
        };
        match size {
            USUAL => f.write_str(name),
            size => write!(f, "{name}-{size}k"),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        if text == "couplet-lines" {
            return Ok(Kind::CoupletLines);
        }
        let (name, size) = text.split_once('-').unwrap_or((text, "16k"));
        let size = size.strip_suffix('k').and_then(|size| size.parse().ok());
        match (name, size.filter(|size| (1..=65536).contains(size))) {
            ("raw", Some(size)) => Ok(Kind::Raw(size)),
            ("tokio", Some(size)) => Ok(Kind::Tokio(size)),
            ("mio", Some(size)) => Ok(Kind::Mio(size)),
            ("couplet", _) if text == name => Ok(Kind::Couplet),
            ("twisted", _) if text == name => Ok(Kind::Twisted),
            _ => Err(format!(
                "no server {text:?}; there are raw, tokio, mio (with a buffer of 16 KiB, or \
                 another as in raw-64k), couplet, couplet-lines and twisted"
            )),
        }
    }
}

/// How a server is to run: given on its command line.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Manner {
    /// Close each connection once its first message is echoed.
    pub(crate) close_first: bool,
    /// The processor to stay on.
    pub(crate) cpu: Option<usize>,
    /// Let everything else on that processor run first.
    pub(crate) meek: bool,
}

impl Manner {
    /// Runs so from now on, and with it the processes that it starts.
    pub(crate) fn apply(self) -> crate::Result<()> {
        if let Some(cpu) = self.cpu {
            pin(cpu)?;
        }
        if self.meek {
            rustix::process::nice(19)?;
        }
        Ok(())
    }
}

/// Becomes a server of that kind; returns only with an error.
pub(crate) fn serve(kind: Kind, manner: Manner) -> crate::Result<()> {
    // Whoever started it ends it; this is for the case that they were killed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let ready = |address: &dyn Display| println!("listening on {address}");
    let close_first = manner.close_first;
    match kind {
        Kind::Raw(size) => peer_raw::serve(size << 10, close_first, ready)?,
        Kind::Tokio(size) => peer_tokio::serve(size << 10, close_first, ready)?,
        Kind::Mio(size) => peer_mio::serve(size << 10, close_first, ready)?,
        Kind::Couplet => ours::serve_one(ready).map_err(|error| error.to_string())?,
        Kind::CoupletLines => ours::serve_lines(ready).map_err(|error| error.to_string())?,
        Kind::Twisted => return Err("twisted runs in Python, not here".into()),
    }
    Ok(())
}

/// Keeps the calling thread, and the processes that it starts, on one processor.
pub(crate) fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
