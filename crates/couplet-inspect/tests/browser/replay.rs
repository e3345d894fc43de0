//! Recordings in the page.

use std::fmt::Write as _;
use std::io::{Read, Write};

use couplet::inspect::{Inspector, Recording};
use serde_json::{Value, json};

use crate::program::Program;
use crate::storm;
use couplet_testkit_loops::browser::{Browser, ENTER};

fn seek(browser: &Browser, event: &str) {
    browser.run(&format!(
        "one('#cursor').value = {event}; one('#cursor').dispatchEvent(new Event('input'));"
    ));
}

/// Opens the last events of the program.
fn replay(browser: &Browser) {
    browser.press("r");
    browser.wait_for("text('#status') === 'replay' && !one('#replay').hidden");
    browser.wait_for("one('#tab-events').getAttribute('aria-selected') === 'true'");
}

#[test]
fn the_last_events_are_replayed_and_left() {
    let Some((browser, _program, mut clients)) = storm(5) else { return };
    for client in &mut clients {
        client.write_all(b"again").expect("the program reads");
        client.read_exact(&mut [0; 5]).expect("it echoes");
    }
    drop(clients.remove(2));
    browser.wait_for("text('#tab-connections .count') === '4'");
    replay(&browser);
    assert_eq!(browser.value("text('#tab-connections .count')"), "4");
    browser.press("1");
    // Before the first event there was no connection.
    seek(&browser, "0");
    browser.wait_for("text('#tab-connections .count') === '0'");
    assert_eq!(browser.value("text('#tab-tasks .count')"), "–");
    browser.press("3");
    browser.wait_for("text('#empty') === 'The recording has no connectors of this time.'");
    // Forward by callbacks until all five are open.
    browser.press("1bb");
    assert_eq!(browser.value("one('#unit').value"), "callback");
    let steps = (0..60).take_while(|_| {
        browser.press(".");
        browser.value("text('#tab-connections .count')") != "5"
    });
    assert!((5..60).contains(&steps.count()));
    assert_eq!(browser.value("text('#tab-connections .count')"), "5");
    browser.press("r");
    browser.wait_for("text('#status') === 'live' && text('#tab-connections .count') === '4'");
    assert!(browser.value("one('#tab-events')").is_null());
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_connection_is_followed_back_and_forth() {
    let Some((browser, _program, mut clients)) = storm(2) else { return };
    clients[1].write_all(&[b'y'; 1000]).expect("the program reads");
    clients[1].read_exact(&mut [0; 1000]).expect("it echoes");
    // The turn that echoes has ended, and with it the recording of its events.
    let asked = "fetch('/connections.json' + location.search).then((answer) => answer.text())";
    while !browser.resolve(asked).to_string().contains("1101") {}
    replay(&browser);
    browser.press("1");
    browser.wait_for("one('#head [data-key=wire_in]') !== null");
    browser.click("#head [data-key=wire_in]");
    browser.wait_for("column('wire_in')[0] === '1.08 KiB'");
    browser.press(&format!("j{ENTER}"));
    browser.wait_for("!one('#details').hidden");
    browser.press("bbb,");
    assert_eq!(browser.value("one('#unit').value"), "connection");
    // To its last write, the bytes before it, and the write before those.
    browser.press(",,");
    browser.wait_for("column('wire_in')[0] === '101 B' && column('wire_out')[0] === '101 B'");
    browser.press(".");
    browser.wait_for("column('wire_in')[0] === '1.08 KiB' && column('wire_out')[0] === '101 B'");
    browser.press(".");
    browser.wait_for("column('wire_out')[0] === '1.08 KiB'");
    // Only events of this connection are listed.
    let events = "[...document.querySelectorAll('#head button')].some((head) => head.dataset.key === 'took') \
                  && new Set(column('connection')).size === 1 && rows().length > 4";
    browser.click("#tab-events");
    browser.wait_for(events);
    browser.press("1");
    browser.wait_for("one('#tab-connections').getAttribute('aria-selected') === 'true'");
    // The write names the callback that recorded it.
    let events = "const at = Number(one('#cursor').value); location.hash = `#events/${at}`;";
    browser.run(events);
    browser.wait_for("text('[aria-selected=true].row').includes('bytes are written')");
    browser.wait_for("text('#details h3') === 'Recorded by'");
    browser.click("#details section a");
    browser
        .wait_for("text('[aria-selected=true].row').includes('bytes arrive, and are delivered')");
    browser
        .wait_for("text('[aria-selected=true].row').includes('a callback of Echo (connection ')");
}

#[test]
fn files_are_opened_and_damaged_ones_are_refused() {
    let Some((browser, _program, _clients)) = storm(3) else { return };
    let open = |edit: &str| {
        browser.resolve(&format!(
            "fetch('/recording' + location.search).then((answer) => answer.arrayBuffer()).then((buffer) => {{
                const bytes = new Uint8Array(buffer), files = new DataTransfer();
                files.items.add(new File([{edit}], 'slow.rec'));
                document.querySelector('#file').files = files.files;
                document.querySelector('#file').dispatchEvent(new Event('change'));
            }})"
        ));
    };
    open("bytes.subarray(0, bytes.length - 1)");
    browser.wait_for("text('#broken').startsWith('The recording is damaged: it has ')");
    browser.wait_for("text('#status') === 'live'");
    open("new Uint8Array(7)");
    browser.wait_for("text('#broken').startsWith('This is no recording of couplet')");
    open("bytes.subarray(0, 25)");
    browser.wait_for("text('#broken') === 'The recording is damaged: it is cut off.'");
    open("bytes");
    browser.wait_for("one('#broken').hidden && text('#status') === 'replay'");
    browser.wait_for("text('#tab-connections .count') === '3'");
}

