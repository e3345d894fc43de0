//! The answers of `couplet serve`: files, their ranges, folder listings, redirects and refusals.
//!
//! Only [`Site::cached_answer`] waits for no disk; the rest runs in a thread.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use couplet::http::{
    FileBody, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
};
use couplet::transport::SharedFile;
use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

use super::beneath::{Folder, Found, Links, Root};
use super::cache::{Cache, Contents, Entry, Limits, UNKNOWN};
use super::conditions::{self, Validators, Verdict};
use super::listing::{self, Listings};
use super::path::{DotNames, Kind, Target};
use super::ranges::{self, Wanted};

/// The file that is served for its folder.
const INDEX: &str = "index.html";

/// The beginning of a large file that is read ahead when the file is opened, in bytes. The system reads
/// further on its own while the file is sent.
const AHEAD: NonZeroU64 = NonZeroU64::new(1024 * 1024).unwrap();

/// How long files leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Copied into memory, where they can't change any more.
    Copied,
    /// By sendfile: the files never change in place.
    Direct,
}

/// How a folder is served.
#[derive(Clone, Copy, Debug)]
pub struct SiteOptions {
    /// Which symbolic links are followed.
    pub links: Links,
    /// Whether names that begin with a dot are served.
    pub dot_names: DotNames,
    /// How long files leave.
    pub sending: Sending,
    /// The most files that are kept open or in memory, with two descriptors each.
    pub files: usize,
    /// The most bytes of files that are kept in memory.
    pub bytes: u64,
    /// For how long a kept file is served without a look at the file system.
    pub trust: Duration,
}

/// A served folder and the rules for its names.
pub struct Site {
    folder: Folder,
    dot_names: DotNames,
    sending: Sending,
    listings: Listings,
    cache: Cache,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A request without its body, and the values that the answer needs from the loop.
pub(super) struct SiteRequest {
    pub(super) request: Request<()>,
    /// Time since 1970.
    pub(super) now: Duration,
    pub(super) random: u64,
}

impl SiteRequest {
    fn is_head(&self) -> bool {
        self.request.method() == Method::HEAD
    }

    fn is_allowed(&self) -> bool {
        self.is_head() || self.request.method() == Method::GET
    }
}

type Answer = Response<FileBody>;

impl Site {
    /// # Errors
    ///
    /// If the path is not a folder, or can't be read.
    pub fn new(folder: &Path, options: SiteOptions) -> io::Result<Site> {
        let SiteOptions { links, dot_names, sending, files, bytes, trust } = options;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let sealed = match sending {
            Sending::Copied => Limits::sealed_of(bytes),
            Sending::Direct => 0,
        };
        let limits = Limits { files, bytes, sealed, trust };
        let folder = Folder::new(folder, links)?;
        let (listings, cache) = (Listings::default(), Cache::new(limits));
        Ok(Site { folder, dot_names, sending, listings, cache })
    }

    /// The cache of served files.
    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Answers a request for a file that was served before, unless the file system must be looked at.
    pub(super) fn cached_answer(&self, site_request: &SiteRequest) -> Option<Answer> {
        let path = site_request.request.uri().path();
        let entry =
            self.cache.find(path, site_request.now).filter(|_| site_request.is_allowed())?;
        Some(finished(site_request, file_answer(site_request, &entry)))
    }

    /// Answers a request. Blocks.
    pub(super) fn answer(&self, site_request: &SiteRequest) -> Answer {
        if !site_request.is_allowed() {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED);
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let answer = self.respond(site_request).unwrap_or_else(|error| {
            self.cache.forget(site_request.request.uri().path());
            refusal(&error)
        });
        finished(site_request, answer)
    }

