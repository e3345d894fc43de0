//! The buttons that act on a connection.

use std::io::{Read, Write};

use crate::program::port_of;
use crate::{filter, storm};
use couplet_testkit_loops::browser::{Browser, ENTER};

/// Clicks one of the buttons of the details.
fn act(browser: &Browser, action: &str) {
    let buttons = "[...document.querySelectorAll('#details .actions button')]";
    let button = format!("{buttons}.find((button) => button.textContent === '{action}')");
    browser.wait_for(&format!("{button}?.checkVisibility() === true"));
    browser.run(&format!("{button}.click()"));
}

#[test]
fn connections_are_paused_resumed_closed_and_reset_with_the_buttons() {
    let Some((browser, _program, mut clients)) = storm(3) else { return };
    let why = "text('#details > .words')";
    let open = |port: u16| {
        filter(&browser, &format!("peer:{port}"));
        browser.wait_for("rows().length === 1");
        browser.press(&format!("j{ENTER}"));
        browser.wait_for(&format!("text('#details').includes(':{port}')"));
    };
    open(port_of(&clients[0]));
    act(&browser, "pause");
    browser.wait_for(&format!("{why}.startsWith('reading paused by the inspector')"));
    browser.wait_for("text('#details').includes('pause: done')");
    clients[0].write_all(b"x").expect("the system takes it");
    act(&browser, "resume");
    clients[0].read_exact(&mut [0]).expect("it is echoed");
    browser.wait_for(&format!("!{why}.startsWith('reading paused')"));
    act(&browser, "close");
    assert_eq!(clients[0].read(&mut [0]).expect("a clean end"), 0);
    drop(clients.remove(0));
    browser.wait_for("text('#tab-connections .count') === '2'");
    browser.wait_for("document.querySelectorAll('#details .actions button').length === 0");
    open(port_of(&clients[0]));
    act(&browser, "reset");
    clients[0].read(&mut [0]).expect_err("a reset");
    browser.wait_for("text('#tab-connections .count') === '1'");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
