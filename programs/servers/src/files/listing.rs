//! The listing of a folder as an HTML page.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use percent_encoding::percent_decode_str;

use super::beneath::Entry;
use super::path::encoded;

/// The end of a page, after its links.
pub(super) const END: &str = "</ul>\n";

/// The device and inode of a folder.
pub(super) type FolderId = (u64, u64);

/// The links of the pages that are being sent. A client may request the page of a long folder many
/// times and read none of them, so all answers use the same memory.
#[derive(Default)]
pub(super) struct Listings {
    shared: Mutex<BTreeMap<FolderId, Weak<[u8]>>>,
}

impl Listings {
    /// The links to these entries: shared with an answer that has the same ones.
    pub(super) fn links(&self, folder: FolderId, entries: &[Entry]) -> Arc<[u8]> {
        let links = links(entries).into_bytes();
        let found = self.lock().get(&folder).and_then(Weak::upgrade);
        if let Some(found) = found
            && *found == *links
        {
            return found;
        }
        let links = Arc::from(links);
        let mut shared = self.lock();
        shared.retain(|_, others| others.strong_count() > 0);
        shared.insert(folder, Arc::downgrade(&links));
        links
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FolderId, Weak<[u8]>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The beginning of a page, with a link to the parent unless this is the top folder.
pub(super) fn head(path: &str) -> String {
    let title = escaped(&percent_decode_str(path).decode_utf8_lossy());
    let mut page = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<h1>{title}</h1>\n<ul>\n"
    );
    if path != "/" {
        page.push_str("<li><a href=\"../\">../</a>\n");
    }
    page
}

fn links(entries: &[Entry]) -> String {
    let mut links = String::new();
    for Entry { name, kind } in entries {
        let slash = kind.suffix();
        let (link, text) = (encoded(name), escaped(&String::from_utf8_lossy(name)));
        // Without the `./`, a colon in the name would end a scheme.
        let _ = writeln!(links, "<li><a href=\"./{link}{slash}\">{text}{slash}</a>");
    }
    links
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
    use crate::files::path::Kind;

    #[test]
    fn names_are_harmless_in_a_page() {
        let entry = |name: &[u8], kind| Entry { name: name.to_owned(), kind };
        let entries = [
            entry(b"javascript:1", Kind::File),
            entry(b"<b>\"&", Kind::Folder),
            entry(b"\xff", Kind::File),
        ];
        let page = head("/%3Ci%3E/") + &links(&entries) + END;
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

    #[test]
    fn answers_with_the_same_links_share_them_while_they_exist() {
        let listings = Listings::default();
        let entries = |name: &[u8]| [Entry { name: name.to_owned(), kind: Kind::File }];
        let (here, there) = ((1, 1), (1, 2));
        let first = listings.links(here, &entries(b"a"));
        assert!(Arc::ptr_eq(&first, &listings.links(here, &entries(b"a"))));
        let changed = listings.links(here, &entries(b"b"));
        assert_eq!(&*changed, b"<li><a href=\"./b\">b</a>\n");
        assert_eq!(&*first, b"<li><a href=\"./a\">a</a>\n");
        drop((first, changed));
        let _other = listings.links(there, &entries(b"c"));
        assert_eq!(listings.lock().keys().collect::<Vec<_>>(), [&there]);
    }
}
