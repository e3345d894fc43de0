//! Row 145d: the files of `log:` contain whole records, even with many writing loops or a full
//! disk.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use couplet::endpoints::{Claim, Logged, ServerEndpoint, Sharing, TcpServer};
use couplet::layers::LogForm;
use couplet::testing::MemoryReactor;
use tracing::Level;

use self::settled as fs;
use super::{Echo, conversation, converse, echoing};
use crate::logged::{logged, logged_at};
use crate::needed::{Folder, has};

/// Files, once the threads that write logs have written everything.
mod settled {
    use std::io::Result;
    use std::path::Path;

    pub(super) use std::fs::*;

    pub(super) fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
        couplet::backlog::set_exit_wait(std::time::Duration::from_secs(300));
        couplet::backlog::settle_all();
        std::fs::read(path)
    }

    pub(super) fn read_to_string(path: impl AsRef<Path>) -> Result<String> {
        couplet::backlog::set_exit_wait(std::time::Duration::from_secs(300));
        couplet::backlog::settle_all();
        std::fs::read_to_string(path)
    }
}

const HEADER: usize = 24;

/// The packet lengths of a capture; asserts that each packet is whole.
fn packets(capture: &[u8]) -> Vec<usize> {
    let (mut at, mut found) = (HEADER, Vec::new());
    while at < capture.len() {
        let record = capture.get(at..at + 16).expect("a whole header of a record");
        let length = u32::from_le_bytes(record[8..12].try_into().expect("4")) as usize;
        assert_eq!(record[8..12], record[12..], "both lengths, at {at}");
        assert!(capture.len() >= at + 16 + length, "the packet at {at} is cut");
        found.push(length);
        at += 16 + length;
    }
    found
}

fn refused(text: &str) -> String {
    let error = MemoryReactor::new().reactor().listen(text, Echo::default);
    error.expect_err("it can't be written").to_string()
}

/// The port numbers, from and to, and the flags of a capture's segments.
fn segments(capture: &[u8]) -> Vec<(u16, u16, u8)> {
    let (mut at, mut found) = (HEADER, Vec::new());
    for length in packets(capture) {
        let packet = &capture[at + 16..at + 16 + length];
        let tcp = &packet[if packet[0] >> 4 == 6 { 40 } else { 20 }..];
        let number = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        found.push((number(0), number(2), tcp[13]));
        at += 16 + length;
    }
    found
}

#[test]
fn a_capture_of_either_side_shows_that_the_client_opened_the_connection() {
    const SYN: u8 = 2;
    const SYN_ACK: u8 = 18;
    let folder = Folder::new();
    let [server, client] = ["server.pcap", "client.pcap"].map(|name| folder.path(name));
    conversation(format!("log:7777:file={server}"));
    let mut memory = MemoryReactor::new();
    let connect = format!("log:127.0.0.1:7777:file={client}");
    memory.reactor().connect_protocol(&*connect, Echo::default()).detach();
    let wire = memory.connecting()[0].complete();
    converse(&mut memory, &wire);
    for file in [server, client] {
        let segments = segments(&fs::read(&file).expect("a capture"));
        let flags: Vec<u8> = segments.iter().map(|(.., flags)| *flags).collect();
        assert_eq!(flags[..2], [SYN, SYN_ACK], "{file}");
        assert_eq!((segments[0].1, segments[1].0), (7777, 7777), "{file}: {segments:?}");
        // Data follows in both directions.
        assert!(segments.len() > 4, "{file}: {segments:?}");
    }
}

#[test]
fn c145d_a_truncated_capture_loses_its_last_packet_and_is_continued() {
    let folder = Folder::new();
    let file = folder.path("traffic.pcap");
    let log = format!("log:7777:file={file}");
    conversation(&*log);
    let whole = fs::read(&file).expect("a capture");
    let once = packets(&whole);
    // Cut at each byte of the last packet, and of the file header.
    let last = whole.len() - 16 - once[once.len() - 1];
    for cut in (last + 1..whole.len()).chain(1..HEADER) {
        fs::write(&file, &whole[..cut]).expect("a file of ours");
        let ((), lines) = logged(|| conversation(&*log));
        let capture = fs::read(&file).expect("a capture");
        let kept = if cut < HEADER { 0 } else { once.len() - 1 };
        assert_eq!(packets(&capture), [&once[..kept], &once].concat(), "{cut}");
        assert_eq!(lines.len(), 1, "one warning: {lines:?}");
        assert!(lines[0].contains("from the end of a capture"), "{lines:?}");
    }
    // Lines of other programs stay.
    let text = folder.write("log", "a poem without an end");
    conversation(format!("log:7777:file={text}"));
    let lines = fs::read_to_string(text).expect("text");
    assert!(lines.starts_with("a poem without an end\ntcp:"), "{lines}");
}

