//! The cache's limits and its contents.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use couplet_testkit::needed::Folder;

use super::*;

/// An hour after the start: the system's clock sets the times of last change.
#[expect(clippy::disallowed_methods, reason = "the system stamps the files of the tests")]
static NOW: LazyLock<Duration> = LazyLock::new(|| {
    let now = SystemTime::now() + Duration::from_secs(3600);
    Duration::from_secs(now.duration_since(UNIX_EPOCH).unwrap().as_secs())
});
const LIMITS: Limits = Limits { files: 3, bytes: 10_000, sealed: 0, trust: Duration::from_secs(1) };

struct Temporary(Folder);

impl Temporary {
    fn new() -> Temporary {
        Temporary(Folder::new())
    }

    /// Writes a file that was last modified `age` seconds before `NOW`.
    fn write(&self, name: &str, bytes: &[u8], age: u64) -> PathBuf {
        let path = self.0.join(name);
        let modified = UNIX_EPOCH + *NOW - Duration::from_secs(age);
        let write = || {
            fs::write(&path, bytes).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        };
        let before = path.exists().then(|| changed(&path));
        write();
        // A change within a step of the system's clock goes unnoticed.
        while before == Some(changed(&path)) {
            write();
        }
        path
    }
}

/// The time of the last change, since 1970.
fn changed(path: &Path) -> (i64, i64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.ctime(), metadata.ctime_nsec())
}

fn open(path: &Path) -> SharedFile {
    SharedFile::new(File::open(path).unwrap()).unwrap()
}

fn entry(path: &Path) -> Arc<Entry> {
    entry_at(path, *NOW)
}

fn entry_at(path: &Path, now: Duration) -> Arc<Entry> {
    Arc::new(Entry::new(open(path), "text/plain", now).unwrap())
}

fn is_kept(cache: &Cache, path: &str) -> bool {
    cache.find(path, *NOW).is_some()
}

#[test]
fn an_entry_is_trusted_for_its_time_and_then_confirmed() {
    let folder = Temporary::new();
    let path = folder.write("a", b"one", 100);
    let cache = Cache::new(LIMITS);
    cache.keep("/a", &entry(&path));
    let at = |millis| *NOW + Duration::from_millis(millis);
    assert!(cache.find("/a", at(999)).is_some());
    assert!(cache.find("/a", at(1000)).is_none());
    assert!(cache.find("/a", *NOW - Duration::from_millis(1)).is_none(), "the clock was set back");
    assert!(cache.confirm("/a", open(&path).metadata(), at(5000)).is_some());
    assert!(cache.find("/a", at(5999)).is_some());
    folder.write("a", b"two", 99);
    assert!(cache.confirm("/a", open(&path).metadata(), at(6000)).is_none());
    folder.write("a", b"one", 100);
    let restored = open(&path);
    assert!(cache.confirm("/a", restored.metadata(), at(6000)).is_none(), "with its old time");
    cache.keep("/a", &entry(&path));
    assert!(cache.confirm("/a", restored.metadata(), at(6000)).is_some());
    fs::rename(folder.write("b", b"one", 100), &path).unwrap();
    assert!(cache.find("/a", at(6999)).is_none(), "its file was unlinked");
    assert!(cache.confirm("/a", open(&path).metadata(), at(6000)).is_none(), "another file");
}

#[test]
fn a_file_that_has_just_changed_is_not_kept() {
    let folder = Temporary::new();
    let cache = Cache::new(LIMITS);
    for (age, kept) in [(0, false), (1, false), (2, false), (3, true)] {
        let path = folder.write("a", b"text", age);
        cache.keep("/a", &entry(&path));
        assert_eq!(is_kept(&cache, "/a"), kept, "{age} s ago");
    }
    cache.keep("/a", &entry(&folder.write("a", b"new", 0)));
    assert!(!is_kept(&cache, "/a"), "the earlier version");
    // The time of modification may have been set; the other one is the system's.
    let path = folder.write("b", b"text", 10_000);
    let (seconds, nanos) = changed(&path);
    let changed = Duration::new(seconds as u64, nanos as u32);
    for (age, kept) in [(0, false), (10, false), (2001, true)] {
        let now = changed + Duration::from_millis(age);
        cache.keep("/b", &entry_at(&path, now));
        assert_eq!(cache.find("/b", now).is_some(), kept, "{age} ms ago");
    }
}

