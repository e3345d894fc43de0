//! `poetry demo`, with a stderr that is not a terminal.

use std::process::Stdio;

use rustix::process::Signal;

use crate::kit::{Running, program, run, wait_until};

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

#[test]
fn an_interrupt_ends_it_with_130_and_a_termination_with_143() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // A demo takes three seconds, within which a busy machine may not see its progress.
        let interrupted = || {
            let mut running = Running::start(program(&["demo"]).stdin(Stdio::null()));
            let mut runs = true;
            wait_until("progress, or the end", || {
                runs = running.is_running();
                !runs || running.told().contains("25 %")
            });
            if runs {
                running.signal(signal);
            }
            Some(running.ended()).filter(|ended| ended.code == Some(code))
        };
        let ended = (0..20).find_map(|_| interrupted()).expect("an interrupted demo");
        assert_eq!(ended.text(), "");
        assert!(ended.stderr.lines().all(|line| line.contains(" %, ")), "{}", ended.stderr);
    }
}
