//! HTTP servers by `couplet::http`: in memory and virtual time, and over sockets with curl.

mod client;
mod curl;
mod kit;
mod serving;
mod simulated;
mod times;
