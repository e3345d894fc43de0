//! File locks in worlds without files.

use std::any::Any;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The locked files.
#[derive(Clone, Debug, Default)]
pub struct FileLocks {
    locked: Rc<RefCell<Vec<PathBuf>>>,
}

/// A locked file. Dropping it unlocks it.
struct FileLock {
    locks: FileLocks,
    path: PathBuf,
}

impl FileLocks {
    /// Locks the file, unless it is locked: see [`World::lock_file`](super::World::lock_file).
    pub fn lock(&self, path: &Path) -> Option<Box<dyn Any>> {
        if self.locked.borrow().iter().any(|locked| locked == path) {
            return None;
        }
        self.locked.borrow_mut().push(path.to_owned());
        Some(Box::new(FileLock { locks: self.clone(), path: path.to_owned() }))
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        self.locks.locked.borrow_mut().retain(|path| *path != self.path);
    }
}
