//! The inspector of a running program: its views, while the program works and while it hangs.

#[macro_use]
extern crate couplet_watched;

mod access;
mod actions;
mod guest;
mod hung;
mod kit;
mod live;
mod loops;
mod reasons;
mod recordings;
mod waits;
