//! Row 129a: `FilesystemLock`, in memory, in the simulator and in real files.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::TimedOut;
use couplet::sim::{Fault, Sim};
use couplet::task::{FilesystemGuard, FilesystemLock};

use crate::defer_witness::{Given, Log, given};
use crate::pace::{TestLoop, ms};

fn held(lock: &FilesystemLock) -> FilesystemGuard {
    lock.try_lock().expect("no error").expect("it is free")
}

fn is_free(lock: &FilesystemLock) -> bool {
    lock.try_lock().expect("no error").is_some()
}

#[test]
fn c129a_a_lock_has_one_holder_at_a_time() {
    let clock = TestLoop::new(0);
    let (one, same) = (
        FilesystemLock::new(&clock.reactor, "/var/poems.lock"),
        FilesystemLock::new(&clock.reactor, "/var/poems.lock"),
    );
    let other = FilesystemLock::new(&clock.reactor, "/var/letters.lock");
    let guard = given(one.lock()).take().expect("it is free");
    assert!(!is_free(&one) && !is_free(&same) && is_free(&other));
    drop(guard);
    assert!(is_free(&same));
}

#[test]
fn the_path_of_a_lock_is_absolute() {
    let clock = TestLoop::new(0);
    let lock = FilesystemLock::new(&clock.reactor, "poems.lock");
    let path = std::path::absolute("poems.lock").expect("a working directory");
    assert_eq!((lock.path(), path.is_absolute()), (&*path, true));
    let guard = format!("{:?}", held(&lock));
    assert!(guard.contains(&format!("{path:?}")), "{guard}");
}

/// Waits for a lock that is held for `busy`; returns the time at which it is acquired.
fn waits(longest: Option<Duration>, busy: Duration) -> Duration {
    let mut clock = TestLoop::new(0);
    let lock = FilesystemLock::new(&clock.reactor, "/var/poems.lock");
    let lock = longest.into_iter().fold(lock, FilesystemLock::longest_wait);
    let guard = held(&lock);
    let waiting: Given<FilesystemGuard> = given(lock.lock());
    clock.pass(busy);
    drop(guard);
    while waiting.is_none() {
        clock.pass(ms(1));
    }
    clock.network.elapsed()
}

#[test]
fn c129a_a_wait_tries_again_after_10_ms_and_then_after_twice_the_time_and_at_least_each_second() {
    for (busy, locked) in [(0, 10), (9, 10), (11, 30), (31, 70), (631, 1270), (1271, 2270)] {
        assert_eq!(waits(None, ms(busy)), ms(locked), "busy for {busy} ms");
    }
    assert_eq!(waits(None, ms(5000)), ms(5270));
}

#[test]
fn c129a_the_longest_wait_bounds_each_wait_of_a_lock() {
    let cases = [
        (5, [(4, 5), (6, 10), (11, 15), (16, 20), (101, 105)]),
        (20, [(9, 10), (11, 30), (31, 50), (51, 70), (71, 90)]),
        (60_000, [(9, 10), (631, 1270), (1271, 2550), (2551, 5110), (5111, 10_230)]),
    ];
    for (longest, waits_of) in cases {
        for (busy, locked) in waits_of {
            let case = format!("at most {longest} ms, busy for {busy} ms");
            assert_eq!(waits(Some(ms(longest)), ms(busy)), ms(locked), "{case}");
        }
    }
}

#[test]
fn c129a_a_cancel_or_a_timeout_ends_the_attempts() {
    let mut clock = TestLoop::new(0);
    let lock = FilesystemLock::new(&clock.reactor, "/var/poems.lock");
    let guard = held(&lock);
    let (cancelled, late) = (lock.lock(), lock.lock().add_timeout(&clock.reactor, ms(25)));
    clock.pass(ms(5));
    cancelled.cancel();
    assert!(given(cancelled).take().unwrap_err().is_cancelled());
    clock.pass(ms(25));
    assert!(given(late).take().unwrap_err().is::<TimedOut>());
    assert!(clock.l.next_turn().is_none(), "no attempt is scheduled");
    drop(guard);
    assert!(is_free(&lock));
}

#[test]
fn c129a_a_guard_that_is_not_taken_unlocks() {
    let mut clock = TestLoop::new(0);
    let lock = FilesystemLock::new(&clock.reactor, "/var/poems.lock");
    let guard = held(&lock);
    lock.lock().detach();
    clock.pass(ms(1));
    drop(guard);
    clock.pass(ms(20));
    assert!(is_free(&lock));
}

