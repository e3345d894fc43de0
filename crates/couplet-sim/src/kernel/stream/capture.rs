//! Writes packets to a capture file when they are first sent; retransmissions are left out.

use std::time::Duration;

use couplet_core::hooks::simulator::{PacketKind, write_packet};
use couplet_core::layers::{Direction, Tap};

use super::super::{EndId, Kernel};
use super::Packet;

/// A packet or a reset that an end sends.
pub(super) enum Segment<'a> {
    Packet(&'a Packet),
    Reset,
}

impl Kernel {
    /// Captures a packet of this end, if its connection is captured.
    pub(super) fn capture_segment(&mut self, id: EndId, sent: Segment<'_>) {
        let now = self.started + Duration::from_nanos(self.now);
        let Some(tap) = self.conn(id.conn).and_then(|conn| conn.tap.as_mut()) else { return };
        // For the capture, the client is the peer, because it opened the connection.
        let direction = if id.side == 0 { Direction::In } else { Direction::Out };
        match sent {
            Segment::Packet(Packet::Open) if id.side == 0 => {
                write_packet(tap, PacketKind::Syn, direction, now)
            }
            Segment::Packet(Packet::Open) => write_packet(tap, PacketKind::SynAck, direction, now),
            Segment::Packet(Packet::Confirm) => write_packet(tap, PacketKind::Ack, direction, now),
            Segment::Packet(Packet::Data(data)) => tap.passed(direction, data, now),
            Segment::Packet(Packet::Fin) => tap.ended(direction, now),
            Segment::Reset => write_packet(tap, PacketKind::Reset, direction, now),
        }
    }
}
