//! Files of more than 64 KiB, which `couplet serve` copies into sealed memory files.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::http::Site;
use crate::kit::{Client, PATIENCE, Server, age, noise, peer};
use crate::needed::Folder;
use crate::rfc9110::{Answer, ask};
use crate::tls::{certificate, secure};

const MIB: usize = 1024 * 1024;

/// A site with one file that has not changed for long, and its path.
fn site(bytes: &[u8]) -> (Site, PathBuf) {
    let site = Site::new(&[("file", bytes)]);
    let path = site.0.join("file");
    age(&path);
    (site, path)
}

/// The number of descriptors whose target begins like this.
fn open_as(server: &Server, target: &str) -> usize {
    let links = fs::read_dir(format!("/proc/{}/fd", server.running.pid())).unwrap();
    let links = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with(target)).count()
}

fn sealed(server: &Server) -> usize {
    open_as(server, "/memfd:couplet-contents")
}

fn get(client: &mut Client, path: &str) -> Answer {
    ask(client, &format!("GET {path}"), "")
}

#[test]
fn the_second_request_seals_a_file_and_all_get_the_same() {
    let bytes = noise(MIB);
    let (site, _) = site(&bytes);
    let server = site.serve();
    let mut client = server.connect();
    for count in [0, 1, 1] {
        assert!(get(&mut client, "/file").body == bytes);
        assert_eq!(sealed(&server), count);
    }
}

#[test]
fn some_files_are_never_sealed() {
    for (length, options) in [
        (16 * MIB + 1, &[][..]),
        (64 * 1024, &[]),
        (100_000, &["--sendfile"]),
        (100_000, &["--cache-files", "0"]),
        (100_000, &["--cache-bytes", "0"]),
        // More than a quarter.
        (100_000, &["--cache-bytes", "399999"]),
    ] {
        let bytes = noise(length);
        let (site, _) = site(&bytes);
        let server = site.serve_with(options);
        let mut client = server.connect();
        for _ in 0..3 {
            assert!(get(&mut client, "/file").body == bytes);
        }
        assert_eq!(sealed(&server), 0, "{length} {options:?}");
    }
    let bytes = noise(100_000);
    let (site, _) = site(&bytes);
    let server = site.serve_with(&["--cache-bytes", "400000"]);
    for _ in 0..2 {
        assert!(get(&mut server.connect(), "/file").body == bytes);
    }
    assert_eq!(sealed(&server), 1);
}

#[test]
fn a_file_that_has_just_changed_is_not_sealed() {
    let bytes = noise(100_000);
    let (site, path) = site(&bytes);
    // A date in the future stays recent for the whole test.
    let date = std::time::SystemTime::now() + Duration::from_secs(3600);
    File::options().write(true).open(path).unwrap().set_modified(date).unwrap();
    let server = site.serve();
    for _ in 0..3 {
        assert!(get(&mut server.connect(), "/file").body == bytes);
    }
    assert_eq!(sealed(&server), 0);
}

/// Requests the file, overwrites its end in place, and returns the bytes that arrive of the body.
fn changed_meanwhile(socket: &Path, path: &Path) -> Vec<u8> {
    let mut client = UnixStream::connect(socket).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = vec![0; 1];
    client.read_exact(&mut bytes).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::End(-1000)).unwrap();
    file.write_all(&[0xAA; 1000]).unwrap();
    // An error is a connection that was cut off.
    let _ = client.read_to_end(&mut bytes);
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
    bytes.split_off(head + 4)
}

#[test]
fn a_client_gets_the_sealed_version_of_a_file_that_changes_meanwhile() {
    let bytes = noise(MIB);
    for (options, is_whole) in [(&[][..], true), (&["--cache-bytes", "0"], false)] {
        let (site, path) = site(&bytes);
        let folder = Folder::new();
        // A socket whose buffer is smaller than the file.
        let socket = folder.join("socket");
        let endpoint = format!("unix:{}", socket.display());
        let server = site.serve_with(&[&["-l", "0", "-l", &endpoint], options].concat());
        for _ in 0..2 {
            assert!(get(&mut server.connect(), "/file").body == bytes);
        }
        let got = changed_meanwhile(&socket, &path);
        assert!(got == bytes[..got.len()], "mixed: {options:?}");
        assert_eq!(got.len() == bytes.len(), is_whole, "{} {options:?}", got.len());
        // The next request gets the present version.
        let new = fs::read(&path).unwrap();
        assert!(new != bytes && get(&mut server.connect(), "/file").body == new);
    }
}

