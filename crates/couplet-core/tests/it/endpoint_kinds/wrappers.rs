//! `haproxy:`, `throttle:` and `log:`: their behaviour and their order.

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;
use std::time::Duration;

use couplet::endpoints::{
    IntoEndpoint, Logged, ServerEndpoint, TcpServer, Throttled, client_from_string,
    server_from_string,
};
use couplet::factory::ErasedFactory;
use couplet::layers::{LogForm, ProxyHeader, ProxyReader};
use couplet::protocols::ReconnectingClientFactory;
use couplet::testing::MemoryReactor;
use couplet::{Address, Loop, Protocol, Transport};

use super::{Echo, ask, conversation, echoing};
use crate::needed::Folder;
use crate::suite::recorder::{A, On, Script};
use couplet_testkit_loops::doubles::on_data;

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn tcp(text: &str) -> Address {
    Address::Tcp(text.parse().expect("an address"))
}

#[test]
fn haproxy_reads_the_addresses_of_the_client_from_the_last_of_its_headers() {
    let (first, last) = (
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 10\r\n",
        "PROXY TCP4 192.0.2.2 198.51.100.2 56324 443\r\n",
    );
    for (text, headers) in [
        ("haproxy:tcp:7777", last.to_owned()),
        (r"haproxy:endpoint=haproxy\:tcp\:7777", first.to_owned() + last),
    ] {
        let (mut memory, echo) = (MemoryReactor::new(), Echo::default());
        let port = memory.reactor().listen(text, move_in(&echo)).unwrap();
        assert_eq!(port.to_string().trim_start_matches("haproxy:"), "[::]:7777");
        let wire = memory.connect(7777);
        wire.push(format!("{headers}hello").as_bytes());
        memory.settle();
        assert_eq!(wire.take(), b"hello");
        assert_eq!(*echo.transport().peer(), tcp("192.0.2.2:56324"));
        assert_eq!(*echo.transport().host(), tcp("198.51.100.2:443"));
        assert!(echo.transport().info::<ProxyHeader>().is_some());
        let other = memory.connect(7777);
        other.push(b"GET / HTTP/1.1\r\n");
        memory.settle();
        assert_eq!((echo.count(), other.take()), (1, Vec::new()), "no header, no connection");
    }
}

#[test]
fn bytes_received_with_a_header_wait_for_the_protocols_first_acts() {
    type Does = fn(&Transport, &A);
    let resumes_at_once = |transport: &Transport, _: &A| {
        transport.pause_producing();
        let its = transport.clone();
        transport.reactor().call_soon(move || its.resume_producing());
    };
    let encrypts = |transport: &Transport, _: &A| {
        transport.start_layer(ProxyReader::new(transport.reactor().now())).expect("it is open");
    };
    // The act, the time of the peer's end, and the calls.
    let cases: [(Does, &str, &str); 7] = [
        (|_, _| {}, "never", "made, data(3), data(5)"),
        (|transport, _| transport.pause_producing(), "never", "made"),
        (resumes_at_once, "never", "made, resumed, data(3), data(5)"),
        (
            |transport, a| transport.upgrade(a.plays(Script::new())),
            "never",
            "made, made, data(3), data(5)",
        ),
        (|transport, _| transport.lose_connection(), "late", "made, lost(Done(Us))"),
        (encrypts, "late", "made, lost(Failed(plaintext after STARTTLS"),
        (|_, _| {}, "with the header", "made, data(3), read_closed, lost(Done(Peer))"),
    ];
    for (does, ends, wanted) in cases {
        let (mut memory, a) = (MemoryReactor::new(), A::default());
        let own = a.clone();
        let script = Script::new().once(On::Made, move |transport| does(transport, &own));
        memory.reactor().listen("haproxy:tcp:7777", a.once(script)).unwrap();
        let wire = memory.connect(7777);
        wire.push(b"PROXY UNKNOWN\r\none");
        if ends == "with the header" {
            wire.fin();
            memory.settle();
        } else {
            memory.settle();
            wire.push(b"three");
            memory.settle();
        }
        if ends == "late" {
            wire.fin();
            memory.settle();
        }
        let log = a.log.entries().join(", ");
        assert!(log == wanted || ends == "late" && log.starts_with(wanted), "{log}: {wanted}");
    }
}

