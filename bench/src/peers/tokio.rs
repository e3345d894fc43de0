//! tokio on its current-thread runtime, with a task and a buffer per connection.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use couplet_os::read_buffer::ReadBuffer;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
    copy_bidirectional_with_sizes,
};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_rustls::TlsAcceptor;

use crate::kind::Role;

/// Messages that a connection may lag in a fan-out before it is closed.
const LAG: usize = 1024;

/// The way of a fan-out to all connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// One channel, which all tasks receive from.
    Broadcast,
    /// A channel for each connection.
    Channels,
}

/// Serves with a read buffer of `size` bytes per connection until the process ends.
pub(super) fn serve(
    listener: std::net::TcpListener,
    size: usize,
    role: Role,
    folder: &Path,
    sharing: Sharing,
) -> io::Result<()> {
    let tls = if role == Role::Tls { Some(acceptor(folder)?) } else { None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let (to_all, to_each) = (Sender::new(LAG), Arc::default());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A connection's error ends that connection only.
            match role {
                Role::Echo => drop(tokio::spawn(echo(stream, size, false))),
                Role::EchoOne => drop(tokio::spawn(echo(stream, size, true))),
                Role::Relay(server) => drop(tokio::spawn(relay(stream, server, size))),
                Role::FanOut if sharing == Sharing::Channels => {
                    fan_out_by_channels(stream, size, Arc::clone(&to_each));
                }
                Role::FanOut => fan_out(stream, size, to_all.clone()),
                Role::Lines => drop(tokio::spawn(echo_lines(stream))),
                _ => {
                    let accepting = tls.as_ref().map(|tls| tls.accept(stream));
                    drop(tokio::spawn(async move {
                        match accepting {
                            Some(accepting) => echo(accepting.await?, size, false).await,
                            None => Ok(()),
                        }
                    }));
                }
            }
        }
    })
}

async fn echo(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    size: usize,
    close_first: bool,
) -> io::Result<()> {
    let mut buffer = ReadBuffer::new(size);
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
        stream.flush().await?;
        if close_first {
            return Ok(());
        }
    }
}

async fn echo_lines(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).await? > 0 {
        stream.get_mut().write_all(&line).await?;
        line.clear();
    }
    Ok(())
}

fn acceptor(folder: &Path) -> io::Result<TlsAcceptor> {
    let certificates = CertificateDer::pem_file_iter(folder.join("localhost.pem"))
        .and_then(Iterator::collect)
        .map_err(io::Error::other)?;
    let key =
        PrivateKeyDer::from_pem_file(folder.join("localhost.key")).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Relays with a buffer for each direction.
async fn relay(mut near: TcpStream, server: SocketAddr, size: usize) -> io::Result<(u64, u64)> {
    let mut far = TcpStream::connect(server).await?;
    far.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut near, &mut far, size, size).await
}

/// A task reads the connection's messages, and another writes all messages to it.
fn fan_out(stream: TcpStream, size: usize, to_all: Sender<Bytes>) {
    let (reader, writer) = stream.into_split();
    let hearing = tokio::spawn(hear(writer, to_all.subscribe()));
    tokio::spawn(async move {
        let ended = say(reader, size, to_all).await;
        hearing.abort();
        ended
    });
}

async fn say(mut reader: OwnedReadHalf, size: usize, to_all: Sender<Bytes>) -> io::Result<()> {
    let mut buffer = ReadBuffer::new(size);
    loop {
        let length = reader.read(&mut buffer).await?;
        if length == 0 || to_all.send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
            return Ok(());
        }
    }
}

async fn hear(mut writer: OwnedWriteHalf, mut all: Receiver<Bytes>) -> io::Result<()> {
    loop {
        match all.recv().await {
            Ok(data) => writer.write_all(&data).await?,
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
            Err(broadcast::error::RecvError::Lagged(_)) => return writer.shutdown().await,
        }
    }
}

/// The channels of all connections.
type Channels = Arc<Mutex<Vec<UnboundedSender<Bytes>>>>;

/// A task reads the connection's messages and sends them to every channel; another writes the messages
/// that arrive in the connection's channel.
fn fan_out_by_channels(stream: TcpStream, size: usize, all: Channels) {
    let (mut reader, mut writer) = stream.into_split();
    let (own, mut messages) = mpsc::unbounded_channel::<Bytes>();
    lock(&all).push(own.clone());
    tokio::spawn(async move {
        while let Some(data) = messages.recv().await {
            writer.write_all(&data).await?;
        }
        io::Result::Ok(())
    });
    tokio::spawn(async move {
        let mut buffer = ReadBuffer::new(size);
        loop {
            let length = reader.read(&mut buffer).await.unwrap_or(0);
            if length == 0 {
                return lock(&all).retain(|other| !other.same_channel(&own));
            }
            let data = Bytes::copy_from_slice(&buffer[..length]);
            for other in lock(&all).iter() {
                // Its connection has ended.
                let _ = other.send(data.clone());
            }
        }
    });
}

fn lock(all: &Channels) -> MutexGuard<'_, Vec<UnboundedSender<Bytes>>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}
