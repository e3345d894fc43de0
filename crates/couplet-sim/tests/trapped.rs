//! With the feature `trap`, time and entropy of the system come from the seed.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the tests are about them"
)]

#[macro_use]
extern crate couplet_testkit;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use couplet::Result;
use couplet::sim::{Sim, Trial, Weather};

/// The order of a hash map, the time of day and a random number.
fn of_the_system() -> String {
    let map: HashMap<u32, ()> = (0..20).map(|n| (n, ())).collect();
    let order: Vec<u32> = map.into_keys().collect();
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("entropy");
    format!("{order:?} {:?} {:?} {random:?}", Instant::now(), SystemTime::now())
}

/// Asks the system outside and inside two hosts.
fn asks(sim: &mut Sim) -> Result<()> {
    let notes = sim.notes();
    notes.note(of_the_system());
    for name in ["one", "two"] {
        let notes = notes.clone();
        sim.host(name, move |reactor| {
            let notes = notes.clone();
            notes.note(of_the_system());
            reactor.call_later(Duration::from_secs(1), move || notes.note(of_the_system()));
            Ok(())
        });
    }
    sim.run_for(Duration::from_secs(2))
}

#[test]
fn hash_maps_clocks_and_entropy_come_from_the_seed() {
    let told = [(), ()].map(|()| {
        let report = Trial::new(3, Weather::Calm).whole_trace().run_apart(&asks);
        assert_eq!(report.failure, None);
        let notes = report.trace.iter().filter_map(|line| line.split_once("note: "));
        notes.map(|(_, note)| note.to_owned()).collect::<Vec<_>>()
    });
    let [first, second] = told;
    assert_eq!((first.len(), &first), (5, &second));
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 5, "{first:?}");
}

#[test]
fn the_systems_clocks_return_the_hosts_time() {
    let report = Trial::new(7, Weather::Calm).run_apart(&|sim| {
        let told = Rc::new(RefCell::new(None));
        let tells = told.clone();
        let host = sim.host("host", move |reactor| {
            let (inner, tells) = (reactor.clone(), tells.clone());
            reactor.call_later(Duration::from_secs(90), move || {
                assert_eq!(Instant::now(), inner.now());
                *tells.borrow_mut() = Some(SystemTime::now());
            });
            Ok(())
        });
        sim.run_until(Duration::from_secs(100), |_| told.borrow().is_some())?;
        assert_eq!(told.take(), Some(sim.wall_clock(host)));
        Ok(())
    });
    assert_eq!(report.failure, None);
    let now = UNIX_EPOCH.elapsed().expect("after 1970");
    assert!(now > Duration::from_secs(1_760_000_000), "this thread does not simulate: {now:?}");
}
