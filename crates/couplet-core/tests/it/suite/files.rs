//! Rows 74a to 74d: ranges of files as output.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use couplet::transport::{FileChanged, SharedFile};
use couplet::{LoadLimits, Reason};

use crate::needed::Folder;

use super::kit::{Kit, Rig};
use super::peer::{B, Saw};
use super::recorder::{A, Script};

/// A time that builds give to all files.
fn past() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1)
}

/// A file in its own folder.
struct Temporary(PathBuf, #[expect(dead_code, reason = "it is removed on drop")] Folder);

impl Temporary {
    fn new(bytes: &[u8]) -> Temporary {
        let folder = Folder::new();
        let file = Temporary(folder.write("file", bytes).into(), folder);
        file.writable().set_modified(past()).unwrap();
        file
    }

    fn shared(&self) -> SharedFile {
        SharedFile::new(File::open(&self.0).unwrap()).unwrap()
    }

    fn immutable(&self) -> SharedFile {
        SharedFile::immutable(File::open(&self.0).unwrap()).unwrap()
    }

    /// Returns once the clock of the file system has moved: a change within its step goes unnoticed.
    fn tick(&self) {
        let changed = || fs::metadata(&self.0).map(|it| (it.ctime(), it.ctime_nsec())).unwrap();
        let (before, rights) = (changed(), fs::metadata(&self.0).unwrap().permissions());
        while changed() == before {
            fs::set_permissions(&self.0, rights.clone()).unwrap();
        }
    }

    fn append(&self, bytes: &[u8]) {
        File::options().append(true).open(&self.0).unwrap().write_all(bytes).unwrap();
    }

    fn writable(&self) -> File {
        File::options().write(true).open(&self.0).unwrap()
    }
}

pub(crate) fn c74a_ranges_of_files_leave_between_the_bytes_around_them(kit: Kit) {
    let big = kit.big();
    let other = Temporary::new(b"0123456789");
    let short = other.shared();
    for open in [Temporary::shared, Temporary::immutable] {
        let file = Temporary::new(big);
        let shared = open(&file);
        leaves_between(kit, &file, &shared, &short);
    }
}

fn leaves_between(kit: Kit, file: &Temporary, shared: &SharedFile, short: &SharedFile) {
    let big = kit.big();
    let (mut rig, a, b) = kit.accept(Script::new());
    let len = big.len() as u64;
    a.transport().write("head ");
    a.transport().send_file_range(short, 3..7);
    a.transport().send_file_range(shared, 10..10);
    a.transport().send_file_range(shared, 5..len);
    a.transport().write_bytes(" middle ");
    a.transport().send_file_range(shared, 100..70_000);
    a.transport().send_file_range(short, 9..10);
    a.transport().write(" tail");
    let all = [b"head 3456", &big[5..], b" middle ", &big[100..70_000], b"9 tail"];
    let all = all.concat();
    assert_eq!(a.transport().buffered(), all.len());
    // The open file is sent even after its name is removed.
    fs::remove_file(&file.0).unwrap();
    rig.gets(&b, &all);
    rig.until("nothing is buffered", || a.transport().buffered() == 0);
    assert!(!a.is_lost());
    rig.still_echoes();
}

pub(crate) fn c74a_a_file_leaves_before_a_close_and_waits_for_its_peer(kit: Kit) {
    let big = kit.big();
    let file = Temporary::new(big);
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().send_file_range(&file.immutable(), 0..big.len() as u64);
    a.log.watch("flushed", a.transport().flushed());
    assert!(a.transport().is_full());
    rig.turns(20);
    // B has read nothing: the rest is not sent, and none of it is held in memory.
    assert!(a.transport().buffered() > 0 && !a.log.has("flushed"));
    a.transport().lose_connection();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert!(b.got() == big, "{} bytes", b.got_len());
    b.fin();
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(a.log.count("flushed"), 1);
}

/// Sends a file to a B that reads nothing at first, changes it, and returns what B gets of it.
fn cut(kit: Kit, change: impl FnOnce(&Temporary)) -> (Rig, A, B) {
    let file = Temporary::new(kit.big());
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().write("head ");
    a.transport().send_file_range(&file.shared(), 0..kit.big().len() as u64);
    a.transport().write(" tail");
    rig.turns(20);
    assert!(a.transport().buffered() > 100_000, "it has left");
    file.tick();
    change(&file);
    rig.until("connection_lost", || {
        b.take_all();
        a.is_lost()
    });
    (rig, a, b)
}

/// A change of the file, and its name.
type Change<'a> = (&'a str, &'a dyn Fn(&Temporary));

pub(crate) fn c74b_a_file_that_changes_while_it_is_sent_resets_the_connection(kit: Kit) {
    let len = kit.big().len();
    let other: Vec<u8> = kit.big().iter().map(|byte| !byte).collect();
    let renew = |file: &Temporary, length: usize| {
        let more = vec![7; length - len];
        fs::write(&file.0, [&other[..], &more].concat()).unwrap();
    };
    let restore = |file: &Temporary| file.writable().set_modified(past()).unwrap();
    let changes: [Change<'_>; 9] = [
        ("cut off", &|file| file.writable().set_len(0).unwrap()),
        ("overwritten at its end", &|file| {
            file.writable().write_all_at(&[0; 10], len as u64 - 50_000).unwrap();
        }),
        ("with another time", &|file| {
            file.writable().set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
        ("renewed", &|file| renew(file, len)),
        ("renewed, with its old time", &|file| {
            renew(file, len);
            restore(file);
        }),
        ("renewed and longer", &|file| renew(file, len + 1000)),
        ("renewed and longer, behind its old beginning", &|file| {
            let (begin, end) = (&kit.big()[..len / 2], &other[len / 2..]);
            fs::write(&file.0, [begin, end, &[7; 1000]].concat()).unwrap();
        }),
        ("renewed and longer, with its old time", &|file| {
            renew(file, len + 1000);
            restore(file);
        }),
        ("overwritten and longer, with its old time", &|file| {
            file.writable().write_all_at(&[0; 10], len as u64 - 50_000).unwrap();
            file.append(b"more");
            restore(file);
        }),
    ];
    for (name, change) in changes {
        let (mut rig, a, b) = cut(kit, change);
        let Reason::Lost(error) = a.reason() else { panic!("{name}: {:?}", a.reason()) };
        assert!(error.get_ref().is_some_and(|error| error.is::<FileChanged>()), "{error:?}");
        assert_eq!(rig.take_to_the_end(&b), Saw::Reset, "{name}");
        let whole = [b"head ", kit.big()].concat();
        assert!(whole.starts_with(&b.got()), "{name}: {} bytes, mixed", b.got_len());
        assert!(b.got_len() < whole.len(), "{name}: all of it");
        rig.still_echoes();
    }
}

pub(crate) fn c74d_a_file_that_only_grows_or_moves_is_sent_to_its_announced_length(kit: Kit) {
    let moved = |file: &Temporary| file.0.with_extension("moved");
    let changes: [Change<'_>; 6] = [
        ("appended to", &|file| file.append(b"more")),
        ("appended to repeatedly", &|file| (0..10).for_each(|_| file.append(&[9; 10_000]))),
        ("given other rights", &|file| {
            fs::set_permissions(&file.0, Permissions::from_mode(0o444)).unwrap();
        }),
        ("linked", &|file| {
            fs::hard_link(&file.0, moved(file)).unwrap();
            fs::remove_file(moved(file)).unwrap();
        }),
        ("appended to and renamed", &|file| {
            file.append(b"more");
            fs::rename(&file.0, moved(file)).unwrap();
            fs::remove_file(moved(file)).unwrap();
        }),
        ("replaced", &|file| {
            fs::write(moved(file), b"another file").unwrap();
            fs::rename(moved(file), &file.0).unwrap();
        }),
    ];
    for (name, change) in changes {
        for open in [Temporary::shared, Temporary::immutable] {
            let file = Temporary::new(kit.big());
            let (mut rig, a, b) = kit.accept(Script::new());
            // The version is the current one, also for a file that has grown before.
            file.append(b"end");
            let whole = [kit.big(), b"end"].concat();
            a.transport().send_file_range(&open(&file), 0..whole.len() as u64);
            a.transport().write(" tail");
            rig.turns(20);
            assert!(a.transport().buffered() > 100_000, "it has left");
            file.tick();
            change(&file);
            rig.gets(&b, &[&whole[..], b" tail"].concat());
            assert!(!a.is_lost(), "{name}");
            rig.still_echoes();
        }
    }
}

pub(crate) fn c74b_a_range_that_the_file_lacks_resets_the_connection(kit: Kit) {
    let file = Temporary::new(b"0123456789");
    for range in [5..11, 1000..1001, 0..1 << 40] {
        let (mut rig, a, b) = kit.accept(Script::new());
        a.transport().send_file_range(&file.shared(), range);
        a.transport().write("tail");
        assert_eq!(rig.lost(&a), "Lost");
        assert_eq!(rig.take_to_the_end(&b), Saw::Reset);
        assert_eq!(b.got(), b"");
    }
}

pub(crate) fn c74c_a_file_past_the_hard_cap_overflows(kit: Kit) {
    let file = Temporary::new(&[7; 1000]);
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().set_write_cap(Some(1000));
    a.transport().send_file_range(&file.shared(), 0..1000);
    rig.gets(&b, &[7; 1000]);
    a.transport().write("x");
    a.transport().send_file_range(&file.shared(), 0..1000);
    assert_eq!(rig.lost(&a), "Overflow");
}

pub(crate) fn c74c_a_file_takes_no_memory_and_does_not_count_for_the_load(kit: Kit) {
    let file = Temporary::new(kit.big());
    let (mut rig, a, b) = kit.accept(Script::new());
    rig.reactor.set_load_limits(LoadLimits::default().buffered(kit.big().len() / 4));
    a.transport().send_file_range(&file.immutable(), 0..kit.big().len() as u64);
    rig.turns(20);
    assert!(a.transport().buffered() > kit.big().len() / 4 && !a.is_lost());
    rig.gets(&b, kit.big());
    assert_eq!(rig.l.snapshot().counters.shed, 0);
}
