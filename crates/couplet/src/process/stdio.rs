//! A program as the other end of a connection: [`Reactor::connect_process`]. Twisted's `ProcessEndpoint`.

use std::io;

use super::{Command, ProcessProtocol, SpawnError};
use crate::defer::Deferred;
use crate::factory::{Factory, IntoFactory};
use crate::panics::Contained;
use crate::reactor::Reactor;
use crate::transport::Connection;

/// Nobody asks how the program does: its connection does.
struct Unheard;

impl ProcessProtocol for Unheard {}

impl Reactor {
    /// Starts a program and connects to its standard input and output: what it writes is received, what is
    /// written it reads. Unless the command says otherwise its standard error is ours.
    ///
    /// `lose_write_connection` closes its input, and its output's end is `read_closed`. The loss of the
    /// connection closes both, and does not end the program by force. It is reaped when it ends.
    ///
    /// The Deferred fires with the connection after `connection_made`. It fails with [`SpawnError`].
    /// Only on Unix. As an endpoint: `process:COMMAND`. Twisted's `ProcessEndpoint`.
    ///
    /// ```
    /// use couplet::process::Command;
    /// use couplet::{Protocol, Transport};
    ///
    /// struct Shout;
    /// impl Protocol for Shout {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.write("Rose is a rose");
    ///         transport.lose_write_connection();
    ///     }
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         assert_eq!(data, b"ROSE IS A ROSE");
    ///         transport.reactor().stop();
    ///     }
    /// }
    ///
    /// couplet::run(|reactor| {
    ///     let shout = Command::new("tr").args(["a-z", "A-Z"]);
    ///     reactor.connect_process(shout, || Shout).detach();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn connect_process<K, F: IntoFactory<K>>(
        &self,
        command: Command,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        let (command, factory) = (command.into_stream(), Contained::new(factory.into_factory()));
        let started = self.start_program(&command).and_then(|mut spawned| {
            let stream = spawned.pipes.remove(&1).ok_or(io::ErrorKind::Unsupported)?;
            Ok((stream, spawned))
        });
        match started {
            Ok((stream, spawned)) => {
                self.started(Contained::new(Box::new(Unheard)), &command, spawned);
                self.adopt_prepared(stream, factory.take())
            }
            Err(error) => Deferred::fail(SpawnError { command: command.to_string(), error }),
        }
    }
}
