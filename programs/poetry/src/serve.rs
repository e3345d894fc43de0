//! `poetry serve`: sends each client the next poem, without a request.
//!
//! Contract: 71.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use couplet::transport::Timeout;
use couplet::{Address, Factory, Protocol, SocketOption, Transport};

use crate::catalogue::Catalogue;
use crate::exit::Exit;
use crate::marks;
use crate::named;
use crate::poems::{self, Poem};
use crate::recital::{Next, Pace, Recital};
use crate::server::{Listen, Server, Threads, listening};
use crate::values::{one_or_more, or_never, seconds_or_none};

/// Law 9: the most bytes buffered for a client that does not read.
const WRITE_CAP: usize = 1024 * 1024;

/// How long a client that has the whole poem may stay connected.
const LEAVE: Duration = Duration::from_secs(30);

/// The end of the stream that a client sees if the server is killed in mid-poem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KillEnd {
    Reset,
    /// A FIN, which makes a truncated poem look whole.
    Fin,
}

/// Sends one poem to one client, part by part.
#[derive(Debug)]
pub struct PoetryServer {
    recital: Recital,
    kill_end: KillEnd,
}

impl PoetryServer {
    fn send_more(&mut self, transport: &Transport) {
        let me = transport.connection::<Self>();
        match self.recital.send_more(transport) {
            Next::Drained => {
                // Drained or lost; for a lost connection the call does nothing.
                let send_more = move |_| {
                    me.tell(Self::send_more);
                    Ok(())
                };
                transport.writable().add_both(send_more).detach();
            }
            Next::Later(delay) => {
                me.call_later(delay, |me, transport| {
                    me.recital.begin_part();
                    me.send_more(transport);
                });
            }
            Next::Over => transport.lose_write_connection(),
        }
    }
}

impl Protocol for PoetryServer {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_write_cap(Some(WRITE_CAP));
        marks::be_patient(transport);
        transport.set_option(SocketOption::ResetUnlessClosed(self.kill_end == KillEnd::Reset));
        self.send_more(transport);
    }

    /// Ignores received bytes: the poem needs no request.
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    /// A client that has shut down its write side may still read.
    fn read_closed(&mut self, _: &Transport) {}

    /// Called when the poem has been sent; bounds how long the client may stay.
    fn write_closed(&mut self, transport: &Transport) {
        transport.set_timeout(Timeout::Fin, Some(LEAVE));
        transport.lose_connection();
    }
}

/// Serves each client the next poem; clones share the position.
#[derive(Clone, Debug)]
pub struct Anthology {
    poems: Arc<[Poem]>,
    /// Number of poems served by all clones.
    served: Arc<AtomicUsize>,
    pace: Pace,
    kill_end: KillEnd,
}

impl Anthology {
    /// Serves these poems in turn, at this pace.
    pub fn new(poems: Vec<Poem>, pace: Pace) -> Anthology {
        Anthology { poems: poems.into(), served: Arc::default(), pace, kill_end: KillEnd::Reset }
    }

    /// Disables the reset: if the server is killed, the kernel sends a FIN.
    pub fn naive(self) -> Anthology {
        Anthology { kill_end: KillEnd::Fin, ..self }
    }
}

impl Factory for Anthology {
    type Protocol = PoetryServer;

    fn build_protocol(&mut self, peer: &Address) -> Option<PoetryServer> {
        let poem = &self.poems[self.served.fetch_add(1, Ordering::Relaxed) % self.poems.len()];
        tracing::info!(%peer, title = %poem.title, "serving a poem");
        let recital = Recital::new(poem.text.clone(), self.pace);
        Some(PoetryServer { recital, kill_end: self.kill_end })
    }
}

const EXAMPLE: &str = listening!(
    "  poetry serve ecstasy.txt --listen 10000 --delay 0.1
  couplet connect 10000

or by name:
  poetry serve ecstasy.txt --by-name --listen 10000
  poetry get 10000 --name ecstasy
  couplet connect 10000    then type ecstasy, or an empty line for the titles"
);

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
#[expect(missing_docs, reason = "it would become the help of the command")]
pub struct Serve {
    /// Files with one poem each; each client gets the next [default: built-in poems]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    threads: Threads,
    /// Serve poems on request: for each, the client sends a line with its title, which is the
    /// file's name without the extension; case does not matter
    #[arg(long)]
    by_name: bool,
    /// Seconds between the parts of a poem; 0 means full speed
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "0.7",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    delay: Duration,
    /// Bytes in a part
    #[arg(
        long,
        value_name = "N",
        default_value = "10",
        value_parser = one_or_more,
        allow_negative_numbers = true
    )]
    num_bytes: u64,
    /// With --by-name, close a connection that sends nothing for this many seconds while no answer
    /// is in progress; 0 waits forever
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "300",
        value_parser = seconds_or_none,
        allow_negative_numbers = true,
        requires = "by_name"
    )]
    idle_timeout: Duration,
}

pub(crate) fn run(options: Serve) -> Result<(), Exit> {
    server(options)?.run()
}

/// The server with these options.
///
/// # Errors
///
/// If a poem can't be read, or two have the same title.
pub fn server(options: Serve) -> Result<Server, Exit> {
    let poems = poems::load(&options.files)?;
    let num_bytes = usize::try_from(options.num_bytes).unwrap_or(usize::MAX);
    let pace = Pace { num_bytes, delay: options.delay };
    if options.by_name {
        let catalogue = Catalogue::new(poems).map_err(Exit::bad_usage)?;
        let idle_timeout = or_never(options.idle_timeout);
        return Ok(Server::of_factory(options.listen, options.threads, move || {
            named::factory(catalogue.clone(), pace, idle_timeout)
        }));
    }
    let anthology = Anthology::new(poems, pace);
    Ok(Server::of_factory(options.listen, options.threads, move || anthology.clone()))
}

#[cfg(test)]
mod tests {
    use couplet::testing::{Held, hold};

    use super::*;
    use crate::held::read_late;
    use crate::marks::SLOW_READER;

    /// A client of a server with a poem of `length` bytes.
    fn client(length: usize) -> Held<PoetryServer> {
        let text = "x".repeat(length).into();
        let recital = Recital::new(text, Pace::FULL_SPEED);
        hold(PoetryServer { recital, kill_end: KillEnd::Reset })
    }

    #[test]
    fn a_late_reader_is_not_cut() {
        for (length, has_finished) in
            [10_000, 80_000, 130_000, 500_000].into_iter().flat_map(|n| [(n, false), (n, true)])
        {
            let mut held = client(length);
            if has_finished {
                held.wire.fin();
            }
            assert_eq!(read_late(&mut held), length);
        }
    }

    #[test]
    fn a_client_that_never_reads_the_rest_is_cut_in_the_end() {
        let mut held = client(80_000);
        held.advance(SLOW_READER / 2);
        assert!(!held.wire.saw_reset());
        held.advance(SLOW_READER);
        assert!(held.wire.saw_reset());
    }

    #[test]
    fn a_client_that_stays_after_the_whole_poem_is_closed_after_30_s() {
        let mut held = client(10_000);
        assert_eq!(held.wire.take().len(), 10_000);
        assert!(held.wire.saw_fin());
        held.advance(Duration::from_secs(29));
        assert!(!held.wire.is_closed());
        held.advance(Duration::from_secs(1));
        assert!(held.wire.is_closed());
    }
}
