//! Threads that simulate get the simulation's time and entropy, all others the system's.
#![cfg(all(target_os = "linux", target_env = "gnu", feature = "trap"))]
#![expect(clippy::disallowed_methods, reason = "the tests are about them")]
#![expect(unsafe_code, reason = "calls functions of the C library")]

#[macro_use]
extern crate couplet_testkit;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use couplet_os::trap::{self, Answers, Clock};

thread_local! {
    /// The next random number, on a thread that simulates.
    static SIMULATES: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Half a second past a round number, so that the units are distinguishable.
const REALTIME: Duration = Duration::new(1_700_000_000, 500_000_000);

fn enter(seed: u64) {
    trap::set(Answers {
        random: || {
            let next = SIMULATES.get()?;
            SIMULATES.set(Some(next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)));
            Some(next)
        },
        clock: |clock| {
            SIMULATES.get()?;
            Some(match clock {
                Clock::Realtime => REALTIME,
                Clock::Monotonic => Duration::from_secs(77),
            })
        },
    });
    SIMULATES.set(Some(seed));
}

/// The hash of a key by a fresh thread's hasher.
fn hash_of_a_fresh_thread(seed: Option<u64>) -> u64 {
    let hash = move || {
        if let Some(seed) = seed {
            enter(seed);
        }
        RandomState::new().hash_one("a key")
    };
    thread::spawn(hash).join().expect("it hashes")
}

#[test]
fn hash_maps_of_a_fresh_thread_have_the_order_of_the_seed() {
    assert_eq!(hash_of_a_fresh_thread(Some(4)), hash_of_a_fresh_thread(Some(4)));
    assert_ne!(hash_of_a_fresh_thread(Some(4)), hash_of_a_fresh_thread(Some(5)));
    let others: BTreeSet<u64> = (0..4).map(|_| hash_of_a_fresh_thread(None)).collect();
    assert_eq!(others.len(), 4, "a thread that does not simulate has the system's entropy");
}

#[test]
fn clocks_stop_only_on_simulating_threads() {
    let before = (Instant::now(), SystemTime::now());
    let inside = thread::spawn(|| {
        enter(1);
        let (first, second) = (Instant::now(), Instant::now());
        assert_eq!(first, second);
        SystemTime::now()
    });
    assert_eq!(inside.join().expect("it reads clocks"), UNIX_EPOCH + REALTIME);
    let after = (Instant::now(), SystemTime::now());
    assert!(after.0 > before.0 && after.1 >= before.1, "the system's");
    assert!(after.1 > UNIX_EPOCH + Duration::from_secs(1_760_000_000), "{:?}", after.1);
}

#[test]
fn the_other_c_functions_return_simulated_time_and_entropy() {
    let asked = || {
        let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let (mut seconds, mut entropy) = (0, [0; 24]);
        // SAFETY: each is given a place of its type.
        let outcomes = unsafe {
            (
                libc::gettimeofday(&raw mut time, std::ptr::null_mut()),
                libc::time(&raw mut seconds),
                libc::getentropy(entropy.as_mut_ptr().cast(), entropy.len()),
                libc::getentropy(entropy.as_mut_ptr().cast(), 257),
            )
        };
        assert_eq!((outcomes.0, outcomes.1, outcomes.2, outcomes.3), (0, seconds, 0, -1));
        (time.tv_sec, time.tv_usec, seconds, entropy)
    };
    let inside = thread::spawn(move || {
        enter(9);
        asked()
    });
    let (second, micros, seconds, entropy) = inside.join().expect("it asks");
    assert_eq!((second, micros, seconds), (1_700_000_000, 500_000, 1_700_000_000));
    assert_eq!(entropy[..8], 9_u64.to_le_bytes());
    let outside = asked();
    assert!(outside.0 > 1_760_000_000 && outside.2 >= outside.0, "{outside:?}");
    assert_ne!(outside.3, entropy);
}

/// Looks up the name as the getrandom crate does.
#[test]
fn dlsym_finds_the_trap() {
    // SAFETY: a name that ends with a zero byte.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"getrandom".as_ptr()) };
    assert_eq!(found as usize, trap::getrandom as *const () as usize);
}
