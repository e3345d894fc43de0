//! Scenes of closing: half-closes, closes by one side or both, clean or abortive.

use super::{Row, Scene, play_all};

const SCENES: &[Row] = &[
    (
        "an echo that the client ends",
        ["echo", "once made: write hello; at 5: lose"],
        ["made, data: hello, read_closed, lost: Done(Peer)", "made, data: hello, lost: Done(Us)"],
    ),
    (
        "an answer after which the server ends",
        ["at 8: write answer, lose", "once made: write question"],
        ["", ""],
    ),
    (
        "a greeting after which the server ends at once",
        ["once made: write bye, lose", ""],
        ["", "made, data: bye, read_closed, lost: Done(Peer)"],
    ),
    (
        "the client ends its half and is answered",
        [
            "aware; once read_closed: write the answer, lose",
            "once made: write all of the question, half",
        ],
        ["", ""],
    ),
    (
        "the server ends its half and is answered",
        ["aware; once made: write go on, half", "aware; once read_closed: write and on, half"],
        ["", ""],
    ),
    (
        "each ends its half when it has heard enough",
        ["aware; at 4: half", "once made: write ping, half"],
        ["", ""],
    ),
    (
        "the client aborts",
        ["", "once made: abort"],
        ["made, lost: Lost(ConnectionReset)", "made, lost: Aborted"],
    ),
    (
        "the server aborts when it has heard enough",
        ["at 5: abort", "once made: write hello"],
        ["", "made, lost: Lost(ConnectionReset)"],
    ),
    // Not in `connection_made`: a reset before the client has seen its connect would fail it.
    (
        "bytes written before an abort are dropped",
        ["at 5: write never, abort", "once made: write hello"],
        ["", "made, lost: Lost(ConnectionReset)"],
    ),
    // After `lose_connection` a paused end drains its input up to the peer's FIN, so that no reset
    // destroys its answer.
    (
        "a close with unread input",
        ["once made: pause, write answer, lose", "once made: write #100000"],
        ["made, lost: Done(Us)", "made, data: answer, read_closed, lost: Done(Peer)"],
    ),
    (
        "bytes written after a close are dropped",
        ["", "once made: write before, lose, write after"],
        ["", ""],
    ),
    (
        "bytes written after a half-close are dropped",
        ["at 6: write heard", "aware; once made: write before, half, write after"],
        ["", ""],
    ),
    // The closed peer drains its input.
    (
        "bytes written to a peer that has closed",
        ["once made: lose", "aware; once read_closed: write nobody hears it, lose"],
        ["made, lost: Done(Us)", ""],
    ),
    (
        "a pause holds the end of the stream until it is over",
        ["once made: pause, tell resume", "once made: write hello, lose"],
        ["", ""],
    ),
];

#[test]
fn each_close_looks_the_same() {
    play_all(SCENES, |scene| scene);
}

#[test]
fn an_abort_with_much_in_flight() {
    let scripts = ["once made: write #1000000", "at 100: abort"];
    let logs = ["made, lost: Lost(ConnectionReset)", ""];
    play_all(&[("an abort with much in flight", scripts, logs)], Scene::any_part);
}

#[test]
fn both_end_at_once() {
    // The network decides whose FIN arrives first, or whether they cross.
    Scene::told("once made: lose", "once made: lose").play_one_of(&[
        &["Us", "Us"],
        &["Us", "Peer"],
        &["Peer", "Us"],
    ]);
}
