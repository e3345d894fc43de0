//! `success_of`, `failure_of`, `no_result_yet`: the result of a Deferred, and the message with
//! which a test fails when the Deferred is in another state.

use super::failing;
use couplet::testing::{failure_of, no_result_yet, success_of};
use couplet::{Deferred, Failure};

#[derive(Debug, thiserror::Error)]
#[error("no poem")]
struct NoPoem;

#[derive(Debug, thiserror::Error)]
#[error("no page")]
struct NoPage(#[source] NoPoem);

/// The location of the line before the call.
macro_rules! line_before {
    () => {
        format!("{}:{}:", file!(), line!() - 1)
    };
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn a_value_or_a_failure_is_returned() {
    assert_eq!(success_of(Deferred::succeed(1).map(|n| n + 1)), 2);
    let (later, resolver) = Deferred::<u8>::new();
    resolver.callback(7);
    assert_eq!(success_of(later), 7);
    assert!(failure_of(Deferred::<u8>::fail(NoPoem)).is::<NoPoem>());
    let (later, resolver) = Deferred::<u8>::new();
    let later = later.map(|n| n + 1);
    resolver.errback(NoPoem);
    assert!(failure_of(later).is::<NoPoem>());
}

#[test]
fn success_of_a_failure_reports_its_causes_and_its_location() {
    let failed = Deferred::<u8>::fail(NoPage(NoPoem));
    let place = line_before!();
    let text = failing(|| success_of(failed));
    contains(&text, &["has failed: no page: no poem (began at ", &place]);
    assert_eq!(text.matches(&place).count(), 2, "for the Deferred and for the failure: {text}");
}

#[test]
fn failure_of_a_value_reports_its_type() {
    let fired = Deferred::succeed(vec![1_u8]);
    let place = line_before!();
    let text = failing(|| failure_of(fired));
    contains(&text, &["the Deferred of ", &place, "has fired with a value, a ", "Vec<u8>"]);
}

#[test]
fn a_deferred_that_has_not_fired_has_no_result() {
    let (waiting, resolver) = Deferred::<u8>::new();
    no_result_yet(&waiting);
    let waiting = waiting.map(|n| n);
    let place = line_before!();
    let text = failing(|| success_of(waiting));
    contains(&text, &["the Deferred of ", &place, "has not fired yet"]);
    drop(resolver);
    let (waiting, _resolver) = Deferred::<u8>::new();
    contains(&failing(|| failure_of(waiting)), &["has not fired yet"]);
}

#[test]
fn no_result_yet_reports_a_result_and_leaves_it() {
    let (waiting, resolver) = Deferred::<u8>::new();
    resolver.errback(NoPage(NoPoem));
    let place = line_before!();
    let text = failing(|| no_result_yet(&waiting));
    contains(&text, &["has failed already: no page: no poem (began at ", &place]);
    assert!(failure_of(waiting).is::<NoPage>(), "the result is still there");
    let text = failing(|| no_result_yet(&Deferred::succeed("poem")));
    contains(&text, &["has fired already with a value, a &str"]);
    let failed = Deferred::<u8>::fail(Failure::msg("no poem"));
    contains(&failing(|| no_result_yet(&failed)), &["has failed already: no poem"]);
    assert_eq!(failure_of(failed).to_string(), "no poem");
}
