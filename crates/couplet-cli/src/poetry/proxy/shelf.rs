//! The poems that are on their way to clients, and a bound for them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use couplet::{ConnectionId, Transport};

use super::cache::Edition;

/// Law 9: who reads slowly keeps an old poem in memory. When too many bytes of different poems are
/// kept, the readers of the oldest one are cut.
pub(crate) struct Shelf {
    limit: u64,
    editions: RefCell<BTreeMap<u64, Readers>>,
}

/// One poem, and who reads it.
struct Readers {
    bytes: u64,
    clients: BTreeMap<ConnectionId, Transport>,
}

impl Shelf {
    /// Poems of more than `limit` bytes together are not kept; the newest one always is.
    pub(crate) fn new(limit: u64) -> Shelf {
        Shelf { limit, editions: RefCell::default() }
    }

    /// This client begins to read `poem`.
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
            tracing::warn!(clients = oldest.clients.len(), "too slow for an old poem: cut");
            oldest.clients.values().for_each(Transport::abort_connection);
        }
    }

    /// This client has left.
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