#[test]
fn c129a_in_the_simulator_a_host_has_its_own_locks_and_its_death_frees_them() {
    let mut sim = Sim::new(1);
    let log = Log::default();
    let mut hosts = ["a", "b"].map(|name| {
        let said = log.clone();
        sim.host(name, move |reactor| {
            let (said, lock) = (said.clone(), FilesystemLock::new(reactor, "/var/poems.lock"));
            let again = lock.clone();
            let locked = lock.lock().map(move |guard| {
                said.say(format!("{name} locked"));
                assert!(!is_free(&again));
                // Held as long as the program runs.
                std::mem::forget(Rc::new(guard));
            });
            locked.detach();
            Ok(())
        })
    });
    sim.fault(ms(100), ms(100), Fault::Kill(hosts[1]));
    sim.run_for(Duration::from_secs(5)).expect("no invariant is violated");
    assert_eq!(log.lines(), ["a locked", "b locked", "b locked"]);
    hosts.reverse();
}

#[cfg(unix)]
mod real {
    use couplet::Loop;

    use super::*;
    use crate::apart::{Running, told};
    use crate::needed::Folder;

    #[test]
    fn c129a_a_lock_is_a_file_that_its_holder_removes() {
        let (folder, l) = (Folder::new(), Loop::new().expect("a loop"));
        let lock = FilesystemLock::new(&l.reactor(), folder.join("poems.lock"));
        assert_eq!(lock.path(), folder.join("poems.lock"));
        let guard = held(&lock);
        assert_eq!(folder.names(), ["poems.lock"]);
        assert!(!is_free(&lock) && !is_free(&lock.clone()));
        drop(guard);
        assert_eq!(folder.names(), [""; 0]);
        assert!(is_free(&lock));
    }

    #[test]
    fn c129a_an_error_names_the_path() {
        let (folder, l) = (Folder::new(), Loop::new().expect("a loop"));
        let lock = FilesystemLock::new(&l.reactor(), folder.join("none/poems.lock"));
        let error = lock.try_lock().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        assert!(error.to_string().contains("none/poems.lock"), "{error}");
        assert!(given(lock.lock()).text().contains("none/poems.lock"));
    }

    #[test]
    fn a_wait_ends_with_the_error_that_an_attempt_meets() {
        let (folder, mut l) = (Folder::new(), Loop::new().expect("a loop"));
        let path = folder.join("below");
        std::fs::create_dir(&path).expect("a folder");
        let lock = FilesystemLock::new(&l.reactor(), path.join("poems.lock"));
        let guard = held(&lock);
        let waiting = lock.lock();
        std::fs::remove_dir_all(&path).expect("it is ours");
        let failure = l.run_until(waiting).expect_err("its folder is gone");
        assert!(failure.to_string().contains("poems.lock"), "{failure}");
        drop(guard);
    }

    #[test]
    fn c129a_a_file_that_is_no_lock_file_is_refused_and_not_changed() {
        let (folder, l) = (Folder::new(), Loop::new().expect("a loop"));
        let [data, to_data, to_nothing, below] =
            ["poems.db", "to_data", "to_nothing", "below"].map(|name| folder.join(name));
        std::fs::write(&data, "a poem").expect("a file");
        std::os::unix::fs::symlink(&data, &to_data).expect("a link");
        std::os::unix::fs::symlink(folder.join("none"), &to_nothing).expect("a link");
        std::fs::create_dir(&below).expect("a folder");
        for path in [&data, &to_data, &to_nothing, &below] {
            let lock = FilesystemLock::new(&l.reactor(), path);
            let error = lock.try_lock().expect_err("that is no lock file");
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(folder.names(), ["below", "poems.db", "to_data", "to_nothing"]);
        assert_eq!(std::fs::read(&data).expect("it is there"), b"a poem");
    }

    /// Holds the lock until it is killed.
    fn hold_here(path: &Path) {
        let l = Loop::new().expect("a loop");
        let _guard = held(&FilesystemLock::new(&l.reactor(), path));
        println!("locked");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("stdin");
    }

    #[test]
    fn c129a_a_process_that_dies_leaves_no_lock() {
        if let Some(path) = told() {
            return hold_here(Path::new(&path));
        }
        let (folder, mut l) = (Folder::new(), Loop::new().expect("a loop"));
        let path = folder.join("poems.lock");
        let test = "filesystem_lock::real::c129a_a_process_that_dies_leaves_no_lock";
        let mut child = Running::start(test, &path);
        child.says("locked");
        let lock = FilesystemLock::new(&l.reactor(), &path);
        assert!(!is_free(&lock));
        let waiting = lock.lock();
        drop(child); // it is killed
        assert_eq!(folder.names(), ["poems.lock"], "the file is left");
        let guard = l.run_until(waiting).expect("the lock ended with its process");
        drop(guard);
        assert_eq!(folder.names(), [""; 0]);
    }
}
