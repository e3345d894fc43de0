//! Files that `couplet serve` serves, and files that it refuses.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::http::{Site, url};
use crate::kit::{Client, Server, TempFile, noise, run, wait_until};
use crate::rfc9110::{Answer, ask};

const MIB: usize = 1024 * 1024;

fn fifo(path: &Path) {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// The statuses of GETs of these paths, on one connection.
fn statuses(client: &mut Client, paths: &[&str]) -> Vec<u16> {
    paths.iter().map(|path| ask(client, &format!("GET {path}"), "").status).collect()
}

#[test]
fn only_files_are_opened_and_a_fifo_blocks_no_request() {
    let site = Site::new(&[("file", b"a file"), ("folder/index.html/x", b"")]);
    fifo(&site.0.join("fifo"));
    symlink("fifo", site.0.join("pipe")).unwrap();
    let _socket = UnixListener::bind(site.0.join("socket")).unwrap();
    symlink("/dev/zero", site.0.join("zero")).unwrap();
    for options in [&[][..], &["--follow"]] {
        let server = site.serve_with(options);
        let mut client = server.connect();
        for _ in 0..50 {
            let paths = ["/fifo", "/pipe", "/socket", "/zero", "/fifo/", "/fifo/x"];
            assert_eq!(statuses(&mut client, &paths), [404; 6]);
        }
        assert_eq!(ask(&mut client, "GET /file", "").body, b"a file");
        // A folder with this name is not used as an index.
        let list = String::from_utf8(ask(&mut client, "GET /folder/", "").body).unwrap();
        assert!(list.contains("<a href=\"./index.html/\">"), "{list}");
        let list = String::from_utf8(ask(&mut client, "GET /", "").body).unwrap();
        assert_eq!(list.matches("<li>").count(), 2, "{list}");
    }
}

/// Stops a thread at the end of the test.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_name_that_changes_between_file_fifo_and_link_is_served_as_the_file_or_not_at_all() {
    let secret = TempFile::new(b"secret");
    let site = Site::new(&[("name", b"a file")]);
    let name = site.0.join("name");
    let server = site.serve();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let new = site.0.join("new");
            while !done.load(Ordering::Relaxed) {
                fifo(&new);
                fs::rename(&new, &name).unwrap();
                symlink(secret.path(), &new).unwrap();
                fs::rename(&new, &name).unwrap();
                fs::write(&new, "a file").unwrap();
                fs::rename(&new, &name).unwrap();
            }
        });
        let _ending = Ending(&done);
        let mut client = server.connect();
        let mut seen = [0, 0];
        for _ in 0..2000 {
            let answer = ask(&mut client, "GET /name", "");
            match answer.status {
                200 => assert_eq!(answer.body, b"a file"),
                status => assert_eq!(status, 404, "{answer:?}"),
            }
            seen[usize::from(answer.status == 200)] += 1;
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    });
}

#[test]
fn a_redirection_stays_on_its_host() {
    let site = Site::new(&[("sub/file", b""), ("a b/\u{e4}/file", b""), ("\\evil/file", b"")]);
    let server = site.serve();
    let mut client = server.connect();
    for (path, location) in [
        ("/sub", "/sub/"),
        ("//sub", "/sub/"),
        ("///sub?a=b&c", "/sub/?a=b&c"),
        ("/a%20b//%C3%A4", "/a%20b/%C3%A4/"),
        ("/%5Cevil", "/%5Cevil/"),
        ("//sub?//evil", "/sub/?//evil"),
    ] {
        let answer = ask(&mut client, &format!("GET {path}"), "");
        assert_eq!((answer.status, answer.header("location")), (307, location), "{path}");
    }
    assert_eq!(statuses(&mut client, &["//sub/", "//sub//file", "/sub/file/"]), [200, 200, 404]);
}

