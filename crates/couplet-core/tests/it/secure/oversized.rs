//! A peer that encrypts more than a record may hold, 16 KiB (RFC 8446, 5.2; RFC 5246, 6.2.1). On
//! the wire the record has a legal length: only decryption shows the violation.

use std::sync::Arc;

use couplet::testing::Wire;
use couplet::{Fault, Reason, TlsError, TlsProblem};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, Connection, ConnectionTrafficSecrets, ContentType,
    ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use super::{End, NAME, Rig};
use crate::suite::kit::LOOPBACK;

/// Maximum plaintext of a record.
const MOST: usize = 16 * 1024;
const RECORD_OVERFLOW: u8 = 22;

/// The record layer of a connection, with the keys that rustls has exported.
struct Records {
    wire: Wire,
    encrypter: Box<dyn MessageEncrypter>,
    decrypter: Box<dyn MessageDecrypter>,
    sent: u64,
    received: u64,
}

impl Records {
    fn open(rig: &mut Rig, wire: Wire, mut tls: Connection, end: &End) -> Records {
        for _ in 0..10 {
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out).expect("a Vec takes everything");
            }
            assert_eq!(wire.push(&out), out.len());
            rig.turn();
            let got = wire.take();
            let mut got = &got[..];
            while !got.is_empty() {
                tls.read_tls(&mut got).expect("it is read to its end");
                tls.process_new_packets().expect("it is TLS");
            }
        }
        assert!(end.is_made() && !tls.is_handshaking());
        let suite = tls.negotiated_cipher_suite().expect("the handshake is complete");
        let secrets = tls.dangerous_extract_secrets().expect("it was asked for");
        let ((sent, tx), (received, rx)) = (secrets.tx, secrets.rx);
        let (
            ConnectionTrafficSecrets::Aes256Gcm { key: out, iv: out_iv },
            ConnectionTrafficSecrets::Aes256Gcm { key, iv },
        ) = (tx, rx)
        else {
            panic!("not the suite that rustls prefers");
        };
        let (encrypter, decrypter) = match suite {
            SupportedCipherSuite::Tls13(suite) => {
                (suite.aead_alg.encrypter(out, out_iv), suite.aead_alg.decrypter(key, iv))
            }
            SupportedCipherSuite::Tls12(suite) => {
                let (fixed, explicit) = out_iv.as_ref().split_at(4);
                let encrypter = suite.aead_alg.encrypter(out, fixed, explicit);
                (encrypter, suite.aead_alg.decrypter(key, &iv.as_ref()[..4]))
            }
        };
        Records { wire, encrypter, decrypter, sent, received }
    }

    fn send(&mut self, data: &[u8]) {
        let message = OutboundPlainMessage {
            typ: ContentType::ApplicationData,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(data),
        };
        let record = self.encrypter.encrypt(message, self.sent).expect("it is encrypted").encode();
        // The limit of TLS 1.3, the smallest that a receiver may have.
        assert!(record.len() - 5 <= MOST + 256, "{}", record.len());
        self.sent += 1;
        assert_eq!(self.wire.push(&record), record.len());
    }

    /// The types and contents of the received records.
    fn take(&mut self) -> Vec<(ContentType, Vec<u8>)> {
        let (mut bytes, mut records) = (self.wire.take(), Vec::new());
        let mut rest = &mut bytes[..];
        while let Some((header, more)) = rest.split_at_mut_checked(5) {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            let (body, more) = more.split_at_mut(length);
            let opaque =
                InboundOpaqueMessage::new(header[0].into(), ProtocolVersion::TLSv1_2, body);
            let plain = self.decrypter.decrypt(opaque, self.received).expect("it is authentic");
            records.push((plain.typ, plain.payload.to_vec()));
            self.received += 1;
            rest = more;
        }
        records
    }
}

#[derive(Clone, Copy, Debug)]
enum We {
    Serve,
    Connect,
}

/// Our end, and the records of its peer, which is rustls without its keys.
fn meet(rig: &mut Rig, we: We, version: &'static SupportedProtocolVersion) -> (End, Records) {
    let (end, provider) = (End::default(), Arc::new(default_provider()));
    match we {
        We::Serve => {
            let root = CertificateDer::from_pem_slice(rig.authority.certificate().as_bytes());
            let mut roots = RootCertStore::empty();
            roots.add(root.expect("a certificate")).expect("an authority");
            let config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .expect("a version that it knows");
            let mut config = config.with_root_certificates(roots).with_no_client_auth();
            config.enable_secret_extraction = true;
            let name = NAME.try_into().expect("a name");
            let tls = ClientConnection::new(Arc::new(config), name).expect("it works");
            let port = rig.listen(&end);
            let wire = rig.network.connect(port).expect("the port listens");
            let records = Records::open(rig, wire, tls.into(), &end);
            (end, records)
        }
        We::Connect => {
            let pem = rig.authority.pem(NAME, |_| {});
            let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).expect("ours")];
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("ours");
            let config = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .expect("a version that it knows");
            let config = config.with_no_client_auth().with_single_cert(chain, key);
            let mut config = config.expect("a certificate and its key");
            config.enable_secret_extraction = true;
            let tls = ServerConnection::new(Arc::new(config)).expect("it works");
            let port = rig.network.listen(LOOPBACK, 1).expect("a free port");
            rig.connect(&port, &end).detach();
            rig.turn();
            let wire = rig.network.accept(port).expect("it connects");
            let records = Records::open(rig, wire, tls.into(), &end);
            (end, records)
        }
    }
}

#[test]
fn a_record_that_decrypts_to_more_than_16_kib_is_an_overflow_and_ends_the_connection() {
    for (we, version) in [
        (We::Serve, &rustls::version::TLS13),
        (We::Serve, &rustls::version::TLS12),
        (We::Connect, &rustls::version::TLS13),
        (We::Connect, &rustls::version::TLS12),
    ] {
        for mut rig in Rig::both() {
            let (end, mut peer) = meet(&mut rig, we, version);
            peer.send(&vec![b'x'; MOST]);
            rig.turn();
            assert_eq!(end.received(), vec![b'x'; MOST], "{we:?}: the most is not too much");
            assert!(!end.is_lost() && peer.take().is_empty(), "{we:?}");
            peer.send(&vec![b'y'; MOST + 1]);
            rig.turn();
            let fatal = (ContentType::Alert, vec![2, RECORD_OVERFLOW]);
            assert_eq!(peer.take(), [fatal], "{we:?}");
            assert!(peer.wire.saw_fin(), "{we:?}: nothing follows the alert");
            peer.wire.close();
            rig.turn();
            assert_eq!(end.received().len(), MOST, "{we:?}: nothing of it was delivered");
            let reason = end.reason();
            assert!(matches!(reason, Reason::Tls(_)), "{we:?}: {reason}");
            let error = reason.downcast_ref::<TlsError>().expect("it is of TLS");
            let told = (error.problem, error.fault, error.in_handshake);
            assert_eq!(told, (TlsProblem::Misbehaved, Fault::Peer, false), "{we:?}: {error}");
            assert!(error.to_string().contains("record size"), "{we:?}: {error}");
        }
    }
}
