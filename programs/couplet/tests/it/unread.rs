//! Clients of `couplet serve` that never read: the memory that the program holds for each is
//! bounded.

use crate::http::Site;
use crate::kit::{Client, settled};

const CLIENTS: u64 = 5;
const STREAMS: u32 = 200;

// Frame types: RFC 9113, 6.
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// GETs of a file on more streams than a client may have, each with a window of this size.
fn gets(path: &str, window: u32) -> Vec<u8> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
    let more = (i32::MAX.cast_unsigned() - 65_535).to_be_bytes();
    let hello =
        [preface, frame(SETTINGS, 0, 0, &setting), frame(WINDOW_UPDATE, 0, 0, &more)].concat();
    // GET, http, the path and the authority: RFC 7541, 6.
    let fields =
        [&[0x82, 0x86, 0x04, path.len() as u8], path.as_bytes(), &[0x01, 1, b'a']].concat();
    let gets = (0..STREAMS).flat_map(|n| frame(HEADERS, 5, 2 * n + 1, &fields));
    hello.into_iter().chain(gets).collect()
}

/// A folder with a large file at `/large`.
fn large_file() -> Site {
    let site = Site::new(&[("small", b"small")]);
    let large = std::fs::File::create(site.0.join("large")).unwrap();
    large.set_len(50_000_000).unwrap();
    site
}

/// A folder with a long listing at `/long/`.
fn long_folder() -> Site {
    let site = Site::new(&[("small", b"small"), ("long/0", b"")]);
    for n in 0..200 {
        std::fs::write(site.0.join(format!("long/{n:0>250}")), b"").unwrap();
    }
    site
}

/// Memory, in KiB, that the server holds for a client that requests this path with these windows
/// and reads nothing.
fn held(site: &Site, path: &str, window: u32) -> u64 {
    let server = site.serve();
    let attack = |path| {
        let mut client = server.connect();
        client.send(&gets(path, window));
        client
    };
    // The first clients make tables grow and start the threads that read files.
    let _first: Vec<Client> = (0..CLIENTS).map(|_| attack("/small")).collect();
    let before = settled(&server);
    let _clients: Vec<Client> = (0..CLIENTS).map(|_| attack(path)).collect();
    (settled(&server) - before) / CLIENTS
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_reads_nothing_holds_its_share_of_memory() {
    // The share is 1 MiB. The remainder is 128 requests, the outbox, and memory that the loop and the
    // allocator retain.
    let held = held(&large_file(), "/large", i32::MAX.cast_unsigned());
    println!("{held} KiB");
    assert!(held < 3 * 1024, "{held} KiB of each client");
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_with_closed_windows_holds_a_small_piece_for_each_stream() {
    for window in [0, 1] {
        let held = held(&large_file(), "/large", window);
        println!("{held} KiB");
        assert!(held < 2 * 1024, "{held} KiB of each client, in windows of {window}");
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_reads_no_listing_holds_its_share_of_memory() {
    for window in [0, i32::MAX.cast_unsigned()] {
        let held = held(&long_folder(), "/long/", window);
        println!("{held} KiB");
        assert!(held < 3 * 1024, "{held} KiB of each client, in windows of {window}");
    }
}
