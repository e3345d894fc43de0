//! The WebSocket of the page.

use std::io::Write;
use std::time::Duration;

use couplet::hooks::NoteRow;
use couplet::http::HttpExt;
use couplet::http::websocket::WebSocket;
use couplet::{Reactor, hooks};
use couplet_testkit_loops::doubles::Quiet;
use serde_json::{Value, json};

use crate::kit::Program;

async fn next(socket: &mut WebSocket) -> couplet::Result<Value> {
    let message = socket.recv().await.expect("it goes on")?;
    Ok(serde_json::from_str(message.as_text().expect("a text"))?)
}

/// The numbers of the rows of connections, and the removed ids.
fn changes(message: &Value) -> (usize, usize) {
    let view = &message["views"]["connections"];
    let count = |field: &str| view[field].as_array().map_or(0, Vec::len);
    (count("rows"), count("gone"))
}

/// Runs this with the address of the program's WebSocket.
fn live(
    program: &Program,
    run: impl AsyncFnOnce(Reactor, String) -> couplet::Result<()> + 'static,
) {
    let url = program.url().replace("http:", "ws:").replace("/?", "/live?");
    let ran = couplet::run_until(|reactor| {
        let inner = reactor.clone();
        reactor.spawn(async move { run(inner, url).await })
    });
    ran.expect("pages");
}

