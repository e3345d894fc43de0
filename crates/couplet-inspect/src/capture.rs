//! The chunks of a [`Recording`] as packets, in the format pcapng
//! (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html>).
//!
//! The driver passes streams, so the headers of IP and TCP are made up. Sequence numbers count all
//! bytes, those that were cut off too: a packet then says that it was longer than captured.
//!
//! Contract: 184e.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use couplet_core::hooks::inspector::{
    ACK, FIN, Kind, PSH, RST, Record, SEGMENT, SYN, Segment, same_family,
};

use crate::lines::{Event, Life, Lives, merged};
use crate::recording::{ConnectionHeader, LoopHeader, Recording};

/// Link type: packets begin with an IP header (LINKTYPE_RAW).
const RAW: u16 = 101;
/// Packets of a chunk after its kept bytes, at most: 1 MiB.
const SEGMENTS: usize = 64;
/// The longest text of an option, in bytes.
const TEXT: usize = 1000;

// The types of blocks, and the numbers of their options.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const COMMENT: u16 = 1;
const INTERFACE_NAME: u16 = 2;
const PACKET_FLAGS: u16 = 2;
const APPLICATION: u16 = 4;
const RESOLUTION: u16 = 9;

impl Recording {
    /// Writes the chunks of its connections in the format pcapng, which Wireshark opens: an interface
    /// for each loop, and segments with made-up headers of IP and TCP. Segments contain the bytes that
    /// were [kept](Self::has_contents), and the lengths of all. Times are the recording's, to the
    /// nanosecond.
    ///
    /// A handshake, a FIN and a reset are written if the recording has the event. Connections without
    /// IP addresses get some of 127.0.0.0/8; the comment of each connection's first packet names its
    /// ends. A connection that has both ends in the recording is written once.
    ///
    /// # Errors
    ///
    /// The writer's error.
    pub fn write_pcap(&self, out: &mut dyn Write) -> io::Result<()> {
        let events = merged(self);
        let (lives, births) = Lives::find(self, &events);
        let mut capture = Capture::new(self, out);
        capture.write_head()?;
        for (number, life) in lives.iter().enumerate() {
            if life.begin.is_none() {
                capture.begin(number, life);
            }
        }
        for (at, event) in events.iter().enumerate() {
            let record = self.records[event.number][event.index];
            if let Some(life) = births.get(&at) {
                capture.begin(*life, &lives[*life]);
            }
            capture.event(event, record)?;
        }
        Ok(())
    }
}

/// An end of a connection.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Peer = 0,
    Host = 1,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Peer => Side::Host,
            Side::Host => Side::Peer,
        }
    }
}

/// A connection, as its packets show it.
struct Conversation {
    peer: SocketAddr,
    host: SocketAddr,
    /// The next sequence numbers, of the peer and of the host.
    next: [u32; 2],
    /// The comment of the next packet.
    comment: String,
    /// Whether our side is closed.
    is_shut: bool,
}

/// A file with packets.
struct Capture<'a> {
    recording: &'a Recording,
    out: &'a mut dyn Write,
    known: BTreeMap<(usize, &'a str), &'a ConnectionHeader>,
    /// The connections that are written: the first end, if the recording has both.
    conversations: BTreeMap<(usize, u32), Conversation>,
    /// The ends of the conversations: the peer and the host.
    open: BTreeSet<(SocketAddr, SocketAddr)>,
}

/// A packet before its headers.
struct Packet<'a> {
    interface: usize,
    /// Nanoseconds since 1970.
    time: u64,
    from: Side,
    flags: u8,
    data: &'a [u8],
    cut: usize,
}