#[test]
fn ranges_of_a_sealed_file_equal_the_bytes_of_the_file() {
    let bytes = noise(500_000);
    let (site, _) = site(&bytes);
    let server = site.serve();
    let mut client = server.connect();
    // The first request finds no copy.
    for count in 0..3 {
        let mut part = |range: &str| {
            let answer = ask(&mut client, "GET /file", &format!("Range: bytes={range}"));
            assert_eq!(answer.status, 206, "{range}");
            answer.body
        };
        assert!(part("0-") == bytes);
        assert!(part("1-9") == bytes[1..10]);
        assert!(part("100000-399999") == bytes[100_000..400_000]);
        assert!(part("-70000") == bytes[430_000..]);
        let several = part("0-99999,200000-299999,-10");
        for range in [0..100_000, 200_000..300_000, 499_990..500_000] {
            let length = range.len();
            assert!(several.windows(length).any(|part| part == &bytes[range.clone()]), "{range:?}");
        }
        assert_eq!(sealed(&server), 1, "{count}");
    }
}

#[test]
fn a_sealed_file_is_read_for_tls_and_http2() {
    needs!("openssl", "curl");
    let (bytes, file) = (noise(300_000), certificate());
    let (site, _) = site(&bytes);
    let (server, _, port) = secure(&["serve", site.0.to_str().unwrap()], &file);
    let url = format!("https://localhost:{port}/file");
    for version in ["--http2", "--http1.1", "--http2"] {
        let args = ["--silent", "--noproxy", "*", "--cacert", file.path(), version, &url];
        assert!(peer("curl", &args, b"") == bytes, "{version}");
    }
    assert_eq!(sealed(&server), 1);
}

/// A site with several files of these contents, all last changed long ago.
fn several(count: usize, bytes: &[u8]) -> (Site, Vec<String>) {
    let names: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, bytes)).collect();
    let site = Site::new(&files);
    names.iter().for_each(|name| age(&site.0.join(name)));
    (site, names.iter().map(|name| format!("/{name}")).collect())
}

#[test]
fn sealed_copies_are_limited_in_files_and_bytes() {
    let bytes = noise(100_000);
    let (site, paths) = several(10, &bytes);
    // A copy drops no other one, so the fifth does not fit.
    for (options, most) in [(["--cache-files", "3"], 3), (["--cache-bytes", "450000"], 4)] {
        let server = site.serve_with(&options);
        let mut client = server.connect();
        for path in &paths {
            for _ in 0..3 {
                assert!(get(&mut client, path).body == bytes);
            }
        }
        assert_eq!(sealed(&server), most, "{options:?}");
        // Each entry has its file and its copy.
        let files = open_as(&server, site.0.to_str().unwrap());
        assert!(options[0] != "--cache-files" || files <= most + 1, "{files}");
    }
}

#[test]
fn without_a_descriptor_for_its_copy_a_file_is_sent_from_disk() {
    let bytes = noise(100_000);
    let (site, paths) = several(32, &bytes);
    let mut uncopied = 0;
    // Each file leaves two descriptors less: with one of the limits, the last one lacks its second.
    for limit in [32, 33] {
        let server = Server::start_limited(limit, &["serve", site.0.to_str().unwrap()]);
        let mut client = server.connect();
        let mut copied = 0;
        for path in &paths {
            let answers = [get(&mut client, path), get(&mut client, path)];
            if answers.iter().any(|answer| answer.status != 200) {
                assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 503)));
                break;
            }
            assert!(answers.iter().all(|answer| answer.body == bytes));
            copied += 1;
            uncopied += usize::from(sealed(&server) < copied);
        }
        assert!((1..paths.len()).contains(&copied), "{copied}");
    }
    assert!(uncopied > 0);
}
