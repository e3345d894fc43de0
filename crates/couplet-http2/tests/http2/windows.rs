//! [`Connection`]: the engine, with a check in every test that the peer gets back no more of a
//! window than it sent. The check shares no code with the engine.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use couplet_http2::{Error, Options};

use crate::kit::{DATA, PREFACE, WINDOW_UPDATE, number};

/// Calls `found` for each whole frame, and keeps the rest.
fn each_frame(bytes: &mut Vec<u8>, mut found: impl FnMut(u8, u32, &[u8])) {
    let mut rest = &bytes[..];
    while let Some(([a, b, c, kind, _, stream @ ..], after)) = rest.split_first_chunk::<9>() {
        let length = number(&[0, *a, *b, *c]) as usize;
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        found(*kind, number(stream) & 0x7fff_ffff, payload);
        rest = after;
    }
    *bytes = rest.to_vec();
}

/// The bytes of DATA that the peer sent and did not get back, by stream; 0 is the connection.
pub(crate) struct Windows {
    spent: BTreeMap<u32, i64>,
    /// The most by which the window of a stream may grow.
    growth: i64,
    received: Vec<u8>,
    sent: Vec<u8>,
    /// The bytes that are still to come of the preface in each direction.
    prefaces: [usize; 2],
}

impl Windows {
    /// `wider` is the increment with which the side under test begins.
    pub(crate) fn new(is_client: bool, wider: i64) -> Windows {
        let length = PREFACE.len();
        Windows {
            spent: BTreeMap::from([(0, wider)]),
            // Half of the connection's window is shared, and half of the rest stays for others.
            growth: if is_client { 0 } else { (65_535 + wider) / 4 },
            received: Vec::new(),
            sent: Vec::new(),
            prefaces: if is_client { [0, length] } else { [length, 0] },
        }
    }

    fn skip<'a>(preface: &mut usize, bytes: &'a [u8]) -> &'a [u8] {
        let length = bytes.len().min(*preface);
        *preface -= length;
        &bytes[length..]
    }

    /// Reads bytes of the peer.
    pub(crate) fn heard(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(Windows::skip(&mut self.prefaces[0], bytes));
        let spent = &mut self.spent;
        each_frame(&mut self.received, |kind, stream, payload| {
            if kind == DATA && stream != 0 {
                for window in [0, stream] {
                    *spent.entry(window).or_default() += payload.len() as i64;
                }
            }
        });
    }

    /// Reads bytes of the side under test, and checks its updates.
    #[track_caller]
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(Windows::skip(&mut self.prefaces[1], bytes));
        let (spent, growth) = (&mut self.spent, self.growth);
        let mut too_many = Vec::new();
        each_frame(&mut self.sent, |kind, stream, payload| {
            if kind == WINDOW_UPDATE {
                let spent = spent.entry(stream).or_default();
                *spent -= i64::from(number(payload));
                if *spent < if stream == 0 { 0 } else { -growth } {
                    too_many.push((stream, -*spent));
                }
            }
        });
        assert_eq!(too_many, [], "streams whose windows get back more than was sent, and how much");
    }
}

pub(crate) struct Connection {
    engine: couplet_http2::Connection,
    windows: Windows,
}

impl Connection {
    pub(crate) fn server(options: Options) -> Connection {
        Connection::of(false, options, couplet_http2::Connection::server)
    }

    pub(crate) fn client(options: Options) -> Connection {
        Connection::of(true, options, couplet_http2::Connection::client)
    }

    fn of(
        is_client: bool,
        options: Options,
        new: fn(Options) -> couplet_http2::Connection,
    ) -> Connection {
        // The first output widens the connection's window.
        let mut first = new(options.clone()).take_output();
        if is_client {
            first.drain(..PREFACE.len());
        }
        let mut wider = 0;
        each_frame(&mut first, |kind, stream, payload| {
            if (kind, stream) == (WINDOW_UPDATE, 0) {
                wider += i64::from(number(payload));
            }
        });
        Connection { engine: new(options), windows: Windows::new(is_client, wider) }
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.windows.heard(bytes);
        self.engine.receive(bytes)
    }

    #[track_caller]
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        let output = self.engine.take_output();
        self.windows.sent(&output);
        output
    }
}

impl Deref for Connection {
    type Target = couplet_http2::Connection;

    fn deref(&self) -> &couplet_http2::Connection {
        &self.engine
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut couplet_http2::Connection {
        &mut self.engine
    }
}

#[test]
#[should_panic(expected = "get back more than was sent")]
fn a_window_that_gets_back_more_than_was_sent_fails_its_test() {
    let mut windows = Windows::new(false, 0);
    windows.heard(&[PREFACE, &crate::kit::frame(DATA, 0, 1, [0; 10])].concat());
    windows.sent(&crate::kit::window_update(1, 10 + 65_535 / 4));
    windows.sent(&crate::kit::window_update(0, 11));
}
