//! HTTP: a file server and a client.

mod beneath;
mod conditions;
mod content;
pub(crate) mod files;
pub(crate) mod get;
mod listing;
mod path;
mod ranges;
mod site;
