//! The descriptor store of systemd: connections survive the death of the process. For each connection it
//! holds the socket, and a file in memory with the latest record, under one name.
//!
//! Contract: 51e.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use couplet::ConnectionId;
use couplet::endpoints::take_passed;
use couplet::hooks::SortedMap;
use couplet::reactor::{HandedOver, Keeper};
use couplet::transport::SockRef;
use rustix::fs::{FileType, fstat};

use crate::loops::Loops;
use crate::restart::Takers;
use crate::systemd;

/// The beginning of the names in the store.
const PREFIX: &str = "couplet-";

/// The keeper of the connections of a loop.
pub(crate) struct Store {
    room: StoreRoom,
    entries: BTreeMap<ConnectionId, Entry>,
}

struct Entry {
    name: String,
    record: File,
}

/// The room of systemd's store, for the keepers of all loops.
#[derive(Clone)]
pub(crate) struct StoreRoom(Arc<AtomicUsize>);

impl StoreRoom {
    /// `None` if systemd offers no store.
    pub(crate) fn find() -> Option<StoreRoom> {
        systemd::store_size().map(StoreRoom::of)
    }

    /// The room of a store for this number of descriptors: a connection takes two.
    fn of(descriptors: usize) -> StoreRoom {
        StoreRoom(Arc::new(AtomicUsize::new(descriptors / 2)))
    }