/// The same echo for each connection.
fn move_in(echo: &Echo) -> impl FnMut() -> Echo + Clone + 'static {
    let echo = echo.clone();
    move || echo.clone()
}

#[test]
fn haproxy_rejects_peers_that_are_not_trusted() {
    for (trusted, is_accepted) in [
        ("127.0.0.0/8", true),
        ("10.0.0.0/8", false),
        ("10.0.0.0/8,127.0.0.1", true),
        ("127.0.0.2", false),
        ("126.0.0.0/7", true),
        ("0.0.0.0/0", true),
        ("[::1]", false),
        ("[::/0]", true),
        ("[::ffff:127.0.0.0/104]", true),
    ] {
        let mut l = Loop::new().unwrap();
        let echo = Echo::default();
        let text = format!("haproxy:127.0.0.1:0:trusted={trusted}");
        let port = l.reactor().listen(&text, move_in(&echo)).unwrap();
        let Address::Tcp(at) = port.host() else { panic!("a TCP port") };
        let answer = ask(&mut l, format!("haproxy:{at}"));
        assert_eq!(answer.is_ok(), is_accepted, "{trusted}: {answer:?}");
        assert_eq!(echo.count(), usize::from(is_accepted), "{trusted}");
    }
}

#[test]
fn haproxy_waits_for_the_header_until_its_timeout() {
    for (text, limit) in [("haproxy:7777", 10.0), ("haproxy:7777:header-timeout=2.5", 2.5)] {
        let mut memory = echoing(text);
        memory.connect(7777);
        memory.advance(seconds(limit - 0.1));
        assert_eq!(memory.listening()[0].counters.not_opened, 0, "{text}");
        memory.advance(seconds(0.2));
        memory.advance(seconds(2.0));
        assert_eq!(memory.listening()[0].counters.not_opened, 1, "{text}");
    }
    // The longest time never ends.
    let mut memory = echoing("haproxy:7777:header-timeout=18446744073709551615");
    let wire = memory.connect(7777);
    memory.advance(seconds(1e6));
    wire.push(b"PROXY UNKNOWN\r\nhello");
    memory.settle();
    assert_eq!(wire.take(), b"hello");
}

#[test]
fn c145e_haproxy_writes_the_addresses_of_the_client_on_whose_behalf_it_connects() {
    for (listen, to) in [
        ("tcp:7777", "haproxy:10.0.0.1:80"),
        ("tcp:7777", "throttle:haproxy:log:10.0.0.1:80:read=1M"),
        ("tcp:7777", "haproxy:10.0.0.1:80:version=2"),
        // With the addresses from another proxy's header.
        ("haproxy:tcp:7777", "haproxy:10.0.0.1:80"),
    ] {
        let (mut memory, a) = (MemoryReactor::new(), A::default());
        let forwards = Script::new().once(On::Made, move |near| {
            near.reactor()
                .connect(to, ErasedFactory::new(Echo::default).on_behalf_of(near))
                .map(drop)
                .detach();
        });
        memory.reactor().listen(listen, a.once(forwards)).unwrap();
        let client = memory.connect(7777);
        client.push(b"PROXY TCP4 192.0.2.1 198.51.100.2 5 6\r\n");
        memory.settle();
        let attempts = memory.connecting();
        let server = attempts[0].complete();
        memory.settle();
        let near = a.transport();
        let [peer, host] = [near.peer(), near.host()].map(|it| it.socket_addr().expect("TCP"));
        assert_eq!(peer.port() == 5 && host.port() == 6, listen.starts_with("haproxy"), "{listen}");
        let family = if peer.is_ipv4() { 4 } else { 6 };
        let (from, at) = (peer.port(), host.port());
        let line = format!("PROXY TCP{family} {} {} {from} {at}\r\n", peer.ip(), host.ip());
        let header = server.take();
        match to.contains("version=2") {
            true => assert!(header.ends_with(&[from.to_be_bytes(), at.to_be_bytes()].concat())),
            false => assert_eq!(String::from_utf8_lossy(&header), line, "{to}"),
        }
    }
}

