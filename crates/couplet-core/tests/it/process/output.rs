//! Programs run to completion.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::Failure;
use couplet::defer::Cancelled;
use couplet::process::{
    ChildFd, Command, OutputOptions, OutputTooLong, Process, ProcessOutput, ProcessProtocol,
    SpawnError,
};

use super::{Nursery, kill, pid_of, sh};

fn output_of(
    nursery: &mut Nursery,
    command: Command,
    options: OutputOptions,
) -> Result<ProcessOutput, Failure> {
    let output = nursery.l.reactor().process_output((command, options));
    nursery.l.run_until(output)
}

#[test]
fn the_output_of_a_program_comes_with_its_end() {
    let mut nursery = Nursery::new();
    let script = "cat; echo loud >&2; exit 3";
    let options = OutputOptions::default().input("rose");
    let output = output_of(&mut nursery, sh(script), options).expect("it runs");
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"rose"[..], &b"loud\n"[..]));
    assert_eq!(output.end.code(), Some(3));
    let both = sh("echo a; echo b >&2; echo c").descriptor(2, ChildFd::SameAs(1));
    let output = output_of(&mut nursery, both, OutputOptions::default()).expect("it runs");
    assert_eq!(output.stdout, b"a\nb\nc\n");
}

#[test]
fn a_large_input_and_output_pass_each_other() {
    let mut nursery = Nursery::new();
    let poem = vec![b'p'; 3_000_000];
    let options = OutputOptions::default().input(poem.clone());
    let output = output_of(&mut nursery, Command::new("cat"), options).expect("it runs");
    assert!(output.stdout == poem);
}

#[test]
fn a_program_that_writes_too_much_is_killed_and_a_missing_program_fails() {
    let mut nursery = Nursery::new();
    let options = OutputOptions::default().limit(100_000);
    let failure = output_of(&mut nursery, Command::new("yes"), options).expect_err("too much");
    let too_long = failure.downcast_ref::<OutputTooLong>().expect("the error");
    assert_eq!(too_long, &OutputTooLong { command: "yes".into(), limit: 100_000 });
    // The limit covers both streams together.
    let both = sh("head -c 30000 /dev/zero; head -c 80000 /dev/zero >&2");
    let options = OutputOptions::default().limit(100_000);
    let failure = output_of(&mut nursery, both, options).expect_err("too much");
    assert!(failure.downcast_ref::<OutputTooLong>().is_some(), "{failure}");
    // Exactly the limit is not too much.
    for (limit, fits) in [(100, true), (99, false)] {
        let both = sh("head -c 60 /dev/zero; head -c 40 /dev/zero >&2");
        let output = output_of(&mut nursery, both, OutputOptions::default().limit(limit));
        let sizes = output.map(|output| (output.stdout.len(), output.stderr.len()));
        assert_eq!(sizes.ok(), fits.then_some((60, 40)));
    }
    let missing = output_of(&mut nursery, Command::new("/nonexistent"), OutputOptions::default());
    let failure = missing.expect_err("there is none");
    assert!(failure.downcast_ref::<SpawnError>().is_some(), "{failure}");
}

#[test]
fn a_cancel_kills_the_program_and_so_does_a_timeout() {
    let mut nursery = Nursery::new();
    let reactor = nursery.l.reactor();
    let output = reactor.process_output(sh("sleep 30 & exec sleep 1000"));
    nursery.turn();
    assert_eq!(nursery.l.snapshot().watches, 1);
    output.cancel();
    let failure = nursery.l.run_until(output).expect_err("it was cancelled");
    let cancelled = failure.downcast_ref::<Cancelled>().expect("a cancel");
    assert_eq!(cancelled.what(), Some("/bin/sh -c 'sleep 30 & exec sleep 1000'"));
    let slow = reactor.process_output(sh("exec sleep 1000"));
    let timed = slow.add_timeout(&reactor, Duration::from_millis(5));
    nursery.l.run_until(timed).expect_err("it took too long");
}

/// A script that starts a child and then runs `then`. Neither reads its input, and both hold all
/// the pipes. The script writes the pid of its child to `file`.
fn with_a_child(file: &str, then: &str) -> Command {
    // A shell redirects the input of background children.
    sh(&format!("exec 3<&0; sleep 1000 <&3 & echo $! > {file}; {then}"))
}

#[test]
fn c154d_an_abandoned_program_leaves_nothing_though_its_child_has_its_pipes() {
    let mut nursery = Nursery::new();
    let folder = crate::needed::Folder::new();
    for gives_up in ["a cancel", "a cancel after its exit", "a timeout", "a limit"] {
        let (file, written) = (folder.path("child"), folder.join("child"));
        let child = || std::fs::read_to_string(&written).unwrap_or_default();
        let reactor = nursery.l.reactor();
        // More input than a pipe holds.
        let options = OutputOptions::default().input(vec![b'x'; 1_000_000]).limit(10);
        let then = match gives_up {
            "a limit" => "head -c 100 /dev/zero; exec sleep 1000",
            "a cancel after its exit" => &format!("echo $$ > {}", folder.path("shell")),
            _ => "exec sleep 1000",
        };
        let command = with_a_child(&file, then);
        let output = reactor.process_output((command, options));
        nursery.until("its child", || child().ends_with('\n'));
        let failure = match gives_up {
            "a timeout" => nursery.l.run_until(output.add_timeout(&reactor, Duration::ZERO)),
            "a limit" => nursery.l.run_until(output),
            _ => {
                if gives_up == "a cancel after its exit" {
                    let shell =
                        || std::fs::read_to_string(folder.join("shell")).unwrap_or_default();
                    nursery.until("the shell's id", || shell().ends_with('\n'));
                    // A reaped process can't be killed.
                    let shell = pid_of(&shell());
                    nursery
                        .until("its exit", || rustix::process::test_kill_process(shell).is_err());
                }
                output.cancel();
                nursery.l.run_until(output)
            }
        };
        failure.expect_err(gives_up);
        nursery.until_loop(gives_up, |l| Nursery::left(l) == (0, 0, 0));
        kill(&child());
        std::fs::remove_file(&written).expect("it was there");
    }
}

#[test]
fn c154d_a_program_whose_output_is_abandoned_is_still_served_and_reaped() {
    let mut nursery = Nursery::new();
    let output = nursery.l.reactor().process_output(sh("head -c 300000 /dev/zero; echo x >&2"));
    drop(output);
    nursery.until_loop("the end of its connections and its watch", |l| {
        let snapshot = l.snapshot();
        (snapshot.connections.len(), snapshot.watches) == (0, 0)
    });
}

#[test]
fn output_and_errors_have_separate_callbacks() {
    #[derive(Clone, Default)]
    struct Streams(Rc<RefCell<[Vec<u8>; 2]>>);
    impl ProcessProtocol for Streams {
        fn out_received(&mut self, _: &Process, data: &[u8]) {
            self.0.borrow_mut()[0].extend_from_slice(data);
        }
        fn err_received(&mut self, _: &Process, data: &[u8]) {
            self.0.borrow_mut()[1].extend_from_slice(data);
        }
    }
    let mut nursery = Nursery::new();
    let streams = Streams::default();
    let spawned =
        nursery.l.reactor().spawn_process(sh("echo rose; echo thorn >&2"), streams.clone());
    let process = spawned.expect("it starts");
    nursery.until("its end", || process.end().is_some());
    nursery.until("its output", || streams.0.borrow().iter().all(|text| text.ends_with(b"\n")));
    assert_eq!(*streams.0.borrow(), [b"rose\n".to_vec(), b"thorn\n".to_vec()]);
}
