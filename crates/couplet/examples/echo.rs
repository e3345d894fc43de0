//! An echo server: `cargo run --example echo -- tcp:8000`, then `couplet connect 8000`.

use couplet::{Protocol, Transport};

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

fn main() -> couplet::Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or("tcp:0:interface=127.0.0.1".into());
    couplet::run(|reactor| {
        let port = reactor.listen(&endpoint, || Echo)?;
        println!("listening on {}", port.host());
        Ok(())
    })
}
