//! Connections that leave for another process, in the turn.
//!
//! Contract: 51d.

use super::core::Core;
use crate::driver::{CloseMode, Commands, Key};
use crate::reactor::handing::{HandOverRequest, HandedOver, MOST_BYTES, Record};
use crate::transport::TransportSettings;

impl Core {
    pub(super) fn hand_over(&mut self, io: &mut dyn Commands, request: HandOverRequest) {
        let HandOverRequest { connection, done } = request;
        let is_ours = connection.reactor == self.reactor.serial();
        done.callback(if is_ours { self.try_hand_over(io, connection.key) } else { None });
    }

    fn try_hand_over(&mut self, io: &mut dyn Commands, key: Key) -> Option<HandedOver> {
        let entry = self.table.connection(key)?;
        if !entry.origin.is_accepted() || !io.can_release(key) {
            return None;
        }
        let mut said = None;
        self.with_life(io, key, |life, now| {
            let effects;
            (said, effects) = life.hand_over(now, MOST_BYTES);
            effects
        });
        let (kind, state, unread) = said?.into_parts();
        let now = self.now();
        let entry = self.table.connection(key)?;
        let cell = entry.life.cell();
        let unsent = cell.copy_of_output();
        let settings = TransportSettings::of(cell, now);
        let proxy = cell.to_proxy_header().unwrap_or_default();
        let released = io.release(key);
        entry.life.leave();
        entry.life.lost(now);
        if released.is_err() {
            io.close(key, CloseMode::Normal);
        }
        self.remove_connection(io, key);
        match released {
            Ok(connection) => {
                let record = Record { kind, state, unread, unsent, settings, proxy };
                Some(HandedOver { connection, record })
            }
            Err(error) => {
                log_error!(%error, "cannot hand a connection over");
                None
            }
        }
    }
}
