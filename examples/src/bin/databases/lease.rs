//! A connection on loan from a pool.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use couplet::defer::Permit;
use tokio_postgres::Client;

use super::pool::{Connection, Pool};

/// A connection that returns to its pool on drop.
pub(crate) struct Lease {
    /// `None` while it is being returned.
    connection: Option<Connection>,
    pool: Rc<Pool>,
    /// Dropped after the connection was returned, so that the next caller finds it.
    _permit: Permit,
}

impl Lease {
    pub(crate) fn new(connection: Connection, pool: Rc<Pool>, permit: Permit) -> Lease {
        Lease { connection: Some(connection), pool, _permit: permit }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.idle.borrow_mut().extend(self.connection.take());
    }
}

impl Deref for Lease {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.connection.as_ref().expect("until it is dropped").0
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.connection.as_mut().expect("until it is dropped").0
    }
}
