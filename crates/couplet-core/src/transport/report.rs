//! Reports to the simulator about a connection with layers.

use std::any::TypeId;

/// A report about a connection with layers.
#[derive(Debug)]
pub enum LayerReport<'a> {
    /// The layers have changed.
    Layers {
        /// The types of the layers that change bytes, from the socket up.
        kinds: Vec<TypeId>,
        /// The first time, the numbers of bytes that the protocol read and wrote before.
        in_clear: [u64; 2],
    },
    /// The layers were dropped, before the protocol received or wrote a byte: every later byte would
    /// pass through them unchanged.
    Finished,
    /// Bytes written by the protocol enter the layers.
    Written(&'a [u8]),
    /// Some of the written bytes were discarded.
    Cut,
}
