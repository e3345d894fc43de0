//! Python's `websockets`, as client and as server.
//!
//! It runs on a Python that `venv.sh` makes in the target folder. Without one the tests print that they
//! are skipped; in CI they fail.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use couplet::http::websocket::{Message, WebSocket, WebSocketOptions, WebSocketRequest, code};

use super::kit::{echo, serve};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/websocket");

fn python() -> Option<&'static PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(set_up).as_ref()
}

/// Runs `venv.sh` under a lock, so that concurrent runs of these tests wait.
fn set_up() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join("websockets-venv");
    let lock = File::create(target.join("websockets-venv.lock")).expect("a file in the target");
    lock.lock().expect("a lock");
    let mut script = Command::new("sh");
    let made = script.arg(format!("{HERE}/venv.sh")).arg(&folder).output().expect("a shell");
    if made.status.success() {
        return Some(folder.join("bin/python"));
    }
    let why = String::from_utf8_lossy(&made.stderr);
    let why = why.lines().last().unwrap_or_default();
    assert!(std::env::var_os("CI").is_none(), "CI lacks Python's websockets: {why}");
    // Not `eprintln`, whose output the harness captures when a test passes.
    let _ = writeln!(std::io::stderr(), "skipped: Python's websockets is not available: {why}");
    None
}

fn peer(words: &[&str]) -> Child {
    let python = python().expect("it was checked");
    let mut command = Command::new(python);
    command.arg(format!("{HERE}/peer.py")).args(words).env("PYTHONIOENCODING", "utf-8");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a peer")
}

/// A peer that is killed when the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    let said = couplet::run_until(|reactor| {
        let inner = reactor.clone();
        reactor.spawn(async move {
            let options = WebSocketOptions::default().protocols(["echo"]);
            let port = serve(&inner, "tcp:0:interface=127.0.0.1", options, obey)?;
            let number = port.host().socket_addr().expect("a TCP port").port();
            let said = inner.defer_to_thread(move || {
                let peer = peer(&["client", &format!("ws://127.0.0.1:{number}/a")]);
                Ok(peer
                    .wait_with_output()
                    .map(|out| String::from_utf8_lossy(&out.stdout).into_owned()))
            });
            let said = said.await??;
            inner.stop();
            Ok(said)
        })
    });
    let said = said.expect("it ends");
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
    let ran = couplet::run_until(|reactor| {
        let inner = reactor.clone();
        reactor.spawn(async move {
            let request = WebSocketRequest::new(format!("ws://127.0.0.1:{port}/room?a=b"))
                .header("X-Token", "t0k")
                .options(WebSocketOptions::default().protocols(["echo"]));
            let mut socket = inner.connect_websocket(request.clone()).await?;
            assert_eq!(socket.protocol(), Some("echo"));
            let many = vec![7; 1_000_000];
            for message in
                [Message::from("héllo"), "ping me".into(), vec![1, 2].into(), many.into()]
            {
                socket.send(message.clone()).await?;
                assert_eq!(socket.recv().await.transpose()?, Some(message));
            }
            socket.close(code::GOING_AWAY, "home").await?;
            assert_eq!(socket.peer_close().map(|close| close.code), Some(1001));
            let mut socket = inner.connect_websocket(request).await?;
            socket.send("close me").await?;
            assert!(socket.recv().await.is_none());
            let close = socket.peer_close().map(ToString::to_string);
            assert_eq!(close.as_deref(), Some("4001 (as you wish)"));
            inner.stop();
            Ok(())
        })
    });
    ran.expect("it ends");
    let said: Vec<String> = lines.by_ref().take(3).map(|line| line.expect("a line")).collect();
    assert_eq!(said, ["path /room?a=b t0k echo", "pong True", "closed 1001 home"]);
}
