//! Checks on a Deferred's result: [`success_of`], [`failure_of`] and [`no_result_yet`]. Twisted's
//! `successResultOf`, `failureResultOf` and `assertNoResult`.

use std::any::type_name;
use std::cell::RefCell;
use std::rc::Rc;

use crate::defer::{Deferred, Failure, Result};
use crate::internals::describe_failure;

/// Returns the value of a Deferred that has fired. Twisted's `successResultOf`.
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::Deferred;
/// use couplet::testing::success_of;
///
/// let poem = Deferred::succeed("a door in the hill").map(str::len);
/// assert_eq!(success_of(poem), 18);
/// ```
///
/// # Panics
///
/// If it has not fired, or has failed; the message contains the failure and its place.
#[track_caller]
pub fn success_of<T: 'static>(deferred: Deferred<T>) -> T {
    let name = describe_deferred(&deferred);
    match result_of(deferred) {
        Some(Ok(value)) => value,
        Some(Err(failure)) => panic!("{name} has failed: {}", describe_failure(&failure)),
        None => panic!("{name} has not fired yet"),
    }
}

/// Returns the failure of a Deferred that has failed. Twisted's `failureResultOf`.
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::Deferred;
/// use couplet::testing::failure_of;
///
/// let poem = Deferred::succeed("a door").add_callback(|poem| Ok(poem.parse::<u16>()?));
/// assert!(failure_of(poem).is::<std::num::ParseIntError>());
/// ```
///
/// # Panics
///
/// If it has not fired, or has fired with a value.
#[track_caller]
pub fn failure_of<T: 'static>(deferred: Deferred<T>) -> Failure {
    let name = describe_deferred(&deferred);
    match result_of(deferred) {
        Some(Err(failure)) => failure,
        Some(Ok(_)) => panic!("{name} has fired with a value, a {}", type_name::<T>()),
        None => panic!("{name} has not fired yet"),
    }
}

/// Asserts that `deferred` has not fired. Unlike Twisted's `assertNoResult`, it leaves the Deferred
/// unchanged: a later failure still reaches its handler.
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::Deferred;
/// use couplet::testing::no_result_yet;
///
/// let (poem, resolver) = Deferred::<String>::new();
/// no_result_yet(&poem);
/// resolver.callback("a door in the hill".to_owned());
/// assert!(poem.has_fired());
/// ```
///
/// # Panics
///
/// If it has fired; after a failure, the message contains the failure and its place.
#[track_caller]
pub fn no_result_yet<T: 'static>(deferred: &Deferred<T>) {
    if !deferred.has_fired() {
        return;
    }
    let name = describe_deferred(deferred);
    match deferred.failure() {
        Some(failure) => panic!("{name} has failed already: {}", describe_failure(&failure)),
        None => panic!("{name} has fired already with a value, a {}", type_name::<T>()),
    }
}

fn describe_deferred<T>(deferred: &Deferred<T>) -> String {
    match deferred.place() {
        Some(place) => format!("the Deferred of {place}"),
        None => "the Deferred".to_owned(),
    }
}

fn result_of<T: 'static>(deferred: Deferred<T>) -> Option<Result<T>> {
    let result = Rc::new(RefCell::new(None));
    let slot = result.clone();
    deferred
        .add_both(move |fired| {
            *slot.borrow_mut() = Some(fired);
            Ok(())
        })
        .detach();
    result.take()
}
