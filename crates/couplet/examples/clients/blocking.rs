//! Part 1, the blocking client: without a reactor. Gets one poem after another, so all servers
//! wait while a slow one recites.
//!
//! `cargo run --example clients -- blocking 127.0.0.1:10000 127.0.0.1:10001`

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

fn get_poem(server: SocketAddr) -> std::io::Result<String> {
    let mut poem = String::new();
    TcpStream::connect(server)?.read_to_string(&mut poem)?;
    Ok(poem)
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    for (task, server) in (1..).zip(servers) {
        println!("task {task}: waiting for {server}");
        match get_poem(server) {
            Ok(poem) => println!("task {task}: {} bytes of poetry\n{poem}", poem.len()),
            Err(error) => println!("task {task}: no poem: {error}"),
        }
    }
    Ok(())
}
