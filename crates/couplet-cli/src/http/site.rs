//! The answers of `couplet serve`: files, their ranges, folder listings, redirects and refusals.
//!
//! This code may wait for a disk, so it runs in a thread.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use couplet::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use rustix::io::Errno;

use super::beneath::{Folder, Found, Links, Root};
use super::conditions::{self, Validators, Verdict};
use super::content::{Content, Version};
use super::listing::{self, Listings};
use super::path::{DotNames, Kind, Target};
use super::ranges::{self, Wanted};

/// The file that is served for its folder.
const INDEX: &str = "index.html";

/// The served folder and the rules for its names.
pub(super) struct Site {
    folder: Folder,
    dot_names: DotNames,
    listings: Listings,
}

/// A request without its body, and the values that the answer needs from the loop.
pub(super) struct SiteRequest {
    pub(super) request: Request<()>,
    /// Time since 1970.
    pub(super) now: Duration,
    pub(super) random: u64,
    /// Most bytes of the answer that are read in the same job.
    pub(super) ahead: usize,
}

type Answer = Response<Content>;

impl Site {
    /// # Errors
    ///
    /// If the path is not a folder, or can't be read.
    pub(super) fn new(folder: &Path, links: Links, dot_names: DotNames) -> io::Result<Site> {
        let folder = Folder::new(folder, links)?;
        Ok(Site { folder, dot_names, listings: Listings::default() })
    }

    /// Answers a request. Blocks.
    pub(super) fn answer(&self, site_request: &SiteRequest) -> Answer {
        let is_head = site_request.request.method() == Method::HEAD;
        if !is_head && site_request.request.method() != Method::GET {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED);
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let mut answer = self.respond(site_request).unwrap_or_else(|error| refusal(&error));
        if is_head {
            let length = answer.body().length();
            answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            return answer.map(|_| Content::default());
        }
        match answer.body_mut().read_ahead(site_request.ahead) {
            Ok(()) => answer,
            Err(error) => refusal(&error),
        }
    }

    fn respond(&self, site_request: &SiteRequest) -> io::Result<Answer> {
        let url = site_request.request.uri();
        let Some(target) = Target::parse(url.path(), self.dot_names) else {
            return Ok(plain(StatusCode::NOT_FOUND));
        };
        let root = self.folder.open()?;
        match (root.find(target.path())?, target.kind) {
            (Found::File(file, metadata), Kind::File) => {
                Ok(file_answer(site_request, target.path(), file, metadata))
            }
            (Found::Folder, Kind::Folder) => self.folder_answer(site_request, &root, &target),
            (Found::Folder, Kind::File) => Ok(redirection(&target, url.query())),
            (Found::File(..), Kind::Folder) | (Found::Other, _) => Ok(plain(StatusCode::NOT_FOUND)),
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
            Ok(Found::File(file, metadata)) => {
                return Ok(file_answer(site_request, &index, file, metadata));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(Found::Folder | Found::Other) | Err(_) => {}
        }
        if let Some(answer) = conditional(site_request, &Validators::default()) {
            return Ok(answer);
        }
        let (folder, mut entries) = root.entries(target.path())?;
        entries.retain(|entry| self.dot_names.allow(&entry.name));
        let mut page = Content::default();
        page.push_bytes(listing::head(&target.url()));
        page.push_bytes(Bytes::from_owner(self.listings.links(folder, &entries)));
        page.push_bytes(listing::END);
        Ok(content_response(StatusCode::OK, "text/html; charset=utf-8", page))
    }
}

/// The answer for a file: the whole, its ranges, or the outcome of the conditions.
fn file_answer(site_request: &SiteRequest, path: &Path, file: File, metadata: Metadata) -> Answer {
    let validators = Validators::from_metadata(&metadata, site_request.now);
    if let Some(answer) = conditional(site_request, &validators) {
        return answer;
    }
    let kind = mime_guess::from_path(path).first_raw().unwrap_or("application/octet-stream");
    let (size, version) = (metadata.len(), Arc::new(Version::new(file, metadata)));
    let headers = site_request.request.headers();
    let has_ranges = site_request.request.method() == Method::GET
        && conditions::range_applies(headers, &validators);
    let wanted = if has_ranges { ranges::requested_ranges(headers, size) } else { Wanted::Whole };
    let mut content = Content::default();
    let mut answer = match wanted {
        Wanted::Whole => {
            content.push_part(&version, 0..size);
            content_response(StatusCode::OK, kind, content)
        }
        Wanted::Unsatisfiable => {
            let mut answer = plain(StatusCode::RANGE_NOT_SATISFIABLE);
            set_header(&mut answer, header::CONTENT_RANGE, format!("bytes */{size}"));
            answer
        }
        Wanted::Parts(parts) => match &*parts {
            [part] => {
                content.push_part(&version, part.clone());
                let mut answer = content_response(StatusCode::PARTIAL_CONTENT, kind, content);
                let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                set_header(&mut answer, header::CONTENT_RANGE, range);
                answer
            }
            parts => {
                // Random, because it must not occur in the file.
                let boundary = format!("{:016x}", site_request.random);
                for part in parts {
                    let (first, last) = (part.start, part.end - 1);
                    content.push_bytes(format!(
                        "\r\n--{boundary}\r\nContent-Type: {kind}\r\n\
                         Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
                    ));
                    content.push_part(&version, part.clone());
                }
                content.push_bytes(format!("\r\n--{boundary}--\r\n"));
                let kind = format!("multipart/byteranges; boundary={boundary}");
                content_response(StatusCode::PARTIAL_CONTENT, &kind, content)
            }
        },
    };
    answer.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if answer.status().is_success() {
        let etag = validators.etag().map(|value| (header::ETAG, value));
        let modified = validators.last_modified().map(|value| (header::LAST_MODIFIED, value));
        answer.headers_mut().extend(etag.into_iter().chain(modified));
    }
    answer
}

/// The answer to a request whose conditions rule out the content: RFC 9110, 13.
fn conditional(site_request: &SiteRequest, validators: &Validators) -> Option<Answer> {
    match conditions::evaluate(site_request.request.headers(), validators) {
        Verdict::Proceed => None,
        Verdict::Failed => Some(plain(StatusCode::PRECONDITION_FAILED)),
        Verdict::NotModified => {
            let mut answer = Response::new(Content::default());
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer.headers_mut().extend(validators.etag().map(|value| (header::ETAG, value)));
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

fn document(status: StatusCode, kind: &str, text: String) -> Answer {
    let mut content = Content::default();
    content.push_bytes(text);
    content_response(status, kind, content)
}

fn content_response(status: StatusCode, kind: &str, content: Content) -> Answer {
    let mut answer = Response::new(content);
    *answer.status_mut() = status;
    set_header(&mut answer, header::CONTENT_TYPE, kind.to_owned());
    answer
}

/// Sets a header, unless HTTP does not allow the value.
fn set_header(answer: &mut Answer, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        answer.headers_mut().insert(name, value);
    }
}
