//! Both line formats, their limit, and capture files, which tcpdump and tshark read too if they are
//! installed.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow::Continue;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::layers::Layers;

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

/// Passes a request, an answer and both ends of the stream through a log.
fn exchange(tap: impl Tap + 'static, request: &[u8], answer: &[&[u8]]) {
    let now = start();
    let mut layers = Layers::new(TrafficLog::new(tap), &Rc::default());
    let mut received = Vec::new();
    let mut feed = |layers: &mut Layers, bytes: &[u8]| {
        let flow = layers.feed(bytes, now, |up| {
            if let Up::Data(data) = up {
                received.extend_from_slice(data);
            }
            Continue(())
        });
        assert!(flow.is_continue());
    };
    feed(&mut layers, request);
    let mut above = Outbox::new(Rc::default());
    for piece in answer {
        above.push(bytes::Bytes::copy_from_slice(piece));
    }
    layers.down(&mut above, now);
    layers.down(&mut above, now);
    layers.ended();
    feed(&mut layers, b"");
    feed(&mut layers, b"");
    assert_eq!(received, request);
    let sent: Vec<u8> = layers.bottom().slices().flatten().copied().collect();
    assert_eq!(sent, answer.concat());
    assert!(layers.close(&mut above, now));
}

fn logged(form: LogForm, limit: Option<u64>, request: &[u8], answer: &[&[u8]]) -> Vec<String> {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let write = lines.clone();
    let mut tap = Lines::new(form, move |line: &str| write.borrow_mut().push(line.to_owned()));
    if let Some(limit) = limit {
        tap = tap.limit(limit);
    }
    exchange(tap, request, answer);
    lines.take()
}

#[test]
fn text_is_logged_line_by_line_with_escapes() {
    let lines =
        logged(LogForm::Text, None, b"GET / HTTP/1.0\r\nA: \xff\r\n\r\n", &[b"200", b" OK\n"]);
    let expected = [
        "> GET / HTTP/1.0\\r\\n",
        "> A: \\xff\\r\\n",
        "> \\r\\n",
        "< 200",
        "<  OK\\n",
        "! > ended after 24 bytes",
    ];
    assert_eq!(lines, expected);
    let long = logged(LogForm::Text, None, &[b'x'; 300], &[]);
    assert_eq!(long[0].len(), 2 + 256);
    assert_eq!(long[1].len(), 2 + 44);
}

#[test]
fn hexadecimal_has_the_offset_in_the_stream() {
    let lines = logged(LogForm::Hex, None, b"0123456789abcdef\x00~", &[b"x", b"y"]);
    let expected = [
        "> 00000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  |0123456789abcdef|",
        "> 00000010  00 7e                                            |.~|",
        "< 00000000  78                                               |x|",
        "< 00000001  79                                               |y|",
        "! > ended after 18 bytes",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_log_ends_at_its_limit() {
    let lines = logged(LogForm::Text, Some(4), b"abc", &[b"defghi", b"never"]);
    let end = "! > ended after 3 bytes";
    assert_eq!(lines, ["> abc", "< d", "! the log has reached its limit", end]);
}

/// A file whose content a test can read.
#[derive(Clone, Default)]
struct ReadableFile(Rc<RefCell<Vec<u8>>>);

impl Write for ReadableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The parts of a captured packet that the tests compare.
#[derive(Debug, PartialEq)]
struct Packet {
    six: bool,
    from_port: u16,
    flags: u8,
    numbers: (u32, u32),
    data: Vec<u8>,
}

/// Reads a capture, and verifies its checksums.
fn packets(file: &[u8]) -> Vec<Packet> {
    let little = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("4")) as usize;
    assert_eq!((little(0), little(20)), (0xa1b2_3c4d, 101));
    let (mut at, mut found) = (24, Vec::new());
    while at < file.len() {
        assert_eq!(little(at), 1_700_000_000);
        let length = little(at + 8);
        assert!(length == little(at + 12) && length <= little(16));
        let packet = &file[at + 16..at + 16 + length];
        let (six, addresses) = match packet[0] >> 4 {
            4 => (false, 12..20),
            _ => (true, 8..40),
        };
        let header = addresses.end;
        let whole = usize::from(u16::from_be_bytes(match six {
            true => [packet[4], packet[5]],
            false => [packet[2], packet[3]],
        }));
        assert_eq!(whole, if six { length - 40 } else { length });
        let tcp = &packet[header..];
        let pseudo = [&packet[addresses], &[0, 6], &(tcp.len() as u16).to_be_bytes(), tcp].concat();
        assert_eq!(ones(&pseudo), 0xffff, "the sum of TCP");
        assert!(six || ones(&packet[..20]) == 0xffff, "the sum of IP");
        let big = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().expect("4"));
        found.push(Packet {
            six,
            from_port: u16::from_be_bytes([tcp[0], tcp[1]]),
            flags: tcp[13],
            numbers: (big(4), big(8)),
            data: tcp[20..].to_vec(),
        });
        at += 16 + length;
    }
    found
}