#[test]
fn hidden_files_and_links_out_of_the_folder_are_served_only_if_asked_for() {
    let secret = TempFile::new(b"secret");
    let files: [(&str, &[u8]); 3] = [("file", b""), (".hidden", b""), (".git/config", b"")];
    let site = Site::new(&files);
    let folder = Path::new(secret.path()).parent().unwrap();
    for (name, to) in [
        ("inside", Path::new("file")),
        ("absolute", &site.0.join("file")),
        ("out", Path::new(secret.path())),
        ("away", folder),
        ("round", Path::new("round")),
    ] {
        symlink(to, site.0.join(name)).unwrap();
    }
    let hidden = ["/.hidden", "/.git/config", "/%2Egit/"];
    let out = ["/absolute", "/out", "/away/poem.txt"];
    for (options, sees_hidden, follows, listed) in [
        (&[][..], false, false, 2),
        (&["--hidden"], true, false, 4),
        (&["--follow"], false, true, 5),
        (&["--hidden", "--follow"], true, true, 7),
    ] {
        let server = site.serve_with(options);
        let mut client = server.connect();
        let expected = |is_served| if is_served { [200; 3] } else { [404; 3] };
        assert_eq!(statuses(&mut client, &hidden), expected(sees_hidden), "{options:?}");
        assert_eq!(statuses(&mut client, &out), expected(follows), "{options:?}");
        let always = ["/file", "/inside", "/round", "/../", "/%2e%2e/", "/.%2e/x"];
        assert_eq!(statuses(&mut client, &always), [200, 200, 404, 404, 404, 404], "{options:?}");
        let list = String::from_utf8(ask(&mut client, "GET /", "").body).unwrap();
        assert_eq!(list.matches("<li>").count(), listed, "{options:?}: {list}");
    }
    let help = run(&["serve", "--help"]);
    assert!(help.text().contains("--hidden") && help.text().contains("--follow"));
}

#[test]
fn a_folder_whose_index_leads_out_of_it_is_not_listed() {
    let index = TempFile::new(b"an index");
    let site = Site::new(&[("file", b"")]);
    symlink(index.path(), site.0.join("index.html")).unwrap();
    for (options, expected) in [(&[][..], 404), (&["--follow"], 200)] {
        let server = site.serve_with(options);
        assert_eq!(statuses(&mut server.connect(), &["/"]), [expected]);
    }
}

#[test]
fn names_are_any_bytes_and_those_that_no_file_can_have_are_not_found() {
    let odd = ["a b", "%41", "+", "\u{e4}", "?#", "back\\slash", "...", "a\nb", "x.tar.gz", "C:"];
    let site = Site::new(&[("c/x", b"")]);
    let mut links = Vec::new();
    for name in odd.iter().map(|name| name.as_bytes()).chain([&b"\xff\xfe"[..], &[b'n'; 255]]) {
        fs::write(site.0.join(OsStr::from_bytes(name)), name).unwrap();
        let encoded: String = name.iter().map(|byte| format!("%{byte:02x}")).collect();
        links.push((encoded, name.to_owned()));
    }
    let server = site.serve_with(&["--hidden"]);
    let mut client = server.connect();
    for (link, name) in links {
        let answer = ask(&mut client, &format!("GET /{link}"), "");
        assert!(answer.status == 200 && answer.body == name, "{link}: {answer:?}");
    }
    // The listing links to each of them.
    let list = String::from_utf8(ask(&mut client, "GET /", "").body).unwrap();
    let links: Vec<_> = list.split("<a href=\".").skip(1).collect();
    assert_eq!(links.len(), 13, "{list}");
    for link in links {
        let link = link.split('"').next().unwrap();
        assert_eq!(ask(&mut client, &format!("GET {link}"), "").status, 200, "{link}");
    }
    let long = format!("/{}", "n".repeat(256));
    let (below, deep) = (format!("{long}/x"), "/n".repeat(3000));
    let paths = [&*long, &below, &deep, "/c%2Fx", "/%2e%2e%2f", "/a%00", "/%00", "/*"];
    assert_eq!(statuses(&mut client, &paths), [404; 8]);
}

#[test]
fn other_methods_are_refused_and_a_head_gets_only_headers() {
    let site = Site::new(&[("page.html", b"<p>"), ("folder/x", b"")]);
    let server = site.serve();
    let mut client = server.connect();
    for method in ["OPTIONS", "DELETE", "PUT", "BREW"] {
        let answer = ask(&mut client, &format!("{method} /page.html"), "Content-Length: 0");
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{method}");
    }
    for path in ["/page.html", "/folder/", "/folder", "/missing"] {
        let get = ask(&mut client, &format!("GET {path}"), "");
        let head = ask(&mut client, &format!("HEAD {path}"), "");
        assert_eq!((head.status, head.undated()), (get.status, get.undated()), "{path}");
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{path}");
    }
    assert_eq!(
        ask(&mut client, "GET /page.html", "").header("content-type"),
        "text/html; charset=utf-8"
    );
}

