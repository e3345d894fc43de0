//! Runs a script for each client, and sends its output; when the script has ended, it closes the
//! connection. The fault: the script leaves a helper behind, which keeps its pipes.

use std::net::SocketAddr;

use couplet::process::{Command, Process, ProcessEnd, ProcessProtocol};
use couplet::{Protocol, Reactor, Result, Transport};

use super::Version;

struct Script(Version);

impl Protocol for Script {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        let script = match self.0 {
            Version::Faulty => "sleep 3600 & echo $!",
            Version::Mended => "sleep 3600 >/dev/null 2>&1 & echo $!",
        };
        let output = ScriptOutput { client: transport.clone() };
        let command = Command::new("sh").args(["-c", script]);
        if let Err(error) = transport.reactor().spawn_process(command, output) {
            transport.fail(error);
        }
    }
}

struct ScriptOutput {
    client: Transport,
}

impl ProcessProtocol for ScriptOutput {
    fn out_received(&mut self, _: &Process, data: &[u8]) {
        self.client.write(data);
    }

    fn process_ended(&mut self, _: &Process, _: &ProcessEnd) {
        self.client.lose_connection();
    }
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    Ok(super::address(&reactor.listen(super::FREE, move || Script(version))?))
}