#[test]
fn c145e_each_connection_of_a_client_that_reconnects_is_announced_with_its_own_addresses() {
    let (mut memory, echo) = (MemoryReactor::new(), Echo::default());
    let factory = ReconnectingClientFactory::new(move_in(&echo));
    memory.reactor().connect("haproxy:10.0.0.1:80", factory).detach();
    let mut ports = Vec::new();
    for _ in 0..3 {
        let wire = memory.connecting()[0].complete();
        memory.settle();
        let ours = echo.transport().host().socket_addr().expect("TCP");
        let line = format!("PROXY TCP4 {} 10.0.0.1 {} 80\r\n", ours.ip(), ours.port());
        assert_eq!(String::from_utf8_lossy(&wire.take()), line);
        ports.push(ours.port());
        wire.close();
        memory.advance(seconds(100.0));
    }
    ports.dedup();
    assert_eq!(ports.len(), 3, "{ports:?}");
}

#[test]
fn c145e_a_check_announces_no_client() {
    for (to, header) in [
        ("haproxy:10.0.0.1:80", &b"PROXY UNKNOWN\r\n"[..]),
        ("haproxy:10.0.0.1:80:version=1", b"PROXY UNKNOWN\r\n"),
        ("haproxy:10.0.0.1:80:version=2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        ("throttle:haproxy:log:10.0.0.1:80:version=2:read=1M", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        ("10.0.0.1:80", b""),
    ] {
        let mut memory = MemoryReactor::new();
        for _ in 0..2 {
            let checking =
                memory.reactor().connect(to, ErasedFactory::new(Echo::default).for_check());
            let attempts = memory.connecting();
            let server = attempts[0].complete();
            memory.settle();
            assert_eq!(server.take(), header, "{to}");
            checking.detach();
        }
    }
}

#[test]
fn haproxy_writes_the_addresses_of_the_connection() {
    for (version, beginning) in
        [("", "PROXY TCP4 127.0.0.1 127.0.0.1 "), (":version=1", "PROXY TCP4 ")]
    {
        let mut l = Loop::new().unwrap();
        let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = peer.local_addr().unwrap();
        let echo = Echo::default();
        let connecting = l.reactor().connect(format!("haproxy:{to}{version}"), move_in(&echo));
        l.run_until(connecting).unwrap();
        echo.transport().write("hello");
        echo.transport().lose_connection();
        l.turn(Some(Duration::ZERO)).unwrap();
        let (mut stream, from) = peer.accept().unwrap();
        let mut text = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        let _ = stream.read_to_string(&mut text);
        let (header, rest) = text.split_once("\r\n").expect("a header");
        assert!(header.starts_with(beginning), "{header}");
        let ports = format!("{} {}", from.port(), to.port());
        assert!(header.ends_with(&ports) && rest == "hello", "{text}");
    }
}

#[test]
#[cfg(unix)]
fn haproxy_works_on_a_unix_socket() {
    for version in ["1", "2"] {
        let (folder, mut l) = (Folder::new(), Loop::new().unwrap());
        let path = folder.path("socket");
        // No address of a UNIX socket is untrusted.
        let text = format!("haproxy:unix:{path}:trusted=10.0.0.1");
        let port = l.reactor().listen(&text, Echo::default).unwrap();
        assert_eq!(port.to_string(), format!("haproxy:unix:{path}"));
        let answer = ask(&mut l, format!("haproxy:unix:{path}:version={version}"));
        assert_eq!(answer.unwrap(), b"hello");
    }
}

#[test]
fn throttle_limits_each_connection_or_all_together() {
    for (text, second) in
        [("throttle:7777:write=1000", 100), ("throttle:7777:write=1k:shared=yes", 0)]
    {
        let mut memory = echoing(text);
        let wires = [memory.connect(7777), memory.connect(7777)];
        for wire in &wires {
            wire.push(&[1; 500]);
        }
        memory.settle();
        // After a rest, a tenth of a second's bytes pass immediately.
        let burst = wires.each_ref().map(|wire| wire.take().len());
        assert_eq!(burst, [100, second], "{text}");
        memory.advance(seconds(0.1));
        let next: usize = wires.iter().map(|wire| wire.take().len()).sum();
        assert_eq!(next, if second == 0 { 100 } else { 200 }, "{text}");
        memory.advance(seconds(2.0));
        let rest: usize = wires.iter().map(|wire| wire.take().len()).sum();
        assert_eq!(burst[0] + burst[1] + next + rest, 1000, "{text}");
    }
}

#[test]
fn throttle_limits_each_direction_of_a_server_and_of_a_client_at_its_own_rate() {
    for text in [
        "throttle:7777:read=1000",
        "throttle:7777:read=1000:write=4000",
        "throttle:10.0.0.1:80:read=1000:write=4000",
    ] {
        let (mut memory, count) = (MemoryReactor::new(), Rc::default());
        let ours = Rc::clone(&count);
        let wire = if text.contains("7777") {
            memory.reactor().listen(text, move || answering(&ours)).unwrap();
            memory.connect(7777)
        } else {
            memory.reactor().connect_protocol(text, answering(&ours)).detach();
            memory.connecting()[0].complete()
        };
        memory.settle();
        wire.push(&[1; 500]);
        memory.settle();
        for read in [100, 200] {
            let written = wire.take().len();
            assert_eq!(count.get(), read, "{text}");
            let is_limited = text.contains("write=");
            assert!(if is_limited { written == 400 } else { written >= 1000 }, "{text}: {written}");
            memory.advance(seconds(0.1));
        }
    }
}

#[test]
fn a_throttle_without_limits_adds_nothing_to_a_port() {
    let mut memory = MemoryReactor::new();
    let throttled = || Throttled::new(TcpServer::new(([127, 0, 0, 1], 7777).into()));
    for (endpoint, printed) in [
        (throttled(), "tcp:127.0.0.1:7777"),
        (throttled().shared(true), "tcp:127.0.0.1:7777"),
        (throttled().read(1), "throttle:127.0.0.1:7777"),
        (throttled().write(1), "throttle:127.0.0.1:7777"),
    ] {
        let port = memory.reactor().listen(endpoint, Echo::default).expect("a free port");
        assert_eq!(port.to_string(), printed);
        port.stop_listening().expect("it listens").detach();
        memory.settle();
    }
}

#[test]
fn c169c_a_shared_throttle_does_not_wait_for_closed_connections() {
    // Each waits for its turn to read 400 bytes, or to write 1000.
    for (limited, sent) in [("read", 400), ("write", 1)] {
        let (mut memory, count) = counting(format!("throttle:7777:{limited}=50k:shared=yes"));
        let mut ask = |clients: usize| -> Vec<_> {
            let wires = (0..clients).map(|_| memory.connect(7777)).collect::<Vec<_>>();
            wires.iter().for_each(|wire| assert_eq!(wire.push(&vec![1; sent]), sent));
            memory.settle();
            wires
        };
        let (gone, waits) = (ask(1000), ask(1));
        gone.iter().for_each(couplet::testing::Wire::reset);
        memory.settle();
        let before = count.get();
        let new = memory.connect(7777);
        new.push(&vec![1; sent]);
        memory.advance(seconds(0.05));
        match limited {
            "read" => assert_eq!(count.get() - before, 800),
            _ => assert_eq!(waits[0].take().len(), 1000),
        }
    }
}

#[test]
fn each_direction_of_a_shared_throttle_has_its_own_limit() {
    let (mut memory, count) = counting("throttle:7777:read=1k:write=1k:shared=yes");
    let wire = memory.connect(7777);
    wire.push(&[1; 50_000]);
    memory.advance(seconds(10.0));
    let (read, written) = (count.get(), wire.take().len());
    for passed in [read, written] {
        assert!((9_500..=10_200).contains(&passed), "{read} read, {written} written");
    }
}

/// Counts the received bytes, and answers with a thousand bytes.
fn answering(count: &Rc<Cell<usize>>) -> impl Protocol + use<> {
    let count = count.clone();
    on_data(move |transport, data| {
        count.set(count.get() + data.len());
        transport.write([0; 1000]);
    })
}

/// A network with such protocols on this endpoint, and their count.
fn counting(endpoint: impl IntoEndpoint<dyn ServerEndpoint>) -> (MemoryReactor, Rc<Cell<usize>>) {
    let (memory, count) = (MemoryReactor::new(), Rc::default());
    let ours = Rc::clone(&count);
    memory.reactor().listen(endpoint, move || answering(&ours)).unwrap();
    (memory, count)
}

#[test]
fn log_writes_lines_to_the_end_of_a_file() {
    let folder = Folder::new();
    for (form, first) in [
        ("", r"> hello\r\n"),
        (":form=hex", "> 00000000  68 65 6c 6c 6f 0d 0a"),
        (":limit=3", "> hel"),
    ] {
        let file = folder.path("log");
        conversation(format!("log:7777:file={file}{form}"));
        let text = std::fs::read_to_string(&file).unwrap();
        let line = text.lines().next().expect("a line");
        let (peer, line) = line.split_once(' ').expect("the peer comes first");
        assert!(peer.starts_with("tcp:") && line.starts_with(first), "{text}");
        conversation(format!("log:7777:file={file}{form}"));
        let twice = std::fs::read_to_string(&file).unwrap();
        assert!(twice.starts_with(&text) && twice.lines().count() == 2 * text.lines().count());
        std::fs::remove_file(&file).unwrap();
    }
}

#[test]
fn log_writes_a_capture_and_continues_it() {
    let folder = Folder::new();
    let file = folder.path("traffic.pcap");
    conversation(format!("log:7777:file={file}"));
    let once = std::fs::read(&file).unwrap();
    assert_eq!(&once[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
    assert!(once.windows(7).any(|bytes| bytes == b"hello\r\n"));
    conversation(format!("log:7777:file={file}:form=pcap"));
    let twice = std::fs::read(&file).unwrap();
    assert!(twice.starts_with(&once));
    assert_eq!(twice.len() - once.len(), once.len() - 24, "no second header");
    // A file that is not a capture is left unchanged.
    let other = folder.write("other.pcap", "a poem");
    let memory = MemoryReactor::new();
    let text = format!("log:7777:file={other}");
    let error = memory.reactor().listen(&text, Echo::default).unwrap_err();
    assert!(error.to_string().contains("not a capture file"), "{error}");
    assert_eq!(std::fs::read_to_string(other).unwrap(), "a poem");
    // A file that cannot be opened is an error.
    let text = format!("log:127.0.0.1:7777:file={}", folder.path("none/log"));
    let connecting = memory.reactor().connect(&text, Echo::default);
    let error = couplet::testing::failure_of(connecting);
    assert!(error.to_string().contains("cannot write to this file"), "{error}");
}

#[test]
fn c145_wrappers_nest_and_the_last_is_next_to_the_socket() {
    let folder = Folder::new();
    for (text, sees_header) in [("log:haproxy:7777", false), ("haproxy:log:7777", true)] {
        let file = folder.path("log");
        let mut memory = MemoryReactor::new();
        let text = format!("{text}:file={file}");
        let port = memory.reactor().listen(&text, Echo::default).unwrap();
        assert!(text.starts_with(&port.to_string().replace("127.0.0.1:7777", "")), "{port}");
        let wire = memory.connect(7777);
        wire.push(b"PROXY UNKNOWN\r\nhello");
        memory.settle();
        couplet::backlog::settle_all();
        let log = std::fs::read_to_string(&file).unwrap();
        assert_eq!(log.contains("PROXY"), sees_header, "{log}");
        assert!(log.contains("hello"), "{log}");
        std::fs::remove_file(&file).unwrap();
    }
    // The same wrapper twice.
    let (inner, outer) = (folder.path("inner"), folder.path("outer"));
    let tcp = TcpServer::new(([127, 0, 0, 1], 7777).into());
    let logs = Logged::new(Logged::new(tcp).file(&inner, LogForm::Text));
    let logs = logs.file(&outer, LogForm::Text);
    conversation(logs.to_string());
    for file in [inner, outer] {
        assert!(std::fs::read_to_string(&file).unwrap().contains("hello"), "{file}");
    }
}

#[test]
fn an_endpoint_is_used_repeatedly_and_by_several_threads() {
    let server = server_from_string("throttle:127.0.0.1:0:read=1M").unwrap();
    let serve = move || {
        let mut l = Loop::new().unwrap();
        let port = l.reactor().listen(&server, Echo::default).unwrap();
        let at = format!("127.0.0.1:{}", port.host().port().expect("a TCP port"));
        let client = client_from_string(&format!("throttle:{at}:write=1M")).unwrap();
        for _ in 0..2 {
            assert_eq!(ask(&mut l, &client).unwrap(), b"hello");
        }
    };
    serve();
    serve();
    std::thread::spawn(serve).join().unwrap();
}
