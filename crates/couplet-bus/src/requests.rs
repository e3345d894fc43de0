//! Requests and their replies, through one subscription to `_INBOX.<random>.*`.
//!
//! Contract: 203.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use couplet_core::{Deferred, Resolver};

use crate::core::Core;
use crate::error::RequestError;
use crate::message::Message;
use crate::subject::{Pattern, SubjectError};

/// The status of a reply that a server sends if nothing is subscribed to the subject.
pub(crate) const NO_RESPONDERS: u16 = 503;

#[derive(Clone)]
pub(crate) struct Requests {
    pending: Rc<Pending>,
    /// The subscription to the replies.
    subscription: u64,
}

struct Pending {
    inbox: String,
    last: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Resolver<Message>>>,
}

impl Requests {
    /// Subscribes to the replies, for the life of the bus.
    pub(crate) fn new(core: &Core) -> Result<Requests, SubjectError> {
        let inbox = format!("_INBOX.{}", core.unique());
        let pattern = Pattern::new(format!("{inbox}.*"));
        let pending = Rc::new(Pending { inbox, last: Cell::new(0), waiting: RefCell::default() });
        let receiving = Rc::downgrade(&pending);
        let subscription = core.subscribe(pattern, move |reply| {
            if let Some(pending) = receiving.upgrade() {
                pending.receive(reply);
            }
        })?;
        Ok(Requests { pending, subscription })
    }

    pub(crate) fn subscription(&self) -> u64 {
        self.subscription
    }

    #[track_caller]
    pub(crate) fn send(&self, core: &Core, message: Message) -> Deferred<Message> {
        let id = self.pending.last.get() + 1;
        self.pending.last.set(id);
        let message = message.reply_to(format!("{}.{id}", self.pending.inbox));
        if let Err(error) = core.publish(&message) {
            return Deferred::fail(error);
        }
        let pending: Weak<Pending> = Rc::downgrade(&self.pending);
        let (replied, waiting) = Deferred::with_canceller(move |_| {
            drop(pending.upgrade().and_then(|pending| pending.waiting.borrow_mut().remove(&id)));
        });
        self.pending.waiting.borrow_mut().insert(id, waiting);
        replied
    }
}

impl Pending {
    fn receive(&self, reply: Message) {
        let id = reply.subject().rsplit('.').next().and_then(|token| token.parse::<u64>().ok());
        // Unknown: the request has timed out, or got another reply.
        let waiting = id.and_then(|id| self.waiting.borrow_mut().remove(&id));
        let Some(waiting) = waiting else { return };
        match reply.status() == Some(NO_RESPONDERS) && reply.payload().is_empty() {
            true => waiting.errback(RequestError::NoResponders),
            false => waiting.callback(reply),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        for (_, waiting) in self.waiting.take() {
            waiting.errback(RequestError::Closed);
        }
    }
}
