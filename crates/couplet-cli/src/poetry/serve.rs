//! `couplet poetry serve`.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use couplet::{Address, Factory, Protocol, Shared, Transport};

use crate::cli::Serve;
use crate::exit::Exit;
use crate::poems::{self, Poem};
use crate::server;

/// Bytes written at once, at most.
const PIECE: usize = 64 * 1024;
/// Law 9: what a client that does not read costs us at most.
const WRITE_CAP: usize = 1024 * 1024;

/// How long a client that has the whole poem may stay.
const LEAVE: Duration = Duration::from_secs(30);

/// How a poem is given out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) num_bytes: usize,
    pub(crate) delay: Duration,
}

/// Gives one poem to one client, part by part.
pub(crate) struct PoetryServer {
    rest: Bytes,
    pace: Pace,
    /// Bytes of this part that are still to be written.
    part: usize,
}

impl PoetryServer {
    pub(crate) fn new(poem: &Poem, pace: Pace) -> PoetryServer {
        PoetryServer { rest: poem.text.clone(), pace, part: 0 }
    }

    fn begin_part(&mut self, transport: &Transport) {
        self.part = if self.pace.delay.is_zero() { usize::MAX } else { self.pace.num_bytes };
        self.write_part(transport);
    }

    /// Writes what is left of the part, as far as the client takes it.
    fn write_part(&mut self, transport: &Transport) {
        while self.part > 0 && !self.rest.is_empty() {
            if transport.is_full() {
                let me = transport.connection::<Self>();
                // Whether it drained or was lost: who is lost is not told.
                let go_on = move |_| {
                    me.tell(Self::write_part);
                    Ok(())
                };
                return transport.drained().add_both(go_on).detach();
            }
            let piece = self.rest.split_to(self.rest.len().min(self.part).min(PIECE));
            self.part -= piece.len();
            transport.write_bytes(piece);
        }
        if self.rest.is_empty() {
            transport.lose_write_connection();
        } else {
            transport.connection::<Self>().call_later(self.pace.delay, Self::begin_part);
        }
    }
}

impl Protocol for PoetryServer {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_write_cap(Some(WRITE_CAP));
        // Who reads slowly is not cut.
        transport.set_close_deadline(None);
        self.begin_part(transport);
    }

    /// Poets do not listen.
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    /// Who has no more to say may still listen.
    fn read_closed(&mut self, _: &Transport) {}

    /// The poem is out. Who does not leave now is left.
    fn write_closed(&mut self, transport: &Transport) {
        transport.set_close_deadline(Some(LEAVE));
        transport.lose_connection();
    }
}

/// Gives each client the next poem.
pub(crate) struct Anthology {
    poems: Rc<[Poem]>,
    next: usize,
    pace: Pace,
}

impl Anthology {
    pub(crate) fn new(poems: Vec<Poem>, pace: Pace) -> Anthology {
        Anthology { poems: poems.into(), next: 0, pace }
    }
}

impl Factory for Anthology {
    type Protocol = PoetryServer;

    fn build_protocol(&mut self, peer: &Address) -> Option<PoetryServer> {
        let poem = &self.poems[self.next];
        self.next = (self.next + 1) % self.poems.len();
        tracing::info!(%peer, title = %poem.title, "a client gets a poem");
        Some(PoetryServer::new(poem, self.pace))
    }
}

pub(crate) fn run(options: Serve) -> Result<(), Exit> {
    let poems = poems::load(&options.files)?;
    let num_bytes = usize::try_from(options.num_bytes).unwrap_or(usize::MAX);
    let anthology = Shared::new(Anthology::new(poems, Pace { num_bytes, delay: options.delay }));
    server::run(options.listen, anthology)
}
