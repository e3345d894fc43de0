//! The client's side: requests, responses as events, and the rules for servers' frames.

use couplet_core::testing::every_split;
use couplet_http2::{Code, Copied, Event, Fields, Options, RequestLine, SendError};

use crate::kit::*;

fn fields(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

/// An event as a short text.
fn told(event: &Event) -> String {
    match event {
        Event::Request { stream, head, ends } => {
            let [method, path] = [head.method(), head.path().unwrap_or_default()];
            format!("{stream} {} {} {ends}", method.escape_ascii(), path.escape_ascii())
        }
        Event::Informational { stream, status, fields: found } => {
            format!("{stream} {status} {:?}", fields(found))
        }
        Event::Response { stream, status, fields: found, length, ends } => {
            format!("{stream} {status} {:?} {length:?} {ends}", fields(found))
        }
        Event::Data { stream, bytes } => format!("{stream} {} bytes", bytes.len()),
        Event::Trailers { stream, fields: found } => format!("{stream} {:?}", fields(found)),
        Event::End { stream } => format!("{stream} ends"),
        Event::Reset { stream, code } => format!("{stream} {code}"),
        other => format!("{other:?}"),
    }
}

fn all_told(seen: &[Event]) -> Vec<String> {
    seen.iter().map(told).collect()
}

#[test]
fn a_client_begins_with_its_preface_and_settings_and_asks_immediately() {
    let mut connection = Connection::client(Options::default().stream_window(1000));
    assert_eq!(ask(&mut connection), 1);
    let output = connection.take_output();
    let output = frames(output.strip_prefix(PREFACE).expect("a preface"));
    assert_eq!(kinds(&output), [(SETTINGS, 0), (WINDOW_UPDATE, 0), (HEADERS, 1)]);
    let values = [(1, 4096), (4, 1000), (5, 16_384), (6, 65_536), (2, 0)];
    assert_eq!(output[0].payload, settings(&values)[9..], "no pushes");
    assert_eq!((output[2].flags, &output[2].payload[..3]), (WHOLE, &b"\x82\x87\x41"[..]));
}

#[test]
fn a_server_of_ours_reads_the_heads_of_a_client() {
    let (mut client, mut server) = (client(Options::default()), server(Options::default()));
    let line = RequestLine {
        method: b"PATCH",
        scheme: Some(b"http"),
        authority: Some(b"a.example:8080"),
        path: Some(b"/a?b"),
    };
    let given = [
        ("Host", "left.out"),
        ("Connection", "close"),
        ("Keep-Alive", "1"),
        ("Transfer-Encoding", "chunked"),
        ("TE", "gzip"),
        ("te", "trailers"),
        ("Cookie", "a=b"),
        ("X-Long", &"x".repeat(20_000)),
    ];
    for stream in [1, 3] {
        assert_eq!(client.request(&line, given, true), Ok(stream));
        let seen = fine(&mut server, &client.take_output());
        let [Event::Request { head, ends: true, .. }] = &seen[..] else { panic!("{seen:?}") };
        let parts = [head.method(), head.scheme().unwrap(), head.path().unwrap()];
        assert_eq!(parts, [&b"PATCH"[..], b"http", b"/a?b"]);
        assert_eq!(head.authority(), Some(&b"a.example:8080"[..]));
        let names: Vec<_> = head.fields().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"te"[..], b"cookie", b"x-long"]);
    }
    let connect = RequestLine { method: b"CONNECT", scheme: None, path: None, ..line };
    assert_eq!(client.request(&connect, NO_FIELDS, false), Ok(5));
    assert_eq!(all_told(&fine(&mut server, &client.take_output())), ["5 CONNECT  false"]);
}

#[test]
fn fields_that_recur_cost_a_byte_and_short_cookies_are_never_kept() {
    let mut connection = client(Options::default());
    let long = "c".repeat(20);
    let mut length = |cookie: &str| {
        let line = RequestLine::get("a.example", "/long/path");
        let given = [("user-agent", "couplet"), ("accept", "*/*"), ("cookie", cookie)];
        connection.request(&line, given, true).expect("it is open");
        let head = sent(&mut connection).pop().expect("a head");
        let is_secret = head.payload.windows(2).any(|pair| pair == [0x1f, 0x11]);
        (head.payload.len(), is_secret)
    };
    length(&long);
    let path = 2 + "/long/path".len();
    // Coded, the path is shorter by a quarter.
    let (kept, is_secret) = length(&long);
    assert!(kept <= 6 + path && kept < 20 && !is_secret, "{kept}");
    assert!(length("a=b").1);
}

