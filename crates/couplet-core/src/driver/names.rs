//! Name lookups through the system's `getaddrinfo`, which blocks and can't be cancelled.
//!
//! Lookups have their own pool, so slow ones delay nothing else. Law 9: at most [`QUEUE`] lookups
//! are queued; further ones are refused.
//!
//! Contract: 142.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::task::Waker;

use super::pool::{IDLE, Pool, PoolSpec};

const THREADS: usize = 4;
const QUEUE: usize = 1000;

pub(super) type Names = Pool<String, io::Result<Vec<IpAddr>>>;

/// The pool that looks up names.
pub(super) fn names(waker: Waker) -> Names {
    let work = PoolSpec {
        name: "couplet-names",
        threads: THREADS,
        idle: IDLE,
        queue: QUEUE,
        run: look_up,
        refuse: Err,
    };
    Pool::new(work, waker)
}

#[expect(clippy::needless_pass_by_value, reason = "the pool passes its questions by value")]
#[expect(clippy::disallowed_methods, reason = "the one place that may block on a name")]
fn look_up(name: String) -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in (name.as_str(), 0).to_socket_addrs()? {
        if !found.contains(&address.ip()) {
            found.push(address.ip());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Ticket;

    #[test]
    fn localhost_resolves_to_loopback_addresses() {
        let found = look_up("localhost".into()).unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback));
    }

    #[test]
    fn addresses_of_either_family_are_found() {
        for text in ["127.0.0.1", "10.1.2.3", "::1", "fd00::7", "::ffff:10.1.2.3"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(look_up(text.into()).unwrap(), [address]);
        }
    }

    #[test]
    fn lookups_that_the_queue_does_not_hold_are_refused() {
        let names = names(Waker::noop().clone());
        // Four threads can't look up this many names while they are submitted.
        (0..50_000).for_each(|number| names.submit(Ticket(number), "localhost".into()));
        let answers = std::iter::from_fn(|| names.next());
        let refused = |answer: &io::Result<Vec<IpAddr>>| {
            answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::QuotaExceeded)
        };
        assert!(answers.filter(|(_, answer)| refused(answer)).count() > QUEUE);
    }

    #[test]
    fn a_text_that_can_be_no_name_is_an_error() {
        assert_eq!(look_up("a\0b".into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
