//! `chat --web`: the page, in Chromium and as bytes.

use std::net::SocketAddr;

use rustix::process::Signal;

use crate::browser::{Browser, ENTER};
use crate::bus::{Rogue, joined, keeping_bus, named};
use crate::kit::{
    Client, Member, Server, haproxy, kept_until, lines_until, program, run, wait_until,
};
use crate::servers;
use couplet_testkit::needed::Folder;

/// Starts a chat server with a page, on a bus.
fn chat(bus: &servers::Server, ports: [&str; 2]) -> Server {
    let more = ["--history", "100", "--listen", ports[0], "--web", ports[1]];
    let server = Server::start_command(program(&joined(&bus.url(), &more)), 2);
    server.wait_told("connected to the bus");
    server
}

/// The texts of the lines on the page, without notices and lines without a number.
fn said(browser: &Browser) -> Vec<String> {
    let lines = "[...document.querySelectorAll('#lines li:not(.notice, .unkept)')]";
    let lines = browser.value(&format!("{lines}.map((line) => line.textContent)"));
    let lines = lines.as_array().expect("a list").iter();
    lines.map(|line| line.as_str().expect("a text").to_owned()).collect()
}

#[test]
fn c228_a_page_has_the_lines_of_all_servers_once_and_in_order_also_after_its_server_was_killed() {
    let Some(browser) = Browser::start(1000, 700) else { return };
    let folder = Folder::new();
    let Some(bus) = keeping_bus(&folder) else { return };
    let (mut first, second) = (chat(&bus, ["0", "0"]), chat(&bus, ["0", "0"]));
    let mut bob = named(&second, "bob");
    bob.say("before the page");
    lines_until(&mut bob, "[1] <bob> before the page");
    browser.open(&format!("http://{}/", first.ports[1]));
    browser
        .wait_for("text('#state') === 'Connected.' && text('#lines').includes('before the page')");
    // The keyboard is enough: the cursor is in the field for a line.
    browser.press(&format!("/nick ada{ENTER}"));
    browser.wait_for("one('#name').value === 'ada'");
    browser.press(&format!("hello <i>from</i> the page{ENTER}"));
    lines_until(&mut bob, "[2] <ada> hello <i>from</i> the page");
    bob.say("<img src=x onerror='window.harmed = true'><script>window.harmed = true</script>");
    browser.wait_for("text('#lines').includes('<script>')");
    assert_eq!(browser.value("document.querySelectorAll('#lines img, #lines script').length"), 0);
    assert_eq!(browser.value("window.harmed === undefined"), true);
    browser.wait_for("text('#people') === 'ada (you)bob' && text('#count') === '(2)'");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // The name in its field, for the next connection too.
    browser.run("one('#name').value = 'eve'; one('#naming').requestSubmit();");
    browser.wait_for("text('#people') === 'bobeve (you)'");

    first.running.signal(Signal::KILL);
    let ports = first.ports.clone();
    browser.wait_for("text('#state').startsWith('Not connected')");
    // More lines than a joining member gets.
    for n in 0..40 {
        bob.say(&format!("missed {n}"));
    }
    lines_until(&mut bob, "missed 39");
    let [listen, web] = [0, 1].map(|port: usize| ports[port].port().to_string());
    drop(first);
    let _first = chat(&bus, [&listen, &web]);
    browser.wait_for("text('#state') === 'Connected.'");
    lines_until(&mut bob, " is now eve");
    browser.wait_for("text('#lines').includes('missed 39')");
    browser.press(&format!("I am back{ENTER}"));
    lines_until(&mut bob, "<eve> I am back");
    browser.wait_for("text('#lines').includes('I am back')");
    let mut expected = vec![
        "bob before the page".to_owned(),
        "ada hello <i>from</i> the page".to_owned(),
        "bob <img src=x onerror='window.harmed = true'><script>window.harmed = true</script>"
            .to_owned(),
    ];
    expected.extend((0..40).map(|n| format!("bob missed {n}")));
    expected.push("eve I am back".to_owned());
    assert_eq!(said(&browser), expected);
    browser.press(&format!("/quit{ENTER}"));
    browser.wait_for("text('#state').startsWith('You have left.')");
    lines_until(&mut bob, "* eve has left");
}

