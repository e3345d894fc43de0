//! [`Segment`]: a TCP segment in an IP packet, with made-up headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Maximum data in a segment, in bytes.
pub const SEGMENT: usize = 16 * 1024;
/// Longest packet: the headers of IPv6 and TCP, and a segment.
pub const LONGEST: usize = 40 + 20 + SEGMENT;

/// The sender closes its side.
pub const FIN: u8 = 1;
/// Opens a connection.
pub const SYN: u8 = 2;
/// Resets the connection.
pub const RST: u8 = 4;
/// The data is complete so far.
pub const PSH: u8 = 8;
/// The acknowledged number is valid.
pub const ACK: u8 = 16;

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The sender, and the receiver, both [of one family](same_family).
    pub ends: (SocketAddr, SocketAddr),
    /// The sequence number.
    pub number: u32,
    /// The acknowledged number.
    pub acknowledged: u32,
    /// The flags: [`SYN`], [`ACK`] and others.
    pub flags: u8,
    /// The data: with `cut`, at most [`SEGMENT`] bytes.
    pub data: &'a [u8],
    /// The number of bytes of data that were left out. The lengths in the headers include them; if there
    /// are any, the TCP checksum is omitted.
    pub cut: usize,
}

impl Segment<'_> {
    /// Appends the packet, without the bytes that were not kept.
    pub fn push(&self, packet: &mut Vec<u8>) {
        let Segment { ends: (from, to), data, cut, .. } = *self;
        let mut tcp = [0; 20];
        tcp[..2].copy_from_slice(&from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.number.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledged.to_be_bytes());
        // A header of five words, and the maximum window.
        (tcp[12], tcp[13], tcp[14], tcp[15]) = (5 << 4, self.flags, 0xff, 0xff);
        let length = (tcp.len() + data.len() + cut) as u16;
        let sum = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => push_ipv4_header(packet, from, to, length),
            (from, to) => push_ipv6_header(packet, six(from), six(to), length),
        };
        if cut == 0 {
            // The pseudo-header: both addresses, the protocol and the length (RFC 9293, 3.1).
            let sum = sum + u32::from(length) + 6 + sum_words(&tcp) + sum_words(data);
            tcp[16..18].copy_from_slice(&fold_checksum(sum).to_be_bytes());
        }
        packet.extend(tcp);
        packet.extend_from_slice(data);
    }
}

/// Maps an IPv4 address to IPv6 if the other one is IPv6: both addresses of a packet are of the same
/// family.
pub fn same_family(one: SocketAddr, other: SocketAddr) -> (SocketAddr, SocketAddr) {
    let is_six = one.is_ipv6() || other.is_ipv6();
    let family = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) if is_six => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        _ => address,
    };
    (family(one), family(other))
}

fn six(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Appends an IPv4 header (RFC 791), and returns the sum of the addresses for the TCP checksum.
fn push_ipv4_header(packet: &mut Vec<u8>, from: Ipv4Addr, to: Ipv4Addr, length: u16) -> u32 {
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&(length + 20).to_be_bytes());
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let sum = fold_checksum(sum_words(&header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(header);
    sum_words(&header[12..])
}

/// Appends an IPv6 header (RFC 8200), and returns the sum of the addresses for the TCP checksum.
fn push_ipv6_header(packet: &mut Vec<u8>, from: Ipv6Addr, to: Ipv6Addr, length: u16) -> u32 {
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([6, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    sum_words(&from.octets()) + sum_words(&to.octets())
}

/// Sums 16-bit words (RFC 1071). Cannot overflow, because the input is at most 64 KiB.
fn sum_words(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    words.sum()
}

fn fold_checksum(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
