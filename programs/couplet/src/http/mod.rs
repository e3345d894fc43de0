//! HTTP: a file server and a client.

pub(crate) mod files;
pub(crate) mod get;
