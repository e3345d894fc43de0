//! `list`, `gather`, `race`, `first_of`: contract 121-124a.

use std::cell::RefCell;
use std::rc::Rc;

use couplet_defer::defer::{
    AllFailed, Cancelled, Canceller, Deferred, Empty, Failure, FirstError, Resolver, first_of,
    gather, gather_consuming, list, race,
};

use couplet_testkit::defer_witness::{Log, given, unhandled_in};

fn members<T: 'static>(count: usize) -> (Vec<Deferred<T>>, Vec<Option<Resolver<T>>>) {
    (0..count).map(|_| Deferred::new()).map(|(d, r)| (d, Some(r))).unzip()
}

fn cancelled<T>(resolvers: &[Option<Resolver<T>>]) -> Vec<bool> {
    resolvers.iter().flatten().map(Resolver::is_cancelled).collect()
}

#[test]
fn c121_a_list_gives_results_in_the_order_of_its_members() {
    let (deferreds, mut fire) = members::<u8>(3);
    let given = given(list(deferreds));
    fire[2].take().unwrap().callback(2);
    fire[0].take().unwrap().callback(0);
    assert!(given.is_none());
    fire[1].take().unwrap().errback(Failure::msg("one"));
    let results = given.take().unwrap();
    let texts: Vec<_> = results.iter().map(|r| r.as_ref().map_err(|f| f.to_string())).collect();
    assert_eq!(texts, [Ok(&0), Err("one".to_owned()), Ok(&2)]);
}

#[test]
fn c121_empty_groups_fire_at_once() {
    assert!(given(list::<u8>([])).take().unwrap().is_empty());
    assert!(given(gather::<u8>([])).take().unwrap().is_empty());
    assert!(given(gather_consuming::<u8>([])).take().unwrap().is_empty());
    assert!(given(race::<u8>([])).take().unwrap_err().is::<Empty>());
    assert!(given(first_of::<u8>([])).take().unwrap_err().is::<Empty>());
}

#[test]
fn c121_members_that_have_fired_count() {
    let (pending, resolver) = Deferred::<u8>::new();
    let given = given(gather([Deferred::succeed(1), pending, Deferred::succeed(3)]));
    resolver.callback(2);
    assert_eq!(given.take().unwrap(), [1, 2, 3]);
}

#[test]
fn c122_a_gather_fails_with_the_first_error_and_the_others_keep_running() {
    let (mut deferreds, mut fire) = members::<u8>(3);
    let log = Log::default();
    let in_last = log.clone();
    let last = deferreds.pop().unwrap().map(move |n| {
        in_last.say("still runs");
        n
    });
    deferreds.push(last);
    let given = given(gather(deferreds));
    fire[1].take().unwrap().errback(Failure::msg("one"));
    let failure = given.take().unwrap_err();
    assert_eq!(format!("{failure:#}"), "member 1 failed: one");
    assert_eq!(failure.downcast_ref::<FirstError>().unwrap().index, 1);
    assert_eq!(cancelled(&fire), [false, false]);
    fire[2].take().unwrap().callback(2);
    assert_eq!(log.lines(), ["still runs"]);
}

#[test]
fn c122_later_failures_of_a_gather_are_reported_unless_consumed() {
    let run = |group: fn(Vec<Deferred<u8>>) -> Deferred<Vec<u8>>, handled: bool| {
        unhandled_in(|| {
            let (deferreds, fire) = members::<u8>(3);
            let whole = group(deferreds);
            let whole = if handled { whole.add_errback(|_| Ok(vec![])) } else { whole };
            whole.detach();
            for (index, resolver) in fire.into_iter().flatten().enumerate() {
                resolver.errback(Failure::msg(index));
            }
        })
    };
    assert_eq!(run(|d| gather(d), false), ["member 0 failed: 0", "1", "2"]);
    assert_eq!(run(|d| gather(d), true), ["1", "2"]);
    assert_eq!(run(|d| gather_consuming(d), false), ["member 0 failed: 0"]);
    assert_eq!(run(|d| gather_consuming(d), true), [""; 0]);
}

