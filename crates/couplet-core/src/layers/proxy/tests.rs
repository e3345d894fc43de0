//! Headers from the specification and our own, cut everywhere and compared with another
//! implementation; and headers that must be refused.

use std::ops::ControlFlow::{Break, Continue};
use std::rc::Rc;

use super::*;
use crate::address::Address;
use crate::driver::Spares;
use crate::layers::Layers;
use crate::testing::every_split;

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

fn address(text: &str) -> Address {
    text.parse::<std::net::SocketAddr>().expect("an address").into()
}

/// A reader's results for a stream.
#[derive(Debug, Default, PartialEq)]
struct Read {
    opened: Option<(Option<Address>, Option<Address>)>,
    data: Vec<u8>,
    failed: Option<ProxyError>,
    header: Option<ProxyHeader>,
}

fn read(pieces: &[&[u8]]) -> Read {
    let mut layers = Layers::new(ProxyReader::new(start()), &Rc::new(Spares::default()));
    let mut read = Read::default();
    for piece in pieces {
        feed(&mut layers, piece, &mut read);
    }
    read.header = layers.opened().find::<ProxyHeader>().map(|header| (*header).clone());
    read
}

fn feed(layers: &mut Layers, bytes: &[u8], read: &mut Read) {
    let flow = layers.feed(bytes, start(), |up| {
        match up {
            Up::Data(data) => read.data.extend_from_slice(data),
            Up::Open(opened) => read.opened = opened.map(|opened| (opened.peer, opened.host)),
            Up::Failed(reason) => {
                read.failed = Some(reason.downcast_ref::<ProxyError>().expect("ours").clone());
            }
            Up::Nothing | Up::Last(_) | Up::Closed => panic!("{up:?}"),
        }
        Continue(())
    });
    assert!(flow.is_continue());
}

fn written(header: &ProxyHeader, version: ProxyVersion) -> Vec<u8> {
    let writer = ProxyWriter::new(header, version).expect("it can be written");
    let mut layers = Layers::new(writer, &Rc::new(Spares::default()));
    assert!(layers.is_open() && layers.held() > 0);
    let mut above = Outbox::new(Rc::default());
    above.extend(b"behind it");
    layers.down(&mut above, start());
    layers.down(&mut above, start());
    let bytes = layers.bottom().first().to_vec();
    bytes.strip_suffix(b"behind it").expect("the header goes first, and once").to_vec()
}

#[test]
fn a_writer_passes_the_end_of_the_stream_on() {
    let header = ProxyHeader::new(address("127.0.0.1:1"), address("127.0.0.1:2"));
    let mut writer = ProxyWriter::new(&header, ProxyVersion::V2).expect("it can be written");
    assert!(matches!(writer.up(&mut &b""[..], start()), Up::Nothing));
    writer.ended();
    assert!(matches!(writer.up(&mut &b""[..], start()), Up::Closed));
}

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

#[test]
fn each_header_is_read_however_it_is_cut_and_nothing_behind_it_is_taken() {
    let v4 = (address("192.168.0.1:56324"), address("192.168.0.11:443"));
    let v6 = (address("[2001:db8::1]:1"), address("[2001:db8::2]:65535"));
    let mapped = (address("1.2.3.4:5"), address("6.7.8.9:10"));
    let without_port = (address("192.168.0.1:0"), address("192.168.0.11:443"));
    let none = || (None, None);
    let some = |(a, b): &(Address, Address)| (Some(a.clone()), Some(b.clone()));
    let four = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 1, 0xbb];
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
    let with_unknown_value = [&four[..], &[0xe0, 0, 1, 9]].concat();
    for (header, told) in [
        (&b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"[..], some(&v4)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", some(&v6)),
        (b"PROXY TCP6 ::ffff:1.2.3.4 ::ffff:6.7.8.9 5 10\r\n", some(&mapped)),
        (b"PROXY UNKNOWN\r\n", none()),
        (longest.as_bytes(), none()),
        (&binary(0x21, 0x11, &four), some(&v4)),
        (&binary(0x21, 0x11, &with_unknown_value), some(&v4)),
        (&binary(0x21, 0x00, b""), none()),
        (&binary(0x21, 0x12, &four), none()),
        (&binary(0x21, 0x31, &[0; 216]), none()),
        (&binary(0x20, 0x11, &four), none()),
        (&binary(0x20, 0x00, b"anything"), none()),
        (b"PROXY TCP4 192.168.0.1 192.168.0.11 0 443\r\n", some(&without_port)),
    ] {
        let stream = [header, b"PROXY of the client's own\r\n"].concat();
        every_split(&stream, |pieces| {
            let read = read(pieces);
            let opened = read.opened.unwrap_or_else(|| panic!("{header:?}: {:?}", read.failed));
            assert_eq!(opened, told);
            assert_eq!(read.data, b"PROXY of the client's own\r\n");
        });
    }
}

