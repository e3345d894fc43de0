//! The program as its users meet it: each test starts the real binary.

mod addresses;
mod bad_clients;
mod crowds;
mod demo;
mod echo;
mod get;
mod get_output;
mod kit;
mod peers;
mod serve;
mod signals;
mod terminal;
mod usage;
