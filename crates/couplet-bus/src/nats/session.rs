//! One connection to a server: INFO, perhaps TLS, CONNECT and the first PONG; then messages.
//!
//! Contract: 207a, 207b, 208.

use couplet_core::{Result, Transport, hooks};

use super::dialect::{Nats, NatsClient};
use super::info::{Connect, Info};
use super::parser::{Op, Parser};
use crate::client::{Conversation, Heard, Server, SessionError};

/// A connection is of no use.
#[derive(Debug, thiserror::Error)]
enum NatsError {
    #[error("cannot log in: the server requires TLS, which `Options::tls` turns on")]
    NeedsTls,
    #[cfg(any(feature = "tls", feature = "ring"))]
    #[error("cannot log in: the server offers no TLS")]
    NoTls,
    #[error("cannot log in: the server accepts no headers: NATS 2.2 or later is required")]
    NoHeaders,
    #[error("cannot log in: the server sent {0} before INFO")]
    NoInfo(&'static str),
    #[error("cannot log in: the server sent bytes before TLS")]
    EarlyBytes,
    #[error("the server closed the connection: {0}")]
    Server(String),
}

enum NatsPhase {
    /// Nothing has arrived.
    Greeting,
    /// TLS begins; the INFO had this nonce. Nothing else of the INFO counts afterwards, since
    /// anyone may have written it: a signature of the nonce is of no use to others.
    #[cfg_attr(
        not(any(feature = "tls", feature = "ring")),
        expect(dead_code, reason = "nothing begins TLS")
    )]
    Encrypting(Option<String>),
    /// CONNECT and PING were sent.
    LoggingIn,
    Open,
}

pub(crate) struct NatsConversation {
    parser: Parser,
    phase: NatsPhase,
    /// The server's error, until something else arrives.
    error: Option<String>,
}

impl NatsConversation {
    pub(super) fn new(max_payload: usize) -> NatsConversation {
        NatsConversation {
            parser: Parser::new(max_payload),
            phase: NatsPhase::Greeting,
            error: None,
        }
    }

    fn handle(
        &mut self,
        client: &NatsClient,
        transport: &Transport,
        server: &Server,
        op: Op,
    ) -> Result<Heard> {
        if !matches!(op, Op::Err(_)) {
            self.error = None;
        }
        match op {
            Op::Info(info) => match self.phase {
                NatsPhase::Greeting => self.greeted(client, transport, server, *info)?,
                NatsPhase::Encrypting(_) => return Err(NatsError::EarlyBytes.into()),
                NatsPhase::LoggingIn => client.learn_info(&info, server),
                NatsPhase::Open => {
                    client.learn_info(&info, server);
                    if info.lame_duck {
                        return Ok(Heard::Leaving("the server is about to stop"));
                    }
                }
            },
            Op::Err(text) => match self.phase {
                NatsPhase::Open => {
                    client.server_error(&text);
                    self.error = Some(text);
                }
                _ => return Err(SessionError::Refused(text).into()),
            },
            Op::Ping => transport.write("PONG\r\n"),
            Op::Ok => {}
            Op::Pong | Op::Message { .. } | Op::Oversized { .. } => match (&self.phase, op) {
                (NatsPhase::Greeting | NatsPhase::Encrypting(_), _) => {
                    return Err(NatsError::NoInfo("something").into());
                }
                (NatsPhase::LoggingIn, Op::Pong) => {
                    self.phase = NatsPhase::Open;
                    return Ok(Heard::LoggedIn);
                }
                (_, Op::Pong) => {
                    client.ping_answered();
                    return Ok(Heard::Pong);
                }
                (_, Op::Message { id, message }) => client.message_arrived(id, message),
                (_, Op::Oversized { id, size }) => client.oversized_arrived(id, size),
                _ => {}
            },
        }
        Ok(Heard::Other)
    }

    fn greeted(
        &mut self,
        client: &NatsClient,
        transport: &Transport,
        server: &Server,
        info: Info,
    ) -> Result<()> {
        #[cfg(any(feature = "tls", feature = "ring"))]
        if let Some(tls) = &client.options.tls {
            if !info.tls_required && !info.tls_available {
                return Err(NatsError::NoTls.into());
            }
            transport.start_tls((tls, server.certificate_name()))?;
            client.forget_limit();
            self.phase = NatsPhase::Encrypting(info.nonce);
            return Ok(());
        }
        if info.tls_required {
            return Err(NatsError::NeedsTls.into());
        }
        if !info.headers {
            return Err(NatsError::NoHeaders.into());
        }
        client.learn_info(&info, server);
        self.log_in(client, transport, &info, false)
    }

    fn log_in(
        &mut self,
        client: &NatsClient,
        transport: &Transport,
        info: &Info,
        is_encrypted: bool,
    ) -> Result<()> {
        let connect = Connect::new(info, &client.options, is_encrypted)?;
        transport.write(connect.line());
        transport.write("PING\r\n");
        self.phase = NatsPhase::LoggingIn;
        Ok(())
    }
}

impl Conversation<Nats> for NatsConversation {
    /// The server speaks first.
    fn begin(&mut self, _: &NatsClient, _: &Transport, _: &Server) -> Result<()> {
        Ok(())
    }

    fn encrypted(&mut self, client: &NatsClient, transport: &Transport) -> Result<()> {
        match &mut self.phase {
            NatsPhase::Encrypting(nonce) => {
                // Servers have headers since 2.2; the others end the connection at the first.
                let info = Info { nonce: nonce.take(), headers: true, ..Info::default() };
                self.log_in(client, transport, &info, true)
            }
            _ => Ok(()),
        }
    }

    fn receive(
        &mut self,
        client: &NatsClient,
        transport: &Transport,
        server: &Server,
        data: &mut &[u8],
    ) -> Result<Option<Heard>> {
        let Some(op) = self.parser.next(data)? else { return Ok(None) };
        let heard = self.handle(client, transport, server, op)?;
        if hooks::is_starting_layer(transport) && !data.is_empty() {
            return Err(NatsError::EarlyBytes.into());
        }
        Ok(Some(heard))
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, NatsPhase::Open)
    }

    fn last_error(&self) -> Option<String> {
        self.error.clone().map(|text| NatsError::Server(text).to_string())
    }
}
