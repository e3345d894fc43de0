//! The picture of a Deferred's callbacks.

use std::time::Duration;

use couplet::Reactor;
use couplet::defer::Deferred;
use serde_json::json;

use crate::storm;
use couplet_testkit_loops::browser::{Browser, ENTER};

const LONG: Duration = Duration::from_secs(3600);

fn number(text: &str) -> couplet::Result<u16> {
    Ok(text.parse()?)
}

/// A chain that has failed, was rescued, and waits for another one.
fn wait(reactor: &Reactor) {
    let (text, begin) = Deferred::<&str>::new();
    let (inner, end) = Deferred::<u16>::new();
    let inner = inner.map(|n| n + 1);
    let port = text.add_callback(number).map(|n| n).add_errback(|_| Ok(80));
    let port = port.then(|_| inner).map(|n| n).map(|n| n);
    let later = reactor.clone();
    reactor.call_later(Duration::from_millis(20), move || {
        begin.callback("<b>http</b>");
        later.call_later(LONG, move || drop((port, end)));
    });
}

/// The texts of the elements of a selector.
fn texts(browser: &Browser, selector: &str) -> Vec<String> {
    let all = browser.value(&format!(
        "[...document.querySelectorAll('{selector}')].map((each) => each.textContent.trim())"
    ));
    serde_json::from_value(all).expect("texts")
}

#[test]
fn a_chain_of_callbacks_is_a_picture() {
    let Some((browser, program, _clients)) = storm(1) else { return };
    program.call(wait);
    browser.click("#tab-deferreds");
    browser.wait_for("column('state').includes('chained')");
    browser.press(&format!("/chained{ENTER}"));
    browser.wait_for("rows().length === 1");
    browser.press(&format!("j{ENTER}"));
    browser.wait_for("document.querySelectorAll('.picture .box').length === 9");
    let heads = texts(&browser, ".picture .box > p:first-child > b");
    let names = ["Deferred", "1. add_callback", "2. map", "3. add_errback", "4. then", "Deferred"];
    assert_eq!(heads, [&names[..], &["1. map", "5. map", "6. map"][..]].concat()[..heads.len()]);
    let states = texts(&browser, ".picture .state");
    assert_eq!(states[..4], ["fired", "failed", "was skipped", "returned a value"]);
    assert_eq!(states[4..], ["waits", "has not fired", "is next", "is next", "follows"]);
    // The levels of the failure stand below the callback that failed.
    assert_eq!(
        texts(&browser, ".picture .failed + .failure .red"),
        ["invalid digit found in string"]
    );
    assert_eq!(texts(&browser, ".picture .levels li").len(), 2);
    let arrows = texts(&browser, ".picture .chain > .arrow");
    let kinds: Vec<_> = arrows.iter().map(|text| text.split(' ').next().expect("a word")).collect();
    assert_eq!(kinds, ["value", "failure", "failure", "value", "", "", ""]);
    assert!(arrows[0].ends_with(" ms"), "the time since the beginning: {arrows:?}");
    // An arrow for a value is at the left, and one for a failure at the right.
    let sides = browser.value(
        "['value', 'failed'].map((kind) => getComputedStyle(one(`.arrow.${kind}`)).textAlign)",
    );
    assert_eq!(sides, json!(["start", "right"]));
    // The time of the wait passes.
    let lasts = texts(&browser, ".picture .waiting > p:first-child > .lasts");
    assert!(lasts[0].starts_with("for "), "{lasts:?}");
    browser.wait_for(&format!("text('.waiting > p:first-child > .lasts') !== {}", json!(lasts[0])));
    assert_eq!(browser.value("document.querySelectorAll('.picture b b').length"), 0);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