#[test]
fn an_invalid_request_is_refused_and_sends_nothing() {
    let mut connection = client(Options::default());
    let get = RequestLine::get("a.example", "/");
    let lines = [
        RequestLine { method: b"G ET", ..get },
        RequestLine { method: b"", ..get },
        RequestLine { scheme: None, ..get },
        RequestLine { scheme: Some(b"1"), ..get },
        RequestLine { authority: Some(b"a b"), ..get },
        RequestLine { path: None, ..get },
        RequestLine { path: Some(b"a"), ..get },
        RequestLine { path: Some(b"*"), ..get },
        RequestLine { path: Some(b"/a\r\nb: c"), ..get },
        RequestLine { method: b"CONNECT", ..get },
        RequestLine { method: b"CONNECT", scheme: None, path: None, ..get },
    ];
    for line in lines {
        assert_eq!(connection.request(&line, NO_FIELDS, true), Err(SendError::Field), "{line:?}");
    }
    for field in [("", "a"), ("a b", ""), (":path", "/"), ("a", "b\r\nc: d"), ("a", "\0")] {
        assert_eq!(connection.request(&get, [field], true), Err(SendError::Field), "{field:?}");
    }
    assert_eq!(sent(&mut connection), []);
    assert_eq!((connection.open_streams(), ask(&mut connection)), (0, 1), "no number is skipped");
}

#[test]
fn each_side_refuses_the_messages_of_the_other() {
    let line = RequestLine::get("a.example", "/");
    let mut connection = server(Options::default());
    assert_eq!(connection.request(&line, NO_FIELDS, true), Err(SendError::Order));
    assert!(!connection.takes_requests());
    let mut connection = client(Options::default());
    assert_eq!((ask(&mut connection), upload(&mut connection)), (1, 3));
    for stream in [1, 3] {
        assert_eq!(connection.respond(stream, 200, NO_FIELDS, true), Err(SendError::Order));
    }
    assert_eq!(connection.send(1, "a", true), Err(SendError::Order));
    assert_eq!(connection.trailers(1, NO_FIELDS), Err(SendError::Order));
}

/// All kinds of answers, to the requests 1 to 9: 5 is a HEAD, and 7 an upload.
fn answers() -> Vec<u8> {
    [
        settings(&[(3, 50)]),
        frame(SETTINGS, ACK, 0, []),
        response(1, END_HEADERS, &[(":status", "103"), ("link", "a")]),
        response(1, END_HEADERS, &[(":status", "100")]),
        response(1, END_HEADERS, &[(":status", "200"), ("content-length", "5")]),
        frame(DATA, PADDED, 1, b"\x02abc\0\0"),
        frame(HEADERS, END_STREAM, 3, &block(&[(":status", "204"), ("a", "b")])[..9]),
        frame(CONTINUATION, END_HEADERS, 3, &block(&[(":status", "204"), ("a", "b")])[9..]),
        frame(DATA, END_STREAM, 1, b"de"),
        response(5, WHOLE, &[(":status", "200"), ("content-length", "9")]),
        response(7, END_HEADERS, &[(":status", "404")]),
        frame(DATA, 0, 7, b"none"),
        response(7, WHOLE, &[("checksum", "1")]),
        frame(RST_STREAM, 0, 7, Code::NO_ERROR.0.to_be_bytes()),
        response(9, END_HEADERS, &[(":status", "304"), ("content-length", "9")]),
        frame(DATA, END_STREAM, 9, []),
    ]
    .concat()
}

