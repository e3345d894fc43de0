//! Looks for mail to send. The fault: it looks all the time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::{LoopingCall, Reactor};

use super::Version;

struct Mail {
    is_due: bool,
}

pub(crate) fn start(reactor: &Reactor, version: Version) {
    let queue: Vec<Mail> = (0..20_000).map(|_| Mail { is_due: false }).collect();
    let queue = Rc::new(RefCell::new(queue));
    let looking = LoopingCall::new(reactor, move || queue.borrow_mut().retain(|mail| !mail.is_due));
    let period = match version {
        Version::Faulty => Duration::ZERO,
        Version::Mended => Duration::from_millis(500),
    };
    looking.start(period).detach();
}
