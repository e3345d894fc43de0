//! The page of the inspector in a browser: Chromium, driven over WebDriver.
//!
//! A browser that is not installed is a visible skip, and a failure in CI. The tests run one at a time.

#[macro_use]
extern crate couplet_testkit;

mod acting;
mod chain;
mod program;
mod replay;
mod waits;

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc;

use couplet_testkit_loops::browser::{Browser, END, ENTER, ESCAPE};
use couplet_testkit_loops::inspected as kit;
use couplet_testkit_loops::inspected::view;
use program::{Program, port_of};
use serde_json::{Value, json};

/// Types a filter, and returns to the rows.
fn filter(browser: &Browser, text: &str) {
    browser.press("/");
    browser.wait_for("document.activeElement === one('#filter')");
    browser.press(&format!("{text}{ENTER}"));
    browser.wait_for("document.activeElement === one('#grid')");
}

/// A program, `count` clients, where each has sent 100 bytes more than the one before, and a browser
/// that shows them all.
fn storm(count: usize) -> Option<(Browser, Program, Vec<TcpStream>)> {
    let browser = Browser::start(1280, 800)?;
    let program = Program::start("0", "secret");
    let clients = (0..count).map(|number| program.connect(&vec![b'x'; 100 * number + 1])).collect();
    browser.open(&program.url);
    browser.wait_for(&format!("text('#tab-connections .count') === '{count}'"));
    Some((browser, program, clients))
}

#[test]
fn a_storm_of_connections_is_shown_with_few_elements() {
    let Some((browser, _program, clients)) = storm(400) else { return };
    assert_eq!(browser.value("document.title"), "storm");
    browser.wait_for("one('#grid').getAttribute('aria-rowcount') === '401'");
    let elements = || browser.value("rows().length").as_u64().expect("a number");
    let few = elements();
    assert!((10..60).contains(&few), "{few} rows");
    // A key reaches the last row, which the same elements draw.
    browser.press(&format!("j{END}"));
    browser.wait_for("line(rows().at(-1)) === 401");
    browser.wait_for("rows().at(-1).getAttribute('aria-selected') === 'true'");
    assert_eq!(elements(), few);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // Connections that end leave the count and the table.
    drop(clients);
    browser.wait_for("text('#tab-connections .count') === '0'");
    browser.wait_for("!one('#empty').hidden && text('#empty').startsWith('No connections.')");
}

#[test]
fn rows_are_sorted_by_a_column_in_both_directions() {
    let Some((browser, _program, _clients)) = storm(60) else { return };
    browser.click("#head [data-key=in]");
    browser.wait_for("column('in')[0] === '5.76 KiB'");
    assert_eq!(
        browser.value("column('in').slice(0, 3)"),
        json!(["5.76 KiB", "5.67 KiB", "5.57 KiB"])
    );
    assert_eq!(browser.value("text('[aria-sort=descending]')"), "in");
    // With the keyboard, on the column that has the focus.
    browser.press(&ENTER.to_string());
    browser.wait_for("column('in')[0] === '1 B'");
    assert_eq!(browser.value("column('in').slice(0, 3)"), json!(["1 B", "101 B", "201 B"]));
    assert_eq!(browser.value("text('[aria-sort=ascending]')"), "in");
}

#[test]
fn a_filter_compares_columns_and_words() {
    let Some((browser, _program, clients)) = storm(60) else { return };
    let peer = format!("echo peer:127.0.0.1:{}", port_of(&clients[7]));
    // The clients sent 1, 101, 201, … bytes.
    let cases = [
        ("in>1KiB", "49 of 60"),
        ("in<=1001 -in=1", "10 of 60"),
        (&*peer, "1 of 60"),
        ("age>1d", "0 of 60"),
        ("no-row-has-this", "0 of 60"),
        ("height>3", "Filter: no column height"),
        ("in>many", "Filter: many is not a number"),
    ];
    for (words, expected) in cases {
        filter(&browser, words);
        browser.wait_for(&format!("text('#matches') === {}", json!(expected)));
    }
    browser.press(&format!("/{ESCAPE}"));
    browser.wait_for("text('#matches') === '60 connections'");
}