#[test]
fn responses_are_events_however_their_bytes_are_cut() {
    every_split(&answers(), |pieces| {
        let mut connection = Connection::client(Options::default());
        fine(&mut connection, &settings(&[]));
        let head = RequestLine { method: b"HEAD", ..RequestLine::get("a.example", "/") };
        assert_eq!((ask(&mut connection), ask(&mut connection)), (1, 3));
        assert_eq!(connection.request(&head, NO_FIELDS, true), Ok(5));
        assert_eq!((upload(&mut connection), ask(&mut connection)), (7, 9));
        let (mut seen, mut body) = (Vec::new(), Vec::new());
        for piece in pieces {
            for event in fine(&mut connection, piece) {
                match event {
                    Event::Data { stream: 1, bytes } => body.extend_from_slice(&bytes),
                    Event::Data { stream: 7, .. } => {}
                    event => seen.push(told(&event)),
                }
            }
        }
        let expected = [
            r#"1 103 [("link", "a")]"#,
            "1 100 []",
            r#"1 200 [("content-length", "5")] Some(5) false"#,
            r#"3 204 [("a", "b")] Some(0) true"#,
            "1 ends",
            r#"5 200 [("content-length", "9")] Some(0) true"#,
            "7 404 [] None false",
            r#"7 [("checksum", "1")]"#,
            "7 ends",
            "7 NO_ERROR",
            r#"9 304 [("content-length", "9")] Some(0) false"#,
            "9 ends",
        ];
        assert_eq!((seen, &body[..]), (expected.map(String::from).to_vec(), &b"abcde"[..]));
        assert_eq!(connection.open_streams(), 0);
    });
}

/// The stream 1 is a GET, 3 a HEAD, 5 an upload.
#[test]
fn a_malformed_response_resets_only_its_stream() {
    let short = [(":status", "200"), ("content-length", "5")];
    let cases: &[(&str, Vec<u8>, u32)] = &[
        ("8.3.2 no status", response(1, WHOLE, &[("a", "b")]), 1),
        ("8.3.2 two of them", response(1, WHOLE, &[OK[0], OK[0]]), 1),
        ("8.3.2 of letters", response(1, WHOLE, &[(":status", "abc")]), 1),
        ("8.3.2 of four digits", response(1, WHOLE, &[(":status", "0200")]), 1),
        ("8.3.2 below 100", response(1, WHOLE, &[(":status", "099")]), 1),
        ("8.3 behind a field", response(1, WHOLE, &[("a", "b"), OK[0]]), 1),
        ("8.3 of a request", response(1, WHOLE, &[OK[0], (":path", "/")]), 1),
        ("8.2.1 an upper-case name", response(1, WHOLE, &[OK[0], ("A", "b")]), 1),
        ("8.2.1 a line in a value", response(1, WHOLE, &[OK[0], ("a", "b\nc")]), 1),
        ("8.2.2 of connections", response(1, WHOLE, &[OK[0], ("connection", "close")]), 1),
        ("8.6 an upgrade", response(1, END_HEADERS, &[(":status", "101")]), 1),
        ("8.1 an informational end", response(1, WHOLE, &[(":status", "100")]), 1),
        ("8.1.1 no body", response(1, WHOLE, &short), 1),
        ("8.1.1 a short body", [response(1, 4, &short), frame(DATA, 1, 1, b"abcd")].concat(), 1),
        ("8.1.1 a long body", [response(1, 4, &short), frame(DATA, 0, 1, b"abcdef")].concat(), 1),
        ("9110 9.3.2 a HEAD's body", [response(3, 4, &OK), frame(DATA, 0, 3, b"a")].concat(), 3),
        (
            "9110 15.3.5 a body",
            [response(1, 4, &[(":status", "204")]), frame(DATA, 0, 1, b"a")].concat(),
            1,
        ),
        ("8.1 a body without a head", frame(DATA, 0, 1, b"a"), 1),
        ("8.1 trailers without an end", [response(1, 4, &OK), response(1, 4, &[])].concat(), 1),
        ("8.1 a second head", [response(1, 4, &OK), response(1, 5, &OK)].concat(), 1),
        ("5.1 a body behind the end", [response(5, 5, &OK), frame(DATA, 0, 5, b"a")].concat(), 5),
        ("6.9 an update by zero", window_update(1, 0), 1),
    ];
    for (name, input, reset) in cases {
        every_split(input, |pieces| {
            let mut connection = client(Options::default());
            asked(&mut connection);
            for piece in pieces {
                assert_eq!(connection.receive(piece), Ok(()), "{name}");
            }
            let last = events(&mut connection).pop();
            let is_right = matches!(last, Some(Event::Reset { stream, .. }) if stream == *reset);
            assert!(is_right, "{name}: {last:?}");
            let output = sent(&mut connection);
            assert_eq!(kinds(&output), [(RST_STREAM, *reset)], "{name}");
            let code =
                if name.starts_with("5.1") { Code::STREAM_CLOSED } else { Code::PROTOCOL_ERROR };
            assert_eq!(output[0].code(), code.0, "{name}");
            let next = ask(&mut connection);
            let seen = fine(&mut connection, &response(next, WHOLE, &OK));
            assert_eq!(all_told(&seen), [format!("{next} 200 [] Some(0) true")], "{name}");
        });
    }
}