#[test]
fn c123_cancelling_a_group_cancels_every_member_in_order() {
    fn check<U: 'static>(group: fn(Vec<Deferred<u8>>) -> Deferred<U>) {
        let log = Log::default();
        let (deferreds, _resolvers): (Vec<_>, Vec<_>) = (0..3)
            .map(|n| {
                let log = log.clone();
                Deferred::<u8>::with_canceller(move |_| log.say(n.to_string()))
            })
            .unzip();
        let reports = unhandled_in(|| group(deferreds).map(|_| ()).cancel());
        assert_eq!(log.lines(), ["0", "1", "2"]);
        assert_eq!(reports, [""; 0]);
    }
    check(|d| list(d));
    check(|d| gather(d));
    check(|d| gather_consuming(d));
    check(|d| race(d));
}

#[test]
fn c123_cancelling_a_fired_gather_does_nothing() {
    let (deferreds, mut fire) = members::<u8>(2);
    let whole = gather(deferreds);
    fire[0].take().unwrap().errback(Failure::msg("zero"));
    whole.cancel();
    assert_eq!(cancelled(&fire), [false]);
    assert!(given(whole).take().unwrap_err().is::<FirstError>());
}

#[test]
fn c123_a_cancelled_list_gives_a_list_of_cancels() {
    let (deferreds, _fire) = members::<u8>(2);
    let whole = list(deferreds);
    whole.cancel();
    let results = given(whole).take().unwrap();
    assert!(results.iter().all(|r| r.as_ref().unwrap_err().is::<Cancelled>()));
}

#[test]
fn c123_a_member_that_fires_others_from_its_canceller_is_fine() {
    let (second, fire_second) = Deferred::<u8>::new();
    let fire_second = RefCell::new(Some(fire_second));
    let (first, _never) = Deferred::<u8>::with_canceller(move |resolver| {
        fire_second.borrow_mut().take().unwrap().callback(2);
        resolver.callback(1);
    });
    let whole = gather([first, second]);
    whole.cancel();
    assert_eq!(given(whole).take().unwrap(), [1, 2]);
}

#[test]
fn c124_a_race_gives_the_first_value_and_cancels_the_rest_before() {
    let (deferreds, mut fire) = members::<u8>(3);
    let whole = race(deferreds);
    fire[0].take().unwrap().errback(Failure::msg("zero"));
    assert!(!whole.has_fired());
    let canceller = fire[2].take().unwrap();
    let given = given(whole.map(move |won| (won, canceller.is_cancelled())));
    fire[1].take().unwrap().callback(7);
    assert_eq!(given.take().unwrap(), ((1, 7), true));
}

#[test]
fn c124_a_winner_that_has_fired_already_cancels_those_before_and_after_it() {
    let (mut deferreds, fire) = members::<u8>(2);
    deferreds.insert(1, Deferred::succeed(5));
    assert_eq!(given(race(deferreds)).take().unwrap(), (1, 5));
    assert_eq!(cancelled(&fire), [true, true]);
}

#[test]
fn c124_a_race_that_all_lose_fails_with_all_their_failures_in_order() {
    let (deferreds, mut fire) = members::<u8>(2);
    let given = given(race(deferreds));
    fire[1].take().unwrap().errback(Failure::msg("one"));
    fire[0].take().unwrap().errback(Failure::msg("zero"));
    let failure = given.take().unwrap_err();
    assert_eq!(failure.to_string(), "all 2 failed: zero; one");
    assert_eq!(failure.downcast_ref::<AllFailed>().unwrap().0.len(), 2);
}

#[test]
fn c124_a_loser_whose_canceller_has_a_result_changes_nothing() {
    let (loser, _never) = Deferred::<u8>::with_canceller(|resolver| resolver.callback(1));
    let (winner, fire) = Deferred::<u8>::new();
    let given = given(race([loser, winner]));
    fire.callback(2);
    assert_eq!(given.take().unwrap(), (1, 2));
}

#[test]
fn c124_cancelling_the_race_from_a_loser_changes_nothing() {
    let own: Rc<RefCell<Option<Canceller>>> = Rc::default();
    let in_canceller = own.clone();
    let (loser, _never) = Deferred::<u8>::with_canceller(move |_| {
        in_canceller.borrow().as_ref().unwrap().cancel();
    });
    let (winner, fire) = Deferred::<u8>::new();
    let whole = race([loser, winner]);
    *own.borrow_mut() = Some(whole.canceller());
    fire.callback(2);
    assert_eq!(given(whole).take().unwrap(), (1, 2));
}