/// Requests a file of 60 MiB and reads the beginning of the body.
fn begun(client: &mut Client, much: &[u8]) {
    client.send(b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n");
    while !client.read_line().trim().is_empty() {}
    assert!(client.read_exact(1000) == much[..1000]);
}

#[test]
fn a_file_that_changes_while_it_is_sent_ends_the_connection_and_never_mixes() {
    let much = noise(60 * MIB);
    let new = [0xAA; 1000];
    let site = Site::new(&[("much", &much)]);
    let path = site.0.join("much");
    let server = site.serve();
    let open = || File::options().write(true).open(&path).unwrap();
    let date = |nanos| {
        let date = std::time::UNIX_EPOCH + Duration::from_nanos(nanos);
        open().set_modified(date).unwrap();
    };
    let renew = || {
        fs::write(&path, &much).unwrap();
        // Otherwise a change within the same tick might not change the timestamp.
        date(0);
    };
    let shrinks = || open().set_len(MIB as u64).unwrap();
    let is_overwritten = || {
        let mut file = open();
        file.seek(std::io::SeekFrom::Start(59 * MIB as u64)).unwrap();
        file.write_all(&new).unwrap();
    };
    let other: Vec<u8> = noise(61 * MIB).iter().map(|byte| !byte).collect();
    let is_emptied_and_filled = || fs::write(&path, &other).unwrap();
    let is_copied_over_with_its_time = || {
        fs::write(&path, &other[..60 * MIB]).unwrap();
        date(0);
    };
    // Changes that only one part of the version shows.
    let is_as_long = |nanos| {
        is_overwritten();
        date(nanos);
    };
    let is_overwritten_and_grows = || {
        is_overwritten();
        open().set_len(61 * MIB as u64).unwrap();
        date(0);
    };
    let changes: [(&str, &dyn Fn()); 7] = [
        ("shrinks", &shrinks),
        ("is overwritten", &is_overwritten),
        ("is emptied and filled", &is_emptied_and_filled),
        ("changes within its second", &|| is_as_long(1)),
        ("changes with its second", &|| is_as_long(1_000_000_000)),
        ("is overwritten and grows", &is_overwritten_and_grows),
        ("is copied over with its time", &is_copied_over_with_its_time),
    ];
    for (name, change) in changes {
        renew();
        let mut client = server.connect();
        begun(&mut client, &much);
        change();
        // The read fails if the connection is reset.
        let mut rest: Vec<u8> = Vec::new();
        while let Ok(piece @ [_, ..]) = client.read().as_deref() {
            rest.extend(piece);
        }
        assert!(rest.len() < much.len() - 1000, "{name}: all of it came");
        assert!(rest == much[1000..][..rest.len()], "{name}: mixed");
    }
    assert!(server.running.told().contains("a response was cut off"), "{}", server.running.told());
    // A client that has begun to read a file gets all of it, even if the file grows, is replaced or
    // is removed.
    let grows = || {
        File::options().append(true).open(&path).unwrap().write_all(&new).unwrap();
    };
    let is_replaced = || {
        fs::write(site.0.join("new"), new).unwrap();
        fs::rename(site.0.join("new"), &path).unwrap();
    };
    let is_removed = || fs::remove_file(&path).unwrap();
    let changes: [(&str, &dyn Fn()); 3] =
        [("grows", &grows), ("is replaced", &is_replaced), ("is removed", &is_removed)];
    for (name, change) in changes {
        renew();
        let mut client = server.connect();
        begun(&mut client, &much);
        change();
        // The output of a test that fails.
        println!("the file {name}");
        assert!(client.read_exact(much.len() - 1000) == much[1000..], "{name}");
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn clients_that_read_slowly_cost_little_and_get_all_of_it() {
    let much = noise(60 * MIB);
    let site = Site::new(&[("much", &much)]);
    let server = site.serve();
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| begun(client, &much));
    let quick = ask(&mut server.connect(), "GET /much", "");
    assert!(quick.body == much);
    assert!(server.memory() < 60 * 1024, "{} KiB", server.memory());
    for client in clients.iter_mut().take(2) {
        assert!(client.read_exact(much.len() - 1000) == much[1000..]);
    }
    let before = server.descriptors();
    drop(clients);
    // The descriptors of their files are closed as well.
    wait_until("their descriptors are closed", || server.descriptors() + 36 <= before);
}

#[test]
fn a_folder_that_is_replaced_is_served_from_then_on() {
    let site = Site::new(&[("site/file", b"old"), ("next/file", b"new")]);
    let server = Server::start(&["serve", site.0.join("site").to_str().unwrap()]);
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "GET /file", "").body, b"old");
    fs::rename(site.0.join("site"), site.0.join("gone")).unwrap();
    assert_eq!(statuses(&mut client, &["/file", "/"]), [404, 404]);
    fs::rename(site.0.join("next"), site.0.join("site")).unwrap();
    assert_eq!(ask(&mut client, "GET /file", "").body, b"new");
}

