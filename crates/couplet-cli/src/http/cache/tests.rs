//! The cache's limits and its contents.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::time::UNIX_EPOCH;

use super::*;

const NOW: Duration = Duration::from_secs(1_700_000_000);
const LIMITS: Limits = Limits { files: 3, bytes: 10_000, trust: Duration::from_secs(1) };

/// A folder that is removed on drop.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Temporary {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (id, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Temporary(std::env::temp_dir().join(format!("couplet-cache-{id}-{count}")));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    /// Writes a file that was last changed so long before `NOW`.
    fn write(&self, name: &str, bytes: &[u8], age: u64) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        let changed = UNIX_EPOCH + NOW - Duration::from_secs(age);
        File::options().write(true).open(&path).unwrap().set_modified(changed).unwrap();
        path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> SharedFile {
    SharedFile::new(File::open(path).unwrap()).unwrap()
}

fn entry(path: &Path) -> Arc<Entry> {
    Arc::new(Entry::new(open(path), HeaderValue::from_static("text/plain"), NOW).unwrap())
}

fn is_kept(cache: &Cache, path: &str) -> bool {
    cache.find(path, NOW).is_some()
}

#[test]
fn an_entry_is_trusted_for_its_time_and_then_confirmed() {
    let folder = Temporary::new();
    let path = folder.write("a", b"one", 100);
    let cache = Cache::new(LIMITS);
    cache.keep("/a", &entry(&path));
    let at = |millis| NOW + Duration::from_millis(millis);
    assert!(cache.find("/a", at(999)).is_some());
    assert!(cache.find("/a", at(1000)).is_none());
    assert!(cache.find("/a", NOW - Duration::from_millis(1)).is_none(), "the clock was set back");
    assert!(cache.confirm("/a", open(&path).metadata(), at(5000)).is_some());
    assert!(cache.find("/a", at(5999)).is_some());
    folder.write("a", b"two", 99);
    assert!(cache.confirm("/a", open(&path).metadata(), at(6000)).is_none());
    folder.write("a", b"one", 100);
    assert!(cache.confirm("/a", open(&path).metadata(), at(6000)).is_some(), "as it was");
    fs::rename(folder.write("b", b"one", 100), &path).unwrap();
    assert!(cache.find("/a", at(6999)).is_some());
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
fn a_sweep_forgets_what_was_not_asked_for_since_the_last_one() {
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