impl<'a> Capture<'a> {
    fn new(recording: &'a Recording, out: &'a mut dyn Write) -> Capture<'a> {
        let loops = recording.header.loops.iter().enumerate();
        let known = loops.flat_map(|(number, header)| {
            header.connections.iter().map(move |it| ((number, &*it.id), it))
        });
        let (conversations, open) = (BTreeMap::new(), BTreeSet::new());
        Capture { recording, out, known: known.collect(), conversations, open }
    }

    /// Writes the head of the section, and the interfaces.
    fn write_head(&mut self) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        // Version 1.0, of unknown length.
        body.extend([1, 0, 0, 0]);
        body.extend(u64::MAX.to_le_bytes());
        let note = "made of the recording of a program: the headers of IP and TCP are made up";
        push_option(&mut body, COMMENT, note.as_bytes());
        push_option(&mut body, APPLICATION, b"couplet");
        self.write_block(SECTION, body)?;
        for header in &self.recording.header.loops {
            let mut body = Vec::new();
            body.extend(RAW.to_le_bytes());
            // Reserved, and no limit of lengths.
            body.extend([0; 6]);
            let name = format!(
                "loop {} ({})",
                header.id,
                header.host.as_deref().unwrap_or(&header.thread)
            );
            push_option(&mut body, INTERFACE_NAME, short(&name).as_bytes());
            push_option(&mut body, RESOLUTION, &[9]);
            self.write_block(INTERFACE, body)?;
        }
        Ok(())
    }

    /// Begins a connection; `number` distinguishes it from all others.
    fn begin(&mut self, number: usize, life: &Life) {
        let id = life.id.as_deref();
        let known = id.and_then(|id| self.known.get(&(life.number, id)));
        let texts = [known.map(|it| &*it.peer), known.and_then(|it| it.host.as_deref())];
        let [peer, host] = texts.map(|text| text.and_then(socket_addr));
        let ends = same_family(peer.unwrap_or_else(|| made_up(number)), host.unwrap_or(HOST));
        self.end((life.number, life.slot));
        if self.open.contains(&(ends.1, ends.0)) {
            return;
        }
        let serial = self.recording.header.loops[life.number].serial;
        let name = id.map_or_else(|| format!("{serial}.{}", life.slot), str::to_owned);
        let [peer_text, host_text] = texts.map(|text| text.unwrap_or("unknown"));
        let mut comment = format!("connection {name}: peer {peer_text}, host {host_text}");
        if peer.is_none() || host.is_none() {
            comment += "; addresses that are not IP are made up";
        }
        // Two connections of the same ends have different numbers.
        let first = (number as u32).wrapping_mul(0x9e37_79b1).wrapping_add(1);
        let conversation = Conversation {
            peer: ends.0,
            host: ends.1,
            next: life.base.map(|bytes| first.wrapping_add(bytes as u32)),
            comment: short(&comment).to_owned(),
            is_shut: false,
        };
        self.open.insert(ends);
        self.conversations.insert((life.number, life.slot), conversation);
    }

    fn end(&mut self, key: (usize, u32)) {
        if let Some(ended) = self.conversations.remove(&key) {
            self.open.remove(&(ended.peer, ended.host));
        }
    }

    /// Writes the packets of an event.
    fn event(&mut self, event: &Event, record: Record) -> io::Result<()> {
        let key = (event.number, record.key);
        let time = self.recording.header.loops[event.number].nanos(record.time);
        let Some(mut it) = self.conversations.remove(&key) else { return Ok(()) };
        let written = self.write_event(&mut it, event, record, time);
        let is_end = matches!(record.kind, Kind::Closed | Kind::Failed);
        self.conversations.insert(key, it);
        if is_end {
            self.end(key);
        }
        written
    }

    fn write_event(
        &mut self,
        it: &mut Conversation,
        event: &Event,
        record: Record,
        time: u64,
    ) -> io::Result<()> {
        let empty =
            |from, flags| Packet { interface: event.number, time, from, flags, data: &[], cut: 0 };
        match record.kind {
            Kind::Accepted => self.write_handshake(it, Side::Peer, empty),
            Kind::Connected => self.write_handshake(it, Side::Host, empty),
            Kind::Received => self.write_chunk(it, event, record, empty(Side::Peer, PSH | ACK)),
            Kind::Wrote | Kind::Blocked => {
                self.write_chunk(it, event, record, empty(Side::Host, PSH | ACK))
            }
            Kind::Ended => self.write_packet(it, empty(Side::Peer, FIN | ACK)),
            Kind::Failed => {
                let why = if it.comment.is_empty() { "" } else { "; " };
                it.comment += &format!("{why}an error ended the connection");
                self.write_packet(it, empty(Side::Peer, RST | ACK))
            }
            Kind::Closed if record.value != 0 => {
                self.write_packet(it, empty(Side::Host, RST | ACK))
            }
            Kind::Shut | Kind::Closed if !it.is_shut => {
                it.is_shut = true;
                self.write_packet(it, empty(Side::Host, FIN | ACK))
            }
            _ => Ok(()),
        }
    }

    fn write_handshake(
        &mut self,
        it: &mut Conversation,
        opener: Side,
        empty: impl Fn(Side, u8) -> Packet<'static>,
    ) -> io::Result<()> {
        it.next = it.next.map(|next| next.wrapping_sub(1));
        self.write_packet(it, empty(opener, SYN))?;
        self.write_packet(it, empty(opener.other(), SYN | ACK))?;
        self.write_packet(it, empty(opener, ACK))
    }

    /// Writes the bytes of a chunk: those that were kept, and the lengths of the others.
    fn write_chunk(
        &mut self,
        it: &mut Conversation,
        event: &Event,
        record: Record,
        empty: Packet<'_>,
    ) -> io::Result<()> {
        let all = record.value as usize;
        let kept = self.recording.contents[event.number].of(event.index).unwrap_or_default();
        let mut left = all;
        let mut segments = kept
            .chunks(SEGMENT)
            .chain(std::iter::repeat(&[][..]))
            .take(kept.len().div_ceil(SEGMENT) + SEGMENTS);
        while left > 0
            && let Some(data) = segments.next()
        {
            let cut = left.min(SEGMENT).saturating_sub(data.len());
            left -= data.len() + cut;
            self.write_packet(it, Packet { data, cut, ..empty })?;
        }
        let next = &mut it.next[empty.from as usize];
        *next = next.wrapping_add(left as u32);
        Ok(())
    }

    fn write_packet(&mut self, it: &mut Conversation, packet: Packet<'_>) -> io::Result<()> {
        let Packet { interface, time, from, flags, data, cut } = packet;
        let (own, other) = (from as usize, from.other() as usize);
        let ends = match from {
            Side::Peer => (it.peer, it.host),
            Side::Host => (it.host, it.peer),
        };
        let acknowledged = if flags & ACK == 0 { 0 } else { it.next[other] };
        let mut bytes = Vec::new();
        Segment { ends, number: it.next[own], acknowledged, flags, data, cut }.push(&mut bytes);
        let counted = data.len() + cut + usize::from(flags & (SYN | FIN) != 0);
        it.next[own] = it.next[own].wrapping_add(counted as u32);
        let mut body = Vec::new();
        let numbers = [interface as u32, (time >> 32) as u32, time as u32, bytes.len() as u32];
        for number in numbers.into_iter().chain([(bytes.len() + cut) as u32]) {
            body.extend(number.to_le_bytes());
        }
        push_padded(&mut body, &bytes);
        let comment = std::mem::take(&mut it.comment);
        if !comment.is_empty() {
            push_option(&mut body, COMMENT, comment.as_bytes());
        }
        // Inbound or outbound.
        let direction: u32 = if from == Side::Peer { 1 } else { 2 };
        push_option(&mut body, PACKET_FLAGS, &direction.to_le_bytes());
        self.write_block(PACKET, body)
    }

    /// Writes a block whose body has options.
    fn write_block(&mut self, kind: u32, mut body: Vec<u8>) -> io::Result<()> {
        // The end of the options.
        body.extend([0; 4]);
        let length = (body.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&[&kind.to_le_bytes(), &length, &body[..], &length].concat())
    }
}

