//! Row 51c: serial lines. A pseudoterminal stands in for the device; it accepts any speed, stop
//! bits and flow control, but neither 7-bit characters nor parity.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use couplet::endpoints::{FlowControl, Parity, SerialOptions};
use couplet::endpoints::{SerialClient, client_from_string};
use couplet::transport::Pipe;
use couplet::{Failure, Loop, Transport};
use couplet_testkit_loops::until;
use rustix::termios::{ControlModes, InputModes, LocalModes, Termios, tcgetattr};

use crate::secure::End;
use crate::terminal;

/// A loop with a connection to a serial line, and the device's other side.
struct Line {
    l: Loop,
    end: End,
    /// The failure of the connect.
    failed: Rc<RefCell<Option<String>>>,
    far: Option<File>,
    path: String,
    before: Termios,
}

impl Line {
    /// Connects to the device with these endpoint options.
    fn new(options: &str) -> Line {
        let (far, path) = terminal::pair();
        rustix::io::ioctl_fionbio(&far, true).expect("an option");
        let before = tcgetattr(&far).expect("its modes");
        let l = Loop::new().expect("a loop");
        let end = End::default();
        let (ours, failed) = (end.clone(), Rc::<RefCell<_>>::default());
        let noted = failed.clone();
        let connecting =
            l.reactor().connect(format!("serial:{path}{options}"), move || ours.clone());
        let note = move |failure: Failure| {
            *noted.borrow_mut() = Some(failure.to_string());
            Ok(())
        };
        connecting.map(|_| ()).add_errback(note).detach();
        let mut line = Line { l, end, failed: failed.clone(), far: Some(far.into()), path, before };
        line.until(|end| end.is_made() || failed.borrow().is_some());
        line
    }

    fn until(&mut self, mut done: impl FnMut(&End) -> bool) {
        until(&mut self.l, "it", |_| done(&self.end));
    }

    fn transport(&self) -> Transport {
        self.end.transport()
    }

    /// The device's modes, read through another descriptor.
    fn modes(&self) -> Termios {
        tcgetattr(terminal::other_side(&self.path)).expect("its modes")
    }

    fn is_as_before(&self) -> bool {
        let (now, before) = (self.modes(), &self.before);
        now.control_modes == before.control_modes
            && now.input_modes == before.input_modes
            && now.output_modes == before.output_modes
            && now.local_modes == before.local_modes
            && now.input_speed() == before.input_speed()
            && now.output_speed() == before.output_speed()
    }

