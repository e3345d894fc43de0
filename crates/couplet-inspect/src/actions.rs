//! Actions on the program, if it allows them.
//!
//! Contract: 182a.

use std::rc::Rc;
use std::time::Duration;

use couplet_core::hooks::inspector::InspectedLoop;
use couplet_core::reactor::LoopGone;
use couplet_core::{ConnectionId, Reactor};
use couplet_http::{Body, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::board::Board;
use crate::inspector::Options;

/// A header field that other sites can't send without asking first.
const FIELD: &str = "x-couplet-action";

/// The longest text of an action, in bytes.
const MOST: usize = 4096;

/// How long a connection that is closed may take, as with `couplet ctl close`.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// The status of an action, and a problem in words.
type Refusal = (StatusCode, String);

/// Carries out an action: `POST /connections/ID/close` (or `reset`, `pause`, `resume`), or `POST /log`
/// with the levels as its text.
pub(crate) async fn act(
    request: &mut Request<Body>,
    board: &Rc<Board>,
    options: &Options,
) -> Result<(), Refusal> {
    let refuse = |status, words: &str| Err((status, words.to_owned()));
    if !options.has_actions {
        return refuse(StatusCode::FORBIDDEN, "the program does not allow actions");
    }
    let is_form = request.headers().get(header::ORIGIN).is_some();
    if is_form && request.headers().get(FIELD).is_none() {
        return refuse(StatusCode::FORBIDDEN, "the request lacks the header x-couplet-action");
    }
    let path = request.uri().path().to_owned();
    match path.trim_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["log"] => {
            let levels = text(request).await?;
            let Some(set) = &options.set_log else {
                return refuse(
                    StatusCode::NOT_FOUND,
                    "the program can't set the levels of its log",
                );
            };
            set(levels.trim()).map_err(|problem| (StatusCode::BAD_REQUEST, problem))
        }
        ["connections", id, action] => act_on(board, id, action).await,
        _ => Err((StatusCode::NOT_FOUND, format!("{path} is no action"))),
    }
}

async fn act_on(board: &Rc<Board>, id: &str, action: &str) -> Result<(), Refusal> {
    // A new connection is missing in the loop's last answer.
    if board.connection(id).is_none() {
        let gone = |failure| (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}"));
        board.refresh().await.map_err(gone)?;
    }
    let Some((inspected, connection)) = board.connection(id) else {
        return Err((StatusCode::NOT_FOUND, format!("there is no connection {id}")));
    };
    let sent = match action {
        "close" => close(board.reactor(), &inspected, connection),
        "reset" => inspected.remote.abort_connection(connection),
        "pause" => inspected.pause(connection, true),
        "resume" => inspected.pause(connection, false),
        _ => return Err((StatusCode::NOT_FOUND, format!("{action} is no action"))),
    };
    sent.map_err(|gone| (StatusCode::NOT_FOUND, gone.to_string()))?;
    // The next reader must see the effect. The loop may take the first snapshot in the turn that applies
    // the action at its end; it takes the second one in a later turn.
    for _ in 0..2 {
        let _ = board.refresh_now().await;
    }
    Ok(())
}

/// Closes a connection, and resets it if its producer or its peer keeps it open.
fn close(
    reactor: &Reactor,
    inspected: &InspectedLoop,
    connection: ConnectionId,
) -> Result<(), LoopGone> {
    inspected.remote.lose_connection(connection)?;
    let remote = inspected.remote.clone();
    reactor.call_later(CLOSES_WITHIN, move || {
        // With its loop, the connection has ended.
        let _ = remote.abort_connection(connection);
    });
    Ok(())
}

async fn text(request: &mut Request<Body>) -> Result<String, Refusal> {
    let body = Limited::new(request.body_mut(), MOST).collect().await;
    let bad = |words: String| (StatusCode::BAD_REQUEST, words);
    let body = body.map_err(|error| bad(format!("the text can't be read: {error}")))?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| bad("the text is not UTF-8".to_owned()))
}
