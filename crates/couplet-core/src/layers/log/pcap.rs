//! A tap that writes a capture file in libpcap's format, for tcpdump and Wireshark.
//!
//! A layer sees streams, not packets, so this tap makes up the IP and TCP headers: a handshake,
//! data with sequence numbers and acknowledgements, and a FIN for each direction.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[cfg(feature = "testing")]
use super::segment::RST;
use super::segment::{ACK, FIN, LONGEST, PSH, SEGMENT, SYN, Segment, same_family};
use super::{Direction, Tap};
use crate::address::Address;
use crate::bounded::{AtMost, Bounded};

/// Default limit on the size of a file, in bytes.
const LIMIT: u64 = 256 * 1024 * 1024;
/// Link type: packets begin with an IP header (LINKTYPE_RAW).
const RAW: u32 = 101;
/// Size of a record header.
const RECORD: usize = 16;

/// A capture file, which several connections may share. Stops at 256 MiB by default, and after an
/// error.
#[derive(Clone)]
pub struct Pcap(Rc<RefCell<CaptureFile>>);

struct CaptureFile {
    write: Box<dyn Write>,
    left: u64,
    /// An instant, and its time since 1970.
    epoch: (Instant, Duration),
}

impl Pcap {
    /// Begins a file. `epoch` is the time since 1970 at the instant `now`.
    ///
    /// # Errors
    ///
    /// If the file header cannot be written.
    pub fn new(write: impl Write + 'static, now: Instant, epoch: Duration) -> io::Result<Pcap> {
        let mut write = write;
        write.write_all(&Pcap::HEADER)?;
        Ok(Pcap::resume(write, now, epoch))
    }

    /// The file header: the magic number for nanosecond timestamps, version 2.4, the longest packet
    /// and the link type.
    pub(crate) const HEADER: [u8; 24] = {
        let [a, b, c, d] = 0xa1b2_3c4d_u32.to_le_bytes();
        let [l, m, n, o] = (LONGEST as u32).to_le_bytes();
        let [r, s, t, u] = RAW.to_le_bytes();
        [a, b, c, d, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, l, m, n, o, r, s, t, u]
    };

    /// Continues a file that already has its header.
    pub(crate) fn resume(write: impl Write + 'static, now: Instant, epoch: Duration) -> Pcap {
        let file = CaptureFile { write: Box::new(write), left: LIMIT, epoch: (now, epoch) };
        Pcap(Rc::new(RefCell::new(file)))
    }

    /// Limits the number of bytes written from now on.
    #[must_use]
    pub fn limit(self, bytes: u64) -> Pcap {
        self.0.borrow_mut().left = bytes;
        self
    }

    /// A tap for one connection, opened by the peer (on a port) or by us. Addresses other than IP
    /// addresses are shown in 127.0.0.0/8.
    pub fn tap(&self, peer: &Address, host: &Address, opened_by_peer: bool) -> PcapTap {
        let ip = |address: &Address, last| {
            address.socket_addr().unwrap_or(SocketAddr::from(([127, 0, 0, last], u16::from(last))))
        };
        let (peer, host) = same_family(ip(peer, 2), ip(host, 1));
        PcapTap {
            file: self.0.clone(),
            peer,
            host,
            opener: Some(if opened_by_peer { Direction::In } else { Direction::Out }),
            sent: [1; 2],
            packet: Bounded::default(),
        }
    }
}

/// Writes the packets of one connection to a [`Pcap`].
pub struct PcapTap {
    file: Rc<RefCell<CaptureFile>>,
    peer: SocketAddr,
    host: SocketAddr,
    /// The direction of the SYN, until it is written.
    opener: Option<Direction>,
    /// The next sequence numbers, in and out.
    sent: [u32; 2],
    /// The packet being built, after space for its record header.
    packet: Bounded<Vec<u8>, AtMost<{ RECORD + LONGEST }>>,
}