    /// Reads `n` bytes at the far side.
    fn read(&mut self, n: usize) -> Vec<u8> {
        let (mut bytes, mut got) = (vec![0; n], 0);
        let mut far = self.far.as_ref().expect("it is open");
        until(&mut self.l, "all bytes", |_| {
            match far.read(&mut bytes[got..]) {
                Ok(n) => got += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            got == n
        });
        bytes
    }
}

#[test]
fn c51c_a_serial_line_passes_all_bytes_as_they_are_both_ways() {
    let mut line = Line::new(":speed=115200");
    assert_eq!(line.transport().peer().to_string(), format!("serial:{}", line.path));
    // Including Ctrl-C, Ctrl-D, Ctrl-S, CR and LF.
    let all: Vec<u8> = (0..=255).collect();
    line.transport().write(&all);
    assert_eq!(line.read(256), all);
    line.far.as_mut().expect("it is open").write_all(&all).expect("room");
    line.until(|seen| seen.received().len() >= 256);
    assert_eq!(line.end.received(), all);
    // More bytes than the line buffers.
    let many: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    line.transport().write(&many);
    assert_eq!(line.read(many.len()), many);
}

#[test]
fn c51c_the_line_gets_the_settings_of_the_endpoint() {
    let line = Line::new(":speed=115200:stop=2:flow=hardware");
    let modes = line.modes();
    assert_eq!((modes.input_speed(), modes.output_speed()), (115_200, 115_200));
    let flags = ControlModes::CSTOPB | ControlModes::CRTSCTS | ControlModes::CS8;
    assert!(modes.control_modes.contains(flags | ControlModes::CLOCAL | ControlModes::CREAD));
    assert!(
        !modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    );
    let line = Line::new(":flow=software");
    let modes = line.modes();
    assert_eq!(modes.output_speed(), 9600, "unless it is set");
    assert!(modes.input_modes.contains(InputModes::IXON | InputModes::IXOFF));
    assert!(!modes.control_modes.intersects(ControlModes::CSTOPB | ControlModes::CRTSCTS));
    let line = Line::new(":speed=31250");
    assert_eq!(line.modes().output_speed(), 31_250, "any speed, such as that of MIDI");
}

/// The connect fails if the device lacks a setting: it would read noise.
#[cfg(target_os = "linux")]
#[test]
fn c51c_settings_that_the_device_does_not_take_are_an_error_and_change_nothing() {
    for options in [":parity=even", ":parity=odd", ":bits=7"] {
        let line = Line::new(&format!("{options}:speed=19200"));
        let failure = line.failed.take().expect(options);
        assert!(failure.contains("does not support these settings: speed=19200"), "{failure}");
        assert!(failure.contains(&options[1..]), "{failure}");
        assert!(line.is_as_before(), "{options}");
    }
}

#[test]
fn c51c_the_device_has_its_settings_back_after_the_connection() {
    for act in [Transport::lose_connection, Transport::abort_connection] {
        let mut line = Line::new(":speed=115200:flow=software");
        let kept = terminal::other_side(&line.path);
        assert!(!line.is_as_before());
        act(&line.transport());
        line.until(|seen| seen.is_lost());
        line.l.turn(Some(Duration::ZERO)).expect("a turn");
        assert!(line.is_as_before());
        drop(kept);
    }
    // Also after the loop is dropped, and for a pipe that was never adopted.
    let Line { l, far, path, before, end, failed } = Line::new(":speed=115200");
    drop((l, end));
    let l = Loop::new().expect("a loop");
    let mut line = Line { l, far, path, before, failed, end: End::default() };
    assert!(line.is_as_before());
    let pipe = Pipe::serial(&line.path, &SerialOptions::default().speed(300)).expect("a line");
    assert!(!line.is_as_before());
    drop(pipe);
    assert!(line.is_as_before());
    line.far = None;
}

#[test]
fn c51c_a_hang_up_is_the_end_of_the_connection() {
    let mut line = Line::new("");
    line.far = None;
    line.until(|seen| seen.is_lost());
    assert_eq!(line.end.reason().to_string(), "connection closed by the peer");
}

#[test]
fn c51c_mistakes_in_a_serial_endpoint_are_shown() {
    for (text, at, problem) in [
        ("serial", 6, "missing path: expected serial:PATH"),
        ("serial:", 7, "expected serial:PATH, a device such as /dev/ttyUSB0"),
        ("serial:/dev/tty\0S0", 7, "expected serial:PATH, a device such as /dev/ttyUSB0"),
        ("serial:/dev/ttyS0:speed=4294967296", 24, "expected bits per second from 1 to 4294967295"),
        ("serial:/dev/ttyS0:bits=4", 23, "expected bits of a character, from 5 to 8"),
        ("serial:/dev/ttyS0:stop=3", 23, "expected stop bits, from 1 to 2"),
        ("serial:/dev/ttyS0:speed=fast", 24, "expected bits per second from 1 to"),
        ("serial:/dev/ttyS0:speed=0", 24, "expected bits per second from 1 to"),
        ("serial:/dev/ttyS0:bits=9", 23, "expected bits of a character, from 5 to 8"),
        ("serial:/dev/ttyS0:parity=mark", 25, "expected none, even or odd"),
        ("serial:/dev/ttyS0:stop=0", 23, "expected stop bits, from 1 to 2"),
        ("serial:/dev/ttyS0:flow=rts", 23, "expected none, hardware or software"),
        ("serial:/dev/ttyS0:9600", 18, "expected nothing more"),
    ] {
        let error = client_from_string(text).expect_err(text);
        assert!(error.at() == at && error.problem().contains(problem), "{text}: {error}");
    }
    let hints = [
        ("serial:/dev/ttyS0:baud=9600", None),
        ("serial:/dev/ttyS0:sped=9600", Some("serial:/dev/ttyS0:speed=9600")),
        ("seral:/dev/ttyS0:speed=9600", Some("serial:/dev/ttyS0:speed=9600")),
    ];
    for (text, hint) in hints {
        assert_eq!(client_from_string(text).expect_err(text).hint(), hint, "{text}");
    }
    let options = SerialOptions::default()
        .speed(300)
        .bits(7)
        .parity(Parity::Odd)
        .stop(2)
        .flow(FlowControl::Software);
    let whole = "serial:/dev/ttyS0:speed=300:bits=7:parity=odd:stop=2:flow=software";
    assert_eq!(SerialClient::new("/dev/ttyS0", options).to_string(), whole);
    assert_eq!(client_from_string(whole).expect("it reads").to_string(), whole);
}

#[test]
fn c51c_the_error_for_another_file_says_that_it_is_no_serial_line() {
    let mut l = Loop::new().expect("a loop");
    let folder = crate::needed::Folder::new();
    let file = folder.join("text");
    std::fs::write(&file, "text").expect("a file");
    let file = file.to_str().expect("UTF-8");
    for (path, problem) in [
        ("/dev/no-such-line", "cannot use /dev/no-such-line as a serial line: no such file"),
        (file, "as a serial line: it is not a serial line or a terminal"),
        ("/dev/null", "as a serial line: it is not a serial line or a terminal"),
    ] {
        let connecting = l.reactor().connect(format!("serial:{path}"), End::default);
        let failure = l.run_until(connecting.map(|_| ())).expect_err(path).to_string();
        assert!(failure.contains(problem), "{failure}");
    }
    for wrong in [SerialOptions::default().bits(9), SerialOptions::default().stop(3)] {
        let (_far, path) = terminal::pair();
        let error = Pipe::serial(path, &wrong).expect_err("a wrong number");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