/// Builds a recording of two loops with random events, and checks that every way to a moment leads to
/// the same state.
const WALKS: &str = "
    import('/replay.js').then(({ parse, Replay }) => {
        let seed = 1;
        const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
        const count = 30000, names = [['protocol', 'Chat'], ['task', 'talk']];
        const loops = [0, 1].map((id) => ({
            id, serial: id + 1, thread: 'main', ticks: 1e9, origin: 1000, count, names,
            connections: [{ slot: 1, id: `${id + 1}.1.1`, peer: 'tcp:192.0.2.1:9', host: 'tcp:192.0.2.2:80', made: 1000 }],
        }));
        const marks = [{ time: 1000.000_5, loop: 0, text: 'a stall', severity: 'red' }];
        const head = new TextEncoder().encode(JSON.stringify({ made: 1001, loops, marks, state: {} }));
        const buffer = new ArrayBuffer(28 + head.length + 2 * count * 16), view = new DataView(buffer);
        new Uint8Array(buffer).set(new TextEncoder().encode('couplet recording 1\\n'));
        view.setBigUint64(20, BigInt(head.length), true);
        new Uint8Array(buffer).set(head, 28);
        for (let at = 28 + head.length, time = 0, n = 0; n < 2 * count; n += 1, at += 16) {
            if (n === count) time = 0;
            time += random(100);
            view.setBigUint64(at, BigInt(time) * 256n + BigInt(1 + random(19)), true);
            view.setUint32(at + 8, random(2), true);
            view.setUint32(at + 12, random(30), true);
        }
        const replay = new Replay(parse(buffer)), expected = new Map();
        const state = (count) => JSON.stringify(replay.message(count, 3));
        for (let n = 0; n <= replay.count; n += 997) expected.set(n, state(n));
        let wrong = 0;
        for (let turn = 0; turn < 300; turn += 1) {
            const n = 997 * random(expected.size);
            if (state(n) !== expected.get(n)) wrong += 1;
        }
        for (const unit of ['event', 'turn', 'callback']) {
            const forward = replay.step(5000, 1, unit);
            if (!(forward > 5000) || replay.step(forward, -1, unit) > 5000) wrong += 1;
        }
        const mark = replay.marks[0], flags = replay.message(mark.count + 1, 0).flags;
        return [wrong, replay.count > 56000, replay.timeAt(mark.count) <= mark.time, flags.length];
    })";

#[test]
fn every_way_to_a_moment_leads_to_the_same_state() {
    let Some((browser, _program, _clients)) = storm(1) else { return };
    assert_eq!(browser.resolve(WALKS), json!([0, true, true, 1]));
}

/// A recording of loops with these events: the time in microseconds, the kind, and the two numbers.
fn recording(loops: &[&[(u64, u64, u64, u64)]], names: &Value) -> Vec<u8> {
    recording_with(loops, names, &json!([]), &json!({}))
}

