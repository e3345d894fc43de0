//! The connection to the inspector's `/live`: a message each second, with the rows that changed.
//!
//! Contract: 183a.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::http::websocket::{
    Message, WebSocket, WebSocketError, WebSocketOptions, WebSocketRequest,
};
use couplet::{Deferred, Failure, Reactor};

use super::Viewer;
use crate::inspect::source::{MOST, Source};

/// The time between two attempts to connect: the first, and the longest after doubling.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// How long the inspector may be silent before a ping, and again before the connection is lost.
const SILENCE: Duration = Duration::from_secs(5);

/// Shows the messages of the inspector, and connects again when the connection is lost, until the
/// view fails.
pub(super) async fn run(
    reactor: &Reactor,
    source: &Source,
    viewer: &Rc<Viewer>,
) -> couplet::Result<()> {
    let mut wait = WAITS.0;
    loop {
        let reason = match connect(reactor, source).await {
            Ok(socket) => {
                wait = WAITS.0;
                follow(socket, viewer).await?
            }
            Err(failure) => failure.to_string(),
        };
        viewer.show_loss(reason, wait)?;
        reactor.sleep(wait).await?;
        wait = (2 * wait).min(WAITS.1);
    }
}

async fn connect(reactor: &Reactor, source: &Source) -> couplet::Result<WebSocket> {
    let options = WebSocketOptions::default()
        .max_message(MOST)
        .max_frame(MOST)
        .ping_interval(Some(SILENCE))
        .pong_timeout(SILENCE);
    let Source { endpoint, host, query } = source;
    let request = WebSocketRequest::new(format!("ws://{host}/live{query}")).options(options);
    reactor.connect_websocket(request.over(endpoint.clone())?).await
}

/// Shows messages until the connection is lost; returns the reason.
async fn follow(mut socket: WebSocket, viewer: &Viewer) -> couplet::Result<String> {
    let mut is_first = true;
    let mut toggled = viewer.toggled();
    if viewer.is_paused() {
        // The first message arrives even during a pause.
        request_pause(&mut socket, viewer).await;
    }
    loop {
        let Some(message) = next(&mut socket, &mut toggled).await else {
            toggled = viewer.toggled();
            request_pause(&mut socket, viewer).await;
            viewer.draw()?;
            continue;
        };
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Ok(error.to_string()),
            None => return Ok("the program has closed the connection".to_owned()),
        };
        let state = message.as_text().map(serde_json::from_str);
        match state {
            Some(Ok(state)) => viewer.show(state, is_first)?,
            _ => return Err(Failure::msg("the answer is no state of an inspector")),
        }
        is_first = false;
    }
}

/// Asks the inspector to pause or to resume. If the connection is lost, the next message says so.
async fn request_pause(socket: &mut WebSocket, viewer: &Viewer) {
    let request = format!("{{\"pause\":{}}}", viewer.is_paused());
    let _ = socket.send(request).await;
}

/// The next message, `Some(None)` at the end; `None` when the user pauses or resumes.
async fn next(
    socket: &mut WebSocket,
    toggled: &mut Deferred<()>,
) -> Option<Option<Result<Message, WebSocketError>>> {
    let mut received = pin!(socket.recv());
    poll_fn(|cx| match received.as_mut().poll(cx) {
        Poll::Ready(message) => Poll::Ready(Some(message)),
        Poll::Pending => Pin::new(&mut *toggled).poll(cx).map(|_| None),
    })
    .await
}
