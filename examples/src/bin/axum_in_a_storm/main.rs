//! An axum shop with a bug, its clients, and a storm: a client repeats an order whose answer was
//! lost, and the shop books it twice.
//!
//!      cargo run --release -p couplet-examples --bin axum_in_a_storm

mod shop;

use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::sim::{Sim, Trial, Weather};
use couplet::{Failure, Reactor, Result};
use shop::{Books, orders, shop};

const CLIENTS: usize = 2;
const ORDERS: usize = 5;

fn world(sim: &mut Sim, is_mended: bool) -> Result<()> {
    let (books, done) = (Arc::<Mutex<Books>>::default(), Rc::<Cell<usize>>::default());
    let kept = books.clone();
    let serve = move |reactor: &Reactor| {
        reactor.serve_http("tcp:80", shop(kept.clone(), is_mended)).map(drop)
    };
    let mut hosts = vec![sim.host("shop", serve)];
    for name in (0..CLIENTS).map(|n| format!("client{n}")) {
        let (ordering, done) = (name.clone(), done.clone());
        let start = move |reactor: &Reactor| {
            let done = done.clone();
            let ordered = reactor.spawn(orders(reactor.clone(), ordering.clone(), ORDERS));
            ordered.map(move |()| done.set(done.get() + 1)).detach();
            Ok(())
        };
        hosts.push(sim.host(&name, start));
    }
    sim.draw_faults_for(Duration::from_secs(10), &hosts[..1]);
    if !sim.run_until(Duration::from_secs(300), |_| done.get() == CLIENTS)? {
        return Err(Failure::msg("an order is not answered in five minutes"));
    }
    match books.lock().unwrap_or_else(PoisonError::into_inner).booked {
        booked if booked == CLIENTS * ORDERS => Ok(()),
        booked => Err(Failure::msg(format!("{booked} bookings of {} orders", CLIENTS * ORDERS))),
    }
}

/// The first of these seeds that fails, with its report.
pub(crate) fn failure(mut seeds: std::ops::Range<u64>, is_mended: bool) -> Option<(u64, String)> {
    seeds.find_map(|seed| {
        let trial = Trial::new(seed, Weather::Storm);
        Some((seed, trial.examine(&|sim| world(sim, is_mended)).err()?))
    })
}

fn main() -> ExitCode {
    match failure(0..100, false) {
        Some((_, report)) => println!("{report}\n"),
        None => return ExitCode::FAILURE,
    }
    if let Some((_, report)) = failure(0..10_000, true) {
        println!("mended, but: {report}");
        return ExitCode::FAILURE;
    }
    println!("mended: nothing is booked twice with 10 000 seeds");
    ExitCode::SUCCESS
}