/// The one's complement sum of 16-bit words; 0xffff over a correct packet.
fn ones(bytes: &[u8]) -> u32 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|two| u32::from(two[0]) * 256 + two.get(1).map_or(0, |&low| u32::from(low)))
        .sum();
    (sum & 0xffff) + (sum >> 16)
}

fn address(text: &str) -> crate::address::Address {
    text.parse::<SocketAddr>().expect("an address").into()
}

fn capture(peer: &str, host: &str, by_peer: bool, request: &[u8]) -> Vec<u8> {
    let file = ReadableFile::default();
    let epoch = Duration::from_secs(1_700_000_000);
    let pcap = Pcap::new(file.clone(), start(), epoch).expect("memory");
    exchange(pcap.tap(&address(peer), &address(host), by_peer), request, &[b"odd", b"answer"]);
    file.0.take()
}

#[test]
fn a_capture_has_a_handshake_data_and_an_end() {
    for (peer, host, six) in [
        ("10.0.0.9:5555", "10.0.0.1:80", false),
        ("[2001:db8::9]:5555", "[2001:db8::1]:80", true),
        ("10.0.0.9:5555", "[2001:db8::1]:80", true),
    ] {
        let file = capture(peer, host, true, &[7; 20_000]);
        let data = |n: usize| vec![7; n];
        let expected = [
            (5555, SYN, (0, 0), vec![]),
            (80, SYN | ACK, (0, 1), vec![]),
            (5555, ACK, (1, 1), vec![]),
            (5555, PSH | ACK, (1, 1), data(16_384)),
            (5555, PSH | ACK, (16_385, 1), data(3616)),
            (80, PSH | ACK, (1, 20_001), b"odd".to_vec()),
            (80, PSH | ACK, (4, 20_001), b"answer".to_vec()),
            (5555, FIN | ACK, (20_001, 10), vec![]),
        ];
        let expected = expected.map(|(from_port, flags, numbers, data)| Packet {
            six,
            from_port,
            flags,
            numbers,
            data,
        });
        assert_eq!(packets(&file), expected);
    }
    let first = &packets(&capture("10.0.0.9:5555", "10.0.0.1:80", false, b"x"))[0];
    assert_eq!((first.from_port, first.flags), (80, SYN), "we have opened it");
}

