//! A million links run and drop in constant stack: contract 110, 112, 126.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use couplet_defer::defer::{Deferred, Failure, Resolver, gather, list};

use couplet_testkit::defer_witness::{Bell, given, unhandled_in};

const MANY: usize = 1_000_000;

/// Runs `test` on a small stack, which recursion from link to link would overflow. The message of
/// an overflow names the thread.
fn on_a_small_stack(name: &str, test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024);
    thread.spawn(test).unwrap().join().unwrap();
}

fn long_chain() -> (Deferred<usize>, Resolver<usize>) {
    let (deferred, resolver) = Deferred::<usize>::new();
    ((0..MANY).fold(deferred, |end, _| end.map(|n| n + 1)), resolver)
}

#[test]
fn c112_a_long_chain_and_thens_nested_deep_end_in_constant_stack() {
    type Chain = fn() -> (Deferred<usize>, Resolver<usize>);
    // Also gets the value of a chain that is fired with 0.
    type End = fn(Deferred<usize>, Resolver<usize>, usize);
    let ends: [(&str, End); 7] = [
        ("fired by a call", |end, resolver, value| {
            resolver.callback(0);
            assert_eq!(given(end).take().unwrap(), value);
        }),
        ("fired after its handle was dropped", |end, resolver, _| {
            drop(end);
            resolver.callback(0);
        }),
        ("fired by the drop of its resolver", |end, resolver, _| {
            drop(resolver);
            assert!(given(end).text().contains("resolver was dropped"));
        }),
        ("dropped, the handle first", |end, resolver, _| {
            assert_eq!(unhandled_in(|| drop((end, resolver))).len(), 1);
        }),
        ("dropped, the resolver first", |end, resolver, _| {
            assert_eq!(unhandled_in(|| drop((resolver, end))).len(), 1);
        }),
        ("cancelled from its end", |end, resolver, _| {
            end.cancel();
            assert!(resolver.is_cancelled());
            assert_eq!(given(end).text(), "cancelled");
        }),
        ("abandoned while it is awaited", |mut end, resolver, _| {
            let waker = Waker::from(Arc::new(Bell::default()));
            let mut context = Context::from_waker(&waker);
            assert!(std::pin::Pin::new(&mut end).poll(&mut context).is_pending());
            drop(end);
            assert!(resolver.is_cancelled());
        }),
    ];
    for (kind, chain, value) in [("a chain", long_chain as Chain, MANY), ("thens", nested, 0)] {
        for (how, act) in ends {
            on_a_small_stack(&format!("{kind} {how}"), move || {
                let (end, resolver) = chain();
                act(end, resolver, value);
            });
        }
    }
}

#[test]
fn c110_a_long_chain_on_a_fired_deferred() {
    on_a_small_stack("c110_a_long_chain_on_a_fired_deferred", || {
        let end = (0..MANY).fold(Deferred::succeed(0), |end, _| end.map(|n| n + 1));
        assert_eq!(given(end).take().unwrap(), MANY);
    });
}

#[test]
fn c110_callbacks_that_each_add_the_next_inside() {
    fn next(end: Rc<RefCell<Option<Deferred<usize>>>>, n: usize) -> usize {
        if n < MANY {
            let own = end.borrow_mut().take().unwrap();
            let again = end.clone();
            let added = own.map(move |n| next(again, n));
            *end.borrow_mut() = Some(added);
        }
        n + 1
    }
    on_a_small_stack("c110_callbacks_that_each_add_the_next_inside", || {
        let end = Rc::new(RefCell::new(None));
        let (deferred, resolver) = Deferred::<usize>::new();
        let again = end.clone();
        let first = deferred.map(move |n| next(again, n));
        *end.borrow_mut() = Some(first);
        resolver.callback(0);
        let last = end.borrow_mut().take().unwrap();
        assert_eq!(given(last).take().unwrap(), MANY + 1);
    });
}

/// Each Deferred waits for the previous one through a `then`.
fn nested() -> (Deferred<usize>, Resolver<usize>) {
    let (first, resolver) = Deferred::<usize>::new();
    let end = (0..MANY).fold(first, |inner, _| Deferred::succeed(()).then(move |()| inner));
    (end, resolver)
}

#[test]
fn c112_a_chain_whose_every_link_waits_for_an_inner_deferred() {
    on_a_small_stack("c112_a_chain_whose_every_link_waits_for_an_inner_deferred", || {
        let (first, resolver) = Deferred::<usize>::new();
        let mut inner = vec![];
        let end = (0..MANY).fold(first, |end, _| {
            let (wait, fire) = Deferred::<usize>::new();
            inner.push(fire);
            end.then(move |n| wait.map(move |m| n + m))
        });
        resolver.callback(0);
        inner.into_iter().for_each(|fire| fire.callback(1));
        assert_eq!(given(end).take().unwrap(), MANY);
    });
}

/// Each resolver is owned by a callback of the previous Deferred.
fn dominoes(last: Rc<Cell<usize>>) -> Resolver<()> {
    let (deferred, mut resolver) = Deferred::<()>::new();
    deferred
        .add_both(move |_| {
            last.set(last.get() + 1);
            Ok(())
        })
        .detach();
    for _ in 0..MANY {
        let (deferred, previous) = Deferred::<()>::new();
        let fires = resolver;
        deferred.map(move |()| drop(fires)).add_errback(|_| Ok(())).detach();
        resolver = previous;
    }
    resolver
}

