//! The parser of Redis's bytes: replies however they are cut, and its limits.

use couplet::bus::redis::{ParseError, Parser, Reply};
use couplet::testing::every_split;
use proptest::collection::vec;
use proptest::prelude::*;

const LIMIT: usize = 20;

/// The replies, and the error at the end.
fn parse(pieces: &[&[u8]]) -> (Vec<Reply>, Option<ParseError>) {
    let (mut parser, mut seen) = (Parser::new(LIMIT), Vec::new());
    for piece in pieces {
        let mut data = *piece;
        loop {
            match parser.next(&mut data) {
                Ok(Some(reply)) => seen.push(reply),
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(data.is_empty(), "all of a piece is consumed");
    }
    (seen, None)
}

fn bytes(text: &'static str) -> Reply {
    Reply::Bytes(text.into())
}

#[test]
fn c217_each_reply_is_parsed_however_it_is_cut() {
    let input = "+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n$0\r\n\r\n_\r\n,1.5\r\n#t\r\n#f\r\n\
        (123456789012345678901\r\n!5\r\nERR x\r\n=7\r\ntxt:abc\r\n*0\r\n*2\r\n:1\r\n*1\r\n*0\r\n\
        ~1\r\n+a\r\n%2\r\n$1\r\nk\r\n*2\r\n:1\r\n:2\r\n,1\r\n$1\r\nk\r\n>3\r\n$7\r\nmessage\r\n$1\r\na\r\n\
        $21\r\n012345678901234567890\r\n$99\r\n";
    let input = format!("{input}{}\r\n:1\r\n", "x".repeat(99));
    let list = Reply::List;
    let expected = [
        bytes("OK"),
        Reply::Error("ERR no".to_owned()),
        Reply::Number(-7),
        bytes("a\r\n"),
        bytes(""),
        Reply::Nil,
        Reply::Double(1.5),
        Reply::Bool(true),
        Reply::Bool(false),
        bytes("123456789012345678901"),
        Reply::Error("ERR x".to_owned()),
        bytes("abc"),
        list(vec![]),
        list(vec![Reply::Number(1), list(vec![list(vec![])])]),
        list(vec![bytes("a")]),
        list(vec![
            bytes("k"),
            list(vec![Reply::Number(1), Reply::Number(2)]),
            Reply::Double(1.0),
            bytes("k"),
        ]),
        Reply::Push(vec![bytes("message"), bytes("a"), Reply::Error("TOOLARGE 21".to_owned())]),
        Reply::Error("TOOLARGE 99".to_owned()),
        Reply::Number(1),
    ];
    every_split(input.as_bytes(), |pieces| {
        let (seen, error) = parse(pieces);
        assert_eq!(error, None);
        assert_eq!(seen, expected);
    });
}

#[test]
fn c217_bytes_that_are_not_the_protocol_are_errors() {
    let bad_line = |text: &str| ParseError::BadLine(text.to_owned());
    let bad = [
        ("HTTP/1.1 400 Bad Request\r\n", bad_line("HTTP/1.1 400 Bad Request")),
        ("\r\n", bad_line("")),
        ("+OK\n", bad_line("+OK")),
        ("$-1\r\n", bad_line("$-1")),
        ("$+1\r\n", bad_line("$+1")),
        ("$?\r\n", bad_line("$?")),
        ("*x\r\n", bad_line("*x")),
        ("$99999999999999999999\r\n", bad_line("$99999999999999999999")),
        ("|1\r\n+a\r\n+b\r\n:1\r\n", bad_line("|1")),
        ("*1\r\n;1\r\n", bad_line(";1")),
        ("$1\r\nabc", ParseError::BadEnd),
        ("*65537\r\n", ParseError::TooLarge),
        ("%18446744073709551615\r\n", ParseError::TooLarge),
    ];
    for (input, error) in bad {
        every_split(input.as_bytes(), |pieces| {
            assert_eq!(parse(pieces), (vec![], Some(error.clone())), "{input:?}");
        });
    }
    for input in [":x\r\n", "#y\r\n", ",y\r\n", "=4\r\nabcd\r\n", "=1\r\na\r\n", "-\u{e9}\r\n"] {
        let input = input.replace('\u{e9}', "\u{fffd}").into_bytes();
        let input: Vec<u8> = input.into_iter().filter(|byte| *byte != 0xbf).collect();
        let (seen, error) = parse(&[&input]);
        assert!(matches!(error, Some(ParseError::BadValue(_))), "{input:?}: {seen:?} {error:?}");
    }
}

#[test]
fn c217_the_depth_the_values_and_the_bytes_of_a_reply_are_bounded() {
    let nested = |depth: usize| [&b"*1\r\n".repeat(depth)[..], b":1\r\n"].concat();
    assert_eq!(parse(&[&nested(16)]).0.len(), 1);
    assert_eq!(parse(&[&nested(17)]), (vec![], Some(ParseError::TooLarge)));
    assert_eq!(parse(&[&nested(1_000_000)]), (vec![], Some(ParseError::TooLarge)));
    // The lists within a list count.
    let input = [b"*2\r\n*65534\r\n", &b":1\r\n".repeat(65_534)[..], b":1\r\n"].concat();
    assert_eq!(parse(&[&input]).0.len(), 1);
    let input = [b"*2\r\n*65535\r\n", &b":1\r\n".repeat(65_535)[..]].concat();
    assert_eq!(parse(&[&input]), (vec![], Some(ParseError::TooLarge)));
    // After a reply, they begin anew.
    assert_eq!(parse(&[&b"*65536\r\n"[..], &b":1\r\n".repeat(65_536), b"*1\r\n:1\r\n"]).0.len(), 2);
    let endless = vec![b'x'; 70_000];
    assert_eq!(parse(&[b"+", &endless]).1, Some(ParseError::LineTooLong));
    let mut boundless = Parser::new(usize::MAX);
    assert_eq!(boundless.next(&mut &b"$18446744073709551615\r\nab"[..]), Ok(None));
    // Four strings of the limit, and 1 MiB of lines.
    let lists = |value: &str, count: usize| {
        [format!("*{count}\r\n").into_bytes(), value.repeat(count).into_bytes()].concat()
    };
    let string = format!("$20\r\n{}\r\n", "x".repeat(LIMIT));
    let line = format!("+{}\r\n", "x".repeat(60_000));
    for (value, fits, most) in [(&string, 38_000, 40_000), (&line, 17, 18)] {
        assert_eq!(parse(&[&lists(value, fits)]).0.len(), 1);
        assert_eq!(parse(&[&lists(value, most)]), (vec![], Some(ParseError::TooLarge)));
    }
}

/// Any reply, and its bytes.
fn any_reply() -> impl Strategy<Value = (Reply, Vec<u8>)> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|n| (Reply::Number(n), format!(":{n}\r\n").into_bytes())),
        any::<bool>().prop_map(|b| {
            (Reply::Bool(b), format!("#{}\r\n", if b { 't' } else { 'f' }).into_bytes())
        }),
        Just((Reply::Nil, b"_\r\n".to_vec())),
        "[ -~]{0,30}".prop_map(|text| {
            let line = format!("-{text}\r\n").into_bytes();
            (Reply::Error(text), line)
        }),
        vec(any::<u8>(), 0..30).prop_map(|bytes| {
            let size = bytes.len();
            let line = [format!("${size}\r\n").as_bytes(), &bytes, b"\r\n"].concat();
            match size {
                0..=LIMIT => (Reply::Bytes(bytes.into()), line),
                _ => (Reply::Error(format!("TOOLARGE {size}")), line),
            }
        }),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        vec(inner, 0..8).prop_map(|values| {
            let (replies, parts): (Vec<_>, Vec<_>) = values.into_iter().unzip();
            let head = format!("*{}\r\n", replies.len()).into_bytes();
            (Reply::List(replies), [head, parts.concat()].concat())
        })
    })
}

/// Cuts an input in pieces of these lengths.
fn cut<'a>(mut rest: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths {
        let (piece, after) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

proptest! {
    #[test]
    fn c217_replies_survive_any_cut(
        replies in vec(any_reply(), 1..6),
        lengths in vec(1_usize..40, 0..40),
    ) {
        let (expected, parts): (Vec<_>, Vec<_>) = replies.into_iter().unzip();
        let input = parts.concat();
        prop_assert_eq!(parse(&cut(&input, &lengths)), (expected, None));
    }

    #[test]
    fn c217_any_bytes_are_the_same_however_they_are_cut(
        input in "[-+:$*%~>_,#!=(|0-9a-f?\r\n]{0,60}",
        lengths in vec(1_usize..10, 0..20),
    ) {
        let input = input.replace('\n', "\r\n");
        let whole = parse(&[input.as_bytes()]);
        prop_assert_eq!(parse(&cut(input.as_bytes(), &lengths)), whole);
    }
}
