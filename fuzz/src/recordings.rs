//! Recordings of the inspector: each one that can be read is printed as a trace and as lines, both
//! valid JSON, and as packets.

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
    "\"contents\":{\"each\":8,\"length\":9}",
    "\"state\":{}",
];

/// Tries one input as a recording.
///
/// # Panics
///
/// If its trace or a line is not JSON.
pub fn recordings(data: &[u8]) {
    let Ok(recording) = Recording::parse(data) else { return };
    let mut trace = Vec::new();
    recording.write_trace(&mut trace).expect("a vector takes everything");
    let trace: serde_json::Value = serde_json::from_slice(&trace).expect("it is JSON");
    assert!(trace["traceEvents"].is_array());
    let mut lines = Vec::new();
    recording.write_lines(&mut lines).expect("a vector takes everything");
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(serde_json::from_slice::<serde_json::Value>);
    assert_eq!(
        lines.filter(|line| line.as_ref().is_ok_and(|it| it.is_object())).count(),
        recording.events()
    );
    let mut packets = Vec::new();
    recording.write_pcap(&mut packets).expect("a vector takes everything");
    assert_eq!(packets.len() % 4, 0);
    let state: serde_json::Value = serde_json::from_str(&recording.state()).expect("it is JSON");
    drop(state);
    assert!(recording.seconds() >= 0.0);
}
