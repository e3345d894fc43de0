//! Folders for the files of tests and benches.

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A new folder, removed with its contents on drop.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("couplet-{}-{number}", std::process::id());
            let path = short_folder().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Folder(path),
                // A process that was killed has left its folder, and its number was used again.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make the folder {}: {error}", path.display()),
            }
        }
    }

    /// The path of a file in the folder, as text.
    pub fn path(&self, name: &str) -> String {
        self.join(name).into_os_string().into_string().expect("a plain name")
    }

    /// Writes a file in the folder or a subfolder. Returns its path.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().expect("it has one"))
            .and_then(|()| std::fs::write(path, bytes))
            .expect("a folder of ours");
        self.path(name)
    }

    /// The names in the folder.
    pub fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(&**self).expect("it is there");
        let name = |file: io::Result<std::fs::DirEntry>| {
            file.expect("a file").file_name().into_string().expect("our own name")
        };
        let mut names: Vec<String> = files.map(name).collect();
        names.sort();
        names
    }
}

/// The folder for temporary files; not the target folder, nor a long `TMPDIR`, because the path of a
/// UNIX socket has at most 108 bytes.
fn short_folder() -> PathBuf {
    let usual = std::env::temp_dir();
    if cfg!(unix) && usual.as_os_str().len() > 60 { "/tmp".into() } else { usual }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Ignored: a failing test should fail for its own reason.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Lets child processes inherit a descriptor.
#[cfg(all(unix, feature = "system"))]
pub fn inheritable(descriptor: &impl std::os::fd::AsFd) -> i32 {
    use std::os::fd::AsRawFd;
    rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).expect("it is open");
    descriptor.as_fd().as_raw_fd()
}