/// The same with the tables of each loop, and the state of the end.
fn recording_with(
    loops: &[&[(u64, u64, u64, u64)]],
    names: &Value,
    frames: &Value,
    state: &Value,
) -> Vec<u8> {
    let headers = loops.iter().enumerate().map(|(id, events)| {
        json!({
            "id": id, "serial": id + 1, "thread": "main", "ticks": 1e6, "origin": 1000.0,
            "count": events.len(), "names": names, "frames": frames,
        })
    });
    let header = json!({"made": 1100.0, "loops": headers.collect::<Vec<_>>(), "state": state});
    let header = header.to_string();
    let mut file = b"couplet recording 1\n".to_vec();
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header.bytes());
    for (time, kind, key, value) in loops.iter().copied().flatten() {
        file.extend((time << 8 | kind).to_le_bytes());
        file.extend((key << 32 | value).to_le_bytes());
    }
    file
}

/// Evaluates an expression of the page with `replay`, a recording.
fn of_replay(browser: &Browser, file: &[u8], expression: &str) -> Value {
    let mut hex = String::new();
    file.iter().for_each(|byte| write!(hex, "{byte:02x}").expect("a text"));
    browser.resolve(&format!(
        "import('/replay.js').then(({{ parse, Replay }}) => {{
            const bytes = Uint8Array.from('{hex}'.match(/../g), (digits) => parseInt(digits, 16));
            const replay = new Replay(parse(bytes.buffer));
            return {expression};
        }})"
    ))
}

const WAITED: u64 = 1;
const RECEIVED: u64 = 2;
const WROTE: u64 = 3;
const CALL: u64 = 15;
const RETURNED: u64 = 16;

/// A wait of `slept` microseconds that ends at `time`.
fn waited(time: u64, slept: u64) -> (u64, u64, u64, u64) {
    (time, WAITED, 0, slept / 64)
}

#[test]
fn a_loop_that_sleeps_is_idle_in_a_replay() {
    let Some((browser, _program, _clients)) = storm(1) else { return };
    let sleeper = [
        waited(640_000, 640_000),
        (640_000, CALL, 0, 0),
        (1_000_000, RETURNED, 0, 0),
        waited(7_400_000, 6_400_000),
        (7_400_000, RECEIVED, 1, 5),
        waited(20_000_000, 12_480_000),
    ];
    let worker = [4_000_000, 7_400_000, 7_900_000, 12_000_000, 21_000_000, 30_000_000]
        .map(|time| (time, WROTE, 2, 1));
    let file = recording(&[&sleeper, &worker], &json!([["task", "talk"]]));
    let rows = |count: usize| {
        let of = "({ busy, state, doing }) => [busy === null ? null : Math.round(100 * busy), state, doing?.what ?? null]";
        of_replay(&browser, &file, &format!("replay.message({count}, 0).loops.map({of})")[..])
    };
    let sleeper = |count: usize| rows(count)[0].clone();
    // Since the beginning of the recording, it has slept, and then worked for 0.36 s of a second.
    assert_eq!(sleeper(1), json!([0, "runs", null]));
    assert_eq!(sleeper(3), json!([36, "runs", null]));
    // The other loop's event at 4 s is in the midst of a wait, whose end follows.
    assert_eq!(rows(4), json!([[0, "waits", null], [null, "runs", null]]));
    // The wait that has just ended fills the second, though it began before it.
    assert_eq!(sleeper(5), json!([0, "runs", null]));
    // Of the callback until 7.52 s, the moment at 7.9 s shows the part in the second before it.
    assert_eq!(sleeper(8), json!([12, "waits", null]));
    assert_eq!(sleeper(9), json!([0, "waits", null]));
    // After its last record it waits.
    assert_eq!(sleeper(11), json!([0, "waits", null]));
    // The minute's time adds up.
    let time = of_replay(
        &browser,
        &file,
        "replay.shares(1012).map(({ idle, busy }) => [idle, busy].map((part) => part.toFixed(2)))",
    );
    assert_eq!(time[0], json!(["11.52", "0.48"]));
}