#[test]
fn c112_a_drop_that_fires_a_drop_that_fires_a_drop() {
    on_a_small_stack("c112_a_drop_that_fires_a_drop_that_fires_a_drop", || {
        let last = Rc::new(Cell::new(0));
        drop(dominoes(last.clone()));
        assert_eq!(last.get(), 1, "a failure skips the callback, whose drop fires the next");
        dominoes(last.clone()).callback(());
        assert_eq!(last.get(), 2, "a value runs the callback, which drops the next");
    });
}

#[test]
fn c112_a_drop_that_cancels_what_owns_the_next() {
    on_a_small_stack("c112_a_drop_that_cancels_what_owns_the_next", || {
        let cancels = Rc::new(Cell::new(0));
        let mut context = Context::from_waker(Waker::noop());
        let mut polled = None::<Deferred<()>>;
        let mut resolvers = vec![];
        for _ in 0..MANY {
            let (next, count) = (polled.take(), cancels.clone());
            let (mut deferred, resolver) = Deferred::<()>::with_canceller(move |_| {
                count.set(count.get() + 1);
                drop(next);
            });
            assert!(std::pin::Pin::new(&mut deferred).poll(&mut context).is_pending());
            resolvers.push(resolver);
            polled = Some(deferred);
        }
        drop(polled);
        assert_eq!(cancels.get(), MANY);
    });
}

#[test]
fn a_chain_fired_by_a_drop_waits_while_another_drop_fires() {
    let order = Rc::new(RefCell::new(vec![]));
    let (first, inner) = (order.clone(), order.clone());
    let (second, fire_second) = Deferred::<()>::new();
    second
        .add_both(move |_| {
            inner.borrow_mut().push("second");
            Ok(())
        })
        .detach();
    let (deferred, resolver) = Deferred::<()>::new();
    deferred
        .add_both(move |_| {
            drop(fire_second);
            first.borrow_mut().push("first ends");
            Ok(())
        })
        .detach();
    drop(resolver);
    assert_eq!(*order.borrow(), ["first ends", "second"]);
}

#[test]
fn c112_a_loop_by_recursion_through_then_keeps_one_link() {
    struct Counted(Rc<Cell<usize>>, Rc<Cell<usize>>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }
    type Next = Rc<RefCell<Option<Resolver<()>>>>;
    fn rounds(
        left: usize,
        next: Next,
        alive: Rc<Cell<usize>>,
        most: Rc<Cell<usize>>,
    ) -> Deferred<usize> {
        if left == 0 {
            return Deferred::succeed(0);
        }
        let (wait, fire) = Deferred::<()>::new();
        *next.borrow_mut() = Some(fire);
        alive.set(alive.get() + 1);
        most.set(most.get().max(alive.get()));
        let counted = Counted(alive.clone(), most.clone());
        wait.then(move |()| {
            let most = counted.1.clone();
            rounds(left - 1, next, counted.0.clone(), most)
        })
    }
    on_a_small_stack("c112_a_loop_by_recursion_through_then_keeps_one_link", || {
        let (next, alive, most) = (Next::default(), Rc::default(), Rc::default());
        let end = rounds(MANY, Rc::clone(&next), Rc::clone(&alive), Rc::clone(&most));
        let end = given(end.map(|n| n + 1));
        loop {
            let Some(fire) = next.borrow_mut().take() else {
                break;
            };
            fire.callback(());
        }
        assert_eq!(end.take().unwrap(), 1);
        assert_eq!((alive.get(), most.get()), (0, 2));
    });
}

#[test]
fn c121_large_groups() {
    on_a_small_stack("c121_large_groups", || {
        let (members, resolvers): (Vec<_>, Vec<_>) =
            (0..MANY).map(|_| Deferred::<usize>::new()).unzip();
        let sum = given(gather(members).map(|values| values.iter().sum::<usize>()));
        resolvers.into_iter().for_each(|resolver| resolver.callback(1));
        assert_eq!(sum.take().unwrap(), MANY);
        let (members, resolvers): (Vec<_>, Vec<_>) =
            (0..MANY).map(|_| Deferred::<usize>::new()).unzip();
        let whole = list(members);
        whole.cancel();
        assert!(resolvers.iter().all(|resolver| resolver.is_cancelled()));
        drop(whole);
    });
}

#[test]
fn c123_groups_nested_deep() {
    on_a_small_stack("c123_groups_nested_deep", || {
        let deep = || {
            let (first, resolver) = Deferred::<usize>::new();
            let end = (0..MANY / 10).fold(first, |end, _| {
                list([end]).map(|mut results| results.pop().unwrap().unwrap_or(0) + 1)
            });
            (end, resolver)
        };
        let (end, resolver) = deep();
        resolver.callback(0);
        assert_eq!(given(end).take().unwrap(), MANY / 10);
        let (end, resolver) = deep();
        end.cancel();
        assert!(resolver.is_cancelled());
        drop(end);
        let (end, resolver) = deep();
        drop(end);
        resolver.errback(Failure::msg("lost"));
    });
}
