//! HTTP servers by `couplet::http`: in memory and virtual time, and over sockets with curl.

mod curl;
mod kit;
mod serving;
mod times;
#[cfg(feature = "websocket")]
mod websocket;