#[test]
fn c228_pages_work_below_a_path_behind_a_proxy_that_names_the_host() {
    let Some(browser) = Browser::start(1000, 700) else { return };
    needs!("haproxy");
    let arguments = ["--history", "--web", "0", "--listen", "0", "--inspect", "0"];
    let server = Server::start_command(program(&arguments), 2);
    server.wait_told("?token=");
    let told = server.running.told();
    let inspector = told.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
    let (inspector, token) = inspector.and_then(|url| url.split_once("/?")).expect("a URL");
    // Two proxies: one names the host that the browser asked for, one does not.
    let configuration = |named: &str| {
        let chat = server.ports[1];
        format!(
            "defaults\n mode http\n timeout connect 9s\n timeout client 60s\n timeout server 60s\n\
             frontend a\n bind fd@0\n {named}\n use_backend b if {{ path_beg /some/chat/ }}\n \
             default_backend c\n\
             backend b\n http-request replace-path /some/chat/(.*) /\\1\n \
             http-request set-header Host inner\n server s {chat}\n\
             backend c\n http-request replace-path /some/inspect/(.*) /\\1\n \
             http-request set-header Host inner\n server s {inspector}\n"
        )
    };
    let folder = Folder::new();
    let names = ["http-request set-header X-Forwarded-Host %[req.hdr(host)]", ""];
    let [(_first, front), (_second, bare)] = names.map(|named| {
        haproxy(&folder.write(&format!("cfg{}", named.len()), configuration(named)), &[])
    });
    let mut bob = named(&server, "bob");
    // Again, after a reload of each page.
    for round in 0..2 {
        browser.open(&format!("http://{front}/some/chat/"));
        browser.wait_for("text('#state') === 'Connected.'");
        browser.press(&format!("hello {round}{ENTER}"));
        lines_until(&mut bob, &format!("> hello {round}"));
        browser.open(&format!("http://{front}/some/inspect/?{token}"));
        browser.wait_for("document.body.textContent.includes('loop 0')");
        browser.open(&format!("http://{bare}/some/chat/"));
        browser.wait_for(&format!(
            "text('#state').includes(\"the page's origin is http://{bare}, but the server was asked as \
             inner: a proxy has to pass Host or X-Forwarded-Host\")"
        ));
    }
}

#[test]
fn c228_a_page_shows_lines_that_have_the_numbers_of_lost_ones() {
    let Some(browser) = Browser::start(1000, 700) else { return };
    let (folder, copy) = (Folder::new(), Folder::new());
    let Some(mut bus) = keeping_bus(&folder) else { return };
    let server = chat(&bus, ["0", "0"]);
    let mut bob = named(&server, "bob");
    bob.say("one");
    lines_until(&mut bob, "[1] <bob> one");
    browser.open(&format!("http://{}/", server.ports[1]));
    browser.wait_for("text('#lines').includes('one')");
    let copy_files = |from: &Folder, to: &Folder| {
        let (from, to) = (from.path("."), to.path(""));
        let copied = std::process::Command::new("cp").args(["-r", &from, &to]).status();
        assert!(copied.expect("it is there").success());
    };
    bus.stop();
    copy_files(&folder, &copy);
    bus.start_again();
    lines_until(&mut bob, "* The other servers are back.");
    for (number, text) in [(2, "two"), (3, "three")] {
        bob.say(text);
        lines_until(&mut bob, &format!("[{number}] <bob> {text}"));
    }
    browser.wait_for("text('#lines').includes('three')");
    // The bus loses the lines since the copy.
    bus.kill();
    std::fs::remove_dir_all(folder.path("jetstream")).expect("the bus keeps its data there");
    copy_files(&copy, &folder);
    bus.start_again();
    lines_until(&mut bob, "* The lines begin anew, with ");
    for (number, text) in [(2, "four"), (3, "five"), (4, "six")] {
        bob.say(text);
        lines_until(&mut bob, &format!("[{number}] <bob> {text}"));
    }
    browser.wait_for("text('#lines').includes('six')");
    let lines = said(&browser);
    let expected = ["one", "two", "three", "* begin", "four", "five", "six"];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        match expected {
            "* begin" => assert_eq!(line, "The lines begin anew, with 2."),
            text => assert_eq!(*line, format!("bob {text}")),
        }
    }
}

