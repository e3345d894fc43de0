//! Part 17, case 3: two coroutines alternate on one thread, each until it waits. The loop that
//! polls them in turn is a scheduler; the reactor's works the same way, but polls only woken tasks.
//!
//! `cargo run --example coroutines -- turns`

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Yields to the other tasks.
async fn stand_back() {
    let mut stood = false;
    poll_fn(|_| if std::mem::replace(&mut stood, true) { Poll::Ready(()) } else { Poll::Pending })
        .await;
}

async fn count(name: &str, numbers: &[u32]) {
    for number in numbers {
        println!("{name} {number}");
        stand_back().await;
    }
    println!("{name} has ended");
}

pub(crate) fn main() -> couplet::Result<()> {
    let mut tasks: VecDeque<Pin<Box<dyn Future<Output = ()>>>> = VecDeque::new();
    tasks.push_back(Box::pin(count("ones", &[1, 2])));
    tasks.push_back(Box::pin(count("tens", &[10, 20, 30, 40])));
    let mut context = Context::from_waker(Waker::noop());
    while let Some(mut task) = tasks.pop_front() {
        if task.as_mut().poll(&mut context).is_pending() {
            tasks.push_back(task);
        }
    }
    Ok(())
}
