//! The example of a custom framing, a server for the Redis protocol: its parser against an encoder,
//! with the stream cut in every way.

#[path = "../../../../couplet/examples/resp/grammar.rs"]
mod grammar;
#[path = "../../../../couplet/examples/resp/server.rs"]
mod server;

use std::collections::BTreeMap;

use couplet::testing::{every_split, hold};
use proptest::prelude::*;
use server::Redis;

use couplet_testkit_loops::framing::naive::cut;

/// The server's answers to these pieces, and whether it closes the connection.
fn answers(pieces: &[&[u8]]) -> (String, bool) {
    let mut held = hold(Redis::default());
    let transport = held.connection.transport();
    for piece in pieces {
        if !transport.is_closing() {
            held.push(piece);
        }
    }
    (held.wire.take().escape_ascii().to_string(), transport.is_closing())
}

#[test]
fn commands_are_answered_however_they_are_cut() {
    let session = b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\necho\r\n$4\r\n\r\n*1\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n\
        *2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n$1\r\nl\r\n*1\r\n$3\r\nFLY\r\n*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n";
    let want =
        "+PONG\r\n$4\r\n\r\n*1\r\n+OK\r\n$0\r\n\r\n$-1\r\n-ERR unknown command: FLY\r\n+OK\r\n";
    every_split(session, |pieces| {
        assert_eq!(answers(pieces), (want.escape_default().to_string(), true), "{pieces:?}");
    });
}

#[test]
fn an_invalid_command_ends_the_connection_however_it_is_cut() {
    for offence in [
        "PING\r\n",
        "*\r\n",
        "*-1\r\n",
        "*+1\r\n",
        "*1\n",
        "*1\rx",
        "*1\r\n:1\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$1\r\nxx\r\n",
        "*1\r\n$1\r\nx\n\r",
        "*99999999\r\n",
    ] {
        let input = format!("*1\r\n$4\r\nPING\r\n{offence}");
        every_split(input.as_bytes(), |pieces| {
            assert_eq!(answers(pieces), ("+PONG\\r\\n".into(), true), "{input:?} as {pieces:?}");
        });
    }
}

#[test]
fn a_command_over_the_limit_ends_the_connection() {
    for announced in ["*1\r\n$65536\r\n", "*1000000\r\n"] {
        let mut held = hold(Redis::default());
        held.push(announced.as_bytes());
        let transport = held.connection.transport();
        assert!(!transport.is_closing());
        held.push(&b"$0\r\n\r\n".repeat(20_000)[..65_536]);
        assert!(transport.is_closing(), "{announced:?}");
    }
}

fn encode(words: &[Vec<u8>], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// A model's answers to well-formed commands.
fn model(commands: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut store = BTreeMap::new();
    let mut out = Vec::new();
    let bulk = |word: Option<&Vec<u8>>| match word {
        None => b"$-1\r\n".to_vec(),
        Some(word) => [format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat(),
    };
    for words in commands {
        match words.as_slice() {
            [echo, word] if echo == b"ECHO" => out.extend(bulk(Some(word))),
            [set, key, value] if set == b"SET" => {
                store.insert(key.clone(), value.clone());
                out.extend_from_slice(b"+OK\r\n");
            }
            [get, key] if get == b"GET" => out.extend(bulk(store.get(key))),
            _ => unreachable!("the strategy generates no other command"),
        }
    }
    out
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::collection::vec(prop::sample::select(&b"ab\r\n$*1"[..]), 0..4),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn a_command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop_oneof![
        word().prop_map(|word| vec![b"ECHO".to_vec(), word]),
        word().prop_map(|key| vec![b"GET".to_vec(), key]),
        (word(), word()).prop_map(|(key, value)| vec![b"SET".to_vec(), key, value]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_match_a_model(
        commands in prop::collection::vec(a_command(), 1..8),
        lengths in prop::collection::vec(1..30_usize, 1..6),
    ) {
        let mut stream = Vec::new();
        commands.iter().for_each(|words| encode(words, &mut stream));
        let want = model(&commands).escape_ascii().to_string();
        prop_assert_eq!(answers(&cut(&stream, &lengths)), (want, false));
    }

    #[test]
    fn anything_gives_the_same_answers_however_it_is_cut(
        stream in prop::collection::vec(prop::sample::select(&b"*$12PING\r\n\r\n"[..]), 1..60),
        lengths in prop::collection::vec(1..9_usize, 1..6),
    ) {
        let stream = [b"*1\r\n$4\r\n".as_slice(), &stream].concat();
        prop_assert_eq!(answers(&cut(&stream, &lengths)), answers(&[&stream]));
    }
}
