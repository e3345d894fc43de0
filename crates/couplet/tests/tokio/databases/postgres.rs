//! PostgreSQL, on a UNIX socket.

use crate::servers::postgres::Server;

facts!(Server::start);
