//! HTTP servers by `couplet::http`: in memory and virtual time, and over sockets with curl.

mod answers;
mod cases;
mod curl;
mod kit;
mod rfc9112;
mod serving;
mod times;