/// Opens the streams 1, a GET, 3, a HEAD, and 5, an upload.
fn asked(connection: &mut Connection) {
    let head = RequestLine { method: b"HEAD", ..RequestLine::get("a.example", "/") };
    ask(connection);
    connection.request(&head, NO_FIELDS, true).expect("it is open");
    upload(connection);
    connection.take_output();
}

#[test]
fn a_fault_of_the_server_ends_the_connection() {
    let promise = [&7_u32.to_be_bytes()[..], &block(&GET)].concat();
    let cases = [
        ("8.4 a push", frame(PUSH_PROMISE, END_HEADERS, 1, promise), Code::PROTOCOL_ERROR),
        ("6.5.2 a server pushes", settings(&[(2, 1)]), Code::PROTOCOL_ERROR),
        ("5.1.1 an idle stream", response(7, WHOLE, &OK), Code::PROTOCOL_ERROR),
        ("5.1.1 a stream of the server", response(2, WHOLE, &OK), Code::PROTOCOL_ERROR),
        ("5.1 data on an idle stream", frame(DATA, 0, 7, b"a"), Code::PROTOCOL_ERROR),
        ("5.1 a reset of an idle stream", frame(RST_STREAM, 0, 7, [0; 4]), Code::PROTOCOL_ERROR),
        ("5.1 an update of an idle stream", window_update(7, 1), Code::PROTOCOL_ERROR),
        ("5.1 data of the server's stream", frame(DATA, 0, 2, b"a"), Code::STREAM_CLOSED),
        ("4.3 no HPACK", frame(HEADERS, WHOLE, 1, [0xff; 9]), Code::COMPRESSION_ERROR),
        ("6.8 a short GOAWAY", frame(GOAWAY, 0, 0, [0; 7]), Code::FRAME_SIZE_ERROR),
        ("5.1 data behind the ends", ended(), Code::STREAM_CLOSED),
        ("RFC 9112", b"HTTP/1.1 400 Bad Request\r\n".to_vec(), Code::FRAME_SIZE_ERROR),
    ];
    for (name, input, code) in cases {
        every_split(&input, |pieces| {
            let mut connection = client(Options::default());
            asked(&mut connection);
            let error = pieces.iter().find_map(|piece| connection.receive(piece).err());
            assert_eq!(error.expect(name).code, code, "{name}");
            let last = sent(&mut connection).pop().expect("a GOAWAY");
            assert_eq!((last.kind, last.code(), number(&last.payload[..4])), (GOAWAY, code.0, 0));
            assert!(connection.is_drained());
            let again = connection.request(&RequestLine::get("a", "/"), NO_FIELDS, true);
            assert_eq!(again, Err(SendError::Closed));
        });
    }
    let mut connection = Connection::client(Options::default());
    connection.take_output();
    let error = broken(&mut connection, &frame(PING, 0, 0, [0; 8]));
    assert_eq!(error.code, Code::PROTOCOL_ERROR, "3.4 settings are first");
}

fn ended() -> Vec<u8> {
    [response(1, WHOLE, &OK), frame(DATA, 0, 1, b"a")].concat()
}

#[test]
fn a_cancelled_request_frees_its_stream_and_late_frames_are_ignored() {
    let mut connection = client(Options::default().max_streams(1).connection_window(65_535));
    // More than are remembered.
    for stream in (1..2001).step_by(2) {
        assert_eq!(ask(&mut connection), stream);
        connection.reset(stream, Code::CANCEL);
    }
    connection.take_output();
    for stream in [1, 1999] {
        let late = [response(stream, 4, &OK), frame(DATA, 0, stream, [0; 15_000])].concat();
        for _ in 0..3 {
            assert_eq!(fine(&mut connection, &late), []);
        }
        assert_eq!(fine(&mut connection, &frame(RST_STREAM, 0, stream, [0; 4])), []);
    }
    let returned: u32 = sent(&mut connection).iter().map(|it| number(&it.payload)).sum();
    assert!(returned >= 65_535, "the window is returned: {returned}");
    assert_eq!(ask(&mut connection), 2001);
}

