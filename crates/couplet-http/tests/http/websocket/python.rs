//! Python's `websockets`, as client and as server.
//!
//! The tests need a Python that `venv.sh` of the test kit sets up in the target folder. Without one,
//! they print that they are skipped; in CI they fail.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use couplet::http::HttpExt;
use couplet::http::websocket::{Message, WebSocket, WebSocketOptions, WebSocketRequest, code};
use couplet_testkit::processes::Killed;

use super::kit::{echo, serve};
use crate::asked::CLEAR;
use crate::kit::run_live;
use crate::needed::{Venv, missing};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/websocket");

const VENV: Venv = Venv {
    name: "websockets",
    modules: "websockets.sync.client, websockets.sync.server",
    packages: &["websockets>=13"],
};

fn python() -> Option<&'static PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = || VENV.python().inspect_err(|why| missing(format_args!("websockets ({why})"))).ok();
    PYTHON.get_or_init(made).as_ref()
}

fn peer(words: &[&str]) -> Child {
    let python = python().expect("it was checked");
    let mut command = Command::new(python);
    command.arg(format!("{HERE}/peer.py")).args(words).env("PYTHONIOENCODING", "utf-8");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a peer")
}

async fn obey(mut socket: WebSocket) -> couplet::Result<()> {
    if socket.protocol() == Some("echo") {
        return echo(socket).await;
    }
    let asked = socket.recv().await.transpose()?;
    assert_eq!(asked.as_ref().and_then(Message::as_text), Some("close me"));
    Ok(socket.close(4001, "as you wish").await?)
}

#[test]
fn a_python_client_is_echoed_and_closed() {
    if python().is_none() {
        return;
    }
    let said = run_live(async |reactor| {
        let options = WebSocketOptions::default().protocols(["echo"]);
        let port = serve(&reactor, CLEAR, options, obey)?;
        let number = port.host().port().expect("a TCP port");
        let said = reactor.defer_to_thread(move || {
            let peer = peer(&["client", &format!("ws://127.0.0.1:{number}/a")]);
            Ok(String::from_utf8(peer.wait_with_output()?.stdout)?)
        });
        said.await
    });
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "subprotocol echo",
        "extensions None",
        "pieces in three pieces",
        "pong True",
        "closed 4000 enough",
        "closed 4001 as you wish",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_python_server_is_understood() {
    if python().is_none() {
        return;
    }
    let mut server = Killed(peer(&["server"]));
    let mut lines = BufReader::new(server.0.stdout.take().expect("it is piped")).lines();
    let port = lines.next().expect("a port").expect("a line");
    run_live(async move |reactor| {
        let request = WebSocketRequest::new(format!("ws://127.0.0.1:{port}/room?a=b"))
            .header("X-Token", "t0k")
            .options(WebSocketOptions::default().protocols(["echo"]));
        let mut socket = reactor.connect_websocket(request.clone()).await?;
        assert_eq!(socket.protocol(), Some("echo"));
        let many = vec![7; 1_000_000];
        for message in [Message::from("héllo"), "ping me".into(), vec![1, 2].into(), many.into()] {
            socket.send(message.clone()).await?;
            assert_eq!(socket.recv().await.transpose()?, Some(message));
        }
        socket.close(code::GOING_AWAY, "home").await?;
        assert_eq!(socket.peer_close().map(|close| close.code), Some(1001));
        let mut socket = reactor.connect_websocket(request).await?;
        socket.send("close me").await?;
        assert!(socket.recv().await.is_none());
        let close = socket.peer_close().map(ToString::to_string);
        assert_eq!(close.as_deref(), Some("4001 (as you wish)"));
        Ok(())
    });
    let mut said = lines.map(|line| line.expect("a line"));
    assert_eq!(said.next().as_deref(), Some("path /room?a=b t0k echo"));
    assert_eq!(said.next().as_deref(), Some("pong True"));
    // The thread of the second connection may be faster.
    assert!(said.take(3).any(|line| line == "closed 1001 home"));
}
