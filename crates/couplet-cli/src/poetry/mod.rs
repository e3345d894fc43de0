//! Poetry: a server that gives out a poem slowly and closes, and a client that collects it. The
//! end of the stream is the end of the poem; a poem that was cut is not taken for a whole one.

mod client;
pub(crate) mod get;
pub(crate) mod serve;

pub(crate) use client::get_poem;
