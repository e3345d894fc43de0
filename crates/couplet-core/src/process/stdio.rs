//! A program as the peer of a connection: [`Reactor::connect_process`]. Twisted's
//! `ProcessEndpoint`.

use std::io;

use super::tether::{ExitForwarder, Tether};
use super::{Command, SpawnError, WhenLost};
use crate::defer::Deferred;
use crate::factory::{Factory, IntoFactory};
use crate::panics::Contained;
use crate::recorder::Reactor;
use crate::transport::Connection;

impl Reactor {
    /// Starts a program and connects to its standard input and output: its output is received, and
    /// written bytes are its input. Standard error is ours, unless the command redirects it.
    ///
    /// `lose_write_connection` closes its input; the end of its output is `read_closed`. A program
    /// that closes its input earlier ends only that direction
    /// ([`Transport::write_error`](crate::Transport::write_error)): its output is received to the
    /// end. The program and the connection end together: see [`WhenLost`].
    /// [`Process::of`](super::Process::of) returns the program.
    ///
    /// The Deferred fires with the connection after `connection_made`, and fails with
    /// [`SpawnError`]. Only on Unix. As an endpoint: `process:COMMAND`. Twisted's
    /// `ProcessEndpoint`.
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
        self.connect_process_with(command, WhenLost::default(), factory)
    }

    /// Like [`connect_process`](Self::connect_process), with the fate of the program when the
    /// connection is lost.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use couplet::process::{Command, WhenLost};
    /// # use couplet::{Protocol, Transport};
    /// # struct Quiet;
    /// # impl Protocol for Quiet { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
    ///
    /// couplet::run(|reactor| {
    ///     // Killed a tenth of a second after it was asked to end.
    ///     let lost = WhenLost::End(Duration::from_millis(100));
    ///     let sleeping = Command::new("sleep").arg("1000");
    ///     let connecting = reactor.connect_process_with(sleeping, lost, || Quiet);
    ///     let stopping = reactor.clone();
    ///     connecting.map(move |_| stopping.stop()).detach();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn connect_process_with<K, F: IntoFactory<K>>(
        &self,
        command: Command,
        when_lost: WhenLost,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        let command = match when_lost {
            WhenLost::End(_) => command.into_dependent(),
            WhenLost::Keep => command,
        };
        let (command, factory) = (command.into_stream(), Contained::new(factory.into_factory()));
        let started = self.start_program(&command).and_then(|mut spawned| {
            let stream = spawned.pipes.remove(&1).ok_or(io::ErrorKind::Unsupported)?;
            Ok((stream, spawned))
        });
        match started {
            Ok((stream, spawned)) => {
                let exits = ExitForwarder::default();
                let process =
                    self.connect_pipes(Contained::new(Box::new(exits.clone())), &command, spawned);
                let tether = Tether::new(&process, when_lost);
                exits.set_tether(&tether);
                let made = self.adopt_dependent(stream, tether.clone(), factory.take());
                made.map(move |connection| {
                    tether.connected(&connection.transport());
                    connection
                })
            }
            Err(error) => Deferred::fail(SpawnError { command: command.to_string(), error }),
        }
    }
}
