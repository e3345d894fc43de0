//! The TLS of [`B`](super::peer::B), for a kit with encrypted connections: B sends and reads
//! through [`Sealed`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Instant;

use couplet::layers::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions, Tls};

use super::peer::Far;
use crate::authority::Authority;
use crate::sealed::{Raw, Saw, Sealed};

/// The name in their certificates.
pub const NAME: &str = "couplet.test";

static BOTH: LazyLock<(ServerTls, ClientTls)> = LazyLock::new(|| {
    let authority = Authority::new();
    let server = ServerTlsOptions::new(authority.identity(NAME));
    let client = ClientTlsOptions::default().roots(authority.roots());
    let client = ClientTls::new(&client).expect("a configuration that works");
    (ServerTls::new(&server).expect("a configuration that works"), client)
});

/// A layer for one end of a connection.
pub fn tls(is_server: bool, now: Instant) -> Tls {
    match is_server {
        true => BOTH.0.layer(now),
        false => BOTH.1.layer(NAME, now).expect("a good name"),
    }
}

/// The configuration of the end that waits for a ClientHello.
pub fn server() -> &'static ServerTls {
    &BOTH.0
}

/// The handshakes of a rig's peers, which continue in its turns.
#[derive(Clone, Default)]
pub struct Seals(Rc<RefCell<Vec<Rc<Seal>>>>);

impl Seals {
    pub fn add(&self, end: Rc<RefCell<Option<Far>>>, is_server: bool, now: Instant) -> Rc<Seal> {
        let sealed = RefCell::new(Sealed::new(tls(is_server, now), now));
        let seal = Rc::new(Seal { end, sealed, closes: Cell::new(false) });
        self.0.borrow_mut().push(seal.clone());
        seal.pump();
        seal
    }

    pub fn pump(&self) {
        self.0.borrow().iter().for_each(|seal| seal.pump());
    }
}

/// TLS on one connection of B.
pub struct Seal {
    end: Rc<RefCell<Option<Far>>>,
    sealed: RefCell<Sealed>,
    /// B has closed; its socket closes after the unsent bytes.
    closes: Cell<bool>,
}

impl Seal {
    fn pump(&self) {
        let end = self.end.borrow();
        let (Some(far), mut sealed) = (&*end, self.sealed.borrow_mut()) else { return };
        if self.closes.get() {
            sealed.fin(far);
            if sealed.is_flushed() {
                // Unread bytes would turn the close into a reset.
                while !far.take(64 * 1024).0.is_empty() {}
                drop(end);
                return Far::close(self.end.take());
            }
        }
        sealed.pump(far);
    }

    /// As [`Sealed::send`].
    pub fn send(&self, far: &Far, data: &[u8]) -> usize {
        self.sealed.borrow_mut().send(far, data)
    }

    /// As [`Sealed::take`].
    pub fn take(&self, far: &Far, n: usize) -> (Vec<u8>, Saw) {
        self.sealed.borrow_mut().take(far, n)
    }

    /// As [`Sealed::fin`].
    pub fn fin(&self, far: &Far) {
        self.sealed.borrow_mut().fin(far);
    }

    /// As [`fin`](Self::fin), then closes, after the handshake if necessary.
    pub fn close(&self) {
        self.closes.set(true);
        self.pump();
    }

    /// B was dropped.
    pub fn drop_end(&self) {
        if !self.closes.get() {
            self.end.take();
        }
    }
}
