//! Rows 163, 167 and 168: messages that a framer accepts or rejects.

use couplet::protocols::{
    FramingError, IntReceiver, LineOnlyReceiver, LineProtocol, LineReceiver, LineTransport,
    NetstringReceiver, StringProtocol, StringTooLong, StringTransport, encode_int,
    encode_netstring,
};
use couplet::testing::{every_split, hold};

use super::{Event, Notes, events, lost, message};

/// Feeds `input` to both line receivers, cut in every way.
fn lines(notes: &Notes, limit: usize, delimiter: &'static [u8], input: &[u8], want: &[Event]) {
    let log = &notes.log;
    every_split(input, |pieces| {
        let receiver = LineReceiver::new(notes.clone());
        let receiver = receiver.with_max_length(limit).with_delimiter(delimiter);
        assert_eq!(events(receiver, log, pieces), want, "{input:?} as {pieces:?}");
        let receiver = LineOnlyReceiver::new(notes.clone());
        let receiver = receiver.with_max_length(limit).with_delimiter(delimiter);
        assert_eq!(events(receiver, log, pieces), want, "{input:?} as {pieces:?}, lines only");
    });
}

fn too_long(limit: usize) -> Event {
    lost(FramingError::LineTooLong { limit })
}

#[test]
fn c163_a_line_of_the_limit_passes_and_a_longer_one_closes() {
    let notes = Notes::default();
    lines(&notes, 5, b"\r\n", b"\r\nabcde\r\nx", &[message(""), message("abcde")]);
    let exceeded = Event::Exceeded(b"abcdef".to_vec());
    let want = [message("ok"), exceeded, too_long(5)];
    lines(&notes, 5, b"\r\n", b"ok\r\nabcdef\r\nnever\r\n", &want);
    lines(&notes, 5, b"\r\n", b"ok\r\nabcdefgh", &want);
    // A partial delimiter is part of the line.
    lines(&notes, 9, b"\r\n", b"\n\r\ra\rb\n\r\n", &[message("\n\r\ra\rb\n")]);
}

#[test]
fn c163_a_missing_delimiter_trips_as_soon_as_no_line_can_fit() {
    let after = |input: &[u8]| {
        let mut held = hold(LineReceiver::new(Notes::default()).with_max_length(5));
        held.push(input);
        held.connection.transport().is_closing()
    };
    assert!(!after(b"abcde"));
    assert!(!after(b"abcde\r"), "a line feed would complete the line");
    assert!(after(b"abcdef"));
    assert!(after(b"abcde\rf"));
    assert!(after(b"abcdef\r"));
}

#[test]
fn c163_a_protocol_may_let_a_long_line_pass_by() {
    let notes = Notes { survives: true, ..Notes::default() };
    let exceeded = |text: &str| Event::Exceeded(text.into());
    let want = [exceeded("abcd"), message("ok"), exceeded("1234"), message("")];
    lines(&notes, 3, b"--!", b"abcd---!ok--!12345--6--!--!", &want);
    lines(&notes, 0, b"\n", b"a\n\nbc\n", &[exceeded("a"), message(""), exceeded("b")]);
}

#[test]
#[should_panic(expected = "at least one byte")]
fn an_empty_delimiter_is_refused() {
    let _ = LineReceiver::new(Notes::default()).with_delimiter(b"");
}

#[test]
fn c163_the_limit_is_16384_unless_set() {
    let notes = Notes::default();
    let mut input = vec![b'x'; 16_384];
    input.extend_from_slice(b"\r\n");
    let want = vec![Event::Message(vec![b'x'; 16_384])];
    assert_eq!(events(LineReceiver::new(notes.clone()), &notes.log, &[&input]), want);
    assert_eq!(events(LineOnlyReceiver::new(notes.clone()), &notes.log, &[&input]), want);
    input.insert(0, b'x');
    let want = vec![Event::Exceeded(vec![b'x'; 16_385]), too_long(16_384)];
    assert_eq!(events(LineReceiver::new(notes.clone()), &notes.log, &[&input]), want);
    assert_eq!(events(LineOnlyReceiver::new(notes.clone()), &notes.log, &[&input]), want);
}

#[test]
fn c163_a_long_line_fails_the_connection_by_default() {
    struct Plain;
    impl LineProtocol for Plain {
        fn line_received(&mut self, _: &LineTransport, _: &[u8]) {}
        fn connection_lost(&mut self, _: &LineTransport, reason: &couplet::Reason) {
            let error = reason.downcast_ref::<FramingError>();
            assert_eq!(error, Some(&FramingError::LineTooLong { limit: 3 }));
        }
    }
    let mut held = hold(LineReceiver::new(Plain).with_max_length(3));
    held.push(b"four");
    assert!(held.wire.saw_fin());
    held.wire.fin();
    held.settle();
    assert!(held.connection.is_lost());
}

/// Feeds `input` to a netstring receiver, cut in every way.
fn netstrings(limit: usize, input: &[u8], want: &[Event]) {
    let notes = Notes::default();
    every_split(input, |pieces| {
        let receiver = NetstringReceiver::new(notes.clone()).with_max_length(limit);
        assert_eq!(events(receiver, &notes.log, pieces), want, "{input:?} as {pieces:?}");
    });
}

