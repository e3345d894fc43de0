//! Maps the path of a URL to a path below the served folder: RFC 3986, 3.3.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// Characters that are percent-encoded in a URL: all but the unreserved ones (RFC 3986, 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A path below the folder. Every component is a plain name: none is `..`, and none contains a
/// slash or NUL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Relative to the folder; empty for the folder itself.
    path: PathBuf,
    /// A folder if the URL ends with a slash.
    pub(super) kind: Kind,
}

/// The kinds of names that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    File,
    Folder,
}

impl Kind {
    /// The end of the name in a URL.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Kind::File => "",
            Kind::Folder => "/",
        }
    }
}

/// The treatment of names that begin with a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DotNames {
    /// As if they did not exist.
    Hidden,
    /// Like others.
    Served,
}

impl DotNames {
    pub(super) fn allow(self, name: &[u8]) -> bool {
        self == DotNames::Served || !name.starts_with(b".")
    }
}

impl Target {
    /// Parses the path of a URL. `None` if the path leads out of the folder, can't name a file, or
    /// has a hidden name.
    pub(super) fn parse(path: &str, dot_names: DotNames) -> Option<Target> {
        let mut below = PathBuf::new();
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            let name: Vec<u8> = percent_decode_str(segment).collect();
            let is_plain = !matches!(&*name, b"." | b"..") && !name.iter().any(is_forbidden);
            if !is_plain || !dot_names.allow(&name) {
                return None;
            }
            below.push(OsStr::from_bytes(&name));
        }
        let kind = if path.ends_with('/') { Kind::Folder } else { Kind::File };
        Some(Target { path: below, kind })
    }

    /// The path relative to the folder.
    pub(super) fn path(&self) -> &Path {
        if self.path.as_os_str().is_empty() { Path::new(".") } else { &self.path }
    }

    /// The URL's path in the form for a folder, with a single slash at the beginning: after two, a
    /// client would take the next name for a host.
    pub(super) fn url(&self) -> String {
        let names = self.path.iter().map(|name| encoded(name.as_bytes()) + "/");
        names.fold("/".to_owned(), |url, name| url + &name)
    }
}

/// Encodes a name as a segment of a URL's path.
pub(super) fn encoded(name: &[u8]) -> String {
    percent_encode(name, ENCODED).to_string()
}

fn is_forbidden(byte: &u8) -> bool {
    matches!(byte, b'/' | 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_nowhere_else() {
        let to =
            |path| Target::parse(path, DotNames::Hidden).map(|target| target.path().to_owned());
        for (path, below) in [
            ("/", "."),
            ("", "."),
            ("//", "."),
            ("/a/b%20c/", "a/b c"),
            ("//etc/", "etc"),
            ("/a//b", "a/b"),
            ("/a..b/...c", "a..b/...c"),
            ("/%", "%"),
            ("/%5c..%5cx", "\\..\\x"),
        ] {
            let allowed =
                Target::parse(path, DotNames::Served).map(|target| target.path().to_owned());
            assert_eq!(allowed, Some(below.into()), "{path}");
        }
        assert_eq!(to("/%ff"), Some(OsStr::from_bytes(b"\xff").into()));
        for path in
            ["/../", "/a/../../", "/%2e%2e/", "/a/%2e%2e%2fb", "/%2fetc", "/a%00", "/.", "/a/./b"]
        {
            assert_eq!(Target::parse(path, DotNames::Served), None, "{path}");
            assert_eq!(to(path), None, "{path}");
        }
    }

    #[test]
    fn hidden_names_are_allowed_only_if_asked_for() {
        for path in ["/.git/config", "/a/.b", "/%2egit", "/...c"] {
            assert_eq!(Target::parse(path, DotNames::Hidden), None, "{path}");
            assert!(Target::parse(path, DotNames::Served).is_some(), "{path}");
        }
    }

    #[test]
    fn the_url_of_a_folder_has_no_host() {
        for (path, url) in [
            ("//evil.test", "/evil.test/"),
            ("///evil.test/a", "/evil.test/a/"),
            ("/%5cevil.test", "/%5Cevil.test/"),
            ("/a b/%c3%a4?", "/a%20b/%C3%A4%3F/"),
            ("/", "/"),
        ] {
            let target = Target::parse(path, DotNames::Hidden);
            assert_eq!(target.map(|target| target.url()), Some(url.into()));
        }
    }
}
