//! The TLS of [`B`](super::peer::B), for a kit whose connections are encrypted: what B sends and takes
//! passes through a layer of the library, driven by hand.

use std::cell::RefCell;
use std::ops::ControlFlow::Continue;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Instant;

use couplet::layers::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions, Tls};
use couplet::layers::{Layers, Outbox, Up};

use super::peer::{Far, Saw};
use crate::secure::NAME;
use crate::secure::authority::Authority;

static BOTH: LazyLock<(ServerTls, ClientTls)> = LazyLock::new(|| {
    let authority = Authority::new();
    let server = ServerTlsOptions::default().identity(authority.identity(NAME));
    let client = ClientTlsOptions::default().roots(authority.roots());
    let client = ClientTls::new(&client).expect("a configuration that works");
    (ServerTls::new(&server).expect("a configuration that works"), client)
});

/// Most bytes that wait for the handshake.
const EARLY: usize = 64 * 1024;

/// A layer for one end of a connection.
pub(crate) fn tls(is_server: bool, now: Instant) -> Tls {
    match is_server {
        true => BOTH.0.layer(now),
        false => BOTH.1.layer(NAME, now).expect("a good name"),
    }
}

/// The handshakes of a rig's peers, which go on in its turns.
#[derive(Clone, Default)]
pub(crate) struct Seals(Rc<RefCell<Vec<Rc<Seal>>>>);

impl Seals {
    pub(crate) fn add(
        &self,
        end: Rc<RefCell<Option<Far>>>,
        is_server: bool,
        now: Instant,
    ) -> Rc<Seal> {
        let layers = Layers::new(tls(is_server, now), &Rc::default());
        let (above, plain) = (Outbox::new(Rc::default()), Vec::new());
        let state =
            State { layers, above, plain, now, ended: false, end: End::Open, saw: Saw::Open };
        let seal = Rc::new(Seal { end, state: RefCell::new(state) });
        self.0.borrow_mut().push(seal.clone());
        seal.pump();
        seal
    }

    pub(crate) fn pump(&self) {
        self.0.borrow().iter().for_each(|seal| seal.pump());
    }
}

/// TLS on one connection of B.
pub(crate) struct Seal {
    end: Rc<RefCell<Option<Far>>>,
    state: RefCell<State>,
}

struct State {
    layers: Layers,
    above: Outbox,
    /// Came before B asked for it.
    plain: Vec<u8>,
    now: Instant,
    /// The peer has closed, or the stream cannot go on.
    ended: bool,
    end: End,
    /// The end of the stream, where the handshake has met it.
    saw: Saw,
}

/// What follows what is still to be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Fin,
    Close,
}

impl Seal {
    fn pump(&self) {
        let end = self.end.borrow();
        let (Some(far), mut state) = (&*end, self.state.borrow_mut()) else { return };
        state.flush(far);
        if state.end == End::Close && state.is_flushed() {
            // What is unread would make it a reset.
            while !far.take(64 * 1024).0.is_empty() {}
            drop(end);
            return Far::close(self.end.take());
        }
        while !state.layers.is_open() && !state.ended {
            let (bytes, saw) = far.take(64 * 1024);
            state.rise(&bytes);
            state.flush(far);
            if state.saw == Saw::Open {
                state.saw = saw;
            }
            if bytes.is_empty() {
                break;
            }
        }
    }

    /// Sends as much as fits in the buffers, and at most one record that does not.
    pub(crate) fn send(&self, far: &Far, data: &[u8]) -> usize {
        let mut state = self.state.borrow_mut();
        if !state.layers.is_open() {
            // Behind the handshake.
            let room = EARLY.saturating_sub(state.above.len()).min(data.len());
            state.above.extend(&data[..room]);
            return room;
        }
        let mut sent = 0;
        for piece in data.chunks(16 * 1024) {
            state.flush(far);
            if !state.is_flushed() {
                break;
            }
            state.above.extend(piece);
            sent += piece.len();
        }
        state.flush(far);
        sent
    }

    /// Takes what `n` bytes of the wire contain, or more bytes as long as they contain nothing.
    pub(crate) fn take(&self, far: &Far, n: usize) -> (Vec<u8>, Saw) {
        let mut state = self.state.borrow_mut();
        loop {
            if !state.plain.is_empty() {
                return (std::mem::take(&mut state.plain), Saw::Open);
            }
            let (bytes, saw) = far.take(n);
            state.rise(&bytes);
            state.flush(far);
            if bytes.is_empty() && state.plain.is_empty() {
                return (Vec::new(), if state.saw == Saw::Open { saw } else { state.saw });
            }
        }
    }

    /// A close_notify and a FIN, behind what is still to be sent.
    pub(crate) fn fin(&self, far: &Far) {
        let mut state = self.state.borrow_mut();
        state.end = End::Fin;
        state.flush(far);
    }

    /// As [`fin`](Self::fin), and then a close, also if that has to wait for the handshake.
    pub(crate) fn close(&self) {
        self.state.borrow_mut().end = End::Close;
        self.pump();
    }

    /// B is gone.
    pub(crate) fn drop_end(&self) {
        if self.state.borrow().end != End::Close {
            self.end.take();
        }
    }
}

impl State {
    fn rise(&mut self, bytes: &[u8]) {
        let State { layers, plain, ended, .. } = self;
        let _ = layers.feed(bytes, self.now, |up| {
            match up {
                Up::Data(data) => plain.extend_from_slice(data),
                Up::Closed | Up::Failed(_) => *ended = true,
                _ => {}
            }
            Continue(())
        });
    }

    fn is_flushed(&mut self) -> bool {
        self.above.is_empty() && self.layers.held() == 0
    }

    fn flush(&mut self, far: &Far) {
        loop {
            match self.end != End::Open && self.layers.is_open() {
                true => drop(self.layers.close(&mut self.above, self.now)),
                false => self.layers.down(&mut self.above, self.now),
            }
            let bottom = self.layers.bottom();
            let sent = if bottom.is_empty() { Some(0) } else { far.send(bottom.first()) };
            if sent.is_none() && self.saw == Saw::Open {
                self.saw = Saw::Reset;
            }
            let sent = sent.unwrap_or(0);
            bottom.advance(sent);
            if sent == 0 {
                break;
            }
        }
        if self.end != End::Open && self.layers.is_open() && self.is_flushed() {
            far.fin();
        }
    }
}