#[test]
fn contents_that_were_copied_with_their_old_time_are_not_trusted() {
    let folder = Temporary::new();
    for size in [1, SMALL as usize + 1] {
        let path = folder.write("a", &vec![1; size], 100);
        let cache = Cache::new(LIMITS);
        let old = entry(&path);
        cache.keep("/a", &old);
        folder.write("a", &vec![2; size], 100);
        assert!(!is_kept(&cache, "/a"), "{size}");
        let new = entry(&path);
        assert_ne!(old.etag, new.etag);
        assert_eq!(old.modified, new.modified);
    }
}

#[test]
fn a_file_that_grows_while_it_is_read_is_its_announced_length() {
    let folder = Temporary::new();
    for size in [1, SMALL as usize] {
        let path = folder.write("a", &vec![1; size], 100);
        let file = open(&path);
        File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        let entry = Entry::new(file, "text/plain", *NOW).unwrap();
        let Contents::Bytes(bytes) = entry.contents() else { panic!("{size}: not in memory") };
        assert!(*bytes == vec![1; size]);
    }
}

#[test]
fn a_file_is_not_trusted_once_it_has_changed() {
    let folder = Temporary::new();
    for size in [1, SMALL as usize + 1] {
        let path = folder.write("a", &vec![1; size], 100);
        let cache = Cache::new(LIMITS);
        cache.keep("/a", &entry(&path));
        assert!(is_kept(&cache, "/a"));
        folder.write("a", &vec![2; size], 99);
        assert!(!is_kept(&cache, "/a"), "{size}");
    }
}

#[test]
fn files_and_bytes_have_limits() {
    let folder = Temporary::new();
    let path = folder.write("a", &[1; 1000], 100);
    let cache = Cache::new(LIMITS);
    for name in ["/a", "/b", "/c"] {
        cache.keep(name, &entry(&path));
    }
    // Each is new, so the oldest leaves.
    cache.keep("/d", &entry(&path));
    assert!(!is_kept(&cache, "/a"));
    assert!(is_kept(&cache, "/b"), "now it is used");
    cache.keep("/e", &entry(&path));
    assert!(is_kept(&cache, "/b") && !is_kept(&cache, "/c"));
    // One entry as large as the limit leaves room for no other.
    let large = folder.write("large", &[1; 10_000 - OVERHEAD - 2 * "/large".len()], 100);
    cache.keep("/large", &entry(&large));
    assert!(is_kept(&cache, "/large") && !is_kept(&cache, "/b") && !is_kept(&cache, "/e"));
    assert_eq!(cache.kept().bytes, 10_000);
    cache.keep("/larger", &entry(&large));
    assert!(!is_kept(&cache, "/larger") && is_kept(&cache, "/large"));
    for limits in [Limits { files: 0, ..LIMITS }, Limits { bytes: 0, ..LIMITS }] {
        let cache = Cache::new(limits);
        cache.keep("/a", &entry(&path));
        assert!(!is_kept(&cache, "/a"), "{limits:?}");
    }
}

#[test]
fn a_sweep_removes_entries_not_requested_since_the_last_one() {
    let folder = Temporary::new();
    let path = folder.write("a", b"text", 100);
    let cache = Cache::new(LIMITS);
    assert!(!cache.starts_sweeping(), "nothing is kept");
    cache.keep("/a", &entry(&path));
    cache.keep("/b", &entry(&path));
    assert!(cache.starts_sweeping() && !cache.starts_sweeping());
    cache.sweep();
    assert!(is_kept(&cache, "/a"));
    cache.sweep();
    assert!(cache.starts_sweeping());
    assert!(is_kept(&cache, "/a") && !is_kept(&cache, "/b"));
    cache.sweep();
    cache.sweep();
    {
        let kept = cache.kept();
        assert_eq!((kept.bytes, kept.order.len(), kept.entries.len()), (0, 0, 0));
    }
    cache.keep("/a", &entry(&path));
    cache.forget("/a");
    assert!(!is_kept(&cache, "/a") && !cache.starts_sweeping());
}

