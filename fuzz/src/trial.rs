//! Tries inputs and reports failures: panics, contained or not, and timeouts.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use couplet_fuzz::Target;

/// The time limit of one input.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tries inputs on a target.
pub(crate) struct Trials {
    target: Target,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    input: Vec<u8>,
    /// Number of the current input, so that the watchdog sees whether it is still the same one.
    number: u64,
    is_running: bool,
    is_done: bool,
    panicked: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trials {
    /// Trials of one target; a process can have only one at a time.
    pub(crate) fn new(target: Target) -> Trials {
        let shared = Arc::new(Shared::default());
        let (hooked, watched) = (shared.clone(), shared.clone());
        let previous_hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let mut state = hooked.state();
            if state.is_running {
                state.panicked.get_or_insert(panic.to_string());
            } else {
                previous_hook(panic);
            }
        }));
        thread::spawn(move || watch(target, &watched));
        Trials { target, shared }
    }

    /// Tries one input. The error describes the failure and how to replay it.
    pub(crate) fn run(&self, input: &[u8]) -> Result<(), String> {
        {
            let mut state = self.shared.state();
            state.input.clear();
            state.input.extend_from_slice(input);
            (state.number, state.is_running) = (state.number + 1, true);
        }
        let unwound = panic::catch_unwind(AssertUnwindSafe(|| (self.target.run)(input))).is_err();
        let mut state = self.shared.state();
        state.is_running = false;
        match state.panicked.take() {
            None if !unwound => Ok(()),
            None => Err(report(self.target, input, "it panicked")),
            Some(text) => Err(report(self.target, input, &text)),
        }
    }
}

impl Drop for Trials {
    fn drop(&mut self) {
        self.shared.state().is_done = true;
        self.shared.ended.notify_all();
        if !thread::panicking() {
            drop(panic::take_hook());
        }
    }
}

/// The watchdog: ends the process if one input takes too long.
fn watch(target: Target, shared: &Shared) {
    let mut state = shared.state();
    while !state.is_done {
        let number = state.number;
        let waited = shared.ended.wait_timeout_while(state, PATIENCE, |state| {
            !state.is_done && (state.number == number || !state.is_running)
        });
        let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state = now;
        if timeout.timed_out() && state.is_running && state.number == number {
            let text = format!("it takes more than {} s", PATIENCE.as_secs());
            eprintln!("{}", report(target, &state.input, &text));
            std::process::exit(1);
        }
    }
}

/// Saves the input; returns the full report.
fn report(target: Target, input: &[u8], why: &str) -> String {
    let name = target.name;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(name);
    let file = folder.join(format!("failed-{:016x}", fnv(input)));
    let kept = match fs::create_dir_all(&folder).and_then(|()| fs::write(&file, input)) {
        Ok(()) => format!(
            "{}\nreplay: cargo run --release --manifest-path fuzz/Cargo.toml -- {name} {}",
            file.display(),
            file.display(),
        ),
        Err(error) => format!("cannot write {}: {error}", file.display()),
    };
    let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} fails: {why}\ninput of {} bytes: {hex}\n{kept}", input.len())
}

/// A hash of a file's content, for its name (FNV-1a).
fn fnv(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold)
}
