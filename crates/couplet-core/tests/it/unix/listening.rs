//! Row 161: the files of UNIX ports, including the facts of Twisted's `UNIXTestsBuilder`.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use couplet::{ListenError, ListenOptions, Port, UnixAddress};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;

use crate::apart::{again, told};
use crate::needed::Folder;
use crate::suite::kit::{Kit, Rig};
use crate::suite::recorder::{Echo, On, Script};

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("a socket").permissions().mode() & 0o7777
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).expect("a file").ino()
}

fn try_listen(rig: &Rig, path: &Path, options: ListenOptions) -> Result<Port, ListenError> {
    let port = rig.reactor.listen((UnixAddress::from(path.to_path_buf()), options), || Echo);
    port.map_err(|error| error.downcast_ref::<ListenError>().expect("the error of a port").clone())
}

fn listen(rig: &Rig, path: &Path) -> Port {
    try_listen(rig, path, ListenOptions::default()).expect("a free path")
}

fn answers(rig: &mut Rig, mut stream: UnixStream) {
    stream.write_all(b"echo").expect("room");
    stream.set_nonblocking(true).expect("an option");
    let mut answer = [0; 4];
    rig.until("an answer", || stream.read_exact(&mut answer).is_ok());
    assert_eq!(&answer, b"echo");
}

fn stop(rig: &mut Rig, port: &Port) {
    port.stop_listening().expect("it listens").detach();
    rig.turns(2);
}

#[test]
fn c161_a_port_sets_the_mode_of_its_path() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let (all, owner) = (folder.join("all"), folder.join("owner"));
    let _all = listen(&rig, &all);
    let options = ListenOptions::default().mode(0o600);
    let port = try_listen(&rig, &owner, options).expect("a free path");
    assert_eq!((mode(&all), mode(&owner)), (0o666, 0o600));
    assert_eq!(port.host(), UnixAddress::from(&owner).into());
    assert_eq!(port.host().path(), Some(&*owner));
    answers(&mut rig, UnixStream::connect(&owner).expect("it listens"));
}

/// Only root gives files away, and a thread may stop being root.
#[test]
fn c161_a_path_that_may_not_be_given_to_an_owner_is_an_error_of_the_call() {
    let (rig, folder) = (Kit::mio().rig(), Folder::new());
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&*folder, Some(others().0), None).expect("root gives it away");
        set_thread_res_uid(None, Uid::from_raw(others().0), None).expect("root changes users");
    }
    let error = try_listen(&rig, &folder.join("given"), ListenOptions::default().owner(0));
    if is_root {
        set_thread_res_uid(None, Uid::ROOT, None).expect("it is root still");
    }
    let error = error.err().and_then(|error| error.raw_os_error());
    assert_eq!(error, Some(rustix::io::Errno::PERM.raw_os_error()));
    assert!(folder.names().is_empty(), "nothing is left of it");
}

#[test]
fn a_lock_file_is_for_its_owner_only_and_a_regular_file() {
    let (rig, folder) = (Kit::mio().rig(), Folder::new());
    let port = listen(&rig, &folder.join("port"));
    assert_eq!(mode(&folder.join("port.lock")), 0o600);
    drop(port);
    // Others are left alone, and don't stop the loop.
    for name in ["folder", "fifo"] {
        let lock = folder.join(format!("{name}.lock"));
        match name {
            "folder" => std::fs::create_dir(&lock).expect("room"),
            _ => rustix::fs::mkfifoat(rustix::fs::CWD, &lock, 0o600.into()).expect("room"),
        }
        let refused = try_listen(&rig, &folder.join(name), ListenOptions::default());
        refused.expect_err("it is no lock");
        assert!(!folder.join(name).exists(), "{name}");
    }
}

/// A user and a group to which we may give a file: other than our own, if possible.
pub(crate) fn others() -> (u32, u32) {
    let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if ours.0 == 0 {
        return (65534, 65533);
    }
    // Users may give a file to any of their groups.
    let groups = rustix::process::getgroups().expect("our groups");
    let mut groups = groups.into_iter().map(rustix::process::Gid::as_raw);
    (ours.0, groups.find(|group| *group != ours.1).unwrap_or(ours.1))
}

