//! Facts of the contract that need real sockets: behaviour of the kernel, or visible only to a
//! plain socket. One file per section of `docs/contract.md`, with the suite's kit over `mio`.

use std::net::TcpStream;
use std::time::Duration;

use couplet::reactor::HandedOver;
use couplet::testing::success_of;
use couplet::{Address, ConnectionId, IntoFactory};

use crate::suite::kit::Rig;

mod accepting;
pub(crate) mod adopting;
mod closing;
mod combined;
mod failing;
mod handing;
#[cfg(target_os = "linux")]
mod keeping;
mod options;
mod passing;
mod reading;
mod scopes;

/// Any free port of this machine.
const TCP: &str = "tcp:0:interface=127.0.0.1";

/// A client of a port, whose reads block with a timeout.
fn client(port: &Address) -> TcpStream {
    let to = port.socket_addr().expect("a TCP port");
    let client = TcpStream::connect(to).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(300))).expect("an option");
    client
}

/// Listens there, and connects a client.
fn served<K>(rig: &Rig, endpoint: &str, factory: impl IntoFactory<K>) -> TcpStream {
    client(&rig.reactor.listen(endpoint, factory).expect("a free port").host())
}

/// Asks a connection to move.
fn hand_over(rig: &mut Rig, connection: ConnectionId) -> Option<HandedOver> {
    let handed = rig.reactor.hand_over(connection);
    rig.turns(2);
    success_of(handed)
}
