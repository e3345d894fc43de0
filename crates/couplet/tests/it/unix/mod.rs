//! UNIX sockets of the real system: their files, locks and names. What they have in common with TCP is
//! in the suite.

mod connecting;
mod descriptors;
mod listening;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder for the socket files of a test, removed with everything in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("couplet-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new folder");
        Folder(path)
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The names in it.
    pub(crate) fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.0).expect("it is there");
        let name = |file: std::io::Result<std::fs::DirEntry>| {
            file.expect("a file").file_name().into_string().expect("our own name")
        };
        let mut names: Vec<String> = files.map(name).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A failing test should fail for its own reason.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