#[test]
fn c167_each_offence_closes_with_its_name_after_the_strings_before_it() {
    use FramingError::{LeadingZero, NoComma, NoDigit, StringTooLong};
    let limit = 12;
    for (offence, error) in [
        ("13:hello", StringTooLong { limit }),
        ("3000000000:", StringTooLong { limit }),
        ("99999999999999999999999999:", StringTooLong { limit }),
        ("05:hello,", LeadingZero),
        ("00:,", LeadingZero),
        ("-1:", NoDigit(b'-')),
        ("+1:a,", NoDigit(b'+')),
        (" 1:a,", NoDigit(b' ')),
        ("1 :a,", NoDigit(b' ')),
        (":,", NoDigit(b':')),
        ("x", NoDigit(b'x')),
        ("1a:", NoDigit(b'a')),
        ("5:hello!", NoComma(b'!')),
        ("5:hello world,", NoComma(b' ')),
        ("0:a", NoComma(b'a')),
    ] {
        let input = format!("2:ok,{offence}2:no,");
        netstrings(limit, input.as_bytes(), &[message("ok"), lost(error)]);
    }
}

#[test]
fn c167_a_length_beyond_isize_max_exceeds_every_limit() {
    let want =
        [message("ok"), lost(FramingError::StringTooLong { limit: isize::MAX.unsigned_abs() })];
    for length in [usize::MAX, isize::MAX.unsigned_abs() + 1] {
        netstrings(usize::MAX, format!("2:ok,{length}:").as_bytes(), &want);
    }
    let most = isize::MAX;
    netstrings(usize::MAX, format!("2:ok,{most}:no").as_bytes(), &[message("ok")]);
}

#[test]
fn c167_the_limit_is_99999_unless_set() {
    let notes = Notes::default();
    let string = vec![b'x'; 99_999];
    let mut input = Vec::new();
    encode_netstring(&string, &mut input);
    let receiver = NetstringReceiver::new(notes.clone());
    assert_eq!(events(receiver, &notes.log, &[&input]), [Event::Message(string)]);
    let receiver = NetstringReceiver::new(notes.clone());
    let want = [lost(FramingError::StringTooLong { limit: 99_999 })];
    assert_eq!(events(receiver, &notes.log, &[b"100000"]), want, "before its colon arrives");
}

#[test]
fn c168_a_length_is_held_against_the_limit_before_the_string_comes() {
    let notes = Notes::default();
    let error = |limit| lost(FramingError::StringTooLong { limit });
    every_split(b"\0\0\0\x02ok\0\x01\x86\xa0", |pieces| {
        let receiver = IntReceiver::<u32, _>::new(notes.clone());
        assert_eq!(events(receiver, &notes.log, pieces), [message("ok"), error(99_999)]);
    });
    every_split(b"\0\x02ok\0\x03", |pieces| {
        let receiver = IntReceiver::<u16, _>::new(notes.clone()).with_max_length(2);
        assert_eq!(events(receiver, &notes.log, pieces), [message("ok"), error(2)]);
    });
    let receiver = IntReceiver::<u8, _>::new(notes.clone()).with_max_length(2);
    assert_eq!(events(receiver, &notes.log, &[b"\x02ok\x03"]), [message("ok"), error(2)]);
    let mut longest = Vec::new();
    encode_int::<u32>(&vec![7; 99_999], &mut longest).expect("it fits");
    let receiver = IntReceiver::<u32, _>::new(notes.clone());
    assert_eq!(events(receiver, &notes.log, &[&longest]), [Event::Message(vec![7; 99_999])]);
}

/// Sends strings of these lengths when the connection is made.
struct Sends(&'static [usize]);
impl StringProtocol for Sends {
    fn connection_made(&mut self, transport: &StringTransport) {
        for &length in self.0 {
            if let Err(error) = transport.send_string(vec![b'x'; length]) {
                transport.write(error.to_string());
            }
        }
    }
    fn string_received(&mut self, _: &StringTransport, _: &[u8]) {}
}

#[test]
fn c168_a_string_too_long_for_its_prefix_is_an_error_and_not_written() {
    let held = hold(IntReceiver::<u8, _>::new(Sends(&[255, 256, 1])));
    let mut want = vec![255];
    want.extend_from_slice(&[b'x'; 255]);
    want.extend_from_slice(
        b"cannot send a string of 256 bytes: its length prefix allows at most 255\x01x",
    );
    assert_eq!(held.wire.take(), want);

    let mut out = vec![1, 2];
    let error = StringTooLong { length: 65_536, max: 65_535 };
    assert_eq!(encode_int::<u16>(&vec![0; 65_536], &mut out), Err(error));
    assert_eq!(out, [1, 2]);
    assert_eq!(encode_int::<u32>(&vec![0; 65_536], &mut out), Ok(()));
    assert_eq!(out[..6], [1, 2, 0, 1, 0, 0]);
}

#[test]
fn send_string_uses_the_framing_of_its_connection() {
    let sends = || Sends(&[0, 3, 12]);
    let taken = hold(NetstringReceiver::new(sends())).wire.take();
    assert_eq!(taken, b"0:,3:xxx,12:xxxxxxxxxxxx,");
    let taken = hold(IntReceiver::<u16, _>::new(sends())).wire.take();
    assert_eq!(taken, b"\0\0\0\x03xxx\0\x0cxxxxxxxxxxxx");
    let taken = hold(IntReceiver::<u32, _>::new(sends())).wire.take();
    assert_eq!(taken, b"\0\0\0\0\0\0\0\x03xxx\0\0\0\x0cxxxxxxxxxxxx");
}
