//! `poetry demo`, with a stderr that is not a terminal.

use std::process::Stdio;

use rustix::process::Signal;

use crate::kit::{Ended, Running, program, run, wait_until};

#[test]
fn three_poems_come_at_once_and_the_times_are_compared() {
    let ended = run(&["demo"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let text = ended.text();
    for line in ["I met a traveller from an antique land", "Tyger Tyger, burning bright,"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.contains("und hört im Herzen auf zu sein.\n"), "{text}");
    let last = text.lines().last().unwrap();
    let words: Vec<&str> = last.split(' ').collect();
    let [
        "together",
        together,
        "s,",
        "one",
        "after",
        "another",
        "they",
        "would",
        "take",
        apart,
        "s",
    ] = words[..]
    else {
        panic!("{last}");
    };
    let (together, apart): (f64, f64) = (together.parse().unwrap(), apart.parse().unwrap());
    assert!(together < ended.took.as_secs_f64() + 0.1);
    assert!(apart > 1.5 * together, "{last}");
    for poem in ["Ozymandias", "The Tyger", "Der Panther"] {
        for percent in ["25 %", "100 %"] {
            let tells = |line: &str| line.starts_with(&format!("{poem} (tcp:127.0.0.1:"));
            let told = ended.stderr.lines().any(|line| tells(line) && line.contains(percent));
            assert!(told, "{poem} {percent}: {}", ended.stderr);
        }
    }
    assert!(!ended.stderr.contains('\u{1b}'), "{}", ended.stderr);
}

#[test]
fn a_closed_stdout_ends_it_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = Running::start_with_stdout(program(&["demo"]).stdout(writer)).ended();
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.lines().all(|line| line.contains(" %, ")), "{}", ended.stderr);
}

#[test]
fn a_full_stdout_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = Running::start_with_stdout(program(&["demo"]).stdout(full)).ended();
    assert_eq!(ended.code, Some(1));
    let expected = "poetry: cannot write to stdout: no space left on device\n";
    assert!(ended.stderr.ends_with(expected), "{}", ended.stderr);
}

/// Sends a signal to a demo once it shows something, and expects this exit code. A demo takes three
/// seconds: on a busy machine it may end before that is seen, and is started again.
pub(crate) fn interrupted<P>(
    (signal, code): (Signal, i32),
    start: impl Fn() -> P,
    process: fn(&mut P) -> &mut Running,
    shows: impl Fn(&P) -> bool,
    ended: fn(P) -> Ended,
) -> Ended {
    for _ in 0..20 {
        let (mut demo, mut runs) = (start(), true);
        wait_until("progress, or the end", || {
            runs = process(&mut demo).is_running();
            !runs || shows(&demo)
        });
        if runs {
            process(&mut demo).signal(signal);
        }
        let ended = ended(demo);
        if ended.code == Some(code) {
            return ended;
        }
    }
    panic!("twenty demos ended before they were interrupted");
}

#[test]
fn an_interrupt_ends_it_with_130_and_a_termination_with_143() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let start = || Running::start(program(&["demo"]).stdin(Stdio::null()));
        let shows = |running: &Running| running.told().contains("25 %");
        let ended = interrupted((signal, code), start, |running| running, shows, Running::ended);
        assert_eq!(ended.text(), "");
        assert!(ended.stderr.lines().all(|line| line.contains(" %, ")), "{}", ended.stderr);
    }
}
