//! Recordings in the page.

use std::io::{Read, Write};

use serde_json::json;

use crate::driver::{Browser, ENTER};
use crate::{one_at_a_time, storm};

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
    let _one = one_at_a_time();
    let Some((browser, program, mut clients)) = storm(5) else { return };
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
    browser.wait_for("text('#empty') === 'A recording has connectors at its end alone.'");
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
    program.end();
}

#[test]
fn a_connection_is_followed_back_and_forth() {
    let _one = one_at_a_time();
    let Some((browser, program, mut clients)) = storm(2) else { return };
    clients[1].write_all(&[b'y'; 1000]).expect("the program reads");
    clients[1].read_exact(&mut [0; 1000]).expect("it echoes");
    replay(&browser);
    browser.press("1");
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
    program.end();
}

#[test]
fn files_are_opened_and_damaged_ones_are_refused() {
    let _one = one_at_a_time();
    let Some((browser, program, _clients)) = storm(3) else { return };
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
    program.end();
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
    let _one = one_at_a_time();
    let Some((browser, program, _clients)) = storm(1) else { return };
    assert_eq!(browser.resolve(WALKS), json!([0, true, true, 1]));
    program.end();
}