/// The made-up address of our end.
const HOST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// The made-up address of a peer: another one for each of the next 16 million connections.
fn made_up(number: usize) -> SocketAddr {
    const PORTS: usize = 50_000;
    let [high, low] = ((1 + number / PORTS % 1000) as u16).to_be_bytes();
    SocketAddr::from(([127, 1, high, low], (10_000 + number % PORTS) as u16))
}

/// The IP address of an end, if it has one.
fn socket_addr(text: &str) -> Option<SocketAddr> {
    text.strip_prefix("tcp:")?.parse().ok()
}

/// The beginning of a text.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT)]
}

fn push_option(body: &mut Vec<u8>, number: u16, value: &[u8]) {
    body.extend(number.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    push_padded(body, value);
}

fn push_padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend_from_slice(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

impl LoopHeader {
    /// A time in nanoseconds since 1970.
    fn nanos(&self, ticks: u64) -> u64 {
        // The header of a damaged recording may have any numbers.
        ((self.origin * 1e9) as u64).saturating_add((self.seconds(ticks) * 1e9) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::recording::tests::{file_with_contents, record};

    const ENDS: [&str; 2] = ["tcp:192.0.2.1:4000", "tcp:192.0.2.2:80"];

    /// A packet of a file.
    #[derive(Debug)]
    struct Found {
        time: u64,
        /// The addresses of the sender and of the receiver.
        ips: Vec<u8>,
        ports: (u16, u16),
        numbers: (u32, u32),
        flags: u8,
        data: Vec<u8>,
        cut: usize,
        /// The numbers and values of the options.
        options: Vec<(u16, Vec<u8>)>,
    }

    impl Found {
        fn comment(&self) -> Option<String> {
            let (_, value) = self.options.iter().find(|(number, _)| *number == COMMENT)?;
            Some(String::from_utf8(value.clone()).expect("text"))
        }
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn big(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn options(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut options = Vec::new();
        loop {
            let head = word(rest, 0);
            let (number, length) = (head as u16, (head >> 16) as usize);
            if number == 0 {
                assert_eq!(rest.len(), 4, "nothing after the end");
                return options;
            }
            options.push((number, rest[4..4 + length].to_vec()));
            rest = &rest[4 + length.next_multiple_of(4)..];
        }
    }

    fn packet(body: &[u8]) -> Found {
        let (kept, all) = (word(body, 12) as usize, word(body, 16) as usize);
        let ip = &body[20..20 + kept];
        let (head, ips) = if ip[0] >> 4 == 6 { (40, 8) } else { (20, 12) };
        let length = if head == 40 { [ip[4], ip[5]] } else { [ip[2], ip[3]] };
        // IPv6 stores the payload length, without the header.
        let without = if head == 40 { 40 } else { 0 };
        assert_eq!(usize::from(u16::from_be_bytes(length)) + without, all, "the length in IP");
        let tcp = &ip[head..];
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        Found {
            time: u64::from(word(body, 4)) << 32 | u64::from(word(body, 8)),
            ips: ip[ips..head].to_vec(),
            ports: (port(0), port(2)),
            numbers: (big(tcp, 4), big(tcp, 8)),
            flags: tcp[13],
            data: tcp[20..].to_vec(),
            cut: all - kept,
            options: options(&body[20 + kept.next_multiple_of(4)..]),
        }
    }

    /// The packets of a recording; checks the blocks.
    fn packets(records: &[Record], chunks: &[(usize, Vec<u8>)], ends: [&str; 2]) -> Vec<Found> {
        let recording = Recording::parse(&file_with_contents(records, chunks, ends));
        packets_of(&recording.expect("our own"))
    }

    fn packets_of(recording: &Recording) -> Vec<Found> {
        let mut file = Vec::new();
        recording.write_pcap(&mut file).expect("a vector");
        let (mut rest, mut kinds, mut found) = (&file[..], Vec::new(), Vec::new());
        while !rest.is_empty() {
            let (kind, length) = (word(rest, 0), word(rest, 4) as usize);
            assert_eq!((length % 4, word(rest, length - 4) as usize), (0, length));
            if kind == PACKET {
                found.push(packet(&rest[8..length - 4]));
            } else {
                kinds.push(kind);
            }
            rest = &rest[length..];
        }
        assert_eq!(kinds, [SECTION, INTERFACE]);
        found
    }

    #[test]
    fn c184e_a_connection_has_its_handshake_its_bytes_and_its_end() {
        let records = [
            record(0, Kind::Accepted, 7, 3),
            record(1, Kind::Received, 7, 5),
            record(2, Kind::Wrote, 7, 20_000),
            record(3, Kind::Ended, 7, 0),
            record(4, Kind::Closed, 7, 0),
        ];
        let found = packets(&records, &[(1, b"hello".to_vec()), (2, b"wor".to_vec())], ENDS);
        let shown = |it: &Found| (it.ports.0, it.flags, it.data.len(), it.cut);
        assert_eq!(
            found.iter().map(shown).collect::<Vec<_>>(),
            [
                (4000, SYN, 0, 0),
                (80, SYN | ACK, 0, 0),
                (4000, ACK, 0, 0),
                (4000, PSH | ACK, 5, 0),
                (80, PSH | ACK, 3, SEGMENT - 3),
                (80, PSH | ACK, 0, 20_000 - SEGMENT),
                (4000, FIN | ACK, 0, 0),
                (80, FIN | ACK, 0, 0),
            ]
        );
        let first = found[0].numbers.0;
        let numbers = found.iter().map(|it| it.numbers.0.wrapping_sub(first));
        assert_eq!(numbers.collect::<Vec<_>>(), [0, 0, 1, 1, 1, 1 + SEGMENT as u32, 6, 20_001]);
        assert_eq!(found[7].numbers.1.wrapping_sub(first), 7, "the FIN counts");
        // The ticks are microseconds, and begin 1000 s after 1970.
        assert_eq!(found[3].time, 1_000_000_001_000);
        let comment = "connection 1.7.3: peer tcp:192.0.2.1:4000, host tcp:192.0.2.2:80";
        assert_eq!(found[0].comment().as_deref(), Some(comment));
        assert!(found[1..].iter().all(|it| it.comment().is_none()));
    }

    #[test]
    fn c184e_a_side_that_was_closed_before_has_one_fin() {
        let records = [
            record(0, Kind::Accepted, 7, 3),
            record(1, Kind::Shut, 7, 0),
            record(2, Kind::Ended, 7, 0),
            record(3, Kind::Closed, 7, 0),
        ];
        let found = packets(&records, &[], ENDS);
        let fins: Vec<_> = found[3..].iter().map(|it| (it.ports.0, it.flags)).collect();
        assert_eq!(fins, [(80, FIN | ACK), (4000, FIN | ACK)]);
    }

    #[test]
    fn c184e_each_connection_of_a_slot_has_its_own_numbers_and_comment() {
        let life = |at: u64| {
            let chunk = record(at + 1, Kind::Received, 7, 5);
            [record(at, Kind::Accepted, 7, 3), chunk, record(at + 2, Kind::Closed, 7, 0)]
        };
        let records = [life(0), life(10), life(20)].concat();
        let found = packets(&records, &[], ENDS);
        let comments: Vec<_> = found.iter().map(|it| it.comment().is_some()).collect();
        assert_eq!(comments, [true, false, false, false, false].repeat(3));
        let syns = found.iter().filter(|it| it.flags == SYN).map(|it| it.numbers.0);
        assert_eq!(syns.collect::<BTreeSet<_>>().len(), 3);
        for packets in found.chunks(5) {
            let first = packets[0].numbers.0;
            let numbers: Vec<_> =
                packets.iter().map(|it| it.numbers.0.wrapping_sub(first)).collect();
            assert_eq!(numbers, [0, 0, 1, 1, 1]);
            assert_eq!(packets[4].numbers.1.wrapping_sub(first), 6, "all bytes of this one");
        }
    }

    #[test]
    fn a_connection_of_ipv6_has_packets_of_ipv6() {
        let records = [record(0, Kind::Accepted, 7, 3), record(1, Kind::Received, 7, 9)];
        let ends = ["tcp:[2001:db8::1]:4000", "tcp:[2001:db8::2]:80"];
        let found = packets(&records, &[(1, b"hello".to_vec())], ends);
        let ips = ["2001:db8::1", "2001:db8::2"].map(|ip| ip.parse::<Ipv6Addr>().expect("an IP"));
        let ends = ips.map(|ip| ip.octets());
        assert_eq!(found[0].ips, ends.concat());
        assert_eq!(found[1].ips, [ends[1], ends[0]].concat(), "the other way");
        let data = &found[3];
        assert_eq!((&data.data[..], data.cut, data.ports), (&b"hello"[..], 4, (4000, 80)));
        // An IPv4 address is mapped if the other end has an IPv6 address.
        let found = packets(&records, &[], ["tcp:192.0.2.1:4000", "tcp:[2001:db8::2]:80"]);
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        assert_eq!(found[0].ips, [mapped, ends[1]].concat());
    }

    #[test]
    fn c184e_a_reset_and_an_error_give_different_packets() {
        let opened = record(0, Kind::Connected, 7, 0);
        let found = packets(&[opened, record(1, Kind::Closed, 7, 1)], &[], ENDS);
        assert_eq!((found[0].ports.0, found[0].flags), (80, SYN), "we opened it");
        assert_eq!((found[3].ports.0, found[3].flags), (80, RST | ACK));
        let found = packets(&[opened, record(1, Kind::Failed, 7, 0)], &[], ENDS);
        assert_eq!((found[3].ports.0, found[3].flags), (4000, RST | ACK));
        assert_eq!(found[3].comment().as_deref(), Some("an error ended the connection"));
    }

    #[test]
    fn a_connection_without_ip_addresses_gets_some_and_its_comment_says_so() {
        let records = [record(0, Kind::Accepted, 7, 3), record(1, Kind::Received, 7, 5)];
        let found = packets(&records, &[], ["unix:", "unix:/run/app.sock"]);
        assert_eq!(found[0].ports, (10_000, 1));
        let comment = found[0].comment().expect("a comment");
        assert!(comment.contains("host unix:/run/app.sock; addresses that"), "{comment}");
        let addresses = [0, 50_000, 70_000, 999_999].map(made_up);
        let expected =
            ["127.1.0.1:10000", "127.1.0.2:10000", "127.1.0.2:30000", "127.1.0.20:59999"];
        assert_eq!(addresses.map(|it| it.to_string()), expected);
    }

    #[test]
    fn a_write_of_any_length_makes_few_packets() {
        let records = [record(0, Kind::Wrote, 7, u32::MAX), record(1, Kind::Wrote, 7, 1)];
        let found = packets(&records, &[], ENDS);
        assert_eq!(found.len(), SEGMENTS + 1);
        let passed = found[SEGMENTS].numbers.0.wrapping_sub(found[0].numbers.0);
        assert_eq!(passed, u32::MAX, "the others count too");
    }

    #[test]
    fn c184e_a_connection_with_both_ends_in_the_recording_is_written_once() {
        let both = [ENDS, [ENDS[1], ENDS[0]]];
        let file = file_with_contents(&[], &[], ENDS);
        let mut recording = Recording::parse(&file).expect("our own");
        let header = &mut recording.header.loops[0];
        let serial = [7, 8].map(|slot| format!("1.{slot}.3"));
        header.connections = both
            .iter()
            .zip([7, 8])
            .zip(serial)
            .map(|(([peer, host], slot), id)| ConnectionHeader::of_test(slot, id, peer, host))
            .collect();
        recording.records[0] = vec![
            record(0, Kind::Connected, 8, 0),
            record(1, Kind::Accepted, 7, 3),
            record(2, Kind::Wrote, 8, 5),
            record(3, Kind::Received, 7, 5),
            record(4, Kind::Closed, 8, 0),
            record(5, Kind::Ended, 7, 0),
            record(6, Kind::Closed, 7, 0),
        ];
        let found = packets_of(&recording);
        let flags: Vec<_> = found.iter().map(|it| it.flags).collect();
        assert_eq!(flags, [SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK]);
        assert_eq!(found[0].ports, (4000, 80));
    }

    proptest! {
        /// The sequence numbers of each direction count all bytes, and the kept ones are in their places.
        #[test]
        fn c184e_streams_are_complete_but_for_the_bytes_that_were_cut(
            events in prop::collection::vec((any::<bool>(), 0..40_000_usize, 0..40_000_usize), 0..20)
        ) {
            let (mut records, mut chunks) = (vec![record(0, Kind::Accepted, 7, 3)], Vec::new());
            let mut streams = [Vec::new(), Vec::new()];
            for (is_in, all, kept) in &events {
                let kind = if *is_in { Kind::Received } else { Kind::Wrote };
                let stream = &mut streams[usize::from(!is_in)];
                let bytes: Vec<u8> = (0..*all).map(|at| (stream.len() + at) as u8).collect();
                let kept = (*kept).min(*all);
                if kept > 0 {
                    chunks.push((records.len(), bytes[..kept].to_vec()));
                }
                stream.extend(bytes.iter().enumerate().map(|(at, byte)| (at < kept).then_some(*byte)));
                records.push(record(records.len() as u64, kind, 7, *all as u32));
            }
            let found = packets(&records, &chunks, ENDS);
            let first = found[0].numbers.0;
            let mut read = [Vec::new(), Vec::new()];
            for it in &found[3..] {
                let way = usize::from(it.ports.0 == 80);
                prop_assert_eq!(it.numbers.0.wrapping_sub(first) as usize, 1 + read[way].len());
                prop_assert_eq!(it.numbers.1.wrapping_sub(first) as usize, 1 + read[1 - way].len());
                read[way].extend(it.data.iter().copied().map(Some));
                read[way].extend(std::iter::repeat_n(None, it.cut));
            }
            prop_assert!(read == streams);
        }
    }
}
