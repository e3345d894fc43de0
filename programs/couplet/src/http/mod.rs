//! HTTP: a file server and a client.

mod beneath;
mod cache;
mod conditions;
pub(crate) mod files;
pub(crate) mod get;
mod listing;
mod path;
mod ranges;
mod site;