impl PcapTap {
    fn begin(&mut self, now: Instant) {
        let Some(first) = self.opener else { return };
        let second = match first {
            Direction::In => Direction::Out,
            Direction::Out => Direction::In,
        };
        self.write_syn(first, now);
        self.write_syn_ack(second, now);
        self.write_ack(first, now);
    }

    /// Writes the SYN of a handshake. The caller then also writes the other two packets: none are
    /// made up.
    pub(crate) fn write_syn(&mut self, direction: Direction, now: Instant) {
        self.opener = None;
        self.write_packet(direction, 0, 0, SYN, &[], now);
    }

    /// Writes the SYN-ACK.
    pub(crate) fn write_syn_ack(&mut self, direction: Direction, now: Instant) {
        self.write_packet(direction, 0, 1, SYN | ACK, &[], now);
    }

    /// Writes the ACK that completes the handshake.
    pub(crate) fn write_ack(&mut self, direction: Direction, now: Instant) {
        self.write_packet(direction, 1, 1, ACK, &[], now);
    }

    /// Writes a reset.
    #[cfg(feature = "testing")]
    pub(crate) fn write_reset(&mut self, direction: Direction, now: Instant) {
        self.write_segment(direction, RST, &[], now);
    }

    /// Writes data, or the end of a direction.
    fn write_segment(&mut self, direction: Direction, flags: u8, data: &[u8], now: Instant) {
        let (own, other) = match direction {
            Direction::In => (0, 1),
            Direction::Out => (1, 0),
        };
        let (number, acknowledged) = (self.sent[own], self.sent[other]);
        self.write_packet(direction, number, acknowledged, flags | ACK, data, now);
        let fin = u32::from(flags & FIN);
        self.sent[own] = number.wrapping_add(data.len() as u32).wrapping_add(fin);
    }

    fn write_packet(
        &mut self,
        direction: Direction,
        number: u32,
        acknowledged: u32,
        flags: u8,
        data: &[u8],
        now: Instant,
    ) {
        let ends = match direction {
            Direction::In => (self.peer, self.host),
            Direction::Out => (self.host, self.peer),
        };
        let mut packet = self.packet.take();
        packet.clear();
        packet.extend([0; RECORD]);
        Segment { ends, number, acknowledged, flags, data, cut: 0 }.push(&mut packet);
        self.file.borrow_mut().write_packet(&mut packet, now);
        *self.packet.edit() = packet;
    }
}

impl CaptureFile {
    /// Fills in the record header before a packet, and writes both with a single call, so that
    /// several loops can share a file of whole records.
    fn write_packet(&mut self, record: &mut [u8], now: Instant) {
        let size = record.len() as u64;
        if self.left < size {
            self.left = 0;
            return;
        }
        self.left -= size;
        let (began, epoch) = self.epoch;
        let time = epoch + now.saturating_duration_since(began);
        let length = ((record.len() - RECORD) as u32).to_le_bytes();
        record[..4].copy_from_slice(&(time.as_secs() as u32).to_le_bytes());
        record[4..8].copy_from_slice(&time.subsec_nanos().to_le_bytes());
        record[8..12].copy_from_slice(&length);
        record[12..RECORD].copy_from_slice(&length);
        if let Err(error) = self.write.write_all(record) {
            log_warn!(%error, "cannot write a capture file, which ends here");
            self.left = 0;
        }
    }
}

impl Tap for PcapTap {
    fn passed(&mut self, direction: Direction, bytes: &[u8], now: Instant) {
        self.begin(now);
        for data in bytes.chunks(SEGMENT) {
            self.write_segment(direction, PSH, data, now);
        }
    }

    fn ended(&mut self, direction: Direction, now: Instant) {
        self.begin(now);
        self.write_segment(direction, FIN, &[], now);
    }
}

impl fmt::Debug for Pcap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pcap").field("left", &self.0.borrow().left).finish_non_exhaustive()
    }
}

impl fmt::Debug for PcapTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peer, host) = (self.peer, self.host);
        f.debug_struct("PcapTap").field("peer", &peer).field("host", &host).finish_non_exhaustive()
    }
}
