//! Services: parts of a program that are started and stopped. Twisted's `application.service` and
//! `application.internet`.
//!
//! A [`Service`] starts, runs and stops. A [`Supervisor`] starts several in order, restarts those
//! that fail, and stops them. [`ClientService`], [`StreamServerService`],
//! [`DatagramService`], [`TimerService`], [`TaskService`] and [`FunctionService`] are ready-made.
//!
//! Built on the public API only, as a program could (law 8).

mod child;
mod client;
mod datagrams;
mod functions;
mod opening;
mod restarts;
mod running;
mod service;
mod stream_server;
mod supervising;
mod supervisor;
mod task;
mod timer;

pub use child::{Child, ChildState, ChildStatus, Restart};
pub use client::ClientService;
pub use datagrams::DatagramService;
pub use functions::FunctionService;
pub use service::{Health, Service};
pub use stream_server::StreamServerService;
pub use supervisor::{ServiceError, Strategy, Supervisor};
pub use task::TaskService;
pub use timer::TimerService;
