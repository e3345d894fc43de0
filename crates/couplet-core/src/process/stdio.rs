//! A program as the peer of a connection. Twisted's `ProcessEndpoint`.

use std::io;

use super::tether::{ExitForwarder, Tether};
use super::{Command, SpawnError, WhenLost};
use crate::defer::Deferred;
use crate::factory::{Factory, IntoFactory};
use crate::panics::Contained;
use crate::recorder::Reactor;
use crate::transport::Connection;

impl Reactor {
    /// Connects to a program: see [`ProcessClient`](crate::endpoints::ProcessClient).
    #[track_caller]
    pub(crate) fn connect_process<K, F: IntoFactory<K>>(
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
            let stream = spawned.pipes.extract_if(.., |(number, _)| *number == 1).next();
            let (_, stream) = stream.ok_or(io::ErrorKind::Unsupported)?;
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
