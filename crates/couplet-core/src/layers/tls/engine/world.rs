//! The source of randomness and time of day for TLS: the system, unless the thread has entered a
//! world that provides both, such as the simulator's or a test's.
//!
//! rustls takes them from objects that outlive every connection, so ours look up the thread's world
//! on each use. Ephemeral keys and ECDSA signatures are generated inside the cryptography library:
//! with the same seed, lengths and plaintext are the same, but not the ciphertext.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom};
use rustls::pki_types::UnixTime;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{KeyLog, KeyLogFile};

use super::cryptography::default_provider;

/// A source of random numbers and of the time of day, in place of the system.
pub trait TlsWorld {
    /// A random number.
    fn random(&self) -> u64;

    /// The time since 1970.
    fn unix_time(&self) -> Duration;

    /// Called with each handshake secret, its label and the client random, like the fields of a
    /// `SSLKEYLOGFILE` line. The secret decrypts the connection. Does nothing by default.
    fn key(&self, _label: &str, _client_random: &[u8], _secret: &[u8]) {}
}

thread_local! {
    static WORLD: RefCell<Option<Rc<dyn TlsWorld>>> = const { RefCell::new(None) };
}

/// Runs `f` with TLS's randomness and time from `world`, on this thread.
///
/// ```
/// # use std::{rc::Rc, time::Duration};
/// use couplet::layers::tls::{TlsWorld, in_world};
///
/// struct Fixed;
/// impl TlsWorld for Fixed {
///     fn random(&self) -> u64 { 4 }
///     fn unix_time(&self) -> Duration { Duration::from_secs(1_800_000_000) }
/// }
/// in_world(Rc::new(Fixed), || { /* handshakes */ });
/// ```
pub fn in_world<T>(world: Rc<dyn TlsWorld>, f: impl FnOnce() -> T) -> T {
    /// Restores the previous world, even after a panic.
    struct Leave(Option<Rc<dyn TlsWorld>>);
    impl Drop for Leave {
        fn drop(&mut self) {
            let before = self.0.take();
            drop(WORLD.with(|world| world.replace(before)));
        }
    }
    let _leave = Leave(WORLD.with(|current| current.replace(Some(world))));
    f()
}

fn current() -> Option<Rc<dyn TlsWorld>> {
    WORLD.with(|world| world.borrow().clone())
}

static SYSTEM: OnceLock<CryptoProvider> = OnceLock::new();

#[derive(Debug)]
struct WorldRandom;

impl SecureRandom for WorldRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        let Some(world) = current() else {
            return SYSTEM.get_or_init(default_provider).secure_random.fill(buffer);
        };
        for bytes in buffer.chunks_mut(8) {
            bytes.copy_from_slice(&world.random().to_le_bytes()[..bytes.len()]);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct WorldClock;

impl TimeProvider for WorldClock {
    fn current_time(&self) -> Option<UnixTime> {
        match current() {
            Some(world) => Some(UnixTime::since_unix_epoch(world.unix_time())),
            None => DefaultTimeProvider.current_time(),
        }
    }
}

/// Logs secrets to the world and, if allowed, to the file named in the environment.
#[derive(Debug)]
struct WorldKeyLog(Option<KeyLogFile>);

impl KeyLog for WorldKeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if let Some(world) = current() {
            world.key(label, client_random, secret);
        }
        if let Some(file) = &self.0 {
            file.log(label, client_random, secret);
        }
    }

    fn will_log(&self, _label: &str) -> bool {
        self.0.is_some() || current().is_some()
    }
}

pub(super) fn key_log(may_write_file: bool) -> Arc<dyn KeyLog> {
    Arc::new(WorldKeyLog(may_write_file.then(KeyLogFile::new)))
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { secure_random: &WorldRandom, ..default_provider() })
}

pub(super) fn time_provider() -> Arc<dyn TimeProvider> {
    Arc::new(WorldClock)
}
