//! The WebSocket of a page: changes, as often as the page asks for them.
//!
//! Contract: 183.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use couplet_core::{Deferred, Result};
use couplet_http::websocket::{Message, WebSocket, code};
use serde::Deserialize;

use crate::board::Board;

/// The longest message of a page, in bytes.
pub(crate) const MOST: usize = 4096;

/// The shortest and the longest time between two messages, in seconds.
const EVERY: (f64, f64) = (0.1, 60.0);

/// A page's request.
#[derive(Deserialize)]
struct Request {
    views: Option<Vec<String>>,
    every: Option<f64>,
    pause: Option<bool>,
}

/// The state of a page.
struct Reader {
    /// The views that it wants; `None`: all.
    views: Option<Vec<String>>,
    every: Duration,
    is_paused: bool,
    /// The last version that it got; 0: none.
    seen: u64,
}

/// Sends changes until the page leaves. The next message waits until the last one is sent.
pub(crate) async fn run(mut socket: WebSocket, board: Rc<Board>) -> Result<()> {
    let mut reader =
        Reader { views: None, every: Duration::from_secs(1), is_paused: false, seen: 0 };
    let reactor = socket.transport().reactor().clone();
    loop {
        if !reader.is_paused {
            board.refresh().await?;
            let message = board.message(reader.views.as_deref(), reader.seen);
            reader.seen = board.version();
            if !send_within(&mut socket, message, board.options().page_timeout).await? {
                socket.transport().abort_connection();
                return Ok(());
            }
        }
        let mut tick = reactor.sleep(reader.every);
        while let Some(message) = next(&mut socket, &mut tick).await {
            let Some(message) = message else { return Ok(()) };
            let request = message?.as_text().and_then(|text| serde_json::from_str(text).ok());
            let Some(request) = request else {
                socket.close(code::UNSUPPORTED, "a request is an object of JSON").await?;
                return Ok(());
            };
            if reader.apply(request) {
                break;
            }
        }
    }
}

/// Sends a message. False if the page takes longer to read it.
async fn send_within(socket: &mut WebSocket, message: String, most: Duration) -> Result<bool> {
    let mut late = socket.transport().reactor().sleep(most);
    match before(&mut late, socket.send(message)).await {
        Some(sent) => Ok(sent.map(|()| true)?),
        None => Ok(false),
    }
}

/// The next message, or `None` at the tick; `Some(None)` at the end.
async fn next(socket: &mut WebSocket, tick: &mut Deferred<()>) -> Option<Option<Result<Message>>> {
    let message = before(tick, socket.recv()).await?;
    Some(message.map(|message| message.map_err(Into::into)))
}

/// The output of a future, unless the Deferred fires first.
async fn before<T>(deferred: &mut Deferred<()>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Pin::new(&mut *deferred).poll(cx).map(|_| None),
    })
    .await
}

impl Reader {
    /// Applies a request. True if the page must get a message immediately.
    fn apply(&mut self, request: Request) -> bool {
        if let Some(every) = request.every.filter(|every| every.is_finite()) {
            self.every = Duration::from_secs_f64(every.clamp(EVERY.0, EVERY.1));
        }
        if let Some(is_paused) = request.pause {
            self.is_paused = is_paused;
        }
        if request.views.is_some() {
            self.views = request.views;
            // The page has no rows of views that it adds.
            self.seen = 0;
        }
        !self.is_paused
    }
}