#[test]
fn c228_a_page_notices_that_its_last_lines_were_lost_and_their_numbers_given_to_others() {
    let Some(browser) = Browser::start(1000, 700) else { return };
    let Some(redis) = servers::Server::start_redis(&[]) else { return };
    let (mut first, second) = (chat(&redis, ["0", "0"]), chat(&redis, ["0", "0"]));
    let mut bob = named(&second, "bob");
    browser.open(&format!("http://{}/", first.ports[1]));
    browser.wait_for("text('#state') === 'Connected.'");
    for line in ["one", "two", "three"] {
        bob.say(line);
    }
    browser.wait_for("text('#lines').includes('three')");
    let [listen, web] = [0, 1].map(|port: usize| first.ports[port].port().to_string());
    first.running.signal(Signal::KILL);
    browser.wait_for("text('#state').startsWith('Not connected')");
    // A server that writes to its disk each second loses its last ones in a crash.
    let mut rogue = Client::connect(SocketAddr::from(([127, 0, 0, 1], redis.port)));
    let key = "couplet:log:{couplet.chat.log}";
    rogue.send(format!("XREVRANGE {key} + - COUNT 1\r\n").as_bytes());
    (0..3).for_each(|_| drop(rogue.read_line()));
    let epoch = rogue.read_line().trim_end().strip_suffix("-3").expect("the third line").to_owned();
    while !rogue.read_line().trim_end().is_empty() {}
    rogue.send(format!("XDEL {key} {epoch}-3\r\nXSETID {key} {epoch}-2\r\n").as_bytes());
    assert_eq!([0; 2].map(|_| rogue.read_line().trim_end().to_owned()), [":1", "+OK"]);
    rogue.send(b"CLIENT KILL TYPE pubsub\r\n");
    lines_until(&mut bob, "* The other servers are back.");
    lines_until(&mut bob, "* The lines begin anew, with ");
    drop(first);
    let _first = chat(&redis, [&listen, &web]);
    browser.wait_for("text('#state') === 'Connected.'");
    bob.say("another");
    lines_until(&mut bob, "[3] <bob> another");
    browser.wait_for("text('#lines').includes('another')");
    let expected =
        ["bob one", "bob two", "bob three", "The lines begin anew, with 3.", "bob another"];
    assert_eq!(said(&browser), expected);
    // The room still has the earlier lines, with other numbers.
    let mut eve = Member(second.connect());
    assert_eq!(kept_until(&mut eve, "another"), ["[3] <bob> another"]);
}

#[test]
fn c228_a_page_gets_a_list_of_very_many_people() {
    let folder = Folder::new();
    let Some(bus) = keeping_bus(&folder) else { return };
    let server = chat(&bus, ["0", "0"]);
    let mut rogue = Rogue::join(&bus);
    wait_until("the people", || {
        for crowd in 0..3 {
            let names: String = (0..2000).map(|n| format!(" x{crowd}-{n:016}")).collect();
            let names = format!("+2000{names}");
            rogue.publish(&format!("couplet.chat.people.x{crowd}"), names.as_bytes());
        }
        Member(server.connect()).line().contains(". 60")
    });
    let page = server.ports[1];
    let (mut eve, _) = handshake(page, &format!("http://{page}"));
    read_until(&mut eve, b". 60");
    eve.send(&frame(b"/who"));
    read_until(&mut eve, b"x0-0000000000001990, x0-");
    eve.send(&frame(b"hello"));
    read_until(&mut eve, b"> hello");
}