#[test]
fn rows_are_counted_by_a_column_and_a_count_filters_them() {
    let Some((browser, _program, mut clients)) = storm(6) else { return };
    let count_by = |key: &str| {
        browser.press("g");
        browser.wait_for("document.activeElement === one('#group')");
        browser.run(&format!(
            "one('#group').value = '{key}'; one('#group').dispatchEvent(new Event('change'));"
        ));
    };
    count_by("peer");
    browser.wait_for("text('#groups') === '6tcp:127.0.0.1'");
    clients[2].write_all(b"!").expect("the program reads");
    count_by("why");
    browser.wait_for("text('#groups button:first-child').startsWith('5waits for the peer')");
    browser.wait_for("text('#groups li:last-child').includes('the peer has taken nothing')");
    browser.click("#groups li:last-child button");
    browser.wait_for("text('#matches') === '1 of 6'");
}

#[test]
fn a_connection_is_followed_to_its_end() {
    let Some((browser, _program, mut clients)) = storm(60) else { return };
    let mut followed = clients.swap_remove(30);
    let peer = format!("tcp:127.0.0.1:{}", port_of(&followed));
    filter(&browser, &format!("peer:{peer}"));
    browser.wait_for("text('#matches') === '1 of 60'");
    browser.press(&format!("j{ENTER}"));
    let is_shown = format!("!one('#details').hidden && text('#details dl').includes('{peer}')");
    browser.wait_for(&is_shown);
    // A message has only the numbers that changed.
    followed.write_all(&[b'y'; 4000]).expect("a connection");
    browser.wait_for(&format!("text('#details dl').includes('7\\u202f001 B') && {is_shown}"));
    // The address names the row, so that it can be passed on.
    browser.wait_for("location.hash.startsWith('#connections/')");
    browser.run(
        "window.dimmed = false;
        const look = () => { window.dimmed ||= one('.row.is-ended') !== null; };
        new MutationObserver(look).observe(one('#body'), { subtree: true, attributes: true });",
    );
    drop(followed);
    browser.wait_for("text('#details .ended').startsWith('Ended')");
    // The row stays for a while, dimmed. The details stay until they are closed.
    browser.wait_for("window.dimmed && rows().length === 0");
    browser.wait_for(&format!("text('#details .ended').startsWith('Ended') && {is_shown}"));
    browser.press(&ESCAPE.to_string());
    browser.wait_for("one('#details').hidden");
}

#[test]
fn the_details_give_the_reason_for_a_wait() {
    let Some((browser, _program, mut clients)) = storm(3) else { return };
    clients[1].write_all(b"!").expect("the program reads");
    filter(&browser, "buffered>1MiB");
    browser.wait_for("text('#matches') === '1 of 3'");
    browser.click("#body .row");
    let why = "text('#details > .words')";
    browser.wait_for(&format!("{why}.includes('unsent, the peer has taken nothing for')"));
    let why = browser.value(why).to_string();
    assert!(!why.contains('{'), "times are spelt out: {why}");
    browser.wait_for("document.querySelectorAll('#details svg path[d^=M]').length === 3");
}

#[test]
fn a_digit_opens_the_same_view_as_in_the_terminal() {
    let Some((browser, program, _clients)) = storm(1) else { return };
    let state = view(&program.url, "/state.json");
    // The terminal has the views in the server's order.
    let views = state["views"].as_object().expect("views").keys();
    for (digit, name) in (1..=9).zip(views) {
        browser.press(&digit.to_string());
        browser.wait_for(&format!("one('[role=tab][aria-selected=true]').id === 'tab-{name}'"));
    }
}

