//! Compares servers that run as separate processes by their processor time.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use super::spread::Spread;
use crate::processes::Killed;

pub type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const ROUNDS: usize = 7;

/// A row's name, and its function, which returns nanoseconds per operation.
pub type Row<'r> = (&'r str, &'r dyn Fn(&Server) -> Result<f64>);

/// For each row that contains `wanted`, prints each server's best round and a ratio within a round
/// (to the last server, or of the last to the first): median, least and most.
pub fn compare(servers: &[Server], rows: &[Row<'_>], wanted: &str) -> Result<()> {
    for (name, run) in rows.iter().filter(|row| row.0.contains(wanted)) {
        let mut spent = vec![Vec::new(); servers.len()];
        for round in 0..=ROUNDS {
            for (server, spent) in servers.iter().zip(&mut spent) {
                let took = run(server)? / 1e3;
                spent.extend((round > 0).then_some(took));
            }
        }
        println!("{name}");
        let last = servers.len() - 1;
        for (at, (server, own)) in servers.iter().zip(&spent).enumerate() {
            let other = if at == last { &spent[0] } else { &spent[last] };
            let ratio = Spread::of(own.iter().zip(other).map(|(own, other)| own / other));
            let best = own.iter().copied().fold(f64::MAX, f64::min);
            let Spread { least, median, most } = ratio;
            println!("  {best:9.2} µs  {median:5.2} ({least:.2}-{most:.2})  {}", server.name);
        }
    }
    Ok(())
}

/// Serves connections on a free port, each in a task on tokio's current-thread runtime.
pub fn serve_on_tokio<F>(runtime: &mut Builder, serve: impl Fn(TcpStream) -> F) -> Result<()>
where
    F: Future<Output: Send> + Send + 'static,
{
    runtime.build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A connection's error ends that connection only.
            tokio::spawn(serve(stream));
        }
    })
}

/// A server process.
pub struct Server {
    pub name: &'static str,
    process: Killed,
    pub address: SocketAddr,
}

impl Server {
    /// Starts a server whose first line ends with its port.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Server> {
        let process = Killed(command.stdout(Stdio::piped()).spawn()?);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { name, process, address };
        let mut line = String::new();
        let stdout = server.process.stdout.as_mut().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim_end().rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| format!("{name} said {line:?}, not where it listens"))?;
        server.address.set_port(port);
        Ok(server)
    }

    /// Nanoseconds that the server's threads have run.
    pub fn processor_time(&self) -> Result<f64> {
        let mut all = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            all += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
        }
        Ok(all)
    }
}
