//! Runs the program in a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::termios::{Winsize, tcsetwinsize};

use super::{Ended, Running};
use crate::terminal::{other_side, pair};

/// A pseudo-terminal that shows the program's stdout and stderr.
pub struct Terminal {
    pub running: Running,
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    pub fn start(columns: u16, rows: u16, command: &mut Command) -> Terminal {
        let (master, path) = pair();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let slave = other_side(&path);
        let end = || slave.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end());
        let running = Running::spawn(command);
        // Drops the terminal's descriptors that the command holds, so that the terminal closes when
        // the program ends.
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let showing = shown.clone();
        let mut master = File::from(master);
        let keyboard = master.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // At the end Linux reports an error, other systems EOF.
            while let Ok(n @ 1..) = master.read(&mut bytes) {
                showing.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        Terminal { running, keyboard, shown, reader }
    }

    /// Types these keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Everything sent to the terminal so far, control sequences included.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits for the end of the program; `stdout` is everything that was shown.
    pub fn ended(self) -> Ended {
        let mut ended = self.running.ended();
        self.reader.join().unwrap();
        ended.stdout = std::mem::take(&mut *self.shown.lock().unwrap());
        ended
    }
}
