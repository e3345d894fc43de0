//! HTTP: a server of files, and a client.

pub(crate) mod files;
pub(crate) mod get;
mod listing;