    fn respond(&self, site_request: &SiteRequest) -> io::Result<Answer> {
        let url = site_request.request.uri();
        let Some(target) = Target::parse(url.path(), self.dot_names) else {
            return Ok(plain(StatusCode::NOT_FOUND));
        };
        let root = self.folder.open()?;
        match (root.find(target.path())?, target.kind) {
            (Found::File(file), Kind::File) => self.open_answer(site_request, target.path(), file),
            (Found::Folder, Kind::Folder) => self.folder_answer(site_request, &root, &target),
            (Found::Folder, Kind::File) => Ok(redirection(&target, url.query())),
            (Found::File(_), Kind::Folder) | (Found::Other, _) => Err(Errno::NOENT.into()),
        }
    }

    /// The folder's index, or else its listing.
    fn folder_answer(
        &self,
        site_request: &SiteRequest,
        root: &Root,
        target: &Target,
    ) -> io::Result<Answer> {
        let index = target.path().join(INDEX);
        match root.find(&index) {
            Ok(Found::File(file)) => return self.open_answer(site_request, &index, file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(Found::Folder | Found::Other) | Err(_) => {}
        }
        self.cache.forget(site_request.request.uri().path());
        if let Some(answer) = conditional(site_request, &Validators::default(), None) {
            return Ok(answer);
        }
        let (folder, mut entries) = root.entries(target.path())?;
        entries.retain(|entry| self.dot_names.allow(&entry.name));
        let mut page = FileBody::default();
        page.push_bytes(listing::head(&target.url()));
        page.push_bytes(Bytes::from_owner(self.listings.links(folder, &entries)));
        page.push_bytes(listing::END);
        let kind = HeaderValue::from_static("text/html; charset=utf-8");
        Ok(content_response(StatusCode::OK, kind, page))
    }

    /// The answer for an open file, which is kept for the next requests.
    fn open_answer(
        &self,
        site_request: &SiteRequest,
        path: &Path,
        file: File,
    ) -> io::Result<Answer> {
        let (url, now) = (site_request.request.uri().path(), site_request.now);
        let file = match self.sending {
            Sending::Copied => SharedFile::new(file)?,
            Sending::Direct => SharedFile::immutable(file)?,
        };
        let entry = match self.cache.confirm(url, file.metadata(), now) {
            Some(entry) => {
                // The file is requested repeatedly.
                self.cache.seal(url, &entry);
                entry
            }
            None => {
                let kind = mime_guess::from_path(path).first_raw().unwrap_or(UNKNOWN);
                let entry = Arc::new(Entry::new(file, kind, now)?);
                self.cache.keep(url, &entry);
                entry
            }
        };
        if matches!(entry.contents(), Contents::OnDisk) {
            // Ignored: an error costs only the read-ahead.
            let _ = fadvise(entry.file().file(), 0, Some(AHEAD), Advice::WillNeed);
        }
        Ok(file_answer(site_request, &entry))
    }
}

/// The answer, without its body for a HEAD.
fn finished(site_request: &SiteRequest, mut answer: Answer) -> Answer {
    if site_request.is_head() {
        let length = answer.body().length();
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        *answer.body_mut() = FileBody::default();
    }
    answer
}

/// The answer for a file: the whole, its ranges, or the outcome of the conditions.
fn file_answer(site_request: &SiteRequest, entry: &Entry) -> Answer {
    let (size, kind, validators) = (entry.size(), &entry.kind, &entry.validators);
    if let Some(answer) = conditional(site_request, validators, entry.etag.as_ref()) {
        return answer;
    }
    let headers = site_request.request.headers();
    let has_ranges = site_request.request.method() == Method::GET
        && conditions::range_applies(headers, validators);
    let wanted = if has_ranges { ranges::requested_ranges(headers, size) } else { Wanted::Whole };
    let mut content = FileBody::default();
    let mut answer = match wanted {
        Wanted::Whole => {
            push(&mut content, entry, 0..size);
            content_response(StatusCode::OK, kind.clone(), content)
        }
        Wanted::Unsatisfiable => {
            let mut answer = plain(StatusCode::RANGE_NOT_SATISFIABLE);
            set_header(&mut answer, header::CONTENT_RANGE, format!("bytes */{size}"));
            answer
        }
        Wanted::Parts(parts) => match &*parts {
            [part] => {
                push(&mut content, entry, part.clone());
                let mut answer =
                    content_response(StatusCode::PARTIAL_CONTENT, kind.clone(), content);
                let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                set_header(&mut answer, header::CONTENT_RANGE, range);
                answer
            }
            parts => {
                // Random, because it must not occur in the file.
                let boundary = format!("{:016x}", site_request.random);
                let kind = kind.to_str().unwrap_or(UNKNOWN);
                for part in parts {
                    let (first, last) = (part.start, part.end - 1);
                    content.push_bytes(format!(
                        "\r\n--{boundary}\r\nContent-Type: {kind}\r\n\
                         Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
                    ));
                    push(&mut content, entry, part.clone());
                }
                content.push_bytes(format!("\r\n--{boundary}--\r\n"));
                let kind = header_value(&format!("multipart/byteranges; boundary={boundary}"));
                content_response(StatusCode::PARTIAL_CONTENT, kind, content)
            }
        },
    };
    answer.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if answer.status().is_success() {
        let etag = entry.etag.clone().map(|value| (header::ETAG, value));
        let modified = entry.modified.clone().map(|value| (header::LAST_MODIFIED, value));
        answer.headers_mut().extend(etag.into_iter().chain(modified));
    }
    answer
}

fn push(content: &mut FileBody, entry: &Entry, range: Range<u64>) {
    match entry.contents() {
        // Contents are as long as the file.
        Contents::Bytes(bytes) => {
            content.push_bytes(bytes.slice(range.start as usize..range.end as usize));
        }
        Contents::Sealed(copy) => content.push_file(&copy, range),
        Contents::OnDisk => content.push_file(entry.file(), range),
    }
}

/// The answer to a request whose conditions rule out the content: RFC 9110, 13.
fn conditional(
    site_request: &SiteRequest,
    validators: &Validators,
    etag: Option<&HeaderValue>,
) -> Option<Answer> {
    match conditions::evaluate(site_request.request.headers(), validators) {
        Verdict::Proceed => None,
        Verdict::Failed => Some(plain(StatusCode::PRECONDITION_FAILED)),
        Verdict::NotModified => {
            let mut answer = Response::new(FileBody::default());
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer.headers_mut().extend(etag.map(|value| (header::ETAG, value.clone())));
            Some(answer)
        }
    }
}

/// Redirects to the folder's URL with its trailing slash.
fn redirection(target: &Target, query: Option<&str>) -> Answer {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut answer = plain(StatusCode::TEMPORARY_REDIRECT);
    set_header(&mut answer, header::LOCATION, target.url() + &query);
    answer
}

/// The answer for a system error.
fn refusal(error: &io::Error) -> Answer {
    plain(match Errno::from_io_error(error) {
        Some(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::ILSEQ
            | Errno::NXIO
            | Errno::NODEV,
        ) => StatusCode::NOT_FOUND,
        Some(Errno::ACCESS | Errno::PERM) => StatusCode::FORBIDDEN,
        _ => {
            tracing::warn!(%error, "cannot answer a request");
            StatusCode::SERVICE_UNAVAILABLE
        }
    })
}

/// A plain-text answer with the meaning of the status.
pub(super) fn plain(status: StatusCode) -> Answer {
    let meaning = status.canonical_reason().unwrap_or("error").to_lowercase();
    document(status, "text/plain; charset=utf-8", meaning + "\n")
}

fn document(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut content = FileBody::default();
    content.push_bytes(text);
    content_response(status, HeaderValue::from_static(kind), content)
}

fn content_response(status: StatusCode, kind: HeaderValue, content: FileBody) -> Answer {
    let mut answer = Response::new(content);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// The type of a file, unless HTTP does not allow it.
fn header_value(kind: &str) -> HeaderValue {
    HeaderValue::from_str(kind).unwrap_or(HeaderValue::from_static(UNKNOWN))
}

/// Sets a header, unless HTTP does not allow the value.
fn set_header(answer: &mut Answer, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        answer.headers_mut().insert(name, value);
    }
}
