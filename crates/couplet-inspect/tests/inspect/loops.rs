//! One inspector and several loops, and the end of loops.

use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use couplet::inspect::{Inspect, Inspector, Recording};
use couplet::testing::{Manner, Memory};
use couplet::{Cluster, Deferred, Loop, LoopOptions};
use couplet_testkit::needed::Folder;

use crate::kit::{Program, text, view};

#[test]
fn the_loops_of_a_cluster_are_side_by_side() {
    let inspector = Inspector::at("0").program("poems", "1.5");
    let options = LoopOptions::default().inspect(&inspector);
    let (tell, told) = mpsc::channel();
    let cluster = Cluster::new(3).options(options);
    let running = std::thread::spawn(move || {
        cluster.run(move |reactor| {
            tell.send(reactor.remote()).expect("the test waits");
            Ok(())
        })
    });
    let remote = told.recv().expect("it starts");
    for _ in 1..3 {
        told.recv().expect("each starts");
    }
    let (program, ()) = Program::start_with(inspector, LoopOptions::default(), |_| ());
    let state = program.get("/state.json");
    assert_eq!(text(&state["program"], "name"), "poems");
    assert_eq!(text(&state["program"], "version"), "1.5");
    let names: Vec<_> = (0..4).map(|n| text(&state["loops"][n], "name").to_owned()).collect();
    assert_eq!(names, ["loop 0", "loop 1", "loop 2", "loop 3"]);
    let url = program.url();
    drop(program);
    // Others are inspected still.
    assert!(crate::kit::get(&url, "/loops.json", "").starts_with("HTTP/1.1 200 "));
    remote.call(couplet::Reactor::stop).expect("it runs");
    running.join().expect("no panic").expect("a stop");
}

#[test]
fn c182_the_inspector_ends_with_its_last_loop_and_starts_again_with_the_next() {
    let inspector = Inspector::at("0");
    assert_eq!(inspector.url(), None);
    for _ in 0..3 {
        let l = Loop::with_options(LoopOptions::default().inspect(&inspector)).expect("a loop");
        let url = inspector.url().expect("it has a loop");
        let address = url.trim_start_matches("http://").split('/').next().expect("an address");
        TcpStream::connect(address).expect("it listens");
        drop(l);
        assert_eq!(inspector.url(), None);
        TcpStream::connect(address).expect_err("its port is closed");
    }
}

#[test]
fn c182_an_inspector_that_was_closed_opens_again_with_the_next_loop() {
    let inspector = Inspector::at("0");
    let start = || Loop::with_options(LoopOptions::default().inspect(&inspector)).expect("a loop");
    for _ in 0..2 {
        let before = start();
        let url = inspector.url().expect("it has a loop");
        let address = url.trim_start_matches("http://").split('/').next().expect("an address");
        inspector.close();
        inspector.close();
        assert_eq!(inspector.url(), None);
        TcpStream::connect(address).expect_err("its port is closed");
        let next = start();
        drop(before);
        let url = inspector.url().expect("the next loop is inspected");
        assert_eq!(view(&url, "/loops.json").as_array().map(Vec::len), Some(1));
        drop(next);
        assert_eq!(inspector.url(), None);
    }
}

#[test]
#[cfg(unix)]
fn the_row_of_a_loop_has_each_of_its_numbers() {
    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;

    use couplet::{Datagram, DatagramTransport, Interest};
    use couplet_testkit_loops::doubles::Quiet;

    let (let_go, waits) = mpsc::channel::<()>();
    let (program, address) = Program::start(move |reactor| {
        let local = "tcp:0:interface=127.0.0.1";
        let port = reactor.listen(local, || Quiet).expect("a free port");
        reactor.listen(local, || Quiet).expect("a free port");
        let ignore = |_: &DatagramTransport, _: &Datagram<'_>| {};
        let udp = SocketAddr::from(([127, 0, 0, 1], 0));
        std::mem::forget(reactor.listen_datagrams(udp, ignore).expect("a free port"));
        (0..5).for_each(|_| drop(reactor.call_later(Duration::from_secs(3600), || ())));
        for _ in 0..6 {
            reactor.spawn(std::future::pending::<couplet::Result<()>>()).detach();
        }
        let wait = move || {
            // The test may have failed.
            let _ = waits.recv();
            Ok(())
        };
        reactor.defer_to_thread(wait).detach();
        for _ in 0..4 {
            let (watched, other) = UnixStream::pair().expect("descriptors");
            watched.set_nonblocking(true).expect("an option");
            let watch = reactor.watch(watched, Interest::Readable, |_, _| ());
            std::mem::forget((watch.expect("a socket"), other));
        }
        port.host().socket_addr().expect("TCP")
    });
    let _clients = [(); 2].map(|()| TcpStream::connect(address).expect("it listens"));
    let row = program
        .until("/loops.json", |rows| Some(rows[0].clone()).filter(|row| row["connections"] == 2));
    let numbers = ["connections", "ports", "connectors", "calls", "tasks", "jobs", "watches"];
    let numbers = numbers.map(|name| row[name].as_u64().expect("a number"));
    assert_eq!(numbers, [2, 3, 0, 5, 6, 1, 4], "{row}");
    drop(let_go);
}

#[test]
fn a_loop_that_ends_is_no_longer_shown() {
    let inspector = Inspector::at("0");
    let start = || Program::start_with(inspector.clone(), LoopOptions::default(), |_| ()).0;
    let (first, second) = (start(), start());
    let count = |program: &Program| program.get("/loops.json").as_array().map(Vec::len);
    assert_eq!(count(&first), Some(2));
    drop(second);
    first.until("/loops.json", |loops| (loops.as_array()?.len() == 1).then_some(()));
}