/// A server without a bus, and with pages.
fn alone() -> Server {
    Server::start_command(program(&["--history", "--web", "0", "--listen", "0"]), 2)
}

/// A page's connection, as bytes.
fn handshake(server: SocketAddr, origin: &str) -> (Client, String) {
    let mut client = Client::connect(server);
    let request = format!(
        "GET /lines HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Origin: {origin}\r\n\r\n"
    );
    client.send(request.as_bytes());
    let status = client.read_line();
    (client, status)
}

/// Reads until these bytes.
fn read_until(client: &mut Client, words: &[u8]) {
    let mut seen = Vec::new();
    while !seen.windows(words.len()).any(|part| part == words) {
        let more = client.read().expect("more bytes");
        assert!(!more.is_empty(), "it ended: {}", String::from_utf8_lossy(&seen));
        seen.extend(more);
    }
}

/// A text frame of a client, whose mask changes nothing.
fn frame(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()).expect("a short text") {
        length @ ..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text);
    frame
}

#[test]
fn c228_a_page_of_another_origin_and_messages_beyond_the_limit_are_refused() {
    let server = alone();
    let page = server.ports[1];
    for origin in ["http://evil.example", "null"] {
        let (_, status) = handshake(page, origin);
        assert!(status.starts_with("HTTP/1.1 403 "), "{status}");
    }
    let (mut eve, status) = handshake(page, &format!("http://{page}"));
    assert!(status.starts_with("HTTP/1.1 101 "), "{status}");
    read_until(&mut eve, b"Welcome! You are guest-1.");
    let mut bob = named(&server, "bob");
    // A message is one line, and one that is a little too long gets an answer.
    eve.send(&frame(b"one\ntwo"));
    lines_until(&mut bob, "[1] <guest-1> one two");
    eve.send(&frame(&[b'x'; 1000]));
    read_until(&mut eve, b"That line has more than 512 bytes and was not sent.");
    // A message far beyond the limit ends the connection, with the code for that.
    eve.send(&frame(&[b'x'; 5000]));
    read_until(&mut eve, &1009_u16.to_be_bytes());
    lines_until(&mut bob, "* guest-1 has left");
    run(&["--web", "0"]).says(2, "--history");
}

#[test]
fn c31_each_page_gets_a_going_away_close_with_and_without_a_drain() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut server = alone();
        let page = server.ports[1];
        let mut pages = [(); 2].map(|()| handshake(page, &format!("http://{page}")).0);
        pages.iter_mut().for_each(|page| read_until(page, b"Welcome! You are guest-"));
        server.running.signal(signal);
        let going_away = [&[0x88, 12], &1001_u16.to_be_bytes()[..], b"going away"].concat();
        pages.iter_mut().for_each(|page| read_until(page, &going_away));
        drop(pages);
        assert_eq!(server.running.ended().code, Some(0), "{signal:?}");
    }
}

#[test]
fn c228_a_page_that_talks_too_fast_is_delayed_and_loses_nothing() {
    let server = alone();
    let (mut eve, _) = handshake(server.ports[1], &format!("http://{}", server.ports[1]));
    read_until(&mut eve, b"Welcome! You are guest-1.");
    let mut bob = named(&server, "bob");
    let mut flood = Vec::new();
    for n in 0..3000 {
        flood.extend(frame(format!("{n} {}", "x".repeat(100)).as_bytes()));
    }
    let began = crate::kit::now();
    eve.send(&flood);
    let mut heard = 0;
    while heard < 3000 {
        let line = bob.line();
        if line.starts_with('[') {
            assert!(line.starts_with(&format!("[{}] <guest-1> {heard} x", heard + 1)), "{line}");
            heard += 1;
        }
    }
    // 350 KB; the first 64 KB are not delayed.
    assert!(began.elapsed().as_secs_f64() > 0.5, "{:?}", began.elapsed());
}