#[test]
fn the_end_of_a_direction_takes_a_sequence_number_which_the_other_acknowledges() {
    use Direction::{In, Out};
    for (first, second, ports) in [(In, Out, [5555, 80]), (Out, In, [80, 5555])] {
        let file = ReadableFile::default();
        let epoch = Duration::from_secs(1_700_000_000);
        let pcap = Pcap::new(file.clone(), start(), epoch).expect("memory");
        let (peer, host) = (address("10.0.0.9:5555"), address("10.0.0.1:80"));
        let mut tap = pcap.tap(&peer, &host, true);
        tap.ended(first, start());
        tap.passed(second, b"answer", start());
        tap.ended(second, start());
        let packets = packets(&file.0.take());
        let told = packets[3..].iter().map(|packet| (packet.from_port, packet.numbers));
        let expected = [(ports[0], (1, 1)), (ports[1], (1, 2)), (ports[1], (7, 2))];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_capture_distinguishes_the_ends_of_a_connection_without_addresses() {
    let file = ReadableFile::default();
    let epoch = Duration::from_secs(1_700_000_000);
    let pcap = Pcap::new(file.clone(), start(), epoch).expect("memory");
    let path = crate::address::UnixAddress::from("/run/a.sock");
    exchange(pcap.tap(&path.clone().into(), &path.into(), true), b"x", &[b"y", b"z"]);
    let bytes = file.0.take();
    // The addresses of the first packet, behind the headers of the file, the packet and the first
    // 12 bytes of the IPv4 header.
    assert_eq!(bytes[24 + 16 + 12..][..8], [127, 0, 0, 2, 127, 0, 0, 1]);
    let ports: Vec<_> = packets(&bytes).iter().map(|packet| packet.from_port).collect();
    assert_eq!(ports, [2, 1, 2, 2, 1, 1, 2]);
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

#[test]
fn a_packet_has_the_time_of_day_to_the_nanosecond() {
    let (file, began) = (ReadableFile::default(), start());
    let epoch = Duration::from_millis(1_700_000_000_700);
    let pcap = Pcap::new(file.clone(), began, epoch).expect("memory");
    let mut tap = pcap.tap(&address("10.0.0.9:5555"), &address("10.0.0.1:80"), true);
    let later = began + Duration::from_nanos(1_500_000_001);
    tap.passed(Direction::In, b"x", later);
    let bytes = file.0.take();
    let little = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4"));
    assert_eq!((little(24), little(28)), (1_700_000_002, 200_000_001));
    // Before the file began, by a clock of another thread.
    tap.passed(Direction::In, b"y", began - Duration::from_secs(1));
    let bytes = file.0.take();
    let little = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4"));
    assert_eq!((little(0), little(4)), (1_700_000_000, 700_000_000));
}

#[test]
fn a_capture_that_cannot_be_written_does_not_disturb_the_connection() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(Pcap::new(Full(23), start(), Duration::ZERO).is_err());
    let pcap = Pcap::new(Full(100), start(), Duration::ZERO).expect("room for the header");
    let (peer, host) = (address("10.0.0.9:5555"), address("10.0.0.1:80"));
    exchange(pcap.tap(&peer, &host, true), b"request", &[b"answer"]);
}

#[test]
fn a_capture_ends_for_all_its_connections_after_an_error_and_at_its_limit() {
    /// Fails once, at the third write.
    struct Fails(ReadableFile, usize);
    impl Write for Fails {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1 == 3 { Err(io::ErrorKind::StorageFull.into()) } else { self.0.write(bytes) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (now, epoch) = (start(), Duration::from_secs(1_700_000_000));
    // A packet without data has 56 bytes in the file. The handshake fits, and its data does not.
    for (fails_at, limit, kept) in
        [(0, u64::MAX, 1), (3, 3 * 56 + 155, 3), (3, 3 * 56, 3), (3, 3 * 56 - 1, 2)]
    {
        let file = ReadableFile::default();
        let write = Fails(file.clone(), fails_at);
        let pcap = Pcap::new(write, now, epoch).expect("memory").limit(limit);
        let (peer, host) = (address("10.0.0.9:5555"), address("10.0.0.1:80"));
        let mut taps = [(); 2].map(|()| pcap.tap(&peer, &host, true));
        for tap in &mut taps {
            tap.passed(Direction::In, &[7; 100], now);
            tap.ended(Direction::In, now);
        }
        assert_eq!(packets(&file.0.take()).len(), kept);
    }
}

#[test]
fn tcpdump_and_wireshark_read_a_capture() {
    let folder = std::env::temp_dir().join(format!("couplet-pcap-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("both.pcap");
    let bytes = capture("10.0.0.9:5555", "10.0.0.1:80", true, b"GET / HTTP/1.0\r\n\r\n");
    std::fs::write(&file, bytes).expect("a file");
    let run = |program: &str, arguments: &[&str]| {
        let path = file.to_str().expect("a plain path");
        let output = Command::new(program).arg("-nr").arg(path).args(arguments).output().ok()?;
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let text = run("tcpdump", &["-vv", "-t"]);
    assert!(text.is_some() || std::env::var_os("CI").is_none(), "CI lacks tcpdump");
    if let Some(text) = text {
        assert_eq!(text.matches("(correct)").count(), 7, "{text}");
        assert!(text.contains("10.0.0.9.5555 > 10.0.0.1.80: Flags [S]"), "{text}");
        assert!(text.contains("GET / HTTP/1.0"), "{text}");
    }
    if let Some(text) =
        run("tshark", &["-o", "tcp.check_checksum:TRUE", "-q", "-z", "follow,tcp,ascii,0"])
    {
        for data in ["GET / HTTP/1.0", "odd", "answer"] {
            assert!(text.contains(data), "{text}");
        }
    }
    std::fs::remove_dir_all(&folder).expect("it was there");
}