#[test]
fn a_lack_of_descriptors_is_answered_with_503_until_it_ends() {
    let site = Site::new(&[("file", b"a file")]);
    let server = Server::start_limited(24, &["serve", site.0.to_str().unwrap()]);
    let mut client = server.connect();
    let mut others = Vec::new();
    let mut is_short = || {
        let answered = statuses(&mut client, &["/file"]);
        assert!(answered == [200] || answered == [503], "{answered:?}");
        answered == [503]
    };
    // The descriptor of an earlier answer may be closed a little later.
    while !(is_short() && is_short()) {
        others.push(server.connect());
        assert!(others.len() < 24, "it has no limit");
    }
    drop(others);
    wait_until("there are descriptors", || statuses(&mut client, &["/file"]) == [200]);
}

#[test]
fn curl_resumes_and_asks_for_changes() {
    needs!("curl");
    let much = noise(MIB);
    let site = Site::new(&[("much", &much)]);
    let past = std::time::UNIX_EPOCH + Duration::from_secs(1_577_836_800);
    let path = site.0.join("much");
    File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
    let server = site.serve();
    let part = TempFile::new(&much[..1000]);
    let curl = |words: &[&str]| {
        let words = [&["--silent", "--max-time", "20", "--noproxy", "*"], words].concat();
        let mut command = Command::new("curl");
        command.args(words).args(["--write-out", "%{http_code}"]).arg(url(&server, "/much"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let to = ["--output", part.path()];
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        fs::write(part.path(), &much[..1000]).unwrap();
        assert_eq!(curl(&[&to[..], &[version, "-C", "-"]].concat()), "206");
        assert!(fs::read(part.path()).unwrap() == much);
        assert_eq!(curl(&[&to[..], &[version, "-C", "-"]].concat()), "416");
        assert!(fs::read(part.path()).unwrap() == much, "a whole file stays as it is");
        for (since, status) in
            [("31 Dec 2019 GMT", "200"), ("2 Jan 2020 GMT", "304"), ("-2 Jan 2020 GMT", "200")]
        {
            assert_eq!(curl(&[&to[..], &[version, "-z", since]].concat()), status, "{since}");
        }
        let several = ["--output", part.path(), version, "--range", "0-9,100-109,-10"];
        assert_eq!(curl(&several), "206");
        let body = fs::read(part.path()).unwrap();
        for start in [0, 100, MIB - 10] {
            let ten = &much[start..][..10];
            assert!(body.windows(10).any(|bytes| bytes == ten), "{version}: {start}");
        }
    }
}

#[test]
fn a_request_whose_client_has_closed_its_sending_side_is_answered() {
    let much = noise(3 * MIB);
    let site = Site::new(&[("much", &much)]);
    let server = site.serve();
    for _ in 0..20 {
        let mut client = server.connect();
        client.send(b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n");
        client.finish();
        let answer = Answer::read(&mut client, false);
        assert!(answer.status == 200 && answer.body == much);
        assert_eq!(client.read_to_end().unwrap(), b"");
    }
}
