//! A server's certificate that is chosen when the ClientHello has arrived, perhaps later.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::Identity;
use super::engine::hello::HelloReader;
use crate::defer::{Deferred, Result};
use crate::layers::LayerWaker;

/// What a client has said about itself and its wishes, before anything is encrypted: all of it may
/// be invented. For [`Tls::choosing`](super::Tls::choosing).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientHello {
    /// The name that it asks for (SNI), in lower case.
    pub server_name: Option<String>,
    /// The application protocols that it speaks (ALPN), the preferred one first.
    pub alpn: Vec<Vec<u8>>,
    /// The cipher suites, by their numbers in the registry of IANA.
    pub cipher_suites: Vec<u16>,
}

pub(super) type Choose = Box<dyn FnOnce(&ClientHello) -> Deferred<Identity>>;

/// How far the choice is.
pub(super) enum Choosing {
    /// The ClientHello is not complete.
    Reading(HelloReader, Choose),
    Waiting(Waiting),
}

impl Choosing {
    pub(super) fn new(choose: Choose) -> Choosing {
        Choosing::Reading(HelloReader::default(), choose)
    }
}

/// The certificate was asked for. Dropping it cancels the question.
pub(super) struct Waiting {
    pub(super) server_name: Option<String>,
    outcome: Rc<RefCell<Option<Result<Identity>>>>,
    deferred: Deferred<()>,
}

impl Waiting {
    pub(super) fn ask(choose: Choose, hello: ClientHello, waker: Option<LayerWaker>) -> Waiting {
        let outcome = Rc::new(RefCell::new(None));
        let chosen = outcome.clone();
        let deferred = choose(&hello).add_both(move |result| {
            *chosen.borrow_mut() = Some(result);
            waker.iter().for_each(LayerWaker::wake);
            Ok(())
        });
        Waiting { server_name: hello.server_name, outcome, deferred }
    }

    /// The certificate, or why there is none, once the Deferred has fired.
    pub(super) fn take(&self) -> Option<Result<Identity>> {
        self.outcome.borrow_mut().take()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.deferred.cancel();
    }
}

impl fmt::Debug for Choosing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Choosing::Reading(..) => "Reading",
            Choosing::Waiting(_) => "Waiting",
        })
    }
}