#[test]
fn a_written_header_is_read_back_here_and_by_another_parser() {
    let full = ProxyHeader {
        alpn: Some(b"h2".to_vec()),
        authority: Some("server.test".to_owned()),
        // The longest.
        unique_id: Some((0..128).collect()),
        tls: Some(ProxyTls {
            version: Some("TLSv1.3".to_owned()),
            cipher: Some("TLS13_AES_256_GCM_SHA384".to_owned()),
            client_certificate: true,
            verified: true,
            common_name: Some("client.test".to_owned()),
        }),
        ..ProxyHeader::new(address("[2001:db8::1]:1"), address("[2001:db8::2]:2"))
    };
    let plain = ProxyHeader::new(address("1.2.3.4:5"), address("6.7.8.9:10"));
    let tls = ProxyHeader { tls: Some(ProxyTls::default()), ..ProxyHeader::default() };
    for (header, version) in [
        (&full, ProxyVersion::V2),
        (&plain, ProxyVersion::V1),
        (&plain, ProxyVersion::V2),
        (&ProxyHeader::default(), ProxyVersion::V1),
        (&ProxyHeader::default(), ProxyVersion::V2),
        (&tls, ProxyVersion::V2),
    ] {
        let bytes = written(header, version);
        assert_eq!(read(&[&bytes]).header.as_ref(), Some(header), "{version:?}");
        let (theirs, length) =
            proxy_header::ProxyHeader::parse(&bytes, Default::default()).expect("valid");
        assert_eq!(length, bytes.len());
        let address = theirs.proxied_address();
        let both = address.map(|both| (both.source.into(), both.destination.into()));
        assert_eq!(both, header.peer.clone().zip(header.host.clone()));
        assert_eq!(theirs.alpn().map(|alpn| alpn.to_vec()), header.alpn);
        let cn = theirs.ssl().and_then(|ssl| ssl.cn().map(str::to_owned));
        assert_eq!(cn, header.tls.as_ref().and_then(|tls| tls.common_name.clone()));
    }
    // An IPv4 client of an IPv6 server: both become IPv6, and the reader returns IPv4 again.
    let mixed = ProxyHeader::new(address("1.2.3.4:5"), address("[2001:db8::2]:2"));
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        assert_eq!(read(&[&written(&mixed, version)]).header.as_ref(), Some(&mixed));
    }
}

#[test]
fn a_client_without_a_certificate_is_not_verified() {
    // The client flags, the verification result, and the expected fields.
    for (client, result, expected) in [
        (0x00, 0, None),
        (0x01, 0, Some((false, false))),
        (0x01, 1, Some((false, false))),
        (0x03, 0, Some((true, true))),
        (0x03, 1, Some((true, false))),
        // A certificate presented earlier in the session.
        (0x05, 0, Some((false, true))),
        (0x05, 0x0100_0000, Some((false, false))),
    ] {
        let result: u32 = result;
        let value = [&[client][..], &result.to_be_bytes()].concat();
        let header = binary(0x21, 0, &[&[0x20, 0, 5][..], &value].concat());
        let tls = read(&[&header]).header.expect("a header").tls;
        let read = tls.map(|tls| (tls.client_certificate, tls.verified));
        assert_eq!(read, expected, "{client:#x}, {result:#x}");
    }
}