#[test]
fn a_write_of_a_task_or_timed_call_names_it() {
    let Some((browser, _program, _clients)) = storm(1) else { return };
    let names =
        json!([["protocol", "Chat"], ["task", "talk a.rs:1:2"], ["timed call", "b.rs:3:4"]]);
    let file = recording(
        &[&[
            (10, RECEIVED, 7, 5),
            waited(100, 64),
            (110, CALL, 1, 0),
            (120, RETURNED, 1, 0),
            (130, CALL, 2, 0),
            (140, RETURNED, 2, 0),
            (150, WROTE, 7, 9),
            (160, WROTE, 7, 9),
            waited(300, 64),
            (310, CALL, 1, 0),
            (320, RETURNED, 1, 0),
            (330, RECEIVED, 7, 1),
            (340, WROTE, 7, 1),
            waited(500, 64),
            (510, WROTE, 7, 1),
        ]],
        &names,
    );
    let row = |at: usize| of_replay(&browser, &file, &format!("replay.eventRow({at})"));
    // The timed call was the last one of the turn.
    assert_eq!(row(6)["waits_for"], json!(["events/5"]));
    assert_eq!(row(4)["event"], "timed call begins: b.rs:3:4");
    // A callback of the connection itself comes first.
    assert_eq!(row(12)["waits_for"], json!(["events/12"]));
    // No call of this turn came before the write.
    assert_eq!(row(14)["waits_for"], json!([]));
}

#[test]
fn tables_show_the_time_of_the_cursor() {
    let Some((browser, program, _clients)) = storm(1) else { return };
    let call = |id: &str, since: f64| json!({"id": id, "loop": 0, "since": since});
    let frames = json!([
        {"time": 1001.0, "left_out": 5, "views": {
            "calls": {"rows": [call("0.1", 1000.5)], "all": true},
            "ports": {"rows": [{"id": "0.0", "accepted": 1}], "all": true},
        }},
        {"time": 1003.0, "views": {
            "calls": {"rows": [call("0.2", 1002.0)], "changed": [], "gone": ["0.1"]},
            "ports": {"rows": [], "changed": [{"id": "0.0", "accepted": 9}], "gone": []},
        }},
    ]);
    let end = json!({"views": {"calls": [call("0.3", 1004.5)], "jobs": []}});
    let seconds = [0_u64, 1, 2, 3, 4, 5];
    let events: Vec<_> = seconds.iter().map(|second| (second * 1_000_000, WROTE, 7, 1)).collect();
    let file = recording_with(&[&events], &json!([]), &frames, &end);
    let of = "({ calls, ports }) => [calls?.rows.map(({ id }) => id), ports?.rows[0]?.accepted, calls?.age, calls?.leftOut]";
    let at = |time: f64| of_replay(&browser, &file, &format!("({of})(replay.tablesAt({time}))"));
    let none = json!([null, null, null, null]);
    assert_eq!(at(1000.5), none);
    assert_eq!(at(1001.0), json!([["0.1"], 1, 0, 5]));
    // The loop had no event since then.
    assert_eq!(at(1001.5), json!([["0.1"], 1, 0, 5]));
    // A row that the next tables have began before.
    assert_eq!(at(1002.5), json!([["0.1", "0.2"], 1, 1.5, 5]));
    assert_eq!(at(1003.0), json!([["0.2"], 9, 0, 0]));
    assert_eq!(at(1004.75), json!([["0.2", "0.3"], 9, 1.75, 0]));
    assert_eq!(at(1100.0), json!([["0.3"], 9, 0, 0]));
    // Back again.
    assert_eq!(at(1001.0), json!([["0.1"], 1, 0, 5]));
    open_recording(&browser, &program, file);
    browser.click("#tab-calls");
    seek(&browser, "3");
    browser.wait_for(
        "text('#matches') === '2 calls, as of 1 s before, 5 rows of the tables left out'",
    );
    seek(&browser, "6");
    browser.wait_for("text('#matches') === '1 call'");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// A recording of two loops with random events of these kinds, and of a connection that the state has.
fn random_recording(seed: u64, count: usize, marks: &Value) -> Vec<u8> {
    let mut state = seed;
    // SplitMix64.
    let mut random = |below: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    };
    let (mut records, mut chunks) = (Vec::new(), Vec::new());
    for id in 0..2 {
        let mut time = 0;
        for number in 0..count as u32 {
            time += random(100);
            // Some kinds are unknown.
            let kind = random(22);
            let key = if kind == 1 { 0 } else { random(4) };
            let value = random(30);
            records.extend((time << 8 | kind).to_le_bytes());
            records.extend((key << 32 | value).to_le_bytes());
            // Received, written, and written in part; of an unknown kind, which is left out.
            if value > 0 && [2, 3, 4, 20].contains(&kind) {
                chunks.push((id, number, value));
            }
        }
    }
    let mut sections = [Vec::new(), Vec::new()];
    for (id, number, value) in chunks {
        if random(3) > 0 {
            let length = (1 + random(value)) as u32;
            sections[id].extend([number, length].map(u32::to_le_bytes).concat());
            sections[id].extend((0..length).map(|_| random(256) as u8));
        }
    }
    let loops = [0, 1].map(|id| {
        json!({
            "id": id, "serial": id + 1, "thread": "main", "host": format!("host{id}"), "ticks": 1e9,
            "contents": {"each": 30, "length": sections[id].len()},
            "origin": 1000.0, "count": count,
            "names": [["protocol", "Chat"], ["task", "talk"], ["timed call", ""]],
            "connections": [
                {"slot": 1, "id": format!("{}.1.8", id + 1), "peer": "tcp:192.0.2.1:9", "made": 999.0},
                {"slot": 1, "id": format!("{}.1.9", id + 1), "peer": "tcp:192.0.2.1:9", "made": 1000.0},
            ],
        })
    });
    let kept =
        json!({"id": "1.2.5", "loop": 0, "protocol": "Kept", "wire_in": 9000, "wire_out": 10});
    let header = json!({
        "made": 1001.0, "loops": loops, "marks": marks, "state": {"views": {"connections": [kept]}},
    });
    let header = header.to_string();
    let mut file = b"couplet recording 1\n".to_vec();
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header.bytes());
    [file, records, sections.concat()].concat()
}

