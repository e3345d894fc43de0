//! Compares the bytes written at one end of a connection with those received at the other: at the
//! drivers if there are no layers, else between the layers and the protocols.
//!
//! Bytes above layers are comparable only if both ends have layers of the same kinds in the same
//! order, leaving out those that change no byte: then the bytes written above at one end are
//! received above at the other. Otherwise that direction is no longer compared. This happens with a
//! relay that forwards TLS without decrypting it, a program that adds a layer at one end only, and
//! more than [`MOST`] bytes in flight.

use std::any::TypeId;
use std::collections::VecDeque;

use couplet_core::hooks::simulator::LayerReport;

use super::super::{EndId, Kernel};
use super::{Conn, End};

/// Maximum bytes in flight above layers that are kept for comparison.
const MOST: usize = 4 * 1024 * 1024;

/// The layers of one end.
pub(super) struct Stack {
    kinds: Vec<TypeId>,
    /// The first of them have done their work and were dropped.
    dropped: Vec<TypeId>,
    written: Written,
    /// Bytes that the protocol read and wrote before the first layer.
    in_clear: [u64; 2],
}

/// Where the bytes that a protocol writes above its layers are seen.
enum Written {
    /// Above the layers, which report them.
    Above,
    /// At the driver: all layers were dropped.
    Below,
}

/// Bytes that one protocol wrote above its layers and the other has not received yet. Law 9: at
/// most [`MOST`] bytes.
#[derive(Default)]
pub(super) struct Ledger {
    // Up to 4 MiB, beyond which nothing is compared.
    parts: VecDeque<Part>,
    len: usize,
    state: LedgerState,
}

#[derive(Default, PartialEq, Eq)]
enum LedgerState {
    #[default]
    Complete,
    /// The connection was cut, so the last written bytes may be missing.
    Cut,
    /// This direction is no longer compared.
    GivenUp,
}

/// Bytes that passed through the same stack of layers.
struct Part {
    kinds: Vec<TypeId>,
    bytes: VecDeque<u8>,
}

impl Ledger {
    fn give_up(&mut self) {
        *self = Ledger { state: LedgerState::GivenUp, ..Ledger::default() };
    }

    fn cut(&mut self) {
        if self.state == LedgerState::Complete {
            self.state = LedgerState::Cut;
        }
    }

    fn add(&mut self, kinds: &[TypeId], bytes: &[u8]) {
        if self.state == LedgerState::GivenUp {
            return;
        }
        if self.len + bytes.len() > MOST {
            return self.give_up();
        }
        self.len += bytes.len();
        match self.parts.back_mut() {
            Some(part) if part.kinds == kinds => part.bytes.extend(bytes),
            _ => {
                let bytes = bytes.iter().copied().collect();
                self.parts.push_back(Part { kinds: kinds.to_vec(), bytes });
            }
        }
    }

    /// Whether these bytes, received above the layers `kinds`, are the next ones.
    fn take(&mut self, kinds: &[TypeId], mut data: &[u8]) -> bool {
        while self.state != LedgerState::GivenUp && !data.is_empty() {
            let Some(part) = self.parts.front_mut() else { return false };
            if part.kinds != kinds {
                self.give_up();
                break;
            }
            let (now, rest) = data.split_at(data.len().min(part.bytes.len()));
            if !part.bytes.drain(..now.len()).eq(now.iter().copied()) {
                return false;
            }
            self.len -= now.len();
            if part.bytes.is_empty() {
                self.parts.pop_front();
            }
            data = rest;
        }
        true
    }
}

/// The comparison that applies to the bytes received by one end.
enum Comparison {
    /// With the bytes that reached the peer's driver.
    Below,
    /// With the bytes that the peer wrote above its layers.
    LayerReport,
    No,
}

impl Conn {
    /// The driver of this side takes these bytes.
    pub(super) fn note_below(&mut self, side: u8, bytes: &[u8]) {
        let flow = &mut self.flows[side as usize];
        flow.ledger.extend(bytes);
        if let Some(stack) = &self.ends[side as usize].layers
            && let Written::Below = stack.written
        {
            flow.above.add(&stack.kinds, bytes);
        }
    }

    /// The comparison for the bytes that this side receives.
    fn comparison(&self, side: u8) -> Comparison {
        let [ours, theirs] = [side, 1 - side].map(|side| &self.ends[side as usize].layers);
        match (ours, theirs) {
            (None, _) => Comparison::Below,
            (Some(ours), None) if ours.kinds.is_empty() => Comparison::Below,
            (Some(_), None) => Comparison::No,
            (Some(ours), Some(theirs)) if ours.in_clear[0] == theirs.in_clear[1] => {
                Comparison::LayerReport
            }
            // One end's bytes in the clear passed through the other's layers.
            (Some(_), Some(_)) => Comparison::No,
        }
    }
}

