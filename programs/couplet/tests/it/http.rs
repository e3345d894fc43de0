//! `couplet serve` and `couplet get`, against each other and against curl.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::kit::{
    Client, Ended, Running, Server, TempFile, couplet, noise, run, serve_raw, wait_until,
};
use crate::needed::Folder;

/// A folder with these files.
pub(crate) struct Site(pub(crate) Folder);

impl Site {
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Site {
        let folder = Folder::new();
        files.iter().for_each(|(name, bytes)| drop(folder.write(name, bytes)));
        Site(folder)
    }

    pub(crate) fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, options: &[&str]) -> Server {
        Server::start(&[&["serve", self.0.to_str().unwrap()], options].concat())
    }
}

pub(crate) fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.address())
}

#[test]
fn files_come_whole_and_folders_as_lists() {
    let much = noise(3_000_000);
    let files: [(&str, &[u8]); 5] = [
        ("much", &much),
        ("empty", b""),
        ("a b/<c>&.txt", b"text"),
        ("a b/.hidden", b"secret"),
        ("page/index.html", b"<p>a page"),
    ];
    let site = Site::new(&files);
    let server = site.serve();
    for (path, bytes) in [("/much", &much[..]), ("/empty", b""), ("/page/", b"<p>a page")] {
        let got = run(&["get", &url(&server, path)]);
        got.quietly(0);
        assert!(got.stdout == bytes, "{path}: {} bytes", got.stdout.len());
    }
    // A URL of a folder without a slash is redirected.
    let list = run(&["get", &url(&server, "/a%20b")]);
    list.quietly(0);
    let link = "<a href=\"./%3Cc%3E%26.txt\">&lt;c&gt;&amp;.txt</a>";
    assert!(list.text().contains(link) && !list.text().contains("hidden"), "{}", list.text());
    let got = run(&["get", &url(&server, "/a%20b/%3Cc%3E%26.txt")]);
    assert_eq!(got.text(), "text");
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn missing_files_are_404_and_files_outside_the_folder_are_not_served() {
    let site = Site::new(&[("a", b"a")]);
    let server = site.serve();
    for path in ["/b", "/../", "/%2e%2e/%2e%2e/etc/passwd", "/b/../../../../etc/passwd"] {
        let ended = run(&["get", &url(&server, path)]);
        assert_eq!(ended.code, Some(1), "{path}");
        assert_eq!(ended.text(), "not found\n", "{path}");
        let said = format!("couplet: {}: 404 Not Found\n", url(&server, path));
        assert_eq!(ended.stderr, said);
    }
}

#[test]
fn curl_gets_ranges_dates_and_either_version() {
    needs!("curl");
    let site = Site::new(&[("digits", b"0123456789")]);
    let server = site.serve();
    let curl = |words: &[&str]| {
        let words = [&["--silent", "--max-time", "20", "--noproxy", "*"], words].concat();
        let out = Command::new("curl").args(words).arg(url(&server, "/digits")).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(curl(&["--range", "2-4"]), "234");
    assert_eq!(curl(&["--range", "-3"]), "789");
    assert_eq!(curl(&["--http2-prior-knowledge"]), "0123456789");
    let newer = ["-H", "If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT", "-w", "%{http_code}"];
    assert_eq!(curl(&newer), "304");
    let behind = ["--range", "99-", "--write-out", "%{http_code}"];
    assert_eq!(curl(&behind), "range not satisfiable\n416");
    let post = ["--data", "x", "--write-out", "%{http_code}", "--output", "/dev/null"];
    assert!(["404", "405"].contains(&&*curl(&post)), "{}", curl(&post));
}

#[test]
fn an_answer_goes_where_it_is_asked_to() {
    let site = Site::new(&[("a", b"a")]);
    let server = site.serve();
    let file = TempFile::new(b"old and longer");
    run(&["get", "-o", file.path(), &url(&server, "/a")]).quietly(0);
    assert_eq!(std::fs::read(file.path()).unwrap(), b"a");
    for option in ["-i", "-I"] {
        let ended = run(&["get", option, &url(&server, "/a")]);
        let (head, body) = ended.text().split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-length: 1"));
        assert_eq!(body, if option == "-i" { "a" } else { "" });
    }
    // The scheme may be omitted.
    assert_eq!(run(&["get", &format!("{}/a", server.address())]).text(), "a");
    let full = couplet(&["get", &url(&server, "/a")]).stdout(full()).output().unwrap();
    let said = String::from_utf8(full.stderr).unwrap();
    assert_eq!(said, "couplet: cannot write to stdout: no space left on device\n");
}

fn full() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn only_the_option_requests_and_decodes_compressed_answers() {
    // "a poem\n", compressed by gzip.
    const GZIP: [u8; 27] = [
        31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 75, 84, 40, 200, 79, 205, 229, 2, 0, 188, 111, 12, 83, 7,
        0, 0, 0,
    ];
    let asked_for = |name: &str| {
        let server = serve_raw(|mut client: Client| {
            let mut head = Vec::new();
            while head.last().map(String::as_str) != Some("\r") {
                head.push(client.read_line());
            }
            let asks = head.iter().any(|line| line.starts_with("accept-encoding: zstd, br, gzip"));
            let kind = if asks { "asked" } else { "not-asked" };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nX-Kind: {kind}\r\nContent-Encoding: gzip\r\n\
                 Content-Length: {}\r\n\r\n",
                GZIP.len()
            );
            client.send(&[answer.as_bytes(), &GZIP].concat());
        });
        let options = if name.is_empty() { &["get", "-i"][..] } else { &["get", "-i", name] };
        run(&[options, &[&format!("http://{server}/")]].concat())
    };
    let plain = asked_for("");
    assert!(plain.stdout.ends_with(&GZIP) && plain.code == Some(0), "{plain:?}");
    assert!(plain.stdout.windows(9).any(|bytes| bytes == b"not-asked"), "{plain:?}");
    let decoded = asked_for("--compressed");
    let (head, body) = decoded.text().split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(": asked") && !head.contains("content-"), "{head}");
    assert_eq!((body, decoded.code), ("a poem\n", Some(0)));
}