#[test]
fn loops_have_different_numbers_after_others_have_ended() {
    let inspector = Inspector::at("0");
    let start = || Program::start_with(inspector.clone(), LoopOptions::default(), |_| ()).0;
    let mut programs = vec![start(), start(), start()];
    for ended in [1, 0, 1] {
        drop(programs.remove(ended));
        let left = programs[0].until("/loops.json", |loops| {
            let rows = loops.as_array().filter(|rows| rows.len() == 2)?;
            Some(rows.iter().map(|row| row["serial"].clone()).collect::<Vec<_>>())
        });
        programs.push(start());
        let rows = programs[0].until("/loops.json", |loops| {
            Some(loops.as_array()?.clone()).filter(|rows| rows.len() == 3)
        });
        let ids: Vec<_> = rows.iter().map(|row| row["id"].as_u64().expect("a number")).collect();
        assert_eq!(ids, [0, 1, 2]);
        // The order of their beginnings.
        assert_eq!([&rows[0]["serial"], &rows[1]["serial"]], [&left[0], &left[1]]);
    }
}

#[test]
fn c179_a_loop_that_ends_while_it_hangs_is_shown_as_ended() {
    let folder = Folder::new();
    let inspector = Inspector::at("0").record_at_end(folder.join("end.rec"));
    let (program, ()) = Program::start_with(inspector.clone(), LoopOptions::default(), |_| ());
    for ended in 0..2 {
        let (driver, _network) = Memory::new(Manner::Readiness, 1);
        let mut l = Loop::with_driver(driver, LoopOptions::default().inspect(&inspector));
        l.begin(|_| Ok(())).expect("the inspector opens");
        let state = |wanted: &'static str| {
            program.until("/loops.json", move |loops| {
                let rows = loops.as_array()?;
                let is_there = rows.len() == ended + 2 && rows[ended + 1]["state"] == wanted;
                is_there.then(|| rows[0]["state"].clone())
            })
        };
        // Nothing turns it.
        assert_eq!(state("hung"), "running");
        drop(l);
        assert_eq!(state("ended"), "running");
    }
}

/// The result of `ask`, which runs in a thread while the loop turns.
fn turning<T: Send + 'static>(l: &mut Loop, ask: impl FnOnce() -> T + Send + 'static) -> T {
    let asking = std::thread::spawn(ask);
    while !asking.is_finished() {
        assert!(l.turn(Some(Duration::ZERO)).expect("it has no I/O"));
        std::thread::yield_now();
    }
    asking.join().expect("no panic")
}

#[test]
fn a_loop_over_another_driver_is_inspected_by_its_clock() {
    let inspector = Inspector::at("0");
    let (driver, network) = Memory::new(Manner::Readiness, 1);
    let mut l = Loop::with_driver(driver, LoopOptions::default().inspect(&inspector));
    l.begin(|reactor| {
        let hour = Duration::from_secs(3600);
        let (waiting, resolver) = Deferred::<()>::new();
        reactor.call_later(hour, move || drop((waiting.map(|()| 1), resolver)));
        Ok(())
    })
    .expect("the inspector opens");
    network.advance(Duration::from_secs(5));
    let url = inspector.url().expect("a loop is inspected");
    let [calls, deferreds] =
        turning(&mut l, move || ["/calls.json", "/deferreds.json"].map(|path| view(&url, path)));
    let (due, since) = (&calls[0]["due"], &calls[0]["since"]);
    assert_eq!(due.as_f64().expect("a time") - since.as_f64().expect("a time"), 3600.0);
    assert_eq!(deferreds[0]["state"], "pending");
    let bytes = turning(&mut l, move || inspector.recording()).expect("it runs");
    assert!(Recording::parse(&bytes).expect("our own").events() > 0);
}

#[test]
fn the_first_run_over_another_driver_has_the_error_of_an_inspector_that_cant_open() {
    let options = || LoopOptions::default().inspect("tcp:0");
    let mut l = Loop::with_driver(Memory::new(Manner::Readiness, 1).0, options());
    let failure = l.run(|_| panic!("no run")).expect_err("other machines could reach it");
    assert!(failure.to_string().starts_with("cannot open the inspector: "), "{failure}");
    l.run(|reactor| {
        reactor.stop();
        Ok(())
    })
    .expect("the loop runs without it");
}

#[test]
fn the_time_of_the_program_that_turns_a_loop_is_not_the_loops() {
    let inspector = Inspector::at("0");
    let (driver, network) = Memory::new(Manner::Readiness, 1);
    let mut l = Loop::with_driver(driver, LoopOptions::default().inspect(&inspector));
    l.begin(|reactor| {
        reactor.call_later(Duration::from_millis(100), || ());
        Ok(())
    })
    .expect("the inspector opens");
    for _ in 0..20 {
        l.turn(Some(Duration::ZERO)).expect("it has no I/O");
        network.advance(Duration::from_millis(400));
    }
    let url = inspector.url().expect("a loop is inspected");
    let [time, flags] =
        turning(&mut l, move || ["/time.json", "/flags.json"].map(|path| view(&url, path)));
    let number = |field: &str| time[0][field].as_f64().expect("a number");
    assert_eq!((number("busy"), number("idle")), (0.0, 8.0), "{time}");
    // Nothing was slow, and a timed call was late.
    assert_eq!(flags.as_array().map(Vec::len), Some(1), "{flags}");
    assert_eq!(text(&flags[0], "words"), "a timed call of loop 0 was late by 300 ms");
}
