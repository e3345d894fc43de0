//! The listing of a folder as an HTML page.

use std::fmt::Write;

use percent_encoding::percent_decode_str;

use super::beneath::Entry;
use super::path::encoded;

/// Renders a page with a link to each entry, and to the parent unless this is the top folder.
pub(super) fn page(path: &str, entries: &[Entry]) -> String {
    let title = escaped(&percent_decode_str(path).decode_utf8_lossy());
    let mut page = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<h1>{title}</h1>\n<ul>\n"
    );
    if path != "/" {
        page.push_str("<li><a href=\"../\">../</a>\n");
    }
    for Entry { name, kind } in entries {
        let slash = kind.suffix();
        let (link, text) = (encoded(name), escaped(&String::from_utf8_lossy(name)));
        // Without the `./`, a colon in the name would end a scheme.
        let _ = writeln!(page, "<li><a href=\"./{link}{slash}\">{text}{slash}</a>");
    }
    page.push_str("</ul>\n");
    page
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
    use crate::http::path::Kind;

    #[test]
    fn names_are_harmless_in_a_page() {
        let entry = |name: &[u8], kind| Entry { name: name.to_owned(), kind };
        let entries = [
            entry(b"javascript:1", Kind::File),
            entry(b"<b>\"&", Kind::Folder),
            entry(b"\xff", Kind::File),
        ];
        let page = page("/%3Ci%3E/", &entries);
        let lines: Vec<_> = page.lines().skip(3).collect();
        assert_eq!(
            lines,
            [
                "<title>/&lt;i&gt;/</title>",
                "<h1>/&lt;i&gt;/</h1>",
                "<ul>",
                "<li><a href=\"../\">../</a>",
                "<li><a href=\"./javascript%3A1\">javascript:1</a>",
                "<li><a href=\"./%3Cb%3E%22%26/\">&lt;b&gt;&quot;&amp;/</a>",
                "<li><a href=\"./%FF\">\u{fffd}</a>",
                "</ul>",
            ]
        );
    }
}
