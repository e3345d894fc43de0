//! `couplet serve` and `couplet get`, which talk to one another and to curl.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::kit::{
    Client, Running, Server, TempFile, couplet, has, noise, run, serve_raw, wait_until,
};

/// A folder of files, beside a file that is removed with its folder.
struct Site(PathBuf, #[expect(dead_code, reason = "dropped last")] TempFile);

impl Site {
    fn new(files: &[(&str, &[u8])]) -> Site {
        let file = TempFile::new(b"");
        let folder = PathBuf::from(format!("{}-site", file.path()));
        for (name, bytes) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        Site(folder, file)
    }

    fn serve(&self) -> Server {
        Server::start(&["serve", self.0.to_str().unwrap()])
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn url(server: &Server, path: &str) -> String {
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
    // A folder without a slash is redirected to.
    let list = run(&["get", &url(&server, "/a%20b")]);
    list.quietly(0);
    let link = "<a href=\"./%3Cc%3E%26.txt\">&lt;c&gt;&amp;.txt</a>";
    assert!(list.text().contains(link) && !list.text().contains("hidden"), "{}", list.text());
    let got = run(&["get", &url(&server, "/a%20b/%3Cc%3E%26.txt")]);
    assert_eq!(got.text(), "text");
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn what_is_not_there_is_told_and_nothing_outside_is_given() {
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
    if !has("curl") {
        return;
    }
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
    assert_eq!(curl(&["--range", "99-", "--write-out", "%{http_code}"]), "416");
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
    // The scheme goes without saying.
    assert_eq!(run(&["get", &format!("{}/a", server.address())]).text(), "a");
    let full = couplet(&["get", &url(&server, "/a")]).stdout(full()).output().unwrap();
    let said = String::from_utf8(full.stderr).unwrap();
    assert_eq!(said, "couplet: cannot write to stdout: no space left on device\n");
}

fn full() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn compressed_answers_are_asked_for_and_decoded_by_option_alone() {
    // "a poem\n", by gzip.
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
fn a_broken_answer_is_an_error_and_a_slow_one_ends_with_ctrl_c() {
    let cut = serve_raw(|mut client: Client| {
        client.read_line();
        client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    });
    let ended = run(&["get", &format!("http://{cut}/")]);
    assert_eq!((ended.code, ended.text()), (Some(1), "half"));
    assert!(ended.stderr.starts_with(&format!("couplet: http://{cut}/: ")), "{}", ended.stderr);
    let slow = serve_raw(|mut client: Client| {
        client.read_line();
        client.send(b"HTTP/1.1 200 OK\r\n\r\nbegun");
        let _ = client.read_to_end();
    });
    let mut getting = Running::start(&mut couplet(&["get", &format!("http://{slow}/")]));
    wait_until("it is connected", || getting.sockets() > 0);
    getting.signal(Signal::INT);
    let ended = getting.ended();
    assert_eq!(ended.code, Some(130));
}

#[test]
fn wrong_arguments_are_told() {
    for (words, said) in [
        (&["get", "ftp://a/"][..], "expected a URL, as in https://example.com/"),
        (&["get", "http://"], "'http://'"),
        (&["get", "--proxy", "nowhere", "http://a/"], "expected a host and a port"),
    ] {
        let ended = run(words);
        assert_eq!(ended.code, Some(2), "{words:?}");
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
    }
    let ended = run(&["serve", "/nowhere"]);
    assert_eq!(ended.stderr, "couplet: cannot serve /nowhere: no such file or directory\n");
    assert_eq!(ended.code, Some(1));
}
