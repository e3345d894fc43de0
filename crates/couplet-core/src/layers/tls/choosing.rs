//! Choosing a server's certificate after the ClientHello has arrived, perhaps asynchronously.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::Identity;
use super::engine::hello::HelloReader;
use crate::defer::{Deferred, Result};
use crate::layers::LayerWaker;

/// The contents of a ClientHello, which is sent before anything is encrypted, so all of them may be
/// forged. For [`Tls::choosing`](super::Tls::choosing).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientHello {
    /// The requested host name (SNI), in lower case.
    pub server_name: Option<String>,
    /// The offered application protocols (ALPN), in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// The offered cipher suites, by their IANA numbers.
    pub cipher_suites: Vec<u16>,
}

pub(super) type Choose = Box<dyn FnOnce(&ClientHello) -> Deferred<Identity>>;

/// The progress of the choice.
pub(super) enum Choosing {
    /// The ClientHello is incomplete.
    Reading(HelloReader, Choose),
    Waiting(PendingCertificate),
}

impl Choosing {
    pub(super) fn new(choose: Choose) -> Choosing {
        Choosing::Reading(HelloReader::default(), choose)
    }
}

/// A requested certificate. Dropping it cancels the request.
pub(super) struct PendingCertificate {
    pub(super) server_name: Option<String>,
    outcome: Rc<RefCell<Option<Result<Identity>>>>,
    deferred: Deferred<()>,
}

impl PendingCertificate {
    pub(super) fn request(
        choose: Choose,
        hello: ClientHello,
        waker: Option<LayerWaker>,
    ) -> PendingCertificate {
        let outcome = Rc::new(RefCell::new(None));
        let chosen = outcome.clone();
        let deferred = choose(&hello).add_both(move |result| {
            *chosen.borrow_mut() = Some(result);
            waker.iter().for_each(LayerWaker::wake);
            Ok(())
        });
        PendingCertificate { server_name: hello.server_name, outcome, deferred }
    }

    /// The certificate or the failure, once the Deferred has fired.
    pub(super) fn take(&self) -> Option<Result<Identity>> {
        self.outcome.borrow_mut().take()
    }
}

impl Drop for PendingCertificate {
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