#[test]
fn the_reason_follows_the_state_and_is_in_sight() {
    let Some((browser, _program, _clients)) = storm(2) else { return };
    // The pixels of the column that can be seen; `before` is the column before it.
    let seen = "const heads = [...document.querySelectorAll('#head > div')];
        const at = heads.findIndex((head) => head.firstChild.dataset.key === 'why');
        const { left, right } = heads[at].getBoundingClientRect(), grid = one('#grid').getBoundingClientRect();
        return [heads[at - 1].firstChild.dataset.key, Math.min(right, grid.right) - Math.max(left, grid.left)];";
    let check = |least: f64| {
        let found = browser.run(seen);
        assert_eq!(found[0], "state");
        let width = found[1].as_f64().expect("pixels");
        assert!(width >= least, "{width} of {least}");
    };
    check(300.0);
    browser.press(&format!("j{ENTER}"));
    browser.wait_for("!one('#details').hidden");
    check(300.0);
    // A text that is cut is whole in its tooltip.
    let hover = "const cell = one('.row > .why');
        const over = () => cell.dispatchEvent(new MouseEvent('mouseover', { bubbles: true }));
        over();
        const before = cell.title;
        cell.textContent = 'waits for ever and '.repeat(20);
        over();
        return [before, cell.title === cell.textContent];";
    assert_eq!(browser.run(hover), json!(["", true]));
}

#[test]
fn a_loop_that_hangs_is_red_and_shows_its_backtrace() {
    let Some((browser, program, _clients)) = storm(2) else { return };
    let (release, held) = mpsc::channel::<()>();
    program.call(move |_| {
        // Returns when the test drops the other end.
        let _ = held.recv();
    });
    browser.wait_for("text('.loop.is-hung .state') === 'hung'");
    // The backtrace comes later than the first answer.
    browser.wait_for("one('.loop.is-hung summary')?.checkVisibility() === true");
    browser.click(".loop.is-hung summary");
    browser.wait_for("document.querySelectorAll('.loop.is-hung ol li').length > 3");
    // A call that takes this long raises a flag, at the top of the page.
    browser.wait_for("text('.flag:first-child.is-red h2').startsWith('red: ')");
    drop(release);
    browser.wait_for("one('.loop.is-hung') === null");
}

