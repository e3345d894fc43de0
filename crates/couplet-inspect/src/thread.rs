//! The thread of an inspector: its loop serves the page, and makes recordings. Another thread logs
//! its warnings and errors, so that the loop never waits for the program's log.
//!
//! Contract: 179, 181, 182.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use couplet_core::hooks::{emit, inspector as hooks};
use couplet_core::{Failure, Loop, LoopOptions, Reactor, Remote};
use tracing::Level;

use crate::board::Board;
use crate::inspector::{Options, SharedInspector};
use crate::keeping;
use crate::server::{self, Source};

/// How long connections may take to end with the thread.
const GRACE: Duration = Duration::from_millis(100);

/// The most warnings and errors that wait for the program's log; later ones are lost.
const LOGGED: usize = 64;

/// A running inspector.
pub(crate) struct InspectorThread {
    started: Started,
    thread: JoinHandle<()>,
    /// The process that has the thread.
    process: u32,
}

struct Started {
    remote: Remote,
    /// Of the page, if there is one.
    url: Option<String>,
}

impl InspectorThread {
    /// Starts the thread, and waits until it listens.
    pub(crate) fn start(inspector: &Arc<SharedInspector>) -> io::Result<InspectorThread> {
        let (tell, started) = mpsc::channel();
        let inspector = inspector.clone();
        let thread = std::thread::Builder::new().name("couplet inspector".to_owned());
        let thread = thread.spawn(move || run(&inspector, &tell))?;
        let started = started.recv().unwrap_or_else(|_| Err(Failure::msg("its thread has ended")));
        let endpoint = |failure| io::Error::other(format!("cannot open the inspector: {failure}"));
        let process = std::process::id();
        Ok(InspectorThread { started: started.map_err(endpoint)?, thread, process })
    }

    pub(crate) fn url(&self) -> Option<&str> {
        self.started.url.as_deref()
    }

    /// A handle to the thread's loop.
    pub(crate) fn remote(&self) -> Remote {
        self.started.remote.clone()
    }

    /// Ends the thread, and waits until its port is closed.
    pub(crate) fn end(self) {
        // A process that was forked without `exec` has the loops, but not the thread.
        if std::process::id() != self.process {
            return;
        }
        // The loop may have failed.
        let _ = self.started.remote.call(Reactor::stop);
        let _ = self.thread.join();
    }
}

fn run(inspector: &Arc<SharedInspector>, tell: &mpsc::Sender<couplet_core::Result<Started>>) {
    if let Err(failure) = logged_elsewhere(|| inspect(inspector, tell)) {
        let _ = tell.send(Err(failure));
    }
}

fn inspect(
    inspector: &Arc<SharedInspector>,
    tell: &mpsc::Sender<couplet_core::Result<Started>>,
) -> couplet_core::Result<()> {
    let mut l = Loop::with_options(LoopOptions::default().shutdown_grace(GRACE))?;
    l.run(|reactor| {
        let board = Board::new(reactor, inspector.clone());
        let options = &inspector.options;
        let recordings = options.flag_recordings.clone();
        keeping::watch(reactor, board.clone(), recordings, &options.name);
        let endpoint = options.endpoint.as_deref();
        let url = endpoint.map(|at| open(reactor, at, options, Source::Program(board)));
        let url = url.transpose()?;
        // The thread that started this one waits for it.
        let _ = tell.send(Ok(Started { remote: reactor.remote(), url }));
        Ok(())
    })
}

/// Runs `work` with its warnings and errors logged by another thread, since the program's log may
/// block, as an unread pipe does. Other events are not logged.
#[expect(clippy::disallowed_methods, reason = "it waits when the thread's loop has ended")]
fn logged_elsewhere(work: impl FnOnce() -> couplet_core::Result<()>) -> couplet_core::Result<()> {
    let (log, events) = mpsc::sync_channel::<(Level, String)>(LOGGED);
    let (logging, ended) = mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("couplet inspector log".to_owned());
    thread.spawn(move || {
        for (level, text) in events {
            emit(|| match level {
                Level::ERROR => tracing::error!("{text}"),
                _ => tracing::warn!("{text}"),
            });
        }
        drop(logging);
    })?;
    let redirected = hooks::redirect(move |level, text| drop(log.try_send((level, text))));
    let outcome = work();
    drop(redirected);
    // The last events are in the log, unless it blocks.
    let _ = ended.recv_timeout(GRACE);
    outcome
}

/// Asks the inspector's thread for a recording, and waits for it. `None` if the thread has ended.
pub(crate) fn recording(inspector: &Remote) -> Option<Vec<u8>> {
    let (tell, told) = mpsc::channel();
    let asked = inspector.call(move |reactor| {
        let Some(board) = Board::of_this_thread() else { return };
        let making = reactor.spawn(async move {
            board.refresh_now().await?;
            // The thread that asks waits for it.
            let _ = tell.send(board.recording(None));
            Ok(())
        });
        making.detach();
    });
    asked.ok()?;
    told.recv().ok()
}

/// Opens the port; returns the URL of the page.
pub(crate) fn open(
    reactor: &Reactor,
    endpoint: &str,
    options: &Options,
    source: Source,
) -> couplet_core::Result<String> {
    let Options { token, is_public, .. } = options;
    let endpoint = match endpoint.parse::<u16>() {
        Ok(port) => format!("tcp:{port}:interface=127.0.0.1"),
        Err(_) => endpoint.to_owned(),
    };
    let is_unix = endpoint.starts_with("unix:");
    let listening = match is_unix && !endpoint.contains(":mode=") {
        true => format!("{endpoint}:mode=600"),
        false => endpoint.clone(),
    };
    let token = match token {
        Some(token) => token.clone(),
        None if is_unix => String::new(),
        None => random_token()?,
    };
    let port = server::serve(reactor, &listening, &token, source)?;
    let host = port.host();
    let is_local = host.unix().is_some() || host.ip().is_some_and(|ip| ip.is_loopback());
    if !is_local && !is_public {
        // The program is not started either.
        let text = "accepts connections from other machines, unencrypted: add interface=127.0.0.1, or use a UNIX socket (unix:PATH)";
        return Err(Failure::msg(format!("{endpoint} {text}")));
    }
    Ok(match host.socket_addr() {
        Some(address) if token.is_empty() => format!("http://{address}/"),
        Some(address) => format!("http://{address}/?token={token}"),
        None => endpoint,
    })
}

#[expect(clippy::disallowed_methods, reason = "the token is secret, and in no simulated world")]
fn random_token() -> couplet_core::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::msg(format!("the system has no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
