//! An axum application on a loop inside tokio: a router with shared state, and a WebSocket.
//!
//!     cargo run -p couplet-examples --bin axum -- tcp:8000
//!     curl http://localhost:8000/hello/ada

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{any, get};

type Visits = Arc<AtomicU64>;

async fn hello(State(visits): State<Visits>, Path(name): Path<String>) -> String {
    visits.fetch_add(1, Ordering::Relaxed);
    format!("hello, {name}\n")
}

async fn visits(State(visits): State<Visits>) -> String {
    format!("{}\n", visits.load(Ordering::Relaxed))
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            // axum answers a close automatically, when the next message is requested.
            if !matches!(message, Message::Close(_)) && socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

pub(crate) fn router() -> Router {
    Router::new()
        .route("/hello/{name}", get(hello))
        .route("/visits", get(visits))
        .route("/echo", any(echo))
        .with_state(Visits::default())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> couplet::Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "tcp:8000".into());
    couplet::http::serve(endpoint, router()).await
}
