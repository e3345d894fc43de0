//! One connection to a server: INFO, perhaps TLS, CONNECT and the first PONG; then messages.

use std::rc::{Rc, Weak};

use couplet_core::{Protocol, Reason, Result, Transport};

use super::dialect::NatsClient;
use super::info::{Connect, Info};
use super::parser::{Op, Parser};
use crate::client::Server;

/// PINGs without an answer after which a connection is dropped.
const MAX_UNANSWERED: u32 = 2;

/// A connection is of no use.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot log in: the server did not answer in time")]
    LoginTimeout,
    #[error("cannot log in: {0}")]
    Refused(String),
    #[error("cannot log in: the server requires TLS, which `Options::tls` turns on")]
    NeedsTls,
    #[cfg(any(feature = "tls", feature = "ring"))]
    #[error("cannot log in: the server offers no TLS")]
    NoTls,
    #[error("cannot log in: the server sent {0} before INFO")]
    NoInfo(&'static str),
    #[error("cannot log in: the server sent bytes before TLS")]
    EarlyBytes,
    #[error("the server closed the connection: {0}")]
    Server(String),
    #[error("the server does not answer PING")]
    Silent,
}

enum Phase {
    /// Nothing has arrived.
    Greeting,
    /// TLS begins; this was the INFO.
    #[cfg_attr(
        not(any(feature = "tls", feature = "ring")),
        expect(dead_code, reason = "nothing begins TLS")
    )]
    Encrypting(Box<Info>),
    /// CONNECT and PING were sent.
    LoggingIn,
    Open,
}

pub(crate) struct Session {
    client: Weak<NatsClient>,
    server: Server,
    parser: Parser,
    phase: Phase,
    unanswered: u32,
    /// The server's last error, which may precede its end of the connection.
    error: Option<String>,
    /// Our reason for the end of the connection.
    why: Option<String>,
}

impl Session {
    pub(super) fn new(client: &Rc<NatsClient>, server: Server) -> Session {
        Session {
            client: Rc::downgrade(client),
            server,
            parser: Parser::new(client.settings().max_payload),
            phase: Phase::Greeting,
            unanswered: 0,
            error: None,
            why: None,
        }
    }

    fn receive(&mut self, transport: &Transport, mut data: &[u8]) -> Result<()> {
        // The last handle of the bus was dropped: the client closes this connection.
        let Some(client) = self.client.upgrade() else { return Ok(()) };
        while transport.wants_data() {
            let Some(op) = self.parser.next(&mut data)? else { break };
            self.handle(&client, transport, op)?;
            if transport.is_starting_layer() && !data.is_empty() {
                return Err(SessionError::EarlyBytes.into());
            }
        }
        Ok(())
    }

    fn handle(&mut self, client: &Rc<NatsClient>, transport: &Transport, op: Op) -> Result<()> {
        if !matches!(op, Op::Err(_)) {
            self.error = None;
        }
        match op {
            Op::Info(info) => {
                client.learn_info(&info);
                if let Phase::Greeting = self.phase {
                    self.greeted(client, transport, info)?;
                }
            }
            Op::Err(text) => match self.phase {
                Phase::Open => {
                    client.server_error(&text);
                    self.error = Some(text);
                }
                _ => return Err(SessionError::Refused(text).into()),
            },
            Op::Ping => transport.write("PONG\r\n"),
            Op::Ok => {}
            Op::Pong | Op::Message { .. } | Op::Oversized { .. } => match (&self.phase, op) {
                (Phase::Greeting | Phase::Encrypting(_), _) => {
                    return Err(SessionError::NoInfo("something").into());
                }
                (Phase::LoggingIn, Op::Pong) => {
                    self.phase = Phase::Open;
                    client.logged_in(transport, &self.server);
                    self.ping_later(client, transport);
                }
                (_, Op::Pong) => {
                    self.unanswered = 0;
                    client.ping_answered();
                }
                (_, Op::Message { id, message }) => client.message_arrived(id, message),
                (_, Op::Oversized { id, size }) => client.oversized_arrived(id, size),
                _ => {}
            },
        }
        Ok(())
    }

    fn greeted(
        &mut self,
        client: &Rc<NatsClient>,
        transport: &Transport,
        info: Box<Info>,
    ) -> Result<()> {
        #[cfg(any(feature = "tls", feature = "ring"))]
        if let Some(tls) = &client.options.tls {
            if !info.tls_required && !info.tls_available {
                return Err(SessionError::NoTls.into());
            }
            transport.start_tls_client(tls, &self.server.host)?;
            self.phase = Phase::Encrypting(info);
            return Ok(());
        }
        if info.tls_required {
            return Err(SessionError::NeedsTls.into());
        }
        self.log_in(client, transport, &info, false)
    }

    fn log_in(
        &mut self,
        client: &Rc<NatsClient>,
        transport: &Transport,
        info: &Info,
        is_encrypted: bool,
    ) -> Result<()> {
        let connect = Connect::new(info, &client.options, is_encrypted)?;
        transport.write(connect.line());
        transport.write("PING\r\n");
        self.phase = Phase::LoggingIn;
        Ok(())
    }

    fn ping_later(&mut self, client: &NatsClient, transport: &Transport) {
        let interval = client.settings().ping_interval;
        transport.connection::<Session>().call_later(interval, Session::ping);
    }

    fn ping(&mut self, transport: &Transport) {
        let Some(client) = self.client.upgrade() else { return };
        if self.unanswered >= MAX_UNANSWERED {
            return self.fail(transport, SessionError::Silent.to_string());
        }
        self.unanswered += 1;
        client.ping();
        self.ping_later(&client, transport);
    }

    /// Ends the connection. Queued bytes would be of no use.
    fn fail(&mut self, transport: &Transport, why: String) {
        self.why.get_or_insert(why);
        transport.abort_connection();
    }
}

impl Protocol for Session {
    fn connection_made(&mut self, transport: &Transport) {
        let Some(client) = self.client.upgrade() else {
            return transport.abort_connection();
        };
        client.connected(transport);
        let timeout = client.settings().connect_timeout;
        transport.connection::<Session>().call_later(timeout, |session, transport| {
            if !matches!(session.phase, Phase::Open) {
                session.fail(transport, SessionError::LoginTimeout.to_string());
            }
        });
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if let Err(failure) = self.receive(transport, data) {
            self.fail(transport, failure.to_string());
        }
    }

    fn handshake_completed(&mut self, transport: &Transport) {
        let Some(client) = self.client.upgrade() else { return };
        if let Phase::Encrypting(info) = &mut self.phase {
            let info = std::mem::take(info);
            if let Err(failure) = self.log_in(&client, transport, &info, true) {
                self.fail(transport, failure.to_string());
            }
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(client) = self.client.upgrade() else { return };
        let error = self.error.take().map(|text| SessionError::Server(text).to_string());
        let why = self.why.take().or(error).unwrap_or_else(|| reason.to_string());
        client.connection_lost(&self.server, why);
    }
}