impl Kernel {
    /// Records an event between the layers and the protocol of this end.
    pub(crate) fn note_above(&mut self, id: EndId, above: LayerReport<'_>) {
        let Some(Conn { ends, flows, .. }) = self.conn(id.conn) else { return };
        let flow = &mut flows[id.side as usize].above;
        let layers = &mut ends[id.side as usize].layers;
        match (above, layers) {
            (LayerReport::Layers { kinds, .. }, Some(stack)) => {
                stack.kinds = [&stack.dropped[..], &kinds].concat();
                stack.written = Written::Above;
            }
            (LayerReport::Layers { kinds, in_clear }, none) => {
                let written = Written::Above;
                *none = Some(Stack { kinds, dropped: Vec::new(), written, in_clear });
            }
            (LayerReport::Finished, Some(stack)) => {
                stack.dropped.clone_from(&stack.kinds);
                stack.written = Written::Below;
            }
            (LayerReport::Written(bytes), Some(stack)) => flow.add(&stack.kinds, bytes),
            (LayerReport::Cut, _) => flow.cut(),
            (LayerReport::Written(_) | LayerReport::Finished, None) => {}
        }
    }

    /// The program of this end has died, along with the bytes in its layers.
    pub(crate) fn note_crash(&mut self, id: EndId) {
        self.note_above(id, LayerReport::Cut);
    }

    /// Checks bytes delivered to a protocol against those that its peer wrote.
    pub(crate) fn check_received(&mut self, id: EndId, data: &[u8]) -> bool {
        let Some(conn) = self.conn(id.conn) else { return false };
        let (compared, other) = (conn.comparison(id.side), usize::from(1 - id.side));
        let Conn { ends, flows, .. } = conn;
        let End { layers, .. } = &ends[id.side as usize];
        let flow = &mut flows[other];
        if let Comparison::Below = compared {
            let ledger = &mut flow.ledger;
            let equal = ledger.len() >= data.len() && ledger.iter().zip(data).all(|(a, b)| a == b);
            ledger.drain(..data.len().min(ledger.len()));
            return equal;
        }
        flow.ledger.clear();
        match (compared, layers) {
            (Comparison::LayerReport, Some(stack)) => flow.above.take(&stack.kinds, data),
            _ => {
                flow.above.give_up();
                true
            }
        }
    }

    /// Whether the protocol has received every byte that its peer wrote.
    pub(crate) fn has_received_all(&mut self, id: EndId) -> bool {
        let Some(conn) = self.conn(id.conn) else { return true };
        let compared = conn.comparison(id.side);
        let flow = conn.flow(1 - id.side);
        match compared {
            Comparison::Below => flow.ledger.is_empty(),
            Comparison::LayerReport => flow.above.len == 0 || flow.above.state == LedgerState::Cut,
            Comparison::No => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The types of two imaginary layers.
    const ONE: TypeId = TypeId::of::<u8>();
    const OTHER: TypeId = TypeId::of::<u16>();

    #[test]
    fn bytes_before_and_after_a_layer_are_compared() {
        let mut ledger = Ledger::default();
        ledger.add(&[ONE], b"ab");
        ledger.add(&[ONE], b"c");
        ledger.add(&[ONE, OTHER], b"def");
        assert!(ledger.take(&[ONE], b"a") && ledger.take(&[ONE], b"bc"));
        assert!(ledger.take(&[ONE, OTHER], b"d") && !ledger.take(&[ONE, OTHER], b"x"));
    }

    #[test]
    fn more_than_was_written_is_noticed() {
        let mut ledger = Ledger::default();
        ledger.add(&[ONE], b"ab");
        assert!(!ledger.take(&[ONE], b"abc"));
    }

    #[test]
    fn bytes_through_other_layers_are_not_compared() {
        let mut ledger = Ledger::default();
        ledger.add(&[ONE], b"ab");
        assert!(ledger.take(&[OTHER], b"xy") && ledger.take(&[ONE], b"xy"));
        assert_eq!((ledger.len, ledger.parts.len()), (0, 0));
    }

    #[test]
    fn no_more_than_4_mib_are_kept() {
        let mut ledger = Ledger::default();
        ledger.add(&[ONE], &vec![0; MOST]);
        assert_eq!(ledger.len, MOST);
        ledger.add(&[ONE], b"1");
        assert_eq!((ledger.len, ledger.parts.len()), (0, 0));
        ledger.add(&[ONE], b"2");
        assert!(ledger.take(&[ONE], b"x"), "it is no longer compared");
    }
}