#[test]
fn the_server_limits_open_streams() {
    let mut connection = Connection::client(Options::default().max_streams(150));
    let line = RequestLine::get("a.example", "/");
    ask(&mut connection);
    assert_eq!(connection.request(&line, NO_FIELDS, true), Err(SendError::Busy), "no settings");
    assert!(connection.takes_requests());
    fine(&mut connection, &settings(&[]));
    for _ in 0..149 {
        ask(&mut connection);
    }
    assert_eq!(connection.request(&line, NO_FIELDS, true), Err(SendError::Busy), "the options");
    fine(&mut connection, &settings(&[(3, 149)]));
    // Other settings do not change it.
    fine(&mut connection, &[settings(&[]), settings(&[(4, 1000)])].concat());
    fine(&mut connection, &response(1, WHOLE, &OK));
    assert_eq!(connection.request(&line, NO_FIELDS, true), Err(SendError::Busy), "the setting");
    fine(&mut connection, &response(3, WHOLE, &OK));
    assert_eq!(ask(&mut connection), 301);
}

#[test]
fn a_farewell_refuses_the_streams_that_it_excludes() {
    let goaway = |last: u32, code: Code| {
        frame(GOAWAY, 0, 0, [last.to_be_bytes(), code.0.to_be_bytes()].concat())
    };
    let mut connection = client(Options::default());
    asked(&mut connection);
    let line = RequestLine::get("a.example", "/");
    let seen = fine(&mut connection, &goaway(0x7fff_ffff, Code::NO_ERROR));
    assert_eq!(seen, [Event::GoneAway { code: Code::NO_ERROR }]);
    assert_eq!(connection.request(&line, NO_FIELDS, true), Err(SendError::Closed));
    assert!(!connection.takes_requests());
    let seen = fine(&mut connection, &goaway(1, Code::NO_ERROR));
    let refused = |stream| Event::Reset { stream, code: Code::REFUSED_STREAM };
    assert_eq!(seen, [refused(3), refused(5), Event::GoneAway { code: Code::NO_ERROR }]);
    assert_eq!(connection.send(5, "a", true), Err(SendError::Closed));
    let late = [window_update(3, 1), response(5, 4, &OK), frame(DATA, END_STREAM, 5, b"a")];
    assert_eq!(fine(&mut connection, &late.concat()), [], "the others are served");
    assert!(!connection.is_drained());
    assert_eq!(fine(&mut connection, &response(1, WHOLE, &OK)).len(), 1);
    assert!(connection.is_drained());
}

#[test]
fn a_client_leaves_in_one_step() {
    let mut connection = client(Options::default());
    asked(&mut connection);
    connection.drain();
    let output = sent(&mut connection);
    assert_eq!(kinds(&output), [(GOAWAY, 0)]);
    assert_eq!((number(&output[0].payload[..4]), output[0].code()), (0, 0));
    let line = RequestLine::get("a.example", "/");
    assert_eq!(connection.request(&line, NO_FIELDS, true), Err(SendError::Closed));
    assert_eq!(fine(&mut connection, &response(1, WHOLE, &OK)).len(), 1);
    connection.reset(3, Code::CANCEL);
    connection.reset(5, Code::CANCEL);
    assert!(!connection.is_drained());
    connection.take_output();
    assert!(connection.is_drained());
}

#[test]
fn an_upload_waits_for_windows_and_continues_behind_its_response() {
    let mut connection = client(Options::default().max_unsent(1000));
    let stream = upload(&mut connection);
    assert_eq!(connection.send(stream, vec![1; 70_000], false), Ok(70_000 - 65_535));
    fine(&mut connection, &response(stream, WHOLE, &OK));
    assert_eq!(connection.open_streams(), 1);
    connection.take_output();
    fine(&mut connection, &[window_update(0, 9999), window_update(stream, 9999)].concat());
    assert_eq!(body(&sent(&mut connection), stream).len(), 70_000 - 65_535);
    assert_eq!(events(&mut connection), [Event::Writable { stream }]);
    connection.trailers(stream, [("a", "b")]).expect("it is open");
    assert_eq!(kinds(&sent(&mut connection)), [(HEADERS, stream)]);
    assert_eq!(connection.open_streams(), 0);
}

