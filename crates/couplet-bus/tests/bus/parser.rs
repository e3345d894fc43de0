//! The parser: each operation and each error, however the bytes are cut.

use couplet::bus::nats::{Op, ParseError, Parser};
use couplet::testing::every_split;
use proptest::collection::vec;
use proptest::prelude::*;

const LIMIT: usize = 20;

/// The operations as lines, and the error at the end.
fn parse(pieces: &[&[u8]]) -> Vec<String> {
    let (mut parser, mut seen) = (Parser::new(LIMIT), Vec::new());
    for piece in pieces {
        let mut data = *piece;
        loop {
            match parser.next(&mut data) {
                Ok(Some(op)) => seen.push(line(op)),
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
        assert!(data.is_empty(), "all of a piece is consumed");
    }
    seen
}

fn line(op: Op) -> String {
    match op {
        Op::Message { id, message } => {
            let headers: Vec<_> =
                message.headers().map(|(name, value)| format!("{name}={value}")).collect();
            let payload = String::from_utf8_lossy(message.payload());
            let reply = message.reply().unwrap_or("-");
            format!(
                "{id} {} {reply} {:?} {headers:?} {payload}",
                message.subject(),
                message.status()
            )
        }
        Op::Info(info) => format!("info {:?}", info.connect_urls),
        op => format!("{op:?}"),
    }
}

#[test]
fn c211_each_operation_is_parsed_however_it_is_cut() {
    let input = "INFO {\"connect_urls\":[\"b:1\"],\"unknown\":{}}\r\nPING\r\npong\r\n+OK\r\n\
        -ERR 'Slow Consumer'\r\nMSG a.b 7 5\r\nhe\r\nl\r\nmsg a.b  7\treply 0 \r\n\r\n\
        HMSG a 8 16 16\r\nNATS/1.0 503\r\n\r\n\r\nHMSG a 9 r 18 19\r\nNATS/1.0\r\nA: b\r\n\r\n!\r\n\
        MSG a 10 21\r\n012345678901234567890\r\nPING\r\n";
    every_split(input.as_bytes(), |pieces| {
        assert_eq!(
            parse(pieces),
            [
                "info [\"b:1\"]",
                "Ping",
                "Pong",
                "Ok",
                "Err(\"Slow Consumer\")",
                "7 a.b - None [] he\r\nl",
                "7 a.b reply None [] ",
                "8 a - Some(503) [] ",
                "9 a r None [\"A=b\"] !",
                "Oversized { id: 10, size: 21 }",
                "Ping",
            ]
        );
    });
}

#[test]
fn c211_bytes_that_are_not_the_protocol_are_errors() {
    let long = format!("-ERR '{}'\r\n", "x".repeat(4090));
    let most = format!("-ERR '{}'\r\n", "x".repeat(4089));
    assert_eq!(parse(&[most.as_bytes()]).len(), 1);
    for (input, error) in [
        (
            "HTTP/1.1 400 Bad Request\r\n",
            "cannot read from the server: \"HTTP/1.1 400 Bad Request\" is not an operation",
        ),
        ("PING\n", "cannot read from the server: \"PING\" is not an operation"),
        ("\r\n", "cannot read from the server: \"\" is not an operation"),
        ("MSG a 1\r\n", "cannot read from the server: \"MSG a 1\" is not an operation"),
        ("MSG a b 1\r\n", "cannot read from the server: \"MSG a b 1\" is not an operation"),
        ("MSG a 1 -1\r\n", "cannot read from the server: \"MSG a 1 -1\" is not an operation"),
        ("MSG a 1 b 2 3\r\n", "cannot read from the server: \"MSG a 1 b 2 3\" is not an operation"),
        ("HMSG a 1 3\r\n", "cannot read from the server: \"HMSG a 1 3\" is not an operation"),
        ("HMSG a 1 3 2\r\n", "cannot read from the server: \"HMSG a 1 3 2\" is not an operation"),
        (
            "MSG a 1 67108865\r\n",
            "cannot read from the server: a payload of 67108865 bytes is too large",
        ),
        ("MSG a 1 1\r\nabc", "cannot read from the server: a payload is longer than declared"),
        ("HMSG a 1 2 2\r\nab\r\n", "cannot read from the server: malformed headers"),
        (&long, "cannot read from the server: a control line is too long"),
    ] {
        every_split(input.as_bytes(), |pieces| assert_eq!(parse(pieces), [error], "{input:?}"));
    }
    let mut parser = Parser::new(LIMIT);
    let endless = vec![b'x'; 5000];
    assert_eq!(parser.next(&mut &endless[..]), Err(ParseError::LineTooLong));
    assert_eq!(parse(&[b"MSG a 1 67108864\r\n"]), [""; 0], "it is skipped");
    let info = |name: usize| format!("INFO {{\"server_name\":\"{}\"}}\r\n", "x".repeat(name));
    let most = 65_536 + 2 - info(0).len();
    assert_eq!(parse(&[info(most).as_bytes()]), ["info []"]);
    assert_eq!(
        parse(&[info(most + 1).as_bytes()]),
        ["cannot read from the server: a control line is too long"]
    );
    let bad = parse(&[b"INFO {\"max_payload\":-1}\r\n"]);
    assert!(bad[0].starts_with("cannot read from the server: malformed INFO: "), "{bad:?}");
}

proptest! {
    #[test]
    fn c211_messages_survive_any_cut(
        texts in vec("[a-z\r\n]{0,24}", 1..8),
        cuts in vec(1_usize..40, 0..40),
    ) {
        let mut input = String::new();
        for text in &texts {
            input += &format!("MSG a 1 {}\r\n{text}\r\n", text.len());
        }
        let (mut rest, mut pieces) = (input.as_bytes(), Vec::new());
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let expected: Vec<String> = texts.iter().map(|text| match text.len() {
            0..=LIMIT => format!("1 a - None [] {text}"),
            size => format!("Oversized {{ id: 1, size: {size} }}"),
        }).collect();
        prop_assert_eq!(parse(&pieces), expected);
    }
}