#[test]
fn text_that_is_utf8_says_so() {
    let folder = Temporary::new();
    let long = |end: &[u8]| [&[b'a'; SMALL as usize][..], end].concat();
    let cut = [&[b'a'; SMALL as usize - 1][..], "\u{e4}bc".as_bytes()].concat();
    let charset = "; charset=utf-8";
    for (kind, bytes, expected) in [
        ("text/html", b"<p>".to_vec(), charset),
        ("text/plain", Vec::new(), charset),
        ("text/css", "\u{e4}".into(), charset),
        ("text/plain", b"\xe4".to_vec(), ""),
        ("text/plain", b"\xff\xfea\0".to_vec(), ""),
        // An incomplete character at the end.
        ("text/plain", b"a\xc3".to_vec(), ""),
        ("text/javascript", b"1".to_vec(), charset),
        ("application/javascript", b"1".to_vec(), charset),
        ("application/json", b"1".to_vec(), charset),
        ("application/manifest+json", b"1".to_vec(), charset),
        ("application/octet-stream", b"1".to_vec(), ""),
        ("image/png", b"1".to_vec(), ""),
        ("image/svg+xml", b"1".to_vec(), ""),
        ("text/plain", long(b"more"), charset),
        // The beginning decides, also if it ends within a character.
        ("text/plain", long(b"\xff"), charset),
        ("text/plain", cut, charset),
        ("text/plain", [b"\xff", &long(b"")[..]].concat(), ""),
    ] {
        let path = folder.write("a", &bytes, 100);
        let entry = Entry::new(open(&path), kind, *NOW).unwrap();
        assert_eq!(entry.kind, format!("{kind}{expected}"), "{} bytes", bytes.len());
    }
}

#[cfg(target_os = "linux")]
mod sealed {
    //! Copies of contents in sealed files.

    use super::*;

    const LIMITS: Limits = Limits { files: 3, bytes: 400_000, sealed: 100_000, ..super::LIMITS };

    /// The entry that answers a request; `None` stands for a request that a thread answers.
    fn request(cache: &Cache, name: &str, path: &Path) -> Arc<Entry> {
        if let Some(entry) = cache.find(name, *NOW) {
            return entry;
        }
        match cache.confirm(name, open(path).metadata(), *NOW) {
            Some(entry) => {
                cache.seal(name, &entry);
                entry
            }
            None => {
                let entry = entry(path);
                cache.keep(name, &entry);
                entry
            }
        }
    }

    fn copy(entry: &Entry) -> Option<SharedFile> {
        match entry.contents() {
            Contents::Sealed(copy) => Some(copy),
            Contents::Bytes(_) | Contents::OnDisk => None,
        }
    }

    #[test]
    fn the_second_request_seals_contents_which_never_change() {
        let folder = Temporary::new();
        let first: Vec<u8> = (0..100_000u32).map(|number| (number % 251) as u8).collect();
        let path = folder.write("a", &first, 100);
        let cache = Cache::new(LIMITS);
        assert!(copy(&request(&cache, "/a", &path)).is_none());
        let sealed = request(&cache, "/a", &path);
        assert!(Arc::ptr_eq(&sealed, &request(&cache, "/a", &path)), "there is one copy");
        let copy = copy(&sealed).unwrap();
        folder.write("a", &[2; 100_000], 99);
        let mut contents = vec![0; 100_000];
        copy.read(&mut contents, 0).unwrap();
        assert!(contents == first);
        let error = copy.file().write_all(b"text").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(copy.file().set_len(1).is_err() && copy.file().set_len(200_000).is_err());
        // The copy is of an earlier version.
        assert!(cache.find("/a", *NOW).is_none());
        assert!(cache.confirm("/a", open(&path).metadata(), *NOW).is_none());
    }