#[test]
fn a_slow_answer_ends_with_ctrl_c() {
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = has_asked.clone();
    let slow = serve_raw(move |mut client: Client| {
        while client.read_line() != "\r" {}
        asked.store(true, Ordering::Relaxed);
        client.send(b"HTTP/1.1 200 OK\r\n\r\nbegun");
        let _ = client.read_to_end();
    });
    let mut getting = Running::start(&mut couplet(&["get", &format!("http://{slow}/")]));
    // The signal handlers are installed by then. Counting sockets would not do: one may be theirs.
    wait_until("it has asked", || has_asked.load(Ordering::Relaxed));
    getting.signal(Signal::INT);
    assert_eq!(getting.ended().code, Some(130));
}

/// Runs `couplet get` against a server that reads a head and sends `answer`.
fn get_of(options: &[&str], answer: &'static [u8]) -> Ended {
    let server = serve_raw(move |mut client: Client| {
        while client.read_line() != "\r" {}
        client.send(answer);
    });
    run(&[&["get"], options, &[&format!("http://{server}/")]].concat())
}

#[test]
fn an_answer_that_is_not_whole_or_not_asked_for_is_an_error() {
    let (is_cut, surplus) = ("connection closed before", "more bytes arrived than");
    let (switched, coded) = ("switched protocols", "cannot be decoded");
    for (options, answer, printed, expected) in [
        (&[][..], &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"[..], "half", "end of file"),
        (&[], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "half", ""),
        (&[], b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone and more", "done", surplus),
        (&[], b"HTTP/1.1 200 O", "", is_cut),
        (&[], b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "", switched),
        (&["--compressed"], b"HTTP/1.1 200 OK\r\nContent-Encoding: lzma\r\n\r\nxxx", "", coded),
        (&["--compressed"], b"HTTP/1.1 200 OK\r\nContent-Encoding: br, gzip\r\n\r\nxxx", "", coded),
    ] {
        let ended = get_of(options, answer);
        let said = String::from_utf8_lossy(answer);
        assert_eq!((ended.code, ended.text()), (Some(1), printed), "{said}");
        assert!(ended.stderr.starts_with("couplet: http://127."), "{said}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{said}: {}", ended.stderr);
    }
    // Identity is not a coding, and without `--compressed` the bytes are printed as sent.
    let plain = b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\n\r\nplain";
    get_of(&["--compressed"], plain).quietly(0);
    let packed = get_of(&[], b"HTTP/1.1 200 OK\r\nContent-Encoding: lzma\r\n\r\nxxx");
    assert_eq!((packed.code, packed.text()), (Some(0), "xxx"));
    for url in ["http://localhost:99999/", "localhost:65536", "https://[::1]:0/"] {
        run(&["get", url]).says(1, "is out of range: ports are 1 to 65535");
    }
}

#[test]
fn pieces_that_have_arrived_are_printed_together() {
    const PIECES: usize = 30_000;
    let server = serve_raw(move |mut client: Client| {
        while client.read_line() != "\r" {}
        client.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(&b"1\r\nx\r\n".repeat(PIECES));
        let _ = client.read_to_end();
    });
    let file = TempFile::new(b"");
    let url = format!("http://{server}/");
    let mut getting = Running::start(&mut couplet(&["get", "-o", file.path(), &url]));
    let written = || std::fs::metadata(file.path()).map_or(0, |file| file.len());
    wait_until("all pieces are printed", || written() == PIECES as u64);
    let counts = std::fs::read_to_string(format!("/proc/{}/io", getting.pid())).unwrap();
    let writes = counts.lines().find_map(|line| line.strip_prefix("syscw: ")).unwrap();
    let writes: usize = writes.parse().unwrap();
    assert!(writes < PIECES / 10, "{writes} writes of {PIECES} pieces");
    getting.signal(Signal::INT);
    assert_eq!(getting.ended().code, Some(130));
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for (words, said) in [
        (&["get", "ftp://a/"][..], "ftp: is not supported: only http: and https: URLs can be"),
        (&["get", "a b"], "expected a URL, as in https://example.com/"),
        (&["get", "http://"], "'http://'"),
        (&["get", "--proxy", "nowhere", "http://a/"], "expected a host and a port"),
    ] {
        run(words).says(2, said);
    }
    let ended = run(&["serve", "/nowhere"]);
    assert_eq!(ended.stderr, "couplet: cannot serve /nowhere: no such file or directory\n");
    assert_eq!(ended.code, Some(1));
}