#[test]
fn c161_an_owner_and_a_group_are_set_each_without_the_other() {
    let (rig, folder) = (Kit::mio().rig(), Folder::new());
    let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let theirs = others();
    for (owner, group) in [(false, false), (false, true), (true, false), (true, true)] {
        let path = folder.join(format!("{owner} {group}"));
        let mut options = ListenOptions::default();
        if owner {
            options = options.owner(theirs.0);
        }
        if group {
            options = options.group(theirs.1);
        }
        let _port = try_listen(&rig, &path, options).expect("a free path");
        let file = std::fs::symlink_metadata(&path).expect("a socket");
        let expected =
            (if owner { theirs.0 } else { ours.0 }, if group { theirs.1 } else { ours.1 });
        assert_eq!((file.uid(), file.gid()), expected, "{owner} {group}");
    }
}

#[test]
fn c161_the_path_is_removed_when_the_port_closes() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let path = folder.join("port");
    let port = listen(&rig, &path);
    rig.turn();
    assert_eq!(folder.names(), ["port", "port.lock"]);
    stop(&mut rig, &port);
    assert!(folder.names().is_empty(), "{:?}", folder.names());
    // Started again, at the same path.
    port.start_listening().expect("the path is free");
    rig.turn();
    answers(&mut rig, UnixStream::connect(&path).expect("it listens"));
    // At the end of the loop too, served or not.
    let unserved = listen(&rig, &folder.join("unserved"));
    drop((rig, unserved));
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn c161_a_path_taken_by_another_process_stays() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let path = folder.join("port");
    let options = ListenOptions::default().lock_file(false);
    let port = try_listen(&rig, &path, options).expect("a free path");
    rig.turn();
    std::fs::remove_file(&path).expect("a socket");
    let _theirs = UnixListener::bind(&path).expect("a free path");
    stop(&mut rig, &port);
    assert!(UnixStream::connect(&path).is_ok(), "the other one still listens");
}

/// The files left by a killed process: a socket, and a lock file that is not locked.
fn leave(path: &Path, lock: bool) {
    drop(UnixListener::bind(path).expect("a free path"));
    if lock {
        std::fs::write(path.with_extension("lock"), "").expect("a lock file");
    }
}

#[test]
fn c161_a_stale_socket_is_replaced_when_its_lock_shows_that_its_owner_has_exited() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let path = folder.join("port");
    leave(&path, true);
    let port = listen(&rig, &path);
    answers(&mut rig, UnixStream::connect(&path).expect("it listens"));
    stop(&mut rig, &port);
    assert!(folder.names().is_empty(), "{:?}", folder.names());
    // A lock file that no process has locked does not prevent listening.
    std::fs::write(folder.join("port.lock"), "").expect("a lock file");
    let _port = listen(&rig, &path);
    // Without a lock nothing shows that the owner has exited.
    for (options, lock) in
        [(ListenOptions::default().lock_file(false), true), (ListenOptions::default(), false)]
    {
        let path = folder.join(if lock { "locked" } else { "unlocked" });
        leave(&path, lock);
        let error = try_listen(&rig, &path, options).expect_err("a file is in the way");
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
        let text = error.to_string();
        let start = format!("cannot listen on unix:{}: address already in use", path.display());
        assert!(text.starts_with(&start), "{text}");
        assert!(path.exists());
    }
}

#[test]
fn c161_a_live_socket_is_never_replaced() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let in_use = |rig: &Rig, path: &Path| {
        let before = inode(path);
        let error = try_listen(rig, path, ListenOptions::default()).expect_err("it is taken");
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
        assert_eq!(inode(path), before, "it is left alone");
    };
    // A port of ours, which holds its lock.
    let ours = folder.join("ours");
    let _port = listen(&rig, &ours);
    in_use(&rig, &ours);
    answers(&mut rig, UnixStream::connect(&ours).expect("it listens"));
    // A socket without a lock, next to a leftover lock file.
    let theirs = folder.join("theirs");
    std::fs::write(folder.join("theirs.lock"), "").expect("a lock file");
    let listener = UnixListener::bind(&theirs).expect("a free path");
    in_use(&rig, &theirs);
    assert!(UnixStream::connect(&theirs).is_ok());
    drop(listener);
    // Not a socket at all.
    let file = folder.join("file");
    std::fs::write(folder.join("file.lock"), "").expect("a lock file");
    std::fs::write(&file, "precious").expect("a file");
    in_use(&rig, &file);
    assert_eq!(std::fs::read(&file).expect("a file"), b"precious");
    assert!(!std::fs::symlink_metadata(&file).expect("a file").file_type().is_socket());
}