    #[test]
    fn a_file_that_changes_before_it_is_copied_is_not_sealed() {
        let folder = Temporary::new();
        let path = folder.write("a", &[1; 100_000], 100);
        let cache = Cache::new(LIMITS);
        let entry = request(&cache, "/a", &path);
        folder.write("a", &[2; 100_000], 99);
        cache.seal("/a", &entry);
        assert!(copy(&entry).is_none());
        assert_eq!(cache.kept().bytes, OVERHEAD + 2 * "/a".len());
    }

    #[test]
    fn sealed_bytes_have_limits_and_a_copy_drops_nothing() {
        let folder = Temporary::new();
        let long = folder.write("long", &[1; 100_001], 100);
        let path = folder.write("a", &[1; 100_000], 100);
        let cache = Cache::new(Limits { files: 9, ..LIMITS });
        for name in ["/long", "/a", "/b", "/c", "/d"] {
            let path = if name == "/long" { &long } else { &path };
            let is_sealed = [(); 3].map(|()| copy(&request(&cache, name, path)).is_some());
            let fits = name != "/long" && name != "/d";
            assert_eq!(is_sealed, [false, fits, fits], "{name}");
        }
        let names = 2 * ("/long".len() + 4 * "/a".len());
        assert_eq!(cache.kept().bytes, 5 * OVERHEAD + names + 300_000);
        // There is room again.
        cache.forget("/a");
        let confirmed = cache.confirm("/d", open(&path).metadata(), *NOW).unwrap();
        cache.seal("/d", &confirmed);
        assert!(copy(&confirmed).is_some());
        drop(confirmed);
        cache.sweep();
        cache.sweep();
        assert_eq!(cache.kept().bytes, 0);
    }

    #[test]
    fn a_copy_that_has_left_counts_until_its_last_reader_is_done() {
        let folder = Temporary::new();
        let path = folder.write("a", &[1; 100_000], 100);
        let cache = Cache::new(Limits { files: 9, bytes: 350_000, ..LIMITS });
        let names = ["/a", "/b", "/c"];
        let copies = names.map(|name| {
            request(&cache, name, &path);
            copy(&request(&cache, name, &path)).unwrap()
        });
        names.iter().for_each(|name| cache.forget(name));
        assert_eq!(cache.kept().bytes, 300_000);
        // A further file is sent from disk each time.
        for _ in 0..3 {
            assert!(copy(&request(&cache, "/d", &path)).is_none());
        }
        // Contents that do not fit next to the copies are not kept, and nothing leaves for them.
        cache.keep("/small", &entry(&folder.write("small", &[1; 10_000], 100)));
        cache.keep("/large", &entry(&folder.write("large", &[1; 60_000], 100)));
        assert!(is_kept(&cache, "/small") && !is_kept(&cache, "/large"));
        let [first, others @ ..] = copies;
        drop(first);
        let confirmed = cache.confirm("/d", open(&path).metadata(), *NOW).unwrap();
        cache.seal("/d", &confirmed);
        assert!(copy(&confirmed).is_some(), "there is room again");
        drop((others, confirmed));
        cache.forget("/d");
        cache.forget("/small");
        cache.keep("/a", &entry(&path));
        assert_eq!(cache.kept().bytes, OVERHEAD + 2 * "/a".len());
    }

    #[test]
    fn an_entry_that_is_not_kept_is_not_sealed() {
        let folder = Temporary::new();
        for (age, files) in [(0, 3), (100, 0)] {
            let path = folder.write("a", &[1; 100_000], age);
            let cache = Cache::new(Limits { files, ..LIMITS });
            for _ in 0..3 {
                assert!(copy(&request(&cache, "/a", &path)).is_none(), "{age} {files}");
            }
            let other = entry(&path);
            cache.seal("/a", &other);
            assert!(copy(&other).is_none(), "{age} {files}");
        }
    }

    #[test]
    fn sealed_contents_take_at_most_a_quarter_of_the_cache() {
        for (bytes, longest) in [(0, 0), (400_003, 100_000), (64 << 20, 16 << 20)] {
            assert_eq!(Limits::sealed_of(bytes), longest, "{bytes}");
        }
    }
}