/// Informational heads, and the limits that servers share with clients.
#[test]
fn floods_of_a_server_end_the_connection() {
    let hint = response(1, END_HEADERS, &[(":status", "103")]);
    for flood in [hint, settings(&[]), frame(PING, 0, 0, [0; 8]), frame(DATA, 0, 1, [])] {
        let mut connection = client(Options::default().max_idle_frames(100).max_control(900));
        asked(&mut connection);
        let error = connection.receive(&flood.repeat(102)).expect_err("a flood");
        assert_eq!(error.code, Code::ENHANCE_YOUR_CALM, "{flood:?}");
    }
    // Malformed responses beyond complete ones.
    let mut connection = client(Options::default().max_resets(2));
    for _ in 0..3 {
        let (one, other) = (ask(&mut connection), ask(&mut connection));
        let both = [response(one, WHOLE, &OK), response(other, WHOLE, &[])].concat();
        fine(&mut connection, &both);
    }
    for _ in 0..2 {
        let stream = ask(&mut connection);
        let result = connection.receive(&response(stream, WHOLE, &[]));
        if let Err(error) = result {
            assert_eq!((error.code, stream), (Code::ENHANCE_YOUR_CALM, 15));
        }
    }
    assert!(connection.receive(b"").is_err());
    // Refusals are no faults.
    let mut connection = client(Options::default().max_resets(0));
    for _ in 0..10 {
        let stream = ask(&mut connection);
        fine(&mut connection, &frame(RST_STREAM, 0, stream, [0, 0, 0, 7]));
    }
}

#[test]
fn max_head_bounds_a_response() {
    let mut connection = client(Options::default().max_head(42));
    asked(&mut connection);
    assert_eq!(fine(&mut connection, &response(1, WHOLE, &OK)).len(), 1);
    let seen = fine(&mut connection, &response(3, WHOLE, &[OK[0], ("a", "b")]));
    assert_eq!(seen, [Event::Reset { stream: 3, code: Code::ENHANCE_YOUR_CALM }]);
}

/// Moves the output of each side to the other, in pieces of this length, until both are silent.
fn exchange(client: &mut Connection, server: &mut Connection, length: usize) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        let (to_server, to_client) = (client.take_output(), server.take_output());
        if to_server.is_empty() && to_client.is_empty() {
            return seen;
        }
        for piece in to_server.chunks(length) {
            server.receive(piece).expect("our client is right");
            for event in events(server) {
                match event {
                    Event::Request { stream, ends, .. } => {
                        server.respond(stream, 103, NO_FIELDS, false).expect("it is open");
                        server.respond(stream, 200, [("a", "b")], false).expect("it is open");
                        if ends {
                            server.send(stream, "whole", true).expect("it is open");
                        }
                    }
                    Event::Data { stream, bytes } => {
                        server.release(stream, bytes.len());
                        server.send(stream, bytes, false).expect("it is open");
                    }
                    Event::Trailers { stream, fields } => {
                        server.trailers(stream, &fields).expect("it is open");
                    }
                    _ => {}
                }
            }
        }
        for piece in to_client.chunks(length) {
            client.receive(piece).expect("our server is right");
            for event in events(client) {
                if let Event::Data { stream, bytes } = &event {
                    client.release(*stream, bytes.len());
                }
                seen.push(event);
            }
        }
    }
}

#[test]
fn our_client_and_our_server_converse() {
    for (length, window) in [(1, 65_535), (7, 1000), (usize::MAX, 1 << 20), (1000, 1)] {
        let options = || Options::default().stream_window(window).max_output(3000);
        let (mut client, mut server) =
            (Connection::client(options()), Connection::server(options()));
        let size = if window == 1 { 50 } else { 100_000 };
        let mut seen = vec![];
        client.receive(&server.take_output()).expect("it is valid");
        let streams: Vec<u32> = (0..5).map(|_| upload(&mut client)).collect();
        for stream in &streams {
            client.send(*stream, Copied(&vec![*stream as u8; size]), false).expect("it is open");
            client.trailers(*stream, [("sum", "1")]).expect("it is open");
            ask(&mut client);
        }
        seen.extend(exchange(&mut client, &mut server, length));
        for stream in streams {
            let count = |event: &Event| match event {
                Event::Data { stream: of, bytes } if *of == stream => bytes.len(),
                _ => 0,
            };
            assert_eq!(seen.iter().map(count).sum::<usize>(), size);
        }
        let ends = seen.iter().filter(|event| matches!(event, Event::End { .. })).count();
        let trailers = seen.iter().filter(|event| matches!(event, Event::Trailers { .. })).count();
        assert_eq!((ends, trailers, client.open_streams(), server.open_streams()), (10, 5, 0, 0));
        server.drain();
        exchange(&mut client, &mut server, length);
        assert!(client.is_drained() && server.is_drained());
    }
}
