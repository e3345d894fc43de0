//! Redirects: RFC 9110, 15.4.
//!
//! Contract: 177.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, LOCATION, PROXY_AUTHORIZATION,
};
use http::{Method, Response, StatusCode, Uri, uri};

use super::pool::Origin;
use super::{HttpError, PendingRequest};
use crate::url::encode;

/// Applies a redirect to the request; returns false if the response is not one.
pub(super) fn apply<B>(
    pending: &mut PendingRequest,
    answer: &Response<B>,
) -> Result<bool, HttpError> {
    let drops_body = match answer.status() {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => pending.method == Method::POST,
        StatusCode::SEE_OTHER => pending.method != Method::HEAD,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => false,
        _ => return Ok(false),
    };
    let Some(location) = answer.headers().get(LOCATION) else { return Ok(false) };
    let unclear = || HttpError::Url(String::from_utf8_lossy(location.as_bytes()).into_owned());
    // Servers send any bytes.
    let reference = encode(location.as_bytes()).ok_or_else(unclear)?;
    let to = resolve(&pending.uri, &reference).ok_or_else(unclear)?;
    if Origin::from_uri(&to)? != Origin::from_uri(&pending.uri)? {
        // Credentials for one server must not reach another.
        for secret in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
            pending.headers.remove(secret);
        }
        pending.headers.remove(http::header::HOST);
    }
    if drops_body {
        pending.method = Method::GET;
        pending.body = Bytes::new();
        pending.headers.remove(CONTENT_LENGTH);
        pending.headers.remove(CONTENT_TYPE);
    }
    pending.uri = to;
    Ok(true)
}

/// Resolves an encoded reference against its base URL: RFC 3986, 5.2.
fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme()?, base.authority()?);
    if has_scheme(reference) {
        return reference.parse().ok();
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let path = match path {
        "" => base.path().to_owned(),
        path if path.starts_with('/') => remove_dot_segments(path),
        path => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            remove_dot_segments(&format!("{folder}/{path}"))
        }
    };
    let query = match (query, reference) {
        (Some(query), _) => format!("?{query}"),
        (None, "") => base.query().map(|query| format!("?{query}")).unwrap_or_default(),
        (None, _) => String::new(),
    };
    let whole = uri::Builder::new().scheme(scheme.clone()).authority(authority.clone());
    whole.path_and_query(path + &query).build().ok()
}

/// Whether a reference begins with a scheme: RFC 3986, 3.1.
fn has_scheme(reference: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    reference.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(is_letter)
    })
}

/// Removes dot segments: RFC 3986, 5.2.4.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." if is_last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_as_in_rfc_3986_section_5_4() {
        let base = "http://a/b/c/d;p?q".parse().expect("a URL");
        let cases = [
            ("http://g/h", "http://g/h"),
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g/x", "http://g/x"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("g?y#s", "http://a/b/c/g?y"),
            ("ä?ö", "http://a/b/c/%c3%a4?%c3%b6"),
            ("/ä b", "http://a/%c3%a4%20b"),
            ("//g/ä", "http://g/%c3%a4"),
            ("http://g/ä", "http://g/%c3%a4"),
            ("#s", "http://a/b/c/d;p?q"),
            (";x", "http://a/b/c/;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g..", "http://a/b/c/g.."),
            ("./g/.", "http://a/b/c/g/"),
            ("g/../h", "http://a/b/c/h"),
        ];
        for (reference, expected) in cases {
            let encoded = encode(reference.as_bytes()).expect("a reference");
            let resolved = resolve(&base, &encoded).map(|uri| uri.to_string());
            assert_eq!(resolved.as_deref(), Some(expected), "{reference:?}");
        }
        assert_eq!(resolve(&base, "http://[broken"), None);
    }
}