#[test]
fn c145d_threads_that_share_a_file_write_whole_records() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 100;
    let folder = Folder::new();
    let [capture, text, short] =
        ["traffic.pcap", "log", "short.pcap"].map(|name| folder.path(name));
    conversation(format!("log:7777:file={capture}"));
    let once = packets(&fs::read(&capture).expect("a capture"));
    fs::remove_file(&capture).expect("it was there");
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    conversation(format!("log:7777:file={capture}"));
                    conversation(format!("log:7777:file={text}"));
                    conversation(format!("log:7777:file={short}:limit=5000"));
                }
            });
        }
    });
    let bytes = fs::read(&capture).expect("a capture");
    assert_eq!(packets(&bytes).len(), THREADS * ROUNDS * once.len());
    let lines = fs::read_to_string(&text).expect("text");
    let is_whole = |line: &str| line.starts_with("tcp:") && line.matches("tcp:").count() == 1;
    assert!(lines.ends_with('\n') && lines.lines().all(is_whole), "{lines}");
    // The limit applies to the file.
    let short = fs::read(&short).expect("a capture");
    assert!(packets(&short).len() > 10 && short.len() <= 5000, "{}", short.len());
    if has("tshark") {
        let read =
            Command::new("tshark").args(["-r", &capture, "-T", "fields", "-e", "tcp.len"]).output();
        let read = read.expect("it starts");
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        let lines = String::from_utf8_lossy(&read.stdout);
        assert_eq!(lines.lines().count(), THREADS * ROUNDS * once.len());
    }
}

#[test]
fn c145d_a_log_is_written_until_its_last_user_ends_and_then_by_new_ones() {
    let folder = Folder::new();
    for name in ["log", "traffic.pcap"] {
        let file = folder.path(name);
        let length = || fs::read(&file).expect("a log").len();
        for of_first in [true, false] {
            let user = |at: u16| (at, echoing(format!("log:{at}:file={file}")));
            let mut users: Vec<_> = [7777, 7778, 7779].map(user).into();
            while !users.is_empty() {
                let before = length();
                let (at, mut memory) = users.remove(if of_first { 0 } else { users.len() - 1 });
                let wire = memory.connect(at);
                converse(&mut memory, &wire);
                drop(memory);
                assert!(length() > before, "{name}, {at}");
            }
        }
    }
}

#[test]
fn of_two_logs_in_one_file_the_lower_limit_holds() {
    let folder = Folder::new();
    for (number, limits) in [[100_000, 700], [700, 100_000], [700, 700]].iter().enumerate() {
        let file = folder.path(&format!("{number}.pcap"));
        let mut memory = MemoryReactor::new();
        for (at, limit) in (7777..).zip(limits) {
            let log = format!("log:{at}:file={file}:limit={limit}");
            memory.reactor().listen(log, Echo::default).expect("a free port");
        }
        // The clients use both ports.
        for at in [7777, 7778].repeat(5) {
            let wire = memory.connect(at);
            converse(&mut memory, &wire);
        }
        let capture = fs::read(&file).expect("a capture");
        assert!(packets(&capture).len() > 5 && capture.len() <= 700, "{limits:?}");
    }
}

#[test]
fn c145d_the_limit_of_a_capture_counts_existing_content_and_may_be_set_before_the_file() {
    let folder = Folder::new();
    for is_first in [true, false] {
        let file = folder.path(&format!("{is_first}.pcap"));
        for _ in 0..5 {
            let log = Logged::new(TcpServer::new(([127, 0, 0, 1], 7777).into()));
            conversation(match is_first {
                true => log.limit(700).pcap(&file),
                false => log.pcap(&file).limit(700),
            });
        }
        let capture = fs::read(&file).expect("a capture");
        assert!(packets(&capture).len() > 5 && capture.len() <= 700, "{is_first}");
    }
}