#[test]
fn c161_a_lock_is_not_removed_while_another_holds_it() {
    let (rig, folder) = (Kit::mio().rig(), Folder::new());
    let path = folder.join("port");
    let other = std::fs::File::create(folder.join("port.lock")).expect("a lock file");
    other.lock().expect("a free lock");
    let error = try_listen(&rig, &path, ListenOptions::default()).expect_err("it is locked");
    assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(folder.names(), ["port.lock"]);
}

#[cfg(target_os = "linux")]
#[test]
fn c161_a_leading_nul_names_an_abstract_socket() {
    let mut rig = Kit::mio().rig();
    let name = format!("\0couplet-{}", std::process::id());
    let port = rig
        .reactor
        .listen((UnixAddress::from(&*name), ListenOptions::default()), || Echo)
        .expect("a free name");
    assert_eq!(port.host().to_string(), format!("unix:@{}", &name[1..]));
    assert_eq!(port.host().path(), None);
    let a = rig.end();
    let script = Script::new().on(On::Made, |transport| transport.write("echo"));
    rig.reactor.connect(UnixAddress::from(&*name), a.once(script)).detach();
    rig.until("an answer", || a.received_len() == 4);
    assert_eq!(a.transport().peer(), &port.host());
    assert_eq!(a.transport().host(), &UnixAddress::Unnamed.into());
}

#[test]
fn c161_a_name_that_no_socket_can_have_is_an_error_of_the_call() {
    let rig = Kit::mio().rig();
    let long = "x".repeat(200);
    for name in ["", &long, "no/such/folder/port", "a\0b"] {
        let error = try_listen(&rig, Path::new(name), ListenOptions::default());
        let error = error.expect_err("it is no name");
        assert_eq!(error.address, UnixAddress::from(name).into());
        let is_invalid = error.source.kind() == std::io::ErrorKind::InvalidInput;
        assert!(is_invalid || !name.contains('\0'), "{error}");
    }
}

#[test]
fn c161_a_port_has_the_requested_backlog_and_preparation() {
    let (rig, folder) = (Kit::mio().rig(), Folder::new());
    let path = folder.join("port");
    let options = ListenOptions::default().backlog(0).prepare(|socket| {
        assert!(socket.local_addr()?.is_unnamed(), "it is not bound yet");
        socket.set_recv_buffer_size(4096)
    });
    let _port = try_listen(&rig, &path, options).expect("a free path");
    let connect = || {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&socket2::SockAddr::unix(&path)?)?;
        Ok::<_, std::io::Error>(socket)
    };
    let queued: Vec<_> = (0..3).map(|_| connect()).collect();
    assert!(queued[0].is_ok() && queued[2].is_err(), "{queued:?}");
    let error = try_listen(
        &rig,
        &folder.join("refused"),
        ListenOptions::default().prepare(|_| Err(std::io::Error::other("by wish"))),
    );
    assert!(error.expect_err("it is not prepared").to_string().contains("by wish"));
    assert_eq!(folder.names(), ["port", "port.lock"]);
}

#[test]
fn the_files_of_a_port_are_removed_after_the_process_has_changed_its_directory() {
    let test = "unix::listening::the_files_of_a_port_are_removed_after_the_process_has_changed_its_directory";
    if let Some(folder) = told() {
        std::env::set_current_dir(folder).expect("it is there");
        let mut rig = Kit::mio().rig();
        let port = listen(&rig, Path::new("port"));
        std::env::set_current_dir("/").expect("it is there");
        return stop(&mut rig, &port);
    }
    let folder = Folder::new();
    let ended = again(test, folder.as_os_str()).status().expect("it starts again");
    assert!(ended.success());
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn a_file_that_is_no_lock_file_stays_and_fails_the_listen() {
    let (rig, folder) = (Kit::mio().rig(), Folder::new());
    folder.write("full.lock", "precious");
    std::os::unix::fs::symlink("elsewhere", folder.join("linked.lock")).expect("a link");
    for (name, text) in [("full", "it is not a lock file"), ("linked", "it is a symbolic link")] {
        let error = try_listen(&rig, &folder.join(name), ListenOptions::default());
        let error = error.expect_err("there is no lock");
        assert_eq!(error.source.kind(), std::io::ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(folder.names(), ["full.lock", "linked.lock"]);
    let text = std::fs::read_to_string(folder.join("full.lock")).expect("it stays");
    assert_eq!(text, "precious");
}
