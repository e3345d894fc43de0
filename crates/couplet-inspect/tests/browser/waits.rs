//! Who waits for whom, as a graph.

use crate::kit::deadlock;
use crate::storm;
use couplet_testkit_loops::browser::{Browser, ENTER};

/// The first words of each box of the graph: `tasks/0.3`, or `tasks/0.3: a cycle`.
fn boxes(browser: &Browser, place: &str) -> Vec<String> {
    let all = browser.value(&format!(
        "[...document.querySelectorAll('.graph.{place} li a')].map((each) => each.textContent)"
    ));
    serde_json::from_value(all).expect("texts")
}

#[test]
fn a_cycle_is_a_graph_with_a_red_box() {
    let Some((browser, program, _clients)) = storm(1) else { return };
    program.call(deadlock);
    browser.click("#tab-tasks");
    browser.press(&format!("/cycle{ENTER}"));
    browser.wait_for("rows().length === 2");
    browser.press(&format!("j{ENTER}"));
    browser.wait_for("document.querySelectorAll('.graph.below li.red').length === 1");
    // An acquisition, its lock, the task that has it, and the same from there to the task of the pane.
    let all = boxes(&browser, "below");
    let kinds: Vec<_> = all.iter().map(|name| name.split('/').next().expect("a word")).collect();
    assert_eq!(kinds, ["deferreds", "locks", "tasks", "deferreds", "locks", "tasks"]);
    assert!(all[5].ends_with(": a cycle"), "{all:?}");
    assert_eq!(browser.value("text('#flags').includes('cycle')"), true);
    // Each box lies below and to the right of the one that waits for it.
    let falls = "[...document.querySelectorAll('.graph.below li')].map((each) => \
                 each.getBoundingClientRect()).every((each, at, all) => \
                 at === 0 || each.top > all[at - 1].bottom && each.left > all[at - 1].left)";
    assert_eq!(browser.value(falls), true);
    let waiters = boxes(&browser, "above");
    assert!(waiters.iter().any(|name| name.starts_with("locks/")), "{waiters:?}");
}
