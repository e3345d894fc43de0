//! File locks in worlds without files.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The locked files.
#[derive(Clone, Debug, Default)]
pub struct FileLocks {
    locked: Rc<RefCell<BTreeSet<PathBuf>>>,
}

/// A locked file. Dropping it unlocks it.
struct FileLock {
    locks: FileLocks,
    path: PathBuf,
}

impl FileLocks {
    /// Locks the file, unless it is locked: see [`World::lock_file`](super::World::lock_file).
    pub fn lock(&self, path: &Path) -> Option<Box<dyn Any>> {
        let is_free = self.locked.borrow_mut().insert(path.to_owned());
        let lock = || FileLock { locks: self.clone(), path: path.to_owned() };
        is_free.then(|| Box::new(lock()) as Box<dyn Any>)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        self.locks.locked.borrow_mut().remove(&self.path);
    }
}