    /// Takes room for a connection, if there is some.
    fn take(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn put_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Store {
    pub(crate) fn new(room: StoreRoom) -> Store {
        Store { room, entries: BTreeMap::new() }
    }

    fn add(
        &mut self,
        connection: ConnectionId,
        socket: &SockRef<'_>,
        record: &[u8],
    ) -> io::Result<()> {
        let file = new_file()?;
        // The file's number is unique while the store has the file, even among other processes' files.
        let name = format!("{PREFIX}{}", fstat(&file)?.st_ino);
        write_record(&file, record)?;
        systemd::store(&name, &[socket.as_fd(), file.as_fd()])?;
        self.entries.insert(connection, Entry { name, record: file });
        Ok(())
    }
}

impl Keeper for Store {
    fn keep(&mut self, connection: ConnectionId, socket: SockRef<'_>, record: &[u8]) {
        let kept = match self.entries.get(&connection) {
            Some(entry) => write_record(&entry.record, record),
            None if !self.room.take() => Ok(()),
            None => {
                let added = self.add(connection, &socket, record);
                if added.is_err() {
                    self.room.put_back();
                }
                added
            }
        };
        if let Err(error) = kept {
            tracing::debug!(%error, "cannot store a connection");
        }
    }

    fn forget(&mut self, connection: ConnectionId) {
        if let Some(entry) = self.entries.remove(&connection) {
            self.room.put_back();
            systemd::forget(&entry.name);
        }
    }
}

/// The connections of a process that has died, until the services of this one serve.
#[derive(Default)]
pub(crate) struct Stored(SortedMap<String, Vec<OwnedFd>>);

impl Stored {
    /// Takes the connections from systemd, before children could inherit them. The store keeps them
    /// too.
    pub(crate) fn take() -> Stored {
        let mut stored = Stored::default();
        for (name, descriptor) in take_passed(PREFIX) {
            stored.0.get_or_insert_with(name, Vec::new).push(descriptor);
        }
        stored
    }

    /// Continues the connections whose records match. The others are reset.
    pub(crate) fn continue_all(self, loops: &Loops, takers: &Takers) {
        if self.0.is_empty() {
            return;
        }
        let (mut continued, mut reset) = (0, 0);
        for (name, descriptors) in self.0 {
            // First: the store would keep the same socket under its next name, too.
            systemd::forget(&name);
            let (sockets, files): (Vec<_>, Vec<_>) = descriptors.into_iter().partition(is_socket);
            let record = files.into_iter().next().map(|file| read_record(&file.into()));
            let record = record.transpose().ok().flatten().unwrap_or_default();
            for socket in sockets {
                match HandedOver::kept(socket, &record) {
                    Ok(Some(handed)) => {
                        continued += 1;
                        takers.take_over(loops, handed);
                    }
                    Ok(None) | Err(_) => reset += 1,
                }
            }
        }
        tracing::warn!(continued, reset, "continued connections of a process that died");
    }
}

fn is_socket(descriptor: &OwnedFd) -> bool {
    let is_socket = |mode| FileType::from_raw_mode(mode).is_socket();
    fstat(descriptor).is_ok_and(|status| is_socket(status.st_mode))
}

#[cfg(target_os = "linux")]
fn new_file() -> io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    Ok(memfd_create("couplet-connection", MemfdFlags::CLOEXEC)?.into())
}

#[cfg(not(target_os = "linux"))]
fn new_file() -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The length of a record and its checksum, in front of it.
const HEAD: usize = 16;

/// Writes a record over the last one, in one call. A process that dies within leaves a wrong checksum;
/// the last record would be useless too, because the connection has moved on.
fn write_record(file: &File, record: &[u8]) -> io::Result<()> {
    let (length, sum) = (record.len() as u64, checksum(record));
    let bytes = [&length.to_be_bytes()[..], &sum.to_be_bytes(), record].concat();
    file.write_all_at(&bytes, 0)
}

/// The record in a file.
///
/// # Errors
///
/// The system's error; `InvalidData` if it was written only in part.
fn read_record(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(fstat(file)?.st_size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    let record = |bytes: &[u8]| {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let (length, sum) = head.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
        let record = rest.get(..length)?;
        (checksum(record).to_be_bytes() == sum).then(|| record.to_vec())
    };
    record(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// FNV-1a, which does not change from version to version.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::env;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use couplet::testing::hold;
    use couplet::{Protocol, Transport};

    use super::*;

    /// How often room can be taken.
    fn left(room: &StoreRoom) -> usize {
        std::iter::repeat_with(|| room.take()).take_while(|taken| *taken).take(100).count()
    }

    #[test]
    fn each_connection_takes_room_for_two_descriptors_until_it_is_forgotten() {
        let room = StoreRoom::of(7);
        assert_eq!(left(&room), 3);
        room.put_back();
        assert_eq!(left(&room), 1);
    }

    struct Silent;

    impl Protocol for Silent {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    #[test]
    fn a_connection_that_is_not_stored_or_is_forgotten_takes_no_room() {
        let mut held = hold(Silent);
        let id = held.with(|_, transport| transport.id()).expect("it is open");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let room = StoreRoom::of(2);
        let mut store = Store::new(room.clone());
        // Tests have no service manager: storing fails.
        store.keep(id, SockRef::from(&socket), b"record");
        assert!(store.entries.is_empty());
        assert_eq!(left(&room), 1, "after a failure");
        let entry = Entry { name: "couplet-1".to_owned(), record: new_file().unwrap() };
        store.entries.insert(id, entry);
        store.forget(id);
        assert!(store.entries.is_empty());
        assert_eq!(left(&room), 1, "after the end of a connection");
        store.forget(id);
        assert_eq!(left(&room), 0, "an unknown connection");
    }

    #[test]
    fn a_stored_connection_has_its_record_from_the_start() {
        const TEST: &str = "store::tests::a_stored_connection_has_its_record_from_the_start";
        const IS_CHILD: &str = "COUPLET_TEST_KEEPS";
        if env::var_os(IS_CHILD).is_some() {
            let mut held = hold(Silent);
            let id = held.with(|_, transport| transport.id()).expect("it is open");
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let room = StoreRoom::of(4);
            let mut store = Store::new(room.clone());
            for _ in 0..2 {
                for record in [&b"record"[..], b"a longer record", b"short"] {
                    store.keep(id, SockRef::from(&socket), record);
                    assert_eq!(read_record(&store.entries[&id].record).unwrap(), record);
                }
                assert_eq!(room.0.load(Ordering::Relaxed), 1, "one connection has room");
                store.forget(id);
                assert_eq!(room.0.load(Ordering::Relaxed), 2);
            }
            return;
        }
        // The variable that names a service manager belongs to a whole process.
        let folder = couplet_testkit::needed::Folder::new();
        let path = folder.path("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut again = Command::new(env::current_exe().expect("a test has a path"));
        again.args(["--exact", TEST]).env("NOTIFY_SOCKET", &path).env(IS_CHILD, "1");
        let output = again.output().expect("it starts");
        manager.set_nonblocking(true).unwrap();
        let mut bytes = [0; 100];
        let heard = std::iter::from_fn(|| {
            let length = manager.recv(&mut bytes).ok()?;
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            Some(text.lines().next().unwrap_or_default().to_owned())
        });
        let heard: Vec<String> = heard.collect();
        assert_eq!(heard, ["FDSTORE=1", "FDSTOREREMOVE=1"].repeat(2), "once for each connection");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn the_checksum_is_fnv_1a() {
        // Published values.
        assert_eq!(checksum(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(checksum(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(checksum(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_shorter_record_replaces_a_longer_one_and_a_mixture_is_refused() {
        let file = new_file().unwrap();
        assert!(read_record(&file).is_err(), "an empty file");
        let (long, short) = (b"a longer record".repeat(500), b"short".to_vec());
        for record in [&long, &short, &long] {
            write_record(&file, record).unwrap();
            assert_eq!(&read_record(&file).unwrap(), record);
        }
        // A write that stopped after any page, or anywhere.
        let other = b"another record".repeat(500);
        let torn = new_file().unwrap();
        write_record(&torn, &other).unwrap();
        let mut bytes = vec![0; HEAD + other.len()];
        torn.read_exact_at(&mut bytes, 0).unwrap();
        for cut in (1..bytes.len()).step_by(7) {
            write_record(&file, &long).unwrap();
            file.write_all_at(&bytes[..cut], 0).unwrap();
            let read = read_record(&file);
            assert!(read.is_err() || read.is_ok_and(|read| read == long), "cut at {cut}");
        }
    }
}
