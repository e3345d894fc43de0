//! The server of `couplet poetry transform`: netstrings `NAME.POEM` in, netstrings with what became
//! of the poem out, in order.

use couplet::protocols::{NetstringReceiver, StringProtocol, StringTransport};
use couplet::{Reason, Transport};

use crate::poetry::transformations::{GROWTH, answer};

/// What listens: a request may have so many bytes.
pub(crate) fn factory(
    max_length: usize,
) -> impl Fn() -> NetstringReceiver<TransformServer> + Clone {
    move || NetstringReceiver::new(TransformServer { max_length }).with_max_length(max_length)
}

/// Beside one answer: what was written before it, at most. Reading is paused at the high mark.
const WRITE_ROOM: usize = 1024 * 1024;

/// Answers one client.
pub(crate) struct TransformServer {
    max_length: usize,
}

impl StringProtocol for TransformServer {
    fn connection_made(&mut self, transport: &StringTransport) {
        // Law 9: what a client that does not read costs us at most.
        let answer = self.max_length.saturating_mul(GROWTH);
        transport.set_write_cap(Some(answer.saturating_add(WRITE_ROOM)));
    }

    fn string_received(&mut self, transport: &StringTransport, request: &[u8]) {
        let sent = match answer(request) {
            Ok(poem) => transport.send_string(poem),
            Err(bad) => return transport.fail(bad),
        };
        if let Err(too_long) = sent {
            return transport.fail(too_long);
        }
        if transport.is_full() {
            go_on_when_drained(transport);
        }
    }

    fn connection_lost(&mut self, transport: &StringTransport, reason: &Reason) {
        if let Reason::Failed(failure) = reason {
            tracing::info!(peer = %transport.peer(), "a client is lost: {failure}");
        }
    }

    /// It comes when all is answered. Who reads slowly is not cut: what was written leaves first,
    /// however long that takes.
    fn read_closed(&mut self, transport: &StringTransport) {
        transport.set_close_deadline(None);
        transport.lose_write_connection();
    }
}

fn go_on_when_drained(transport: &Transport) {
    transport.pause_producing();
    let paused = transport.clone();
    let go_on = move |_| {
        paused.resume_producing();
        Ok(())
    };
    transport.drained().add_both(go_on).detach();
}

#[cfg(test)]
mod tests {
    use couplet::testing::hold;

    use super::*;
    use crate::late::read_late;

    #[test]
    fn who_has_finished_and_reads_late_is_not_cut() {
        for length in [10_000, 80_000, 100_000, 130_000, 500_000] {
            let mut held = hold(factory(1_000_000)());
            let request = format!("{}:upper.{},", length + 6, "x".repeat(length));
            let mut rest = request.as_bytes();
            while !rest.is_empty() {
                rest = &rest[held.wire.push(rest)..];
                held.settle();
            }
            held.wire.fin();
            assert_eq!(read_late(&mut held), format!("{length}:,").len() + length);
        }
    }
}
