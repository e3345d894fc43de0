//! WebSockets by `couplet::http::websocket`: in memory and virtual time, and against other
//! implementations over sockets.

mod autobahn;
mod axum;
mod closes;
mod handshakes;
pub(crate) mod http2;
pub(crate) mod kit;
mod limits;
mod messages;
mod python;
mod times;