#[test]
fn c123_a_cancel_goes_through_groups_in_groups_and_links_between() {
    let (deferreds, fire) = members::<u8>(4);
    let mut deferreds = deferreds.into_iter();
    let mut pair = || list([deferreds.next().unwrap(), deferreds.next().unwrap()]).map(|_| ());
    let whole = gather([pair(), pair()]).map(|_| ());
    whole.cancel();
    assert_eq!(cancelled(&fire), [true; 4]);
}

#[test]
fn c123_members_that_loop_by_recursion_are_cancelled_where_they_are() {
    fn rounds(mut left: Vec<Deferred<()>>) -> Deferred<()> {
        match left.pop() {
            Some(wait) => wait.then(move |()| rounds(left)),
            None => Deferred::succeed(()),
        }
    }
    let (waits, mut fire) = members::<()>(4);
    let whole = gather([rounds(waits)]);
    fire[3].take().unwrap().callback(());
    fire[2].take().unwrap().callback(());
    whole.cancel();
    assert_eq!(cancelled(&fire), [false, true], "only the round being awaited");
    assert!(given(whole).take().unwrap_err().is_cancelled());
}

#[test]
fn c124a_first_of_gives_the_first_result_and_cancels_the_rest_before() {
    for fails in [false, true] {
        let (deferreds, mut fire) = members::<u8>(3);
        let whole = first_of(deferreds);
        let last = fire[2].take().unwrap();
        let given = given(whole.map(move |(index, result)| {
            (index, result.map_err(|failure| failure.to_string()), last.is_cancelled())
        }));
        assert!(given.is_none());
        let first = fire[1].take().unwrap();
        first.resolve(if fails { Err(Failure::msg("no")) } else { Ok(7) });
        let result = if fails { Err("no".to_owned()) } else { Ok(7) };
        assert_eq!(given.take().unwrap(), (1, result, true));
        assert_eq!(cancelled(&fire), [true]);
    }
}

#[test]
fn c124a_a_member_that_has_fired_already_is_the_first() {
    let (mut deferreds, fire) = members::<u8>(2);
    deferreds.insert(1, Deferred::fail(Failure::msg("refused")));
    let (index, result) = given(first_of(deferreds)).take().unwrap();
    assert_eq!((index, result.unwrap_err().to_string()), (1, "refused".to_owned()));
    assert_eq!(cancelled(&fire), [true, true]);
}

#[test]
fn c124a_results_of_losers_are_dropped_and_an_unused_first_failure_is_reported() {
    let reports = unhandled_in(|| {
        let (loser, _never) = Deferred::<u8>::with_canceller(|resolver| {
            resolver.errback(Failure::msg("a loser's"));
        });
        let whole = first_of([loser, Deferred::fail(Failure::msg("the first"))]);
        whole.detach();
    });
    assert_eq!(reports, ["the first"]);
}

#[test]
fn c124a_a_cancel_reaches_every_member_and_the_first_of_them_is_the_result() {
    let (deferreds, fire) = members::<u8>(3);
    let whole = first_of(deferreds);
    whole.cancel();
    assert_eq!(cancelled(&fire), [true; 3]);
    let (index, result) = given(whole).take().unwrap();
    assert!(index == 0 && result.unwrap_err().is_cancelled());
}

#[test]
fn is_cancelled_looks_inside_groups() {
    let cancel = || Failure::from(Cancelled::new());
    let first = |failure| Failure::from(FirstError { index: 0, failure });
    assert!(first(first(cancel())).is_cancelled());
    assert!(Failure::from(AllFailed(vec![cancel(), first(cancel())])).is_cancelled());
    assert!(!Failure::from(AllFailed(vec![cancel(), Failure::msg("no")])).is_cancelled());
    assert!(!first(Failure::msg("no")).is_cancelled());
    assert!(!Failure::from(AllFailed(vec![])).is_cancelled());
}
