//! TLS compared with tokio-rustls: the program's `couplet echo` and an echo on tokio's
//! current-thread runtime, with the same cryptography, run alternately. Prints the server's
//! processor time per operation in its best round, and the ratio within a round: median, least and
//! most.
//!
//! `cargo bench -p couplet-core --bench tls`, or with `-- message` for the rows that contain `message`.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use couplet_testkit::bench::secure::{certified, client, connect};
use couplet_testkit::bench::served::{Result, Row, Server};
use couplet_testkit::bench::{program, secure, served};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

const HANDSHAKES: usize = 400;
/// Bytes of a bulk message.
const CHUNK: usize = 256 * 1024;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, folder] = &words[..]
        && serve == "--serve"
    {
        return serve_tokio(Path::new(folder));
    }
    let wanted = words.into_iter().find(|word| !word.starts_with('-')).unwrap_or_default();
    let folder = certified();
    let (servers_cpu, load_cpu) = program::processors()?;
    servers_cpu.map(program::pin).transpose()?;
    let servers = [couplet(&folder)?, tokio(&folder)?];
    load_cpu.map(program::pin).transpose()?;
    let full = client(&folder, rustls::client::Resumption::disabled())?;
    let resumed = client(&folder, rustls::client::Resumption::in_memory_sessions(8))?;
    let rows: [Row<'_>; 6] = [
        ("message of 64 bytes", &|server| echoes(server, &full, 50, 64, 400)),
        ("message of 1 KiB", &|server| echoes(server, &full, 50, 1024, 400)),
        ("bulk, a MB each way", &|server| {
            Ok(echoes(server, &full, 8, CHUNK, 40)? / CHUNK as f64 * 1e6)
        }),
        ("handshake, full", &|server| Ok(handshakes(server, &full)?.0)),
        ("handshake, resumed", &|server| Ok(handshakes(server, &resumed)?.0)),
        ("short connection, resumed", &|server| Ok(handshakes(server, &resumed)?.1)),
    ];
    served::compare(&servers, &rows, &wanted)
}

/// Makes round trips of `length` bytes on concurrent connections. Returns nanoseconds per message.
fn echoes(
    server: &Server,
    config: &Arc<ClientConfig>,
    connections: usize,
    size: usize,
    times: usize,
) -> Result<f64> {
    let (message, mut answer) = (vec![7; size], vec![0; size]);
    let each = server.round_trips(
        connections,
        times,
        || connect(server.address, config),
        |client| Ok(client.write_all(&message)?),
        |client| Ok(client.read_exact(&mut answer)?),
    )?;
    assert_eq!(answer, message);
    Ok(each)
}

/// Returns nanoseconds for a handshake with one byte each way, and for the same including the
/// close.
fn handshakes(server: &Server, config: &Arc<ClientConfig>) -> Result<(f64, f64)> {
    let (before, mut open) = (server.processor_time()?, Vec::new());
    for _ in 0..HANDSHAKES {
        let mut client = connect(server.address, config)?;
        client.write_all(b"?")?;
        client.read_exact(&mut [0])?;
        open.push(client);
    }
    let opened = server.processor_time()?;
    for mut client in open {
        client.conn.send_close_notify();
        client.flush()?;
        // Waits until the server has closed.
        let _ = client.read(&mut [0]);
    }
    let closed = server.processor_time()?;
    let each = |until: f64| (until - before) / HANDSHAKES as f64;
    Ok((each(opened), each(closed)))
}

/// Starts `couplet echo`.
fn couplet(folder: &Path) -> Result<Server> {
    program::build()?;
    let program = program::program(&std::env::current_exe()?);
    let (cert, key) = (folder.join("server.pem"), folder.join("server.key"));
    let listen = format!("tls:0:interface=127.0.0.1:cert={}:key={}", cert.display(), key.display());
    Server::start("couplet echo", Command::new(program).args(["echo", "--listen", &listen]))
}

fn tokio(folder: &Path) -> Result<Server> {
    let this = std::env::current_exe()?;
    Server::start("tokio-rustls", Command::new(this).arg("--serve").arg(folder))
}

/// The peer: a task and a buffer per connection, with sessions and tickets like ours.
fn serve_tokio(folder: &Path) -> Result<()> {
    let config = secure::server(folder)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    served::serve_on_tokio(Builder::new_current_thread().enable_io(), |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return stream.shutdown().await;
                }
                stream.write_all(&buffer[..n]).await?;
                stream.flush().await?;
            }
        }
    })
}