/// The events of a recording as the page reads them: see the fields of `expected`.
const READ: &str = "
    import('/replay.js').then(({ parse, Replay }) => {
        const bytes = Uint8Array.from(text.match(/../g), (digits) => parseInt(digits, 16));
        const replay = new Replay(parse(bytes.buffer));
        return replay.eventRows(0, replay.count).map((row, at) => {
            const { loop, key } = replay.event(at), moment = replay.at(at + 1);
            const connection = row.connection ? moment.connections.get(replay.keyOf(loop, key)) : null;
            const after = connection ? replay.connectionRow(connection, 0) : {};
            return [row.loop, row.event, row.connection || null, row.bytes, row.within || null, replay.doing(moment, loop) || null,
                after.state ?? null, after.wire_in ?? null, after.wire_out ?? null, Number(row.at), row.took,
                replay.contentsOf(at).contents ?? null, replay.contentsOf(at).cut || null,
                row.waits_for.length > 0 ? Number(row.waits_for[0].split('/')[1]) : null];
        });
    })";

/// The library's fields of an event, in the order of [`READ`].
fn expected(line: &Value) -> [Value; 9] {
    let names = ["host", "event", "connection", "bytes", "within", "within", "state", "in", "out"];
    names.map(|name| line[name].clone())
}

#[test]
fn the_page_and_the_library_read_the_same_events() {
    let Some((browser, _program, _clients)) = storm(1) else { return };
    let mut writes = 0;
    for seed in 0..12 {
        let file = random_recording(seed, 250, &json!([]));
        let mut lines = Vec::new();
        Recording::parse(&file).expect("our own").write_lines(&mut lines).expect("a vector");
        let lines = String::from_utf8(lines).expect("JSON");
        let mut hex = String::new();
        file.iter().for_each(|byte| write!(hex, "{byte:02x}").expect("a text"));
        let read = browser.resolve(&format!("((text) => {READ})('{hex}')"));
        let read = read.as_array().unwrap_or_else(|| panic!("{read}"));
        assert_eq!(read.len(), lines.lines().count(), "seed {seed}");
        assert!(read.len() > 300, "most kinds are known");
        for (number, (line, row)) in lines.lines().zip(read).enumerate() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let row = row.as_array().expect("a row");
            let place = format!("seed {seed}, event {number}: {line} is not {row:?}");
            assert_eq!(row[..9], expected(&line), "{place}");
            let is_near = |field: &str, found: &Value| match (line[field].as_f64(), found.as_f64())
            {
                (Some(a), Some(b)) => (a - b).abs() < 1e-6,
                (a, b) => a == b,
            };
            let contents = ["contents", "cut", "recorded_by"].map(|name| line[name].clone());
            assert_eq!(row[11..], contents, "{place}");
            writes += u32::from(!line["recorded_by"].is_null());
            assert!(is_near("at", &row[9]) && is_near("took", &row[10]), "{place}");
        }
    }
    assert!(writes > 100, "{writes} name their recorder");
}