#[test]
fn names_are_shown_as_text() {
    let Some((browser, program, _clients)) = storm(1) else { return };
    let name = "<img src=x onerror=alert(1)>";
    program.call(move |reactor| {
        let forever = std::future::pending::<couplet::Result<()>>();
        reactor.spawn_named(name, forever).detach();
    });
    browser.wait_for("text('#tab-tasks .count') === '1'");
    browser.click("#tab-tasks");
    browser.wait_for(&format!("column('name')[0] === '{name}'"));
    browser.press(&format!("j{ENTER}"));
    browser.wait_for(&format!("text('#details').includes('{name}')"));
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_survives_a_restart_of_the_program() {
    let Some((browser, program, clients)) = storm(5) else { return };
    browser.press(&format!("j{ENTER}"));
    browser.wait_for("!one('#details').hidden");
    let endpoint = program.endpoint();
    program.end();
    drop(clients);
    // The last state stays, marked as old.
    browser.wait_for("!one('#lost').hidden && one('main.stale')");
    assert_eq!(browser.value("column('protocol')"), json!(vec!["Echo"; 5]));
    let program = Program::start(&endpoint, "secret");
    let _client = program.connect(b"hello");
    browser.wait_for("one('#lost').hidden && !one('main.stale')");
    browser.wait_for("text('#tab-connections .count') === '1'");
    browser.wait_for("text('#details .ended').startsWith('Ended')");
    program.end();
    browser.wait_for("!one('#lost').hidden");
    // A program with another token.
    let _program = Program::start(&endpoint, "another");
    browser.wait_for("text('#lost-words').startsWith('The server rejects the token')");
}

#[test]
fn a_page_is_paused_and_resumed() {
    let Some((browser, program, _clients)) = storm(3) else { return };
    browser.press("p");
    browser.wait_for("text('#status') === 'paused' && text('#pause') === 'Resume'");
    let _fourth = program.connect(b"x");
    browser.press("p");
    browser.wait_for("text('#status') === 'live' && text('#tab-connections .count') === '4'");
}

#[test]
fn the_time_of_a_loop_is_clicked_through() {
    let Some((browser, _program, _clients)) = storm(3) else { return };
    browser.press("0");
    // The largest part, whatever else the loop does.
    let driver = "[...document.querySelectorAll('#time .flame button')]
        .find((part) => part.textContent.startsWith('reads, writes'))";
    browser.wait_for(&format!("one('#time .bar button').hidden && {driver} !== undefined"));
    browser.run(&format!("{driver}.click()"));
    browser.wait_for("text('#time .bar').includes('› reads, writes')");
    browser.wait_for("document.querySelectorAll('#time tbody tr').length === 1");
    assert_eq!(browser.value("one('#time .bar button').hidden"), false);
    browser.press(&ESCAPE.to_string().repeat(3));
    browser.wait_for("one('#time .bar button').hidden");
}

#[test]
fn a_button_changes_between_light_and_dark() {
    let Some((browser, _program, _clients)) = storm(1) else { return };
    let ground = || browser.value("getComputedStyle(document.body).backgroundColor");
    let (system, mut seen) = (ground(), Vec::new());
    for _ in 0..3 {
        browser.click("#theme");
        seen.push(ground());
    }
    // The other, the same, and the system's again.
    assert_ne!(seen[0], system);
    assert_eq!(seen[1..], [system.clone(), system]);
    browser.press("?");
    browser.wait_for("one('#help').open");
}

#[test]
fn numbers_have_the_unit_that_fits() {
    let Some((browser, _program, _clients)) = storm(1) else { return };
    let cases = [
        ("bytes(812)", json!("812 B")),
        ("bytes(1023.7)", json!("1.00 KiB")),
        ("bytes(5 * 2 ** 40)", json!("5.00 TiB")),
        ("count(1234567)", json!("1\u{202f}234\u{202f}567")),
        ("count(0.25)", json!("0.25")),
        ("seconds(0)", json!("0 s")),
        ("seconds(0.00000012)", json!("120 ns")),
        ("seconds(0.0123)", json!("12.3 ms")),
        ("seconds(59.99)", json!("1m 00s")),
        ("seconds(3599.7)", json!("1h 00m")),
        ("seconds(-90000)", json!("−1d 01h")),
        ("format('since', 1000, 1003.24)", json!("3.2 s")),
        ("format('since', 1000, 1000.084)", json!("80 ms")),
        ("format('until', 1000, 1000.5)", json!("−500 ms")),
        ("format('until', 4725, 1000)", json!("1h 02m")),
        ("format('speed', 0)", json!("0")),
        ("format('text', ['tls', 'throttle'])", json!("tls, throttle")),
        ("format('text', null)", json!("")),
        ("sentence('cut in {until:1030.5}; {since:x}', 1003.7)", json!("cut in 26.8 s; {since:x}")),
        ("sentence('for {since:1000}', 900)", json!("for 0 ms")),
        ("quantity('1.5MiB')", json!(1_572_864)),
        ("quantity('250ms')", json!(0.25)),
        ("quantity('2m')", json!(120)),
        ("quantity('3M')", json!(3_000_000)),
        ("quantity('many')", Value::Null),
    ];
    for (expression, expected) in cases {
        let found = browser.resolve(&format!(
            "import('/fields.js').then((all) => {{ \
             const {{ bytes, count, seconds, format, sentence, quantity }} = all; return {expression}; }})"
        ));
        let is_equal = match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => found == expected,
            _ => found == expected,
        };
        assert!(is_equal, "{expression} is {found}, not {expected}");
    }
}

#[test]
fn a_page_that_runs_for_long_keeps_a_bounded_state() {
    let Some((browser, _program, _clients)) = storm(1) else { return };
    // 100 messages about a view that isn't shown: each adds 500 rows, and removes the ones before.
    let kept = browser.resolve(
        "import('/store.js').then(({ History, Store }) => {
            const store = new Store(['rows']);
            store.apply({ program: { now: 1 }, views: { rows: { rows: [], all: true } } }, true, 0);
            const ids = (turn) => Array.from({ length: 500 }, (_, at) => `${500 * turn + at}`);
            for (let turn = 1; turn <= 100; turn += 1) {
                const rows = ids(turn).map((id) => ({ id }));
                store.apply({ views: { rows: { rows, gone: ids(turn - 1) } } }, false, 1000 * turn);
            }
            const view = store.views.get('rows'), history = new History(1);
            for (let at = 0; at < 1000; at += 1) history.record(1000 * at, [at]);
            const entries = [...history.series(0)];
            const lasts = entries.at(-1)[1], count = entries.length;
            return [view.rows.size, view.order.length + view.fresh.length <= 2000, lasts, 60 <= count && count <= 90];
        })",
    );
    assert_eq!(kept, json!([500, true, 999, true]));
}
