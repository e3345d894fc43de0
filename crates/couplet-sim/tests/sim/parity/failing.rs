//! Scenes in which a callback fails or panics: its connection ends the same way on the kernel and
//! in the simulator.

use super::{Row, play_all};

/// A conversation that triggers every callback; the server acts in one of them.
const CLIENT: &str = "aware; once made: write hello; once read_closed: half";

const SCENES: &[Row] = &[
    ("fail in made", ["aware; once data: half; once made: fail e", CLIENT], ["Failed(e)", ""]),
    ("fail in data", ["aware; once data: half, fail e", CLIENT], ["Failed(e)", ""]),
    (
        "fail in read_closed",
        ["aware; once data: half; once read_closed: fail e", CLIENT],
        ["Failed(e)", ""],
    ),
    (
        "fail in write_closed",
        ["aware; once data: half; once write_closed: fail e", CLIENT],
        ["Failed(e)", ""],
    ),
    ("fail in lost", ["aware; once data: half; once lost: fail e", CLIENT], ["Done(Peer)", ""]),
    ("panic in made", ["aware; once data: half; once made: panic p", CLIENT], ["Panicked(p)", ""]),
    ("panic in data", ["aware; once data: half, panic p", CLIENT], ["Panicked(p)", ""]),
    (
        "panic in read_closed",
        ["aware; once data: half; once read_closed: panic p", CLIENT],
        ["Panicked(p)", ""],
    ),
    (
        "panic in write_closed",
        ["aware; once data: half; once write_closed: panic p", CLIENT],
        ["Panicked(p)", ""],
    ),
    ("panic in lost", ["aware; once data: half; once lost: panic p", CLIENT], ["Done(Peer)", ""]),
    (
        "bytes written before a callback fails are still sent",
        ["once made: write last words, fail e", ""],
        ["", "made, data: last words, read_closed, lost: Done(Peer)"],
    ),
    (
        "a resume that panics",
        ["once made: pause, tell resume; once resumed: panic p", ""],
        ["lost: Panicked(p)", ""],
    ),
];

#[test]
fn each_failing_callback_looks_the_same() {
    play_all(SCENES, |scene| scene);
}
