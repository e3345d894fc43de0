//! The Autobahn test suite, as client and as server.
//!
//! The tests need Python 2.7, with which `autobahn.sh` installs the rest. Without it, they print that
//! they are skipped. Cases 12 and 13 are excluded: compression is not implemented.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::http::websocket::{WebSocketOptions, WebSocketRequest, code};
use couplet::{Reactor, Result};
use couplet_testkit::processes::Killed;

use super::kit::{echo, secs, serve};
use crate::asked::CLEAR;
use crate::kit::{ended, run_live};
use crate::needed::{Folder, missing, skipped};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/websocket");

/// Number of the suite's cases without 12 and 13.
const CASES: usize = 301;

/// The Python that runs the suite, and the suite's folder; `None` without Python 2.7.
fn suite() -> Option<&'static (PathBuf, PathBuf)> {
    static SUITE: OnceLock<Option<(PathBuf, PathBuf)>> = OnceLock::new();
    SUITE.get_or_init(set_up).as_ref()
}

/// Runs `autobahn.sh` under a lock, so that concurrent runs of these tests wait.
fn set_up() -> Option<(PathBuf, PathBuf)> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join("autobahn");
    let lock = File::create(target.join("autobahn.lock")).expect("a file in the target folder");
    lock.lock().expect("a lock");
    let mut script = Command::new("sh");
    let made = script.arg(format!("{HERE}/autobahn.sh")).arg(&folder).output().expect("a shell");
    if made.status.success() {
        let python = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        return Some((python.into(), folder));
    }
    let why = String::from_utf8_lossy(&made.stderr);
    let why = why.lines().last().unwrap_or_default();
    // Status 3: without Python 2.7, the suite can't be installed. With it, a failure is an error
    // in CI.
    let why = format!("Autobahn test suite ({why})");
    if made.status.code() == Some(3) {
        skipped(why)
    } else {
        missing(why)
    }
    None
}

/// A run of the suite.
struct Run {
    child: Killed,
    _folder: Folder,
}

impl Run {
    fn start(mode: &str, peer: &str) -> Run {
        let (python, suite) = suite().expect("it was checked");
        let folder = Folder::new();
        let outdir = folder.display();
        let text = format!(
            r#"{{"outdir": "{outdir}", {peer}, "cases": ["*"],
                "exclude-cases": ["12.*", "13.*"], "exclude-agent-cases": {{}}}}"#
        );
        let child = Command::new(python)
            .arg(format!("{HERE}/autobahn.py"))
            .arg(mode)
            .arg(folder.write("spec.json", text))
            .env("PYTHONPATH", suite)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the suite starts");
        Run { child: Killed(child), _folder: folder }
    }

    /// Waits for the end of the run, and returns the results by case.
    fn found(mut self) -> BTreeMap<String, (String, String)> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().expect("it is piped");
        stdout.read_to_string(&mut text).expect("text");
        let lines = text.lines().filter_map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            Some((words.next()?, (words.next()?, words.next()?)))
        });
        lines.collect()
    }
}

/// Checks that every case ran, and that none failed.
fn check(found: &BTreeMap<String, (String, String)>) {
    let is_fine = |word: &str| matches!(word, "OK" | "INFORMATIONAL");
    let failed: Vec<_> = found
        .iter()
        .filter(|(_, (behavior, close))| !is_fine(behavior) || !is_fine(close))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(found.len(), CASES);
}

#[test]
fn the_suite_as_client() {
    if suite().is_none() {
        return;
    }
    check(&run_live(async |reactor| {
        let port = serve(&reactor, CLEAR, WebSocketOptions::default(), echo)?;
        let number = port.host().port().expect("a TCP port");
        let found = reactor.defer_to_thread(move || {
            let url = format!("ws://127.0.0.1:{number}/");
            let peer = format!(r#""servers": [{{"agent": "couplet", "url": "{url}"}}]"#);
            Ok(Run::start("fuzzingclient", &peer).found())
        });
        found.await
    }));
}

#[test]
fn the_suite_as_server() {
    if suite().is_none() {
        return;
    }
    check(&run_live(async |reactor| {
        let port = reactor.serve(CLEAR, async |_| Ok(()))?;
        let free = port.host().port().expect("a TCP port");
        ended(port, ()).await?;
        let url = format!("ws://127.0.0.1:{free}");
        let run = Run::start("fuzzingserver", &format!(r#""url": "{url}""#));
        await_server(&reactor, &format!("tcp:127.0.0.1:{free}")).await?;
        run_cases(&reactor, &url).await?;
        reactor.defer_to_thread(move || Ok(run.found())).await
    }));
}

async fn await_server(reactor: &Reactor, to: &str) -> Result<()> {
    let connected = async {
        while reactor.connect_stream(to).await.is_err() {
            reactor.sleep(Duration::from_millis(50)).await?;
        }
        Ok(())
    };
    reactor.timeout(secs(60), connected).await
}

async fn run_cases(reactor: &Reactor, url: &str) -> Result<()> {
    let mut socket = reactor.connect_websocket(format!("{url}/getCaseCount")).await?;
    let count = socket.recv().await.transpose()?.expect("the number of cases");
    let count: usize = count.as_text().expect("a text").parse()?;
    assert_eq!(count, CASES);
    socket.close(code::NORMAL, "").await?;
    for case in 1..=count {
        let request = WebSocketRequest::new(format!("{url}/runCase?case={case}&agent=couplet"));
        // Most end with an error, as they should.
        let _ = echo(reactor.connect_websocket(request).await?).await;
    }
    let reports = format!("{url}/updateReports?agent=couplet");
    let mut socket = reactor.connect_websocket(reports).await?;
    while socket.recv().await.transpose()?.is_some() {}
    Ok(())
}