#[test]
fn a_trial_examines_each_file_and_the_address_and_creates_none() {
    let folder = Folder::new();
    let files = ["outer", "inner.pcap"].map(|name| folder.path(name));
    let tcp = TcpServer::new(([127, 0, 0, 1], 7777).into());
    let endpoint = Logged::new(Logged::new(tcp).pcap(&files[1])).file(&files[0], LogForm::Text);
    let claims = Arc::new(Mutex::new(Vec::new()));
    let claimed = claims.clone();
    let accepts = Sharing::new(2).trial(move |claim| {
        claimed.lock().unwrap().push(match claim {
            Claim::File(path) => path.display().to_string(),
            Claim::Address { address, .. } => address.to_string(),
            other => panic!("{other:?}"),
        });
        Ok(())
    });
    drop(endpoint.share(&accepts).unwrap());
    let expected = [files[0].clone(), files[1].clone(), "tcp:127.0.0.1:7777".to_owned()];
    assert_eq!(*claims.lock().unwrap(), expected);
    for file in files {
        let refused = file.clone();
        let refuses = Sharing::new(2).trial(move |claim| match claim {
            Claim::File(path) if path == Path::new(&refused) => {
                Err(ErrorKind::PermissionDenied.into())
            }
            _ => Ok(()),
        });
        let error = endpoint.share(&refuses).unwrap_err().to_string();
        assert!(error.contains("cannot write to this file: permission denied"), "{error}");
        assert!(error.contains(&file), "{error}");
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_clone_of_a_log_in_use_can_write_to_another_file() {
    type Sets = fn(Logged<TcpServer>, &str) -> Logged<TcpServer>;
    const SETTERS: [Sets; 3] = [
        |log, path| log.pcap(path),
        |log, path| log.file(path, LogForm::Text),
        |log, path| log.file(path, LogForm::Hex),
    ];
    for first in SETTERS {
        for second in SETTERS {
            let folder = Folder::new();
            let paths = ["first", "second"].map(|name| folder.path(name));
            let log = Logged::new(TcpServer::new(([127, 0, 0, 1], 7777).into()));
            let log = first(log, &paths[0]);
            conversation(log.clone());
            let before = fs::read(&paths[0]).expect("the first log");
            conversation(second(log.clone(), &paths[1]));
            assert!(fs::read(&paths[1]).expect("the second log").len() > 24);
            assert_eq!(fs::read(&paths[0]).expect("the first log"), before);
            conversation(log);
            assert!(fs::read(&paths[0]).expect("the first log").len() > before.len());
        }
    }
}

#[test]
fn a_keyword_or_else_the_file_name_chooses_the_form_of_a_log() {
    let folder = Folder::new();
    for (name, form, is_capture) in [
        ("a.pcap", "", true),
        ("A.PCAP", "", true),
        ("pcap", "", false),
        ("a.pcap.log", "", false),
        ("b.pcap", ":form=text", false),
        ("c.pcap", ":form=hex", false),
        ("b.log", ":form=pcap", true),
    ] {
        conversation(format!("log:7777:file={}{form}", folder.path(name)));
        let log = fs::read(folder.path(name)).expect("a log");
        assert_eq!(log.starts_with(&[0x4d, 0x3c, 0xb2, 0xa1]), is_capture, "{name}{form}");
        assert_eq!(log.starts_with(b"tcp:"), !is_capture, "{name}{form}");
    }
}

#[test]
fn a_capture_has_at_most_256_mib_unless_it_has_another_limit() {
    const LIMIT: u64 = 256 * 1024 * 1024;
    const PACKET: u32 = 256 * 1024;
    let folder = Folder::new();
    let path = folder.path("traffic.pcap");
    conversation(format!("log:7777:file={path}"));
    // Long packets without content fill almost all of it; the file has holes.
    let mut file = OpenOptions::new().write(true).open(&path).expect("a capture");
    let mut end = HEADER as u64;
    while end + 100 < LIMIT {
        let left = LIMIT - 100 - end;
        let length = u64::from(PACKET).min(left.saturating_sub(16)) as u32;
        let header = [0, 0, length, length].map(u32::to_le_bytes).concat();
        file.seek(SeekFrom::Start(end)).and_then(|_| file.write_all(&header)).expect("room");
        end += 16 + u64::from(length);
    }
    file.set_len(end).expect("holes take no room");
    conversation(format!("log:7777:file={path}"));
    let length = fs::metadata(&path).expect("a capture").len();
    assert!(length > end && length <= LIMIT, "{length} bytes");
    conversation(format!("log:7777:file={path}:limit={}", LIMIT + 1000));
    assert!(fs::metadata(&path).expect("a capture").len() > LIMIT);
}

#[test]
fn a_packet_that_is_too_long_to_be_one_is_removed_from_a_capture() {
    const LONGEST: u32 = 256 * 1024;
    let folder = Folder::new();
    for (length, is_kept) in [(LONGEST, true), (LONGEST + 1, false), (u32::MAX, false)] {
        let path = folder.path(&format!("{length}.pcap"));
        conversation(format!("log:7777:file={path}"));
        let once = fs::read(&path).expect("a capture");
        let header = [0, 0, length, length].map(u32::to_le_bytes).concat();
        let mut file = OpenOptions::new().append(true).open(&path).expect("a capture");
        let end = (once.len() + header.len()) as u64 + u64::from(LONGEST + 1);
        let end = if is_kept { end - 1 } else { end };
        file.write_all(&header).and_then(|()| file.set_len(end)).expect("room");
        let (port, lines) = logged(|| echoing(format!("log:7777:file={path}")));
        let left = fs::metadata(&path).expect("a capture").len();
        assert_eq!(left, if is_kept { end } else { once.len() as u64 }, "{length}");
        assert_eq!(lines.is_empty(), is_kept, "{lines:?}");
        drop(port);
    }
}

#[test]
fn a_log_of_lines_has_64_kib_of_each_connection_unless_it_has_another_limit() {
    const SENT: usize = 100_000;
    let folder = Folder::new();
    for (limit, kept) in [("", 64 * 1024), (":limit=3", 3), (":limit=70000", 70_000)] {
        for file in ["", "log"] {
            let to_file =
                if file.is_empty() { "" } else { &format!(":file={}", folder.path(file)) };
            let mut memory = echoing(format!("log:7777{to_file}{limit}"));
            let wires = [memory.connect(7777), memory.connect(7777)];
            let ((), mut lines) = logged_at(Level::INFO, || {
                for wire in &wires {
                    wire.push(&[b'~'; SENT]);
                }
                memory.settle();
            });
            if !file.is_empty() {
                let text = fs::read_to_string(folder.path(file)).expect("a log");
                fs::remove_file(folder.path(file)).expect("it was there");
                lines = text.lines().map(str::to_owned).collect();
            }
            let bytes: usize = lines.iter().map(|line| line.matches('~').count()).sum();
            assert_eq!(bytes, 2 * kept, "{to_file}{limit}");
        }
    }
}

#[test]
fn c145d_a_capture_ends_with_the_first_packet_that_does_not_fit() {
    let folder = Folder::new();
    let capture = |limit: usize| {
        let file = folder.path(&format!("{limit}.pcap"));
        conversation(format!("log:7777:file={file}:limit={limit}"));
        fs::read(&file).expect("a capture")
    };
    let whole = packets(&capture(100_000));
    assert!(whole.windows(2).any(|two| two[1] < two[0]), "a shorter one follows: {whole:?}");
    for limit in HEADER..HEADER + whole.iter().map(|packet| packet + 16).sum::<usize>() {
        let part = capture(limit);
        let kept = packets(&part);
        assert!(part.len() <= limit && whole.starts_with(&kept), "{limit}: {kept:?}");
        assert!(part.len() + 16 + whole[kept.len()] > limit, "{limit}: one more would fit");
    }
}

#[cfg(unix)]
#[test]
fn c145d_a_log_never_waits_for_a_reader() {
    let folder = Folder::new();
    let fifo = folder.path("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("it starts").success());
    let texts = [format!("log:7777:file={fifo}"), format!("log:7777:file={fifo}:form=pcap")];
    for text in &texts {
        assert!(refused(text).contains("it is a pipe"), "{}", refused(text));
    }
    let reader = OpenOptions::new().read(true).write(true).open(&fifo).expect("it never waits");
    for text in &texts {
        assert!(refused(text).contains("it is a pipe"), "{}", refused(text));
    }
    drop(reader);
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).expect("a path");
    let socket = format!("log:7777:file={}", folder.path("socket"));
    assert!(refused(&socket).contains("it is a socket"), "{}", refused(&socket));
    let here = format!("log:7777:file={}", folder.path(""));
    assert!(refused(&here).contains("it is a folder"), "{}", refused(&here));
}

#[test]
fn c145d_a_file_has_records_of_one_form() {
    let folder = Folder::new();
    let file = folder.path("log");
    let (lines, packets) =
        (format!("log:7777:file={file}"), format!("log:7777:file={file}:form=pcap"));
    let user = echoing(&*lines);
    for _ in 0..2 {
        let error = refused(&packets);
        assert!(error.contains("in another form"), "{error}");
    }
    // The empty file is closed, and may begin in the other form.
    drop(user);
    assert!(fs::read(&file).expect("a log").is_empty());
    let user = echoing(&*packets);
    let error = refused(&lines);
    assert!(error.contains("in another form"), "{error}");
    drop(user);
}

#[cfg(target_os = "linux")]
#[test]
fn c145d_a_capture_is_written_by_one_program_at_a_time() {
    let folder = Folder::new();
    let file = folder.path("traffic.pcap");
    conversation(format!("log:7777:file={file}"));
    // Locked as by another program.
    let held = OpenOptions::new().append(true).open(&file).expect("a capture");
    held.lock().expect("nobody has it");
    let error = refused(&format!("log:7777:file={file}"));
    assert!(error.contains("another program writes to it"), "{error}");
    drop(held);
    conversation(format!("log:7777:file={file}"));
    // Our lock excludes another program from a file with content, a new file and an empty one.
    let missing = folder.path("new.pcap");
    for file in [file, missing, folder.write("empty.pcap", "")] {
        let memory = echoing(format!("log:7777:file={file}"));
        let other = OpenOptions::new().append(true).open(&file).expect("a capture");
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)), "{file}");
        drop(memory);
        couplet::backlog::settle_all();
        // A child that another test starts has the file too, until it executes its program.
        let mut tries = (0..10_000_000).inspect(|_| std::thread::yield_now());
        assert!(tries.any(|_| other.try_lock().is_ok()), "the port is gone: {file}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn c145d_a_full_disk_ends_a_log_and_disturbs_no_connection() {
    let ((), lines) = logged(|| {
        conversation("log:7777:file=/dev/full");
        couplet::backlog::settle_all();
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("the traffic log ends here"), "{lines:?}");
    let error = refused("log:7777:file=/dev/full:form=pcap");
    assert!(error.contains("no space left"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn c145d_a_record_that_a_full_disk_cuts_is_removed() {
    use crate::apart;
    let test = "endpoint_kinds::logs::c145d_a_record_that_a_full_disk_cuts_is_removed";
    let Some(folder) = apart::told() else {
        let folder = Folder::new();
        // Limits files to a few hundred bytes.
        let limited = ["/bin/sh", "-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"];
        let mut command = apart::again_by(&limited, test, folder.path(""));
        let status =
            command.args(["--test-threads", "1"]).stdout(std::process::Stdio::null()).status();
        assert!(status.expect("it starts").success(), "alone");
        return;
    };
    for (name, form) in [("traffic.pcap", ""), ("log", ""), ("hex", ":form=hex")] {
        let file = format!("{folder}{name}");
        let log = format!("log:7777:file={file}{form}");
        let ((), lines) = logged(|| {
            (0..10).for_each(|_| conversation(&*log));
            couplet::backlog::settle_all();
        });
        assert!(lines.iter().any(|line| line.contains("the traffic log ends here")), "{lines:?}");
        let bytes = fs::read(&file).expect("a log");
        assert!(bytes.len() > 300, "almost as much as fits");
        // The file has room left: the limit fell in the middle of a record.
        let room =
            OpenOptions::new().append(true).open(&file).and_then(|mut file| file.write(&[0; 4096]));
        assert!(matches!(room, Ok(1..)), "{room:?}");
        match name {
            "traffic.pcap" => assert!(packets(&bytes).len() > 3),
            _ => assert!(bytes.ends_with(b"\n")),
        }
    }
}
