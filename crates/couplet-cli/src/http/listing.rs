//! What is in a folder, as a page.

use std::convert::Infallible;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use couplet::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tower::{Service, service_fn};

/// What need not be encoded in a path (RFC 3986, 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

type Page = Response<Full<Bytes>>;

/// Answers for what is no file: with the folder of that path, or with 404.
pub(super) fn service<B: Send + 'static>(
    folder: PathBuf,
) -> impl Service<
    Request<B>,
    Response = Page,
    Error = Infallible,
    Future = impl Future<Output = Result<Page, Infallible>> + Send,
> + Clone {
    service_fn(move |request: Request<B>| {
        let (path, folder) = (request.uri().path().to_owned(), folder.clone());
        let is_asked = matches!(*request.method(), Method::GET | Method::HEAD);
        async move {
            let Some(inside) = below(&folder, &path).filter(|_| is_asked) else {
                return Ok(missing());
            };
            // A folder may be on a slow disk.
            let reading = tokio::task::spawn_blocking(move || entries(&inside));
            Ok(match reading.await {
                Ok(Ok(entries)) => listing(&path, &entries),
                _ => missing(),
            })
        }
    })
}

/// The folder of a path that ends with a slash; `None` for one that leads elsewhere.
fn below(folder: &Path, path: &str) -> Option<PathBuf> {
    let path = path.strip_suffix('/')?;
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    let relative = Path::new(decoded.trim_start_matches('/'));
    let is_plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    (is_plain && !decoded.contains('\0')).then(|| folder.join(relative))
}

/// The names in a folder, in order; folders end with a slash. Hidden ones are left out.
fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // What is not UTF-8 has no URL that would lead to it.
        let Ok(mut name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        if entry.path().is_dir() {
            name.push('/');
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

fn listing(path: &str, entries: &[String]) -> Page {
    let title = escaped(&percent_decode_str(path).decode_utf8_lossy());
    let mut page = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<h1>{title}</h1>\n<ul>\n"
    );
    if path != "/" {
        page.push_str("<li><a href=\"../\">../</a>\n");
    }
    for name in entries {
        let (plain, slash) = name.strip_suffix('/').map_or((&**name, ""), |plain| (plain, "/"));
        let link = utf8_percent_encode(plain, ENCODED);
        // A name with a colon would be a scheme.
        let _ = writeln!(page, "<li><a href=\"./{link}{slash}\">{}</a>", escaped(name));
    }
    page.push_str("</ul>\n");
    let mut answer = Response::new(Full::from(page));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, html);
    answer
}

fn missing() -> Page {
    let mut answer = Response::new(Full::from("not found\n"));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_nowhere_else() {
        let folder = Path::new("/srv");
        let to = |path| below(folder, path).map(|path| path.display().to_string());
        assert_eq!(to("/").as_deref(), Some("/srv/"));
        assert_eq!(to("/a/b%20c/").as_deref(), Some("/srv/a/b c"));
        for path in ["/a", "/../", "/a/../../", "/%2e%2e/", "/%2e%2e%2f/", "/a%00/", "/%ff/"] {
            assert_eq!(to(path), None, "{path}");
        }
        assert_eq!(to("//etc/").as_deref(), Some("/srv/etc"));
    }

    #[test]
    fn names_are_harmless_in_a_page() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
        let page = listing("/", &["javascript:1".to_owned(), "a b/".to_owned()]);
        assert_eq!(page.status(), StatusCode::OK);
    }
}