#[test]
fn c183_a_page_gets_all_rows_first_and_then_the_changes() {
    let (program, address) = Program::start(|reactor| {
        let port = reactor.listen("tcp:0:interface=127.0.0.1", || Quiet).expect("a free port");
        port.host().socket_addr().expect("TCP")
    });
    let connect = || std::net::TcpStream::connect(address).expect("it listens");
    let mut clients: Vec<_> = (0..3).map(|_| connect()).collect();
    program.until("/connections.json", |rows| (rows.as_array()?.len() == 3).then_some(()));
    live(&program, async move |reactor, url| {
        let mut page = reactor.connect_websocket(&*url).await?;
        let first = next(&mut page).await?;
        assert_eq!(first["views"]["connections"]["all"], true);
        assert_eq!(changes(&first), (3, 0));
        assert_eq!(first["counts"]["connections"], 3);
        page.send(r#"{"views":["connections"],"every":0.1}"#).await?;
        let again = next(&mut page).await?;
        assert_eq!(again["views"]["connections"]["all"], true);
        assert!(again["views"]["ports"].is_null(), "only the views that it asked for");
        assert_eq!(again["counts"]["ports"], 1);
        let same = next(&mut page).await?;
        assert_eq!(changes(&same), (0, 0), "nothing has changed: {same}");
        assert_eq!(same["views"]["connections"]["changed"], json!([]));
        clients[0].write_all(b"hello")?;
        let changed = loop {
            let message = next(&mut page).await?;
            assert_eq!(changes(&message), (0, 0), "all rows stay: {message}");
            if let Some(row) = message["views"]["connections"]["changed"].get(0) {
                break row.clone();
            }
        };
        assert_eq!(changed["in"], 5);
        let rows = again["views"]["connections"]["rows"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["id"] == changed["id"]).expect("its row");
        for field in ["peer", "host", "protocol", "layers", "loop", "made"] {
            assert!(!row[field].is_null() && changed[field].is_null(), "{field} stays: {row}");
        }
        drop(clients);
        let mut gone = 0;
        while gone < 3 {
            let message = next(&mut page).await?;
            gone += changes(&message).1;
            assert!(message["views"]["connections"]["all"].is_null(), "{message}");
        }
        page.send(r#"{"pause":true}"#).await?;
        let paused = next(&mut page);
        // Messages may be on their way.
        let waited = reactor.sleep(Duration::from_millis(500));
        drop(paused);
        waited.await?;
        page.send(r#"{"pause":false}"#).await?;
        // The rows of views that a page adds are there, each time.
        for view in ["ports", "connections", "ports"] {
            page.send(json!({"views": [view]}).to_string()).await?;
            let shown = loop {
                let mut message = next(&mut page).await?;
                let shown = message["views"][view].take();
                if !shown.is_null() {
                    break shown;
                }
            };
            assert_eq!(shown["all"], true, "{view}: {shown}");
        }
        page.send("no request").await?;
        while let Some(Ok(_)) = page.recv().await {}
        assert_eq!(page.peer_close().map(|close| close.code), Some(1003));
        Ok(())
    });
}

#[test]
fn two_pages_have_their_own_views() {
    let (program, ()) = Program::start(|_| ());
    live(&program, async move |reactor, url| {
        let mut first = reactor.connect_websocket(&*url).await?;
        let mut second = reactor.connect_websocket(&*url).await?;
        next(&mut first).await?;
        next(&mut second).await?;
        first.send(r#"{"views":["calls"]}"#).await?;
        second.send(r#"{"views":["jobs"]}"#).await?;
        let views = |message: &Value| {
            let views = message["views"].as_object().expect("views");
            views.keys().cloned().collect::<Vec<_>>()
        };
        let (one, other) = (next(&mut first).await?, next(&mut second).await?);
        assert!(views(&one).iter().all(|view| view == "calls"), "{one}");
        assert!(views(&other).iter().all(|view| view == "jobs"), "{other}");
        Ok(())
    });
}

#[test]
fn a_program_may_add_twenty_views() {
    const VIEWS: [&str; 21] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
        "s", "t", "u",
    ];
    let (program, ()) = Program::start(|reactor| {
        let row = |view| NoteRow::new(view, [("name", "x".to_owned())]);
        let note = hooks::note_rows(reactor, move || VIEWS.map(row).to_vec());
        reactor.call_later(Duration::from_secs(3600), move || drop(note));
    });
    let state = program.get("/state.json");
    let shown: Vec<_> = VIEWS.iter().map(|view| state["views"][view][0]["name"] == "x").collect();
    assert_eq!(shown.iter().filter(|is_shown| **is_shown).count(), 20, "{state}");
    assert_eq!(state["views"].as_object().map(serde_json::Map::len), Some(30));
}

#[test]
fn rows_of_a_program_get_their_own_view() {
    let (program, ()) = Program::start(|reactor| {
        let row = |room: &str| {
            let fields =
                [("room", room), ("members", "12"), ("since", "7.125"), ("topic", "7.125")];
            NoteRow::new("rooms", fields.map(|(field, value)| (field, value.to_owned())))
        };
        let note = hooks::note_rows(reactor, move || vec![row("bar"), row("lounge")]);
        // The rows stay as long as their note.
        reactor.call_later(Duration::from_secs(3600), move || drop(note));
    });
    let bar = json!({
        "id": "0.bar", "loop": 0, "room": "bar", "members": 12, "since": 7.125, "topic": "7.125"
    });
    assert_eq!(program.get("/rooms.json")[0], bar);
    let state = program.get("/state.json");
    assert_eq!(state["views"]["rooms"][0], bar);
    let names: Vec<_> = state["views"].as_object().expect("views").keys().collect();
    assert_eq!((names[0], names[10]), (&"connections".to_owned(), &"rooms".to_owned()));
    live(&program, async move |reactor, url| {
        let mut page = reactor.connect_websocket(&*url).await?;
        let all = next(&mut page).await?;
        assert_eq!(all["views"]["rooms"]["rows"][0], bar);
        assert_eq!(all["counts"]["rooms"], 2);
        page.send(r#"{"views":["rooms"],"every":0.1}"#).await?;
        let wanted = next(&mut page).await?;
        assert_eq!(wanted["views"]["rooms"]["rows"][0], bar);
        assert!(wanted["views"]["connections"].is_null(), "only the view that it asked for");
        Ok(())
    });
}