#[test]
fn the_checksum_is_checked() {
    // Computed over the header with a checksum of 0.
    let rest = [2, 0, 6, b'x', b'.', b't', b'e', b's', b't', 3, 0, 4, 0, 0, 0, 0];
    let mut header = binary(0x21, 0, &rest);
    let sum = crc32c_by_the_bit(&header).to_be_bytes();
    let at = header.len() - 4;
    header[at..].copy_from_slice(&sum);
    let authority = |header: &[u8]| read(&[header]).header.and_then(|header| header.authority);
    assert_eq!(authority(&header).as_deref(), Some("x.test"));
    header[20] ^= 1;
    assert_eq!(read(&[&header]).failed, Some(ProxyError::Invalid("the checksum is wrong")));
    // With another value behind it.
    let mut header = binary(0x21, 0, &[3, 0, 4, 0, 0, 0, 0, 2, 0, 1, b'x']);
    let sum = crc32c_by_the_bit(&header).to_be_bytes();
    header[19..23].copy_from_slice(&sum);
    assert_eq!(authority(&header).as_deref(), Some("x"));
}

#[test]
fn a_header_of_version_2_has_the_command_proxy_for_a_client_with_any_address() {
    let tcp = address("1.2.3.4:5");
    let unix = Address::from(crate::address::UnixAddress::from("/run/a.sock"));
    for (peer, host, command, family) in [
        (None, None, 0x20, 0x00),
        (None, Some(&tcp), 0x20, 0x00),
        (Some(&tcp), None, 0x21, 0x00),
        (Some(&unix), Some(&tcp), 0x21, 0x00),
        (Some(&tcp), Some(&tcp), 0x21, 0x11),
    ] {
        let header =
            ProxyHeader { peer: peer.cloned(), host: host.cloned(), ..ProxyHeader::default() };
        assert_eq!(written(&header, ProxyVersion::V2)[12..14], [command, family], "{header:?}");
        let is_known = family != 0;
        let line = written(&header, ProxyVersion::V1);
        assert_eq!(line == b"PROXY UNKNOWN\r\n", !is_known, "{header:?}");
    }
}

/// Another implementation of the Castagnoli CRC, verified by its check value.
fn crc32c_by_the_bit(bytes: &[u8]) -> u32 {
    let crc = |bytes: &[u8]| {
        let mut register = u32::MAX;
        for byte in bytes {
            for bit in 0..8 {
                let feedback = (register ^ u32::from(byte >> bit)) & 1;
                register >>= 1;
                if feedback == 1 {
                    register ^= 0x1edc_6f41_u32.reverse_bits();
                }
            }
        }
        !register
    };
    assert_eq!(crc(b"123456789"), 0xe306_9283);
    crc(bytes)
}

