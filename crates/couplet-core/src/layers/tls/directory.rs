//! [`CertificateDirectory`]: a folder with a certificate for each name, reloaded while the server
//! runs. Twisted's `txsni`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::engine::certificates::CertificateAndKey;
use super::settings::{TlsConfigError, read};
use crate::bounded::{AtMost, Bounded};

/// Minimum interval between checks for changes.
const EVERY: Duration = Duration::from_secs(1);
/// Maximum number of directory entries examined.
const MOST: usize = 10_000;

/// Certificates by name, from a folder that is checked for changes.
///
/// `example.com.pem` holds the certificate chain and the key for `example.com`, `_.example.com.pem`
/// for all names one level below, and `DEFAULT.pem` for all other clients. The OCSP response in a
/// file `example.com.ocsp` is stapled to the certificate. Other files are ignored. At most 10 000
/// directory entries are examined.
///
/// A new connection checks for changed files if the last check was at least a second ago, and reads
/// those. If a file cannot be read, the old certificate stays in use and a warning is logged. Open
/// connections keep their certificates. Clones share the certificates, across threads.
#[derive(Clone)]
pub struct CertificateDirectory(Arc<Directory>);

struct Directory {
    path: PathBuf,
    state: Mutex<DirectoryState>,
}

#[derive(Default)]
struct DirectoryState {
    files: Bounded<BTreeMap<String, CertificateFile>, AtMost<MOST>>,
    checked: Option<Instant>,
}

#[derive(Clone)]
struct CertificateFile {
    stamp: Stamp,
    pair: CertificateAndKey,
}

/// Modification times and lengths of a certificate and its OCSP response.
type Stamp = [Option<(Duration, u64)>; 2];

impl CertificateDirectory {
    /// Reads a folder.
    ///
    /// # Errors
    ///
    /// If the folder or a certificate cannot be read, or the folder has no certificate.
    pub fn open(path: impl Into<PathBuf>) -> Result<CertificateDirectory, TlsConfigError> {
        let path = path.into();
        let directory = Directory { path, state: Mutex::default() };
        let failures = directory.read_changed()?;
        if let Some(failure) = failures.into_iter().next() {
            return Err(failure);
        }
        if directory.lock().files.is_empty() {
            return Err(TlsConfigError::Invalid {
                place: directory.path.display().to_string(),
                what: "it contains no NAME.pem".to_owned(),
            });
        }
        Ok(CertificateDirectory(Arc::new(directory)))
    }

    /// Reads changed files now. Returns the number of names.
    ///
    /// # Errors
    ///
    /// The first of the errors. Files that could be read are in use nevertheless.
    pub fn reload(&self) -> Result<usize, TlsConfigError> {
        match self.0.read_changed()?.into_iter().next() {
            Some(failure) => Err(failure),
            None => Ok(self.0.lock().files.len()),
        }
    }

    /// Reads changed files, if the last check was at least a second ago.
    pub(super) fn check(&self, now: Instant) {
        let due = |checked: Instant| now.saturating_duration_since(checked) >= EVERY;
        let mut state = self.0.lock();
        if !state.checked.is_none_or(due) {
            return;
        }
        let first = state.checked.replace(now).is_none();
        drop(state);
        // The files were just read, by `open`.
        if first {
            return;
        }
        let failures = self.0.read_changed().unwrap_or_else(|failure| vec![failure]);
        for failure in failures {
            log_warn!(%failure, "cannot reload a certificate");
        }
    }

    /// The certificate for a name, or the default.
    pub(super) fn find(&self, name: Option<&str>) -> Option<CertificateAndKey> {
        let state = self.0.lock();
        let exact = name.and_then(|name| state.files.get(&name.to_ascii_lowercase()));
        let wildcard = || {
            let (_, parent) = name?.split_once('.')?;
            state.files.get(&format!("_.{}", parent.to_ascii_lowercase()))
        };
        let found = exact.or_else(wildcard).or_else(|| state.files.get("default"));
        found.map(|file| file.pair.clone())
    }
}

impl Directory {
    fn lock(&self) -> std::sync::MutexGuard<'_, DirectoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads new and changed files, and drops deleted ones. Returns the errors of single files.
    fn read_changed(&self) -> Result<Vec<TlsConfigError>, TlsConfigError> {
        let failed = |error| TlsConfigError::file(&self.path, error);
        let before = self.lock().files.clone();
        let (mut files, mut failures) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&self.path).map_err(failed)?.take(MOST) {
            let path = entry.map_err(failed)?.path();
            let Some(name) = name_of(&path) else { continue };
            let stamp = [stamp(&path), stamp(&path.with_extension("ocsp"))];
            let old = before.get(&name);
            let file = match old {
                Some(old) if old.stamp == stamp => Ok(old.clone()),
                _ => load(&path).map(|pair| CertificateFile { stamp, pair }),
            };
            match file {
                Ok(file) => drop(files.insert(name, file)),
                Err(failure) => {
                    // The stamp stays old, so the next check reads the file again.
                    files.extend(old.map(|old| (name, old.clone())));
                    failures.push(failure);
                }
            }
        }
        *self.lock().files.edit() = files;
        Ok(failures)
    }
}

/// The name that a file's certificate is for.
fn name_of(path: &Path) -> Option<String> {
    let is_pem = path.extension().is_some_and(|extension| extension == "pem");
    let name = path.file_stem()?.to_str()?.to_ascii_lowercase();
    is_pem.then_some(name)
}

fn stamp(path: &Path) -> Option<(Duration, u64)> {
    let metadata = fs::metadata(path).ok()?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((modified, metadata.len()))
}

fn load(path: &Path) -> Result<CertificateAndKey, TlsConfigError> {
    let pem = read(path)?;
    let pair = CertificateAndKey::from_pem(&pem, &pem, &path.display().to_string())?;
    let response = path.with_extension("ocsp");
    match response.exists() {
        true => Ok(pair.with_ocsp(read(&response)?)),
        false => Ok(pair),
    }
}

impl fmt::Debug for CertificateDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.lock().files.len();
        f.debug_struct("CertificateDirectory")
            .field("path", &self.0.path)
            .field("names", &names)
            .finish()
    }
}
