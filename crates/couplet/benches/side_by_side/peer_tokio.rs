//! tokio on its current-thread runtime, a task and a buffer a connection.

use std::fmt::Display;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves with a read buffer of `size` bytes a connection until the process ends.
pub(crate) fn serve(
    size: usize,
    close_first: bool,
    ready: impl FnOnce(&dyn Display),
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ready(&listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            // A connection's error ends that connection only.
            tokio::spawn(async move { echo(stream, size, close_first).await.ok() });
        }
    })
}

async fn echo(mut stream: TcpStream, size: usize, close_first: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; size];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
        if close_first {
            return Ok(());
        }
    }
}
