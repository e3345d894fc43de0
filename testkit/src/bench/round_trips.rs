//! Clients in lock-step: all send, then all receive.

use super::served::{Result, Server};

impl Server {
    /// Makes round trips on concurrent connections. Returns nanoseconds per round trip.
    pub fn round_trips<C>(
        &self,
        connections: usize,
        times: usize,
        connect: impl Fn() -> Result<C>,
        send: impl Fn(&mut C) -> Result<()>,
        mut receive: impl FnMut(&mut C) -> Result<()>,
    ) -> Result<f64> {
        let mut clients = (0..connections).map(|_| connect()).collect::<Result<Vec<C>>>()?;
        let mut before = 0.0;
        for round in 0..=times {
            // Round 0 includes the accept and the end of the handshake, so it is not counted.
            if round == 1 {
                before = self.processor_time()?;
            }
            clients.iter_mut().try_for_each(&send)?;
            clients.iter_mut().try_for_each(&mut receive)?;
        }
        Ok((self.processor_time()? - before) / (times * connections) as f64)
    }
}
