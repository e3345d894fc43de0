//! Part 16 of the Twisted tutorial: a poetry server as a service. The configuration has two keys, as
//! in `listen = "tcp:10000"` and `poem = "ecstasy.txt"`.

use std::path::PathBuf;
use std::process::ExitCode;

use couplet::services::{Child, StreamServerService};
use couplet::{Bytes, Protocol, Transport};
use couplet_runner::{Listen, Runner};

#[derive(serde::Deserialize)]
struct Config {
    listen: Listen,
    poem: PathBuf,
}

struct Poetry(Bytes);

impl Protocol for Poetry {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write_bytes(self.0.clone());
        transport.lose_connection();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

fn main() -> ExitCode {
    Runner::new("fastpoetry")
        .about("Serve a poem as fast as its readers read it")
        .service(|config: Config, _reactor| {
            let poem = Bytes::from(std::fs::read(&config.poem)?);
            let factory = move || Poetry(poem.clone());
            Ok(Child::new(StreamServerService::new("fastpoetry", config.listen, factory)?))
        })
        .main()
}
