//! Recordings of the inspector: each that is read can be printed as a trace, which is JSON.

use couplet::inspect::Recording;

pub(crate) const WORDS: &[&str] = &[
    "couplet recording 1\n",
    "\"made\":",
    "\"loops\":[",
    "\"count\":1",
    "\"ticks\":1e308",
    "\"names\":[]",
    "\"connections\":[{\"slot\":7,\"id\":\"1.7.3\",\"peer\":\"\",\"made\":1}]",
    "\"marks\":[{\"time\":1,\"loop\":0,\"text\":\"\",\"severity\":\"red\"}]",
    "\"state\":{}",
];

/// Tries one input as a recording.
///
/// # Panics
///
/// If its trace is no JSON.
pub fn recordings(data: &[u8]) {
    let Ok(recording) = Recording::parse(data) else { return };
    let mut trace = Vec::new();
    recording.write_trace(&mut trace).expect("a vector takes everything");
    let trace: serde_json::Value = serde_json::from_slice(&trace).expect("it is JSON");
    assert!(trace["traceEvents"].is_array());
    let state: serde_json::Value = serde_json::from_str(&recording.state()).expect("it is JSON");
    drop(state);
    assert!(recording.seconds() >= 0.0);
}
