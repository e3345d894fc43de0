//! HTTP servers by `couplet::http`: in memory and virtual time, and over sockets with curl,
//! nghttp2, wrk and Python's h2.

#[macro_use]
extern crate couplet_testkit;

mod abuse;
mod access;
mod again;
mod alpn;
mod answers;
mod asked;
mod captured;
mod cases;
mod certificates;
mod chance;
mod client;
mod curl;
mod cut;
#[cfg(feature = "decompression")]
mod decompression;
mod determined;
mod drains;
#[cfg(unix)]
mod file_bodies;
mod h2_frames;
#[cfg(unix)]
mod h2_order;
mod h2_servers;
mod h2_sessions;
mod h2_windows;
#[cfg(unix)]
mod handing;
mod hostile;
mod http2;
mod kit;
mod leaving;
mod mutations;
mod nghttp2;
mod redirects;
mod rfc9112;
mod serving;
mod simulated;
mod times;
mod unread;
#[cfg(feature = "websocket")]
mod websocket;
mod wrk;

use couplet_testkit::{counting, logged, needed};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;
