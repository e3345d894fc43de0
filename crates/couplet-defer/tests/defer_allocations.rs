//! Each link of a callback chain costs one allocation. A separate binary, because it installs a
//! counting allocator.

#[macro_use]
extern crate couplet_testkit;

use std::cell::RefCell;
use std::rc::Rc;

use couplet_defer::defer::{Deferred, Resolver};
use couplet_testkit::counting;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

fn allocations(run: impl FnOnce()) -> usize {
    let before = counting::allocations();
    run();
    counting::allocations() - before
}

#[test]
fn a_deferred_and_each_link_cost_one_allocation() {
    for links in 0..5 {
        let counted = allocations(|| {
            let (deferred, resolver) = Deferred::<u64>::new();
            let end = (0..links).fold(deferred, |end, _| end.add_callback(|n| Ok(n + 1)));
            end.detach();
            resolver.callback(1);
        });
        assert_eq!(counted, 1 + links);
    }
}

#[test]
fn every_kind_of_link_costs_one_allocation() {
    let counted = allocations(|| {
        let (deferred, resolver) = Deferred::<u64>::new();
        deferred
            .map(|n| n + 1)
            .add_errback(|_| Ok(1))
            .then(Deferred::succeed)
            .recover(Deferred::fail)
            .add_both(|result| result)
            .detach();
        resolver.callback(1);
    });
    assert_eq!(counted, 6);
}

#[test]
fn a_canceller_is_stored_inline_in_its_deferred() {
    let big = [7_u64; 16];
    let counted = allocations(|| {
        let (deferred, resolver) =
            Deferred::<u64>::with_canceller(move |resolver| resolver.callback(big[3]));
        let deferred = deferred.map(|n| n + 1);
        deferred.cancel();
        drop((deferred, resolver));
    });
    assert_eq!(counted, 2);
}

#[test]
fn a_callback_on_a_fired_deferred_allocates_nothing() {
    let counted = allocations(|| Deferred::succeed(1).add_callback(|n| Ok(n + 1)).detach());
    assert_eq!(counted, 0);
}

#[test]
fn chaining_to_an_inner_deferred_allocates_nothing_more() {
    let counted = allocations(|| {
        let (outer, fire_outer) = Deferred::<u64>::new();
        let (inner, fire_inner) = Deferred::<u64>::new();
        outer.then(|_| inner).detach();
        fire_outer.callback(1);
        fire_inner.callback(2);
    });
    assert_eq!(counted, 3);
}

#[test]
fn a_recursive_loop_runs_in_bounded_memory_and_frees_it() {
    type Next = Rc<RefCell<Option<Resolver<()>>>>;
    fn rounds(next: Next) -> Deferred<()> {
        let (wait, fire) = Deferred::<()>::new();
        *next.borrow_mut() = Some(fire);
        wait.then(move |()| rounds(next))
    }
    let before = counting::live();
    let next = Next::default();
    let end = rounds(next.clone()).map(|()| ());
    let mut most = 0;
    for _ in 0..10_000 {
        let fire = next.borrow_mut().take().unwrap();
        fire.callback(());
        most = most.max(counting::live() - before);
    }
    assert!(most < 2000, "{most} bytes are alive");
    end.cancel();
    drop((end, next.borrow_mut().take()));
    drop(next);
    assert_eq!(counting::live(), before);
}
