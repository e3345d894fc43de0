//! The poems in transit to clients, and a bound on their bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use couplet::{ConnectionId, Transport};

use super::cache::Edition;

/// Law 9: a slow reader keeps an old poem in memory. If the poems kept exceed the limit, the
/// readers of the oldest one are disconnected.
pub(crate) struct Shelf {
    limit: u64,
    // At most `limit` bytes of poems in total; beyond that the oldest edition's readers are cut
    // off.
    editions: RefCell<BTreeMap<u64, Readers>>,
}

/// One poem's size and its readers.
struct Readers {
    bytes: u64,
    clients: BTreeMap<ConnectionId, Transport>,
}

impl Shelf {
    /// Keeps at most `limit` bytes of poems; the newest poem is always kept.
    pub(crate) fn new(limit: u64) -> Shelf {
        Shelf { limit, editions: RefCell::default() }
    }

    /// Adds a reader of `poem`.
    pub(crate) fn take(&self, poem: &Edition, client: &Transport) {
        let mut editions = self.editions.borrow_mut();
        let bytes = poem.text.len() as u64;
        let readers = editions
            .entry(poem.number)
            .or_insert_with(|| Readers { bytes, clients: BTreeMap::new() });
        readers.clients.insert(client.id(), client.clone());
        let mut kept: u64 = editions.values().map(|readers| readers.bytes).sum();
        while kept > self.limit && editions.len() > 1 {
            let Some((_, oldest)) = editions.pop_first() else { return };
            kept -= oldest.bytes;
            tracing::warn!(
                clients = oldest.clients.len(),
                "disconnected clients that read an old poem too slowly"
            );
            oldest.clients.values().for_each(Transport::abort_connection);
        }
    }

    /// Removes a reader.
    pub(crate) fn give_back(&self, number: u64, client: ConnectionId) {
        let mut editions = self.editions.borrow_mut();
        if let Some(readers) = editions.get_mut(&number) {
            readers.clients.remove(&client);
            if readers.clients.is_empty() {
                editions.remove(&number);
            }
        }
    }
}