/// Serves a recording in the loop of a program, and opens its page.
fn open_recording(browser: &Browser, program: &Program, file: Vec<u8>) {
    let (tell, told) = std::sync::mpsc::channel();
    program.call(move |reactor| {
        let url = Inspector::at("0").replay(reactor, file).expect("our own");
        tell.send(url).expect("the test waits");
    });
    browser.open(&told.recv().expect("it is served"));
    browser.wait_for("text('#status') === 'replay' && !one('#replay').hidden");
}

#[test]
fn a_recording_that_is_served_alone_is_opened_with_its_marks_and_hosts() {
    let Some((browser, program, _clients)) = storm(1) else { return };
    let marks = json!([
        {"time": 1_000.000_002, "loop": 0, "text": "the link is cut", "severity": "fault"},
        {"time": 1_000.000_004, "loop": 1, "text": "a stall", "severity": "red"},
    ]);
    open_recording(&browser, &program, random_recording(3, 200, &marks));
    let hosts = "[...document.querySelectorAll('.loop .name')].map((name) => name.textContent)";
    assert_eq!(browser.value(hosts), json!(["host0", "host1"]));
    assert_eq!(browser.value("document.querySelectorAll('#marks button').length"), 2);
    let event = || browser.value("Number(one('#cursor').value)").as_u64().expect("a number");
    let end = event();
    browser.click("#marks button.fault");
    let fault = event();
    assert!(fault < end, "{fault} of {end}");
    browser.wait_for("text('#flag-list').includes('the link is cut')");
    browser.click("#marks button.red");
    assert!(event() > fault);
    browser.wait_for("text('#flag-list').includes('a stall')");
    // Next to the connections, the events around the cursor are listed.
    browser.press("1");
    browser.wait_for("text('#nearby .is-now').startsWith('now')");
    let before = event();
    browser.click("#nearby li");
    assert!(event() < before);
    browser.wait_for("text('#nearby .is-now').startsWith('now')");
    // The time of the calls until then.
    browser.press("0");
    browser
        .wait_for("text('#time tbody').includes('Chat') && text('#time tbody').includes('talk')");
    // The server has no program to return to.
    browser.press("r");
    assert_eq!(browser.value("text('#status')"), "replay");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_long_recording_is_read_in_slices() {
    let Some((browser, _program, _clients)) = storm(1) else { return };
    browser.run(
        "window.words = [];
        const look = () => window.words.push(text('#reading'));
        new MutationObserver(look).observe(one('#reading'), { childList: true, characterData: true, subtree: true });",
    );
    // The last events, many times over.
    let count = browser.resolve(
        "fetch('/recording' + location.search).then((answer) => answer.arrayBuffer()).then((buffer) => {
            const bytes = new Uint8Array(buffer), view = new DataView(buffer), begin = 28 + Number(view.getBigUint64(20, true));
            const header = JSON.parse(new TextDecoder().decode(bytes.subarray(28, begin)));
            const times = Math.ceil(400000 / header.loops[0].count);
            header.loops[0].count *= times;
            const head = new TextEncoder().encode(JSON.stringify(header)), length = new DataView(new ArrayBuffer(8));
            length.setBigUint64(0, BigInt(head.length), true);
            const parts = [bytes.subarray(0, 20), length.buffer, head, ...Array(times).fill(bytes.subarray(begin))];
            const files = new DataTransfer();
            files.items.add(new File(parts, 'long.rec'));
            document.querySelector('#file').files = files.files;
            document.querySelector('#file').dispatchEvent(new Event('change'));
            return header.loops[0].count;
        })",
    );
    browser.wait_for(&format!("text('#status') === 'replay' && one('#cursor').max === '{count}'"));
    let words = browser.value("window.words");
    let words = words.as_array().expect("texts");
    assert!(words.iter().any(|text| text.as_str().is_some_and(|text| text.ends_with(" %"))));
    assert_eq!(words.last(), Some(&json!("")));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