#[test]
fn an_invalid_header_is_refused_and_delivers_nothing() {
    let four = [1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2];
    for (stream, text) in [
        (&b"GET / HTTP/1.1\r\n"[..], "does not begin with"),
        (b"PRAXY ", "does not begin with"),
        (b"\r\n\r\n\0\r\nQUIX", "does not begin with"),
        (b"PROXYTCP4 ", "does not begin with"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\n", "CR LF"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n", "two ports"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10 11\r\n", "two ports"),
        (b"PROXY TCP4  1.2.3.4 5.6.7.8 9 10\r\n", "two ports"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 +10\r\n", "not a number"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 09 10\r\n", "not a number"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 65536\r\n", "not a number"),
        (b"PROXY TCP4 ::1 ::2 9 10\r\n", "does not match its family"),
        (b"PROXY TCP4 1.2.3.04 5.6.7.8 9 10\r\n", "does not match its family"),
        (b"PROXY UDP4 1.2.3.4 5.6.7.8 9 10\r\n", "not TCP4"),
        (b"PROXY UNKNOWNX\r\n", "two ports"),
        (&[b"PROXY ", &[b'x'; 101][..]].concat(), "longer than 107"),
        (&binary(0x31, 0x11, &four), "unknown version"),
        (&binary(0x22, 0x11, &four), "unknown version"),
        (&binary(0x21, 0x41, &four), "unknown address family"),
        (&binary(0x21, 0x13, &four), "unknown address family"),
        (&binary(0x21, 0x11, &four[..11]), "truncated"),
        (&binary(0x21, 0x00, &[1, 0]), "truncated"),
        (&binary(0x21, 0x00, &[1, 0, 2, b'h']), "truncated"),
        (&binary(0x21, 0x00, &[2, 0, 1, 0xff]), "not UTF-8"),
        (&binary(0x21, 0x00, &[0x20, 0, 1, 1]), "truncated"),
        (&binary(0x21, 0x00, &[&[5, 0, 129][..], &[0; 129]].concat()), "128 bytes"),
        (&binary(0x21, 0x00, &[3, 0, 1, 0]), "4 bytes"),
        (&binary(0x21, 0x00, &[0; 4096 - 15])[..16], "longer than 4096"),
    ] {
        every_split(stream, |pieces| {
            let read = read(pieces);
            let failed = read.failed.unwrap_or_else(|| panic!("{stream:?} was accepted"));
            assert!(failed.to_string().contains(text), "{failed}");
            assert!(read.opened.is_none() && read.data.is_empty());
        });
    }
}

#[test]
fn the_longest_header_is_accepted() {
    let read = read(&[&binary(0x21, 0x00, &[&[0xe0, 0x0f, 0xed][..], &[0; 4077]].concat())]);
    assert_eq!(read.failed, None);
    assert!(read.opened.is_some());
}

#[test]
fn a_header_that_does_not_come_or_is_cut_off_fails() {
    let now = start();
    for (bytes, late) in [(&b""[..], false), (b"PROXY TCP4", false), (b"\r\n\r\n", true)] {
        let mut layers = Layers::new(ProxyReader::new(now), &Rc::new(Spares::default()));
        let mut read = Read::default();
        feed(&mut layers, bytes, &mut read);
        assert_eq!(layers.deadline(), Some(now + Duration::from_secs(10)));
        match late {
            true => layers.timed_out(now + Duration::from_secs(10)),
            false => layers.ended(),
        }
        feed(&mut layers, b"", &mut read);
        let expected = match late {
            true => ProxyError::TimedOut,
            false => ProxyError::Truncated { received: bytes.len() },
        };
        assert_eq!(read.failed, Some(expected));
        assert_eq!(layers.deadline(), None);
    }
    let mut layers = Layers::new(ProxyReader::new(now), &Rc::new(Spares::default()));
    feed(&mut layers, b"PROXY UNKNOWN\r\n", &mut Read::default());
    assert_eq!(layers.deadline(), None, "an open connection has none");
    let ended = |layers: &mut Layers| {
        let mut closed = false;
        layers.ended();
        let _ = layers.feed(b"", now, |up| {
            closed = matches!(up, Up::Closed);
            Break(())
        });
        closed
    };
    assert!(ended(&mut layers));
}

#[test]
fn nothing_is_written_before_the_header_was_read() {
    let mut layers = Layers::new(ProxyReader::new(start()), &Rc::new(Spares::default()));
    let mut above = Outbox::new(Rc::default());
    above.extend(b"a greeting");
    layers.down(&mut above, start());
    assert!(layers.bottom().is_empty());
    feed(&mut layers, b"PROXY UNKNOWN\r\n", &mut Read::default());
    layers.down(&mut above, start());
    assert_eq!(layers.bottom().first(), b"a greeting");
}

#[test]
fn encoding_a_header_that_its_version_cannot_express_fails() {
    let header = |change: &dyn Fn(&mut ProxyHeader)| {
        let mut header = ProxyHeader::default();
        change(&mut header);
        header
    };
    let alpn = header(&|header| header.alpn = Some(b"h2".to_vec()));
    let id = header(&|header| header.unique_id = Some(vec![0; 129]));
    // 16 bytes precede the values, and 3 the value.
    let authority = |length| header(&|header| header.authority = Some("x".repeat(length)));
    let (longest, long) = (authority(4096 - 19), authority(4096 - 18));
    assert!(ProxyWriter::new(&longest, ProxyVersion::V2).is_ok());
    for (header, version, text) in [
        (alpn, ProxyVersion::V1, "cannot express anything but addresses"),
        (id, ProxyVersion::V2, "more than 128 bytes"),
        (long, ProxyVersion::V2, "longer than 4096"),
    ] {
        let wrong = ProxyWriter::new(&header, version).expect_err("it cannot be said").to_string();
        assert!(wrong.contains(text), "{wrong}");
    }
}
